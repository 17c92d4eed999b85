//! JSON Web Tokens through the layer: each rule by the name of the attack that it stops.
//!
//! The ids in the names say where a rule comes from:
//!
//! | ids | source |
//! |---|---|
//! | J01 to J21 | RFC 7515, 7517, 7518 and 7519: form (1, 2), JSON (3, 4), `alg` (5), `crit` and `b64` (6, 7), keys in the header (8), `kid` (9), `typ` (10), times (11 to 13), `aud` (14), `iss` (15), keys (16 to 21) |
//! | P3.1 to P3.15 | RFC 8725 and its successor, by section |
//! | A01 to A09 | RFC 9068, the profile of access tokens |
//! | D9, M8 | RFC 9449 and RFC 8705: tokens that are bound to a key or a certificate |
//! | X01, X02 | CVE-2015-9235, CVE-2017-11424, CVE-2022-29217, CVE-2024-37568: a public key as the secret |
//! | X03, X04 | CVE-2015-2951, CVE-2020-28042: `none`, and signatures that are cut |
//! | X05 | CVE-2022-21449: signatures of zeros, in `jwt_vectors.rs` |
//! | X06, X07 | CVE-2019-20933, CVE-2023-27524, CVE-2023-37266: empty and well-known secrets |
//! | X08, X09 | CVE-2018-0114: a key in the header, or one for `none` |
//! | X10, X11 | CVE-2023-51774, CVE-2022-39227: encrypted tokens, and the JSON forms |
//! | X12 | CVE-2022-29165: a bad token that passes for none |
//! | X20 to X23 | CVE-2026-25537, CVE-2025-30144, CVE-2024-53861, CVE-2020-26160: types of claims, issuers, audiences |
//! | X25, X28 | tokens that live for ever, tokens of another tenant |
//! | X29, X30 | CVE-2025-30204, CVE-2025-27144, CVE-2023-6681: what costs much to refuse |
//! | X32 | CVE-2025-52477: fetching what a token names |
//! | X33 | CVE-2015-7546: a token that was revoked, in another form |
//! | X40 to X47 | CVE-2025-59936 and others: key sets that are fetched, here and in `jwt_remote.rs` |
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

mod claims;
mod fetched;
mod forms;
mod headers;
mod keys;
mod settings;
mod support;

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keyward::{
    AdminProof, AuthLayer, Principal, TokenManager, UserId,
    auth::{AnyOf, ApiKeyAuth, StaticAuth},
    event::{Alert, Audit},
    jwt::{Algorithm, AnyAudience, AnyIssuer, JwtAuth, JwtIssuer, UserIds, VerifyingKey},
    manage::NewToken,
    store::{MemoryStore, StaticList, TokenLookup},
    testing::RecordingSink,
    time::{Clock, UnixTime},
};
use serde_json::{Value, json};
use support::{
    AUDIENCE, EC_JWK, ES256, HEADER, ISSUER, NOW, SECRET, ask, ask_with, by_jwk, claims, clock, hs256,
    joined, sign, split, with,
};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::test]
async fn a_good_token_is_its_subject() {
    let auth = hs256(&clock());
    let token = sign(SECRET, HEADER, claims().to_string());
    for _ in 0..3 {
        assert_eq!(ask(auth.clone(), &token).await, (200, "alice".to_owned()));
    }
    assert_eq!(ask_with(auth, &[("x-api-key", &token)]).await, (401, "unknown_kind".to_owned()));
}

#[tokio::test]
async fn a_known_token_ends_when_it_expires() {
    let clock = clock();
    let auth = hs256(&clock);
    let token = sign(SECRET, HEADER, with(json!({ "exp": NOW + 5, "nbf": NOW })));
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
    let theirs = |changes| sign("b81Zt4Wm6Qe9Xc2Rv7Ny0Ps3Ld5Ka1Gf-other", HEADER, with(changes));
    assert_eq!(ask(auth.clone(), &sign(SECRET, HEADER, claims().to_string())).await.1, "alice");
    assert_eq!(ask(auth.clone(), &theirs(json!({ "iss": other }))).await.1, "https://other.example#alice");
    // P3.8a: signed by one, claiming the other.
    assert_eq!(ask(auth.clone(), &theirs(json!({}))).await, (401, "bad_signature".to_owned()));
    // The first speaks for no user of the second.
    let forged = sign(SECRET, HEADER, with(json!({ "sub": "https://other.example#alice" })));
    assert_eq!(ask(auth, &forged).await, (401, "subject".to_owned()));
}

