//! What a key costs on its way through the layer: `cargo bench --bench hot_path`.
//!
//! All cases run by turns in one process, each a tower service round one that does nothing; see
//! `support/mod.rs` for what is measured. For instructions as well, on x86-64 Linux:
//! `KEYWARD_SINGLESTEP=<path of a single-stepping counter> cargo bench --bench hot_path`.
//!
//! | case | what |
//! |---|---|
//! | `none` | no layer at all |
//! | `floor` | the least that a key check can be: header, SHA-256, one look-up, the same two extensions |
//! | `hit` | the layer with its defaults, the key in the cache |
//! | `floor_ip`, `hit_ip` | both with the peer's address known; the key is limited to it |
//! | `floor_peer`, `hit_peer` | `floor` and `hit` with the peer's address known |
//! | `hit_example` | as the example service sets it up by default, the peer known, the key limited by nothing |
//! | `hit_unguarded` | the same without the limit of failures |
//! | `hit_rate`, `hit_quota` | `hit` with a key that has a rate limit, or a quota; the response says where it stands |
//! | `hit_owner_rate` | `hit` where all keys of a user share a rate limit; the response says where it stands |
//! | `hit_everything` | `hit_example` with a key that has addresses, a rate limit and a quota, and the user's rate limit |
//! | `hit_suspect` | `hit_ip` from an address that has failed too often |
//! | `hit_watch`, `hit_agent` | `hit_peer` with new networks, sharing and spikes watched; with user agents as well |
//! | `hit_moving` | `hit_watch` with a key that comes from two addresses by turns |
//! | `miss` | the layer with a cache that forgets at once, the memory store behind it |
//! | `junk_checksum`, `junk_prefix` | keys that were never issued, as far as the verdict |
//! | `junk_counted`, `junk_over` | `junk_checksum` and the count of its failure, below the limit and beyond it |
//! | `revoked` | a revoked key that the cache remembers; includes a copy of the request |
//! | `copy` | what copying and dropping the request costs in `revoked` |
//! | `hand` | what a careful user writes: tower-http's async authorization, SHA-256 and a map |
//!
//! It fails when a limit on instructions or allocations is exceeded. A limit on time only warns.

#![expect(unsafe_code, reason = "the counting allocator and the breakpoint; the crate itself has none")]
#![expect(clippy::expect_used, reason = "a bench stops where its setup fails")]

mod support;

#[path = "support/floor.rs"]
mod floor;
#[path = "support/runs.rs"]
mod runs;
#[path = "support/turns.rs"]
mod turns;

use std::{
    cell::Cell, hint::black_box, net::Ipv4Addr, num::NonZeroU32, process::ExitCode, sync::Arc, time::Duration,
};

use http::{Extensions, Request, StatusCode};
use keyward::{
    AuthLayer, Principal, TokenManager, UserId,
    audit::AuditLog,
    auth::{AnyOf, ApiKeyAuth, Authenticator, CredentialReader, RequestHead, Verdict},
    event::{AuditSink, Event, TracingSink},
    limit::{FailureLimit, Limits, Quota, QuotaPeriod, RateLimit},
    manage::{NewToken, TokenManagerBuilder},
    net::{IpList, PeerAddr},
    scope::RoleSet,
    store::MemoryStore,
    testing::ManualClock,
    time::{Clock, SystemClock},
    watch::Watch,
};
use tower::Layer;

use crate::{
    floor::{FloorLayer, Hand, HandUser},
    runs::{Run, accepted, refused},
    support::{
        report::{Gate, Report},
        service::{NoOp, arrived, block_on, request, send},
    },
    turns::{Case, Results, run_all},
};

const USER: &str = "alice";
const PEER: PeerAddr =
    PeerAddr(std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 50_000));

/// Every map holds the same number of keys.
const OTHER_KEYS: u32 = 1000;

