//! Token records as table rows and back.
//!
//! Each row carries seals, as in SQLite: checksums of pages are off by default before PostgreSQL 18.

use std::{borrow::Cow, net::IpAddr};

use serde::{Serialize, de::DeserializeOwned};
use tokio_postgres::{Row, types::FromSql};
use uuid::Uuid;

use super::failure::Failure;
use crate::{
    id::{TokenId, UserId},
    limit::{Limits, QuotaPeriod, QuotaUse},
    secret::TokenDigest,
    store::seal::{Sealed, seal, seal_text},
    time::UnixTime,
    token::{Metadata, TokenClass, TokenRecord},
    watch::Habits,
};

/// Stands in texts for U+0000, which PostgreSQL cannot keep, with a digit after it; doubled it stands for itself.
const MARK: char = '␀';

/// The columns that [`decode`] reads, and where from. With the `OFFSET` the use is looked up for each token; PostgreSQL
/// might go along both indexes otherwise, along that of the uses from its beginning.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT t.id, t.digest, t.user_id, t.name, t.class, t.scopes, t.roles, t.allowed_ips, t.metadata, \
             t.hint, t.created_at, t.created_ip, t.created_by, t.parent, t.limits, t.quota_period, t.honeytoken, \
             t.rolling, t.hard_end, t.disabled_at, t.revoked_at, t.successor, t.revision, t.seal, t.expires_at, \
             t.expires_seal, u.last_used, u.last_used_ip, u.request_count, u.quota_period, u.quota_since, \
             u.quota_count, u.habits, u.seal FROM tokens AS t \
             LEFT JOIN LATERAL (SELECT * FROM usage WHERE usage.id = t.id OFFSET 0) AS u ON true ",
            $rest
        )
    };
}
pub(super) use select;

/// How many of those columns the first seal covers.
const FIXED: usize = 23;

/// The values of a row of `tokens`.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    pub(super) id: Uuid,
    pub(super) digest: &'a [u8],
    pub(super) user_id: &'a str,
    pub(super) name: Cow<'a, str>,
    pub(super) class: &'a str,
    pub(super) scopes: Option<Cow<'a, str>>,
    pub(super) roles: Option<Cow<'a, str>>,
    pub(super) allowed_ips: Option<Cow<'a, str>>,
    pub(super) metadata: Option<Cow<'a, str>>,
    pub(super) hint: Cow<'a, str>,
    pub(super) created_at: i64,
    pub(super) created_ip: Option<Cow<'a, str>>,
    pub(super) created_by: Option<Uuid>,
    pub(super) parent: Option<Uuid>,
    pub(super) limits: Option<Cow<'a, str>>,
    pub(super) quota_period: Option<&'a str>,
    pub(super) honeytoken: bool,
    pub(super) rolling: bool,
    pub(super) hard_end: Option<i64>,
    pub(super) disabled_at: Option<i64>,
    pub(super) revoked_at: Option<i64>,
    pub(super) successor: Option<Uuid>,
    pub(super) revision: i64,
    pub(super) expires_at: Option<i64>,
}

impl<'a> Stored<'a> {
    pub(super) fn new(record: &'a TokenRecord) -> Result<Self, Failure> {
        Ok(Self {
            id: uuid(record.id),
            digest: record.digest.as_bytes(),
            user_id: record.owner.as_str(),
            name: escaped(&record.name),
            class: record.class.as_str(),
            scopes: json(&record.scopes)?,
            roles: json(&record.roles)?,
            allowed_ips: json(&record.allowed_ips)?,
            metadata: json(&Some(&record.metadata).filter(|metadata| !metadata.is_empty()))?,
            hint: escaped(&record.hint),
            created_at: record.created_at.as_millis(),
            created_ip: record.created_ip.map(|ip| ip.to_string().into()),
            created_by: record.created_by.map(uuid),
            parent: record.parent.map(uuid),
            limits: json(&Some(record.limits).filter(|limits| !limits.is_empty()))?,
            quota_period: record.limits.quota().map(|quota| period_name(quota.period())),
            honeytoken: record.honeytoken,
            rolling: record.rolling,
            hard_end: record.hard_end.map(UnixTime::as_millis),
            disabled_at: record.disabled_at.map(UnixTime::as_millis),
            revoked_at: record.revoked_at.map(UnixTime::as_millis),
            successor: record.successor.map(uuid),
            revision: record.revision.cast_signed(),
            expires_at: record.expires_at.map(UnixTime::as_millis),
        })
    }

