//! What is known of the use of one token, and the rules about it.

use std::{
    cmp::{Ordering, Reverse},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    time::UnixTime,
    watch::{Network, Sharing, Spike},
};

/// How many networks a token is known to be used from.
pub const MAX_NETWORKS: usize = 16;

/// How many programs a token is known to be used by.
pub const MAX_USER_AGENTS: usize = 8;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Half of the busiest hour is forgotten in so many.
const HALF_LIFE: f64 = 168.0;

/// From where and how a token was used so far, for a [`Watch`](crate::watch::Watch).
///
/// To a store this is one value: as JSON it is at most 2 KiB, without anything that a client wrote. A user agent is
/// kept as a number that is made of it.
///
/// ```
/// use keyward::watch::{Habits, Network};
///
/// let mut habits = Habits::default();
/// habits.networks.push((Network::of("192.0.2.7".parse()?), keyward::time::UnixTime::EPOCH).into());
/// let text = serde_json::to_string(&habits)?;
/// assert_eq!(serde_json::from_str::<Habits>(&text)?, habits);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Habits {
    /// The networks, each with its last use; at most [`MAX_NETWORKS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Sighting<Network>>,
    /// What stands for the programs, each with its last use; at most [`MAX_USER_AGENTS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_agents: Vec<Sighting<u64>>,
    /// When it was first used while somebody watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixTime>,
    /// The hour that is being counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hour: Option<UnixTime>,
    /// How many requests there had been when that hour began.
    pub before_hour: u64,
    /// A thousand times the requests of the busiest hour before, of which half is forgotten each week.
    pub usual_milli: u64,
    /// When there was an alert of a new network last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_network: Option<UnixTime>,
    /// When there was an alert of a new program last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_agent: Option<UnixTime>,
    /// When it was seen to be shared last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_at: Option<UnixTime>,
    /// When there was an alert of a spike last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_spike: Option<UnixTime>,
}

/// Something that was seen, and when it was last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(T, UnixMillis)", into = "(T, UnixMillis)", bound(serialize = "T: Serialize + Copy"))]
#[expect(clippy::exhaustive_structs, reason = "it is a pair")]
pub struct Sighting<T: Copy> {
    /// What was seen.
    pub of: T,
    /// When it was last.
    pub at: UnixTime,
}

/// A time as it is stored here: milliseconds since 1970.
type UnixMillis = i64;

impl<T: Copy> From<(T, UnixMillis)> for Sighting<T> {
    fn from((of, at): (T, UnixMillis)) -> Self {
        Self { of, at: UnixTime::from_millis(at) }
    }
}

impl<T: Copy> From<(T, UnixTime)> for Sighting<T> {
    fn from((of, at): (T, UnixTime)) -> Self {
        Self { of, at }
    }
}

impl<T: Copy> From<Sighting<T>> for (T, UnixMillis) {
    fn from(Sighting { of, at }: Sighting<T>) -> Self {
        (of, at.as_millis())
    }
}

/// What a new sighting means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It was known.
    Known,
    /// It is learnt without a word.
    Learnt,
    /// It is unusual, and so many others were known.
    New(usize),
}

impl Habits {
    /// Adds what others know of the same token. The order does not matter, nor how often it is done.
    ///
    /// `now` is the time by the clock of who adds it, such as [`Usage::last_used`](crate::store::Usage::last_used). What
    /// is dated more than an hour later was noted while a clock was wrong, and gives way; see `settle`.
    pub fn merge(&mut self, other: &Self, now: UnixTime) {
        self.settle(now.saturating_add(HOUR));
        let known = self.networks.iter().chain(&other.networks).copied().collect();
        self.networks = newest(known, MAX_NETWORKS);
        let known = self.user_agents.iter().chain(&other.user_agents).copied().collect();
        self.user_agents = newest(known, MAX_USER_AGENTS);
        self.since = self.since.into_iter().chain(other.since).min();
        // What is usual is that of the newer hour: the older one has forgotten less.
        match self.hour.cmp(&other.hour) {
            Ordering::Less => {
                (self.hour, self.before_hour, self.usual_milli) =
                    (other.hour, other.before_hour, other.usual_milli);
            }
            Ordering::Equal => {
                self.before_hour = self.before_hour.min(other.before_hour);
                self.usual_milli = self.usual_milli.max(other.usual_milli);
            }
            Ordering::Greater => {}
        }
        self.told_network = self.told_network.max(other.told_network);
        self.told_agent = self.told_agent.max(other.told_agent);
        self.shared_at = self.shared_at.max(other.shared_at);
        self.told_spike = self.told_spike.max(other.told_spike);
    }

