//! For tests of services that use keyward: the [`Kit`] acts as a user, with a clock to set and the events to
//! look into; beside it the isolation check, a fake issuer, and the conformance suite for stores.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};
use std::time::Duration;

use crate::{
    event::{Alert, AuditSink, Event, EventKind},
    time::{Clock, UnixTime},
};

pub mod conformance;
mod isolation;
#[cfg(feature = "_jwt")]
mod issuer;
mod kit;

pub use isolation::{Isolation, Leak, assert_isolated};
#[cfg(feature = "_jwt")]
pub use issuer::{FakeIssuer, IssuerMode};
pub use kit::{ActingAs, Caller, Kit};

/// A clock that stands still until it is moved. Clones share their time.
///
/// ```
/// use std::time::Duration;
/// use keyward::{testing::ManualClock, time::Clock};
///
/// let clock = ManualClock::at("2026-01-01T00:00:00Z".parse()?);
/// clock.advance(Duration::from_secs(86_400));
/// assert_eq!(clock.now().to_string(), "2026-01-02T00:00:00.000Z");
/// # Ok::<(), keyward::time::InvalidTime>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: UnixTime) -> Self {
        Self(Arc::new(AtomicI64::new(now.as_millis())))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().saturating_add(by));
    }

    /// Sets the clock, also backwards.
    pub fn set(&self, now: UnixTime) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixTime {
        UnixTime::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A sink that keeps all events, for assertions. Clones share them.
///
/// ```
/// use keyward::{TokenManager, UserId, event::EventKind, manage::NewToken};
/// use keyward::{store::MemoryStore, testing::RecordingSink};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let events = RecordingSink::default();
/// let tokens = TokenManager::builder(MemoryStore::new()).with_audit(events.clone()).build();
/// tokens.create(&UserId::new("alice")?, NewToken::named("laptop")).await?;
/// assert_eq!(events.kinds(), [EventKind::TokenCreated]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct RecordingSink(Arc<Mutex<Vec<Event>>>);

impl RecordingSink {
    /// All events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the events so far are about.
    #[must_use]
    pub fn kinds(&self) -> Vec<EventKind> {
        self.events().iter().map(|event| event.kind).collect()
    }

    /// The alerts so far.
    #[must_use]
    pub fn alerts(&self) -> Vec<Alert> {
        let alert = |kind| if let EventKind::Alert(alert) = kind { Some(alert) } else { None };
        self.kinds().into_iter().filter_map(alert).collect()
    }

    /// Forgets all events.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl AuditSink for RecordingSink {
    fn record(&self, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}
