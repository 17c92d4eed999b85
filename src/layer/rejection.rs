//! What a refusal looks like to the client.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};

use crate::error::{AuthError, AuthErrorKind};

/// Makes the response to a refused request.
///
/// [`ProblemJson`] is the default; [`GrpcStatus`] suits tonic, [`Empty`] any body that has a default. A
/// closure of your own does as well. Afterwards the layer adds the headers that a refusal needs
/// (`WWW-Authenticate`, `Retry-After`, `RateLimit`, `Cache-Control: no-store`, `X-Request-Id`), unless they are
/// there, and puts the [`AuthError`] into the response's extensions.
///
/// ```
/// use keyward::{AuthError, layer::RejectionResponse};
///
/// let plain = |error: &AuthError| {
///     let mut response = http::Response::new(error.to_string());
///     *response.status_mut() = error.status();
///     response
/// };
/// # fn takes<R: RejectionResponse<String>>(_: R) {}
/// takes(plain);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot make a rejection with the body `{B}`",
    note = "`ProblemJson` needs a body that is `From<Bytes>` (axum's, `http_body_util::Full`)",
    note = "for tonic use `.with_rejection(GrpcStatus)`, for other bodies with a default `.with_rejection(Empty)`",
    note = "or give a closure: `.with_rejection(|error: &keyward::AuthError| -> http::Response<B> {{ … }})`"
)]
pub trait RejectionResponse<B>: Clone {
    /// The response that tells the client of `error`.
    fn response(&self, error: &AuthError) -> Response<B>;
}

impl<F, B> RejectionResponse<B> for F
where
    F: Fn(&AuthError) -> Response<B> + Clone,
{
    fn response(&self, error: &AuthError) -> Response<B> {
        self(error)
    }
}

/// Answers with `application/problem+json` (RFC 9457). Bodies are constant for each kind of refusal.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no settings")]
pub struct ProblemJson;

impl<B: From<Bytes>> RejectionResponse<B> for ProblemJson {
    fn response(&self, error: &AuthError) -> Response<B> {
        let problem = Problem::new(error.status(), error.kind().detail());
        let mut response = Response::new(B::from(problem.to_json()));
        *response.status_mut() = error.status();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// The members of a problem document (RFC 9457, section 3.1). `type` is `about:blank`, so the title is
/// the status's own phrase.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct Problem<'a> {
    /// Always `about:blank`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The status's phrase.
    pub title: &'static str,
    /// The status code.
    pub status: u16,
    /// One sentence for the client.
    pub detail: &'a str,
}

impl<'a> Problem<'a> {
    /// The problem of a status, in one sentence.
    #[must_use]
    pub fn new(status: http::StatusCode, detail: &'a str) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { kind: "about:blank", title, status: status.as_u16(), detail }
    }

    /// The document as JSON.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }
}

/// Answers with the status and an empty body.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no settings")]
pub struct Empty;

impl<B: Default> RejectionResponse<B> for Empty {
    fn response(&self, error: &AuthError) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = error.status();
        response
    }
}

/// Answers as gRPC does: HTTP 200 and the gRPC status in the headers ("trailers only"), for tonic.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no settings")]
pub struct GrpcStatus;

impl<B: Default> RejectionResponse<B> for GrpcStatus {
    fn response(&self, error: &AuthError) -> Response<B> {
        let mut response = Response::new(B::default());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(error.grpc_status())));
        if let Ok(message) = HeaderValue::from_str(error.kind().detail()) {
            headers.insert("grpc-message", message);
        }
        response
    }
}

/// `WWW-Authenticate` values for one realm, made once.
#[derive(Clone, Debug)]
pub(crate) struct Challenges {
    missing: HeaderValue,
    invalid: HeaderValue,
    base: Box<str>,
}

impl Challenges {
    pub(crate) fn new(scheme: &str, realm: &str) -> Option<Self> {
        let base = format!("{scheme} realm=\"{realm}\"");
        let invalid = format!("{base}, error=\"invalid_token\"");
        Some(Self { missing: base.parse().ok()?, invalid: invalid.parse().ok()?, base: base.into() })
    }

    fn of(&self, error: &AuthError) -> Option<HeaderValue> {
        match error.kind() {
            AuthErrorKind::Missing => Some(self.missing.clone()),
            AuthErrorKind::Invalid => Some(self.invalid.clone()),
            AuthErrorKind::BadRequest => format!("{}, error=\"invalid_request\"", self.base).parse().ok(),
            AuthErrorKind::InsufficientScope => {
                let scope = error.required_scope().map(|scope| format!(", scope=\"{scope}\""));
                let scope = scope.unwrap_or_default();
                format!("{}, error=\"insufficient_scope\"{scope}", self.base).parse().ok()
            }
            _ => None,
        }
    }
}

impl Default for Challenges {
    fn default() -> Self {
        let missing = HeaderValue::from_static("Bearer realm=\"api\"");
        let invalid = HeaderValue::from_static("Bearer realm=\"api\", error=\"invalid_token\"");
        Self { missing, invalid, base: "Bearer realm=\"api\"".into() }
    }
}

/// The whole answer to a refused request.
pub(crate) fn reject<B, R: RejectionResponse<B>>(
    rejection: &R,
    challenges: &Challenges,
    error: AuthError,
    request_id: Option<HeaderValue>,
) -> Response<B> {
    let mut response = rejection.response(&error);
    let headers = response.headers_mut();
    if let Some(challenge) = challenges.of(&error) {
        set(headers, header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(wait) = error.retry_after() {
        set(headers, header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    }
    set(headers, header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set(headers, header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in error.headers().into_iter().flatten() {
        set(headers, name.clone(), value.clone());
    }
    if let Some(id) = request_id {
        set(headers, header::HeaderName::from_static("x-request-id"), id);
    }
    response.extensions_mut().insert(error);
    response
}

/// The answer to a request that a handler or extractor refuses.
#[cfg(feature = "axum")]
pub(crate) fn respond<B: From<Bytes>>(error: AuthError) -> Response<B> {
    reject(&ProblemJson, &Challenges::default(), error, None)
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: HeaderValue) {
    headers.entry(name).or_insert(value);
}
