//! How the routes say no.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    error::{AuthError, AuthErrorKind, NotOwner, Refusal},
    layer::Problem,
    manage::TokenError,
};

/// An error of a route: a problem document (RFC 9457) with one sentence for the client.
///
/// ```
/// use axum::{http::StatusCode, response::IntoResponse};
/// use keyward::api::ApiError;
///
/// let error = ApiError::new(StatusCode::BAD_REQUEST, "`limit` is a number from 1 to 200");
/// assert_eq!(error.into_response().headers()["content-type"], "application/problem+json");
/// ```
#[derive(Clone, Debug)]
pub struct ApiError(Reason);

#[derive(Clone, Debug)]
enum Reason {
    Auth(AuthError),
    Other(StatusCode, Cow<'static, str>),
}

impl ApiError {
    /// An error of this status. The sentence goes to the client: it must hold nothing of the request.
    #[must_use]
    pub fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>) -> Self {
        Self(Reason::Other(status, sentence.into()))
    }

    /// 400, with a sentence that says what to change.
    #[must_use]
    pub fn bad_request(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, sentence)
    }

    /// 404, the same as for somebody else's resource.
    #[must_use]
    pub fn not_found() -> Self {
        NotOwner::new().into()
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        Self(Reason::Auth(error))
    }
}

impl From<NotOwner> for ApiError {
    fn from(error: NotOwner) -> Self {
        Self(Reason::Auth(error.into()))
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::NotFound => Self::not_found(),
            TokenError::BeyondOwnRights => Self::new(
                StatusCode::FORBIDDEN,
                "A credential cannot hand out or change more rights, or a longer life, than it has itself.",
            ),
            TokenError::CredentialDied => AuthError::from(AuthErrorKind::Invalid).into(),
            TokenError::Invalid(sentence) => Self::bad_request(sentence),
            TokenError::Conflict => Self::new(
                StatusCode::CONFLICT,
                "The key is dead, has a successor already, or was changed at the same time.",
            ),
            TokenError::StillUsed => Self::new(
                StatusCode::CONFLICT,
                "The replaced key is still used: its `last_used` and `last_used_ip` say when and from where. \
                 Change those clients to the new key, or send `\"force\": true` to end it anyway.",
            ),
            TokenError::LimitReached => {
                Self::new(StatusCode::CONFLICT, "There are as many active keys as allowed; revoke one first.")
            }
            TokenError::TooFast { retry_in } => {
                AuthError::because(AuthErrorKind::TooManyRequests, Refusal::RateLimited)
                    .retry_in(retry_in)
                    .into()
            }
            TokenError::UserExists => Self::new(StatusCode::CONFLICT, "The user id is taken."),
            TokenError::OwnerInactive => {
                Self::new(StatusCode::FORBIDDEN, "The user is suspended or gone, and gets no new keys.")
            }
            TokenError::Busy => {
                Self::new(StatusCode::CONFLICT, "The same is being done already; try again later.")
            }
            TokenError::Store(_) => AuthError::from(AuthErrorKind::Unavailable).into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, sentence) = match self.0 {
            Reason::Auth(error) => return error.into_response(),
            Reason::Other(status, sentence) => (status, sentence),
        };
        let mut response = Response::new(Body::from(Problem::new(status, &sentence).to_json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}
