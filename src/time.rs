//! Wall-clock time: [`UnixTime`] and the [`Clock`] that tells it.
//!
//! Only this module reads the system's clock. Everything that decides takes the time as an argument.

use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, in whole milliseconds since 1970-01-01T00:00:00Z.
///
/// Arithmetic saturates, so no input can make it overflow. Text and serde use RFC 3339 in UTC.
///
/// ```
/// use std::time::Duration;
/// use keyward::time::UnixTime;
///
/// let start: UnixTime = "2026-01-01T00:00:00Z".parse()?;
/// let later = start.saturating_add(Duration::from_secs(90 * 86_400));
/// assert_eq!(later.to_string(), "2026-04-01T00:00:00.000Z");
/// assert_eq!(later.since(start), Duration::from_secs(90 * 86_400));
/// assert_eq!(start.since(later), Duration::ZERO);
/// # Ok::<(), keyward::time::InvalidTime>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

/// The last millisecond of the year 9999: what RFC 3339 can still write.
const LAST_WRITABLE: i64 = 253_402_300_799_999;

impl UnixTime {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// The far end of time: later than any other value.
    pub const MAX: Self = Self(i64::MAX);

    /// The time `millis` milliseconds after the epoch (before it, if negative).
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time plus `duration`, at most [`UnixTime::MAX`].
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This time minus `duration`, at least the smallest value.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How much later than `earlier` this is; zero if it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self::EPOCH.saturating_add(after),
            Err(before) => Self::EPOCH.saturating_sub(before.duration()),
        }
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.clamp(0, LAST_WRITABLE)).unwrap_or(0);
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).fmt(f)
    }
}

/// A text that is not an RFC 3339 time in UTC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time in UTC, such as 2026-01-31T12:00:00Z")]
#[non_exhaustive]
pub struct InvalidTime;

impl FromStr for UnixTime {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        humantime::parse_rfc3339(text).map(Self::from).map_err(|_| InvalidTime)
    }
}

impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Tells the time of day.
///
/// The default everywhere is [`SystemClock`]; tests put in a clock that they can set.
///
/// ```
/// use keyward::time::{Clock, UnixTime};
///
/// #[derive(Debug)]
/// struct Frozen;
/// impl Clock for Frozen {
///     fn now(&self) -> UnixTime {
///         UnixTime::from_millis(1_767_225_600_000)
///     }
/// }
/// assert_eq!(Frozen.now().to_string(), "2026-01-01T00:00:00.000Z");
/// ```
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The current time. Called once for each request, so it should be cheap, and it must not block.
    fn now(&self) -> UnixTime;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> UnixTime {
        (**self).now()
    }
}

/// The operating system's wall clock.
///
/// On Linux this is the coarse real-time clock: it moves in steps of at most 10 ms (1 to 4 ms on usual
/// kernels) and costs a third of a precise reading, which is more than a whole key look-up.
///
/// ```
/// use keyward::time::{Clock, SystemClock, UnixTime};
///
/// assert!(SystemClock.now() > UnixTime::EPOCH);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> UnixTime {
        system_now()
    }
}

#[cfg(target_os = "linux")]
#[inline]
fn system_now() -> UnixTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    UnixTime(now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000))
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
fn system_now() -> UnixTime {
    SystemTime::now().into()
}

/// Measures how long work takes, or how long ago something was, by the timer of the runtime; it decides only how
/// much work comes next, and when something is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(tokio::time::Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn system_clock_agrees_with_the_precise_one() {
        #[expect(clippy::disallowed_methods, reason = "compares the two clocks")]
        let precise = UnixTime::from(SystemTime::now());
        let coarse = SystemClock.now();
        assert!(coarse.since(precise).max(precise.since(coarse)) < Duration::from_secs(1));
    }

    #[test]
    fn extremes_neither_panic_nor_wrap() {
        for time in [i64::MIN, -1, 0, LAST_WRITABLE, LAST_WRITABLE + 1, i64::MAX].map(UnixTime) {
            assert!(time.to_string().ends_with('Z'));
            assert!(time.saturating_add(Duration::MAX) >= time);
            assert!(time.saturating_sub(Duration::MAX) <= time);
        }
        assert!("99999-01-01T00:00:00Z".parse::<UnixTime>().is_err());
        assert!("".parse::<UnixTime>().is_err());
    }

    proptest! {
        #[test]
        fn text_comes_back_equal(millis in 0..LAST_WRITABLE) {
            let time = UnixTime(millis);
            prop_assert_eq!(time.to_string().parse::<UnixTime>(), Ok(time));
        }
    }
}
