//! The whole life of a key: [`TokenManager`].

use std::{pin::pin, sync::Arc, sync::atomic::Ordering, time::Duration};

use crate::{
    event::{Alert, Audit, Event, EventKind},
    id::{TokenId, TokenIds, UserId},
    principal::{AdminProof, effective_roles},
    scope::{Grant, RoleSet},
    secret::TokenDigest,
    store::{
        Change, Owner, Page, Rotation, StoreError, StoreErrorKind, TokenLookup, TokenStore,
        lookup::{Inner, USAGE_INTERVAL, verify_owner},
    },
    time::UnixTime,
    token::{Metadata, RequestClass, TokenRecord, TokenStatus, decide, hard_end},
};

mod builder;
mod request;
mod rights;

pub use builder::TokenManagerBuilder;
pub use request::{Actor, IssuedToken, ListQuery, NewToken, TokenError, TokenPage, TokenUpdate};
use request::{check_metadata, check_name};
use rights::Rights;

/// How long an operation waits for the store at most.
const STORE_TIMEOUT: Duration = Duration::from_millis(4500);

/// How often an operation starts anew because somebody else changed the token at the same time.
const ATTEMPTS: usize = 4;

/// Issues, lists, changes, rotates and revokes tokens. Cloning shares it.
///
/// Every operation names an [`Actor`]: what is not within their reach does not exist for them, and an
/// attempt to reach it raises an alert. What a store returns is checked once more before it is returned.
///
/// ```
/// use keyward::{TokenManager, UserId, manage::{ListQuery, NewToken, TokenError}, store::MemoryStore};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = TokenManager::new(MemoryStore::new());
/// let (alice, bob) = (UserId::new("alice")?, UserId::new("bob")?);
///
/// let issued = tokens.create(&alice, NewToken::named("laptop")).await?;
/// println!("shown once: {}", issued.key.expose());
///
/// assert_eq!(tokens.list(&alice, ListQuery::default()).await?.tokens.len(), 1);
/// assert!(tokens.list(&bob, ListQuery::default()).await?.tokens.is_empty());
/// assert!(matches!(tokens.revoke(&bob, issued.record.id).await, Err(TokenError::NotFound)));
/// tokens.revoke(&alice, issued.record.id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TokenManager {
    lookup: TokenLookup,
    issuing: Arc<Issuing>,
}

#[derive(Debug)]
struct Issuing {
    ids: TokenIds,
    max_active: Option<u32>,
    /// Shared by what hands out rights, taken alone by what takes them away: so a key that is revoked while
    /// it makes another one is either still good or already refused.
    rights: tokio::sync::RwLock<()>,
    /// When the store was last asked for its health, and what it said.
    health: tokio::sync::Mutex<Option<(UnixTime, Result<(), TokenError>)>>,
}

impl From<&TokenManager> for TokenLookup {
    fn from(manager: &TokenManager) -> Self {
        manager.lookup.clone()
    }
}

impl TokenManager {
    /// A manager of the tokens in `store` with the default settings; see [`TokenManagerBuilder`].
    #[must_use]
    pub fn new(store: impl TokenStore) -> Self {
        Self::builder(store).build()
    }

    /// A manager with settings of your own.
    pub fn builder(store: impl TokenStore) -> TokenManagerBuilder {
        TokenManagerBuilder::new(store)
    }

    fn from_parts(lookup: TokenLookup, issuing: Issuing) -> Self {
        Self { lookup, issuing: Arc::new(issuing) }
    }

    fn inner(&self) -> &Inner {
        self.lookup.inner()
    }

