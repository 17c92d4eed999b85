//! The audit entries, as SQL on one connection.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, params_from_iter, types::Value};

use super::{failure::Failure, queries::write};
use crate::{
    event::Event,
    store::{AuditEntry, AuditQuery, ChainEnds, ChainHash, ChainHead, StoreErrorKind},
    time::UnixTime,
};

/// The columns that [`decode`] reads, in the order in which they are hashed.
macro_rules! columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "n, version, at, event, alert, outcome, actor, actor_email, user_id, token_id, client_ip, \
             request_id, refusal, reason, count, hash",
            $after
        )
    };
}

pub(super) fn append(connection: &mut Connection, events: &[Event]) -> Result<ChainHead, Failure> {
    write(connection, |transaction| {
        let mut head = chain_ends(transaction)?.head;
        // Rows that somebody else has put behind the end must not keep anything from being written.
        let last: Option<i64> =
            transaction.prepare_cached("SELECT max(n) FROM audit")?.query_row([], |row| row.get(0))?;
        head.number = head.number.max(last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0));
        for event in events {
            let entry = AuditEntry::following(&head, event);
            insert(transaction, &entry)?;
            head = entry.head();
        }
        transaction
            .prepare_cached("UPDATE audit_chain SET head = ?1, head_hash = ?2 WHERE n = 1")?
            .execute(params![head.number.cast_signed(), head.hash.as_bytes()])?;
        Ok(head)
    })
}

pub(super) fn entries_after(
    connection: &Connection,
    number: u64,
    limit: u32,
) -> Result<Vec<AuditEntry>, Failure> {
    let sql = columns!("SELECT ", " FROM audit WHERE n > ?1 ORDER BY n LIMIT ?2");
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![i64::try_from(number).unwrap_or(i64::MAX), limit])?;
    let mut entries: Vec<AuditEntry> = Vec::new();
    loop {
        match rows.next().map_err(Failure::from) {
            Ok(Some(row)) => entries.push(decode(row)),
            Ok(None) => return Ok(entries),
            // A damaged row can keep SQLite from going on: it is the one after the last that it came to.
            Err(failure) if failure.error.kind() == StoreErrorKind::Corrupt => {
                let last = entries.last().map_or(number, |entry| entry.number);
                entries.push(AuditEntry::unreadable(last.saturating_add(1)));
                return Ok(entries);
            }
            Err(failure) => return Err(failure),
        }
    }
}

pub(super) fn search(connection: &Connection, query: &AuditQuery) -> Result<Vec<AuditEntry>, Failure> {
    let (sql, values) = search_sql(query);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(decode(row));
    }
    Ok(entries)
}

/// Both sides of "who did it, or whose it was" are read along an index of their own, as far as the page goes.
fn search_sql(query: &AuditQuery) -> (String, Vec<Value>) {
    let Some(user) = &query.user else { return page_sql(query, None) };
    let limit = Value::Integer(i64::from(query.limit));
    let (done, mut values) = page_sql(query, Some(("actor = ?", user.as_str())));
    let (owned, more) = page_sql(query, Some(("user_id = ?", user.as_str())));
    values.extend(more.into_iter().chain([limit]));
    let sql = format!("SELECT * FROM ({done}) UNION SELECT * FROM ({owned}) ORDER BY n DESC LIMIT ?");
    (sql, values)
}

fn page_sql(query: &AuditQuery, user: Option<(&str, &str)>) -> (String, Vec<Value>) {
    let text = |text: &str| Value::Text(text.to_owned());
    let time = |time: UnixTime| Value::Integer(time.as_millis());
    let before = query.before.map(|before| Value::Integer(i64::try_from(before).unwrap_or(i64::MAX)));
    let conditions = [
        user.map(|(condition, user)| (condition, text(user))),
        before.map(|before| ("n < ?", before)),
        query.token.map(|token| ("token_id = ?", Value::Text(token.to_string()))),
        query.event.as_ref().map(|event| ("event = ?", text(event))),
        query.outcome.map(|outcome| ("outcome = ?", text(outcome.as_str()))),
        query.since.map(|since| ("at >= ?", time(since))),
        query.until.map(|until| ("at < ?", time(until))),
    ];
    let mut sql = columns!("SELECT ", " FROM audit").to_owned();
    let mut values = Vec::new();
    for (condition, value) in conditions.into_iter().flatten() {
        sql.push_str(if values.is_empty() { " WHERE " } else { " AND " });
        sql.push_str(condition);
        values.push(value);
    }
    sql.push_str(" ORDER BY n DESC LIMIT ?");
    values.push(Value::Integer(i64::from(query.limit)));
    (sql, values)
}

