//! JSON Web Tokens through the layer: each rule by the name of the attack that it stops.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, Response, header};
use http_body_util::Full;
use keyward::{
    AdminProof, AuthLayer, Principal, TokenManager, UserId,
    auth::{AnyOf, ApiKeyAuth},
    event::Audit,
    jwt::{Algorithm, AnyAudience, AnyIssuer, JwtAuth, JwtIssuer, UserIds, VerifyingKey},
    manage::NewToken,
    store::MemoryStore,
    testing::{FakeIssuer, IssuerMode, ManualClock, RecordingSink},
    time::{Clock, UnixTime},
};
use serde_json::{Value, json};
use sha2::Sha256;
use tower::{Layer, ServiceExt, service_fn};

const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-tests-only";
const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "https://api.example";
const NOW: i64 = 1_800_000_000;

fn clock() -> ManualClock {
    ManualClock::at(UnixTime::from_millis(NOW * 1000))
}

fn sign(secret: &str, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(message.as_bytes());
    format!("{message}.{}", BASE64.encode(mac.finalize().into_bytes()))
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW - 10, "exp": NOW + 600, "jti": "one" })
}

/// The plain claims, with these instead; `null` leaves one out.
#[expect(clippy::needless_pass_by_value, reason = "callers write it in place")]
fn with(changes: Value) -> String {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        } else {
            all[name] = value.clone();
        }
    }
    all.to_string()
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn hs256(clock: &ManualClock) -> JwtAuth {
    JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone()).build().unwrap()
}

/// The status, the user if it was accepted, and the reason of the audit log if it was refused.
async fn ask(auth: impl keyward::auth::Authenticator, token: &str) -> (u16, String) {
    ask_with(auth, "authorization", &format!("Bearer {token}")).await
}

async fn ask_with(auth: impl keyward::auth::Authenticator, name: &str, value: &str) -> (u16, String) {
    let events = RecordingSink::default();
    let layer: AuthLayer = AuthLayer::new(auth).with_audit(Audit::new(events.clone()));
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let me = request.extensions().get::<Principal>().unwrap();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(me.user_id().to_string())))
    }));
    let request = Request::builder().header(name, value).body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    if status == 200 {
        use http_body_util::BodyExt;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        return (status, String::from_utf8(body.to_vec()).unwrap());
    }
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    let reason = events.events().iter().find_map(|event| event.kind.refusal()).unwrap();
    (status, reason.as_str().to_owned())
}

#[tokio::test]
async fn a_good_token_is_its_subject() {
    let auth = hs256(&clock());
    let token = sign(SECRET, HEADER, &claims().to_string());
    for _ in 0..3 {
        assert_eq!(ask(auth.clone(), &token).await, (200, "alice".to_owned()));
    }
    assert_eq!(ask_with(auth, "x-api-key", &token).await, (401, "unknown_kind".to_owned()));
}

