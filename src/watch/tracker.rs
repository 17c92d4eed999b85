//! The habits of one token while it is in use.

use std::sync::{
    Mutex, MutexGuard, PoisonError, TryLockError,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    limit::{Meter, nanos},
    time::UnixTime,
    watch::{Habits, Network, Sharing, Spike, Watch, habits::Seen},
};

/// What is known of a token's use, shared by the credentials that are made of it one after the other.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    state: Mutex<State>,
    /// What stands for the last user agent; 0 is none yet.
    agent: AtomicU64,
    /// Where it came from while somebody else was at it.
    missed: Mutex<Option<Network>>,
}

#[derive(Debug, Default)]
struct State {
    habits: Habits,
    /// Where the last use came from.
    current: Option<Network>,
    /// How many requests there were ever, as far as is known here.
    total: u64,
    /// Whether something is to be written.
    unwritten: bool,
    /// When the habits were given to be written last.
    written_at: UnixTime,
}

/// Somebody else is at it: then it is noticed with the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

/// What is unusual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// So many networks since that was told of last, beside so many known ones.
    NewNetwork { new: u32, known: u32 },
    /// So many programs since that was told of last, beside so many known ones.
    NewUserAgent { new: u32, known: u32 },
    /// So many networks.
    Shared(u32),
    /// So many requests in this hour, and in the busiest one before.
    Spike { requests: u64, usual: u64 },
}

impl Tracker {
    /// Takes over what the store knows, and how often the token was used by then.
    pub(crate) fn absorb(&self, watch: &Watch, habits: Option<&Habits>, request_count: u64, now: UnixTime) {
        let mut state = self.lock();
        state.habits.settle(now);
        if let Some(habits) = habits {
            let mut stored = habits.clone();
            stored.settle(now);
            // What others have told of need not be what was new here.
            let (networks, agents) = (state.habits.untold_networks, state.habits.untold_agents);
            state.habits.merge(&stored, now);
            state.habits.untold_networks = state.habits.untold_networks.max(networks);
            state.habits.untold_agents = state.habits.untold_agents.max(agents);
            state.habits.widen(watch.prefixes);
        }
        state.total = state.total.max(request_count);
    }

    /// Knows `networks` if it knows none, without a first use from there.
    pub(crate) fn suppose(&self, networks: impl Iterator<Item = Network>) {
        let mut state = self.lock();
        if state.habits.since.is_none() && state.habits.networks.is_empty() {
            for network in networks {
                state.habits.networks.push((network, UnixTime::EPOCH).into());
            }
        }
    }

    /// Notes that the token comes from `network` now, and came from the last one until `last_used`. Never waits:
    /// where somebody else is at it, it is looked at with the next [`count`](Self::count).
    pub(crate) fn arrive(
        &self,
        watch: &Watch,
        network: Network,
        last_used: UnixTime,
        now: UnixTime,
    ) -> Result<Option<Finding>, Busy> {
        let Ok(mut state) = self.try_lock() else {
            if let Ok(mut missed) = self.missed.try_lock() {
                *missed = Some(network);
            }
            return Err(Busy);
        };
        Ok(state.arrive(watch, network, last_used, now))
    }

    /// Whether this is the user agent of the last request.
    #[inline]
    pub(crate) fn is_same_agent(&self, print: u64) -> bool {
        self.agent.load(Ordering::Relaxed) == print
    }

    /// Notes that the token is used by the program that `words` stands for now; `print` is all of its text. Never
    /// waits.
    pub(crate) fn meet(
        &self,
        watch: &Watch,
        print: u64,
        words: u64,
        now: UnixTime,
    ) -> Result<Option<Finding>, Busy> {
        let mut state = self.try_lock()?;
        self.agent.store(print, Ordering::Relaxed);
        let state = &mut *state;
        let habits = &mut state.habits;
        let seen = habits.see_agent(words, now, watch.learning);
        state.unwritten |= seen != Seen::Known;
        habits.untold_agents += u32::from(seen.is_news());
        let is_time = seen == Seen::New || habits.may_tell_agents(now);
        Ok((seen.is_news() && is_time).then(|| habits.tell_agents(now)).flatten())
    }

