//! Acting as a user in a test of a service.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

mod support;

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::{Router, body::Body, routing::get};
use http::{Request, header};
use keyward::{
    AdminProof, AuthLayer, NotOwner, Owned, Principal, RequireLayer, UserId, api,
    auth::{Authenticator, CredentialReader},
    error::Refusal,
    event::{Alert, EventKind},
    extract::Claims,
    principal::AuthMethod,
    testing::{Caller, Isolation, Kit, assert_isolated},
};
use serde_json::{Value, json};
use support::{Answer, send, user};

struct Job(UserId);

impl Owned for Job {
    const KIND: &'static str = "job";

    fn owner(&self) -> &UserId {
        &self.0
    }
}

async fn job_of_alice(me: Principal) -> Result<(), NotOwner> {
    me.check(Job(user("alice"))).map(drop)
}

async fn me(me: Principal) -> String {
    let method = match me.method() {
        AuthMethod::ApiKey => "key",
        AuthMethod::Jwt => "jwt",
        _ => "other",
    };
    format!("{} by {method}", me.user_id())
}

fn app(auth: impl Authenticator) -> Router {
    Router::new()
        .route("/me", get(me))
        .route("/read", get(async || {}).layer(RequireLayer::scope("jobs:read")))
        .route("/write", get(async || {}).layer(RequireLayer::scope("jobs:write")))
        .route("/admin", get(async || {}).layer(RequireLayer::role("admin")))
        .route("/auditor", get(async || {}).layer(RequireLayer::role("auditor")))
        .route("/job", get(job_of_alice))
        .route("/claims", get(async |Claims(claims): Claims<Value>| claims["email"].to_string()))
        .layer(AuthLayer::new(auth))
}

fn request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

async fn ask(app: &Router, caller: &Caller, path: &str) -> Answer {
    send(app, caller.authorize(request(path))).await
}

async fn status(app: &Router, caller: &Caller, path: &str) -> u16 {
    ask(app, caller, path).await.status.as_u16()
}

#[tokio::test]
async fn keys_and_jwts_carry_the_rights_that_were_asked_for() {
    let kit = Kit::new();
    let app = app(kit.auth());
    for (method, claims) in [("key", None), ("jwt", Some(json!({ "email": "a@example.com" })))] {
        let alice = || {
            let acting = kit.acting_as("alice");
            match &claims {
                None => acting,
                Some(claims) => acting.with_claims(claims.clone()),
            }
        };
        for (name, acting, statuses) in [
            ("everything", alice(), [200, 200, 403, 403]),
            ("one scope", alice().scopes(["jobs:read"]), [200, 403, 403, 403]),
            ("two scopes", alice().scopes(["jobs:read", "jobs:write"]), [200, 200, 403, 403]),
            ("no scope", alice().scopes([""; 0]), [403, 403, 403, 403]),
            ("a role", alice().scopes([""; 0]).role("admin"), [403, 403, 200, 403]),
            ("two roles", alice().role("admin").role("auditor"), [200, 200, 200, 200]),
        ] {
            let caller = acting.await;
            let mut found = [0; 4];
            for (found, path) in found.iter_mut().zip(["/read", "/write", "/admin", "/auditor"]) {
                *found = status(&app, &caller, path).await;
            }
            assert_eq!(found, statuses, "{method}, {name}");
            assert_eq!(ask(&app, &caller, "/me").await.body, format!("alice by {method}"), "{name}");
            let has_claims = status(&app, &caller, "/claims").await == 200;
            assert_eq!(has_claims, method == "jwt", "{name}");
        }
    }
    let alice = kit.acting_as("alice").with_claims(json!({ "email": "a@example.com" })).await;
    assert_eq!(ask(&app, &alice, "/claims").await.body, "\"a@example.com\"");
}

#[tokio::test]
async fn time_passes_as_the_clock_is_moved() {
    let kit = Kit::new();
    let app = app(kit.auth());
    let key = kit.acting_as("alice").await;
    let jwt = kit.acting_as("alice").with_claims(json!({})).await;
    for (minutes, statuses) in [(0, [200, 200]), (59, [200, 200]), (3, [200, 401]), (29 * 1440, [200, 401])] {
        kit.clock().advance(Duration::from_secs(minutes * 60));
        let found = [status(&app, &key, "/me").await, status(&app, &jwt, "/me").await];
        assert_eq!(found, statuses, "{minutes} minutes later");
    }
    kit.clock().advance(Duration::from_secs(31 * 86_400));
    assert_eq!(status(&app, &key, "/me").await, 401, "not used for 31 days");
    assert_eq!(status(&app, &kit.acting_as("alice").await, "/me").await, 200);
}

