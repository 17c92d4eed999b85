//! A bounded queue between where events happen and where they go.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::{Notify, watch};

use super::folds::{Fate, Folds};
use crate::{
    count::{self, Level},
    event::{AuditSink, Event, EventKind},
    time::UnixTime,
};

/// How many events wait by default, and how many alerts beyond them.
const CAPACITY: (usize, usize) = (1024, 256);

/// A sink that puts events into a bounded queue, to be taken out elsewhere. Cloning shares the queue.
///
/// Recording an event copies it and never waits for whoever takes it out. An event that finds the queue full
/// is counted and not copied. What was lost is an event of its own ([`EventKind::AuditDropped`]), which stands
/// behind those that were waiting at the time.
///
/// Whoever makes many events must not push out those that matter more, so the room for events is shared like
/// this: access, granted or refused, which takes no credential, finds the first half; what has changed nothing,
/// such as a list that was read or an operation that was refused, finds three quarters; changes find all of it,
/// and alerts the room beyond as well.
///
/// Of requests that are refused for the same reason, from the same address and with the same token if it is known,
/// the first is recorded at once. All others of that minute are one event at its end, [`Event::times`] of which is
/// their number; [`recv_batch`](EventQueue::recv_batch) gives it out with whatever comes then. An IPv6 address
/// counts by its /64, and when there are more than 128 such things within a minute, the others go by the reason
/// alone.
///
/// ```
/// use keyward::{TokenManager, UserId, audit::QueueSink, event::TracingSink};
/// use keyward::{manage::NewToken, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sink, mut queue) = QueueSink::new();
/// let tokens = TokenManager::builder(MemoryStore::new()).with_audit((TracingSink, sink)).build();
/// tokens.create(&UserId::new("alice")?, NewToken::named("laptop")).await?;
///
/// drop(tokens); // otherwise the queue waits for more
/// while let Some(batch) = queue.recv_batch(100).await {
///     for event in batch {
///         println!("{}", event.kind.name());
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct QueueSink {
    sender: Arc<Sender>,
    alerts_only: bool,
}

/// Takes events out of the queue of a [`QueueSink`]. Dropped, it ends the queue: what is recorded from then on
/// is counted as lost.
#[derive(Debug)]
pub struct EventQueue {
    pub(super) shared: Arc<Shared>,
}

/// How many events were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// All of them, alerts included.
    pub events: u64,
    /// How many of them were alerts.
    pub alerts: u64,
}

impl QueueSink {
    /// A queue for 1024 events and 256 more alerts.
    #[must_use]
    pub fn new() -> (Self, EventQueue) {
        let (events, alerts) = CAPACITY;
        Self::with_capacity(events, alerts)
    }

    /// A queue for `events` events, at least two, and `alerts` more alerts. Each takes about 200 bytes, its own
    /// texts included.
    #[must_use]
    pub fn with_capacity(events: usize, alerts: usize) -> (Self, EventQueue) {
        let shared = Arc::new(Shared::new(events.max(2), alerts));
        let sender = Arc::new(Sender(Arc::clone(&shared)));
        (Self { sender, alerts_only: false }, EventQueue { shared })
    }

    /// The same queue for alerts only: other events do not enter it, and are not counted.
    #[must_use]
    pub fn alerts_only(self) -> Self {
        Self { alerts_only: true, ..self }
    }

    /// How many events were lost since the queue was made: because it was full, because nobody takes anything
    /// out any more, or because their [`Destination`](crate::audit::Destination) did not take them.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.shared().total.read()
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.sender.0
    }
}

impl AuditSink for QueueSink {
    fn record(&self, event: &Event) {
        let alert = event.kind.is_alert();
        if alert || !self.alerts_only {
            self.shared().offer(event);
        }
    }
}

impl fmt::Debug for QueueSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueSink").field("alerts_only", &self.alerts_only).finish_non_exhaustive()
    }
}

impl EventQueue {
    /// Waits for events and takes out at most `max` of them, in the order in which they happened. `None` once
    /// all sinks are dropped and nothing waits any more. Giving up the wait loses nothing.
    pub async fn recv_batch(&mut self, max: usize) -> Option<Vec<Event>> {
        let batch = self.batch(max, false, false).await?;
        self.shared.settle(&batch);
        Some(batch)
    }

