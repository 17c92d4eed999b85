//! What must hold when things happen at the same time: revocation, rotation, loads, counting, and a store
//! that does not answer.
//!
//! `KEYWARD_RACE_ROUNDS` makes the races longer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests"
)]

mod support;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use keyward::{
    AuthLayer, Owner, TokenManager, UserId,
    auth::ApiKeyAuth,
    manage::{IssuedToken, ListQuery, NewToken, TokenError, TokenUpdate},
    scope::{Grant, ScopeSet},
    store::{MemoryStore, TokenStore},
    testing::ManualClock,
    token::TokenStatus,
};
use support::{UnrulyStore, start, user};
use tokio::{runtime::Runtime, task::JoinSet};
use tower::{Layer, ServiceExt, util::ServiceFn};

const DAY: Duration = Duration::from_secs(86_400);

#[expect(clippy::disallowed_methods, reason = "lets a longer run be asked for")]
fn rounds() -> usize {
    std::env::var("KEYWARD_RACE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5_000)
}

fn answer(_: Request<()>) -> Ready<Result<Response<http_body_util::Full<bytes::Bytes>>, Infallible>> {
    ready(Ok(Response::default()))
}

type Answering = fn(Request<()>) -> Ready<Result<Response<http_body_util::Full<bytes::Bytes>>, Infallible>>;

/// The layer over a service that answers everybody, however often it refuses somebody.
#[derive(Clone)]
struct Gatekeeper(keyward::layer::Auth<ServiceFn<Answering>>);

impl Gatekeeper {
    fn new(tokens: &TokenManager) -> Self {
        let answering: Answering = answer;
        let layer = AuthLayer::new(ApiKeyAuth::new(tokens)).with_failure_limit(None);
        Self(layer.layer(tower::service_fn(answering)))
    }

    async fn status(&self, key: &str) -> StatusCode {
        let request = Request::get("/").header("x-api-key", key).body(()).unwrap();
        self.0.clone().oneshot(request).await.unwrap().status()
    }

    async fn accepts(&self, key: &str) -> bool {
        self.status(key).await.is_success()
    }
}

fn single_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn issue(tokens: &TokenManager, owner: &str) -> IssuedToken {
    tokens.create(&user(owner), NewToken::named("race")).await.unwrap()
}

fn unlimited() -> TokenManager {
    TokenManager::builder(MemoryStore::new())
        .with_max_active(None)
        .with_creation_limit(None)
        .with_audit(Silent)
        .build()
}

/// Forgets all events, so that the races are about keys.
#[derive(Debug)]
struct Silent;

impl keyward::event::AuditSink for Silent {
    fn record(&self, _: &keyward::event::Event) {}
}

// ---- revocation ------------------------------------------------------------------------------------

/// The key of a round, and whether its revocation has returned.
#[derive(Debug)]
struct Round {
    key: String,
    revoked: AtomicBool,
}

/// Hammers with the key of the current round; counts what was let in, and what should not have been.
fn hammer(gate: &Gatekeeper, current: &Mutex<Arc<Round>>, done: &AtomicBool) -> (usize, usize) {
    let (mut accepted, mut violations) = (0, 0);
    let mut previous: Option<Arc<Round>> = None;
    single_thread().block_on(async {
        while !done.load(Ordering::SeqCst) {
            let round = current.lock().unwrap().clone();
            for round in previous.iter().chain([&round]) {
                let over = round.revoked.load(Ordering::SeqCst);
                let passed = gate.accepts(&round.key).await;
                accepted += usize::from(passed);
                violations += usize::from(passed && over);
            }
            if previous.as_ref().is_none_or(|previous| !Arc::ptr_eq(previous, &round)) {
                previous = Some(round);
            }
        }
    });
    (accepted, violations)
}

async fn revoke_round_after_round(
    tokens: &TokenManager,
    gate: &Gatekeeper,
    current: &Mutex<Arc<Round>>,
    rounds: usize,
) {
    for round in 0..rounds {
        let issued = issue(tokens, "alice").await;
        let now = Arc::new(Round { key: issued.key.expose().to_owned(), revoked: AtomicBool::new(false) });
        *current.lock().unwrap() = now.clone();
        if round % 2 == 0 {
            assert!(gate.accepts(&now.key).await, "round {round}: not accepted while it lives");
        }
        tokens.revoke(&user("alice"), issued.record.id).await.unwrap();
        now.revoked.store(true, Ordering::SeqCst);
        assert!(!gate.accepts(&now.key).await, "round {round}: accepted after its revocation");
    }
}

#[test]
fn no_request_that_starts_after_a_revocation_is_accepted() {
    let (tokens, done) = (unlimited(), AtomicBool::new(false));
    let gate = Gatekeeper::new(&tokens);
    let first = Round { key: String::new(), revoked: AtomicBool::new(true) };
    let current = Mutex::new(Arc::new(first));
    let (accepted, violations) = std::thread::scope(|scope| {
        let hammering = scope.spawn(|| hammer(&gate, &current, &done));
        let revoking = scope.spawn(|| {
            single_thread().block_on(revoke_round_after_round(&tokens, &gate, &current, rounds()));
        });
        let revoked = revoking.join();
        done.store(true, Ordering::SeqCst);
        revoked.unwrap();
        hammering.join().unwrap()
    });
    println!("{} rounds: {accepted} accepted by the other thread, {violations} of them too late", rounds());
    assert_eq!(violations, 0);
    assert!(accepted > 0, "the threads never met");
}

// ---- rotation --------------------------------------------------------------------------------------

/// A pair of which each must be accepted: what is shown here has been returned by `rotate`.
fn check_pairs(gate: &Gatekeeper, pair: &Mutex<[String; 2]>, done: &AtomicBool) -> usize {
    let mut checked = 0;
    single_thread().block_on(async {
        while !done.load(Ordering::SeqCst) {
            let [old, new] = pair.lock().unwrap().clone();
            assert!(gate.accepts(&new).await, "the new key works as soon as it is known");
            assert!(gate.accepts(&old).await, "the old key works until the overlap ends");
            checked += 1;
        }
    });
    checked
}

#[test]
fn while_a_key_is_rotated_with_an_overlap_old_and_new_work() {
    let (tokens, done) = (unlimited(), AtomicBool::new(false));
    let gate = Gatekeeper::new(&tokens);
    let first = single_thread().block_on(issue(&tokens, "alice"));
    let pair = Mutex::new([first.key.expose().to_owned(), first.key.expose().to_owned()]);
    let checked = std::thread::scope(|scope| {
        let checking = scope.spawn(|| check_pairs(&gate, &pair, &done));
        let rotating = scope.spawn(|| {
            single_thread().block_on(async {
                let mut old = first;
                for _ in 0..rounds() / 5 {
                    let new = tokens.rotate(&user("alice"), old.record.id, Some(DAY)).await.unwrap();
                    *pair.lock().unwrap() = [old.key.expose().to_owned(), new.key.expose().to_owned()];
                    old = new;
                }
            });
        });
        let rotated = rotating.join();
        done.store(true, Ordering::SeqCst);
        rotated.unwrap();
        checking.join().unwrap()
    });
    assert!(checked > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_rotations_at_once_one_wins() {
    let tokens = unlimited();
    let gate = Gatekeeper::new(&tokens);
    for _ in 0..50 {
        let old = issue(&tokens, "alice").await;
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let (tokens, id) = (tokens.clone(), old.record.id);
            tasks.spawn(async move { tokens.rotate(&user("alice"), id, Some(DAY)).await });
        }
        let results = tasks.join_all().await;
        let winners: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(winners.len(), 1, "exactly one successor");
        let losers = results.iter().filter(|result| matches!(result, Err(TokenError::Conflict))).count();
        assert_eq!(losers, 7);
        let record = tokens.get(&user("alice"), old.record.id).await.unwrap();
        assert_eq!(record.successor, Some(winners[0].record.id));
        assert!(gate.accepts(old.key.expose()).await && gate.accepts(winners[0].key.expose()).await);
    }
    let query = ListQuery::default().with_limit(200).with_status(TokenStatus::Active);
    assert_eq!(tokens.list(&user("alice"), query).await.unwrap().tokens.len(), 50);
}

#[tokio::test]
async fn the_overlap_ends_when_it_was_said_to() {
    let clock = ManualClock::at(start());
    for (name, overlap, dead_after) in [
        ("none", Duration::ZERO, Duration::ZERO),
        ("an hour", Duration::from_secs(3600), Duration::from_secs(3600)),
        ("longer than the old key lives", 30 * DAY, 2 * DAY),
    ] {
        clock.set(start());
        let tokens = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
        let gate = Gatekeeper::new(&tokens);
        let old = tokens.create(&user("alice"), NewToken::named("x").with_lifetime(2 * DAY)).await.unwrap();
        assert!(gate.accepts(old.key.expose()).await, "{name}");
        let new = tokens.rotate(&user("alice"), old.record.id, Some(overlap)).await.unwrap();
        assert!(gate.accepts(new.key.expose()).await, "{name}");
        if let Some(before) = dead_after.checked_sub(Duration::from_millis(1)) {
            clock.advance(before);
            assert!(gate.accepts(old.key.expose()).await, "{name}: a millisecond before");
            clock.advance(Duration::from_millis(1));
        }
        assert!(!gate.accepts(old.key.expose()).await, "{name}: at the end");
    }
}

// ---- single flight ---------------------------------------------------------------------------------

struct Gated {
    clock: ManualClock,
    store: Arc<UnrulyStore>,
    tokens: TokenManager,
    gate: Gatekeeper,
}

impl Gated {
    fn new() -> Self {
        let (clock, store) = (ManualClock::at(start()), Arc::new(UnrulyStore::default()));
        let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).build();
        let gate = Gatekeeper::new(&tokens);
        Self { clock, store, tokens, gate }
    }

    /// Requests with `key`, and how many of them have begun.
    fn requests(&self, key: &str, count: usize) -> (JoinSet<StatusCode>, Arc<AtomicUsize>) {
        let (mut tasks, begun) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..count {
            let (gate, key, begun) = (self.gate.clone(), key.to_owned(), begun.clone());
            tasks.spawn(async move {
                begun.fetch_add(1, Ordering::SeqCst);
                gate.status(&key).await
            });
        }
        (tasks, begun)
    }
}

async fn until(counter: &AtomicUsize, count: usize) {
    while counter.load(Ordering::SeqCst) < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_misses_of_one_key_are_one_look_up() {
    for good in [true, false] {
        let world = Gated::new();
        let issued = issue(&world.tokens, "alice").await;
        if !good {
            world.tokens.revoke(&user("alice"), issued.record.id).await.unwrap();
        }
        let gate = world.store.close_gate();
        let (tasks, begun) = world.requests(issued.key.expose(), 200);
        gate.arrival().await;
        until(&begun, 200).await;
        gate.open();
        let status = if good { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(tasks.join_all().await, [status; 200]);
        assert_eq!(world.store.finds(), 1, "good: {good}");
    }
}

#[tokio::test]
async fn when_the_one_who_asks_gives_up_another_one_asks() {
    let world = Gated::new();
    let issued = issue(&world.tokens, "alice").await;
    let gate = world.store.close_gate();
    let leader = tokio::spawn({
        let (gate, key) = (world.gate.clone(), issued.key.expose().to_owned());
        async move { gate.status(&key).await }
    });
    gate.arrival().await;
    let (followers, begun) = world.requests(issued.key.expose(), 100);
    until(&begun, 100).await;
    assert_eq!(world.store.finds(), 1);
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    gate.arrival().await;
    gate.open();
    assert_eq!(followers.join_all().await, [StatusCode::OK; 100]);
    assert_eq!(world.store.finds(), 2, "one for the leader that left, one for all the others");
}

#[tokio::test]
async fn a_look_up_that_fails_is_not_remembered() {
    let world = Gated::new();
    let issued = issue(&world.tokens, "alice").await;
    world.store.set_down(true);
    let (tasks, _) = world.requests(issued.key.expose(), 20);
    assert_eq!(tasks.join_all().await, [StatusCode::SERVICE_UNAVAILABLE; 20]);
    world.store.set_down(false);
    assert!(world.gate.accepts(issued.key.expose()).await);
}

// ---- loads across changes --------------------------------------------------------------------------

async fn change(tokens: &TokenManager, owner: &UserId, id: keyward::TokenId, how: &str) {
    let narrow = Grant::Only(ScopeSet::new(["jobs:read"]).unwrap());
    let done = match how {
        "revoke" => tokens.revoke(owner, id).await.map(drop),
        "revoke all" => tokens.revoke_all(owner).await.map(drop),
        "disable" => tokens.update(owner, id, TokenUpdate::default().with_enabled(false)).await.map(drop),
        "narrow" => tokens.update(owner, id, TokenUpdate::default().with_scopes(narrow)).await.map(drop),
        _ => tokens.rotate(owner, id, Some(Duration::ZERO)).await.map(drop),
    };
    done.unwrap();
}

#[tokio::test]
async fn a_slow_load_does_not_bring_back_what_was_changed_meanwhile() {
    for how in ["revoke", "revoke all", "disable", "rotate"] {
        for others in [0, 3] {
            let world = Gated::new();
            let issued = issue(&world.tokens, "alice").await;
            let gate = world.store.close_gate();
            let (slow, _) = world.requests(issued.key.expose(), 3);
            gate.arrival().await; // the record was read while the key still worked
            change(&world.tokens, &user("alice"), issued.record.id, how).await;
            let (late, begun) = world.requests(issued.key.expose(), others);
            until(&begun, others).await;
            gate.open();
            slow.join_all().await; // they began before: either answer is right
            let refused = late.join_all().await.into_iter().all(|status| status == StatusCode::UNAUTHORIZED);
            assert!(refused, "{how}: accepted, though begun afterwards");
            assert!(
                !world.gate.accepts(issued.key.expose()).await,
                "{how}, {others} others: back from the dead"
            );
        }
    }
}

#[tokio::test]
async fn a_slow_load_does_not_bring_back_rights() {
    let world = Gated::new();
    let issued = issue(&world.tokens, "alice").await;
    let require = keyward::RequireLayer::scope("jobs:write");
    let answering: Answering = answer;
    let guarded =
        AuthLayer::new(ApiKeyAuth::new(&world.tokens)).layer(require.layer(tower::service_fn(answering)));
    let ask =
        |key: &str| guarded.clone().oneshot(Request::get("/").header("x-api-key", key).body(()).unwrap());
    let gate = world.store.close_gate();
    let slow = tokio::spawn(ask(issued.key.expose()));
    gate.arrival().await;
    change(&world.tokens, &user("alice"), issued.record.id, "narrow").await;
    gate.open();
    slow.await.unwrap().unwrap();
    assert_eq!(ask(issued.key.expose()).await.unwrap().status(), StatusCode::FORBIDDEN);
}

// ---- counting --------------------------------------------------------------------------------------

/// Uses each of `keys` `uses` times on each of eight threads.
fn use_from_eight_threads(gate: &Gatekeeper, keys: &[IssuedToken], uses: usize) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                single_thread().block_on(async {
                    for at in 0..uses * keys.len() {
                        let issued = &keys[(at + thread * 7) % keys.len()];
                        assert!(gate.accepts(issued.key.expose()).await);
                    }
                });
            });
        }
    });
}

