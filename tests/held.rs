//! Requests that were let in and hold their body back until they should not have been: whoever is suspended meanwhile
//! changes nothing any more, neither for themselves nor for others.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::HashSet,
    error::Error,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use keyward::{
    AdminProof, AuthLayer, Principal, TokenManager, UserId,
    api::{admin_tokens, admin_users, own_tokens},
    auth::ApiKeyAuth,
    manage::{Finish, IssuedToken, NewToken, TokenError},
    scope::RoleSet,
    store::{MemoryStore, UserDirectory, UserStatus},
    testing::ManualClock,
};
use support::{Answer, Gatekeeper, send, start, status_of, user};
use tokio::{sync::oneshot, task::JoinHandle};

/// A body that says when it is asked for, which is after the request was let in, and comes when it is sent.
struct LateBody {
    asked: Option<oneshot::Sender<()>>,
    text: oneshot::Receiver<&'static str>,
    over: bool,
}

impl http_body::Body for LateBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(asked) = self.asked.take() {
            asked.send(()).unwrap();
        }
        if self.over {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.text).poll(cx).map(|text| {
            self.over = true;
            Some(Ok(Frame::data(Bytes::from_static(text.unwrap().as_bytes()))))
        })
    }
}

/// A request that is under way.
struct Held {
    name: String,
    rest: &'static str,
    body: oneshot::Sender<&'static str>,
    answer: JoinHandle<Answer>,
}

impl Held {
    async fn finish(self) -> (String, u16) {
        self.body.send(self.rest).unwrap();
        (self.name, self.answer.await.unwrap().status.as_u16())
    }
}

/// A directory in which everybody is active who is not gone.
#[derive(Clone, Debug, Default)]
struct Staff {
    gone: Arc<Mutex<HashSet<String>>>,
}

#[async_trait]
impl UserDirectory for Staff {
    async fn status(&self, user: &UserId) -> Result<Option<UserStatus>, Box<dyn Error + Send + Sync>> {
        let gone = self.gone.lock().unwrap().contains(user.as_str());
        Ok(Some(if gone { UserStatus::Suspended } else { UserStatus::Active }))
    }
}

/// A service whose users `boss` and `mallory` are administrators.
struct World {
    clock: ManualClock,
    staff: Staff,
    tokens: TokenManager,
    app: Router,
    mallory: IssuedToken,
}

fn roles(user: &UserId) -> RoleSet {
    match user.as_str() {
        "boss" | "mallory" => RoleSet::new(["admin"]).unwrap(),
        _ => RoleSet::empty(),
    }
}

impl World {
    async fn new() -> Self {
        let (clock, staff) = (ManualClock::at(start()), Staff::default());
        let tokens = TokenManager::builder(MemoryStore::new())
            .with_roles(roles)
            .with_clock(clock.clone())
            .with_user_directory(staff.clone())
            .build();
        let app = Router::new()
            .route("/", get(async || {}))
            .nest("/keys", own_tokens(tokens.clone()))
            .nest("/admin/tokens", admin_tokens(tokens.clone()))
            .nest("/admin/users", admin_users(tokens.clone()))
            .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
        tokens.create(&user("boss"), NewToken::named("boss")).await.unwrap();
        let mallory = tokens.create(&user("mallory"), NewToken::named("mallory")).await.unwrap();
        Self { clock, staff, tokens, app, mallory }
    }

    /// Begins a request of mallory's; when this returns it was let in.
    async fn hold(&self, method: &str, path: &str, rest: &'static str) -> Held {
        let ((asked, was_asked), (body, text)) = (oneshot::channel(), oneshot::channel());
        let late = LateBody { asked: Some(asked), text, over: false };
        let request = Request::builder().method(method).uri(path);
        let request = request.header("x-api-key", self.mallory.key.expose());
        let request = request.header("content-type", "application/json").body(Body::new(late)).unwrap();
        let app = self.app.clone();
        let answer = tokio::spawn(async move { send(&app, request).await });
        was_asked.await.expect("let in");
        Held { name: format!("{method} {path}"), rest, body, answer }
    }

