//! The layer that authenticates.

use std::{
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    auth::{Attempt, Authenticator, CredentialReader, RequestHead, Verdict},
    count,
    error::{AuthError, AuthErrorKind, ConfigError, Refusal},
    event::{Audit, Event, EventKind},
    layer::{
        failures::{Counted, Waiting},
        future::{Pending, ResponseFuture, Unfinished},
        rejection::{Challenges, ProblemJson, RejectionResponse, reject},
    },
    limit::FailureLimit,
    net::{ClientIp, Peer},
    principal::{Anonymous, Principal},
};

/// Authenticates each request before the service sees it: its [`Principal`] and
/// [`UserId`](crate::UserId) are then in the request's extensions.
///
/// By default every request needs a credential, refusals are `application/problem+json`, the client's address
/// is that of the connection, and an address whose credentials were wrong 100 times in a minute is answered 429
/// instead of 401 ([`FailureLimit`]). Methods, unknown paths and CORS preflights are treated alike; put a
/// CORS layer outside.
///
/// ```
/// use keyward::{AuthLayer, Principal, TokenManager, UserId, auth::ApiKeyAuth, store::MemoryStore};
/// use keyward::manage::NewToken;
/// use http::{Request, Response, StatusCode};
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = TokenManager::new(MemoryStore::new());
/// let issued = tokens.create(&UserId::new("alice")?, NewToken::named("laptop")).await?;
///
/// let service = AuthLayer::new(ApiKeyAuth::new(&tokens)).layer(service_fn(|request: Request<()>| async move {
///     let me = request.extensions().get::<Principal>().expect("the layer put it there");
///     Ok::<_, std::convert::Infallible>(Response::new(Full::from(me.user_id().to_string())))
/// }));
///
/// let with_key = Request::builder().header("x-api-key", issued.key.expose()).body(())?;
/// assert_eq!(service.clone().oneshot(with_key).await?.status(), StatusCode::OK);
/// let without = Request::new(());
/// let refused: Response<Full<Bytes>> = service.oneshot(without).await?;
/// assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct AuthLayer<R = ProblemJson> {
    pub(super) shared: Arc<Shared>,
    rejection: R,
}

impl<R: Clone> Clone for AuthLayer<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), rejection: self.rejection.clone() }
    }
}

pub(super) struct Shared {
    authenticator: Arc<dyn Authenticator>,
    reader: CredentialReader,
    client_ip: Arc<dyn ClientIp>,
    mode: ModeRule,
    pass_preflight: bool,
    require_https: bool,
    /// One accepted request in so many is reported; none if it is zero.
    report_accepted: u32,
    accepted: Arc<AtomicU32>,
    challenges: Challenges,
    pub(super) audit: Audit,
    pub(super) failures: Option<FailureLimit>,
}

#[derive(Clone)]
enum ModeRule {
    Always(Mode),
    Custom(Arc<dyn Fn(&RequestHead<'_>) -> Mode + Send + Sync>),
}

/// What happens to a request without a credential. One with a bad credential is always refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a layer must handle each")]
pub enum Mode {
    /// It is refused.
    #[default]
    Required,
    /// It passes, as nobody.
    Optional,
}

impl<R> fmt::Debug for AuthLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer").field("authenticator", &self.shared.authenticator).finish_non_exhaustive()
    }
}

impl AuthLayer {
    /// Requires a credential that `authenticator` accepts.
    pub fn new(authenticator: impl Authenticator) -> Self {
        let audit = authenticator.audit();
        let challenges = Challenges::new(authenticator.challenge(), "api").unwrap_or_default();
        let shared = Shared {
            authenticator: Arc::new(authenticator),
            reader: CredentialReader::default(),
            client_ip: Arc::new(Peer),
            mode: ModeRule::Always(Mode::Required),
            pass_preflight: false,
            require_https: false,
            report_accepted: 0,
            accepted: Arc::default(),
            challenges,
            audit,
            failures: Some(FailureLimit::default()),
        };
        Self { shared: Arc::new(shared), rejection: ProblemJson }
    }
}

