//! What the store does, as SQL on one connection.

use rusqlite::{
    Connection, OptionalExtension, Params, Transaction, TransactionBehavior, params, types::Value,
};

use super::{
    failure::Failure,
    family::{adopt_children, log_children, require_fit},
    rows::{decode, decode_limits, decode_usage, encode_token, encode_usage, from_time, reseal, select},
    users::{DENIALS_CHANGED, require_active},
};
use crate::{
    id::{TokenId, UserId},
    secret::TokenDigest,
    store::{Change, Page, Rotation, StoreErrorKind, Usage, Warnings},
    time::UnixTime,
    token::TokenRecord,
};

/// How many changes the log keeps.
const LOG_LENGTH: i64 = 10_000;

/// How many active tokens a user has. The user's dead ones, of which there may be any number, are not looked at: all
/// who write wait for this.
pub(super) const ACTIVE: &str = "
    SELECT (SELECT count(*) FROM tokens INDEXED BY tokens_living
            WHERE user_id = ?1 AND revoked_at IS NULL AND expires_at IS NULL AND honeytoken IS NOT 1)
         + (SELECT count(*) FROM tokens INDEXED BY tokens_living
            WHERE user_id = ?1 AND revoked_at IS NULL AND expires_at > ?2 AND honeytoken IS NOT 1)";

/// Those of a user that are not revoked, without a look at the others.
pub(super) const UNREVOKED: &str =
    select!(by "tokens_living", "WHERE t.user_id = ?1 AND t.revoked_at IS NULL");

/// Sorts after every id.
const AFTER_ALL_IDS: [u8; 17] = [0xff; 17];

pub(super) fn find(connection: &Connection, digest: &TokenDigest) -> Result<Option<TokenRecord>, Failure> {
    one(connection, select!("WHERE t.digest = ?1"), [digest.as_bytes()])
}

/// The record with this id, if it is of `owner` (of anybody if there is none).
pub(super) fn get(
    connection: &Connection,
    owner: Option<&UserId>,
    id: TokenId,
) -> Result<Option<TokenRecord>, Failure> {
    let id = id.into_bytes();
    match owner {
        Some(owner) => {
            one(connection, select!("WHERE t.id = ?1 AND t.user_id = ?2"), params![id, owner.as_str()])
        }
        None => one(connection, select!("WHERE t.id = ?1"), [id]),
    }
}

pub(super) fn list(
    connection: &Connection,
    owner: Option<&UserId>,
    page: Page,
) -> Result<Vec<TokenRecord>, Failure> {
    let before = page.before.map_or(AFTER_ALL_IDS.to_vec(), |id| id.into_bytes().to_vec());
    match owner {
        Some(owner) => {
            let sql = select!("WHERE t.user_id = ?1 AND t.id < ?2 ORDER BY t.id DESC LIMIT ?3");
            readable(connection, sql, params![owner.as_str(), before, page.limit])
        }
        None => readable(
            connection,
            select!("WHERE t.id < ?1 ORDER BY t.id DESC LIMIT ?2"),
            params![before, page.limit],
        ),
    }
}

pub(super) fn count(connection: &Connection, owner: Option<&UserId>) -> Result<u64, Failure> {
    let found: i64 = match owner {
        Some(owner) => connection
            .prepare_cached("SELECT count(*) FROM tokens INDEXED BY tokens_living WHERE user_id = ?1 AND revoked_at IS NULL")?
            .query_row([owner.as_str()], |row| row.get(0))?,
        None => connection
            .prepare_cached("SELECT count(*) FROM tokens WHERE revoked_at IS NULL")?
            .query_row([], |row| row.get(0))?,
    };
    Ok(u64::try_from(found).unwrap_or(0))
}

pub(super) fn insert(
    connection: &mut Connection,
    record: &TokenRecord,
    limit: Option<u32>,
) -> Result<(), Failure> {
    write(connection, |transaction| {
        require_fit(transaction, record)?;
        require_room(transaction, record, limit)?;
        insert_row(transaction, record)
    })
}

