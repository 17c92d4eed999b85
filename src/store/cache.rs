//! What the last looks into the store found: a bounded table that cannot resurrect.
//!
//! A reader takes a shard's lock only if it is free (`try_read`) and otherwise goes the way of a miss, so
//! it never waits for a writer. A load takes the shard's epoch with it, and what it found is kept only if
//! nothing was invalidated in that shard since: "miss, load, revoke, put" does not bring a token back.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard, atomic::Ordering},
};

use hashbrown::HashTable;
use tokio::sync::watch;

use crate::{
    count::{self, Cache, Level},
    error::{AuthError, Refusal},
    id::{TokenId, UserId},
    principal::Credential,
    secret::TokenDigest,
    time::UnixTime,
};

/// A power of two, so that an index is a mask.
const SHARDS: usize = 64;

/// Looks at so many entries for one that was not used lately before it evicts whichever comes.
const EVICTION_LOOKS: usize = 16;

#[derive(Debug)]
pub(crate) struct TokenCache {
    shards: Box<[Shard]>,
}

/// Alone on its cache lines, so that counting readers of one shard does not slow those of the next.
#[derive(Debug)]
#[repr(align(128))]
struct Shard(RwLock<Tables>);

#[derive(Debug)]
struct Tables {
    /// Counts invalidations.
    epoch: u64,
    live: Table<Arc<Credential>>,
    dead: Table<Arc<Dead>>,
    /// Loads on their way, by what they look for.
    flights: HashMap<TokenDigest, watch::Receiver<Option<Found>>>,
}

/// A digest that is known to open nothing, for a moment.
#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) digest: TokenDigest,
    pub(crate) reason: Refusal,
    pub(crate) token: Option<TokenId>,
    pub(crate) owner: Option<UserId>,
    /// Whether it was exchanged for another one, and its overlap is over.
    pub(crate) replaced: bool,
    pub(crate) fresh_from: UnixTime,
    pub(crate) fresh_until: UnixTime,
}

impl Dead {
    pub(crate) fn error(&self) -> AuthError {
        AuthError::invalid(self.reason).about(self.token, self.owner.as_ref())
    }
}

/// What a look into the store found.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Live(Arc<Credential>),
    Dead(Arc<Dead>),
    Failed,
}

/// What the cache says at once.
#[derive(Debug)]
pub(crate) enum Cached {
    Live(Arc<Credential>),
    Dead(Arc<Dead>),
    Miss,
}

/// What to do about a miss.
#[derive(Debug)]
pub(crate) enum Entered<'a> {
    /// Somebody was faster.
    Found(Found),
    /// Somebody is loading it; without a value at the end, they gave up.
    Follow(watch::Receiver<Option<Found>>),
    /// Load it, and say what you found.
    Lead(Lead<'a>),
}