    /// With a timer, which the runtime must have, what is held back comes as soon as its minute is over.
    pub(super) async fn batch(&mut self, max: usize, alerts_first: bool, timer: bool) -> Option<Vec<Event>> {
        loop {
            if let Some(batch) = self.try_batch(max, alerts_first) {
                return Some(batch);
            }
            if self.shared.lock().abandoned {
                return self.rest(max, alerts_first);
            }
            // What has arrived since the look is remembered.
            let arrived = self.shared.arrived.notified();
            let due_in = self.shared.folds().due_in();
            match due_in.filter(|_| timer) {
                Some(wait) => drop(tokio::time::timeout(wait, arrived).await),
                None => arrived.await,
            }
        }
    }

    /// What waits or is held back, if anything is.
    pub(super) fn rest(&mut self, max: usize, alerts_first: bool) -> Option<Vec<Event>> {
        self.shared.release(true);
        self.try_batch(max, alerts_first)
    }

    /// What waits, if anything does.
    pub(super) fn try_batch(&mut self, max: usize, alerts_first: bool) -> Option<Vec<Event>> {
        self.shared.release(false);
        let mut batch = self.shared.take(max.max(1), alerts_first);
        if batch.is_empty() {
            return None;
        }
        batch.extend(self.shared.unreported.report());
        Some(batch)
    }
}

impl Drop for EventQueue {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What both sides share.
pub(super) struct Shared {
    capacity: usize,
    reserve: usize,
    waiting: Mutex<Waiting>,
    folds: Mutex<Folds>,
    /// As many as wait, or did a moment ago: a full queue is seen without the lock.
    length: AtomicUsize,
    arrived: Notify,
    /// How many events were taken out and are done with.
    settled: watch::Sender<u64>,
    pub(super) unreported: Lost,
    total: Lost,
    waits: Level,
    /// The room for events and that for more alerts, as long as somebody takes them out.
    room: [Level; 2],
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    /// How many have ever entered.
    entered: u64,
    /// Nobody takes anything out any more.
    closed: bool,
    /// Nobody can put anything in any more.
    abandoned: bool,
}

/// The side of the sinks. Dropped with the last of them.
struct Sender(Arc<Shared>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.lock().abandoned = true;
        self.0.arrived.notify_one();
    }
}

impl Shared {
    fn new(capacity: usize, reserve: usize) -> Self {
        let events = VecDeque::with_capacity(capacity.saturating_add(reserve).min(CAPACITY.0 + CAPACITY.1));
        let room = [(&count::AUDIT_CAPACITY, capacity), (&count::AUDIT_RESERVE, reserve)];
        let room = room.map(|(sum, size)| {
            let level = Level::of(sum);
            level.set(size);
            level
        });
        Self {
            capacity,
            reserve,
            waiting: Mutex::new(Waiting { events, ..Waiting::default() }),
            folds: Mutex::default(),
            length: AtomicUsize::new(0),
            arrived: Notify::new(),
            settled: watch::Sender::new(0),
            unreported: Lost::default(),
            total: Lost::default(),
            waits: Level::of(&count::AUDIT_QUEUE),
            room,
        }
    }

    /// How many may wait already when an event of this kind enters.
    fn room_for(&self, kind: EventKind) -> usize {
        match kind {
            kind if kind.is_alert() => self.capacity.saturating_add(self.reserve),
            EventKind::AccessRefused(_) | EventKind::AccessGranted => self.capacity.div_ceil(2),
            EventKind::TokenRead
            | EventKind::TokensListed
            | EventKind::UserRead
            | EventKind::OperationRefused(_)
            | EventKind::OperationFailed => self.capacity - self.capacity / 4,
            _ => self.capacity,
        }
    }

    fn offer(&self, event: &Event) {
        if matches!(event.kind, EventKind::AccessRefused(_)) && self.is_held(event) {
            return;
        }
        self.enter(event, self.room_for(event.kind));
    }

