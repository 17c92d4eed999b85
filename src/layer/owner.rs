//! The layer that guards what belongs to one user.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    auth::RequestHead,
    error::{AuthError, AuthErrorKind, ConfigError, Refusal},
    event::{Alert, EventKind},
    id::UserId,
    layer::{
        rejection::{ProblemJson, RejectionResponse},
        require::{caller, guarded_head, refuse},
    },
    principal::{ADMIN_ROLE, Principal},
    secret::without_secrets,
};

/// Lets only the owner of what a request is about pass. Somebody else gets the answer for what does not
/// exist, and an alert is raised.
///
/// The owner stands in the path, or an async function looks it up. It belongs inside an
/// [`AuthLayer`](crate::AuthLayer).
///
/// ```
/// use axum::{Router, routing::get};
/// use keyward::OwnerLayer;
///
/// let app: Router = Router::new()
///     .route("/users/{user_id}/jobs", get(async || "mine"))
///     .layer(OwnerLayer::path("/users/{user_id}")?);
/// # let _ = app;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[must_use]
pub struct OwnerLayer<R = ProblemJson> {
    shared: Arc<Shared>,
    rejection: R,
}

impl<R: Clone> Clone for OwnerLayer<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), rejection: self.rejection.clone() }
    }
}

#[derive(Clone)]
struct Shared {
    source: Source,
    foreign: AuthErrorKind,
    admin_override: bool,
}

#[derive(Clone)]
enum Source {
    /// Literal segments, and `None` where the owner stands.
    Path(Vec<Option<Box<str>>>),
    Lookup(Arc<Lookup>),
}

type Found = Result<Option<UserId>, Box<dyn StdError + Send + Sync>>;
type Lookup = dyn Fn(&RequestHead<'_>) -> Pin<Box<dyn Future<Output = Found> + Send>> + Send + Sync;

impl<R> fmt::Debug for OwnerLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source: &dyn fmt::Debug = match &self.shared.source {
            Source::Path(pattern) => pattern,
            Source::Lookup(_) => &"lookup",
        };
        f.debug_struct("OwnerLayer").field("source", source).finish_non_exhaustive()
    }
}

impl OwnerLayer {
    fn new(source: Source) -> Self {
        let shared = Shared { source, foreign: AuthErrorKind::NotFound, admin_override: false };
        Self { shared: Arc::new(shared), rejection: ProblemJson }
    }

    /// The owner is the segment in braces, as in `/users/{user_id}`. The path of the request must start
    /// with the pattern's segments; one that does not is answered as not found. In a nested axum router
    /// the path is what is left of it there.
    ///
    /// # Errors
    /// When the pattern does not start with `/` or has not exactly one segment in braces.
    pub fn path(pattern: &str) -> Result<Self, ConfigError> {
        let is_owner =
            |segment: &str| segment.len() > 2 && segment.starts_with('{') && segment.ends_with('}');
        let segments = pattern.strip_prefix('/').map(|rest| rest.split('/').collect::<Vec<_>>());
        match segments {
            Some(segments) if segments.iter().filter(|segment| is_owner(segment)).count() == 1 => {
                let literal = |segment: &str| (!is_owner(segment)).then(|| Box::from(segment));
                Ok(Self::new(Source::Path(segments.into_iter().map(literal).collect())))
            }
            _ => Err(ConfigError::new(
                "an owner pattern starts with a slash and has one segment in braces, such as /users/{user_id}",
            )),
        }
    }

    /// The owner is what `lookup` finds; `None` for what does not exist. An error is answered with 503.
    ///
    /// ```
    /// use keyward::{OwnerLayer, UserId, auth::RequestHead};
    ///
    /// let guard = OwnerLayer::lookup(|head: &RequestHead<'_>| {
    ///     let job = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    ///     async move { owner_of_job(&job).await }
    /// });
    /// # let _ = guard;
    /// async fn owner_of_job(_: &str) -> Result<Option<UserId>, std::io::Error> { Ok(None) }
    /// ```
    pub fn lookup<F, Fut, E>(lookup: F) -> Self
    where
        F: Fn(&RequestHead<'_>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<UserId>, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        Self::new(Source::Lookup(Arc::new(move |head| {
            let found = lookup(head);
            Box::pin(async move { found.await.map_err(Into::into) })
        })))
    }
}

