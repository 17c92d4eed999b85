//! The emergency key: when it opens, what it leaves behind, and that nothing stands in its way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::{fmt::Write, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use http::{HeaderName, HeaderValue, Request};
use keyward::{
    AdminProof, AuthLayer, Owned, Principal, TokenManager, UserId,
    auth::{
        AnyOf, ApiKeyAuth, Authenticator, CredentialReader, EmergencyAuth, RequestHead, StaticAuth, Verdict,
    },
    error::Refusal,
    event::{Alert, Audit, EventKind},
    manage::{ListQuery, NewToken, TokenError, TokenUpdate},
    net::{IpList, PeerAddr},
    scope::{Grant, ScopeSet},
    secret::TokenDigest,
    store::{MemoryStore, StaticList, UserStatus},
    testing::{ManualClock, RecordingSink},
};
use support::{Log, UnrulyStore, send, start, user};

const KEY: &str = "b7c1f0a4e29d4b6f8e35a7d90c1b2f3e4d5a69788796a5b4c3d2e1f00f1e2d3c";
const STATIC: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";
const REASON: (&str, &str) = ("x-emergency-reason", "the identity provider is gone");

fn sha256(text: &str) -> String {
    TokenDigest::of(text.as_bytes()).as_bytes().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn emergency() -> EmergencyAuth {
    EmergencyAuth::new(&sha256(KEY)).unwrap()
}

/// What `auth` says to a request with these headers, from this address.
fn ask(
    auth: &dyn Authenticator,
    headers: &[(&str, &[u8])],
    ip: Option<&str>,
) -> Option<Result<Principal, u16>> {
    let mut request = Request::new(());
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(value).unwrap();
        request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value);
    }
    let mut head = RequestHead::new(&request);
    head.presented =
        CredentialReader::default().read(request.method(), request.uri(), request.headers()).unwrap();
    head.client_ip = ip.map(|ip| ip.parse().unwrap());
    match auth.authenticate(&head) {
        Verdict::Abstain => None,
        Verdict::Decided(verdict) => Some(verdict.map_err(|error| error.status().as_u16())),
        Verdict::Pending(_) => panic!("nobody is to be asked"),
    }
}

/// The principal of a request with the emergency key.
fn principal() -> Principal {
    let reason = (REASON.0, REASON.1.as_bytes());
    ask(&emergency(), &[("x-api-key", KEY.as_bytes()), reason], None).unwrap().unwrap()
}

#[test]
fn only_a_sha_256_is_taken_for_one() {
    let hash = sha256(KEY);
    for good in [hash.clone(), hash.to_uppercase()] {
        assert!(EmergencyAuth::new(&good).is_ok(), "{good}");
    }
    let tab = format!("{}\t", &hash.get(..63).unwrap());
    for (what, bad) in [
        ("nothing", ""),
        ("a word", "break the glass"),
        ("one digit less", hash.get(..63).unwrap()),
        ("one digit more", &*format!("{hash}0")),
        ("the output of sha256sum", &*format!("{hash}  -")),
        ("no digit", &*tab),
        ("a sign", &*hash.replace(hash.get(..1).unwrap(), "+")),
        ("zeros", &*"0".repeat(64)),
        ("other letters", &*"é".repeat(32)),
        ("the hash of nothing", &*sha256("")),
        ("the hash of an empty line", &*sha256("\n")),
    ] {
        let error = EmergencyAuth::new(bad).expect_err(what).to_string();
        assert!(error.contains("emergency key"), "{what}: {error}");
        assert!(bad.len() < 8 || !error.contains(bad), "{what}: it may be a secret");
    }
    assert!(!format!("{:?}", emergency()).contains(hash.get(..8).unwrap()));
}

