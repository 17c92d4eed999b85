//! How much of a quota is used, and in which calendar period.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use crate::{limit::QuotaPeriod, time::UnixTime};

const MILLIS_PER_DAY: i64 = 86_400_000;

/// From 0000-03-01, with which a year begins here, to 1970-01-01.
const DAYS_BEFORE_1970: u64 = 719_468;

/// In 400 years.
const DAYS_PER_ERA: u64 = 146_097;

/// How much of a quota was used: what a store keeps of it.
///
/// ```
/// use keyward::{limit::{QuotaPeriod, QuotaUse}, time::UnixTime};
///
/// let used = QuotaUse::new(QuotaPeriod::Day, "2026-01-31T00:00:00Z".parse()?, 17);
/// assert_eq!(used.count, 17);
/// # Ok::<(), keyward::time::InvalidTime>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct QuotaUse {
    /// Of which period.
    pub period: QuotaPeriod,
    /// When that period began.
    pub since: UnixTime,
    /// How many requests were let through in it.
    pub count: u32,
}

impl QuotaUse {
    /// `count` requests in the period that began at `since`.
    #[must_use]
    pub const fn new(period: QuotaPeriod, since: UnixTime, count: u32) -> Self {
        Self { period, since, count }
    }

    /// This use on top of what was stored. What was stored of an earlier period is over; what comes late for
    /// a period that is over changes nothing. Where days became months, what was used of the day counts.
    pub(crate) fn added_to(self, stored: Option<Self>) -> Self {
        match stored {
            Some(stored) if stored.since > self.since && stored.period == self.period => stored,
            Some(stored) if stored.since >= self.since => {
                Self { count: stored.count.saturating_add(self.count), ..self }
            }
            _ => self,
        }
    }
}

/// A calendar period, by the numbers of its first day and of the first after it, counted from 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    /// The period in which `now` is.
    pub(crate) fn at(period: QuotaPeriod, now: UnixTime) -> Self {
        let day = day_of(now);
        match period {
            QuotaPeriod::Day => Self { start: day, end: day.saturating_add(1) },
            QuotaPeriod::Month => month_of(day),
        }
    }

    #[inline]
    pub(crate) fn contains(self, now: UnixTime) -> bool {
        (self.start..self.end).contains(&day_of(now))
    }

    /// How long it is, in seconds.
    pub(crate) fn seconds(self) -> u64 {
        u64::from(self.end - self.start) * (MILLIS_PER_DAY as u64 / 1000)
    }

    /// In how many milliseconds it ends.
    #[inline]
    pub(crate) fn ends_in(self, now: UnixTime) -> i64 {
        (i64::from(self.end) * MILLIS_PER_DAY).saturating_sub(now.as_millis()).max(1)
    }
}

/// When the day with this number begins.
fn midnight(day: u32) -> UnixTime {
    UnixTime::from_millis(i64::from(day) * MILLIS_PER_DAY)
}

/// The days before 1970 are one with its first.
#[inline]
fn day_of(time: UnixTime) -> u32 {
    u32::try_from(time.as_millis().max(0) / MILLIS_PER_DAY).unwrap_or(u32::MAX - 1)
}

/// The month of a day in the Gregorian calendar, by years that begin in March so that a leap day is the last.
fn month_of(day: u32) -> Span {
    let since_era = (u64::from(day) + DAYS_BEFORE_1970) % DAYS_PER_ERA;
    let year = (since_era - since_era / 1460 + since_era / 36_524 - since_era / 146_096) / 365;
    let day_of_year = since_era - (365 * year + year / 4 - year / 100);
    // Months of 31 and 30 days take turns, five of them 153 days.
    let first_of = |month: u64| (153 * month + 2) / 5;
    let month = (5 * day_of_year + 2) / 153;
    let next_year = year + 1;
    let is_leap =
        next_year.is_multiple_of(4) && (!next_year.is_multiple_of(100) || next_year.is_multiple_of(400));
    let end_of_year = 365 + u64::from(is_leap);
    let gone = (day_of_year - first_of(month)) as u32;
    let left = (first_of(month + 1).min(end_of_year) - day_of_year) as u32;
    Span { start: day.saturating_sub(gone), end: day.saturating_add(left) }
}

