//! The change log: what tells other processes to forget what they know.

use super::{failure::Failure, session::Session};

/// In the log in place of a digest: what is denied changed.
pub(super) const DENIALS_CHANGED: [u8; 32] = [0; 32];

/// For how long changes are kept, in milliseconds.
pub(super) const KEPT: i64 = 600_000;

/// How many entries there are from one look for old ones to the next.
const TIDY_EVERY: u32 = 256;

/// Also wakes those who wait for changes. They read the log then, so the notification says nothing more: what is
/// missed while a connection is down is read when there is one again.
const LOG: &str = "
    WITH logged AS (
        INSERT INTO changes (transaction, at, digest)
        SELECT pg_current_xact_id()::text::int8, (extract(epoch FROM clock_timestamp()) * 1000)::int8, digest
        FROM unnest($1::bytea[]) AS digest
    )
    SELECT pg_notify($2, '')";

/// A few at a time, and none that another process deletes. What time it is is asked once, so that the index leads to
/// them.
const TIDY: &str = "
    DELETE FROM changes WHERE n = ANY (ARRAY (
        SELECT n FROM changes WHERE at < (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8 - $1)
        ORDER BY at LIMIT 1000 FOR UPDATE SKIP LOCKED
    ))";

pub(super) async fn log_changes(session: &Session, digests: &[&[u8; 32]]) -> Result<(), Failure> {
    let digests: Vec<&[u8]> = digests.iter().map(|digest| digest.as_slice()).collect();
    session.query(LOG, &[&digests, &channel(&session.schema)]).await?;
    if session.tidies(TIDY_EVERY) {
        session.execute(TIDY, &[&KEPT]).await?;
    }
    Ok(())
}

/// Of the database, so it is named after the schema.
pub(super) fn channel(schema: &str) -> String {
    format!("keyward {schema}").chars().take(63).collect()
}
