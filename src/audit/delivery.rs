//! What a destination of events promises: [`Destination`].

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{event::Event, store::StoreError};

/// Where the events of an [`EventQueue`](crate::audit::EventQueue) go: an [`AuditLog`](crate::audit::AuditLog) or a `Webhook` (feature
/// `webhooks`) has one, and yours may be a message broker or a mail.
///
/// ```
/// use keyward::audit::{Batch, DeliveryError, Destination};
///
/// #[derive(Debug)]
/// struct StandardOutput;
///
/// #[keyward::store::async_trait]
/// impl Destination for StandardOutput {
///     async fn deliver(&self, batch: &Batch) -> Result<(), DeliveryError> {
///         let lines = batch.events.iter().map(|event| serde_json::to_string(event));
///         let lines: Result<Vec<_>, _> = lines.collect();
///         println!("{}", lines.map_err(|error| DeliveryError::new(error.to_string()))?.join("\n"));
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait Destination: fmt::Debug + Send + Sync + 'static {
    /// Takes over all events of `batch`, or fails. It limits its time itself.
    ///
    /// # Errors
    /// If they were not taken over, as far as it knows: then the same batch comes again, so an event may
    /// arrive twice.
    async fn deliver(&self, batch: &Batch) -> Result<(), DeliveryError>;

    /// How batches are made and when they are tried again.
    fn plan(&self) -> DeliveryPlan {
        DeliveryPlan::default()
    }
}

#[async_trait]
impl<D: Destination + ?Sized> Destination for Arc<D> {
    async fn deliver(&self, batch: &Batch) -> Result<(), DeliveryError> {
        (**self).deliver(batch).await
    }

    fn plan(&self) -> DeliveryPlan {
        (**self).plan()
    }
}

/// Events that travel together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Batch {
    /// Tells this batch from all others; the same at each attempt.
    pub id: Box<str>,
    /// At least one event.
    pub events: Vec<Event>,
}

/// How the events of a queue are delivered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeliveryPlan {
    /// At most so many events in a batch: 100 by default.
    pub batch: usize,
    /// Whether waiting alerts overtake other events; otherwise, and by default, they go as they came.
    pub alerts_first: bool,
    /// After so many attempts a batch is given up and counted as lost; by default never.
    pub attempts: Option<u32>,
    /// How long the first failure is waited after: half a second by default, less a random part of up to a
    /// half, as with all waits. It doubles with each failure.
    pub first_delay: Duration,
    /// The longest wait: a minute by default.
    pub longest_delay: Duration,
}

impl Default for DeliveryPlan {
    fn default() -> Self {
        Self {
            batch: 100,
            alerts_first: false,
            attempts: None,
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(60),
        }
    }
}

impl DeliveryPlan {
    /// At most so many events in a batch.
    #[must_use]
    pub fn with_batch(mut self, events: usize) -> Self {
        self.batch = events.max(1);
        self
    }

    /// Waiting alerts overtake other events.
    #[must_use]
    pub fn alerts_first(mut self) -> Self {
        self.alerts_first = true;
        self
    }

    /// After so many attempts, at least one, a batch is given up.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts.max(1));
        self
    }

    /// The first and the longest wait after a failure.
    #[must_use]
    pub fn with_delays(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_delay, self.longest_delay) = (first.min(longest), longest);
        self
    }
}

/// Why a batch was not delivered, in one sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct DeliveryError {
    sentence: Cow<'static, str>,
    pub(super) retry_after: Option<Duration>,
}

impl DeliveryError {
    /// An error with one sentence, which must hold no secret.
    #[must_use]
    pub fn new(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self { sentence: sentence.into(), retry_after: None }
    }

    /// The destination asks for patience. It counts up to the plan's longest wait.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Option<Duration>) -> Self {
        self.retry_after = delay;
        self
    }
}

impl From<StoreError> for DeliveryError {
    fn from(error: StoreError) -> Self {
        Self::new(error.to_string())
    }
}
