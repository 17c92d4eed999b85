//! How many tokens one user has made: each is kept for a while after its end, also if that comes at once.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    id::UserId,
    limit::{Gcra, RateLimit, Suspect, nanos},
    time::UnixTime,
};

/// So many who make tokens are remembered at most.
const MOST_MAKERS: usize = 10_000;

/// Counts the tokens that are made, by user. Those whom anybody can become without giving a name count by their
/// address instead, for nobody is one of them only.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Gcra,
    made: Mutex<HashMap<Maker, i64>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Maker {
    User(UserId),
    Address(Suspect),
}

impl Maker {
    fn of(user: &UserId, client_ip: Option<IpAddr>) -> Self {
        if user.is_anybody() { Self::Address(Suspect::of(client_ip)) } else { Self::User(user.clone()) }
    }
}

impl Pace {
    pub(super) fn new(limit: RateLimit) -> Self {
        Self { limit: Gcra::new(limit), made: Mutex::default() }
    }

    /// Counts one more token, or says how long its maker must wait.
    pub(super) fn count(
        &self,
        user: &UserId,
        client_ip: Option<IpAddr>,
        now: UnixTime,
    ) -> Result<(), Duration> {
        let (maker, now) = (Maker::of(user, client_ip), nanos(now));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= MOST_MAKERS && !made.contains_key(&maker) {
            made.retain(|_, state| self.limit.level(*state, now).full_in > 0);
            if made.len() >= MOST_MAKERS {
                // Rather too many tokens than nobody who can have one.
                made.clear();
            }
        }
        let state = made.entry(maker).or_insert(now);
        let decision = self.limit.decide(*state, now);
        *state = decision.state;
        match decision.allowed {
            true => Ok(()),
            false => Err(Duration::from_nanos(decision.level.retry_in.unsigned_abs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_millis(1_767_225_600_000 + seconds * 1000)
    }

    fn user(id: &str) -> UserId {
        UserId::from_valid(id.to_owned())
    }

    #[test]
    fn users_count_by_name_and_those_who_are_anybody_by_address() {
        let pace = Pace::new(RateLimit::per_minute(2));
        let (here, there) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        for (seconds, id, ip, allowed) in [
            (0, "alice", here, true),
            (0, "alice", there, true),
            (0, "alice", None, false),
            (0, "bob", here, true),
            (29, "alice", here, false),
            (30, "alice", here, true),
            (30, "public:1", here, true),
            (30, "public:2", here, true),
            (30, "public:3", here, false),
            (30, "public:3", there, true),
            (30, "static:ci", here, true),
        ] {
            assert_eq!(pace.count(&user(id), ip, at(seconds)).is_ok(), allowed, "{id} at {seconds}");
        }
        assert_eq!(pace.count(&user("public:1"), here, at(31)), Err(Duration::from_secs(29)));
    }

    #[test]
    fn memory_is_bounded_and_nobody_is_kept_out_by_others() {
        let pace = Pace::new(RateLimit::per_minute(1));
        for n in 0..3 * MOST_MAKERS {
            assert!(pace.count(&user(&format!("user{n}")), None, at(0)).is_ok(), "{n}");
            assert!(pace.made.lock().unwrap().len() <= MOST_MAKERS);
        }
        assert!(pace.count(&user("user29999"), None, at(0)).is_err(), "the newest are known");
    }
}
