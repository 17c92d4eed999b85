//! New users who come in by themselves, without the example around it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod support;

use std::{future::Future, sync::Arc, task::Context, time::Duration};

use axum::Router;
use keyward::{
    AdminProof, AuthLayer, TokenManager, UserId,
    api::{self, Admission, Bootstrap, OwnTokens},
    auth::ApiKeyAuth,
    error::Refusal,
    event::EventKind,
    limit::RateLimit,
    manage::{NewToken, TokenError},
    net::{ClientIp, PeerAddr},
    scope::{Grant, RoleSet},
    store::{MemoryStore, StoreErrorKind},
    testing::{ManualClock, RecordingSink},
};
use support::{UnrulyStore, request, send, start, user};

const NAMED: &str = r#"{"name":"mine"}"#;

fn manager() -> (TokenManager, Arc<UnrulyStore>, RecordingSink) {
    let (store, events) = (Arc::new(UnrulyStore::default()), RecordingSink::default());
    let tokens = TokenManager::builder(store.clone()).with_audit(events.clone());
    let tokens = tokens.with_clock(ManualClock::at(start()));
    (tokens.build(), store, events)
}

#[tokio::test]
async fn the_first_key_is_like_any_other_of_the_user() {
    let (tokens, _, events) = manager();
    let alice = user("alice");
    let ip = Some([192, 0, 2, 1].into());
    let first = tokens.register(&alice, NewToken::named("first").with_created_ip(ip)).await.unwrap().record;
    let second = tokens.create(&alice, NewToken::named("second")).await.unwrap().record;
    assert_eq!((&first.owner, first.created_ip, first.created_by), (&alice, ip, None));
    assert_eq!((first.expires_at, first.rolling, &first.scopes), (second.expires_at, true, &Grant::All));
    let told = events.events();
    let told = told.first().unwrap();
    assert_eq!(
        (told.kind, &told.actor, &told.owner),
        (EventKind::UserRegistered, &Some(alice.clone()), &Some(alice))
    );
    assert_eq!((told.token, told.client_ip), (Some(first.id), ip));
}

#[tokio::test]
async fn nobody_becomes_who_was_there_before() {
    let (tokens, _, events) = manager();
    let (alice, operator) = (user("alice"), AdminProof::operator("ops", "test").unwrap());
    let first = tokens.register(&alice, NewToken::named("first")).await.unwrap().record;
    tokens.revoke(&alice, first.id).await.unwrap();
    tokens.create(&user("bob"), NewToken::named("k")).await.unwrap();
    tokens.suspend(&operator, &user("carol")).await.unwrap();
    for name in ["alice", "bob", "carol"] {
        let again = tokens.register(&user(name), NewToken::named("mine now")).await;
        assert!(matches!(again, Err(TokenError::UserExists)), "{name}: {again:?}");
        assert_eq!(events.kinds().pop(), Some(EventKind::OperationRefused(Refusal::UserExists)), "{name}");
    }
}

