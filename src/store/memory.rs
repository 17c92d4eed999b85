//! A store that forgets everything with the process.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use async_trait::async_trait;

mod contents;

use crate::{
    id::{TokenId, UserId},
    principal::AdminProof,
    secret::TokenDigest,
    store::{
        Change, Claimed, Denials, Ended, JwtId, JwtRevocation, Owner, Page, Purge, Purged, Reach, Revoked,
        Room, Rotation, StoreError, StoreErrorKind, TokenStore, Usage, UserState, UserStatus, Warnings,
        audit::MemoryAudit,
        family::Links,
        transfer::{Exported, Imported, Item, Position, Section},
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
    own: HashMap<UserId, BTreeSet<TokenId>>,
    links: Links,
    reminders: Reminders,
    /// Whoever ever had a token, but for ids that are made up.
    owners: BTreeSet<UserId>,
    users: BTreeMap<UserId, UserState>,
    jwts: BTreeMap<JwtId, UnixTime>,
}

/// When to look whether a warning is due.
#[derive(Debug, Default)]
struct Reminders {
    times: HashMap<TokenId, UnixTime>,
    queue: BTreeSet<(UnixTime, TokenId)>,
}

impl Reminders {
    fn set(&mut self, id: TokenId, time: Option<UnixTime>) {
        let old = match time {
            Some(time) => self.times.insert(id, time),
            None => self.times.remove(&id),
        };
        if let Some(old) = old {
            self.queue.remove(&(old, id));
        }
        self.queue.extend(time.map(|time| (time, id)));
    }
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
        if !record.owner.is_made_up() {
            self.owners.insert(record.owner.clone());
        }
        self.ids.insert(record.digest, record.id);
        self.own.entry(record.owner.clone()).or_default().insert(record.id);
        self.links.add(record);
        if record.expires_at.is_some() {
            self.reminders.set(record.id, Some(UnixTime::EPOCH));
        }
        self.by_id.insert(record.id, record.clone());
        Ok(())
    }

    /// Refuses what cannot be stored whatever the owner's other tokens are.
    fn require_fit(&self, record: &TokenRecord) -> Result<(), StoreError> {
        self.require_active(&record.owner)?;
        match record.parent.and_then(|id| self.by_id.get(&id)) {
            Some(parent) if !parent.may_be_parent_of(record) => Err(StoreErrorKind::Conflict.into()),
            _ => Ok(()),
        }
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

    /// Those of `ids` that were not revoked before.
    fn revoke_each(&mut self, ids: &[TokenId], at: UnixTime) -> Result<Vec<Ended>, StoreError> {
        let mut revoked = Vec::new();
        for id in ids {
            if let Some(record) = self.by_id.get_mut(id).filter(|record| record.revoked_at.is_none()) {
                Change::revoke(at).apply(record)?;
                revoked.push(Ended::from(&*record));
            }
        }
        Ok(revoked)
    }

    fn revoke_all(&mut self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let ids: Vec<_> = self.own.get(owner).into_iter().flatten().copied().collect();
        Ok(self.revoke_each(&ids, at)?.into_iter().map(|ended| ended.digest).collect())
    }

    /// What goes with the token `id` of `user`.
    fn followers(&self, owner: Owner<'_>, user: &UserId, id: TokenId, reach: Reach) -> Vec<TokenId> {
        let mut reached = HashSet::from([id]);
        let scope = if reach == Reach::Minted { owner } else { Owner::User(user) };
        let within = |id| self.by_id.get(&id).is_some_and(|record| scope.includes(&record.owner));
        self.links.followers(&mut reached, reach, within)
    }

    /// Whether a token, or one of those that it ends with, had ended by the time that `purge` says.
    fn has_ended(&self, id: TokenId, purge: &Purge) -> bool {
        let Some(record) = self.by_id.get(&id) else { return false };
        let (mut passed, mut parent) = (HashSet::new(), record.parent);
        let mut ended = purge.takes(record);
        while let Some(id) = parent.filter(|id| !ended && passed.insert(*id)) {
            let Some(ancestor) = self.by_id.get(&id) else { break };
            ended = purge.takes_children_of(ancestor);
            parent = ancestor.parent;
        }
        ended
    }

    fn remove(&mut self, id: TokenId) -> bool {
        let Some(record) = self.by_id.remove(&id) else { return false };
        self.ids.remove(&record.digest);
        self.links.remove(&record);
        self.reminders.set(id, None);
        if let Some(own) = self.own.get_mut(&record.owner) {
            own.remove(&id);
            if own.is_empty() {
                self.own.remove(&record.owner);
            }
        }
        true
    }

    fn get_mut(&mut self, owner: Owner<'_>, id: TokenId) -> Option<&mut TokenRecord> {
        self.by_id.get_mut(&id).filter(|record| owner.includes(&record.owner))
    }

    fn of(&self, owner: Owner<'_>) -> impl Iterator<Item = &TokenRecord> {
        self.older(owner, None)
    }

    /// The records before an id, the newest first.
    fn older(
        &self,
        owner: Owner<'_>,
        before: Option<TokenId>,
    ) -> Box<dyn Iterator<Item = &TokenRecord> + '_> {
        let range = (Bound::Unbounded, before.map_or(Bound::Unbounded, Bound::Excluded));
        match owner.user() {
            None => Box::new(self.by_id.range(range).rev().map(|(_, record)| record)),
            Some(user) => {
                let ids = self.own.get(user).into_iter().flat_map(move |own| own.range(range).rev());
                Box::new(ids.filter_map(|id| self.by_id.get(id)))
            }
        }
    }
}

