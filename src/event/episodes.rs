//! What is told once while it goes on.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::time::UnixTime;

/// After so long the same thing is told again.
const HOUR: Duration = Duration::from_secs(3600);

/// How many are told apart.
const CAPACITY: usize = 16_384;

/// Which things were told within the last hour. They are asked about where something is refused, never where
/// something is let through.
#[derive(Debug, Default)]
pub(crate) struct Episodes(Mutex<HashMap<u64, UnixTime>>);

impl Episodes {
    /// Whether what `thing` stands for was not told within the last hour. It is from now on.
    pub(crate) fn begins(&self, thing: u64, now: UnixTime) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |at: UnixTime| at > now || at.saturating_add(HOUR) <= now;
        if told.get(&thing).is_some_and(|at| !is_over(*at)) {
            return false;
        }
        if told.len() >= CAPACITY {
            told.retain(|_, at| !is_over(*at));
        }
        if told.len() >= CAPACITY {
            // Rather something is told twice than not at all.
            told.clear();
        }
        told.insert(thing, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_told_once_an_hour_and_there_are_never_too_many() {
        let (episodes, at) = (Episodes::default(), |seconds: i64| UnixTime::from_millis(seconds * 1000));
        for (seconds, thing, begins) in
            [(0, 1, true), (1, 1, false), (1, 2, true), (3599, 1, false), (3600, 1, true), (3601, 1, false)]
        {
            assert_eq!(episodes.begins(thing, at(seconds)), begins, "{thing} at {seconds}");
        }
        assert!(episodes.begins(1, at(0)), "after the clock was set back");
        for thing in 0..100_000 {
            episodes.begins(thing, at(4000));
            assert!(episodes.0.lock().unwrap().len() <= CAPACITY);
        }
        assert!(!episodes.begins(99_999, at(4000)));
    }
}