const CASES: &[Case] = &[
    ("none", none),
    ("floor", floor),
    ("hit", hit),
    ("floor_ip", floor_ip),
    ("hit_ip", hit_ip),
    ("hit_rate", hit_rate),
    ("hit_quota", hit_quota),
    ("hit_owner_rate", hit_owner_rate),
    ("floor_peer", floor_peer),
    ("hit_example", hit_example),
    ("hit_unguarded", hit_unguarded),
    ("hit_everything", hit_everything),
    ("hit_suspect", hit_suspect),
    ("hit_peer", hit_peer),
    ("hit_watch", hit_watch),
    ("hit_agent", hit_agent),
    ("hit_moving", hit_moving),
    ("miss", miss),
    ("junk_checksum", junk_checksum),
    ("junk_prefix", junk_prefix),
    ("junk_counted", junk_counted),
    ("junk_over", junk_over),
    ("revoked", revoked),
    ("copy", copy),
    ("hand", hand),
];

fn main() -> ExitCode {
    run_all(CASES, judge)
}

fn judge(results: &Results) -> Report {
    let mut report = Report::default();
    for (case, base, instructions, time, gate) in [
        ("hit", "floor", 1.2, 1.3, Gate::Must),
        ("hit_ip", "floor_ip", 1.2, 1.3, Gate::Must),
        ("junk_checksum", "floor", 1.0, 1.0, Gate::Must),
        ("junk_prefix", "floor", 1.0, 1.0, Gate::Must),
        ("junk_counted", "floor", 1.0, 1.0, Gate::Must),
        ("junk_over", "floor", 1.0, 1.0, Gate::Must),
        ("hit_suspect", "hit_ip", 1.01, 1.1, Gate::Must),
        ("hit_peer", "floor_peer", 1.2, 1.3, Gate::Must),
        ("hit_watch", "floor_peer", 1.25, 1.3, Gate::Must),
        ("hit_watch", "hit_peer", 0.0, 0.0, Gate::Told),
        ("hit_agent", "floor_peer", 0.0, 0.0, Gate::Told),
        ("hit_agent", "hit_watch", 0.0, 0.0, Gate::Told),
        ("hit_moving", "hit_watch", 0.0, 0.0, Gate::Told),
        ("hit_rate", "hit", 0.0, 0.0, Gate::Told),
        ("hit_quota", "hit", 0.0, 0.0, Gate::Told),
        ("hit_owner_rate", "hit", 0.0, 0.0, Gate::Told),
        ("hit_example", "floor_peer", 1.2, 1.3, Gate::Must),
        ("hit_example", "hit_unguarded", 0.0, 0.0, Gate::Told),
        ("hit_everything", "floor_ip", 0.0, 0.0, Gate::Told),
        ("hit_everything", "hit_example", 0.0, 0.0, Gate::Told),
        ("hit", "hand", 1.0, 1.0, Gate::Warn),
        ("miss", "floor", 0.0, 0.0, Gate::Told),
        ("revoked", "floor", 0.0, 0.0, Gate::Told),
        ("hand", "floor", 0.0, 0.0, Gate::Told),
    ] {
        let (of, to) = (results.find(case), results.find(base));
        let counted = of.instructions_over(to);
        report.line(&format!("ratio {case}/{base} instructions"), counted, instructions, gate);
        let gate = if gate == Gate::Told { Gate::Told } else { Gate::Warn };
        report.line(&format!("ratio {case}/{base} time"), Some(of.time_over(to)), time, gate);
    }
    for (case, base) in [
        ("hit", "floor"),
        ("hit_ip", "floor_ip"),
        ("hit_example", "floor_peer"),
        ("hit_suspect", "floor_ip"),
        ("hit_watch", "floor_peer"),
        ("hit_agent", "floor_peer"),
        ("junk_checksum", "none"),
        ("junk_prefix", "none"),
        ("junk_counted", "none"),
        ("junk_over", "none"),
    ] {
        let beyond = results.find(case).allocations - results.find(base).allocations;
        report.line(&format!("allocations {case}-{base}"), Some(beyond), 0.0, Gate::Must);
    }
    report
}

