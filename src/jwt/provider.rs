//! Identity providers whose tokens differ from the plain form, as data.

use super::claims::ClaimPath;

/// How one identity provider writes its tokens: for [`JwtAuth::provider`](super::JwtAuth::provider).
///
/// ```no_run
/// use keyward::jwt::{JwtAuth, Provider};
///
/// # async fn example() -> Result<(), keyward::ConfigError> {
/// let jwt = JwtAuth::provider(Provider::auth0("acme.eu.auth0.com", "https://api.example")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Provider {
    /// What the tokens' `iss` says.
    pub issuer: Box<str>,
    /// Where the keys are, if the issuer's metadata does not say.
    pub jwks_url: Option<Box<str>>,
    /// Whom the tokens must be for.
    pub audience: Box<str>,
    /// Which claim says so.
    pub audience_claim: ClaimPath,
    /// Which claim holds the scopes.
    pub scopes: ClaimPath,
    /// Which claim holds the roles, if one does.
    pub roles: Option<ClaimPath>,
    /// Claims that must be there with exactly this text.
    pub required: Vec<(ClaimPath, Box<str>)>,
    /// Whether these are ID tokens, because the provider gives no access tokens that a service can verify.
    pub id_tokens: bool,
}

impl Provider {
    /// A provider with discovery and the plain claims: a start for one that is not here.
    #[must_use]
    pub fn new(issuer: &str, audience: &str) -> Self {
        Self {
            issuer: issuer.into(),
            jwks_url: None,
            audience: audience.into(),
            audience_claim: "aud".into(),
            scopes: "scope".into(),
            roles: None,
            required: Vec::new(),
            id_tokens: false,
        }
    }

    /// Auth0: access tokens of a tenant's `domain`, such as `acme.eu.auth0.com`, for an API's identifier.
    /// The roles of its role-based access control are the claim `permissions`.
    #[must_use]
    pub fn auth0(domain: &str, audience: &str) -> Self {
        Self { roles: Some("permissions".into()), ..Self::new(&format!("https://{domain}/"), audience) }
    }

    /// AWS Cognito: access tokens of a user pool, such as `eu-central-1_AbC123`, for an app client. They have
    /// no `aud`; `client_id` and `token_use` take its place. The roles are the user's groups.
    #[must_use]
    pub fn cognito(region: &str, user_pool: &str, client_id: &str) -> Self {
        let issuer = format!("https://cognito-idp.{region}.amazonaws.com/{user_pool}");
        Self {
            audience_claim: "client_id".into(),
            required: vec![("token_use".into(), "access".into())],
            roles: Some("cognito:groups".into()),
            ..Self::new(&issuer, client_id)
        }
    }

    /// Supabase: access tokens of a project's signed-in users. Anonymous callers have another audience. The
    /// project must use asymmetric signing keys.
    #[must_use]
    pub fn supabase(project: &str) -> Self {
        let issuer = format!("https://{project}.supabase.co/auth/v1");
        let jwks_url = Some(format!("{issuer}/.well-known/jwks.json").into());
        Self {
            jwks_url,
            required: vec![("role".into(), "authenticated".into())],
            ..Self::new(&issuer, "authenticated")
        }
    }

    /// Firebase Authentication: the ID tokens of a project, which it wants services to check.
    #[must_use]
    pub fn firebase(project: &str) -> Self {
        let keys =
            "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";
        let issuer = format!("https://securetoken.google.com/{project}");
        Self { jwks_url: Some(keys.into()), id_tokens: true, ..Self::new(&issuer, project) }
    }

    /// Google: the ID tokens of a client. Its access tokens are not for services to read.
    #[must_use]
    pub fn google(client_id: &str) -> Self {
        Self { id_tokens: true, ..Self::new("https://accounts.google.com", client_id) }
    }

    /// Okta: access tokens of an authorization server, such as `default`, in the organization `domain`, such
    /// as `acme.okta.com`. The roles are the claim `groups`, where the server adds it.
    #[must_use]
    pub fn okta(domain: &str, server: &str, audience: &str) -> Self {
        let issuer = format!("https://{domain}/oauth2/{server}");
        Self { scopes: "scp".into(), roles: Some("groups".into()), ..Self::new(&issuer, audience) }
    }

    /// Microsoft Entra ID: access tokens of version 2.0 of one tenant, by its id, for an application's id.
    /// Tokens of version 1.0 have another issuer: set `requestedAccessTokenVersion` to 2 in the application's
    /// manifest. A token that an application got for itself has roles and no scopes.
    #[must_use]
    pub fn entra(tenant: &str, application: &str) -> Self {
        let issuer = format!("https://login.microsoftonline.com/{tenant}/v2.0");
        Self {
            scopes: "scp".into(),
            roles: Some("roles".into()),
            required: vec![("ver".into(), "2.0".into()), ("tid".into(), tenant.into())],
            ..Self::new(&issuer, application)
        }
    }

    /// Keycloak: access tokens of a `realm` of the server at `base`, such as `https://sso.example`, for an
    /// audience that a mapper of the client adds. The roles are those of the realm.
    #[must_use]
    pub fn keycloak(base: &str, realm: &str, audience: &str) -> Self {
        let issuer = format!("{}/realms/{realm}", base.trim_end_matches('/'));
        Self {
            roles: Some(["realm_access", "roles"].into()),
            required: vec![("typ".into(), "Bearer".into())],
            ..Self::new(&issuer, audience)
        }
    }
}
