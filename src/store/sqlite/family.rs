//! Tokens that end together, as SQL on one connection.

use rusqlite::{Connection, Transaction, params};

use super::{
    failure::Failure,
    queries::{get, insert_row, log_digest, readable, replace_row, write},
    rows::select,
    users::require_active,
};
use crate::{
    id::{TokenId, UserId},
    store::{Change, Ended, Reach, Revoked, Room, Rotation, StoreErrorKind},
    time::UnixTime,
    token::TokenRecord,
};

/// In each, the union drops what was reached before, so circles end.
pub(super) const CHILDREN: &str = "
    WITH RECURSIVE gone (id) AS (
        VALUES (?1)
        UNION SELECT t.id FROM gone CROSS JOIN tokens AS t ON t.parent = gone.id
              WHERE ?2 IS NULL OR t.user_id = ?2
    )
    SELECT id FROM gone WHERE id <> ?1";
pub(super) const MINTED: &str = "
    WITH RECURSIVE gone (id) AS (
        VALUES (?1)
        UNION SELECT t.id FROM gone CROSS JOIN tokens AS t ON t.parent = gone.id
              WHERE ?2 IS NULL OR t.user_id = ?2
        UNION SELECT t.id FROM gone CROSS JOIN tokens AS t ON t.created_by = gone.id
              WHERE ?2 IS NULL OR t.user_id = ?2
    )
    SELECT id FROM gone WHERE id <> ?1";

/// One of these for each way of an index, since together they would go through all that ever expired.
pub(super) const ENDLESS_CHILDREN: &str =
    select!("WHERE t.parent = ?1 AND t.revoked_at IS NULL AND t.expires_at IS NULL");
pub(super) const LIVING_CHILDREN: &str =
    select!("WHERE t.parent = ?1 AND t.revoked_at IS NULL AND t.expires_at > ?2");
pub(super) const ENDLESS_OF_USER: &str = select!(
    by "tokens_living",
    "WHERE t.user_id = ?1 AND t.revoked_at IS NULL AND t.honeytoken IS NULL AND t.expires_at IS NULL"
);
pub(super) const LIVING_OF_USER: &str = select!(
    by "tokens_living",
    "WHERE t.user_id = ?1 AND t.revoked_at IS NULL AND t.honeytoken IS NULL AND t.expires_at > ?2"
);
pub(super) const LIVING_FAMILY: &str = "
    WITH RECURSIVE living (id) AS (
        VALUES (?1)
        UNION SELECT t.id FROM living CROSS JOIN tokens AS t ON t.parent = living.id
              WHERE t.revoked_at IS NULL AND t.expires_at IS NULL
        UNION SELECT t.id FROM living CROSS JOIN tokens AS t ON t.parent = living.id
              WHERE t.revoked_at IS NULL AND t.expires_at > ?2
    )
    SELECT t.digest FROM living CROSS JOIN tokens AS t ON t.id = living.id WHERE living.id <> ?1";

pub(super) fn revoke(
    connection: &mut Connection,
    owner: Option<&UserId>,
    id: TokenId,
    at: UnixTime,
    reach: Reach,
) -> Result<Option<Revoked>, Failure> {
    write(connection, |transaction| {
        let Some(mut record) = get(transaction, owner, id)? else { return Ok(None) };
        Change::revoke(at).apply(&mut record)?;
        replace_row(transaction, &record)?;
        let others = match reach {
            Reach::Children => revoke_followers(transaction, Some(&record.owner), id, at, reach)?,
            Reach::Minted => revoke_followers(transaction, owner, id, at, reach)?,
        };
        Ok(Some(Revoked::new(record, others)))
    })
}

