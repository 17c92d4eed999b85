//! The response future: nothing is boxed unless the verdict had to wait.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    count::{self, Timer},
    error::Scheme,
    layer::{auth::AuthLayer, failures::Waiting, rejection::RejectionResponse},
};

pin_project! {
    /// The future of [`Auth`](crate::layer::Auth).
    pub struct ResponseFuture<S, R, ReqBody, ResBody>
    where
        S: Service<Request<ReqBody>>,
    {
        #[pin]
        state: State<S::Future, S, R, ReqBody, ResBody>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, S, R, ReqBody, ResBody> {
        Inner { #[pin] future: F, headers: Option<Box<HeaderMap>> },
        Rejected { response: Option<Response<ResBody>> },
        Pending { pending: Option<Box<Pending<S, R, ReqBody>>> },
    }
}

/// A request whose verdict has to wait. It is large and rare, so it is boxed along with its verdict.
pub(super) struct Pending<S, R, ReqBody> {
    pub(super) waiting: Waiting,
    pub(super) since: Unfinished,
    pub(super) request: Request<ReqBody>,
    pub(super) inner: S,
    pub(super) layer: AuthLayer<R>,
}

/// A verdict that is waited for. Who gives up waiting is counted as well: while a store hangs they are all there is.
pub(super) struct Unfinished(Option<Timer>);

impl Unfinished {
    pub(super) fn start() -> Self {
        Self(Some(Timer::start()))
    }

    fn finish(mut self, by: Scheme) {
        if let Some(timer) = self.0.take() {
            timer.observe_verdict(by);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(timer) = self.0.take() {
            count::ABANDONED.add(1);
            timer.observe_verdict(Scheme::None);
        }
    }
}

impl<S: Service<Request<ReqBody>>, R, ReqBody, ResBody> ResponseFuture<S, R, ReqBody, ResBody> {
    #[inline]
    pub(super) fn inner(future: S::Future, headers: Option<Box<HeaderMap>>) -> Self {
        Self { state: State::Inner { future, headers } }
    }

    pub(super) fn rejected(response: Response<ResBody>) -> Self {
        Self { state: State::Rejected { response: Some(response) } }
    }

    pub(super) fn pending(pending: Pending<S, R, ReqBody>) -> Self {
        Self { state: State::Pending { pending: Some(Box::new(pending)) } }
    }
}

impl<S, R, ReqBody, ResBody> Future for ResponseFuture<S, R, ReqBody, ResBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    R: RejectionResponse<ResBody>,
{
    type Output = Result<Response<ResBody>, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let (future, headers) = match state.as_mut().project() {
                StateProjection::Inner { future, headers: None } => return future.poll(cx),
                StateProjection::Inner { future, headers } => {
                    let response = ready!(future.poll(cx));
                    return Poll::Ready(response.map(|response| with_headers(response, headers.take())));
                }
                StateProjection::Rejected { response } => match response.take() {
                    Some(response) => return Poll::Ready(Ok(response)),
                    // Polled after it was done, which the contract of `Future` leaves open.
                    None => return Poll::Pending,
                },
                StateProjection::Pending { pending: waiting } => {
                    let Some(pending) = waiting.as_mut() else { return Poll::Pending };
                    let verdict = ready!(pending.waiting.poll(&pending.layer.shared, cx));
                    let Some(pending) = waiting.take() else { return Poll::Pending };
                    let Pending { mut request, mut inner, layer, since, .. } = *pending;
                    since.finish(match &verdict {
                        Ok(principal) => principal.method().scheme(),
                        Err(counted) => counted.error.scheme(),
                    });
                    match verdict {
                        Ok(principal) => {
                            let headers = layer.accepted(&mut request, principal);
                            (inner.call(request), headers)
                        }
                        Err(error) => return Poll::Ready(Ok(layer.answer(&request, error))),
                    }
                }
            };
            state.set(State::Inner { future, headers });
        }
    }
}

/// Adds what the service did not say itself.
#[cold]
fn with_headers<B>(mut response: Response<B>, headers: Option<Box<HeaderMap>>) -> Response<B> {
    for (name, value) in headers.into_iter().flat_map(|headers| *headers) {
        if let Some(name) = name {
            response.headers_mut().entry(name).or_insert(value);
        }
    }
    response
}

impl<S: Service<Request<ReqBody>>, R, ReqBody, ResBody> fmt::Debug
    for ResponseFuture<S, R, ReqBody, ResBody>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
