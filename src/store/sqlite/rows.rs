//! Token records as table rows and back.
//!
//! Each row carries a seal, eight bytes of SHA-256 over its values, since SQLite does not notice when a
//! disk changes a value: a token must not lose its revocation or gain a scope that way.

use std::net::IpAddr;

use rusqlite::{
    Row,
    types::{Value, ValueRef},
};
use serde::{Serialize, de::DeserializeOwned};

use super::failure::Failure;
use crate::{
    id::{TokenId, UserId},
    limit::{Limits, QuotaUse},
    secret::TokenDigest,
    store::seal::{self, Sealed},
    time::UnixTime,
    token::{Metadata, TokenClass, TokenRecord},
    watch::Habits,
};

/// How many of the columns of [`select!`] are covered by the seal as they stand.
const FIXED: usize = 19;

/// Columns of [`select!`] that came later. Where there is nothing in them the seal is as it was before.
const ADDED: std::ops::Range<usize> = 26..29;

/// The columns that [`decode`] reads, and where from.
macro_rules! select {
    (by $index:literal, $rest:literal) => {
        $crate::store::sqlite::rows::select!(@ concat!(" INDEXED BY ", $index), $rest)
    };
    ($rest:literal) => {
        $crate::store::sqlite::rows::select!(@ "", $rest)
    };
    (@ $by:expr, $rest:literal) => {
        concat!(
            "SELECT t.id, t.digest, t.user_id, t.name, t.class, t.scopes, t.roles, t.allowed_ips, t.metadata, \
             t.hint, t.created_at, t.created_ip, t.created_by, t.rolling, t.hard_end, t.disabled_at, \
             t.revoked_at, t.successor, t.revision, t.expires_at, t.seal, \
             u.last_used, u.last_used_ip, u.request_count, u.seal, t.n, t.parent, t.limits, t.honeytoken, u.quota, u.habits \
             FROM tokens AS t",
            $by,
            " LEFT JOIN usage AS u ON u.n = t.n ",
            $rest
        )
    };
}
pub(super) use select;

/// The values of a row of `tokens` after `n`, in the order of the table.
pub(super) fn encode_token(record: &TokenRecord) -> Result<Vec<Value>, Failure> {
    let (mut values, added) = (fixed(record)?, added(record)?);
    let sealed = values.iter().chain(&added).map(ValueRef::from);
    let seal = seal_of_row(sealed) ^ seal_of_expiry(record.id, record.expires_at);
    values.extend([time(record.expires_at), Value::Integer(seal)]);
    values.extend(added);
    Ok(values)
}

fn added(record: &TokenRecord) -> Result<[Value; 3], Failure> {
    Ok([
        record.parent.map_or(Value::Null, token_value),
        json(&Some(record.limits).filter(|limits| !limits.is_empty()))?,
        if record.honeytoken { Value::Integer(1) } else { Value::Null },
    ])
}

fn token_value(id: TokenId) -> Value {
    Value::Blob(id.into_bytes().to_vec())
}

/// The fixed columns, and those of the added ones in which there is something, each after its number.
fn seal_of_row<'a>(values: impl Iterator<Item = ValueRef<'a>>) -> i64 {
    let numbered = values.enumerate().filter(|(at, value)| *at < FIXED || *value != ValueRef::Null);
    seal(numbered.flat_map(|(at, value)| {
        let number = (at >= FIXED).then_some(ValueRef::Integer(at as i64));
        number.into_iter().chain([value])
    }))
}

/// The values of a row of `usage` after `n`, in the order of the table.
pub(super) fn encode_usage(record: &TokenRecord) -> Result<[Value; 6], Failure> {
    let (last_used, ip) = (time(record.last_used), address(record.last_used_ip));
    let count = Value::Integer(record.request_count.cast_signed());
    let quota = json(&record.quota_use)?;
    let habits = json(&record.habits)?;
    let seal = seal_of_usage(record.id, [&last_used, &ip, &count, &quota, &habits].map(ValueRef::from));
    Ok([last_used, ip, count, Value::Integer(seal), quota, habits])
}

