//! The layer that asks for scopes, roles or a policy of the application's own.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    auth::RequestHead,
    count,
    error::{AuthError, AuthErrorKind, Refusal},
    event::EventKind,
    layer::{
        auth::new_request_id,
        owner::GuardFuture,
        rejection::{Challenges, ProblemJson, RejectionResponse, reject},
    },
    principal::{Anonymous, Principal},
};

/// A rule over an authenticated request. A closure `Fn(&Principal, &RequestHead<'_>) -> bool` is one.
pub trait Policy: Send + Sync + 'static {
    /// Whether the request is allowed.
    fn allows(&self, principal: &Principal, head: &RequestHead<'_>) -> bool;
}

impl<F: Fn(&Principal, &RequestHead<'_>) -> bool + Send + Sync + 'static> Policy for F {
    fn allows(&self, principal: &Principal, head: &RequestHead<'_>) -> bool {
        self(principal, head)
    }
}

/// Lets only requests pass whose credential has a scope or role, or that a [`Policy`] allows: 403
/// otherwise. It belongs inside an [`AuthLayer`](crate::AuthLayer); without one it answers 500 and says
/// so in the log.
///
/// ```
/// use axum::{Router, routing::delete};
/// use keyward::RequireLayer;
///
/// let app: Router = Router::new()
///     .route("/jobs/{id}", delete(async || {}).layer(RequireLayer::scope("jobs:write")))
///     .route("/admin/users", delete(async || {}).layer(RequireLayer::role("admin")));
/// # let _ = app;
/// ```
#[derive(Clone)]
#[must_use]
pub struct RequireLayer<R = ProblemJson> {
    rule: Arc<Rule>,
    rejection: R,
}

enum Rule {
    AllScopes(Vec<Box<str>>),
    AnyScope(Vec<Box<str>>),
    AllRoles(Vec<Box<str>>),
    AnyRole(Vec<Box<str>>),
    Policy(Box<dyn Policy>),
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllScopes(scopes) => f.debug_tuple("AllScopes").field(scopes).finish(),
            Self::AnyScope(scopes) => f.debug_tuple("AnyScope").field(scopes).finish(),
            Self::AllRoles(roles) => f.debug_tuple("AllRoles").field(roles).finish(),
            Self::AnyRole(roles) => f.debug_tuple("AnyRole").field(roles).finish(),
            Self::Policy(_) => f.write_str("Policy"),
        }
    }
}

impl<R> fmt::Debug for RequireLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireLayer").field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl RequireLayer {
    fn new(rule: Rule) -> Self {
        Self { rule: Arc::new(rule), rejection: ProblemJson }
    }

    /// Requires one scope.
    pub fn scope(scope: &str) -> Self {
        Self::all_scopes([scope])
    }

    /// Requires each of these scopes; with none nobody passes.
    pub fn all_scopes<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Rule::AllScopes(boxed(scopes)))
    }

    /// Requires at least one of these scopes.
    pub fn any_scope<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Rule::AnyScope(boxed(scopes)))
    }

    /// Requires one role.
    pub fn role(role: &str) -> Self {
        Self::all_roles([role])
    }

    /// Requires each of these roles; with none nobody passes.
    pub fn all_roles<'a>(roles: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Rule::AllRoles(boxed(roles)))
    }

    /// Requires at least one of these roles.
    pub fn any_role<'a>(roles: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Rule::AnyRole(boxed(roles)))
    }

    /// Requires what `policy` says.
    pub fn policy(policy: impl Policy) -> Self {
        Self::new(Rule::Policy(Box::new(policy)))
    }
}

impl<R> RequireLayer<R> {
    /// How refusals look; see [`RejectionResponse`].
    pub fn with_rejection<N>(self, rejection: N) -> RequireLayer<N> {
        RequireLayer { rule: self.rule, rejection }
    }
}

fn boxed<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Box<str>> {
    names.into_iter().map(Box::from).collect()
}

