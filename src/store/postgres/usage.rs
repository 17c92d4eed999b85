//! The count of uses, as one statement for a whole batch, and what was noticed of them.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use uuid::Uuid;

use super::{
    failure::Failure,
    rows::{from_json, get, json, period_name, uuid},
    session::Session,
};
use crate::{store::Usage, time::UnixTime, watch::Habits};

/// What `StoredUse::seal` says, of the columns of the table that is named.
macro_rules! usage_seal {
    ($table:literal) => {
        concat!(
            "substr(sha256(convert_to('usage|' || ",
            $table,
            ".id::text || '|' || coalesce(",
            $table,
            ".last_used::text, '-') || '|' || coalesce(",
            $table,
            ".last_used_ip, '-') || '|' || ",
            $table,
            ".request_count::text || '|' || coalesce(",
            $table,
            ".quota_period, '-') || '|' || coalesce(",
            $table,
            ".quota_since::text, '-') || '|' || coalesce(",
            $table,
            ".quota_count::text, '-') || '|' || coalesce(",
            $table,
            ".habits, '-'), 'UTF8')), 1, 8)"
        )
    };
}

/// What `Stored::expires_seal` says, of the columns of the table that is named.
macro_rules! expiry_seal {
    ($table:literal) => {
        concat!(
            "substr(sha256(convert_to('expires_at|' || ",
            $table,
            ".id::text || '|' || coalesce(",
            $table,
            ".expires_at::text, '-'), 'UTF8')), 1, 8)"
        )
    };
}

/// The batch is in the order of its ids, and so are all rows locked: two batches never wait for each other. Each row is
/// looked up by itself, so that no seal of other rows is computed whatever the plan is. Damaged ones stay as they are: a
/// new seal would hide the damage. The rules are those of [`Usage::apply`].
pub(super) const RECORD: &str = concat!(
    "
    WITH batch AS (
        SELECT * FROM unnest(
            $1::uuid[], $2::int8[], $3::int8[], $4::text[], $5::int8[], $6::text[], $7::int8[], $8::int8[],
            $9::text[]
        ) AS batch (id, uses, used, ip, renewed_to, period, since, amount, merged)
    ), held AS MATERIALIZED (
        SELECT u.*, b.uses, b.used, b.ip, b.period, b.since, b.amount, b.merged,
               u.last_used IS NULL OR u.last_used < b.used AS later,
               CASE
                   WHEN b.period IS NULL THEN 'keep'
                   WHEN b.period IS DISTINCT FROM (SELECT quota_period FROM tokens WHERE tokens.id = b.id) THEN 'keep'
                   WHEN u.quota_since IS NULL OR u.quota_since < b.since THEN 'replace'
                   WHEN u.quota_since > b.since AND u.quota_period = b.period THEN 'keep'
                   ELSE 'add'
               END AS quota
        FROM batch AS b CROSS JOIN LATERAL (
            SELECT * FROM usage WHERE usage.id = b.id AND usage.seal = ",
    usage_seal!("usage"),
    "
            FOR UPDATE
        ) AS u
    ), added AS (
        SELECT id,
               CASE WHEN later THEN used ELSE last_used END AS last_used,
               CASE WHEN later THEN coalesce(ip, last_used_ip) ELSE last_used_ip END AS last_used_ip,
               CASE WHEN request_count > 9223372036854775807 - uses THEN 9223372036854775807
                    ELSE request_count + uses END AS request_count,
               CASE WHEN quota = 'keep' THEN quota_period ELSE period END AS quota_period,
               CASE WHEN quota = 'keep' THEN quota_since ELSE since END AS quota_since,
               CASE quota WHEN 'keep' THEN quota_count WHEN 'replace' THEN amount
                    ELSE least(quota_count + amount, 4294967295) END AS quota_count,
               coalesce(merged, habits) AS habits
        FROM held
    ), written AS (
        UPDATE usage AS u SET
            last_used = added.last_used, last_used_ip = added.last_used_ip, request_count = added.request_count,
            quota_period = added.quota_period, quota_since = added.quota_since, quota_count = added.quota_count,
            habits = added.habits, seal = ",
    usage_seal!("added"),
    "
        FROM added WHERE u.id = added.id
    ), renewed AS MATERIALIZED (
        SELECT t.id, b.renewed_to AS expires_at, b.used
        FROM batch AS b CROSS JOIN LATERAL (
            SELECT tokens.id FROM tokens
            WHERE tokens.id = b.id AND b.renewed_to > tokens.expires_at AND tokens.rolling
                AND tokens.revoked_at IS NULL AND tokens.expires_seal = ",
    expiry_seal!("tokens"),
    "
            FOR UPDATE
        ) AS t
    )
    UPDATE tokens AS t SET
        expires_at = renewed.expires_at, warn_from = least(renewed.used, 9223372036854775806) + 1, expires_seal = ",
    expiry_seal!("renewed"),
    "
    FROM renewed WHERE t.id = renewed.id"
);