/// A manager with many keys in its cache, and one more that is made as `new` says.
fn manager_with_key(builder: TokenManagerBuilder, new: NewToken) -> (TokenManager, String, keyward::TokenId) {
    let tokens = builder.with_max_active(None).build();
    let user = UserId::new(USER).expect("a user id");
    for other in 0..OTHER_KEYS {
        let issued = block_on(tokens.create(&user, NewToken::named(other.to_string()))).expect("a key");
        warm(&tokens, issued.key.expose());
    }
    let issued = block_on(tokens.create(&user, new)).expect("a key");
    (tokens, issued.key.expose().to_owned(), issued.record.id)
}

/// Sends one request with `key`, so that the cache knows it.
fn warm(tokens: &TokenManager, key: &str) {
    let mut service = AuthLayer::new(ApiKeyAuth::new(tokens)).layer(NoOp);
    assert_eq!(send(&mut service, request(key)).status(), StatusCode::OK);
    arrived();
}

/// Whether user and principal are in the extensions of a request that arrived.
fn check_identity(request: &Request<()>) -> Principal {
    let user = request.extensions().get::<UserId>().expect("the user's id");
    let principal = request.extensions().get::<Principal>().expect("the principal");
    assert_eq!((user.as_str(), principal.user_id().as_str()), (USER, USER));
    principal.clone()
}

fn with_peer() -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(PEER);
    extensions
}

fn none() -> Run {
    accepted(NoOp, request("kw_live_none"), Extensions::new, 0)
}

/// The layer with its defaults, and a principal that it made.
fn keyward_hit(new: NewToken, fresh: fn() -> Extensions) -> (AuthLayer, String, Principal) {
    keyward_hit_of(TokenManager::builder(MemoryStore::new()), new, fresh)
}

fn keyward_hit_of(
    builder: TokenManagerBuilder,
    new: NewToken,
    fresh: fn() -> Extensions,
) -> (AuthLayer, String, Principal) {
    let (tokens, key, _) = manager_with_key(builder, new);
    let layer = AuthLayer::new(ApiKeyAuth::new(&tokens));
    let mut first = request(&key);
    *first.extensions_mut() = fresh();
    assert_eq!(send(&mut layer.layer(NoOp), first).status(), StatusCode::OK);
    let principal = check_identity(&arrived());
    (layer, key, principal)
}

fn floor() -> Run {
    let (_, key, principal) = keyward_hit(NewToken::named("bench"), Extensions::new);
    accepted(FloorLayer::new(&key, &principal, OTHER_KEYS).layer(NoOp), request(&key), Extensions::new, 2)
}

fn hit() -> Run {
    let (layer, key, _) = keyward_hit(NewToken::named("bench"), Extensions::new);
    accepted(layer.layer(NoOp), request(&key), Extensions::new, 2)
}

fn hit_limited(limits: Limits) -> Run {
    let (layer, key, _) = keyward_hit(NewToken::named("bench").with_limits(limits), Extensions::new);
    accepted(layer.layer(NoOp), request(&key), Extensions::new, 2)
}

fn hit_rate() -> Run {
    hit_limited(Limits::default().with_rate(Some(generous())))
}

fn hit_owner_rate() -> Run {
    let builder = TokenManager::builder(MemoryStore::new()).with_owner_rate_limit(Some(generous()));
    let (tokens, key, _) = manager_with_key(builder, NewToken::named("bench"));
    warm(&tokens, &key);
    accepted(AuthLayer::new(ApiKeyAuth::new(&tokens)).layer(NoOp), request(&key), Extensions::new, 2)
}

/// A rate limit that nobody reaches.
fn generous() -> RateLimit {
    RateLimit::new(4_000_000_000, Duration::from_secs(1)).expect("a rate limit")
}

fn hit_quota() -> Run {
    let quota = Quota::new(4_000_000_000, QuotaPeriod::Month).expect("a quota");
    hit_limited(Limits::default().with_quota(Some(quota)))
}

