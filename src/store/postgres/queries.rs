//! What the store does with single tokens, as SQL on one connection.

use super::{
    failure::Failure,
    family::{adopt_children, log_children, require_fit},
    log::log_changes,
    rows::{Stored, StoredUse, decode, readable, select, uuid},
    session::Session,
    users::require_active,
};
use crate::{
    id::{TokenId, UserId},
    secret::TokenDigest,
    store::{Change, Page, Rotation, StoreErrorKind},
    time::UnixTime,
    token::TokenRecord,
};

pub(super) const FIND: &str = select!("WHERE t.digest = $1");
pub(super) const GET: &str = select!("WHERE t.id = $1");
pub(super) const GET_OWN: &str = select!("WHERE t.id = $1 AND t.user_id = $2");
const GET_TO_CHANGE: &str = select!("WHERE t.id = $1 FOR UPDATE OF t");
const GET_OWN_TO_CHANGE: &str = select!("WHERE t.id = $1 AND t.user_id = $2 FOR UPDATE OF t");
pub(super) const LIST: &str = select!("ORDER BY t.id DESC LIMIT $1");
pub(super) const LIST_AFTER: &str = select!("WHERE t.id < $2 ORDER BY t.id DESC LIMIT $1");
pub(super) const LIST_OWN: &str = select!("WHERE t.user_id = $2 ORDER BY t.id DESC LIMIT $1");
pub(super) const LIST_OWN_AFTER: &str =
    select!("WHERE t.user_id = $2 AND t.id < $3 ORDER BY t.id DESC LIMIT $1");
pub(super) const COUNT: &str = "SELECT count(*) FROM tokens WHERE revoked_at IS NULL";
pub(super) const COUNT_OWN: &str = "SELECT count(*) FROM tokens WHERE user_id = $1 AND revoked_at IS NULL";
pub(super) const COUNT_ACTIVE: &str = "
    SELECT count(*) FROM tokens
    WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2) AND NOT honeytoken";
pub(super) const LIVING_TO_CHANGE: &str =
    select!("WHERE t.user_id = $1 AND t.revoked_at IS NULL ORDER BY t.id FOR UPDATE OF t");

/// The token, its use and its owner, who stays known when the token is gone, in one statement.
const INSERT: &str = "
    WITH token AS (
        INSERT INTO tokens (
            id, digest, user_id, name, class, scopes, roles, allowed_ips, metadata, hint, created_at, created_ip,
            created_by, parent, limits, quota_period, honeytoken, rolling, hard_end, disabled_at, revoked_at,
            successor, revision, seal, expires_at, expires_seal
        ) VALUES (
            $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
            $24, $25, $26
        )
    ), used AS (
        INSERT INTO usage (
            id, last_used, last_used_ip, request_count, quota_period, quota_since, quota_count, habits, seal
        ) VALUES ($1, $27, $28, $29, $30, $31, $32, $33, $34)
    )
    INSERT INTO owners (user_id) SELECT $3 WHERE $35::bool ON CONFLICT DO NOTHING";

/// Everything that changes in a token, but its use.
const REPLACE: &str = "
    UPDATE tokens AS t SET
        name = new.name, scopes = new.scopes, allowed_ips = new.allowed_ips, metadata = new.metadata,
        parent = new.parent, limits = new.limits, quota_period = new.quota_period, rolling = new.rolling,
        disabled_at = new.disabled_at, revoked_at = new.revoked_at, successor = new.successor,
        revision = new.revision, seal = new.seal, expires_at = new.expires_at, expires_seal = new.expires_seal
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::bool[],
        $10::int8[], $11::int8[], $12::uuid[], $13::int8[], $14::bytea[], $15::int8[], $16::bytea[]
    ) AS new (
        id, name, scopes, allowed_ips, metadata, parent, limits, quota_period, rolling, disabled_at, revoked_at,
        successor, revision, seal, expires_at, expires_seal
    )
    WHERE t.id = new.id";

pub(super) async fn find(session: &Session, digest: &TokenDigest) -> Result<Option<TokenRecord>, Failure> {
    let row = session.maybe(FIND, &[&digest.as_bytes().as_slice()]).await?;
    row.as_ref().map(decode).transpose()
}

