//! JSON Web Tokens: whose are believed, and the login for developers.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use keyward::{
    ConfigError, UserId,
    api::{ApiError, JsonBody},
    event::Audit,
    jwt::{Algorithm, JwtAuth, JwtBuilder, JwtIssuer, Said, UserIds, VerifyingKey},
    principal::RoleDirectory,
    scope::RoleSet,
};
use serde::Deserialize;

use crate::{
    clock::clock,
    settings::{JwtSettings, KeySource},
};

/// The claim that holds roles, for all issuers here.
const ROLES: &str = "roles";

/// Accepts the tokens that the settings name, if they name any.
pub(crate) fn authenticator<R: RoleDirectory + Clone>(
    settings: &JwtSettings,
    roles: &R,
    audit: &Audit,
) -> Result<Option<JwtAuth>, ConfigError> {
    let (mut local, mut oidc) = (None, None);
    if let Some(secret) = &settings.secret {
        let key = VerifyingKey::hmac(Algorithm::HS256, secret.expose())
            .map_err(|error| about("JWT_SECRET", &error));
        local = Some(named(JwtAuth::key(key), settings));
    }
    match &settings.keys {
        None => {}
        Some(KeySource::Oidc { issuer, audience }) => oidc = Some(JwtAuth::oidc(issuer, audience)),
        Some(KeySource::Url(url)) => {
            local = Some(match local {
                Some(builder) => builder.and_jwks(url),
                None => named(JwtAuth::jwks(url), settings),
            });
        }
        Some(KeySource::File(keys)) => {
            local = Some(match local {
                Some(builder) => builder.and_keys(keys),
                None => named(JwtAuth::keys(keys), settings),
            });
        }
    }
    let build = |builder: JwtBuilder<Said, Said>, users| {
        builder
            .with_user_ids(users)
            .with_roles_claim(ROLES)
            .with_roles(roles.clone())
            .missing_scope_means_all()
            .with_leeway(settings.leeway)
            .with_cool_down(settings.cool_down)
            .with_clock(clock())
            .with_audit(audit.clone())
            .build()
    };
    // What is wrong with the secret says so itself; what else can be wrong is where the keys are.
    let build_local = |builder| {
        let built = build(builder, UserIds::Subject);
        if settings.secret.is_some() {
            built
        } else {
            built.map_err(|error| about("KEYWARD_JWKS_URL", &error))
        }
    };
    let build_oidc =
        |builder, users| build(builder, users).map_err(|error| about("KEYWARD_OIDC_ISSUER", &error));
    match (local, oidc) {
        (None, None) => Ok(None),
        (Some(only), None) => build_local(only).map(Some),
        (None, Some(only)) => build_oidc(only, UserIds::Subject).map(Some),
        (Some(first), Some(second)) => {
            let both = [build_local(first)?, build_oidc(second, UserIds::Namespaced)?];
            JwtAuth::any_of(both).map_err(|error| about("KEYWARD_OIDC_ISSUER", &error)).map(Some)
        }
    }
}

/// The same error, by the name of the variable to change.
fn about(name: &str, error: &ConfigError) -> ConfigError {
    let text = error.to_string();
    if text.starts_with(name) { error.clone() } else { ConfigError::new(format!("{name}: {text}")) }
}

fn named(builder: JwtBuilder, settings: &JwtSettings) -> JwtBuilder<Said, Said> {
    let text = |setting: &Option<String>| setting.clone().unwrap_or_default();
    builder.issuer(text(&settings.issuer)).audience(text(&settings.audience))
}

/// `POST /dev-login`, where it was asked for: anybody becomes anybody.
pub(crate) fn dev_login(settings: &JwtSettings) -> Result<Router, ConfigError> {
    let (true, Some(secret)) = (settings.dev_login, &settings.secret) else { return Ok(Router::new()) };
    let (issuer, audience) = (settings.issuer.as_deref(), settings.audience.as_deref());
    let issuer = JwtIssuer::hs256(secret.expose(), issuer.unwrap_or_default(), audience.unwrap_or_default())?;
    let issuer = issuer.with_lifetime(settings.lifetime)?.with_clock(clock());
    tracing::warn!("ENABLE_LOGIN is on: POST /dev-login gives anybody a token for any user and any role");
    Ok(Router::new().route("/dev-login", post(login)).with_state(issuer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    user_id: UserId,
    roles: Option<RoleSet>,
}

async fn login(
    State(issuer): State<JwtIssuer>,
    JsonBody(login): JsonBody<Login>,
) -> Result<Response, ApiError> {
    let reserved = ["keyward:", "static:", "public:"];
    if reserved.iter().any(|prefix| login.user_id.as_str().starts_with(prefix)) {
        let sentence = "A user id that begins with `keyward:`, `static:` or `public:` is not for logins.";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, sentence));
    }
    let roles = login.roles.unwrap_or_else(RoleSet::empty);
    let claims = [(ROLES, serde_json::json!(roles))].into();
    let token = issuer.token_with(&login.user_id, claims).map_err(|error| {
        tracing::error!(%error, "no token could be made");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "No token could be made.")
    })?;
    tracing::warn!(user.id = %login.user_id.as_str().escape_debug(), "dev-login: a token was handed out");
    let body = serde_json::json!({ "access_token": token, "expires_in": issuer.lifetime().as_secs() });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}