/// How much of a token's quota is used, and how much of that the store knows.
#[derive(Debug, Default)]
pub(crate) struct QuotaMeter {
    /// The first day of the period in the upper half, what is used of it in the lower.
    used: AtomicU64,
    books: Mutex<Books>,
}

/// What of the used is written, and what is not this process's own.
#[derive(Debug, Default)]
struct Books {
    since: u32,
    written: u32,
    being_written: u32,
    /// What others used, as far as the store said.
    foreign: u32,
}

impl Books {
    /// Begins anew if a new period has begun.
    fn turn_to(&mut self, start: u32) {
        let before = std::mem::take(self);
        if before.since >= start {
            *self = before;
        }
        self.since = start;
    }

    fn own_known(&self) -> u32 {
        self.written.saturating_add(self.being_written)
    }
}

impl QuotaMeter {
    /// Counts one request of `quota` in `span`, if there is room for it, and says how many are left: exactly
    /// one of those that come at once takes the last one.
    #[inline]
    pub(crate) fn take(&self, quota: u32, span: Span) -> Option<u32> {
        let mut state = self.used.load(Ordering::Relaxed);
        loop {
            let used = used_since(state, span.start);
            let left = quota.checked_sub(used)?.checked_sub(1)?;
            let next = pack(span.start, used + 1);
            match self.used.compare_exchange_weak(state, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(left),
                Err(other) => state = other,
            }
        }
    }

    /// How much is used in `span`, as far as this process knows.
    pub(crate) fn used(&self, span: Span) -> u32 {
        used_since(self.used.load(Ordering::Relaxed), span.start)
    }

    /// Counts a request that was let through by whoever counts for all, who knows of `total` with this one. Answers
    /// come in any order: what `total` has more than this process knows may be its own requests, on which the
    /// answer is still to come.
    pub(crate) fn count_of(&self, total: u32, span: Span) {
        let mut books = self.books();
        books.turn_to(span.start);
        let (before, mut foreign) = (books.foreign, 0);
        let count = |state| {
            let used = used_since(state, span.start);
            let own = used.saturating_sub(before).saturating_add(1);
            let used = used.max(total).max(own);
            foreign = used - own;
            Some(pack(span.start, used))
        };
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        books.foreign = foreign;
    }

    /// Learns that `total` are used by all.
    pub(crate) fn learn_total(&self, total: u32, span: Span) {
        let mut books = self.books();
        books.turn_to(span.start);
        let mut more = 0;
        let add = |state| {
            let used = used_since(state, span.start);
            more = total.saturating_sub(used);
            (more > 0).then(|| pack(span.start, total))
        };
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok() {
            books.foreign = books.foreign.saturating_add(more);
        }
    }

    /// How many are left of `quota` in `span`.
    #[cfg(test)]
    pub(crate) fn left(&self, quota: u32, span: Span) -> u32 {
        quota.saturating_sub(used_since(self.used.load(Ordering::Relaxed), span.start))
    }

