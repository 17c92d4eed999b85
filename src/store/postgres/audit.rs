//! The audit entries, as SQL on one connection.

use std::borrow::Cow;

use tokio_postgres::{Row, types::ToSql};

use super::{
    failure::Failure,
    rows::{escaped, unescaped},
    session::Session,
};
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

const INSERT: &str = columns!(
    "INSERT INTO audit (",
    ") SELECT * FROM unnest($1::int8[], $2::int4[], $3::int8[], $4::text[], $5::bool[], $6::text[], $7::text[], \
     $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::int8[], \
     $16::bytea[])"
);

const HOLD: &str = "SELECT anchor, anchor_hash, head, head_hash FROM audit_chain WHERE n = 1 FOR UPDATE";

/// The last entry to delete: what is looked at is no more than what may be deleted.
pub(super) const LAST_TO_DELETE: &str = "
    WITH first AS MATERIALIZED (SELECT n, at, hash FROM audit ORDER BY n LIMIT $2),
         kept AS (SELECT min(n) AS n FROM first WHERE at >= $1)
    SELECT first.n, first.hash FROM first CROSS JOIN kept
    WHERE kept.n IS NULL OR first.n < kept.n ORDER BY first.n DESC LIMIT 1";

pub(super) async fn append(session: &Session, events: &[Event]) -> Result<ChainHead, Failure> {
    // Others who append wait here, and then see what was appended.
    let row = session.maybe(HOLD, &[]).await?.ok_or_else(broken_ends)?;
    let last: Option<i64> = session.one("SELECT max(n) FROM audit", &[]).await?.try_get(0)?;
    let (entries, head) = AuditEntry::chain(head(&row, 2)?, last, events);
    insert(session, &entries).await?;
    let sql = "UPDATE audit_chain SET head = $1, head_hash = $2 WHERE n = 1";
    session.execute(sql, &[&head.number.cast_signed(), &head.hash.as_bytes().as_slice()]).await?;
    Ok(head)
}

async fn insert(session: &Session, entries: &[AuditEntry]) -> Result<(), Failure> {
    fn all<'a, T>(entries: &'a [AuditEntry], column: impl Fn(&'a AuditEntry) -> T) -> Vec<T> {
        entries.iter().map(column).collect()
    }
    let text = |column: fn(&AuditEntry) -> &Option<Box<str>>| {
        entries
            .iter()
            .map(|entry| column(entry).as_deref().map(escaped))
            .collect::<Vec<Option<Cow<'_, str>>>>()
    };
    let inserted = session
        .execute(
            INSERT,
            &[
                &all(entries, |entry| entry.number.cast_signed()),
                &all(entries, |entry| i32::try_from(entry.version).unwrap_or(i32::MAX)),
                &all(entries, |entry| entry.at.as_millis()),
                &all(entries, |entry| escaped(&entry.event)),
                &all(entries, |entry| entry.alert),
                &all(entries, |entry| escaped(&entry.outcome)),
                &text(|entry| &entry.actor),
                &text(|entry| &entry.actor_email),
                &text(|entry| &entry.user_id),
                &text(|entry| &entry.token_id),
                &text(|entry| &entry.client_ip),
                &text(|entry| &entry.request_id),
                &text(|entry| &entry.refusal),
                &text(|entry| &entry.reason),
                &all(entries, |entry| entry.count.map(u64::cast_signed)),
                &all(entries, |entry| entry.hash.as_bytes().as_slice()),
            ],
        )
        .await;
    inserted.map(drop)
}

pub(super) async fn entries_after(
    session: &Session,
    number: u64,
    limit: u32,
) -> Result<Vec<AuditEntry>, Failure> {
    let sql = columns!("SELECT ", " FROM audit WHERE n > $1 ORDER BY n LIMIT $2");
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    Ok(session.query(sql, &[&number, &i64::from(limit)]).await?.iter().map(decode).collect())
}

pub(super) async fn search(session: &Session, query: &AuditQuery) -> Result<Vec<AuditEntry>, Failure> {
    let search = Search::new(query);
    let values: Vec<&(dyn ToSql + Sync)> = search.values.iter().map(|value| &**value as _).collect();
    Ok(session.query(&search.sql, &values).await?.iter().map(decode).collect())
}

type Value = Box<dyn ToSql + Sync + Send>;

/// A search as SQL, and its values.
pub(super) struct Search {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
}

impl Search {
    /// Both sides of "who did it, or whose it was" are read along an index of their own, as far as the page goes.
    pub(super) fn new(query: &AuditQuery) -> Self {
        let mut search = Self { sql: String::new(), values: Vec::new() };
        let Some(user) = &query.user else {
            search.add_page(query, None);
            return search;
        };
        search.sql.push_str("SELECT * FROM ((");
        search.add_page(query, Some(("actor", user.as_str())));
        search.sql.push_str(") UNION (");
        search.add_page(query, Some(("user_id", user.as_str())));
        search.sql.push_str(")) AS found ORDER BY n DESC LIMIT ");
        search.add_value(Box::new(i64::from(query.limit)));
        search
    }

