//! The audit log: copied entry by entry as it is, so that its chain goes on in the target.

use super::{OnProgress, Progress, Report, Side, Step, Transfer, TransferError};
use crate::{
    store::{AuditEntry, AuditStore, Broken, ChainEnds, ChainHead, Flaw},
    time::UnixTime,
};

/// The log of one side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log<'a> {
    pub(super) side: Side,
    pub(super) store: &'a dyn AuditStore,
}

impl Log<'_> {
    pub(super) async fn ends(&self) -> Result<ChainEnds, TransferError> {
        self.store.chain_ends().await.map_err(TransferError::of(self.side))
    }

    pub(super) async fn entries_after(
        &self,
        number: u64,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, TransferError> {
        self.store.entries_after(number, limit).await.map_err(TransferError::of(self.side))
    }

    async fn append(&self, after: &ChainHead, entries: &[AuditEntry]) -> Result<(), TransferError> {
        self.store.append_entries(after, entries).await.map_err(TransferError::of(self.side))
    }

    async fn delete_first(&self, count: usize) -> Result<u64, TransferError> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.store.delete_before(UnixTime::MAX, count).await.map_err(TransferError::of(self.side))
    }

    /// Whether something stands behind the recorded end that nobody writes at this moment.
    pub(super) async fn has_unrecorded(&self) -> Result<Option<Broken>, TransferError> {
        let head = self.ends().await?.head;
        let behind = self.entries_after(head.number, 1).await?;
        let recorded = behind.is_empty() || self.ends().await?.head != head;
        Ok((!recorded).then_some(Broken { number: head.number.saturating_add(1), flaw: Flaw::Unrecorded }))
    }
}

impl Transfer<'_> {
    pub(super) async fn copy_audit(
        &self,
        report: &mut Report,
        on_progress: OnProgress<'_>,
    ) -> Result<(), TransferError> {
        let Some([source, target]) = self.logs() else { return Ok(()) };
        let (ends, there) = (source.ends().await?, target.ends().await?);
        let is_fresh = there == ChainEnds::default();
        let from = if is_fresh { Some(ends.anchor) } else { known_head(&source, &ends, &there.head).await? };
        let Some(mut at) = from else {
            let what = "it is not what the log of the source goes on from; copy to an empty one";
            report.find(Side::Target, &"audit log", &what);
            return Ok(());
        };
        report.audit_entries.read = ends.head.number.saturating_sub(ends.anchor.number);
        let total = Some(ends.head.number.saturating_sub(at.number));
        let mut progress = Progress { step: Step::AuditEntries, done: 0, total };
        let mut is_fresh = is_fresh && ends.anchor != ChainHead::START;
        loop {
            let Some(entries) = self.next_entries(&source, &mut at, progress.done == 0 && is_fresh).await?
            else {
                report.find(Side::Source, &"audit log", &"entries were deleted before they were copied");
                return Ok(());
            };
            let last = entries.last().map(AuditEntry::head);
            if last.is_some() || is_fresh {
                target.append(&at, &entries).await?;
            }
            is_fresh = false;
            let Some(last) = last else { break };
            at = last;
            report.audit_entries.added += entries.len() as u64;
            progress.done += entries.len() as u64;
            on_progress(&progress);
        }
        self.forget_as_well(&source, &target, report).await
    }

    pub(super) fn logs(&self) -> Option<[Log<'_>; 2]> {
        let [source, target] = self.audit?;
        Some([Log { side: Side::Source, store: source }, Log { side: Side::Target, store: target }])
    }

    /// The entries after `at`, up to the recorded end: what stands behind it was not written by keyward. `None` if
    /// retention has deleted some of them. Where nothing was copied yet, `at` moves on then.
    async fn next_entries(
        &self,
        source: &Log<'_>,
        at: &mut ChainHead,
        may_move: bool,
    ) -> Result<Option<Vec<AuditEntry>>, TransferError> {
        loop {
            let head = source.ends().await?.head;
            let mut entries = source.entries_after(at.number, self.batch).await?;
            entries.retain(|entry| entry.number <= head.number);
            let anchor = source.ends().await?.anchor;
            if anchor.number <= at.number {
                return Ok(Some(entries));
            }
            if !may_move {
                return Ok(None);
            }
            *at = anchor;
        }
    }

    /// Deletes from the target what retention has deleted from the source since it was copied.
    async fn forget_as_well(
        &self,
        source: &Log<'_>,
        target: &Log<'_>,
        report: &mut Report,
    ) -> Result<(), TransferError> {
        let anchor = source.ends().await?.anchor;
        loop {
            let there = target.ends().await?.anchor;
            if there.number >= anchor.number {
                return Ok(());
            }
            let mut old = target.entries_after(there.number, self.batch).await?;
            let found = old.len();
            old.retain(|entry| entry.number <= anchor.number);
            let last = old.last().map(AuditEntry::head);
            let is_last = old.len() < found || last.is_some_and(|last| last.number == anchor.number);
            if is_last && last != Some(anchor) {
                report.find(Side::Source, &"audit log", &"it does not begin with what was copied before");
                return Ok(());
            }
            if target.delete_first(old.len()).await? == 0 {
                return Ok(());
            }
        }
    }
}

/// `head`, if it is of the source's chain.
async fn known_head(
    source: &Log<'_>,
    ends: &ChainEnds,
    head: &ChainHead,
) -> Result<Option<ChainHead>, TransferError> {
    if *head == ends.anchor || *head == ends.head {
        return Ok(Some(*head));
    }
    let found = source.entries_after(head.number.saturating_sub(1), 1).await?;
    let known = found.first().is_some_and(|found| found.head() == *head) && head.number <= ends.head.number;
    Ok(known.then_some(*head))
}

/// Goes along a chain and keeps what is wrong with it first.
#[derive(Debug)]
pub(super) struct Chain {
    at: ChainHead,
    flaw: Option<Broken>,
}

impl Chain {
    pub(super) fn after(anchor: ChainHead) -> Self {
        Self { at: anchor, flaw: None }
    }

    pub(super) fn step(&mut self, entry: &AuditEntry) {
        if let (Err(flaw), None) = (entry.check_after(&self.at), self.flaw) {
            let number = if flaw == Flaw::Missing { self.at.number.saturating_add(1) } else { entry.number };
            self.flaw = Some(Broken { number, flaw });
        }
        self.at = entry.head();
    }

    /// What is wrong, with a chain that is recorded to end with `head`.
    pub(super) fn finish(self, head: &ChainHead) -> Option<Broken> {
        let flaw = if head.number > self.at.number { Flaw::Missing } else { Flaw::Altered };
        self.flaw.or((self.at != *head).then_some(Broken { number: head.number, flaw }))
    }
}