fn fixed(record: &TokenRecord) -> Result<Vec<Value>, Failure> {
    Ok(vec![
        token_value(record.id),
        Value::Blob(record.digest.as_bytes().to_vec()),
        Value::Text(record.owner.as_str().to_owned()),
        Value::Text(record.name.to_string()),
        Value::Text(record.class.as_str().to_owned()),
        json(&record.scopes)?,
        json(&record.roles)?,
        json(&record.allowed_ips)?,
        json(&Some(&record.metadata).filter(|metadata| !metadata.is_empty()))?,
        Value::Text(record.hint.to_string()),
        time(Some(record.created_at)),
        address(record.created_ip),
        record.created_by.map_or(Value::Null, token_value),
        Value::Integer(i64::from(record.rolling)),
        time(record.hard_end),
        time(record.disabled_at),
        time(record.revoked_at),
        record.successor.map_or(Value::Null, token_value),
        Value::Integer(record.revision.cast_signed()),
    ])
}

/// The seal after the expiry of the token `id` moved from `old` to `new`.
pub(super) fn reseal(seal: i64, id: TokenId, old: Option<UnixTime>, new: Option<UnixTime>) -> i64 {
    seal ^ seal_of_expiry(id, old) ^ seal_of_expiry(id, new)
}

/// The record in a row of [`select!`], if it is what was stored.
pub(super) fn decode(row: &Row<'_>) -> Result<TokenRecord, Failure> {
    let id = token_id(row, 0)?.ok_or_else(|| Failure::unreadable("id"))?;
    let digest = row.get::<_, [u8; 32]>(1)?;
    let owner = UserId::new(text(row, 2)?).map_err(|_| Failure::unreadable("user_id"))?;
    let mut record =
        TokenRecord::new(id, TokenDigest::from_bytes(digest), owner, UnixTime::from_millis(row.get(10)?));
    record.name = text(row, 3)?.into();
    record.class = class(text(row, 4)?)?;
    record.scopes = from_json(row, 5, "scopes")?;
    record.roles = from_json(row, 6, "roles")?;
    record.allowed_ips = from_json(row, 7, "allowed_ips")?;
    record.metadata = from_json::<Option<Metadata>>(row, 8, "metadata")?.unwrap_or_default();
    record.hint = text(row, 9)?.into();
    record.created_ip = from_address(row, 11)?;
    record.created_by = token_id(row, 12)?;
    record.rolling = row.get(13)?;
    record.hard_end = from_time(row, 14)?;
    record.disabled_at = from_time(row, 15)?;
    record.revoked_at = from_time(row, 16)?;
    record.successor = token_id(row, 17)?;
    record.revision = row.get::<_, i64>(18)?.cast_unsigned();
    record.expires_at = from_time(row, 19)?;
    let [parent, limits, honeytoken, quota] = [26, 27, 28, 29];
    decode_usage(row, 21, [quota, quota + 1], &mut record)?;
    record.parent = token_id(row, parent)?;
    record.limits = decode_limits(row, limits)?;
    record.honeytoken = row.get::<_, Option<bool>>(honeytoken)?.unwrap_or_default();
    let values: Result<Vec<_>, _> = (0..FIXED).chain(ADDED).map(|column| row.get_ref(column)).collect();
    let expected = seal_of_row(values?.into_iter()) ^ seal_of_expiry(id, record.expires_at);
    if row.get::<_, i64>(20)? == expected { Ok(record) } else { Err(Failure::unreadable("row")) }
}

pub(super) fn decode_limits(row: &Row<'_>, column: usize) -> Result<Limits, Failure> {
    Ok(from_json::<Option<Limits>>(row, column, "limits")?.unwrap_or_default())
}

/// Puts the four columns of `usage` that start at `first`, and those of the quota and the habits, into `record`.
pub(super) fn decode_usage(
    row: &Row<'_>,
    first: usize,
    [quota, habits]: [usize; 2],
    record: &mut TokenRecord,
) -> Result<(), Failure> {
    record.last_used = from_time(row, first)?;
    record.last_used_ip = from_address(row, first + 1)?;
    record.request_count = row.get::<_, i64>(first + 2)?.cast_unsigned();
    record.quota_use = from_json::<Option<QuotaUse>>(row, quota, "quota")?;
    record.habits = from_json::<Option<Box<Habits>>>(row, habits, "habits")?;
    let values = [first, first + 1, first + 2, quota, habits].map(|column| row.get_ref(column));
    let [last_used, ip, count, quota, habits] = values;
    let values = [last_used?, ip?, count?, quota?, habits?];
    let sealed = row.get::<_, i64>(first + 3)? == seal_of_usage(record.id, values);
    if sealed { Ok(()) } else { Err(Failure::unreadable("usage")) }
}

