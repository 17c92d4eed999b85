//! What ends more than one key: users who are suspended or gone, and JWTs.

use std::time::Duration;

use crate::{
    event::EventKind,
    id::UserId,
    manage::{
        Actor, TokenError, TokenManager,
        operations::{Forget, What},
        report::failure,
    },
    principal::{AdminProof, EMERGENCY_USER},
    store::{JwtId, JwtRevocation, UserState, UserStatus, lookup::Inner},
    time::UnixTime,
};

impl TokenManager {
    /// Ends one JWT by its claims `iss` and `jti`, until it ends by itself at `until`, its `exp`: it is
    /// remembered for ten minutes more, since verifiers are lenient with clocks. When this returns, this
    /// process accepts it no more.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when `until` is past by more than ten minutes, so that nothing would be revoked;
    /// [`TokenError::CredentialDied`] when what the administrator presented works no more, and
    /// [`TokenError::Conflict`] when it was changed since; [`TokenError::Store`]: then assume that it still works,
    /// and try again.
    pub async fn revoke_jwt(
        &self,
        proof: &AdminProof,
        issuer: &str,
        jwt_id: &str,
        until: UnixTime,
    ) -> Result<(), TokenError> {
        if until.saturating_add(Duration::from_secs(600)) <= self.lookup.now() {
            return Err(TokenError::Invalid("`until` is long past: give the token's `exp`"));
        }
        // The longest leeway is five minutes, and clocks differ.
        let until = until.saturating_add(Duration::from_secs(600));
        let revocation = JwtRevocation::new(JwtId::of(issuer, jwt_id), until);
        let now = self.lookup.now();
        let change = self.ask(self.inner().store.revoke_jwt(&revocation, now));
        self.deny(proof, EventKind::JwtRevoked, None, change).await
    }

    /// Ends all JWTs of `user` that were issued until now. Keys go on working.
    ///
    /// # Errors
    /// As for [`revoke_jwt`](Self::revoke_jwt).
    pub async fn revoke_jwts_of(&self, proof: &AdminProof, user: &UserId) -> Result<(), TokenError> {
        let change = self.ask(self.inner().store.revoke_jwts_of(user, self.lookup.now()));
        self.deny(proof, EventKind::JwtsRevoked, Some(user), change).await
    }

    /// Refuses all keys, JWTs and static tokens of `user` until they are [restored](Self::restore). When this
    /// returns, this process accepts none. Another process that is not told of changes by the store, and does
    /// not [run](Self::run) the background work, may accept their keys for twice the staleness bound.
    ///
    /// JWTs and static tokens are those whose authenticators stand beside the keys in an
    /// [`AnyOf`](crate::auth::AnyOf), or were told to ask this manager.
    ///
    /// # Errors
    /// As for [`revoke_jwt`](Self::revoke_jwt).
    pub async fn suspend(&self, proof: &AdminProof, user: &UserId) -> Result<(), TokenError> {
        let state = UserState::new(user.clone(), UserStatus::Suspended);
        let change = self.ask(self.inner().store.set_user_state(&state));
        self.deny(proof, EventKind::UserSuspended, Some(user), change).await
    }

    /// Lets `user` in again. What was revoked stays revoked; static tokens work again, since only their list
    /// can end them.
    ///
    /// # Errors
    /// As for [`revoke_jwt`](Self::revoke_jwt).
    pub async fn restore(&self, proof: &AdminProof, user: &UserId) -> Result<(), TokenError> {
        let state = UserState::new(user.clone(), UserStatus::Active);
        let change = self.ask(self.inner().store.set_user_state(&state));
        self.deny(proof, EventKind::UserRestored, Some(user), change).await
    }

    /// Ends all keys and all JWTs of `user`; says how many keys worked before. They get no new keys, and
    /// later JWTs are refused as well. So are static tokens: take them off their list, for the day on which
    /// the user is [restored](Self::restore).
    ///
    /// # Errors
    /// As for [`revoke_jwt`](Self::revoke_jwt).
    pub async fn offboard(&self, proof: &AdminProof, user: &UserId) -> Result<u64, TokenError> {
        let report = self.report(Actor::Admin(proof), EventKind::UserOffboarded(0), None);
        let change = self.ask(self.inner().store.offboard(user, self.lookup.now()));
        let result =
            self.within(self.try_deny(proof, Some(user), change)).await.map(|keys| keys.len() as u64);
        let kind = result.as_ref().map_or_else(failure, |count| EventKind::UserOffboarded(*count));
        report.done(kind, Some(user), None);
        result
    }

    /// What the store says of `user` now.
    ///
    /// # Errors
    /// [`TokenError::Store`].
    pub async fn user_state(&self, proof: &AdminProof, user: &UserId) -> Result<UserState, TokenError> {
        self.within(async { self.inner().reload_denials().await.map_err(TokenError::Store) }).await?;
        self.report_read(Actor::Admin(proof), EventKind::UserRead, Some(user), None);
        Ok(self.inner().known_state(user))
    }

    async fn deny(
        &self,
        proof: &AdminProof,
        kind: EventKind,
        user: Option<&UserId>,
        change: impl Future<Output = Result<(), TokenError>>,
    ) -> Result<(), TokenError> {
        let report = self.report(Actor::Admin(proof), kind, None);
        let result = self.within(self.try_deny(proof, user, change)).await;
        report.done(result.as_ref().map_or_else(failure, |()| kind), user, None);
        result
    }

    /// Has the store deny something, and this process know it, unless the administrator was let in and may do
    /// nothing any more. The cache forgets the user's keys last, so that none that was judged without this knowledge
    /// is kept.
    async fn try_deny<T>(
        &self,
        proof: &AdminProof,
        user: Option<&UserId>,
        change: impl Future<Output = Result<T, TokenError>>,
    ) -> Result<T, TokenError> {
        if user.is_some_and(|user| user.as_str() == EMERGENCY_USER) {
            return Err(TokenError::Invalid(
                "the user of the emergency key has no state; take its hash out of the configuration",
            ));
        }
        self.require_own_standing(Actor::Admin(proof)).await?;
        let _alone = self.issuing.rights.write().await;
        self.require_living(Actor::Admin(proof)).await?;
        let _forget = user.map(|user| Forget { inner: self.inner(), what: What::Owner(user) });
        let mut outdate = Outdate { inner: self.inner(), known: false };
        let done = change.await?;
        self.inner().reload_denials().await.map_err(TokenError::Store)?;
        outdate.known = true;
        Ok(done)
    }
}

/// Has it loaded again what is denied if a change failed or was given up: the store may have made it.
struct Outdate<'a> {
    inner: &'a Inner,
    known: bool,
}

impl Drop for Outdate<'_> {
    fn drop(&mut self) {
        if !self.known {
            self.inner.denied.outdate();
        }
    }
}