#[tokio::test]
async fn who_has_a_role_is_nobody_new() {
    let roles = |user: &UserId| match user.as_str() {
        "root" => RoleSet::new(["admin"]).unwrap(),
        _ => RoleSet::empty(),
    };
    let tokens = TokenManager::builder(MemoryStore::new()).with_roles(roles).build();
    let refused = tokens.register(&user("root"), NewToken::named("mine now")).await;
    assert!(matches!(refused, Err(TokenError::UserExists)), "{refused:?}");
    tokens.register(&user("alice"), NewToken::named("first")).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_on_record_without_the_name_that_was_asked_for() {
    let (tokens, _, events) = manager();
    let key = tokens.create(&user("bob"), NewToken::named("k")).await.unwrap().key;
    let with_key = format!("static:{}", key.expose());
    for (name, reason) in [
        ("keyward:x", Refusal::UserExists),
        (&with_key, Refusal::UserExists),
        (key.expose(), Refusal::InvalidValue),
    ] {
        tokens.register(&user(name), NewToken::named("first")).await.unwrap_err();
        let told = events.events().pop().unwrap();
        assert_eq!(
            (told.kind, told.actor, told.owner),
            (EventKind::OperationRefused(reason), None, None),
            "{name}"
        );
        assert_eq!(told.reason.as_deref(), Some("user.registered"));
    }
}

#[tokio::test]
async fn nobody_is_known_by_a_registration_that_failed() {
    let (tokens, store, events) = manager();
    let alice = user("alice");
    store.set_down(true);
    let failed = tokens.register(&alice, NewToken::named("first")).await;
    assert!(matches!(failed, Err(TokenError::Store(_))), "{failed:?}");
    store.set_down(false);
    tokens.register(&alice, NewToken::named("first")).await.unwrap();
    assert_eq!(events.events().pop().unwrap().actor, Some(alice.clone()));
    tokens.register(&alice, NewToken::named("again")).await.unwrap_err();
    let told = events.events().pop().unwrap();
    assert_eq!(told.kind, EventKind::OperationRefused(Refusal::UserExists));
    assert_eq!((told.actor, told.owner), (None, None), "who asked is not alice");

    store.set_hanging(true);
    let bob = user("bob");
    let mut given_up = Box::pin(tokens.register(&bob, NewToken::named("first")));
    assert!(given_up.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    drop(given_up);
    assert_eq!(events.kinds().pop(), Some(EventKind::OperationFailed), "nobody knows what became of it");
}

#[tokio::test]
async fn a_store_that_registers_nobody_says_so() {
    let list = keyward::store::StaticList::parse("ops:3f5c0a9e7b1d4826a0c3e5f7192b4d6e").unwrap();
    let refused = TokenManager::new(list).register(&user("alice"), NewToken::named("first")).await;
    assert!(matches!(refused, Err(TokenError::Store(error)) if error.kind() == StoreErrorKind::ReadOnly));
}

#[tokio::test]
async fn ids_that_are_made_up_never_meet() {
    let tokens = TokenManager::new(MemoryStore::new());
    let mut seen = std::collections::HashSet::new();
    for _ in 0..1000 {
        let record = tokens.register_anybody(NewToken::named("mine")).await.unwrap().record;
        assert!(record.owner.as_str().starts_with("public:") && seen.insert(record.owner));
    }
}

/// Whatever layer stands outside, only the one route lets anybody in, and only where it was asked for.
#[tokio::test]
async fn the_key_routes_let_nobody_in_but_where_and_how_it_was_asked_for() {
    let (public, register) = (Bootstrap::Public(Admission::new()), Bootstrap::Register(Admission::new()));
    for (mode, layer, expected) in [
        (&public, "by mode", 201),
        (&public, "optional", 201),
        (&public, "required", 401),
        (&public, "none", 500),
        (&register, "by mode", 401),
        (&register, "optional", 401),
        (&Bootstrap::AdminOnly, "by mode", 401),
        (&Bootstrap::AdminOnly, "optional", 401),
    ] {
        let tokens = TokenManager::new(MemoryStore::new());
        let keys = OwnTokens::new(tokens.clone()).with_bootstrap(mode.clone()).debug_ownership(true);
        let app: Router = Router::new().nest("/api/keys", keys.into_router());
        let auth = AuthLayer::new(ApiKeyAuth::new(&tokens));
        let app = match layer {
            "by mode" => app.layer(auth.with_mode(mode.mode_at("/api/keys"))),
            "optional" => app.layer(auth.optional()),
            "required" => app.layer(auth),
            _ => app,
        };
        let mode = mode.as_str();
        let made = send(&app, request("POST", "/api/keys", "", NAMED).without_key()).await;
        assert_eq!(made.status.as_u16(), expected, "{mode}, {layer}");
        let id = "019a9d5a-7c00-7abc-8def-0123456789ab";
        for (method, path) in [
            ("GET", "/api/keys".to_owned()),
            ("DELETE", "/api/keys".to_owned()),
            ("GET", format!("/api/keys/{id}")),
            ("PATCH", format!("/api/keys/{id}")),
            ("DELETE", format!("/api/keys/{id}")),
            ("POST", format!("/api/keys/{id}/rotate")),
            ("GET", "/api/keys/debug/ownership".to_owned()),
        ] {
            let answer = send(&app, request(method, &path, "", "{}").without_key()).await;
            let refused = if layer == "none" { 500 } else { 401 };
            assert_eq!(answer.status.as_u16(), refused, "{mode}, {layer}: {method} {path}");
        }
    }
}

#[tokio::test]
async fn the_mode_opens_one_method_of_one_route() {
    let tokens = TokenManager::new(MemoryStore::new());
    let anything = || axum::routing::any(async || "in");
    let app: Router = Router::new()
        .nest("/api", Router::new().nest("/keys", Router::new().route("/", anything())))
        .route("/api/keys/{id}", anything())
        .route("/other", anything())
        .fallback(async || "in");
    let mode = Bootstrap::Public(Admission::new()).mode_at("/api/keys");
    let app = app.layer(AuthLayer::new(ApiKeyAuth::new(&tokens)).with_mode(mode));
    for (method, path, expected) in [
        ("POST", "/api/keys", 200),
        ("POST", "/api/keys?user_id=alice", 200),
        ("GET", "/api/keys", 401),
        ("PUT", "/api/keys", 401),
        ("HEAD", "/api/keys", 401),
        ("POST", "/api/keys/", 401),
        ("POST", "/api/keys/x", 401),
        ("POST", "/api%2fkeys", 401),
        ("POST", "//api/keys", 401),
        ("POST", "/other", 401),
        ("POST", "/other?/api/keys", 401),
    ] {
        let answer = send(&app, request(method, path, "", NAMED).without_key()).await;
        assert_eq!(answer.status.as_u16(), expected, "{method} {path}");
    }
    let wrong = send(&app, request("POST", "/api/keys", "kw_live_1nonsense", NAMED)).await;
    assert_eq!(wrong.status.as_u16(), 401, "a credential that is there must be good");
}

trait WithoutKey {
    fn without_key(self) -> Self;
}

impl<B> WithoutKey for http::Request<B> {
    fn without_key(mut self) -> Self {
        self.headers_mut().remove("x-api-key");
        self
    }
}

#[derive(Debug)]
struct Balancer;

impl ClientIp for Balancer {
    fn client_ip(&self, headers: &http::HeaderMap, _: &http::Extensions) -> Option<std::net::IpAddr> {
        headers.get("x-balancer-client")?.to_str().ok()?.parse().ok()
    }
}

#[tokio::test]
async fn registrations_are_counted_by_the_clients_address_and_kept_apart_by_name() {
    let clock = ManualClock::at(start());
    let events = RecordingSink::default();
    let tokens =
        TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).with_audit(events.clone());
    let tokens = tokens.build();
    let minute = |requests| RateLimit::new(requests, Duration::from_secs(60)).unwrap();
    let admission = Admission::new().with_limits(minute(1), minute(3)).with_client_ip(Balancer);
    let admission = admission.with_taken(|user| user.as_str() == "support");
    let app: Router = api::registration(tokens.clone(), &Bootstrap::Register(admission));
    let register = async |name: &str, from: &str| {
        let body = format!(r#"{{"user_id":"{name}"}}"#);
        let mut request = request("POST", "/register", "", &body).without_key();
        request.headers_mut().insert("x-balancer-client", from.parse().unwrap());
        request.extensions_mut().insert(PeerAddr(([10, 0, 0, 1], 1).into()));
        send(&app, request).await
    };
    assert_eq!(register("", "192.0.2.1").await.status.as_u16(), 400, "what is no request does not count");
    assert_eq!(register("support", "192.0.2.1").await.status.as_u16(), 409);
    let early = register("alice", "192.0.2.1").await;
    assert_eq!((early.status.as_u16(), early.header("retry-after")), (429, "60"));
    assert_eq!(events.kinds().pop(), Some(EventKind::OperationRefused(Refusal::RateLimited)));
    assert_eq!(register("alice", "192.0.2.2").await.status.as_u16(), 201);
    assert_eq!(register("bob", "192.0.2.3").await.status.as_u16(), 201);
    let full = register("carol", "192.0.2.4").await;
    assert_eq!((full.status.as_u16(), full.header("retry-after")), (429, "20"));
    clock.advance(Duration::from_secs(20));
    assert_eq!(register("carol", "192.0.2.4").await.status.as_u16(), 201);
    let operator = AdminProof::operator("ops", "test").unwrap();
    assert_eq!(tokens.count(&operator).await.unwrap(), 3, "and nobody else came in");
}
