//! Requests sent again and again.

use std::{collections::VecDeque, convert::Infallible};

use http::{Extensions, Request, Response, StatusCode};
use tower::Service;

use crate::support::service::{Body, arrived, send};

/// Runs one case so many times.
pub(crate) type Run = Box<dyn FnMut(u64)>;

/// A run of requests that are all let through and arrive with `marks` extensions each.
pub(crate) fn accepted<S>(
    service: S,
    template: Request<()>,
    fresh: impl Fn() -> Extensions + 'static,
    marks: usize,
) -> Run
where
    S: Service<Request<()>, Response = Response<Body>, Error = Infallible> + 'static,
{
    accepted_by_turns(service, vec![template], fresh, marks)
}

/// The same with several requests, one after the other.
pub(crate) fn accepted_by_turns<S>(
    mut service: S,
    templates: Vec<Request<()>>,
    fresh: impl Fn() -> Extensions + 'static,
    marks: usize,
) -> Run
where
    S: Service<Request<()>, Response = Response<Body>, Error = Infallible> + 'static,
{
    let mut requests: VecDeque<_> = templates.into();
    requests.iter_mut().for_each(|request| *request.extensions_mut() = fresh());
    Box::new(move |times| {
        for _ in 0..times {
            let response = send(&mut service, requests.pop_front().expect("it is put back below"));
            assert_eq!(response.status(), StatusCode::OK);
            let mut request = arrived();
            assert_eq!(request.extensions().len(), marks);
            *request.extensions_mut() = fresh();
            requests.push_back(request);
        }
    })
}

/// A run of requests that are all refused with 401. A refused request is gone, so each is a copy.
pub(crate) fn refused<S>(mut service: S, template: Request<()>) -> Run
where
    S: Service<Request<()>, Response = Response<Body>, Error = Infallible> + 'static,
{
    Box::new(move |times| {
        for _ in 0..times {
            let response = send(&mut service, template.clone());
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        }
    })
}
