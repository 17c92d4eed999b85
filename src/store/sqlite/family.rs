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
        let sql = select!(
            "WHERE t.user_id = ?1 AND t.revoked_at IS NULL AND t.honeytoken IS NULL AND (t.expires_at IS NULL OR t.expires_at > ?2)"
        );
        let own = readable(transaction, sql, params![owner.as_str(), at.as_millis()])?;
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

/// Moves the tokens that end with `old` to its successor.
pub(super) fn adopt_children(
    transaction: &Transaction<'_>,
    old: TokenId,
    rotation: &Rotation,
) -> Result<(), Failure> {
    for mut child in readable(transaction, select!("WHERE t.parent = ?1"), [old.into_bytes()])? {
        rotation.adopt(old, &mut child);
        replace_row(transaction, &child)?;
    }
    Ok(())
}

/// Tells other processes of the tokens that end with `id`, after it was switched off or on.
pub(super) fn log_children(transaction: &Transaction<'_>, id: TokenId) -> Result<(), Failure> {
    for child in followers(transaction, None, id, Reach::Children)? {
        let digest: [u8; 32] = transaction
            .prepare_cached("SELECT digest FROM tokens WHERE id = ?1")?
            .query_row([child], |row| row.get(0))?;
        log_digest(transaction, &digest)?;
    }
    Ok(())
}

/// The ids of what goes with the token `id`, of one user or of all.
pub(super) fn followers(
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
