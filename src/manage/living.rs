//! Whether whoever acts may still do so: a request may have taken its time since it was let in.

use std::time::Duration;

use crate::{
    id::{TokenId, UserId},
    manage::{Actor, TokenError, TokenManager},
    principal::{AuthMethod, Principal},
    store::{Owner, StoreError, StoreErrorKind, directory::Unheard},
    token::{RequestClass, decide},
};

/// How long after its end a JWT is still taken for one that has not ended, since clocks differ.
const LEEWAY: Duration = Duration::from_secs(60);

impl TokenManager {
    /// Asks the store once more for what was presented, and whose it is: a request may have taken its time, and what
    /// it was let in with may be revoked or changed by now, its user suspended. Returns the token and those that it
    /// ends with.
    ///
    /// The user directory must have been asked before, by [`require_own_standing`](Self::require_own_standing).
    pub(super) async fn require_living(&self, actor: Actor<'_>) -> Result<Vec<TokenId>, TokenError> {
        let Some(principal) = actor.presented() else { return Ok(Vec::new()) };
        self.require_unwithdrawn(actor, principal).await?;
        let Some(id) = principal.token_id() else { return Ok(Vec::new()) };
        let (owner, now) = (Owner::User(principal.user_id()), self.lookup.now());
        let record = self.ask(self.inner().store.get(owner, id)).await?.ok_or(TokenError::CredentialDied)?;
        let policy = self.inner().lifetimes.policy(record.class);
        let decision = decide(&record, policy, now, RequestClass::Unsafe);
        let lineage = self.inner().lineage(&record, now).await.map_err(TokenError::Store)?;
        let lives = decision.access().is_ok() && lineage.lives;
        if !lives || record.id != id || !owner.includes(&record.owner) {
            return Err(TokenError::CredentialDied);
        }
        if record.revision as u32 == principal.credential().revision {
            Ok([id].into_iter().chain(lineage.ancestors).collect())
        } else {
            Err(TokenError::Conflict)
        }
    }

    /// Refuses a user who was suspended or offboarded since, and a JWT that was revoked or has ended. The emergency
    /// key belongs to nobody whom the store could deny.
    async fn require_unwithdrawn(&self, actor: Actor<'_>, principal: &Principal) -> Result<(), TokenError> {
        if principal.method() == AuthMethod::Emergency {
            return Ok(());
        }
        let denials = match actor {
            // Another process may have suspended them a moment ago. When they act on themselves the store itself
            // looks at their state, and everybody can do that as often as they like, so it must not cost as much.
            Actor::Admin(_) => self.inner().reload_denials().await,
            _ => self.inner().know_denials().await,
        };
        denials.map_err(TokenError::Store)?;
        let jwt = principal.jwt();
        if jwt.is_some_and(|jwt| jwt.expires_at().saturating_add(LEEWAY) <= self.lookup.now()) {
            return Err(TokenError::CredentialDied);
        }
        let jwt = jwt.map(|jwt| (jwt.issuer(), jwt.jwt_id(), jwt.issued_at()));
        let withdrawn = self.inner().require_unwithdrawn(principal.user_id(), jwt);
        withdrawn.map_err(|_| TokenError::CredentialDied)
    }

    /// Refuses an actor whom the application's own source does not let in any more. That source may take its time,
    /// so it is asked while nothing is held for which a revocation would wait.
    pub(super) async fn require_own_standing(&self, actor: Actor<'_>) -> Result<(), TokenError> {
        let Some(principal) = actor.presented() else { return Ok(()) };
        self.require_standing(principal.user_id()).await.map_err(|error| match error {
            TokenError::OwnerInactive => TokenError::CredentialDied,
            error => error,
        })
    }

    /// What [`require_own_standing`](Self::require_own_standing) says of an administrator, for
    /// [`require_living_over_others`](Self::require_living_over_others); nobody else is asked about.
    pub(super) async fn standing_over_others(&self, actor: Actor<'_>) -> Result<(), TokenError> {
        match actor {
            Actor::Admin(_) => self.require_own_standing(actor).await,
            _ => Ok(()),
        }
    }

    /// Refuses to end what belongs to others for an administrator who was let in and may do nothing any more. Their
    /// own tokens everybody can end in any case: who has just done so with the very one that they present may well
    /// go on.
    pub(super) async fn require_living_over_others(
        &self,
        actor: Actor<'_>,
        standing: Result<(), TokenError>,
        is_own: bool,
    ) -> Result<(), TokenError> {
        if is_own || !matches!(actor, Actor::Admin(_)) {
            return Ok(());
        }
        standing?;
        self.require_living(actor).await.map(drop)
    }

    /// Refuses new tokens to a user whom the application's own source does not let in.
    pub(super) async fn require_standing(&self, owner: &UserId) -> Result<(), TokenError> {
        match self.inner().standing(owner).await {
            Ok(standing) if standing.active => Ok(()),
            Ok(_) => Err(TokenError::OwnerInactive),
            Err(Unheard) => Err(TokenError::Store(StoreError::new(
                StoreErrorKind::Unavailable,
                "the user directory does not answer",
            ))),
        }
    }
}