    /// Issues a token. The key is in the answer and nowhere else.
    ///
    /// A token made through an API key ends no later than that key itself.
    ///
    /// # Errors
    /// [`TokenError::Invalid`], [`TokenError::BeyondOwnRights`], [`TokenError::LimitReached`] or
    /// [`TokenError::Store`].
    pub async fn create<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        new: NewToken,
    ) -> Result<IssuedToken, TokenError> {
        let actor = actor.into();
        let report = self.report(actor, None);
        let result = self.within(self.try_create(actor, new)).await;
        match &result {
            Ok(issued) => {
                report.done(EventKind::TokenCreated, Some(&issued.record.owner), Some(issued.record.id));
            }
            Err(error) => report.done(failure(error), None, None),
        }
        result
    }

    async fn try_create(&self, actor: Actor<'_>, new: NewToken) -> Result<IssuedToken, TokenError> {
        check_name(&new.name)?;
        check_metadata(&new.metadata)?;
        let owner = new.owner.as_ref().unwrap_or_else(|| actor.user());
        let texts = [&*new.name, owner.as_str()];
        self.refuse_keys(texts.into_iter(), &new.metadata)?;
        if !actor.scope().includes(owner) {
            return Err(TokenError::BeyondOwnRights);
        }
        let _handing_out = self.issuing.rights.read().await;
        self.require_living(actor).await?;
        let (key, mut record) = self.fresh(owner)?;
        self.set_rights(actor, &new, &mut record)?;
        self.set_lifetime(actor, &new, &mut record)?;
        record.name = new.name;
        record.metadata = new.metadata;
        record.created_ip = new.created_ip.or_else(|| actor.client_ip());
        record.created_by = actor.presented().and_then(crate::Principal::token_id);
        let limit = new.max_active.or(self.issuing.max_active);
        self.ask(self.inner().store.insert(&record, limit)).await?;
        self.inner().invalidate(&record.digest);
        Ok(IssuedToken { key, record })
    }

    /// Refuses a key in a place where it would be stored and shown in clear.
    fn refuse_keys<'a>(
        &self,
        texts: impl Iterator<Item = &'a str>,
        metadata: &Metadata,
    ) -> Result<(), TokenError> {
        let format = &self.inner().format;
        let mut texts = texts;
        let in_metadata = || serde_json::to_string(metadata).is_ok_and(|text| format.finds_key(&text));
        if texts.any(|text| format.finds_key(text)) || in_metadata() {
            return Err(TokenError::Invalid("an API key must not stand in a name, a user id or metadata"));
        }
        Ok(())
    }

    /// Asks the store once more for the token that was presented: a request may have taken its time, and
    /// what it was let in with may be revoked or changed by now.
    async fn require_living(&self, actor: Actor<'_>) -> Result<(), TokenError> {
        let Some((principal, id)) =
            actor.presented().and_then(|presented| Some((presented, presented.token_id()?)))
        else {
            return Ok(());
        };
        let owner = Owner::User(principal.user_id());
        let record = self.ask(self.inner().store.get(owner, id)).await?.ok_or(TokenError::CredentialDied)?;
        let policy = self.inner().lifetimes.policy(record.class);
        let decision = decide(&record, policy, self.lookup.now(), RequestClass::Unsafe);
        if decision.access().is_err() || record.id != id || !owner.includes(&record.owner) {
            return Err(TokenError::CredentialDied);
        }
        if record.revision as u32 == principal.credential().revision {
            Ok(())
        } else {
            Err(TokenError::Conflict)
        }
    }

    /// A new key and the bare record for it.
    fn fresh(&self, owner: &UserId) -> Result<(crate::ApiKey, TokenRecord), TokenError> {
        let no_randomness = |error| TokenError::Store(StoreError::new(StoreErrorKind::Unavailable, error));
        let now = self.lookup.now();
        let key = self.inner().format.generate().map_err(no_randomness)?;
        let id = self.issuing.ids.next(now).map_err(no_randomness)?;
        let digest = self.lookup.digest(key.expose().as_bytes());
        let mut record = TokenRecord::new(id, digest, owner.clone(), now);
        record.hint = key.hint();
        Ok((key, record))
    }

    fn set_rights(
        &self,
        actor: Actor<'_>,
        new: &NewToken,
        record: &mut TokenRecord,
    ) -> Result<(), TokenError> {
        let limited = actor.presented().filter(|principal| !principal.credential().all_roles);
        record.class = new.class;
        record.scopes = new.scopes.clone();
        record.allowed_ips = new.allowed_ips.clone();
        record.roles = match (&new.roles, limited) {
            (Some(roles), _) => roles.clone(),
            (None, Some(principal)) => Grant::Only(principal.roles().clone()),
            (None, None) => Grant::All,
        };
        self.require_rights(actor, record)
    }

    /// Refuses a token with more rights than the presented credential has.
    fn require_rights(&self, actor: Actor<'_>, record: &TokenRecord) -> Result<(), TokenError> {
        let Some(presented) = actor.presented() else { return Ok(()) };
        let roles = effective_roles(self.inner().roles.as_deref(), &record.owner, &record.roles);
        let rights = Rights {
            scopes: &record.scopes,
            roles: &roles,
            all_roles: record.roles == Grant::<RoleSet>::All,
            allowed_ips: record.allowed_ips.as_ref(),
        };
        if rights::covers(presented, &rights) { Ok(()) } else { Err(TokenError::BeyondOwnRights) }
    }

    fn set_lifetime(
        &self,
        actor: Actor<'_>,
        new: &NewToken,
        record: &mut TokenRecord,
    ) -> Result<(), TokenError> {
        let policy = self.inner().lifetimes.policy(new.class);
        let latest = rights::latest_end(actor.presented());
        record.hard_end = Some(latest).filter(|end| *end < UnixTime::MAX);
        let now = record.created_at;
        match new.lifetime {
            Some(lifetime) if lifetime < Duration::from_millis(1) => {
                return Err(TokenError::Invalid("a lifetime is at least one millisecond"));
            }
            Some(lifetime) if policy.maximum().is_some_and(|maximum| lifetime > maximum) => {
                return Err(TokenError::Invalid("the lifetime is longer than the policy's maximum"));
            }
            Some(lifetime) if now.saturating_add(lifetime) > latest => {
                return Err(TokenError::BeyondOwnRights);
            }
            Some(lifetime) => record.expires_at = Some(now.saturating_add(lifetime)),
            None => {
                let default =
                    policy.lifetime().map_or(UnixTime::MAX, |lifetime| now.saturating_add(lifetime));
                let end = default.min(hard_end(record, policy));
                record.expires_at = Some(end).filter(|end| *end < UnixTime::MAX);
                record.rolling = policy.lifetime().is_some();
            }
        }
        Ok(())
    }

    /// One token's record.
    ///
    /// # Errors
    /// [`TokenError::NotFound`], with an alert if it is somebody else's, or [`TokenError::Store`].
    pub async fn get<'a>(&self, actor: impl Into<Actor<'a>>, id: TokenId) -> Result<TokenRecord, TokenError> {
        let actor = actor.into();
        let mut record = self.within(self.reach(actor, id)).await?;
        self.inner().add_unwritten_use(&mut record);
        self.report_read(actor, EventKind::TokenRead, Some(&record.owner), Some(id));
        Ok(record)
    }

    /// The record, or the alert and the error that its absence means.
    async fn reach(&self, actor: Actor<'_>, id: TokenId) -> Result<TokenRecord, TokenError> {
        self.inner().write_unattended_usage().await;
        let record = self.ask(self.inner().store.get(actor.scope(), id)).await?;
        match record.and_then(|record| verify_owner(&self.inner().audit, actor.scope(), record)) {
            Some(record) if record.id == id => Ok(record),
            _ => Err(self.missing(actor, id).await),
        }
    }

    /// Raises an alert if the token that `actor` could not reach belongs to somebody else.
    async fn missing(&self, actor: Actor<'_>, id: TokenId) -> TokenError {
        let proof = AdminProof::internal("tell a foreign token from an absent one");
        match self.ask(self.inner().store.get(Owner::Any(&proof), id)).await {
            Ok(Some(record)) if !actor.scope().includes(&record.owner) => {
                let kind = EventKind::Alert(Alert::ForeignAccess);
                self.inner().audit.emit(event(actor, kind, Some(&record.owner), Some(id)).because("token"));
                TokenError::NotFound
            }
            Ok(_) => TokenError::NotFound,
            Err(error) => error,
        }
    }

    /// The actor's tokens, newest first.
    ///
    /// # Errors
    /// [`TokenError::Store`].
    pub async fn list<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        query: ListQuery,
    ) -> Result<TokenPage, TokenError> {
        let actor = actor.into();
        let empty = TokenPage { tokens: Vec::new(), next_cursor: None };
        let scope = match (&query.owner, actor.scope()) {
            (Some(owner), scope) if !scope.includes(owner) => return Ok(empty),
            (Some(owner), _) => Owner::User(owner),
            (None, scope) => scope,
        };
        let page = self.within(self.list_pages(scope, &query)).await?;
        self.report_read(actor, EventKind::TokensListed, scope.user(), None);
        Ok(page)
    }

    /// Reads on until the page is full or the store has no more; after a bound the page stays short.
    async fn list_pages(&self, scope: Owner<'_>, query: &ListQuery) -> Result<TokenPage, TokenError> {
        self.inner().write_unattended_usage().await;
        let wanted = query.limit as usize;
        let step = if query.status.is_some() { ListQuery::MAX_LIMIT } else { query.limit };
        let mut page = TokenPage { tokens: Vec::new(), next_cursor: query.cursor };
        for _ in 0..10 {
            let part = Page { before: page.next_cursor, limit: step };
            let records = self.ask(self.inner().store.list(scope, part)).await?;
            let ended = (records.len() as u64) < u64::from(step);
            for record in records {
                page.next_cursor = Some(record.id);
                let Some(mut record) = verify_owner(&self.inner().audit, scope, record) else { continue };
                self.inner().add_unwritten_use(&mut record);
                if query.status.is_none_or(|status| status == self.status(&record)) {
                    page.tokens.push(record);
                }
                if page.tokens.len() == wanted {
                    return Ok(page);
                }
            }
            if ended {
                page.next_cursor = None;
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// What to call the state of `record` now.
    #[must_use]
    pub fn status(&self, record: &TokenRecord) -> TokenStatus {
        record.status(self.inner().lifetimes.policy(record.class), self.lookup.now())
    }

    /// How many of the actor's tokens are not revoked.
    ///
    /// # Errors
    /// [`TokenError::Store`].
    pub async fn count<'a>(&self, actor: impl Into<Actor<'a>>) -> Result<u64, TokenError> {
        let actor = actor.into();
        let count = self.within(self.ask(self.inner().store.count(actor.scope()))).await?;
        self.report_read(actor, EventKind::TokensListed, actor.scope().user(), None);
        Ok(count)
    }

    /// Changes a token.
    ///
    /// # Errors
    /// [`TokenError::NotFound`], [`TokenError::Invalid`], [`TokenError::BeyondOwnRights`] when the token
    /// has or would have more rights than the presented credential, [`TokenError::Conflict`] or
    /// [`TokenError::Store`].
    pub async fn update<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        id: TokenId,
        update: TokenUpdate,
    ) -> Result<TokenRecord, TokenError> {
        let actor = actor.into();
        let kind = match update.enabled {
            Some(false) => EventKind::TokenDisabled,
            Some(true) if update.only_enables() => EventKind::TokenEnabled,
            _ => EventKind::TokenUpdated,
        };
        let report = self.report(actor, Some(id));
        let result = self.within(self.try_update(actor, id, &update)).await;
        let owner = result.as_ref().ok().map(|record| &record.owner);
        report.done(result.as_ref().map_or_else(failure, |_| kind), owner, Some(id));
        result
    }

    async fn try_update(
        &self,
        actor: Actor<'_>,
        id: TokenId,
        update: &TokenUpdate,
    ) -> Result<TokenRecord, TokenError> {
        update.name.as_deref().map_or(Ok(()), check_name)?;
        update.metadata.as_ref().map_or(Ok(()), check_metadata)?;
        let metadata = update.metadata.clone().unwrap_or_default();
        self.refuse_keys(update.name.as_deref().into_iter(), &metadata)?;
        let _alone = self.issuing.rights.write().await;
        self.require_living(actor).await?;
        for _ in 0..ATTEMPTS {
            let record = self.reach(actor, id).await?;
            let disabled_at = update.enabled.map(|enabled| (!enabled).then(|| self.lookup.now()));
            let change = Change {
                name: update.name.clone(),
                scopes: update.scopes.clone(),
                allowed_ips: update.allowed_ips.clone(),
                metadata: update.metadata.clone(),
                disabled_at,
                revoked_at: None,
                if_revision: Some(record.revision),
            };
            self.require_update_rights(actor, &record, update, &change)?;
            match self.change(actor, &record, &change).await {
                Err(TokenError::Conflict) => {}
                result => return result,
            }
        }
        Err(TokenError::Conflict)
    }

    fn require_update_rights(
        &self,
        actor: Actor<'_>,
        record: &TokenRecord,
        update: &TokenUpdate,
        change: &Change,
    ) -> Result<(), TokenError> {
        if update.only_disables() {
            return Ok(());
        }
        let mut changed = record.clone();
        change.apply(&mut changed).map_err(TokenError::Store)?;
        self.require_rights(actor, record)?;
        self.require_rights(actor, &changed)?;
        let hard_end = hard_end(record, self.inner().lifetimes.policy(record.class));
        let end =
            if record.rolling { hard_end } else { hard_end.min(record.expires_at.unwrap_or(UnixTime::MAX)) };
        if update.changes_rights() && end > rights::latest_end(actor.presented()) {
            return Err(TokenError::BeyondOwnRights);
        }
        Ok(())
    }

    /// Changes the stored record and makes the cache forget it before it returns, whatever happens.
    async fn change(
        &self,
        actor: Actor<'_>,
        old: &TokenRecord,
        change: &Change,
    ) -> Result<TokenRecord, TokenError> {
        let _forget = Forget { inner: self.inner(), what: What::Tokens([Some(old.digest), None]) };
        let changed = self.ask(self.inner().store.update(actor.scope(), old.id, change)).await?;
        match changed.and_then(|record| verify_owner(&self.inner().audit, actor.scope(), record)) {
            Some(record) if record.id == old.id => Ok(record),
            _ => Err(self.missing(actor, old.id).await),
        }
    }

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
        let report = self.report(actor, Some(id));
        let result = self.within(self.try_rotate(actor, id, overlap)).await;
        let owner = result.as_ref().ok().map(|issued| &issued.record.owner);
        report.done(result.as_ref().map_or_else(failure, |_| EventKind::TokenRotated), owner, Some(id));
        result
    }

    async fn try_rotate(
        &self,
        actor: Actor<'_>,
        id: TokenId,
        overlap: Duration,
    ) -> Result<IssuedToken, TokenError> {
        let _handing_out = self.issuing.rights.read().await;
        self.require_living(actor).await?;
        let old = self.reach(actor, id).await?;
        self.require_rights(actor, &old)?;
        if self.status(&old) != TokenStatus::Active {
            return Err(TokenError::Conflict);
        }
        if !overlap.is_zero() {
            self.require_room(&old.owner).await?;
        }
        let (key, successor) = self.successor(actor, &old)?;
        let forget = What::Tokens([Some(old.digest), Some(successor.digest)]);
        let _forget = Forget { inner: self.inner(), what: forget };
        let old_end = self.lookup.now().saturating_add(overlap);
        let rotation = Rotation::new(successor, old_end, old.revision);
        let replaced = self.ask(self.inner().store.rotate(actor.scope(), id, &rotation)).await?;
        match replaced.and_then(|record| verify_owner(&self.inner().audit, actor.scope(), record)) {
            Some(record) if record.id == id => Ok(IssuedToken { key, record: rotation.successor }),
            _ => Err(self.missing(actor, id).await),
        }
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
        successor.created_ip = actor.client_ip();
        successor.created_by = actor.presented().and_then(crate::Principal::token_id);
        self.set_successor_lifetime(actor, old, &mut successor);
        Ok((key, successor))
    }

    /// Rotation may go beyond the limit of active tokens, since overlaps end by themselves, but not beyond
    /// twice the limit.
    async fn require_room(&self, owner: &UserId) -> Result<(), TokenError> {
        let Some(limit) = self.issuing.max_active else { return Ok(()) };
        let most = limit.saturating_mul(2);
        let newest = self.ask(self.inner().store.list(Owner::User(owner), Page::first(most))).await?;
        let now = self.lookup.now();
        let working = newest.iter().filter(|record| record.counts_as_active(now)).count();
        if working < most as usize { Ok(()) } else { Err(TokenError::LimitReached) }
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

    /// Ends a token for ever. When this returns, no request that starts in this process is accepted
    /// with it any more. Revoking what is revoked already succeeds.
    ///
    /// # Errors
    /// [`TokenError::NotFound`], with an alert if it is somebody else's, or [`TokenError::Store`]: then
    /// assume that the token still works, and try again.
    pub async fn revoke<'a>(
        &self,
        actor: impl Into<Actor<'a>>,
        id: TokenId,
    ) -> Result<TokenRecord, TokenError> {
        let actor = actor.into();
        let report = self.report(actor, Some(id));
        let result = self.within(self.try_revoke(actor, id)).await;
        let owner = result.as_ref().ok().map(|record| &record.owner);
        report.done(result.as_ref().map_or_else(failure, |_| EventKind::TokenRevoked), owner, Some(id));
        result
    }

    async fn try_revoke(&self, actor: Actor<'_>, id: TokenId) -> Result<TokenRecord, TokenError> {
        let _alone = self.issuing.rights.write().await;
        let old = self.reach(actor, id).await?;
        self.change(actor, &old, &Change::revoke(self.lookup.now())).await
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
    /// [`TokenError::Store`].
    pub async fn revoke_all_of(&self, proof: &AdminProof, user: &UserId) -> Result<u64, TokenError> {
        self.revoke_all_tokens(Actor::Admin(proof), user).await
    }

    async fn revoke_all_tokens(&self, actor: Actor<'_>, owner: &UserId) -> Result<u64, TokenError> {
        let report = self.report(actor, None);
        let result = self.within(self.try_revoke_all(owner)).await;
        let kind = result.as_ref().map_or_else(failure, |count| EventKind::TokensRevoked(*count));
        report.done(kind, Some(owner), None);
        result
    }

    async fn try_revoke_all(&self, owner: &UserId) -> Result<u64, TokenError> {
        let _alone = self.issuing.rights.write().await;
        let _forget = Forget { inner: self.inner(), what: What::Owner(owner) };
        let digests = self.ask(self.inner().store.revoke_all(owner, self.lookup.now())).await?;
        // Also what was never cached here: a load may be on its way.
        digests.iter().for_each(|digest| self.inner().invalidate(digest));
        Ok(digests.len() as u64)
    }

    /// Whether the store answers and can be written. It is asked once a second at most, whoever wants to
    /// know.
    ///
    /// # Errors
    /// [`TokenError::Store`].
    pub async fn health(&self) -> Result<(), TokenError> {
        let mut last = self.issuing.health.lock().await;
        let now = self.lookup.now();
        if let Some((at, verdict)) = &*last
            && *at <= now
            && now < at.saturating_add(Duration::from_secs(1))
        {
            return verdict.clone();
        }
        let verdict = self.within(self.ask(self.inner().store.health())).await;
        *last = Some((self.lookup.now(), verdict.clone()));
        verdict
    }

    /// Where this manager's events go, for authenticators that report to the same place.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.inner().audit.clone()
    }

    /// Writes what was counted of the use of keys and not written yet.
    ///
    /// # Errors
    /// [`TokenError::Store`]; what could not be written is kept.
    pub async fn flush(&self) -> Result<(), TokenError> {
        self.inner().write_usage().await.map_err(TokenError::Store)
    }

    /// The background work, until `shutdown` is done: writes the use of keys once a second and follows
    /// what other processes change. It writes once more at the end, so await it.
    ///
    /// ```no_run
    /// # async fn example(tokens: keyward::TokenManager) {
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// let work = tokio::spawn(tokens.clone().run(async { drop(stopped.await) }));
    /// // serve …
    /// drop(stop);
    /// let _ = work.await;
    /// # }
    /// ```
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let inner = self.inner();
        let _attended = Attended::new(inner);
        let mut shutdown = pin!(shutdown);
        let writing = async {
            loop {
                tokio::select! {
                    () = &mut shutdown => return,
                    () = tokio::time::sleep(USAGE_INTERVAL) => {}
                }
                // A failure has raised its alert, and the uses wait for the next time.
                let _ = self.within(self.ask(inner.write_usage())).await;
            }
        };
        tokio::select! {
            () = writing => {}
            () = self.follow_changes() => {}
        }
        inner.invalidate_all();
        let _ = self.within(self.ask(inner.write_usage())).await;
    }

    /// Makes the cache forget what others changed. Never returns.
    async fn follow_changes(&self) {
        let mut cursor = None;
        loop {
            match self.inner().store.changes(cursor).await {
                Ok(changes) => {
                    cursor = Some(changes.cursor);
                    match changes.digests {
                        Some(digests) => digests.iter().for_each(|digest| self.inner().invalidate(digest)),
                        None => self.inner().invalidate_all(),
                    }
                }
                Err(error) => {
                    let _ = self.inner().watch::<()>(Err(error));
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
            }
        }
    }

    /// Waits for an operation, but not for ever.
    async fn within<T>(
        &self,
        operation: impl Future<Output = Result<T, TokenError>>,
    ) -> Result<T, TokenError> {
        let done = tokio::time::timeout(STORE_TIMEOUT, operation).await;
        done.unwrap_or_else(|_| Err(TokenError::Store(self.inner().timed_out())))
    }

    /// Asks the store, and watches whether it answers.
    async fn ask<T>(&self, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, TokenError> {
        self.inner().watch(answer.await).map_err(|error| match error.kind() {
            StoreErrorKind::Conflict => TokenError::Conflict,
            StoreErrorKind::LimitReached => TokenError::LimitReached,
            _ => TokenError::Store(error),
        })
    }

    /// The report of an operation that begins now. It is sent even if the operation is given up.
    fn report<'a>(&'a self, actor: Actor<'a>, token: Option<TokenId>) -> Report<'a> {
        Report { manager: self, actor, token, done: false }
    }

    fn report_read(&self, actor: Actor<'_>, kind: EventKind, owner: Option<&UserId>, token: Option<TokenId>) {
        self.report(actor, token).done(kind, owner, token);
    }
}

/// The audit event of an operation. Dropped before it is done it says that nobody knows the outcome: the
/// client is gone, and the store may do what it was told.
struct Report<'a> {
    manager: &'a TokenManager,
    actor: Actor<'a>,
    token: Option<TokenId>,
    done: bool,
}