#[tokio::test]
async fn the_events_are_those_of_the_service() {
    let kit = Kit::new();
    let app = app(kit.auth());
    let callers = [kit.acting_as("bob").await, kit.acting_as("bob").with_claims(json!({})).await];
    assert!(kit.events().events().is_empty(), "issuing is none: {:?}", kit.events().kinds());
    for caller in &callers {
        assert_eq!(status(&app, caller, "/job").await, 404);
        assert_eq!(kit.events().alerts(), [Alert::ForeignAccess]);
        kit.events().clear();
    }
    assert_eq!(status(&app, &kit.anonymous(), "/me").await, 401);
    let events = kit.events().events();
    assert_eq!(kit.events().kinds(), [EventKind::AccessRefused(Refusal::NoCredential)]);
    assert_eq!(events.first().unwrap().at.to_string(), "2026-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn a_user_who_is_suspended_is_refused_and_gets_no_credential() {
    let kit = Kit::new();
    let (both, jwts) = (app(kit.auth()), app(kit.jwt_auth()));
    let key = kit.acting_as("alice").await;
    let jwt = kit.acting_as("alice").with_claims(json!({})).await;
    let operator = AdminProof::operator("ops", "test").unwrap();
    for (app, caller) in [(&both, &key), (&both, &jwt), (&jwts, &jwt)] {
        assert_eq!(status(app, caller, "/me").await, 200);
        kit.tokens().suspend(&operator, &user("alice")).await.unwrap();
        assert_eq!(status(app, caller, "/me").await, 401);
        kit.tokens().restore(&operator, &user("alice")).await.unwrap();
        assert_eq!(status(app, caller, "/me").await, 200);
    }
    assert_eq!(status(&jwts, &key, "/me").await, 401, "a service that takes JWTs takes no key");
    kit.tokens().suspend(&operator, &user("alice")).await.unwrap();
    let refused = tokio::spawn(async move { kit.acting_as("alice").await }).await;
    let message = refused.unwrap_err().into_panic();
    assert!(message.downcast_ref::<String>().unwrap().starts_with("no key for alice: the user is suspended"));
}

#[tokio::test]
async fn a_kit_takes_the_credentials_of_no_other() {
    let (one, two) = (Kit::new(), Kit::new());
    let app = app(one.auth());
    assert_eq!(status(&app, &two.acting_as("alice").await, "/me").await, 401);
    assert_eq!(status(&app, &two.acting_as("alice").with_claims(json!({})).await, "/me").await, 401);
}

#[tokio::test]
async fn a_request_carries_the_credential_of_the_last_caller_only() {
    let kit = Kit::new();
    let (alice, bob) = (kit.acting_as("alice").await, kit.acting_as("bob").await);
    let reader = CredentialReader::default().with_key_header("X-Acme-Key").unwrap();
    let app = Router::new().route("/me", get(me)).layer(AuthLayer::new(kit.auth()).with_reader(reader));
    assert_eq!(ask(&app, &alice, "/me").await.body, "alice by key", "whatever the service calls its header");
    let twice = bob.authorize(alice.authorize(request("/me")));
    assert_eq!(send(&app, twice).await.body, "bob by key");
    let nobody = kit.anonymous().authorize(alice.authorize(request("/me")));
    assert!(!nobody.headers().contains_key(header::AUTHORIZATION));
    assert_eq!(send(&app, nobody).await.status, 401);
}

#[tokio::test]
async fn the_keys_of_a_kit_are_managed_and_driven_over_all_routes() {
    let kit = Kit::new();
    let app = Router::new().nest("/keys", api::own_tokens(kit.tokens().clone()));
    let app = app.layer(AuthLayer::new(kit.auth()));
    for _ in 0..120 {
        kit.key_for("alice").await; // no limit of keys stands in a test's way
    }
    let (alice, bob) = (kit.key_for("alice").await, kit.key_for("bob").await);
    let keys =
        Isolation::new("POST /keys", r#"{"name":"MARKER"}"#, "/id").route("GET /keys/{id}").list("GET /keys");
    assert_isolated(app, alice.expose(), bob.expose(), &keys).await;
}

#[tokio::test]
async fn nothing_of_a_kit_shows_a_credential() {
    let kit = Kit::new();
    let acting = kit.acting_as("alice").with_claims(json!({ "email": "a@example.com" }));
    let debug = format!("{acting:?}");
    for caller in [kit.acting_as("alice").await, acting.await] {
        let request = caller.authorize(request("/"));
        let credential = request.headers()[header::AUTHORIZATION].to_str().unwrap();
        let secret = credential.strip_prefix("Bearer ").unwrap();
        for text in [format!("{caller:?}"), format!("{request:?}"), format!("{kit:?}"), debug.clone()] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn what_cannot_be_is_said_at_once() {
    let kit = Kit::new();
    let panics = |act: &dyn Fn()| std::panic::catch_unwind(AssertUnwindSafe(act)).is_err();
    assert!(!panics(&|| drop(kit.acting_as("alice").scopes(["jobs:*"]).role("admin"))));
    assert!(panics(&|| drop(kit.acting_as(""))), "no user id");
    assert!(panics(&|| drop(kit.acting_as("alice").scopes(["two words"]))), "no scope");
    assert!(panics(&|| drop(kit.acting_as("alice").role("*"))), "no role");
}
