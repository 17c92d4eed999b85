//! The time of day. Tests set it, in a debug build only: whoever can do that brings dead keys back to life.

use std::sync::Arc;

use keyward::{ConfigError, time::Clock};

/// Names the file that holds the time for tests. It is no setting, so it cannot come from a file of settings.
const TEST_CLOCK: &str = "KEY_SERVICE_TEST_CLOCK";

/// Says loudly that the time is not real, and refuses that where it could be meant seriously.
pub(crate) fn check() -> Result<(), ConfigError> {
    match test_clock() {
        Some(_) if !cfg!(debug_assertions) => Err(ConfigError::new(format!(
            "{TEST_CLOCK} would bring expired keys back to life, so a release build refuses it; unset it"
        ))),
        Some(file) => {
            tracing::warn!(
                ?file,
                "{TEST_CLOCK} is set: the time is what a file says, which is for tests only"
            );
            Ok(())
        }
        None => Ok(()),
    }
}

#[expect(clippy::disallowed_methods, reason = "for tests; settings are read in their own module")]
fn test_clock() -> Option<std::ffi::OsString> {
    std::env::var_os(TEST_CLOCK)
}

/// The system's clock.
#[cfg(not(debug_assertions))]
pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(keyward::time::SystemClock)
}

/// The system's clock, unless a test sets the time.
#[cfg(debug_assertions)]
pub(crate) fn clock() -> Arc<dyn Clock> {
    match test_clock() {
        Some(file) => Arc::new(test::FileClock(file.into())),
        None => Arc::new(keyward::time::SystemClock),
    }
}

#[cfg(debug_assertions)]
mod test {
    use std::{fs, path::PathBuf};

    use keyward::time::{Clock, UnixTime};

    /// Stands still at the time that the file says, in RFC 3339.
    #[derive(Debug)]
    pub(super) struct FileClock(pub(super) PathBuf);

    impl Clock for FileClock {
        fn now(&self) -> UnixTime {
            let text = fs::read_to_string(&self.0).unwrap_or_default();
            // At the end of time everything has expired.
            text.trim().parse().unwrap_or(UnixTime::MAX)
        }
    }
}