    fn read(row: &'a Row) -> Result<Self, Failure> {
        let maybe = |column| Ok::<_, Failure>(get::<Option<&str>>(row, column)?.map(Cow::Borrowed));
        Ok(Self {
            id: get(row, 0)?,
            digest: get(row, 1)?,
            user_id: get(row, 2)?,
            name: Cow::Borrowed(get(row, 3)?),
            class: get(row, 4)?,
            scopes: maybe(5)?,
            roles: maybe(6)?,
            allowed_ips: maybe(7)?,
            metadata: maybe(8)?,
            hint: Cow::Borrowed(get(row, 9)?),
            created_at: get(row, 10)?,
            created_ip: maybe(11)?,
            created_by: get(row, 12)?,
            parent: get(row, 13)?,
            limits: maybe(14)?,
            quota_period: get(row, 15)?,
            honeytoken: get(row, 16)?,
            rolling: get(row, 17)?,
            hard_end: get(row, 18)?,
            disabled_at: get(row, 19)?,
            revoked_at: get(row, 20)?,
            successor: get(row, 21)?,
            revision: get(row, 22)?,
            expires_at: get(row, 24)?,
        })
    }

    /// Covers everything but the expiry. Each value is hashed after its column's number and nothing where there is
    /// none, so that columns can be added later.
    pub(super) fn seal(&self) -> Vec<u8> {
        fn id(id: &Option<Uuid>) -> Option<Sealed<'_>> {
            id.as_ref().map(|id| Sealed::Blob(id.as_bytes()))
        }
        let integer = |integer: Option<i64>| integer.map(Sealed::Integer);
        let columns: [Option<Sealed<'_>>; FIXED] = [
            Some(Sealed::Blob(self.id.as_bytes())),
            Some(Sealed::Blob(self.digest)),
            Some(Sealed::Text(self.user_id.as_bytes())),
            Some(Sealed::Text(self.name.as_bytes())),
            Some(Sealed::Text(self.class.as_bytes())),
            text_of(&self.scopes),
            text_of(&self.roles),
            text_of(&self.allowed_ips),
            text_of(&self.metadata),
            Some(Sealed::Text(self.hint.as_bytes())),
            integer(Some(self.created_at)),
            text_of(&self.created_ip),
            id(&self.created_by),
            id(&self.parent),
            text_of(&self.limits),
            self.quota_period.map(|period| Sealed::Text(period.as_bytes())),
            integer(Some(i64::from(self.honeytoken))),
            integer(Some(i64::from(self.rolling))),
            integer(self.hard_end),
            integer(self.disabled_at),
            integer(self.revoked_at),
            id(&self.successor),
            integer(Some(self.revision)),
        ];
        let numbered = columns.into_iter().zip(0..).filter_map(|(value, at)| Some((at, value?)));
        seal(numbered.flat_map(|(at, value)| [Sealed::Integer(at), value])).to_vec()
    }

    pub(super) fn expires_seal(&self) -> Vec<u8> {
        seal_of_expiry(self.id, self.expires_at)
    }

    fn decode(&self) -> Result<TokenRecord, Failure> {
        let id = token_id(self.id)?;
        let digest = <[u8; 32]>::try_from(self.digest).map_err(|_| Failure::unreadable("digest"))?;
        let owner = UserId::new(self.user_id).map_err(|_| Failure::unreadable("user_id"))?;
        let created_at = UnixTime::from_millis(self.created_at);
        let mut record = TokenRecord::new(id, TokenDigest::from_bytes(digest), owner, created_at);
        record.name = unescaped(&self.name)?;
        record.class = class(self.class)?;
        record.scopes = from_json(self.scopes.as_deref(), "scopes")?;
        record.roles = from_json(self.roles.as_deref(), "roles")?;
        record.allowed_ips = from_json(self.allowed_ips.as_deref(), "allowed_ips")?;
        record.metadata =
            from_json::<Option<Metadata>>(self.metadata.as_deref(), "metadata")?.unwrap_or_default();
        record.hint = unescaped(&self.hint)?;
        record.created_ip = address(self.created_ip.as_deref())?;
        record.created_by = self.created_by.map(token_id).transpose()?;
        record.parent = self.parent.map(token_id).transpose()?;
        record.limits = from_json::<Option<Limits>>(self.limits.as_deref(), "limits")?.unwrap_or_default();
        record.honeytoken = self.honeytoken;
        record.rolling = self.rolling;
        record.hard_end = self.hard_end.map(UnixTime::from_millis);
        record.disabled_at = self.disabled_at.map(UnixTime::from_millis);
        record.revoked_at = self.revoked_at.map(UnixTime::from_millis);
        record.successor = self.successor.map(token_id).transpose()?;
        record.revision = self.revision.cast_unsigned();
        record.expires_at = self.expires_at.map(UnixTime::from_millis);
        Ok(record)
    }
}

