//! How often: per-token rate limits and quotas, and how many credentials from one address may be wrong.
//!
//! A **rate limit** bounds how fast requests may follow one another; what was not used is not saved up beyond
//! its burst. A **quota** bounds how many there may be in a calendar day or month (UTC). A token has neither
//! unless it is given one; see [`Limits`]. A **failure** is a wrong credential; see [`FailureLimit`].
//!
//! A request beyond a limit is answered 429 with `Retry-After` and is no use of its token: it neither renews it
//! nor counts. So a token that uses up a month's quota on the first day needs an idle timeout of more than 30 days.
//!
//! Responses to a limited key carry `RateLimit-Policy` and `RateLimit`, as
//! [draft-ietf-httpapi-ratelimit-headers-10] writes them: the limits `"rate"`, `"quota"` and `"owner"` with
//! `q` requests in `w` seconds, of which `r` are left and all are there again in `t` seconds.
//!
//! Within one process limits are exact, whatever comes at once. Rate limits are each process's own, and begin
//! anew with it, unless the processes [share](SharedLimits) them. What is used of a quota is written along with the use of keys, once a second: a process that is
//! killed forgets that much, and processes on one store see what the others used when they look a key up again,
//! after the staleness bound at the latest. A rate limit goes by the wall clock: one that is set ahead gives back
//! as much, one that is set back takes one burst.
//!
//! [draft-ietf-httpapi-ratelimit-headers-10]: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-10

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};

use crate::error::ConfigError;

mod failures;
mod gcra;
mod limiter;
mod meters;
mod quota;
mod shared;
mod suspects;
mod together;

pub use failures::FailureLimit;
pub(crate) use failures::{Entry, Turn, Waited, too_many};
pub(crate) use gcra::Gcra;
pub(crate) use gcra::RateMeter;
pub(crate) use gcra::nanos;
pub(crate) use limiter::{Exceeded, Limiter, TokenMeter, Told};
pub(crate) use meters::{Meter, Meters};
pub use quota::QuotaUse;
pub use shared::SharedLimits;
#[cfg(feature = "redis")]
pub(crate) use shared::{Counted, SharedAnswer, SharedCounts, SharedFailure, SharedFailures, SharedRequest};
pub(crate) use suspects::Over;
pub(crate) use suspects::Suspect;

/// The longest time that a rate limit may spread its requests over.
const LONGEST_PERIOD: Duration = Duration::from_secs(86_400);

/// How fast requests may follow one another: so many in each period, all of them at once at the earliest.
///
/// ```
/// use std::time::Duration;
/// use keyward::limit::RateLimit;
///
/// let limit = RateLimit::new(100, Duration::from_secs(60))?;
/// assert_eq!(limit.requests().get(), 100);
/// assert!(RateLimit::new(0, Duration::from_secs(60)).is_err());
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    requests: NonZeroU32,
    period: Duration,
}

impl RateLimit {
    /// `requests` in each `period` of whole seconds, one second to one day.
    ///
    /// # Errors
    /// When there are no requests, or the period is outside these bounds.
    pub fn new(requests: u32, period: Duration) -> Result<Self, ConfigError> {
        let whole = period.subsec_nanos() == 0 && (Duration::from_secs(1)..=LONGEST_PERIOD).contains(&period);
        match NonZeroU32::new(requests) {
            Some(requests) if whole => Ok(Self { requests, period }),
            _ => Err(ConfigError::new(
                "a rate limit is at least one request in a period of whole seconds, one second to one day",
            )),
        }
    }

    /// `requests` in a minute, but at least one.
    #[cfg(feature = "api")]
    pub(crate) fn per_minute(requests: u32) -> Self {
        let requests = NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN);
        Self { requests, period: Duration::from_secs(60) }
    }

    /// `requests` in an hour, but at least one.
    pub(crate) fn per_hour(requests: u32) -> Self {
        let requests = NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN);
        Self { requests, period: Duration::from_secs(3600) }
    }

    /// How many requests.
    #[must_use]
    pub fn requests(&self) -> NonZeroU32 {
        self.requests
    }

    /// In how long a time.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Whether it allows neither more at once nor more in the long run than `other`.
    fn is_within(&self, other: &Self) -> bool {
        let over = |own: &Self, time: &Self| u64::from(own.requests.get()) * time.period.as_secs();
        self.requests <= other.requests && over(self, other) <= over(other, self)
    }
}

/// How many requests there may be in a calendar day or month.
///
/// ```
/// use keyward::limit::{Quota, QuotaPeriod};
///
/// let quota = Quota::new(10_000, QuotaPeriod::Month)?;
/// assert_eq!(quota.requests().get(), 10_000);
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    requests: NonZeroU32,
    period: QuotaPeriod,
}

impl Quota {
    /// `requests` in each `period`.
    ///
    /// # Errors
    /// When there are no requests: disable the token instead.
    pub fn new(requests: u32, period: QuotaPeriod) -> Result<Self, ConfigError> {
        let none = || ConfigError::new("a quota is at least one request; disable the token instead");
        Ok(Self { requests: NonZeroU32::new(requests).ok_or_else(none)?, period })
    }

    /// How many requests.
    #[must_use]
    pub fn requests(&self) -> NonZeroU32 {
        self.requests
    }

    /// In which period.
    #[must_use]
    pub fn period(&self) -> QuotaPeriod {
        self.period
    }

    /// Whether it allows no more than `other` in any period.
    fn is_within(&self, other: &Self) -> bool {
        let days = match (self.period, other.period) {
            (QuotaPeriod::Day, QuotaPeriod::Month) => 31,
            _ => 1,
        };
        u64::from(self.requests.get()) * days <= u64::from(other.requests.get())
    }
}

