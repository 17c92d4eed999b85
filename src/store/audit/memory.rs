//! Audit entries in memory.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{AuditEntry, AuditQuery, AuditStore, ChainEnds, ChainHead, require_following};
use crate::{
    event::Event,
    store::{MemoryStore, StoreError},
    time::UnixTime,
};

/// How many entries are kept: memory has an end.
const KEPT: usize = 10_000;

/// The entries of a [`MemoryStore`].
#[derive(Debug, Default)]
pub(in crate::store) struct MemoryAudit(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<AuditEntry>,
    ends: ChainEnds,
}

impl Kept {
    fn push(&mut self, entry: AuditEntry) {
        self.ends.head = entry.head();
        self.entries.push_back(entry);
        if self.entries.len() > KEPT {
            self.delete_first();
        }
    }

    fn delete_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.ends.anchor = entry.head();
        }
    }
}

impl MemoryAudit {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest 10 000 entries are kept.
#[async_trait]
impl AuditStore for MemoryStore {
    async fn append(&self, events: &[Event]) -> Result<ChainHead, StoreError> {
        let mut kept = self.audit.lock();
        for event in events {
            let entry = AuditEntry::following(&kept.ends.head, event);
            kept.push(entry);
        }
        Ok(kept.ends.head)
    }

    async fn entries_after(&self, number: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let kept = self.audit.lock();
        let later = kept.entries.iter().skip_while(|entry| entry.number <= number);
        Ok(later.take(limit as usize).cloned().collect())
    }

    async fn search(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let kept = self.audit.lock();
        let wanted = kept.entries.iter().rev().filter(|entry| query.matches(entry));
        Ok(wanted.take(query.limit as usize).cloned().collect())
    }

    async fn chain_ends(&self) -> Result<ChainEnds, StoreError> {
        Ok(self.audit.lock().ends)
    }

    async fn delete_before(&self, before: UnixTime, limit: u32) -> Result<u64, StoreError> {
        let mut kept = self.audit.lock();
        let old = kept.entries.iter().take(limit as usize).take_while(|entry| entry.at < before).count();
        (0..old).for_each(|_| kept.delete_first());
        Ok(old as u64)
    }

    async fn append_entries(&self, after: &ChainHead, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let mut kept = self.audit.lock();
        require_following(&kept.ends, after, entries)?;
        if kept.ends == ChainEnds::default() {
            kept.ends = ChainEnds { anchor: *after, head: *after };
        }
        for entry in entries {
            kept.push(entry.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::EventKind, store::audit::verify::verify};

    #[tokio::test]
    async fn memory_keeps_the_newest_and_what_they_follow() {
        let store = MemoryStore::new();
        let event = Event::new(EventKind::AdminOverride);
        store.append(&vec![event; KEPT + 5]).await.unwrap();
        let ends = store.chain_ends().await.unwrap();
        assert_eq!((ends.anchor.number, ends.head.number), (5, KEPT as u64 + 5));
        assert_eq!(verify(&store, Some(ends.head)).await.unwrap().entries, KEPT as u64);
    }
}
