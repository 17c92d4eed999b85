//! From one key to the next: rotation, and the end of its overlap.

use std::time::Duration;

use crate::{
    event::EventKind,
    id::TokenId,
    manage::{
        Actor, IssuedToken, TokenError, TokenManager,
        operations::{ATTEMPTS, Forget, What},
        report::failure,
        rights,
    },
    store::{Change, Rotation, lineage::Ancestors, lookup::verify_owner},
    time::UnixTime,
    token::{TokenRecord, TokenStatus, hard_end},
};

/// Whether the overlap of a replaced token may be ended while it is still used.
///
/// ```
/// use std::time::Duration;
/// use keyward::manage::Finish;
///
/// assert_eq!(Finish::default(), Finish::UnlessUsedWithin(Duration::from_secs(3600)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// Not if it was used within this time, also before it was replaced: whoever sent it then has not shown
    /// that they changed to the new one. An hour by default.
    UnlessUsedWithin(Duration),
    /// In any case.
    Anyway,
}

impl Finish {
    /// How long ago a use must be to count as none.
    pub(crate) const WINDOW: Duration = Duration::from_secs(3600);
}

impl Default for Finish {
    fn default() -> Self {
        Self::UnlessUsedWithin(Self::WINDOW)
    }
}

/// A replaced token whose overlap is over.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finished {
    /// Its record: [`last_used`](TokenRecord::last_used) and [`last_used_ip`](TokenRecord::last_used_ip) say when
    /// and from where it was last used.
    pub record: TokenRecord,
    /// Whether it was used within the last hour, or the time that was asked for: somebody will miss it.
    pub still_used: bool,
}