pub(super) fn chain_ends(connection: &Connection) -> Result<ChainEnds, Failure> {
    let mut statement = connection
        .prepare_cached("SELECT anchor, anchor_hash, head, head_hash FROM audit_chain WHERE n = 1")?;
    let mut rows = statement.query([])?;
    let row = rows.next()?.ok_or_else(broken_ends)?;
    Ok(ChainEnds { anchor: head(row, 0)?, head: head(row, 2)? })
}

pub(super) fn delete_before(
    connection: &mut Connection,
    before: UnixTime,
    limit: u32,
) -> Result<u64, Failure> {
    write(connection, |transaction| {
        // Without the index on the time: what is read here is what will be deleted.
        let kept: Option<i64> = transaction
            .prepare_cached("SELECT n FROM audit WHERE +at >= ?1 ORDER BY n LIMIT 1")?
            .query_row([before.as_millis()], |row| row.get(0))
            .optional()?;
        let last: Option<(i64, [u8; 32])> = transaction
            .prepare_cached(
                "SELECT n, hash FROM (SELECT n, hash FROM audit WHERE n < ?1 ORDER BY n LIMIT ?2) \
                 ORDER BY n DESC LIMIT 1",
            )?
            .query_row(params![kept.unwrap_or(i64::MAX), limit], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((last, hash)) = last else { return Ok(0) };
        let deleted = transaction.prepare_cached("DELETE FROM audit WHERE n <= ?1")?.execute([last])?;
        transaction
            .prepare_cached("UPDATE audit_chain SET anchor = ?1, anchor_hash = ?2 WHERE n = 1")?
            .execute(params![last, hash])?;
        Ok(deleted as u64)
    })
}

fn insert(transaction: &Transaction<'_>, entry: &AuditEntry) -> Result<(), Failure> {
    let sql = columns!(
        "INSERT INTO audit (",
        ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
    );
    transaction.prepare_cached(sql)?.execute(params![
        entry.number.cast_signed(),
        entry.version,
        entry.at.as_millis(),
        entry.event,
        entry.alert,
        entry.outcome,
        entry.actor,
        entry.actor_email,
        entry.user_id,
        entry.token_id,
        entry.client_ip,
        entry.request_id,
        entry.refusal,
        entry.reason,
        entry.count.map(u64::cast_signed),
        entry.hash.as_bytes(),
    ])?;
    Ok(())
}

fn decode(row: &Row<'_>) -> AuditEntry {
    let number = row.get::<_, i64>(0).ok().and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    read(row, number).unwrap_or_else(|| AuditEntry::unreadable(number))
}

/// The entry, if each value is of the kind that was written.
fn read(row: &Row<'_>, number: u64) -> Option<AuditEntry> {
    let text = |column| row.get_ref(column).ok()?.as_str().ok().map(Box::<str>::from);
    let maybe = |column| Some(row.get_ref(column).ok()?.as_str_or_null().ok()?.map(Box::<str>::from));
    let alert = match row.get_ref(4).ok()?.as_i64().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let count = row.get_ref(14).ok()?.as_i64_or_null().ok()?;
    Some(AuditEntry {
        version: row.get(1).ok()?,
        at: UnixTime::from_millis(row.get(2).ok()?),
        event: text(3)?,
        alert,
        outcome: text(5)?,
        actor: maybe(6)?,
        actor_email: maybe(7)?,
        user_id: maybe(8)?,
        token_id: maybe(9)?,
        client_ip: maybe(10)?,
        request_id: maybe(11)?,
        refusal: maybe(12)?,
        reason: maybe(13)?,
        count: count.map(u64::try_from).transpose().ok()?,
        hash: ChainHash::from_bytes(row.get(15).ok()?),
        ..AuditEntry::empty(number)
    })
}

fn head(row: &Row<'_>, first: usize) -> Result<ChainHead, Failure> {
    let number = row.get::<_, i64>(first).ok().and_then(|number| u64::try_from(number).ok());
    let hash = row.get(first + 1).ok().map(ChainHash::from_bytes);
    match (number, hash) {
        (Some(number), Some(hash)) => Ok(ChainHead { number, hash }),
        _ => Err(broken_ends()),
    }
}

fn broken_ends() -> Failure {
    Failure::new(StoreErrorKind::Corrupt, "the ends of the audit log cannot be read; restore a backup")
}
