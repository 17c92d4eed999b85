//! The service's routes, and who may reach them.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, delete, get, post},
};
use keyward::{
    AuthLayer, ConfigError, OwnerLayer, Principal, RequireLayer, TokenManager,
    api::{self, ApiError, Bootstrap, OwnTokens},
    audit::AuditLog,
    jwt::JwtAuth,
    redis::Redis,
};

use tower::ServiceBuilder;
use tower_http::{catch_panic::CatchPanicLayer, timeout::TimeoutLayer};

use crate::{
    jobs::{self, Jobs},
    settings::Settings,
    tokens::dev_login,
};

/// Where the routes for one's own keys are.
pub(crate) const KEYS: &str = "/api/keys";

/// How long a request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn app(
    settings: &Settings,
    tokens: &TokenManager,
    log: AuditLog,
    bootstrap: &Bootstrap,
    jwt: Option<JwtAuth>,
    auth: AuthLayer,
    metrics: Router,
) -> Result<Router, ConfigError> {
    let keys = OwnTokens::new(tokens.clone())
        .debug_ownership(settings.debug_ownership)
        .with_bootstrap(bootstrap.clone())
        .into_router();
    let status = Status {
        tokens: tokens.clone(),
        jwt,
        redis: settings.redis.clone(),
        bootstrap: bootstrap.as_str(),
        emergency_key: settings.emergency.is_some(),
    };
    let jobs = Jobs::default();
    // Everything below these prefixes is behind the layer, whether a route is there or not.
    let protected = Router::new()
        .nest("/api", Router::new().nest("/keys", keys).fallback(not_found))
        .nest("/admin", admin_routes(tokens, log, status.clone()).fallback(not_found))
        .nest("/jobs", job_routes(jobs.clone()).fallback(not_found))
        .nest("/users", user_routes(jobs)?.fallback(not_found))
        .route("/whoami", get(whoami))
        .route("/api/", any(not_found))
        .route("/admin/", any(not_found))
        .route("/jobs/", any(not_found))
        .route("/users/", any(not_found))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(auth);
    let open = Router::new()
        .route("/health", get(async || Json(serde_json::json!({ "status": "ok" }))))
        .route("/ready", get(ready).with_state(status))
        .nest("/auth", api::registration(tokens.clone(), bootstrap))
        .merge(dev_login(&settings.jwt)?)
        .merge(metrics)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found);
    let limits = ServiceBuilder::new()
        .layer(CatchPanicLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT));
    Ok(open.merge(protected).layer(limits))
}

fn admin_routes(tokens: &TokenManager, log: AuditLog, status: Status) -> Router {
    let health = Router::new()
        .route("/health", get(health))
        .route_layer(RequireLayer::scope("admin:read"))
        .route_layer(RequireLayer::role("admin"))
        .with_state(status);
    Router::new()
        .nest("/tokens", api::admin_tokens(tokens.clone()))
        .nest("/users", api::admin_users(tokens.clone()))
        .nest("/audit", api::audit_log(log))
        .route("/cleanup", api::admin_cleanup(tokens.clone()))
        .merge(health)
}

fn job_routes(jobs: Jobs) -> Router {
    let reading = Router::new().route("/", get(jobs::list)).route("/{id}", get(jobs::show));
    let writing = Router::new().route("/", post(jobs::create)).route("/{id}", delete(jobs::cancel));
    reading
        .route_layer(RequireLayer::scope("jobs:read"))
        .merge(writing.route_layer(RequireLayer::scope("jobs:write")))
        .with_state(jobs)
}

/// A user's jobs by the user's name in the path: only that user gets past the guard, so the list of the
/// caller's jobs is the list of the owner's.
fn user_routes(jobs: Jobs) -> Result<Router, ConfigError> {
    let routes = Router::new().route("/{user_id}/jobs", get(jobs::list));
    Ok(routes
        .route_layer(OwnerLayer::path("/{user_id}/jobs")?)
        .route_layer(RequireLayer::scope("jobs:read"))
        .with_state(jobs))
}

async fn whoami(me: Principal) -> Response {
    let answer = serde_json::json!({
        "user_id": me.user_id(),
        "method": me.method().as_str(),
        "token_id": me.token_id(),
        "scopes": me.scopes(),
        "roles": me.roles(),
    });
    Json(answer).into_response()
}

/// What there is to say of how the service is.
#[derive(Clone)]
struct Status {
    tokens: TokenManager,
    jwt: Option<JwtAuth>,
    redis: Option<Redis>,
    bootstrap: &'static str,
    emergency_key: bool,
}

impl Status {
    /// Whether the keys of those whose tokens are accepted are there.
    fn keys(&self) -> Result<(), ApiError> {
        self.jwt.as_ref().map_or(Ok(()), |jwt| jwt.ready().map_err(Into::into))
    }

    /// What several instances meet through. The service goes on without it.
    async fn redis(&self) -> Option<&'static str> {
        let ready = self.redis.as_ref()?.ready().await;
        Some(if ready.is_ok() { "ok" } else { "unavailable" })
    }

    async fn store(&self) -> Result<(), ApiError> {
        Ok(self.tokens.health().await?)
    }
}

async fn ready(State(status): State<Status>) -> Result<Response, ApiError> {
    status.keys()?;
    status.store().await?;
    Ok(Json(serde_json::json!({ "status": "ready" })).into_response())
}

/// For an administrator: which part it is, and what is set that should not be for long. An answer is always 200;
/// probes ask `/ready`.
async fn health(State(status): State<Status>) -> Response {
    let word = |part: Result<(), ApiError>| if part.is_ok() { "ok" } else { "unavailable" };
    let (store, keys) = (word(status.store().await), status.jwt.as_ref().map(|_| word(status.keys())));
    let redis = status.redis().await;
    let is_well = store == "ok" && ![keys, redis].contains(&Some("unavailable"));
    let answer = serde_json::json!({
        "status": if is_well { "ok" } else { "degraded" },
        "store": store,
        "redis": redis,
        "jwt_keys": keys,
        "bootstrap": status.bootstrap,
        "emergency_key": status.emergency_key,
    });
    Json(answer).into_response()
}

async fn not_found() -> ApiError {
    ApiError::not_found()
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "This method is not for this resource.")
}
