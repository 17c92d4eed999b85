//! Where tokens are kept: the [`TokenStore`] contract and the stores that keyward brings.

use std::{fmt, sync::Arc};

pub use async_trait::async_trait;

use self::transfer::{Exported, Imported, Item, Position, Section};
use crate::{
    id::{TokenId, UserId},
    principal::AdminProof,
    secret::TokenDigest,
    time::UnixTime,
    token::TokenRecord,
};

pub(crate) mod announced;
pub(crate) mod audit;
pub(crate) mod cache;
mod change;
mod denial;
pub(crate) mod denied;
pub(crate) mod directory;
mod failure;
mod family;
pub(crate) mod lineage;
pub(crate) mod lookup;
mod memory;
pub(crate) mod noticing;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod seal;
#[cfg(feature = "sqlite")]
mod sqlite;
pub(crate) mod state;
mod static_list;
pub mod transfer;
mod upkeep;
pub(crate) mod usage;
mod wakeup;

pub use audit::{
    AuditEntry, AuditError, AuditQuery, AuditStore, Broken, ChainEnds, ChainHash, ChainHead, Flaw,
    InvalidChainHead, Verified,
};
pub use change::{Change, Rotation, Usage};
pub use denial::{Denials, JwtId, JwtRevocation, UserState, UserStatus};
pub use directory::UserDirectory;
pub use failure::{StoreError, StoreErrorKind};
pub use family::{Ended, Reach, Revoked, Room};
pub use lookup::TokenLookup;
pub use memory::MemoryStore;
#[cfg(feature = "postgres")]
pub use postgres::{PostgresOptions, PostgresStore};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};
pub use static_list::StaticList;
pub use upkeep::{Claimed, Purge, Purged, Warnings};
pub use wakeup::{Notice, Wakeup};

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
    /// [`StoreErrorKind::Duplicate`] when the id or digest is taken, [`StoreErrorKind::LimitReached`],
    /// [`StoreErrorKind::OwnerInactive`] when the owner is suspended or offboarded,
    /// [`StoreErrorKind::Conflict`] when its parent is stored and
    /// [cannot have it](TokenRecord::may_be_parent_of).
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

    /// Stores the successor, marks the owner's record as replaced and moves the tokens that end with it to
    /// the successor, but for [dead ones](Rotation::adopt), all or nothing; returns the replaced record as it is then, `None` if there is none. No
    /// limit counts here.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] when the record is revoked, has a successor already, or has another
    /// revision than the rotation expects; [`StoreErrorKind::Duplicate`] and
    /// [`StoreErrorKind::OwnerInactive`] as for [`insert`](Self::insert).
    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError>;

    /// Revokes every token of `owner` that is not revoked yet, and returns their digests.
    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError>;

    /// Revokes the owner's token and what `reach` says, and tells what was done; `None` if there is no such
    /// token. With [`Owner::User`] only tokens of that user are looked at.
    ///
    /// By default one token is revoked after the other, from lists of all that the owner has: a store with
    /// transactions overrides this.
    async fn revoke(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        at: UnixTime,
        reach: Reach,
    ) -> Result<Option<Revoked>, StoreError> {
        family::revoke_in_steps(self, owner, id, at, reach).await
    }

    /// Stores a new record as [`insert`](Self::insert) does. If there is no [room](Room::choose) for it, one of
    /// its owner's tokens is revoked, with those that end with it; returns them.
    ///
    /// By default this is done in steps: the limit holds, but when several calls meet, or one fails, more tokens
    /// may be revoked than give way to others. A store with transactions overrides this.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert); [`StoreErrorKind::LimitReached`] when none may give way.
    async fn insert_making_room(&self, record: &TokenRecord, room: &Room) -> Result<Vec<Ended>, StoreError> {
        family::insert_in_steps(self, record, room).await
    }

    /// Adds what was counted in memory. Ids that are not stored are skipped.
    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError>;

    /// Who and which JWTs are denied: all users who are not active or have a time before which their JWTs
    /// do not count, and all JWTs that are revoked beyond `now`. Others may be in it as well. It is read
    /// as a whole every few seconds.
    ///
    /// A store that keeps this overrides this method and the four below; one that does not leaves all five
    /// as they are.
    async fn denials(&self, now: UnixTime) -> Result<Denials, StoreError> {
        let _ = now;
        Ok(Denials::default())
    }

    /// Revokes a JWT; of two ends the later one counts. May forget those that ended by `now`.
    async fn revoke_jwt(&self, revocation: &JwtRevocation, now: UnixTime) -> Result<(), StoreError> {
        let _ = (revocation, now);
        Err(StoreErrorKind::ReadOnly.into())
    }

    /// Ends the JWTs of `user` that were issued by `at`, whatever the user's status, which stays. The
    /// time never moves back.
    async fn revoke_jwts_of(&self, user: &UserId, at: UnixTime) -> Result<(), StoreError> {
        let _ = (user, at);
        Err(StoreErrorKind::ReadOnly.into())
    }

    /// Sets a user's status. Of two times before which JWTs do not count the later one stays: it never
    /// moves back and is never erased. See [`UserState::over`].
    async fn set_user_state(&self, state: &UserState) -> Result<(), StoreError> {
        let _ = state;
        Err(StoreErrorKind::ReadOnly.into())
    }

    /// Stores the first token of a new user, who is not new any more from then on. New is whose id the store has
    /// never seen: no token of theirs was ever stored, whatever became of it, and no state was set. So whoever
    /// takes tokens away for good must keep the ids of their owners; not those that are
    /// [made up](UserId::is_made_up), of which there may be one for each token, and which nobody asks for.
    ///
    /// A store that does not keep those leaves this as it is.
    ///
    /// # Errors
    /// [`StoreErrorKind::UserExists`] when the owner is not new; [`StoreErrorKind::Duplicate`] when the id or
    /// digest is taken.
    async fn register(&self, record: &TokenRecord) -> Result<(), StoreError> {
        let _ = record;
        Err(StoreErrorKind::ReadOnly.into())
    }

    /// In one transaction: `user` is offboarded, their JWTs issued by `at` do not count, and every token
    /// of theirs that is not revoked yet is. Returns the digests of those.
    async fn offboard(&self, user: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        let _ = (user, at);
        Err(StoreErrorKind::ReadOnly.into())
    }

    /// Looks at the next records of all users in ascending order of their ids, as `purge` says, and removes
    /// those that it [takes](Purge::takes) and those that [end with](Purge::takes_children_of) a token that it takes.
    /// What others still end with stays until a later round, when those are gone: so no step removes more than
    /// it looks at. A step must not keep other calls waiting for long; a request may come at any time.
    ///
    /// By default nothing can be removed.
    async fn purge(&self, proof: &AdminProof, purge: &Purge) -> Result<Purged, StoreError> {
        let _ = (proof, purge);
        Err(StoreErrorKind::ReadOnly.into())
    }

    /// The tokens of all users for which a warning is [due](Warnings::judge). Each warning is given out once,
    /// whoever asks and however often.
    ///
    /// By default nothing is known of warnings, and nobody is warned.
    async fn claim_warnings(&self, proof: &AdminProof, warnings: &Warnings) -> Result<Claimed, StoreError> {
        let _ = (proof, warnings);
        Err(StoreErrorKind::ReadOnly.into())
    }

    /// The next `limit` things of a section for a [copy](transfer::Transfer), from the beginning or after a position
    /// that this store gave; in ascending order, so that what is stored later comes later. What cannot be read is named
    /// and does not keep back the rest. As for [`purge`](Self::purge), other calls must not wait for long.
    ///
    /// By default nothing can be given out.
    async fn export(
        &self,
        proof: &AdminProof,
        section: Section,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Exported, StoreError> {
        let _ = (proof, section, after, limit);
        Err(StoreError::new(StoreErrorKind::ReadOnly, "its contents cannot be copied"))
    }

    /// Takes in what another store gave out, all or nothing, and says what became of each item, in their order. Where
    /// there is something already, [`StoredToken::over`](transfer::StoredToken::over) and
    /// [`KnownUser::over`](transfer::KnownUser::over) decide, and of a JWT the later end stays. No limit counts here,
    /// nor what became of the owner or the parent. Whoever has a token from then on is not new any more.
    ///
    /// By default nothing can be taken in.
    async fn import(&self, proof: &AdminProof, items: &[Item]) -> Result<Vec<Imported>, StoreError> {
        let _ = (proof, items);
        Err(StoreError::new(StoreErrorKind::ReadOnly, "nothing can be copied to it"))
    }

    /// Whether the store answers and can be written.
    async fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Waits until tokens may have been changed by another process since `since`, and says which: also
    /// those that [end with](TokenRecord::parent) one that was switched off or on, but for those that are revoked
    /// or [dead](Change::dead_by). A
    /// call without a cursor returns at once, with the current one. The default waits for ever: then
    /// the cache's staleness bound alone limits how long another process's change goes unseen.
    async fn changes(&self, since: Option<ChangeCursor>) -> Result<Changes, StoreError> {
        match since {
            None => Ok(Changes::of(ChangeCursor(0), Vec::new())),
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

    async fn revoke(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        at: UnixTime,
        reach: Reach,
    ) -> Result<Option<Revoked>, StoreError> {
        (**self).revoke(owner, id, at, reach).await
    }

    async fn insert_making_room(&self, record: &TokenRecord, room: &Room) -> Result<Vec<Ended>, StoreError> {
        (**self).insert_making_room(record, room).await
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        (**self).record_usage(batch).await
    }

    async fn denials(&self, now: UnixTime) -> Result<Denials, StoreError> {
        (**self).denials(now).await
    }

    async fn revoke_jwt(&self, revocation: &JwtRevocation, now: UnixTime) -> Result<(), StoreError> {
        (**self).revoke_jwt(revocation, now).await
    }

    async fn revoke_jwts_of(&self, user: &UserId, at: UnixTime) -> Result<(), StoreError> {
        (**self).revoke_jwts_of(user, at).await
    }

    async fn set_user_state(&self, state: &UserState) -> Result<(), StoreError> {
        (**self).set_user_state(state).await
    }

    async fn register(&self, record: &TokenRecord) -> Result<(), StoreError> {
        (**self).register(record).await
    }

    async fn offboard(&self, user: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        (**self).offboard(user, at).await
    }

    async fn purge(&self, proof: &AdminProof, purge: &Purge) -> Result<Purged, StoreError> {
        (**self).purge(proof, purge).await
    }

    async fn claim_warnings(&self, proof: &AdminProof, warnings: &Warnings) -> Result<Claimed, StoreError> {
        (**self).claim_warnings(proof, warnings).await
    }

    async fn export(
        &self,
        proof: &AdminProof,
        section: Section,
        after: Option<&Position>,
        limit: u32,
    ) -> Result<Exported, StoreError> {
        (**self).export(proof, section, after, limit).await
    }

    async fn import(&self, proof: &AdminProof, items: &[Item]) -> Result<Vec<Imported>, StoreError> {
        (**self).import(proof, items).await
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
    /// Whether what [`TokenStore::denials`] says may have changed.
    pub denials: bool,
}

impl Changes {
    /// Tokens with these digests changed.
    #[must_use]
    pub fn of(cursor: ChangeCursor, digests: Vec<TokenDigest>) -> Self {
        Self { cursor, digests: Some(digests), denials: false }
    }

    /// Anything may have changed.
    #[must_use]
    pub fn unknown(cursor: ChangeCursor) -> Self {
        Self { cursor, digests: None, denials: true }
    }

    /// The same, and what is denied changed as well.
    #[must_use]
    pub fn with_denials(self) -> Self {
        Self { denials: true, ..self }
    }
}
