//! The bounded queue between callers and the threads that own a connection.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use crate::store::{StoreError, StoreErrorKind};

const CAPACITY: usize = 1024;

/// How many urgent jobs are taken before one of the others, if both wait.
const URGENT_IN_A_ROW: u32 = 4;

/// Jobs for any number of threads to take: urgent ones before the others, each in the order in which they came.
/// Neither kind can take the other's room, nor keep it waiting for ever.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    ready: Condvar,
}

struct State<J> {
    urgent: VecDeque<J>,
    others: VecDeque<J>,
    urgent_in_a_row: u32,
    open: bool,
}

impl<J> State<J> {
    fn next(&mut self) -> Option<J> {
        if (self.urgent_in_a_row < URGENT_IN_A_ROW || self.others.is_empty())
            && let Some(job) = self.urgent.pop_front()
        {
            self.urgent_in_a_row = self.urgent_in_a_row.saturating_add(1);
            return Some(job);
        }
        self.urgent_in_a_row = 0;
        self.others.pop_front()
    }
}

impl<J> Queue<J> {
    pub(super) fn new() -> Self {
        let (urgent, others) = (VecDeque::new(), VecDeque::new());
        let state = State { urgent, others, urgent_in_a_row: 0, open: true };
        Self { state: Mutex::new(state), ready: Condvar::new() }
    }

    pub(super) fn push(&self, job: J) -> Result<(), StoreError> {
        self.push_to(job, |state| &mut state.others)
    }

    /// For what takes rights away.
    pub(super) fn push_urgent(&self, job: J) -> Result<(), StoreError> {
        self.push_to(job, |state| &mut state.urgent)
    }

    fn push_to(&self, job: J, line: impl Fn(&mut State<J>) -> &mut VecDeque<J>) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !state.open {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "its thread has ended"));
        }
        let line = line(&mut state);
        if line.len() >= CAPACITY {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "too many calls are waiting for it"));
        }
        line.push_back(job);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for a job; `None` once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<J> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.next() {
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
        queue.push_urgent(CAPACITY).unwrap();
        queue.close();
        assert_eq!(queue.pop(), Some(CAPACITY));
        assert_eq!(queue.push(0).unwrap_err().kind(), StoreErrorKind::Unavailable);
        for job in 0..CAPACITY {
            assert_eq!(queue.pop(), Some(job));
        }
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn urgent_jobs_go_first_and_others_get_their_turn() {
        let queue = Queue::new();
        (0..3).for_each(|job| queue.push(job).unwrap());
        (10..16).for_each(|job| queue.push_urgent(job).unwrap());
        queue.close();
        let taken: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(taken, [10, 11, 12, 13, 0, 14, 15, 1, 2]);
    }
}
