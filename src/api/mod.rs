//! The key routes, to mount in an axum router inside an [`AuthLayer`](crate::AuthLayer).
//!
//! [`own_tokens`] lets each caller manage their own keys, [`admin_tokens`] lets the role `admin` manage
//! those of all. Both answer in JSON, errors as `application/problem+json` (RFC 9457), and nothing but
//! the answer to a creation ever holds a key. A credential that is limited by scopes needs `keys:read` or
//! `keys:write` for its own, and `admin:read` or `admin:write` besides the role for those of others.
//!
//! | own keys, below the mount point | |
//! |---|---|
//! | `POST /` | creates one: `name`, `scopes`, `expires_in_days`, `allowed_ips`, `metadata`, [`limits`](crate::limit::Limits), `child` |
//! | `GET /?cursor&limit&status&expiring_within_days&unused_for_days` | lists them, newest first |
//! | `DELETE /` | revokes all of them |
//! | `GET`, `PATCH /{id}` | shows, changes one (`name`, `scopes`, `allowed_ips`, `metadata`, `limits`, `enabled`) |
//! | `DELETE /{id}?cascade` | revokes one; with `cascade=true` also what was made through it |
//! | `POST /{id}/rotate` | replaces one: `overlap_seconds` |
//! | `POST /{id}/finish-rotation` | ends the overlap of a replaced one that nobody uses any more; with `force`, in any case |
//! | `GET /debug/ownership` | counts tokens, if [switched on](OwnTokens::debug_ownership) |
//!
//! | keys of all users, below the mount point | |
//! |---|---|
//! | `POST /` | creates one: `user_id`, `honeytoken`, and as above |
//! | `GET /?user_id&cursor&limit&status&expiring_within_days&unused_for_days` | lists them |
//! | `DELETE /{id}?cascade` | revokes one; with `cascade=true` also what was made through it, whose ever it is |
//!
//! [`admin_cleanup`] is for `POST`: it removes tokens that ended long ago.
//!
//! [`audit_log`] lets the role `admin` search the stored audit log:
//!
//! | audit log, below the mount point | |
//! |---|---|
//! | `GET /?user_id&token_id&event&outcome&since&until&cursor&limit` | lists entries, newest first |
//!
//! The events of all these routes carry the request's id, if it has the header `X-Request-Id`.
//!
//! [`admin_users`] suspends, restores and offboards users. How somebody without any credential comes to a first
//! key is a choice of three: [`Bootstrap`].

use std::convert::Infallible;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};

use crate::{
    auth::RequestHead,
    error::AuthError,
    event::InRequest,
    layer::RequireLayer,
    manage::{Actor, Cleanup, TokenManager},
    principal::Principal,
};

mod audit;
mod body;
mod bootstrap;
mod problem;
mod request;
mod users;
mod view;

pub use audit::audit_log;
pub use body::JsonBody;
pub use bootstrap::{Admission, Bootstrap, registration};
pub use problem::ApiError;
use request::{
    AdminList, AuditReason, CreateBody, CreateForBody, FinishBody, ListParams, NoBody, PatchBody, RevokePath,
    RotateBody, TokenPath,
};
pub use users::admin_users;
use view::{FinishedView, Issued, Ownership, TokenList, TokenView};

/// The longest body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The routes for a caller's own keys, with the default settings; see [`OwnTokens`].
///
/// ```
/// use axum::Router;
/// use keyward::{AuthLayer, TokenManager, api, auth::ApiKeyAuth, store::MemoryStore};
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// let app: Router = Router::new()
///     .nest("/api/keys", api::own_tokens(tokens.clone()))
///     .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
/// # let _ = app;
/// ```
pub fn own_tokens<S: Clone + Send + Sync + 'static>(tokens: TokenManager) -> Router<S> {
    OwnTokens::new(tokens).into_router()
}

/// The routes for a caller's own keys.
///
/// ```
/// use axum::Router;
/// use keyward::{TokenManager, api::OwnTokens, store::MemoryStore};
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// let routes: Router = OwnTokens::new(tokens).debug_ownership(cfg!(debug_assertions)).into_router();
/// # let _ = routes;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct OwnTokens {
    tokens: TokenManager,
    debug_ownership: bool,
    bootstrap: Bootstrap,
}

impl OwnTokens {
    /// The routes over `tokens`.
    pub fn new(tokens: TokenManager) -> Self {
        Self { tokens, debug_ownership: false, bootstrap: Bootstrap::AdminOnly }
    }

