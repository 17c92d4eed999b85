//! A flood of wrong credentials, from one address and from many: what it takes, and whom it harms.
#![expect(unsafe_code, reason = "the counting allocator; the crate itself has none")]
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests and benches"
)]

mod support;

#[path = "../benches/support/alloc.rs"]
mod alloc;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
};

use alloc::allocated;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keyward::{
    AuthLayer, TokenManager,
    auth::ApiKeyAuth,
    event::{Audit, AuditSink, Event},
    layer::Auth,
    limit::FailureLimit,
    manage::NewToken,
    net::PeerAddr,
    testing::ManualClock,
    token::KeyFormat,
};
use support::{UnrulyStore, start, user};
use tower::{Layer, ServiceExt, service_fn, util::ServiceFn};

const REQUESTS: u32 = 100_000;

type Answering = fn(Request<()>) -> Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn answer(_: Request<()>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    ready(Ok(Response::default()))
}

/// Drops every event, so that no log is measured.
#[derive(Debug)]
struct Nowhere;

impl AuditSink for Nowhere {
    fn record(&self, _: &Event) {}
}

struct World {
    store: Arc<UnrulyStore>,
    tokens: TokenManager,
    service: Auth<ServiceFn<Answering>>,
}

impl World {
    fn new(failures: FailureLimit) -> Self {
        let (store, clock) = (Arc::new(UnrulyStore::default()), ManualClock::at(start()));
        let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).with_audit(Nowhere);
        let tokens = tokens.with_max_active(None).with_creation_limit(None).build();
        let audit = Audit::with_clock(Nowhere, Arc::new(clock));
        let layer = AuthLayer::new(ApiKeyAuth::new(&tokens)).with_audit(audit);
        let answering: Answering = answer;
        let service = layer.with_failure_limit(Some(failures)).layer(service_fn(answering));
        Self { store, tokens, service }
    }

    async fn key(&self) -> String {
        let issued = self.tokens.create(&user("alice"), NewToken::named("good")).await.unwrap();
        issued.key.expose().to_owned()
    }

    async fn status(&self, from: IpAddr, key: &str) -> u16 {
        let mut request = Request::get("/").header("x-api-key", key).body(()).unwrap();
        request.extensions_mut().insert(PeerAddr((from, 50_000).into()));
        self.service.clone().oneshot(request).await.unwrap().status().as_u16()
    }
}

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + n).into()
}

fn v6(n: u32) -> IpAddr {
    Ipv6Addr::from_bits((0x2001_0db8_0000_0000 + u128::from(n)) << 64 | 1).into()
}

/// What came of a flood.
#[derive(Debug, Default)]
struct Outcome {
    refused: u32,
    told_to_wait: u32,
    /// Good requests beside it that were let in, and those that were not.
    good: u32,
    harmed: u32,
    /// What the first failure took, and all others together.
    first_bytes: i64,
    bytes: i64,
}

/// Sends wrong keys from `address`es, and after each tenth of them one with a known key and, for each hundredth,
/// one with a key that must be looked up, from the `neighbour` of that moment.
async fn flood(
    world: &World,
    address: impl Fn(u32) -> IpAddr,
    neighbour: impl Fn(u32) -> IpAddr,
    wrong: &str,
) -> Outcome {
    let known = world.key().await;
    assert_eq!(world.status(neighbour(0), &known).await, 200);
    let mut fresh = Vec::new();
    for _ in 0..REQUESTS / 1000 {
        fresh.push(world.key().await);
    }
    let mut outcome = Outcome::default();
    let before = allocated().live;
    world.status(address(0), wrong).await;
    outcome.first_bytes = allocated().live - before;
    let before = allocated().live;
    for n in 0..REQUESTS {
        match world.status(address(n), wrong).await {
            401 => outcome.refused += 1,
            429 => outcome.told_to_wait += 1,
            other => panic!("{other}"),
        }
        let mut good = None;
        if n % 1000 == 999 {
            good = fresh.get(n as usize / 1000);
        } else if n % 10 == 9 {
            good = Some(&known);
        }
        if let Some(key) = good {
            let accepted = world.status(neighbour(n), key).await == 200;
            outcome.good += u32::from(accepted);
            outcome.harmed += u32::from(!accepted);
        }
    }
    outcome.bytes = allocated().live - before;
    outcome
}

const BAD_CHECKSUM: &str = "kw_live_10123456789ABCDEFGHIJKLMNOPQRSTU1G9zjb";

