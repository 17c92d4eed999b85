//! What callers ask of a [`TokenManager`](crate::TokenManager), and what it answers.

use std::{net::IpAddr, time::Duration};

use crate::{
    error::Refusal,
    id::{TokenId, UserId, is_printable},
    limit::Limits,
    net::IpList,
    principal::{AdminProof, Principal},
    scope::{Grant, RoleSet},
    secret::ApiKey,
    store::{Owner, StoreError},
    token::{Metadata, TokenClass, TokenRecord, TokenStatus},
};

/// Who asks: it decides which tokens can be reached and which rights can be handed out.
///
/// Made by `into()` from a `&Principal` (a caller, limited to their own tokens and to the rights of the
/// credential that they presented), a `&UserId` (the application itself, on behalf of that user) or an
/// `&AdminProof` (an administrator, on all tokens).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Actor<'a> {
    /// The application itself, for this user.
    User(&'a UserId),
    /// The caller of a request.
    Principal(&'a Principal),
    /// An administrator.
    Admin(&'a AdminProof),
}

impl<'a> Actor<'a> {
    /// The tokens that the actor can reach.
    pub(crate) fn scope(&self) -> Owner<'a> {
        match self {
            Self::User(user) => Owner::User(user),
            Self::Principal(principal) => Owner::User(principal.user_id()),
            Self::Admin(proof) => Owner::Any(proof),
        }
    }

    pub(crate) fn user(&self) -> &'a UserId {
        match self {
            Self::User(user) => user,
            Self::Principal(principal) => principal.user_id(),
            Self::Admin(proof) => proof.actor(),
        }
    }

    /// The credential whose rights limit what can be handed out.
    pub(crate) fn presented(&self) -> Option<&'a Principal> {
        match self {
            Self::User(_) => None,
            Self::Principal(principal) => Some(principal),
            Self::Admin(proof) => proof.principal(),
        }
    }

    pub(crate) fn client_ip(&self) -> Option<IpAddr> {
        self.presented().and_then(Principal::client_ip)
    }

    pub(crate) fn reason(&self) -> Option<&'a str> {
        match self {
            Self::Admin(proof) => Some(proof.reason()),
            _ => None,
        }
    }
}

impl<'a> From<&'a UserId> for Actor<'a> {
    fn from(user: &'a UserId) -> Self {
        Self::User(user)
    }
}

impl<'a> From<&'a Principal> for Actor<'a> {
    fn from(principal: &'a Principal) -> Self {
        Self::Principal(principal)
    }
}

impl<'a> From<&'a AdminProof> for Actor<'a> {
    fn from(proof: &'a AdminProof) -> Self {
        Self::Admin(proof)
    }
}

/// What a new token shall be.
///
/// ```
/// use std::time::Duration;
/// use keyward::{manage::NewToken, scope::{Grant, ScopeSet}};
///
/// let new = NewToken::named("nightly export")
///     .with_scopes(Grant::Only(ScopeSet::new(["jobs:read"])?))
///     .with_lifetime(Duration::from_secs(7 * 86_400));
/// # let _ = new;
/// # Ok::<(), keyward::scope::InvalidScope>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct NewToken {
    pub(crate) name: Box<str>,
    pub(crate) owner: Option<UserId>,
    pub(crate) class: TokenClass,
    pub(crate) scopes: Grant,
    pub(crate) roles: Option<Grant<RoleSet>>,
    pub(crate) allowed_ips: Option<IpList>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) metadata: Metadata,
    pub(crate) limits: Option<Limits>,
    pub(crate) created_ip: Option<IpAddr>,
    pub(crate) max_active: Option<u32>,
    pub(crate) child: bool,
    pub(crate) honeytoken: bool,
}

impl NewToken {
    /// A token called `name` with every scope, usable from anywhere, with the default lifetime.
    pub fn named(name: impl Into<Box<str>>) -> Self {
        Self {
            name: name.into(),
            owner: None,
            class: TokenClass::default(),
            scopes: Grant::All,
            roles: None,
            allowed_ips: None,
            lifetime: None,
            metadata: Metadata::new(),
            limits: None,
            created_ip: None,
            max_active: None,
            child: false,
            honeytoken: false,
        }
    }

    /// Whose token it shall be; the actor's own by default. Only an administrator can name another user.
    pub fn for_user(mut self, owner: UserId) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Whose lifetime policy counts; [`TokenClass::User`] by default.
    pub fn with_class(mut self, class: TokenClass) -> Self {
        self.class = class;
        self
    }

    /// Its scopes; all by default.
    pub fn with_scopes(mut self, scopes: Grant) -> Self {
        self.scopes = scopes;
        self
    }

    /// Which of its owner's roles it carries; by default all, or those of the credential that makes it
    /// if that one is limited.
    pub fn with_roles(mut self, roles: Grant<RoleSet>) -> Self {
        self.roles = Some(roles);
        self
    }

    /// From where it may be used; anywhere by default.
    pub fn with_allowed_ips(mut self, allowed_ips: IpList) -> Self {
        self.allowed_ips = Some(allowed_ips);
        self
    }

