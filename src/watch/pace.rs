//! How much a token is used, and when that is too much.

use crate::{
    time::UnixTime,
    watch::{
        Habits, Spike,
        habits::{DAY, HOUR},
    },
};

/// Half of the busiest hour is forgotten in so many hours: what happens once in a quarter is still known by then.
const HALF_LIFE: f64 = 720.0;

impl Habits {
    /// Begins another hour if it is time, with `total` requests before it; says whether it did.
    pub(super) fn turn_to(&mut self, now: UnixTime, total: u64) -> bool {
        let begun = hour_of(now);
        match self.hour {
            Some(hour) if hour == begun => return false,
            // The clock was set back, and what it counted before means nothing.
            Some(hour) if hour > begun => {}
            Some(hour) => {
                // The hour that ends is as long ago as the busiest one was by then.
                let hours = begun.since(hour).as_secs() as f64 / 3600.0;
                let left = self.busiest(total) as f64 * (-hours / HALF_LIFE).exp2();
                self.usual_milli = left as u64;
            }
            None => {}
        }
        (self.hour, self.before_hour) = (Some(begun), total);
        true
    }

    /// A thousand times the requests of the busiest hour, this one included.
    pub(super) fn busiest(&self, total: u64) -> u64 {
        self.usual_milli.max(total.saturating_sub(self.before_hour).saturating_mul(1000))
    }

    /// How many requests of this hour are too many, if they are and it was not said yet.
    pub(super) fn spikes(&self, spike: Spike, now: UnixTime, total: u64) -> Option<u64> {
        let requests = total.saturating_sub(self.before_hour);
        let too_many = u128::from(self.usual_milli) * u128::from(spike.factor);
        let has_past = self.since.is_some_and(|since| since.saturating_add(DAY) <= now);
        let told = self.told_spike.is_some_and(|at| Some(hour_of(at)) == self.hour);
        let is_spike = requests >= spike.least && u128::from(requests) * 1000 > too_many;
        (is_spike && has_past && !told).then_some(requests)
    }
}

/// When the hour of the clock began.
pub(super) fn hour_of(time: UnixTime) -> UnixTime {
    let hour = HOUR.as_millis() as i64;
    UnixTime::from_millis(time.as_millis().div_euclid(hour).saturating_mul(hour))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Network, Sharing};

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn hours(hours: i64) -> UnixTime {
        at(hours * 3600)
    }

    fn assert_about(usual_milli: u64, requests: u64) {
        assert!((requests * 990..=requests * 1000).contains(&usual_milli), "{usual_milli} of {requests}");
    }

    #[test]
    fn what_counts_is_the_busiest_hour_of_which_half_is_forgotten_each_month() {
        let mut habits = Habits { since: Some(at(0)), ..Habits::default() };
        assert!(habits.turn_to(hours(0), 0), "the first");
        assert!(!habits.turn_to(hours(0), 50));
        for (hour, total, usual) in [(1, 100, 100), (2, 110, 100), (2 + 720, 110, 50), (723, 1110, 1000)] {
            assert!(habits.turn_to(hours(hour), total));
            assert_about(habits.usual_milli, usual);
        }
    }

    #[test]
    fn the_last_hour_of_a_key_that_slept_is_forgotten_like_any_other() {
        let mut habits = Habits { since: Some(at(0)), ..Habits::default() };
        habits.turn_to(hours(0), 0);
        habits.turn_to(hours(6 * 720), 64_000);
        assert_about(habits.usual_milli, 1000);
        assert_eq!(habits.spikes(Spike::default(), hours(6 * 720), 75_000), Some(11_000));
    }

    #[test]
    fn a_job_that_runs_each_quarter_is_usual() {
        let mut habits = Habits { since: Some(at(0)), ..Habits::default() };
        let mut total = 0;
        for quarter in 0..8 {
            for hour in 0..2 {
                habits.turn_to(hours(quarter * 92 * 24 + hour), total);
                total += if hour == 0 { 5000 } else { 10 };
                let told = habits.spikes(Spike::default(), hours(quarter * 92 * 24 + hour), total);
                assert_eq!(told, None, "quarter {quarter}");
            }
        }
    }

    #[test]
    fn a_successor_knows_the_hour_that_is_being_counted() {
        let mut habits = Habits { since: Some(hours(-48)), ..Habits::default() };
        habits.turn_to(hours(0), 500);
        let mut next = habits.inherited(10_500);
        assert_eq!(next.usual_milli, 10_000_000);
        assert!(!next.turn_to(hours(0), 0), "the hour goes on");
        assert_eq!(next.spikes(Spike::default(), hours(0), 20_000), None);
        next.turn_to(hours(720), 20_000);
        assert_about(next.usual_milli, 10_000);
    }

    #[test]
    fn a_spike_is_many_times_the_usual_and_a_number_worth_looking_at() {
        let now = at(2 * 86_400);
        let spike = Spike { factor: 10, least: 1000 };
        let habits = |usual: u64, since: i64| Habits {
            usual_milli: usual * 1000,
            since: Some(at(since)),
            hour: Some(hour_of(now)),
            before_hour: 500,
            ..Habits::default()
        };
        for (name, usual, since, total, expected) in [
            ("ten times is not more", 100, 0, 1500, None),
            ("more than ten times", 100, 0, 1501, Some(1001)),
            ("few in all", 1, 0, 1499, None),
            ("many in all", 1, 0, 1500, Some(1000)),
            ("never used before", 0, 0, 1500, Some(1000)),
            ("the first day", 1, 2 * 86_400 - 86_399, 10_000, None),
            ("counted backwards", 1, 0, 100, None),
            ("without an end", u64::MAX / 1000, 0, u64::MAX, Some(u64::MAX - 500)),
        ] {
            assert_eq!(habits(usual, since).spikes(spike, now, total), expected, "{name}");
        }
        let told = Habits { told_spike: Some(now), ..habits(1, 0) };
        assert_eq!(told.spikes(spike, now, 5000), None, "it was said");
    }

    #[test]
    fn a_clock_that_is_set_back_begins_an_hour() {
        let mut habits = Habits { since: Some(at(-9 * 86_400)), ..Habits::default() };
        habits.turn_to(at(86_400), 100);
        assert!(habits.turn_to(at(0), 5000));
        assert_eq!((habits.hour, habits.before_hour, habits.usual_milli), (Some(hour_of(at(0))), 5000, 0));
        assert_eq!(habits.spikes(Spike::default(), at(0), 5999), None);
        assert_eq!(habits.spikes(Spike::default(), at(0), 6000), Some(1000));
        let network = Network::of([192, 0, 2, 7].into());
        habits.see_network(network, at(86_400), DAY);
        assert_eq!(habits.networks_within(Sharing::default(), at(0)), 0);
        habits.see_network(network, at(0), DAY);
        assert_eq!(habits.networks_within(Sharing::default(), at(0)), 1);
    }
}
