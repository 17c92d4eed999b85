//! The tables, and how a schema comes to have them.

use super::{failure::Failure, session::Session};
use crate::store::StoreErrorKind;

/// One script for each version; a version, once released, never changes.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/1.sql")];

/// The version that this crate writes.
const VERSION: i32 = MIGRATIONS.len() as i32;

/// The oldest server that has all that is used here.
const OLDEST_SERVER: i32 = 130_000;

/// Brings the schema's tables to the current version, or finds them there. Several processes may do this at once:
/// one does, and the others wait for it.
pub(super) async fn migrate(session: &Session, schema: &str) -> Result<(), Failure> {
    check_server(session).await?;
    if present_version(session).await? == VERSION {
        return Ok(());
    }
    session.batch("BEGIN").await?;
    let done = migrate_alone(session, schema).await;
    match done {
        Ok(()) => session.batch("COMMIT").await,
        Err(failure) => {
            let _ = session.batch("ROLLBACK").await;
            Err(failure)
        }
    }
}

async fn migrate_alone(session: &Session, schema: &str) -> Result<(), Failure> {
    // However large the tables are that are changed, and however long another process takes for it.
    session.batch("SET LOCAL statement_timeout = 0").await?;
    session.lock("migration", "").await?;
    // Only then, since the right to make one may be missing where there is one.
    let exists = session.one("SELECT to_regnamespace($1) IS NOT NULL", &[&schema]).await?;
    if !exists.try_get::<_, bool>(0)? {
        session.batch(&format!("CREATE SCHEMA \"{schema}\"")).await?;
    }
    let present = usize::try_from(present_version(session).await?).unwrap_or(0);
    if present == 0 {
        session.batch("CREATE TABLE keyward_schema (version INTEGER NOT NULL)").await?;
        session.batch("INSERT INTO keyward_schema VALUES (0)").await?;
    }
    for script in MIGRATIONS.iter().skip(present) {
        session.batch(script).await?;
    }
    session.execute("UPDATE keyward_schema SET version = $1", &[&VERSION]).await?;
    Ok(())
}

async fn check_server(session: &Session) -> Result<(), Failure> {
    let sql = "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')";
    let row = session.one(sql, &[]).await?;
    let (version, encoding): (i32, &str) = (row.try_get(0)?, row.try_get(1)?);
    if version < OLDEST_SERVER {
        return Err(incompatible("the PostgreSQL server is older than 13; use a newer one"));
    }
    if encoding != "UTF8" {
        return Err(incompatible(
            "the database is not encoded in UTF-8; make one with `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`",
        ));
    }
    Ok(())
}

/// The version of the tables, which is one that this crate knows; 0 if there are none.
async fn present_version(session: &Session) -> Result<i32, Failure> {
    // Not prepared, since there may be no such table yet.
    let exists = session.one("SELECT to_regclass('keyward_schema') IS NOT NULL", &[]).await?;
    if !exists.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let row = session.one("SELECT max(version) FROM keyward_schema", &[]).await?;
    let version: Option<i32> = row.try_get(0)?;
    match version.filter(|version| *version > 0) {
        Some(version) if version <= VERSION => Ok(version),
        Some(version) => Err(incompatible(&format!(
            "the tables have version {version} and this keyward knows versions up to {VERSION}; run a newer keyward \
             or restore a backup"
        ))),
        None => Err(incompatible("the table keyward_schema holds no version; restore a backup")),
    }
}

fn incompatible(sentence: &str) -> Failure {
    Failure::new(StoreErrorKind::Incompatible, sentence)
}
