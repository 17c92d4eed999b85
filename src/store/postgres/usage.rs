//! The count of uses, as one statement for a whole batch.

use std::collections::HashSet;

use super::{
    failure::Failure,
    rows::{period_name, uuid},
    session::Session,
};
use crate::{store::Usage, time::UnixTime};

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
            ".quota_count::text, '-'), 'UTF8')), 1, 8)"
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

/// All rows are locked in the order of their ids, so that two batches never wait for each other. Damaged ones stay
/// as they are: a new seal would hide the damage. The ids stand at both tables, so that no seal of other rows is computed
/// whatever the plan is. The rules are those of [`Usage::apply`].
pub(super) const RECORD: &str = concat!(
    "
    WITH batch AS (
        SELECT * FROM unnest(
            $1::uuid[], $2::int8[], $3::int8[], $4::text[], $5::int8[], $6::text[], $7::int8[], $8::int8[]
        ) AS batch (id, uses, used, ip, renewed_to, period, since, amount)
    ), held AS MATERIALIZED (
        SELECT u.*, b.uses, b.used, b.ip, b.period, b.since, b.amount,
               u.last_used IS NULL OR u.last_used < b.used AS later,
               CASE
                   WHEN b.period IS NULL OR b.period IS DISTINCT FROM t.quota_period THEN 'keep'
                   WHEN u.quota_since IS NULL OR u.quota_since < b.since THEN 'replace'
                   WHEN u.quota_since > b.since AND u.quota_period = b.period THEN 'keep'
                   ELSE 'add'
               END AS quota
        FROM batch AS b JOIN usage AS u ON u.id = b.id JOIN tokens AS t ON t.id = b.id
        WHERE u.id = ANY ($1) AND u.seal = ",
    usage_seal!("u"),
    "
        ORDER BY u.id FOR UPDATE OF u
    ), added AS (
        SELECT id,
               CASE WHEN later THEN used ELSE last_used END AS last_used,
               CASE WHEN later THEN coalesce(ip, last_used_ip) ELSE last_used_ip END AS last_used_ip,
               CASE WHEN request_count > 9223372036854775807 - uses THEN 9223372036854775807
                    ELSE request_count + uses END AS request_count,
               CASE WHEN quota = 'keep' THEN quota_period ELSE period END AS quota_period,
               CASE WHEN quota = 'keep' THEN quota_since ELSE since END AS quota_since,
               CASE quota WHEN 'keep' THEN quota_count WHEN 'replace' THEN amount
                    ELSE least(quota_count + amount, 4294967295) END AS quota_count
        FROM held
    ), written AS (
        UPDATE usage AS u SET
            last_used = added.last_used, last_used_ip = added.last_used_ip, request_count = added.request_count,
            quota_period = added.quota_period, quota_since = added.quota_since, quota_count = added.quota_count,
            seal = ",
    usage_seal!("added"),
    "
        FROM added WHERE u.id = added.id
    ), renewed AS MATERIALIZED (
        SELECT t.id, b.renewed_to AS expires_at, b.used
        FROM batch AS b JOIN tokens AS t ON t.id = b.id
        WHERE t.id = ANY ($1) AND b.renewed_to > t.expires_at AND t.rolling AND t.revoked_at IS NULL AND t.expires_seal = ",
    expiry_seal!("t"),
    "
        ORDER BY t.id FOR UPDATE OF t
    )
    UPDATE tokens AS t SET
        expires_at = renewed.expires_at, warn_from = least(renewed.used, 9223372036854775806) + 1, expires_seal = ",
    expiry_seal!("renewed"),
    "
    FROM renewed WHERE t.id = renewed.id"
);

/// Outside a transaction if there is one round.
pub(super) async fn record(session: &Session, batch: &[Usage]) -> Result<(), Failure> {
    for round in rounds(batch) {
        record_round(session, &round).await?;
    }
    Ok(())
}

async fn record_round(session: &Session, batch: &[&Usage]) -> Result<(), Failure> {
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
            ],
        )
        .await;
    written.map(drop)
}

/// The batch in parts in which each token stands once; mostly there is one.
pub(super) fn rounds(batch: &[Usage]) -> Vec<Vec<&Usage>> {
    let (mut rounds, mut rest) = (Vec::new(), batch.iter().collect::<Vec<_>>());
    while !rest.is_empty() {
        let mut ids = HashSet::new();
        let (round, later) = rest.into_iter().partition(|usage| ids.insert(usage.id));
        rounds.push(round);
        rest = later;
    }
    rounds
}
