//! The whole lifetime policy as one pure function: [`decide`].

use std::{fmt, time::Duration};

use http::Method;

use crate::{
    error::Refusal,
    time::UnixTime,
    token::{TokenClass, TokenRecord},
};

const DAY: Duration = Duration::from_secs(86_400);

/// How long tokens of one class live.
///
/// Durations are rounded down to milliseconds. A zero lifetime makes tokens that never work.
///
/// ```
/// use std::time::Duration;
/// use keyward::token::LifetimePolicy;
///
/// let policy = LifetimePolicy::default()
///     .with_lifetime(Some(Duration::from_secs(7 * 86_400)))
///     .with_idle_timeout(None);
/// assert_eq!(policy.lifetime(), Some(Duration::from_secs(7 * 86_400)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct LifetimePolicy {
    lifetime: Option<Duration>,
    rolling: bool,
    idle_timeout: Option<Duration>,
    maximum: Option<Duration>,
    grace: Option<Duration>,
}

impl Default for LifetimePolicy {
    /// 90 days, renewed by use, at most a year; dead after 30 days without use; no grace.
    fn default() -> Self {
        Self {
            lifetime: Some(90 * DAY),
            rolling: true,
            idle_timeout: Some(30 * DAY),
            maximum: Some(365 * DAY),
            grace: None,
        }
    }
}

impl LifetimePolicy {
    /// How long a new token lives if its maker says nothing; 90 days. `None` is up to the maximum.
    pub fn with_lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Whether use renews a token that was made with the default lifetime; on. The expiry moves to now
    /// plus the lifetime once less than half of it is left.
    pub fn with_rolling(mut self, rolling: bool) -> Self {
        self.rolling = rolling;
        self
    }

    /// After how long without use a token dies; 30 days. `None` is never.
    pub fn with_idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// The age at which every token dies, whatever its use or expiry; 365 days. `None` is no limit.
    pub fn with_maximum(mut self, maximum: Option<Duration>) -> Self {
        self.maximum = maximum;
        self
    }

    /// For how long after its expiry a token still reads: safe methods pass, others do not; off.
    pub fn with_grace(mut self, grace: Option<Duration>) -> Self {
        self.grace = grace;
        self
    }

    /// How long a new token lives if its maker says nothing.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }

    /// The age at which every token dies.
    #[must_use]
    pub fn maximum(&self) -> Option<Duration> {
        self.maximum
    }
}

/// One [`LifetimePolicy`] for each [`TokenClass`]; all three are the default policy by default.
///
/// ```
/// use keyward::token::{LifetimePolicy, Lifetimes, TokenClass};
///
/// let strict = LifetimePolicy::default().with_rolling(false);
/// let lifetimes = Lifetimes::default().with_policy(TokenClass::Admin, strict.clone());
/// assert_eq!(lifetimes.policy(TokenClass::Admin), &strict);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Lifetimes {
    user: LifetimePolicy,
    admin: LifetimePolicy,
    service: LifetimePolicy,
}

impl Lifetimes {
    /// Sets the policy of one class.
    pub fn with_policy(mut self, class: TokenClass, policy: LifetimePolicy) -> Self {
        match class {
            TokenClass::User => self.user = policy,
            TokenClass::Admin => self.admin = policy,
            TokenClass::Service => self.service = policy,
        }
        self
    }

    /// The policy of `class`.
    pub fn policy(&self, class: TokenClass) -> &LifetimePolicy {
        match class {
            TokenClass::User => &self.user,
            TokenClass::Admin => &self.admin,
            TokenClass::Service => &self.service,
        }
    }
}

impl Lifetimes {
    /// For how long after its expiry a token of any class may still read.
    pub(crate) fn longest_grace(&self) -> Duration {
        [&self.user, &self.admin, &self.service]
            .map(|policy| policy.grace.unwrap_or_default())
            .into_iter()
            .max()
            .unwrap_or_default()
    }
}

/// Whether a request only reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "methods are safe or they are not")]
pub enum RequestClass {
    /// GET, HEAD, OPTIONS or TRACE (RFC 9110, section 9.2.1).
    Safe,
    /// Everything else.
    Unsafe,
}

