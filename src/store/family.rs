//! Tokens that end together: [`Reach`], [`Revoked`], and the [`Room`] for one more.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    id::{TokenId, UserId},
    secret::TokenDigest,
    store::{Change, Owner, Page, StoreError, StoreErrorKind, TokenStore},
    time::UnixTime,
    token::TokenRecord,
};

/// How often one more token is tried to be stored while others take the room that was made.
const ATTEMPTS: usize = 1_000;

/// How far a revocation goes. Tokens that are revoked already are passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reach {
    /// The token and those that [end with it](TokenRecord::parent), and with those, and so on.
    Children,
    /// Also all that was [made](TokenRecord::created_by) through any of them, as far as the tokens between
    /// are still stored.
    Minted,
}

impl Reach {
    /// Whether `record` goes if the token `id` does.
    #[must_use]
    pub fn includes(self, record: &TokenRecord, id: TokenId) -> bool {
        record.parent == Some(id) || (self == Self::Minted && record.created_by == Some(id))
    }
}

/// A token that ended because of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// The token.
    pub id: TokenId,
    /// Whose it was.
    pub owner: UserId,
    /// The digest of its secret.
    pub digest: TokenDigest,
}

impl From<&TokenRecord> for Ended {
    fn from(record: &TokenRecord) -> Self {
        Self { id: record.id, owner: record.owner.clone(), digest: record.digest }
    }
}

/// What a revocation did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Revoked {
    /// The record of the token as it is now.
    pub record: TokenRecord,
    /// The other tokens that were revoked with it, and were not before.
    pub others: Vec<Ended>,
}

impl Revoked {
    /// The token of `record`, and `others` with it.
    #[must_use]
    pub fn new(record: TokenRecord, others: Vec<Ended>) -> Self {
        Self { record, others }
    }
}

/// Where one more token is to find room.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Room {
    /// With so many active tokens or more, one has to give way.
    pub limit: u32,
    /// Tokens that never do.
    pub spared: Vec<TokenId>,
}

impl Room {
    /// Room among `limit` tokens.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit, spared: Vec::new() }
    }

    /// The one of the owner's tokens that gives way at `now`, or `None` if there is room.
    ///
    /// It is the one that was unused for the longest of those that
    /// [count as active](TokenRecord::counts_as_active); a token that was never used counts from its creation, and of
    /// two the older one goes. A trap is never used, and neither gives way nor takes room.
    ///
    /// # Errors
    /// [`StoreErrorKind::LimitReached`] when there is no room and none may give way.
    pub fn choose<'a>(
        &self,
        own: impl IntoIterator<Item = &'a TokenRecord>,
        now: UnixTime,
    ) -> Result<Option<&'a TokenRecord>, StoreError> {
        let active: Vec<_> = own.into_iter().filter(|record| record.counts_as_active(now)).collect();
        if active.len() < self.limit as usize {
            return Ok(None);
        }
        let spared = |record: &&TokenRecord| self.spared.contains(&record.id);
        let others = active.into_iter().filter(|record| !spared(record));
        let chosen = others.min_by_key(|record| (record.last_active(), record.id));
        if chosen.is_none() || self.limit == 0 {
            Err(StoreErrorKind::LimitReached.into())
        } else {
            Ok(chosen)
        }
    }
}

/// Which tokens come from which. Looked up, since a search through all tokens for each generation takes too long
/// where somebody made a long chain of them.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Those that end with a token.
    children: HashMap<TokenId, BTreeSet<TokenId>>,
    /// Those that were made through one.
    made: HashMap<TokenId, BTreeSet<TokenId>>,
}

impl Links {
    fn of<'a>(records: impl IntoIterator<Item = &'a TokenRecord>) -> Self {
        let mut links = Self::default();
        records.into_iter().for_each(|record| links.add(record));
        links
    }

    pub(super) fn add(&mut self, record: &TokenRecord) {
        for (origin, links) in [(record.parent, &mut self.children), (record.created_by, &mut self.made)] {
            if let Some(origin) = origin {
                links.entry(origin).or_default().insert(record.id);
            }
        }
    }

    pub(super) fn remove(&mut self, record: &TokenRecord) {
        for (origin, links) in [(record.parent, &mut self.children), (record.created_by, &mut self.made)] {
            let Some(origin) = origin else { continue };
            if let Some(ids) = links.get_mut(&origin) {
                ids.remove(&record.id);
                if ids.is_empty() {
                    links.remove(&origin);
                }
            }
        }
    }

    /// The tokens that end with the token `id` itself.
    pub(super) fn children(&self, id: TokenId) -> impl Iterator<Item = TokenId> {
        self.children.get(&id).into_iter().flatten().copied()
    }

    /// What goes with the tokens of `reached`, which it joins, on ways on which all tokens are `within`.
    pub(super) fn followers(
        &self,
        reached: &mut HashSet<TokenId>,
        reach: Reach,
        within: impl Fn(TokenId) -> bool,
    ) -> Vec<TokenId> {
        let (mut found, mut next) = (Vec::new(), reached.iter().copied().collect::<Vec<_>>());
        while let Some(id) = next.pop() {
            let made = self.made.get(&id).filter(|_| reach == Reach::Minted);
            for other in self.children.get(&id).into_iter().chain(made).flatten() {
                if within(*other) && reached.insert(*other) {
                    found.push(*other);
                    next.push(*other);
                }
            }
        }
        found
    }
}

