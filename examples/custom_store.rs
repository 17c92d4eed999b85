//! Run with `cargo run --example custom_store`.
//!
//! A store of your own: implement `TokenStore`, and let the conformance suite tell whether it keeps all
//! promises. This one holds whole records in a map behind one lock, so every method is atomic, and the
//! rules come from `apply`, `includes` and `counts_as_active`. A store in a database says the same in
//! its queries and transactions.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use keyward::{
    AdminProof, Owner, TokenId, UserId,
    secret::TokenDigest,
    store::{Change, Page, Purge, Purged, Rotation, StoreError, StoreErrorKind, TokenStore, Usage},
    testing::conformance,
    time::UnixTime,
    token::TokenRecord,
};

#[tokio::main]
async fn main() {
    conformance::check(|| async { MapStore::default() }).await;
    println!("custom store: all {} promises kept", conformance::promises().len());
}

type Records = BTreeMap<TokenId, TokenRecord>;

#[derive(Debug, Default)]
struct MapStore(Mutex<Records>);

impl MapStore {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_taken(records: &Records, record: &TokenRecord) -> bool {
    records.contains_key(&record.id) || records.values().any(|other| other.digest == record.digest)
}

#[async_trait]
impl TokenStore for MapStore {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        let mut records = self.records();
        let own = records.values().filter(|other| other.owner == record.owner);
        let active = own.filter(|other| other.counts_as_active(record.created_at)).count();
        if limit.is_some_and(|limit| active >= limit as usize) {
            return Err(StoreErrorKind::LimitReached.into());
        }
        let parent = record.parent.and_then(|parent| records.get(&parent));
        if parent.is_some_and(|parent| !parent.may_be_parent_of(record)) {
            return Err(StoreErrorKind::Conflict.into());
        }
        if is_taken(&records, record) {
            return Err(StoreErrorKind::Duplicate.into());
        }
        records.insert(record.id, record.clone());
        Ok(())
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        // A real store keeps an index here: this is the look-up of every unknown key.
        Ok(self.records().values().find(|record| record.digest == *digest).cloned())
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.records().get(&id).filter(|record| owner.includes(&record.owner)).cloned())
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        let records = self.records();
        let newest_first = records.values().rev().filter(|record| owner.includes(&record.owner));
        let wanted = newest_first.filter(|record| page.before.is_none_or(|before| record.id < before));
        Ok(wanted.take(page.limit as usize).cloned().collect())
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        let counts = |record: &&TokenRecord| owner.includes(&record.owner) && record.revoked_at.is_none();
        Ok(self.records().values().filter(counts).count() as u64)
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let mut records = self.records();
        let own = records.get_mut(&id).filter(|record| owner.includes(&record.owner));
        let Some(record) = own else { return Ok(None) };
        change.apply(record)?;
        Ok(Some(record.clone()))
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let mut records = self.records();
        let own = records.get(&id).filter(|record| owner.includes(&record.owner));
        let Some(mut old) = own.cloned() else { return Ok(None) };
        rotation.apply(&mut old)?;
        rotation.require_room(&old, records.values().filter(|record| record.owner == old.owner))?;
        if is_taken(&records, &rotation.successor) {
            return Err(StoreErrorKind::Duplicate.into());
        }
        records.insert(rotation.successor.id, rotation.successor.clone());
        records.values_mut().for_each(|record| rotation.adopt(id, record));
        records.insert(id, old.clone());
        Ok(Some(old))
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let mut digests = Vec::new();
        for record in self.records().values_mut().filter(|record| record.owner == *owner) {
            if record.revoked_at.is_none() {
                Change::revoke(at).apply(record)?;
                digests.push(record.digest);
            }
        }
        Ok(digests)
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        let mut records = self.records();
        for usage in batch {
            if let Some(record) = records.get_mut(&usage.id) {
                usage.apply(record);
            }
        }
        Ok(())
    }

    /// Without this, tokens that ended long ago stay for ever.
    async fn purge(&self, _: &AdminProof, purge: &Purge) -> Result<Purged, StoreError> {
        let mut records = self.records();
        let newer = records.values().filter(|record| purge.after.is_none_or(|after| record.id > after));
        let step: Vec<_> = newer.take(purge.limit as usize).map(|record| record.id).collect();
        let next = step.last().copied().filter(|_| step.len() == purge.limit as usize);
        let (before, mut ended) = (records.len(), Vec::new());
        for id in &step {
            ended.extend(records.get(id).filter(|record| purge.takes(record)).map(|record| record.id));
        }
        while let Some(id) = ended.pop() {
            records.remove(&id);
            ended.extend(records.values().filter(|record| record.parent == Some(id)).map(|record| record.id));
        }
        Ok(Purged::new(step.len() as u64, (before - records.len()) as u64, next))
    }
}
