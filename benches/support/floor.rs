//! What the layer is measured against: the least that a key check can be, and what a careful user writes.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Future, Ready, ready},
    hash::{BuildHasherDefault, Hasher},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderName, Request, Response, StatusCode};
use keyward::{Principal, UserId};
use pin_project_lite::pin_project;
use sha2::{Digest, Sha256};
use tower::{Layer, Service};
use tower_http::auth::{AsyncAuthorizeRequest, AsyncRequireAuthorizationLayer};

use crate::support::service::Body;

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Takes the first eight bytes of a digest, which are uniform, as its hash.
#[derive(Debug, Default)]
pub(crate) struct Prefix(u64);

impl Hasher for Prefix {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    #[inline]
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

type Known = HashMap<[u8; 32], (UserId, Principal), BuildHasherDefault<Prefix>>;

/// The header, one SHA-256, one look-up, two extensions; no expiry, no addresses, no counting.
#[derive(Clone, Debug)]
pub(crate) struct FloorLayer(Arc<Known>);

impl FloorLayer {
    /// Knows `key`, and `others` that are looked up by nobody.
    pub(crate) fn new(key: &str, principal: &Principal, others: u32) -> Self {
        let entry = || (principal.user_id().clone(), principal.clone());
        let digest = |key: &[u8]| Sha256::digest(key).into();
        let others = (0..others).map(|other| (digest(&other.to_le_bytes()), entry()));
        Self(Arc::new(others.chain([(digest(key.as_bytes()), entry())]).collect()))
    }
}

impl<S> Layer<S> for FloorLayer {
    type Service = Floor<S>;

    fn layer(&self, inner: S) -> Floor<S> {
        Floor { inner, known: self.0.clone() }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Floor<S> {
    inner: S,
    known: Arc<Known>,
}

impl<S> Service<Request<()>> for Floor<S>
where
    S: Service<Request<()>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = FloorFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<()>) -> Self::Future {
        let key = request.headers().get(&X_API_KEY);
        let known = key.and_then(|key| self.known.get::<[u8; 32]>(&Sha256::digest(key.as_bytes()).into()));
        let Some((user, principal)) = known else { return FloorFuture::Refused };
        let (user, principal) = (user.clone(), principal.clone());
        request.extensions_mut().insert(user);
        request.extensions_mut().insert(principal);
        FloorFuture::Inner { future: self.inner.call(request) }
    }
}

pin_project! {
    #[project = FloorProjection]
    pub(crate) enum FloorFuture<F> {
        Inner { #[pin] future: F },
        Refused,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for FloorFuture<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            FloorProjection::Inner { future } => future.poll(cx),
            FloorProjection::Refused => Poll::Ready(Ok(unauthorized())),
        }
    }
}

fn unauthorized() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

/// The user of a hand-written layer.
#[derive(Debug)]
pub(crate) struct HandUser {
    pub(crate) id: String,
}

/// A map from digests to users for tower-http's layer.
#[derive(Clone, Debug)]
pub(crate) struct Hand(Arc<HashMap<[u8; 32], Arc<HandUser>>>);

impl Hand {
    /// The layer that knows `key` as `user`'s, and `others` that are looked up by nobody.
    pub(crate) fn layer(key: &str, user: &str, others: u32) -> AsyncRequireAuthorizationLayer<Self> {
        let entry = |key: &[u8], id: String| (Sha256::digest(key).into(), Arc::new(HandUser { id }));
        let others = (0..others).map(|other| entry(&other.to_le_bytes(), other.to_string()));
        let known = others.chain([entry(key.as_bytes(), user.to_owned())]).collect();
        AsyncRequireAuthorizationLayer::new(Self(Arc::new(known)))
    }
}

impl AsyncAuthorizeRequest<()> for Hand {
    type RequestBody = ();
    type ResponseBody = Body;
    type Future = Ready<Result<Request<()>, Response<Body>>>;

    fn authorize(&mut self, mut request: Request<()>) -> Self::Future {
        let key = request.headers().get("x-api-key");
        let user = key.and_then(|key| self.0.get::<[u8; 32]>(&Sha256::digest(key.as_bytes()).into()));
        let Some(user) = user.cloned() else { return ready(Err(unauthorized())) };
        request.extensions_mut().insert(user);
        ready(Ok(request))
    }
}