impl<R> AuthLayer<R> {
    fn change(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::make_mut(&mut self.shared));
        self
    }

    /// Lets requests without any credential pass as nobody; a bad credential is still refused.
    pub fn optional(self) -> Self {
        self.change(|shared| shared.mode = ModeRule::Always(Mode::Optional))
    }

    /// Decides for each request whether it needs a credential. Decide by what cannot be written in two
    /// ways: a path prefix is a bad rule where the router sees another path.
    pub fn with_mode(self, mode: impl Fn(&RequestHead<'_>) -> Mode + Send + Sync + 'static) -> Self {
        self.change(|shared| shared.mode = ModeRule::Custom(Arc::new(mode)))
    }

    /// Where credentials are read from; `X-API-Key` and `Authorization: Bearer` by default.
    pub fn with_reader(self, reader: CredentialReader) -> Self {
        self.change(|shared| shared.reader = reader)
    }

    /// Where the client's address comes from; the connection itself by default.
    pub fn with_client_ip(self, source: impl ClientIp) -> Self {
        self.change(|shared| shared.client_ip = Arc::new(source))
    }

    /// Lets CORS preflights through without a credential, off by default: `OPTIONS` with `Origin` and
    /// `Access-Control-Request-Method`. The service must answer them itself.
    pub fn pass_preflight(self, pass: bool) -> Self {
        self.change(|shared| shared.pass_preflight = pass)
    }

    /// Refuses requests that did not come over HTTPS, off by default. A server that terminates TLS itself
    /// marks its requests with [`OverTls`](crate::net::OverTls); behind a proxy, `X-Forwarded-Proto` of
    /// [`TrustedProxies`](crate::net::TrustedProxies) counts.
    pub fn require_https(self, require: bool) -> Self {
        self.change(|shared| shared.require_https = require)
    }

    /// Sends an event for one in `one_in` accepted requests: 1 is each of them, 0 (the default) is none.
    /// Refusals are always sent.
    pub fn report_accepted(self, one_in: u32) -> Self {
        self.change(|shared| shared.report_accepted = one_in)
    }

    /// Where this layer's events go; by default where the authenticator's go.
    pub fn with_audit(self, audit: Audit) -> Self {
        self.change(|shared| shared.audit = audit)
    }

    /// How many credentials from one address may be wrong; 100 a minute. `None` is without limit. The time is that
    /// of the clock that dates this layer's events.
    pub fn with_failure_limit(self, limit: Option<FailureLimit>) -> Self {
        self.change(|shared| shared.failures = limit)
    }

    /// The realm in `WWW-Authenticate`; `api` by default.
    ///
    /// # Errors
    /// When it holds other than printable ASCII, or a quote or backslash.
    pub fn with_realm(self, realm: &str) -> Result<Self, ConfigError> {
        let plain = |b: u8| (b.is_ascii_graphic() || b == b' ') && b != b'"' && b != b'\\';
        let scheme = self.shared.authenticator.challenge();
        match Challenges::new(scheme, realm).filter(|_| realm.bytes().all(plain)) {
            Some(challenges) => Ok(self.change(|shared| shared.challenges = challenges)),
            None => Err(ConfigError::new("the realm must be printable ASCII without quotes and backslashes")),
        }
    }

    /// How refusals look; see [`RejectionResponse`].
    pub fn with_rejection<N>(self, rejection: N) -> AuthLayer<N> {
        AuthLayer { shared: self.shared, rejection }
    }
}

impl Clone for Shared {
    fn clone(&self) -> Self {
        Self {
            authenticator: self.authenticator.clone(),
            reader: self.reader.clone(),
            client_ip: self.client_ip.clone(),
            mode: self.mode.clone(),
            challenges: self.challenges.clone(),
            audit: self.audit.clone(),
            accepted: self.accepted.clone(),
            failures: self.failures.clone(),
            ..*self
        }
    }
}