impl TokenManager {
    /// Exchanges a token for a new one with the same rights. The old one works until the overlap ends,
    /// but not longer than it would have; an overlap of zero ends it at once. Without an overlap it is
    /// 24 hours.
    ///
    /// # Errors
    /// As for [`create`](Self::create) and [`update`](Self::update); [`TokenError::Conflict`] when the
    /// token is dead or has a successor.
    pub async fn rotate<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        id: TokenId,
        overlap: Option<Duration>,
    ) -> Result<IssuedToken, TokenError> {
        let actor = actor.into();
        let overlap = overlap.unwrap_or(Duration::from_secs(86_400));
        let report = self.report(actor, EventKind::TokenRotated, Some(id));
        let result = self.within(self.try_rotate(actor, id, overlap)).await;
        let owner = result.as_ref().ok().map(|issued| &issued.record.owner);
        report.done(result.as_ref().map_or_else(failure, |_| EventKind::TokenRotated), owner, Some(id));
        result
    }

    /// Ends the overlap of a replaced token now, if nobody uses it any more: before that, ask
    /// [`get`](Self::get) when and from where it was last used. What ended already is left as it is. Tokens that
    /// end with it went to its successor when it was replaced.
    ///
    /// ```
    /// use keyward::{TokenManager, UserId, manage::{Finish, NewToken}, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tokens = TokenManager::new(MemoryStore::new());
    /// let alice = UserId::new("alice")?;
    /// let old = tokens.create(&alice, NewToken::named("laptop")).await?.record.id;
    /// let new = tokens.rotate(&alice, old, None).await?; // hand it out, and wait until everybody has it
    /// let finished = tokens.finish_rotation(&alice, old, Finish::default()).await?;
    /// assert!(!finished.still_used);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TokenError::StillUsed`]; [`TokenError::Conflict`] when the token has no successor;
    /// [`TokenError::NotFound`], [`TokenError::CredentialDied`] or [`TokenError::Store`] as for
    /// [`revoke`](Self::revoke).
    pub async fn finish_rotation<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        id: TokenId,
        finish: Finish,
    ) -> Result<Finished, TokenError> {
        let actor = actor.into();
        let report = self.report(actor, EventKind::RotationFinished, Some(id));
        let result = self.within(self.try_finish(actor, id, finish)).await;
        let owner = result.as_ref().ok().map(|finished| &finished.record.owner);
        report.done(result.as_ref().map_or_else(failure, |_| EventKind::RotationFinished), owner, Some(id));
        result
    }

    async fn try_finish(
        &self,
        actor: Actor<'_>,
        id: TokenId,
        finish: Finish,
    ) -> Result<Finished, TokenError> {
        let standing = self.standing_over_others(actor).await;
        let _alone = self.issuing.rights.write().await;
        // The verdict hangs on the last use, which may be counted and not yet written; the cache has forgotten it
        // if the rotation was a moment ago.
        self.inner().write_usage().await.map_err(TokenError::Store)?;
        for _ in 0..ATTEMPTS {
            let mut record = self.reach(actor, id).await?;
            let is_own = record.owner == *actor.user();
            self.require_living_over_others(actor, standing.clone(), is_own).await?;
            if record.successor.is_none() {
                return Err(TokenError::Conflict);
            }
            self.inner().add_unwritten_use(&mut record);
            let now = self.lookup.now();
            let window = match finish {
                Finish::UnlessUsedWithin(window) => window,
                Finish::Anyway => Finish::WINDOW,
            };
            let still_used = record.last_used.is_some_and(|at| at > now.saturating_sub(window));
            if !record.counts_as_active(now) {
                return Ok(Finished { record, still_used });
            }
            if still_used && finish != Finish::Anyway {
                return Err(TokenError::StillUsed);
            }
            let end =
                Change { expires_by: Some(now), if_revision: Some(record.revision), ..Change::default() };
            match self.change(actor, &record, &end).await {
                // With the uses that were counted and not written, which the cache has just given up.
                Ok(ended) => {
                    let TokenRecord { last_used, last_used_ip, request_count, .. } = record;
                    let record = TokenRecord { last_used, last_used_ip, request_count, ..ended };
                    return Ok(Finished { record, still_used });
                }
                Err(TokenError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(TokenError::Conflict)
    }

    async fn try_rotate(
        &self,
        actor: Actor<'_>,
        id: TokenId,
        overlap: Duration,
    ) -> Result<IssuedToken, TokenError> {
        // The application's own source may take its time, which is no reason for a revocation to wait.
        self.require_own_standing(actor).await?;
        self.require_standing(&self.reach(actor, id).await?.owner).await?;
        let _handing_out = self.issuing.rights.read().await;
        self.require_living(actor).await?;
        let old = self.reach(actor, id).await?;
        self.require_rights(actor, &old)?;
        let as_it_works = self.as_it_works(old.clone(), &mut Ancestors::default()).await?;
        if self.status(&as_it_works) != TokenStatus::Active || old.honeytoken {
            return Err(TokenError::Conflict);
        }
        let (key, successor) = self.successor(actor, &old)?;
        self.keep_pace(actor)?;
        // The tokens that end with it now end with another one.
        let what = What::Family([Some(old.digest), Some(successor.digest)], &old.owner);
        let _forget = Forget { inner: self.inner(), what };
        let old_end = self.lookup.now().saturating_add(overlap);
        // Overlaps end by themselves, so rotation may go beyond the limit of active tokens, but not beyond twice that.
        let most = self.issuing.max_active.map(|limit| limit.saturating_mul(2));
        let mut rotation = Rotation::new(successor, old_end, old.revision).with_max_active(most);
        rotation.dead_by = Some(self.dead_by());
        let replaced = self.ask(self.inner().store.rotate(actor.scope(), id, &rotation)).await?;
        match replaced.and_then(|record| verify_owner(&self.inner().audit, actor.scope(), record)) {
            Some(record) if record.id == id => {
                self.confirm(actor, IssuedToken { key, record: rotation.successor }).await
            }
            _ => Err(self.missing(actor, id).await),
        }
    }

    /// What expired by then works no more, not even for reading.
    pub(super) fn dead_by(&self) -> UnixTime {
        self.lookup.now().saturating_sub(self.inner().lifetimes.longest_grace())
    }

    fn successor(
        &self,
        actor: Actor<'_>,
        old: &TokenRecord,
    ) -> Result<(crate::ApiKey, TokenRecord), TokenError> {
        let (key, mut successor) = self.fresh(&old.owner)?;
        successor.name = old.name.clone();
        successor.class = old.class;
        successor.scopes = old.scopes.clone();
        successor.roles = old.roles.clone();
        successor.allowed_ips = old.allowed_ips.clone();
        successor.metadata = old.metadata.clone();
        successor.limits = old.limits;
        // What is used of a quota is used for the new key as well.
        let mut used = old.clone();
        self.inner().add_unwritten_use(&mut used);
        successor.quota_use = used.quota_use;
        // And whoever has it is at home where the old one was.
        successor.habits = used.habits.map(|habits| Box::new(habits.inherited(used.request_count)));
        successor.parent = old.parent;
        successor.created_ip = actor.client_ip();
        successor.created_by = actor.presented().and_then(crate::Principal::token_id);
        self.set_successor_lifetime(actor, old, &mut successor);
        Ok((key, successor))
    }

    /// The lifetime that the old token was made with, from now on, within what the actor may hand out.
    fn set_successor_lifetime(&self, actor: Actor<'_>, old: &TokenRecord, successor: &mut TokenRecord) {
        let policy = self.inner().lifetimes.policy(old.class);
        let now = successor.created_at;
        let latest = rights::latest_end(actor.presented()).min(old.hard_end.unwrap_or(UnixTime::MAX));
        successor.hard_end = Some(latest).filter(|end| *end < UnixTime::MAX);
        successor.rolling = old.rolling;
        let lifetime = match old.rolling {
            true => policy.lifetime(),
            false => old.expires_at.map(|at| at.since(old.created_at)),
        };
        let wanted = lifetime.map_or(UnixTime::MAX, |lifetime| now.saturating_add(lifetime));
        let end = wanted.min(hard_end(successor, policy));
        successor.expires_at = Some(end).filter(|end| *end < UnixTime::MAX);
    }
}
