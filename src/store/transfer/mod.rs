//! Moving from one store to another while the first one serves: [`Transfer`].
//!
//! # How to move
//!
//! 1. Make the new store; nothing may use it yet. Call [`copy`](Transfer::copy) while the service runs on the old one.
//!    Do it again until a round writes little: each copies what changed since the one before.
//! 2. Stop all that writes to the old store: the service, so that it writes the last uses, and what else has it open.
//! 3. Call [`finish`](Transfer::finish): a last round, then both sides are read and compared. Go on only if the report
//!    [is complete](Report::is_complete); otherwise it says what to look at, and the old store can go on serving.
//! 4. Start the service on the new store, and put the old one away where no service finds it: what is revoked from now
//!    on is not revoked there.
//!
//! The service stands still for steps 2 to 4 only. A round that ended early, by an error, a crash or because its future
//! was dropped, is made up for by the next one: all that was written stays, each batch whole, and is not written again.
//!
//! # What is copied
//!
//! Every token as it is, with its use, its habits, what it ends with and whether it is a trap; users who are suspended or
//! gone, and the time before which their JWTs do not count; JWTs that are revoked; who ever had a token, so that nobody
//! can [register](crate::store::TokenStore::register) as somebody else; which warnings were given out; and, on demand,
//! the audit log with its chain, so that what was noted of it elsewhere still proves the same. Limits of the target's
//! users do not count for what comes from the source.
//!
//! The target must be a store in which no service has worked. Of a token that was changed on both sides the later
//! revision counts, except that what was revoked or replaced stays so: what else was done in the target is not seen then.
//!
//! # What it never does
//!
//! It never makes anything of the target that the source did not have: a record of the target gives way to a later
//! version of itself only, and what is something else is left alone and [found](Finding). It deletes no token. What takes
//! rights away is copied before what gives them, and what cannot be read is replaced by what denies more. A token that
//! is revoked in the source is revoked in the target even where the rest of it is left alone.

use std::collections::HashMap;

use crate::{
    id::UserId,
    principal::AdminProof,
    store::{AuditStore, Change, Owner, StoreError, TokenStore, UserState},
    time::{Clock, SystemClock, UnixTime},
    token::{Lifetimes, TokenRecord},
};

mod audit;
mod compare;
mod digest;
mod items;
mod report;

pub use digest::ContentDigest;
pub use items::{Conflict, Damaged, Exported, Imported, Item, KnownUser, Position, Section, StoredToken};
pub use report::{Comparison, Contents, Copied, Finding, Progress, Report, Side, Step, TransferError};

/// Copies all that one store holds to another, in batches. The [module](self) says how to move a service.
///
/// ```
/// use keyward::{
///     AdminProof, TokenManager, UserId,
///     manage::NewToken,
///     store::{MemoryStore, SqliteStore, transfer::Transfer},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let old = std::sync::Arc::new(MemoryStore::new());
/// # let tokens = TokenManager::new(old.clone());
/// # tokens.create(&UserId::new("alice")?, NewToken::named("laptop")).await?;
/// # tokens.flush().await?;
/// let new = SqliteStore::open(directory.path().join("keys.db")).await?;
/// let operator = AdminProof::operator("ops", "move to the new disk")?;
/// let mut transfer = Transfer::new(&old, &new, &operator).with_audit(&old, &new);
///
/// // While the service runs on the old store, as often as you like:
/// let round = transfer.copy(|progress| eprintln!("{progress}")).await?;
/// assert_eq!(round.tokens.added, 1);
///
/// // Once nothing writes to the old store any more:
/// let moved = transfer.finish(|progress| eprintln!("{progress}")).await?;
/// assert!(moved.is_complete(), "{moved}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Transfer<'a> {
    source: &'a dyn TokenStore,
    target: &'a dyn TokenStore,
    audit: Option<[&'a dyn AuditStore; 2]>,
    proof: &'a AdminProof,
    batch: u32,
    lifetimes: Option<Lifetimes>,
    restores_users: bool,
    clock: Box<dyn Clock>,
    /// States of users that both sides agreed on: what of this is stricter in the target now was not set there.
    agreed: HashMap<UserId, UserState>,
}

impl<'a> Transfer<'a> {
    /// A transfer of all but the audit log, in batches of 500. Whoever may see and write everything gives the proof.
    #[must_use]
    pub fn new(source: &'a dyn TokenStore, target: &'a dyn TokenStore, proof: &'a AdminProof) -> Self {
        Self {
            source,
            target,
            audit: None,
            proof,
            batch: 500,
            lifetimes: None,
            restores_users: false,
            clock: Box::new(SystemClock),
            agreed: HashMap::new(),
        }
    }

