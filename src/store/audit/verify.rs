//! Going along the chain.

use std::cmp::Ordering;

use super::{AuditEntry, AuditStore, ChainHead};
use crate::store::StoreError;

/// How many entries are in memory at a time.
const PAGE: u32 = 1000;

/// The chain is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Verified {
    /// How many entries are stored, each of them what was written.
    pub entries: u64,
    /// What the first of them follows: [`ChainHead::START`], or the last entry that retention deleted.
    pub anchor: ChainHead,
    /// The last of them. Note it elsewhere, to prove later that nothing up to it was changed.
    pub head: ChainHead,
}

/// Why the audit log is not verified.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The stored log is not what was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The log could not be read, so nobody knows.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The first entry that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit entry {number} {flaw}")]
#[non_exhaustive]
pub struct Broken {
    /// Which entry.
    pub number: u64,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What is wrong with an audit entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Its hash is not that of what stands in it and of the entry before it.
    #[error("was altered: its hash does not match what stands in it and before it")]
    Altered,
    /// It is not there, though it was written.
    #[error("is missing")]
    Missing,
    /// It is there and cannot be read, or was written by a newer keyward.
    #[error("cannot be read")]
    Unreadable,
    /// It stands behind the recorded end of the chain: it was added by other means.
    #[error("stands behind the end of the chain: it was not written by keyward")]
    Unrecorded,
    /// It is not the one that was noted elsewhere: the chain was made anew from there or from before.
    #[error("is not the one that was noted")]
    NotAsNoted,
    /// It was noted elsewhere and has been deleted by retention, so nobody can tell: note newer ones.
    #[error("was deleted by retention, so what was noted of it proves nothing any more; note a newer one")]
    Forgotten,
}

/// Goes along the whole chain, a page at a time. `noted` is a head that was kept elsewhere.
pub(crate) async fn verify(store: &dyn AuditStore, noted: Option<ChainHead>) -> Result<Verified, AuditError> {
    let mut walk = Walk::from(store.chain_ends().await?.anchor, noted)?;
    loop {
        let head = store.chain_ends().await?.head;
        let page = store.entries_after(walk.at.number, PAGE).await?;
        let found = match page.is_empty() {
            true => walk.finish(&head),
            false => page.iter().try_for_each(|entry| walk.step(entry)),
        };
        match found {
            Ok(()) if page.is_empty() => break,
            Ok(()) => {}
            Err(broken) => {
                let anchor = store.chain_ends().await?.anchor;
                if anchor.number <= walk.at.number {
                    return Err(broken.into());
                }
                // Meanwhile retention has deleted what was next.
                walk = Walk::from(anchor, noted)?;
            }
        }
    }
    match noted {
        Some(noted) if noted.number > walk.at.number => {
            Err(Broken { number: walk.at.number + 1, flaw: Flaw::Missing }.into())
        }
        Some(noted) if noted.number < walk.anchor.number => {
            Err(Broken { number: noted.number, flaw: Flaw::Forgotten }.into())
        }
        _ => Ok(Verified { entries: walk.entries, anchor: walk.anchor, head: walk.at }),
    }
}

struct Walk {
    anchor: ChainHead,
    /// The last entry that was checked.
    at: ChainHead,
    entries: u64,
    noted: Option<ChainHead>,
}

impl Walk {
    fn from(anchor: ChainHead, noted: Option<ChainHead>) -> Result<Self, Broken> {
        let walk = Self { anchor, at: anchor, entries: 0, noted };
        walk.compare()?;
        Ok(walk)
    }

    fn step(&mut self, entry: &AuditEntry) -> Result<(), Broken> {
        entry.check_after(&self.at).map_err(|flaw| {
            let number = if flaw == Flaw::Missing { self.at.number + 1 } else { entry.number };
            Broken { number, flaw }
        })?;
        self.at = entry.head();
        self.entries += 1;
        self.compare()
    }

    fn compare(&self) -> Result<(), Broken> {
        match self.noted {
            Some(noted) if noted.number == self.at.number && noted.hash != self.at.hash => {
                Err(Broken { number: noted.number, flaw: Flaw::NotAsNoted })
            }
            _ => Ok(()),
        }
    }

    /// Compares where the walk ended with where the chain was recorded to end before.
    fn finish(&self, head: &ChainHead) -> Result<(), Broken> {
        let (number, flaw) = match head.number.cmp(&self.at.number) {
            Ordering::Greater => (self.at.number + 1, Flaw::Missing),
            Ordering::Less => (head.number + 1, Flaw::Unrecorded),
            Ordering::Equal if head.hash != self.at.hash => (head.number, Flaw::Altered),
            Ordering::Equal => return Ok(()),
        };
        Err(Broken { number, flaw })
    }
}