/// Refuses a record that would be one active token of its owner too many.
fn require_room(
    transaction: &Transaction<'_>,
    record: &TokenRecord,
    limit: Option<u32>,
) -> Result<(), Failure> {
    let Some(limit) = limit else { return Ok(()) };
    let active: i64 = transaction
        .prepare_cached(ACTIVE)?
        .query_row(params![record.owner.as_str(), record.created_at.as_millis()], |row| row.get(0))?;
    if active < i64::from(limit) { Ok(()) } else { Err(StoreErrorKind::LimitReached.into()) }
}

pub(super) fn register(connection: &mut Connection, record: &TokenRecord) -> Result<(), Failure> {
    write(connection, |transaction| {
        let exists: bool = transaction
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM owners WHERE user_id = ?1) \
                 OR EXISTS (SELECT 1 FROM users WHERE user_id = ?1)",
            )?
            .query_row([record.owner.as_str()], |row| row.get(0))?;
        if exists { Err(StoreErrorKind::UserExists.into()) } else { insert_row(transaction, record) }
    })
}

pub(super) fn update(
    connection: &mut Connection,
    owner: Option<&UserId>,
    id: TokenId,
    change: &Change,
) -> Result<Option<TokenRecord>, Failure> {
    write(connection, |transaction| {
        let Some(mut record) = get(transaction, owner, id)? else { return Ok(None) };
        change.apply(&mut record)?;
        replace_row(transaction, &record)?;
        if change.disabled_at.is_some() || change.revoked_at.is_some() {
            log_children(transaction, id, change.dead_by)?;
        }
        Ok(Some(record))
    })
}

pub(super) fn rotate(
    connection: &mut Connection,
    owner: Option<&UserId>,
    id: TokenId,
    rotation: &Rotation,
) -> Result<Option<TokenRecord>, Failure> {
    write(connection, |transaction| {
        let Some(mut old) = get(transaction, owner, id)? else { return Ok(None) };
        rotation.apply(&mut old)?;
        require_active(transaction, &old.owner)?;
        replace_row(transaction, &old)?;
        require_room(transaction, &rotation.successor, rotation.max_active)?;
        insert_row(transaction, &rotation.successor)?;
        adopt_children(transaction, id, rotation)?;
        Ok(Some(old))
    })
}

pub(super) fn revoke_all(
    connection: &mut Connection,
    owner: &UserId,
    at: UnixTime,
) -> Result<Vec<TokenDigest>, Failure> {
    write(connection, |transaction| revoke_rows(transaction, owner, at))
}

pub(super) fn revoke_rows(
    transaction: &Transaction<'_>,
    owner: &UserId,
    at: UnixTime,
) -> Result<Vec<TokenDigest>, Failure> {
    let mut revoked = Vec::new();
    for mut record in readable(transaction, UNREVOKED, [owner.as_str()])? {
        Change::revoke(at).apply(&mut record)?;
        replace_row(transaction, &record)?;
        revoked.push(record.digest);
    }
    Ok(revoked)
}

/// Not synced to the disk at once: of a power failure the file itself survives, and some counts do not.
pub(super) fn record_usage(connection: &mut Connection, batch: &[Usage]) -> Result<(), Failure> {
    unsynced(connection, |transaction| {
        batch.iter().try_for_each(|usage| match add_usage(transaction, usage) {
            // The use of a damaged record is lost; that of the others is not.
            Err(failure) if failure.error.kind() == StoreErrorKind::Corrupt && !failure.reopen => Ok(()),
            done => done,
        })
    })
}

/// Writes a row that is there for this, so that a full or dead disk is noticed.
pub(super) fn probe(connection: &mut Connection) -> Result<(), Failure> {
    unsynced(connection, |transaction| {
        let sql = "UPDATE probe SET beats = (beats + 1) % 1000000 WHERE n = 1";
        transaction.prepare_cached(sql)?.execute([])?;
        Ok(())
    })
}

