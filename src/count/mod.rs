//! What happened how often and how much there is, in atomics of the whole process, as a recorder of metrics is one.
//! The module `metrics` tells the recorder of them. Without the feature `metrics` all of it is nothing.
//!
//! A request that is accepted from a cache adds one to two words, in a row that few threads share; it asks no
//! recorder. Whatever else is counted here is off that path.
#![cfg_attr(
    not(all(feature = "metrics", feature = "_jwt")),
    allow(dead_code, reason = "some of it is counted and read with these features only")
)]

use crate::error::{Refusal, Scheme};

#[cfg(feature = "metrics")]
mod on;
#[cfg(feature = "metrics")]
pub(crate) use on::{Counter, Level, Names, Oldest, Stamp, Sum, Timer, accepted, hit};
#[cfg(feature = "metrics")]
pub(crate) use on::{accepted_by, hits_in};

#[cfg(not(feature = "metrics"))]
mod off;
#[cfg(not(feature = "metrics"))]
pub(crate) use off::{Counter, Level, Names, Oldest, Stamp, Sum, Timer, accepted, hit};

/// For how many kinds of alerts there is room.
pub(crate) const ALERTS: usize = 64;

/// What a cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// Good API keys.
    ApiKey,
    /// API keys that are refused.
    Refused,
    /// Verified JWTs.
    Jwt,
}

/// What succeeds or fails.
pub(crate) struct Outcomes {
    pub(crate) success: Counter,
    pub(crate) failure: Counter,
}

impl Outcomes {
    const fn new() -> Self {
        Self { success: Counter::new(), failure: Counter::new() }
    }

    pub(crate) fn note(&self, success: bool) {
        if success { self.success.add(1) } else { self.failure.add(1) }
    }
}

type ByReason = [Counter; Refusal::ALL.len()];

pub(crate) static REFUSED: [ByReason; Scheme::ALL.len()] =
    [const { [const { Counter::new() }; Refusal::ALL.len()] }; Scheme::ALL.len()];
pub(crate) static ANONYMOUS: Counter = Counter::new();
/// Requests that were given up while their verdict was on its way.
pub(crate) static ABANDONED: Counter = Counter::new();
pub(crate) static GUARDED: ByReason = [const { Counter::new() }; Refusal::ALL.len()];
pub(crate) static RAISED: [Counter; ALERTS] = [const { Counter::new() }; ALERTS];
pub(crate) static EVENTS: Names = Names::new();

pub(crate) static CACHE_MISSES: [Counter; 3] = [const { Counter::new() }; 3];
pub(crate) static CACHE_EVICTIONS: [Counter; 3] = [const { Counter::new() }; 3];
pub(crate) static CACHE_ENTRIES: [Sum; 3] = [const { Sum::new() }; 3];
pub(crate) static JWT_CACHE_BYTES: Sum = Sum::new();

/// Unavailable, corrupt, incompatible.
pub(crate) static STORE_ERRORS: [Counter; 3] = [const { Counter::new() }; 3];
pub(crate) static STORES: Sum = Sum::new();
pub(crate) static STORES_DOWN: Sum = Sum::new();
pub(crate) static TOKENS_STORED: Sum = Sum::new();
pub(crate) static USAGE_QUEUE: Sum = Sum::new();
pub(crate) static USAGE_FLUSHES: Outcomes = Outcomes::new();
pub(crate) static DENIED_USERS: Sum = Sum::new();
pub(crate) static DENIED_JWTS: Sum = Sum::new();
pub(crate) static DENIALS_LOADED: Oldest = Oldest::new();

pub(crate) static AUDIT_QUEUE: Sum = Sum::new();
pub(crate) static AUDIT_CAPACITY: Sum = Sum::new();
pub(crate) static AUDIT_RESERVE: Sum = Sum::new();
pub(crate) static AUDIT_LOST_EVENTS: Counter = Counter::new();
pub(crate) static AUDIT_LOST_ALERTS: Counter = Counter::new();
pub(crate) static AUDIT_DELIVERIES: Outcomes = Outcomes::new();

pub(crate) static JWKS_FETCHES: Outcomes = Outcomes::new();
pub(crate) static JWKS_KEYS: Sum = Sum::new();
pub(crate) static JWKS_FAILING: Sum = Sum::new();
pub(crate) static JWKS_FETCHED: Oldest = Oldest::new();

/// A request was refused by an authentication layer.
pub(crate) fn refused(by: Scheme, reason: Refusal) {
    if let Some(counter) = REFUSED.get(by as usize).and_then(|reasons| reasons.get(reason as usize)) {
        counter.add(1);
    }
}

/// A request that came past the authentication was refused by a guard.
pub(crate) fn guarded(reason: Refusal) {
    add_at(&GUARDED, reason as usize);
}

/// An alert was raised; its place is that among all kinds of alerts.
pub(crate) fn raised(place: usize) {
    add_at(&RAISED, place);
}

/// A cache was asked in vain.
pub(crate) fn missed(cache: Cache) {
    add_at(&CACHE_MISSES, cache as usize);
}

/// A cache made room.
pub(crate) fn evicted(cache: Cache) {
    add_at(&CACHE_EVICTIONS, cache as usize);
}

/// The level of a cache that is new and empty.
pub(crate) fn entries_of(cache: Cache) -> Level {
    let [keys, refused, jwts] = &CACHE_ENTRIES;
    Level::of(match cache {
        Cache::ApiKey => keys,
        Cache::Refused => refused,
        Cache::Jwt => jwts,
    })
}

fn add_at(counters: &[Counter], place: usize) {
    if let Some(counter) = counters.get(place) {
        counter.add(1);
    }
}

/// A batch of uses on its way to the store: it failed unless it is done.
pub(crate) struct Flush {
    timer: Timer,
    done: bool,
}

impl Flush {
    pub(crate) fn begin() -> Self {
        Self { timer: Timer::start(), done: false }
    }

    pub(crate) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        USAGE_FLUSHES.note(self.done);
        self.timer.observe_flush();
    }
}
