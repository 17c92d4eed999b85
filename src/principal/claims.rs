//! What a verified JWT says.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::time::UnixTime;

/// The claims of a verified JWT: who issued it about whom, and everything else that it says.
///
/// Only verified tokens become one. `Debug` shows issuer and subject, not the rest.
///
/// ```
/// use keyward::Principal;
///
/// #[derive(serde::Deserialize)]
/// struct Profile { email: String }
///
/// fn greet(me: &Principal) -> String {
///     match me.claims::<Profile>() {
///         Ok(profile) => format!("hello {}", profile.email),
///         Err(_) => format!("hello {}", me.user_id()), // an API key, or a token without an e-mail
///     }
/// }
/// ```
pub struct JwtClaims {
    pub(crate) issuer: Box<str>,
    pub(crate) subject: Box<str>,
    pub(crate) jwt_id: Option<Box<str>>,
    pub(crate) issued_at: Option<UnixTime>,
    pub(crate) expires_at: UnixTime,
    /// The claims as JSON, without repeated names.
    pub(crate) payload: Box<str>,
    /// The claim `cnf` as JSON: what the sender must prove to possess.
    pub(crate) confirmation: Option<Box<str>>,
}

impl JwtClaims {
    /// Who issued the token (`iss`, RFC 7519 section 4.1.1); empty if it does not say, which only
    /// `AnyIssuer` accepts.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom it is about (`sub`, section 4.1.2), in the words of its issuer.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The token's own id (`jti`, section 4.1.7), by which it can be revoked.
    #[must_use]
    pub fn jwt_id(&self) -> Option<&str> {
        self.jwt_id.as_deref()
    }

    /// When it was issued (`iat`, section 4.1.6).
    #[must_use]
    pub fn issued_at(&self) -> Option<UnixTime> {
        self.issued_at
    }

    /// When it expires (`exp`, section 4.1.4).
    #[must_use]
    pub fn expires_at(&self) -> UnixTime {
        self.expires_at
    }

    /// What the sender proved to possess, as the JSON of the claim `cnf` (RFC 7800, section 3.1).
    #[must_use]
    pub fn confirmation(&self) -> Option<&str> {
        self.confirmation.as_deref()
    }

    /// All claims, in a type of your own. Read anew at each call.
    ///
    /// # Errors
    /// When the token does not have the claims that `T` needs.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, InvalidClaims> {
        serde_json::from_str(&self.payload).map_err(|_| InvalidClaims)
    }
}

impl fmt::Debug for JwtClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtClaims")
            .field("issuer", &self.issuer)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

/// The credential is no JWT, or its claims do not fit the type that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the credential does not carry these claims")]
#[non_exhaustive]
pub struct InvalidClaims;
