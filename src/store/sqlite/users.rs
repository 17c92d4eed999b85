//! Users and JWTs that are denied, as SQL on one connection.

use rusqlite::{
    Connection, OptionalExtension, Transaction, params,
    types::{Value, ValueRef},
};

use super::{
    failure::Failure,
    queries::{log_digest, revoke_rows, write},
    rows::{from_time, seal},
};
use crate::{
    id::UserId,
    secret::TokenDigest,
    store::{Denials, JwtId, JwtRevocation, StoreErrorKind, UserState, UserStatus},
    time::UnixTime,
};

/// In the log in place of a digest: what is denied changed. An earlier keyward takes it for the digest of
/// a token that it does not know.
pub(super) const DENIALS_CHANGED: [u8; 32] = [0; 32];

pub(super) fn denials(connection: &Connection, now: UnixTime) -> Result<Denials, Failure> {
    let snapshot = connection.unchecked_transaction()?;
    let mut denials = Denials::default();
    let mut statement = snapshot.prepare_cached("SELECT user_id, status, not_before, seal FROM users")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        denials.users.push(decode(row)?);
    }
    let mut statement =
        snapshot.prepare_cached("SELECT id, until, seal FROM revoked_jwts WHERE until > ?1")?;
    let mut rows = statement.query([now.as_millis()])?;
    while let Some(row) = rows.next()? {
        denials.jwts.push(decode_jwt(row)?);
    }
    Ok(denials)
}

fn decode_jwt(row: &rusqlite::Row<'_>) -> Result<JwtRevocation, Failure> {
    let revocation = JwtRevocation::new(JwtId::from_bytes(row.get(0)?), UnixTime::from_millis(row.get(1)?));
    let sealed = row.get::<_, i64>(2)? == seal_of_jwt(&revocation);
    if sealed { Ok(revocation) } else { Err(Failure::unreadable("revocation")) }
}

/// When the JWT ends, if it is revoked.
pub(super) fn jwt(connection: &Connection, id: &JwtId) -> Result<Option<UnixTime>, Failure> {
    let found = connection
        .prepare_cached("SELECT id, until, seal FROM revoked_jwts WHERE id = ?1")?
        .query_row([id.as_bytes()], |row| Ok(decode_jwt(row)))
        .optional()?
        .transpose()?;
    Ok(found.map(|revocation| revocation.until))
}

pub(super) fn revoke_jwt(
    connection: &mut Connection,
    revocation: &JwtRevocation,
    now: UnixTime,
) -> Result<(), Failure> {
    write(connection, |transaction| {
        transaction
            .prepare_cached("DELETE FROM revoked_jwts WHERE until <= ?1")?
            .execute([now.as_millis()])?;
        put_jwt(transaction, revocation)
    })
}

pub(super) fn put_jwt(transaction: &Transaction<'_>, revocation: &JwtRevocation) -> Result<(), Failure> {
    transaction
        .prepare_cached(
            "INSERT INTO revoked_jwts (id, until, seal) VALUES (?1, ?2, ?3) ON CONFLICT (id) \
             DO UPDATE SET until = excluded.until, seal = excluded.seal WHERE excluded.until > until",
        )?
        .execute(params![revocation.id.as_bytes(), revocation.until.as_millis(), seal_of_jwt(revocation)])?;
    log_digest(transaction, &DENIALS_CHANGED)
}

pub(super) fn revoke_jwts_of(
    connection: &mut Connection,
    user: &UserId,
    at: UnixTime,
) -> Result<(), Failure> {
    write(connection, |transaction| {
        let status = state(transaction, user)?.map_or(UserStatus::Active, |state| state.status);
        put(transaction, &UserState::new(user.clone(), status).with_jwts_not_before(Some(at)))
    })
}

pub(super) fn set_state(connection: &mut Connection, state: &UserState) -> Result<(), Failure> {
    write(connection, |transaction| put(transaction, state))
}

pub(super) fn offboard(
    connection: &mut Connection,
    user: &UserId,
    at: UnixTime,
) -> Result<Vec<TokenDigest>, Failure> {
    write(connection, |transaction| {
        let gone = UserState::new(user.clone(), UserStatus::Offboarded).with_jwts_not_before(Some(at));
        put(transaction, &gone)?;
        revoke_rows(transaction, user, at)
    })
}

/// Refuses a token of a user who is suspended or gone.
pub(super) fn require_active(transaction: &Transaction<'_>, user: &UserId) -> Result<(), Failure> {
    match state(transaction, user)? {
        Some(state) if !state.is_active() => Err(StoreErrorKind::OwnerInactive.into()),
        _ => Ok(()),
    }
}

pub(super) fn state(connection: &Connection, user: &UserId) -> Result<Option<UserState>, Failure> {
    connection
        .prepare_cached("SELECT user_id, status, not_before, seal FROM users WHERE user_id = ?1")?
        .query_row([user.as_str()], |row| Ok(decode(row)))
        .optional()?
        .transpose()
}

pub(super) fn put(transaction: &Transaction<'_>, new: &UserState) -> Result<(), Failure> {
    let new = new.over(state(transaction, &new.user)?.as_ref());
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO users (user_id, status, not_before, seal) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            new.user.as_str(),
            new.status.as_str(),
            new.jwts_not_before.map(UnixTime::as_millis),
            seal_of_user(&new)
        ])?;
    log_digest(transaction, &DENIALS_CHANGED)
}

fn decode(row: &rusqlite::Row<'_>) -> Result<UserState, Failure> {
    let user = row.get_ref(0)?.as_str().ok().and_then(|user| UserId::new(user).ok());
    let status = row.get_ref(1)?.as_str().ok().and_then(UserStatus::from_name);
    let (Some(user), Some(status)) = (user, status) else { return Err(Failure::unreadable("user")) };
    let state = UserState::new(user, status).with_jwts_not_before(from_time(row, 2)?);
    if row.get::<_, i64>(3)? == seal_of_user(&state) { Ok(state) } else { Err(Failure::unreadable("user")) }
}

fn seal_of_user(state: &UserState) -> i64 {
    let not_before = state.jwts_not_before.map_or(Value::Null, |at| Value::Integer(at.as_millis()));
    let texts = ["user", state.user.as_str(), state.status.as_str()];
    seal(texts.map(|text| ValueRef::Text(text.as_bytes())).into_iter().chain([ValueRef::from(&not_before)]))
}

fn seal_of_jwt(revocation: &JwtRevocation) -> i64 {
    let until = ValueRef::Integer(revocation.until.as_millis());
    seal([ValueRef::Text(b"jwt"), ValueRef::Blob(revocation.id.as_bytes()), until])
}
