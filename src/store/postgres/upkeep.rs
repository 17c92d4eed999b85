//! What is done for tokens in the background, as SQL on one connection.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::{
    failure::Failure,
    family::children_of,
    rows::{decode, get, readable, select, token_id, uuid},
    session::Session,
};
use crate::{
    id::TokenId,
    store::{Claimed, Purge, Warnings},
    time::UnixTime,
    token::TokenRecord,
};

/// Columns of [`select!`].
const CREATED_AT: usize = 10;
const LAST_USED: usize = 26;

pub(super) const LOOK: &str = select!("WHERE t.id > $1 ORDER BY t.id LIMIT $2");

/// What still is as it was when it was looked at.
const HOLD: &str = "
    SELECT t.id FROM unnest($1::uuid[], $2::int8[]) AS ended (id, revision)
    JOIN tokens AS t ON t.id = ended.id AND t.revision = ended.revision
    ORDER BY t.id FOR UPDATE OF t";

/// But for those that others still end with, which are not to be removed now, and what those end with.
pub(super) const REMOVE: &str = concat!(
    "
    WITH RECURSIVE kept (id) AS (
        SELECT held.id FROM unnest($1::uuid[]) AS held (id) CROSS JOIN LATERAL (
            SELECT FROM (",
    children_of!("held.id"),
    ") AS child WHERE child.id <> ALL ($1) LIMIT 1
        ) AS child
        UNION SELECT t.parent FROM kept JOIN tokens AS t ON t.id = kept.id WHERE t.parent = ANY ($1)
    )
    DELETE FROM tokens AS t WHERE t.id = ANY ($1) AND NOT EXISTS (SELECT FROM kept WHERE kept.id = t.id)"
);

/// These tokens, what they end with, and so on. The union drops what was reached before, so circles end.
pub(super) const ANCESTORS: &str = select!(
    "WHERE t.id = ANY (ARRAY (
         WITH RECURSIVE above (id) AS (
             SELECT unnest($1::uuid[])
             UNION SELECT next.parent FROM above JOIN tokens AS next ON next.id = above.id
                   WHERE next.parent IS NOT NULL
         )
         SELECT id FROM above
     ))"
);

/// As the index says it, so that it is used. What somebody else holds is looked at the next time.
pub(super) const WAITING: &str = "
    SELECT id, warn_from FROM tokens
    WHERE warn_from <= $1 AND expires_at IS NOT NULL AND revoked_at IS NULL AND successor IS NULL
    ORDER BY warn_from LIMIT $2 FOR UPDATE SKIP LOCKED";

/// What a look at some records found.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) looked_at: u64,
    /// The ids and revisions of what is to be removed.
    pub(super) ended: Vec<(TokenId, u64)>,
    pub(super) next: Option<TokenId>,
}

pub(super) async fn look(session: &Session, purge: &Purge) -> Result<Look, Failure> {
    let after = purge.after.map_or(Uuid::nil(), uuid);
    let rows = session.query(LOOK, &[&after, &i64::from(purge.limit)]).await?;
    let mut look = Look { looked_at: rows.len() as u64, ended: Vec::new(), next: None };
    let mut others = Vec::new();
    for row in &rows {
        let created_at = UnixTime::from_millis(get(row, CREATED_AT)?);
        let last_used = get::<Option<i64>>(row, LAST_USED)?.map(UnixTime::from_millis);
        // Nothing is used after its end, so what was made or used since then need not be read.
        if created_at > purge.before || last_used.is_some_and(|used| used > purge.before) {
            continue;
        }
        match decode(row) {
            Ok(record) if purge.takes(&record) => look.ended.push((record.id, record.revision)),
            Ok(record) => others.push(record),
            Err(failure) if failure.is_corrupt() => {
                tracing::error!("a damaged token record was skipped; restore a backup");
            }
            Err(failure) => return Err(failure),
        }
    }
    let ends = ends_with_others(session, &others, purge).await?;
    look.ended.extend(ends.map(|record| (record.id, record.revision)));
    if let Some(last) = rows.last().filter(|_| look.looked_at == u64::from(purge.limit)) {
        look.next = Some(token_id(get(last, 0)?)?);
    }
    Ok(look)
}

/// Those of `records` that end with a token which had ended by the time that `purge` says.
async fn ends_with_others<'a>(
    session: &Session,
    records: &'a [TokenRecord],
    purge: &Purge,
) -> Result<impl Iterator<Item = &'a TokenRecord>, Failure> {
    let parents: Vec<Uuid> = records.iter().filter_map(|record| record.parent).map(uuid).collect();
    let mut above = HashMap::new();
    if !parents.is_empty() {
        // Of what is damaged nothing is known.
        for ancestor in readable(&session.query(ANCESTORS, &[&parents]).await?) {
            above.insert(ancestor.id, (purge.takes_children_of(&ancestor), ancestor.parent));
        }
    }
    Ok(records.iter().filter(move |record| {
        let (mut passed, mut parent) = (HashSet::new(), record.parent);
        while let Some(id) = parent.filter(|id| passed.insert(*id)) {
            match above.get(&id) {
                Some((true, _)) => return true,
                Some((false, next)) => parent = *next,
                None => return false,
            }
        }
        false
    }))
}

/// The use of each goes with it, as the table says.
pub(super) async fn remove(session: &Session, ended: &[(TokenId, u64)]) -> Result<u64, Failure> {
    let ids: Vec<_> = ended.iter().map(|(id, _)| uuid(*id)).collect();
    let revisions: Vec<_> = ended.iter().map(|(_, revision)| revision.cast_signed()).collect();
    let held = session.query(HOLD, &[&ids, &revisions]).await?;
    let held: Vec<Uuid> = held.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
    session.execute(REMOVE, &[&held]).await
}

/// The column `warn_from` is when to look at a token again. It is not sealed: it opens nothing.
pub(super) async fn claim_warnings(session: &Session, warnings: &Warnings) -> Result<Claimed, Failure> {
    let rows = session.query(WAITING, &[&warnings.now.as_millis(), &i64::from(warnings.limit)]).await?;
    let waiting: Vec<(Uuid, i64)> =
        rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect::<Result<_, Failure>>()?;
    let mut claimed = Claimed::new(Vec::new(), rows.len() == warnings.limit as usize);
    if waiting.is_empty() {
        return Ok(claimed);
    }
    let ids: Vec<_> = waiting.iter().map(|(id, _)| *id).collect();
    let records = readable(&session.query(select!("WHERE t.id = ANY ($1)"), &[&ids]).await?);
    let mut records: HashMap<_, _> = records.into_iter().map(|record| (uuid(record.id), record)).collect();
    let mut next_looks = Vec::new();
    for (id, since) in &waiting {
        let record = records.remove(id);
        let judged = record.as_ref().map(|record| warnings.judge(record, UnixTime::from_millis(*since)));
        let (due, next) = judged.unwrap_or((false, None));
        claimed.tokens.extend(record.filter(|_| due));
        next_looks.push(next.map(UnixTime::as_millis));
    }
    let sql = "UPDATE tokens AS t SET warn_from = looked.next \
               FROM unnest($1::uuid[], $2::int8[]) AS looked (id, next) WHERE t.id = looked.id";
    session.execute(sql, &[&ids, &next_looks]).await?;
    Ok(claimed)
}