/// The values of a row of `usage`.
#[derive(Debug)]
pub(super) struct StoredUse {
    pub(super) last_used: Option<i64>,
    pub(super) last_used_ip: Option<String>,
    pub(super) request_count: i64,
    pub(super) quota_period: Option<String>,
    pub(super) quota_since: Option<i64>,
    pub(super) quota_count: Option<i64>,
    pub(super) habits: Option<String>,
}

impl StoredUse {
    pub(super) fn new(record: &TokenRecord) -> Result<Self, Failure> {
        let quota = record.quota_use;
        Ok(Self {
            last_used: record.last_used.map(UnixTime::as_millis),
            last_used_ip: record.last_used_ip.map(|ip| ip.to_string()),
            request_count: i64::try_from(record.request_count).unwrap_or(i64::MAX),
            quota_period: quota.map(|quota| period_name(quota.period).to_owned()),
            quota_since: quota.map(|quota| quota.since.as_millis()),
            quota_count: quota.map(|quota| i64::from(quota.count)),
            habits: json(&record.habits)?.map(Cow::into_owned),
        })
    }

    /// As `usage_seal!` computes it.
    pub(super) fn seal(&self, id: Uuid) -> Vec<u8> {
        let text = format!(
            "usage|{id}|{}|{}|{}|{}|{}|{}|{}",
            or_dash(self.last_used),
            or_dash(self.last_used_ip.as_deref()),
            self.request_count,
            or_dash(self.quota_period.as_deref()),
            or_dash(self.quota_since),
            or_dash(self.quota_count),
            or_dash(self.habits.as_deref()),
        );
        seal_text(&text).to_vec()
    }

    fn put_into(&self, record: &mut TokenRecord) -> Result<(), Failure> {
        record.last_used = self.last_used.map(UnixTime::from_millis);
        record.last_used_ip = address(self.last_used_ip.as_deref())?;
        record.request_count = self.request_count.cast_unsigned();
        record.habits = from_json::<Option<Box<Habits>>>(self.habits.as_deref(), "habits")?;
        record.quota_use = match (self.quota_period.as_deref(), self.quota_since, self.quota_count) {
            (None, None, None) => None,
            (Some(period), Some(since), Some(count)) => {
                let count = u32::try_from(count).map_err(|_| Failure::unreadable("quota"))?;
                Some(QuotaUse::new(period_of(period)?, UnixTime::from_millis(since), count))
            }
            _ => return Err(Failure::unreadable("quota")),
        };
        Ok(())
    }
}

/// The record in a row of [`select!`], if it is what was stored.
pub(super) fn decode(row: &Row) -> Result<TokenRecord, Failure> {
    let stored = Stored::read(row)?;
    let used = StoredUse {
        last_used: get(row, 26)?,
        last_used_ip: get(row, 27)?,
        request_count: get(row, 28)?,
        quota_period: get(row, 29)?,
        quota_since: get(row, 30)?,
        quota_count: get(row, 31)?,
        habits: get(row, 32)?,
    };
    for (column, expected) in [(23, stored.seal()), (25, stored.expires_seal()), (33, used.seal(stored.id))] {
        if get::<&[u8]>(row, column)? != expected {
            return Err(Failure::unreadable("row"));
        }
    }
    let mut record = stored.decode()?;
    used.put_into(&mut record)?;
    Ok(record)
}

