//! Extractors and responses for axum.
//!
//! [`Principal`] and [`UserId`] are extractors, `Option<Principal>` is one behind an
//! [optional](AuthLayer::optional) layer, and `Checked<T>` loads what the path names and checks that it
//! is the caller's.

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts, Path},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

#[cfg(doc)]
use crate::AuthLayer;
use crate::{
    auth::RequestHead,
    error::{AuthError, AuthErrorKind, NotOwner, Refusal},
    id::UserId,
    layer::{caller, respond},
    principal::{Checked, Owned, Principal},
};

fn head(parts: &Parts) -> RequestHead<'_> {
    RequestHead::from_parts(parts)
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AuthError> {
        caller(&head(parts), "the extractor `Principal`").cloned()
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Principal {
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, AuthError> {
        match caller(&head(parts), "the extractor `Option<Principal>`") {
            Ok(principal) => Ok(Some(principal.clone())),
            Err(error) if error.kind() == AuthErrorKind::Missing => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for UserId {
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AuthError> {
        caller(&head(parts), "the extractor `UserId`").map(|principal| principal.user_id().clone())
    }
}

/// A resource that the extractor [`Checked`] can load: its key is the route's path parameter.
///
/// ```
/// use axum::{Router, routing::get};
/// use keyward::{Checked, Owned, UserId, extract::LoadOwned};
///
/// struct Job { owner: UserId, name: String }
/// impl Owned for Job {
///     const KIND: &'static str = "job";
///     fn owner(&self) -> &UserId { &self.owner }
/// }
///
/// #[derive(Clone)]
/// struct Jobs; // a database, say
/// impl LoadOwned<Jobs> for Job {
///     type Key = u64;
///     type Error = std::io::Error;
///     async fn load(_: &Jobs, _id: u64) -> Result<Option<Job>, std::io::Error> { Ok(None) }
/// }
///
/// // Runs for the owner only; everybody else gets the 404 of a job that does not exist.
/// async fn show(job: Checked<Job>) -> String { job.name.clone() }
/// let app: Router = Router::new().route("/jobs/{id}", get(show)).with_state(Jobs);
/// # let _ = app;
/// ```
pub trait LoadOwned<S>: Owned + Send + Sized {
    /// What the path parameter is read as. A text that is no key is answered as not found.
    type Key: DeserializeOwned + Send;
    /// Why it could not be looked up: logged, and answered with 503.
    type Error: std::fmt::Display;

    /// The resource with this key; `None` if there is none.
    fn load(state: &S, key: Self::Key) -> impl Future<Output = Result<Option<Self>, Self::Error>> + Send;
}

impl<S: Send + Sync, T: LoadOwned<S>> FromRequestParts<S> for Checked<T> {
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AuthError> {
        let principal = caller(&head(parts), "the extractor `Checked`")?.clone();
        let path = <Path<T::Key> as FromRequestParts<S>>::from_request_parts(parts, state);
        let Ok(Path(key)) = path.await else {
            return Err(NotOwner.into());
        };
        let found = T::load(state, key).await.map_err(|error| {
            let error = crate::secret::without_secrets(&error.to_string());
            tracing::error!(%error, kind = T::KIND, "a resource could not be loaded");
            AuthError::because(AuthErrorKind::Unavailable, Refusal::StoreUnavailable)
        })?;
        Ok(principal.check(found)?)
    }
}

impl IntoResponse for AuthError {
    /// The same answer as a layer's: `application/problem+json` with the headers of its kind.
    fn into_response(self) -> Response {
        respond(self)
    }
}

impl IntoResponse for NotOwner {
    fn into_response(self) -> Response {
        AuthError::from(self).into_response()
    }
}