/// The record with this id, if it is of `owner` (of anybody if there is none).
pub(super) async fn get(
    session: &Session,
    owner: Option<&UserId>,
    id: TokenId,
) -> Result<Option<TokenRecord>, Failure> {
    let row = match owner {
        Some(owner) => session.maybe(GET_OWN, &[&uuid(id), &owner.as_str()]).await?,
        None => session.maybe(GET, &[&uuid(id)]).await?,
    };
    row.as_ref().map(decode).transpose()
}

/// The same, and nobody else changes it until the end of the transaction.
pub(super) async fn get_to_change(
    session: &Session,
    owner: Option<&UserId>,
    id: TokenId,
) -> Result<Option<TokenRecord>, Failure> {
    let row = match owner {
        Some(owner) => session.maybe(GET_OWN_TO_CHANGE, &[&uuid(id), &owner.as_str()]).await?,
        None => session.maybe(GET_TO_CHANGE, &[&uuid(id)]).await?,
    };
    row.as_ref().map(decode).transpose()
}

pub(super) async fn list(
    session: &Session,
    owner: Option<&UserId>,
    page: Page,
) -> Result<Vec<TokenRecord>, Failure> {
    let (limit, before) = (i64::from(page.limit), page.before.map(uuid));
    let rows = match (owner.map(UserId::as_str), before) {
        (None, None) => session.query(LIST, &[&limit]).await?,
        (None, Some(before)) => session.query(LIST_AFTER, &[&limit, &before]).await?,
        (Some(owner), None) => session.query(LIST_OWN, &[&limit, &owner]).await?,
        (Some(owner), Some(before)) => session.query(LIST_OWN_AFTER, &[&limit, &owner, &before]).await?,
    };
    Ok(readable(&rows))
}

pub(super) async fn count(session: &Session, owner: Option<&UserId>) -> Result<u64, Failure> {
    let row = match owner {
        Some(owner) => session.one(COUNT_OWN, &[&owner.as_str()]).await?,
        None => session.one(COUNT, &[]).await?,
    };
    Ok(u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0))
}

pub(super) async fn insert(
    session: &Session,
    record: &TokenRecord,
    limit: Option<u32>,
) -> Result<(), Failure> {
    lock_owner(session, &record.owner).await?;
    require_fit(session, record).await?;
    require_room(session, record, limit).await?;
    insert_row(session, record).await
}

/// Refuses a record that would be one active token of its owner too many. The owner is locked.
async fn require_room(session: &Session, record: &TokenRecord, limit: Option<u32>) -> Result<(), Failure> {
    let Some(limit) = limit else { return Ok(()) };
    let (owner, at) = (record.owner.as_str(), record.created_at.as_millis());
    let active: i64 = session.one(COUNT_ACTIVE, &[&owner, &at]).await?.try_get(0)?;
    if active < i64::from(limit) { Ok(()) } else { Err(StoreErrorKind::LimitReached.into()) }
}

pub(super) async fn register(session: &Session, record: &TokenRecord) -> Result<(), Failure> {
    lock_owner(session, &record.owner).await?;
    let sql = "SELECT EXISTS (SELECT FROM owners WHERE user_id = $1) OR EXISTS (SELECT FROM users WHERE user_id = $1)";
    let known = session.one(sql, &[&record.owner.as_str()]).await?;
    if known.try_get(0)? {
        return Err(StoreErrorKind::UserExists.into());
    }
    insert_row(session, record).await
}

pub(super) async fn update(
    session: &Session,
    owner: Option<&UserId>,
    id: TokenId,
    change: &Change,
) -> Result<Option<TokenRecord>, Failure> {
    let Some(mut record) = get_to_change(session, owner, id).await? else { return Ok(None) };
    change.apply(&mut record)?;
    replace_rows(session, std::slice::from_ref(&record)).await?;
    if change.disabled_at.is_some() || change.revoked_at.is_some() {
        log_children(session, id, change.dead_by).await?;
    }
    Ok(Some(record))
}

pub(super) async fn rotate(
    session: &Session,
    owner: Option<&UserId>,
    id: TokenId,
    rotation: &Rotation,
) -> Result<Option<TokenRecord>, Failure> {
    // What has another owner than the successor is refused below.
    lock_owner(session, &rotation.successor.owner).await?;
    let Some(mut old) = get_to_change(session, owner, id).await? else { return Ok(None) };
    rotation.apply(&mut old)?;
    require_active(session, &old.owner).await?;
    replace_rows(session, std::slice::from_ref(&old)).await?;
    require_room(session, &rotation.successor, rotation.max_active).await?;
    insert_row(session, &rotation.successor).await?;
    replace_rows(session, &adopt_children(session, id, rotation).await?).await?;
    Ok(Some(old))
}

