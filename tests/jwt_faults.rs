//! A provider that fails while requests come: whoever has a known key is decided without waiting for anybody.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]
#![expect(clippy::disallowed_methods, reason = "it tells how long requests took")]

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keyward::{
    AuthLayer,
    jwt::JwtAuth,
    testing::{FakeIssuer, IssuerMode, ManualClock},
    time::Clock,
};
use serde_json::json;
use tokio::sync::oneshot;
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneSyncService};

type App = BoxCloneSyncService<Request<()>, Response<Full<Bytes>>, Infallible>;

/// Floods of tokens with random key ids, one behind the other.
const FLOOD: usize = 10_000;
const COOL_DOWN: Duration = Duration::from_secs(30);

fn app(auth: &JwtAuth) -> App {
    // Guessing is a matter of other tests: here all come from one address that nobody knows.
    let layer: AuthLayer = AuthLayer::new(auth.clone()).with_failure_limit(None);
    BoxCloneSyncService::new(layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    })))
}

fn request(token: &str) -> Request<()> {
    Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap()
}

/// Sends a request that must be answered when it is first polled, and says how long that took.
fn at_once(app: &App, token: &str) -> Duration {
    let (mut app, request) = (app.clone(), request(token));
    let start = Instant::now();
    let mut answer = pin!(app.call(request));
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => assert_eq!(answer.unwrap().status(), 200),
        Poll::Pending => panic!("a request with a known key waited"),
    }
    start.elapsed()
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// Good requests, each with a known token and one of a known key that is seen for the first time.
fn good_requests(app: &App, provider: &FakeIssuer, known: &str) -> Duration {
    let fresh: Vec<_> =
        (0..500).map(|n| provider.token(json!({ "sub": "alice", "jti": format!("j{n}") }))).collect();
    p99(fresh.iter().flat_map(|fresh| [at_once(app, known), at_once(app, fresh)]).collect())
}

#[tokio::test]
async fn good_requests_never_wait_for_a_provider_that_fails() {
    let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
    let provider = FakeIssuer::start().await.with_clock(clock.clone());
    let auth = JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).with_clock(clock.clone());
    let auth = auth.with_cool_down(COOL_DOWN).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(auth.clone().run(async { drop(stopped.await) }));
    let app = app(&auth);
    let known = provider.token(json!({ "sub": "alice", "exp": clock.now().as_millis() / 1000 + 20_000 }));
    at_once(&app, &known);
    let calm = good_requests(&app, &provider, &known);
    println!("provider up, nobody else: p99 {calm:?}");

    for mode in [
        IssuerMode::Hanging,
        IssuerMode::Down,
        IssuerMode::Garbage,
        IssuerMode::Huge,
        IssuerMode::NoKeys,
        IssuerMode::Slow(Duration::from_millis(200)),
        IssuerMode::Up,
    ] {
        provider.set_mode(mode);
        clock.advance(COOL_DOWN);
        let before = provider.key_set_requests() + provider.discovery_requests();
        // One that asks for a key nobody knows begins a fetch and waits for it.
        let asking =
            tokio::spawn(app.clone().oneshot(request(&unknown(&provider, &format!("first-{mode:?}")))));
        while provider.key_set_requests() + provider.discovery_requests() == before {
            tokio::task::yield_now().await;
        }
        let during = good_requests(&app, &provider, &known);
        println!("{mode:?}, while it is asked: p99 {during:?}");
        let status = asking.await.unwrap().unwrap().status().as_u16();
        let works = matches!(mode, IssuerMode::Up | IssuerMode::Slow(_));
        assert_eq!(status, if works { 401 } else { 503 }, "{mode:?}");
        for n in 0..5 {
            let answer = app.clone().oneshot(request(&unknown(&provider, &format!("again-{n}")))).await;
            assert_eq!(answer.unwrap().status().as_u16(), status, "{mode:?}");
        }
        let after = provider.key_set_requests() + provider.discovery_requests();
        assert!(after - before <= 2, "one attempt, which is discovery and keys: {mode:?}");
        assert!(auth.ready().is_ok(), "the last good keys are used");
    }
    drop(stop);
    running.await.unwrap();
}

fn unknown(provider: &FakeIssuer, kid: &str) -> String {
    provider.token_with(json!({ "kid": kid }), json!({ "sub": "eve" }))
}

#[tokio::test]
async fn a_flood_of_random_key_ids_is_one_fetch_and_harms_nobody() {
    let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
    let provider = FakeIssuer::start().await.with_clock(clock.clone());
    let auth = JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).with_clock(clock.clone());
    let auth = auth.with_cool_down(COOL_DOWN).await.unwrap();
    let app = app(&auth);
    let known = provider.token(json!({ "sub": "alice" }));
    at_once(&app, &known);
    let calm = good_requests(&app, &provider, &known);
    clock.advance(COOL_DOWN);
    let mut during = Vec::new();
    for n in 0..FLOOD {
        let answer = app.clone().oneshot(request(&unknown(&provider, &format!("random-{n}")))).await;
        assert_eq!(answer.unwrap().status(), 401);
        during.push(at_once(&app, &known));
    }
    let fetches = provider.key_set_requests() - 1;
    println!(
        "{FLOOD} random key ids: {fetches} fetch, p99 of good requests {calm:?} before, {:?} during",
        p99(during)
    );
    assert_eq!(fetches, 1, "one in a cool-down");
    // Rotation in the middle of it.
    provider.rotate();
    clock.advance(COOL_DOWN);
    let new = provider.token(json!({ "sub": "bob" }));
    assert_eq!(app.clone().oneshot(request(&new)).await.unwrap().status(), 200);
    at_once(&app, &new);
    at_once(&app, &known);
    assert_eq!(provider.key_set_requests(), 3);
}