async fn written(store: &UnrulyStore, issued: &IssuedToken) -> u64 {
    let alice = user("alice");
    store.memory.get(Owner::User(&alice), issued.record.id).await.unwrap().unwrap().request_count
}

async fn issue_many(tokens: &TokenManager, count: usize) -> Vec<IssuedToken> {
    let mut keys = Vec::new();
    for _ in 0..count {
        keys.push(issue(tokens, "alice").await);
    }
    keys
}

/// How many of `keys` do not have `expected` uses in the store.
async fn lacking(store: &UnrulyStore, keys: &[IssuedToken], expected: u64) -> usize {
    let mut lacking = 0;
    for issued in keys {
        lacking += usize::from(written(store, issued).await != expected);
    }
    lacking
}

#[tokio::test]
async fn each_use_is_counted_once_and_written_by_flush() {
    for (name, keys, uses) in [("one key", 1, 2_000), ("many keys", 64, 50)] {
        let store = Arc::new(UnrulyStore::default());
        let tokens = TokenManager::builder(store.clone())
            .with_audit(Silent)
            .with_max_active(None)
            .with_creation_limit(None)
            .build();
        let keys = issue_many(&tokens, keys).await;
        use_from_eight_threads(&Gatekeeper::new(&tokens), &keys, uses);
        tokens.flush().await.unwrap();
        assert_eq!(lacking(&store, &keys, 8 * uses as u64).await, 0, "{name}");
    }
}