/// A time that may be absent.
pub(super) fn from_time(row: &Row<'_>, column: usize) -> Result<Option<UnixTime>, Failure> {
    Ok(row.get::<_, Option<i64>>(column)?.map(UnixTime::from_millis))
}

fn time(time: Option<UnixTime>) -> Value {
    time.map_or(Value::Null, |time| Value::Integer(time.as_millis()))
}

fn address(address: Option<IpAddr>) -> Value {
    address.map_or(Value::Null, |address| Value::Text(address.to_string()))
}

/// What JSON calls `null` is no value.
fn json(value: &impl Serialize) -> Result<Value, Failure> {
    let text = serde_json::to_string(value).map_err(|_| Failure::unreadable("set"))?;
    Ok(if text == "null" { Value::Null } else { Value::Text(text) })
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a str, Failure> {
    row.get_ref(column)?.as_str().map_err(|_| Failure::unreadable("text"))
}

fn optional_text<'a>(row: &'a Row<'_>, column: usize) -> Result<Option<&'a str>, Failure> {
    row.get_ref(column)?.as_str_or_null().map_err(|_| Failure::unreadable("text"))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize, name: &str) -> Result<T, Failure> {
    let text = optional_text(row, column)?;
    // `null` in clear would be everything, and is never written.
    let text = if text == Some("null") { None } else { Some(text.unwrap_or("null")) };
    text.and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| Failure::unreadable(name))
}

fn from_address(row: &Row<'_>, column: usize) -> Result<Option<IpAddr>, Failure> {
    let text = optional_text(row, column)?;
    text.map(str::parse).transpose().map_err(|_| Failure::unreadable("address"))
}

fn token_id(row: &Row<'_>, column: usize) -> Result<Option<TokenId>, Failure> {
    let bytes = row.get::<_, Option<[u8; 16]>>(column)?;
    bytes.map(|bytes| TokenId::from_bytes(bytes).ok_or_else(|| Failure::unreadable("id"))).transpose()
}

fn class(name: &str) -> Result<TokenClass, Failure> {
    let classes = [TokenClass::User, TokenClass::Admin, TokenClass::Service];
    classes.into_iter().find(|class| class.as_str() == name).ok_or_else(|| Failure::unreadable("class"))
}

/// Apart from the rest, so that a renewal needs no look at the rest.
fn seal_of_expiry(id: TokenId, expires_at: Option<UnixTime>) -> i64 {
    let expires_at = expires_at.map_or(ValueRef::Null, |time| ValueRef::Integer(time.as_millis()));
    seal([ValueRef::Text(b"expires_at"), ValueRef::Blob(&id.into_bytes()), expires_at])
}

/// Where there is nothing in the last two columns, which came later, the seal is as it was before.
fn seal_of_usage(id: TokenId, [last_used, ip, count, quota, habits]: [ValueRef<'_>; 5]) -> i64 {
    let quota = Some(quota).filter(|quota| *quota != ValueRef::Null);
    let habits = Some(habits).filter(|habits| *habits != ValueRef::Null);
    let habits = habits.map(|habits| [ValueRef::Text(b"habits"), habits]);
    let name = [ValueRef::Text(b"usage"), ValueRef::Blob(&id.into_bytes())];
    seal(name.into_iter().chain([last_used, ip, count]).chain(quota).chain(habits.into_iter().flatten()))
}

pub(super) fn seal<'a>(values: impl IntoIterator<Item = ValueRef<'a>>) -> i64 {
    i64::from_le_bytes(seal::seal(values.into_iter().map(|value| match value {
        ValueRef::Null => Sealed::Null,
        ValueRef::Integer(integer) => Sealed::Integer(integer),
        ValueRef::Real(real) => Sealed::Real(real),
        ValueRef::Text(bytes) => Sealed::Text(bytes),
        ValueRef::Blob(bytes) => Sealed::Blob(bytes),
    })))
}
