//! Who may hand out what: a credential makes and changes nothing beyond itself, and nothing once it is dead.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc, task::Context, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keyward::{
    AdminProof, AuthLayer, Principal, TokenManager, UserId,
    auth::{ApiKeyAuth, Authenticator, StaticAuth},
    event::EventKind,
    manage::{IssuedToken, ListQuery, NewToken, TokenError, TokenUpdate},
    scope::{Grant, RoleSet, ScopeSet},
    store::{MemoryStore, StaticList},
    testing::{Kit, ManualClock, RecordingSink},
    time::UnixTime,
};
use serde_json::json;
use support::{UnrulyStore, start, user};
use tower::{Layer, ServiceExt, service_fn};

/// Polls once, as for a client whose connection is then gone; says whether it was done.
fn poll_once<F: Future>(future: &mut Pin<Box<F>>) -> bool {
    future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
}

const DAY: Duration = Duration::from_secs(86_400);

async fn issue(tokens: &TokenManager, new: NewToken) -> IssuedToken {
    tokens.create(&user("alice"), new).await.unwrap()
}

/// The principal that a request with `key` gets from the layer.
async fn principal(tokens: &TokenManager, key: &IssuedToken) -> Principal {
    let request = Request::builder().header("x-api-key", key.key.expose()).body(()).unwrap();
    accepted(ApiKeyAuth::new(tokens), request).await
}

async fn accepted(auth: impl Authenticator, request: Request<()>) -> Principal {
    let service = AuthLayer::new(auth).layer(service_fn(|request: Request<()>| async move {
        let mut response = Response::new(Full::<Bytes>::default());
        response.extensions_mut().insert(request.extensions().get::<Principal>().unwrap().clone());
        Ok::<_, Infallible>(response)
    }));
    service.oneshot(request).await.unwrap().extensions().get::<Principal>().expect("accepted").clone()
}

#[tokio::test]
async fn a_request_that_outlives_its_key_hands_out_nothing() {
    let tokens = TokenManager::new(MemoryStore::new());
    let sibling = issue(&tokens, NewToken::named("sibling")).await;
    for (name, end) in [("revoked", 0), ("all revoked", 1), ("disabled", 2), ("narrowed", 3)] {
        let presented = issue(&tokens, NewToken::named("presented")).await;
        let me = principal(&tokens, &presented).await;
        let (alice, id) = (user("alice"), presented.record.id);
        match end {
            0 => drop(tokens.revoke(&alice, id).await.unwrap()),
            1 => drop(tokens.revoke_all(&alice).await.unwrap()),
            2 => drop(tokens.update(&alice, id, TokenUpdate::default().with_enabled(false)).await.unwrap()),
            _ => {
                let scopes = Grant::Only(ScopeSet::new(["jobs:read"]).unwrap());
                drop(tokens.update(&alice, id, TokenUpdate::default().with_scopes(scopes)).await.unwrap());
            }
        }
        let refused = |error| match error {
            TokenError::CredentialDied => end != 3,
            TokenError::Conflict => end == 3,
            _ => false,
        };
        let before = tokens.count(&alice).await.unwrap();
        assert!(refused(tokens.create(&me, NewToken::named("x")).await.unwrap_err()), "{name}: create");
        assert!(refused(tokens.rotate(&me, sibling.record.id, None).await.unwrap_err()), "{name}: rotate");
        let enable = TokenUpdate::default().with_enabled(true);
        assert!(refused(tokens.update(&me, id, enable).await.unwrap_err()), "{name}: enable itself");
        assert_eq!(tokens.count(&alice).await.unwrap(), before, "{name}");
    }
}

