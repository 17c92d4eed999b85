//! From PostgreSQL's errors to the store's.

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use tokio_postgres::{
    Error,
    error::{DbError, SqlState},
};

use crate::{
    error::with_causes,
    store::{StoreError, StoreErrorKind},
};

/// Why some work failed, and whether it is worth doing it once more.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    /// Nothing was done, and it may go well on another connection or after others have gone on.
    pub(super) retry: bool,
}

impl Failure {
    pub(super) fn new(kind: StoreErrorKind, sentence: impl Into<String>) -> Self {
        StoreError::new(kind, sentence.into()).into()
    }

    /// A stored value that cannot be what was stored.
    pub(super) fn unreadable(column: &str) -> Self {
        StoreError::unreadable(column).into()
    }

    pub(super) fn is_corrupt(&self) -> bool {
        self.error.kind() == StoreErrorKind::Corrupt
    }

    pub(super) fn for_good(self) -> Self {
        Self { retry: false, ..self }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error, retry: false }
    }
}

impl From<StoreErrorKind> for Failure {
    fn from(kind: StoreErrorKind) -> Self {
        StoreError::from(kind).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            Some(error) => from_server(error),
            None => Self {
                retry: true,
                ..Self::new(
                    StoreErrorKind::Unavailable,
                    format!("there is no connection to PostgreSQL ({})", with_causes(&error)),
                )
            },
        }
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        let sentence = match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                return Self::from(error).for_good();
            }
            PoolError::Timeout(TimeoutType::Wait) => {
                "all connections to PostgreSQL are in use for too long; raise the pool size or look for slow queries"
            }
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => {
                "PostgreSQL does not answer; check its address and the network"
            }
            PoolError::PostCreateHook(_) | PoolError::Closed | PoolError::NoRuntimeSpecified => {
                "the pool of connections to PostgreSQL is closed"
            }
        };
        Self::new(StoreErrorKind::Unavailable, sentence)
    }
}

/// What the server said. Its details and hints are left out: they may repeat stored values.
fn from_server(error: &DbError) -> Failure {
    let code = error.code();
    if *code == SqlState::UNIQUE_VIOLATION {
        return StoreErrorKind::Duplicate.into();
    }
    let (kind, sentence) = describe(code);
    let retry = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
    ];
    let failure = Failure::new(kind, format!("{sentence} ({}, {})", error.message(), code.code()));
    Failure { retry: retry.contains(code), ..failure }
}

fn describe(code: &SqlState) -> (StoreErrorKind, &'static str) {
    let unavailable = |sentence| (StoreErrorKind::Unavailable, sentence);
    match code.code() {
        "57014" | "55P03" => unavailable(
            "PostgreSQL did not finish in time: a lock is held elsewhere for too long, or it is overloaded",
        ),
        "57P01" | "57P02" | "57P03" => unavailable("PostgreSQL is stopping or starting"),
        "40001" | "40P01" => unavailable("others changed the same at the same time"),
        "53300" => unavailable("PostgreSQL has no connection left; raise its max_connections"),
        "53100" => unavailable("the disk of PostgreSQL is full"),
        "25006" => {
            unavailable("this PostgreSQL server is a standby, or read-only; give the primary's address")
        }
        "28P01" | "28000" => unavailable("PostgreSQL refused the user or the password"),
        "3D000" => unavailable("the database does not exist; create it"),
        "42501" => unavailable("the database user lacks a right; keyward needs a schema of its own"),
        "42P01" | "42703" | "3F000" | "42P07" | "42710" => (
            StoreErrorKind::Incompatible,
            "the schema does not hold keyward's tables, or others of the same names; give keyward a schema of its own",
        ),
        "XX001" | "XX002" => (StoreErrorKind::Corrupt, "PostgreSQL found damage; restore a backup"),
        _ => unavailable("PostgreSQL refused"),
    }
}
