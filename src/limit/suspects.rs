//! Addresses that failed lately: a small set that forgets the least.

use std::{net::IpAddr, time::Duration};

use crate::time::UnixTime;

/// How many addresses a set holds.
pub(crate) const WAYS: usize = 16;

/// How long failures count, in milliseconds from the first of them.
const MINUTE: i64 = 60_000;

/// Between two look-ups that an address which is over its limit may cost, in milliseconds: ten a second.
const COST_INTERVAL: i64 = 100;

/// So many of them at once.
const COST_BURST: i64 = 10 * COST_INTERVAL;

/// What failures are counted by: an IPv4 address, the /64 of an IPv6 address, or all whose address is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Suspect(u64);

impl From<Suspect> for u64 {
    fn from(suspect: Suspect) -> Self {
        suspect.0
    }
}

impl Suspect {
    /// Groups of multicast addresses, which nobody sends from.
    const NOBODY: Self = Self(u64::MAX - 1);
    const UNKNOWN: Self = Self(u64::MAX);
    /// Before an IPv4 address. The /64s that begin like this are reserved (RFC 4291, section 2.4).
    const V4: u64 = 0xffff << 32;

    #[inline]
    pub(crate) fn of(client_ip: Option<IpAddr>) -> Self {
        match client_ip.map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(v4)) => Self(Self::V4 | u64::from(v4.to_bits())),
            Some(IpAddr::V6(v6)) => Self((v6.to_bits() >> 64) as u64),
            None => Self::UNKNOWN,
        }
    }
}

/// Some of the addresses that failed, no more than there are ways.
#[derive(Debug, Default)]
pub(crate) struct Set([Record; WAYS]);

/// What is known of one address.
#[derive(Clone, Copy, Debug)]
struct Record {
    suspect: Suspect,
    /// When its minute began.
    since: i64,
    /// By when what it cost beyond its limit would have been within its budget.
    costs: i64,
    failures: u32,
    /// Credentials that are being looked up.
    under_way: u32,
    /// Whether it was told that it is over its limit, in this minute and in the one before.
    told: [bool; 2],
}

impl Default for Record {
    fn default() -> Self {
        Self {
            suspect: Suspect::NOBODY,
            since: i64::MIN,
            costs: i64::MIN,
            failures: 0,
            under_way: 0,
            told: [false; 2],
        }
    }
}

/// The address had failed as often as it may already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// Whether it is the first time since it kept the limit for a whole minute.
    pub(crate) is_first: bool,
    /// In what time it may try again.
    pub(crate) wait: Duration,
}

/// What a look-up for an address may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Costing {
    /// It counts as a failure that may come.
    Reserved,
    /// The address is over its limit, but within its budget.
    Budget,
    /// As many are under way as failures are allowed.
    Full,
    Refused(Over),
}

impl Set {
    /// Counts a failure, unless there were as many as allowed already.
    pub(crate) fn fail(&mut self, suspect: Suspect, limit: u32, now: UnixTime) -> Result<(), Over> {
        let record = self.find_or_make(suspect, now.as_millis());
        if record.failures >= limit {
            return Err(record.over(now));
        }
        if record.failures == 0 {
            record.since = now.as_millis();
        }
        record.failures += 1;
        Ok(())
    }

    /// Learns that the address failed too often elsewhere as well, and was told so. That counts for `left` yet.
    pub(crate) fn learn_over(&mut self, suspect: Suspect, limit: u32, left: Duration, now: UnixTime) {
        let record = self.find_or_make(suspect, now.as_millis());
        let left = i64::try_from(left.as_millis()).unwrap_or(MINUTE).min(MINUTE);
        record.failures = record.failures.max(limit);
        record.since = now.as_millis().saturating_sub(MINUTE - left);
        record.told[0] = true;
    }

    #[cfg_attr(not(feature = "_jwt"), allow(dead_code, reason = "only JWTs are judged by it"))]
    pub(crate) fn is_over(&mut self, suspect: Suspect, limit: u32, now: UnixTime) -> bool {
        let record = self.find(suspect);
        record.is_some_and(|record| {
            record.turn_to(now.as_millis());
            record.failures >= limit
        })
    }

    /// Begins a look-up, if it may be.
    pub(crate) fn enter(&mut self, suspect: Suspect, limit: u32, now: UnixTime) -> Costing {
        let record = self.find_or_make(suspect, now.as_millis());
        if record.failures < limit {
            if record.failures.saturating_add(record.under_way) >= limit {
                return Costing::Full;
            }
            record.under_way += 1;
            return Costing::Reserved;
        }
        let now_millis = now.as_millis();
        let costs = record.costs.clamp(now_millis, now_millis.saturating_add(COST_BURST));
        let next = costs.saturating_add(COST_INTERVAL);
        if next.saturating_sub(now_millis) > COST_BURST {
            record.costs = costs;
            // By then another credential of this address can be looked up.
            return Costing::Refused(Over { wait: Duration::from_secs(1), ..record.over(now) });
        }
        record.costs = next;
        Costing::Budget
    }

    /// Ends a look-up.
    pub(crate) fn leave(&mut self, suspect: Suspect, reserved: bool) {
        if let Some(record) = self.find(suspect).filter(|_| reserved) {
            record.under_way = record.under_way.saturating_sub(1);
        }
    }

    /// Notes that somebody is told that the address is over its limit.
    pub(crate) fn tell(&mut self, suspect: Suspect, over: Over) -> Over {
        if let Some(record) = self.find(suspect) {
            record.told[0] = true;
        }
        over
    }

    fn find(&mut self, suspect: Suspect) -> Option<&mut Record> {
        self.0.iter_mut().find(|record| record.suspect == suspect)
    }