/// When a [`Quota`] begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QuotaPeriod {
    /// At midnight, UTC.
    Day,
    /// At midnight before the first of a month, UTC.
    Month,
}

/// How often a token may be used; without limits by default.
///
/// In JSON: `{"rate": {"requests": 100, "seconds": 60}, "quota": {"requests": 10000, "per": "month"}}`, either
/// of them absent or null for none.
///
/// ```
/// use std::time::Duration;
/// use keyward::limit::{Limits, RateLimit};
///
/// let limits = Limits::default().with_rate(Some(RateLimit::new(100, Duration::from_secs(60))?));
/// assert!(limits.quota().is_none() && !limits.is_empty());
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<RateLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quota: Option<Quota>,
}

impl Limits {
    /// With this rate limit; none by default.
    pub fn with_rate(self, rate: Option<RateLimit>) -> Self {
        Self { rate, ..self }
    }

    /// With this quota; none by default.
    pub fn with_quota(self, quota: Option<Quota>) -> Self {
        Self { quota, ..self }
    }

    /// How fast requests may follow one another.
    #[must_use]
    pub fn rate(&self) -> Option<RateLimit> {
        self.rate
    }

    /// How many there may be.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        self.quota
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rate.is_none() && self.quota.is_none()
    }

    /// Whether they allow no more than `other`, in any of its limits.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let rate = other.rate.is_none_or(|other| self.rate.is_some_and(|rate| rate.is_within(&other)));
        let quota = other.quota.is_none_or(|other| self.quota.is_some_and(|quota| quota.is_within(&other)));
        rate && quota
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateText {
    requests: u32,
    seconds: u64,
}

impl Serialize for RateLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = serializer.serialize_struct("RateLimit", 2)?;
        text.serialize_field("requests", &self.requests)?;
        text.serialize_field("seconds", &self.period.as_secs())?;
        text.end()
    }
}

impl<'de> Deserialize<'de> for RateLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RateText { requests, seconds } = RateText::deserialize(deserializer)?;
        Self::new(requests, Duration::from_secs(seconds)).map_err(de::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaText {
    requests: u32,
    per: QuotaPeriod,
}

impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = serializer.serialize_struct("Quota", 2)?;
        text.serialize_field("requests", &self.requests)?;
        text.serialize_field("per", &self.period)?;
        text.end()
    }
}

impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let QuotaText { requests, per } = QuotaText::deserialize(deserializer)?;
        Self::new(requests, per).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tighter_limits_are_within_wider_ones() {
        let read = |text: &str| serde_json::from_str::<Limits>(text).unwrap();
        let (day, month) =
            (r#"{"quota":{"requests":10,"per":"day"}}"#, r#"{"quota":{"requests":310,"per":"month"}}"#);
        for (name, inner, outer, expected) in [
            ("nothing in nothing", "{}", "{}", true),
            ("a limit in none", r#"{"rate":{"requests":9,"seconds":1}}"#, "{}", true),
            ("none in a rate", "{}", r#"{"rate":{"requests":9,"seconds":1}}"#, false),
            ("none in a quota", "{}", day, false),
            ("a rate in a quota", r#"{"rate":{"requests":1,"seconds":86400}}"#, day, false),
            (
                "the same rate",
                r#"{"rate":{"requests":9,"seconds":60}}"#,
                r#"{"rate":{"requests":9,"seconds":60}}"#,
                true,
            ),
            (
                "slower",
                r#"{"rate":{"requests":9,"seconds":61}}"#,
                r#"{"rate":{"requests":9,"seconds":60}}"#,
                true,
            ),
            (
                "faster",
                r#"{"rate":{"requests":9,"seconds":59}}"#,
                r#"{"rate":{"requests":9,"seconds":60}}"#,
                false,
            ),
            (
                "more at once",
                r#"{"rate":{"requests":10,"seconds":600}}"#,
                r#"{"rate":{"requests":9,"seconds":60}}"#,
                false,
            ),
            (
                "fewer at once, but faster",
                r#"{"rate":{"requests":2,"seconds":1}}"#,
                r#"{"rate":{"requests":9,"seconds":60}}"#,
                false,
            ),
            ("days in a month", day, month, true),
            ("too many days in a month", r#"{"quota":{"requests":11,"per":"day"}}"#, month, false),
            ("a month in a day", r#"{"quota":{"requests":10,"per":"month"}}"#, day, true),
            ("more than a day in a month", month, day, false),
            (
                "the largest",
                r#"{"rate":{"requests":4294967295,"seconds":86400}}"#,
                r#"{"rate":{"requests":4294967295,"seconds":1}}"#,
                true,
            ),
        ] {
            assert_eq!(read(inner).is_within(&read(outer)), expected, "{name}");
        }
    }

    #[test]
    fn limits_are_read_as_they_are_written() {
        for text in [
            "{}",
            r#"{"rate":{"requests":100,"seconds":60}}"#,
            r#"{"quota":{"requests":10000,"per":"month"}}"#,
            r#"{"rate":{"requests":1,"seconds":86400},"quota":{"requests":1,"per":"day"}}"#,
        ] {
            let limits: Limits = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&limits).unwrap(), text);
        }
        for text in [
            r#"{"rate":{"requests":0,"seconds":60}}"#,
            r#"{"rate":{"requests":1,"seconds":0}}"#,
            r#"{"rate":{"requests":1,"seconds":86401}}"#,
            r#"{"rate":{"requests":1}}"#,
            r#"{"quota":{"requests":0,"per":"day"}}"#,
            r#"{"quota":{"requests":1,"per":"year"}}"#,
            r#"{"rates":{}}"#,
        ] {
            assert!(serde_json::from_str::<Limits>(text).is_err(), "{text}");
        }
    }
}