impl<S, R: Clone> Layer<S> for AuthLayer<R> {
    type Service = Auth<S, R>;

    fn layer(&self, inner: S) -> Auth<S, R> {
        Auth { inner, layer: self.clone() }
    }
}

/// The service of [`AuthLayer`].
#[derive(Clone)]
pub struct Auth<S, R = ProblemJson> {
    inner: S,
    layer: AuthLayer<R>,
}

impl<S: fmt::Debug, R> fmt::Debug for Auth<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

impl<S, R, ReqBody, ResBody> Service<Request<ReqBody>> for Auth<S, R>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    R: RejectionResponse<ResBody>,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S, R, ReqBody, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let step = self.layer.shared.judge(&request);
        match step {
            Step::Accept(principal) => {
                let headers = insert(&mut request, principal);
                ResponseFuture::inner(self.inner.call(request), headers)
            }
            Step::Anonymous => {
                mark_anonymous(&mut request);
                ResponseFuture::inner(self.inner.call(request), None)
            }
            Step::Refuse(error) => ResponseFuture::rejected(self.layer.refuse(&request, error)),
            Step::Wait(waiting) => {
                // The clone has not been asked whether it is ready; the service that was goes along.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                let (since, layer) = (Unfinished::start(), self.layer.clone());
                ResponseFuture::pending(Pending { waiting, since, request, inner, layer })
            }
        }
    }
}

/// What to do with a request.
enum Step {
    Accept(Principal),
    Anonymous,
    Refuse(AuthError),
    Wait(Waiting),
}

impl Shared {
    #[inline]
    fn judge<B>(self: &Arc<Self>, request: &Request<B>) -> Step {
        if self.pass_preflight && is_preflight(request) {
            return Step::Anonymous;
        }
        if self.require_https && !self.client_ip.is_https(request.headers(), request.extensions()) {
            return Step::Refuse(AuthError::because(AuthErrorKind::Forbidden, Refusal::Insecure));
        }
        let mut head = match self.head(request) {
            Ok(head) => head,
            Err(error) => return Step::Refuse(error),
        };
        let attempt = Attempt::new(self.failures.as_ref(), &self.audit);
        head.attempt = Some(&attempt);
        match self.authenticator.authenticate(&head) {
            Verdict::Decided(Ok(principal)) => {
                if self.report_accepted > 0 {
                    self.report_access(&principal, &head);
                }
                Step::Accept(principal)
            }
            verdict => self.other_step(verdict, &head),
        }
    }

    /// What is not accepted at once may be badly written, which weighs more than an authenticator's no.
    #[cold]
    fn other_step(self: &Arc<Self>, verdict: Verdict, head: &RequestHead<'_>) -> Step {
        if let Some(Err(error)) = head.presented.map(|presented| presented.check()) {
            return Step::Refuse(error);
        }
        match verdict {
            Verdict::Decided(Ok(principal)) => Step::Accept(principal),
            Verdict::Decided(Err(error)) => self.refuse_at_once(error, head),
            Verdict::Pending(verdict) => match Waiting::begin(self, verdict, head) {
                Ok(waiting) => Step::Wait(waiting),
                Err(error) => Step::Refuse(error),
            },
            Verdict::Abstain => self.without_verdict(head),
        }
    }

    #[cold]
    fn refuse_at_once(self: &Arc<Self>, error: AuthError, head: &RequestHead<'_>) -> Step {
        match self.count_at_once(error, head.client_ip) {
            Ok(error) => Step::Refuse(error),
            Err(waiting) => Step::Wait(waiting),
        }
    }

