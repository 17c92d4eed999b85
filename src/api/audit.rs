//! The audit log, for administrators.

use axum::{
    Json, Router,
    extract::State,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};

use super::{
    ApiError, Params, in_request,
    request::{AuditReason, params, read_user},
};
use crate::{
    audit::{AuditEntry, AuditLog, AuditQuery},
    error::{AuthError, AuthErrorKind},
    event::Outcome,
    layer::RequireLayer,
    principal::{ADMIN_ROLE, Principal},
    time::UnixTime,
};

/// The route that lists the stored audit log, for callers with the role `admin`: entries with the
/// [members](AuditEntry) of one, newest first, 50 or up to 200 at a time. Each listing is an event as well, with
/// the reason in `X-Audit-Reason` or else the method and the route.
///
/// | parameter | only entries |
/// |---|---|
/// | `user_id` | of what this user did, or what was theirs |
/// | `token_id` | about this token |
/// | `event` | of this name, such as `token.revoked` |
/// | `outcome` | that ended in `success`, `refused` or `failed` |
/// | `since`, `until` | from this time on, before this time; RFC 3339 in UTC |
///
/// ```
/// use axum::Router;
/// use keyward::{AuthLayer, TokenManager, api, audit::AuditLog, auth::ApiKeyAuth, store::MemoryStore};
///
/// let (audit, log) = AuditLog::new(MemoryStore::new());
/// let tokens = TokenManager::builder(MemoryStore::new()).with_audit(audit).build();
/// let app: Router = Router::new()
///     .nest("/admin/audit", api::audit_log(log))
///     .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
/// # let _ = app;
/// ```
pub fn audit_log<S: Clone + Send + Sync + 'static>(log: AuditLog) -> Router<S> {
    Router::new()
        .route("/", get(list))
        .route_layer(RequireLayer::scope("admin:read"))
        .route_layer(RequireLayer::role(ADMIN_ROLE))
        .layer(middleware::from_fn(in_request))
        .with_state(log)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditParams {
    user_id: Option<String>,
    token_id: Option<String>,
    event: Option<String>,
    outcome: Option<Outcome>,
    since: Option<UnixTime>,
    until: Option<UnixTime>,
    cursor: Option<String>,
    limit: Option<u32>,
}

impl AuditParams {
    fn into_query(self) -> Result<AuditQuery, ApiError> {
        let mut query = AuditQuery::default();
        if let Some(limit) = self.limit {
            if !(1..=AuditQuery::MAX_LIMIT).contains(&limit) {
                return Err(ApiError::bad_request("`limit` is a number from 1 to 200."));
            }
            query = query.with_limit(limit);
        }
        if let Some(cursor) = self.cursor {
            let number = cursor.parse().map_err(|_| {
                ApiError::bad_request("`cursor` is the `next_cursor` of a page of the audit log.")
            })?;
            query = query.with_cursor(Some(number));
        }
        if let Some(token) = self.token_id {
            let id =
                token.parse().map_err(|_| ApiError::bad_request("`token_id` is the `id` of a token."))?;
            query = query.with_token(id);
        }
        if let Some(event) = self.event {
            let is_name = |b: u8| b.is_ascii_lowercase() || b"._".contains(&b);
            if event.is_empty() || event.len() > 64 || !event.bytes().all(is_name) {
                let sentence = "`event` is the name of an event, such as \"token.revoked\".";
                return Err(ApiError::bad_request(sentence));
            }
            query = query.with_event(event);
        }
        query.user = self.user_id.as_deref().map(read_user).transpose()?;
        (query.outcome, query.since, query.until) = (self.outcome, self.since, self.until);
        Ok(query)
    }
}

#[derive(Serialize)]
struct AuditList<'a> {
    entries: &'a [AuditEntry],
    next_cursor: Option<String>,
}

async fn list(
    me: Principal,
    reason: AuditReason,
    State(log): State<AuditLog>,
    query: Params<AuditParams>,
) -> Result<Response, ApiError> {
    let query = params(query)?.into_query()?;
    let page = log.search(&me.admin(reason.0)?, &query).await;
    let page = page.map_err(|_| ApiError::from(AuthError::from(AuthErrorKind::Unavailable)))?;
    let next_cursor = page.next_cursor.map(|cursor| cursor.to_string());
    Ok(Json(AuditList { entries: &page.entries, next_cursor }).into_response())
}