/// Of these records those that can be read. A damaged one opens nothing, and must not keep the others from
/// being listed or revoked.
pub(super) fn readable(rows: &[Row]) -> Vec<TokenRecord> {
    let readable = rows.iter().filter_map(|row| {
        let record = decode(row);
        if record.is_err() {
            tracing::error!("a damaged token record was skipped; restore a backup");
        }
        record.ok()
    });
    readable.collect()
}

/// A value of the kind that was written.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Failure> {
    row.try_get(column).map_err(|_| Failure::unreadable("value"))
}

pub(super) fn uuid(id: TokenId) -> Uuid {
    Uuid::from_bytes(id.into_bytes())
}

pub(super) fn token_id(id: Uuid) -> Result<TokenId, Failure> {
    TokenId::from_bytes(id.into_bytes()).ok_or_else(|| Failure::unreadable("id"))
}

/// As `expiry_seal!` computes it. Apart from the rest, so that a renewal needs no look at the rest.
fn seal_of_expiry(id: Uuid, expires_at: Option<i64>) -> Vec<u8> {
    seal_text(&format!("expires_at|{id}|{}", or_dash(expires_at))).to_vec()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn text_of<'a>(text: &'a Option<Cow<'_, str>>) -> Option<Sealed<'a>> {
    text.as_ref().map(|text| Sealed::Text(text.as_bytes()))
}

pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains([MARK, '\0']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(MARK, "␀␀").replace('\0', "␀0"))
}

pub(super) fn unescaped(text: &str) -> Result<Box<str>, Failure> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        match next {
            MARK => match rest.next() {
                Some('0') => plain.push('\0'),
                Some(MARK) => plain.push(MARK),
                _ => return Err(Failure::unreadable("text")),
            },
            next => plain.push(next),
        }
    }
    Ok(plain.into())
}

/// What JSON calls `null` is no value.
pub(super) fn json<'a>(value: &impl Serialize) -> Result<Option<Cow<'a, str>>, Failure> {
    let text = serde_json::to_string(value).map_err(|_| Failure::unreadable("set"))?;
    Ok(if text == "null" { None } else { Some(text.into()) })
}

pub(super) fn from_json<T: DeserializeOwned>(text: Option<&str>, name: &str) -> Result<T, Failure> {
    // `null` in clear would be everything, and is never written.
    let text = if text == Some("null") { None } else { Some(text.unwrap_or("null")) };
    text.and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| Failure::unreadable(name))
}

fn address(text: Option<&str>) -> Result<Option<IpAddr>, Failure> {
    text.map(str::parse).transpose().map_err(|_| Failure::unreadable("address"))
}

fn class(name: &str) -> Result<TokenClass, Failure> {
    let classes = [TokenClass::User, TokenClass::Admin, TokenClass::Service];
    classes.into_iter().find(|class| class.as_str() == name).ok_or_else(|| Failure::unreadable("class"))
}

pub(super) fn period_name(period: QuotaPeriod) -> &'static str {
    match period {
        QuotaPeriod::Day => "day",
        QuotaPeriod::Month => "month",
    }
}

fn period_of(name: &str) -> Result<QuotaPeriod, Failure> {
    let periods = [QuotaPeriod::Day, QuotaPeriod::Month];
    periods
        .into_iter()
        .find(|period| period_name(*period) == name)
        .ok_or_else(|| Failure::unreadable("quota"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_can_be_stored_and_read_again() {
        for text in ["", "plain", "\0", "␀", "a\0b", "␀0", "␀␀0\0␀", "\0\0", "\\0 %00"] {
            let stored = escaped(text);
            assert!(!stored.contains('\0'), "{text:?}");
            assert_eq!(&*unescaped(&stored).unwrap(), text);
        }
        for never_written in ["␀", "␀1", "a␀"] {
            assert!(unescaped(never_written).unwrap_err().is_corrupt(), "{never_written}");
        }
    }
}
