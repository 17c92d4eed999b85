//! What the operations do, step by step.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    event::{Alert, EventKind},
    id::{TokenId, UserId},
    manage::{
        Actor, IssuedToken, NewToken, TokenError, TokenManager, TokenUpdate, WhenFull,
        report::event,
        request::{check_metadata, check_name},
        rights::{self, Rights},
    },
    principal::{AdminProof, AuthMethod, EMERGENCY_USER, effective_roles},
    scope::{Grant, RoleSet},
    secret::TokenDigest,
    store::{
        Change, Owner, Reach, Room, StoreError, StoreErrorKind,
        lineage::{Ancestors, MAX_ANCESTORS},
        lookup::{Inner, verify_owner},
    },
    time::UnixTime,
    token::{Metadata, TokenRecord, hard_end},
};

/// How often an operation starts anew because somebody else changed the token at the same time.
pub(super) const ATTEMPTS: usize = 4;

impl TokenManager {
    pub(super) async fn try_create(
        &self,
        actor: Actor<'_>,
        new: NewToken,
    ) -> Result<IssuedToken, TokenError> {
        let owner = new.owner.as_ref().unwrap_or_else(|| actor.user());
        self.check_texts(owner, &new)?;
        if !actor.scope().includes(owner) {
            return Err(TokenError::BeyondOwnRights);
        }
        check_trap(actor, &new)?;
        self.require_own_standing(actor).await?;
        self.require_standing(owner).await?;
        let limit = new.max_active;
        let (key, record) = self.draft(actor, &owner.clone(), new)?;
        self.keep_pace(actor)?;
        self.store_new(actor, &record, limit).await?;
        self.inner().invalidate(&record.digest);
        self.confirm(actor, IssuedToken { key, record }).await
    }

    pub(super) fn check_texts(&self, owner: &UserId, new: &NewToken) -> Result<(), TokenError> {
        check_name(&new.name)?;
        check_metadata(&new.metadata)?;
        self.refuse_keys([&*new.name, owner.as_str()], Some(&new.metadata))
    }

    /// Counts a token that a user makes; an administrator, and the program itself, may make any number.
    pub(super) fn keep_pace(&self, actor: Actor<'_>) -> Result<(), TokenError> {
        let (Actor::Principal(principal), Some(pace)) = (actor, &self.issuing.pace) else { return Ok(()) };
        let counted = pace.count(principal.user_id(), principal.client_ip(), self.lookup.now());
        counted.map_err(|retry_in| TokenError::TooFast { retry_in })
    }

    /// A key and the record of it, within what the actor may hand out.
    pub(super) fn draft(
        &self,
        actor: Actor<'_>,
        owner: &UserId,
        new: NewToken,
    ) -> Result<(crate::ApiKey, TokenRecord), TokenError> {
        let (key, mut record) = self.fresh(owner)?;
        self.set_rights(actor, &new, &mut record)?;
        if owner.as_str() == EMERGENCY_USER {
            return Err(TokenError::Invalid("`keyward:emergency` is the user of the emergency key alone"));
        }
        if new.honeytoken {
            record.honeytoken = true;
        } else {
            self.set_lifetime(actor, &new, &mut record)?;
        }
        record.parent = parent_of(actor, &new, owner)?;
        record.created_ip = new.created_ip.or_else(|| actor.client_ip());
        record.created_by = actor.presented().and_then(crate::Principal::token_id);
        (record.name, record.metadata) = (new.name, new.metadata);
        Ok((key, record))
    }

    /// Hands out a new token, unless another process has revoked the one that made it: who revokes everything that
    /// was made through a token finds the new one, or is found here.
    pub(super) async fn confirm(
        &self,
        actor: Actor<'_>,
        issued: IssuedToken,
    ) -> Result<IssuedToken, TokenError> {
        let presented =
            actor.presented().and_then(|principal| Some((principal.user_id(), principal.token_id()?)));
        let Some((user, id)) = presented else { return Ok(issued) };
        let maker = self.ask(self.inner().store.get(Owner::User(user), id)).await?;
        if maker.is_some_and(|maker| maker.revoked_at.is_none()) {
            return Ok(issued);
        }
        // Nobody will ever know its key, so it does not matter if this fails.
        let owner = Owner::User(&issued.record.owner);
        let now = self.lookup.now();
        let _ = self.inner().store.revoke(owner, issued.record.id, now, Reach::Children).await;
        Err(TokenError::CredentialDied)
    }

