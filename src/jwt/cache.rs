//! Tokens that were verified and are presented again.
//!
//! The index is a keyed hash of a token's last 16 bytes, which belong to its signature; an entry is used
//! only when the whole token is equal, byte for byte. So no two tokens can ever share an entry, whatever the
//! hash does, and a look-up costs a comparison instead of a SHA-256 of 700 bytes. The price is that verified
//! tokens stay in memory until they make room, are refused when they are presented again, or are swept out after
//! their end: they are wiped then and never shown.
//!
//! Only verified tokens get in. Whoever cannot sign can neither fill the cache nor choose what is in it, and
//! the key of the hash keeps an issuer from piling its tokens into one place.

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use hashbrown::HashTable;
use zeroize::Zeroizing;

use crate::{
    count::{self, Cache, Level},
    principal::Credential,
    scope::Grant,
    secret::TokenDigest,
    time::UnixTime,
};

const SHARDS: usize = 32;

/// What an entry takes beside the token's own bytes and claims, roughly.
const ENTRY_BYTES: usize = 512;

/// What a scope or a role takes, roughly.
const NAME_BYTES: usize = 48;

/// A verified token and when it must be looked at again.
pub(super) struct Entry {
    token: Zeroizing<Box<[u8]>>,
    hash: u64,
    pub(super) credential: Arc<Credential>,
    /// Which of the configured issuers it is from.
    pub(super) trust: usize,
    /// The key that verified it.
    pub(super) key: TokenDigest,
    /// The state of the key set and of the revocations that it was judged by.
    pub(super) keys_epoch: AtomicU64,
    pub(super) revocations: AtomicU64,
    used: AtomicBool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("credential", &self.credential).finish_non_exhaustive()
    }
}

impl Entry {
    pub(super) fn new(
        token: &[u8],
        credential: Arc<Credential>,
        (trust, key): (usize, TokenDigest),
        (keys_epoch, revocations): (u64, u64),
    ) -> Self {
        Self {
            token: Zeroizing::new(token.into()),
            hash: 0,
            credential,
            trust,
            key,
            keys_epoch: AtomicU64::new(keys_epoch),
            revocations: AtomicU64::new(revocations),
            used: AtomicBool::new(false),
        }
    }

    fn weight(&self) -> usize {
        let names = match &self.credential.scopes {
            Grant::All => 0,
            Grant::Only(scopes) => scopes.iter().count(),
        };
        weight(self.token.len()) + NAME_BYTES * (names + self.credential.roles.iter().count())
    }

    /// Whether the other is of the same token, judged by the same.
    fn is_as_good_as(&self, other: &Self) -> bool {
        let same = |a: &AtomicU64, b: &AtomicU64| a.load(Ordering::Relaxed) == b.load(Ordering::Relaxed);
        self.credential.fresh_until >= other.credential.fresh_until
            && same(&self.keys_epoch, &other.keys_epoch)
            && same(&self.revocations, &other.revocations)
    }
}

/// What an entry takes whose token is so long. The claims are about as long as the token.
fn weight(token_bytes: usize) -> usize {
    2 * token_bytes + ENTRY_BYTES
}

/// Verified tokens, within a budget of bytes.
pub(super) struct VerifiedTokens {
    shards: Box<[RwLock<Shard>]>,
    seed: [u64; 2],
    budget: usize,
}

#[derive(Default)]
struct Shard {
    index: HashTable<u32>,
    entries: Vec<Entry>,
    hand: usize,
    weight: usize,
    counts: Counts,
}

/// How full it is, for metrics.
struct Counts {
    entries: Level,
    bytes: Level,
}

impl Default for Counts {
    fn default() -> Self {
        Self { entries: count::entries_of(Cache::Jwt), bytes: Level::of(&count::JWT_CACHE_BYTES) }
    }
}