pub(super) fn insert_making_room(
    connection: &mut Connection,
    record: &TokenRecord,
    room: &Room,
) -> Result<Vec<Ended>, Failure> {
    write(connection, |transaction| {
        require_fit(transaction, record)?;
        let (owner, at) = (&record.owner, record.created_at);
        let mut own = readable(transaction, ENDLESS_OF_USER, [owner.as_str()])?;
        own.extend(readable(transaction, LIVING_OF_USER, params![owner.as_str(), at.as_millis()])?);
        let mut ended = Vec::new();
        if let Some(mut chosen) = room.choose(&own, at)?.cloned() {
            Change::revoke(at).apply(&mut chosen)?;
            replace_row(transaction, &chosen)?;
            ended.push(Ended::from(&chosen));
            ended.extend(revoke_followers(transaction, Some(owner), chosen.id, at, Reach::Children)?);
        }
        insert_row(transaction, record)?;
        Ok(ended)
    })
}

/// Refuses what cannot be stored whatever the owner's other tokens are.
pub(super) fn require_fit(transaction: &Transaction<'_>, record: &TokenRecord) -> Result<(), Failure> {
    require_active(transaction, &record.owner)?;
    let Some(parent) = record.parent else { return Ok(()) };
    let parents = readable(transaction, select!("WHERE t.id = ?1"), [parent.into_bytes()])?;
    if parents.iter().all(|parent| parent.may_be_parent_of(record)) {
        Ok(())
    } else {
        Err(StoreErrorKind::Conflict.into())
    }
}

/// Moves the tokens that end with `old` to its successor. Only those are read that may work: of those that do not
/// there may be any number.
pub(super) fn adopt_children(
    transaction: &Transaction<'_>,
    old: TokenId,
    rotation: &Rotation,
) -> Result<(), Failure> {
    let id = old.into_bytes();
    let mut children = readable(transaction, ENDLESS_CHILDREN, [id])?;
    children.extend(readable(transaction, LIVING_CHILDREN, params![id, beginning(rotation.dead_by)])?);
    for mut child in children {
        rotation.adopt(old, &mut child);
        replace_row(transaction, &child)?;
    }
    Ok(())
}

/// Tells other processes of the tokens that end with `id`, after it was switched off or on. What is dead stays so,
/// and with it what ends with that.
pub(super) fn log_children(
    transaction: &Transaction<'_>,
    id: TokenId,
    dead_by: Option<UnixTime>,
) -> Result<(), Failure> {
    let mut statement = transaction.prepare_cached(LIVING_FAMILY)?;
    let digests = statement.query_map(params![id.into_bytes(), beginning(dead_by)], |row| row.get(0))?;
    let digests: Vec<[u8; 32]> = digests.collect::<Result<_, _>>()?;
    digests.iter().try_for_each(|digest| log_digest(transaction, digest))
}

/// What expires after this may work.
fn beginning(dead_by: Option<UnixTime>) -> i64 {
    dead_by.map_or(i64::MIN, UnixTime::as_millis)
}

/// The ids of what goes with the token `id`, of one user or of all.
fn followers(
    connection: &Connection,
    owner: Option<&UserId>,
    id: TokenId,
    reach: Reach,
) -> Result<Vec<[u8; 16]>, Failure> {
    let sql = if reach == Reach::Minted { MINTED } else { CHILDREN };
    let mut statement = connection.prepare_cached(sql)?;
    let ids = statement.query_map(params![id.into_bytes(), owner.map(UserId::as_str)], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

fn revoke_followers(
    transaction: &Transaction<'_>,
    owner: Option<&UserId>,
    id: TokenId,
    at: UnixTime,
    reach: Reach,
) -> Result<Vec<Ended>, Failure> {
    let mut ended = Vec::new();
    for other in followers(transaction, owner, id, reach)? {
        let living = select!("WHERE t.id = ?1 AND t.revoked_at IS NULL");
        for mut record in readable(transaction, living, [other])? {
            Change::revoke(at).apply(&mut record)?;
            replace_row(transaction, &record)?;
            ended.push(Ended::from(&record));
        }
    }
    Ok(ended)
}