/// [`TokenStore::revoke`] by the other methods, one token after the other, the first one first: so nothing is
/// made through it any more while the others are looked for.
pub(super) async fn revoke_in_steps<S: TokenStore + ?Sized>(
    store: &S,
    owner: Owner<'_>,
    id: TokenId,
    at: UnixTime,
    reach: Reach,
) -> Result<Option<Revoked>, StoreError> {
    let Some(record) = store.update(owner, id, &Change::revoke(at)).await? else { return Ok(None) };
    let scope = match reach {
        Reach::Children => Owner::User(&record.owner),
        Reach::Minted => owner,
    };
    let others = revoke_followers(store, scope, id, at, reach).await?;
    Ok(Some(Revoked::new(record, others)))
}

async fn revoke_followers<S: TokenStore + ?Sized>(
    store: &S,
    scope: Owner<'_>,
    id: TokenId,
    at: UnixTime,
    reach: Reach,
) -> Result<Vec<Ended>, StoreError> {
    let (mut reached, mut others) = (HashSet::from([id]), Vec::new());
    loop {
        let records = all(store, scope).await?;
        let found = Links::of(&records).followers(&mut reached, reach, |_| true);
        if found.is_empty() {
            return Ok(others);
        }
        let found: HashSet<_> = found.into_iter().collect();
        let living = records.iter().filter(|other| found.contains(&other.id) && other.revoked_at.is_none());
        for other in living {
            store.update(scope, other.id, &Change::revoke(at)).await?;
            others.push(Ended::from(other));
        }
    }
}

/// [`TokenStore::insert_making_room`] by the other methods.
pub(super) async fn insert_in_steps<S: TokenStore + ?Sized>(
    store: &S,
    record: &TokenRecord,
    room: &Room,
) -> Result<Vec<Ended>, StoreError> {
    let (owner, at) = (Owner::User(&record.owner), record.created_at);
    let mut ended = Vec::new();
    match store.insert(record, Some(room.limit)).await {
        // What is refused for another reason displaces nothing.
        Err(error) if error.kind() == StoreErrorKind::LimitReached => {}
        done => return done.map(|()| ended),
    }
    for _ in 0..ATTEMPTS {
        let own = all(store, owner).await?;
        let active = own.iter().filter(|other| other.counts_as_active(at)).count();
        if let Some(chosen) = room.choose(&own, at)? {
            let mut revoke = Change::revoke(at);
            revoke.if_revision = Some(chosen.revision);
            match store.update(owner, chosen.id, &revoke).await {
                Ok(_) => {}
                // Somebody else took its place.
                Err(error) if error.kind() == StoreErrorKind::Conflict => continue,
                Err(error) => return Err(error),
            }
            ended.push(Ended::from(chosen));
            ended.extend(revoke_followers(store, owner, chosen.id, at, Reach::Children).await?);
        }
        // As many as there were: no call lets the number grow.
        let limit = room.limit.max(u32::try_from(active).unwrap_or(u32::MAX));
        match store.insert(record, Some(limit)).await {
            Ok(()) => return Ok(ended),
            Err(error) if error.kind() == StoreErrorKind::LimitReached => {}
            Err(error) => return Err(error),
        }
    }
    Err(StoreErrorKind::LimitReached.into())
}

/// All records of `owner`, the oldest first.
async fn all<S: TokenStore + ?Sized>(store: &S, owner: Owner<'_>) -> Result<Vec<TokenRecord>, StoreError> {
    const STEP: u32 = 500;
    let mut records: Vec<TokenRecord> = Vec::new();
    loop {
        let page = records.last().map_or(Page::first(STEP), |last| Page::after(last.id, STEP));
        let mut part = store.list(owner, page).await?;
        let ended = part.len() < STEP as usize;
        records.append(&mut part);
        if ended {
            records.sort_unstable_by_key(|record| record.id);
            return Ok(records);
        }
    }
}
