//! What is known of the use of one token, and the rules about it.

use std::{
    cmp::{Ordering, Reverse},
    mem,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    time::UnixTime,
    watch::{Finding, Network, Sharing, network::Prefixes, pace::hour_of},
};

/// How many networks a token is known to be used from.
pub const MAX_NETWORKS: usize = 16;

/// How many programs a token is known to be used by.
pub const MAX_USER_AGENTS: usize = 8;

pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// From where and how a token was used so far, for a [`Watch`](crate::watch::Watch).
///
/// To a store this is one value: as JSON it is at most 2 KiB, without anything that a client wrote. A user agent is
/// kept as a number that is made of it.
///
/// ```
/// use keyward::watch::{Habits, Network};
///
/// let mut habits = Habits::default();
/// habits.networks.push(("192.0.2.0/24".parse::<Network>()?, keyward::time::UnixTime::EPOCH).into());
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
    /// A thousand times the requests of the busiest hour before, of which half is forgotten in 30 days.
    pub usual_milli: u64,
    /// When there was an alert of a new network last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_network: Option<UnixTime>,
    /// How many networks were new since then, at least, without an alert.
    #[serde(skip_serializing_if = "is_zero")]
    pub untold_networks: u32,
    /// When there was an alert of a new program last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_agent: Option<UnixTime>,
    /// How many programs were new since then, at least, without an alert.
    #[serde(skip_serializing_if = "is_zero")]
    pub untold_agents: u32,
    /// When it was seen to be shared last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_at: Option<UnixTime>,
    /// When there was an alert of a spike last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_spike: Option<UnixTime>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
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

/// What a sighting means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It was known.
    Known,
    /// It is learnt without a word.
    Learnt,
    /// It is unusual.
    New,
    /// It is not known any more, since there is no room for all: it may have been usual.
    Forgotten,
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
        // How many were not told of counts from the last alert on, so the two go together.
        (self.told_network, self.untold_networks) =
            (self.told_network, self.untold_networks).max((other.told_network, other.untold_networks));
        (self.told_agent, self.untold_agents) =
            (self.told_agent, self.untold_agents).max((other.told_agent, other.untold_agents));
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

    /// What a token knows that takes the place of this one, which had so many requests. It counts from zero, and what this
    /// one counted in the hour is usual.
    #[must_use]
    pub fn inherited(&self, request_count: u64) -> Self {
        let usual_milli = if self.hour.is_some() { self.busiest(request_count) } else { self.usual_milli };
        Self { before_hour: 0, usual_milli, ..self.clone() }
    }

    /// Takes all networks to be as wide as others are now.
    pub(super) fn widen(&mut self, prefixes: Prefixes) {
        let widened = |of: Sighting<Network>| Sighting { of: of.of.widened(prefixes), ..of };
        if self.networks.iter().any(|network| widened(*network) != *network) {
            self.networks = newest(self.networks.iter().copied().map(widened).collect(), MAX_NETWORKS);
        }
    }

    /// Learns of a use from `network`, without a word in the time of `learning` from the first use on.
    pub(super) fn see_network(&mut self, network: Network, now: UnixTime, learning: Duration) -> Seen {
        let is_early = self.learns(now, learning);
        // What was known while networks were wider is no news.
        let is_covered = || self.networks.iter().any(|known| known.of.covers(network));
        let learns = is_early || self.networks.is_empty() || is_covered();
        see(&mut self.networks, network, now, MAX_NETWORKS).unless(learns)
    }

    /// Learns of a use by the program that `agent` stands for, as of a network.
    pub(super) fn see_agent(&mut self, agent: u64, now: UnixTime, learning: Duration) -> Seen {
        let learns = self.learns(now, learning) || self.user_agents.is_empty();
        see(&mut self.user_agents, agent, now, MAX_USER_AGENTS).unless(learns)
    }

    /// Whether it is too early to tell what is unusual. The first use is no surprise.
    fn learns(&mut self, now: UnixTime, learning: Duration) -> bool {
        let is_first = self.since.is_none();
        let since = *self.since.get_or_insert(now);
        is_first || since.saturating_add(learning) > now
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

    /// Whether it is a day ago that there was an alert of a new network.
    pub(super) fn may_tell_networks(&self, now: UnixTime) -> bool {
        !is_lately(self.told_network, now)
    }

    /// Whether it is a day ago that there was an alert of a new program.
    pub(super) fn may_tell_agents(&self, now: UnixTime) -> bool {
        !is_lately(self.told_agent, now)
    }

    /// The networks of which there was no alert, and how many are known beside them. They are told of from now on.
    pub(super) fn tell_networks(&mut self, now: UnixTime) -> Option<Finding> {
        let new = mem::take(&mut self.untold_networks);
        let known = (self.networks.len() as u32).saturating_sub(new);
        (new > 0).then(|| {
            self.told_network = Some(now);
            Finding::NewNetwork { new, known }
        })
    }

    /// The programs of which there was no alert, as of networks.
    pub(super) fn tell_agents(&mut self, now: UnixTime) -> Option<Finding> {
        let new = mem::take(&mut self.untold_agents);
        let known = (self.user_agents.len() as u32).saturating_sub(new);
        (new > 0).then(|| {
            self.told_agent = Some(now);
            Finding::NewUserAgent { new, known }
        })
    }

    /// From how many networks it was used lately.
    pub(super) fn networks_within(&self, sharing: Sharing, now: UnixTime) -> u32 {
        let from = now.saturating_sub(sharing.within);
        self.networks.iter().filter(|network| network.at > from && network.at <= now).count() as u32
    }

    /// Whether it was shared lately: then that it still is is no news. It may have been so for half of the time longer
    /// than is known, since not each use is noted.
    pub(super) fn is_shared(&self, sharing: Sharing, now: UnixTime) -> bool {
        let within = sharing.within + sharing.within / 2;
        self.shared_at.is_some_and(|at| at <= now && at.saturating_add(within) >= now)
    }
}

