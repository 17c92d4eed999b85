//! Where tokens are kept: the [`TokenStore`] contract and the stores that keyward brings.

use std::{error::Error as StdError, fmt, net::IpAddr, sync::Arc};

pub use async_trait::async_trait;

use crate::{
    id::{TokenId, UserId},
    net::IpList,
    principal::AdminProof,
    scope::Grant,
    secret::TokenDigest,
    time::UnixTime,
    token::{Metadata, TokenRecord},
};

pub(crate) mod cache;
pub(crate) mod lookup;
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;
mod static_list;

pub use lookup::TokenLookup;
pub use memory::MemoryStore;
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};
pub use static_list::StaticList;

/// Keeps token records.
///
/// This is a contract for authors of stores; users work with
/// [`TokenManager`](crate::TokenManager). Everything that reads or changes tokens names an [`Owner`];
/// only [`find`](Self::find) does not, since whoever has the digest had the secret. A record of another
/// owner is treated exactly as one that does not exist.
///
/// All fields come back as they were given, whatever characters and times they hold; counts may stop at
/// `i64::MAX`. An id of another owner is `None` even where an expected revision would not match.
///
/// All changes are durable when the method returns. Each method is atomic, also against other processes
/// on the same store. A method that fails has changed nothing, or says so with
/// [`StoreErrorKind::Unavailable`]: then it may have.
///
/// A store is correct when it passes the conformance suite of the feature `testing`, in one line:
/// `keyward::testing::conformance::check(|| async { MyStore::new() }).await`; for one that cannot be
/// written there is `check_read_only`. The example `custom_store` is a whole one.
#[async_trait]
pub trait TokenStore: fmt::Debug + Send + Sync + 'static {
    /// Stores a new record. With a `limit`, only if its owner has fewer than that many tokens that
    /// [count as active](TokenRecord::counts_as_active) at the record's `created_at`.
    ///
    /// # Errors
    /// [`StoreErrorKind::Duplicate`] when the id or digest is taken, [`StoreErrorKind::LimitReached`].
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError>;

    /// The record with this digest, whatever its state. This is the look-up of each unknown key: make
    /// it fast.
    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError>;

    /// The owner's record with this id.
    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError>;

    /// The owner's records in descending order of their ids, which is newest first.
    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError>;

    /// How many of the owner's records are not revoked.
    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError>;

    /// Applies `change` to the owner's record and returns it as it is then; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] when the change expects another revision.
    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError>;

    /// Stores the successor and marks the owner's record as replaced, both or neither; returns the
    /// replaced record as it is then, `None` if there is none. No limit counts here.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] when the record is revoked, has a successor already, or has another
    /// revision than the rotation expects; [`StoreErrorKind::Duplicate`] as for [`insert`](Self::insert).
    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError>;

    /// Revokes every token of `owner` that is not revoked yet, and returns their digests.
    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError>;

    /// Adds what was counted in memory. Ids that are not stored are skipped.
    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError>;

    /// Whether the store answers and can be written.
    async fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Waits until tokens may have been changed by another process since `since`, and says which. A
    /// call without a cursor returns at once, with the current one. The default waits for ever: then
    /// the cache's staleness bound alone limits how long another process's change goes unseen.
    async fn changes(&self, since: Option<ChangeCursor>) -> Result<Changes, StoreError> {
        match since {
            None => Ok(Changes { cursor: ChangeCursor(0), digests: Some(Vec::new()) }),
            Some(_) => std::future::pending().await,
        }
    }
}

#[async_trait]
impl<T: TokenStore + ?Sized> TokenStore for Arc<T> {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        (**self).insert(record, limit).await
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        (**self).find(digest).await
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        (**self).get(owner, id).await
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        (**self).list(owner, page).await
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        (**self).count(owner).await
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        (**self).update(owner, id, change).await
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        (**self).rotate(owner, id, rotation).await
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        (**self).revoke_all(owner, at).await
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        (**self).record_usage(batch).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        (**self).health().await
    }

    async fn changes(&self, since: Option<ChangeCursor>) -> Result<Changes, StoreError> {
        (**self).changes(since).await
    }
}