    /// Takes what is dated later than `now` for what it is: noted by a clock that was wrong. What was seen is known,
    /// but not as of lately; what was said may be said again; and nothing was counted.
    pub(super) fn settle(&mut self, now: UnixTime) {
        let long_ago = now.saturating_sub(DAY);
        for at in self.networks.iter_mut().map(|network| &mut network.at) {
            *at = if *at > now { long_ago } else { *at };
        }
        for at in self.user_agents.iter_mut().map(|agent| &mut agent.at) {
            *at = if *at > now { long_ago } else { *at };
        }
        self.since = self.since.map(|since| since.min(now));
        if self.hour.is_some_and(|hour| hour > now) {
            // An hour that is over, so that the present one takes its place everywhere.
            (self.hour, self.before_hour) = (Some(hour_of(now).saturating_sub(HOUR)), u64::MAX);
        }
        for told in [&mut self.told_network, &mut self.told_agent, &mut self.shared_at, &mut self.told_spike]
        {
            *told = told.filter(|at| *at <= now);
        }
    }

    /// What a token knows that takes the place of this one: all but the count of the hour.
    #[must_use]
    pub fn inherited(&self) -> Self {
        Self { hour: None, before_hour: 0, ..self.clone() }
    }

    /// Learns of a use from `network`.
    pub(super) fn see_network(&mut self, network: Network, now: UnixTime) -> Seen {
        let is_first = self.since.is_none();
        self.since.get_or_insert(now);
        let seen = see(&mut self.networks, network, now, MAX_NETWORKS, self.told_network);
        match seen {
            Seen::New(0) => Seen::Learnt,
            Seen::New(_) if is_first => Seen::Learnt,
            seen => seen,
        }
    }

    /// When it was used from `network` last.
    pub(super) fn last_seen(&self, network: Network) -> Option<UnixTime> {
        self.networks.iter().find(|sighting| sighting.of == network).map(|sighting| sighting.at)
    }

    /// Notes that it was used from `network` until `at`.
    pub(super) fn leave(&mut self, network: Network, at: UnixTime) {
        if let Some(sighting) = self.networks.iter_mut().find(|sighting| sighting.of == network) {
            sighting.at = sighting.at.max(at);
        }
    }

    /// Learns of a use by the program that `agent` stands for. The first of them is no surprise.
    pub(super) fn see_agent(&mut self, agent: u64, now: UnixTime) -> Seen {
        match see(&mut self.user_agents, agent, now, MAX_USER_AGENTS, self.told_agent) {
            Seen::New(0) => Seen::Learnt,
            seen => seen,
        }
    }

    /// From how many networks it was used lately.
    pub(super) fn networks_within(&self, sharing: Sharing, now: UnixTime) -> u32 {
        let from = now.saturating_sub(sharing.within);
        self.networks.iter().filter(|network| network.at > from && network.at <= now).count() as u32
    }

    /// Whether it was shared lately: then that it still is is no news.
    pub(super) fn is_shared(&self, sharing: Sharing, now: UnixTime) -> bool {
        self.shared_at.is_some_and(|at| at <= now && at.saturating_add(sharing.within) >= now)
    }

