//! What a header and claims must say: plain functions over values, before and apart from any signature.

use std::{borrow::Cow, time::Duration};

use super::json::{Nested, Object, Value};
use crate::{
    error::Refusal,
    id::{UserId, is_printable},
    principal::{JwtClaims, JwtTexts},
    scope::{Grant, RoleSet, ScopeSet},
    time::UnixTime,
};

/// The longest `kid` or `jti`, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Header members that change how a token is read or bring a key along. None is needed, all were used in
/// attacks (RFC 8725, sections 2 and 3; RFC 7515, section 4.1.11).
const REFUSED_IN_HEADER: [&str; 13] =
    ["crit", "b64", "jku", "jwk", "x5u", "x5c", "zip", "enc", "cty", "epk", "p2c", "p2s", "ppt"];

/// What a token's header says.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) alg: Cow<'a, str>,
    pub(super) kid: Option<Cow<'a, str>>,
    typ: Option<Cow<'a, str>>,
}

impl<'a> Header<'a> {
    pub(super) fn read(header: &Object<'a>) -> Result<Self, Refusal> {
        let (mut alg, mut kid, mut typ) = (None, None, None);
        for (name, value) in header.members() {
            match (name, value) {
                ("alg", Value::String(text)) => alg = Some(text.clone()),
                ("kid", Value::String(text)) if is_name(text) => kid = Some(text.clone()),
                ("typ", Value::String(text)) => typ = Some(text.clone()),
                ("alg" | "kid" | "typ", _) => return Err(Refusal::Malformed),
                (name, _) if REFUSED_IN_HEADER.contains(&name) => return Err(Refusal::Malformed),
                _ => {}
            }
        }
        Ok(Self { alg: alg.ok_or(Refusal::Algorithm)?, kid, typ })
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && is_printable(text)
}

/// Which types of token are accepted, by the header's `typ` (RFC 7515, section 4.1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    /// `JWT`, `at+jwt` or none.
    Jwt,
    /// `at+jwt` alone, with all that RFC 9068 demands.
    AccessToken,
}

/// One step for each member name, for claims within claims: `["realm_access", "roles"]`.
///
/// A text is one name, whatever dots or slashes it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath(Box<[Box<str>]>);

impl From<&str> for ClaimPath {
    fn from(name: &str) -> Self {
        Self([name.into()].into())
    }
}

impl From<String> for ClaimPath {
    fn from(name: String) -> Self {
        Self([name.into()].into())
    }
}

impl From<Vec<String>> for ClaimPath {
    fn from(names: Vec<String>) -> Self {
        Self(names.into_iter().map(String::into_boxed_str).collect())
    }
}

impl<const N: usize> From<[&str; N]> for ClaimPath {
    fn from(names: [&str; N]) -> Self {
        Self(names.iter().map(|name| Box::from(*name)).collect())
    }
}

impl ClaimPath {
    fn find<'a>(&self, claims: &Object<'a>) -> Option<Value<'a>> {
        let (first, rest) = self.0.split_first()?;
        let mut found = claims.get(first)?.clone();
        for name in rest {
            let Value::Object(object) = found else { return None };
            found = object.get(name)?;
        }
        Some(found)
    }
}

/// What an issuer's tokens must say. It knows no key and no network.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// `None` accepts any, and none.
    pub(super) issuer: Option<Box<str>>,
    /// `None` accepts any, and none.
    pub(super) audiences: Option<Box<[Box<str>]>>,
    pub(super) audience_claim: ClaimPath,
    pub(super) leeway: Duration,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) token_type: TokenType,
    /// Whether the marks of an ID token are accepted.
    pub(super) id_tokens: bool,
    /// Claims that must be there with exactly this text.
    pub(super) required: Vec<(ClaimPath, Box<str>)>,
    /// A claim that may be there only if it is false.
    pub(super) refused_if_true: Option<ClaimPath>,
    pub(super) scopes: ClaimPath,
    pub(super) missing_scope_means_all: bool,
    pub(super) roles: Option<ClaimPath>,
}

impl Rules {
    pub(super) fn new() -> Self {
        Self {
            issuer: None,
            audiences: None,
            audience_claim: "aud".into(),
            leeway: Duration::from_secs(60),
            max_lifetime: Some(Duration::from_secs(24 * 3600)),
            token_type: TokenType::Jwt,
            id_tokens: false,
            required: Vec::new(),
            refused_if_true: None,
            scopes: "scope".into(),
            missing_scope_means_all: false,
            roles: None,
        }
    }

