//! The stored audit log.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicI64, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;

use super::{Batch, DeliveryError, DeliveryPlan, Destination, EventQueue, QueueSink};
use crate::{
    event::{Alert, Audit, AuditSink, Event, EventKind, TRACING_TARGET, TracingSink},
    id::UserId,
    principal::AdminProof,
    store::{
        AuditEntry, AuditError, AuditQuery, AuditStore, Broken, ChainHead, StoreError, StoreErrorKind,
        Verified, audit::verify::verify, lookup::STORE_TIMEOUT,
    },
    time::{Clock, SystemClock, UnixTime},
};

/// How long a search waits for what has just happened to be stored.
const SETTLE_LIMIT: Duration = Duration::from_millis(400);

/// How many entries are deleted in one transaction.
const PRUNE_STEP: u32 = 10_000;

/// How often old entries are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);

/// The stored audit log: writes events in the background, and lets administrators search, verify and shorten
/// it. Each of these is an event of the log as well. Cloning shares it.
///
/// ```
/// use std::sync::Arc;
/// use keyward::{AdminProof, TokenManager, UserId, manage::NewToken, store::MemoryStore};
/// use keyward::audit::{AuditLog, AuditQuery};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(MemoryStore::new()); // or an `SqliteStore`
/// let (audit, log) = AuditLog::new(store.clone());
/// tokio::spawn(log.clone().run(std::future::pending()));
/// let tokens = TokenManager::builder(store).with_audit(audit).build();
///
/// let alice = UserId::new("alice")?;
/// tokens.create(&alice, NewToken::named("laptop")).await?;
///
/// let proof = AdminProof::operator("ops", "yearly review")?;
/// let page = log.search(&proof, &AuditQuery::default().with_user(alice)).await?;
/// assert_eq!(&*page.entries[0].event, "token.created");
///
/// let noted = log.verify(&proof, None).await?.head; // to be kept where the database's users cannot write
/// log.verify(&proof, Some(noted)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AuditLog(Arc<Inner>);

struct Inner {
    store: Box<dyn AuditStore>,
    sink: QueueSink,
    queue: Mutex<Option<EventQueue>>,
    retention: Option<Duration>,
    /// Where events about the log itself go.
    audit: Audit,
}

/// Makes an [`AuditLog`] with other settings than the defaults.
///
/// ```
/// use std::time::Duration;
/// use keyward::{audit::AuditLog, store::MemoryStore};
///
/// let year = Duration::from_secs(365 * 86_400);
/// let (audit, log) = AuditLog::builder(MemoryStore::new()).with_retention(year).build();
/// # let _ = (audit, log);
/// ```
#[derive(Debug)]
#[must_use]
pub struct AuditLogBuilder {
    store: Box<dyn AuditStore>,
    queue: (QueueSink, EventQueue),
    retention: Option<Duration>,
    sink: Box<dyn AuditSink>,
    clock: Arc<dyn Clock>,
}

impl AuditLogBuilder {
    /// Room for so many waiting events and so many more alerts; 1024 and 256. See
    /// [`QueueSink::with_capacity`].
    pub fn with_capacity(mut self, events: usize, alerts: usize) -> Self {
        self.queue = QueueSink::with_capacity(events, alerts);
        self
    }

    /// Deletes entries that are older; they are looked for once an hour, when an event is written. By default
    /// all are kept.
    pub fn with_retention(mut self, age: Duration) -> Self {
        self.retention = Some(age);
        self
    }

    /// Where events about the log itself go, beside the log; [`TracingSink`] by default.
    pub fn with_audit(mut self, sink: impl AuditSink) -> Self {
        self.sink = Box::new(sink);
        self
    }

    /// Where the time of events about the log itself comes from; the system's clock by default.
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The sink to give to [`with_audit`](crate::manage::TokenManagerBuilder::with_audit), and the log.
    #[must_use]
    pub fn build(self) -> (QueueSink, AuditLog) {
        let (sink, queue) = self.queue;
        let log = AuditLog(Arc::new(Inner {
            store: self.store,
            queue: Mutex::new(Some(queue)),
            retention: self.retention,
            audit: Audit::with_clock((self.sink, sink.clone()), self.clock),
            sink: sink.clone(),
        }));
        (sink, log)
    }
}

/// Part of the log, newest first.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins; `None` if this is the last.
    pub next_cursor: Option<u64>,
}

impl AuditLog {
    /// A log in `store` with the default settings, and the sink that feeds it: give that to
    /// [`with_audit`](crate::manage::TokenManagerBuilder::with_audit), alone or in a tuple with others, and
    /// [run](Self::run) the log.
    #[must_use]
    pub fn new(store: impl AuditStore) -> (QueueSink, Self) {
        Self::builder(store).build()
    }

    /// A log with settings of your own.
    pub fn builder(store: impl AuditStore) -> AuditLogBuilder {
        AuditLogBuilder {
            store: Box::new(store),
            queue: QueueSink::new(),
            retention: None,
            sink: Box::new(TracingSink),
            clock: Arc::new(SystemClock),
        }
    }

