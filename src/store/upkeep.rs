//! What is done for tokens in the background: [`Purge`] removes those that ended, [`Warnings`] are about those
//! that will.

use std::time::Duration;

use crate::{
    id::TokenId,
    time::UnixTime,
    token::{Lifetimes, TokenRecord, ended_at},
};

/// One step of the removal of tokens that ended long ago.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Purge {
    /// Tokens that had ended by then are removed.
    pub before: UnixTime,
    /// When tokens end.
    pub lifetimes: Lifetimes,
    /// Only records with a greater id are looked at; `None` starts with the oldest.
    pub after: Option<TokenId>,
    /// At most so many records are looked at.
    pub limit: u32,
}

impl Purge {
    /// The first step, of `limit` records.
    #[must_use]
    pub fn new(before: UnixTime, lifetimes: Lifetimes, limit: u32) -> Self {
        Self { before, lifetimes, after: None, limit }
    }

    /// Whether `record` is to be removed.
    #[must_use]
    pub fn takes(&self, record: &TokenRecord) -> bool {
        ended_at(record, self.lifetimes.policy(record.class)) <= self.before
    }

    /// Whether what ends with `parent`, or with what ends with it, is to be removed as well. Not so if it was
    /// replaced: what worked then went to its successor, and what did not ends by itself.
    #[must_use]
    pub fn takes_children_of(&self, parent: &TokenRecord) -> bool {
        parent.successor.is_none() && self.takes(parent)
    }
}

/// What one step of a [`Purge`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Purged {
    /// How many records were looked at.
    pub looked_at: u64,
    /// How many of those were removed.
    pub removed: u64,
    /// After which id the next step goes on; `None` when the newest record was looked at.
    pub next: Option<TokenId>,
}

impl Purged {
    /// A step that looked at `looked_at` records and removed `removed`.
    #[must_use]
    pub fn new(looked_at: u64, removed: u64, next: Option<TokenId>) -> Self {
        Self { looked_at, removed, next }
    }
}

/// For which tokens a warning is due that they will expire.
///
/// A token comes due at its expiry less each of the times in `ahead`, unless it was made, or renewed, after that:
/// whoever makes a key for an hour knows that it expires within a day.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Warnings {
    /// The time.
    pub now: UnixTime,
    /// How long before the expiry there are warnings.
    pub ahead: Vec<Duration>,
    /// At most so many tokens are looked at.
    pub limit: u32,
}

impl Warnings {
    /// Warnings at `now`, for at most `limit` tokens.
    #[must_use]
    pub fn new(now: UnixTime, ahead: Vec<Duration>, limit: u32) -> Self {
        Self { now, ahead, limit }
    }

    /// Whether a warning about `record` is due, and when to look at it again; `None` is never. `since` is that
    /// time from the look before. Without one it is [`UnixTime::EPOCH`], and after a renewal
    /// [`after_renewal`](Self::after_renewal).
    ///
    /// No warning is due for a token that is revoked, replaced, switched off or a trap.
    #[must_use]
    pub fn judge(&self, record: &TokenRecord, since: UnixTime) -> (bool, Option<UnixTime>) {
        let gone = record.revoked_at.is_some() || record.successor.is_some();
        let Some(expiry) = record.expires_at.filter(|expiry| *expiry > self.now && !gone) else {
            return (false, None);
        };
        let since = since.max(record.created_at.saturating_add(Duration::from_millis(1)));
        let times = || self.ahead.iter().map(|ahead| expiry.saturating_sub(*ahead));
        let due = times().any(|time| (since..=self.now).contains(&time));
        let next = times().filter(|time| *time > self.now).min();
        (due && record.disabled_at.is_none() && !record.honeytoken, next)
    }

    /// When to look again at a token that a use at `used` renewed.
    #[must_use]
    pub fn after_renewal(used: UnixTime) -> UnixTime {
        used.saturating_add(Duration::from_millis(1))
    }
}

/// The tokens for which a warning was due, which it is no more.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Claimed {
    /// Their records.
    pub tokens: Vec<TokenRecord>,
    /// Whether there may be more.
    pub more: bool,
}

impl Claimed {
    /// Warnings about `tokens`.
    #[must_use]
    pub fn new(tokens: Vec<TokenRecord>, more: bool) -> Self {
        Self { tokens, more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UserId, secret::TokenDigest};

    const DAY: Duration = Duration::from_secs(86_400);

    fn day(days: i64) -> UnixTime {
        UnixTime::from_millis(1_800_000_000_000 + days * 86_400_000)
    }

    fn record(lifetime: i64) -> TokenRecord {
        let id = "019a9d5a-7c00-7abc-8def-0123456789ab".parse().unwrap();
        let record = TokenRecord::new(id, TokenDigest::of(b"key"), UserId::new("alice").unwrap(), day(0));
        TokenRecord { expires_at: Some(day(lifetime)), ..record }
    }

    #[test]
    fn a_warning_is_due_once_each_time_that_comes_after_the_last_look() {
        let epoch = UnixTime::EPOCH;
        for (name, lifetime, since, now, expected) in [
            ("new", 90, epoch, 0, (false, Some(day(60)))),
            ("a day before", 90, day(60), 59, (false, Some(day(60)))),
            ("at thirty days", 90, day(60), 60, (true, Some(day(83)))),
            ("at seven days", 90, day(83), 83, (true, Some(day(89)))),
            ("at one day", 90, day(89), 89, (true, None)),
            ("at its end", 90, day(89), 90, (false, None)),
            ("nobody looked for long", 90, epoch, 85, (true, Some(day(89)))),
            ("made for exactly thirty days", 30, epoch, 0, (false, Some(day(23)))),
            ("made for five days", 5, epoch, 0, (false, Some(day(4)))),
            ("made for five days, nobody looked", 5, epoch, 4, (true, None)),
            ("made for a day", 1, epoch, 0, (false, None)),
            ("renewed to twenty days", 120, day(100), 100, (false, Some(day(113)))),
        ] {
            let warnings = Warnings::new(day(now), vec![30 * DAY, 7 * DAY, DAY], 1);
            assert_eq!(warnings.judge(&record(lifetime), since), expected, "{name}");
        }
    }

    #[test]
    fn nobody_is_warned_about_what_does_not_work() {
        let warnings = Warnings::new(day(60), vec![30 * DAY, DAY], 1);
        let judge = |record| warnings.judge(&record, UnixTime::EPOCH);
        let next = Some(day(89));
        assert_eq!(judge(record(90)), (true, next));
        assert_eq!(judge(TokenRecord { revoked_at: Some(day(1)), ..record(90) }), (false, None));
        assert_eq!(judge(TokenRecord { successor: Some(record(1).id), ..record(90) }), (false, None));
        assert_eq!(judge(TokenRecord { disabled_at: Some(day(1)), ..record(90) }), (false, next));
        assert_eq!(judge(TokenRecord { honeytoken: true, ..record(90) }), (false, next));
        assert_eq!(judge(TokenRecord { expires_at: None, ..record(90) }), (false, None));
    }
}
