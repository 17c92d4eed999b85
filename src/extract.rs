//! Extractors and responses for axum.
//!
//! [`Principal`] and [`UserId`] are extractors, `Option<Principal>` is one behind an
//! [optional](AuthLayer::optional) layer, [`Claims<T>`](Claims) reads what the caller's JWT says, and
//! `Checked<T>` loads what the path names and checks that it is the caller's.

use std::{any, fmt, ops::Deref};

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
    count,
    error::{AuthError, AuthErrorKind, NotOwner, Refusal},
    event::EventKind,
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
        counted(caller(&head(parts), "the extractor `Principal`").cloned())
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Principal {
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, AuthError> {
        match caller(&head(parts), "the extractor `Option<Principal>`") {
            Ok(principal) => Ok(Some(principal.clone())),
            Err(error) if error.kind() == AuthErrorKind::Missing => Ok(None),
            Err(error) => counted(Err(error)),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for UserId {
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AuthError> {
        let caller = caller(&head(parts), "the extractor `UserId`");
        counted(caller.map(|principal| principal.user_id().clone()))
    }
}

/// The claims of the caller's JWT, in a type of your own: what [`Principal::claims`] reads, as an extractor.
///
/// ```
/// use axum::{Router, routing::get};
/// use keyward::extract::Claims;
///
/// #[derive(serde::Deserialize)]
/// struct Profile { email: String }
///
/// // For people with a token of the identity provider; an API key is answered with 403.
/// async fn greet(Claims(profile): Claims<Profile>) -> String {
///     format!("hello {}", profile.email)
/// }
///
/// // For both: an API key has no claims.
/// async fn greet_all(profile: Option<Claims<Profile>>) -> String {
///     profile.map_or("hello key".to_owned(), |profile| format!("hello {}", profile.email))
/// }
///
/// let app: Router = Router::new().route("/me", get(greet)).route("/all", get(greet_all));
/// # let _ = app;
/// ```
///
/// Who presents another credential than a JWT, or one whose claims do not fit `T`, is refused with
/// [`AuthErrorKind::Forbidden`] (403): the credential is good, so a new one of the same kind, which a 401 would
/// ask for, would not help; it lacks what this route needs, as one without a scope does (RFC 6750, section
/// 3.1). The audit event says which it was, `wrong_kind` or `claim`, and names `T`; neither it nor the answer
/// repeats anything of the token. Use [`Option`] where both kinds are welcome: it is `None` for a credential
/// that is no JWT, and for nobody behind an [optional](AuthLayer::optional) layer; a JWT whose claims do not
/// fit is refused there as well.
///
/// The claims are read anew at each call. `Debug` shows none of them, for those who log the arguments of their
/// handlers.
#[derive(Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "handlers take it apart, as they do axum's extractors")]
pub struct Claims<T>(pub T);

impl<T> Deref for Claims<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Claims<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims(…)")
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Claims<T> {
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AuthError> {
        let head = head(parts);
        let principal = caller(&head, "the extractor `Claims`")?;
        match principal.claims() {
            Ok(claims) => Ok(Self(claims)),
            Err(_) => Err(without_claims::<T>(principal, &head)),
        }
    }
}

impl<S: Sync, T: DeserializeOwned> OptionalFromRequestParts<S> for Claims<T> {
    type Rejection = AuthError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, AuthError> {
        let head = head(parts);
        match caller(&head, "the extractor `Option<Claims>`") {
            Ok(principal) if principal.jwt().is_none() => Ok(None),
            Ok(principal) => match principal.claims() {
                Ok(claims) => Ok(Some(Self(claims))),
                Err(_) => Err(without_claims::<T>(principal, &head)),
            },
            Err(error) if error.kind() == AuthErrorKind::Missing => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The refusal of a caller without the claims of `T`, reported where their events go.
fn without_claims<T>(principal: &Principal, head: &RequestHead<'_>) -> AuthError {
    let reason = if principal.jwt().is_some() { Refusal::Claim } else { Refusal::WrongKind };
    count::guarded(reason);
    let event = principal.event(EventKind::AccessRefused(reason)).in_request(head.request_id());
    principal.audit().emit(event.because(any::type_name::<T>()));
    AuthError::because(AuthErrorKind::Forbidden, reason)
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
        counted(load_checked(parts, state).await)
    }
}

async fn load_checked<S: Send + Sync, T: LoadOwned<S>>(
    parts: &mut Parts,
    state: &S,
) -> Result<Checked<T>, AuthError> {
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

/// An extractor that says no is a guard.
fn counted<T>(extracted: Result<T, AuthError>) -> Result<T, AuthError> {
    extracted.inspect_err(|error| count::guarded(error.told_reason()))
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
