//! What is done for tokens in the background, as SQL on one connection.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    failure::Failure,
    queries::{get, readable, unsynced, write},
    rows::{decode, from_time, select},
};
use crate::{
    id::TokenId,
    store::{Claimed, Purge, StoreErrorKind, Warnings},
    time::UnixTime,
    token::TokenRecord,
};

/// Columns of [`select!`].
const CREATED_AT: usize = 10;
const LAST_USED: usize = 21;

/// With so many pages in the log that are not in the file, it is time to move them.
const LOG_PAGES: i64 = 500;

/// With so many the writer does it itself: SQLite's default.
const AUTOCHECKPOINT: i64 = 1000;

/// What a look at some records found.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) looked_at: u64,
    /// The ids and revisions of what is to be removed.
    pub(super) ended: Vec<(TokenId, u64)>,
    pub(super) next: Option<TokenId>,
}

pub(super) fn look(connection: &Connection, purge: &Purge) -> Result<Look, Failure> {
    let after = purge.after.map_or(Vec::new(), |id| id.into_bytes().to_vec());
    let mut look = Look { looked_at: 0, ended: Vec::new(), next: None };
    let mut statement = connection.prepare_cached(select!("WHERE t.id > ?1 ORDER BY t.id LIMIT ?2"))?;
    let mut rows = statement.query(params![after, purge.limit])?;
    let (mut last, mut known) = (None, HashMap::new());
    while let Some(row) = rows.next()? {
        look.looked_at += 1;
        last = TokenId::from_bytes(row.get(0)?);
        let (created_at, last_used) =
            (UnixTime::from_millis(row.get(CREATED_AT)?), from_time(row, LAST_USED)?);
        // Nothing is used after its end, so what was made or used since then need not be read.
        if created_at > purge.before || last_used.is_some_and(|used| used > purge.before) {
            continue;
        }
        match decode(row) {
            Ok(record)
                if purge.takes(&record) || ends_with_others(connection, &record, purge, &mut known)? =>
            {
                look.ended.push((record.id, record.revision))
            }
            Ok(_) => {}
            Err(failure) if failure.error.kind() == StoreErrorKind::Corrupt => {
                tracing::error!("a damaged token record was skipped; restore a backup");
            }
            Err(failure) => return Err(failure),
        }
    }
    look.next = last.filter(|_| look.looked_at == u64::from(purge.limit));
    Ok(look)
}

/// Whether a token that `record` ends with had ended by the time that `purge` says. `known` is what was asked of
/// others: for each whether what ends with it is to go, and what it ends with itself.
fn ends_with_others(
    connection: &Connection,
    record: &TokenRecord,
    purge: &Purge,
    known: &mut HashMap<TokenId, (bool, Option<TokenId>)>,
) -> Result<bool, Failure> {
    let (mut passed, mut parent) = (HashSet::new(), record.parent);
    while let Some(id) = parent.filter(|id| passed.insert(*id)) {
        let (ended, next) = match known.get(&id) {
            Some(known) => *known,
            None => {
                let ancestor = match get(connection, None, id) {
                    // Of what is damaged nothing is known.
                    Err(failure) if failure.error.kind() == StoreErrorKind::Corrupt && !failure.reopen => {
                        None
                    }
                    found => found?,
                };
                let told = |found: &TokenRecord| (purge.takes_children_of(found), found.parent);
                *known.entry(id).or_insert(ancestor.as_ref().map_or((false, None), told))
            }
        };
        if ended {
            return Ok(true);
        }
        parent = next;
    }
    Ok(false)
}

/// Removes what still is as it was when it was looked at. Not synced to the disk at once: what ended long ago
/// does no harm if it is there again after a power failure.
pub(super) fn remove(connection: &mut Connection, ended: &[(TokenId, u64)]) -> Result<u64, Failure> {
    // The pages that this changes are moved into the file by `save_log`.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    let removed = unsynced(connection, |transaction| {
        let mut removed = 0;
        // Most children are younger than what they end with, which waits until they are gone.
        for (id, revision) in ended.iter().rev() {
            removed += remove_token(transaction, *id, *revision)?;
        }
        Ok(removed)
    });
    connection.pragma_update(None, "wal_autocheckpoint", AUTOCHECKPOINT)?;
    removed
}

/// Moves the log into the file once it has grown. Not on the writer's connection: there a commit that finds the log
/// too long does this, and all others wait for it.
pub(super) fn save_log(connection: &Connection) -> Result<(), Failure> {
    let unsaved: i64 = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| {
        Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?)
    })?;
    if unsaved >= LOG_PAGES {
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    }
    Ok(())
}

fn remove_token(transaction: &Transaction<'_>, id: TokenId, revision: u64) -> Result<u64, Failure> {
    let row: Option<i64> = transaction
        .prepare_cached(
            "SELECT n FROM tokens AS t WHERE id = ?1 AND revision = ?2 \
             AND NOT EXISTS (SELECT 1 FROM tokens AS child WHERE child.parent = t.id)",
        )?
        .query_row(params![id.into_bytes(), revision.cast_signed()], |row| row.get(0))
        .optional()?;
    let Some(row) = row else { return Ok(0) };
    transaction.prepare_cached("DELETE FROM usage WHERE n = ?1")?.execute([row])?;
    Ok(transaction.prepare_cached("DELETE FROM tokens WHERE n = ?1")?.execute([row])? as u64)
}

/// As the index says it, so that it is used.
pub(super) const WAITING: &str = "
    SELECT n, warn_from FROM tokens
    WHERE warn_from <= ?1 AND expires_at IS NOT NULL AND revoked_at IS NULL AND successor IS NULL
    ORDER BY warn_from LIMIT ?2";

/// The column `warn_from` is when to look at a token again. It is not sealed: it opens nothing.
pub(super) fn claim_warnings(connection: &mut Connection, warnings: &Warnings) -> Result<Claimed, Failure> {
    write(connection, |transaction| {
        let mut statement = transaction.prepare_cached(WAITING)?;
        let rows = statement.query_map(params![warnings.now.as_millis(), warnings.limit], |row| {
            Ok((row.get::<_, i64>(0)?, UnixTime::from_millis(row.get(1)?)))
        })?;
        let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
        let mut claimed = Claimed::new(Vec::new(), rows.len() == warnings.limit as usize);
        for (row, since) in rows {
            let record = readable(transaction, select!("WHERE t.n = ?1"), [row])?.pop();
            let (due, next) = record.as_ref().map_or((false, None), |record| warnings.judge(record, since));
            claimed.tokens.extend(record.filter(|_| due));
            transaction
                .prepare_cached("UPDATE tokens SET warn_from = ?2 WHERE n = ?1")?
                .execute(params![row, next.map(UnixTime::as_millis)])?;
        }
        Ok(claimed)
    })
}
