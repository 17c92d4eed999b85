//! Runs promises: catches their panics, stops waiting for them, and polls many calls at once.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{RecvTimeoutError, channel},
    task::Poll,
    time::Duration,
};

use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(60);

/// What came of the promises so far.
#[derive(Default)]
pub(super) struct Report {
    kept: usize,
    broken: Vec<String>,
}

impl Report {
    pub(super) fn add(&mut self, name: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.kept += 1,
            Err(how) => self.broken.push(format!("{name}: {how}")),
        }
    }

    /// Panics if a promise was broken.
    pub(super) fn finish(self) {
        let of = self.kept + self.broken.len();
        let list = self.broken.join("\n- ");
        assert!(list.is_empty(), "the store breaks {} of {of} promises:\n- {list}\n", self.broken.len());
    }
}

/// Runs `promise` to its end, or says how it was broken.
pub(super) async fn attempt(promise: impl Future<Output = ()>) -> Result<(), String> {
    let mut promise = Box::pin(promise);
    let caught = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| promise.as_mut().poll(cx))) {
        Ok(progress) => progress.map(Ok),
        Err(payload) => Poll::Ready(Err(message(&*payload))),
    });
    within(PATIENCE, caught).await.unwrap_or_else(|| Err(format!("it takes longer than {PATIENCE:?}")))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref().copied()).unwrap_or("it panicked").to_owned()
}

/// What `future` gives, or `None` if it has not ended after `limit`.
///
/// A thread keeps the time, since a runtime may come without a timer or with one that a test moves.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let (_ended, end) = channel::<()>();
    let (ring, alarm) = oneshot::channel();
    std::thread::spawn(move || {
        if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            let _ = ring.send(());
        }
    });
    tokio::select! {
        biased;
        output = future => Some(output),
        Ok(()) = alarm => None,
    }
}

/// Polls all `futures` in turn until each has ended, and gives what they gave, in order.
pub(super) async fn join_all<T, F: Future<Output = T>>(futures: impl IntoIterator<Item = F>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        for (future, output) in &mut running {
            if output.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *output = Some(ready);
            }
        }
        if running.iter().all(|(_, output)| output.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}
