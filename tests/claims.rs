//! The extractor of a JWT's claims: who gets them, and what the others are told.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use axum::{Router, body::Body, routing::get};
use http::Request;
use keyward::{
    AuthLayer, TokenManager,
    auth::{AnyOf, ApiKeyAuth, StaticAuth},
    error::{AuthError, Refusal},
    event::EventKind,
    extract::Claims,
    jwt::{JwtAuth, JwtIssuer},
    manage::NewToken,
    store::{MemoryStore, StaticList},
    testing::RecordingSink,
};
use serde_json::{Value, json};
use support::{Answer, Log, send, user};

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "https://api.example";
const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only";
const STATIC: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";
/// Stands in claims and must be seen nowhere.
const CANARY: &str = "canary-9d1f";

#[derive(serde::Deserialize)]
struct Profile {
    email: String,
    level: u8,
}

async fn show(Claims(profile): Claims<Profile>) -> String {
    format!("{} {}", profile.email, profile.level)
}

async fn show_if_any(claims: Option<Claims<Profile>>) -> String {
    claims.map_or("no claims".to_owned(), |claims| format!("{} {}", claims.email, claims.level))
}

async fn show_kind(claims: Result<Claims<Profile>, AuthError>) -> String {
    claims.map_or_else(|error| error.to_string(), |claims| format!("{claims:?}"))
}

fn routes() -> Router {
    let optional = get(show_if_any);
    Router::new().route("/claims", get(show)).route("/optional", optional).route("/kind", get(show_kind))
}

struct World {
    app: Router,
    events: RecordingSink,
    issuer: JwtIssuer,
    key: String,
}

impl World {
    async fn new(change: impl FnOnce(AuthLayer) -> AuthLayer) -> Self {
        let events = RecordingSink::default();
        let tokens = TokenManager::builder(MemoryStore::new()).with_audit(events.clone()).build();
        let jwt = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_audit(tokens.audit());
        let list = StaticList::parse(&format!("ops:{STATIC}")).unwrap();
        let auth = AuthLayer::new(AnyOf::new([
            ApiKeyAuth::new(&tokens).into(),
            jwt.build().unwrap().into(),
            StaticAuth::new(&list).with_audit(tokens.audit()).into(),
        ]));
        let key = tokens.create(&user("alice"), NewToken::named("laptop")).await.unwrap().key;
        events.clear();
        Self {
            app: routes().layer(change(auth)),
            events,
            issuer: JwtIssuer::hs256(SECRET, ISSUER, AUDIENCE).unwrap(),
            key: key.expose().to_owned(),
        }
    }

    fn jwt(&self, claims: &Value) -> String {
        let claims: BTreeMap<&str, Value> =
            claims.as_object().unwrap().iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        self.issuer.token_with(&user("alice"), claims).unwrap()
    }

    async fn ask(&self, path: &str, credential: &str) -> Answer {
        let mut request = Request::get(path).header("x-request-id", "request-7");
        if !credential.is_empty() {
            request = request.header("authorization", format!("Bearer {credential}"));
        }
        send(&self.app, request.body(Body::empty()).unwrap()).await
    }
}

#[tokio::test]
async fn claims_are_read_or_refused_with_403() {
    let log = Log::default();
    let _caught = log.catch();
    let world = World::new(|auth| auth).await;
    let good = world.jwt(&json!({ "email": "alice@example.com", "level": 7, "more": [1] }));
    let refused = [
        ("an API key", world.key.clone(), Refusal::WrongKind),
        ("a static token", STATIC.to_owned(), Refusal::WrongKind),
        ("a missing claim", world.jwt(&json!({ "email": CANARY })), Refusal::Claim),
        ("a wrong type", world.jwt(&json!({ "email": "a", "level": CANARY })), Refusal::Claim),
        ("a number out of range", world.jwt(&json!({ "email": CANARY, "level": 256 })), Refusal::Claim),
        ("null", world.jwt(&json!({ "email": null, "level": 1 })), Refusal::Claim),
        ("nested", world.jwt(&json!({ "email": { "is": CANARY }, "level": 1 })), Refusal::Claim),
    ];
    let answer = world.ask("/claims", &good).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"alice@example.com 7"[..]));
    assert_eq!(&*world.ask("/kind", &good).await.body, b"Claims(\xe2\x80\xa6)", "no claims in `Debug`");
    let mut answers = Vec::new();
    for (name, credential, reason) in refused {
        world.events.clear();
        let answer = world.ask("/claims", &credential).await;
        assert_eq!(answer.status, 403, "{name}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{name}");
        assert_eq!(answer.header("www-authenticate"), "", "{name}");
        answers.push(answer.body);
        let events = world.events.events();
        assert_eq!(world.events.kinds(), [EventKind::AccessRefused(reason)], "{name}");
        assert_eq!(events[0].request_id.as_deref(), Some("request-7"), "{name}");
        assert!(events[0].reason.as_deref().unwrap().ends_with("::Profile"), "{name}: {events:?}");
        assert!(!format!("{events:?}").contains(CANARY), "{name}");

        let optional = world.ask("/optional", &credential).await;
        if reason == Refusal::WrongKind {
            assert_eq!((optional.status.as_u16(), &*optional.body), (200, &b"no claims"[..]), "{name}");
        } else {
            assert_eq!(optional.status, 403, "{name}");
            answers.push(optional.body);
        }
        let told = world.ask("/kind", &credential).await.body;
        assert_eq!(&*told, b"The credential may not be used for this.", "{name}");
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "one body for all");
    assert!(!log.text().contains(CANARY), "{}", log.text());
}

#[tokio::test]
async fn nobody_is_told_to_present_something() {
    let required = World::new(|auth| auth).await;
    let optional = World::new(AuthLayer::optional).await;
    for (name, world, path, status) in [
        ("required", &required, "/claims", 401),
        ("required, though claims are optional", &required, "/optional", 401),
        ("optional", &optional, "/claims", 401),
        ("optional, and claims too", &optional, "/optional", 200),
    ] {
        assert_eq!(world.ask(path, "").await.status, status, "{name}");
    }
}

#[tokio::test]
async fn without_a_layer_the_log_says_what_is_missing() {
    let log = Log::default();
    let _caught = log.catch();
    for (path, extractor) in [("/claims", "`Claims`"), ("/optional", "`Option<Claims>`")] {
        let answer = send(&routes(), Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 500, "{path}");
        let lines = log.lines_with(extractor);
        assert_eq!(lines.len(), 1, "{path}: {}", log.text());
        assert!(lines[0].contains("no AuthLayer ran"), "{lines:?}");
    }
}