/// The layer and the manager as the example service has them, and a key with `limits`.
fn example(new: NewToken, failures: Option<FailureLimit>, owner: Option<RateLimit>) -> Run {
    let roles = |user: &UserId| {
        let admin = user.as_str() == "keyward:admin";
        if admin { RoleSet::new(["admin"]).expect("a role") } else { RoleSet::empty() }
    };
    let (audit, _log) = AuditLog::new(MemoryStore::new());
    let builder = TokenManager::builder(MemoryStore::new()).with_roles(roles);
    let builder = builder.with_owner_rate_limit(owner).with_audit((TracingSink, audit));
    let (tokens, key, _) = manager_with_key(builder, new);
    let authenticators: Vec<Box<dyn Authenticator>> = vec![ApiKeyAuth::new(&tokens).into()];
    let layer = AuthLayer::new(AnyOf::new(authenticators)).with_failure_limit(failures);
    let mut first = request(&key);
    *first.extensions_mut() = with_peer();
    assert_eq!(send(&mut layer.layer(NoOp), first).status(), StatusCode::OK);
    check_identity(&arrived());
    accepted(layer.layer(NoOp), request(&key), with_peer, 3)
}

fn hit_example() -> Run {
    example(NewToken::named("bench"), Some(FailureLimit::default()), None)
}

fn hit_unguarded() -> Run {
    example(NewToken::named("bench"), None, None)
}

fn hit_everything() -> Run {
    let quota = Quota::new(4_000_000_000, QuotaPeriod::Month).expect("a quota");
    let limits = Limits::default().with_rate(Some(generous())).with_quota(Some(quota));
    example(limited().with_limits(limits), Some(FailureLimit::default()), Some(generous()))
}

fn floor_peer() -> Run {
    let (_, key, principal) = keyward_hit(NewToken::named("bench"), with_peer);
    accepted(FloorLayer::new(&key, &principal, OTHER_KEYS).layer(NoOp), request(&key), with_peer, 3)
}

fn hit_suspect() -> Run {
    let (layer, key, _) = keyward_hit(limited(), with_peer);
    let failures = FailureLimit::per_minute(NonZeroU32::MIN);
    for _ in 0..2 {
        let _ = failures.count(Some(PEER.0.ip()), SystemClock.now());
    }
    let layer = layer.with_failure_limit(Some(failures));
    accepted(layer.layer(NoOp), request(&key), with_peer, 3)
}

fn limited() -> NewToken {
    let addresses = IpList::new(["198.51.100.0/24", "192.0.2.0/24"]).expect("networks");
    NewToken::named("bench").with_allowed_ips(addresses)
}

fn floor_ip() -> Run {
    let (_, key, principal) = keyward_hit(limited(), with_peer);
    accepted(FloorLayer::new(&key, &principal, OTHER_KEYS).layer(NoOp), request(&key), with_peer, 3)
}

fn hit_peer() -> Run {
    let (layer, key, _) = keyward_hit(NewToken::named("bench"), with_peer);
    accepted(layer.layer(NoOp), request(&key), with_peer, 3)
}

fn hit_ip() -> Run {
    let (layer, key, _) = keyward_hit(limited(), with_peer);
    accepted(layer.layer(NoOp), request(&key), with_peer, 3)
}

/// `hit_peer` with somebody who watches.
fn watched(watch: Watch, fresh: fn() -> Extensions) -> Run {
    let builder = TokenManager::builder(MemoryStore::new()).with_watch(watch);
    let (layer, key, _) = keyward_hit_of(builder, NewToken::named("bench"), fresh);
    accepted(layer.layer(NoOp), request(&key), fresh, 3)
}

fn hit_watch() -> Run {
    watched(Watch::default(), with_peer)
}

fn hit_agent() -> Run {
    watched(Watch::default().with_user_agents(true), with_peer)
}

fn hit_moving() -> Run {
    thread_local!(static ODD: Cell<bool> = const { Cell::new(false) });
    watched(Watch::default(), || {
        let mut extensions = with_peer();
        if ODD.replace(!ODD.get()) {
            extensions.insert(PeerAddr((Ipv4Addr::new(198, 51, 100, 9), 50_000).into()));
        }
        extensions
    })
}

/// A clock that stands still, so that no usage is written meanwhile and what is fresh stays so.
fn still() -> ManualClock {
    ManualClock::at(SystemClock.now())
}