impl Rule {
    fn check(&self, principal: &Principal, head: &RequestHead<'_>) -> Result<(), AuthError> {
        let no_role = || AuthError::because(AuthErrorKind::Forbidden, Refusal::MissingRole);
        match self {
            Self::AllScopes(scopes) | Self::AnyScope(scopes) if scopes.is_empty() => {
                Err(AuthError::because(AuthErrorKind::InsufficientScope, Refusal::MissingScope))
            }
            Self::AllScopes(scopes) => match scopes.iter().find(|scope| !principal.has_scope(scope)) {
                None => Ok(()),
                Some(missing) => Err(AuthError::needs_scope(missing)),
            },
            Self::AnyScope(scopes) => {
                let enough = scopes.iter().any(|scope| principal.has_scope(scope));
                if enough { Ok(()) } else { Err(AuthError::needs_scope(&scopes.join(" "))) }
            }
            Self::AllRoles(roles) => {
                let enough = !roles.is_empty() && roles.iter().all(|role| principal.has_role(role));
                if enough { Ok(()) } else { Err(no_role()) }
            }
            Self::AnyRole(roles) => {
                if roles.iter().any(|role| principal.has_role(role)) {
                    Ok(())
                } else {
                    Err(no_role())
                }
            }
            Self::Policy(policy) => match policy.allows(principal, head) {
                true => Ok(()),
                false => Err(AuthError::because(AuthErrorKind::Forbidden, Refusal::Policy)),
            },
        }
    }
}

impl<S, R: Clone> Layer<S> for RequireLayer<R> {
    type Service = Require<S, R>;

    fn layer(&self, inner: S) -> Require<S, R> {
        Require { inner, rule: self.rule.clone(), rejection: self.rejection.clone() }
    }
}

/// The service of [`RequireLayer`].
#[derive(Clone)]
pub struct Require<S, R = ProblemJson> {
    inner: S,
    rule: Arc<Rule>,
    rejection: R,
}

impl<S: fmt::Debug, R> fmt::Debug for Require<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Require")
            .field("inner", &self.inner)
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

impl<S, R, ReqBody, ResBody> Service<Request<ReqBody>> for Require<S, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    R: RejectionResponse<ResBody>,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = GuardFuture<S::Future, ResBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let head = guarded_head(&request);
        let verdict = caller(&head, "RequireLayer").and_then(|principal| self.rule.check(principal, &head));
        match verdict {
            Ok(()) => GuardFuture::inner(self.inner.call(request)),
            Err(error) => GuardFuture::rejected(refuse(&self.rejection, &head, error)),
        }
    }
}

/// The rule of [`RequireLayer::scope`], for a handler that has something for nobody as well.
#[cfg(feature = "api")]
pub(crate) fn require_scope(
    principal: &Principal,
    head: &RequestHead<'_>,
    scope: &str,
) -> Result<(), AuthError> {
    if principal.has_scope(scope) {
        return Ok(());
    }
    count::guarded(Refusal::MissingScope);
    report(principal, head.request_id(), Refusal::MissingScope);
    Err(AuthError::needs_scope(scope))
}

fn report(principal: &Principal, request_id: Option<&str>, reason: Refusal) {
    principal.audit().emit(principal.event(EventKind::AccessRefused(reason)).in_request(request_id));
}

/// The head of a request that has passed a layer: the client's address is what the layer found.
pub(super) fn guarded_head<B>(request: &Request<B>) -> RequestHead<'_> {
    let mut head = RequestHead::new(request);
    head.client_ip = head.extensions.get::<Principal>().and_then(Principal::client_ip);
    head
}

/// The caller of a request, for guards and extractors. Without one it is known whose fault that is: the
/// client's, if a layer let the request pass as nobody, or else the program's.
pub(crate) fn caller<'a>(head: &RequestHead<'a>, asked_by: &str) -> Result<&'a Principal, AuthError> {
    match head.extensions.get::<Principal>() {
        Some(principal) => Ok(principal),
        None if head.extensions.get::<Anonymous>().is_some() => {
            Err(AuthError::because(AuthErrorKind::Missing, Refusal::NoCredential))
        }
        None => {
            tracing::error!(
                asked_by,
                "no AuthLayer ran for this request: add `.layer(AuthLayer::new(…))` outside of (in axum: after) \
                 what needs the caller"
            );
            Err(AuthErrorKind::Misconfigured.into())
        }
    }
}

/// A guard's answer, reported where the caller's events go.
pub(super) fn refuse<B, R: RejectionResponse<B>>(
    rejection: &R,
    head: &RequestHead<'_>,
    error: AuthError,
) -> Response<B> {
    let id = head.request_id().map_or_else(new_request_id, |id| Some(id.into()));
    let reason = error.told_reason();
    count::guarded(reason);
    if let Some(principal) = head.extensions.get::<Principal>() {
        report(principal, id.as_deref(), reason);
    }
    let id = id.and_then(|id| HeaderValue::from_str(&id).ok());
    reject(rejection, &Challenges::default(), error, id)
}
