//! What a verified JWT says.

use std::fmt;

use serde::{Deserialize, de::DeserializeOwned};

use crate::{id::is_unprintable, time::UnixTime};

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
#[derive(PartialEq)]
pub struct JwtClaims {
    /// All texts behind one another, in the order of [`JwtTexts`]: one piece of memory for each token.
    texts: Box<str>,
    /// Where all but the last of them end.
    ends: [u32; 4],
    issued_at: Option<UnixTime>,
    expires_at: UnixTime,
}

/// The texts of a token's claims. Those that are not there are empty, which none of them may be otherwise.
pub(crate) struct JwtTexts<'a> {
    /// The claims as JSON, without repeated names.
    pub(crate) payload: &'a str,
    pub(crate) issuer: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) jwt_id: &'a str,
    /// The claim `cnf` as JSON: what the sender must prove to possess.
    pub(crate) confirmation: &'a str,
}

impl JwtClaims {
    /// `None` if the texts are longer than any token can be.
    #[cfg_attr(not(feature = "_jwt"), expect(dead_code, reason = "only the module `jwt` calls it"))]
    pub(crate) fn new(
        texts: &JwtTexts<'_>,
        issued_at: Option<UnixTime>,
        expires_at: UnixTime,
    ) -> Option<Self> {
        let parts = [texts.payload, texts.issuer, texts.subject, texts.jwt_id];
        let mut all = String::with_capacity(
            parts.iter().map(|part| part.len()).sum::<usize>() + texts.confirmation.len(),
        );
        let mut ends = [0; 4];
        for (part, end) in parts.iter().zip(&mut ends) {
            all.push_str(part);
            *end = u32::try_from(all.len()).ok()?;
        }
        all.push_str(texts.confirmation);
        Some(Self { texts: all.into(), ends, issued_at, expires_at })
    }

    fn texts(&self) -> JwtTexts<'_> {
        let [payload, issuer, subject, jwt_id] = self.ends.map(|end| end as usize);
        let part = |start: usize, end: usize| self.texts.get(start..end).unwrap_or_default();
        JwtTexts {
            payload: part(0, payload),
            issuer: part(payload, issuer),
            subject: part(issuer, subject),
            jwt_id: part(subject, jwt_id),
            confirmation: part(jwt_id, self.texts.len()),
        }
    }

    /// Who issued the token (`iss`, RFC 7519 section 4.1.1); empty if it does not say, which only
    /// `AnyIssuer` accepts.
    #[must_use]
    pub fn issuer(&self) -> &str {
        self.texts().issuer
    }

    /// Whom it is about (`sub`, section 4.1.2), in the words of its issuer.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.texts().subject
    }

    /// The token's own id (`jti`, section 4.1.7), by which it can be revoked.
    #[must_use]
    pub fn jwt_id(&self) -> Option<&str> {
        Some(self.texts().jwt_id).filter(|id| !id.is_empty())
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
        let [.., start] = self.ends;
        self.texts.get(start as usize..).filter(|confirmation| !confirmation.is_empty())
    }

    /// All claims, in a type of your own. Read anew at each call.
    ///
    /// # Errors
    /// When the token does not have the claims that `T` needs.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, InvalidClaims> {
        serde_json::from_str(self.texts().payload).map_err(|_| InvalidClaims)
    }
}

/// What an issuer says of an e-mail address (OpenID Connect Core 1.0, section 5.1).
#[derive(Deserialize)]
struct Email {
    email: Box<str>,
    email_verified: Option<serde_json::Value>,
}

impl JwtClaims {
    /// The e-mail address, for the audit log. Anybody can claim one that is not verified.
    pub(crate) fn email(&self) -> Option<Box<str>> {
        let Email { email, email_verified } = self.parse().ok()?;
        // Some issuers write it as a text.
        let verified = email_verified.is_none_or(|verified| verified == true || verified == "true");
        let printable = email.len() <= 254 && !email.chars().any(|c| c.is_whitespace() || is_unprintable(c));
        (verified && printable && email.contains('@')).then_some(email)
    }
}

impl fmt::Debug for JwtClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtClaims")
            .field("issuer", &self.issuer())
            .field("subject", &self.subject())
            .finish_non_exhaustive()
    }
}

/// The credential is no JWT, or its claims do not fit the type that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the credential does not carry these claims")]
#[non_exhaustive]
pub struct InvalidClaims;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_is_what_the_issuer_vouches_for() {
        for (payload, email) in [
            (r#"{"email":"a@example.org"}"#, Some("a@example.org")),
            (r#"{"email":"a@example.org","email_verified":true}"#, Some("a@example.org")),
            (r#"{"email":"a@example.org","email_verified":"true"}"#, Some("a@example.org")),
            (r#"{"email":"a@example.org","email_verified":false}"#, None),
            (r#"{"email":"a@example.org","email_verified":"false"}"#, None),
            (r#"{"email":"a@example.org\u0000"}"#, None),
            (r#"{"email":"a b@example.org"}"#, None),
            (r#"{"email":"nobody"}"#, None),
            (r#"{"email":["a@example.org"]}"#, None),
            ("{}", None),
        ] {
            let texts = JwtTexts { payload, issuer: "i", subject: "s", jwt_id: "", confirmation: "" };
            let claims = JwtClaims::new(&texts, None, UnixTime::MAX).unwrap();
            assert_eq!(claims.email().as_deref(), email, "{payload}");
        }
    }
}