    /// Takes note of what the store knows. It may know less than was written since it was asked, and may know
    /// what is being written, so neither counts as the use of others.
    pub(crate) fn learn(&self, stored: QuotaUse, span: Span) {
        let mut books = self.books();
        let since = day_of(stored.since);
        // What lies ahead of now was written before the clock was set back. Nobody else knows of it.
        let is_new = self.used.load(Ordering::Relaxed) == 0;
        if since < span.start || (since >= span.end && !is_new) {
            return;
        }
        books.turn_to(span.start);
        let foreign = stored.count.saturating_sub(books.own_known());
        let more = foreign.saturating_sub(books.foreign);
        books.foreign = books.foreign.max(foreign);
        if more > 0 {
            let add = |state| Some(pack(span.start, used_since(state, span.start).saturating_add(more)));
            let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }

    /// What is to be written, which counts as being written until [`wrote`](Self::wrote) or
    /// [`not_written`](Self::not_written).
    pub(crate) fn begin_write(&self, period: QuotaPeriod) -> Option<QuotaUse> {
        let mut books = self.books();
        let (since, own) = self.own(&mut books);
        let count = own.saturating_sub(books.own_known());
        books.being_written = books.being_written.saturating_add(count);
        (count > 0).then(|| QuotaUse::new(period, midnight(since), count))
    }

    pub(crate) fn wrote(&self) {
        let mut books = self.books();
        books.written = books.own_known();
        books.being_written = 0;
    }

    pub(crate) fn not_written(&self) {
        self.books().being_written = 0;
    }

    /// What the store does not know yet.
    pub(crate) fn unwritten(&self, period: QuotaPeriod) -> Option<QuotaUse> {
        let mut books = self.books();
        let (since, own) = self.own(&mut books);
        let count = own.saturating_sub(books.written);
        (count > 0).then(|| QuotaUse::new(period, midnight(since), count))
    }

    /// What this process used, and since when.
    fn own(&self, books: &mut Books) -> (u32, u32) {
        let (since, used) = unpack(self.used.load(Ordering::Relaxed));
        books.turn_to(since);
        (since, used.saturating_sub(books.foreign))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as used in the period that began at `start`: nothing of an earlier one. What lies ahead is from
/// before the clock was set back, or from a day of what is now a month: it counts.
#[inline]
fn used_since(state: u64, start: u32) -> u32 {
    let (since, used) = unpack(state);
    if since < start { 0 } else { used }
}

#[inline]
fn pack(since: u32, used: u32) -> u64 {
    u64::from(since) << 32 | u64::from(used)
}

#[inline]
fn unpack(state: u64) -> (u32, u32) {
    ((state >> 32) as u32, state as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use QuotaPeriod::{Day, Month};
    use proptest::prelude::*;

    fn time(text: &str) -> UnixTime {
        text.parse().unwrap()
    }

    fn span(period: QuotaPeriod, now: &str) -> Span {
        Span::at(period, time(now))
    }

    fn used(period: QuotaPeriod, since: &str, count: u32) -> QuotaUse {
        QuotaUse::new(period, time(since), count)
    }

    #[test]
    fn periods_begin_at_midnight_and_end_with_the_calendar() {
        for (period, now, start, end) in [
            (Day, "2026-01-31T23:59:59.999Z", "2026-01-31T00:00:00Z", "2026-02-01T00:00:00Z"),
            (Day, "2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z"),
            (Month, "2026-01-31T23:59:59.999Z", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            (Month, "2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            (Month, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Month, "2000-02-29T12:00:00Z", "2000-02-01T00:00:00Z", "2000-03-01T00:00:00Z"),
            (Month, "2100-02-28T12:00:00Z", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z"),
            (Month, "2026-12-31T12:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Month, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1970-02-01T00:00:00Z"),
        ] {
            let span = span(period, now);
            assert_eq!((midnight(span.start), midnight(span.end)), (time(start), time(end)), "{now}");
            assert!(span.contains(time(now)) && !span.contains(time(end)), "{now}");
            let ends_in = time(end).since(time(now)).as_millis();
            assert_eq!(span.ends_in(time(now)) as u128, ends_in, "{now}");
        }
        for now in [UnixTime::MAX, UnixTime::from_millis(i64::MIN)] {
            for period in [Day, Month] {
                assert!(Span::at(period, now).ends_in(now) > 0);
            }
        }
    }

    proptest! {
        /// As the date in a formatted time says.
        #[test]
        fn months_are_those_of_the_calendar(millis in 0i64..253_402_300_799_999) {
            let now = UnixTime::from_millis(millis);
            let span = Span::at(Month, now);
            let month = |time: UnixTime| time.to_string().chars().take(7).collect::<String>();
            let first = midnight(span.start).to_string();
            prop_assert_eq!(&first[..7], month(now));
            prop_assert_eq!(&first[7..], "-01T00:00:00.000Z");
            prop_assert!(span.contains(now));
            let end = midnight(span.end).to_string();
            prop_assert_eq!(&end[7..], "-01T00:00:00.000Z");
            let last = UnixTime::from_millis(midnight(span.end).as_millis() - 1);
            prop_assert_eq!(month(last), month(now));
        }
    }

    #[test]
    fn a_quota_is_used_up_and_begins_anew() {
        let meter = QuotaMeter::default();
        let (first, second) = (span(Day, "2026-01-31T12:00:00Z"), span(Day, "2026-02-01T12:00:00Z"));
        let take = |span| meter.take(2, span);
        assert_eq!([take(first), take(first), take(first)], [Some(1), Some(0), None]);
        assert_eq!((meter.left(2, first), meter.left(2, second)), (0, 2));
        assert_eq!([take(second), take(second), take(second)], [Some(1), Some(0), None]);
        assert_eq!(take(first), None, "nor is there more when the clock is set back");
        assert_eq!(meter.take(3, first), Some(0), "but no lock for ever either");
    }

    #[test]
    fn what_is_written_and_what_others_used_is_told_apart() {
        let meter = QuotaMeter::default();
        let day = span(Day, "2026-01-31T12:00:00Z");
        let stored = |count| used(Day, "2026-01-31T00:00:00Z", count);
        meter.learn(stored(5), day);
        assert_eq!(meter.left(10, day), 5, "what was used before this process began");
        meter.take(10, day).unwrap();
        meter.take(10, day).unwrap();
        assert_eq!(meter.begin_write(Day), Some(stored(2)));
        assert_eq!(meter.begin_write(Day), None, "it is on its way");
        for seen in [5, 7] {
            meter.learn(stored(seen), day);
            assert_eq!(meter.left(10, day), 3, "what is being written is in the store or not yet: {seen}");
        }
        meter.not_written();
        assert_eq!(meter.begin_write(Day), Some(stored(2)), "once more");
        meter.take(10, day).unwrap();
        assert_eq!(meter.unwritten(Day), Some(stored(3)));
        meter.wrote();
        assert_eq!(meter.unwritten(Day), Some(stored(1)));
        meter.learn(stored(9), day);
        assert_eq!(meter.left(10, day), 0, "two are used by others: 5 + 2 + 2 + 1");
        meter.learn(stored(7), day);
        assert_eq!(meter.left(10, day), 0, "an old answer gives nothing back");
        assert_eq!(meter.begin_write(Day), Some(stored(1)));
    }

    #[test]
    fn old_periods_are_neither_learnt_nor_written() {
        let meter = QuotaMeter::default();
        let (first, second) = (span(Day, "2026-01-31T12:00:00Z"), span(Day, "2026-02-01T12:00:00Z"));
        meter.take(10, first).unwrap();
        meter.begin_write(Day).unwrap();
        meter.wrote();
        meter.take(10, second).unwrap();
        meter.learn(used(Day, "2026-01-31T00:00:00Z", 9), second);
        assert_eq!(meter.left(10, second), 9);
        assert_eq!(meter.begin_write(Day), Some(used(Day, "2026-02-01T00:00:00Z", 1)));
        meter.learn(used(Day, "2026-02-02T00:00:00Z", 9), second);
        assert_eq!(meter.left(10, second), 9, "a clock ahead of ours is not believed");
    }

    #[test]
    fn days_that_become_months_keep_their_count() {
        let meter = QuotaMeter::default();
        meter.take(10, span(Day, "2026-01-31T12:00:00Z")).unwrap();
        meter.begin_write(Day).unwrap();
        meter.wrote();
        let month = span(Month, "2026-01-31T12:00:00Z");
        assert_eq!(meter.take(10, month), Some(8));
        assert_eq!(meter.begin_write(Month), Some(used(Month, "2026-01-01T00:00:00Z", 1)));
    }

    #[test]
    fn stored_use_is_added_up_within_its_period() {
        let (jan, feb) = ("2026-01-31T00:00:00Z", "2026-02-01T00:00:00Z");
        let (january, february) = ("2026-01-01T00:00:00Z", feb);
        for (name, stored, added, expected) in [
            ("the first", None, used(Day, jan, 3), used(Day, jan, 3)),
            ("more", Some(used(Day, jan, 4)), used(Day, jan, 3), used(Day, jan, 7)),
            ("a new day", Some(used(Day, jan, 4)), used(Day, feb, 3), used(Day, feb, 3)),
            ("late", Some(used(Day, feb, 4)), used(Day, jan, 3), used(Day, feb, 4)),
            ("day to month", Some(used(Day, jan, 4)), used(Month, january, 3), used(Month, january, 7)),
            (
                "day to another month",
                Some(used(Day, jan, 4)),
                used(Month, february, 3),
                used(Month, february, 3),
            ),
            ("month to day", Some(used(Month, january, 4)), used(Day, jan, 3), used(Day, jan, 3)),
            (
                "as many as there can be",
                Some(used(Day, jan, u32::MAX)),
                used(Day, jan, 3),
                used(Day, jan, u32::MAX),
            ),
        ] {
            assert_eq!(added.added_to(stored), expected, "{name}");
        }
    }

    proptest! {
        /// Several processes, whose answers come in any order, while one of them counts alone at times.
        #[test]
        fn what_all_use_is_known_to_each_and_written_by_who_used_it(
            turns in prop::collection::vec((0usize..3, any::<bool>(), 0usize..8), 0..100),
        ) {
            let (month, meters) = (span(Month, "2026-01-31T12:00:00Z"), [(); 3].map(|()| QuotaMeter::default()));
            let (mut total, mut own, mut late) = (0, [0; 3], Vec::new());
            for (process, is_alone, slot) in turns {
                if is_alone {
                    meters[process].take(1_000_000, month).unwrap();
                } else {
                    total = total.max(meters[process].used(month)) + 1;
                    late.insert(slot.min(late.len()), (process, total));
                    if late.len() > 4 {
                        let (process, total) = late.remove(0);
                        meters[process].count_of(total, month);
                    }
                }
                own[process] += 1;
            }
            for (process, total) in late {
                meters[process].count_of(total, month);
            }
            for (meter, own) in meters.iter().zip(own) {
                meter.learn_total(total, month);
                prop_assert!(meter.used(month) >= total.max(own));
                let written = meter.begin_write(Month).map_or(0, |used| used.count);
                prop_assert_eq!(written, own);
            }
        }
    }

    #[test]
    fn one_of_many_at_once_takes_the_last_of_a_quota() {
        let (meter, day) = (QuotaMeter::default(), span(Day, "2026-01-31T12:00:00Z"));
        let (taken, written) = std::thread::scope(|scope| {
            let take = || (0..10_000).filter(|_| meter.take(10_000, day).is_some()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            let writer = scope.spawn(|| {
                let mut written = 0;
                for _ in 0..1000 {
                    written += meter.begin_write(Day).map_or(0, |used| used.count);
                    meter.wrote();
                    meter.learn(used(Day, "2026-01-31T00:00:00Z", written), day);
                }
                written
            });
            let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            (taken, writer.join().unwrap())
        });
        let rest = meter.begin_write(Day).map_or(0, |used| used.count);
        assert_eq!((taken, written + rest), (10_000, 10_000), "none too many, none lost, none written twice");
    }
}