#[test]
fn it_takes_the_key_a_reason_and_nothing_else() {
    type Headers<'a> = &'a [(&'a str, &'a [u8])];
    let (key, bearer) = (KEY.as_bytes(), format!("Bearer {KEY}"));
    let reason: (&str, &[u8]) = (REASON.0, REASON.1.as_bytes());
    let (long, longest) = ("é".repeat(201), "é".repeat(200));
    let (other, upper, hash) = (KEY.replace("b7", "b8"), KEY.to_uppercase(), sha256(KEY));
    let with_key = format!("use {}", KEY.get(..20).unwrap());
    let cases: &[(&str, Headers<'_>, Option<u16>)] = &[
        ("as a key", &[("x-api-key", key), reason], Some(200)),
        ("as a bearer token", &[("authorization", bearer.as_bytes()), reason], Some(200)),
        ("another key", &[("x-api-key", other.as_bytes()), reason], None),
        ("half of it", &[("x-api-key", KEY.get(..32).unwrap().as_bytes()), reason], None),
        ("upper case", &[("x-api-key", upper.as_bytes()), reason], None),
        ("its hash", &[("x-api-key", hash.as_bytes()), reason], None),
        ("no credential", &[reason], None),
        ("no reason", &[("x-api-key", key)], Some(403)),
        ("an empty reason", &[("x-api-key", key), (REASON.0, b"")], Some(403)),
        ("a blank reason", &[("x-api-key", key), (REASON.0, b" \t ")], Some(403)),
        ("two reasons", &[("x-api-key", key), reason, reason], Some(403)),
        ("a long reason", &[("x-api-key", key), (REASON.0, long.as_bytes())], Some(403)),
        ("the longest reason", &[("x-api-key", key), (REASON.0, longest.as_bytes())], Some(200)),
        ("no UTF-8", &[("x-api-key", key), (REASON.0, b"caf\xe9")], Some(403)),
        ("a tab", &[("x-api-key", key), (REASON.0, b"a\tb")], Some(403)),
        ("text that runs backwards", &[("x-api-key", key), (REASON.0, "a\u{202e}b".as_bytes())], Some(403)),
        ("the key for a reason", &[("x-api-key", key), (REASON.0, with_key.as_bytes())], Some(403)),
    ];
    for (what, headers, expected) in cases {
        let told = RecordingSink::default();
        let auth = emergency().with_audit(keyward::event::Audit::new(told.clone()));
        let answer = ask(&auth, headers, Some("192.0.2.1"));
        let status = answer.map(|verdict| verdict.map_or_else(|status| status, |_| 200));
        assert_eq!(status, *expected, "{what}");
        assert_eq!(
            told.events().len(),
            usize::from(expected.is_some()),
            "{what}: each use is told, and only those"
        );
        for event in told.events() {
            let is_refused = *expected == Some(403);
            let alert = if is_refused { Alert::EmergencyRefused } else { Alert::EmergencyUse };
            assert_eq!(event.kind, EventKind::Alert(alert), "{what}");
            assert_eq!(event.actor.as_ref().map(UserId::as_str), Some("keyward:emergency"), "{what}");
            assert_eq!(event.client_ip, Some([192, 0, 2, 1].into()), "{what}");
            assert_eq!(event.reason.as_deref() == Some("missing_reason"), is_refused, "{what}");
        }
    }
}

#[test]
fn a_key_that_could_be_guessed_is_none() {
    let short = &KEY[..31];
    let auth = EmergencyAuth::new(&sha256(short)).unwrap();
    assert!(ask(&auth, &[("x-api-key", short.as_bytes()), (REASON.0, b"drill")], None).is_none());
}

#[test]
fn place_and_time_are_judged_for_each_use() {
    let clock = ManualClock::at(start());
    let hour = Duration::from_secs(3600);
    let window = (start().saturating_add(hour), start().saturating_add(2 * hour));
    let list = IpList::new(["10.0.0.0/8", "2001:db8::/32"]).unwrap();
    let auth = emergency().with_clock(clock.clone()).with_window(window.0, window.1).with_allowed_ips(list);
    let status = |ip: Option<&str>| {
        let headers: &[(&str, &[u8])] = &[("x-api-key", KEY.as_bytes()), (REASON.0, b"drill")];
        ask(&auth, headers, ip).unwrap().map_or_else(|status| status, |_| 200)
    };
    assert_eq!(status(Some("10.1.2.3")), 401, "before its time");
    clock.advance(hour);
    for (ip, expected) in [
        (Some("10.1.2.3"), 200),
        (Some("::ffff:10.1.2.3"), 200),
        (Some("2001:db8::1"), 200),
        (Some("192.0.2.1"), 403),
        (None, 403),
    ] {
        assert_eq!(status(ip), expected, "{ip:?}");
    }
    clock.advance(hour - Duration::from_millis(1));
    assert_eq!(status(Some("10.1.2.3")), 200);
    clock.advance(Duration::from_millis(1));
    assert_eq!(status(Some("10.1.2.3")), 401, "its end is not included");
    let never = emergency().with_window(window.1, window.0);
    assert_eq!(
        ask(&never, &[("x-api-key", KEY.as_bytes()), (REASON.0, b"drill")], None).unwrap().err(),
        Some(401)
    );
}

/// All kinds beside one another, over a store that is told what to do.
fn app(tokens: &TokenManager, emergency: EmergencyAuth, emergency_first: bool) -> Router {
    let list = StaticList::parse(&format!("ops:{STATIC}")).unwrap();
    let mut all: Vec<Box<dyn Authenticator>> =
        vec![ApiKeyAuth::new(tokens).into(), StaticAuth::new(&list).into()];
    all.insert(if emergency_first { 0 } else { 2 }, emergency.with_audit(tokens.audit()).into());
    let whoami =
        get(async |me: Principal| format!("{} {} {:?}", me.user_id(), me.method().as_str(), me.roles()));
    Router::new().route("/", whoami).layer(AuthLayer::new(AnyOf::new(all)))
}

async fn with_key(app: &Router, key: &str) -> (u16, String) {
    let request = Request::get("/").header("x-api-key", key).header(REASON.0, REASON.1);
    let mut request = request.header("x-request-id", "req-4711").body(Body::empty()).unwrap();
    request.extensions_mut().insert(PeerAddr(([192, 0, 2, 1], 1).into()));
    let answer = send(app, request).await;
    (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned())
}

#[tokio::test]
async fn it_opens_whatever_the_store_does_and_whoever_stands_before_it() {
    for emergency_first in [true, false] {
        let (store, events) = (Arc::new(UnrulyStore::default()), RecordingSink::default());
        let tokens = TokenManager::builder(store.clone()).with_audit(events.clone()).build();
        let app = app(&tokens, emergency(), emergency_first);
        let opens = (200, r#"keyward:emergency emergency {"admin"}"#.to_owned());
        let check = async |when: &str, others: u16| {
            assert_eq!(with_key(&app, KEY).await, opens, "{when}");
            assert_eq!(with_key(&app, STATIC).await.0, others, "{when}");
        };
        store.set_down(true);
        check("nothing was ever known", 503).await;
        store.set_down(false);
        check("all is well", 200).await;
        store.set_down(true);
        check("the store is down", 200).await;
        let asked = store.finds();
        store.set_down(false);
        store.set_hanging(true);
        assert_eq!(with_key(&app, KEY).await, opens, "the store hangs");
        assert_eq!(store.finds(), asked, "it is never asked");
        let uses = events.alerts().into_iter().filter(|alert| *alert == Alert::EmergencyUse).count();
        assert_eq!(uses, 4);
        let told =
            events.events().into_iter().find(|event| event.kind == EventKind::Alert(Alert::EmergencyUse));
        let told = told.unwrap();
        assert_eq!(told.reason.as_deref(), Some(REASON.1));
        assert_eq!(told.request_id.as_deref(), Some("req-4711"));
    }
}

#[tokio::test]
async fn others_are_served_as_without_it() {
    let tokens = TokenManager::new(MemoryStore::new());
    let app = app(&tokens, emergency(), false);
    let key = tokens.create(&user("alice"), NewToken::named("k")).await.unwrap().key;
    assert_eq!(with_key(&app, key.expose()).await.0, 200);
    assert_eq!(with_key(&app, STATIC).await.0, 200);
    for wrong in ["c0ffee".repeat(11), KEY.replace('b', "c"), "x".repeat(2000)] {
        assert_eq!(with_key(&app, &wrong).await.0, 401);
    }
}

#[tokio::test]
async fn it_makes_and_changes_no_key_but_takes_away() {
    let events = RecordingSink::default();
    let tokens = TokenManager::builder(MemoryStore::new()).with_audit(events.clone()).build();
    let me = principal();
    let proof = me.admin("break-in").unwrap();
    let alice = user("alice");
    let issued = tokens.create(&alice, NewToken::named("laptop")).await.unwrap();
    let id = issued.record.id;

    let refused = |error: TokenError, what: &str| {
        assert!(matches!(error, TokenError::BeyondOwnRights), "{what}: {error}");
        assert_eq!(
            events.kinds().last(),
            Some(&EventKind::OperationRefused(Refusal::BeyondOwnRights)),
            "{what}"
        );
    };
    let narrow = Grant::Only(ScopeSet::new(["jobs:read"]).unwrap());
    refused(tokens.create(&me, NewToken::named("mine")).await.unwrap_err(), "a key of its own");
    refused(
        tokens.create(&me, NewToken::named("m").with_scopes(narrow.clone())).await.unwrap_err(),
        "a small one",
    );
    let for_alice = NewToken::named("hers").for_user(alice.clone());
    refused(tokens.create(&proof, for_alice).await.unwrap_err(), "for somebody else");
    refused(tokens.rotate(&proof, id, None).await.unwrap_err(), "a rotation");
    for (what, update) in [
        ("switching on", TokenUpdate::default().with_enabled(true)),
        ("renaming", TokenUpdate::default().with_name("x")),
        ("narrowing", TokenUpdate::default().with_scopes(narrow)),
        ("switching off and renaming", TokenUpdate::default().with_name("x").with_enabled(false)),
    ] {
        refused(tokens.update(&proof, id, update).await.unwrap_err(), what);
    }
    assert_eq!(tokens.count(&proof).await.unwrap(), 1);
    assert_eq!(tokens.list(&proof, ListQuery::default()).await.unwrap().tokens.len(), 1);

    tokens.update(&proof, id, TokenUpdate::default().with_enabled(false)).await.unwrap();
    tokens.suspend(&proof, &alice).await.unwrap();
    tokens.restore(&proof, &alice).await.unwrap();
    tokens.revoke(&proof, id).await.unwrap();
    assert_eq!(tokens.offboard(&proof, &alice).await.unwrap(), 0);
    assert_eq!(tokens.user_state(&proof, &alice).await.unwrap().status, UserStatus::Offboarded);
}

#[tokio::test]
async fn nobody_else_acts_under_its_name() {
    let tokens = TokenManager::new(MemoryStore::new());
    let operator = AdminProof::operator("ops", "test").unwrap();
    let emergency = user("keyward:emergency");
    let spoof = NewToken::named("x").for_user(emergency.clone());
    assert!(matches!(tokens.create(&operator, spoof).await, Err(TokenError::Invalid(_))));
    assert!(matches!(tokens.create(&emergency, NewToken::named("x")).await, Err(TokenError::Invalid(_))));
    let registered = tokens.register(&emergency, NewToken::named("x")).await;
    assert!(matches!(registered, Err(TokenError::UserExists)), "{registered:?}");
    for done in [
        tokens.suspend(&operator, &emergency).await,
        tokens.restore(&operator, &emergency).await,
        tokens.offboard(&operator, &emergency).await.map(drop),
    ] {
        assert!(matches!(done, Err(TokenError::Invalid(_))), "{done:?}");
    }
}

#[tokio::test]
async fn no_line_of_the_log_holds_it() {
    let log = Log::default();
    let _caught = log.catch();
    let tokens = TokenManager::new(MemoryStore::new());
    let app = app(&tokens, emergency(), false);
    with_key(&app, KEY).await;
    let hints = format!("pasted {}… by mistake", KEY.get(..24).unwrap());
    let two = format!("{} and {}", &KEY[..20], &KEY[40..]);
    for (reason, status) in [(KEY.to_owned(), 403), (hints, 403), (two, 403), (format!("for {STATIC}"), 200)]
    {
        let request = Request::get("/").header("x-api-key", KEY).header(REASON.0, &reason);
        let answer = send(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{reason}");
    }
    assert!(!log.lines_with("emergency_use").is_empty());
    for secret in [KEY.get(..12).unwrap(), KEY.get(30..42).unwrap(), &STATIC[..12], &sha256(KEY)[..12]] {
        assert!(log.lines_with(secret).is_empty(), "{:?}", log.lines_with(secret));
    }
}

struct Job(UserId);

impl Owned for Job {
    const KIND: &'static str = "job";

    fn owner(&self) -> &UserId {
        &self.0
    }
}

#[test]
fn what_it_does_is_on_record_where_its_uses_are() {
    let told = RecordingSink::default();
    let clock = ManualClock::at(start());
    let auth = emergency().with_audit(Audit::with_clock(told.clone(), Arc::new(clock)));
    let reason = (REASON.0, REASON.1.as_bytes());
    let me = ask(&auth, &[("x-api-key", KEY.as_bytes()), reason], None).unwrap().unwrap();
    me.admin("break-in").unwrap();
    assert!(me.check(Job(user("alice"))).is_err());
    let alerts = [Alert::EmergencyUse, Alert::ForeignAccess].map(EventKind::Alert);
    assert_eq!(told.kinds(), [alerts[0], EventKind::AdminOverride, alerts[1]]);
    for event in told.events() {
        assert_eq!((event.actor, event.at), (Some(user("keyward:emergency")), start()));
    }
}
