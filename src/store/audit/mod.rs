//! Where audit entries are kept: the [`AuditStore`] contract.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    event::{Event, Outcome},
    id::{TokenId, UserId},
    store::{StoreError, StoreErrorKind},
    time::UnixTime,
};

mod entry;
mod memory;
pub(crate) mod verify;

pub use entry::{AuditEntry, ChainEnds, ChainHash, ChainHead, InvalidChainHead};
pub(super) use memory::MemoryAudit;
pub use verify::{AuditError, Broken, Flaw, Verified};

/// Keeps audit entries, each chained to the one before it.
///
/// This is a contract for authors of stores; users work with [`AuditLog`](crate::audit::AuditLog). It stands
/// apart from [`TokenStore`](crate::store::TokenStore), so that the log may be kept elsewhere. A store is
/// correct when it passes `keyward::testing::conformance::check_audit`.
///
/// Entries are numbered from 1 without gaps, and never changed. Beside them a store keeps the two ends of
/// the chain: the head, which is the last entry, and the anchor, which is the last one that was deleted. Both
/// are the number 0 with a hash of zeros at first.
///
/// An entry that cannot be read is returned as [`AuditEntry::unreadable`], so that one damaged entry neither
/// hides the others nor itself.
#[async_trait]
pub trait AuditStore: fmt::Debug + Send + Sync + 'static {
    /// Appends an entry for each of `events` in their order, all or none, and returns the new head. Others
    /// who append at the same time wait, in other processes too: what they append follows. It is durable when
    /// the method returns.
    ///
    /// [`AuditEntry::following`] makes an entry from the head before it.
    async fn append(&self, events: &[Event]) -> Result<ChainHead, StoreError>;

    /// At most `limit` entries with numbers above `number`, in ascending order.
    async fn entries_after(&self, number: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError>;

    /// The entries that match `query`, in descending order of their numbers; see [`AuditQuery::matches`].
    async fn search(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError>;

    /// Both ends of the chain, as they are recorded beside the entries.
    async fn chain_ends(&self) -> Result<ChainEnds, StoreError>;

    /// Deletes at most `limit` entries from the beginning of the chain, up to the first that is dated
    /// `before` or later, and records the last of them as the anchor, all or nothing. Returns how many.
    async fn delete_before(&self, before: UnixTime, limit: u32) -> Result<u64, StoreError>;

    /// Appends `entries` of another store as they are, flaws and all, all or none; their numbers ascend. They follow
    /// `after`, which is this store's head; in a store without entries or ends it becomes both ends first. Durable
    /// when the method returns.
    ///
    /// By default nothing can be taken in: then no log can be [copied](super::transfer) to this store.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] when the head is another one, or a number does not come after those before it.
    async fn append_entries(&self, after: &ChainHead, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let _ = (after, entries);
        Err(StoreErrorKind::ReadOnly.into())
    }
}

#[async_trait]
impl<T: AuditStore + ?Sized> AuditStore for Arc<T> {
    async fn append(&self, events: &[Event]) -> Result<ChainHead, StoreError> {
        (**self).append(events).await
    }

    async fn entries_after(&self, number: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        (**self).entries_after(number, limit).await
    }

    async fn search(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        (**self).search(query).await
    }

    async fn chain_ends(&self) -> Result<ChainEnds, StoreError> {
        (**self).chain_ends().await
    }

    async fn delete_before(&self, before: UnixTime, limit: u32) -> Result<u64, StoreError> {
        (**self).delete_before(before, limit).await
    }

    async fn append_entries(&self, after: &ChainHead, entries: &[AuditEntry]) -> Result<(), StoreError> {
        (**self).append_entries(after, entries).await
    }
}

/// Refuses `entries` that are to follow `after` where a chain has these ends.
pub(in crate::store) fn require_following(
    ends: &ChainEnds,
    after: &ChainHead,
    entries: &[AuditEntry],
) -> Result<(), StoreError> {
    let fits = *ends == ChainEnds::default() || ends.head == *after;
    let numbers = || [after.number].into_iter().chain(entries.iter().map(|entry| entry.number));
    let ascending = numbers().zip(numbers().skip(1)).all(|(before, number)| before < number);
    if fits && ascending { Ok(()) } else { Err(StoreErrorKind::Conflict.into()) }
}

/// Which entries are wanted; all of them by default, newest first.
///
/// ```
/// use keyward::{UserId, audit::AuditQuery, event::Outcome};
///
/// let refused = AuditQuery::default().with_user(UserId::new("alice")?).with_outcome(Outcome::Refused);
/// assert_eq!(refused.limit, 50);
/// # Ok::<(), keyward::id::InvalidUserId>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditQuery {
    /// Only what this user did, or what was theirs.
    pub user: Option<UserId>,
    /// Only what is about this token.
    pub token: Option<TokenId>,
    /// Only events of this name, such as `token.revoked`.
    pub event: Option<Box<str>>,
    /// Only what ended like this.
    pub outcome: Option<Outcome>,
    /// Only what is dated at this time or later.
    pub since: Option<UnixTime>,
    /// Only what is dated before this time.
    pub until: Option<UnixTime>,
    /// Only entries with numbers below this one: the cursor of the page before.
    pub before: Option<u64>,
    /// At most so many entries: 50 by default.
    pub limit: u32,
}

impl Default for AuditQuery {
    fn default() -> Self {
        Self {
            user: None,
            token: None,
            event: None,
            outcome: None,
            since: None,
            until: None,
            before: None,
            limit: 50,
        }
    }
}

impl AuditQuery {
    /// The largest limit.
    pub const MAX_LIMIT: u32 = 200;

    /// Only what `user` did, or what was theirs.
    #[must_use]
    pub fn with_user(mut self, user: UserId) -> Self {
        self.user = Some(user);
        self
    }

    /// Only what is about this token.
    #[must_use]
    pub fn with_token(mut self, token: TokenId) -> Self {
        self.token = Some(token);
        self
    }

    /// Only events of this name; see [`EventKind::name`](crate::event::EventKind::name).
    #[must_use]
    pub fn with_event(mut self, name: impl Into<Box<str>>) -> Self {
        self.event = Some(name.into());
        self
    }

    /// Only what ended like this.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Only what is dated at this time or later.
    #[must_use]
    pub fn since(mut self, time: UnixTime) -> Self {
        self.since = Some(time);
        self
    }

    /// Only what is dated before this time.
    #[must_use]
    pub fn until(mut self, time: UnixTime) -> Self {
        self.until = Some(time);
        self
    }

    /// The page that follows the one with this cursor.
    #[must_use]
    pub fn with_cursor(mut self, cursor: Option<u64>) -> Self {
        self.before = cursor;
        self
    }

    /// At most so many entries: 1 to 200.
    #[must_use]
    pub fn with_limit(mut self, limit: u32) -> Self {
        self.limit = limit.clamp(1, Self::MAX_LIMIT);
        self
    }

    /// Whether `entry` is wanted, apart from the limit.
    #[must_use]
    pub fn matches(&self, entry: &AuditEntry) -> bool {
        let is = |column: &Option<Box<str>>, text: &str| column.as_deref() == Some(text);
        let user = |user: &UserId| is(&entry.actor, user.as_str()) || is(&entry.user_id, user.as_str());
        self.before.is_none_or(|before| entry.number < before)
            && self.user.as_ref().is_none_or(user)
            && self.token.is_none_or(|token| is(&entry.token_id, &token.to_string()))
            && self.event.as_ref().is_none_or(|event| *event == entry.event)
            && self.outcome.is_none_or(|outcome| *entry.outcome == *outcome.as_str())
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at < until)
    }
}
