//! Uses of tokens that are counted and not written yet.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use crate::{
    principal::{Credential, UseCount, Uses},
    store::{Usage, lookup::Inner, state::Waiting},
    time::UnixTime,
    token::TokenRecord,
};

/// Credentials with uses that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct UsageQueue {
    pending: Mutex<Vec<Arc<Credential>>>,
    waits: Waiting,
    /// Held while a batch is written.
    pub(super) writing: tokio::sync::Mutex<()>,
    pub(super) last_write: AtomicI64,
    /// Whether the background future runs.
    pub(crate) attended: AtomicBool,
    pub(super) warned: AtomicBool,
}

impl UsageQueue {
    /// Notes that `credential` has uses, unless somebody holds the list: then the next use does.
    #[cold]
    pub(super) fn push_if_free(&self, credential: &Arc<Credential>) {
        if let Ok(mut pending) = self.pending.try_lock()
            && !credential.uses.queued.swap(true, Ordering::AcqRel)
        {
            pending.push(credential.clone());
            self.waits.set(pending.len());
        }
    }

    /// Notes a credential that leaves the cache, if it has uses that nobody noted.
    pub(super) fn push_used(&self, credential: Arc<Credential>) {
        if credential.uses.peek().count > 0 && !credential.uses.queued.swap(true, Ordering::AcqRel) {
            let mut pending = self.lock();
            pending.push(credential);
            self.waits.set(pending.len());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Credential>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What is noted. The list keeps its room, so that requests need not make it grow again.
    pub(super) fn take(&self) -> Vec<Arc<Credential>> {
        let mut pending = self.lock();
        let room = Vec::with_capacity(pending.capacity());
        self.waits.set(0);
        std::mem::replace(&mut *pending, room)
    }
}

impl Inner {
    /// Makes `record` say when it was last used, though that is being written at this moment, or could not be:
    /// a key in use must not look idle. The answer counts what comes next, and knows whether there is a renewal that
    /// is not written yet.
    pub(super) fn add_latest_use(&self, record: &mut TokenRecord) -> Uses {
        let stored_expiry = record.expires_at;
        if let Some(credential) = self.cache.peek(&record.digest) {
            let used = credential.uses.peek();
            let usage = self.usage_of(&credential, UseCount { count: 1, ..used });
            if let Some(usage) = usage.filter(|_| used.last_used > UnixTime::EPOCH) {
                Usage { count: 0, ..usage }.apply(record);
            }
        }
        Uses::of(record.expires_at != stored_expiry)
    }
}