    /// Whether these rules are for tokens that name this issuer. `iss` is one text, equal byte for byte
    /// (RFC 7519, section 4.1.1).
    pub(super) fn is_issued_by(&self, issuer: Option<&str>) -> bool {
        self.issuer.as_deref().is_none_or(|expected| issuer == Some(expected))
    }

    /// Judges all that a token says, but not whether it is genuine.
    pub(super) fn check(
        &self,
        header: &Header<'_>,
        claims: &Claims<'_>,
        now: UnixTime,
    ) -> Result<Accepted, Refusal> {
        self.check_type(header, claims)?;
        if !self.is_issued_by(claims.issuer.as_deref()) {
            return Err(Refusal::Issuer);
        }
        self.check_audience(claims)?;
        let expires_at = self.check_times(claims, now)?;
        if let Some(flag) = &self.refused_if_true
            && !matches!(flag.find(&claims.all), None | Some(Value::Bool(false) | Value::Null))
        {
            return Err(Refusal::Claim);
        }
        for (path, expected) in &self.required {
            if !matches!(path.find(&claims.all), Some(Value::String(text)) if *text == **expected) {
                return Err(Refusal::Claim);
            }
        }
        let subject = claims.subject.as_deref().filter(|subject| UserId::is_valid(subject));
        let texts = JwtTexts {
            payload: claims.all.as_str(),
            issuer: claims.issuer.as_deref().unwrap_or_default(),
            subject: subject.ok_or(Refusal::Subject)?,
            jwt_id: claims.jwt_id.as_deref().unwrap_or_default(),
            confirmation: claims.confirmation.as_ref().map_or("", Nested::as_str),
        };
        let jwt = JwtClaims::new(&texts, claims.issued_at, expires_at).ok_or(Refusal::Malformed)?;
        let valid_from = claims.not_before.max(claims.issued_at).unwrap_or(UnixTime::EPOCH);
        Ok(Accepted {
            jwt,
            valid_from: valid_from.saturating_sub(self.leeway),
            scopes: self.scopes_of(claims)?,
            roles: self.roles_of(claims)?,
        })
    }

    fn check_type(&self, header: &Header<'_>, claims: &Claims<'_>) -> Result<(), Refusal> {
        let typ = header.typ.as_deref().map(|typ| {
            let prefix = typ.get(..12).filter(|prefix| prefix.eq_ignore_ascii_case("application/"));
            prefix.and_then(|prefix| typ.get(prefix.len()..)).unwrap_or(typ)
        });
        let is = |name: &str| typ.is_some_and(|typ| typ.eq_ignore_ascii_case(name));
        let fits = match self.token_type {
            TokenType::Jwt => typ.is_none() || is("JWT") || is("at+jwt"),
            // RFC 9068, sections 2.2 and 4.
            TokenType::AccessToken => {
                is("at+jwt")
                    && claims.jwt_id.is_some()
                    && claims.issued_at.is_some()
                    && matches!(claims.all.get("client_id"), Some(Value::String(id)) if !id.is_empty())
            }
        };
        // Logout tokens and other security events (RFC 8417, section 2.2) are no credentials.
        let is_event = claims.all.get("events").is_some();
        let is_id_token = claims.is_id_token && !self.id_tokens;
        if fits && !is_event && !is_id_token { Ok(()) } else { Err(Refusal::TokenType) }
    }

    fn check_audience(&self, claims: &Claims<'_>) -> Result<(), Refusal> {
        let Some(audiences) = &self.audiences else { return Ok(()) };
        let ours = |text: &str| audiences.iter().any(|audience| **audience == *text);
        let mut found = false;
        match self.audience_claim.find(&claims.all) {
            Some(Value::String(text)) => found = ours(&text),
            Some(Value::Array(list)) => {
                for item in list.items() {
                    let Value::String(text) = item else { return Err(Refusal::Audience) };
                    found |= ours(&text);
                }
            }
            _ => {}
        }
        if found { Ok(()) } else { Err(Refusal::Audience) }
    }

    fn check_times(&self, claims: &Claims<'_>, now: UnixTime) -> Result<UnixTime, Refusal> {
        let expires_at = claims.expires_at.ok_or(Refusal::Claim)?;
        if now >= expires_at.saturating_add(self.leeway) {
            return Err(Refusal::Expired);
        }
        let latest_start = now.saturating_add(self.leeway);
        if claims.not_before.is_some_and(|at| at > latest_start)
            || claims.issued_at.is_some_and(|at| at > latest_start)
        {
            return Err(Refusal::NotYetValid);
        }
        if let Some(max) = self.max_lifetime {
            let left = expires_at.since(now) > max.saturating_add(self.leeway);
            let whole = claims.issued_at.is_some_and(|at| expires_at.since(at) > max);
            if left || whole {
                return Err(Refusal::LivesTooLong);
            }
        }
        Ok(expires_at)
    }

