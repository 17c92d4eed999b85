//! What can be done to a record: [`Change`], [`Rotation`] and [`Usage`].

use std::net::IpAddr;

use crate::{
    id::TokenId,
    limit::{Limits, QuotaUse},
    net::IpList,
    scope::Grant,
    store::{StoreError, StoreErrorKind},
    time::UnixTime,
    token::{Metadata, TokenRecord},
    watch::Habits,
};

/// What to change of a record; everything that is `None` stays.
///
/// ```
/// use keyward::store::Change;
///
/// let mut rename = Change::default();
/// rename.name = Some("laptop".into());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// The new name.
    pub name: Option<Box<str>>,
    /// The new scopes.
    pub scopes: Option<Grant>,
    /// The new address list; `Some(None)` lifts the limit.
    pub allowed_ips: Option<Option<IpList>>,
    /// The new metadata.
    pub metadata: Option<Metadata>,
    /// The new limits; the default ones lift all.
    pub limits: Option<Limits>,
    /// Since when it is switched off; `Some(None)` switches it on.
    pub disabled_at: Option<Option<UnixTime>>,
    /// Since when it is revoked. What is revoked already keeps its time.
    pub revoked_at: Option<UnixTime>,
    /// By when it expires at the latest; no later use renews it. An earlier expiry stays.
    pub expires_by: Option<UnixTime>,
    /// What expired by then works no more in any way. That is no change of the record: of tokens that end with it,
    /// a store need not tell others of those. `None` is not known.
    pub dead_by: Option<UnixTime>,
    /// The revision that the record must still have.
    pub if_revision: Option<u64>,
}

impl Change {
    /// The change that revokes a token.
    #[must_use]
    pub fn revoke(at: UnixTime) -> Self {
        Self { revoked_at: Some(at), ..Self::default() }
    }

    /// Changes `record` and counts its revision up. Stores that keep whole records call this.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] when the record has another revision than is expected; then nothing
    /// was changed.
    pub fn apply(&self, record: &mut TokenRecord) -> Result<(), StoreError> {
        if self.if_revision.is_some_and(|revision| revision != record.revision) {
            return Err(StoreErrorKind::Conflict.into());
        }
        let Self {
            name,
            scopes,
            allowed_ips,
            metadata,
            limits,
            disabled_at,
            revoked_at,
            expires_by,
            dead_by: _,
            if_revision: _,
        } = self.clone();
        record.name = name.unwrap_or_else(|| std::mem::take(&mut record.name));
        record.metadata = metadata.unwrap_or_else(|| std::mem::take(&mut record.metadata));
        if let Some(scopes) = scopes {
            record.scopes = scopes;
        }
        if let Some(allowed_ips) = allowed_ips {
            record.allowed_ips = allowed_ips;
        }
        record.limits = limits.unwrap_or(record.limits);
        if let Some(disabled_at) = disabled_at {
            record.disabled_at = disabled_at;
        }
        if let Some(latest) = expires_by {
            record.expires_at = Some(record.expires_at.map_or(latest, |at| at.min(latest)));
            record.rolling = false;
        }
        record.revoked_at = record.revoked_at.or(revoked_at);
        record.revision += 1;
        Ok(())
    }
}

/// The exchange of one token for a new one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rotation {
    /// The record of the new token, of the same owner.
    pub successor: TokenRecord,
    /// Until when the old one still works, unless it expires before.
    pub old_expires_at: UnixTime,
    /// What expired by then works no more in any way. `None`, from [`new`](Self::new), is not known.
    pub dead_by: Option<UnixTime>,
    /// The revision that the old record must still have.
    pub if_revision: u64,
    /// How many active tokens the owner may have then at most, the old one counted if it has an overlap; `None` for
    /// any number. As for [`insert`](super::TokenStore::insert), a store counts and writes in one step.
    pub max_active: Option<u32>,
}

impl Rotation {
    /// A rotation to `successor`, for the old record at `if_revision`.
    #[must_use]
    pub fn new(successor: TokenRecord, old_expires_at: UnixTime, if_revision: u64) -> Self {
        Self { successor, old_expires_at, dead_by: None, if_revision, max_active: None }
    }

    /// Refuses to go beyond so many active tokens of the owner.
    #[must_use]
    pub fn with_max_active(self, limit: Option<u32>) -> Self {
        Self { max_active: limit, ..self }
    }