#[tokio::test]
async fn a_single_use_is_written_by_flush_however_many_keys_are_used_at_once() {
    let store = Arc::new(UnrulyStore::default());
    let tokens = TokenManager::builder(store.clone())
        .with_audit(Silent)
        .with_max_active(None)
        .with_creation_limit(None)
        .build();
    let keys = issue_many(&tokens, 4_000).await;
    let gate = &Gatekeeper::new(&tokens);
    for round in 1..=4 {
        std::thread::scope(|scope| {
            for part in keys.chunks(keys.len() / 8) {
                scope.spawn(move || {
                    single_thread().block_on(async {
                        for issued in part {
                            assert!(gate.accepts(issued.key.expose()).await);
                        }
                    });
                });
            }
        });
        tokens.flush().await.unwrap();
        assert_eq!(lacking(&store, &keys, round).await, 0, "round {round}: keys whose use flush() left out");
    }
}

#[tokio::test]
async fn uses_that_are_counted_while_others_are_written_are_not_lost() {
    let store = Arc::new(UnrulyStore::default());
    let tokens = TokenManager::builder(store.clone()).with_audit(Silent).build();
    let keys = issue_many(&tokens, 5).await;
    let gate = Gatekeeper::new(&tokens);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            single_thread().block_on(async {
                let mut failing = false;
                while !done.load(Ordering::SeqCst) {
                    failing = !failing;
                    store.set_usage_failing(failing);
                    assert!(tokens.flush().await.is_ok() || failing);
                    tokio::task::yield_now().await;
                }
            });
        });
        use_from_eight_threads(&gate, &keys, 200);
        done.store(true, Ordering::SeqCst);
    });
    store.set_usage_failing(false);
    for issued in &keys {
        assert!(gate.accepts(issued.key.expose()).await);
    }
    tokens.flush().await.unwrap();
    for issued in &keys {
        assert_eq!(written(&store, issued).await, 8 * 200 + 1);
    }
}

