//! What is done once an hour: warnings, and the removal of what ended long ago.

use std::{fmt, future::poll_fn, pin::Pin, task::Poll, time::Duration};

use crate::{
    count::{self, Level},
    event::{Event, EventKind},
    id::TokenId,
    manage::{Actor, TokenError, TokenManager, report::failure},
    principal::AdminProof,
    store::{Claimed, Purge, StoreError, StoreErrorKind, Warnings, lineage::Lineage},
    time::Stopwatch,
    token::{RequestClass, TokenRecord, decide},
};

/// How long after the start the first round comes, at least; up to [`SPREAD`] more, so that processes that start
/// together do not clean up together.
const FIRST_AFTER: Duration = Duration::from_secs(10);
const SPREAD: Duration = Duration::from_secs(50);

/// From the end of one round to the next, and after one that failed.
const INTERVAL: Duration = Duration::from_secs(3600);
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// For how long a round works that somebody waits for.
const BUDGET: Duration = Duration::from_secs(4);

/// How many records one step looks at, and how long it should take, so that it keeps nobody waiting.
const SMALLEST_STEP: u32 = 10;
const FIRST_STEP: u32 = 100;
const LARGEST_STEP: u32 = 500;
const STEP_TIME: Duration = Duration::from_millis(10);

/// The shortest pause between two steps.
const PAUSE: Duration = Duration::from_millis(1);

/// What one round of [`cleanup`](crate::TokenManager::cleanup) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleanup {
    /// How many warnings of an expiry were sent.
    pub warned: u64,
    /// How many tokens that ended long ago were removed.
    pub removed: u64,
    /// How many tokens are stored; so far, if the round is not complete.
    pub stored: u64,
    /// Whether all tokens were looked at: a round that is asked for ends after a few seconds, and the next one
    /// goes on from there.
    pub complete: bool,
}

#[derive(Debug)]
pub(super) struct Maintenance {
    retention: Duration,
    warnings: Vec<Duration>,
    /// How many tokens there were at the end of the last complete round.
    stored: Level,
    /// Held during a round.
    progress: tokio::sync::Mutex<Progress>,
}

/// Where the next round goes on.
#[derive(Default)]
struct Progress {
    /// After this token; `None` is at the oldest.
    after: Option<TokenId>,
    /// How many tokens are stored up to that one.
    stored: u64,
    /// Warnings whose giving out was not waited for: they go to nobody else.
    claim: Option<Claim>,
}

type Claim = Pin<Box<dyn Future<Output = Result<Claimed, StoreError>> + Send>>;

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("after", &self.after)
            .field("stored", &self.stored)
            .finish_non_exhaustive()
    }
}

impl Maintenance {
    pub(super) fn new(retention: Duration, warnings: Vec<Duration>) -> Self {
        let stored = Level::of(&count::TOKENS_STORED);
        Self { retention, warnings, stored, progress: tokio::sync::Mutex::default() }
    }
}

impl TokenManager {
    /// Does now what the [background work](Self::run) does once an hour: sends the warnings of expiries that are
    /// due, and removes the tokens that ended longer ago than the
    /// [retention](crate::manage::TokenManagerBuilder::with_retention). Both in steps that keep no request
    /// waiting, and for a few seconds at most.
    ///
    /// ```
    /// use keyward::{AdminProof, TokenManager, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tokens = TokenManager::new(MemoryStore::new());
    /// let done = tokens.cleanup(&AdminProof::operator("ops", "before the audit")?).await?;
    /// assert!(done.complete && done.removed == 0 && done.stored == 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TokenError::Busy`] when another round of this process takes all the time;
    /// [`TokenError::Store`]: what was removed before that is gone.
    pub async fn cleanup(&self, proof: &AdminProof) -> Result<Cleanup, TokenError> {
        let report = self.report(Actor::Admin(proof), EventKind::TokensRemoved(0), None);
        let mut done = Cleanup::default();
        let result = self.round(proof, Some(BUDGET), &mut done).await;
        let kind = result.as_ref().map_or_else(failure, |()| EventKind::TokensRemoved(done.removed));
        report.done(kind, None, None);
        result.map(|()| done)
    }

