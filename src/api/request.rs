//! What clients send.

use std::time::Duration;

use axum::{
    extract::{FromRequestParts, MatchedPath, Path, Query, rejection::QueryRejection},
    http::request::Parts,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::{
    api::ApiError,
    auth::RequestHead,
    id::{TokenId, UserId, is_printable},
    limit::Limits,
    manage::{Finish, ListQuery, NewToken, TokenUpdate},
    net::IpList,
    scope::{Grant, ScopeSet},
    token::{Metadata, TokenStatus},
};

const DAY: u64 = 86_400;

/// A member that is there, even if it is null.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateBody {
    name: String,
    scopes: Option<Vec<String>>,
    expires_in_days: Option<u32>,
    allowed_ips: Option<Vec<String>>,
    metadata: Option<Metadata>,
    limits: Option<Limits>,
    #[serde(default)]
    child: bool,
}

impl CreateBody {
    pub(super) fn into_new_token(self) -> Result<NewToken, ApiError> {
        let mut new = NewToken::named(self.name)
            .with_scopes(read_scopes(self.scopes)?)
            .with_metadata(self.metadata.unwrap_or_default());
        if self.child {
            new = new.as_child();
        }
        if let Some(list) = read_ips(self.allowed_ips)? {
            new = new.with_allowed_ips(list);
        }
        if let Some(limits) = self.limits {
            new = new.with_limits(limits);
        }
        match self.expires_in_days {
            None => Ok(new),
            Some(0) => Err(ApiError::bad_request("`expires_in_days` is at least 1.")),
            Some(days) => Ok(new.with_lifetime(Duration::from_secs(u64::from(days) * DAY))),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateForBody {
    user_id: String,
    name: String,
    scopes: Option<Vec<String>>,
    expires_in_days: Option<u32>,
    allowed_ips: Option<Vec<String>>,
    metadata: Option<Metadata>,
    limits: Option<Limits>,
    #[serde(default)]
    honeytoken: bool,
}

impl CreateForBody {
    pub(super) fn into_new_token(self) -> Result<NewToken, ApiError> {
        let Self { user_id, name, scopes, expires_in_days, allowed_ips, metadata, limits, honeytoken } = self;
        let own = CreateBody { name, scopes, expires_in_days, allowed_ips, metadata, limits, child: false };
        let new = own.into_new_token()?.for_user(read_user(&user_id)?);
        Ok(if honeytoken { new.as_honeytoken() } else { new })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterBody {
    user_id: String,
    email: Option<String>,
}

impl RegisterBody {
    /// Who wants to come in, and the first token that they want.
    pub(super) fn into_newcomer(self) -> Result<(UserId, NewToken), ApiError> {
        let mut metadata = Metadata::new();
        if let Some(email) = self.email {
            if !is_email(&email) {
                return Err(ApiError::bad_request("`email` is an address such as \"alice@example.org\"."));
            }
            metadata.insert("email".to_owned(), email.into());
        }
        Ok((read_user(&self.user_id)?, NewToken::named("first key").with_metadata(metadata)))
    }
}

/// Whether mail may be sent there, by its form.
fn is_email(email: &str) -> bool {
    let plain = is_printable(email) && !email.contains(char::is_whitespace);
    let parts = email.rsplit_once('@').filter(|(local, domain)| !local.is_empty() && !domain.is_empty());
    // The longest that can be used (RFC 5321, section 4.5.3.1.3).
    parts.is_some() && email.len() <= 254 && plain
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PatchBody {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    scopes: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "present")]
    allowed_ips: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "present")]
    metadata: Option<Metadata>,
    #[serde(default, deserialize_with = "present")]
    limits: Option<Option<Limits>>,
    #[serde(default, deserialize_with = "present")]
    enabled: Option<bool>,
}

impl PatchBody {
    pub(super) fn into_update(self) -> Result<TokenUpdate, ApiError> {
        let mut update = TokenUpdate::default();
        if let Some(name) = self.name {
            update = update.with_name(name);
        }
        if let Some(scopes) = self.scopes {
            update = update.with_scopes(read_scopes(scopes)?);
        }
        if let Some(list) = self.allowed_ips {
            update = update.with_allowed_ips(read_ips(list)?);
        }
        if let Some(metadata) = self.metadata {
            update = update.with_metadata(metadata);
        }
        if let Some(limits) = self.limits {
            update = update.with_limits(limits.unwrap_or_default());
        }
        if let Some(enabled) = self.enabled {
            update = update.with_enabled(enabled);
        }
        Ok(update)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    overlap_seconds: Option<u64>,
}

impl RotateBody {
    pub(super) fn overlap(&self) -> Result<Option<Duration>, ApiError> {
        match self.overlap_seconds {
            Some(seconds) if seconds > 365 * DAY => {
                Err(ApiError::bad_request("`overlap_seconds` is at most a year."))
            }
            seconds => Ok(seconds.map(Duration::from_secs)),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FinishBody {
    #[serde(default)]
    force: bool,
}

impl FinishBody {
    pub(super) fn finish(&self) -> Finish {
        if self.force { Finish::Anyway } else { Finish::default() }
    }
}

/// A body without members.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoBody {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    cursor: Option<String>,
    limit: Option<u32>,
    status: Option<TokenStatus>,
    expiring_within_days: Option<u32>,
    unused_for_days: Option<u32>,
}

impl ListParams {
    pub(super) fn into_query(self) -> Result<ListQuery, ApiError> {
        let mut query = ListQuery::default();
        if let Some(limit) = self.limit {
            if !(1..=ListQuery::MAX_LIMIT).contains(&limit) {
                return Err(ApiError::bad_request("`limit` is a number from 1 to 200."));
            }
            query = query.with_limit(limit);
        }
        if let Some(cursor) = self.cursor {
            let cursor = cursor.parse::<TokenId>();
            let cursor =
                cursor.map_err(|_| ApiError::bad_request("`cursor` is the `next_cursor` of a page."))?;
            query = query.with_cursor(Some(cursor));
        }
        if let Some(status) = self.status {
            query = query.with_status(status);
        }
        if let Some(time) = read_days("expiring_within_days", self.expiring_within_days)? {
            query = query.with_expiring_within(time);
        }
        if let Some(time) = read_days("unused_for_days", self.unused_for_days)? {
            query = query.with_unused_for(time);
        }
        Ok(query)
    }
}

fn read_days(name: &str, days: Option<u32>) -> Result<Option<Duration>, ApiError> {
    match days {
        Some(0) => Err(ApiError::bad_request(format!("`{name}` is at least 1."))),
        days => Ok(days.map(|days| Duration::from_secs(u64::from(days) * DAY))),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminList {
    user_id: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
    status: Option<TokenStatus>,
    expiring_within_days: Option<u32>,
    unused_for_days: Option<u32>,
}

impl AdminList {
    pub(super) fn into_query(self) -> Result<ListQuery, ApiError> {
        let Self { user_id, cursor, limit, status, expiring_within_days, unused_for_days } = self;
        let own = ListParams { cursor, limit, status, expiring_within_days, unused_for_days };
        let query = own.into_query()?;
        Ok(match user_id {
            Some(user) => query.with_owner(read_user(&user)?),
            None => query,
        })
    }
}

pub(super) fn params<T: DeserializeOwned>(params: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    let sentence = "The query has an unknown or repeated parameter, or a value of the wrong kind.";
    params.map(|Query(params)| params).map_err(|_| ApiError::bad_request(sentence))
}

pub(super) fn read_user(user: &str) -> Result<UserId, ApiError> {
    let sentence =
        "`user_id` is 1 to 255 bytes without control characters and without white space at its ends.";
    UserId::new(user).map_err(|_| ApiError::bad_request(sentence))
}

fn read_scopes(scopes: Option<Vec<String>>) -> Result<Grant, ApiError> {
    let Some(scopes) = scopes else { return Ok(Grant::All) };
    match ScopeSet::new(&scopes) {
        Ok(set) if !set.is_empty() => Ok(Grant::Only(set)),
        _ => Err(ApiError::bad_request(
            "`scopes` is null for all, or a list of 1 to 64 scopes such as \"jobs:read\" or \"jobs:*\".",
        )),
    }
}

fn read_ips(list: Option<Vec<String>>) -> Result<Option<IpList>, ApiError> {
    let sentence = "`allowed_ips` is null for all, or a list of 1 to 64 addresses or networks such as \
                    \"192.0.2.7\" or \"2001:db8::/32\", with no bits set after a network's prefix.";
    list.map(IpList::new).transpose().map_err(|_| ApiError::bad_request(sentence))
}

/// The token that the path names. A text that is no id names none.
pub(super) struct TokenPath(pub(super) TokenId);

impl<S: Send + Sync> FromRequestParts<S> for TokenPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if parts.uri.query().is_some() {
            return Err(ApiError::bad_request("This route takes no query."));
        }
        read_id(parts, state).await.map(Self)
    }
}

async fn read_id<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<TokenId, ApiError> {
    let path = <Path<String> as FromRequestParts<S>>::from_request_parts(parts, state).await;
    path.ok().and_then(|Path(id)| id.parse().ok()).ok_or_else(ApiError::not_found)
}

/// The token to revoke, and whether all that was made through it goes as well.
pub(super) struct RevokePath {
    pub(super) id: TokenId,
    pub(super) cascade: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeParams {
    #[serde(default)]
    cascade: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for RevokePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = <Query<RevokeParams> as FromRequestParts<S>>::from_request_parts(parts, state).await;
        let RevokeParams { cascade } = params(query)?;
        Ok(Self { id: read_id(parts, state).await?, cascade })
    }
}

/// The user that the path names. A text that can be nobody's id names none.
pub(super) struct UserPath(pub(super) UserId);

impl<S: Send + Sync> FromRequestParts<S> for UserPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = <Path<String> as FromRequestParts<S>>::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(id)| UserId::new(id).ok());
        id.map(Self).ok_or_else(ApiError::not_found)
    }
}

/// Why an administrator acts: the header `X-Audit-Reason`, or the method and the route.
pub(super) struct AuditReason(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for AuditReason {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let wrong = || {
            ApiError::bad_request(
                "`X-Audit-Reason` is sent once, with at most 200 printable characters, none of them of the credential.",
            )
        };
        let mut lines = parts.headers.get_all("x-audit-reason").iter();
        let Some(reason) = lines.next() else {
            let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
            return Ok(Self(format!("{} {route}", parts.method)));
        };
        // Of two nobody knows which one was meant.
        if lines.next().is_some() {
            return Err(wrong());
        }
        let reason = std::str::from_utf8(reason.as_bytes()).map_err(|_| wrong())?.trim();
        let head = RequestHead::from_parts(parts);
        let fits = (1..=200).contains(&reason.chars().count()) && !head.shares_text_with_credential(reason);
        if fits && is_printable(reason) { Ok(Self(reason.to_owned())) } else { Err(wrong()) }
    }
}
