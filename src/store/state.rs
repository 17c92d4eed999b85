//! How the store is, and how much waits for it.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    count::{self, Level},
    store::StoreErrorKind,
};

/// How many credentials have uses that are not written yet.
#[derive(Debug)]
pub(super) struct Waiting(Level);

impl Waiting {
    pub(super) fn set(&self, credentials: usize) {
        self.0.set(credentials);
    }
}

impl Default for Waiting {
    fn default() -> Self {
        Self(Level::of(&count::USAGE_QUEUE))
    }
}

/// Whether the store is down.
#[derive(Debug)]
pub(crate) struct StoreState {
    down: AtomicBool,
    levels: [Level; 2],
}

impl Default for StoreState {
    fn default() -> Self {
        let [stores, down] = [&count::STORES, &count::STORES_DOWN].map(Level::of);
        stores.set(1);
        Self { down: AtomicBool::new(false), levels: [stores, down] }
    }
}

impl StoreState {
    /// Takes note of how a call of the store ended, and says whether the store is down if that is new: it stopped to
    /// answer, or it answers again. A refusal, such as a conflict, is an answer like any other.
    pub(super) fn note(&self, error: Option<StoreErrorKind>) -> Option<bool> {
        let [unavailable, corrupt, incompatible] = &count::STORE_ERRORS;
        let failure = match error {
            Some(StoreErrorKind::Unavailable) => Some(unavailable),
            Some(StoreErrorKind::Corrupt) => Some(corrupt),
            Some(StoreErrorKind::Incompatible) => Some(incompatible),
            _ => None,
        };
        failure.into_iter().for_each(|counter| counter.add(1));
        let down = failure.is_some();
        let changed =
            self.down.load(Ordering::Relaxed) != down && self.down.swap(down, Ordering::Relaxed) != down;
        if changed {
            let [_, level] = &self.levels;
            level.set(down.into());
        }
        changed.then_some(down)
    }
}
