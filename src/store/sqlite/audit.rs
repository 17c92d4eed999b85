//! The audit entries, as SQL on one connection.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, params_from_iter, types::Value};

use super::{failure::Failure, queries::write};
use crate::{
    event::Event,
    store::{
        AuditEntry, AuditQuery, ChainEnds, ChainHash, ChainHead, StoreErrorKind, audit::require_following,
    },
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
        let head = chain_ends(transaction)?.head;
        let last: Option<i64> =
            transaction.prepare_cached("SELECT max(n) FROM audit")?.query_row([], |row| row.get(0))?;
        let (entries, head) = AuditEntry::chain(head, last, events);
        for entry in &entries {
            insert(transaction, entry)?;
        }
        transaction
            .prepare_cached("UPDATE audit_chain SET head = ?1, head_hash = ?2 WHERE n = 1")?
            .execute(params![head.number.cast_signed(), head.hash.as_bytes()])?;
        Ok(head)
    })
}

/// What another store wrote, as it is.
pub(super) fn append_entries(
    connection: &mut Connection,
    after: &ChainHead,
    entries: &[AuditEntry],
) -> Result<(), Failure> {
    write(connection, |transaction| {
        let ends = chain_ends(transaction)?;
        require_following(&ends, after, entries)?;
        for entry in entries {
            insert(transaction, entry)?;
        }
        let anchor = if ends == ChainEnds::default() { *after } else { ends.anchor };
        let head = entries.last().map_or(*after, AuditEntry::head);
        transaction
            .prepare_cached(
                "UPDATE audit_chain SET anchor = ?1, anchor_hash = ?2, head = ?3, head_hash = ?4 WHERE n = 1",
            )?
            .execute(params![
                anchor.number.cast_signed(),
                anchor.hash.as_bytes(),
                head.number.cast_signed(),
                head.hash.as_bytes()
            ])?;
        Ok(())
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
    // Where nothing else leads to the entries, their times do: numbers and times run almost in parallel.
    let by_time = user.is_none() && query.token.is_none() && query.event.is_none();
    let conditions = [
        user.map(|(condition, user)| (condition, text(user))),
        before.map(|before| ("n < ?", before)),
        query.token.map(|token| ("token_id = ?", Value::Text(token.to_string()))),
        query.event.as_ref().map(|event| ("event = ?", text(event))),
        query.outcome.map(|outcome| ("outcome = ?", text(outcome.as_str()))),
        query.since.map(|since| ("at >= ?", time(since))),
        query.until.map(|until| ("at < ?", time(until))),
        query.since.filter(|_| by_time).map(|since| (FIRST_SINCE, time(since))),
        query.until.filter(|_| by_time).map(|until| (LAST_UNTIL, time(until))),
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

// With a bare `n` SQLite would look for the first number from the start of the table.
const FIRST_SINCE: &str = "n >= (SELECT min(n + 0) FROM audit WHERE at >= ?)";
const LAST_UNTIL: &str = "n <= (SELECT max(n + 0) FROM audit WHERE at < ?)";

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

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        fs,
        ops::Range,
        path::{Path, PathBuf},
    };

    use tempfile::TempDir;

    use super::*;
    use crate::{
        error::Refusal,
        event::{EventKind, Outcome},
        id::UserId,
        store::{
            AuditError, AuditStore, Broken, Flaw, SqliteOptions, SqliteStore, Verified, audit::verify::verify,
        },
    };

    /// Something in each column, and another text in each event.
    fn event(number: usize) -> Event {
        let id = format!("019a9d5a-7c00-7abc-8def-0123456789{number:02x}");
        let event = Event::new(EventKind::AccessRefused(Refusal::Revoked))
            .by(&UserId::new(format!("actor-{number}")).unwrap())
            .with_email(Some(format!("{number}@example.org").into()))
            .owned_by(&UserId::new(format!("owner-{number}")).unwrap())
            .token(id.parse::<crate::TokenId>().unwrap())
            .at_ip(Some([192, 0, 2, 7].into()))
            .in_request(Some(&format!("request-{number}")))
            .because(&format!("reason-{number}"));
        Event { at: UnixTime::from_millis(1_800_000_000_000 + number as i64), ..event }
    }

    /// A closed file with five entries, to be copied and changed.
    struct Five {
        directory: TempDir,
        bytes: Vec<u8>,
        entries: Vec<AuditEntry>,
        copies: Cell<u32>,
    }

    impl Five {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("audit.db");
            let store = SqliteStore::open(&path).await.unwrap();
            store.append(&[1, 2, 3, 4, 5].map(event)).await.unwrap();
            let entries = store.entries_after(0, 9).await.unwrap();
            drop(store);
            // This waits until all others have closed it, and leaves nothing beside the file.
            let connection = Connection::open(&path).unwrap();
            while connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).is_err() {
                tokio::task::yield_now().await;
            }
            drop(connection);
            let bytes = fs::read(&path).unwrap();
            Self { directory, bytes, entries, copies: Cell::new(0) }
        }

        /// A copy under a name of its own, since the one before may still be open.
        fn copy_of(&self, bytes: &[u8]) -> PathBuf {
            self.copies.set(self.copies.get() + 1);
            let copy = self.directory.path().join(format!("{}.db", self.copies.get()));
            fs::write(&copy, bytes).unwrap();
            fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            copy
        }

        fn changed(&self, sql: &str) -> PathBuf {
            let copy = self.copy_of(&self.bytes);
            Connection::open(&copy).unwrap().execute_batch(sql).unwrap();
            copy
        }
    }

    async fn checked(path: &Path, noted: Option<ChainHead>) -> Result<Verified, AuditError> {
        let store = SqliteOptions::new(path).with_check_on_open(false).with_readers(1).open().await?;
        verify(&store, noted).await
    }

    async fn broken(path: &Path, noted: Option<ChainHead>) -> Option<(u64, Flaw)> {
        match checked(path, noted).await {
            Ok(_) => None,
            Err(AuditError::Broken(Broken { number, flaw })) => Some((number, flaw)),
            Err(AuditError::Store(error)) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn a_change_in_any_column_names_the_entry() {
        let five = Five::new().await;
        let mut changes = Vec::new();
        for column in [
            "event",
            "outcome",
            "actor",
            "actor_email",
            "user_id",
            "token_id",
            "client_ip",
            "request_id",
            "refusal",
            "reason",
        ] {
            changes.push(format!("{column} = char(unicode({column}) + 1) || substr({column}, 2)"));
            changes.push(format!("{column} = substr({column}, 1, length({column}) - 1) || '~'"));
            changes.push(format!("{column} = {column} || char(0)"));
            changes.push(format!("{column} = ''"));
            if column != "event" && column != "outcome" {
                changes.push(format!("{column} = NULL"));
            }
        }
        for (column, first) in [("at", 0), ("alert", 0), ("version", 0), ("n", 1)] {
            changes.extend((first..7).map(|byte| format!("{column} = {column} + (1 << (8 * {byte}))")));
        }
        changes.extend(
            ["count = 0", "count = -1", "alert = 2", "at = -at", "n = -n", "n = 0"].map(String::from),
        );
        changes.push("hash = zeroblob(0)".to_owned());
        changes.push("hash = zeroblob(32)".to_owned());
        changes.push("hash = (SELECT hash FROM audit WHERE n = 4)".to_owned());
        for sql in changes {
            let path = five.changed(&format!("UPDATE audit SET {sql} WHERE n = 3"));
            assert_eq!(broken(&path, None).await.map(|(number, _)| number), Some(3), "{sql}");
        }
    }

    /// Where the third entry stands in the file: SQLite puts each before the one that was written before it.
    fn place(five: &Five) -> Range<usize> {
        let end = |number: usize| {
            let hash = five.entries[number - 1].hash;
            five.bytes.windows(32).position(|window| window == hash.as_bytes()).unwrap() + 32
        };
        end(4)..end(3)
    }

    #[tokio::test]
    async fn a_flipped_bit_in_any_byte_of_a_row_names_the_entry() {
        let five = Five::new().await;
        let place = place(&five);
        let bytes = &five.bytes;
        // The values stand behind the length of the row, its number, and their own kinds and lengths.
        let values =
            place.start + bytes[place.clone()].windows(4).position(|part| part == b"acce").unwrap() - 6;
        assert!((150..250).contains(&place.len()) && values - place.start < 30, "{place:?}, {values}");
        for at in place {
            for flip in [0x01, 0x20, 0x80] {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                let found = broken(&five.copy_of(&bytes), None).await.map(|(number, _)| number);
                if at >= values {
                    assert_eq!(found, Some(3), "value byte {}, {flip}", at - values);
                } else {
                    // SQLite may not be able to read any of the page's rows then.
                    assert!(found == Some(3) || found == Some(1), "{found:?}: head byte {at}, {flip}");
                }
            }
        }
    }

    const COLUMNS: &str = "version, at, event, alert, outcome, actor, actor_email, user_id, token_id, client_ip, \
                           request_id, refusal, reason, count, hash";

    #[tokio::test]
    async fn entries_that_are_taken_out_put_in_or_exchanged_are_named() {
        let five = Five::new().await;
        let swap = "UPDATE audit SET n = 9 WHERE n = 2; UPDATE audit SET n = 2 WHERE n = 4; UPDATE audit SET n = 4 WHERE n = 9";
        let again = |from: u8, to: u8| {
            format!("INSERT INTO audit SELECT {to}, {COLUMNS} FROM audit WHERE n = {from}")
        };
        let shift = format!(
            "UPDATE audit SET n = -n - 1 WHERE n > 2; UPDATE audit SET n = -n WHERE n < 0; {}",
            again(2, 3)
        );
        let close = "DELETE FROM audit WHERE n = 2; UPDATE audit SET n = -n + 1 WHERE n > 2; UPDATE audit SET n = -n WHERE n < 0";
        for (sql, number, flaw) in [
            ("DELETE FROM audit WHERE n = 3", 3, Flaw::Missing),
            ("DELETE FROM audit WHERE n = 1", 1, Flaw::Missing),
            ("DELETE FROM audit WHERE n = 5", 5, Flaw::Missing),
            ("DELETE FROM audit WHERE n > 2", 3, Flaw::Missing),
            ("DELETE FROM audit", 1, Flaw::Missing),
            (close, 2, Flaw::Altered),
            (swap, 2, Flaw::Altered),
            (&shift, 3, Flaw::Altered),
            (&again(5, 6), 6, Flaw::Altered),
            (&again(5, 7), 6, Flaw::Missing),
            ("UPDATE audit_chain SET anchor = 1", 2, Flaw::Altered),
            ("UPDATE audit_chain SET anchor_hash = (SELECT hash FROM audit WHERE n = 1)", 1, Flaw::Altered),
            (
                "UPDATE audit_chain SET head = 4, head_hash = (SELECT hash FROM audit WHERE n = 4)",
                5,
                Flaw::Unrecorded,
            ),
            ("UPDATE audit_chain SET head_hash = zeroblob(32)", 5, Flaw::Altered),
        ] {
            assert_eq!(broken(&five.changed(sql), None).await, Some((number, flaw)), "{sql}");
        }
        let path = five.changed("DELETE FROM audit_chain");
        assert!(matches!(checked(&path, None).await, Err(AuditError::Store(_))), "without its ends");
    }

    #[tokio::test]
    async fn a_noted_head_shows_what_the_chain_alone_cannot() {
        let five = Five::new().await;
        let path = five.copy_of(&five.bytes);
        let heads: Vec<_> = five.entries.iter().map(AuditEntry::head).collect();
        for head in &heads {
            assert_eq!(broken(&path, Some(*head)).await, None, "{head}");
        }
        let other = ChainHead { number: 3, ..heads[3] };
        assert_eq!(broken(&path, Some(other)).await, Some((3, Flaw::NotAsNoted)));

        let cut = five.changed(
            "DELETE FROM audit WHERE n > 3; \
             UPDATE audit_chain SET head = 3, head_hash = (SELECT hash FROM audit WHERE n = 3)",
        );
        assert_eq!(
            broken(&cut, None).await,
            None,
            "a chain that is cut off with all that belongs to it is whole"
        );
        assert_eq!(broken(&cut, Some(heads[4])).await, Some((4, Flaw::Missing)));
        assert_eq!(broken(&cut, Some(heads[2])).await, None);

        let pruned = five.copy_of(&five.bytes);
        let store = SqliteStore::open(&pruned).await.unwrap();
        store.delete_before(event(4).at, 9).await.unwrap();
        drop(store);
        assert_eq!(broken(&pruned, Some(heads[1])).await, Some((2, Flaw::Forgotten)));
        assert_eq!(broken(&pruned, Some(heads[2])).await, None, "the anchor is known");
        assert_eq!(broken(&pruned, Some(other)).await, Some((3, Flaw::NotAsNoted)));
    }

    #[tokio::test]
    async fn writing_goes_on_and_reading_too_whatever_was_done_to_the_rows() {
        let five = Five::new().await;
        let forged = format!("INSERT INTO audit SELECT 6, {COLUMNS} FROM audit WHERE n = 5");
        let path = five.changed(&format!(
            "{forged}; DELETE FROM audit WHERE n = 2; UPDATE audit SET alert = 7 WHERE n = 4"
        ));
        let store = SqliteStore::open(&path).await.unwrap();
        assert_eq!(store.append(&[event(7)]).await.unwrap().number, 7);
        let found = store.search(&AuditQuery::default()).await.unwrap();
        let numbers: Vec<_> = found.iter().map(|entry| (entry.number, &*entry.event)).collect();
        let refused = "access.refused";
        assert_eq!(
            numbers,
            [
                (7, refused),
                (6, refused),
                (5, refused),
                (4, AuditEntry::UNREADABLE),
                (3, refused),
                (1, refused)
            ]
        );
        assert_eq!(broken(&path, None).await, Some((2, Flaw::Missing)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn several_stores_on_one_file_write_one_chain() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.db");
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..4 {
            let store = SqliteStore::open(&path).await.unwrap();
            writers.spawn(async move {
                for _ in 0..25 {
                    store.append(&[event(number), event(number)]).await.unwrap();
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        assert_eq!(checked(&path, None).await.unwrap().entries, 200);
    }

    #[tokio::test]
    async fn searches_go_along_an_index() {
        let five = Five::new().await;
        let connection = Connection::open(five.copy_of(&five.bytes)).unwrap();
        let user = || AuditQuery::default().with_user(UserId::new("actor-3").unwrap());
        let token = event(3).token.unwrap();
        for (query, indexes) in [
            (AuditQuery::default(), &[][..]),
            (user(), &["audit_actor", "audit_user"]),
            (user().since(event(1).at).with_cursor(Some(9)), &["audit_actor", "audit_user"]),
            (AuditQuery::default().with_token(token), &["audit_token"]),
            (AuditQuery::default().with_event("foreign_access"), &["audit_event"]),
            (AuditQuery::default().with_outcome(Outcome::Failed), &["audit_outcome"]),
            (AuditQuery::default().since(event(1).at), &["COVERING INDEX audit_at"]),
            (AuditQuery::default().until(event(4).at), &["COVERING INDEX audit_at"]),
        ] {
            let (sql, values) = search_sql(&query);
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let plan = statement.query_map(params_from_iter(values), |row| row.get::<_, String>(3)).unwrap();
            let plan: Vec<_> = plan.map(Result::unwrap).collect();
            let plan = plan.join("; ");
            assert!(indexes.iter().all(|index| plan.contains(index)), "{query:?}: {plan}");
            assert!(indexes.is_empty() || !plan.contains("SCAN audit"), "{query:?}: {plan}");
        }
    }
}
