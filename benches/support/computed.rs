//! A store that knows every key: it makes the record of a digest up, so that millions of keys take no memory
//! but the cache's.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use keyward::{
    Owner, TokenId, UserId,
    secret::TokenDigest,
    store::{Change, Page, Rotation, StoreError, StoreErrorKind, TokenStore, Usage},
    time::UnixTime,
    token::TokenRecord,
};

/// The bytes of a user's name, which differs from key to key.
pub(crate) const USER_BYTES: f64 = 20.0;

/// Clones share the count of what was asked.
#[derive(Clone, Debug)]
pub(crate) struct Computed {
    created_at: UnixTime,
    asked: Arc<AtomicU64>,
}

impl Computed {
    /// The store of all keys, each made at `created_at`.
    pub(crate) fn new(created_at: UnixTime) -> Self {
        Self { created_at, asked: Arc::default() }
    }

    /// How often it was asked for a record.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

fn read_only<T>() -> Result<T, StoreError> {
    Err(StoreErrorKind::ReadOnly.into())
}

#[async_trait]
impl TokenStore for Computed {
    async fn insert(&self, _: &TokenRecord, _: Option<u32>) -> Result<(), StoreError> {
        read_only()
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let first = digest.as_bytes().first_chunk().copied().unwrap_or([1; 16]);
        let number = u64::from(u32::from_le_bytes(first.first_chunk().copied().unwrap_or_default()));
        let user = UserId::new(format!("user-{number:015}")).expect("a user id");
        let id = TokenId::from_bytes(first).expect("not all zero");
        Ok(Some(TokenRecord::new(id, *digest, user, self.created_at)))
    }

    async fn get(&self, _: Owner<'_>, _: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        read_only()
    }

    async fn list(&self, _: Owner<'_>, _: Page) -> Result<Vec<TokenRecord>, StoreError> {
        read_only()
    }

    async fn count(&self, _: Owner<'_>) -> Result<u64, StoreError> {
        read_only()
    }

    async fn update(&self, _: Owner<'_>, _: TokenId, _: &Change) -> Result<Option<TokenRecord>, StoreError> {
        read_only()
    }

    async fn rotate(
        &self,
        _: Owner<'_>,
        _: TokenId,
        _: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        read_only()
    }

    async fn revoke_all(&self, _: &UserId, _: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        read_only()
    }

    async fn record_usage(&self, _: &[Usage]) -> Result<(), StoreError> {
        Ok(())
    }
}
