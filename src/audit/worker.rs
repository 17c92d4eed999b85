//! From the queue to its destination.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    delivery::{Batch, DeliveryError, DeliveryPlan, Destination},
    queue::{EventQueue, Shared},
};
use crate::{
    count,
    event::{Event, TRACING_TARGET},
};

/// How long is waited between two batches: so long do events gather.
const PACE: Duration = Duration::from_millis(50);

/// For how long the rest is delivered after the shutdown.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// The longest wait between two attempts after the shutdown.
const FLUSH_DELAY: Duration = Duration::from_millis(200);

impl EventQueue {
    /// Delivers all events to `destination` until `shutdown` is done, and then what still waits, for five
    /// seconds at most. Await it: what could not be delivered by then is lost, and counted in one line of the
    /// log.
    ///
    /// A batch goes as soon as there is an event, and 20 go in a second at most. While the destination fails,
    /// events wait in the queue until it is full.
    ///
    /// ```no_run
    /// # async fn example(destination: impl keyward::audit::Destination) {
    /// use keyward::audit::QueueSink;
    ///
    /// let (sink, queue) = QueueSink::new();
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let work = tokio::spawn(queue.run(destination, async { drop(stopped.await) }));
    /// // `TokenManager::builder(…).with_audit(sink)`, serve …
    /// drop(stop);
    /// let _ = work.await;
    /// # drop(sink);
    /// # }
    /// ```
    pub async fn run(self, destination: impl Destination, shutdown: impl Future<Output = ()> + Send) {
        let shared = Arc::clone(&self.shared);
        let (told, stop) = watch::channel(false);
        let deadline = async {
            shutdown.await;
            told.send_replace(true);
            tokio::time::sleep(FLUSH_LIMIT).await;
        };
        // Both end with this block, so that what they still hold is counted.
        {
            let work = Box::pin(Worker::new(self, destination, stop).work());
            tokio::select! {
                biased;
                () = work => {}
                () = deadline => {}
            }
        }
        let lost = shared.unreported.read();
        if lost.events > 0 {
            tracing::error!(target: TRACING_TARGET, events = lost.events, alerts = lost.alerts, "audit events were lost");
        }
    }
}

struct Worker<D> {
    queue: EventQueue,
    to: D,
    plan: DeliveryPlan,
    stop: watch::Receiver<bool>,
    stopping: bool,
    /// What the ids of batches are made of.
    seed: u64,
    batches: u64,
    /// How often in a row it failed, over all batches.
    failures: u32,
}

impl<D: Destination> Worker<D> {
    fn new(queue: EventQueue, to: D, stop: watch::Receiver<bool>) -> Self {
        let plan = to.plan();
        // Without randomness there would be no keys either.
        let seed = getrandom::u64().unwrap_or_default();
        Self { queue, to, plan, stop, stopping: false, seed, batches: 0, failures: 0 }
    }

    async fn work(mut self) {
        while let Some(events) = self.next().await {
            self.deliver(events).await;
            if !self.stopping {
                self.pause(PACE).await;
            }
        }
    }

