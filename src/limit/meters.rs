//! The counts of many tokens or users, of which there are never more than a bound.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{limit::gcra::nanos, time::UnixTime};

/// Where there is no room, one in so many is given up.
const GIVE_UP: usize = 16;

/// Something that counts and is as good as new after a while.
pub(crate) trait Meter: Default {
    /// From when on it is as good as new, in nanoseconds since 1970.
    fn new_from(&self) -> i64;
}

/// Counts by what they are of. They outlive the credentials that the cache forgets, so that a limit does not
/// begin anew with each look-up.
#[derive(Debug)]
pub(crate) struct Meters<K, M> {
    known: Mutex<Known<K, M>>,
    capacity: usize,
}

#[derive(Debug)]
struct Known<K, M> {
    meters: HashMap<K, Arc<M>>,
    /// With how many room is made next. Where most are in use that can be in vain, so it is not done for each.
    room: usize,
}

impl<K: Hash + Eq + Clone, M: Meter> Meters<K, M> {
    /// Room for `capacity`, or for those that are in use if they are more, and for a sixteenth beyond.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { known: Mutex::new(Known { meters: HashMap::new(), room: capacity }), capacity }
    }

    /// The one of `key`, which all get who ask for it while it counts anything.
    pub(crate) fn of(&self, key: &K, now: UnixTime) -> Arc<M> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { meters, room } = &mut *known;
        if let Some(meter) = meters.get(key) {
            return meter.clone();
        }
        if meters.len() >= *room {
            make_room(meters, self.capacity, nanos(now));
            *room = self.capacity.max(meters.len() + meters.len() / GIVE_UP + 1);
        }
        meters.entry(key.clone()).or_default().clone()
    }
}

/// Forgets what counts nothing now. If that is too little, those whose counting ends soonest: somebody then gets
/// a part of their limit anew. What a credential holds stays, so that there is one for each token.
fn make_room<K: Hash + Eq, M: Meter>(known: &mut HashMap<K, Arc<M>>, capacity: usize, now: i64) {
    let is_free = |meter: &Arc<M>| Arc::strong_count(meter) == 1;
    known.retain(|_, meter| !is_free(meter) || meter.new_from() > now);
    if known.len() < capacity {
        return;
    }
    let mut ends: Vec<_> =
        known.values().filter(|meter| is_free(meter)).map(|meter| meter.new_from()).collect();
    let surplus = (known.len() / GIVE_UP).min(ends.len().saturating_sub(1));
    if ends.is_empty() {
        return;
    }
    let (_, last, _) = ends.select_nth_unstable(surplus);
    let last = *last;
    known.retain(|_, meter| !is_free(meter) || meter.new_from() > last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{
        RateLimit,
        gcra::{Gcra, RateMeter},
    };
    use std::time::Duration;

    fn rate() -> Gcra {
        Gcra::new(RateLimit::new(10, Duration::from_secs(10)).unwrap())
    }

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_millis(seconds * 1000)
    }

    #[test]
    fn the_same_counts_are_found_again() {
        let meters = Meters::<u32, RateMeter>::new(8);
        for left in [9, 8, 7] {
            assert_eq!(meters.of(&1, at(0)).take(rate(), at(0)).unwrap().left, left);
        }
        assert_eq!(meters.of(&2, at(0)).take(rate(), at(0)).unwrap().left, 9);
    }

    #[test]
    fn there_are_never_more_than_the_bound_and_what_counts_most_stays() {
        let meters = Meters::<u32, RateMeter>::new(64);
        for _ in 0..10 {
            meters.of(&0, at(0)).take(rate(), at(0)).unwrap();
        }
        for other in 1..10_000 {
            meters.of(&other, at(0)).take(rate(), at(0)).unwrap();
            assert!(meters.known.lock().unwrap().meters.len() <= 64);
        }
        assert!(meters.of(&0, at(0)).take(rate(), at(0)).is_err(), "its limit was used up, and still is");
    }

    #[test]
    fn room_is_made_once_for_many_however_many_are_in_use() {
        let meters = Meters::<u32, RateMeter>::new(10_000);
        let mut held: Vec<_> = (0..10_000).map(|key| meters.of(&key, at(0))).collect();
        let mut made = 0;
        for key in 10_000..30_000 {
            let is_full = |known: &Known<_, _>| known.meters.len() >= known.room;
            made += usize::from(is_full(&meters.known.lock().unwrap()));
            held.push(meters.of(&key, at(0)));
        }
        assert!((1..=20).contains(&made), "{made} times");
        drop(held);
        (40_000..43_000).for_each(|key| drop(meters.of(&key, at(0))));
        assert!(meters.known.lock().unwrap().meters.len() <= 10_000, "what is not in use any more has gone");
    }

    #[test]
    fn what_is_in_use_is_not_given_up() {
        let meters = Meters::<u32, RateMeter>::new(8);
        let held: Vec<_> = (0..20).map(|key| meters.of(&key, at(0))).collect();
        for (key, meter) in (0..).zip(&held) {
            assert!(Arc::ptr_eq(&meters.of(&key, at(100)), meter), "{key}");
        }
        drop(held);
        meters.of(&99, at(100));
        assert_eq!(meters.known.lock().unwrap().meters.len(), 1, "nothing of them counts any more");
    }
}
