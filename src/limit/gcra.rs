//! The generic cell rate algorithm (ITU-T I.371, annex A): a rate limit whose state is one number.
//!
//! The number is the theoretical arrival time: when the requests so far would have ended if they had come
//! evenly. A request is let through as long as that is not further ahead than the whole burst.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::{limit::RateLimit, time::UnixTime};

const NANOS_PER_MILLI: i64 = 1_000_000;
const NANOS_PER_MICRO: i64 = 1_000;

/// A rate limit in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gcra {
    /// Between two requests that come evenly. Rounded up, so that it is never more than was said.
    interval: i64,
    /// How far ahead of the time requests may be: as many intervals as requests.
    burst: i64,
}

/// Where a rate limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// How many requests could follow at once.
    pub(crate) left: u32,
    /// In how many nanoseconds nothing of it is used any more.
    pub(crate) full_in: i64,
    /// For how many nanoseconds the next request would be refused.
    pub(crate) retry_in: i64,
}

/// What becomes of a request, and of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    pub(crate) state: i64,
    pub(crate) level: Level,
}

impl Gcra {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let requests = i64::from(limit.requests().get());
        let period = i64::try_from(limit.period().as_nanos()).unwrap_or(i64::MAX / 2);
        let interval = period.saturating_add(requests - 1) / requests;
        Self { interval, burst: interval.saturating_mul(requests) }
    }

    /// What becomes of a request at `now`. A state further ahead than the burst is from before the clock
    /// was set back: then the burst counts as used, and nobody waits until the old time comes again.
    pub(crate) fn decide(self, state: i64, now: i64) -> Decision {
        let base = self.within_burst(state, now);
        let next = base.saturating_add(self.interval);
        if next.saturating_sub(now) > self.burst {
            return Decision { allowed: false, state: base, level: self.level(base, now) };
        }
        Decision { allowed: true, state: next, level: self.level(next, now) }
    }

    /// Where it stands at `now`.
    pub(crate) fn level(self, state: i64, now: i64) -> Level {
        let full_in = self.within_burst(state, now).saturating_sub(now);
        let free = self.burst - full_in;
        Level {
            left: u32::try_from(free / self.interval).unwrap_or(u32::MAX),
            full_in,
            retry_in: (self.interval - free).max(0),
        }
    }

    /// What others are told of it: its interval, its burst and how far `state` is ahead of `now`, in microseconds,
    /// since nanoseconds since 1970 are lost in the floats of Redis. An interval is rounded up, so that it is never
    /// more than was said, and everything else goes by intervals.
    pub(crate) fn in_micros(self, state: i64, now: i64) -> (i64, i64, i64) {
        let interval = self.micros();
        let ahead = self.within_burst(state, now).saturating_sub(now);
        (interval, interval.saturating_mul(self.burst / self.interval), scale(ahead, interval, self.interval))
    }

    /// So many of those microseconds, in nanoseconds.
    fn nanos_of(self, ahead: i64) -> i64 {
        // Rounded down, so that what others leave free is free here.
        let nanos = i128::from(ahead) * i128::from(self.interval) / i128::from(self.micros());
        i64::try_from(nanos).unwrap_or(i64::MAX)
    }

    fn micros(self) -> i64 {
        self.interval.saturating_add(NANOS_PER_MICRO - 1) / NANOS_PER_MICRO
    }

    fn within_burst(self, state: i64, now: i64) -> i64 {
        state.clamp(now, now.saturating_add(self.burst))
    }
}

/// `value` as so many `to` for each `from`, rounded up.
fn scale(value: i64, to: i64, from: i64) -> i64 {
    let (value, to, from) = (i128::from(value), i128::from(to), i128::from(from));
    i64::try_from((value * to + from - 1) / from).unwrap_or(i64::MAX)
}

/// The state of one rate limit, shared by all requests that it counts.
#[derive(Debug, Default)]
pub(crate) struct RateMeter(AtomicI64);

impl RateMeter {
    /// Counts a request at `now`, if there is room for it: exactly one of those that come at once takes the
    /// last place.
    #[inline]
    pub(crate) fn take(&self, rate: Gcra, now: UnixTime) -> Result<Level, Level> {
        let now = nanos(now);
        let mut state = self.0.load(Ordering::Relaxed);
        loop {
            let decision = rate.decide(state, now);
            let answer = if decision.allowed { Ok(decision.level) } else { Err(decision.level) };
            if decision.state == state {
                return answer;
            }
            let set =
                self.0.compare_exchange_weak(state, decision.state, Ordering::Relaxed, Ordering::Relaxed);
            match set {
                Ok(_) => return answer,
                Err(other) => state = other,
            }
        }
    }

    /// Where it stands at `now`.
    pub(crate) fn level(&self, rate: Gcra, now: UnixTime) -> Level {
        rate.level(self.0.load(Ordering::Relaxed), nanos(now))
    }

    /// The same for others; see [`Gcra::in_micros`].
    pub(crate) fn in_micros(&self, rate: Gcra, now: UnixTime) -> (i64, i64, i64) {
        rate.in_micros(self.0.load(Ordering::Relaxed), nanos(now))
    }

