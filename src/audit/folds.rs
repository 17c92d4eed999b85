//! Refusals that come again and again, told once a minute: they take no credential, and whoever sends them must
//! not fill a store with them.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::Duration,
};

use crate::{
    event::{Event, EventKind},
    time::Stopwatch,
};

/// For so long others like one that was told are only counted.
const MINUTE: Duration = Duration::from_secs(60);

/// How many are told apart within a minute; all others count by their reason alone.
const CAPACITY: usize = 128;

/// What was refused within the last minute, told apart by where it came from, why, and by whom it was if that is
/// known.
#[derive(Default)]
pub(super) struct Folds {
    hasher: RandomState,
    told: HashMap<u64, Fold>,
}

struct Fold {
    since: Stopwatch,
    /// The last one since, which stands for all since.
    more: Option<Event>,
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is told now.
    Told,
    /// It is the first that will be told when the minute is over.
    HeldFirst,
    /// It is counted with the one that will be told.
    Held,
}

impl Folds {
    pub(super) fn fold(&mut self, event: &Event) -> Fate {
        let EventKind::AccessRefused(refusal) = event.kind else { return Fate::Told };
        let network = event.client_ip.map(network);
        let mut key = self.hasher.hash_one((network, refusal, &event.actor, &event.owner, event.token));
        let is_known = self.told.contains_key(&key);
        let others = !is_known && self.told.len() >= CAPACITY;
        if others {
            key = self.hasher.hash_one(refusal);
        }
        let Some(fold) = self.told.get_mut(&key) else {
            self.told.insert(key, Fold { since: Stopwatch::start(), more: None });
            return Fate::Told;
        };
        let before = fold.more.as_ref().map_or(0, |more| more.times);
        let event = if others { of_several(event) } else { event.clone() };
        fold.more = Some(Event { times: before.saturating_add(event.times), ..event });
        if before == 0 { Fate::HeldFirst } else { Fate::Held }
    }

    /// Those whose minute is over; all of them at the end. What goes on is told again after a minute.
    pub(super) fn release(&mut self, all: bool) -> Vec<Event> {
        let mut released = Vec::new();
        self.told.retain(|_, fold| {
            if !all && fold.since.elapsed() < MINUTE {
                return true;
            }
            match fold.more.take() {
                Some(more) => {
                    released.push(more);
                    fold.since = Stopwatch::start();
                    true
                }
                None => false,
            }
        });
        released.sort_by_key(|event| event.at);
        released
    }

    /// In how long there is something to release.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let held = self.told.values().filter(|fold| fold.more.is_some());
        held.map(|fold| MINUTE.saturating_sub(fold.since.elapsed())).min()
    }
}

/// An event that stands for others, about which nothing else is known.
fn of_several(event: &Event) -> Event {
    Event { at: event.at, ..Event::new(event.kind) }.because("of several clients")
}

/// An IPv4 address, or the /64 of an IPv6 address: what one customer of a provider gets.
fn network(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Refusal, id::UserId};

    fn refused(refusal: Refusal, ip: [u8; 4]) -> Event {
        Event::new(EventKind::AccessRefused(refusal)).at_ip(Some(ip.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_alike_is_told_at_once_and_then_once_a_minute() {
        let mut folds = Folds::default();
        let (here, there) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        let mut fold = |event: Event, expected| assert_eq!(folds.fold(&event), expected);
        fold(refused(Refusal::NoCredential, here), Fate::Told);
        fold(refused(Refusal::NoCredential, here), Fate::HeldFirst);
        fold(refused(Refusal::NoCredential, here), Fate::Held);
        fold(refused(Refusal::Malformed, here), Fate::Told);
        fold(refused(Refusal::NoCredential, there), Fate::Told);
        fold(refused(Refusal::Expired, here).owned_by(&UserId::new("alice").unwrap()), Fate::Told);
        fold(refused(Refusal::Expired, here).owned_by(&UserId::new("bob").unwrap()), Fate::Told);
        for _ in 0..2 {
            fold(Event::new(EventKind::TokenCreated), Fate::Told);
        }
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!((folds.release(false).len(), folds.due_in()), (0, Some(Duration::from_secs(40))));
        tokio::time::advance(Duration::from_secs(40)).await;
        let released = folds.release(false);
        assert_eq!(released.iter().map(Event::count).collect::<Vec<_>>(), [Some(2)]);
        assert_eq!(released[0].client_ip, Some(here.into()));
        assert_eq!(folds.fold(&refused(Refusal::NoCredential, here)), Fate::HeldFirst, "it goes on");
        assert_eq!(folds.fold(&refused(Refusal::NoCredential, there)), Fate::Told, "it had stopped");
        tokio::time::advance(MINUTE).await;
        assert_eq!(folds.release(false).len(), 1);
        tokio::time::advance(MINUTE).await;
        assert_eq!((folds.release(false).len(), folds.told.len(), folds.due_in()), (0, 0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn from_however_many_addresses_they_come_there_are_few() {
        let mut folds = Folds::default();
        let mut told = 0;
        for n in 0..10_000_u32 {
            let event = Event::new(EventKind::AccessRefused(Refusal::NoCredential));
            told += usize::from(folds.fold(&event.at_ip(Some(IpAddr::V4(n.into())))) == Fate::Told);
        }
        assert_eq!((told, folds.told.len()), (CAPACITY + 1, CAPACITY + 1));
        let released = folds.release(true);
        assert_eq!((released.len(), released[0].times), (1, 10_000 - CAPACITY as u64 - 1));
        assert_eq!(
            (released[0].client_ip, released[0].reason.as_deref()),
            (None, Some("of several clients"))
        );
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let network = |ip: &str| network(ip.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