#[tokio::test]
async fn uses_that_cannot_be_written_are_kept() {
    let store = Arc::new(UnrulyStore::default());
    let tokens = TokenManager::builder(store.clone()).build();
    let issued = issue(&tokens, "alice").await;
    let gate = Gatekeeper::new(&tokens);
    for round in 1..=3 {
        assert!(gate.accepts(issued.key.expose()).await);
        store.set_usage_failing(true);
        assert!(matches!(tokens.flush().await, Err(TokenError::Store(_))));
        assert_eq!(written(&store, &issued).await, round - 1);
        let seen = tokens.get(&user("alice"), issued.record.id).await.unwrap();
        assert_eq!(seen.request_count, round, "what is not written is shown");
        store.set_usage_failing(false);
        tokens.flush().await.unwrap();
        assert_eq!(written(&store, &issued).await, round);
    }
}

#[tokio::test]
async fn a_key_in_use_is_not_idle_though_its_use_cannot_be_written() {
    let (store, clock) = (Arc::new(UnrulyStore::default()), ManualClock::at(start()));
    let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).build();
    let issued = issue(&tokens, "alice").await;
    let gate = Gatekeeper::new(&tokens);
    store.set_usage_failing(true);
    for day in (0..200).step_by(29) {
        clock.set(start().saturating_add(day * DAY));
        assert!(gate.accepts(issued.key.expose()).await, "day {day}");
    }
    store.set_usage_failing(false);
    tokens.flush().await.unwrap();
    let record = tokens.get(&user("alice"), issued.record.id).await.unwrap();
    assert_eq!(record.expires_at, Some(start().saturating_add((174 + 90) * DAY)), "nor is its renewal lost");
    clock.advance(30 * DAY);
    assert!(!gate.accepts(issued.key.expose()).await, "but a key that rests is idle");
}