/// Whose tokens a call is about. There is no third way: a query without an owner cannot be written.
///
/// ```
/// use keyward::{AdminProof, Owner, UserId};
///
/// let alice = UserId::new("alice")?;
/// assert!(Owner::User(&alice).includes(&alice));
/// assert!(!Owner::User(&alice).includes(&UserId::new("bob")?));
/// assert!(Owner::Any(&AdminProof::operator("audit", "yearly review")?).includes(&alice));
/// # Ok::<(), keyward::id::InvalidUserId>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a third scope would be a hole")]
pub enum Owner<'a> {
    /// The tokens of this user.
    User(&'a UserId),
    /// The tokens of all users, for an administrator.
    Any(&'a AdminProof),
}

impl Owner<'_> {
    /// Whether records of `user` are within this scope.
    #[must_use]
    pub fn includes(&self, user: &UserId) -> bool {
        match self {
            Self::User(owner) => *owner == user,
            Self::Any(_) => true,
        }
    }

    /// The one user that this is about, if it is about one: for `WHERE user_id = ?`.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(owner) => Some(owner),
            Self::Any(_) => None,
        }
    }
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// Only records with an id smaller than this one; `None` starts with the newest.
    pub before: Option<TokenId>,
    /// At most so many records.
    pub limit: u32,
}

impl Page {
    /// The first `limit` records.
    #[must_use]
    pub const fn first(limit: u32) -> Self {
        Self { before: None, limit }
    }

    /// The `limit` records that follow the one with the id `last`.
    #[must_use]
    pub const fn after(last: TokenId, limit: u32) -> Self {
        Self { before: Some(last), limit }
    }
}

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
    /// Since when it is switched off; `Some(None)` switches it on.
    pub disabled_at: Option<Option<UnixTime>>,
    /// Since when it is revoked. What is revoked already keeps its time.
    pub revoked_at: Option<UnixTime>,
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
        let Self { name, scopes, allowed_ips, metadata, disabled_at, revoked_at, if_revision: _ } =
            self.clone();
        record.name = name.unwrap_or_else(|| std::mem::take(&mut record.name));
        record.metadata = metadata.unwrap_or_else(|| std::mem::take(&mut record.metadata));
        if let Some(scopes) = scopes {
            record.scopes = scopes;
        }
        if let Some(allowed_ips) = allowed_ips {
            record.allowed_ips = allowed_ips;
        }
        if let Some(disabled_at) = disabled_at {
            record.disabled_at = disabled_at;
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
    /// The revision that the old record must still have.
    pub if_revision: u64,
}

impl Rotation {
    /// A rotation to `successor`, for the old record at `if_revision`.
    #[must_use]
    pub fn new(successor: TokenRecord, old_expires_at: UnixTime, if_revision: u64) -> Self {
        Self { successor, old_expires_at, if_revision }
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
}

impl Usage {
    /// `count` uses of the token `id`, the last of them at `last_used`.
    #[must_use]
    pub const fn new(id: TokenId, count: u64, last_used: UnixTime) -> Self {
        Self { id, count, last_used, ip: None, renewed_to: None }
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
    }
}

/// A position in a store's sequence of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "stores make it from their own counter")]
pub struct ChangeCursor(pub u64);

/// What changed in a store, possibly through another process.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Changes {
    /// Where to continue.
    pub cursor: ChangeCursor,
    /// The digests of the tokens that changed; `None` if any may have.
    pub digests: Option<Vec<TokenDigest>>,
}

impl Changes {
    /// Tokens with these digests changed.
    #[must_use]
    pub fn of(cursor: ChangeCursor, digests: Vec<TokenDigest>) -> Self {
        Self { cursor, digests: Some(digests) }
    }

    /// Any token may have changed.
    #[must_use]
    pub fn unknown(cursor: ChangeCursor) -> Self {
        Self { cursor, digests: None }
    }
}

/// A store could not do what it was asked.
///
/// ```
/// use keyward::store::{StoreError, StoreErrorKind};
///
/// let error = StoreError::new(StoreErrorKind::Unavailable, "connection refused");
/// assert_eq!(error.kind(), StoreErrorKind::Unavailable);
/// assert_eq!(error.to_string(), "the store is not available: connection refused");
/// ```
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The ways in which a store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It does not answer, cannot write, or is overloaded. It may be back soon.
    #[error("the store is not available")]
    Unavailable,
    /// What it holds cannot be read. Restore a backup.
    #[error("the store is corrupt")]
    Corrupt,
    /// It holds data of a later version, or is no keyward store at all.
    #[error("the store is not one that this version can use")]
    Incompatible,
    /// The id or digest exists already.
    #[error("the token exists already")]
    Duplicate,
    /// The user has as many active tokens as they may.
    #[error("the user has as many active tokens as allowed")]
    LimitReached,
    /// The token was changed in the meantime, or is not in a state for this.
    #[error("the token was changed in the meantime or cannot be changed any more")]
    Conflict,
    /// This store cannot be written at all.
    #[error("the store is read-only")]
    ReadOnly,
}

impl StoreError {
    /// An error of this kind with its cause.
    pub fn new(kind: StoreErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, source: Some(Arc::from(source.into())) }
    }

    /// What failed.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl From<StoreErrorKind> for StoreError {
    fn from(kind: StoreErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.kind),
            None => self.kind.fmt(f),
        }
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
