//! Issuing tokens, for services that are their own issuer.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde_json::{Map, Value, json};

use super::{key::VerifyingKey, secret, sign::Signer};
use crate::{
    error::ConfigError,
    id::UserId,
    time::{Clock, SystemClock},
};

/// Issues JSON Web Tokens that [`JwtAuth`](super::JwtAuth) accepts: for services that are their own issuer.
///
/// Tokens are `at+jwt` with `iss`, `sub`, `aud`, `iat`, `exp` and a random `jti`, by which they can be
/// revoked, good for 60 minutes.
///
/// ```
/// use keyward::{UserId, jwt::{JwtAuth, JwtIssuer}};
///
/// let secret = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only";
/// let issuer = JwtIssuer::hs256(secret, "https://login.example", "https://api.example")?;
/// let token = issuer.token(&UserId::new("alice")?)?;
///
/// // Only public keys are shown to others; a shared secret is none.
/// assert_eq!(issuer.jwks(), r#"{"keys":[]}"#);
/// # let jwt = JwtAuth::hs256(secret).issuer("https://login.example").audience("https://api.example").build()?;
/// # let _ = (jwt, token);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct JwtIssuer {
    signer: Arc<Signer>,
    issuer: Box<str>,
    audience: Box<str>,
    kid: Option<Box<str>>,
    lifetime: Duration,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for JwtIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtIssuer")
            .field("issuer", &self.issuer)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl JwtIssuer {
    /// Signs by HMAC-SHA-256 with a secret that whoever verifies must know as well.
    ///
    /// # Errors
    /// When the secret is short, well-known or regular, or issuer or audience are empty.
    pub fn hs256(secret: impl AsRef<[u8]>, issuer: &str, audience: &str) -> Result<Self, ConfigError> {
        let secret = secret.as_ref();
        secret::check_secret(secret, 32)?;
        Self::new(Signer::hs256(secret), issuer, audience, None)
    }

    /// Signs by EdDSA with the Ed25519 key of this 32-byte seed, which must be random and secret. Others
    /// verify with the public key in [`jwks`](Self::jwks); its name, the `kid`, is its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// When the seed is regular, or issuer or audience are empty.
    pub fn ed25519(seed: &[u8; 32], issuer: &str, audience: &str) -> Result<Self, ConfigError> {
        secret::check_secret(seed, 32)?;
        let signer = Signer::ed25519(seed)?;
        let thumbprint = signer.thumbprint();
        Self::new(signer, issuer, audience, thumbprint)
    }

    fn new(signer: Signer, issuer: &str, audience: &str, kid: Option<Box<str>>) -> Result<Self, ConfigError> {
        if issuer.trim().is_empty() || audience.trim().is_empty() {
            return Err(ConfigError::new("the issuer or the audience of the tokens is empty; name both"));
        }
        Ok(Self {
            signer: Arc::new(signer),
            issuer: issuer.into(),
            audience: audience.into(),
            kid,
            lifetime: Duration::from_secs(3600),
            clock: Arc::new(SystemClock),
        })
    }

    /// How long tokens are good for; 60 minutes by default, one second to 24 hours.
    ///
    /// # Errors
    /// When it is outside these bounds: no verifier accepts more by default.
    pub fn with_lifetime(mut self, lifetime: Duration) -> Result<Self, ConfigError> {
        if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&lifetime) {
            return Err(ConfigError::new("a token's lifetime must be between one second and 24 hours"));
        }
        self.lifetime = lifetime;
        Ok(self)
    }

    /// The clock; the system's by default.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What the tokens' `iss` says.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// How long tokens are good for.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token for `user`.
    ///
    /// # Errors
    /// When it cannot be signed, or the operating system gives no random numbers.
    pub fn token(&self, user: &UserId) -> Result<String, ConfigError> {
        self.token_with(user, BTreeMap::new())
    }

    /// A token for `user` with further claims, such as `scope` or `roles`.
    ///
    /// # Errors
    /// When a claim is one that the issuer itself sets, or as for [`token`](Self::token).
    pub fn token_with(&self, user: &UserId, claims: BTreeMap<&str, Value>) -> Result<String, ConfigError> {
        let own = ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "cnf"];
        if claims.keys().any(|name| own.contains(name)) {
            return Err(ConfigError::new("a further claim has the name of one that the issuer sets itself"));
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|_| ConfigError::new("the operating system gives no random numbers"))?;
        // Whole seconds, rounded down: a token is never from the future.
        let now = self.clock.now().as_millis().div_euclid(1000);
        let lifetime = i64::try_from(self.lifetime.as_secs()).unwrap_or(3600);
        let mut all: Map<String, Value> = Map::new();
        all.extend(claims.into_iter().map(|(name, value)| (name.to_owned(), value)));
        all.insert("iss".into(), json!(self.issuer));
        all.insert("sub".into(), json!(user));
        all.insert("aud".into(), json!(self.audience));
        all.insert("iat".into(), json!(now));
        all.insert("exp".into(), json!(now.saturating_add(lifetime)));
        all.insert("jti".into(), json!(BASE64.encode(id)));
        let mut header = json!({ "alg": self.signer.algorithm().name(), "typ": "at+jwt" });
        if let (Some(kid), Some(header)) = (&self.kid, header.as_object_mut()) {
            header.insert("kid".into(), json!(kid));
        }
        self.signer.token(&header, &Value::Object(all))
    }

    /// The public keys that verify these tokens, as a JSON Web Key Set (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> String {
        let keys: Vec<Value> = self.signer.public_jwk(self.kid.as_deref()).into_iter().collect();
        json!({ "keys": keys }).to_string()
    }

    /// The key that verifies these tokens, for a [`JwtAuth`](super::JwtAuth) in the same process.
    ///
    /// # Errors
    /// Never, for an issuer that could be made; the builder takes the result as it is.
    pub fn verifying_key(&self) -> Result<VerifyingKey, ConfigError> {
        let key = self.signer.verifying_key()?;
        match &self.kid {
            Some(kid) => key.with_kid(kid),
            None => Ok(key),
        }
    }
}