    /// Whether the successor fits in beside the owner's other tokens. Stores that keep whole records call this after
    /// [`apply`](Self::apply), with all tokens of the owner as they are stored, and `old` as it will be.
    ///
    /// # Errors
    /// [`StoreErrorKind::LimitReached`].
    pub fn require_room<'a>(
        &self,
        old: &TokenRecord,
        stored: impl IntoIterator<Item = &'a TokenRecord>,
    ) -> Result<(), StoreError> {
        let Some(limit) = self.max_active else { return Ok(()) };
        let now = self.successor.created_at;
        let others = stored.into_iter().filter(|record| record.id != old.id && record.counts_as_active(now));
        let active = others.count() + usize::from(old.counts_as_active(now));
        if active < limit as usize { Ok(()) } else { Err(StoreErrorKind::LimitReached.into()) }
    }

    /// Marks the old record as replaced. Stores that keep whole records call this, and store the
    /// successor in the same transaction.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] when the record is revoked, replaced already, has another revision or
    /// another owner than the successor; then nothing was changed.
    pub fn apply(&self, old: &mut TokenRecord) -> Result<(), StoreError> {
        let dead = old.revoked_at.is_some() || old.successor.is_some();
        if dead || old.revision != self.if_revision || old.owner != self.successor.owner {
            return Err(StoreErrorKind::Conflict.into());
        }
        old.successor = Some(self.successor.id);
        old.expires_at = Some(old.expires_at.map_or(self.old_expires_at, |at| at.min(self.old_expires_at)));
        old.rolling = false;
        old.revision += 1;
        Ok(())
    }

    /// Moves `child` to the successor, if it ended with `old` until now, and counts its revision up. Stores
    /// that keep whole records call this for the other tokens of the owner, in the same transaction.
    ///
    /// What is revoked, or expired by [`dead_by`](Self::dead_by), stays where it is: there may be many of those,
    /// and nothing can become of them.
    pub fn adopt(&self, old: TokenId, child: &mut TokenRecord) {
        let expired = || child.expires_at.zip(self.dead_by).is_some_and(|(at, by)| at <= by);
        if child.parent == Some(old) && child.revoked_at.is_none() && !expired() {
            child.parent = Some(self.successor.id);
            child.revision += 1;
        }
    }
}

/// What was counted of one token's use since the last batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// The token.
    pub id: TokenId,
    /// How many requests to add.
    pub count: u64,
    /// When it was last used. Stored only if it is later than what is stored.
    pub last_used: UnixTime,
    /// From where, stored together with `last_used`; `None` leaves what is stored.
    pub ip: Option<IpAddr>,
    /// The expiry that this use renews the token to. Stored only if it is later, and only while the
    /// token is rolling and not revoked.
    pub renewed_to: Option<UnixTime>,
    /// How much of the token's quota to add. Stored only if the token has a quota of this period; what is of
    /// an earlier period than what is stored adds nothing, what is of a later one takes its place.
    pub quota: Option<QuotaUse>,
    /// What is new of the token's habits, to be [merged](Habits::merge) with what is stored.
    pub habits: Option<Box<Habits>>,
}

impl Usage {
    /// `count` uses of the token `id`, the last of them at `last_used`.
    #[must_use]
    pub const fn new(id: TokenId, count: u64, last_used: UnixTime) -> Self {
        Self { id, count, last_used, ip: None, renewed_to: None, quota: None, habits: None }
    }

    /// Adds this use to `record`. Stores that keep whole records call this.
    pub fn apply(&self, record: &mut TokenRecord) {
        record.request_count = record.request_count.saturating_add(self.count);
        if record.last_used.is_none_or(|at| at < self.last_used) {
            record.last_used = Some(self.last_used);
            record.last_used_ip = self.ip.or(record.last_used_ip);
        }
        let renewable = record.rolling && record.revoked_at.is_none();
        if let (Some(to), Some(at), true) = (self.renewed_to, record.expires_at, renewable) {
            record.expires_at = Some(at.max(to));
        }
        let period = record.limits.quota().map(|quota| quota.period());
        if let Some(used) = self.quota.filter(|used| Some(used.period) == period) {
            record.quota_use = Some(used.added_to(record.quota_use));
        }
        if let Some(habits) = &self.habits {
            record.habits.get_or_insert_default().merge(habits, self.last_used);
        }
    }
}