impl From<&Method> for RequestClass {
    fn from(method: &Method) -> Self {
        if method.is_safe() { Self::Safe } else { Self::Unsafe }
    }
}

/// What an allowed request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers must handle each")]
pub enum Access {
    /// All that the token's scopes allow.
    Full,
    /// Safe methods only: the token is in its grace period.
    ReadOnly,
}

/// Whether a token works, for how long that stays so, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    access: Result<Access, Refusal>,
    until: UnixTime,
}

impl Decision {
    /// What the request may do, or why it is refused.
    ///
    /// # Errors
    /// [`Refusal::Revoked`], [`Refusal::Honeytoken`], [`Refusal::Disabled`], [`Refusal::TooOld`], [`Refusal::Idle`],
    /// [`Refusal::Expired`] or [`Refusal::ReadOnly`].
    pub fn access(&self) -> Result<Access, Refusal> {
        self.access
    }

    /// Before this time what is allowed stays the same if nobody changes or uses the token.
    #[must_use]
    pub fn until(&self) -> UnixTime {
        self.until
    }

    /// One sentence for the token's owner.
    #[must_use]
    pub fn explain(&self) -> String {
        let what = match self.access {
            Ok(Access::Full) => "allowed",
            Ok(Access::ReadOnly) => "allowed for safe methods only: expired, and still in its grace period",
            Err(Refusal::Revoked) => "refused for ever: revoked",
            Err(Refusal::Honeytoken) => "refused for ever: a trap, which raises an alert",
            Err(Refusal::Disabled) => "refused: disabled until it is enabled again",
            Err(Refusal::TooOld) => "refused for ever: past the maximum age, make a new one",
            Err(Refusal::Idle) => "refused for ever: not used for longer than the idle timeout",
            Err(Refusal::Expired) => "refused for ever: past its expiry",
            Err(Refusal::ReadOnly) => "refused: expired, and its grace period allows safe methods only",
            Err(_) => "refused",
        };
        if self.until == UnixTime::MAX {
            what.to_owned()
        } else {
            format!("{what}; this changes at {}", self.until)
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explain())
    }
}

/// Decides whether the token of `record` works at `now` for a request of `class`.
///
/// The laws, each a property test:
/// * a revoked token is never allowed, and none is at or after its hard end;
/// * a refusal other than "disabled" and "read only" is permanent: no later `now` turns it into a yes;
/// * whatever may change something may also read;
/// * before [`Decision::until`] what is allowed stays the same.
///
/// ```
/// use std::time::Duration;
/// use keyward::{TokenId, UserId, secret::TokenDigest, time::UnixTime};
/// use keyward::token::{Access, LifetimePolicy, RequestClass, TokenRecord, decide};
///
/// let id: TokenId = "019a9d5a-7c00-7abc-8def-0123456789ab".parse()?;
/// let mut record = TokenRecord::new(id, TokenDigest::of(b"key"), UserId::new("alice")?, UnixTime::EPOCH);
/// record.expires_at = Some(UnixTime::EPOCH.saturating_add(Duration::from_secs(60)));
///
/// let policy = LifetimePolicy::default();
/// let decision = decide(&record, &policy, UnixTime::EPOCH, RequestClass::Unsafe);
/// assert_eq!(decision.access(), Ok(Access::Full));
/// assert_eq!(decision.explain(), "allowed; this changes at 1970-01-01T00:01:00.000Z");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn decide(record: &TokenRecord, policy: &LifetimePolicy, now: UnixTime, class: RequestClass) -> Decision {
    let refused = |reason| Decision { access: Err(reason), until: UnixTime::MAX };
    let Ends { hard: hard_end, idle: idle_end, expiry, grace: grace_end } = Ends::of(record, policy);
    if record.revoked_at.is_some() {
        refused(Refusal::Revoked)
    } else if record.honeytoken {
        refused(Refusal::Honeytoken)
    } else if now >= hard_end {
        refused(Refusal::TooOld)
    } else if now >= idle_end {
        refused(Refusal::Idle)
    } else if now >= grace_end {
        refused(Refusal::Expired)
    } else if record.disabled_at.is_some() {
        Decision { access: Err(Refusal::Disabled), until: grace_end.min(hard_end).min(idle_end) }
    } else if now < expiry {
        Decision { access: Ok(Access::Full), until: expiry.min(hard_end).min(idle_end) }
    } else {
        let access = match class {
            RequestClass::Safe => Ok(Access::ReadOnly),
            RequestClass::Unsafe => Err(Refusal::ReadOnly),
        };
        Decision { access, until: grace_end.min(hard_end).min(idle_end) }
    }
}