impl Report<'_> {
    fn done(mut self, kind: EventKind, owner: Option<&UserId>, token: Option<TokenId>) {
        self.done = true;
        let event = event(self.actor, kind, owner, token);
        self.manager.inner().audit.emit(match self.actor.reason() {
            Some(reason) => event.because(reason),
            None => event,
        });
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if !self.done {
            let event = event(self.actor, EventKind::OperationFailed, None, self.token);
            self.manager
                .inner()
                .audit
                .emit(event.because("given up by the caller; the outcome is not known"));
        }
    }
}

/// Says that somebody runs the background work, for as long as they do.
struct Attended<'a>(&'a Inner);

impl<'a> Attended<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.usage.attended.store(true, Ordering::Relaxed);
        Self(inner)
    }
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        self.0.usage.attended.store(false, Ordering::Relaxed);
    }
}

fn event(actor: Actor<'_>, kind: EventKind, owner: Option<&UserId>, token: Option<TokenId>) -> Event {
    let event = Event::new(kind).by(actor.user()).token(token).at_ip(actor.client_ip());
    match owner {
        Some(owner) => event.owned_by(owner),
        None => event,
    }
}

fn failure(error: &TokenError) -> EventKind {
    error.refusal().map_or(EventKind::OperationFailed, EventKind::OperationRefused)
}

/// Makes the cache forget what a change is about, when it is done as well as when it fails or is given up.
struct Forget<'a> {
    inner: &'a Inner,
    what: What<'a>,
}

enum What<'a> {
    Tokens([Option<TokenDigest>; 2]),
    Owner(&'a UserId),
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        match &self.what {
            What::Tokens(digests) => {
                digests.iter().flatten().for_each(|digest| self.inner.invalidate(digest))
            }
            What::Owner(owner) => self.inner.invalidate_owner(owner),
        }
    }
}
