//! Users in the hands of an administrator.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::post,
};

use crate::{
    api::{
        ApiError, JsonBody, MAX_BODY, in_request,
        request::{AuditReason, NoBody, UserPath},
    },
    layer::RequireLayer,
    manage::TokenManager,
    principal::{ADMIN_ROLE, Principal},
};

/// What an administrator does with users: for callers with the role `admin`, and the scope `admin:write` where
/// scopes limit them. The header `X-Audit-Reason` (at most 200 characters) says why; without it the reason is
/// the method and the route.
///
/// | route, below the mount point | |
/// |---|---|
/// | `POST /{id}/suspend` | refuses all that the user has: 204 |
/// | `POST /{id}/restore` | lets them in again; what was revoked stays revoked: 204 |
/// | `POST /{id}/offboard` | also revokes their keys and JWTs for ever: 200 with `{"revoked": n}` |
///
/// See [`TokenManager::suspend`], [`restore`](TokenManager::restore) and [`offboard`](TokenManager::offboard). Any
/// id that can be a user's is accepted: a user who only has JWTs is not known here before. Ids are written in
/// paths as URLs demand, such as `auth0%7C5f7c8ec7`. None takes a body; an empty object passes for none.
///
/// ```
/// use axum::Router;
/// use keyward::{AuthLayer, TokenManager, api, auth::ApiKeyAuth, store::MemoryStore};
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// let app: Router = Router::new()
///     .nest("/admin/users", api::admin_users(tokens.clone()))
///     .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
/// # let _ = app;
/// ```
pub fn admin_users<S: Clone + Send + Sync + 'static>(tokens: TokenManager) -> Router<S> {
    Router::new()
        .route("/{id}/suspend", post(suspend))
        .route("/{id}/restore", post(restore))
        .route("/{id}/offboard", post(offboard))
        .route_layer(RequireLayer::scope("admin:write"))
        .route_layer(RequireLayer::role(ADMIN_ROLE))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(in_request))
        .with_state(tokens)
}

async fn suspend(
    me: Principal,
    reason: AuditReason,
    State(tokens): State<TokenManager>,
    user: UserPath,
    _: JsonBody<NoBody>,
) -> Result<StatusCode, ApiError> {
    tokens.suspend(&me.admin(reason.0)?, &user.0).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn restore(
    me: Principal,
    reason: AuditReason,
    State(tokens): State<TokenManager>,
    user: UserPath,
    _: JsonBody<NoBody>,
) -> Result<StatusCode, ApiError> {
    tokens.restore(&me.admin(reason.0)?, &user.0).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn offboard(
    me: Principal,
    reason: AuditReason,
    State(tokens): State<TokenManager>,
    user: UserPath,
    _: JsonBody<NoBody>,
) -> Result<Response, ApiError> {
    let revoked = tokens.offboard(&me.admin(reason.0)?, &user.0).await?;
    Ok(Json(serde_json::json!({ "revoked": revoked })).into_response())
}
