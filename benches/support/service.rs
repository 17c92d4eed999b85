//! A service that does nothing, and the loop that drives it.
//!
//! The request is built once. The service puts it into a slot, from where the loop takes it back, gives it
//! fresh extensions, as a server would, and sends it again: building requests is not measured, dropping
//! what a layer put into the extensions is.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::Service;

pub(crate) type Body = Full<Bytes>;

thread_local! {
    static SLOT: Cell<Option<Request<()>>> = const { Cell::new(None) };
}

/// Accepts everything at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoOp;

impl Service<Request<()>> for NoOp {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<()>) -> Self::Future {
        SLOT.set(Some(request));
        ready(Ok(Response::new(Body::default())))
    }
}

/// A request of eight headers, among them the key.
pub(crate) fn request(key: &str) -> Request<()> {
    let builder = Request::builder()
        .uri("/jobs?limit=50")
        .header("host", "api.example.org")
        .header("user-agent", "curl/8.5.0")
        .header("accept", "*/*")
        .header("accept-encoding", "gzip, deflate, br")
        .header("content-type", "application/json")
        .header("x-request-id", "0f8fad5b-d9cb-469f-a165-70867728950e")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("x-api-key", key);
    builder.body(()).expect("a valid request")
}

/// Polls `future` until it is ready.
#[inline]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// Sends one request through `service`.
#[inline]
pub(crate) fn send<S>(service: &mut S, request: Request<()>) -> Response<Body>
where
    S: Service<Request<()>, Response = Response<Body>, Error = Infallible>,
{
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert!(ready.is_ready());
    match block_on(service.call(black_box(request))) {
        Ok(response) => black_box(response),
        Err(never) => match never {},
    }
}

/// The request that reached the service.
#[inline]
pub(crate) fn arrived() -> Request<()> {
    SLOT.take().expect("the request reached the service")
}