    /// Also copies the audit log of `source` to `target`, which must have none of its own: a chain has one beginning.
    #[must_use]
    pub fn with_audit(self, source: &'a dyn AuditStore, target: &'a dyn AuditStore) -> Self {
        Self { audit: Some([source, target]), ..self }
    }

    /// How many are read and written at once: 1 to 10 000, 500 by default. A batch is written in one transaction, so
    /// larger ones take less time in all, and keep others waiting for longer.
    #[must_use]
    pub fn with_batch_size(self, batch: u32) -> Self {
        Self { batch: batch.clamp(1, 10_000), ..self }
    }

    /// When tokens end, as the service on the source was told. Then what the service removes from the source after it
    /// was copied need not be gone from the target, which is told by [`Comparison::ended`]; the service removes it
    /// there as well. Without this only revoked tokens may be left over.
    #[must_use]
    pub fn with_lifetimes(self, lifetimes: Lifetimes) -> Self {
        Self { lifetimes: Some(lifetimes), ..self }
    }

    /// Whether users who are denied in the target, and not in the source, are restored although it is not known that
    /// an earlier round denied them: off by default. It is known to the [`Transfer`] that did it, so this is needed
    /// where a user was restored in the source between a crash and the round that makes up for it.
    #[must_use]
    pub fn with_restored_users(self, restores: bool) -> Self {
        Self { restores_users: restores, ..self }
    }

    /// The clock that tells which JWTs have ended: the system's by default.
    #[must_use]
    pub fn with_clock(self, clock: impl Clock) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// Copies what is in the source and not, or not so, in the target. The source may be in use; what changes after it
    /// was read is left to the next round.
    ///
    /// `on_progress` is called after each batch. The future may be dropped at any time.
    ///
    /// # Errors
    /// When a side fails. The next round goes on from there.
    pub async fn copy(
        &mut self,
        mut on_progress: impl FnMut(&Progress) + Send,
    ) -> Result<Report, TransferError> {
        self.round(&mut on_progress).await
    }

    /// Copies as [`copy`](Self::copy) does, then [compares](Self::compare). Nothing may write to either side meanwhile.
    ///
    /// # Errors
    /// When a side fails. A difference is no error, but stands in the report.
    pub async fn finish(
        &mut self,
        mut on_progress: impl FnMut(&Progress) + Send,
    ) -> Result<Report, TransferError> {
        let mut report = self.round(&mut on_progress).await?;
        self.compare_into(&mut report, &mut on_progress).await?;
        Ok(report)
    }

    /// Reads both sides and tells what differs; writes nothing.
    ///
    /// # Errors
    /// When a side fails. A difference is no error, but stands in the report.
    pub async fn compare(
        &self,
        mut on_progress: impl FnMut(&Progress) + Send,
    ) -> Result<Report, TransferError> {
        let mut report = Report::default();
        self.compare_into(&mut report, &mut on_progress).await?;
        Ok(report)
    }

    async fn round(&mut self, on_progress: OnProgress<'_>) -> Result<Report, TransferError> {
        let mut report = Report::default();
        let mut denied = Vec::new();
        for step in [Step::RevokedJwts, Step::Users, Step::DeadTokens, Step::Tokens] {
            self.copy_step(step, &mut report, &mut denied, on_progress).await?;
        }
        self.copy_audit(&mut report, on_progress).await?;
        // What gives back comes last: until here their tokens may not have been revoked yet.
        self.restore_users(denied, &mut report).await?;
        Ok(report)
    }

