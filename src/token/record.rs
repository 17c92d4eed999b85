//! The stored credential record.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    id::{TokenId, UserId},
    limit::{Limits, QuotaUse},
    net::IpList,
    scope::{Grant, RoleSet},
    secret::TokenDigest,
    time::UnixTime,
    token::{LifetimePolicy, RequestClass, decide},
};

/// Free data of a token's owner, as a JSON object.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// Everything that is stored of a token. The secret is not part of it: only its digest and hint are.
///
/// A store writes and reads all fields as they are; the rules about them are in this module.
///
/// ```
/// use keyward::{TokenId, UserId, secret::TokenDigest, time::UnixTime, token::TokenRecord};
///
/// let id: TokenId = "019a9d5a-7c00-7abc-8def-0123456789ab".parse()?;
/// let digest = TokenDigest::of(b"the key in clear");
/// let mut record = TokenRecord::new(id, digest, UserId::new("alice")?, UnixTime::EPOCH);
/// record.name = "laptop".into();
/// assert_eq!(record.request_count, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenRecord {
    /// Its public name.
    pub id: TokenId,
    /// The digest of the secret. Unique in a store.
    pub digest: TokenDigest,
    /// The user that it belongs to, for ever.
    pub owner: UserId,
    /// What the owner calls it.
    pub name: Box<str>,
    /// Whose lifetime policy counts.
    pub class: TokenClass,
    /// What it may do.
    pub scopes: Grant,
    /// Which of its owner's roles it carries.
    pub roles: Grant<RoleSet>,
    /// From where it may be used; `None` is from anywhere.
    pub allowed_ips: Option<IpList>,
    /// Free data of the owner.
    pub metadata: Metadata,
    /// The secret's beginning and end, for lists.
    pub hint: Box<str>,
    /// When it was made.
    pub created_at: UnixTime,
    /// From where it was made.
    pub created_ip: Option<IpAddr>,
    /// The token through which it was made.
    pub created_by: Option<TokenId>,
    /// The token that it ends with: it works only while that one, or its successor, does.
    pub parent: Option<TokenId>,
    /// How often it may be used.
    pub limits: Limits,
    /// Whether it is a trap: it never works, and whoever presents it raises an alert.
    pub honeytoken: bool,
    /// When it stops working; `None` is never.
    pub expires_at: Option<UnixTime>,
    /// Whether use moves `expires_at`: it was made with the default lifetime.
    pub rolling: bool,
    /// An end that no renewal passes, in addition to the policy's maximum.
    pub hard_end: Option<UnixTime>,
    /// Since when it is switched off.
    pub disabled_at: Option<UnixTime>,
    /// Since when it is revoked: for ever.
    pub revoked_at: Option<UnixTime>,
    /// The token that replaces it.
    pub successor: Option<TokenId>,
    /// Counts changes of everything but the use, so that two changes at once cannot mix.
    pub revision: u64,
    /// When it was last used, as far as written.
    pub last_used: Option<UnixTime>,
    /// From where it was last used.
    pub last_used_ip: Option<IpAddr>,
    /// How many requests were let through with it, as far as written.
    pub request_count: u64,
    /// How much of its quota was used in the last period in which it was, as far as written.
    pub quota_use: Option<QuotaUse>,
}

impl TokenRecord {
    /// A record with full rights that never expires, to be narrowed field by field.
    #[must_use]
    pub fn new(id: TokenId, digest: TokenDigest, owner: UserId, created_at: UnixTime) -> Self {
        Self {
            id,
            digest,
            owner,
            name: Box::default(),
            class: TokenClass::User,
            scopes: Grant::All,
            roles: Grant::All,
            allowed_ips: None,
            metadata: Metadata::new(),
            hint: Box::default(),
            created_at,
            created_ip: None,
            created_by: None,
            parent: None,
            limits: Limits::default(),
            honeytoken: false,
            expires_at: None,
            rolling: false,
            hard_end: None,
            disabled_at: None,
            revoked_at: None,
            successor: None,
            revision: 0,
            last_used: None,
            last_used_ip: None,
            request_count: 0,
            quota_use: None,
        }
    }

    /// What to call its state at `now`.
    #[must_use]
    pub fn status(&self, policy: &LifetimePolicy, now: UnixTime) -> TokenStatus {
        if self.revoked_at.is_some() {
            TokenStatus::Revoked
        } else if self.successor.is_some() {
            TokenStatus::Rotated
        } else if self.disabled_at.is_some() {
            TokenStatus::Disabled
        } else if decide(self, policy, now, RequestClass::Unsafe).access().is_err() {
            TokenStatus::Expired
        } else {
            TokenStatus::Active
        }
    }

    /// Whether it counts against the limit of active tokens of a user: neither revoked nor expired at
    /// `now`, and no trap. A replaced one counts until its overlap ends.
    #[must_use]
    pub fn counts_as_active(&self, now: UnixTime) -> bool {
        !self.honeytoken && self.revoked_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }

    /// When it was last used, as far as written; when it was made, if it was not used since.
    #[must_use]
    pub fn last_active(&self) -> UnixTime {
        self.last_used.map_or(self.created_at, |used| used.max(self.created_at))
    }

    /// Whether `child` can be stored with this record as its [`parent`](Self::parent): it is of the same owner,
    /// and this one is neither revoked nor replaced. What is revoked can be stored in any case.
    #[must_use]
    pub fn may_be_parent_of(&self, child: &Self) -> bool {
        let open = self.revoked_at.is_none() && self.successor.is_none();
        child.revoked_at.is_some() || (open && self.owner == child.owner)
    }
}

/// Who uses a token, for the lifetime policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenClass {
    /// A person or their scripts.
    #[default]
    User,
    /// An administrator.
    Admin,
    /// A service without a person behind it.
    Service,
}

impl TokenClass {
    /// `user`, `admin` or `service`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
            Self::Service => "service",
        }
    }
}

/// A token's state, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TokenStatus {
    /// It works.
    Active,
    /// Switched off until it is enabled again.
    Disabled,
    /// Past its expiry, its idle timeout or its maximum age.
    Expired,
    /// Replaced by a successor; it works until the overlap ends.
    Rotated,
    /// Revoked for ever.
    Revoked,
}