impl TokenCache {
    /// Room for about `live` valid tokens and `dead` refused ones.
    pub(crate) fn new(live: usize, dead: usize) -> Self {
        let tables = || Tables {
            epoch: 0,
            live: Table::new(live.div_ceil(SHARDS)),
            dead: Table::new(dead.div_ceil(SHARDS)),
            flights: HashMap::new(),
        };
        Self { shards: (0..SHARDS).map(|_| Shard(RwLock::new(tables()))).collect() }
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "the mask keeps the index below the number of shards")]
    fn shard(&self, digest: &TokenDigest) -> &RwLock<Tables> {
        &self.shards[(digest.prefix() >> 32) as usize & (SHARDS - 1)].0
    }

    fn write(&self, digest: &TokenDigest) -> RwLockWriteGuard<'_, Tables> {
        self.shard(digest).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The verdict that is still fresh at `now`. Never waits.
    #[inline]
    pub(crate) fn get(&self, digest: &TokenDigest, now: UnixTime) -> Cached {
        match self.shard(digest).try_read() {
            Ok(tables) => tables.get(digest, now),
            Err(_) => Cached::Miss,
        }
    }

    /// Joins the load of `digest` or starts it.
    pub(crate) fn enter(&self, digest: &TokenDigest, now: UnixTime) -> Entered<'_> {
        let mut tables = self.write(digest);
        match tables.get(digest, now) {
            Cached::Live(credential) => return Entered::Found(Found::Live(credential)),
            Cached::Dead(dead) => return Entered::Found(Found::Dead(dead)),
            Cached::Miss => {}
        }
        if let Some(flight) = tables.flights.get(digest) {
            return Entered::Follow(flight.clone());
        }
        let (result, flight) = watch::channel(None);
        tables.flights.insert(*digest, flight);
        Entered::Lead(Lead { cache: self, digest: *digest, epoch: tables.epoch, result })
    }

    /// Forgets what is known of `digest`. When this returns, every later request asks the store.
    pub(crate) fn invalidate(&self, digest: &TokenDigest) -> Option<Arc<Credential>> {
        let mut tables = self.write(digest);
        tables.epoch += 1;
        tables.flights.remove(digest);
        tables.dead.remove(digest);
        tables.live.remove(digest)
    }

    /// Forgets everything, and returns the credentials that were known.
    pub(crate) fn invalidate_all(&self) -> Vec<Arc<Credential>> {
        let mut known = Vec::new();
        for shard in &self.shards {
            let mut tables = shard.0.write().unwrap_or_else(PoisonError::into_inner);
            tables.epoch += 1;
            tables.flights.clear();
            tables.dead.clear();
            known.append(&mut tables.live.clear());
        }
        known
    }

    /// The credentials that `wanted` picks.
    pub(crate) fn pick(&self, wanted: impl Fn(&Credential) -> bool) -> Vec<Arc<Credential>> {
        let mut picked = Vec::new();
        for shard in &self.shards {
            let tables = shard.0.read().unwrap_or_else(PoisonError::into_inner);
            picked.extend(tables.live.slots.iter().filter(|credential| wanted(credential)).cloned());
        }
        picked
    }

    /// Forgets all tokens of `owner`, refused ones too, and returns the credentials that were known.
    pub(crate) fn invalidate_owner(&self, owner: &UserId) -> Vec<Arc<Credential>> {
        let mut known = Vec::new();
        for shard in &self.shards {
            let mut tables = shard.0.write().unwrap_or_else(PoisonError::into_inner);
            // Whose token a load on its way will find is not known yet.
            tables.epoch += 1;
            tables.flights.clear();
            let theirs = tables.live.slots.iter().filter(|credential| credential.user == *owner);
            let digests: Vec<_> = theirs.map(|credential| credential.digest).collect();
            known.extend(digests.iter().filter_map(|digest| tables.live.remove(digest)));
            let refused = tables.dead.slots.iter().filter(|dead| dead.owner.as_ref() == Some(owner));
            let digests: Vec<_> = refused.map(|dead| dead.digest).collect();
            digests.iter().for_each(|digest| drop(tables.dead.remove(digest)));
        }
        known
    }

    /// The credential of `digest`, fresh or not.
    pub(crate) fn peek(&self, digest: &TokenDigest) -> Option<Arc<Credential>> {
        let tables = self.shard(digest).read().unwrap_or_else(PoisonError::into_inner);
        tables.live.get(digest).cloned()
    }
}

impl Tables {
    #[inline]
    fn get(&self, digest: &TokenDigest, now: UnixTime) -> Cached {
        if let Some(credential) = self.live.get(digest) {
            let fresh = credential.fresh_from <= now && now < credential.fresh_until;
            return if fresh { Cached::Live(credential.clone()) } else { Cached::Miss };
        }
        match self.dead.get(digest) {
            Some(dead) if dead.fresh_from <= now && now < dead.fresh_until => Cached::Dead(dead.clone()),
            _ => Cached::Miss,
        }
    }
}

/// The duty to load one digest. Dropped without a result it lets the next one try.
#[derive(Debug)]
pub(crate) struct Lead<'a> {
    cache: &'a TokenCache,
    digest: TokenDigest,
    epoch: u64,
    result: watch::Sender<Option<Found>>,
}

impl Lead<'_> {
    /// Tells those who wait what was found, and keeps it unless something was invalidated since. Returns
    /// the credential that had to make room.
    pub(crate) fn finish(self, found: Found) -> Option<Arc<Credential>> {
        let mut displaced = None;
        {
            let mut tables = self.cache.write(&self.digest);
            if tables.epoch == self.epoch {
                match &found {
                    Found::Live(credential) => {
                        tables.dead.remove(&self.digest);
                        displaced = tables.live.insert(credential.clone());
                    }
                    Found::Dead(dead) => {
                        displaced = tables.live.remove(&self.digest);
                        tables.dead.insert(dead.clone());
                    }
                    Found::Failed => {}
                }
            }
        }
        self.result.send_replace(Some(found));
        displaced
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut tables = self.cache.write(&self.digest);
        // After an invalidation the flight under this digest may be somebody else's.
        if tables.flights.get(&self.digest).is_some_and(|flight| self.result.subscribe().same_channel(flight))
        {
            tables.flights.remove(&self.digest);
        }
    }
}

/// What a table can find and evict.
trait Entry {
    const CACHE: Cache;

    fn digest(&self) -> &TokenDigest;
    /// Whether it should be spared for now.
    fn in_use(&self) -> bool;
}