    /// How long it lives, without renewal; by default the policy's lifetime, renewed by use.
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Free data, at most 4 KiB as JSON.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// How often it may be used; by default without limit, or as often as the key that makes it.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Makes it end with the API key that it is made through: it works while that one does, moves to its
    /// successor when it is rotated, and is not renewed by use. Without this it is independent.
    ///
    /// Only for a token of the key's own owner. A child can have children, eight deep at most.
    pub fn as_child(mut self) -> Self {
        self.child = true;
        self
    }

    /// Makes it a trap: a key that never works, to be left where only a thief looks. Whoever presents it is answered
    /// as with any other wrong key, and raises [`Alert::HoneytokenUsed`](crate::event::Alert::HoneytokenUsed).
    ///
    /// Only the application itself and administrators make traps. To its owner it looks like an active key, and
    /// counts against no limit; give it to a user who does not mind one more in the list. It has no end of its
    /// own, is never cleaned up, and cannot be rotated: revoke it when it is not needed any more. Its record says so;
    /// the key routes show its owner the end that a key in use has.
    ///
    /// ```
    /// use keyward::{TokenManager, UserId, manage::NewToken, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tokens = TokenManager::new(MemoryStore::new());
    /// let trap = tokens.create(&UserId::new("ops")?, NewToken::named("backup upload").as_honeytoken()).await?;
    /// println!("for the wiki, the old bucket or the test fixtures: {}", trap.key.expose());
    /// # Ok(())
    /// # }
    /// ```
    pub fn as_honeytoken(mut self) -> Self {
        self.honeytoken = true;
        self
    }

    /// Only if its owner has fewer than so many active tokens; by default the manager's limit and
    /// [policy](crate::manage::WhenFull).
    pub fn with_max_active(mut self, tokens: u32) -> Self {
        self.max_active = Some(tokens);
        self
    }

    /// From where it is made; by default the address of the credential that makes it.
    pub fn with_created_ip(mut self, ip: Option<IpAddr>) -> Self {
        self.created_ip = ip;
        self
    }
}

/// What to change of a token; everything that is not set stays.
///
/// ```
/// let rename = keyward::manage::TokenUpdate::default().with_name("laptop");
/// # let _ = rename;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct TokenUpdate {
    pub(crate) name: Option<Box<str>>,
    pub(crate) scopes: Option<Grant>,
    pub(crate) allowed_ips: Option<Option<IpList>>,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) limits: Option<Limits>,
    pub(crate) enabled: Option<bool>,
}

impl TokenUpdate {
    /// The new name.
    pub fn with_name(mut self, name: impl Into<Box<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The new scopes.
    pub fn with_scopes(mut self, scopes: Grant) -> Self {
        self.scopes = Some(scopes);
        self
    }

    /// From where it may be used; `None` is from anywhere.
    pub fn with_allowed_ips(mut self, allowed_ips: Option<IpList>) -> Self {
        self.allowed_ips = Some(allowed_ips);
        self
    }

    /// The new metadata, instead of the old.
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// How often it may be used, instead of the old limits; [`Limits::default`] lifts them. What was used of a
    /// quota stays used.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Switches it on or off.
    pub fn with_enabled(mut self, enabled: bool) -> Self {
        self.enabled = Some(enabled);
        self
    }

    /// Whether it can only take rights away.
    pub(crate) fn only_disables(&self) -> bool {
        self.enabled == Some(false) && self.leaves_the_rest()
    }

    pub(crate) fn only_enables(&self) -> bool {
        self.enabled == Some(true) && self.leaves_the_rest()
    }

    fn leaves_the_rest(&self) -> bool {
        let Self { name, scopes, allowed_ips, metadata, limits, enabled: _ } = self;
        name.is_none() && scopes.is_none() && allowed_ips.is_none() && metadata.is_none() && limits.is_none()
    }

    /// Whether it touches what the token may do.
    pub(crate) fn changes_rights(&self) -> bool {
        let Self { name: _, scopes, allowed_ips, metadata: _, limits, enabled } = self;
        scopes.is_some() || allowed_ips.is_some() || limits.is_some() || *enabled == Some(true)
    }
}

/// Which tokens to list, newest first.
///
/// ```
/// use keyward::{manage::ListQuery, token::TokenStatus};
///
/// let query = ListQuery::default().with_status(TokenStatus::Active).with_limit(20);
/// # let _ = query;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ListQuery {
    pub(crate) cursor: Option<TokenId>,
    pub(crate) limit: u32,
    pub(crate) status: Option<TokenStatus>,
    pub(crate) expiring_within: Option<Duration>,
    pub(crate) unused_for: Option<Duration>,
    pub(crate) owner: Option<UserId>,
}

impl Default for ListQuery {
    /// The newest 50.
    fn default() -> Self {
        Self { cursor: None, limit: 50, status: None, expiring_within: None, unused_for: None, owner: None }
    }
}

impl ListQuery {
    /// The most that one page can hold.
    pub const MAX_LIMIT: u32 = 200;

