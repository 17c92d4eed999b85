//! Living with an expiry that comes near.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use keyward::{
    AuthLayer, TokenManager, UserId,
    auth::ApiKeyAuth,
    manage::NewToken,
    store::MemoryStore,
    testing::ManualClock,
    token::{LifetimePolicy, Lifetimes, TokenClass},
};
use tower::{Layer, ServiceExt, service_fn};

const DAY: Duration = Duration::from_secs(86_400);

fn clock() -> ManualClock {
    ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap())
}

fn manager(clock: &ManualClock, policy: LifetimePolicy) -> TokenManager {
    let lifetimes = Lifetimes::default().with_policy(TokenClass::User, policy);
    TokenManager::builder(MemoryStore::new()).with_lifetimes(lifetimes).with_clock(clock.clone()).build()
}

async fn key(tokens: &TokenManager, lifetime: Option<Duration>) -> String {
    let mut new = NewToken::named("laptop");
    if let Some(lifetime) = lifetime {
        new = new.with_lifetime(lifetime);
    }
    tokens.create(&UserId::new("alice").unwrap(), new).await.unwrap().key.expose().to_owned()
}

/// Asks a service that sets `own`, if that is given.
async fn ask(
    tokens: &TokenManager,
    method: Method,
    key: &str,
    own: Option<&'static str>,
) -> (u16, HeaderMap) {
    let layer: AuthLayer = AuthLayer::new(ApiKeyAuth::new(tokens));
    let service = layer.layer(service_fn(move |_: Request<()>| async move {
        let mut response = Response::new(Full::<Bytes>::default());
        if let Some(own) = own {
            response.headers_mut().insert("x-key-expires", own.parse().unwrap());
        }
        Ok::<_, Infallible>(response)
    }));
    let request = Request::builder().method(method).header("x-api-key", key).body(()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    (response.status().as_u16(), response.headers().clone())
}

#[tokio::test]
async fn responses_say_when_a_key_will_expire() {
    let clock = clock();
    let tokens = manager(&clock, LifetimePolicy::default());
    let (default, month) = (key(&tokens, None).await, key(&tokens, Some(31 * DAY)).await);
    for round in ["asked of the store", "in the cache"] {
        let (status, headers) = ask(&tokens, Method::GET, &default, None).await;
        assert!(status == 200 && !headers.contains_key("x-key-expires"), "{round}");
        let (_, headers) = ask(&tokens, Method::GET, &month, None).await;
        assert!(!headers.contains_key("x-key-expires"), "{round}: more than 30 days are left");
    }
    clock.advance(DAY);
    for round in ["asked of the store", "in the cache"] {
        let (status, headers) = ask(&tokens, Method::POST, &month, None).await;
        assert_eq!((status, &headers["x-key-expires"]), (200, &"2026-02-01T00:00:00.000Z".parse().unwrap()));
        assert!(!headers.contains_key("x-key-grace-until"), "{round}");
    }
    let (_, headers) = ask(&tokens, Method::GET, &month, Some("never")).await;
    assert_eq!(headers["x-key-expires"], "never", "what the service says stays");
    assert_eq!(headers.get_all("x-key-expires").iter().count(), 1);
}

#[tokio::test]
async fn an_expired_key_reads_for_a_while_where_that_was_asked_for() {
    let clock = clock();
    let tokens = manager(&clock, LifetimePolicy::default().with_grace(Some(DAY)));
    let strict = manager(&clock, LifetimePolicy::default());
    let (graced, none) = (key(&tokens, Some(DAY)).await, key(&strict, Some(DAY)).await);
    clock.advance(DAY);
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        let (status, headers) = ask(&tokens, method, &graced, None).await;
        assert_eq!(status, 200);
        assert_eq!(headers["x-key-expires"], "2026-01-02T00:00:00.000Z");
        assert_eq!(headers["x-key-grace-until"], "2026-01-03T00:00:00.000Z");
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let (status, headers) = ask(&tokens, method, &graced, None).await;
        assert_eq!(status, 401);
        assert!(!headers.contains_key("x-key-grace-until"), "a refusal tells nothing");
    }
    assert_eq!(ask(&strict, Method::GET, &none, None).await.0, 401, "off by default");
    clock.advance(DAY);
    assert_eq!(ask(&tokens, Method::GET, &graced, None).await.0, 401);
}
