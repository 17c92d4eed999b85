//! New users, who come in by themselves.

use std::net::IpAddr;

use crate::{
    error::Refusal,
    event::{Event, EventKind},
    id::{PUBLIC, UserId},
    manage::{Actor, IssuedToken, NewToken, TokenError, TokenManager, report::failure},
    principal::AdminProof,
    store::{StoreError, StoreErrorKind},
    time::UnixTime,
};

impl TokenManager {
    /// Lets `user` in, who must be new: stores them along with their first token, both or neither.
    ///
    /// New is who never had a token here, whatever became of it, and no state. Who has a role already (see
    /// [`with_roles`](super::TokenManagerBuilder::with_roles)) is not new either, and ids that begin with
    /// `keyward:`, `static:` or `public:` are not to be had. This knows nothing of users who only have static
    /// tokens or JWTs: refuse their ids before.
    ///
    /// Beside a [user directory](super::TokenManagerBuilder::with_user_directory) nobody is new: whom it knows is
    /// somebody already, whom it does not know can do nothing. So nobody registers there, and the answer does not
    /// tell the one from the other. Have an administrator make the first tokens of its users, or let JWTs do so.
    ///
    /// ```
    /// use keyward::{TokenManager, UserId, manage::{NewToken, TokenError}, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tokens = TokenManager::new(MemoryStore::new());
    /// let alice = UserId::new("alice")?;
    /// let first = tokens.register(&alice, NewToken::named("first key")).await?;
    /// tokens.revoke(&alice, first.record.id).await?;
    /// let again = tokens.register(&alice, NewToken::named("mine now")).await;
    /// assert!(matches!(again, Err(TokenError::UserExists)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TokenError::UserExists`], [`TokenError::Invalid`], or [`TokenError::Store`], also when the store cannot
    /// register anybody.
    pub async fn register(&self, user: &UserId, new: NewToken) -> Result<IssuedToken, TokenError> {
        let has_roles = || self.inner().roles.as_ref().is_some_and(|roles| !roles.roles_of(user).is_empty());
        let is_somebodys = user.is_reserved() || self.inner().directory.is_some() || has_roles();
        let taken = if is_somebodys { Err(TokenError::UserExists) } else { Ok(()) };
        if let Err(error) = taken.and_then(|()| self.check_texts(user, &new)) {
            // The id is the client's text and may be anything, so it is not repeated.
            self.refuse_newcomer(error.refusal().unwrap_or(Refusal::InvalidValue), new.created_ip);
            return Err(error);
        }
        self.let_in(Actor::User(user), user, new).await
    }

    /// Stores the first token of `user` on behalf of an operator, where nobody is there yet who could ask for one.
    /// Unlike in [`register`](Self::register) the id may be one of keyward's own, and may have a role. It is done once:
    /// never again for a user who had a token, whatever became of it, or has a state. So a store that is emptied by
    /// [`cleanup`](Self::cleanup), or an operator who is suspended, brings no second one.
    ///
    /// ```
    /// use keyward::{AdminProof, TokenManager, UserId, manage::{NewToken, TokenError}, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tokens = TokenManager::new(MemoryStore::new());
    /// let (operator, admin) = (AdminProof::operator("deploy", "first start")?, UserId::new("keyward:admin")?);
    /// let issued = tokens.bootstrap(&operator, &admin, NewToken::named("first admin key")).await?;
    /// println!("shown once: {}", issued.key.expose());
    /// let again = tokens.bootstrap(&operator, &admin, NewToken::named("second")).await;
    /// assert!(matches!(again, Err(TokenError::UserExists)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn bootstrap(
        &self,
        proof: &AdminProof,
        user: &UserId,
        new: NewToken,
    ) -> Result<IssuedToken, TokenError> {
        self.let_in(Actor::Admin(proof), user, new).await
    }

    /// Lets in a user of whom nothing is known: under an id of its own, `public:` and a random UUID.
    ///
    /// # Errors
    /// As for [`register`](Self::register).
    pub async fn register_anybody(&self, new: NewToken) -> Result<IssuedToken, TokenError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| TokenError::Store(StoreError::new(StoreErrorKind::Unavailable, error)))?;
        let id = uuid::Builder::from_random_bytes(random).into_uuid();
        let user = UserId::from_valid(format!("{PUBLIC}{id}"));
        self.let_in(Actor::User(&user), &user, new).await
    }

    async fn let_in(
        &self,
        actor: Actor<'_>,
        user: &UserId,
        new: NewToken,
    ) -> Result<IssuedToken, TokenError> {
        // Who asks for themselves is nobody until they are let in, and least of all whom the id belongs to already.
        let nobody = AdminProof::internal("registration");
        let by_themselves = matches!(actor, Actor::User(_));
        let kind = EventKind::UserRegistered;
        let reported = if by_themselves { Actor::Admin(&nobody) } else { actor };
        let mut report = self.report(reported, kind, None);
        report.client_ip = new.created_ip.or(report.client_ip);
        let result = self.within(self.try_let_in(actor, user, new)).await;
        match &result {
            Ok(issued) => {
                report.actor = actor;
                report.done(kind, Some(user), Some(issued.record.id));
            }
            Err(error) if by_themselves => {
                report.done = true;
                self.report_newcomer(failure(error), report.client_ip);
            }
            Err(error) => report.done(failure(error), Some(user), None),
        }
        result
    }

    async fn try_let_in(
        &self,
        actor: Actor<'_>,
        user: &UserId,
        new: NewToken,
    ) -> Result<IssuedToken, TokenError> {
        self.check_texts(user, &new)?;
        self.require_standing(user).await?;
        let _handing_out = self.issuing.rights.read().await;
        let (key, record) = self.draft(actor, user, new)?;
        self.ask(self.inner().store.register(&record)).await?;
        self.inner().invalidate(&record.digest);
        Ok(IssuedToken { key, record })
    }

    /// Reports somebody who was not let in.
    pub(crate) fn refuse_newcomer(&self, reason: Refusal, ip: Option<IpAddr>) {
        self.report_newcomer(EventKind::OperationRefused(reason), ip);
    }

    fn report_newcomer(&self, kind: EventKind, ip: Option<IpAddr>) {
        self.inner().audit.emit(Event::new(kind).at_ip(ip).because(EventKind::UserRegistered.name()));
    }

    /// The time by this manager's clock.
    #[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the module `api` asks"))]
    pub(crate) fn now(&self) -> UnixTime {
        self.lookup.now()
    }
}