    fn scopes_of(&self, claims: &Claims<'_>) -> Result<Grant, Refusal> {
        match self.scopes.find(&claims.all) {
            None if self.missing_scope_means_all => Ok(Grant::All),
            None => Ok(Grant::Only(ScopeSet::empty())),
            Some(value) => {
                let mut names = names_in(&value)?;
                // An issuer's text is no pattern of ours.
                names.retain(|name| !name.contains('*'));
                Ok(Grant::Only(ScopeSet::of_usable(names)))
            }
        }
    }

    fn roles_of(&self, claims: &Claims<'_>) -> Result<RoleSet, Refusal> {
        match self.roles.as_ref().and_then(|path| path.find(&claims.all)) {
            None => Ok(RoleSet::empty()),
            Some(value) => Ok(RoleSet::of_usable(names_in(&value)?)),
        }
    }
}

/// The names in a list of texts, or in one text with spaces between them (RFC 6749, section 3.3).
fn names_in<'a>(value: &'a Value<'_>) -> Result<Vec<Cow<'a, str>>, Refusal> {
    match value {
        Value::String(text) => Ok(text.split(' ').filter(|name| !name.is_empty()).map(Cow::from).collect()),
        Value::Array(list) => {
            let name = |item| if let Value::String(name) = item { Ok(name) } else { Err(Refusal::Claim) };
            list.items().map(name).collect()
        }
        Value::Null => Ok(Vec::new()),
        _ => Err(Refusal::Claim),
    }
}

/// A token that says the right things.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) jwt: JwtClaims,
    pub(super) valid_from: UnixTime,
    pub(super) scopes: Grant,
    pub(super) roles: RoleSet,
}

/// What a token claims, each claim of the type that the standard gives it.
#[derive(Debug)]
pub(super) struct Claims<'a> {
    pub(super) issuer: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    jwt_id: Option<Cow<'a, str>>,
    expires_at: Option<UnixTime>,
    not_before: Option<UnixTime>,
    issued_at: Option<UnixTime>,
    confirmation: Option<Nested<'a>>,
    /// Whether it has claims that only ID tokens have (OpenID Connect Core, section 3.1.3.6).
    is_id_token: bool,
    all: Object<'a>,
}

impl<'a> Claims<'a> {
    /// Whether it is good only with a proof of possession (RFC 7800).
    pub(super) fn is_bound(&self) -> bool {
        self.confirmation.is_some()
    }

    /// Whether that is the proof of a key (RFC 9449, section 6.1).
    pub(super) fn is_bound_to_key(&self) -> bool {
        self.confirmation.as_ref().is_some_and(|confirmation| confirmation.get("jkt").is_some())
    }

    pub(super) fn read(all: Object<'a>) -> Result<Self, Refusal> {
        let (mut issuer, mut subject, mut jwt_id, mut confirmation) = (None, None, None, None);
        let (mut expires_at, mut not_before, mut issued_at, mut is_id_token) = (None, None, None, false);
        for (name, value) in all.members() {
            match (name, value) {
                ("iss", Value::String(text)) => issuer = Some(text.clone()),
                ("iss", _) => return Err(Refusal::Issuer),
                ("sub", Value::String(text)) => subject = Some(text.clone()),
                ("sub", _) => return Err(Refusal::Subject),
                ("jti", Value::String(text)) if is_name(text) => jwt_id = Some(text.clone()),
                ("exp", value) => expires_at = Some(read_time(value)?),
                ("nbf", value) => not_before = Some(read_time(value)?),
                ("iat", value) => issued_at = Some(read_time(value)?),
                ("cnf", Value::Object(object)) => confirmation = Some(object.clone()),
                ("jti" | "cnf", _) => return Err(Refusal::Claim),
                ("at_hash" | "c_hash" | "s_hash" | "nonce", _) => is_id_token = true,
                _ => {}
            }
        }
        Ok(Self {
            issuer,
            subject,
            jwt_id,
            expires_at,
            not_before,
            issued_at,
            confirmation,
            is_id_token,
            all,
        })
    }
}

/// A NumericDate (RFC 7519, section 2).
fn read_time(value: &Value<'_>) -> Result<UnixTime, Refusal> {
    let Value::Number(number) = value else { return Err(Refusal::Claim) };
    number.to_millis().map(UnixTime::from_millis).ok_or(Refusal::Claim)
}