/// What `PRAGMA data_version` says: another value whenever another connection has written.
pub(super) fn data_version(connection: &Connection) -> Result<i64, Failure> {
    Ok(connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
}

/// The part of the change log after some position.
#[derive(Debug)]
pub(super) struct LogTail {
    /// The number of the newest change.
    pub(super) newest: u64,
    /// `None` if the log does not go back that far.
    pub(super) digests: Option<Vec<TokenDigest>>,
    /// Whether what is denied changed, as far as the log goes back.
    pub(super) denials: bool,
}

pub(super) fn log_after(connection: &Connection, since: Option<u64>) -> Result<LogTail, Failure> {
    let snapshot = connection.unchecked_transaction()?;
    let newest: i64 = snapshot
        .prepare_cached("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'changes'), 0)")?
        .query_row([], |row| row.get(0))?;
    let since = match since {
        None => newest,
        Some(since) => i64::try_from(since).unwrap_or(i64::MAX),
    };
    let (mut digests, mut length, mut denials) = (Vec::new(), 0_i64, false);
    let mut statement = snapshot.prepare_cached("SELECT digest FROM changes WHERE seq > ?1 ORDER BY seq")?;
    for digest in statement.query_map([since], |row| row.get(0))? {
        length += 1;
        match digest? {
            DENIALS_CHANGED => denials = true,
            digest => digests.push(TokenDigest::from_bytes(digest)),
        }
    }
    let complete = newest.checked_sub(since) == Some(length);
    Ok(LogTail { newest: newest.cast_unsigned(), digests: complete.then_some(digests), denials })
}

pub(super) fn write<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let done = work(&transaction)?;
    transaction.commit()?;
    Ok(done)
}

pub(super) fn unsynced<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    let done = write(connection, work);
    if let Err(error) = connection.execute_batch("PRAGMA synchronous = FULL") {
        // Only a new connection is sure to sync what must be.
        return Err(Failure { reopen: true, ..error.into() });
    }
    done
}

fn one(connection: &Connection, sql: &str, values: impl Params) -> Result<Option<TokenRecord>, Failure> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    rows.next()?.map(decode).transpose()
}

