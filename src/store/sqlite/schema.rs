//! The tables, and how a file comes to have them.

use rusqlite::{Connection, TransactionBehavior};

use super::failure::Failure;
use crate::store::StoreErrorKind;

/// Marks a file as keyward's: `kwrd`.
pub(super) const APPLICATION_ID: i32 = 0x6b77_7264;

/// One script for each version; a version, once released, never changes.
const MIGRATIONS: [&str; 9] = [
    "
    CREATE TABLE tokens (
        n INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        digest BLOB NOT NULL,
        user_id TEXT NOT NULL,
        name TEXT NOT NULL,
        class TEXT NOT NULL,
        scopes TEXT,
        roles TEXT,
        allowed_ips TEXT,
        metadata TEXT,
        hint TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        created_ip TEXT,
        created_by BLOB,
        rolling INTEGER NOT NULL,
        hard_end INTEGER,
        disabled_at INTEGER,
        revoked_at INTEGER,
        successor BLOB,
        revision INTEGER NOT NULL,
        expires_at INTEGER,
        seal INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX tokens_id ON tokens (id);
    CREATE UNIQUE INDEX tokens_digest ON tokens (digest);
    CREATE INDEX tokens_user ON tokens (user_id, id DESC);
    CREATE TABLE usage (
        n INTEGER PRIMARY KEY REFERENCES tokens (n),
        last_used INTEGER,
        last_used_ip TEXT,
        request_count INTEGER NOT NULL,
        seal INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE changes (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        digest BLOB NOT NULL
    ) STRICT;
    CREATE TABLE probe (
        n INTEGER PRIMARY KEY,
        beats INTEGER NOT NULL
    ) STRICT;
    INSERT INTO probe VALUES (1, 0);
",
    "
    CREATE TABLE users (
        user_id TEXT NOT NULL PRIMARY KEY,
        status TEXT NOT NULL,
        not_before INTEGER,
        seal INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE revoked_jwts (
        id BLOB NOT NULL PRIMARY KEY,
        until INTEGER NOT NULL,
        seal INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX revoked_jwts_until ON revoked_jwts (until);
",
    "
    ALTER TABLE tokens ADD COLUMN parent BLOB;
    ALTER TABLE tokens ADD COLUMN limits TEXT;
    ALTER TABLE tokens ADD COLUMN honeytoken INTEGER;
    CREATE INDEX tokens_parent ON tokens (parent) WHERE parent IS NOT NULL;
    CREATE INDEX tokens_created_by ON tokens (created_by) WHERE created_by IS NOT NULL;
",
    "
    ALTER TABLE usage ADD COLUMN quota TEXT;
",
    "
    CREATE TABLE audit (
        n INTEGER PRIMARY KEY,
        version INTEGER NOT NULL,
        at INTEGER NOT NULL,
        event TEXT NOT NULL,
        alert INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        actor TEXT,
        actor_email TEXT,
        user_id TEXT,
        token_id TEXT,
        client_ip TEXT,
        request_id TEXT,
        refusal TEXT,
        reason TEXT,
        count INTEGER,
        hash BLOB NOT NULL
    ) STRICT;
    CREATE INDEX audit_at ON audit (at);
    CREATE INDEX audit_event ON audit (event);
    CREATE INDEX audit_outcome ON audit (outcome);
    CREATE INDEX audit_actor ON audit (actor) WHERE actor IS NOT NULL;
    CREATE INDEX audit_user ON audit (user_id) WHERE user_id IS NOT NULL;
    CREATE INDEX audit_token ON audit (token_id) WHERE token_id IS NOT NULL;
    CREATE TABLE audit_chain (
        n INTEGER PRIMARY KEY,
        anchor INTEGER NOT NULL,
        anchor_hash BLOB NOT NULL,
        head INTEGER NOT NULL,
        head_hash BLOB NOT NULL
    ) STRICT;
    INSERT INTO audit_chain VALUES (1, 0, zeroblob(32), 0, zeroblob(32));
",
    "
    ALTER TABLE tokens ADD COLUMN warn_from INTEGER DEFAULT 0;
    CREATE INDEX tokens_warn_from ON tokens (warn_from)
        WHERE warn_from IS NOT NULL AND expires_at IS NOT NULL AND revoked_at IS NULL AND successor IS NULL;
",
    "
    CREATE TABLE owners (
        user_id TEXT NOT NULL PRIMARY KEY
    ) STRICT, WITHOUT ROWID;
    INSERT INTO owners SELECT DISTINCT user_id FROM tokens
        WHERE user_id NOT GLOB 'public:*' AND user_id NOT GLOB 'static:*';
    CREATE INDEX tokens_children ON tokens (parent, expires_at) WHERE parent IS NOT NULL AND revoked_at IS NULL;
",
    "
    ALTER TABLE usage ADD COLUMN habits TEXT;
",
    "
    CREATE INDEX tokens_living ON tokens (user_id, expires_at) WHERE revoked_at IS NULL;
",
];

/// The version that this crate writes.
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// What a file says of itself.
enum Found {
    /// Nothing was ever written.
    Empty,
    /// keyward's tables in this version, which is one that this crate knows.
    Version(i32),
}

/// Brings the tables to the current version, or finds them there.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let present = match inspect(&transaction)? {
        Found::Empty => 0,
        Found::Version(version) => version,
    };
    if present < VERSION {
        for script in MIGRATIONS.iter().skip(usize::try_from(present).unwrap_or(0)) {
            transaction.execute_batch(script)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    Ok(transaction.commit()?)
}

/// Refuses a file that [`migrate`] must not touch.
pub(super) fn check_migratable(connection: &Connection) -> Result<(), Failure> {
    inspect_now(connection).map(drop)
}

/// Refuses a file that does not have the current version.
pub(super) fn check_current(connection: &Connection) -> Result<(), Failure> {
    match inspect_now(connection)? {
        Found::Version(VERSION) => Ok(()),
        Found::Version(_) | Found::Empty => Err(Failure::new(
            StoreErrorKind::Incompatible,
            "the database was replaced by one that is empty or of an earlier version; restart to migrate it",
        )),
    }
}

/// In one snapshot, since another process may be migrating.
fn inspect_now(connection: &Connection) -> Result<Found, Failure> {
    inspect(&*connection.unchecked_transaction()?)
}

fn inspect(connection: &Connection) -> Result<Found, Failure> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if application == 0 && version == 0 {
        let objects: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if objects == 0 {
            return Ok(Found::Empty);
        }
    }
    if application != APPLICATION_ID {
        return Err(Failure::new(
            StoreErrorKind::Incompatible,
            "the database belongs to another application; give keyward a file of its own",
        ));
    }
    if (1..=VERSION).contains(&version) {
        return Ok(Found::Version(version));
    }
    Err(Failure::new(
        StoreErrorKind::Incompatible,
        format!(
            "the database has version {version} and this keyward knows versions up to {VERSION}; \
             run a newer keyward or restore a backup"
        ),
    ))
}