    /// The next batch; `None` when it is told to stop and nothing waits any more.
    async fn next(&mut self) -> Option<Vec<Event>> {
        let (max, alerts_first) = (self.plan.batch, self.plan.alerts_first);
        if !self.stopping {
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => self.stopping = true,
                events = self.queue.batch(max, alerts_first, true) => return events,
            }
        }
        self.queue.rest(max, alerts_first)
    }

    async fn deliver(&mut self, events: Vec<Event>) {
        self.batches += 1;
        let id = format!("evt_{:016x}_{}", self.seed, self.batches).into();
        let mut sending =
            Sending { shared: Arc::clone(&self.queue.shared), batch: Batch { id, events }, delivered: false };
        let mut attempts = 0;
        while let Err(error) = self.to.deliver(&sending.batch).await {
            attempts += 1;
            count::AUDIT_DELIVERIES.note(false);
            self.note_failure(&error);
            if self.plan.attempts.is_some_and(|most| attempts >= most) {
                tracing::warn!(target: TRACING_TARGET, events = sending.batch.events.len(), "a batch of audit events is given up");
                return;
            }
            self.pause(self.delay(&error)).await;
        }
        sending.delivered = true;
        count::AUDIT_DELIVERIES.note(true);
        self.note_success();
    }

    fn note_failure(&mut self, error: &DeliveryError) {
        if self.failures == 0 {
            tracing::warn!(target: TRACING_TARGET, to = ?self.to, %error, "audit events cannot be delivered");
        }
        self.failures = self.failures.saturating_add(1);
    }

    fn note_success(&mut self) {
        if self.failures > 0 {
            tracing::info!(target: TRACING_TARGET, to = ?self.to, "audit events are delivered again");
        }
        self.failures = 0;
    }

    /// The wait before the next attempt, less a random part of up to a half: those who failed together should
    /// not come back together.
    fn delay(&self, error: &DeliveryError) -> Duration {
        let doubled = 2u32.saturating_pow(self.failures.saturating_sub(1));
        let wanted = self.plan.first_delay.saturating_mul(doubled).max(error.retry_after.unwrap_or_default());
        let whole = wanted.min(self.plan.longest_delay);
        let part = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        whole - whole.mul_f64(part / 2.0)
    }

    async fn pause(&mut self, delay: Duration) {
        if self.stopping {
            return tokio::time::sleep(delay.min(FLUSH_DELAY)).await;
        }
        tokio::select! {
            () = stopped(&mut self.stop) => self.stopping = true,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody can tell any more.
    let _ = stop.wait_for(|stopping| *stopping).await;
}

/// A batch on its way. Dropped before it has arrived, it counts as lost.
struct Sending {
    shared: Arc<Shared>,
    batch: Batch,
    delivered: bool,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.delivered {
            self.batch.events.iter().for_each(|event| self.shared.lose(event));
        }
        self.shared.settle(&self.batch.events);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    };

    use async_trait::async_trait;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        audit::QueueSink,
        error::Refusal,
        event::{Alert, AuditSink, EventKind},
    };

    /// Keeps what it gets, and fails while it is told to.
    #[derive(Debug, Default)]
    struct Fake {
        got: Mutex<Vec<(Box<str>, Vec<&'static str>)>>,
        attempts: AtomicUsize,
        fails: AtomicBool,
        hangs: AtomicBool,
        plan: Mutex<DeliveryPlan>,
    }

    #[async_trait]
    impl Destination for Fake {
        async fn deliver(&self, batch: &Batch) -> Result<(), DeliveryError> {
            self.attempts.fetch_add(1, SeqCst);
            if self.hangs.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.fails.load(SeqCst) {
                return Err(DeliveryError::new("no"));
            }
            let names = batch.events.iter().map(|event| event.kind.name()).collect();
            self.got.lock().unwrap().push((batch.id.clone(), names));
            Ok(())
        }

        fn plan(&self) -> DeliveryPlan {
            self.plan.lock().unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_that_go_on_are_delivered_once_a_minute() {
        let fake = Arc::new(Fake::default());
        let (sink, queue) = QueueSink::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let work = tokio::spawn(queue.run(fake.clone(), async { drop(stopped.await) }));
        let delivered = || fake.got.lock().unwrap().iter().map(|(_, names)| names.len()).sum::<usize>();
        let refused = Event::new(EventKind::AccessRefused(Refusal::NoCredential));
        for minute in 1..=5 {
            (0..1000).for_each(|_| sink.record(&refused));
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert_eq!(delivered(), minute, "the first, and one for each minute that is over");
            tokio::time::sleep(Duration::from_secs(31)).await;
        }
        (0..1000).for_each(|_| sink.record(&refused));
        drop(stop);
        work.await.unwrap();
        assert_eq!((delivered(), sink.dropped().events), (7, 0));
    }

    fn created(sink: &QueueSink) {
        sink.record(&Event::new(EventKind::TokenCreated));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_batch_comes_again_under_the_same_id_and_nothing_is_lost() {
        let fake = Arc::new(Fake::default());
        fake.fails.store(true, SeqCst);
        let (sink, queue) = QueueSink::new();
        created(&sink);
        let (stop, stopped) = oneshot::channel::<()>();
        let work = tokio::spawn(queue.run(fake.clone(), async { drop(stopped.await) }));
        while fake.attempts.load(SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        created(&sink);
        fake.fails.store(false, SeqCst);
        sink.shared().all_settled().await;
        drop(stop);
        work.await.unwrap();
        let got = fake.got.lock().unwrap();
        assert_eq!(got.iter().map(|(_, names)| names.len()).collect::<Vec<_>>(), [1, 1]);
        assert_ne!(got[0].0, got[1].0);
        assert_eq!(sink.dropped().events, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_a_bound_and_start_anew_after_a_success() {
        let fake = Arc::new(Fake::default());
        let plan = DeliveryPlan::default().with_delays(Duration::from_secs(1), Duration::from_secs(4));
        *fake.plan.lock().unwrap() = plan;
        let (_sink, queue) = QueueSink::new();
        let mut worker = Worker::new(queue, fake, watch::channel(false).1);
        let error = DeliveryError::new("no");
        for (failures, most) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0), (u32::MAX, 4.0)] {
            worker.failures = failures;
            let delays = [(); 50].map(|()| worker.delay(&error).as_secs_f64());
            assert!(delays.iter().all(|delay| (most / 2.0..=most).contains(delay)), "{delays:?}");
        }
        worker.note_success();
        worker.note_failure(&error);
        assert!(worker.delay(&error) <= Duration::from_secs(1));
        let patient = error.with_retry_after(Some(Duration::from_secs(600)));
        assert!((2.0..=4.0).contains(&worker.delay(&patient).as_secs_f64()), "within the bound");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_given_up_is_reported_with_the_next() {
        let fake = Arc::new(Fake::default());
        fake.fails.store(true, SeqCst);
        *fake.plan.lock().unwrap() = DeliveryPlan::default().with_attempts(2);
        let (sink, queue) = QueueSink::new();
        sink.record(&Event::alert(Alert::ForeignAccess));
        let work = tokio::spawn(queue.run(fake.clone(), std::future::pending()));
        sink.shared().all_settled().await;
        assert_eq!(fake.attempts.load(SeqCst), 2);
        assert_eq!((sink.dropped().events, sink.dropped().alerts), (1, 1));
        fake.fails.store(false, SeqCst);
        created(&sink);
        drop(sink);
        work.await.unwrap();
        assert_eq!(fake.got.lock().unwrap()[0].1, ["token.created", "audit.dropped"]);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_shutdown_all_that_waits_is_delivered() {
        let fake = Arc::new(Fake::default());
        *fake.plan.lock().unwrap() = DeliveryPlan::default().with_batch(10);
        let (sink, queue) = QueueSink::new();
        (0..95).for_each(|_| created(&sink));
        queue.run(fake.clone(), std::future::ready(())).await;
        let got: usize = fake.got.lock().unwrap().iter().map(|(_, names)| names.len()).sum();
        assert_eq!((got, sink.dropped().events), (95, 0));
        created(&sink);
        assert_eq!(sink.dropped().events, 1, "afterwards nobody takes anything out");
    }

    #[tokio::test(start_paused = true)]
    async fn a_destination_that_fails_or_hangs_delays_the_end_by_five_seconds() {
        for hangs in [false, true] {
            let fake = Arc::new(Fake::default());
            fake.fails.store(!hangs, SeqCst);
            fake.hangs.store(hangs, SeqCst);
            *fake.plan.lock().unwrap() = DeliveryPlan::default().with_batch(2);
            let (sink, queue) = QueueSink::new();
            (0..5).for_each(|_| created(&sink));
            let start = tokio::time::Instant::now();
            queue.run(fake.clone(), std::future::ready(())).await;
            assert_eq!(start.elapsed().as_secs(), 5, "hangs: {hangs}");
            assert_eq!(sink.dropped().events, 5, "what was on its way as well as what waited");
        }
    }
}
