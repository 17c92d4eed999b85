//! The bounded queue between callers and the threads that own a connection.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::store::{StoreError, StoreErrorKind};

const CAPACITY: usize = 1024;

/// Jobs in the order in which they came, for any number of threads to take.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    ready: Condvar,
}

struct State<J> {
    jobs: VecDeque<J>,
    open: bool,
}

impl<J> Queue<J> {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { jobs: VecDeque::new(), open: true }), ready: Condvar::new() }
    }

    pub(super) fn push(&self, job: J) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !state.open {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "its thread has ended"));
        }
        if state.jobs.len() >= CAPACITY {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "too many calls are waiting for it"));
        }
        state.jobs.push_back(job);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for a job; `None` once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<J> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if !state.open {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn close(&self) {
        self.lock().open = false;
        self.ready.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> fmt::Debug for Queue<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_or_closed_queue_refuses_and_a_closed_one_is_emptied_first() {
        let queue = Queue::new();
        for job in 0..CAPACITY {
            queue.push(job).unwrap();
        }
        assert_eq!(queue.push(0).unwrap_err().kind(), StoreErrorKind::Unavailable);
        queue.close();
        assert_eq!(queue.push(0).unwrap_err().kind(), StoreErrorKind::Unavailable);
        for job in 0..CAPACITY {
            assert_eq!(queue.pop(), Some(job));
        }
        assert_eq!(queue.pop(), None);
    }
}
