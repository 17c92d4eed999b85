//! A store that forgets everything with the process.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use async_trait::async_trait;

use crate::{
    id::{TokenId, UserId},
    secret::TokenDigest,
    store::{
        Change, Denials, JwtId, JwtRevocation, Owner, Page, Rotation, StoreError, StoreErrorKind, TokenStore,
        Usage, UserState, UserStatus, audit::MemoryAudit,
    },
    time::UnixTime,
    token::TokenRecord,
};

/// Keeps tokens in memory: for tests, and for services that issue their keys anew at each start. It also keeps
/// the newest 10 000 audit entries.
///
/// ```
/// use keyward::{TokenManager, store::MemoryStore};
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// # let _ = tokens;
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    tokens: RwLock<Tokens>,
    pub(super) audit: MemoryAudit,
}

#[derive(Debug, Default)]
struct Tokens {
    by_id: BTreeMap<TokenId, TokenRecord>,
    ids: HashMap<TokenDigest, TokenId>,
    /// Whoever ever had a token.
    owners: HashSet<UserId>,
    users: HashMap<UserId, UserState>,
    jwts: HashMap<JwtId, UnixTime>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Tokens> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tokens> {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tokens {
    fn insert(&mut self, record: &TokenRecord) -> Result<(), StoreError> {
        if self.by_id.contains_key(&record.id) || self.ids.contains_key(&record.digest) {
            return Err(StoreErrorKind::Duplicate.into());
        }
        self.owners.insert(record.owner.clone());
        self.ids.insert(record.digest, record.id);
        self.by_id.insert(record.id, record.clone());
        Ok(())
    }

    fn require_active(&self, owner: &UserId) -> Result<(), StoreError> {
        match self.users.get(owner) {
            Some(state) if !state.is_active() => Err(StoreErrorKind::OwnerInactive.into()),
            _ => Ok(()),
        }
    }

    fn put_state(&mut self, new: &UserState) {
        let new = new.over(self.users.get(&new.user));
        self.users.insert(new.user.clone(), new);
    }

    fn revoke_all(&mut self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let own =
            self.by_id.values_mut().filter(|record| record.owner == *owner && record.revoked_at.is_none());
        let mut revoked = Vec::new();
        for record in own {
            Change::revoke(at).apply(record)?;
            revoked.push(record.digest);
        }
        Ok(revoked)
    }

    fn get_mut(&mut self, owner: Owner<'_>, id: TokenId) -> Option<&mut TokenRecord> {
        self.by_id.get_mut(&id).filter(|record| owner.includes(&record.owner))
    }

    fn of<'a>(&'a self, owner: Owner<'a>) -> impl DoubleEndedIterator<Item = &'a TokenRecord> {
        self.by_id.values().filter(move |record| owner.includes(&record.owner))
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        let mut tokens = self.write();
        tokens.require_active(&record.owner)?;
        let now = record.created_at;
        let active =
            || tokens.of(Owner::User(&record.owner)).filter(|other| other.counts_as_active(now)).count();
        if limit.is_some_and(|limit| active() >= limit as usize) {
            return Err(StoreErrorKind::LimitReached.into());
        }
        tokens.insert(record)
    }

    async fn register(&self, record: &TokenRecord) -> Result<(), StoreError> {
        let mut tokens = self.write();
        if tokens.owners.contains(&record.owner) || tokens.users.contains_key(&record.owner) {
            return Err(StoreErrorKind::UserExists.into());
        }
        tokens.insert(record)
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        let tokens = self.read();
        Ok(tokens.ids.get(digest).and_then(|id| tokens.by_id.get(id)).cloned())
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.read().by_id.get(&id).filter(|record| owner.includes(&record.owner)).cloned())
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        let tokens = self.read();
        let older =
            tokens.of(owner).rev().filter(|record| page.before.is_none_or(|before| record.id < before));
        Ok(older.take(page.limit as usize).cloned().collect())
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        Ok(self.read().of(owner).filter(|record| record.revoked_at.is_none()).count() as u64)
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let mut tokens = self.write();
        let Some(record) = tokens.get_mut(owner, id) else { return Ok(None) };
        change.apply(record)?;
        Ok(Some(record.clone()))
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        let mut tokens = self.write();
        let Some(record) = tokens.get_mut(owner, id) else { return Ok(None) };
        let mut old = record.clone();
        rotation.apply(&mut old)?;
        tokens.require_active(&old.owner)?;
        tokens.insert(&rotation.successor)?;
        tokens.by_id.insert(id, old.clone());
        Ok(Some(old))
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        self.write().revoke_all(owner, at)
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        let mut tokens = self.write();
        for usage in batch {
            if let Some(record) = tokens.by_id.get_mut(&usage.id) {
                usage.apply(record);
            }
        }
        Ok(())
    }

    async fn denials(&self, now: UnixTime) -> Result<Denials, StoreError> {
        let tokens = self.read();
        let living = tokens.jwts.iter().filter(|(_, until)| **until > now);
        let jwts = living.map(|(id, until)| JwtRevocation::new(*id, *until)).collect();
        Ok(Denials::new(tokens.users.values().cloned().collect(), jwts))
    }

    async fn revoke_jwt(&self, revocation: &JwtRevocation, now: UnixTime) -> Result<(), StoreError> {
        let mut tokens = self.write();
        tokens.jwts.retain(|_, until| *until > now);
        let until = tokens.jwts.entry(revocation.id).or_insert(revocation.until);
        *until = revocation.until.max(*until);
        Ok(())
    }

    async fn revoke_jwts_of(&self, user: &UserId, at: UnixTime) -> Result<(), StoreError> {
        let mut tokens = self.write();
        let status = tokens.users.get(user).map_or(UserStatus::Active, |state| state.status);
        tokens.put_state(&UserState::new(user.clone(), status).with_jwts_not_before(Some(at)));
        Ok(())
    }

    async fn set_user_state(&self, state: &UserState) -> Result<(), StoreError> {
        self.write().put_state(state);
        Ok(())
    }

    async fn offboard(&self, user: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let mut tokens = self.write();
        let gone = UserState::new(user.clone(), UserStatus::Offboarded).with_jwts_not_before(Some(at));
        tokens.put_state(&gone);
        tokens.revoke_all(user, at)
    }
}
