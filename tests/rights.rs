//! Who may hand out what: a credential makes and changes nothing beyond itself, and nothing once it is dead.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_free::poll_once;
use http::{Request, Response};
use http_body_util::Full;
use keyward::{
    AuthLayer, Owner, Principal, TokenId, TokenManager, UserId,
    auth::ApiKeyAuth,
    event::EventKind,
    manage::{IssuedToken, ListQuery, NewToken, TokenError, TokenUpdate},
    scope::{Grant, ScopeSet},
    secret::TokenDigest,
    store::{
        Change, MemoryStore, Page, Rotation, StoreError, StoreErrorKind, TokenStore, Usage, async_trait,
    },
    testing::{ManualClock, RecordingSink},
    time::UnixTime,
    token::TokenRecord,
};
use tower::{Layer, ServiceExt, service_fn};

mod futures_free {
    //! One poll of a future, as a client's connection gives it before it is gone.

    use std::{future::Future, pin::Pin, task::Context};

    pub(crate) fn poll_once<F: Future>(future: &mut Pin<Box<F>>) -> bool {
        future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }
}

const DAY: Duration = Duration::from_secs(86_400);

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

async fn issue(tokens: &TokenManager, new: NewToken) -> IssuedToken {
    tokens.create(&user("alice"), new).await.unwrap()
}

/// The principal that a request with `key` gets from the layer.
async fn principal(tokens: &TokenManager, key: &IssuedToken) -> Principal {
    let service =
        AuthLayer::new(ApiKeyAuth::new(tokens)).layer(service_fn(|request: Request<()>| async move {
            let mut response = Response::new(Full::<Bytes>::default());
            response.extensions_mut().insert(request.extensions().get::<Principal>().unwrap().clone());
            Ok::<_, Infallible>(response)
        }));
    let request = Request::builder().header("x-api-key", key.key.expose()).body(()).unwrap();
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
async fn a_short_life_begets_no_longer_one() {
    let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
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

/// A store whose inserts wait, whose usage writes fail, and that counts.
#[derive(Debug, Default)]
struct Moody {
    inner: MemoryStore,
    insert_waits: AtomicBool,
    usage_fails: AtomicBool,
    longest_batch: AtomicUsize,
    health_checks: AtomicUsize,
}

#[async_trait]
impl TokenStore for Moody {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        if self.insert_waits.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.insert(record, limit).await
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        self.inner.find(digest).await
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        self.inner.get(owner, id).await
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        self.inner.list(owner, page).await
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        self.inner.count(owner).await
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        self.inner.update(owner, id, change).await
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        self.inner.rotate(owner, id, rotation).await
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        self.inner.revoke_all(owner, at).await
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        self.longest_batch.fetch_max(batch.len(), Ordering::SeqCst);
        if self.usage_fails.load(Ordering::SeqCst) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        self.inner.record_usage(batch).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.health_checks.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn an_operation_that_is_given_up_is_in_the_audit_log() {
    let (store, events) = (Arc::new(Moody::default()), RecordingSink::default());
    let tokens = TokenManager::builder(store.clone()).with_audit(events.clone()).build();
    store.insert_waits.store(true, Ordering::SeqCst);
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
    let store = Arc::new(Moody::default());
    let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
    let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).build();
    let key = issue(&tokens, NewToken::named("k")).await;
    store.usage_fails.store(true, Ordering::SeqCst);
    for _ in 0..50 {
        principal(&tokens, &key).await;
        assert!(tokens.flush().await.is_err());
        clock.advance(Duration::from_secs(10));
    }
    assert!(store.longest_batch.load(Ordering::SeqCst) <= 2, "{:?}", store.longest_batch);
    store.usage_fails.store(false, Ordering::SeqCst);
    tokens.flush().await.unwrap();
    assert_eq!(tokens.get(&user("alice"), key.record.id).await.unwrap().request_count, 50);
}

#[tokio::test]
async fn asking_for_health_asks_the_store_once_a_second() {
    let store = Arc::new(Moody::default());
    let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
    let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).build();
    for _ in 0..100 {
        tokens.health().await.unwrap();
    }
    assert_eq!(store.health_checks.load(Ordering::SeqCst), 1);
    clock.advance(Duration::from_secs(1));
    tokens.health().await.unwrap();
    assert_eq!(store.health_checks.load(Ordering::SeqCst), 2);
}
