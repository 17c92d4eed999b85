//! Who asks for what is not theirs, told so that nobody can drown other alerts in it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::Event;
use crate::time::UnixTime;

/// After so long a caller is told of as if for the first time.
const HOUR: Duration = Duration::from_secs(3600);

/// How many targets of one caller are told apart; all further ones are one.
const TARGETS: usize = 32;

/// How many callers are told apart.
const CALLERS: usize = 4096;

/// What callers have asked for within the last hour that is not theirs. Each target of a caller is told of the
/// first time, and then the 10th, the 100th and so on: 200 alerts in an hour are the most that a caller can raise.
#[derive(Debug, Default)]
pub(super) struct ForeignAccesses {
    hasher: RandomState,
    callers: Mutex<HashMap<u64, Caller>>,
}

#[derive(Debug)]
struct Caller {
    since: UnixTime,
    targets: HashMap<u64, u64>,
    others: u64,
}

impl ForeignAccesses {
    /// How many accesses the alert `event` stands for, itself included; `None` if it is not to be told.
    pub(super) fn tell(&self, event: &Event) -> Option<u64> {
        let now = event.at;
        let caller = self.hasher.hash_one(&event.actor);
        let target = self.hasher.hash_one((&event.owner, event.token, &event.reason));
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= CALLERS && !callers.contains_key(&caller) {
            callers.retain(|_, caller| !caller.is_over(now));
            if callers.len() >= CALLERS {
                // Rather something is told twice than not at all.
                callers.clear();
            }
        }
        let caller = callers.entry(caller).or_insert_with(|| Caller::new(now));
        if caller.is_over(now) {
            *caller = Caller::new(now);
        }
        let count = caller.count(target);
        *count = count.saturating_add(1);
        let before = *count / 10;
        is_power_of_ten(*count).then(|| *count - before)
    }
}

impl Caller {
    fn new(since: UnixTime) -> Self {
        Self { since, targets: HashMap::new(), others: 0 }
    }

    /// Also after the clock was set back.
    fn is_over(&self, now: UnixTime) -> bool {
        self.since > now || self.since.saturating_add(HOUR) <= now
    }

    fn count(&mut self, target: u64) -> &mut u64 {
        if self.targets.len() < TARGETS || self.targets.contains_key(&target) {
            self.targets.entry(target).or_default()
        } else {
            &mut self.others
        }
    }
}

fn is_power_of_ten(count: u64) -> bool {
    count.checked_ilog10().is_some_and(|digits| 10_u64.pow(digits) == count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Alert, id::UserId};

    fn event(caller: &str, target: &str, seconds: i64) -> Event {
        let id = |name: &str| UserId::new(name).unwrap();
        let event = Event::alert(Alert::ForeignAccess).by(&id(caller)).owned_by(&id(target)).because("job");
        Event { at: UnixTime::from_millis(seconds * 1000), ..event }
    }

    #[test]
    fn each_target_is_told_the_first_and_the_tenth_time_and_again_after_an_hour() {
        let accesses = ForeignAccesses::default();
        let told = |caller, target, seconds| accesses.tell(&event(caller, target, seconds));
        let first: Vec<_> = (0..100).map(|_| told("mallory", "bob", 0)).collect();
        for (n, told) in first.iter().enumerate() {
            let expected =
                [(0, 1), (9, 9), (99, 90)].into_iter().find(|(at, _)| *at == n).map(|(_, times)| times);
            assert_eq!(*told, expected, "{n}");
        }
        assert_eq!(told("mallory", "carol", 1), Some(1), "another target");
        assert_eq!(told("eve", "bob", 1), Some(1), "another caller");
        assert_eq!(told("mallory", "bob", 3599), None);
        assert_eq!(told("mallory", "bob", 3600), Some(1));
        assert_eq!(told("mallory", "bob", 0), Some(1), "after the clock was set back");
    }

    #[test]
    fn whoever_goes_through_all_users_is_not_told_of_each() {
        let accesses = ForeignAccesses::default();
        let told = |n: usize| accesses.tell(&event("mallory", &format!("user{n}"), 0));
        let told: Vec<_> = (0..100_000).filter_map(told).collect();
        assert_eq!(told.len(), TARGETS + 5);
        assert_eq!(told.last(), Some(&9000), "of the others");
        assert!(accesses.callers.lock().unwrap().values().all(|caller| caller.targets.len() <= TARGETS));
    }

    #[test]
    fn there_are_never_too_many_callers() {
        let accesses = ForeignAccesses::default();
        for n in 0..3 * CALLERS {
            assert_eq!(accesses.tell(&event(&format!("user{n}"), "bob", 0)), Some(1));
            assert!(accesses.callers.lock().unwrap().len() <= CALLERS);
        }
    }
}