    async fn store_new(
        &self,
        actor: Actor<'_>,
        record: &TokenRecord,
        limit: Option<u32>,
    ) -> Result<(), TokenError> {
        let common = self.issuing.max_active;
        {
            let _handing_out = self.issuing.rights.read().await;
            self.require_room_below(actor, record).await?;
            let limit_now = limit.or(common).filter(|_| !record.honeytoken);
            let stored = self.ask(self.inner().store.insert(record, limit_now)).await;
            let displaces = self.issuing.when_full == WhenFull::RevokeLongestUnused && limit.is_none();
            if !displaces || !matches!(stored, Err(TokenError::LimitReached)) {
                return stored;
            }
        }
        let _alone = self.issuing.rights.write().await;
        let mut room = Room::new(common.unwrap_or(u32::MAX));
        room.spared = self.require_room_below(actor, record).await?;
        self.displace(actor, record, &room).await
    }

    /// The presented token and those that it ends with, if they live and can have this one.
    async fn require_room_below(
        &self,
        actor: Actor<'_>,
        record: &TokenRecord,
    ) -> Result<Vec<TokenId>, TokenError> {
        let presented = self.require_living(actor).await?;
        if record.parent.is_some() && presented.len() > MAX_ANCESTORS {
            return Err(TokenError::Invalid(
                "keys that end with one another are at most eight below the first",
            ));
        }
        Ok(presented)
    }

    /// Refuses a key in a place where it would be stored and shown in clear.
    pub(super) fn refuse_keys<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
        metadata: Option<&Metadata>,
    ) -> Result<(), TokenError> {
        let format = &self.inner().format;
        let in_metadata =
            |metadata| serde_json::to_string(metadata).is_ok_and(|text| format.finds_key(&text));
        if texts.into_iter().any(|text| format.finds_key(text)) || metadata.is_some_and(in_metadata) {
            return Err(TokenError::Invalid("an API key must not stand in a name, a user id or metadata"));
        }
        Ok(())
    }

    /// A new key and the bare record for it.
    pub(super) fn fresh(&self, owner: &UserId) -> Result<(crate::ApiKey, TokenRecord), TokenError> {
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
        let own_limits = || actor.presented().map(|presented| presented.credential().limits());
        record.limits = new.limits.or_else(own_limits).unwrap_or_default();
        record.roles = match (&new.roles, limited) {
            (Some(roles), _) => roles.clone(),
            (None, Some(principal)) => Grant::Only(principal.roles().clone()),
            (None, None) => Grant::All,
        };
        self.require_rights(actor, record)
    }

    /// Refuses a token with more rights than the presented credential has.
    pub(super) fn require_rights(&self, actor: Actor<'_>, record: &TokenRecord) -> Result<(), TokenError> {
        let Some(presented) = actor.presented() else { return Ok(()) };
        let roles = effective_roles(self.inner().roles.as_deref(), &record.owner, &record.roles);
        let rights = Rights {
            scopes: &record.scopes,
            roles: &roles,
            all_roles: record.roles == Grant::<RoleSet>::All,
            allowed_ips: record.allowed_ips.as_ref(),
            limits: record.limits,
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
                record.rolling = policy.lifetime().is_some() && !new.child;
            }
        }
        Ok(())
    }

    /// The record, or the alert and the error that its absence means.
    pub(super) async fn reach(&self, actor: Actor<'_>, id: TokenId) -> Result<TokenRecord, TokenError> {
        self.inner().write_unattended_usage().await;
        let record = self.ask(self.inner().store.get(actor.scope(), id)).await?;
        match record.and_then(|record| verify_owner(&self.inner().audit, actor.scope(), record)) {
            Some(record) if record.id == id => Ok(record),
            _ => Err(self.missing(actor, id).await),
        }
    }

    /// Raises an alert if the token that `actor` could not reach belongs to somebody else.
    pub(super) async fn missing(&self, actor: Actor<'_>, id: TokenId) -> TokenError {
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

    /// A record as users see it: with the uses that are not written yet, and what the tokens say that it ends
    /// with.
    pub(super) async fn as_it_works(
        &self,
        mut record: TokenRecord,
        known: &mut Ancestors,
    ) -> Result<TokenRecord, TokenError> {
        self.inner().add_unwritten_use(&mut record);
        if record.parent.is_some() {
            let lineage = self.inner().lineage_among(&record, self.lookup.now(), known).await;
            lineage.map_err(TokenError::Store)?.narrow(&mut record);
        }
        Ok(record)
    }

    pub(super) async fn try_update(
        &self,
        actor: Actor<'_>,
        id: TokenId,
        update: &TokenUpdate,
    ) -> Result<TokenRecord, TokenError> {
        update.name.as_deref().map_or(Ok(()), check_name)?;
        update.metadata.as_ref().map_or(Ok(()), check_metadata)?;
        self.refuse_keys(update.name.as_deref(), update.metadata.as_ref())?;
        self.require_own_standing(actor).await?;
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
                limits: update.limits,
                disabled_at,
                revoked_at: None,
                expires_by: None,
                dead_by: Some(self.dead_by()),
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
        let end = rights::last_end(hard_end, record.rolling, record.expires_at.unwrap_or(UnixTime::MAX));
        if update.changes_rights() && end > rights::latest_end(actor.presented()) {
            return Err(TokenError::BeyondOwnRights);
        }
        Ok(())
    }

    /// Changes the stored record and makes the cache forget it before it returns, whatever happens.
    pub(super) async fn change(
        &self,
        actor: Actor<'_>,
        old: &TokenRecord,
        change: &Change,
    ) -> Result<TokenRecord, TokenError> {
        let what = What::Family([Some(old.digest), None], &old.owner);
        let _forget = Forget { inner: self.inner(), what };
        let changed = self.ask(self.inner().store.update(actor.scope(), old.id, change)).await?;
        match changed.and_then(|record| verify_owner(&self.inner().audit, actor.scope(), record)) {
            Some(record) if record.id == old.id => Ok(record),
            _ => Err(self.missing(actor, old.id).await),
        }
    }
}

