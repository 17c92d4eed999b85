//! What can be set: each setting does what it says.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use keyward::{
    AuthError, AuthErrorKind, UserId,
    jwt::{JwtAuth, JwtBuilder, JwtClaims, Said, UserIds, UserMapper},
    scope::RoleSet,
    testing::ManualClock,
};
use serde_json::{Value, json};

use super::{
    principal,
    support::{AUDIENCE, HEADER, ISSUER, NOW, SECRET, ask, clock, sign, with},
};

fn builder(clock: &ManualClock) -> JwtBuilder<Said, Said> {
    JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone())
}

fn token(changes: Value) -> String {
    sign(SECRET, HEADER, with(changes))
}

/// A table of linked accounts, which may be gone.
#[derive(Clone, Debug, Default)]
struct Accounts {
    links: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<AtomicUsize>,
    clock: Option<ManualClock>,
}

#[derive(Clone, Debug)]
enum Answer {
    User(&'static str),
    Down,
    Never,
    /// By the time of the answer the token has expired.
    Late(&'static str),
}

#[async_trait]
impl UserMapper for Accounts {
    async fn user_id(&self, jwt: &JwtClaims) -> Result<Option<UserId>, AuthError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.links.lock().unwrap().get(jwt.subject()).cloned();
        match answer {
            None => Ok(None),
            Some(Answer::User(user)) => Ok(Some(UserId::new(user).unwrap())),
            Some(Answer::Down) => Err(AuthErrorKind::Unavailable.into()),
            Some(Answer::Never) => std::future::pending().await,
            Some(Answer::Late(user)) => {
                self.clock.as_ref().unwrap().advance(Duration::from_secs(3600));
                Ok(Some(UserId::new(user).unwrap()))
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mapper_says_whose_a_token_is_once() {
    let clock = clock();
    let accounts = Accounts { clock: Some(clock.clone()), ..Accounts::default() };
    for (subject, answer) in [
        ("alice", Answer::User("user-7")),
        ("eve", Answer::User("keyward:admin")),
        ("mallory", Answer::User("static:0123456789abcdef")),
        ("down", Answer::Down),
        ("never", Answer::Never),
        ("late", Answer::Late("user-8")),
    ] {
        accounts.links.lock().unwrap().insert(subject.to_owned(), answer);
    }
    let mapped = UserIds::Mapped(Arc::new(accounts.clone()));
    let auth = builder(&clock).with_user_ids(mapped).build().unwrap();
    let of = |subject: &str| token(json!({ "sub": subject }));
    for _ in 0..3 {
        assert_eq!(ask(auth.clone(), &of("alice")).await, (200, "user-7".to_owned()));
    }
    assert_eq!(accounts.asked.load(Ordering::SeqCst), 1, "the answer is kept with the token");
    for (subject, status, reason) in [
        ("nobody", 401, "subject"),
        ("eve", 401, "subject"),
        ("mallory", 401, "subject"),
        ("never", 503, "user_lookup"),
    ] {
        assert_eq!(ask(auth.clone(), &of(subject)).await, (status, reason.to_owned()), "{subject}");
    }
    assert_eq!(ask(auth.clone(), &of("down")).await.0, 503);
    // Nothing that was refused is kept.
    accounts.links.lock().unwrap().insert("down".to_owned(), Answer::User("user-9"));
    assert_eq!(ask(auth.clone(), &of("down")).await, (200, "user-9".to_owned()));
    assert_eq!(ask(auth, &of("late")).await, (401, "expired".to_owned()));
}

#[tokio::test]
async fn names_that_are_no_names_here_give_no_right_and_lock_nobody_out() {
    let clock = clock();
    let auth = Arc::new(builder(&clock).with_roles_claim("groups").build().unwrap());
    let many: Vec<_> = (0..200).map(|n| format!("group-{n}")).collect();
    for (groups, has) in [
        (json!(["All Employees", "admin"]), &["admin"][..]),
        (json!(["Geschäft", "auditor", ""]), &["auditor"]),
        (json!(["*", "admin*"]), &[]),
        (json!(many), &["group-0", "group-199"]),
    ] {
        let me = principal(&auth, &token(json!({ "groups": groups, "scope": "a\tb c\nd jobs:read" }))).await;
        for role in ["admin", "auditor", "group-0", "group-199", "*"] {
            assert_eq!(me.has_role(role), has.contains(&role), "{groups}: {role}");
        }
        assert!(me.has_scope("jobs:read"));
        assert_eq!(
            me.scopes(),
            &keyward::scope::Grant::Only(keyward::scope::ScopeSet::new(["jobs:read"]).unwrap())
        );
    }
    assert_eq!(ask(auth, &token(json!({ "groups": ["a", 1] }))).await, (401, "claim".to_owned()));
}

#[tokio::test]
async fn claims_are_looked_for_where_they_were_said_to_be() {
    let clock = clock();
    let admin = |user: &UserId| RoleSet::new(Some("admin").filter(|_| user.as_str() == "alice")).unwrap();
    let auth = builder(&clock).with_audience_claim("client").with_scopes_claim(["grants", "list"]);
    let auth = Arc::new(auth.with_roles_claim("roles").with_roles(admin).build().unwrap());
    let claims =
        json!({ "aud": null, "client": AUDIENCE, "grants": { "list": ["jobs:read"] }, "roles": "viewer" });
    let me = principal(&auth, &token(claims)).await;
    assert!(me.has_scope("jobs:read") && me.has_role("viewer") && me.has_role("admin"));
    assert_eq!(ask(auth, &token(json!({}))).await, (401, "audience".to_owned()));
}

#[tokio::test]
async fn bounds_are_kept() {
    let clock = clock();
    let short = builder(&clock).with_max_lifetime(Duration::from_secs(60)).build().unwrap();
    assert_eq!(ask(short, &token(json!({}))).await, (401, "lives_too_long".to_owned()));
    let any = builder(&clock).with_any_lifetime().build().unwrap();
    assert_eq!(ask(any, &token(json!({ "exp": NOW + 10_000_000 }))).await.0, 200);
    let small = builder(&clock).with_max_token_bytes(256).build().unwrap();
    assert_eq!(
        ask(small.clone(), &token(json!({ "x": "x".repeat(60) }))).await,
        (401, "malformed".to_owned())
    );
    let uncached = builder(&clock).with_cache_bytes(0).build().unwrap();
    for _ in 0..2 {
        assert_eq!(ask(uncached.clone(), &token(json!({}))).await.0, 200);
    }
    let url = "https://keys.example/set";
    let remote = || JwtAuth::jwks(url).issuer(ISSUER).audience(AUDIENCE);
    for (name, builder) in [
        ("a set that is never used", remote().with_max_stale(Duration::ZERO)),
        ("no cool-down", remote().with_cool_down(Duration::ZERO)),
        ("an algorithm that is not RSA's", remote().with_rsa_algorithm(keyward::jwt::Algorithm::ES256)),
        ("a token of no bytes", remote().with_max_token_bytes(0)),
        ("a lifetime of nothing", remote().with_max_lifetime(Duration::ZERO)),
    ] {
        assert!(builder.build().is_err(), "{name}");
    }
}

/// Whoever selects on it would stop at once otherwise.
#[tokio::test(start_paused = true)]
async fn background_work_lasts_until_it_is_told_to_end() {
    let auth = builder(&clock()).build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut running = tokio::spawn(auth.run(async { drop(stopped.await) }));
    let early = tokio::time::timeout(Duration::from_secs(3600), &mut running).await;
    assert!(early.is_err(), "an authenticator without key sets");
    drop(stop);
    running.await.unwrap();
}

/// Roles that a directory takes away are gone within a minute, also for a token that is known.
#[tokio::test]
async fn roles_of_a_directory_are_asked_for_again() {
    let clock = clock();
    let admins = Arc::new(Mutex::new(vec!["alice"]));
    let known = admins.clone();
    let directory = move |user: &UserId| {
        let is_admin = known.lock().unwrap().contains(&user.as_str());
        RoleSet::new(Some("admin").filter(|_| is_admin)).unwrap()
    };
    let auth = Arc::new(builder(&clock).with_roles(directory).build().unwrap());
    assert!(principal(&auth, &token(json!({}))).await.has_role("admin"));
    admins.lock().unwrap().clear();
    clock.advance(Duration::from_secs(60));
    assert!(!principal(&auth, &token(json!({}))).await.has_role("admin"));
}