/// When the token of `record` ended for good, or will if nobody changes or uses it: from then on [`decide`]
/// refuses it for ever. [`UnixTime::MAX`] if it has no end. A trap ends only when it is revoked.
///
/// ```
/// use std::time::Duration;
/// use keyward::{TokenId, UserId, secret::TokenDigest, time::UnixTime};
/// use keyward::token::{LifetimePolicy, TokenRecord, ended_at};
///
/// let id: TokenId = "019a9d5a-7c00-7abc-8def-0123456789ab".parse()?;
/// let record = TokenRecord::new(id, TokenDigest::of(b"key"), UserId::new("alice")?, UnixTime::EPOCH);
/// let idle = UnixTime::EPOCH.saturating_add(Duration::from_secs(30 * 86_400));
/// assert_eq!(ended_at(&record, &LifetimePolicy::default()), idle);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn ended_at(record: &TokenRecord, policy: &LifetimePolicy) -> UnixTime {
    let revoked = record.revoked_at.unwrap_or(UnixTime::MAX);
    if record.honeytoken {
        return revoked;
    }
    let Ends { hard, idle, grace, expiry: _ } = Ends::of(record, policy);
    revoked.min(hard).min(idle).min(grace)
}

/// The ends of a token that nobody revokes.
struct Ends {
    hard: UnixTime,
    idle: UnixTime,
    expiry: UnixTime,
    /// The expiry itself where there is no grace.
    grace: UnixTime,
}

impl Ends {
    fn of(record: &TokenRecord, policy: &LifetimePolicy) -> Self {
        let active_at = record.last_active();
        let idle = policy.idle_timeout.map_or(UnixTime::MAX, |timeout| active_at.saturating_add(timeout));
        let expiry = record.expires_at.unwrap_or(UnixTime::MAX);
        let grace = match policy.grace {
            Some(grace) if record.successor.is_none() => expiry.saturating_add(grace),
            _ => expiry,
        };
        Self { hard: hard_end(record, policy), idle, expiry, grace }
    }
}

/// The time at which the token dies whatever happens.
pub(crate) fn hard_end(record: &TokenRecord, policy: &LifetimePolicy) -> UnixTime {
    let by_age = policy.maximum.map_or(UnixTime::MAX, |maximum| record.created_at.saturating_add(maximum));
    by_age.min(record.hard_end.unwrap_or(UnixTime::MAX))
}

/// The new expiry of a token that renews itself and was used at `used_at`; `None` while more than half of
/// its lifetime is left, or when there is nothing to gain.
pub(crate) fn renewed_expiry(
    expires_at: UnixTime,
    hard_end: UnixTime,
    policy: &LifetimePolicy,
    used_at: UnixTime,
) -> Option<UnixTime> {
    let lifetime = policy.lifetime.filter(|_| policy.rolling)?;
    let due = used_at < expires_at && expires_at.since(used_at) < lifetime / 2;
    let renewed = used_at.saturating_add(lifetime).min(hard_end);
    (due && renewed > expires_at).then_some(renewed)
}