#[tokio::test]
async fn a_request_that_outlives_its_jwt_or_static_token_hands_out_nothing() {
    let admin = AdminProof::operator("ops", "test").unwrap();
    let alice = user("alice");
    for end in ["user suspended", "user gone and back", "all revoked", "this one revoked", "expired"] {
        let kit = Kit::new();
        let tokens = kit.tokens();
        let sibling = issue(tokens, NewToken::named("sibling")).await;
        let jwt = kit.acting_as("alice").with_claims(json!({})).await;
        let me = accepted(kit.auth(), jwt.authorize(Request::new(()))).await;
        let list = StaticList::parse("alice:a-static-token-of-alice-0123456789").unwrap();
        let by_list = Request::builder().header("x-api-key", "a-static-token-of-alice-0123456789");
        let listed = accepted(StaticAuth::new(&list), by_list.body(()).unwrap()).await;
        let jwt = me.jwt().unwrap();
        let until = jwt.expires_at();
        match end {
            "user suspended" => tokens.suspend(&admin, &alice).await.unwrap(),
            "user gone and back" => {
                tokens.offboard(&admin, &alice).await.unwrap();
                tokens.restore(&admin, &alice).await.unwrap();
            }
            "all revoked" => tokens.revoke_jwts_of(&admin, &alice).await.unwrap(),
            "this one revoked" => {
                tokens.revoke_jwt(&admin, jwt.issuer(), jwt.jwt_id().unwrap(), until).await.unwrap();
            }
            _ => kit.clock().set(until.saturating_add(Duration::from_secs(60))),
        }
        let before = tokens.count(&alice).await.unwrap();
        let died = |error| matches!(error, TokenError::CredentialDied);
        assert!(died(tokens.create(&me, NewToken::named("x")).await.unwrap_err()), "{end}: create");
        assert!(died(tokens.rotate(&me, sibling.record.id, None).await.unwrap_err()), "{end}: rotate");
        let rename = TokenUpdate::default().with_name("y");
        assert!(died(tokens.update(&me, sibling.record.id, rename).await.unwrap_err()), "{end}: update");
        assert_eq!(tokens.count(&alice).await.unwrap(), before, "{end}");
        let by_listed = tokens.create(&listed, NewToken::named("x")).await;
        assert_eq!(by_listed.is_ok(), end != "user suspended", "{end}: {by_listed:?}");
    }
}

#[tokio::test]
async fn an_administrator_whose_key_was_revoked_gives_nothing_back() {
    let roles = |_: &UserId| RoleSet::new(["admin"]).unwrap();
    let tokens = TokenManager::builder(MemoryStore::new()).with_roles(roles).build();
    let presented = issue(&tokens, NewToken::named("admin")).await;
    let proof = principal(&tokens, &presented).await.admin("a request that takes its time").unwrap();
    tokens.suspend(&proof, &user("bob")).await.unwrap();
    tokens.revoke(&user("alice"), presented.record.id).await.unwrap();
    let restored = tokens.restore(&proof, &user("bob")).await;
    assert!(matches!(restored, Err(TokenError::CredentialDied)), "{restored:?}");
    assert!(tokens.create(&user("bob"), NewToken::named("k")).await.is_err(), "still suspended");
}

