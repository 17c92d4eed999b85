//! Users and JWTs that are denied, as SQL on one connection.

use tokio_postgres::Row;

use super::{
    failure::Failure,
    log::{DENIALS_CHANGED, log_changes},
    queries::{lock_owner, revoke_living},
    rows::get,
    session::Session,
};
use crate::{
    id::UserId,
    secret::TokenDigest,
    store::{
        Denials, JwtId, JwtRevocation, StoreErrorKind, UserState, UserStatus,
        seal::{Sealed, seal},
    },
    time::UnixTime,
};

const STATE: &str = "SELECT user_id, status, not_before, seal FROM users WHERE user_id = $1";
pub(super) const JWTS: &str = "SELECT id, until, seal FROM revoked_jwts WHERE until > $1";

pub(super) async fn denials(session: &Session, now: UnixTime) -> Result<Denials, Failure> {
    let users = session.query("SELECT user_id, status, not_before, seal FROM users", &[]).await?;
    let jwts = session.query(JWTS, &[&now.as_millis()]).await?;
    let users = users.iter().map(decode).collect::<Result<_, _>>()?;
    let jwts = jwts.iter().map(decode_jwt).collect::<Result<_, _>>()?;
    Ok(Denials::new(users, jwts))
}

pub(super) async fn revoke_jwt(
    session: &Session,
    revocation: &JwtRevocation,
    now: UnixTime,
) -> Result<(), Failure> {
    let forget = "DELETE FROM revoked_jwts WHERE id = ANY (ARRAY (
        SELECT id FROM revoked_jwts WHERE until <= $1 ORDER BY until LIMIT 1000 FOR UPDATE SKIP LOCKED))";
    session.execute(forget, &[&now.as_millis()]).await?;
    let sql = "INSERT INTO revoked_jwts AS old (id, until, seal) VALUES ($1, $2, $3) ON CONFLICT (id) \
               DO UPDATE SET until = excluded.until, seal = excluded.seal WHERE excluded.until > old.until";
    let id = revocation.id.as_bytes().as_slice();
    session.execute(sql, &[&id, &revocation.until.as_millis(), &seal_of_jwt(revocation)]).await?;
    log_changes(session, &[&DENIALS_CHANGED]).await
}

pub(super) async fn revoke_jwts_of(session: &Session, user: &UserId, at: UnixTime) -> Result<(), Failure> {
    lock_owner(session, user).await?;
    let status = state(session, user).await?.map_or(UserStatus::Active, |state| state.status);
    put(session, &UserState::new(user.clone(), status).with_jwts_not_before(Some(at))).await
}

pub(super) async fn set_state(session: &Session, state: &UserState) -> Result<(), Failure> {
    lock_owner(session, &state.user).await?;
    put(session, state).await
}

pub(super) async fn offboard(
    session: &Session,
    user: &UserId,
    at: UnixTime,
) -> Result<Vec<TokenDigest>, Failure> {
    lock_owner(session, user).await?;
    let gone = UserState::new(user.clone(), UserStatus::Offboarded).with_jwts_not_before(Some(at));
    put(session, &gone).await?;
    revoke_living(session, user, at).await
}

/// Refuses a token of a user who is suspended or gone. The user is locked.
pub(super) async fn require_active(session: &Session, user: &UserId) -> Result<(), Failure> {
    match state(session, user).await? {
        Some(state) if !state.is_active() => Err(StoreErrorKind::OwnerInactive.into()),
        _ => Ok(()),
    }
}

async fn state(session: &Session, user: &UserId) -> Result<Option<UserState>, Failure> {
    session.maybe(STATE, &[&user.as_str()]).await?.as_ref().map(decode).transpose()
}

async fn put(session: &Session, new: &UserState) -> Result<(), Failure> {
    let new = new.over(state(session, &new.user).await?.as_ref());
    let sql = "INSERT INTO users (user_id, status, not_before, seal) VALUES ($1, $2, $3, $4) ON CONFLICT (user_id) \
               DO UPDATE SET status = excluded.status, not_before = excluded.not_before, seal = excluded.seal";
    let not_before = new.jwts_not_before.map(UnixTime::as_millis);
    let (user, status) = (new.user.as_str(), new.status.as_str());
    session.execute(sql, &[&user, &status, &not_before, &seal_of_user(&new)]).await?;
    log_changes(session, &[&DENIALS_CHANGED]).await
}

fn decode(row: &Row) -> Result<UserState, Failure> {
    let user = UserId::new(get::<&str>(row, 0)?).ok();
    let (Some(user), Some(status)) = (user, UserStatus::from_name(get(row, 1)?)) else {
        return Err(Failure::unreadable("user"));
    };
    let not_before = get::<Option<i64>>(row, 2)?.map(UnixTime::from_millis);
    let state = UserState::new(user, status).with_jwts_not_before(not_before);
    if get::<&[u8]>(row, 3)? == seal_of_user(&state) { Ok(state) } else { Err(Failure::unreadable("user")) }
}

fn decode_jwt(row: &Row) -> Result<JwtRevocation, Failure> {
    let unreadable = || Failure::unreadable("revocation");
    let id = <[u8; 32]>::try_from(get::<&[u8]>(row, 0)?).map_err(|_| unreadable())?;
    let revocation = JwtRevocation::new(JwtId::from_bytes(id), UnixTime::from_millis(get(row, 1)?));
    if get::<&[u8]>(row, 2)? == seal_of_jwt(&revocation) { Ok(revocation) } else { Err(unreadable()) }
}

fn seal_of_user(state: &UserState) -> Vec<u8> {
    let texts = ["user", state.user.as_str(), state.status.as_str()];
    let not_before = state.jwts_not_before.map_or(Sealed::Null, |at| Sealed::Integer(at.as_millis()));
    seal(texts.map(|text| Sealed::Text(text.as_bytes())).into_iter().chain([not_before])).to_vec()
}

fn seal_of_jwt(revocation: &JwtRevocation) -> Vec<u8> {
    let until = Sealed::Integer(revocation.until.as_millis());
    seal([Sealed::Text(b"jwt"), Sealed::Blob(revocation.id.as_bytes()), until]).to_vec()
}