    /// Counts `count` more requests, the last of them from `last`, and gives what is to be told, each with the network it
    /// was noticed in, and what is to be written with them.
    pub(crate) fn count(
        &self,
        watch: &Watch,
        last: Option<Network>,
        count: u64,
        last_used: UnixTime,
        now: UnixTime,
    ) -> (Vec<(Finding, Option<Network>)>, Option<Habits>) {
        let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut state = self.lock();
        let mut findings = Vec::new();
        if let Some(network) = missed {
            let finding = state.arrive(watch, network, last_used, now);
            findings.extend(finding.map(|finding| (finding, missed)));
            state.current = last.or(state.current);
        }
        if let Some(current) = state.current {
            state.habits.leave(current, last_used.min(now));
            // Others who look for sharing must know that it is in use there still.
            let is_old = |sharing: Sharing| state.written_at.saturating_add(sharing.within / 2) <= now;
            state.unwritten |= watch.sharing.is_some_and(is_old) || state.written_at > now;
        }
        findings.extend(state.untold(watch, now).map(|finding| (finding, None)));
        let spike = watch.spike.and_then(|spike| state.count(spike, count, now));
        findings.extend(spike.map(|spike| (spike, last)));
        state.unwritten |= !findings.is_empty();
        let written = std::mem::take(&mut state.unwritten);
        if written {
            state.written_at = now;
        }
        (findings, written.then(|| state.habits.clone()))
    }

    /// Takes back what could not be written.
    pub(crate) fn not_written(&self, count: u64) {
        let mut state = self.lock();
        state.total = state.total.saturating_sub(count);
        state.unwritten = true;
    }

    /// What is known now.
    pub(crate) fn habits(&self) -> Habits {
        self.lock().habits.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Result<MutexGuard<'_, State>, Busy> {
        match self.state.try_lock() {
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Busy),
        }
    }
}

impl State {
    /// Notes that the token comes from `network` now, and came from the last one until `last_used`.
    fn arrive(
        &mut self,
        watch: &Watch,
        network: Network,
        last_used: UnixTime,
        now: UnixTime,
    ) -> Option<Finding> {
        let habits = &mut self.habits;
        if let Some(left) = self.current.replace(network) {
            habits.leave(left, last_used.min(now));
        }
        // Others who look for sharing must know that it is in use there again.
        let known_until = watch.sharing.map(|sharing| now.saturating_sub(sharing.within / 2));
        let returns = known_until.is_some_and(|at| habits.last_seen(network).is_some_and(|seen| seen < at));
        let seen = habits.see_network(network, now, watch.learning);
        self.unwritten |= returns || seen != Seen::Known;
        habits.untold_networks += u32::from(watch.networks && seen.is_news());
        let mut shared = false;
        if let Some(sharing) = watch.sharing {
            let networks = habits.networks_within(sharing, now);
            let was_shared = habits.is_shared(sharing, now);
            if networks >= sharing.networks {
                // Not for each request, so that it need not be written for each.
                let grows_old = habits.shared_at.is_none_or(|at| at.saturating_add(sharing.within / 2) < now);
                if !was_shared || grows_old {
                    habits.shared_at = Some(now);
                    self.unwritten = true;
                }
                if !was_shared {
                    // Which tells of all of them.
                    (habits.told_network, habits.untold_networks) = (Some(now), 0);
                    return Some(Finding::Shared(networks));
                }
            }
            shared = was_shared;
        }
        let is_time = seen == Seen::New && !shared || habits.may_tell_networks(now);
        (seen.is_news() && is_time).then(|| habits.tell_networks(now)).flatten()
    }

    /// What was new and is not told of yet, if it is time.
    fn untold(&mut self, watch: &Watch, now: UnixTime) -> impl Iterator<Item = Finding> {
        let habits = &mut self.habits;
        let networks = watch.networks && habits.may_tell_networks(now);
        let agents = watch.user_agents && habits.may_tell_agents(now);
        let networks = networks.then(|| habits.tell_networks(now)).flatten();
        networks.into_iter().chain(agents.then(|| habits.tell_agents(now)).flatten())
    }

    fn count(&mut self, spike: Spike, count: u64, now: UnixTime) -> Option<Finding> {
        let habits = &mut self.habits;
        habits.since.get_or_insert(now);
        self.unwritten |= habits.turn_to(now, self.total);
        self.total = self.total.saturating_add(count);
        let requests = habits.spikes(spike, now, self.total)?;
        habits.told_spike = Some(now);
        Some(Finding::Spike { requests, usual: habits.usual_milli.div_ceil(1000) })
    }
}

impl Meter for Tracker {
    /// By then the store knows all, and nothing goes on that is told once.
    fn new_from(&self) -> i64 {
        const DAY: i64 = 86_400 * 1_000_000_000;
        let state = self.lock();
        let last = state.habits.networks.iter().map(|sighting| sighting.at).chain(state.habits.hour).max();
        last.map_or(0, |at| nanos(at).saturating_add(DAY))
    }
}