impl fmt::Debug for VerifiedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedTokens").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl VerifiedTokens {
    /// An empty cache of at most `bytes`; none at all if that is less than one token for each shard.
    pub(super) fn new(bytes: usize, seed: [u64; 2]) -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, seed, budget: bytes / SHARDS }
    }

    /// A folded multiplication of the last 16 bytes with the seed.
    #[inline]
    fn hash(&self, token: &[u8]) -> u64 {
        let Some(tail) = token.last_chunk::<16>() else { return 0 };
        let [low, high] = self.seed;
        let both = u128::from_le_bytes(*tail);
        let product = u128::from(both as u64 ^ low) * u128::from((both >> 64) as u64 ^ high);
        (product as u64) ^ (product >> 64) as u64
    }

    #[inline]
    fn shard(&self, hash: u64) -> Option<&RwLock<Shard>> {
        self.shards.get((hash >> 32) as usize % SHARDS)
    }

    /// Asks `judge` about the entry of exactly this token. Never waits: an entry that is being written at
    /// this moment counts as absent.
    #[inline]
    pub(super) fn find<R>(&self, token: &[u8], judge: impl FnOnce(&Entry) -> Option<R>) -> Option<R> {
        let hash = self.hash(token);
        let shard = self.shard(hash)?.try_read().ok()?;
        let slot = shard.index.find(hash, |slot| shard.is_at(*slot, hash, token))?;
        let entry = shard.entries.get(*slot as usize)?;
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        judge(entry)
    }

    /// Whether there is any use in making an entry for this token.
    pub(super) fn has_place_for(&self, token: &[u8]) -> bool {
        weight(token.len()) <= self.budget
    }

    /// Drops this token, which turned out not to be good any more.
    pub(super) fn forget(&self, token: &[u8]) {
        if self.find(token, |_| Some(())).is_some() {
            let hash = self.hash(token);
            let Some(shard) = self.shard(hash) else { return };
            shard.write().unwrap_or_else(PoisonError::into_inner).remove(hash, token);
        }
    }

    /// Drops all tokens that have ended by `now`.
    pub(super) fn sweep(&self, now: UnixTime) {
        for shard in &self.shards {
            let has_ended = |entry: &Entry| entry.credential.fresh_until <= now;
            let ended = shard.read().is_ok_and(|shard| shard.entries.iter().any(has_ended));
            if ended {
                shard.write().unwrap_or_else(PoisonError::into_inner).remove_all(has_ended);
            }
        }
    }

    /// Keeps a verified token, in the place of others if there is no room.
    pub(super) fn insert(&self, entry: Entry) {
        let hash = self.hash(&entry.token);
        let weight = entry.weight();
        let is_there = || self.find(&entry.token, |other| Some(other.is_as_good_as(&entry))) == Some(true);
        // Many that verified one token at the same time do not keep one another from finding it.
        if weight > self.budget || is_there() {
            return;
        }
        let Some(shard) = self.shard(hash) else { return };
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        shard.remove(hash, &entry.token);
        while shard.weight + weight > self.budget && shard.evict() {}
        shard.push(Entry { hash, ..entry });
    }
}

impl Shard {
    #[inline]
    fn is_at(&self, slot: u32, hash: u64, token: &[u8]) -> bool {
        let entry = self.entries.get(slot as usize);
        // The whole hash first: what differs in its signature is never compared with what is secret.
        entry.is_some_and(|entry| entry.hash == hash && **entry.token == *token)
    }

    fn push(&mut self, entry: Entry) {
        self.weight += entry.weight();
        let (hash, slot) = (entry.hash, self.entries.len() as u32);
        self.entries.push(entry);
        let entries = &self.entries;
        self.index.insert_unique(hash, slot, |slot| entries.get(*slot as usize).map_or(0, |e| e.hash));
        self.note_size();
    }

    fn remove(&mut self, hash: u64, token: &[u8]) {
        let found = self.index.find(hash, |slot| self.is_at(*slot, hash, token)).copied();
        if let Some(slot) = found {
            self.remove_slot(slot);
        }
    }

    fn remove_all(&mut self, ended: impl Fn(&Entry) -> bool) {
        while let Some(slot) = self.entries.iter().position(&ended) {
            self.remove_slot(slot as u32);
        }
    }

    fn remove_slot(&mut self, slot: u32) {
        let Some(hash) = self.entries.get(slot as usize).map(|entry| entry.hash) else { return };
        if let Ok(found) = self.index.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        let last = (self.entries.len() - 1) as u32;
        if slot != last
            && let Some(moved) = self.entries.last().map(|entry| entry.hash)
            && let Some(place) = self.index.find_mut(moved, |other| *other == last)
        {
            *place = slot;
        }
        let gone = self.entries.swap_remove(slot as usize);
        self.weight -= gone.weight();
        self.note_size();
    }