    #[inline]
    fn head<'a, B>(&self, request: &'a Request<B>) -> Result<RequestHead<'a>, AuthError> {
        let mut head = RequestHead::new(request);
        head.presented = self.reader.find(head.method, head.uri, head.headers)?;
        head.client_ip = self.client_ip.client_ip(head.headers, head.extensions);
        Ok(head)
    }

    #[cold]
    fn without_verdict(self: &Arc<Self>, head: &RequestHead<'_>) -> Step {
        if head.presented.is_some() {
            return self.refuse_at_once(AuthError::invalid(Refusal::UnknownKind), head);
        }
        let mode = match &self.mode {
            ModeRule::Always(mode) => *mode,
            ModeRule::Custom(rule) => rule(head),
        };
        match mode {
            Mode::Optional => Step::Anonymous,
            Mode::Required => Step::Refuse(AuthError::because(AuthErrorKind::Missing, Refusal::NoCredential)),
        }
    }

    #[cold]
    fn report_access(&self, principal: &Principal, head: &RequestHead<'_>) {
        if self.accepted.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.report_accepted) {
            self.audit.emit(principal.event(EventKind::AccessGranted).in_request(head.request_id()));
        }
    }
}

impl<R> AuthLayer<R> {
    pub(super) fn accepted<B>(
        &self,
        request: &mut Request<B>,
        principal: Principal,
    ) -> Option<Box<HeaderMap>> {
        if self.shared.report_accepted > 0 {
            self.shared.report_access(&principal, &RequestHead::new(request));
        }
        insert(request, principal)
    }

    /// Counts the failure if it is one, reports the refusal and makes the answer.
    #[cold]
    pub(super) fn refuse<B, ResBody>(&self, request: &Request<B>, error: AuthError) -> Response<ResBody>
    where
        R: RejectionResponse<ResBody>,
    {
        let client_ip = self.shared.client_ip.client_ip(request.headers(), request.extensions());
        self.answer(request, self.shared.count_failure(error, client_ip))
    }

    /// Reports the refusal and makes the answer.
    #[cold]
    pub(super) fn answer<B, ResBody>(&self, request: &Request<B>, error: Counted) -> Response<ResBody>
    where
        R: RejectionResponse<ResBody>,
    {
        let Counted { error, client_ip } = error;
        let mut head = RequestHead::new(request);
        head.presented = self.shared.reader.read(head.method, head.uri, head.headers).ok().flatten();
        let id = head.request_id().map_or_else(new_request_id, |id| Some(id.into()));
        let reason = error.told_reason();
        count::refused(error.scheme(), reason);
        let event = Event::new(EventKind::AccessRefused(reason)).token(error.token()).at_ip(client_ip);
        let event = event.in_request(id.as_deref());
        self.shared.audit.emit(match error.owner() {
            Some(owner) => event.owned_by(owner),
            None => event,
        });
        let id = id.and_then(|id| HeaderValue::from_str(&id).ok());
        reject(&self.rejection, &self.shared.challenges, error, id)
    }
}

/// Leaves the caller in the request, and gives back what the response shall tell them.
#[inline]
fn insert<B>(request: &mut Request<B>, mut principal: Principal) -> Option<Box<HeaderMap>> {
    count::accepted(principal.method().scheme());
    let headers = principal.take_response_headers();
    let extensions = request.extensions_mut();
    extensions.insert(principal.user_id().clone());
    extensions.insert(principal);
    headers
}

/// Nobody: also if an outer layer had said otherwise.
fn mark_anonymous<B>(request: &mut Request<B>) {
    count::ANONYMOUS.add(1);
    let extensions = request.extensions_mut();
    extensions.remove::<Principal>();
    extensions.remove::<crate::UserId>();
    extensions.insert(Anonymous);
}

/// What a browser sends before a request across origins (Fetch standard, section 3.2.2).
fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// An id to find a refusal in the log by.
pub(super) fn new_request_id() -> Option<Box<str>> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).ok()?;
    Some(uuid::Builder::from_random_bytes(random).into_uuid().to_string().into())
}