impl<R> OwnerLayer<R> {
    /// Answers 403 to who is not the owner; 404 by default, which does not tell that there is something.
    pub fn forbid_foreign(mut self) -> Self {
        Arc::make_mut(&mut self.shared).foreign = AuthErrorKind::Forbidden;
        self
    }

    /// Lets the role `admin` pass as well; off by default. Each such request is an event.
    pub fn allow_admin(mut self) -> Self {
        Arc::make_mut(&mut self.shared).admin_override = true;
        self
    }

    /// How refusals look; see [`RejectionResponse`].
    pub fn with_rejection<N>(self, rejection: N) -> OwnerLayer<N> {
        OwnerLayer { shared: self.shared, rejection }
    }
}

impl Shared {
    /// The rule itself: the owner passes, an administrator where that was allowed, nobody else.
    fn check(
        &self,
        head: &RequestHead<'_>,
        principal: &Principal,
        owner: Option<&str>,
    ) -> Result<(), AuthError> {
        let Some(owner) = owner else {
            return Err(AuthError::because(AuthErrorKind::NotFound, Refusal::NotOwner));
        };
        if owner == principal.user_id().as_str() {
            return Ok(());
        }
        if self.admin_override && principal.has_role(ADMIN_ROLE) {
            self.report(head, principal, EventKind::AdminOverride, owner);
            return Ok(());
        }
        self.report(head, principal, EventKind::Alert(Alert::ForeignAccess), owner);
        Err(AuthError::because(self.foreign, Refusal::NotOwner))
    }

    fn report(&self, head: &RequestHead<'_>, principal: &Principal, kind: EventKind, owner: &str) {
        let event = principal.event(kind).in_request(head.request_id());
        // The owner in a path is the client's text: it is named only as far as it can be a user's id.
        let event = match UserId::new(without_secrets(owner)) {
            Ok(id) if !head.shares_text_with_credential(owner) => event.owned_by(&id),
            _ => event,
        };
        principal.audit().emit(event.because("owner guard"));
    }
}

/// The owner's segment, decoded once, as a handler's path extractor does; `None` if the path does not
/// follow the pattern.
fn owner_in_path(pattern: &[Option<Box<str>>], path: &str) -> Option<String> {
    let mut segments = path.strip_prefix('/')?.split('/');
    let mut owner = None;
    for expected in pattern {
        let segment = segments.next()?;
        match expected {
            Some(literal) if **literal != *segment => return None,
            Some(_) => {}
            None => owner = Some(percent_decode(segment)?),
        }
    }
    owner.filter(|owner| !owner.is_empty())
}

fn percent_decode(segment: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
                u8::try_from(high? * 16 + low?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

impl<S, R: Clone> Layer<S> for OwnerLayer<R> {
    type Service = Guard<S, R>;

    fn layer(&self, inner: S) -> Guard<S, R> {
        Guard { inner, layer: self.clone() }
    }
}

/// The service of [`OwnerLayer`].
#[derive(Clone)]
pub struct Guard<S, R = ProblemJson> {
    inner: S,
    layer: OwnerLayer<R>,
}

impl<S: fmt::Debug, R> fmt::Debug for Guard<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

impl<S, R, ReqBody, ResBody> Service<Request<ReqBody>> for Guard<S, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    R: RejectionResponse<ResBody> + Send + 'static,
    ReqBody: Send + 'static,
    ResBody: 'static,
    S::Error: 'static,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = GuardFuture<S::Future, ResBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let head = guarded_head(&request);
        let (rejection, shared) = (&self.layer.rejection, &self.layer.shared);
        let principal = match caller(&head, "OwnerLayer") {
            Ok(principal) => principal,
            Err(error) => return GuardFuture::rejected(refuse(rejection, &head, error)),
        };
        match &shared.source {
            Source::Path(pattern) => {
                let owner = owner_in_path(pattern, head.uri.path());
                match shared.check(&head, principal, owner.as_deref()) {
                    Ok(()) => GuardFuture::inner(self.inner.call(request)),
                    Err(error) => GuardFuture::rejected(refuse(rejection, &head, error)),
                }
            }
            Source::Lookup(lookup) => {
                let found = lookup(&head);
                // The clone has not been asked whether it is ready; the service that was goes along.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                let layer = self.layer.clone();
                GuardFuture::looking(Box::pin(look_up(found, layer, inner, request)))
            }
        }
    }
}

