//! What can go wrong, by audience: [`AuthError`] for the client, [`ConfigError`] for the operator,
//! [`NotOwner`] for the handler.

use std::{borrow::Cow, fmt, time::Duration};

use http::{HeaderMap, StatusCode};

use crate::id::{TokenId, UserId};

/// Why a request was refused, as far as the client may know.
///
/// The layers put it into the response's extensions, whoever made the response, so that an outer layer
/// can count or trace refusals. The exact reason (revoked, expired, unknown, …) is in the audit event
/// only, since it would help somebody who guesses.
///
/// ```
/// use keyward::{AuthError, AuthErrorKind};
/// use http::{HeaderMap, StatusCode};
///
/// let error = AuthError::from(AuthErrorKind::Unavailable);
/// assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
/// assert_eq!(error.grpc_status(), 14);
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}")]
pub struct AuthError {
    kind: AuthErrorKind,
    reason: Option<Refusal>,
    scheme: Scheme,
    token: Option<TokenId>,
    owner: Option<UserId>,
    /// In whole seconds; zero where waiting is not asked for.
    retry_after: u32,
    details: Option<Box<Details>>,
}

/// What only some errors have.
#[derive(Clone, Debug, Default)]
struct Details {
    required_scope: Option<Box<str>>,
    headers: HeaderMap,
}

/// The kinds of refusal that a client can tell apart. Each has one status code and one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthErrorKind {
    /// No credential was presented: 401.
    Missing,
    /// A credential was presented and is not acceptable, for whatever reason: 401.
    Invalid,
    /// More than one credential, or one that is not written as the standards say: 400.
    BadRequest,
    /// The credential is good but lacks a scope: 403 `insufficient_scope`.
    InsufficientScope,
    /// The credential is good but may not be used for this, or from here: 403.
    Forbidden,
    /// Somebody else's resource, or none at all: 404.
    NotFound,
    /// A rate limit or quota of the credential is used up, or the client failed too often: 429.
    TooManyRequests,
    /// The store cannot be asked at the moment: 503.
    Unavailable,
    /// A guard or extractor runs without the layer that it needs: 500, and a log line names the fix.
    Misconfigured,
}

impl AuthErrorKind {
    /// The HTTP status of this kind.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Missing | Self::Invalid => StatusCode::UNAUTHORIZED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::InsufficientScope | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// One constant sentence for the client. It never depends on what was presented.
    #[must_use]
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Missing | Self::Invalid => "A valid credential is required.",
            Self::BadRequest => "Send exactly one credential, in one header, as a single token.",
            Self::InsufficientScope => "The credential does not have the scope that this needs.",
            Self::Forbidden => "The credential may not be used for this.",
            Self::NotFound => "There is no such resource.",
            Self::TooManyRequests => "Too many requests; wait for as long as `Retry-After` says.",
            Self::Unavailable => "The service cannot do this at the moment; try again shortly.",
            Self::Misconfigured => "The service is not set up correctly.",
        }
    }
}

impl fmt::Display for AuthErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl AuthError {
    pub(crate) fn because(kind: AuthErrorKind, reason: Refusal) -> Self {
        Self { reason: Some(reason), ..Self::from(kind) }
    }

    /// A presented credential that is refused for `reason`.
    pub(crate) fn invalid(reason: Refusal) -> Self {
        Self::because(AuthErrorKind::Invalid, reason)
    }

    pub(crate) fn about(mut self, token: Option<TokenId>, owner: Option<&UserId>) -> Self {
        self.token = token;
        self.owner = owner.cloned();
        self
    }

    pub(crate) fn needs_scope(scope: &str) -> Self {
        let error = Self::because(AuthErrorKind::InsufficientScope, Refusal::MissingScope);
        error.with_details(|details| details.required_scope = Some(scope.into()))
    }

    /// An authenticator of this scheme said so.
    pub(crate) fn by(self, scheme: Scheme) -> Self {
        Self { scheme, ..self }
    }

    /// The client shall wait, for whole seconds and at least one.
    pub(crate) fn retry_in(self, wait: Duration) -> Self {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
        Self { retry_after: u32::try_from(seconds).unwrap_or(u32::MAX), ..self }
    }

    /// The response also tells this.
    pub(crate) fn with_headers(self, headers: HeaderMap) -> Self {
        self.with_details(|details| details.headers = headers)
    }

    fn with_details(mut self, set: impl FnOnce(&mut Details)) -> Self {
        set(self.details.get_or_insert_default());
        self
    }