    /// Learns that at `now` it was so many microseconds ahead, by what others used as well. Says where it stands.
    pub(crate) fn learn(&self, rate: Gcra, ahead: i64, now: UnixTime) -> Level {
        let now = nanos(now);
        let state = now.saturating_add(rate.nanos_of(ahead));
        // One that is further ahead than the burst is from before the clock was set back.
        let learn = |own| Some(rate.within_burst(own, now).max(state));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, learn);
        rate.level(state, now)
    }

    /// From when on it is as good as new, in nanoseconds since 1970.
    pub(crate) fn new_from(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Nanoseconds since 1970.
#[inline]
pub(crate) fn nanos(time: UnixTime) -> i64 {
    time.as_millis().saturating_mul(NANOS_PER_MILLI)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::VecDeque, time::Duration};

    fn rate(requests: u32, seconds: u64) -> Gcra {
        Gcra::new(RateLimit::new(requests, Duration::from_secs(seconds)).unwrap())
    }

    fn at(millis: i64) -> UnixTime {
        UnixTime::from_millis(1_767_225_600_000 + millis)
    }

    #[test]
    fn the_whole_burst_may_come_at_once_and_then_one_for_each_interval() {
        for (requests, seconds) in [(1, 1), (7, 1), (100, 60), (3, 86_400), (1_000_000, 1)] {
            let (meter, rate) = (RateMeter::default(), rate(requests, seconds));
            for left in (0..requests).rev() {
                assert_eq!(meter.take(rate, at(0)).map(|level| level.left), Ok(left), "{requests}");
            }
            let refused = meter.take(rate, at(0)).unwrap_err();
            assert_eq!((refused.left, refused.retry_in), (0, rate.interval), "{requests} in {seconds} s");
            let wait = rate.interval.div_euclid(NANOS_PER_MILLI) + 1;
            assert!(meter.take(rate, at(wait)).is_ok());
            let all = i64::try_from(seconds).unwrap() * 2000 + 1;
            assert_eq!(meter.level(rate, at(all)).left, requests, "in time all of it is there again");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_costs_one_burst_at_most() {
        let (meter, rate) = (RateMeter::default(), rate(2, 10));
        assert!(meter.take(rate, at(3_600_000)).is_ok());
        assert!(meter.take(rate, at(0)).is_err(), "the state is from the future");
        assert!(meter.take(rate, at(4_999)).is_err());
        assert!(meter.take(rate, at(5_000)).is_ok(), "after one interval by the new clock");
    }

    #[test]
    fn the_ends_of_time_neither_panic_nor_open_it() {
        for now in [UnixTime::MAX, UnixTime::from_millis(i64::MIN), UnixTime::EPOCH] {
            let (meter, rate) = (RateMeter::default(), rate(u32::MAX, 86_400));
            for _ in 0..3 {
                let _ = meter.take(rate, now);
            }
            let _ = meter.level(rate, UnixTime::EPOCH);
        }
    }

    #[test]
    fn one_of_many_at_once_takes_the_last_place() {
        let (meter, rate) = (RateMeter::default(), rate(1000, 86_400));
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| meter.take(rate, at(0)).is_ok()).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn what_others_learn_of_it_is_what_they_would_count() {
        for (requests, seconds) in [(1, 1), (7, 1), (100, 60), (3, 86_400), (999_999, 1), (3_000_000, 1)] {
            let rate = rate(requests, seconds);
            let (own, other) = (RateMeter::default(), RateMeter::default());
            for taken in 1..=requests.min(1000) {
                own.take(rate, at(0)).unwrap();
                let (interval, burst, ahead) = own.in_micros(rate, at(0));
                assert_eq!(burst, interval * i64::from(requests));
                assert_eq!(ahead, interval * i64::from(taken), "{taken} of {requests} in {seconds} s");
                let level = other.learn(rate, ahead, at(0));
                assert_eq!(level.left, requests - taken);
                assert_eq!(other.level(rate, at(0)).left, requests - taken);
            }
        }
        let (meter, rate) = (RateMeter::default(), rate(10, 10));
        meter.learn(rate, 5_000_000, at(0));
        meter.learn(rate, 2_000_000, at(0));
        assert_eq!(meter.level(rate, at(0)).left, 5, "what is known already stays");
        meter.learn(rate, 2_000_000, at(-60_000));
        assert_eq!(meter.level(rate, at(-60_000)).left, 0, "a clock that was set back costs one burst");
        meter.learn(rate, i64::MAX, at(0));
        assert_eq!(meter.level(rate, at(0)).left, 0);
    }

    proptest! {
        /// Against a queue of limited length that is served evenly.
        #[test]
        fn it_is_a_queue_of_limited_length(
            requests in 1u32..20,
            seconds in 1u64..100,
            gaps in prop::collection::vec(0i64..20_000, 1..200),
        ) {
            let (meter, rate) = (RateMeter::default(), rate(requests, seconds));
            let (mut now, mut queue) = (0, VecDeque::new());
            for gap in gaps {
                now += gap;
                let nanos = nanos(at(now));
                while queue.front().is_some_and(|end| *end <= nanos) {
                    queue.pop_front();
                }
                let fits = queue.len() < requests as usize;
                if fits {
                    let start = queue.back().copied().unwrap_or(nanos);
                    queue.push_back(start + rate.interval);
                }
                let level = meter.take(rate, at(now));
                prop_assert_eq!(level.is_ok(), fits);
                let (Ok(level) | Err(level)) = level;
                prop_assert_eq!(level.left as usize, requests as usize - queue.len());
                prop_assert_eq!(level.full_in, queue.back().map_or(0, |end| end - nanos));
            }
        }
    }
}