fn is_lately(told: Option<UnixTime>, now: UnixTime) -> bool {
    told.is_some_and(|at| at <= now && at.saturating_add(DAY) > now)
}

impl Seen {
    /// Whether somebody is to be told.
    pub(super) const fn is_news(self) -> bool {
        matches!(self, Self::New | Self::Forgotten)
    }

    /// Without a word if it `learns`.
    fn unless(self, learns: bool) -> Self {
        match self {
            Self::New | Self::Forgotten if learns => Self::Learnt,
            seen => seen,
        }
    }
}

/// Notes a sighting. Where as many are known as there is room for, the oldest is forgotten for a new one.
fn see<T: Copy + PartialEq>(known: &mut Vec<Sighting<T>>, of: T, now: UnixTime, room: usize) -> Seen {
    if let Some(sighting) = known.iter_mut().find(|sighting| sighting.of == of) {
        // Also back, with the clock.
        sighting.at = now;
        return Seen::Known;
    }
    let mut seen = Seen::New;
    if known.len() >= room
        && let Some(oldest) = (0..known.len()).min_by_key(|at| known.get(*at).map(|sighting| sighting.at))
    {
        known.swap_remove(oldest);
        seen = Seen::Forgotten;
    }
    known.push((of, now).into());
    seen
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
        let none = Duration::ZERO;
        let mut habits = Habits::default();
        for (n, seen) in [
            (1, Seen::Learnt),
            (1, Seen::Known),
            (2, Seen::New),
            (2, Seen::Known),
            (1, Seen::Known),
            (3, Seen::New),
        ] {
            assert_eq!(habits.see_network(network(n), at(0), none), seen, "{n}");
        }
        let mut made_elsewhere = Habits { networks: vec![(network(9), at(0)).into()], ..Habits::default() };
        assert_eq!(made_elsewhere.see_network(network(1), at(1), none), Seen::Learnt);
        assert_eq!(made_elsewhere.see_network(network(9), at(1), none), Seen::Known);
        assert_eq!(made_elsewhere.see_network(network(2), at(1), none), Seen::New);
    }

    #[test]
    fn where_there_is_no_room_the_oldest_is_forgotten() {
        let mut habits = Habits::default();
        for n in 0..16 {
            habits.see_network(network(n), at(n as i64), Duration::ZERO);
        }
        for n in 16..1000 {
            assert_eq!(habits.see_network(network(n), at(n as i64), Duration::ZERO), Seen::Forgotten);
            assert_eq!(habits.networks.len(), 16);
        }
        assert_eq!(habits.see_network(network(985), at(1000), Duration::ZERO), Seen::Known);
        assert_eq!(habits.see_network(network(983), at(1000), Duration::ZERO), Seen::Forgotten);
    }

    #[test]
    fn what_is_stored_is_small_and_reads_back() {
        let mut habits = Habits::default();
        for n in 0..100 {
            let ip = std::net::Ipv6Addr::from_bits(u128::MAX - (u128::from(n) << 64));
            habits.see_network(Network::of(ip.into()), at(n as i64), DAY);
            habits.see_agent(u64::MAX - n, at(n as i64), DAY);
        }
        habits.turn_to(at(0), u64::MAX);
        let now = Some(at(7));
        (habits.told_network, habits.told_agent, habits.shared_at, habits.told_spike) = (now, now, now, now);
        habits.usual_milli = u64::MAX;
        (habits.untold_networks, habits.untold_agents) = (u32::MAX, u32::MAX);
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
            wrong.see_network(network(n), ahead, DAY);
            wrong.see_agent(n, ahead, DAY);
        }
        wrong.turn_to(ahead, 5000);
        wrong.usual_milli = 7000;
        (wrong.told_network, wrong.told_agent) = (Some(ahead), Some(ahead));
        (wrong.shared_at, wrong.told_spike) = (Some(ahead), Some(ahead));
        let mut right = Habits { since: Some(at(-9)), ..Habits::default() };
        right.see_network(network(99), now, DAY);
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

    prop_compose! {
        fn any_habits()(
            networks in prop::collection::vec((0u64..40, 0i64..100), 0..30),
            agents in prop::collection::vec((0u64..20, 0i64..100), 0..20),
            times in prop::array::uniform6(prop::option::of(0i64..5)),
            counts in prop::array::uniform2(0u64..5),
            untold in prop::array::uniform2(0u32..5)
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
                untold_networks: untold[0], untold_agents: untold[1],
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
                (times, habits.since, habits.hour, habits.usual_milli, habits.told_network, habits.untold_networks, habits.shared_at)
            };
            prop_assert_eq!(times(&merged(&b, &a)), times(&both), "the other way round");
        }
    }
}