    async fn hold_all(&self, requests: &[(&str, &str, &'static str)]) -> Vec<Held> {
        let id = self.mallory.record.id.to_string();
        let mut held = Vec::new();
        for (method, path, rest) in requests {
            held.push(self.hold(method, &path.replace("{id}", &id), rest).await);
        }
        held
    }

    /// What becomes of mallory while her requests are under way.
    async fn lock_out(&self, how: &str) {
        match how {
            "suspended" => self.tokens.suspend(&operator(), &user("mallory")).await.unwrap(),
            "offboarded" => drop(self.tokens.offboard(&operator(), &user("mallory")).await.unwrap()),
            _ => {
                self.staff.gone.lock().unwrap().insert("mallory".to_owned());
                self.clock.advance(Duration::from_secs(60));
            }
        }
        assert_eq!(status_of(&self.app, self.mallory.key.expose()).await, 401, "{how}");
    }
}

fn operator() -> AdminProof {
    AdminProof::operator("ops", "test").unwrap()
}

async fn admin(tokens: &TokenManager, key: &IssuedToken) -> AdminProof {
    let me: Principal = Gatekeeper::new(tokens).principal(key).await;
    me.admin("a request that takes its time").unwrap()
}

#[tokio::test]
async fn who_is_suspended_hands_out_and_changes_nothing_any_more() {
    for how in ["suspended", "offboarded", "gone from the directory"] {
        let world = World::new().await;
        let held = world
            .hold_all(&[
                ("POST", "/admin/users/mallory/restore", "{}"),
                ("POST", "/admin/tokens", r#"{"user_id":"boss","name":"backdoor"}"#),
                ("POST", "/keys", r#"{"name":"another"}"#),
                ("POST", "/keys/{id}/rotate", "{}"),
                ("PATCH", "/keys/{id}", r#"{"name":"renamed"}"#),
            ])
            .await;
        world.lock_out(how).await;
        for request in held {
            let (name, status) = request.finish().await;
            assert_eq!(status, 401, "{how}: {name}");
        }
        assert_eq!(status_of(&world.app, world.mallory.key.expose()).await, 401, "{how}");
        assert_eq!(world.tokens.count(&user("boss")).await.unwrap(), 1, "{how}");
    }
}

#[tokio::test]
async fn who_is_suspended_locks_nobody_else_out() {
    for how in ["suspended", "offboarded", "gone from the directory"] {
        let world = World::new().await;
        let boss = world.tokens.create(&user("boss"), NewToken::named("second")).await.unwrap();
        let held = world
            .hold_all(&[
                ("POST", "/admin/users/boss/suspend", "{}"),
                ("POST", "/admin/users/boss/offboard", "{}"),
                ("POST", "/admin/users/mallory/offboard", "{}"),
            ])
            .await;
        world.lock_out(how).await;
        for request in held {
            let (name, status) = request.finish().await;
            assert_eq!(status, 401, "{how}: {name}");
        }
        assert_eq!(status_of(&world.app, boss.key.expose()).await, 200, "{how}");
    }
}

#[tokio::test]
async fn an_administrator_who_was_let_in_and_is_locked_out_ends_nothing_of_others() {
    for how in ["suspended", "offboarded", "gone from the directory", "key revoked"] {
        let world = World::new().await;
        let (tokens, mallory) = (&world.tokens, &world.mallory);
        let (me, boss) = (user("mallory"), user("boss"));
        let old = tokens.create(&boss, NewToken::named("old")).await.unwrap().record.id;
        let new = tokens.rotate(&boss, old, None).await.unwrap();
        let own = tokens.create(&me, NewToken::named("own")).await.unwrap().record.id;
        let proof = admin(tokens, mallory).await;
        let jwt_end = start().saturating_add(Duration::from_secs(86_400));
        match how {
            "key revoked" => drop(tokens.revoke(&me, mallory.record.id).await.unwrap()),
            _ => world.lock_out(how).await,
        }
        let outcomes = [
            ("suspend", tokens.suspend(&proof, &boss).await),
            ("offboard", tokens.offboard(&proof, &boss).await.map(drop)),
            ("revoke_jwts_of", tokens.revoke_jwts_of(&proof, &boss).await),
            ("revoke_jwt", tokens.revoke_jwt(&proof, "https://issuer.example", "1", jwt_end).await),
            ("revoke", tokens.revoke(&proof, new.record.id).await.map(drop)),
            ("revoke_cascade", tokens.revoke_cascade(&proof, own).await.map(drop)),
            ("revoke_all_of", tokens.revoke_all_of(&proof, &boss).await.map(drop)),
            ("finish", tokens.finish_rotation(&proof, old, Finish::Anyway).await.map(drop)),
        ];
        for (name, outcome) in outcomes {
            assert!(matches!(outcome, Err(TokenError::CredentialDied)), "{how}: {name}: {outcome:?}");
        }
        assert!(Gatekeeper::new(tokens).accepts(&new).await, "{how}");
        assert!(tokens.revoke(&proof, own).await.is_ok(), "{how}: their own");
        assert!(tokens.revoke_all(&proof).await.is_ok(), "{how}: all their own");
    }
}

#[tokio::test]
async fn another_process_asks_the_store_before_it_gives_anything_back() {
    let store = Arc::new(MemoryStore::new());
    let [one, two] = [(), ()].map(|()| TokenManager::builder(store.clone()).with_roles(roles).build());
    let key = one.create(&user("mallory"), NewToken::named("mallory")).await.unwrap();
    let proof = admin(&two, &key).await;
    one.suspend(&operator(), &user("mallory")).await.unwrap();
    let restored = two.restore(&proof, &user("mallory")).await;
    assert!(matches!(restored, Err(TokenError::CredentialDied)), "{restored:?}");
    let new = NewToken::named("backdoor").for_user(user("boss"));
    let created = two.create(&proof, new).await;
    assert!(matches!(created, Err(TokenError::CredentialDied)), "{created:?}");
    assert!(!Gatekeeper::new(&one).accepts(&key).await);
}