/// Revokes all that the user has. The user is locked.
pub(super) async fn revoke_living(
    session: &Session,
    owner: &UserId,
    at: UnixTime,
) -> Result<Vec<TokenDigest>, Failure> {
    let mut living = readable(&session.query(LIVING_TO_CHANGE, &[&owner.as_str()]).await?);
    for record in &mut living {
        Change::revoke(at).apply(record)?;
    }
    replace_rows(session, &living).await?;
    Ok(living.iter().map(|record| record.digest).collect())
}

pub(super) async fn revoke_all(
    session: &Session,
    owner: &UserId,
    at: UnixTime,
) -> Result<Vec<TokenDigest>, Failure> {
    lock_owner(session, owner).await?;
    revoke_living(session, owner, at).await
}

/// Keeps others from giving this user tokens or another state until the end of the transaction.
pub(super) async fn lock_owner(session: &Session, owner: &UserId) -> Result<(), Failure> {
    session.lock("user", owner.as_str()).await
}

/// Writes a row that is there for this, so that a standby or a full disk is noticed.
pub(super) async fn probe(session: &Session) -> Result<(), Failure> {
    session
        .one("UPDATE probe SET beats = (beats + 1) % 1000000 WHERE n = 1 RETURNING beats", &[])
        .await
        .map(drop)
}

pub(super) async fn insert_row(session: &Session, record: &TokenRecord) -> Result<(), Failure> {
    let (token, used) = (Stored::new(record)?, StoredUse::new(record)?);
    let inserted = session
        .execute(
            INSERT,
            &[
                &token.id,
                &token.digest,
                &token.user_id,
                &token.name,
                &token.class,
                &token.scopes,
                &token.roles,
                &token.allowed_ips,
                &token.metadata,
                &token.hint,
                &token.created_at,
                &token.created_ip,
                &token.created_by,
                &token.parent,
                &token.limits,
                &token.quota_period,
                &token.honeytoken,
                &token.rolling,
                &token.hard_end,
                &token.disabled_at,
                &token.revoked_at,
                &token.successor,
                &token.revision,
                &token.seal(),
                &token.expires_at,
                &token.expires_seal(),
                &used.last_used,
                &used.last_used_ip,
                &used.request_count,
                &used.quota_period,
                &used.quota_since,
                &used.quota_count,
                &used.habits,
                &used.seal(token.id),
                &!record.owner.is_made_up(),
            ],
        )
        .await;
    inserted?;
    log_changes(session, &[record.digest.as_bytes()]).await
}

/// Writes everything but the use, which no change touches, in one statement.
pub(super) async fn replace_rows(session: &Session, records: &[TokenRecord]) -> Result<(), Failure> {
    if records.is_empty() {
        return Ok(());
    }
    let stored: Vec<_> = records.iter().map(Stored::new).collect::<Result<_, _>>()?;
    fn all<'a, T>(stored: &'a [Stored<'a>], column: impl Fn(&'a Stored<'a>) -> T) -> Vec<T> {
        stored.iter().map(column).collect()
    }
    let replaced = session
        .execute(
            REPLACE,
            &[
                &all(&stored, |row| row.id),
                &all(&stored, |row| &*row.name),
                &all(&stored, |row| row.scopes.as_deref()),
                &all(&stored, |row| row.allowed_ips.as_deref()),
                &all(&stored, |row| row.metadata.as_deref()),
                &all(&stored, |row| row.parent),
                &all(&stored, |row| row.limits.as_deref()),
                &all(&stored, |row| row.quota_period),
                &all(&stored, |row| row.rolling),
                &all(&stored, |row| row.disabled_at),
                &all(&stored, |row| row.revoked_at),
                &all(&stored, |row| row.successor),
                &all(&stored, |row| row.revision),
                &all(&stored, Stored::seal),
                &all(&stored, |row| row.expires_at),
                &all(&stored, Stored::expires_seal),
            ],
        )
        .await;
    if replaced? != records.len() as u64 {
        return Err(Failure::unreadable("id"));
    }
    let digests: Vec<_> = records.iter().map(|record| record.digest.as_bytes()).collect();
    log_changes(session, &digests).await
}