    /// Cleans up once an hour. Never returns.
    pub(super) async fn keep_clean(&self) {
        let spread = self.lookup.now().as_millis().unsigned_abs() % SPREAD.as_millis() as u64;
        tokio::time::sleep(FIRST_AFTER + Duration::from_millis(spread)).await;
        let proof = AdminProof::internal("hourly clean-up");
        loop {
            let mut tally = Tally { manager: self, proof: &proof, done: Cleanup::default() };
            // A failure of the store has raised its alert.
            let failed = self.round(&proof, None, &mut tally.done).await.is_err();
            drop(tally);
            tokio::time::sleep(if failed { RETRY_AFTER } else { INTERVAL }).await;
        }
    }

    /// One round, one at a time; what it did is in `done`, also when it fails or is given up.
    async fn round(
        &self,
        proof: &AdminProof,
        budget: Option<Duration>,
        done: &mut Cleanup,
    ) -> Result<(), TokenError> {
        let begun = Stopwatch::start();
        let waiting = self.issuing.maintenance.progress.lock();
        let waiting = tokio::time::timeout(budget.unwrap_or(Duration::MAX), waiting);
        let mut progress = waiting.await.map_err(|_| TokenError::Busy)?;
        let mut pace = Pace { step: FIRST_STEP, begun, budget };
        // What was used lately is neither about to expire nor idle.
        self.flush().await?;
        self.send_warnings(proof, &mut pace, &mut progress.claim, done).await?;
        self.remove_ended(proof, &mut pace, &mut progress, done).await
    }

    async fn send_warnings(
        &self,
        proof: &AdminProof,
        pace: &mut Pace,
        claim: &mut Option<Claim>,
        done: &mut Cleanup,
    ) -> Result<(), TokenError> {
        while !pace.is_over() {
            let (taken, resumed) = (Stopwatch::start(), claim.is_some());
            claim.get_or_insert_with(|| self.claim(proof, pace.step));
            let claimed = match self.within(self.ask(finish(claim))).await {
                Ok(claimed) => claimed,
                Err(TokenError::Store(error)) if error.kind() == StoreErrorKind::ReadOnly => return Ok(()),
                Err(error) => {
                    // What was waited for twice may never have an end.
                    *claim = claim.take().filter(|_| !resumed);
                    return Err(error);
                }
            };
            self.send(claimed.tokens, &mut done.warned).await;
            if !claimed.more {
                return Ok(());
            }
            pace.rest(taken).await;
        }
        Ok(())
    }

    /// Has the store give out warnings, also if nobody waits until it has.
    fn claim(&self, proof: &AdminProof, limit: u32) -> Claim {
        let (lookup, proof) = (self.lookup.clone(), proof.clone());
        let warnings = Warnings::new(lookup.now(), self.issuing.maintenance.warnings.clone(), limit);
        Box::pin(async move { lookup.inner().store.claim_warnings(&proof, &warnings).await })
    }

    /// Sends the warnings that were being given out when the background work ended.
    pub(super) async fn send_claimed(&self) {
        // If it is taken, somebody else is sending them.
        let Ok(mut progress) = self.issuing.maintenance.progress.try_lock() else { return };
        if progress.claim.is_some()
            && let Ok(claimed) = self.within(self.ask(finish(&mut progress.claim))).await
        {
            self.send(claimed.tokens, &mut 0).await;
        }
    }

    /// Sends warnings that were given out, in any case: also if a store fails now, or nobody waits.
    async fn send(&self, claimed: Vec<TokenRecord>, sent: &mut u64) {
        let (children, others) = claimed.into_iter().partition(|record| record.parent.is_some());
        drop(Unsent { manager: self, tokens: others, sent });
        let mut unsent = Unsent { manager: self, tokens: children, sent };
        while let Some(record) = unsent.tokens.last() {
            let lineage = self.inner().lineage(record, self.lookup.now());
            let lineage = self.within(async { lineage.await.map_err(TokenError::Store) });
            let Ok(lineage) = lineage.await else { return };
            if let Some(record) = unsent.tokens.pop() {
                *unsent.sent += u64::from(self.warn(&record, Some(&lineage)));
            }
        }
    }