    /// What the client may know.
    #[must_use]
    pub fn kind(&self) -> AuthErrorKind {
        self.kind
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The gRPC status code: 3, 5, 7, 8, 13, 14 or 16.
    #[must_use]
    pub fn grpc_status(&self) -> u8 {
        match self.kind {
            AuthErrorKind::BadRequest => 3,
            AuthErrorKind::NotFound => 5,
            AuthErrorKind::InsufficientScope | AuthErrorKind::Forbidden => 7,
            AuthErrorKind::TooManyRequests => 8,
            AuthErrorKind::Misconfigured => 13,
            AuthErrorKind::Unavailable => 14,
            AuthErrorKind::Missing | AuthErrorKind::Invalid => 16,
        }
    }

    /// How long the client should wait before it tries again, in whole seconds, at least one; only for 429
    /// and 503.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let waits = matches!(self.kind, AuthErrorKind::TooManyRequests | AuthErrorKind::Unavailable);
        waits.then_some(Duration::from_secs(self.retry_after.max(1).into()))
    }

    /// The scope that was missing, for the challenge of a 403 (RFC 6750, section 3).
    #[must_use]
    pub fn required_scope(&self) -> Option<&str> {
        self.details.as_ref()?.required_scope.as_deref()
    }

    /// What the response tells beside the error.
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        self.details.as_ref().map(|details| &details.headers)
    }

    /// What is counted and reported as the reason.
    pub(crate) fn told_reason(&self) -> Refusal {
        let unsaid = match self.kind() {
            AuthErrorKind::Misconfigured => Refusal::Misconfigured,
            _ => Refusal::Policy,
        };
        self.reason.unwrap_or(unsaid)
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(crate) fn token(&self) -> Option<TokenId> {
        self.token
    }

    pub(crate) fn owner(&self) -> Option<&UserId> {
        self.owner.as_ref()
    }
}

impl From<AuthErrorKind> for AuthError {
    fn from(kind: AuthErrorKind) -> Self {
        Self {
            kind,
            reason: None,
            scheme: Scheme::None,
            token: None,
            owner: None,
            retry_after: 0,
            details: None,
        }
    }
}

/// What kind of credential was judged, as far as somebody took it for their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    None,
    ApiKey,
    Jwt,
    Static,
    Emergency,
    Custom,
}

impl Scheme {
    pub(crate) const ALL: [Self; 6] =
        [Self::None, Self::ApiKey, Self::Jwt, Self::Static, Self::Emergency, Self::Custom];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Static => "static",
            Self::Emergency => "emergency",
            Self::Custom => "custom",
        }
    }
}

