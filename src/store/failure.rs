//! How stores say no: [`StoreError`].

use std::{error::Error as StdError, fmt, sync::Arc};

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
    /// The user is not a new one.
    #[error("the user exists already")]
    UserExists,
    /// The token's owner is suspended or offboarded, so they get no new tokens.
    #[error("the user is suspended or gone")]
    OwnerInactive,
    /// This store cannot be written at all, or not in this way.
    #[error("the store is read-only")]
    ReadOnly,
}

impl StoreError {
    /// An error of this kind with its cause.
    pub fn new(kind: StoreErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, source: Some(Arc::from(source.into())) }
    }

    /// A stored value that cannot be what was stored.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn unreadable(column: &str) -> Self {
        let sentence = format!("the stored {column} of a token cannot be read; restore a backup");
        Self::new(StoreErrorKind::Corrupt, sentence)
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
