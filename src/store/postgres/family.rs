//! Tokens that end together, as SQL on one connection.

use tokio_postgres::Row;

use super::{
    failure::Failure,
    log::log_changes,
    queries::{get_to_change, insert_row, lock_owner, replace_rows},
    rows::{get, readable, select, uuid},
    session::Session,
    users::require_active,
};
use crate::{
    id::{TokenId, UserId},
    secret::TokenDigest,
    store::{Change, Ended, Reach, Revoked, Room, Rotation, StoreErrorKind},
    time::UnixTime,
    token::TokenRecord,
};

/// All that end with the token that is named. There is an index for each part.
macro_rules! children_of {
    ($parent:literal) => {
        concat!(
            "SELECT t.id, t.user_id FROM tokens AS t WHERE t.parent = ",
            $parent,
            " AND t.revoked_at IS NULL UNION ALL SELECT t.id, t.user_id FROM tokens AS t WHERE t.parent = ",
            $parent,
            " AND t.revoked_at IS NOT NULL"
        )
    };
}
pub(super) use children_of;

/// In each, the union drops what was reached before, so circles end. PostgreSQL lets the recursion stand once only, so
/// all ways are in one step.
macro_rules! followers {
    ($($step:expr),*) => {
        concat!(
            "WITH RECURSIVE gone (id) AS (SELECT $1::uuid UNION SELECT next.id FROM gone CROSS JOIN LATERAL (",
            $($step,)*
            ") AS next WHERE $2::text IS NULL OR next.user_id = $2)
             SELECT t.id, t.digest FROM gone JOIN tokens AS t ON t.id = gone.id WHERE t.id <> $1"
        )
    };
}

pub(super) const CHILDREN: &str = followers!(children_of!("gone.id"));
pub(super) const MINTED: &str = followers!(
    children_of!("gone.id"),
    " UNION ALL SELECT t.id, t.user_id FROM tokens AS t WHERE t.created_by = gone.id"
);

pub(super) const ACTIVE_TO_CHANGE: &str = select!(
    "WHERE t.user_id = $1 AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > $2) \
     AND NOT t.honeytoken \
     ORDER BY t.id FOR UPDATE OF t"
);
const LIVING_OF: &str =
    select!("WHERE t.id = ANY ($1) AND t.revoked_at IS NULL ORDER BY t.id FOR UPDATE OF t");
/// Those that may work. One part for each way of the index, since together they would go through all that ever expired.
pub(super) const CHILDREN_TO_CHANGE: &str = select!(
    "WHERE t.id = ANY (ARRAY (
         SELECT child.id FROM tokens AS child
         WHERE child.parent = $1 AND child.revoked_at IS NULL AND child.expires_at IS NULL
         UNION ALL SELECT child.id FROM tokens AS child
         WHERE child.parent = $1 AND child.revoked_at IS NULL AND child.expires_at > $2
     )) ORDER BY t.id FOR UPDATE OF t"
);
/// Those that may work, through others that may.
pub(super) const LIVING_FAMILY: &str = "
    WITH RECURSIVE living (id) AS (
        SELECT $1::uuid
        UNION SELECT next.id FROM living CROSS JOIN LATERAL (
            SELECT t.id FROM tokens AS t
            WHERE t.parent = living.id AND t.revoked_at IS NULL AND t.expires_at IS NULL
            UNION ALL SELECT t.id FROM tokens AS t
            WHERE t.parent = living.id AND t.revoked_at IS NULL AND t.expires_at > $2
        ) AS next
    )
    SELECT t.id, t.digest FROM living JOIN tokens AS t ON t.id = living.id WHERE t.id <> $1";
const PARENT: &str = select!("WHERE t.id = $1 FOR SHARE OF t");

pub(super) async fn revoke(
    session: &Session,
    owner: Option<&UserId>,
    id: TokenId,
    at: UnixTime,
    reach: Reach,
) -> Result<Option<Revoked>, Failure> {
    let Some(user) = owner_of(session, owner, id).await? else { return Ok(None) };
    // No token that ends with this one is stored from here on.
    lock_owner(session, &user).await?;
    let Some(mut record) = get_to_change(session, owner, id).await? else { return Ok(None) };
    Change::revoke(at).apply(&mut record)?;
    let scope = match reach {
        Reach::Children => Some(&user),
        Reach::Minted => owner,
    };
    let mut revoked = revoke_followers(session, scope, id, at, reach).await?;
    let others = revoked.iter().map(Ended::from).collect();
    revoked.push(record.clone());
    replace_rows(session, &revoked).await?;
    Ok(Some(Revoked::new(record, others)))
}