/// What is known of some, and nobody else changes any of the batch until the end of the transaction; in the order of
/// [`RECORD`].
pub(super) const KNOWN: &str = "
    SELECT u.id, CASE WHEN u.id = ANY ($2::uuid[]) THEN u.habits END FROM usage AS u
    WHERE u.id = ANY ($1::uuid[]) ORDER BY u.id FOR UPDATE";

/// Whether the batch can be written in one statement, which is a transaction by itself.
pub(super) fn is_one_statement(batch: &[Usage]) -> bool {
    rounds(batch).len() < 2 && batch.iter().all(|usage| usage.habits.is_none())
}

/// In a transaction, unless it [is one statement](is_one_statement).
pub(super) async fn record(session: &Session, batch: &[Usage]) -> Result<(), Failure> {
    for round in rounds(batch) {
        let habits = match round.iter().any(|usage| usage.habits.is_some()) {
            true => merged(session, &round).await?,
            false => vec![None; round.len()],
        };
        record_round(session, &round, &habits).await?;
    }
    Ok(())
}

/// For each that noticed something, that and what was known, as it is stored. How to join the two is not for SQL.
async fn merged(session: &Session, batch: &[&Usage]) -> Result<Vec<Option<String>>, Failure> {
    let all: Vec<Uuid> = batch.iter().map(|usage| uuid(usage.id)).collect();
    let noticed = batch.iter().filter(|usage| usage.habits.is_some());
    let noticed: Vec<Uuid> = noticed.map(|usage| uuid(usage.id)).collect();
    let rows = session.query(KNOWN, &[&all, &noticed]).await?;
    let mut known = HashMap::with_capacity(rows.len());
    for row in &rows {
        known.insert(get::<Uuid>(row, 0)?, get::<Option<&str>>(row, 1)?);
    }
    let merge = |usage: &&Usage| {
        let (Some(noticed), Some(known)) = (&usage.habits, known.get(&uuid(usage.id))) else {
            return Ok(None);
        };
        // Whoever looks at the token is told of the damage.
        let Ok(habits) = from_json::<Option<Habits>>(*known, "habits") else { return Ok(None) };
        let mut habits = habits.unwrap_or_default();
        habits.merge(noticed, usage.last_used);
        Ok(json(&habits)?.map(Cow::into_owned))
    };
    batch.iter().map(merge).collect()
}

async fn record_round(session: &Session, batch: &[&Usage], habits: &[Option<String>]) -> Result<(), Failure> {
    fn all<'a, T>(batch: &[&'a Usage], column: impl Fn(&'a Usage) -> T) -> Vec<T> {
        batch.iter().map(|usage| column(usage)).collect()
    }
    let millis = UnixTime::as_millis;
    let written = session
        .execute(
            RECORD,
            &[
                &all(batch, |usage| uuid(usage.id)),
                &all(batch, |usage| i64::try_from(usage.count).unwrap_or(i64::MAX)),
                &all(batch, |usage| millis(usage.last_used)),
                &all(batch, |usage| usage.ip.map(|ip| ip.to_string())),
                &all(batch, |usage| usage.renewed_to.map(millis)),
                &all(batch, |usage| usage.quota.map(|used| period_name(used.period))),
                &all(batch, |usage| usage.quota.map(|used| millis(used.since))),
                &all(batch, |usage| usage.quota.map(|used| i64::from(used.count))),
                &habits,
            ],
        )
        .await;
    written.map(drop)
}

/// The batch in parts in which each token stands once, in the order of their ids; mostly there is one.
fn rounds(batch: &[Usage]) -> Vec<Vec<&Usage>> {
    let (mut rounds, mut rest) = (Vec::new(), batch.iter().collect::<Vec<_>>());
    while !rest.is_empty() {
        let mut ids = HashSet::new();
        let (mut round, later): (Vec<&Usage>, _) = rest.into_iter().partition(|usage| ids.insert(usage.id));
        round.sort_unstable_by_key(|usage| usage.id);
        rounds.push(round);
        rest = later;
    }
    rounds
}