impl Entry for Arc<Credential> {
    const CACHE: Cache = Cache::ApiKey;

    #[inline]
    fn digest(&self) -> &TokenDigest {
        &self.digest
    }

    fn in_use(&self) -> bool {
        self.uses.queued.load(Ordering::Relaxed)
    }
}

impl Entry for Arc<Dead> {
    const CACHE: Cache = Cache::Refused;

    #[inline]
    fn digest(&self) -> &TokenDigest {
        &self.digest
    }

    fn in_use(&self) -> bool {
        false
    }
}

/// Entries by digest, never more than `capacity`: a new one takes the place of one that was not used
/// lately, found by a hand that goes round (the CLOCK algorithm).
#[derive(Debug)]
struct Table<E> {
    index: HashTable<u32>,
    slots: Vec<E>,
    hand: usize,
    capacity: usize,
    level: Level,
}

impl<E: Entry> Table<E> {
    fn new(capacity: usize) -> Self {
        let level = count::entries_of(E::CACHE);
        Self { index: HashTable::new(), slots: Vec::new(), hand: 0, capacity: capacity.max(1), level }
    }

    #[inline]
    fn get(&self, digest: &TokenDigest) -> Option<&E> {
        let slot = self.index.find(digest.prefix(), |slot| self.is_at(*slot, digest))?;
        self.slots.get(*slot as usize)
    }

    #[inline]
    fn is_at(&self, slot: u32, digest: &TokenDigest) -> bool {
        self.slots.get(slot as usize).is_some_and(|entry| entry.digest() == digest)
    }

    /// Puts `entry` in, and returns what it replaced or displaced.
    fn insert(&mut self, entry: E) -> Option<E> {
        let old = self.remove(entry.digest());
        let displaced = if old.is_none() && self.slots.len() >= self.capacity { self.evict() } else { None };
        let slots = &mut self.slots;
        let hash = entry.digest().prefix();
        let slot = slots.len() as u32;
        slots.push(entry);
        let slots = &self.slots;
        self.index.insert_unique(hash, slot, |slot| hash_at(slots, *slot));
        self.level.set(self.slots.len());
        old.or(displaced)
    }

    fn evict(&mut self) -> Option<E> {
        let length = self.slots.len();
        let mut looks = (self.hand..self.hand + EVICTION_LOOKS.min(length)).map(|at| at % length.max(1));
        let idle = looks.find(|at| self.slots.get(*at).is_some_and(|entry| !entry.in_use()));
        let victim = idle.unwrap_or(self.hand % length.max(1));
        self.hand = victim + 1;
        count::evicted(E::CACHE);
        let digest = *self.slots.get(victim)?.digest();
        self.remove(&digest)
    }

    fn remove(&mut self, digest: &TokenDigest) -> Option<E> {
        let slots = &self.slots;
        let at = |slot: &u32| slots.get(*slot as usize).is_some_and(|entry: &E| entry.digest() == digest);
        let (slot, _) = self.index.find_entry(digest.prefix(), at).ok()?.remove();
        let last = (self.slots.len() - 1) as u32;
        if slot != last {
            let moved = hash_at(&self.slots, last);
            if let Some(entry) = self.index.find_mut(moved, |other| *other == last) {
                *entry = slot;
            }
        }
        let gone = self.slots.swap_remove(slot as usize);
        self.level.set(self.slots.len());
        Some(gone)
    }

    fn clear(&mut self) -> Vec<E> {
        self.index.clear();
        self.hand = 0;
        self.level.set(0);
        std::mem::take(&mut self.slots)
    }
}