/// When a token ends as far as its owner can see at `now`. A trap has no end, by which it would be found among keys
/// that have one; it is given that of a key which was made at the same time and is in use. It hangs on nothing but
/// the time, so it is the same whoever asks however often.
pub(crate) fn apparent_expiry(
    record: &TokenRecord,
    policy: &LifetimePolicy,
    now: UnixTime,
) -> Option<UnixTime> {
    if !record.honeytoken || record.expires_at.is_some() {
        return record.expires_at;
    }
    let (hard_end, now) = (hard_end(record, policy), now.min(record.revoked_at.unwrap_or(UnixTime::MAX)));
    let renewed = policy.lifetime.map_or(UnixTime::MAX, |lifetime| {
        // Such a key is renewed when half of its lifetime is over.
        let half = (lifetime / 2).max(Duration::from_secs(1));
        let times = now.since(record.created_at).as_millis() / half.as_millis();
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        record.created_at.saturating_add(half.saturating_mul(times)).saturating_add(lifetime)
    });
    // A trap may be older than any key, and is called active all the same.
    let end = if hard_end > now { renewed.min(hard_end) } else { renewed };
    Some(end).filter(|end| *end < UnixTime::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::UserId, secret::TokenDigest};
    use proptest::prelude::*;

    fn record() -> TokenRecord {
        let id = "019a9d5a-7c00-7abc-8def-0123456789ab".parse().unwrap();
        let created = UnixTime::from_millis(1_000_000_000_000);
        TokenRecord::new(id, TokenDigest::of(b"key"), UserId::new("alice").unwrap(), created)
    }

    fn after(days: u32) -> UnixTime {
        record().created_at.saturating_add(days * DAY)
    }

    #[test]
    fn the_default_policy_by_the_day() {
        let policy = LifetimePolicy::default();
        let used = |day| Some(after(day));
        for (name, expires, last_used, now, expected) in [
            ("new", Some(90), None, 0, Ok(Access::Full)),
            ("never used for 29 days", Some(90), None, 29, Ok(Access::Full)),
            ("never used for 30 days", Some(90), None, 30, Err(Refusal::Idle)),
            ("used lately", Some(90), used(80), 89, Ok(Access::Full)),
            ("expired", Some(90), used(80), 90, Err(Refusal::Expired)),
            ("explicitly longer than the maximum", Some(1000), used(364), 364, Ok(Access::Full)),
            ("a year old", Some(1000), used(364), 365, Err(Refusal::TooOld)),
            ("without expiry a year old", None, used(364), 365, Err(Refusal::TooOld)),
        ] {
            let record = TokenRecord { expires_at: expires.map(after), last_used, ..record() };
            let decision = decide(&record, &policy, after(now), RequestClass::Unsafe);
            assert_eq!(decision.access(), expected, "{name}");
        }
    }

    #[test]
    fn grace_is_for_reading_and_for_natural_expiry_only() {
        let policy = LifetimePolicy::default().with_grace(Some(2 * DAY));
        let expired = TokenRecord { expires_at: Some(after(10)), ..record() };
        let access = |record: &TokenRecord, day, class| decide(record, &policy, after(day), class).access();
        assert_eq!(access(&expired, 11, RequestClass::Safe), Ok(Access::ReadOnly));
        assert_eq!(access(&expired, 11, RequestClass::Unsafe), Err(Refusal::ReadOnly));
        assert_eq!(access(&expired, 12, RequestClass::Safe), Err(Refusal::Expired));
        let rotated = TokenRecord { successor: Some(expired.id), ..expired.clone() };
        assert_eq!(access(&rotated, 11, RequestClass::Safe), Err(Refusal::Expired));
        let disabled = TokenRecord { disabled_at: Some(after(1)), ..expired };
        assert_eq!(access(&disabled, 11, RequestClass::Safe), Err(Refusal::Disabled));
    }

    #[test]
    fn renewal_waits_for_half_and_stops_at_the_hard_end() {
        let policy = LifetimePolicy::default();
        let renew = |expires, used| renewed_expiry(after(expires), after(365), &policy, after(used));
        assert_eq!(renew(90, 44), None);
        assert_eq!(renew(90, 46), Some(after(136)));
        assert_eq!(renew(360, 330), Some(after(365)));
        assert_eq!(renew(365, 340), None);
        assert_eq!(renew(90, 90), None, "an expired token is not brought back");
    }

    fn any_record() -> impl Strategy<Value = TokenRecord> {
        let day = || 0u32..800;
        let some_day = || prop::option::of(day().prop_map(after));
        (day(), some_day(), some_day(), some_day(), some_day(), some_day(), any::<bool>()).prop_map(
            |(created, expires_at, last_used, hard_end, revoked_at, disabled_at, rotated)| {
                let base = record();
                TokenRecord {
                    created_at: after(created),
                    expires_at,
                    last_used,
                    hard_end,
                    revoked_at: revoked_at.filter(|at| at.as_millis() % 2 == 0 && created % 3 == 0),
                    disabled_at: disabled_at.filter(|_| created % 4 == 0),
                    successor: rotated.then_some(base.id),
                    ..base
                }
            },
        )
    }

    fn any_policy() -> impl Strategy<Value = LifetimePolicy> {
        let days = || prop::option::of((0u32..500).prop_map(|days| days * DAY));
        (days(), any::<bool>(), days(), days(), days()).prop_map(
            |(lifetime, rolling, idle, maximum, grace)| LifetimePolicy {
                lifetime,
                rolling,
                idle_timeout: idle,
                maximum,
                grace,
            },
        )
    }

    fn class() -> impl Strategy<Value = RequestClass> {
        prop_oneof![Just(RequestClass::Safe), Just(RequestClass::Unsafe)]
    }

    proptest! {
        #[test]
        fn the_hard_end_is_never_passed(r in any_record(), p in any_policy(), day in 0u32..1500, c in class()) {
            let now = after(day);
            let too_old = p.maximum.is_some_and(|maximum| now >= r.created_at.saturating_add(maximum));
            if too_old || r.hard_end.is_some_and(|end| now >= end) {
                prop_assert!(decide(&r, &p, now, c).access().is_err());
            }
        }

        #[test]
        fn a_revoked_record_is_never_allowed(r in any_record(), p in any_policy(), day in 0u32..1500, c in class()) {
            let r = TokenRecord { revoked_at: Some(after(0)), ..r };
            prop_assert_eq!(decide(&r, &p, after(day), c).access(), Err(Refusal::Revoked));
        }

        #[test]
        fn a_later_now_never_turns_a_permanent_refusal_into_a_yes(
            r in any_record(), p in any_policy(), day in 0u32..1500, later in 0u32..1500, c in class()
        ) {
            let refusal = decide(&r, &p, after(day), c).access();
            if matches!(refusal, Err(reason) if !matches!(reason, Refusal::Disabled | Refusal::ReadOnly)) {
                prop_assert!(decide(&r, &p, after(day + later), c).access().is_err());
                prop_assert!(decide(&r, &p, after(day + later), RequestClass::Safe).access().is_err());
            }
        }

        #[test]
        fn from_its_end_on_a_token_is_refused_for_ever_and_not_before(
            r in any_record(), p in any_policy(), day in 0u32..1500, honeytoken in any::<bool>()
        ) {
            let (r, now) = (TokenRecord { honeytoken, ..r }, after(day));
            let refusal = decide(&r, &p, now, RequestClass::Safe).access().err();
            let for_ever = refusal.is_some_and(|reason| reason != Refusal::Disabled);
            // Revocation has no time: a record that will have been revoked is refused before that as well.
            if now >= ended_at(&r, &p) {
                prop_assert!(for_ever);
            } else if r.revoked_at.is_none() && !honeytoken {
                prop_assert!(!for_ever, "{:?}", refusal);
            }
        }

        #[test]
        fn who_may_write_may_read(r in any_record(), p in any_policy(), day in 0u32..1500) {
            if decide(&r, &p, after(day), RequestClass::Unsafe).access().is_ok() {
                prop_assert_eq!(decide(&r, &p, after(day), RequestClass::Safe).access(), Ok(Access::Full));
            }
        }

        #[test]
        fn the_answer_stays_until_it_says(
            r in any_record(), p in any_policy(), day in 0u32..1500, part in 0.0f64..1.0, c in class()
        ) {
            let now = after(day);
            let decision = decide(&r, &p, now, c);
            prop_assert!(decision.until() > now);
            let room = decision.until().since(now).min(3000 * DAY);
            let within = now.saturating_add(room.mul_f64(part)).min(UnixTime::from_millis(decision.until().as_millis() - 1));
            prop_assert_eq!(decide(&r, &p, within, c).access().ok(), decision.access().ok());
        }

        #[test]
        fn renewal_only_ever_lengthens_and_never_past_the_hard_end(
            p in any_policy(), expires in 0u32..800, hard in 0u32..800, used in 0u32..800
        ) {
            if let Some(renewed) = renewed_expiry(after(expires), after(hard), &p, after(used)) {
                prop_assert!(renewed > after(expires) && renewed <= after(hard) && used < expires);
            }
        }
    }
}
