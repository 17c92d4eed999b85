//! A store whose changes are told to other processes.

use async_trait::async_trait;

use crate::{
    id::{TokenId, UserId},
    principal::AdminProof,
    secret::TokenDigest,
    store::{
        Change, ChangeCursor, Changes, Claimed, Denials, Ended, JwtRevocation, Notice, Owner, Page, Purge,
        Purged, Reach, Revoked, Room, Rotation, StoreError, TokenStore, Usage, UserState, Wakeup, Warnings,
        transfer::{Exported, Imported, Item, Position, Section},
    },
    time::UnixTime,
    token::TokenRecord,
};

/// Passes everything on, and says what changed. A new token is no news: that it was unknown is remembered for a
/// second at most.
#[derive(Debug)]
pub(crate) struct Announced {
    store: Box<dyn TokenStore>,
    wakeup: Box<dyn Wakeup>,
}

impl Announced {
    pub(crate) fn new(store: Box<dyn TokenStore>, wakeup: impl Wakeup) -> Self {
        Self { store, wakeup: Box::new(wakeup) }
    }

    async fn tell(&self, digests: Vec<TokenDigest>) {
        if !digests.is_empty() {
            self.wakeup.publish(&Notice::of(digests)).await;
        }
    }

    async fn tell_denials(&self, digests: Vec<TokenDigest>) {
        self.wakeup.publish(&Notice::of(digests).with_denials()).await;
    }
}

fn digests_of<'a>(record: Option<&'a TokenRecord>, others: &'a [Ended]) -> Vec<TokenDigest> {
    record.map(|record| record.digest).into_iter().chain(others.iter().map(|ended| ended.digest)).collect()
}