/// Whether the actor may make it, if it is a trap, and it can be one.
fn check_trap(actor: Actor<'_>, new: &NewToken) -> Result<(), TokenError> {
    match actor {
        _ if !new.honeytoken => Ok(()),
        Actor::Principal(_) => Err(TokenError::BeyondOwnRights),
        _ if new.lifetime.is_some() || new.child => Err(TokenError::Invalid(
            "a honeytoken has no lifetime and is nobody's child: it stays until revoked",
        )),
        _ => Ok(()),
    }
}

/// What a token ends with that is made like this.
fn parent_of(actor: Actor<'_>, new: &NewToken, owner: &UserId) -> Result<Option<TokenId>, TokenError> {
    if !new.child {
        return Ok(None);
    }
    let key = actor.presented().filter(|principal| principal.method() == AuthMethod::ApiKey);
    match key.and_then(|principal| Some((principal.user_id(), principal.token_id()?))) {
        None => Err(TokenError::Invalid("only an API key can have children: make this one through a key")),
        Some((user, _)) if user != owner => {
            Err(TokenError::Invalid("a child belongs to the owner of its parent"))
        }
        Some((_, id)) => Ok(Some(id)),
    }
}

/// Makes the cache forget what a change is about, when it is done as well as when it fails or is given up.
pub(super) struct Forget<'a> {
    pub(super) inner: &'a Inner,
    pub(super) what: What<'a>,
}

pub(super) enum What<'a> {
    /// These tokens, and those that may end with one of them, which are of the same user.
    Family([Option<TokenDigest>; 2], &'a UserId),
    Each(Vec<TokenDigest>),
    Owner(&'a UserId),
    All,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        match &self.what {
            What::Family(digests, owner) => {
                digests.iter().flatten().for_each(|digest| self.inner.invalidate(digest));
                // Who loads one that ends with another has said so before asking for the other.
                if self.inner.families.load(Ordering::SeqCst) {
                    self.inner.invalidate_owner(owner);
                }
            }
            What::Each(digests) => digests.iter().for_each(|digest| self.inner.invalidate(digest)),
            What::Owner(owner) => self.inner.invalidate_owner(owner),
            What::All => self.inner.invalidate_all(),
        }
    }
}