fn hash_at<E: Entry>(slots: &[E], slot: u32) -> u64 {
    slots.get(slot as usize).map_or(0, |entry| entry.digest().prefix())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn digest(n: u64) -> TokenDigest {
        TokenDigest::of(&n.to_le_bytes())
    }

    fn dead(n: u64) -> Arc<Dead> {
        let (fresh_from, fresh_until) = (UnixTime::from_millis(10), UnixTime::from_millis(20));
        Arc::new(Dead {
            digest: digest(n),
            reason: Refusal::Unknown,
            token: None,
            owner: None,
            replaced: false,
            fresh_from,
            fresh_until,
        })
    }

    fn credential(n: u64) -> Arc<Credential> {
        let user = UserId::new("alice").unwrap();
        let builder = crate::Principal::builder(crate::principal::AuthMethod::ApiKey, user);
        Arc::new(builder.into_credential(digest(n)))
    }

    fn lead(cache: &TokenCache, n: u64) -> Lead<'_> {
        match cache.enter(&digest(n), NOW) {
            Entered::Lead(lead) => lead,
            other => panic!("expected to lead: {other:?}"),
        }
    }

    const NOW: UnixTime = UnixTime::from_millis(15);

    #[test]
    fn a_load_that_began_before_an_invalidation_is_not_kept() {
        let cache = TokenCache::new(64, 64);
        let slow = lead(&cache, 1);
        cache.invalidate(&digest(1));
        slow.finish(Found::Live(credential(1)));
        assert!(matches!(cache.get(&digest(1), NOW), Cached::Miss));

        let slow = lead(&cache, 1);
        cache.invalidate_all();
        slow.finish(Found::Live(credential(1)));
        assert!(matches!(cache.get(&digest(1), NOW), Cached::Miss));

        lead(&cache, 1).finish(Found::Live(credential(1)));
        assert!(matches!(cache.get(&digest(1), NOW), Cached::Live(_)));
    }

    #[test]
    fn after_an_invalidation_nobody_joins_the_old_load() {
        let cache = TokenCache::new(64, 64);
        let slow = lead(&cache, 1);
        assert!(matches!(cache.enter(&digest(1), NOW), Entered::Follow(_)));
        cache.invalidate(&digest(1));
        let fresh = lead(&cache, 1);
        drop(slow);
        assert!(matches!(cache.enter(&digest(1), NOW), Entered::Follow(_)), "the new load goes on");
        fresh.finish(Found::Dead(dead(1)));
        assert!(matches!(cache.get(&digest(1), NOW), Cached::Dead(_)));
    }

    #[test]
    fn a_leader_that_gives_up_lets_the_next_one_lead() {
        let cache = TokenCache::new(64, 64);
        let leader = lead(&cache, 1);
        let Entered::Follow(mut follower) = cache.enter(&digest(1), NOW) else {
            panic!("expected to follow")
        };
        drop(leader);
        assert!(follower.borrow_and_update().is_none());
        assert!(follower.has_changed().is_err(), "the channel is closed");
        lead(&cache, 1).finish(Found::Failed);
        assert!(matches!(cache.get(&digest(1), NOW), Cached::Miss), "failures are not kept");
    }

    #[test]
    fn a_verdict_is_fresh_within_its_window_only() {
        let cache = TokenCache::new(64, 64);
        lead(&cache, 1).finish(Found::Dead(dead(1)));
        for (now, fresh) in [(9, false), (10, true), (19, true), (20, false), (i64::MAX, false)] {
            let found = cache.get(&digest(1), UnixTime::from_millis(now));
            assert_eq!(matches!(found, Cached::Dead(_)), fresh, "{now}");
        }
    }

    #[test]
    fn a_flood_of_negatives_displaces_no_positive() {
        let cache = TokenCache::new(640, 64);
        for n in 0..300 {
            lead(&cache, n).finish(Found::Live(credential(n)));
        }
        for n in 1000..50_000 {
            lead(&cache, n).finish(Found::Dead(dead(n)));
        }
        let kept = (0..300).filter(|n| matches!(cache.get(&digest(*n), NOW), Cached::Live(_))).count();
        assert_eq!(kept, 300);
        let negatives: usize =
            cache.shards.iter().map(|shard| shard.0.read().unwrap().dead.slots.len()).sum();
        assert!(negatives <= 64, "{negatives}");
    }

    #[test]
    fn eviction_spares_what_is_in_use() {
        let mut table = Table::new(8);
        for n in 0..8 {
            let entry = credential(n);
            entry.uses.queued.store(n != 5, Ordering::Relaxed);
            table.insert(entry);
        }
        assert_eq!(table.insert(credential(9)).map(|gone| gone.digest), Some(digest(5)));
        assert_eq!(table.slots.len(), 8);
    }

    proptest! {
        #[test]
        fn the_table_is_a_bounded_map(steps in prop::collection::vec((0u64..40, any::<bool>()), 0..200)) {
            let mut table = Table::new(16);
            let mut model = HashMap::new();
            for (n, insert) in steps {
                if insert {
                    if let Some(gone) = table.insert(dead(n)) {
                        model.remove(gone.digest.as_bytes());
                    }
                    model.insert(*digest(n).as_bytes(), ());
                } else {
                    let gone = table.remove(&digest(n)).is_some();
                    prop_assert_eq!(gone, model.remove(digest(n).as_bytes()).is_some());
                }
                prop_assert!(table.slots.len() <= 16 && table.index.len() == table.slots.len());
                for n in 0..40 {
                    let found = table.get(&digest(n));
                    prop_assert_eq!(found.is_some(), model.contains_key(digest(n).as_bytes()));
                    prop_assert!(found.is_none_or(|entry| entry.digest == digest(n)));
                }
            }
        }
    }
}