    /// Adds `GET /debug/ownership`, which tells any caller how many tokens they have and how many there
    /// are; off by default.
    pub fn debug_ownership(mut self, on: bool) -> Self {
        self.debug_ownership = on;
        self
    }

    /// How somebody without any credential comes to a first key; from an administrator by default. For
    /// [`Bootstrap::Public`] the layer outside must let `POST` pass without a credential: give it
    /// [`Bootstrap::mode_at`]. The other routes need one in any case.
    pub fn with_bootstrap(mut self, bootstrap: Bootstrap) -> Self {
        self.bootstrap = bootstrap;
        self
    }

    /// The router to mount.
    pub fn into_router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        let (read, write) = (RequireLayer::scope("keys:read"), RequireLayer::scope("keys:write"));
        let mut reading = Router::new().route("/", get(list)).route("/{id}", get(show));
        if self.debug_ownership {
            reading = reading.route("/debug/ownership", get(ownership));
        }
        let mut writing = Router::new()
            .route("/", axum::routing::delete(revoke_all))
            .route("/{id}", axum::routing::patch(change).delete(revoke))
            .route("/{id}/rotate", post(rotate))
            .route("/{id}/finish-rotation", post(finish_rotation));
        // Who has no credential has no scope either, so that route asks for it itself.
        let anybody = match &self.bootstrap {
            Bootstrap::Public(admission) => {
                Router::new().route("/", bootstrap::public_creation(self.tokens.clone(), admission))
            }
            _ => {
                writing = writing.route("/", post(create));
                Router::new()
            }
        };
        reading
            .route_layer(read)
            .merge(writing.route_layer(write))
            .merge(anybody)
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(middleware::from_fn(in_request))
            .with_state(self.tokens)
    }
}

/// The routes for an administrator: for callers with the role `admin`. The header `X-Audit-Reason`
/// (at most 200 characters) says why; without it the reason is the method and the route.
pub fn admin_tokens<S: Clone + Send + Sync + 'static>(tokens: TokenManager) -> Router<S> {
    let reading = Router::new().route("/", get(list_all)).route_layer(RequireLayer::scope("admin:read"));
    let writing = Router::new()
        .route("/", post(create_for))
        .route("/{id}", axum::routing::delete(revoke_any))
        .route_layer(RequireLayer::scope("admin:write"));
    reading
        .merge(writing)
        .route_layer(RequireLayer::role(crate::principal::ADMIN_ROLE))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(in_request))
        .with_state(tokens)
}

/// The route for an administrator that does now what the [background work](TokenManager::run) does once an hour,
/// to mount where it shall be: `POST` answers with how many tokens were `removed` and are `stored`, how many
/// warnings were sent (`warned`), and whether all tokens were looked at (`complete`). It answers 409 while the hourly
/// work takes all the time.
///
/// ```
/// use axum::Router;
/// use keyward::{AuthLayer, TokenManager, api, auth::ApiKeyAuth, store::MemoryStore};
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// let app: Router = Router::new()
///     .nest("/admin/tokens", api::admin_tokens(tokens.clone()))
///     .route("/admin/cleanup", api::admin_cleanup(tokens.clone()))
///     .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
/// # let _ = app;
/// ```
pub fn admin_cleanup<S: Clone + Send + Sync + 'static>(tokens: TokenManager) -> MethodRouter<S> {
    post(clean_up)
        .with_state(tokens)
        .layer::<_, Infallible>(DefaultBodyLimit::max(MAX_BODY))
        .layer::<_, Infallible>(RequireLayer::scope("admin:write"))
        .layer::<_, Infallible>(RequireLayer::role(crate::principal::ADMIN_ROLE))
        .layer(middleware::from_fn(in_request))
}

/// Gives the request's id to the events that happen in it.
async fn in_request(request: Request, next: Next) -> Response {
    let id = RequestHead::new(&request).request_id().map(str::to_owned);
    InRequest::new(id.as_deref(), next.run(request)).await
}

type Params<T> = Result<Query<T>, QueryRejection>;

async fn create(
    me: Principal,
    State(tokens): State<TokenManager>,
    body: JsonBody<CreateBody>,
) -> Result<Response, ApiError> {
    let issued = tokens.create(&me, body.0.into_new_token()?).await?;
    Ok(created(&Issued::new(&tokens, &issued)))
}

fn created(issued: &Issued<'_>) -> Response {
    let no_store = [(http::header::CACHE_CONTROL, "no-store")];
    (StatusCode::CREATED, no_store, Json(issued)).into_response()
}