#[tokio::test]
async fn keys_and_tokens_of_a_person_have_one_owner() {
    let clock = clock();
    let tokens = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let key = tokens.create(&UserId::new("alice").unwrap(), NewToken::named("laptop")).await.unwrap().key;
    let auth = || AnyOf::new([ApiKeyAuth::new(&tokens).into(), hs256(&clock).into()]);
    let token = sign(SECRET, HEADER, claims().to_string());
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
    let seed = *b"Vt5LzR8cYp27f3aX91kQw0bMdE6uHj4N";
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

/// Who goes on with a revoked token is told of once an hour, not for each request.
#[tokio::test]
async fn the_use_of_a_revoked_token_is_told_once_an_hour() {
    let (clock, events) = (clock(), RecordingSink::default());
    let store = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let audit = Audit::with_clock(events.clone(), Arc::new(clock.clone()));
    let jwt = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone());
    let jwt = jwt.with_audit(audit).build().unwrap();
    let auth = Arc::new(AnyOf::new([ApiKeyAuth::new(&store).into(), jwt.into()]));
    let tokens = ["one", "two"].map(|id| sign(SECRET, HEADER, with(json!({ "jti": id, "exp": NOW + 9000 }))));
    let until = UnixTime::from_millis((NOW + 9000) * 1000);
    let operator = AdminProof::operator("test", "leaked").unwrap();
    for id in ["one", "two"] {
        store.revoke_jwt(&operator, ISSUER, id, until).await.unwrap();
    }
    for expected in [2, 4] {
        for _ in 0..10 {
            for token in &tokens {
                assert_eq!(ask(auth.clone(), token).await.0, 401);
            }
            clock.advance(Duration::from_secs(60));
        }
        assert_eq!(events.alerts(), vec![Alert::RevokedTokenUsed; expected]);
        clock.advance(Duration::from_secs(3600));
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
    let first = sign(SECRET, HEADER, claims().to_string());
    let second = sign(SECRET, HEADER, with(json!({ "jti": "two" })));
    let bob = sign(SECRET, HEADER, with(json!({ "sub": "bob" })));
    for token in [&first, &second, &bob] {
        assert_eq!(ask(auth.clone(), token).await.0, 200);
    }

    let until = UnixTime::from_millis((NOW + 700) * 1000);
    store.revoke_jwt(&operator, ISSUER, "one", until).await.unwrap();
    assert_eq!(ask(auth.clone(), &first).await, (401, "revoked".to_owned()));
    let again = sign(SECRET, r#"{"typ":"JWT","alg":"HS256"}"#, claims().to_string());
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
    let third = sign(SECRET, HEADER, with(later));
    assert_eq!(ask(auth.clone(), &third).await.0, 200, "issued since");
    let undated = sign(SECRET, HEADER, with(json!({ "iat": null, "jti": null })));
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

/// The other signature of the same message and key, which everybody can compute: (r, n − s).
fn twin(signature: &[u8]) -> Vec<u8> {
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut twin = signature.to_vec();
    let mut borrow = 0;
    for (byte, n) in twin[32..].iter_mut().zip(N).rev() {
        let difference = i16::from(n) - i16::from(*byte) - borrow;
        borrow = i16::from(difference < 0);
        *byte = difference.to_le_bytes()[0];
    }
    twin
}

#[tokio::test]
async fn what_is_withdrawn_stays_out_in_its_other_forms() {
    let store = TokenManager::builder(MemoryStore::new()).with_clock(clock()).build();
    let operator = AdminProof::operator("test", "leaked").unwrap();
    let jwt = by_jwk(EC_JWK, json!({ "kid": "one" }));
    let auth = Arc::new(AnyOf::new([ApiKeyAuth::new(&store).into(), jwt.into()]));
    let (message, signature) = split(ES256);
    let twin = joined(message, &twin(&signature));
    assert_ne!(twin, ES256);
    for token in [ES256, &twin] {
        assert_eq!(ask(auth.clone(), token).await, (200, "alice".to_owned()), "the standard allows both");
    }
    let until = UnixTime::from_millis((NOW + 700) * 1000);
    store.revoke_jwt(&operator, ISSUER, "one", until).await.unwrap();
    for (name, line, reason) in [
        ("as it was", format!("Bearer {ES256}"), "revoked"),
        ("the other s", format!("Bearer {twin}"), "revoked"),
        ("the scheme in upper case", format!("BEARER {ES256}"), "revoked"),
        ("more spaces", format!("Bearer    {ES256}"), "revoked"),
        ("a space after it", format!("Bearer {ES256} "), "revoked"),
        ("padding", format!("Bearer {ES256}=="), "malformed"),
        ("in upper case", format!("Bearer {}", ES256.to_ascii_uppercase()), "unknown_kind"),
    ] {
        let answer = ask_with(auth.clone(), &[("authorization", &line)]).await;
        assert_eq!(answer, (401, reason.to_owned()), "X33 {name}");
    }
}

#[tokio::test]
async fn the_same_subject_of_two_issuers_is_two_users() {
    let clock = clock();
    let of = |issuer: &str, secret: &str, users| {
        let builder = JwtAuth::hs256(secret).issuer(issuer).audience(AUDIENCE).with_user_ids(users);
        builder.with_clock(clock.clone()).build().unwrap()
    };
    let (other, other_secret) = ("https://other.example", "b81Zt4Wm6Qe9Xc2Rv7Ny0Ps3Ld5Ka1Gf-other");
    let issuers = [of(ISSUER, SECRET, UserIds::Subject), of(other, other_secret, UserIds::Namespaced)];
    let auth = Arc::new(JwtAuth::any_of(issuers).unwrap());
    let ours = principal(&auth, &sign(SECRET, HEADER, with(json!({ "sub": "1" })))).await;
    let theirs = sign(other_secret, HEADER, with(json!({ "sub": "1", "iss": other })));
    let theirs = principal(&auth, &theirs).await;
    assert_ne!(ours.user_id(), theirs.user_id(), "P3.8b");
    let said =
        |me: &Principal| me.jwt().map(|jwt| (jwt.issuer().to_owned(), jwt.subject().to_owned())).unwrap();
    assert_eq!(said(&ours), (ISSUER.to_owned(), "1".to_owned()), "P3.8b");
    assert_eq!(said(&theirs), (other.to_owned(), "1".to_owned()), "P3.8b");
}

#[tokio::test]
async fn scopes_are_words_between_spaces() {
    let auth = Arc::new(hs256(&clock()));
    for (scope, has) in [
        (json!("jobs:read jobs:write"), &["jobs:read", "jobs:write"][..]),
        (json!("  jobs:read   jobs:write "), &["jobs:read", "jobs:write"]),
        (json!(["jobs:read", "jobs:write"]), &["jobs:read", "jobs:write"]),
        (json!("jobs:read,jobs:write"), &[]),
        (json!("JOBS:READ"), &[]),
        (json!("jobs:* *"), &[]),
        (json!(""), &[]),
        (json!([]), &[]),
    ] {
        let me = principal(&auth, &sign(SECRET, HEADER, with(json!({ "scope": scope })))).await;
        for name in ["jobs:read", "jobs:write"] {
            assert_eq!(me.has_scope(name), has.contains(&name), "A08 {scope}, {name}");
        }
    }
}

/// Clones share what they verified, but each asks the store that it stands beside.
#[tokio::test]
async fn each_clone_asks_the_store_that_it_stands_beside() {
    let clock = clock();
    let store = || TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let (one, two) = (store(), store());
    let jwt = hs256(&clock);
    let beside =
        |store: &TokenManager| Arc::new(AnyOf::new([ApiKeyAuth::new(store).into(), jwt.clone().into()]));
    let (first, second) = (beside(&one), beside(&two));
    let token = sign(SECRET, HEADER, claims().to_string());
    for _ in 0..2 {
        assert_eq!(ask(first.clone(), &token).await.0, 200);
        assert_eq!(ask(second.clone(), &token).await.0, 200);
    }
    let operator = AdminProof::operator("test", "left").unwrap();
    two.suspend(&operator, &UserId::new("alice").unwrap()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(ask(first.clone(), &token).await.0, 200, "known to the first as before");
        assert_eq!(ask(second.clone(), &token).await, (401, "user_inactive".to_owned()));
    }
}

/// The very same authenticator beside two stores could not know whose suspended users count.
#[tokio::test]
async fn one_authenticator_beside_two_stores_lets_nobody_in() {
    let clock = clock();
    let store = || TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let (one, two) = (store(), store());
    let shared = Arc::new(hs256(&clock));
    let token = sign(SECRET, HEADER, claims().to_string());
    let first = Arc::new(AnyOf::new([ApiKeyAuth::new(&one).into(), shared.clone().into()]));
    assert_eq!(ask(first.clone(), &token).await.0, 200);
    // Once more beside the same store, also within another: nothing is wrong with that.
    let nested = AnyOf::new([ApiKeyAuth::new(&one).into(), first.clone().into()]);
    assert_eq!(ask(nested, &token).await.0, 200);
    let second = AnyOf::new([ApiKeyAuth::new(&two).into(), shared.into()]);
    for _ in 0..2 {
        assert_eq!(ask(first.clone(), &token).await.0, 500);
    }
    assert_eq!(ask(second, &token).await.0, 500);
}

/// What one was told by name, its neighbours ask as well.
#[tokio::test]
async fn neighbours_ask_whom_one_of_them_was_told_to_ask() {
    let clock = clock();
    let tokens = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let builder = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone());
    let jwt = builder.with_revocations(TokenLookup::from(&tokens)).build().unwrap();
    let list = StaticList::parse("alice:3f5c0a9e7b1d4826a0c3e5f7192b4d6e").unwrap();
    let fixed = StaticAuth::new(&list).with_clock(clock.clone());
    let auth = Arc::new(AnyOf::new([jwt.into(), fixed.into()]));
    let token = sign(SECRET, HEADER, claims().to_string());
    let present = [&*token, "3f5c0a9e7b1d4826a0c3e5f7192b4d6e"];
    for token in present {
        assert_eq!(ask(auth.clone(), token).await.0, 200);
    }
    let operator = AdminProof::operator("test", "left").unwrap();
    tokens.suspend(&operator, &UserId::new("alice").unwrap()).await.unwrap();
    for token in present {
        assert_eq!(ask(auth.clone(), token).await.0, 401);
    }
}
