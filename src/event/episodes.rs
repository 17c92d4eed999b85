//! What is told once while it goes on.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::time::UnixTime;

/// After so long the same thing is told again.
const HOUR: Duration = Duration::from_secs(3600);

/// How many are told apart.
const CAPACITY: usize = 16_384;

/// From how many places the same thing is told.
const PLACES: usize = 8;

/// Which things were told within the last hour, and where they happened: whoever goes on in one place hides nobody in
/// another. They are asked about where something is refused, never where something is let through.
#[derive(Debug, Default)]
pub(crate) struct Episodes(Mutex<HashMap<u64, Vec<(u64, UnixTime)>>>);

impl Episodes {
    /// Whether what `thing` stands for was not told within the last hour for the network of `ip`. It is from now on.
    pub(crate) fn begins(&self, thing: u64, ip: Option<IpAddr>, now: UnixTime) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |at: UnixTime| at > now || at.saturating_add(HOUR) <= now;
        if told.len() >= CAPACITY && !told.contains_key(&thing) {
            told.retain(|_, places| places.iter().any(|(_, at)| !is_over(*at)));
            if told.len() >= CAPACITY {
                // Rather something is told twice than not at all.
                told.clear();
            }
        }
        let (places, place) = (told.entry(thing).or_default(), place(ip));
        places.retain(|(_, at)| !is_over(*at));
        let begins = places.len() < PLACES && places.iter().all(|(other, _)| *other != place);
        if begins {
            places.push((place, now));
        }
        begins
    }
}

/// A /24 of IPv4, or a /48 of IPv6; what has no address is a place of its own.
fn place(ip: Option<IpAddr>) -> u64 {
    match ip.map(|ip| ip.to_canonical()) {
        None => u64::MAX,
        Some(IpAddr::V4(v4)) => 1 << 63 | u64::from(v4.to_bits() >> 8),
        Some(IpAddr::V6(v6)) => (v6.to_bits() >> 80) as u64,
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
            assert_eq!(episodes.begins(thing, None, at(seconds)), begins, "{thing} at {seconds}");
        }
        assert!(episodes.begins(1, None, at(0)), "after the clock was set back");
        for thing in 0..100_000 {
            episodes.begins(thing, None, at(4000));
            assert!(episodes.0.lock().unwrap().len() <= CAPACITY);
        }
        assert!(!episodes.begins(99_999, None, at(4000)));
    }

    #[test]
    fn whoever_goes_on_in_one_place_hides_nobody_in_another_and_places_are_few() {
        let (episodes, now) = (Episodes::default(), UnixTime::from_millis(0));
        let begins = |ip: &str| episodes.begins(1, Some(ip.parse().unwrap()), now);
        for (ip, expected) in [
            ("192.0.2.7", true),
            ("192.0.2.200", false),
            ("::ffff:192.0.2.9", false),
            ("192.0.3.7", true),
            ("2001:db8::1", true),
            ("2001:db8:0:9::1", false),
            ("2001:db8:1::1", true),
        ] {
            assert_eq!(begins(ip), expected, "{ip}");
        }
        let told = (0..100).filter(|n| begins(&format!("10.0.{n}.1"))).count();
        assert_eq!(told, PLACES - 4);
    }
}
