//! Rate limits and quotas of keys: exact, whatever comes at once, and kept through everything that a key goes
//! through.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests"
)]

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use http::{Request, header};
use keyward::{
    AdminProof, AuthLayer, Principal, TokenId, TokenManager, api,
    auth::ApiKeyAuth,
    error::Refusal,
    event::EventKind,
    limit::{Limits, Quota, QuotaPeriod, QuotaUse, RateLimit},
    manage::{IssuedToken, ListQuery, NewToken, TokenError, TokenUpdate},
    store::{MemoryStore, SqliteStore, TokenStore},
    testing::{ManualClock, RecordingSink},
    time::Clock,
    token::{LifetimePolicy, Lifetimes, TokenClass, TokenRecord},
};
use support::{Answer, UnrulyStore, request, send, start, user};
use tokio::sync::Barrier;

const DAY: Duration = Duration::from_secs(86_400);

fn rate(requests: u32, seconds: u64) -> Limits {
    let rate = RateLimit::new(requests, Duration::from_secs(seconds)).unwrap();
    Limits::default().with_rate(Some(rate))
}

fn quota(requests: u32, period: QuotaPeriod) -> Limits {
    Limits::default().with_quota(Some(Quota::new(requests, period).unwrap()))
}

/// No key ends by itself.
fn endless() -> Lifetimes {
    let policy = LifetimePolicy::default().with_lifetime(None).with_idle_timeout(None).with_maximum(None);
    Lifetimes::default().with_policy(TokenClass::User, policy)
}

fn new(limits: Limits) -> NewToken {
    NewToken::named("limited").with_limits(limits)
}

fn app(tokens: &TokenManager) -> Router {
    Router::new()
        .route("/", get(async || {}))
        .nest("/api/keys", api::own_tokens(tokens.clone()))
        .layer(AuthLayer::new(ApiKeyAuth::new(tokens)))
}

async fn issue(tokens: &TokenManager, limits: Limits) -> IssuedToken {
    tokens.create(&user("alice"), new(limits)).await.unwrap()
}

async fn ask(app: &Router, key: &str) -> Answer {
    let request = Request::get("/").header("x-api-key", key).body(Body::empty()).unwrap();
    send(app, request).await
}

/// How many of so many requests in turn are let in.
async fn accepted(app: &Router, key: &str, requests: usize) -> usize {
    let mut accepted = 0;
    for _ in 0..requests {
        accepted += usize::from(ask(app, key).await.status == 200);
    }
    accepted
}

/// A manager by a clock that stands still.
struct World {
    store: Arc<UnrulyStore>,
    clock: ManualClock,
    events: RecordingSink,
    tokens: TokenManager,
    app: Router,
}

impl World {
    fn new() -> Self {
        let (store, clock) = (Arc::new(UnrulyStore::default()), ManualClock::at(start()));
        let events = RecordingSink::default();
        let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone());
        let tokens = tokens.with_audit(events.clone()).with_lifetimes(endless()).build();
        let app = app(&tokens);
        Self { store, clock, events, tokens, app }
    }

    async fn record(&self, id: TokenId) -> TokenRecord {
        self.tokens.get(&user("alice"), id).await.unwrap()
    }
}