    fn add_page(&mut self, query: &AuditQuery, user: Option<(&'static str, &str)>) {
        let text = |text: &str| Box::new(escaped(text).into_owned()) as Value;
        let time = |time: UnixTime| Box::new(time.as_millis()) as Value;
        let before = query.before.map(|before| i64::try_from(before).unwrap_or(i64::MAX));
        let user_is =
            |(column, user)| (if column == "actor" { "actor = " } else { "user_id = " }, text(user));
        // Where nothing else leads to the entries, their times do: numbers and times run almost in parallel.
        let by_time = user.is_none() && query.token.is_none() && query.event.is_none();
        let conditions: [Option<(&str, Value)>; 7] = [
            user.map(user_is),
            before.map(|before| ("n < ", Box::new(before) as Value)),
            query.token.map(|token| ("token_id = ", text(&token.to_string()))),
            query.event.as_ref().map(|event| ("event = ", text(event))),
            query.outcome.map(|outcome| ("outcome = ", text(outcome.as_str()))),
            query.since.map(|since| ("at >= ", time(since))),
            query.until.map(|until| ("at < ", time(until))),
        ];
        self.sql.push_str(columns!("SELECT ", " FROM audit"));
        for (number, (condition, value)) in conditions.into_iter().flatten().enumerate() {
            self.sql.push_str(if number == 0 { " WHERE " } else { " AND " });
            self.sql.push_str(condition);
            self.add_value(value);
        }
        if by_time {
            let first = query.since.map(|_| " AND n >= (SELECT min(n + 0)");
            let last = query.until.map(|_| " AND n <= (SELECT max(n + 0)");
            first.into_iter().chain(last).for_each(|bound| self.add_bound(bound, query));
        }
        self.sql.push_str(" ORDER BY n DESC LIMIT ");
        self.add_value(Box::new(i64::from(query.limit)));
    }

    /// The first or the last number of that time, for which no more of the index is read than lies in it.
    fn add_bound(&mut self, bound: &str, query: &AuditQuery) {
        self.sql.push_str(bound);
        self.sql.push_str(" FROM audit WHERE true");
        for (condition, time) in [(" AND at >= ", query.since), (" AND at < ", query.until)] {
            if let Some(time) = time {
                self.sql.push_str(condition);
                self.add_value(Box::new(time.as_millis()));
            }
        }
        self.sql.push(')');
    }

    fn add_value(&mut self, value: Value) {
        self.values.push(value);
        self.sql.push_str(&format!("${}", self.values.len()));
    }
}

pub(super) async fn chain_ends(session: &Session) -> Result<ChainEnds, Failure> {
    let sql = "SELECT anchor, anchor_hash, head, head_hash FROM audit_chain WHERE n = 1";
    let row = session.maybe(sql, &[]).await?.ok_or_else(broken_ends)?;
    Ok(ChainEnds { anchor: head(&row, 0)?, head: head(&row, 2)? })
}

pub(super) async fn delete_before(session: &Session, before: UnixTime, limit: u32) -> Result<u64, Failure> {
    session.maybe(HOLD, &[]).await?.ok_or_else(broken_ends)?;
    let last = session.maybe(LAST_TO_DELETE, &[&before.as_millis(), &i64::from(limit)]).await?;
    let Some(last) = last else { return Ok(0) };
    let (number, hash): (i64, &[u8]) = (last.try_get(0)?, last.try_get(1)?);
    let deleted = session.execute("DELETE FROM audit WHERE n <= $1", &[&number]).await?;
    let sql = "UPDATE audit_chain SET anchor = $1, anchor_hash = $2 WHERE n = 1";
    session.execute(sql, &[&number, &hash]).await?;
    Ok(deleted)
}

fn decode(row: &Row) -> AuditEntry {
    let number = row.try_get::<_, i64>(0).ok().and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    read(row, number).unwrap_or_else(|| AuditEntry::unreadable(number))
}

/// The entry, if each value is of the kind that was written.
fn read(row: &Row, number: u64) -> Option<AuditEntry> {
    let text = |column: usize| unescaped(row.try_get(column).ok()?).ok();
    let maybe = |column: usize| {
        let text: Option<&str> = row.try_get(column).ok()?;
        text.map(unescaped).transpose().ok()
    };
    let count: Option<i64> = row.try_get(14).ok()?;
    let hash = <[u8; 32]>::try_from(row.try_get::<_, &[u8]>(15).ok()?).ok()?;
    Some(AuditEntry {
        version: u32::try_from(row.try_get::<_, i32>(1).ok()?).ok()?,
        at: UnixTime::from_millis(row.try_get(2).ok()?),
        event: text(3)?,
        alert: row.try_get(4).ok()?,
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
        hash: ChainHash::from_bytes(hash),
        ..AuditEntry::empty(number)
    })
}

fn head(row: &Row, first: usize) -> Result<ChainHead, Failure> {
    let number = row.try_get::<_, i64>(first).ok().and_then(|number| u64::try_from(number).ok());
    let hash = row.try_get::<_, &[u8]>(first + 1).ok().and_then(|hash| <[u8; 32]>::try_from(hash).ok());
    match (number, hash) {
        (Some(number), Some(hash)) => Ok(ChainHead { number, hash: ChainHash::from_bytes(hash) }),
        _ => Err(broken_ends()),
    }
}

fn broken_ends() -> Failure {
    Failure::new(StoreErrorKind::Corrupt, "the ends of the audit log cannot be read; restore a backup")
}