    /// Whether the event is told with others like it, later.
    fn is_held(&self, event: &Event) -> bool {
        let fate = {
            let mut folds = self.folds();
            // Looked at under the lock, so that what is held is lost with the queue, and counted.
            if self.length.load(Relaxed) == usize::MAX { Fate::Told } else { folds.fold(event) }
        };
        if fate == Fate::HeldFirst {
            // Somebody must wait for its minute to be over.
            self.arrived.notify_one();
        }
        fate != Fate::Told
    }

    /// Enters what was held back and is due, or all of it: little that stands for much, and about to be taken out.
    fn release(&self, all: bool) {
        let released = self.folds().release(all);
        released.iter().for_each(|event| self.enter(event, usize::MAX));
    }

    fn folds(&self) -> MutexGuard<'_, Folds> {
        self.folds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, event: &Event, room: usize) {
        if self.length.load(Relaxed) < room {
            let copy = event.clone();
            let mut waiting = self.lock();
            if !waiting.closed && waiting.events.len() < room {
                waiting.events.push_back(copy);
                waiting.entered += 1;
                self.length.store(waiting.events.len(), Relaxed);
                self.waits.set(waiting.events.len());
                drop(waiting);
                self.arrived.notify_one();
                return;
            }
        }
        self.lose(event);
    }

    /// Counts an event as lost. A report of lost ones stands for those.
    pub(super) fn lose(&self, event: &Event) {
        let lost = match event.kind {
            EventKind::AuditDropped { events, alerts } => Dropped { events, alerts },
            kind => Dropped { events: event.times, alerts: if kind.is_alert() { event.times } else { 0 } },
        };
        self.unreported.add(lost, event.at);
        if !matches!(event.kind, EventKind::AuditDropped { .. }) {
            self.total.add(lost, event.at);
            count::AUDIT_LOST_EVENTS.add(lost.events);
            count::AUDIT_LOST_ALERTS.add(lost.alerts);
        }
    }

    fn take(&self, max: usize, alerts_first: bool) -> Vec<Event> {
        let mut waiting = self.lock();
        let all = waiting.events.len() <= max;
        let batch = if all || !alerts_first {
            let count = max.min(waiting.events.len());
            waiting.events.drain(..count).collect()
        } else {
            take_alerts_first(&mut waiting.events, max)
        };
        self.length.store(waiting.events.len(), Relaxed);
        self.waits.set(waiting.events.len());
        batch
    }

    /// These events, which were taken out, are done with.
    pub(super) fn settle(&self, batch: &[Event]) {
        // Reports of lost events never entered.
        let entered = batch.iter().filter(|event| !matches!(event.kind, EventKind::AuditDropped { .. }));
        let count = entered.count() as u64;
        self.settled.send_modify(|settled| *settled = settled.saturating_add(count));
    }

    /// Waits until all events that have entered so far are done with, or nobody takes them out any more.
    pub(super) async fn all_settled(&self) {
        let (entered, closed) = {
            let waiting = self.lock();
            (waiting.entered, waiting.closed)
        };
        if !closed {
            let _ = self.settled.subscribe().wait_for(|settled| *settled >= entered).await;
        }
    }

    fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let left = mem::take(&mut waiting.events);
        self.length.store(usize::MAX, Relaxed);
        self.waits.set(0);
        self.room.iter().for_each(|level| level.set(0));
        drop(waiting);
        left.iter().chain(&self.folds().release(true)).for_each(|event| self.lose(event));
        self.settled.send_replace(u64::MAX);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

fn take_alerts_first(events: &mut VecDeque<Event>, max: usize) -> Vec<Event> {
    let (mut batch, others): (Vec<_>, Vec<_>) = events.drain(..).partition(|event| event.kind.is_alert());
    events.extend(batch.drain(max.min(batch.len())..));
    let room = max - batch.len();
    let mut others = others.into_iter();
    batch.extend(others.by_ref().take(room));
    events.extend(others);
    batch
}

/// Counts what is lost.
#[derive(Default)]
pub(super) struct Lost {
    events: AtomicU64,
    alerts: AtomicU64,
    latest: AtomicI64,
}

impl Lost {
    fn add(&self, lost: Dropped, at: UnixTime) {
        self.latest.fetch_max(at.as_millis(), Relaxed);
        self.alerts.fetch_add(lost.alerts, Relaxed);
        self.events.fetch_add(lost.events, Relaxed);
    }