    /// Copies what `step` is about. Users who are denied in the target only are put into `denied`.
    async fn copy_step(
        &mut self,
        step: Step,
        report: &mut Report,
        denied: &mut Vec<KnownUser>,
        on_progress: OnProgress<'_>,
    ) -> Result<(), TransferError> {
        let (section, now) = (section_of(step), self.clock.now());
        let (mut after, mut progress) = (None, Progress { step, done: 0, total: None });
        loop {
            let page = self.source.export(self.proof, section, after.as_ref(), self.batch).await;
            let page = page.map_err(TransferError::Source)?;
            progress.total = progress.total.or(page.total);
            progress.done += page.looked_at();
            let items: Vec<_> = page.items.into_iter().filter(|item| belongs(step, item, now)).collect();
            let copied = if items.is_empty() {
                Vec::new()
            } else {
                self.target.import(self.proof, &items).await.map_err(TransferError::Target)?
            };
            // All are told of when they are looked at for the last time.
            if step != Step::DeadTokens {
                page.damaged.iter().for_each(|found| report.find(Side::Source, &found.name, &found.reason));
            }
            for (item, imported) in items.into_iter().zip(copied) {
                self.take_note(step, item, imported, report, denied).await?;
            }
            on_progress(&progress);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn take_note(
        &mut self,
        step: Step,
        item: Item,
        imported: Imported,
        report: &mut Report,
        denied: &mut Vec<KnownUser>,
    ) -> Result<(), TransferError> {
        let copied = match &item {
            Item::Jwt(_) => &mut report.revoked_jwts,
            Item::User(_) => &mut report.users,
            Item::Token(_) => &mut report.tokens,
        };
        copied.read += u64::from(step != Step::DeadTokens);
        copied.added += u64::from(imported == Imported::Added);
        copied.changed += u64::from(imported == Imported::Changed);
        match (item, imported) {
            (Item::User(known), Imported::Refused(Conflict::Stricter)) => denied.push(known),
            (Item::User(known), _) => {
                self.agreed.extend(
                    known.state.filter(|state| !state.is_active()).map(|state| (state.user.clone(), state)),
                );
            }
            (item, Imported::Refused(conflict)) => {
                let revoked = self.revoke_as_well(&item).await?;
                if step != Step::DeadTokens {
                    report.find(Side::Target, &item, &conflict);
                }
                if revoked {
                    report.find(Side::Target, &item, &"it was revoked there, since it is revoked here");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Revokes what has the secret of a token in the target that is left alone there, if it is revoked in the source.
    async fn revoke_as_well(&self, item: &Item) -> Result<bool, TransferError> {
        let Item::Token(token) = item else { return Ok(false) };
        let Some(at) = token.record.revoked_at else { return Ok(false) };
        let revoke = async {
            let found = self.target.find(&token.record.digest).await?;
            let Some(found) = found.filter(|found| found.revoked_at.is_none()) else { return Ok(false) };
            let revoked = self.target.update(Owner::Any(self.proof), found.id, &Change::revoke(at)).await?;
            Ok(revoked.is_some())
        };
        match revoke.await {
            // What cannot be read opens nothing.
            Err(error) if is_corrupt(&error) => Ok(false),
            done => done.map_err(TransferError::Target),
        }
    }

    /// Restores those of the users that are denied in the target because an earlier round said so.
    async fn restore_users(
        &mut self,
        denied: Vec<KnownUser>,
        report: &mut Report,
    ) -> Result<(), TransferError> {
        if denied.is_empty() {
            return Ok(());
        }
        let there = self.target.denials(self.clock.now()).await.map_err(TransferError::Target)?;
        let there: HashMap<_, _> = there.users.iter().map(|state| (&state.user, state)).collect();
        for known in denied {
            let current = there.get(&known.user).copied();
            let agreed = self.agreed.get(&known.user).map(|state| state.status);
            let ours = self.restores_users || agreed == current.map(|state| state.status);
            if let Some(state) = known.state.clone().filter(|_| ours) {
                self.target.set_user_state(&state).await.map_err(TransferError::Target)?;
                report.users.changed += 1;
                if current.and_then(|current| current.jwts_not_before) <= state.jwts_not_before {
                    continue;
                }
            }
            report.find(Side::Target, &Item::User(known), &Conflict::Stricter);
        }
        Ok(())
    }

    /// Whether a token that only the target has may be left over from one that the source has removed.
    fn has_ended(&self, record: &TokenRecord, now: UnixTime) -> bool {
        let ended =
            |lifetimes: &Lifetimes| crate::token::ended_at(record, lifetimes.policy(record.class)) <= now;
        record.revoked_at.is_some() || self.lifetimes.as_ref().is_some_and(ended)
    }
}

type OnProgress<'f> = &'f mut (dyn FnMut(&Progress) + Send);

fn section_of(step: Step) -> Section {
    match step {
        Step::RevokedJwts => Section::RevokedJwts,
        Step::Users => Section::Users,
        _ => Section::Tokens,
    }
}

fn belongs(step: Step, item: &Item, now: UnixTime) -> bool {
    match item {
        Item::Jwt(jwt) => jwt.until > now,
        Item::User(_) => true,
        Item::Token(token) => step != Step::DeadTokens || token.takes_away(),
    }
}

fn is_corrupt(error: &StoreError) -> bool {
    error.kind() == crate::store::StoreErrorKind::Corrupt
}
