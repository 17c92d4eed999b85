//! From SQLite's errors to the store's.

use rusqlite::{Error, ErrorCode, ffi};

use crate::store::{StoreError, StoreErrorKind};

/// Why a job failed, and whether its connection can be used again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// The connection is to be dropped and opened again.
    pub(super) reopen: bool,
}

impl Failure {
    pub(super) fn new(kind: StoreErrorKind, sentence: impl Into<String>) -> Self {
        StoreError::new(kind, sentence.into()).into()
    }

    /// A stored value that cannot be what was stored.
    pub(super) fn unreadable(column: &str) -> Self {
        StoreError::unreadable(column).into()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, reopen: false }
    }
}

impl From<StoreErrorKind> for Failure {
    fn from(kind: StoreErrorKind) -> Self {
        StoreError::from(kind).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Some(code) = error.sqlite_error_code() else { return from_value(&error) };
        let unique = [ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_CONSTRAINT_PRIMARYKEY];
        if error.sqlite_error().is_some_and(|error| unique.contains(&error.extended_code)) {
            return StoreErrorKind::Duplicate.into();
        }
        let (kind, sentence) = describe(code);
        let reopen = matches!(
            code,
            ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
        );
        Self { error: StoreError::new(kind, format!("{sentence} ({error})")), reopen }
    }
}

fn describe(code: ErrorCode) -> (StoreErrorKind, &'static str) {
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            (StoreErrorKind::Unavailable, "another process holds the lock of the database for too long")
        }
        ErrorCode::DiskFull => (StoreErrorKind::Unavailable, "the disk is full"),
        ErrorCode::SystemIoFailure => (StoreErrorKind::Unavailable, "the disk cannot be read or written"),
        ErrorCode::CannotOpen => (StoreErrorKind::Unavailable, "the database file cannot be opened"),
        ErrorCode::ReadOnly => (StoreErrorKind::Unavailable, "the database file cannot be written"),
        ErrorCode::NotADatabase => (StoreErrorKind::Corrupt, "the file is not an SQLite database"),
        ErrorCode::DatabaseCorrupt => {
            (StoreErrorKind::Corrupt, "the database file is damaged; restore a backup")
        }
        _ => (StoreErrorKind::Unavailable, "SQLite refused"),
    }
}

/// Errors that are not SQLite's: a value of another type than its column has, so the file is damaged.
fn from_value(error: &Error) -> Failure {
    Failure::new(
        StoreErrorKind::Corrupt,
        format!("a stored value cannot be read; restore a backup ({error})"),
    )
}
