//! The end of tokens: of one, of what ends with it, of all of a user, and of what gives way.

use crate::{
    event::{Alert, EventKind},
    id::{TokenId, UserId},
    manage::{
        Actor, TokenError, TokenManager,
        operations::{Forget, What},
        report::{event, failure},
    },
    principal::AdminProof,
    store::{Ended, Owner, Reach, Revoked, Room, lookup::verify_owner},
    token::TokenRecord,
};

impl TokenManager {
    /// Ends a token for ever, with those that [end with it](crate::manage::NewToken::as_child). When this returns,
    /// no request that starts in this process is accepted with one of them any more. Revoking what is revoked
    /// already succeeds.
    ///
    /// # Errors
    /// [`TokenError::NotFound`], with an alert if it is somebody else's; when it is about somebody else's,
    /// [`TokenError::CredentialDied`] if what the administrator presented works no more and [`TokenError::Conflict`]
    /// if it was changed since; or [`TokenError::Store`]: then assume that the token still works, and try again.
    pub async fn revoke<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        id: TokenId,
    ) -> Result<TokenRecord, TokenError> {
        let (record, _) = self.revoke_reaching(actor.into(), id, Reach::Children).await?;
        Ok(record)
    }

    /// Ends a token as [`revoke`](Self::revoke) does, and everything that was made through it, through what was made
    /// through it, and so on, its successors by its own hand included; says how many worked before. For a key that
    /// others had in their hands.
    ///
    /// Tokens of other users, which an administrator's key can make, end only when an [`AdminProof`] asks. What was
    /// made through a token that was removed from the store since is not found.
    ///
    /// # Errors
    /// As for [`revoke`](Self::revoke).
    pub async fn revoke_cascade<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        id: TokenId,
    ) -> Result<u64, TokenError> {
        let (_, count) = self.revoke_reaching(actor.into(), id, Reach::Minted).await?;
        Ok(count)
    }

    /// The token as it is then, and how many tokens worked before.
    async fn revoke_reaching(
        &self,
        actor: Actor<'_>,
        id: TokenId,
        reach: Reach,
    ) -> Result<(TokenRecord, u64), TokenError> {
        let report = self.report(actor, EventKind::TokenRevoked, Some(id));
        let result = self.within(self.try_revoke(actor, id, reach)).await;
        let owner = result.as_ref().ok().map(|(record, _)| &record.owner);
        report.done(result.as_ref().map_or_else(failure, |_| EventKind::TokenRevoked), owner, Some(id));
        result
    }

    /// Ends all tokens of the actor, also the one that was presented; says how many worked before. With
    /// an [`AdminProof`] it is about the administrator's own: for those of another user see
    /// [`revoke_all_of`](Self::revoke_all_of).
    ///
    /// # Errors
    /// [`TokenError::Store`].
    pub async fn revoke_all<'a>(&self, actor: impl Into<Actor<'a>>) -> Result<u64, TokenError> {
        let actor = actor.into();
        self.revoke_all_tokens(actor, actor.user()).await
    }

    /// Ends all tokens of `user`, for an administrator; says how many worked before.
    ///
    /// # Errors
    /// [`TokenError::CredentialDied`] or [`TokenError::Conflict`] as for [`revoke`](Self::revoke), or
    /// [`TokenError::Store`].
    pub async fn revoke_all_of(&self, proof: &AdminProof, user: &UserId) -> Result<u64, TokenError> {
        self.revoke_all_tokens(Actor::Admin(proof), user).await
    }

    async fn revoke_all_tokens(&self, actor: Actor<'_>, owner: &UserId) -> Result<u64, TokenError> {
        let report = self.report(actor, EventKind::TokensRevoked(0), None);
        let result = self.within(self.try_revoke_all(actor, owner)).await;
        let kind = result.as_ref().map_or_else(failure, |count| EventKind::TokensRevoked(*count));
        report.done(kind, Some(owner), None);
        result
    }

    async fn try_revoke(
        &self,
        actor: Actor<'_>,
        id: TokenId,
        reach: Reach,
    ) -> Result<(TokenRecord, u64), TokenError> {
        let standing = self.standing_over_others(actor).await;
        let _alone = self.issuing.rights.write().await;
        let old = self.reach(actor, id).await?;
        // What was made through one's own may be somebody else's.
        let is_own = old.owner == *actor.user() && reach != Reach::Minted;
        self.require_living_over_others(actor, standing, is_own).await?;
        let what = match (reach, actor.scope()) {
            (Reach::Minted, Owner::Any(_)) => What::All,
            _ => What::Owner(&old.owner),
        };
        let mut forget = Forget { inner: self.inner(), what };
        let now = self.lookup.now();
        let revoked = self.ask(self.inner().store.revoke(actor.scope(), id, now, reach)).await?;
        let Some(Revoked { record, others }) = revoked else { return Err(self.missing(actor, id).await) };
        let verified = verify_owner(&self.inner().audit, actor.scope(), record);
        let Some(record) = verified.filter(|record| record.id == id) else {
            return Err(self.missing(actor, id).await);
        };
        forget.what =
            What::Each([old.digest].into_iter().chain(others.iter().map(|other| other.digest)).collect());
        self.report_ended(actor, &others, &format!("with {id}"));
        Ok((record, others.len() as u64 + u64::from(old.revoked_at.is_none())))
    }

    /// Stores a new record in the place of another one of its owner.
    pub(super) async fn displace(
        &self,
        actor: Actor<'_>,
        record: &TokenRecord,
        room: &Room,
    ) -> Result<(), TokenError> {
        // The last uses decide who gives way.
        self.ask(self.inner().write_all_usage()).await?;
        let _forget = Forget { inner: self.inner(), what: What::Owner(&record.owner) };
        let ended = self.ask(self.inner().store.insert_making_room(record, room)).await?;
        self.report_ended(actor, &ended, &format!("made room for {}", record.id));
        Ok(())
    }

    fn report_ended(&self, actor: Actor<'_>, ended: &[Ended], why: &str) {
        let reasons: Vec<_> = [why].into_iter().chain(actor.reason()).collect();
        let emit = |kind, token: &Ended, why: &str| {
            let event = event(actor, kind, Some(&token.owner), Some(token.id));
            self.inner().audit.emit(event.because(why));
        };
        for token in ended {
            emit(EventKind::TokenRevoked, token, &reasons.join(": "));
            if !actor.scope().includes(&token.owner) {
                let why = "the store revoked a token of another owner";
                emit(EventKind::Alert(Alert::ForeignRecord), token, why);
            }
        }
    }

    async fn try_revoke_all(&self, actor: Actor<'_>, owner: &UserId) -> Result<u64, TokenError> {
        let standing = self.standing_over_others(actor).await;
        let _alone = self.issuing.rights.write().await;
        self.require_living_over_others(actor, standing, owner == actor.user()).await?;
        let _forget = Forget { inner: self.inner(), what: What::Owner(owner) };
        let digests = self.ask(self.inner().store.revoke_all(owner, self.lookup.now())).await?;
        Ok(digests.len() as u64)
    }
}