#[tokio::test]
async fn a_key_beyond_its_rate_is_told_how_long_to_wait() {
    let world = World::new();
    let issued = issue(&world.tokens, rate(3, 60)).await;
    let key = issued.key.expose();
    for (left, all_in) in [(2, 20), (1, 40), (0, 60)] {
        let answer = ask(&world.app, key).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), r#""rate";q=3;w=60"#);
        assert_eq!(answer.header("ratelimit"), format!(r#""rate";r={left};t={all_in}"#));
    }
    world.clock.advance(Duration::from_millis(500));
    let answer = ask(&world.app, key).await;
    assert_eq!(answer.status, 429);
    assert_eq!((answer.header("retry-after"), answer.header("www-authenticate")), ("20", ""));
    assert_eq!(answer.header("ratelimit-policy"), r#""rate";q=3;w=60"#);
    assert_eq!(answer.header("ratelimit"), r#""rate";r=0;t=60"#);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(world.events.events().last().unwrap().token, Some(issued.record.id));
    assert_eq!(world.events.kinds().last(), Some(&EventKind::AccessRefused(Refusal::RateLimited)));
    world.clock.advance(Duration::from_millis(19_499));
    assert_eq!(ask(&world.app, key).await.header("retry-after"), "1", "never zero");
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(accepted(&world.app, key, 5).await, 1);
    let record = world.record(issued.record.id).await;
    assert_eq!(record.request_count, 4, "what was refused is no use");
    assert_eq!(record.last_used, Some(world.clock.now()));
}

#[tokio::test]
async fn a_quota_is_used_up_until_the_calendar_says_otherwise() {
    let world = World::new();
    let (daily, monthly) = (quota(2, QuotaPeriod::Day), quota(2, QuotaPeriod::Month));
    for (name, limits, seconds, to_next) in [
        ("day", daily, 86_400, DAY - Duration::from_millis(1)),
        ("month", monthly, 31 * 86_400, 30 * DAY - Duration::from_millis(1)),
    ] {
        let issued = issue(&world.tokens, limits).await;
        let key = issued.key.expose();
        let now = world.clock.now();
        let answer = ask(&world.app, key).await;
        assert_eq!(answer.header("ratelimit-policy"), format!(r#""quota";q=2;w={seconds}"#), "{name}");
        assert_eq!(accepted(&world.app, key, 3).await, 1, "{name}");
        let refused = ask(&world.app, key).await;
        assert_eq!(refused.status, 429, "{name}");
        let left = to_next.as_secs() + 1;
        assert_eq!(refused.header("retry-after"), left.to_string(), "{name}");
        assert_eq!(refused.header("ratelimit"), format!(r#""quota";r=0;t={left}"#), "{name}");
        assert_eq!(world.events.kinds().last(), Some(&EventKind::AccessRefused(Refusal::QuotaExhausted)));
        world.clock.advance(to_next);
        assert_eq!(accepted(&world.app, key, 3).await, 0, "{name}: the last millisecond");
        world.clock.advance(Duration::from_millis(1));
        assert_eq!(accepted(&world.app, key, 3).await, 2, "{name}: anew");
        world.clock.set(now.saturating_add(DAY));
    }
}

#[tokio::test]
async fn what_its_rate_refuses_uses_no_quota() {
    let world = World::new();
    let both = rate(1, 1).with_quota(Some(Quota::new(3, QuotaPeriod::Day).unwrap()));
    let issued = issue(&world.tokens, both).await;
    for left in [2, 1, 0] {
        let answer = ask(&world.app, issued.key.expose()).await;
        let policy = r#""rate";q=1;w=1, "quota";q=3;w=86400"#;
        assert_eq!(answer.header("ratelimit-policy"), policy);
        assert!(answer.header("ratelimit").starts_with(&format!(r#""rate";r=0;t=1, "quota";r={left};t="#)));
        assert_eq!(accepted(&world.app, issued.key.expose(), 10).await, 0);
        world.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(accepted(&world.app, issued.key.expose(), 1).await, 0, "the quota is used up");
}

#[tokio::test]
async fn keys_without_limits_are_told_nothing() {
    let world = World::new();
    let issued = issue(&world.tokens, Limits::default()).await;
    let answer = ask(&world.app, issued.key.expose()).await;
    assert_eq!((answer.status.as_u16(), answer.header("ratelimit")), (200, ""));
    assert_eq!(answer.header("ratelimit-policy"), "");
}

/// A cache that forgets, looks again and makes room must not give anything back.
#[tokio::test]
async fn limits_outlive_the_cached_key() {
    let clock = ManualClock::at(start());
    let builder = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).with_max_active(None);
    let tokens = builder.with_cache_capacity(1).build();
    let app = app(&tokens);
    let issued = issue(&tokens, rate(100, 86_400).with_quota(Quota::new(20, QuotaPeriod::Day).ok())).await;
    let (key, alice) = (issued.key.expose(), user("alice"));
    for round in 0..10 {
        assert_eq!(accepted(&app, key, 2).await, 2, "round {round}");
        match round % 5 {
            0 => drop(
                tokens.update(&alice, issued.record.id, TokenUpdate::default().with_name("x")).await.unwrap(),
            ),
            1 => clock.advance(Duration::from_secs(6)),
            2 => {
                for _ in 0..200 {
                    let other = issue(&tokens, Limits::default()).await;
                    assert_eq!(accepted(&app, other.key.expose(), 1).await, 1);
                }
            }
            3 => tokens.flush().await.unwrap(),
            _ => {
                let off = TokenUpdate::default().with_enabled(false);
                tokens.update(&alice, issued.record.id, off.clone()).await.unwrap();
                assert_eq!(accepted(&app, key, 1).await, 0);
                tokens.update(&alice, issued.record.id, off.with_enabled(true)).await.unwrap();
            }
        }
    }
    let refused = ask(&app, key).await;
    assert!(refused.header("ratelimit").starts_with(r#""quota";r=0"#), "{refused:?}");
    let loose = TokenUpdate::default().with_limits(rate(100, 86_400));
    tokens.update(&alice, issued.record.id, loose).await.unwrap();
    let answer = ask(&app, key).await;
    assert!(answer.header("ratelimit").starts_with(r#""rate";r=78;"#), "{:?}", answer.headers);
}

async fn sqlite(path: &Path, clock: &ManualClock) -> (TokenManager, Router) {
    let store = SqliteStore::open(path).await.unwrap();
    let tokens = TokenManager::builder(store).with_clock(clock.clone()).build();
    let app = app(&tokens);
    (tokens, app)
}

#[tokio::test]
async fn a_quota_survives_the_process_and_is_shared_between_processes() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(start()));
    let path = directory.path().join("tokens.db");
    let (tokens, first) = sqlite(&path, &clock).await;
    let issued = issue(&tokens, quota(10, QuotaPeriod::Month)).await;
    let key = issued.key.expose();
    assert_eq!(accepted(&first, key, 3).await, 3);
    tokens.flush().await.unwrap();
    drop((tokens, first));

    let (tokens, second) = sqlite(&path, &clock).await;
    let answer = ask(&second, key).await;
    assert!(
        answer.header("ratelimit").starts_with(r#""quota";r=6"#),
        "three were used: {:?}",
        answer.headers
    );
    let (others, third) = sqlite(&path, &clock).await;
    assert_eq!(accepted(&third, key, 2).await, 2);
    for manager in [&tokens, &others] {
        manager.flush().await.unwrap();
    }
    clock.advance(Duration::from_secs(6));
    let left = async |app| ask(app, key).await.header("ratelimit").chars().take(11).collect::<String>();
    assert_eq!(left(&second).await, r#""quota";r=3"#, "3 + 1 + 2 and this one");
    assert_eq!(left(&third).await, r#""quota";r=3"#, "of which the third does not know yet");
    for manager in [&tokens, &others] {
        manager.flush().await.unwrap();
    }
    clock.advance(Duration::from_secs(6));
    assert_eq!(accepted(&second, key, 5).await, 2);
    tokens.flush().await.unwrap();
    clock.advance(Duration::from_secs(6));
    assert_eq!(accepted(&third, key, 5).await, 0, "ten in all");
    let used = tokens.get(&user("alice"), issued.record.id).await.unwrap().quota_use.unwrap();
    assert_eq!((used.period, used.since, used.count), (QuotaPeriod::Month, start(), 10));
}

#[tokio::test]
async fn use_that_cannot_be_written_is_written_later_and_once() {
    let world = World::new();
    let issued = issue(&world.tokens, quota(10, QuotaPeriod::Day)).await;
    let stored = async || {
        let record = world.store.memory.find(&issued.record.digest).await.unwrap().unwrap();
        record.quota_use.map_or(0, |used: QuotaUse| used.count)
    };
    assert_eq!(accepted(&world.app, issued.key.expose(), 4).await, 4);
    assert_eq!(stored().await, 0, "no write for each request");
    world.store.set_usage_failing(true);
    assert_eq!(world.record(issued.record.id).await.quota_use.unwrap().count, 4, "but it is known");
    world.tokens.flush().await.unwrap_err();
    assert_eq!(accepted(&world.app, issued.key.expose(), 2).await, 2);
    world.store.set_usage_failing(false);
    world.tokens.flush().await.unwrap();
    assert_eq!(stored().await, 6);
    world.tokens.flush().await.unwrap();
    assert_eq!(stored().await, 6);
    assert_eq!(accepted(&world.app, issued.key.expose(), 9).await, 4);
}

/// As many rounds as a round has days: in each the quota is there anew, eight requests come at once for three places,
/// the key is looked up in a real store, and what was used is written meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_round_lets_one_too_many_or_one_too_few_in() {
    const ROUNDS: usize = 10_000;
    const AT_ONCE: usize = 8;
    let (directory, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(start()));
    let store = SqliteStore::open(directory.path().join("tokens.db")).await.unwrap();
    let tokens = TokenManager::builder(store).with_clock(clock.clone()).with_lifetimes(endless()).build();
    let issued = issue(&tokens, quota(3, QuotaPeriod::Day)).await;
    let key: Arc<str> = issued.key.expose().into();
    let barrier = Arc::new(Barrier::new(AT_ONCE + 2));
    let asking: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (app, key, barrier) = (app(&tokens), key.clone(), barrier.clone());
            tokio::spawn(async move {
                let mut rounds = Vec::with_capacity(ROUNDS);
                for _ in 0..ROUNDS {
                    barrier.wait().await;
                    rounds.push(ask(&app, &key).await.status.as_u16());
                    barrier.wait().await;
                }
                rounds
            })
        })
        .collect();
    let writing = {
        let (tokens, barrier) = (tokens.clone(), barrier.clone());
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                barrier.wait().await;
                if round % 3 == 0 {
                    tokens.flush().await.unwrap();
                }
                barrier.wait().await;
            }
        })
    };
    for _ in 0..ROUNDS {
        clock.advance(DAY);
        barrier.wait().await;
        barrier.wait().await;
    }
    writing.await.unwrap();
    let mut let_in = vec![0; ROUNDS];
    for asked in asking {
        for (round, status) in asked.await.unwrap().into_iter().enumerate() {
            assert!(status == 200 || status == 429, "round {round}: {status}");
            let_in[round] += usize::from(status == 200);
        }
    }
    let violations = let_in.iter().filter(|let_in| **let_in != 3).count();
    println!("{ROUNDS} rounds of {AT_ONCE} requests for 3 places: {violations} violations");
    assert_eq!(violations, 0);
    tokens.flush().await.unwrap();
    let record = tokens.get(&user("alice"), issued.record.id).await.unwrap();
    assert_eq!(record.request_count, 3 * ROUNDS as u64);
    assert_eq!(record.quota_use.unwrap().count, 3);
}

#[tokio::test]
async fn all_keys_of_a_user_can_share_a_rate() {
    let clock = ManualClock::at(start());
    let shared = RateLimit::new(5, Duration::from_secs(10)).unwrap();
    let tokens = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone());
    let tokens = tokens.with_owner_rate_limit(Some(shared)).build();
    let app = app(&tokens);
    let (one, other) = (issue(&tokens, Limits::default()).await, issue(&tokens, rate(4, 10)).await);
    let bobs = tokens.create(&user("bob"), NewToken::named("x")).await.unwrap();
    assert_eq!(accepted(&app, one.key.expose(), 3).await, 3);
    let answer = ask(&app, other.key.expose()).await;
    assert_eq!(answer.header("ratelimit-policy"), r#""rate";q=4;w=10, "owner";q=5;w=10"#);
    assert_eq!(answer.header("ratelimit"), r#""rate";r=3;t=3, "owner";r=1;t=8"#);
    assert_eq!(accepted(&app, other.key.expose(), 3).await, 1, "five of alice");
    let minted = issue(&tokens, Limits::default()).await;
    assert_eq!(accepted(&app, minted.key.expose(), 1).await, 0, "a new key is no way round");
    assert_eq!(accepted(&app, bobs.key.expose(), 6).await, 5, "bob has his own");
    clock.advance(Duration::from_secs(2));
    assert_eq!(accepted(&app, minted.key.expose(), 2).await, 1);
}

/// The principal that a request with `key` gets.
async fn principal(tokens: &TokenManager, key: &str) -> Principal {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let keep = async move |me: Principal| sender.send(me).await.unwrap();
    let app: Router = Router::new().route("/", get(keep)).layer(AuthLayer::new(ApiKeyAuth::new(tokens)));
    assert_eq!(ask(&app, key).await.status, 200);
    receiver.recv().await.unwrap()
}

#[tokio::test]
async fn a_limited_key_gives_nobody_more_than_it_has() {
    let world = World::new();
    let own = rate(10, 60).with_quota(Quota::new(100, QuotaPeriod::Day).ok());
    let issued = issue(&world.tokens, own).await;
    let sibling = issue(&world.tokens, Limits::default()).await;
    let me = principal(&world.tokens, issued.key.expose()).await;
    let wider = [
        Limits::default(),
        rate(10, 60),
        quota(100, QuotaPeriod::Day),
        own.with_rate(rate(11, 60).rate()),
        own.with_rate(rate(10, 59).rate()),
        own.with_quota(Quota::new(101, QuotaPeriod::Day).ok()),
        own.with_quota(Quota::new(101, QuotaPeriod::Month).ok()),
    ];
    for limits in wider {
        let update = TokenUpdate::default().with_limits(limits);
        for (name, outcome) in [
            ("itself", world.tokens.update(&me, issued.record.id, update).await.map(drop)),
            ("a new one", world.tokens.create(&me, new(limits)).await.map(drop)),
        ] {
            assert!(matches!(outcome, Err(TokenError::BeyondOwnRights)), "{name}: {limits:?}");
        }
    }
    let rename = TokenUpdate::default().with_name("x");
    let outcome = world.tokens.update(&me, sibling.record.id, rename).await.map(drop);
    assert!(matches!(outcome, Err(TokenError::BeyondOwnRights)), "a sibling without limits");
    let outcome = world.tokens.rotate(&me, sibling.record.id, None).await.map(drop);
    assert!(matches!(outcome, Err(TokenError::BeyondOwnRights)), "a sibling without limits");

    let inherited = world.tokens.create(&me, NewToken::named("x")).await.unwrap();
    assert_eq!(inherited.record.limits, own);
    let tighter = own.with_rate(rate(5, 60).rate());
    let tightened = world.tokens.create(&me, new(tighter)).await.unwrap();
    assert_eq!(tightened.record.limits, tighter);
    let update = TokenUpdate::default().with_limits(tighter);
    assert_eq!(world.tokens.update(&me, issued.record.id, update).await.unwrap().limits, tighter);
    let operator = AdminProof::operator("ops", "test").unwrap();
    let lift = TokenUpdate::default().with_limits(Limits::default());
    assert!(world.tokens.update(&operator, issued.record.id, lift).await.unwrap().limits.is_empty());
}

#[tokio::test]
async fn a_successor_has_the_same_limits_and_what_is_left_of_the_quota() {
    let world = World::new();
    let issued = issue(&world.tokens, quota(10, QuotaPeriod::Month)).await;
    assert_eq!(accepted(&world.app, issued.key.expose(), 7).await, 7);
    let next = world.tokens.rotate(&user("alice"), issued.record.id, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(next.record.limits, issued.record.limits);
    assert_eq!(accepted(&world.app, next.key.expose(), 10).await, 3);
}

#[tokio::test]
async fn limits_are_written_and_read_over_http() {
    let world = World::new();
    let admin = world.tokens.create(&user("alice"), NewToken::named("first")).await.unwrap();
    let key = admin.key.expose();
    let limits = r#"{"rate":{"requests":100,"seconds":60},"quota":{"requests":9,"per":"month"}}"#;
    let post = |body: &str| request("POST", "/api/keys", key, body);
    let created = send(&world.app, post(&format!(r#"{{"name":"x","limits":{limits}}}"#))).await;
    assert_eq!(created.status, 201);
    assert_eq!(created.json()["limits"].to_string(), sorted(limits));
    let path = format!("/api/keys/{}", created.text("id"));
    let limited = created.text("key");
    let answer = send(&world.app, request("GET", &path, &limited, "")).await;
    assert_eq!(answer.json()["limits"].to_string(), sorted(limits));
    let tell = answer.header("ratelimit");
    assert!(tell.starts_with(r#""rate";r=99;t=1, "quota";r=8;t="#), "{tell}");

    let patch = |key: &str, body: &str| request("PATCH", &path, key, body);
    for body in
        [r#"{"limits":null}"#, r#"{"limits":{}}"#, r#"{"limits":{"rate":{"requests":100,"seconds":60}}}"#]
    {
        assert_eq!(send(&world.app, patch(&limited, body)).await.status, 403, "{body}");
    }
    let less = r#"{"limits":{"rate":{"requests":5,"seconds":60},"quota":{"requests":9,"per":"month"}}}"#;
    assert_eq!(send(&world.app, patch(&limited, less)).await.status, 200);
    let renamed = send(&world.app, patch(key, r#"{"name":"y"}"#)).await;
    assert_eq!(renamed.json()["limits"]["rate"]["requests"], 5, "what is not named stays");
    let lifted = send(&world.app, patch(key, r#"{"limits":null}"#)).await;
    assert_eq!((lifted.status.as_u16(), &lifted.json()["limits"]), (200, &serde_json::Value::Null));
    for limits in [
        r#"{"rate":{"requests":0,"seconds":60}}"#,
        r#"{"rate":{"requests":1,"seconds":0}}"#,
        r#"{"rate":{"requests":1}}"#,
        r#"{"quota":{"requests":1,"per":"week"}}"#,
        r#"{"burst":1}"#,
        "7",
        r#""none""#,
    ] {
        let answer = send(&world.app, post(&format!(r#"{{"name":"x","limits":{limits}}}"#))).await;
        assert_eq!(answer.status, 400, "{limits}");
        assert_eq!(send(&world.app, patch(key, &format!(r#"{{"limits":{limits}}}"#))).await.status, 400);
    }
    let listed = world.tokens.list(&user("alice"), ListQuery::default()).await.unwrap().tokens;
    assert_eq!(listed.len(), 2);
}

/// As serde_json writes what it has read: by the order of the names.
fn sorted(json: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json).unwrap().to_string()
}

#[tokio::test]
async fn a_service_may_say_itself_where_limits_stand() {
    let world = World::new();
    let issued = issue(&world.tokens, rate(3, 60)).await;
    let say = async || [(header::HeaderName::from_static("ratelimit"), r#""mine";r=1"#)];
    let app: Router =
        Router::new().route("/", get(say)).layer(AuthLayer::new(ApiKeyAuth::new(&world.tokens)));
    let answer = ask(&app, issued.key.expose()).await;
    assert_eq!(answer.header("ratelimit"), r#""mine";r=1"#);
}