    /// Writes events until `shutdown` is done, and then what still waits; see [`EventQueue::run`]. Await it
    /// last, since whatever ends before it may have something to report. Once for each log; a program that only
    /// looks into the log does it at its end, with a shutdown that is done already.
    ///
    /// If the process is killed, what waits is lost: usually what happened within the last 50 milliseconds,
    /// and what happened since the store stopped answering if it did; never more than the queue holds, and
    /// never a part of the chain. Events that the store took over before it failed to say so are there twice.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        match queue {
            Some(queue) => queue.run(Writer { log: self, pruned: AtomicI64::new(i64::MIN) }, shutdown).await,
            None => tracing::error!(target: TRACING_TARGET, "the audit log is run a second time"),
        }
    }

    /// The entries that match `query`, newest first. What happened in this process before the call is among them,
    /// unless the store is slow or nobody runs the log.
    ///
    /// # Errors
    /// When the store does not answer within five seconds.
    pub async fn search(&self, proof: &AdminProof, query: &AuditQuery) -> Result<AuditPage, StoreError> {
        let _ = tokio::time::timeout(SETTLE_LIMIT, self.0.sink.shared().all_settled()).await;
        let entries = within(self.0.store.search(query)).await?;
        // A filter that finds nothing is the client's text, and may be anything.
        let user = query.user.as_ref().filter(|_| !entries.is_empty());
        self.report(proof, EventKind::AuditRead, user);
        let full = entries.len() >= query.limit as usize;
        let next_cursor = entries.last().map(|last| last.number).filter(|_| full);
        Ok(AuditPage { entries, next_cursor })
    }

    /// Goes along the whole chain, a thousand entries at a time. With a head that was `noted` elsewhere it also
    /// proves that the chain up to there is still the same; without one, whoever can write to the store could
    /// have made the chain anew or cut off its end.
    ///
    /// # Errors
    /// [`AuditError::Broken`] names the first entry that is not what was written, and raises the alert
    /// [`Alert::AuditTampered`]; [`AuditError::Store`].
    pub async fn verify(&self, proof: &AdminProof, noted: Option<ChainHead>) -> Result<Verified, AuditError> {
        let result = verify(&*self.0.store, noted).await;
        match &result {
            Ok(verified) => self.report(proof, EventKind::AuditVerified(verified.entries), None),
            Err(AuditError::Broken(broken)) => self.report_broken(proof, broken),
            Err(AuditError::Store(_)) => {}
        }
        result
    }

    /// The last entry's number and hash, to be noted elsewhere.
    ///
    /// # Errors
    /// As for [`search`](Self::search).
    pub async fn head(&self) -> Result<ChainHead, StoreError> {
        Ok(within(self.0.store.chain_ends()).await?.head)
    }

    /// Deletes the entries at the beginning of the chain that are dated before `before`; says how many. The last
    /// of them stays as the anchor of the chain, so that the rest can still be verified.
    ///
    /// # Errors
    /// [`StoreError`]; some may be deleted by then.
    pub async fn prune(&self, proof: &AdminProof, before: UnixTime) -> Result<u64, StoreError> {
        let mut pruned = 0;
        let result = self.prune_in_steps(before, &mut pruned).await;
        if pruned > 0 || result.is_ok() {
            self.report(proof, EventKind::AuditPruned(pruned), None);
        }
        result.map(|()| pruned)
    }

    async fn prune_in_steps(&self, before: UnixTime, pruned: &mut u64) -> Result<(), StoreError> {
        loop {
            let step = self.0.store.delete_before(before, PRUNE_STEP).await?;
            *pruned += step;
            if step < u64::from(PRUNE_STEP) {
                return Ok(());
            }
        }
    }

    fn report(&self, proof: &AdminProof, kind: EventKind, user: Option<&UserId>) {
        let event = event(proof, kind).because(proof.reason());
        self.0.audit.emit(match user {
            Some(user) => event.owned_by(user),
            None => event,
        });
    }

    fn report_broken(&self, proof: &AdminProof, broken: &Broken) {
        let event = event(proof, EventKind::Alert(Alert::AuditTampered));
        self.0.audit.emit(event.because(&broken.to_string()));
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("store", &self.0.store).finish_non_exhaustive()
    }
}

fn event(proof: &AdminProof, kind: EventKind) -> Event {
    match proof.principal() {
        Some(principal) => principal.event(kind),
        None => Event::new(kind).by(proof.actor()),
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let done = tokio::time::timeout(STORE_TIMEOUT, answer).await;
    done.unwrap_or_else(|_| Err(StoreError::new(StoreErrorKind::Unavailable, "no answer in time")))
}

/// Where the queue of a log leads to.
struct Writer {
    log: AuditLog,
    /// The time of the event with which old entries were last looked for.
    pruned: AtomicI64,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.0.store.fmt(f)
    }
}

#[async_trait]
impl Destination for Writer {
    async fn deliver(&self, batch: &Batch) -> Result<(), DeliveryError> {
        self.log.0.store.append(&batch.events).await?;
        if let Some(age) = self.log.0.retention {
            let newest = batch.events.iter().map(|event| event.at).max().unwrap_or(UnixTime::EPOCH);
            self.keep(age, newest).await;
        }
        Ok(())
    }

    /// A store is back within a second of its return.
    fn plan(&self) -> DeliveryPlan {
        let delays = (Duration::from_millis(100), Duration::from_millis(500));
        DeliveryPlan::default().with_batch(2048).with_delays(delays.0, delays.1)
    }
}

impl Writer {
    async fn keep(&self, age: Duration, now: UnixTime) {
        let last = UnixTime::from_millis(self.pruned.load(Relaxed));
        if now < last.saturating_add(PRUNE_INTERVAL) {
            return;
        }
        self.pruned.store(now.as_millis(), Relaxed);
        let mut pruned = 0;
        if let Err(error) = self.log.prune_in_steps(now.saturating_sub(age), &mut pruned).await {
            tracing::warn!(target: TRACING_TARGET, %error, "old audit entries could not be deleted");
        }
        if pruned > 0 {
            let event = Event::new(EventKind::AuditPruned(pruned));
            let by = UserId::from_valid("keyward:system".to_owned());
            self.log.0.audit.emit(event.by(&by).because("retention"));
        }
    }
}