#[async_trait]
impl TokenStore for MemoryStore {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        let mut tokens = self.write();
        tokens.require_fit(record)?;
        let own = || tokens.of(Owner::User(&record.owner));
        let active = || own().filter(|other| other.counts_as_active(record.created_at)).count();
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
        Ok(self.read().older(owner, page.before).take(page.limit as usize).cloned().collect())
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
        rotation.require_room(&old, tokens.of(Owner::User(&old.owner)))?;
        tokens.insert(&rotation.successor)?;
        let tokens = &mut *tokens;
        let children: Vec<_> = tokens.links.children(id).collect();
        for child in children {
            let Some(record) = tokens.by_id.get_mut(&child) else { continue };
            tokens.links.remove(record);
            rotation.adopt(id, record);
            tokens.links.add(record);
        }
        tokens.by_id.insert(id, old.clone());
        Ok(Some(old))
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        self.write().revoke_all(owner, at)
    }

    async fn revoke(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        at: UnixTime,
        reach: Reach,
    ) -> Result<Option<Revoked>, StoreError> {
        let mut tokens = self.write();
        let Some(record) = tokens.get_mut(owner, id) else { return Ok(None) };
        Change::revoke(at).apply(record)?;
        let record = record.clone();
        let others = tokens.followers(owner, &record.owner, id, reach);
        Ok(Some(Revoked::new(record, tokens.revoke_each(&others, at)?)))
    }

    async fn insert_making_room(&self, record: &TokenRecord, room: &Room) -> Result<Vec<Ended>, StoreError> {
        let mut tokens = self.write();
        tokens.require_fit(record)?;
        let (owner, at) = (Owner::User(&record.owner), record.created_at);
        let chosen = room.choose(tokens.of(owner), at)?.map(|chosen| chosen.id);
        tokens.insert(record)?;
        let Some(chosen) = chosen else { return Ok(Vec::new()) };
        let mut ids = vec![chosen];
        ids.extend(tokens.followers(owner, &record.owner, chosen, Reach::Children));
        tokens.revoke_each(&ids, at)
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        let mut tokens = self.write();
        for usage in batch {
            if let Some(record) = tokens.by_id.get_mut(&usage.id) {
                let expires_at = record.expires_at;
                usage.apply(record);
                if record.expires_at != expires_at {
                    tokens.reminders.set(usage.id, Some(Warnings::after_renewal(usage.last_used)));
                }
            }
        }
        Ok(())
    }

    async fn purge(&self, _: &AdminProof, purge: &Purge) -> Result<Purged, StoreError> {
        let mut tokens = self.write();
        let range = (purge.after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let step: Vec<_> = tokens.by_id.range(range).take(purge.limit as usize).map(|(id, _)| *id).collect();
        let next = step.last().copied().filter(|_| step.len() == purge.limit as usize);
        let mut removed = 0;
        // Most children are younger than what they end with, so they are gone before it is looked at.
        for id in step.iter().rev() {
            let waits = tokens.links.children(*id).next().is_some();
            removed += u64::from(!waits && tokens.has_ended(*id, purge) && tokens.remove(*id));
        }
        Ok(Purged::new(step.len() as u64, removed, next))
    }

    async fn claim_warnings(&self, _: &AdminProof, warnings: &Warnings) -> Result<Claimed, StoreError> {
        let mut tokens = self.write();
        let waiting = tokens.reminders.queue.iter().take_while(|(time, _)| *time <= warnings.now);
        let step: Vec<_> = waiting.take(warnings.limit as usize).copied().collect();
        let mut claimed = Claimed::new(Vec::new(), step.len() == warnings.limit as usize);
        for (since, id) in step {
            let Some(record) = tokens.by_id.get(&id) else { continue };
            let (due, next) = warnings.judge(record, since);
            claimed.tokens.extend(due.then(|| record.clone()));
            tokens.reminders.set(id, next);
        }
        Ok(claimed)
    }

    async fn export(
        &self,
        _: &AdminProof,
        section: Section,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Exported, StoreError> {
        self.read().export(section, after, limit as usize)
    }

    async fn import(&self, _: &AdminProof, items: &[Item]) -> Result<Vec<Imported>, StoreError> {
        let mut tokens = self.write();
        items.iter().map(|item| tokens.import(item)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_ids_that_are_made_up_nothing_stays() {
        let store = MemoryStore::new();
        for (n, owner) in (1..).zip(["alice", "keyward:admin", "public:6b1d", "static:3f5c"]) {
            let owner = UserId::new(owner).unwrap();
            let id = TokenId::from_bytes([n; 16]).unwrap();
            store
                .register(&TokenRecord::new(id, TokenDigest::of(&[n]), owner, UnixTime::EPOCH))
                .await
                .unwrap();
        }
        let mut kept: Vec<_> = store.read().owners.iter().map(|owner| owner.as_str().to_owned()).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["alice", "keyward:admin"]);
    }
}