pub(super) async fn insert_making_room(
    session: &Session,
    record: &TokenRecord,
    room: &Room,
) -> Result<Vec<Ended>, Failure> {
    lock_owner(session, &record.owner).await?;
    require_fit(session, record).await?;
    let (owner, at) = (&record.owner, record.created_at);
    let own = readable(&session.query(ACTIVE_TO_CHANGE, &[&owner.as_str(), &at.as_millis()]).await?);
    let mut revoked = Vec::new();
    if let Some(mut chosen) = room.choose(&own, at)?.cloned() {
        Change::revoke(at).apply(&mut chosen)?;
        let id = chosen.id;
        revoked.push(chosen);
        revoked.append(&mut revoke_followers(session, Some(owner), id, at, Reach::Children).await?);
        replace_rows(session, &revoked).await?;
    }
    insert_row(session, record).await?;
    Ok(revoked.iter().map(Ended::from).collect())
}

/// Refuses what cannot be stored whatever the owner's other tokens are.
pub(super) async fn require_fit(session: &Session, record: &TokenRecord) -> Result<(), Failure> {
    require_active(session, &record.owner).await?;
    let Some(parent) = record.parent else { return Ok(()) };
    let parents = readable(&session.query(PARENT, &[&uuid(parent)]).await?);
    if parents.iter().all(|parent| parent.may_be_parent_of(record)) {
        Ok(())
    } else {
        Err(StoreErrorKind::Conflict.into())
    }
}

/// The tokens that end with `old` and may work, as they are with its successor.
pub(super) async fn adopt_children(
    session: &Session,
    old: TokenId,
    rotation: &Rotation,
) -> Result<Vec<TokenRecord>, Failure> {
    let rows = session.query(CHILDREN_TO_CHANGE, &[&uuid(old), &beginning(rotation.dead_by)]).await?;
    let mut children = readable(&rows);
    children.iter_mut().for_each(|child| rotation.adopt(old, child));
    children.retain(|child| child.parent != Some(old));
    Ok(children)
}

/// Tells other processes of the tokens that end with `id`, after it was switched off or on. What is dead stays so,
/// and with it what ends with that.
pub(super) async fn log_children(
    session: &Session,
    id: TokenId,
    dead_by: Option<UnixTime>,
) -> Result<(), Failure> {
    let rows = session.query(LIVING_FAMILY, &[&uuid(id), &beginning(dead_by)]).await?;
    let digests: Vec<TokenDigest> = rows.iter().map(digest).collect::<Result<_, _>>()?;
    if digests.is_empty() {
        return Ok(());
    }
    log_changes(session, &digests.iter().map(TokenDigest::as_bytes).collect::<Vec<_>>()).await
}

/// What expires after this may work.
fn beginning(dead_by: Option<UnixTime>) -> i64 {
    dead_by.map_or(i64::MIN, UnixTime::as_millis)
}

fn digest(row: &Row) -> Result<TokenDigest, Failure> {
    let bytes = <[u8; 32]>::try_from(get::<&[u8]>(row, 1)?).map_err(|_| Failure::unreadable("digest"))?;
    Ok(TokenDigest::from_bytes(bytes))
}

/// Whose token it is, if it is within the scope.
async fn owner_of(session: &Session, owner: Option<&UserId>, id: TokenId) -> Result<Option<UserId>, Failure> {
    if let Some(owner) = owner {
        return Ok(Some(owner.clone()));
    }
    let row = session.maybe("SELECT user_id FROM tokens WHERE id = $1", &[&uuid(id)]).await?;
    let user = |row| UserId::new(get::<&str>(row, 0)?).map_err(|_| Failure::unreadable("user_id"));
    row.as_ref().map(user).transpose()
}

/// The ids and digests of what goes with the token `id`, of one user or of all.
async fn followers(
    session: &Session,
    owner: Option<&UserId>,
    id: TokenId,
    reach: Reach,
) -> Result<Vec<Row>, Failure> {
    let sql = if reach == Reach::Minted { MINTED } else { CHILDREN };
    session.query(sql, &[&uuid(id), &owner.map(UserId::as_str)]).await
}

/// Those that go with the token `id` and were not revoked before, as they are when they are.
async fn revoke_followers(
    session: &Session,
    owner: Option<&UserId>,
    id: TokenId,
    at: UnixTime,
    reach: Reach,
) -> Result<Vec<TokenRecord>, Failure> {
    let rows = followers(session, owner, id, reach).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<uuid::Uuid> = rows.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    let mut living = readable(&session.query(LIVING_OF, &[&ids]).await?);
    for record in &mut living {
        Change::revoke(at).apply(record)?;
    }
    Ok(living)
}