    /// The record of `suspect`, in the place of the one that counts least if there is none.
    #[expect(clippy::indexing_slicing, reason = "the index comes from the array itself")]
    fn find_or_make(&mut self, suspect: Suspect, now: i64) -> &mut Record {
        let known = self.0.iter().position(|record| record.suspect == suspect);
        let at = known.unwrap_or_else(|| {
            let weights = self.0.iter().map(|record| (record.weight(now), record.since)).enumerate();
            weights.min_by_key(|(_, weight)| *weight).map_or(0, |(at, _)| at)
        });
        let record = &mut self.0[at];
        if known.is_none() {
            *record = Record { suspect, since: now, ..Record::default() };
        }
        record.turn_to(now);
        record
    }
}

impl Record {
    /// Begins a new minute if the last one is over.
    fn turn_to(&mut self, now: i64) {
        if now < self.since {
            // The clock was set back.
            self.since = now;
        }
        let elapsed = now.saturating_sub(self.since);
        if elapsed >= MINUTE {
            self.told = [false, self.told[0] && elapsed < 2 * MINUTE];
            self.failures = 0;
            self.since = now;
        }
    }

    fn over(&self, now: UnixTime) -> Over {
        let end = UnixTime::from_millis(self.since.saturating_add(MINUTE));
        Over { is_first: self.told == [false; 2], wait: end.since(now) }
    }

    /// How much would be lost with it.
    fn weight(&self, now: i64) -> u32 {
        let counts = now.saturating_sub(self.since) < MINUTE;
        let failures = if counts { self.failures } else { 0 };
        failures.saturating_add(self.under_way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 5;

    fn suspect(n: u8) -> Suspect {
        Suspect::of(Some([192, 0, 2, n].into()))
    }

    fn at(millis: i64) -> UnixTime {
        UnixTime::from_millis(1_767_225_600_000 + millis)
    }

    fn fail(set: &mut Set, n: u8, times: u32, now: i64) -> u32 {
        (0..times).filter(|_| set.fail(suspect(n), LIMIT, at(now)).is_ok()).count() as u32
    }

    #[test]
    fn a_full_set_forgets_whoever_fails_least_and_of_those_the_oldest() {
        let mut set = Set::default();
        for n in 0..16 {
            // The more the later, but for the first, which has the most.
            fail(&mut set, n, if n == 0 { LIMIT } else { 1 + u32::from(n) / 8 }, i64::from(n));
        }
        for n in 100..107 {
            assert_eq!(fail(&mut set, n, 1, 100), 1);
        }
        let known = |set: &mut Set, n| set.find(suspect(n)).is_some();
        for (n, kept) in [(0, true), (1, false), (7, false), (8, true), (15, true), (106, true)] {
            assert_eq!(known(&mut set, n), kept, "{n}");
        }
        assert_eq!(fail(&mut set, 0, 1, 100), 0, "still over its limit");
        assert_eq!(fail(&mut set, 200, 1, 60_050), 1);
        assert!(!known(&mut set, 0), "its minute is over, so it counts least");
    }

    #[test]
    fn a_minute_begins_with_the_first_failure() {
        let mut set = Set::default();
        assert_eq!(set.enter(suspect(1), LIMIT, at(0)), Costing::Reserved);
        set.leave(suspect(1), true);
        assert_eq!(fail(&mut set, 1, LIMIT, 59_000), LIMIT);
        assert!(set.is_over(suspect(1), LIMIT, at(118_999)));
        let over = set.fail(suspect(1), LIMIT, at(118_999)).unwrap_err();
        assert_eq!(over, Over { is_first: true, wait: Duration::from_millis(1) });
        assert!(!set.is_over(suspect(1), LIMIT, at(119_000)));
    }

    #[test]
    fn a_clock_that_is_set_costs_a_minute_at_most() {
        for set_to in [-3_600_000, 3_600_000] {
            let mut set = Set::default();
            assert_eq!(fail(&mut set, 1, 2 * LIMIT, 0), LIMIT);
            let allowed = if set_to < 0 { 0 } else { LIMIT };
            assert_eq!(fail(&mut set, 1, 2 * LIMIT, set_to), allowed, "{set_to}");
            assert_eq!(fail(&mut set, 1, 2 * LIMIT, set_to + 60_000), LIMIT, "{set_to}");
        }
        for now in [i64::MIN, i64::MAX] {
            let (mut set, now) = (Set::default(), UnixTime::from_millis(now));
            for _ in 0..2 * LIMIT {
                let _ = set.fail(suspect(1), LIMIT, now);
                let _ = set.enter(suspect(1), LIMIT, now);
            }
            assert!(set.is_over(suspect(1), LIMIT, now));
        }
    }

    #[test]
    fn look_ups_under_way_leave_no_room_and_the_budget_is_ten_a_second() {
        let mut set = Set::default();
        let mut enter = |now| set.enter(suspect(1), LIMIT, at(now));
        assert_eq!([0; 5].map(&mut enter), [Costing::Reserved; 5]);
        assert_eq!(enter(0), Costing::Full);
        set.leave(suspect(1), true);
        assert_eq!(set.enter(suspect(1), LIMIT, at(0)), Costing::Reserved, "one is done");
        (0..5).for_each(|_| set.leave(suspect(1), true));
        fail(&mut set, 1, LIMIT, 0);
        let mut enter = |now| matches!(set.enter(suspect(1), LIMIT, at(now)), Costing::Budget);
        assert_eq!((0..20).filter(|_| enter(0)).count(), 10, "at once");
        assert_eq!((0..10_000).filter(|now| enter(*now)).count(), 99, "in ten seconds");
    }
}