    fn note_size(&self) {
        self.counts.entries.set(self.entries.len());
        self.counts.bytes.set(self.weight);
    }

    /// Drops one that was not used since the hand came by last. Says whether there was any.
    fn evict(&mut self) -> bool {
        let length = self.entries.len();
        for _ in 0..=length {
            self.hand = if self.hand + 1 < length { self.hand + 1 } else { 0 };
            if self.entries.get(self.hand).is_some_and(|entry| !entry.used.swap(false, Ordering::Relaxed)) {
                break;
            }
        }
        if length > 0 {
            self.remove_slot(self.hand as u32);
            count::evicted(Cache::Jwt);
        }
        length > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Principal, UserId, principal::AuthMethod};

    fn entry(token: &[u8]) -> Entry {
        let builder = Principal::builder(AuthMethod::Jwt, UserId::new("alice").unwrap());
        let credential = Arc::new(builder.into_credential(TokenDigest::of(token)));
        Entry::new(token, credential, (0, TokenDigest::of(b"key")), (0, 0))
    }

    fn count(cache: &VerifiedTokens) -> usize {
        cache.shards.iter().map(|shard| shard.read().unwrap().entries.len()).sum()
    }

    fn knows(cache: &VerifiedTokens, token: &[u8]) -> bool {
        cache.find(token, |entry| (entry.credential.digest == TokenDigest::of(token)).then_some(())).is_some()
    }

    #[test]
    fn tokens_that_end_alike_never_share_an_entry() {
        let cache = VerifiedTokens::new(1 << 22, [3, 5]);
        let tail = "-the-very-same-tail";
        for n in 0..100 {
            cache.insert(entry(format!("{n:03}{tail}").as_bytes()));
        }
        for n in 0..100 {
            assert!(knows(&cache, format!("{n:03}{tail}").as_bytes()), "{n}");
        }
        assert!(!knows(&cache, format!("100{tail}").as_bytes()));
        assert!(!knows(&cache, format!("0001{tail}").as_bytes()));
        assert!(!knows(&cache, tail.as_bytes()) && !knows(&cache, b""));
        assert_eq!(count(&cache), 100);
    }

    #[test]
    fn a_flood_stays_within_the_budget_and_spares_what_is_used() {
        let cache = VerifiedTokens::new(SHARDS * 64 * 1024, [3, 5]);
        let mut numbers = 0..;
        let mut fresh = || format!("{:0>200}", numbers.next().unwrap() * 7919 + 1_000_003);
        let favourite = fresh();
        cache.insert(entry(favourite.as_bytes()));
        for _ in 0..20_000 {
            assert!(knows(&cache, favourite.as_bytes()));
            cache.insert(entry(fresh().as_bytes()));
        }
        let most = SHARDS * 64 * 1024 / (2 * 200 + ENTRY_BYTES);
        assert!(count(&cache) <= most, "{}", count(&cache));
        assert!(knows(&cache, favourite.as_bytes()));
        for shard in &cache.shards {
            let shard = shard.read().unwrap();
            assert_eq!(shard.weight, shard.entries.iter().map(Entry::weight).sum::<usize>());
            assert_eq!(shard.index.len(), shard.entries.len());
        }
    }

    #[test]
    fn what_has_ended_is_swept_out_and_what_is_bad_is_forgotten() {
        let cache = VerifiedTokens::new(1 << 22, [3, 5]);
        let until = |end: i64| {
            let mut entry = entry(format!("{end:0>40}").as_bytes());
            Arc::get_mut(&mut entry.credential).unwrap().fresh_until = UnixTime::from_millis(end);
            entry
        };
        (0..1000).for_each(|end| cache.insert(until(end)));
        cache.sweep(UnixTime::from_millis(699));
        assert_eq!(count(&cache), 300);
        assert!(knows(&cache, format!("{:0>40}", 700).as_bytes()));
        for _ in 0..2 {
            cache.forget(format!("{:0>40}", 700).as_bytes());
        }
        assert!(count(&cache) == 299 && !knows(&cache, format!("{:0>40}", 700).as_bytes()));
        assert!((701..1000).all(|end| knows(&cache, format!("{end:0>40}").as_bytes())));
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", entry(b"CANARY-CANARY-CANARY")).contains("CANARY"));
    }
}