#[tokio::test]
async fn a_flood_is_answered_within_bounds_and_harms_nobody_beside_it() {
    let aside = |n: u32| v4(0x00ff_0000 + n % 7);
    for (name, address, neighbour, expected) in [
        ("one address", (|_| v4(1)) as fn(u32) -> IpAddr, aside as fn(u32) -> IpAddr, Some(99)),
        ("one address, good requests from it too", |_| v4(1), |_| v4(1), Some(99)),
        ("100 000 IPv4 addresses", v4, aside, None),
        ("100 000 networks of IPv6", v6, aside, None),
    ] {
        let world = World::new(FailureLimit::default());
        let outcome = flood(&world, address, neighbour, BAD_CHECKSUM).await;
        println!("{name}: {outcome:?}");
        assert_eq!(outcome.refused, expected.unwrap_or(REQUESTS), "{name}");
        assert_eq!(outcome.told_to_wait, REQUESTS - outcome.refused, "{name}");
        let harmed = if name.contains("from it too") { 90 } else { 0 };
        assert_eq!((outcome.good, outcome.harmed), (REQUESTS / 10 - harmed, harmed), "{name}");
        assert!(outcome.first_bytes < 700_000, "{name}: {} bytes", outcome.first_bytes);
        // What is left is the good keys in the cache.
        assert!(outcome.bytes < 200_000, "{name}: {} bytes", outcome.bytes);
    }
}

#[tokio::test]
async fn a_flood_of_well_formed_keys_costs_look_ups_by_address() {
    let wrong = KeyFormat::default().generate().unwrap().expose().to_owned();
    let world = World::new(FailureLimit::default());
    let outcome = flood(&world, |_| v4(1), |n| v4(0x00ff_0000 + n % 7), &wrong).await;
    println!("one address, well-formed: {outcome:?}, {} look-ups", world.store.finds());
    assert_eq!((outcome.refused, outcome.harmed), (99, 0));
}

/// Each guess with a key of its own and from an address of its own: each is looked up, and little of it is remembered.
#[tokio::test]
async fn a_flood_of_different_keys_from_different_addresses_is_forgotten() {
    let (world, format) = (World::new(FailureLimit::default()), KeyFormat::default());
    let known = world.key().await;
    let neighbour = v4(0x00ff_0000);
    assert_eq!(world.status(neighbour, &known).await, 200);
    let (mut most, mut harmed, mut alone) = (0, 0, 0);
    let before = allocated().live;
    let finds = world.store.finds();
    for n in 0..REQUESTS {
        let wrong = format.generate().unwrap().expose().to_owned();
        assert_eq!(world.status(v6(n), &wrong).await, 401, "{n}");
        drop(wrong);
        if n % 10 == 0 {
            harmed += u32::from(world.status(neighbour, &known).await != 200);
        }
        most = most.max(allocated().live - before);
        if n == REQUESTS / 2 {
            alone = most;
        }
    }
    let finds = world.store.finds() - finds;
    println!(
        "{REQUESTS} keys and addresses: {finds} look-ups, {harmed} harmed, {most} bytes at most, half-way {alone}"
    );
    assert_eq!((finds, harmed), (REQUESTS as usize, 0));
    assert!(most < 8_000_000, "{most} bytes");
    assert!(most < alone + 100_000, "it still grows: {most} after {alone} half-way");
}

/// The address that fails most is not forgotten, however many others fail once.
#[tokio::test]
async fn other_addresses_do_not_make_it_forget_one() {
    const CAPACITY: u32 = 1024;
    let failures = FailureLimit::per_minute(NonZeroU32::new(20).unwrap()).with_addresses(CAPACITY as usize);
    let world = World::new(failures);
    let victim = v6(u32::MAX);
    for _ in 0..20 {
        assert_eq!(world.status(victim, BAD_CHECKSUM).await, 401);
    }
    assert_eq!(world.status(victim, BAD_CHECKSUM).await, 429);
    let before = allocated().live;
    for n in 0..10 * CAPACITY {
        assert_eq!(world.status(v4(n), BAD_CHECKSUM).await, 401, "{n}");
        assert_eq!(world.status(victim, BAD_CHECKSUM).await, 429, "after {n} others");
    }
    let bytes = allocated().live - before;
    println!("{} addresses beside one, capacity {CAPACITY}: {bytes} bytes more", 10 * CAPACITY);
    assert_eq!(bytes, 0);
}