#[tokio::test]
async fn headers_that_attack_are_refused() {
    let clock = clock();
    let good = claims().to_string();
    let mut cases: Vec<(&str, String, &str)> = vec![
        ("J05 alg missing", r#"{"typ":"JWT"}"#.into(), "algorithm"),
        ("J05 alg null", r#"{"alg":null}"#.into(), "malformed"),
        ("J05 alg a list", r#"{"alg":["HS256"]}"#.into(), "malformed"),
        ("J05 another hash", r#"{"alg":"HS384"}"#.into(), "algorithm"),
        ("X01 public key as secret", r#"{"alg":"RS256"}"#.into(), "algorithm"),
        ("J05 space", r#"{"alg":"HS256 "}"#.into(), "algorithm"),
        ("J05 NUL", r#"{"alg":"HS256\u0000"}"#.into(), "algorithm"),
        ("J03 alg twice", r#"{"alg":"HS256","alg":"HS256"}"#.into(), "malformed"),
        ("J03 alg twice, escaped", r#"{"alg":"none","\u0061lg":"HS256"}"#.into(), "malformed"),
        ("J03 unknown name twice", r#"{"alg":"HS256","x":1,"x":1}"#.into(), "malformed"),
        ("J06 crit unknown", r#"{"alg":"HS256","crit":["x"],"x":1}"#.into(), "malformed"),
        ("J06 crit empty", r#"{"alg":"HS256","crit":[]}"#.into(), "malformed"),
        ("J06 crit of a registered name", r#"{"alg":"HS256","crit":["exp"]}"#.into(), "malformed"),
        ("J07 b64", r#"{"alg":"HS256","b64":false}"#.into(), "malformed"),
        ("J08 jku", r#"{"alg":"HS256","jku":"https://evil.example"}"#.into(), "malformed"),
        ("X08 jwk", r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}"#.into(), "malformed"),
        ("J08 x5u", r#"{"alg":"HS256","x5u":"https://evil.example"}"#.into(), "malformed"),
        ("J08 x5c", r#"{"alg":"HS256","x5c":["AAAA"]}"#.into(), "malformed"),
        ("P3.6 zip", r#"{"alg":"HS256","zip":"DEF"}"#.into(), "malformed"),
        ("X30 enc", r#"{"alg":"HS256","enc":"A128GCM"}"#.into(), "malformed"),
        ("X30 p2c", r#"{"alg":"HS256","p2c":1000000}"#.into(), "malformed"),
        ("P3.3 nested", r#"{"alg":"HS256","cty":"JWT"}"#.into(), "malformed"),
        ("J09 kid a number", r#"{"alg":"HS256","kid":1}"#.into(), "malformed"),
        ("J09 kid with NUL", r#"{"alg":"HS256","kid":"a\u0000"}"#.into(), "malformed"),
        ("J09 kid too long", format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(129)), "malformed"),
        ("P3.11 dpop proof", r#"{"alg":"HS256","typ":"dpop+jwt"}"#.into(), "token_type"),
        ("P3.11 logout token", r#"{"alg":"HS256","typ":"logout+jwt"}"#.into(), "token_type"),
        ("P3.11 typ a number", r#"{"alg":"HS256","typ":1}"#.into(), "malformed"),
        ("J03 a list", "[]".into(), "malformed"),
        ("J03 BOM", "\u{feff}{\"alg\":\"HS256\"}".into(), "unknown_kind"),
    ];
    for none in ["none", "None", "NONE", "nOnE", "noNE"] {
        cases.push(("X03 none", format!(r#"{{"alg":"{none}"}}"#), "algorithm"));
    }
    for (name, header, reason) in cases {
        let token = sign(SECRET, &header, &good);
        let reason = if reason == "malformed" && !token.starts_with("ey") { "unknown_kind" } else { reason };
        assert_eq!(ask(hs256(&clock), &token).await, (401, reason.to_owned()), "{name}");
    }
    for header in [
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"jwt"}"#,
        r#"{"alg":"HS256","typ":"AT+JWT"}"#,
        r#"{"alg":"HS256","typ":"application/at+jwt"}"#,
        r#"{"alg":"HS256","kid":"../../dev/null","x":1}"#,
    ] {
        assert_eq!(ask(hs256(&clock), &sign(SECRET, header, &good)).await.0, 200, "{header}");
    }
}

#[tokio::test]
async fn claims_that_do_not_fit_are_refused() {
    let clock = clock();
    let cases: Vec<(&str, Value, &str)> = vec![
        ("J11 expired", json!({ "exp": NOW - 60 }), "expired"),
        ("X20 exp a text", json!({ "exp": "never" }), "claim"),
        ("X20 exp an object", json!({ "exp": {} }), "claim"),
        ("J13 exp missing", json!({ "exp": null }), "claim"),
        ("J13 exp negative", json!({ "exp": -1 }), "claim"),
        ("X25 exp for ever", json!({ "exp": u64::MAX }), "claim"),
        ("X25 exp in milliseconds", json!({ "exp": NOW * 1000 }), "claim"),
        ("X25 exp far away", json!({ "exp": NOW + 90_000, "iat": NOW }), "lives_too_long"),
        ("X25 a long life nearly over", json!({ "iat": NOW - 90_000 }), "lives_too_long"),
        ("J12 nbf", json!({ "nbf": NOW + 61 }), "not_yet_valid"),
        ("X20 nbf a text", json!({ "nbf": "99999999999" }), "claim"),
        ("J12 iat", json!({ "iat": NOW + 61 }), "not_yet_valid"),
        ("J12 iat a text", json!({ "iat": "x" }), "claim"),
        ("J15 iss missing", json!({ "iss": null }), "issuer"),
        ("X21 iss a list", json!({ "iss": [ISSUER] }), "issuer"),
        ("X21 iss a list with another", json!({ "iss": ["https://evil.example", ISSUER] }), "issuer"),
        ("X22 iss a part", json!({ "iss": "https://login" }), "issuer"),
        ("X22 iss longer", json!({ "iss": "https://login.example.evil" }), "issuer"),
        ("J15 iss with a slash", json!({ "iss": "https://login.example/" }), "issuer"),
        ("J15 iss in another case", json!({ "iss": "https://LOGIN.example" }), "issuer"),
        ("X22 iss empty", json!({ "iss": "" }), "issuer"),
        ("X23 aud missing", json!({ "aud": null }), "audience"),
        ("X23 aud empty list", json!({ "aud": [] }), "audience"),
        ("J14 aud of another", json!({ "aud": "https://other.example" }), "audience"),
        ("J14 aud a part", json!({ "aud": "https://api" }), "audience"),
        ("J14 aud mixed", json!({ "aud": [AUDIENCE, 1] }), "audience"),
        ("J14 aud an object", json!({ "aud": { "https://api.example": 1 } }), "audience"),
        ("sub missing", json!({ "sub": null }), "subject"),
        ("sub empty", json!({ "sub": "" }), "subject"),
        ("sub a number", json!({ "sub": 7 }), "subject"),
        ("sub with NUL", json!({ "sub": "a\u{0}" }), "subject"),
        ("sub long", json!({ "sub": "a".repeat(256) }), "subject"),
        ("sub of keyward's own", json!({ "sub": "keyward:admin" }), "subject"),
        ("sub of a static token", json!({ "sub": "static:0123456789abcdef" }), "subject"),
        (
            "D9-2 bound to a key",
            json!({ "cnf": { "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } }),
            "unconfirmed",
        ),
        ("cnf of a wrong type", json!({ "cnf": "x" }), "claim"),
        ("P3.12 ID token", json!({ "at_hash": "x" }), "token_type"),
        ("logout token", json!({ "events": {} }), "token_type"),
        ("jti a number", json!({ "jti": 1 }), "claim"),
        ("A08 scope an object", json!({ "scope": {} }), "claim"),
        ("A08 scope with a tab", json!({ "scope": "a\tb" }), "claim"),
    ];
    for (name, changes, reason) in cases {
        let token = sign(SECRET, HEADER, &with(changes));
        assert_eq!(ask(hs256(&clock), &token).await, (401, reason.to_owned()), "{name}");
    }
    for (name, changes) in [
        ("within the leeway", json!({ "exp": NOW - 59 })),
        ("nbf within the leeway", json!({ "nbf": NOW + 60 })),
        ("a fraction", json!({ "exp": 1_800_000_600.7 })),
        ("aud a list", json!({ "aud": ["https://other.example", AUDIENCE] })),
        ("no iat", json!({ "iat": null })),
    ] {
        assert_eq!(ask(hs256(&clock), &sign(SECRET, HEADER, &with(changes))).await.0, 200, "{name}");
    }
    let twice = claims().to_string().replacen('{', r#"{"roles":["user"],"roles":["admin"],"#, 1);
    assert_eq!(ask(hs256(&clock), &sign(SECRET, HEADER, &twice)).await, (401, "malformed".to_owned()), "J04");
    let nested = claims().to_string().replacen('{', r#"{"x":{"a":1,"\u0061":2},"#, 1);
    assert_eq!(
        ask(hs256(&clock), &sign(SECRET, HEADER, &nested)).await,
        (401, "malformed".to_owned()),
        "J04"
    );
}

#[tokio::test]
async fn other_forms_of_a_good_token_are_refused() {
    let clock = clock();
    let token = sign(SECRET, HEADER, &claims().to_string());
    let auth = hs256(&clock);
    // The good one is known by now: no other form may be taken for it.
    assert_eq!(ask(auth.clone(), &token).await.0, 200);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let last = signature.chars().last().unwrap();
    let flipped = char::from(if last == 'A' { b'B' } else { last as u8 ^ 1 });
    let mut cases = vec![
        ("J02 unused bits", format!("{message}.{}{flipped}", &signature[..signature.len() - 1])),
        ("J01 padding", format!("{token}=")),
        ("X04 no signature", format!("{message}.")),
        ("X04 short signature", format!("{message}.AA")),
        ("X04 longer signature", format!("{token}AAAA")),
        ("J01 two parts", message.to_owned()),
        ("X10 five parts", format!("{token}.AAAA.AAAA")),
        ("J01 four parts", format!("{token}.AAAA")),
        ("J01 standard alphabet", token.replace('-', "+").replace('_', "/") + "+"),
        ("another secret", sign("b81Zt4Wm6Qe9Xc2Rv7Ny0Ps3Ld5Ka1Gf-other", HEADER, &claims().to_string())),
        ("X06 empty secret", sign("", HEADER, &claims().to_string())),
        ("X29 dots", format!("ey{}", ".".repeat(8000))),
    ];
    let end = message.len();
    for at in [4, end / 2, end + 5] {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        cases.push(("a changed character", String::from_utf8(bytes).unwrap()));
    }
    for (name, bad) in cases {
        assert!(matches!(ask(auth.clone(), &bad).await.0, 400 | 401), "{name}");
    }
    let long = sign(SECRET, HEADER, &with(json!({ "x": "x".repeat(9000) })));
    assert_eq!(ask(auth, &long).await, (401, "malformed".to_owned()));
}

#[tokio::test]
async fn a_known_token_ends_when_it_expires() {
    let clock = clock();
    let auth = hs256(&clock);
    let token = sign(SECRET, HEADER, &with(json!({ "exp": NOW + 5, "nbf": NOW })));
    for (after, status) in [(0, 200), (4, 200), (64, 200), (65, 401), (0, 200), (-61, 401)] {
        clock.set(UnixTime::from_millis((NOW + after) * 1000));
        assert_eq!(ask(auth.clone(), &token).await.0, status, "{after}");
    }
}

#[tokio::test]
async fn two_issuers_are_two_worlds() {
    let clock = clock();
    let other = "https://other.example";
    let second = |users| {
        JwtAuth::hs256("b81Zt4Wm6Qe9Xc2Rv7Ny0Ps3Ld5Ka1Gf-other")
            .issuer(other)
            .audience(AUDIENCE)
            .with_user_ids(users)
            .with_clock(clock.clone())
            .build()
            .unwrap()
    };
    let refused = JwtAuth::any_of([hs256(&clock), second(UserIds::Subject)]).unwrap_err().to_string();
    assert!(refused.contains("UserIds::Namespaced"), "{refused}");
    assert!(JwtAuth::any_of([hs256(&clock), hs256(&clock)]).is_err());
    assert!(JwtAuth::any_of([]).is_err());

    let auth = JwtAuth::any_of([hs256(&clock), second(UserIds::Namespaced)]).unwrap();
    let theirs = |changes| sign("b81Zt4Wm6Qe9Xc2Rv7Ny0Ps3Ld5Ka1Gf-other", HEADER, &with(changes));
    assert_eq!(ask(auth.clone(), &sign(SECRET, HEADER, &claims().to_string())).await.1, "alice");
    assert_eq!(ask(auth.clone(), &theirs(json!({ "iss": other }))).await.1, "https://other.example#alice");
    // P3.8a: signed by one, claiming the other.
    assert_eq!(ask(auth.clone(), &theirs(json!({}))).await, (401, "bad_signature".to_owned()));
    // The first speaks for no user of the second.
    let forged = sign(SECRET, HEADER, &with(json!({ "sub": "https://other.example#alice" })));
    assert_eq!(ask(auth, &forged).await, (401, "subject".to_owned()));
}

#[tokio::test]
async fn keys_and_tokens_of_a_person_have_one_owner() {
    let clock = clock();
    let tokens = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let key = tokens.create(&UserId::new("alice").unwrap(), NewToken::named("laptop")).await.unwrap().key;
    let auth = || AnyOf::new([ApiKeyAuth::new(&tokens).into(), hs256(&clock).into()]);
    let token = sign(SECRET, HEADER, &claims().to_string());
    assert_eq!(ask(auth(), &token).await, (200, "alice".to_owned()));
    assert_eq!(ask(auth(), key.expose()).await, (200, "alice".to_owned()));
}

#[test]
fn what_cannot_be_right_refuses_to_start() {
    let build = |secret: &str| JwtAuth::hs256(secret).issuer(ISSUER).audience(AUDIENCE).build();
    for secret in ["", "secret", "changemechangemechangemechangeme"] {
        assert!(build(secret).is_err(), "{secret}");
    }
    let good = || JwtAuth::hs256(SECRET);
    assert!(good().issuer("").audience(AUDIENCE).build().is_err());
    assert!(good().issuer(ISSUER).audience("").build().is_err());
    assert!(good().issuer(ISSUER).audience(Vec::<String>::new()).build().is_err());
    assert!(good().issuer(ISSUER).audience(AUDIENCE).with_leeway(Duration::from_secs(301)).build().is_err());
    assert!(good().issuer(AnyIssuer).audience(AnyAudience).build().is_ok());
    for url in
        ["http://keys.example/jwks", "ftp://keys.example", "keys.example", "https://user@keys.example/"]
    {
        assert!(JwtAuth::jwks(url).issuer(ISSUER).audience(AUDIENCE).build().is_err(), "{url}");
    }
    assert!(VerifyingKey::hmac(Algorithm::ES256, SECRET).is_err());
    assert!(VerifyingKey::hmac(Algorithm::HS512, SECRET).is_err());
}

#[tokio::test]
async fn what_the_issuer_makes_is_accepted_and_shows_what_it_says() {
    let clock = clock();
    let seed = *b"0p9o8i7u6y5t4r3e2w1qAsDfGhJkLzXc";
    let issuer = JwtIssuer::ed25519(&seed, ISSUER, AUDIENCE).unwrap().with_clock(clock.clone());
    let extra = [("scope", json!("jobs:read jobs:*")), ("email", json!("a@example.org"))];
    let token = issuer.token_with(&UserId::new("alice").unwrap(), extra.into()).unwrap();
    let set = keyward::jwt::KeySet::from_jwks(issuer.jwks()).unwrap();
    for auth in [JwtAuth::keys(&set), JwtAuth::key(issuer.verifying_key())] {
        let auth =
            auth.issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone()).require_claim("aud", AUDIENCE);
        let auth = Arc::new(auth.build().unwrap());
        let me = principal(&auth, &token).await;
        let jwt = me.jwt().unwrap();
        assert_eq!((jwt.issuer(), jwt.subject()), (ISSUER, "alice"));
        assert_eq!(jwt.expires_at().since(clock.now()), Duration::from_secs(3600));
        assert!(jwt.jwt_id().is_some_and(|id| id.len() >= 22));
        assert_eq!(me.claims::<Value>().unwrap()["email"], "a@example.org");
        assert!(
            me.has_scope("jobs:read") && !me.has_scope("jobs:write"),
            "an issuer's asterisk is no pattern"
        );
        assert!(!format!("{me:?} {jwt:?} {auth:?} {issuer:?}").contains("a@example"));
    }
    assert!(issuer.token_with(&UserId::new("alice").unwrap(), [("exp", json!(1))].into()).is_err());
}

async fn principal(auth: &Arc<JwtAuth>, token: &str) -> Principal {
    let (sent, mut received) = tokio::sync::mpsc::channel(1);
    let layer: AuthLayer = AuthLayer::new(auth.clone());
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let sent = sent.clone();
        async move {
            sent.send(request.extensions().get::<Principal>().unwrap().clone()).await.unwrap();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    }));
    let request = Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status().as_u16(), 200);
    received.recv().await.unwrap()
}

#[tokio::test]
async fn keys_are_found_rotated_and_forgotten() {
    let clock = clock();
    let provider = FakeIssuer::start().await.with_clock(clock.clone());
    let audience = FakeIssuer::AUDIENCE;
    let auth = JwtAuth::oidc(&provider.issuer(), audience).with_clock(clock.clone()).await.unwrap();
    auth.ready().unwrap();
    let old = provider.token(json!({ "sub": "alice" }));
    assert_eq!(ask(auth.clone(), &old).await, (200, "alice".to_owned()));
    assert_eq!((provider.discovery_requests(), provider.key_set_requests()), (1, 1));

    // X46: a key that is new is asked for once the cool-down is over.
    provider.rotate();
    let new = provider.token(json!({ "sub": "bob" }));
    assert_eq!(ask(auth.clone(), &new).await, (401, "unknown_key".to_owned()), "within the cool-down");
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(auth.clone(), &new).await, (200, "bob".to_owned()));
    assert_eq!(ask(auth.clone(), &old).await.0, 200, "the old key is still there");
    assert_eq!(provider.key_set_requests(), 2);

    // X41: a key that leaves the set takes its tokens along, known ones too.
    provider.forget_old_keys();
    clock.advance(Duration::from_secs(600));
    assert_eq!(ask(auth, &old).await, (401, "unknown_key".to_owned()));
    assert_eq!(provider.key_set_requests(), 3);
}

#[tokio::test]
async fn a_provider_that_fails_harms_nobody_whose_key_is_known() {
    let clock = clock();
    let provider = FakeIssuer::start().await.with_clock(clock.clone());
    provider.set_mode(IssuerMode::Down);
    let lazy = JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).with_clock(clock.clone());
    let auth = lazy.build().unwrap();
    let token = provider.token(json!({ "sub": "alice" }));
    // X45: without keys nobody is told that their token is bad.
    assert_eq!(ask(auth.clone(), &token).await, (503, "keys_unavailable".to_owned()));
    assert!(auth.ready().is_err());
    let eager = JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).with_clock(clock.clone()).await;
    assert!(eager.unwrap_err().to_string().contains("cannot be fetched"));

    provider.set_mode(IssuerMode::Up);
    clock.advance(Duration::from_secs(2));
    assert_eq!(ask(auth.clone(), &token).await.0, 200);
    for mode in [
        IssuerMode::Down,
        IssuerMode::Garbage,
        IssuerMode::Huge,
        IssuerMode::Redirect,
        IssuerMode::WrongIssuer,
        IssuerMode::NoKeys,
    ] {
        provider.set_mode(mode);
        clock.advance(Duration::from_secs(601));
        assert_eq!(ask(auth.clone(), &provider.token(json!({ "sub": "bob" }))).await.0, 200, "{mode:?}");
        let unknown = provider.token_with(json!({ "kid": "nobody" }), json!({ "sub": "eve" }));
        assert_eq!(ask(auth.clone(), &unknown).await.0, 503, "{mode:?}");
    }
    clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(
        ask(auth.clone(), &provider.token(json!({ "sub": "bob" }))).await.0,
        503,
        "too old to believe"
    );
    provider.set_mode(IssuerMode::Up);
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(auth, &provider.token(json!({ "sub": "bob" }))).await.0, 200);
}

/// Q1 of the flood of random names: X40.
#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_fetch_in_a_cool_down() {
    let clock = clock();
    let provider = FakeIssuer::start().await.with_clock(clock.clone());
    let auth =
        JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).with_clock(clock.clone()).await.unwrap();
    let good = provider.token(json!({ "sub": "alice" }));
    for round in 1..=3 {
        clock.advance(Duration::from_secs(30));
        for n in 0..700 {
            let kid = format!("random-{round}-{n}");
            let unknown = provider.token_with(json!({ "kid": kid }), json!({ "sub": "eve" }));
            assert_eq!(ask(auth.clone(), &unknown).await, (401, "unknown_key".to_owned()));
        }
        assert_eq!(ask(auth.clone(), &good).await.0, 200);
        assert!(provider.key_set_requests() <= 1 + round, "{}", provider.key_set_requests());
    }
}

/// What was withdrawn is refused from the next request on, also if it is known, and in whatever form.
#[tokio::test]
async fn what_is_withdrawn_stays_out() {
    let clock = clock();
    let store = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let alice = UserId::new("alice").unwrap();
    let operator = AdminProof::operator("test", "leaked").unwrap();
    let auth = Arc::new(AnyOf::new([ApiKeyAuth::new(&store).into(), hs256(&clock).into()]));
    let first = sign(SECRET, HEADER, &claims().to_string());
    let second = sign(SECRET, HEADER, &with(json!({ "jti": "two" })));
    let bob = sign(SECRET, HEADER, &with(json!({ "sub": "bob" })));
    for token in [&first, &second, &bob] {
        assert_eq!(ask(auth.clone(), token).await.0, 200);
    }

    let until = UnixTime::from_millis((NOW + 700) * 1000);
    store.revoke_jwt(&operator, ISSUER, "one", until).await.unwrap();
    assert_eq!(ask(auth.clone(), &first).await, (401, "revoked".to_owned()));
    let again = sign(SECRET, r#"{"typ":"JWT","alg":"HS256"}"#, &claims().to_string());
    assert_eq!(
        ask(auth.clone(), &again).await,
        (401, "revoked".to_owned()),
        "X33: the id counts, not the text"
    );
    assert_eq!(ask(auth.clone(), &bob).await, (401, "revoked".to_owned()), "the same id of the same issuer");
    assert_eq!(ask(auth.clone(), &second).await.0, 200);

    store.revoke_jwts_of(&operator, &alice).await.unwrap();
    assert_eq!(ask(auth.clone(), &second).await, (401, "revoked".to_owned()));
    clock.advance(Duration::from_secs(2));
    let later = json!({ "iat": NOW + 2, "jti": "three" });
    let third = sign(SECRET, HEADER, &with(later));
    assert_eq!(ask(auth.clone(), &third).await.0, 200, "issued since");
    let undated = sign(SECRET, HEADER, &with(json!({ "iat": null, "jti": null })));
    assert_eq!(ask(auth.clone(), &undated).await, (401, "revoked".to_owned()));

    let key = store.create(&alice, NewToken::named("laptop")).await.unwrap().key;
    assert_eq!(ask(auth.clone(), key.expose()).await.0, 200);
    store.offboard(&operator, &alice).await.unwrap();
    assert_eq!(ask(auth.clone(), &third).await, (401, "user_inactive".to_owned()));
    assert_eq!(ask(auth.clone(), key.expose()).await.0, 401);
    store.restore(&operator, &alice).await.unwrap();
    assert_eq!(
        ask(auth.clone(), &third).await,
        (401, "revoked".to_owned()),
        "earlier tokens do not come back"
    );
    assert_eq!(ask(auth, key.expose()).await.0, 401);
}
