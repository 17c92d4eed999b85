//! Identity providers whose tokens differ from the plain form, as data.

use super::claims::{ClaimPath, Rules};

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
    /// A claim that may be there only if it is `false`.
    pub refused_if_true: Option<ClaimPath>,
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
            refused_if_true: None,
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

    /// Supabase: access tokens of a project's signed-in users. Those who signed in anonymously (`is_anonymous`)
    /// are refused; set `refused_if_true` to `None` to let them in. The project must use asymmetric signing keys.
    #[must_use]
    pub fn supabase(project: &str) -> Self {
        let issuer = format!("https://{project}.supabase.co/auth/v1");
        let jwks_url = Some(format!("{issuer}/.well-known/jwks.json").into());
        Self {
            jwks_url,
            required: vec![("role".into(), "authenticated".into())],
            refused_if_true: Some("is_anonymous".into()),
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
            // Earlier versions put a `nonce` into access tokens; `typ` tells them apart.
            id_tokens: true,
            ..Self::new(&issuer, audience)
        }
    }

    /// What this provider's tokens must say.
    pub(super) fn into_rules(self) -> Rules {
        Rules {
            issuer: Some(self.issuer),
            audiences: Some([self.audience].into()),
            audience_claim: self.audience_claim,
            scopes: self.scopes,
            roles: self.roles,
            required: self.required,
            refused_if_true: self.refused_if_true,
            id_tokens: self.id_tokens,
            ..Rules::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        error::Refusal,
        jwt::{
            claims::{Accepted, Claims, Header},
            json::Object,
        },
        time::UnixTime,
    };

    const NOW: i64 = 1_800_000_000;

    fn check(provider: Provider, header: &Value, claims: &Value) -> Result<Accepted, Refusal> {
        let (header, claims) = (header.to_string(), claims.to_string());
        let header = Header::read(&Object::parse(header.as_bytes()).unwrap())?;
        let claims = Claims::read(Object::parse(claims.as_bytes()).unwrap())?;
        provider.into_rules().check(&header, &claims, UnixTime::from_millis(NOW * 1000))
    }

    /// Provider, header, claims, some scopes, some roles, and what makes the claims wrong.
    type Case =
        (&'static str, Provider, Value, Value, &'static [&'static str], &'static [&'static str], Value);

    #[test]
    fn anonymous_users_of_supabase_are_refused_unless_they_are_let_in() {
        let claims = |anonymous: Value| {
            json!({
                "iss": "https://abc.supabase.co/auth/v1", "aud": "authenticated", "role": "authenticated",
                "sub": "8ccaa7af-909f-44e7-84cb-67cdccb56be6", "iat": NOW, "exp": NOW + 3600,
                "is_anonymous": anonymous,
            })
        };
        let header = json!({ "alg": "ES256", "typ": "JWT" });
        for (anonymous, accepted) in
            [(json!(false), true), (Value::Null, true), (json!(true), false), (json!("false"), false)]
        {
            let answer = check(Provider::supabase("abc"), &header, &claims(anonymous.clone()));
            assert_eq!(answer.is_ok(), accepted, "{anonymous}");
        }
        let open = Provider { refused_if_true: None, ..Provider::supabase("abc") };
        assert!(check(open, &header, &claims(json!(true))).is_ok());
    }

    /// Each provider's token after its own documentation; the same token with one claim changed is refused.
    #[test]
    fn documented_tokens_are_accepted() {
        let times = json!({ "iat": NOW - 5, "exp": NOW + 3600 });
        let cases: Vec<Case> = vec![
            (
                "Auth0",
                Provider::auth0("acme.eu.auth0.com", "https://api.example"),
                json!({ "alg": "RS256", "typ": "JWT", "kid": "k" }),
                json!({ "iss": "https://acme.eu.auth0.com/", "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
                    "aud": ["https://api.example", "https://acme.eu.auth0.com/userinfo"], "azp": "client",
                    "scope": "openid profile read:jobs", "permissions": ["read:jobs"] }),
                &["read:jobs"],
                &["read:jobs"],
                json!({ "aud": "client" }),
            ),
            (
                "Cognito",
                Provider::cognito("eu-central-1", "eu-central-1_AbC123", "client"),
                json!({ "alg": "RS256", "kid": "k" }),
                json!({ "iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbC123",
                    "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "client_id": "client", "token_use": "access",
                    "cognito:groups": ["ops"], "scope": "api/read", "auth_time": NOW - 5, "username": "alice",
                    "version": 2, "jti": "j", "origin_jti": "o" }),
                &["api/read"],
                &["ops"],
                json!({ "token_use": "id" }),
            ),
            (
                "Supabase",
                Provider::supabase("abcdefgh"),
                json!({ "alg": "ES256", "typ": "JWT", "kid": "k" }),
                json!({ "iss": "https://abcdefgh.supabase.co/auth/v1", "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
                    "aud": "authenticated", "role": "authenticated", "aal": "aal1", "session_id": "s",
                    "email": "a@example.org", "is_anonymous": false, "app_metadata": { "provider": "email" } }),
                &[],
                &[],
                json!({ "role": "service_role" }),
            ),
            (
                "Firebase",
                Provider::firebase("acme-app"),
                json!({ "alg": "RS256", "typ": "JWT", "kid": "k" }),
                json!({ "iss": "https://securetoken.google.com/acme-app", "aud": "acme-app", "sub": "uid",
                    "user_id": "uid", "auth_time": NOW - 5, "firebase": { "sign_in_provider": "password" } }),
                &[],
                &[],
                json!({ "iss": "https://securetoken.google.com/other-app" }),
            ),
            (
                "Google",
                Provider::google("client.apps.googleusercontent.com"),
                json!({ "alg": "RS256", "typ": "JWT", "kid": "k" }),
                json!({ "iss": "https://accounts.google.com", "azp": "client.apps.googleusercontent.com",
                    "aud": "client.apps.googleusercontent.com", "sub": "10769150350006150715113082367",
                    "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q", "email_verified": true }),
                &[],
                &[],
                json!({ "aud": "another.apps.googleusercontent.com" }),
            ),
            (
                "Okta",
                Provider::okta("acme.okta.com", "default", "api://default"),
                json!({ "alg": "RS256", "kid": "k" }),
                json!({ "ver": 1, "jti": "AT.x", "iss": "https://acme.okta.com/oauth2/default", "aud": "api://default",
                    "sub": "alice@acme.example", "cid": "client", "uid": "u", "scp": ["openid", "jobs"],
                    "groups": ["Everyone"] }),
                &["jobs"],
                &["Everyone"],
                json!({ "iss": "https://acme.okta.com" }),
            ),
            (
                "Entra",
                Provider::entra(
                    "11111111-2222-3333-4444-555555555555",
                    "66666666-7777-8888-9999-000000000000",
                ),
                json!({ "alg": "RS256", "typ": "JWT", "kid": "k", "x5t": "k" }),
                json!({ "iss": "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0",
                    "aud": "66666666-7777-8888-9999-000000000000", "nbf": NOW - 5, "sub": "pairwise",
                    "oid": "o", "tid": "11111111-2222-3333-4444-555555555555", "ver": "2.0",
                    "scp": "Jobs.Read Jobs.Write", "roles": ["Admin"], "azp": "client", "uti": "u" }),
                &["Jobs.Read", "Jobs.Write"],
                &["Admin"],
                json!({ "tid": "99999999-2222-3333-4444-555555555555" }),
            ),
            (
                "Keycloak",
                Provider::keycloak("https://sso.example/", "acme", "api"),
                json!({ "alg": "RS256", "typ": "JWT", "kid": "k" }),
                json!({ "iss": "https://sso.example/realms/acme", "aud": ["api", "account"], "typ": "Bearer",
                    "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "azp": "client", "sid": "s", "jti": "j",
                    "scope": "profile email", "realm_access": { "roles": ["offline_access", "ops"] },
                    "resource_access": { "account": { "roles": ["view-profile"] } } }),
                &["profile"],
                &["ops"],
                json!({ "typ": "Refresh" }),
            ),
        ];
        for (name, provider, header, mut claims, scopes, roles, wrong) in cases {
            let merge = |into: &mut Value, from: &Value| {
                into.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
            };
            merge(&mut claims, &times);
            let accepted =
                check(provider.clone(), &header, &claims).unwrap_or_else(|why| panic!("{name}: {why:?}"));
            assert!(scopes.iter().all(|scope| accepted.scopes.allows(scope)), "{name}");
            assert!(roles.iter().all(|role| accepted.roles.contains(role)), "{name}");
            merge(&mut claims, &wrong);
            assert!(check(provider, &header, &claims).is_err(), "{name}");
        }
    }
}