async fn look_up<S, R, ReqBody, ResBody>(
    found: Pin<Box<dyn Future<Output = Found> + Send>>,
    layer: OwnerLayer<R>,
    mut inner: S,
    request: Request<ReqBody>,
) -> Result<Response<ResBody>, S::Error>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    R: RejectionResponse<ResBody>,
{
    let found = found.await;
    let checked = {
        let head = RequestHead::new(&request);
        match (found, caller(&head, "OwnerLayer")) {
            (_, Err(error)) => Err(error),
            (Ok(owner), Ok(principal)) => {
                layer.shared.check(&head, principal, owner.as_ref().map(UserId::as_str))
            }
            (Err(error), Ok(_)) => {
                tracing::error!(error = %without_secrets(&error.to_string()), "the owner of a resource could not be looked up");
                Err(AuthError::because(AuthErrorKind::Unavailable, Refusal::StoreUnavailable))
            }
        }
    };
    match checked {
        Ok(()) => inner.call(request).await,
        Err(error) => Ok(refuse(&layer.rejection, &RequestHead::new(&request), error)),
    }
}

pin_project! {
    /// The future of [`Guard`] and [`Require`](crate::layer::Require).
    pub struct GuardFuture<F, B, E> {
        #[pin]
        state: GuardState<F, B, E>,
    }
}

pin_project! {
    #[project = GuardProjection]
    enum GuardState<F, B, E> {
        Inner { #[pin] future: F },
        Rejected { response: Option<Response<B>> },
        Looking { future: Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>> },
    }
}

impl<F, B, E> GuardFuture<F, B, E> {
    pub(super) fn inner(future: F) -> Self {
        Self { state: GuardState::Inner { future } }
    }

    pub(super) fn rejected(response: Response<B>) -> Self {
        Self { state: GuardState::Rejected { response: Some(response) } }
    }

    fn looking(future: Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>) -> Self {
        Self { state: GuardState::Looking { future } }
    }
}

impl<F, B, E> Future for GuardFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            GuardProjection::Inner { future } => future.poll(cx),
            GuardProjection::Rejected { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // Polled after it was done, which the contract of `Future` leaves open.
                None => Poll::Pending,
            },
            GuardProjection::Looking { future } => future.as_mut().poll(cx),
        }
    }
}

impl<F, B, E> fmt::Debug for GuardFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner(pattern: &str, path: &str) -> Option<String> {
        let layer = OwnerLayer::path(pattern).unwrap();
        match &layer.shared.source {
            Source::Path(pattern) => owner_in_path(pattern, path),
            Source::Lookup(_) => None,
        }
    }

    #[test]
    fn the_owner_is_found_where_the_pattern_says_only() {
        for (path, expected) in [
            ("/users/alice", Some("alice")),
            ("/users/alice/jobs", Some("alice")),
            ("/users/%61lice", Some("alice")),
            ("/users/a%20b", Some("a b")),
            ("/users/a%2Fb", Some("a/b")),
            ("/users/%2561lice", Some("%61lice")),
            ("/users/", None),
            ("/users", None),
            ("//users/alice", None),
            ("/Users/alice", None),
            ("/users/alice%", None),
            ("/users/alice%4", None),
            ("/users/%ff", None),
            ("/users/%+1", None),
            ("users/alice", None),
            ("*", None),
        ] {
            assert_eq!(owner("/users/{id}", path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["", "users/{id}", "/users", "/{a}/{b}", "/users/{}"] {
            assert!(OwnerLayer::path(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(id in "\\PC{1,20}") {
            let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let path = format!("/users/{encoded}/x");
            prop_assert_eq!(owner("/users/{id}", &path), Some(id));
        }
    }
}