/// Each reason stands once, with its name.
macro_rules! refusals {
    ($($(#[$doc:meta])+ $reason:ident = $name:literal,)+) => {
        /// The exact reason of a refusal. It appears in audit events, never in a response.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Refusal {
            $($(#[$doc])+ $reason,)+
        }

        impl Refusal {
            /// In the order of their declaration.
            pub(crate) const ALL: &[Self] = &[$(Self::$reason,)+];

            /// The stable name that logs and alerts use, such as `bad_checksum`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }
        }
    };
}

refusals! {
    /// No credential at all.
    NoCredential = "no_credential",
    /// Two headers, a repeated header, or two kinds at once.
    SeveralCredentials = "several_credentials",
    /// A credential header that is not one token of printable ASCII.
    Unreadable = "unreadable",
    /// A text that no authenticator takes for its own.
    UnknownKind = "unknown_kind",
    /// A good credential of another kind than is needed here, such as an API key where a JWT's claims are.
    WrongKind = "wrong_kind",
    /// The right prefix with a wrong length, version or checksum.
    BadChecksum = "bad_checksum",
    /// Well-formed, but never issued or no longer stored.
    Unknown = "unknown",
    /// A JWT that is not written as the standards and this crate demand.
    Malformed = "malformed",
    /// A JWT whose algorithm is not that of a key, or is none at all.
    Algorithm = "algorithm",
    /// A JWT whose key is not known.
    UnknownKey = "unknown_key",
    /// A JWT whose signature does not match.
    BadSignature = "bad_signature",
    /// A JWT of another type, such as an ID token where an access token is needed.
    TokenType = "token_type",
    /// A JWT of another issuer, or of none.
    Issuer = "issuer",
    /// A JWT for somebody else, or for nobody.
    Audience = "audience",
    /// A JWT whose subject is missing or cannot be a user.
    Subject = "subject",
    /// A JWT that lacks another claim, or in which one has a wrong value.
    Claim = "claim",
    /// A JWT from the future, by `nbf` or `iat`, or an emergency key before its time.
    NotYetValid = "not_yet_valid",
    /// A JWT that is good for longer than allowed.
    LivesTooLong = "lives_too_long",
    /// A JWT that is bound to a proof of possession, which is missing or wrong.
    Unconfirmed = "unconfirmed",
    /// The user that a JWT stands for could not be found out in time.
    UserLookup = "user_lookup",
    /// Its user is suspended or gone.
    UserInactive = "user_inactive",
    /// The token that it ends with does not work any more, or not at the moment.
    ParentEnded = "parent_ended",
    /// Revoked by its owner or an administrator.
    Revoked = "revoked",
    /// A trap: it never works, and nobody has a reason to present it.
    Honeytoken = "honeytoken",
    /// Switched off until it is enabled again.
    Disabled = "disabled",
    /// Past its expiry, or replaced and past the overlap.
    Expired = "expired",
    /// Not used for longer than the idle timeout.
    Idle = "idle",
    /// Past the hard maximum age.
    TooOld = "too_old",
    /// In its grace period, which allows safe methods only.
    ReadOnly = "read_only",
    /// Presented from an address outside the key's list, or from an unknown one.
    ClientIp = "client_ip",
    /// A scope is missing.
    MissingScope = "missing_scope",
    /// A role is missing.
    MissingRole = "missing_role",
    /// A policy of the application said no.
    Policy = "policy",
    /// A layer that is needed is missing: the service's mistake.
    Misconfigured = "misconfigured",
    /// The emergency key without a readable `X-Emergency-Reason`.
    MissingReason = "missing_reason",
    /// A cookie on an unsafe request from another site.
    CrossSite = "cross_site",
    /// Not over HTTPS.
    Insecure = "insecure",
    /// It would have handed out more rights than its maker has.
    BeyondOwnRights = "beyond_own_rights",
    /// Somebody else's resource, or none.
    NotOwner = "not_owner",
    /// A value that cannot be right.
    InvalidValue = "invalid_value",
    /// The token is dead, replaced, or was changed at the same time.
    Conflict = "conflict",
    /// The user has as many active tokens as allowed.
    LimitReached = "limit_reached",
    /// Who wanted to register is not new.
    UserExists = "user_exists",
    /// A replaced token that is still used was to be ended.
    StillUsed = "still_used",
    /// The same was being done already.
    Busy = "busy",
    /// The token's rate limit, that of its owner, or that of new users is used up for the moment.
    RateLimited = "rate_limited",
    /// The token's quota is used up for this day or month.
    QuotaExhausted = "quota_exhausted",
    /// Too many credentials from the client's address were wrong.
    TooManyFailures = "too_many_failures",
    /// As many credentials from the client's address were being looked up as may be wrong, and none was done in time.
    TooManyAtOnce = "too_many_at_once",
    /// The store did not answer, or not in time.
    StoreUnavailable = "store_unavailable",
    /// The keys of a JWT's issuer could not be fetched.
    KeysUnavailable = "keys_unavailable",
    /// The application's own source of users did not answer, and what it said before is too old.
    DirectoryUnavailable = "directory_unavailable",
}

/// A setting that cannot be right. The text says what to change; it never repeats a secret.
///
/// ```
/// let error = keyward::token::KeyFormat::new("K").unwrap_err();
/// assert!(error.to_string().contains("such as `acme_live`"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(Cow<'static, str>);

impl ConfigError {
    /// An error with one sentence that says what to change.
    #[must_use]
    pub fn new(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self(sentence.into())
    }
}

/// The resource belongs to somebody else, or does not exist: to the client the same thing.
///
/// With the feature `axum` this is a response: 404, byte for byte the one for an absent resource.
///
/// ```
/// use keyward::{AuthErrorKind, NotOwner};
///
/// assert_eq!(NotOwner::new().kind(), AuthErrorKind::NotFound);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("no such resource")]
#[non_exhaustive]
pub struct NotOwner;

impl NotOwner {
    /// The error for an absent resource.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }

    /// Always [`AuthErrorKind::NotFound`].
    #[must_use]
    pub const fn kind(&self) -> AuthErrorKind {
        AuthErrorKind::NotFound
    }
}

impl From<NotOwner> for AuthError {
    fn from(_: NotOwner) -> Self {
        Self::because(AuthErrorKind::NotFound, Refusal::NotOwner)
    }
}

/// An error and its causes in one line: that of a client alone says only that it could not connect.
#[cfg(any(feature = "_https", feature = "postgres"))]
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