#[tokio::test]
async fn a_short_life_begets_no_longer_one() {
    let clock = ManualClock::at(start());
    let tokens = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let short = issue(&tokens, NewToken::named("a day").with_lifetime(DAY)).await;
    let me = principal(&tokens, &short).await;
    let end = short.record.expires_at.unwrap();

    let child = tokens.create(&me, NewToken::named("child")).await.unwrap().record;
    assert!(child.expires_at.unwrap() <= end && child.hard_end == Some(end));
    let longer = tokens.create(&me, NewToken::named("longer").with_lifetime(2 * DAY)).await;
    assert!(matches!(longer, Err(TokenError::BeyondOwnRights)));

    clock.advance(DAY / 2);
    let me = principal(&tokens, &short).await;
    let next = tokens.rotate(&me, short.record.id, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(next.record.expires_at, Some(end), "rotation by itself prolongs nothing");

    let rolling = issue(&tokens, NewToken::named("default")).await;
    let me = principal(&tokens, &rolling).await;
    let child = tokens.create(&me, NewToken::named("child")).await.unwrap().record;
    assert_eq!(
        child.expires_at, rolling.record.expires_at,
        "a key that renews itself makes another such key"
    );
    assert_eq!(child.hard_end, Some(rolling.record.created_at.saturating_add(365 * DAY)));
}

#[tokio::test]
async fn overlaps_do_not_lift_the_limit() {
    let tokens = TokenManager::builder(MemoryStore::new()).with_max_active(Some(5)).build();
    let mut newest = issue(&tokens, NewToken::named("k")).await.record.id;
    let mut rotations = 0;
    let last = loop {
        match tokens.rotate(&user("alice"), newest, Some(365 * DAY)).await {
            Ok(issued) => newest = issued.record.id,
            Err(error) => break error,
        }
        rotations += 1;
        assert!(rotations < 20, "rotation has no bound");
    };
    assert!(matches!(last, TokenError::LimitReached) && rotations == 9, "{last} after {rotations}");
    assert!(
        tokens.rotate(&user("alice"), newest, Some(Duration::ZERO)).await.is_ok(),
        "without overlap it goes on"
    );
    assert!(matches!(
        tokens.create(&user("alice"), NewToken::named("x")).await,
        Err(TokenError::LimitReached)
    ));
}

#[tokio::test]
async fn dead_keys_among_the_newest_do_not_lift_the_limit() {
    let tokens = TokenManager::builder(MemoryStore::new()).with_max_active(Some(5)).build();
    let alice = user("alice");
    let mut newest = issue(&tokens, NewToken::named("k")).await.record.id;
    for _ in 0..20 {
        for overlap in [Duration::ZERO, 365 * DAY] {
            if let Ok(issued) = tokens.rotate(&alice, newest, Some(overlap)).await {
                newest = issued.record.id;
            }
        }
    }
    let listed = tokens.list(&alice, ListQuery::default().with_limit(200)).await.unwrap().tokens;
    let now = UnixTime::from_millis(listed.first().unwrap().created_at.as_millis() + 1);
    let working = listed.iter().filter(|record| record.counts_as_active(now)).count();
    assert_eq!(working, 10, "twice the limit");
}

#[tokio::test]
async fn a_key_is_not_stored_where_it_would_be_shown() {
    let tokens = TokenManager::new(MemoryStore::new());
    let issued = issue(&tokens, NewToken::named("k")).await;
    let key = issued.key.expose();
    let metadata = |text: &str| [("note".to_owned(), text.into())].into_iter().collect();
    for new in [
        NewToken::named(key),
        NewToken::named(format!("my {key}!")),
        NewToken::named("k").with_metadata(metadata(key)),
    ] {
        let refused = tokens.create(&user("alice"), new).await.unwrap_err();
        assert!(matches!(refused, TokenError::Invalid(_)) && !refused.to_string().contains(key));
    }
    let rename = TokenUpdate::default().with_name(key);
    assert!(matches!(
        tokens.update(&user("alice"), issued.record.id, rename).await,
        Err(TokenError::Invalid(_))
    ));
    let filter = ListQuery::default().with_owner(user(key));
    let proof = keyward::AdminProof::operator("test", "filter by a key").unwrap();
    assert!(matches!(tokens.list(&proof, filter).await, Err(TokenError::Invalid(_))));
}

#[tokio::test]
async fn an_operation_that_is_given_up_is_in_the_audit_log() {
    let (store, events) = (Arc::new(UnrulyStore::default()), RecordingSink::default());
    let tokens = TokenManager::builder(store.clone()).with_audit(events.clone()).build();
    store.set_hanging(true);
    let alice = user("alice");
    let mut create = Box::pin(tokens.create(&alice, NewToken::named("x")));
    assert!(!poll_once(&mut create));
    drop(create);
    let told = events.events();
    assert_eq!(events.kinds(), [EventKind::OperationFailed]);
    assert!(told[0].actor.as_ref() == Some(&alice) && told[0].reason.as_ref().unwrap().contains("given up"));
}

#[tokio::test]
async fn uses_of_one_key_stay_one_entry_however_long_the_store_fails() {
    let store = Arc::new(UnrulyStore::default());
    let clock = ManualClock::at(start());
    let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).build();
    let key = issue(&tokens, NewToken::named("k")).await;
    store.set_usage_failing(true);
    for _ in 0..50 {
        principal(&tokens, &key).await;
        assert!(tokens.flush().await.is_err());
        clock.advance(Duration::from_secs(10));
    }
    assert!(store.longest_batch() <= 2, "{}", store.longest_batch());
    store.set_usage_failing(false);
    tokens.flush().await.unwrap();
    assert_eq!(tokens.get(&user("alice"), key.record.id).await.unwrap().request_count, 50);
}

#[tokio::test]
async fn asking_for_health_asks_the_store_once_a_second() {
    let store = Arc::new(UnrulyStore::default());
    let clock = ManualClock::at(start());
    let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).build();
    for _ in 0..100 {
        tokens.health().await.unwrap();
    }
    assert_eq!(store.health_checks(), 1);
    clock.advance(Duration::from_secs(1));
    tokens.health().await.unwrap();
    assert_eq!(store.health_checks(), 2);
}