    pub(super) fn read(&self) -> Dropped {
        Dropped { events: self.events.load(Relaxed), alerts: self.alerts.load(Relaxed) }
    }

    /// The event that says what was lost, dated as the last of it; then it counts from zero again.
    fn report(&self) -> Option<Event> {
        if self.events.load(Relaxed) == 0 {
            return None;
        }
        let (alerts, events) = (self.alerts.swap(0, Relaxed), self.events.swap(0, Relaxed));
        let mut event = Event::new(EventKind::AuditDropped { events: events.max(alerts), alerts });
        event.at = UnixTime::from_millis(self.latest.load(Relaxed));
        Some(event.because(&format!("{alerts} of them alerts")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Refusal, event::Alert};

    fn event(millis: i64) -> Event {
        Event { at: UnixTime::from_millis(millis), ..Event::new(EventKind::TokenCreated) }
    }

    fn alert(millis: i64) -> Event {
        Event { at: UnixTime::from_millis(millis), ..Event::alert(Alert::ForeignAccess) }
    }

    fn times(batch: &[Event]) -> Vec<i64> {
        batch.iter().map(|event| event.at.as_millis()).collect()
    }

    #[tokio::test]
    async fn what_does_not_fit_is_reported_once_and_alerts_fit_longer() {
        let (sink, mut queue) = QueueSink::with_capacity(3, 2);
        for at in 0..5 {
            sink.record(&event(at));
        }
        for at in 5..9 {
            sink.record(&alert(at));
        }
        assert_eq!(sink.dropped(), Dropped { events: 4, alerts: 2 });
        let batch = queue.recv_batch(10).await.unwrap();
        assert_eq!(times(&batch), [0, 1, 2, 5, 6, 8], "the report is dated as the last that was lost");
        assert_eq!(batch[5].kind, EventKind::AuditDropped { events: 4, alerts: 2 });
        assert!(batch[5].kind.is_alert());
        sink.record(&event(9));
        assert_eq!(times(&queue.recv_batch(10).await.unwrap()), [9]);
        assert_eq!(sink.dropped(), Dropped { events: 4, alerts: 2 }, "the sum stays");
    }

    #[tokio::test]
    async fn what_takes_no_credential_and_what_changes_nothing_leave_room_for_changes() {
        let (sink, mut queue) = QueueSink::with_capacity(8, 2);
        let flood = |kind: EventKind| (0..100).for_each(|_| sink.record(&Event::new(kind)));
        flood(EventKind::AccessRefused(Refusal::NoCredential));
        flood(EventKind::AccessGranted);
        flood(EventKind::TokensListed);
        flood(EventKind::OperationRefused(Refusal::LimitReached));
        flood(EventKind::TokenCreated);
        flood(EventKind::Alert(Alert::HoneytokenUsed));
        let mut names: Vec<_> =
            queue.recv_batch(100).await.unwrap().iter().map(|event| event.kind.name()).collect();
        names.dedup_by_key(|name| *name);
        assert_eq!(sink.dropped(), Dropped { events: 491, alerts: 98 });
        let access = ["access.refused", "access.granted"];
        let others = ["tokens.listed", "token.created", "honeytoken_used", "audit.dropped"];
        assert_eq!(names, [&access[..], &others].concat());
    }

    #[tokio::test]
    async fn refusals_that_are_held_back_are_told_at_the_end_or_counted_as_lost() {
        let refused = Event::new(EventKind::AccessRefused(Refusal::NoCredential));
        let (sink, mut queue) = QueueSink::new();
        (0..100).for_each(|_| sink.record(&refused));
        let first = queue.recv_batch(9).await.unwrap();
        assert_eq!(first.iter().map(Event::count).collect::<Vec<_>>(), [None]);
        drop(sink);
        let rest = queue.recv_batch(9).await.unwrap();
        assert_eq!(rest.iter().map(Event::count).collect::<Vec<_>>(), [Some(99)]);
        assert!(queue.recv_batch(9).await.is_none());

        let (sink, queue) = QueueSink::new();
        (0..100).for_each(|_| sink.record(&refused));
        drop(queue);
        (0..100).for_each(|_| sink.record(&refused));
        assert_eq!(sink.dropped(), Dropped { events: 200, alerts: 0 });
    }

    #[tokio::test]
    async fn alerts_that_fill_the_queue_leave_no_room_for_others() {
        let (sink, mut queue) = QueueSink::with_capacity(2, 1);
        (0..3).for_each(|at| sink.record(&alert(at)));
        sink.record(&event(3));
        let batch = queue.recv_batch(2).await.unwrap();
        assert_eq!(times(&batch), [0, 1, 3], "the report comes with the first that is taken out");
        assert!(!batch[2].kind.is_alert(), "no alert was lost");
        sink.record(&event(4));
        assert_eq!(times(&queue.recv_batch(9).await.unwrap()), [2, 4]);
    }

    #[tokio::test]
    async fn alerts_can_be_taken_first_and_both_kinds_keep_their_order() {
        let (sink, mut queue) = QueueSink::with_capacity(10, 0);
        for at in 0..8 {
            sink.record(&if at % 3 == 2 { alert(at) } else { event(at) });
        }
        assert_eq!(times(&queue.try_batch(1, true).unwrap()), [2]);
        assert_eq!(times(&queue.try_batch(3, true).unwrap()), [5, 0, 1]);
        sink.record(&alert(8));
        assert_eq!(times(&queue.try_batch(9, true).unwrap()), [3, 4, 6, 7, 8], "all at once: as they came");
        assert!(queue.try_batch(9, true).is_none());
    }

    #[tokio::test]
    async fn a_sink_for_alerts_takes_nothing_else() {
        let (sink, mut queue) = QueueSink::with_capacity(1, 1);
        let alerts = sink.clone().alerts_only();
        alerts.record(&event(0));
        alerts.record(&alert(1));
        assert_eq!(times(&queue.recv_batch(9).await.unwrap()), [1]);
        assert_eq!(alerts.dropped(), Dropped::default());
    }

    #[tokio::test]
    async fn each_side_learns_that_the_other_is_gone() {
        let (sink, mut queue) = QueueSink::new();
        let other = sink.clone();
        drop(sink);
        other.record(&event(0));
        drop(other);
        assert_eq!(queue.recv_batch(1).await.map(|batch| batch.len()), Some(1));
        assert!(queue.recv_batch(1).await.is_none());

        let (sink, queue) = QueueSink::new();
        sink.record(&alert(0));
        drop(queue);
        sink.record(&event(1));
        assert_eq!(sink.dropped(), Dropped { events: 2, alerts: 1 }, "also what was waiting");
        sink.shared().all_settled().await;
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_nothing() {
        let (sink, mut queue) = QueueSink::new();
        tokio::select! {
            biased;
            _ = queue.recv_batch(1) => unreachable!(),
            () = std::future::ready(()) => {}
        }
        sink.record(&event(0));
        let waits = sink.shared().all_settled();
        assert_eq!(times(&queue.recv_batch(1).await.unwrap()), [0]);
        waits.await;
    }

    #[test]
    fn threads_lose_nothing_uncounted() {
        let (sink, mut queue) = QueueSink::with_capacity(50, 10);
        let (mut taken, mut reported) = (0, 0);
        let mut count = |batch: Vec<Event>| {
            for event in batch {
                match event.kind {
                    EventKind::AuditDropped { events, .. } => reported += events,
                    _ => taken += 1,
                }
            }
        };
        std::thread::scope(|scope| {
            let sinks = [(); 4].map(|()| sink.clone());
            let threads =
                sinks.map(|sink| scope.spawn(move || (0..5000).for_each(|at| sink.record(&event(at)))));
            while threads.iter().any(|thread| !thread.is_finished()) {
                queue.try_batch(20, true).into_iter().for_each(&mut count);
            }
        });
        // One more, so that there is a batch for the last report.
        sink.record(&event(0));
        while let Some(batch) = queue.try_batch(20, true) {
            count(batch);
        }
        assert_eq!(taken + reported, 20_001);
        assert_eq!(sink.dropped().events, reported);
    }
}