/// Of these records those that can be read. A damaged one opens nothing, and must not keep the others from
/// being listed or revoked.
pub(super) fn readable(
    connection: &Connection,
    sql: &str,
    values: impl Params,
) -> Result<Vec<TokenRecord>, Failure> {
    let mut records = Vec::new();
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    while let Some(row) = rows.next()? {
        match decode(row) {
            Ok(record) => records.push(record),
            Err(failure) if failure.error.kind() == StoreErrorKind::Corrupt => {
                tracing::error!("a damaged token record was skipped; restore a backup");
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(records)
}

pub(super) fn insert_row(transaction: &Transaction<'_>, record: &TokenRecord) -> Result<(), Failure> {
    let sql = "INSERT INTO tokens (id, digest, user_id, name, class, scopes, roles, allowed_ips, metadata, hint, \
               created_at, created_ip, created_by, rolling, hard_end, disabled_at, revoked_at, successor, revision, \
               expires_at, seal, parent, limits, honeytoken) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)";
    let values = rusqlite::params_from_iter(encode_token(record)?);
    let row = transaction.prepare_cached(sql)?.insert(values)?;
    let usage = [Value::Integer(row)].into_iter().chain(encode_usage(record)?);
    transaction
        .prepare_cached(
            "INSERT INTO usage (n, last_used, last_used_ip, request_count, seal, quota, habits) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(rusqlite::params_from_iter(usage))?;
    // Stays when the token is gone: nobody else can become this user.
    if !record.owner.is_made_up() {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO owners (user_id) VALUES (?1)")?
            .execute([record.owner.as_str()])?;
    }
    log_change(transaction, record)
}

/// Everything but the use, which no change touches.
pub(super) fn replace_row(transaction: &Transaction<'_>, record: &TokenRecord) -> Result<(), Failure> {
    let sql = "UPDATE tokens SET digest = ?2, user_id = ?3, name = ?4, class = ?5, scopes = ?6, roles = ?7, \
               allowed_ips = ?8, metadata = ?9, hint = ?10, created_at = ?11, created_ip = ?12, created_by = ?13, \
               rolling = ?14, hard_end = ?15, disabled_at = ?16, revoked_at = ?17, successor = ?18, revision = ?19, \
               expires_at = ?20, seal = ?21, parent = ?22, limits = ?23, honeytoken = ?24 WHERE id = ?1";
    let values = rusqlite::params_from_iter(encode_token(record)?);
    if transaction.prepare_cached(sql)?.execute(values)? != 1 {
        return Err(Failure::unreadable("id"));
    }
    log_change(transaction, record)
}

fn log_change(transaction: &Transaction<'_>, record: &TokenRecord) -> Result<(), Failure> {
    log_digest(transaction, record.digest.as_bytes())
}

pub(super) fn log_digest(transaction: &Transaction<'_>, digest: &[u8; 32]) -> Result<(), Failure> {
    let newest = transaction.prepare_cached("INSERT INTO changes (digest) VALUES (?1)")?.insert([digest])?;
    let sql = "DELETE FROM changes WHERE seq <= ?1";
    transaction.prepare_cached(sql)?.execute([newest.saturating_sub(LOG_LENGTH)])?;
    Ok(())
}

fn add_usage(transaction: &Transaction<'_>, usage: &Usage) -> Result<(), Failure> {
    let mut statement = transaction.prepare_cached(
        "SELECT t.n, t.user_id, t.rolling, t.revoked_at, t.expires_at, t.seal, \
         u.last_used, u.last_used_ip, u.request_count, u.seal, u.quota, t.limits, u.habits \
         FROM tokens AS t LEFT JOIN usage AS u ON u.n = t.n WHERE t.id = ?1",
    )?;
    let read =
        statement.query_row([usage.id.into_bytes()], |row| Ok(read_narrow(row, usage.id))).optional()?;
    let Some((row, seal, mut record)) = read.transpose()? else { return Ok(()) };
    let expires_at = record.expires_at;
    usage.apply(&mut record);
    let values = [Value::Integer(row)].into_iter().chain(encode_usage(&record)?);
    transaction
        .prepare_cached(
            "UPDATE usage SET last_used = ?2, last_used_ip = ?3, request_count = ?4, seal = ?5, quota = ?6, habits = ?7 \
             WHERE n = ?1",
        )?
        .execute(rusqlite::params_from_iter(values))?;
    if record.expires_at != expires_at {
        let seal = reseal(seal, usage.id, expires_at, record.expires_at);
        transaction
            .prepare_cached("UPDATE tokens SET expires_at = ?2, seal = ?3, warn_from = ?4 WHERE n = ?1")?
            .execute(params![
                row,
                record.expires_at.map(UnixTime::as_millis),
                seal,
                Warnings::after_renewal(usage.last_used).as_millis()
            ])?;
    }
    Ok(())
}

/// The row's number and seal, and as much of its record as use changes or depends on.
fn read_narrow(row: &rusqlite::Row<'_>, id: TokenId) -> Result<(i64, i64, TokenRecord), Failure> {
    let owner = UserId::new(row.get_ref(1)?.as_str().unwrap_or_default())
        .map_err(|_| Failure::unreadable("user_id"))?;
    let mut record = TokenRecord::new(id, TokenDigest::from_bytes([0; 32]), owner, UnixTime::EPOCH);
    record.rolling = row.get(2)?;
    record.revoked_at = from_time(row, 3)?;
    record.expires_at = from_time(row, 4)?;
    decode_usage(row, 6, [10, 12], &mut record)?;
    record.limits = decode_limits(row, 11)?;
    Ok((row.get(0)?, row.get(5)?, record))
}
