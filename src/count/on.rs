//! Counting for real.

use std::{
    cell::Cell,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use super::Cache;
use crate::{
    error::Scheme,
    time::{Stopwatch, UnixTime},
};

/// How often; it never goes back.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Threads share this many rows, each in turn as it counts for the first time. A power of two.
const ROWS: usize = 16;

/// What every accepted request adds to, alone on its cache lines.
#[repr(align(128))]
struct Row {
    accepted: [Counter; Scheme::ALL.len()],
    hits: [Counter; 3],
}

static TABLE: [Row; ROWS] = [const {
    Row { accepted: [const { Counter::new() }; Scheme::ALL.len()], hits: [const { Counter::new() }; 3] }
}; ROWS];

static NEXT_ROW: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Plus one; zero is none yet.
    static MY_ROW: Cell<usize> = const { Cell::new(0) };
}

#[inline]
fn my_row() -> &'static Row {
    let mine = MY_ROW.get();
    let mine = if mine == 0 { take_row() } else { mine };
    let [first, ..] = &TABLE;
    TABLE.get(mine & (ROWS - 1)).unwrap_or(first)
}

#[cold]
fn take_row() -> usize {
    let mine = (NEXT_ROW.fetch_add(1, Relaxed) & (ROWS - 1)) + 1;
    MY_ROW.set(mine);
    mine
}

/// A request was accepted.
#[inline]
pub(crate) fn accepted(by: Scheme) {
    if let Some(counter) = my_row().accepted.get(by as usize) {
        counter.add(1);
    }
}

/// A cache knew the answer.
#[inline]
pub(crate) fn hit(cache: Cache) {
    if let Some(counter) = my_row().hits.get(cache as usize) {
        counter.add(1);
    }
}

pub(crate) fn accepted_by(by: Scheme) -> u64 {
    TABLE.iter().filter_map(|row| row.accepted.get(by as usize)).map(Counter::get).sum()
}

pub(crate) fn hits_in(cache: Cache) -> u64 {
    TABLE.iter().filter_map(|row| row.hits.get(cache as usize)).map(Counter::get).sum()
}

/// Counts by names that stand in the program, so that there is no end of them only in theory. For what is rare.
#[derive(Debug)]
pub(crate) struct Names(Mutex<Vec<(&'static str, u64)>>);

impl Names {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(crate) fn add(&self, name: &'static str) {
        let mut names = lock(&self.0);
        match names.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => names.push((name, 1)),
        }
    }

    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        lock(&self.0).clone()
    }
}

/// How much there is of something in all places where it is.
#[derive(Debug)]
pub(crate) struct Sum(AtomicI64);

impl Sum {
    pub(crate) const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// How much of it is in one place; nothing more once it is dropped.
#[derive(Debug)]
pub(crate) struct Level {
    sum: &'static Sum,
    here: AtomicI64,
}

impl Level {
    pub(crate) fn of(sum: &'static Sum) -> Self {
        Self { sum, here: AtomicI64::new(0) }
    }

    pub(crate) fn set(&self, amount: usize) {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        let before = self.here.swap(amount, Relaxed);
        self.sum.0.fetch_add(amount.wrapping_sub(before), Relaxed);
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The times of what is done again and again in several places, of which the oldest is told.
#[derive(Debug)]
pub(crate) struct Oldest(Mutex<Vec<(u64, UnixTime)>>);

impl Oldest {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// `None` while it was done nowhere.
    pub(crate) fn get(&self) -> Option<UnixTime> {
        lock(&self.0).iter().map(|(_, at)| *at).min()
    }
}

/// When it was done last in one place.
#[derive(Debug)]
pub(crate) struct Stamp {
    of: &'static Oldest,
    place: u64,
}

static NEXT_PLACE: AtomicU64 = AtomicU64::new(0);

impl Stamp {
    pub(crate) fn of(of: &'static Oldest) -> Self {
        Self { of, place: NEXT_PLACE.fetch_add(1, Relaxed) }
    }

    pub(crate) fn set(&self, at: UnixTime) {
        let mut places = lock(&self.of.0);
        match places.iter_mut().find(|(place, _)| *place == self.place) {
            Some(place) => place.1 = at,
            None => places.push((self.place, at)),
        }
    }
}

impl Drop for Stamp {
    fn drop(&mut self) {
        lock(&self.of.0).retain(|(place, _)| *place != self.place);
    }
}

/// How long something took that is long enough to be measured. The recorder is told at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timer(Stopwatch);

impl Timer {
    pub(crate) fn start() -> Self {
        Self(Stopwatch::start())
    }

    /// A verdict that had to be waited for.
    pub(crate) fn observe_verdict(self, by: Scheme) {
        let elapsed = self.seconds();
        ::metrics::histogram!("keyward_verdict_duration_seconds", "method" => by.as_str()).record(elapsed);
    }

    /// A JWT that was not seen before.
    #[cfg(feature = "_jwt")]
    pub(crate) fn observe_verification(self) {
        ::metrics::histogram!("keyward_jwt_verification_duration_seconds").record(self.seconds());
    }

    /// A batch of uses.
    pub(crate) fn observe_flush(self) {
        ::metrics::histogram!("keyward_usage_flush_duration_seconds").record(self.seconds());
    }

    fn seconds(self) -> f64 {
        let elapsed: Duration = self.0.elapsed();
        elapsed.as_secs_f64()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_several_places_add_up_and_vanish_with_them() {
        static SUM: Sum = Sum::new();
        let (here, there) = (Level::of(&SUM), Level::of(&SUM));
        here.set(5);
        there.set(2);
        here.set(3);
        assert_eq!(SUM.get(), 5);
        drop(here);
        assert_eq!(SUM.get(), 2);
        drop(there);
        assert_eq!(SUM.get(), 0);
    }

    #[test]
    fn the_oldest_time_is_that_of_the_place_that_is_behind() {
        static OLDEST: Oldest = Oldest::new();
        let at = UnixTime::from_millis;
        assert_eq!(OLDEST.get(), None);
        let (here, there) = (Stamp::of(&OLDEST), Stamp::of(&OLDEST));
        here.set(at(5));
        there.set(at(9));
        assert_eq!(OLDEST.get(), Some(at(5)));
        here.set(at(20));
        assert_eq!(OLDEST.get(), Some(at(9)));
        drop(there);
        assert_eq!(OLDEST.get(), Some(at(20)));
    }

    #[test]
    fn threads_beyond_the_rows_lose_nothing() {
        let before = hits_in(Cache::Refused);
        std::thread::scope(|threads| {
            for _ in 0..3 * ROWS {
                threads.spawn(|| (0..1000).for_each(|_| hit(Cache::Refused)));
            }
        });
        assert!(hits_in(Cache::Refused) - before >= 3 * ROWS as u64 * 1000);
    }

    #[test]
    fn names_are_counted_apart() {
        let names = Names::new();
        ["a", "b", "a"].into_iter().for_each(|name| names.add(name));
        assert_eq!(names.read(), [("a", 2), ("b", 1)]);
    }
}