    /// Continues after the page that ended with this [`TokenPage::next_cursor`].
    pub fn with_cursor(mut self, cursor: Option<TokenId>) -> Self {
        self.cursor = cursor;
        self
    }

    /// At most so many, from 1 to 200; 50 by default. Numbers outside are moved to the nearest end.
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit.clamp(1, Self::MAX_LIMIT);
        self
    }

    /// Only tokens of this status.
    pub fn with_status(mut self, status: TokenStatus) -> Self {
        self.status = Some(status);
        self
    }

    /// Only tokens that have not expired or been revoked and will expire within this time: by their expiry or
    /// their maximum age, not by idleness.
    pub fn with_expiring_within(mut self, time: Duration) -> Self {
        self.expiring_within = Some(time);
        self
    }

    /// Only tokens without a use for so long; one that was never used counts from its creation.
    pub fn with_unused_for(mut self, time: Duration) -> Self {
        self.unused_for = Some(time);
        self
    }

    /// Whether it asks for some tokens only.
    pub(crate) fn is_filtered(&self) -> bool {
        self.status.is_some() || self.expiring_within.is_some() || self.unused_for.is_some()
    }

    /// Only tokens of this user; narrows what an administrator sees.
    pub fn with_owner(mut self, owner: UserId) -> Self {
        self.owner = Some(owner);
        self
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenPage {
    /// The records, newest first. A page can be short although more follow.
    pub tokens: Vec<TokenRecord>,
    /// Where the next page starts; `None` at the end.
    pub next_cursor: Option<TokenId>,
}

/// A new token and its secret, which cannot be had again.
#[derive(Debug)]
#[non_exhaustive]
pub struct IssuedToken {
    /// The key to hand to the owner, once.
    pub key: ApiKey,
    /// What was stored.
    pub record: TokenRecord,
}

/// Why a management operation was not done.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// There is no such token, or it is somebody else's: then an alert was raised.
    #[error("there is no such token")]
    NotFound,
    /// It would have handed out more rights, or a longer life, than the presented credential has.
    #[error("a credential cannot hand out or change more rights, or a longer life, than it has itself")]
    BeyondOwnRights,
    /// The credential that was presented does not work any more.
    #[error("the credential that was presented does not work any more")]
    CredentialDied,
    /// Something asked for cannot be right; the text says what.
    #[error("{0}")]
    Invalid(&'static str),
    /// The token is dead, has a successor, or was changed at the same time.
    #[error("the token is dead, has a successor already, or was changed at the same time")]
    Conflict,
    /// The replaced token was used a short time ago.
    #[error("the replaced token was used a short time ago; find out by whom, or end it anyway")]
    StillUsed,
    /// The user has as many active tokens as allowed.
    #[error("the user has as many active tokens as allowed; revoke one first")]
    LimitReached,
    /// The user has made as many tokens as allowed for now; see
    /// [`with_creation_limit`](super::TokenManagerBuilder::with_creation_limit).
    #[error("the user has made as many tokens as allowed for now; try again later")]
    TooFast {
        /// After so long.
        retry_in: Duration,
    },
    /// The user is not a new one, or the id is not for new users.
    #[error("the user id is taken")]
    UserExists,
    /// The user whose token it would be is suspended or offboarded.
    #[error("the user is suspended or gone, and gets no new tokens")]
    OwnerInactive,
    /// The same is being done already, and did not end in time.
    #[error("the same is being done already; try again later")]
    Busy,
    /// The store failed; whether the operation was done is not known.
    #[error("the store failed: {0}")]
    Store(#[source] StoreError),
}

impl TokenError {
    /// Why it was refused; `None` if it failed.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::NotFound => Some(Refusal::NotOwner),
            Self::BeyondOwnRights => Some(Refusal::BeyondOwnRights),
            Self::CredentialDied => Some(Refusal::Revoked),
            Self::Invalid(_) => Some(Refusal::InvalidValue),
            Self::Conflict => Some(Refusal::Conflict),
            Self::StillUsed => Some(Refusal::StillUsed),
            Self::LimitReached => Some(Refusal::LimitReached),
            Self::TooFast { .. } => Some(Refusal::RateLimited),
            Self::UserExists => Some(Refusal::UserExists),
            Self::OwnerInactive => Some(Refusal::UserInactive),
            Self::Busy => Some(Refusal::Busy),
            Self::Store(_) => None,
        }
    }
}

/// Whether `name` can be a token's name, which is 1 to 128 printable characters.
pub(crate) fn check_name(name: &str) -> Result<(), TokenError> {
    let length = name.chars().count();
    if (1..=128).contains(&length) && !name.trim().is_empty() && is_printable(name) {
        Ok(())
    } else {
        Err(TokenError::Invalid("a name is 1 to 128 printable characters"))
    }
}

pub(crate) fn check_metadata(metadata: &Metadata) -> Result<(), TokenError> {
    match serde_json::to_vec(metadata) {
        Ok(text) if text.len() <= 4096 => Ok(()),
        _ => Err(TokenError::Invalid("metadata is a JSON object of at most 4096 bytes")),
    }
}