#[async_trait]
impl TokenStore for Announced {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        self.store.insert(record, limit).await
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        self.store.find(digest).await
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        self.store.get(owner, id).await
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        self.store.list(owner, page).await
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        self.store.count(owner).await
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let record = self.store.update(owner, id, change).await?;
        self.tell(digests_of(record.as_ref(), &[])).await;
        Ok(record)
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let record = self.store.rotate(owner, id, rotation).await?;
        self.tell(digests_of(record.as_ref(), &[])).await;
        Ok(record)
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let digests = self.store.revoke_all(owner, at).await?;
        self.tell(digests.clone()).await;
        Ok(digests)
    }

    async fn revoke(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        at: UnixTime,
        reach: Reach,
    ) -> Result<Option<Revoked>, StoreError> {
        let revoked = self.store.revoke(owner, id, at, reach).await?;
        if let Some(Revoked { record, others }) = &revoked {
            self.tell(digests_of(Some(record), others)).await;
        }
        Ok(revoked)
    }

    async fn insert_making_room(&self, record: &TokenRecord, room: &Room) -> Result<Vec<Ended>, StoreError> {
        let ended = self.store.insert_making_room(record, room).await?;
        self.tell(digests_of(None, &ended)).await;
        Ok(ended)
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        self.store.record_usage(batch).await
    }

    async fn denials(&self, now: UnixTime) -> Result<Denials, StoreError> {
        self.store.denials(now).await
    }

    async fn revoke_jwt(&self, revocation: &JwtRevocation, now: UnixTime) -> Result<(), StoreError> {
        self.store.revoke_jwt(revocation, now).await?;
        self.tell_denials(Vec::new()).await;
        Ok(())
    }

    async fn revoke_jwts_of(&self, user: &UserId, at: UnixTime) -> Result<(), StoreError> {
        self.store.revoke_jwts_of(user, at).await?;
        self.tell_denials(Vec::new()).await;
        Ok(())
    }

    async fn set_user_state(&self, state: &UserState) -> Result<(), StoreError> {
        self.store.set_user_state(state).await?;
        self.tell_denials(Vec::new()).await;
        Ok(())
    }

    async fn register(&self, record: &TokenRecord) -> Result<(), StoreError> {
        self.store.register(record).await
    }

    async fn offboard(&self, user: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let digests = self.store.offboard(user, at).await?;
        self.tell_denials(digests.clone()).await;
        Ok(digests)
    }

    async fn purge(&self, proof: &AdminProof, purge: &Purge) -> Result<Purged, StoreError> {
        self.store.purge(proof, purge).await
    }

    async fn claim_warnings(&self, proof: &AdminProof, warnings: &Warnings) -> Result<Claimed, StoreError> {
        self.store.claim_warnings(proof, warnings).await
    }

    async fn export(
        &self,
        proof: &AdminProof,
        section: Section,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Exported, StoreError> {
        self.store.export(proof, section, after, limit).await
    }

    /// A copy is made into a store that serves nobody yet.
    async fn import(&self, proof: &AdminProof, items: &[Item]) -> Result<Vec<Imported>, StoreError> {
        self.store.import(proof, items).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.store.health().await
    }

    /// What others say comes first, and then the feed again, at once.
    async fn changes(&self, since: Option<ChangeCursor>) -> Result<Changes, StoreError> {
        let Some(cursor) = since else { return self.store.changes(None).await };
        tokio::select! {
            changes = self.store.changes(since) => changes,
            notice = self.wakeup.woken() => Ok(notice.at(cursor)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, UserStatus};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Debug, Default)]
    struct Heard(Arc<Mutex<Vec<Notice>>>);

    #[async_trait]
    impl Wakeup for Heard {
        async fn publish(&self, notice: &Notice) {
            self.0.lock().unwrap().push(notice.clone());
        }

        async fn woken(&self) -> Notice {
            std::future::pending().await
        }
    }

    #[cfg(feature = "testing")]
    #[tokio::test]
    async fn it_keeps_what_the_store_behind_it_promises() {
        let store = || Announced::new(Box::new(MemoryStore::new()), Heard::default());
        crate::testing::conformance::check(|| async { store() }).await;
    }

    #[tokio::test]
    async fn what_takes_something_away_is_told_and_a_new_token_is_not() {
        let heard = Heard::default();
        let store = Announced::new(Box::new(MemoryStore::new()), heard.clone());
        let (alice, now) = (UserId::new("alice").unwrap(), UnixTime::from_millis(1_767_225_600_000));
        let owner = Owner::User(&alice);
        let record = |n: u8| {
            let id = TokenId::from_bytes([n; 16]).unwrap();
            TokenRecord::new(id, TokenDigest::of(&[n]), alice.clone(), now)
        };
        let told = || std::mem::take(&mut *heard.0.lock().unwrap());
        let of = |numbers: &[u8]| Notice::of(numbers.iter().map(|n| TokenDigest::of(&[*n])).collect());
        for n in 1..=4 {
            store.insert(&record(n), None).await.unwrap();
        }
        assert_eq!(told(), []);
        store.update(owner, record(1).id, &Change::revoke(now)).await.unwrap();
        store.update(owner, record(9).id, &Change::revoke(now)).await.unwrap();
        assert_eq!(told(), [of(&[1])], "what is not there is no news");
        store.revoke(owner, record(2).id, now, Reach::Children).await.unwrap();
        assert_eq!(told(), [of(&[2])]);
        store.rotate(owner, record(3).id, &Rotation::new(record(5), now, record(3).revision)).await.unwrap();
        assert_eq!(told(), [of(&[3])]);
        store.set_user_state(&UserState::new(alice.clone(), UserStatus::Suspended)).await.unwrap();
        store.revoke_jwts_of(&alice, now).await.unwrap();
        assert_eq!(told(), [of(&[]).with_denials(), of(&[]).with_denials()]);
        let mut gone = store.offboard(&alice, now).await.unwrap();
        gone.sort_by_key(|digest| *digest.as_bytes());
        let [notice] = &told()[..] else { panic!("one notice") };
        let mut named = notice.digests.clone().unwrap();
        named.sort_by_key(|digest| *digest.as_bytes());
        assert!(notice.denials && named == gone && gone.len() == 3, "{notice:?}");
        assert_eq!(store.revoke_all(&alice, now).await.unwrap(), []);
        assert_eq!(told(), [], "nothing was left");
    }
}