    /// Begins another hour if it is time, with `total` requests before it; says whether it did.
    pub(super) fn turn_to(&mut self, now: UnixTime, total: u64) -> bool {
        let begun = hour_of(now);
        match self.hour {
            Some(hour) if hour == begun => return false,
            // The clock was set back, and what it counted before means nothing.
            Some(hour) if hour > begun => {}
            Some(hour) => {
                let hours = begun.since(hour).as_secs() as f64 / 3600.0;
                let left = self.usual_milli as f64 * (-hours / HALF_LIFE).exp2();
                let counted = total.saturating_sub(self.before_hour).saturating_mul(1000);
                self.usual_milli = counted.max(left as u64);
            }
            None => {}
        }
        (self.hour, self.before_hour) = (Some(begun), total);
        true
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

fn hour_of(time: UnixTime) -> UnixTime {
    let hour = HOUR.as_millis() as i64;
    UnixTime::from_millis(time.as_millis().div_euclid(hour).saturating_mul(hour))
}

/// Notes a sighting. Where as many are known as there is room for, one is forgotten for each new one, which may have
/// been usual: so there is a surprise once a day at most.
fn see<T: Copy + PartialEq>(
    known: &mut Vec<Sighting<T>>,
    of: T,
    now: UnixTime,
    room: usize,
    told: Option<UnixTime>,
) -> Seen {
    if let Some(sighting) = known.iter_mut().find(|sighting| sighting.of == of) {
        // Also back, with the clock.
        sighting.at = now;
        return Seen::Known;
    }
    let others = known.len();
    if others >= room
        && let Some(oldest) = (0..others).min_by_key(|at| known.get(*at).map(|sighting| sighting.at))
    {
        known.swap_remove(oldest);
        known.push((of, now).into());
        let lately = told.is_some_and(|at| at <= now && at.saturating_add(DAY) > now);
        return if lately { Seen::Learnt } else { Seen::New(others) };
    }
    known.push((of, now).into());
    Seen::New(others)
}

/// The newest of `sightings`, each thing once.
fn newest<T: Copy + PartialEq>(mut sightings: Vec<Sighting<T>>, room: usize) -> Vec<Sighting<T>> {
    sightings.sort_by_key(|sighting| Reverse(sighting.at));
    let mut newest: Vec<Sighting<T>> = Vec::new();
    for sighting in sightings {
        if newest.len() < room && newest.iter().all(|other| other.of != sighting.of) {
            newest.push(sighting);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn network(n: u64) -> Network {
        Network::of(std::net::Ipv4Addr::from_bits(n as u32).into())
    }

    #[test]
    fn a_network_is_new_once_and_the_first_use_is_no_surprise() {
        let mut habits = Habits::default();
        for (n, seen) in [
            (1, Seen::Learnt),
            (1, Seen::Known),
            (2, Seen::New(1)),
            (2, Seen::Known),
            (1, Seen::Known),
            (3, Seen::New(2)),
        ] {
            assert_eq!(habits.see_network(network(n), at(0)), seen, "{n}");
        }
        let mut made_elsewhere = Habits { networks: vec![(network(9), at(0)).into()], ..Habits::default() };
        assert_eq!(made_elsewhere.see_network(network(1), at(1)), Seen::Learnt);
        assert_eq!(made_elsewhere.see_network(network(9), at(1)), Seen::Known);
        assert_eq!(made_elsewhere.see_network(network(2), at(1)), Seen::New(2));
    }

    #[test]
    fn where_there_is_no_room_there_is_a_surprise_a_day_and_the_oldest_is_forgotten() {
        let mut habits = Habits::default();
        for n in 0..16 {
            habits.see_network(network(n), at(n as i64));
        }
        let mut surprises = 0;
        for n in 16..1000 {
            let now = at(n as i64);
            if let Seen::New(_) = habits.see_network(network(n), now) {
                habits.told_network = Some(now);
                surprises += 1;
            }
            assert_eq!(habits.networks.len(), 16);
        }
        assert_eq!(surprises, 1);
        assert!(matches!(habits.see_network(network(5000), at(16 + 86_400)), Seen::New(16)), "a day later");
        assert_eq!(habits.see_network(network(999), at(90_000)), Seen::Known, "the newest are known");
    }

    #[test]
    fn what_counts_is_the_busiest_hour_of_which_half_is_forgotten_each_week() {
        let hours = |hours: i64| at(hours * 3600);
        let mut habits = Habits { since: Some(at(0)), ..Habits::default() };
        assert!(habits.turn_to(hours(0), 0), "the first");
        assert!(!habits.turn_to(hours(0), 50));
        assert!(habits.turn_to(hours(1), 100));
        assert_eq!(habits.usual_milli, 100_000);
        assert!(habits.turn_to(hours(2), 110), "a quiet hour changes little");
        assert!((99_500..=100_000).contains(&habits.usual_milli), "{}", habits.usual_milli);
        assert!(habits.turn_to(hours(2 + 168), 110));
        assert!((49_000..=50_000).contains(&habits.usual_milli), "{}", habits.usual_milli);
        assert!(habits.turn_to(hours(171), 1110));
        assert_eq!(habits.usual_milli, 1_000_000);
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
    fn what_is_stored_is_small_and_reads_back() {
        let mut habits = Habits::default();
        for n in 0..100 {
            habits.see_network(
                Network::of(std::net::Ipv6Addr::from_bits(u128::MAX - (u128::from(n) << 64)).into()),
                at(n as i64),
            );
            habits.see_agent(u64::MAX - n, at(n as i64));
        }
        habits.turn_to(at(0), u64::MAX);
        let now = Some(at(7));
        (habits.told_network, habits.told_agent, habits.shared_at, habits.told_spike) = (now, now, now, now);
        habits.usual_milli = u64::MAX;
        let text = serde_json::to_string(&habits).unwrap();
        assert!(text.len() <= 2048, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<Habits>(&text).unwrap(), habits);
        assert_eq!(serde_json::from_str::<Habits>("{}").unwrap(), Habits::default());
    }

    #[test]
    fn what_a_wrong_clock_noted_gives_way() {
        let (now, ahead) = (at(0), at(86_400));
        let mut wrong = Habits { since: Some(ahead), ..Habits::default() };
        for n in 0..16 {
            wrong.see_network(network(n), ahead);
            wrong.see_agent(n, ahead);
        }
        wrong.turn_to(ahead, 5000);
        wrong.usual_milli = 7000;
        (wrong.told_network, wrong.told_agent) = (Some(ahead), Some(ahead));
        (wrong.shared_at, wrong.told_spike) = (Some(ahead), Some(ahead));
        let mut right = Habits { since: Some(at(-9)), ..Habits::default() };
        right.see_network(network(99), now);
        right.turn_to(now, 5100);
        (right.told_network, right.told_spike) = (Some(now), Some(now));
        for known in [&right, &Habits::default()] {
            let mut stored = wrong.clone();
            stored.merge(known, now);
            let late =
                stored.networks.iter().map(|network| network.at).chain(stored.hour).chain(stored.since);
            assert!(late.chain(stored.shared_at).all(|at| at.since(now) <= HOUR), "{stored:?}");
        }
        wrong.merge(&right, now);
        assert!(wrong.networks.contains(&(network(99), now).into()), "what is right is the newest");
        assert_eq!((wrong.hour, wrong.before_hour), (Some(hour_of(now)), 5100));
        assert_eq!((wrong.told_network, wrong.told_spike, wrong.shared_at), (Some(now), Some(now), None));
        assert_eq!(wrong.networks_within(Sharing::default(), now), 1, "nobody was seen elsewhere lately");
    }

    #[test]
    fn a_clock_that_is_set_back_begins_an_hour() {
        let mut habits = Habits { since: Some(at(-9 * 86_400)), ..Habits::default() };
        habits.turn_to(at(86_400), 100);
        assert!(habits.turn_to(at(0), 5000));
        assert_eq!((habits.hour, habits.before_hour, habits.usual_milli), (Some(hour_of(at(0))), 5000, 0));
        assert_eq!(habits.spikes(Spike::default(), at(0), 5999), None);
        assert_eq!(habits.spikes(Spike::default(), at(0), 6000), Some(1000));
        habits.see_network(network(1), at(86_400));
        assert_eq!(habits.networks_within(Sharing::default(), at(0)), 0);
        habits.see_network(network(1), at(0));
        assert_eq!(habits.networks_within(Sharing::default(), at(0)), 1);
    }

    prop_compose! {
        fn any_habits()(
            networks in prop::collection::vec((0u64..40, 0i64..100), 0..30),
            agents in prop::collection::vec((0u64..20, 0i64..100), 0..20),
            times in prop::array::uniform6(prop::option::of(0i64..5)),
            counts in prop::array::uniform2(0u64..5)
        ) -> Habits {
            let [since, hour, told_network, told_agent, shared_at, told_spike] = times.map(|time| time.map(at));
            // Of two sightings of one thing at one time none is first.
            let networks = networks.iter().enumerate().map(|(n, (of, time))| (network(*of), at(time * 100 + n as i64)));
            let agents = agents.iter().enumerate().map(|(n, (of, time))| (*of, at(time * 100 + n as i64)));
            Habits {
                networks: newest(networks.map(Sighting::from).collect(), MAX_NETWORKS),
                user_agents: newest(agents.map(Sighting::from).collect(), MAX_USER_AGENTS),
                since, hour, before_hour: counts[0], usual_milli: counts[1],
                told_network, told_agent, shared_at, told_spike,
            }
        }
    }

    /// In an order of its own, since that of equal times means nothing.
    fn sorted(mut habits: Habits) -> Habits {
        habits.networks.sort_by_key(|network| (network.at, network.of.to_string()));
        habits.user_agents.sort_by_key(|agent| (agent.at, agent.of));
        habits
    }

    proptest! {
        #[test]
        fn merging_adds_up_whatever_the_order_and_stays_bounded(a in any_habits(), b in any_habits()) {
            let merged = |a: &Habits, b: &Habits| {
                let mut merged = a.clone();
                merged.merge(b, at(1_000_000));
                merged
            };
            let both = merged(&a, &b);
            prop_assert!(both.networks.len() <= MAX_NETWORKS && both.user_agents.len() <= MAX_USER_AGENTS);
            prop_assert_eq!(sorted(merged(&both, &a)), sorted(both.clone()), "again");
            prop_assert_eq!(sorted(merged(&both, &both)), sorted(both.clone()), "with itself");
            let times = |habits: &Habits| {
                let mut times: Vec<_> = habits.networks.iter().map(|network| network.at).collect();
                times.sort_unstable();
                (times, habits.since, habits.hour, habits.usual_milli, habits.told_network, habits.shared_at)
            };
            prop_assert_eq!(times(&merged(&b, &a)), times(&both), "the other way round");
        }
    }
}