async fn list(
    me: Principal,
    State(tokens): State<TokenManager>,
    params: Params<ListParams>,
) -> Result<Response, ApiError> {
    let page = tokens.list(&me, request::params(params)?.into_query()?).await?;
    Ok(Json(TokenList::new(&tokens, &page)).into_response())
}

async fn show(
    me: Principal,
    State(tokens): State<TokenManager>,
    id: TokenPath,
) -> Result<Response, ApiError> {
    let record = tokens.get(&me, id.0).await?;
    Ok(Json(TokenView::new(&tokens, &record)).into_response())
}

async fn change(
    me: Principal,
    State(tokens): State<TokenManager>,
    id: TokenPath,
    body: JsonBody<PatchBody>,
) -> Result<Response, ApiError> {
    let record = tokens.update(&me, id.0, body.0.into_update()?).await?;
    Ok(Json(TokenView::new(&tokens, &record)).into_response())
}

async fn revoke(
    me: Principal,
    State(tokens): State<TokenManager>,
    path: RevokePath,
) -> Result<StatusCode, ApiError> {
    answer_revoke(&tokens, &me, path).await
}

async fn answer_revoke<'a>(
    tokens: &TokenManager,
    actor: impl Into<Actor<'a>>,
    path: RevokePath,
) -> Result<StatusCode, ApiError> {
    if path.cascade {
        tokens.revoke_cascade(actor, path.id).await?;
    } else {
        tokens.revoke(actor, path.id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn rotate(
    me: Principal,
    State(tokens): State<TokenManager>,
    id: TokenPath,
    body: JsonBody<RotateBody>,
) -> Result<Response, ApiError> {
    let issued = tokens.rotate(&me, id.0, body.0.overlap()?).await?;
    Ok(created(&Issued::new(&tokens, &issued)))
}

async fn finish_rotation(
    me: Principal,
    State(tokens): State<TokenManager>,
    id: TokenPath,
    body: JsonBody<FinishBody>,
) -> Result<Response, ApiError> {
    let finished = tokens.finish_rotation(&me, id.0, body.0.finish()).await?;
    Ok(Json(FinishedView::new(&tokens, &finished)).into_response())
}

async fn revoke_all(me: Principal, State(tokens): State<TokenManager>) -> Result<Response, ApiError> {
    let revoked = tokens.revoke_all(&me).await?;
    Ok(Json(serde_json::json!({ "revoked": revoked })).into_response())
}

async fn ownership(me: Principal, State(tokens): State<TokenManager>) -> Result<Response, ApiError> {
    let user_tokens_count = tokens.count(&me).await?;
    let proof = crate::AdminProof::operator("keyward:ownership-debug", "count tokens for the debug route");
    let proof = proof.map_err(|_| ApiError::from(AuthError::from(crate::AuthErrorKind::Misconfigured)))?;
    let total_tokens_in_system = tokens.count(&proof).await?;
    Ok(Json(Ownership { user_id: me.user_id(), user_tokens_count, total_tokens_in_system }).into_response())
}

async fn list_all(
    me: Principal,
    reason: AuditReason,
    State(tokens): State<TokenManager>,
    params: Params<AdminList>,
) -> Result<Response, ApiError> {
    let page = tokens.list(&me.admin(reason.0)?, request::params(params)?.into_query()?).await?;
    Ok(Json(TokenList::for_admin(&tokens, &page)).into_response())
}

async fn create_for(
    me: Principal,
    reason: AuditReason,
    State(tokens): State<TokenManager>,
    body: JsonBody<CreateForBody>,
) -> Result<Response, ApiError> {
    let new = body.0.into_new_token()?;
    let issued = tokens.create(&me.admin(reason.0)?, new).await?;
    Ok(created(&Issued::for_admin(&tokens, &issued)))
}

async fn revoke_any(
    me: Principal,
    reason: AuditReason,
    State(tokens): State<TokenManager>,
    path: RevokePath,
) -> Result<StatusCode, ApiError> {
    answer_revoke(&tokens, &me.admin(reason.0)?, path).await
}

async fn clean_up(
    me: Principal,
    reason: AuditReason,
    State(tokens): State<TokenManager>,
    _: JsonBody<NoBody>,
) -> Result<Response, ApiError> {
    let Cleanup { removed, stored, warned, complete } = tokens.cleanup(&me.admin(reason.0)?).await?;
    let done = serde_json::json!({
        "removed": removed, "stored": stored, "warned": warned, "complete": complete
    });
    Ok(Json(done).into_response())
}