    /// Sends a warning unless there is nothing to lose.
    fn warn(&self, record: &TokenRecord, lineage: Option<&Lineage>) -> bool {
        let (now, policy) = (self.lookup.now(), self.inner().lifetimes.policy(record.class));
        let lives = decide(record, policy, now, RequestClass::Unsafe).access().is_ok();
        let Some(expires_at) = record.expires_at.filter(|_| lives) else { return false };
        let expires_at = match lineage {
            Some(lineage) if !lineage.lives => return false,
            Some(lineage) => expires_at.min(lineage.end),
            None => expires_at,
        };
        let days = expires_at.since(now).as_millis().div_ceil(86_400_000);
        let kind = EventKind::TokenExpiring(u32::try_from(days).unwrap_or(u32::MAX));
        let event = Event::new(kind).owned_by(&record.owner).token(record.id);
        self.inner().audit.emit(event.because(&format!("expires at {expires_at}")));
        true
    }

    async fn remove_ended(
        &self,
        proof: &AdminProof,
        pace: &mut Pace,
        progress: &mut Progress,
        done: &mut Cleanup,
    ) -> Result<(), TokenError> {
        let lifetimes = self.inner().lifetimes.clone();
        let before = self.lookup.now().saturating_sub(self.issuing.maintenance.retention);
        let mut purge = Purge::new(before, lifetimes, FIRST_STEP);
        done.stored = progress.stored;
        while !pace.is_over() {
            let taken = Stopwatch::start();
            (purge.after, purge.limit) = (progress.after, pace.step);
            let purged = match self.within(self.ask(self.inner().store.purge(proof, &purge))).await {
                Err(TokenError::Store(error)) if error.kind() == StoreErrorKind::ReadOnly => return Ok(()),
                purged => purged?,
            };
            done.removed += purged.removed;
            let stored = (progress.stored + purged.looked_at).saturating_sub(purged.removed);
            done.stored = stored;
            if purged.next.is_none() {
                (progress.after, progress.stored) = (None, 0);
                done.complete = true;
                self.issuing.maintenance.stored.set(usize::try_from(stored).unwrap_or(usize::MAX));
                return Ok(());
            }
            (progress.after, progress.stored) = (purged.next, stored);
            pace.rest(taken).await;
        }
        Ok(())
    }
}

/// Waits for the end of `claim`, which goes on with the next call if this one is given up.
async fn finish(claim: &mut Option<Claim>) -> Result<Claimed, StoreError> {
    poll_fn(|context| {
        // One that panics is not asked again.
        let Some(mut open) = claim.take() else { return Poll::Ready(Ok(Claimed::default())) };
        let answer = open.as_mut().poll(context);
        if answer.is_pending() {
            *claim = Some(open);
        }
        answer
    })
    .await
}

/// Warnings that were given out and not sent. Dropped, they are sent by what is known of them.
struct Unsent<'a> {
    manager: &'a TokenManager,
    tokens: Vec<TokenRecord>,
    sent: &'a mut u64,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        for record in self.tokens.drain(..) {
            *self.sent += u64::from(self.manager.warn(&record, None));
        }
    }
}

/// How much is done at a time, and until when.
struct Pace {
    step: u32,
    begun: Stopwatch,
    budget: Option<Duration>,
}

impl Pace {
    fn is_over(&self) -> bool {
        self.budget.is_some_and(|budget| self.begun.elapsed() >= budget)
    }

    /// Leaves the store to others for as long as the step took, and sizes the next one.
    async fn rest(&mut self, taken: Stopwatch) {
        let taken = taken.elapsed();
        self.step = match taken {
            long if long > STEP_TIME => self.step / 2,
            short if short < STEP_TIME / 4 => self.step * 2,
            _ => self.step,
        };
        self.step = self.step.clamp(SMALLEST_STEP, LARGEST_STEP);
        tokio::time::sleep(taken.max(PAUSE)).await;
    }
}

/// Says what a round did, also if it is given up.
struct Tally<'a> {
    manager: &'a TokenManager,
    proof: &'a AdminProof,
    done: Cleanup,
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let Cleanup { warned, removed, stored, complete } = self.done;
        if removed > 0 {
            let event = Event::new(EventKind::TokensRemoved(removed)).by(self.proof.actor());
            self.manager.inner().audit.emit(event.because(self.proof.reason()));
        }
        if complete {
            tracing::info!(stored, removed, warned, "cleaned up");
        }
    }
}