fn miss() -> Run {
    let builder = TokenManager::builder(MemoryStore::new()).with_clock(still());
    let builder = builder.with_staleness(Duration::ZERO).expect("a bound");
    let (tokens, key, _) = manager_with_key(builder, NewToken::named("bench"));
    let mut service = AuthLayer::new(ApiKeyAuth::new(&tokens)).layer(NoOp);
    assert_eq!(send(&mut service, request(&key)).status(), StatusCode::OK);
    check_identity(&arrived());
    accepted(service, request(&key), Extensions::new, 2)
}

/// A run of verdicts over `key`, which is read as the layer does.
fn verdicts(key: &str, expected: fn(&Verdict) -> bool) -> Run {
    let (tokens, ..) = manager_with_key(TokenManager::builder(MemoryStore::new()), NewToken::named("bench"));
    let authenticator: Arc<dyn Authenticator> = Arc::new(ApiKeyAuth::new(&tokens));
    let (reader, request) = (CredentialReader::default(), request(key));
    Box::new(move |times| {
        for _ in 0..times {
            let mut head = RequestHead::new(black_box(&request));
            head.presented = reader.read(head.method, head.uri, head.headers).expect("one credential");
            assert!(expected(&authenticator.authenticate(&head)));
        }
    })
}

/// A run of verdicts over a junk key, whose failures are counted as the layer does.
fn counted_failures(limit: NonZeroU32, clock: impl Clock, is_within: bool) -> Run {
    let failures = FailureLimit::per_minute(limit);
    let client = Some(PEER.0.ip());
    let mut junk = junk_checksum();
    let _ = failures.count(client, clock.now());
    Box::new(move |times| {
        for _ in 0..times {
            junk(1);
            assert_eq!(failures.count(client, clock.now()).is_ok(), is_within);
        }
    })
}

fn junk_counted() -> Run {
    counted_failures(NonZeroU32::MAX, SystemClock, true)
}

fn junk_over() -> Run {
    counted_failures(NonZeroU32::MIN, still(), false)
}

fn junk_checksum() -> Run {
    let is_refused = |verdict: &Verdict| matches!(verdict, Verdict::Decided(Err(_)));
    verdicts("kw_live_10123456789ABCDEFGHIJKLMNOPQRSTU1G9zjb", is_refused)
}

fn junk_prefix() -> Run {
    let is_foreign = |verdict: &Verdict| matches!(verdict, Verdict::Abstain);
    verdicts("sk_test_10123456789ABCDEFGHIJKLMNOPQRSTU1G9zja", is_foreign)
}

/// Drops every event, so that no logging is measured.
#[derive(Debug)]
struct Nowhere;

impl AuditSink for Nowhere {
    fn record(&self, _: &Event) {}
}

fn revoked() -> Run {
    let builder = TokenManager::builder(MemoryStore::new()).with_clock(still()).with_audit(Nowhere);
    let (tokens, key, id) = manager_with_key(builder, NewToken::named("bench"));
    warm(&tokens, &key);
    block_on(tokens.revoke(&UserId::new(USER).expect("a user id"), id)).expect("its owner can revoke it");
    let layer = AuthLayer::new(ApiKeyAuth::new(&tokens));
    let failures = FailureLimit::per_minute(NonZeroU32::MAX);
    refused(layer.with_failure_limit(Some(failures)).layer(NoOp), request(&key))
}

fn copy() -> Run {
    let template = request("kw_live_10123456789ABCDEFGHIJKLMNOPQRSTU1G9zja");
    Box::new(move |times| {
        for _ in 0..times {
            drop(black_box(template.clone()));
        }
    })
}

fn hand() -> Run {
    let (_, key, _) = keyward_hit(NewToken::named("bench"), Extensions::new);
    let mut service = Hand::layer(&key, USER, OTHER_KEYS).layer(NoOp);
    assert_eq!(send(&mut service, request(&key)).status(), StatusCode::OK);
    let user = arrived().extensions().get::<Arc<HandUser>>().map(|user| user.id.clone());
    assert_eq!(user.as_deref(), Some(USER));
    accepted(service, request(&key), Extensions::new, 1)
}