// ---- a store that hangs ----------------------------------------------------------------------------

async fn operate(tokens: &TokenManager, id: keyward::TokenId, operation: &str) -> Result<(), TokenError> {
    let alice = user("alice");
    match operation {
        "get" => tokens.get(&alice, id).await.map(drop),
        "list" => tokens.list(&alice, ListQuery::default()).await.map(drop),
        "count" => tokens.count(&alice).await.map(drop),
        "create" => tokens.create(&alice, NewToken::named("x")).await.map(drop),
        "update" => tokens.update(&alice, id, TokenUpdate::default().with_name("x")).await.map(drop),
        "rotate" => tokens.rotate(&alice, id, None).await.map(drop),
        "revoke" => tokens.revoke(&alice, id).await.map(drop),
        "revoke all" => tokens.revoke_all(&alice).await.map(drop),
        "flush" => tokens.flush().await,
        _ => tokens.health().await,
    }
}

const OPERATIONS: [&str; 10] =
    ["get", "list", "count", "create", "update", "rotate", "revoke", "revoke all", "flush", "health"];

#[tokio::test(start_paused = true)]
async fn no_request_waits_longer_than_five_seconds_for_a_store_that_hangs() {
    let world = Gated::new();
    let (used, issued) = (issue(&world.tokens, "alice").await, issue(&world.tokens, "alice").await);
    assert!(world.gate.accepts(used.key.expose()).await, "and its use waits to be written");
    world.store.set_hanging(true);
    let begin = tokio::time::Instant::now();
    let (tasks, _) = world.requests(issued.key.expose(), 10);
    assert_eq!(tasks.join_all().await, [StatusCode::SERVICE_UNAVAILABLE; 10]);
    assert!(begin.elapsed() <= Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(world.gate.accepts(used.key.expose()).await, "what is in the cache needs no store");
    world.store.set_hanging(false);
    assert!(world.gate.accepts(issued.key.expose()).await, "and then all is well");
}

#[tokio::test(start_paused = true)]
async fn no_operation_waits_longer_than_five_seconds_for_a_store_that_hangs() {
    let world = Gated::new();
    let issued = issue(&world.tokens, "alice").await;
    let mut late = Vec::new();
    for operation in OPERATIONS {
        world.store.set_hanging(false);
        world.clock.advance(Duration::from_secs(60));
        assert!(world.gate.accepts(issued.key.expose()).await, "and its use waits to be written");
        world.clock.advance(Duration::from_secs(2));
        world.store.set_hanging(true);
        let begin = tokio::time::Instant::now();
        let result = operate(&world.tokens, issued.record.id, operation);
        let result = tokio::time::timeout(Duration::from_secs(600), result).await;
        if let Ok(result) = result {
            assert!(matches!(result, Err(TokenError::Store(_))), "{operation}: {result:?}");
        }
        if begin.elapsed() > Duration::from_secs(5) {
            late.push((operation, begin.elapsed()));
        }
    }
    assert_eq!(late, [], "operations that took longer");
}