/// A number that stands for `text`. Whoever can choose the text can as well choose one that is known, so it need not
/// be hard to find another one with the same number. It is stored: it must not change.
#[inline]
pub(crate) fn fingerprint(text: &[u8]) -> u64 {
    let (words, rest) = text.as_chunks::<8>();
    let mut hash = mix(text.len() as u64, 0x6b65_7977_6172_6421);
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    // 0 is none.
    mix(hash, u64::from_le_bytes(last)).max(1)
}

/// Multiplies, and folds the upper half into the lower one.
#[inline]
fn mix(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    (product >> 64) as u64 ^ product as u64
}

/// A user agent without its numbers: another version of a program is the same program.
pub(crate) fn agent_words(text: &[u8]) -> u64 {
    let mut words: Vec<u8> = text.iter().copied().take(512).collect();
    words.retain(|byte| !byte.is_ascii_digit() && *byte != b'.');
    fingerprint(&words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn network(n: u16) -> Network {
        Network::of([198, 51, (n >> 8) as u8, n as u8].into())
    }

    /// Without a time of learning, and each address by itself.
    fn watch(sharing: Option<Sharing>) -> Watch {
        let watch = Watch::default().with_learning(Duration::ZERO).with_prefixes(32, 64).unwrap();
        watch.with_sharing(sharing)
    }

    fn sharing(networks: u32) -> Option<Sharing> {
        Some(Sharing::new(networks, Duration::from_secs(60)).unwrap())
    }

    fn new(new: u32, known: u32) -> Option<Finding> {
        Some(Finding::NewNetwork { new, known })
    }

    /// A single request from there.
    fn arrive(tracker: &Tracker, watch: &Watch, n: u16, seconds: i64) -> Option<Finding> {
        tracker.arrive(watch, network(n), at(0), at(seconds)).unwrap()
    }

    #[test]
    fn sharing_is_told_once_until_it_has_ended_and_takes_the_place_of_single_networks() {
        let watch = watch(sharing(3));
        let tracker = Tracker::default();
        for (n, seconds, expected) in [
            (1, 0, None),
            (2, 1, new(1, 1)),
            (3, 2, Some(Finding::Shared(3))),
            (4, 3, None),
            (1, 30, None),
            (2, 61, None),
            (3, 62, None),
            (1, 120, None),
            (2, 300, None),
            (5, 301, new(2, 3)),
            (3, 302, Some(Finding::Shared(3))),
        ] {
            assert_eq!(arrive(&tracker, &watch, n, seconds), expected, "{n} at {seconds}");
        }
    }

    #[test]
    fn a_network_is_left_when_it_was_used_last() {
        let watch = watch(sharing(2));
        let tracker = Tracker::default();
        assert_eq!(arrive(&tracker, &watch, 1, 0), None);
        let long_after = tracker.arrive(&watch, network(2), at(3599), at(3600)).unwrap();
        assert_eq!(long_after, Some(Finding::Shared(2)), "it was used from there a second ago");
    }

    #[test]
    fn what_was_said_goes_on_is_written_now_and_then() {
        let watch = Watch::default();
        let tracker = Tracker::default();
        let mut written = 0;
        for seconds in 0..3600 {
            arrive(&tracker, &watch, (seconds % 8) as u16, seconds);
            written += u32::from(tracker.count(&watch, None, 1, at(seconds), at(seconds)).1.is_some());
        }
        assert!((8..40).contains(&written), "{written}");
    }

    #[test]
    fn what_is_too_much_to_tell_of_one_by_one_is_told_once_a_day_with_its_number() {
        let watch = watch(None);
        let tracker = Tracker::default();
        assert_eq!(arrive(&tracker, &watch, 0, 0), None);
        for n in 1..16 {
            assert_eq!(arrive(&tracker, &watch, n, 1), new(1, n.into()));
        }
        assert_eq!(arrive(&tracker, &watch, 16, 2), None, "it was told within a day");
        assert_eq!(arrive(&tracker, &watch, 17, 3), None);
        let told = |seconds| tracker.count(&watch, None, 1, at(seconds), at(seconds)).0;
        assert_eq!(told(86_400), []);
        assert_eq!(
            told(86_401),
            new(2, 14).map(|new| (new, None)).into_iter().collect::<Vec<_>>(),
            "though none came since"
        );
        assert_eq!(told(5 * 86_400), []);
        assert_eq!(arrive(&tracker, &watch, 18, 6 * 86_400), new(1, 15));
        assert_eq!(arrive(&tracker, &watch, 19, 6 * 86_400), None);
        // One that restarts, and learns that another one has told of its own.
        let next = Tracker::default();
        next.absorb(&watch, Some(&tracker.habits()), 0, at(6 * 86_400));
        let theirs = Habits { told_network: Some(at(6 * 86_400 + 9)), ..Habits::default() };
        next.absorb(&watch, Some(&theirs), 0, at(6 * 86_400 + 9));
        let findings = next.count(&watch, None, 1, at(7 * 86_400), at(7 * 86_400 + 9)).0;
        assert_eq!(findings, new(1, 15).map(|new| (new, None)).into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_seen_while_it_learns_is_known_afterwards_without_a_word() {
        let day = Duration::from_secs(86_400);
        let watch = Watch::default().with_sharing(None).with_user_agents(true).with_learning(day);
        let tracker = Tracker::default();
        for n in 0..9 {
            assert_eq!(arrive(&tracker, &watch, n, 86_399), None);
            assert_eq!(tracker.meet(&watch, n.into(), n.into(), at(86_399)), Ok(None));
        }
        let day_later = 86_399 + 86_400;
        assert_eq!(arrive(&tracker, &watch, 8, day_later), None);
        assert_eq!(arrive(&tracker, &watch, 9, day_later), new(1, 9));
        assert_eq!(tracker.meet(&watch, 8, 8, at(day_later)), Ok(None));
        let told = Ok(Some(Finding::NewUserAgent { new: 1, known: 7 }));
        assert_eq!(tracker.meet(&watch, 9, 9, at(day_later)), told);
        assert_eq!(
            tracker.count(&watch, None, 1, at(day_later), at(day_later)).0,
            [],
            "nothing is left to tell"
        );
    }

    #[test]
    fn networks_that_were_stored_with_other_lengths_are_still_known() {
        let wide = Watch::default().with_sharing(None).with_prefixes(24, 48).unwrap();
        let narrow = wide.with_prefixes(32, 64).unwrap();
        let mut stored = Habits { since: Some(at(0)), ..Habits::default() };
        for n in 0..9 {
            stored.networks.push((Network::of([192, 0, 2, n].into()), at(n.into())).into());
        }
        let tracker = Tracker::default();
        tracker.absorb(&wide, Some(&stored), 0, at(9));
        assert_eq!(tracker.habits().networks, [(wide.network([192, 0, 2, 0].into()), at(8)).into()]);
        let come =
            |watch: &Watch, ip: [u8; 4]| tracker.arrive(watch, watch.network(ip.into()), at(9), at(10));
        assert_eq!(come(&wide, [192, 0, 2, 99]), Ok(None));
        assert_eq!(come(&narrow, [192, 0, 2, 99]), Ok(None), "it was known as a part of the wider one");
        assert_eq!(come(&narrow, [192, 0, 3, 99]), Ok(new(1, 2)));
    }

    #[test]
    fn whoever_is_in_the_way_makes_nobody_wait() {
        let tracker = Tracker::default();
        let held = tracker.lock();
        assert_eq!(tracker.arrive(&Watch::default(), network(1), at(0), at(0)), Err(Busy));
        assert_eq!(tracker.meet(&Watch::default(), 1, 1, at(0)), Err(Busy));
        drop(held);
        assert_eq!(tracker.meet(&Watch::default(), 1, 1, at(0)), Ok(None));
        assert!(tracker.is_same_agent(1) && !tracker.is_same_agent(2));
        // What came meanwhile is looked at later.
        let watch = watch(None);
        assert_eq!(tracker.count(&watch, Some(network(1)), 1, at(0), at(0)).0, [], "the first one");
        let held = tracker.lock();
        assert_eq!(tracker.arrive(&watch, network(2), at(0), at(1)), Err(Busy));
        drop(held);
        let found = tracker.count(&watch, Some(network(1)), 1, at(1), at(1)).0;
        assert_eq!(found, [(new(1, 1).unwrap(), Some(network(2)))]);
        assert_eq!(tracker.lock().current, Some(network(1)));
        assert_eq!(tracker.count(&watch, Some(network(1)), 1, at(2), at(2)).0, []);
    }

    #[test]
    fn versions_of_a_program_are_one_program() {
        assert_eq!(agent_words(b"curl/8.5.0"), agent_words(b"curl/8.14.1"));
        assert_ne!(agent_words(b"curl/8.5.0"), agent_words(b"python-requests/2.32.3"));
        assert_ne!(fingerprint(b"curl/8.5.0"), fingerprint(b"curl/8.5.1"));
        let prints: std::collections::HashSet<_> = (0..100).map(|n| fingerprint(&vec![b'a'; n])).collect();
        assert_eq!(prints.len(), 100);
        assert_ne!(fingerprint(b""), 0);
        // It is stored.
        assert_eq!(fingerprint(b"curl/8.5.0"), FIXED, "{:#x}", fingerprint(b"curl/8.5.0"));
    }

    const FIXED: u64 = 0x779c_fec9_0753_93a1;
}
