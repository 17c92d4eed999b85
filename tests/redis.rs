//! Several managers that are one through Redis: revocations that reach all, limits that are counted once, and what is
//! left of both while the server is frozen, gone, or has forgotten everything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod redis_server;
mod support;

use std::{
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use keyward::{
    AdminProof, AuthLayer, TokenManager,
    auth::ApiKeyAuth,
    event::Alert,
    limit::{FailureLimit, Limits, Quota, QuotaPeriod, RateLimit},
    manage::{IssuedToken, NewToken},
    redis::Redis,
    store::{MemoryStore, Notice, SqliteOptions, SqliteStore, TokenStore, Wakeup},
    testing::RecordingSink,
};
use redis_server::{Mode, Server, Way, shared};
use support::{Gatekeeper, request, send, user};
use tokio::{sync::oneshot, task::JoinHandle};

/// So long that nothing happens because of it.
const NEVER: Duration = Duration::from_secs(300);

/// A process, as far as this crate is one.
struct Node {
    tokens: TokenManager,
    gate: Gatekeeper,
    stop: Option<oneshot::Sender<()>>,
    work: Option<JoinHandle<()>>,
}

impl Node {
    fn new(store: impl TokenStore, redis: &Redis, staleness: Duration) -> Self {
        let tokens = TokenManager::builder(store).with_staleness(staleness).unwrap();
        let tokens = tokens.with_wakeup(redis.wakeup()).with_shared_limits(redis.limits()).build();
        let (stop, stopped) = oneshot::channel::<()>();
        let work = tokio::spawn(tokens.clone().run(async { drop(stopped.await) }));
        Self { gate: Gatekeeper::new(&tokens), tokens, stop: Some(stop), work: Some(work) }
    }

    async fn end(mut self) {
        drop(self.stop.take());
        self.work.take().unwrap().await.unwrap();
    }
}

/// On one file, whose own feed is asked only when somebody says so.
async fn deaf_file(path: &Path) -> SqliteStore {
    SqliteOptions::new(path).with_watch_interval(Duration::from_secs(3600)).open().await.unwrap()
}

/// Waits until it holds, and says how long that took.
async fn until(limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    begun.elapsed()
}

/// Waits until each of them listens: a key that is revoked by the first is then refused by the others.
async fn all_listen(nodes: &[Node]) {
    let [first, others @ ..] = nodes else { return };
    let nobody = user("nobody");
    for other in others {
        until(Duration::from_secs(10), async || {
            let probe = first.tokens.create(&nobody, NewToken::named("probe")).await.unwrap();
            assert!(other.gate.accepts(&probe).await);
            first.tokens.revoke(&nobody, probe.record.id).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            !other.gate.accepts(&probe).await
        })
        .await;
    }
}

async fn issue(node: &Node) -> IssuedToken {
    node.tokens.create(&user("alice"), NewToken::named("laptop")).await.unwrap()
}

async fn revoke(node: &Node, issued: &IssuedToken) {
    node.tokens.revoke(&user("alice"), issued.record.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_reaches_others_long_before_the_bound() {
    let Some((redis, _server)) = shared().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let nodes =
        [Node::new(deaf_file(&path).await, &redis, NEVER), Node::new(deaf_file(&path).await, &redis, NEVER)];
    all_listen(&nodes).await;
    let [first, second] = &nodes;
    let mut times = Vec::new();
    for _ in 0..50 {
        let issued = issue(first).await;
        assert!(second.gate.accepts(&issued).await);
        revoke(first, &issued).await;
        times.push(until(Duration::from_secs(1), async || !second.gate.accepts(&issued).await).await);
    }
    times.sort();
    println!(
        "from the end of a revocation to the refusal elsewhere: median {:?}, last {:?}",
        times[25], times[49]
    );

    let issued = issue(first).await;
    assert!(second.gate.accepts(&issued).await);
    let proof = AdminProof::operator("ops", "left the company").unwrap();
    first.tokens.suspend(&proof, &user("alice")).await.unwrap();
    until(Duration::from_secs(1), async || !second.gate.accepts(&issued).await).await;
    first.tokens.restore(&proof, &user("alice")).await.unwrap();
    // What was refused is remembered for a second.
    until(Duration::from_secs(3), async || second.gate.accepts(&issued).await).await;
    for node in nodes {
        node.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_a_feed_hears_as_well() {
    let Some((redis, _server)) = shared().await else { return };
    let store = Arc::new(MemoryStore::new());
    let nodes = [Node::new(store.clone(), &redis, NEVER), Node::new(store, &redis, NEVER)];
    all_listen(&nodes).await;
    let issued = issue(&nodes[0]).await;
    assert!(nodes[1].gate.accepts(&issued).await);
    revoke(&nodes[0], &issued).await;
    until(Duration::from_secs(1), async || !nodes[1].gate.accepts(&issued).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missed_while_the_connection_is_lost_is_found_afterwards() {
    let Some(mut server) = Server::start().await else { return };
    let redis = server.open().with_timeout(Duration::from_millis(100)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let bound = Duration::from_secs(2);
    let nodes = [
        Node::new(deaf_file(&path).await, &redis, NEVER),
        Node::new(deaf_file(&path).await, &redis, NEVER),
        Node::new(deaf_file(&path).await, &redis, bound),
    ];
    all_listen(&nodes).await;
    let [first, second, bounded] = &nodes;

    // Gone altogether.
    let issued = issue(first).await;
    assert!(second.gate.accepts(&issued).await && bounded.gate.accepts(&issued).await);
    server.kill();
    let begun = Instant::now();
    revoke(first, &issued).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "who revokes does not wait for long: {took:?}");
    assert!(second.gate.accepts(&issued).await, "nobody told it, and its bound is far");
    until(bound + Duration::from_secs(1), async || !bounded.gate.accepts(&issued).await).await;
    assert!(second.gate.accepts(&issued).await, "still nobody has told it");
    server.restart().await;
    let found = until(Duration::from_secs(3), async || !second.gate.accepts(&issued).await).await;
    println!("after the server is back: found within {found:?}");

    // Cut off once, while the sender works.
    all_listen(&nodes).await;
    let issued = issue(first).await;
    assert!(second.gate.accepts(&issued).await);
    server.command(&["client", "kill", "type", "pubsub"]);
    revoke(first, &issued).await;
    let found = until(Duration::from_secs(3), async || !second.gate.accepts(&issued).await).await;
    println!("after the connection was cut: found within {found:?}");

    // Frozen: no connection is closed, and nothing comes.
    all_listen(&nodes).await;
    let issued = issue(first).await;
    assert!(second.gate.accepts(&issued).await);
    server.freeze(true);
    let begun = Instant::now();
    revoke(first, &issued).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "who revokes does not wait for long: {took:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.freeze(false);
    let found = until(Duration::from_secs(4), async || !second.gate.accepts(&issued).await).await;
    println!("after the server was frozen: found within {found:?}");

    // Paused: it takes commands and answers none.
    all_listen(&nodes).await;
    let issued = issue(first).await;
    assert!(second.gate.accepts(&issued).await);
    server.command(&["client", "pause", "3000", "all"]);
    revoke(first, &issued).await;
    let found = until(Duration::from_secs(7), async || !second.gate.accepts(&issued).await).await;
    println!("after it was paused for 3 s: found within {found:?}");
}

/// The sender is well, so nobody says it twice: only the one who was cut off can know that something was missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_cut_off_looks_for_what_was_missed() {
    let Some(server) = Server::start().await else { return };
    let way = Way::to(&server).await;
    let prefix = format!("keyward-test:{}:", uuid::Uuid::now_v7());
    let [near, far] = [server.url(), format!("redis://{}", way.address)]
        .map(|url| Redis::open(&url).unwrap().with_prefix(&prefix).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let nodes =
        [Node::new(deaf_file(&path).await, &near, NEVER), Node::new(deaf_file(&path).await, &far, NEVER)];
    for mode in [Mode::Cut, Mode::Swallow] {
        all_listen(&nodes).await;
        let [sender, cut_off] = &nodes;
        let issued = issue(sender).await;
        assert!(cut_off.gate.accepts(&issued).await);
        way.set(mode);
        revoke(sender, &issued).await;
        // Longer than it takes to notice.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(cut_off.gate.accepts(&issued).await, "nothing came through");
        way.set(Mode::Open);
        let found = until(Duration::from_secs(3), async || !cut_off.gate.accepts(&issued).await).await;
        println!("{mode:?}: found within {found:?}");
    }
}

/// Wakes without saying what changed.
#[derive(Debug)]
struct Bare(Arc<tokio::sync::Notify>);

#[keyward::store::async_trait]
impl Wakeup for Bare {
    async fn publish(&self, _: &Notice) {
        self.0.notify_waiters();
    }

    async fn woken(&self) -> Notice {
        self.0.notified().await;
        Notice::of(Vec::new())
    }
}

#[tokio::test]
async fn whoever_is_woken_asks_the_stores_own_feed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let bell = Arc::new(tokio::sync::Notify::new());
    let node = async || {
        let tokens = TokenManager::builder(deaf_file(&path).await).with_staleness(NEVER).unwrap();
        tokens.with_wakeup(Bare(bell.clone())).build()
    };
    let (first, second) = (node().await, node().await);
    let work = tokio::spawn(second.clone().run(std::future::pending()));
    let gate = Gatekeeper::new(&second);
    let alice = user("alice");
    until(Duration::from_secs(10), async || {
        let issued = first.create(&alice, NewToken::named("laptop")).await.unwrap();
        assert!(gate.accepts(&issued).await);
        first.revoke(&alice, issued.record.id).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        !gate.accepts(&issued).await
    })
    .await;
    work.abort();
}

fn per_minute(requests: u32) -> Limits {
    let rate = RateLimit::new(requests, Duration::from_secs(60)).unwrap();
    Limits::default().with_rate(Some(rate))
}

/// Managers that share limits, and nothing else but their store.
fn counting(store: &Arc<MemoryStore>, redis: &Redis, nodes: usize) -> Vec<TokenManager> {
    let node = || TokenManager::builder(store.clone()).with_shared_limits(redis.limits()).build();
    (0..nodes).map(|_| node()).collect()
}

async fn limited(tokens: &TokenManager, limits: Limits) -> IssuedToken {
    tokens.create(&user("alice"), NewToken::named("limited").with_limits(limits)).await.unwrap()
}

fn app(tokens: &TokenManager) -> Router {
    Router::new().route("/", get(async || {})).layer(AuthLayer::new(ApiKeyAuth::new(tokens)))
}

/// How many of so many requests to each, all at once, are let in.
async fn admitted(nodes: &[TokenManager], key: &IssuedToken, requests: usize) -> usize {
    let mut asking = tokio::task::JoinSet::new();
    for tokens in nodes {
        let app = app(tokens);
        for _ in 0..requests {
            let (app, request) = (app.clone(), request("GET", "/", key.key.expose(), ""));
            asking.spawn(async move { send(&app, request).await.status.as_u16() });
        }
    }
    let statuses = asking.join_all().await;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    statuses.into_iter().filter(|status| *status == 200).count()
}

/// How many more a limit of 100 a minute may have let in since then.
fn refilled(since: Instant) -> usize {
    (since.elapsed().as_millis() / 600) as usize + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_three_processes_is_one_limit() {
    let Some((redis, _server)) = shared().await else { return };
    let store = Arc::new(MemoryStore::new());
    let nodes = counting(&store, &redis, 3);
    let key = limited(&nodes[0], per_minute(100)).await;
    let begun = Instant::now();
    let let_in = admitted(&nodes, &key, 100).await;
    println!("of 300 at once, 100 to each of three: {let_in} in {:?}", begun.elapsed());
    assert!((100..=100 + refilled(begun)).contains(&let_in), "{let_in}");

    // A quota, exactly, and the store knows of it in the end.
    let quota = Quota::new(50, QuotaPeriod::Month).unwrap();
    let key = limited(&nodes[0], Limits::default().with_quota(Some(quota))).await;
    assert_eq!(admitted(&nodes, &key, 30).await, 50);
    for tokens in &nodes {
        tokens.flush().await.unwrap();
    }
    let record = nodes[0].get(&user("alice"), key.record.id).await.unwrap();
    assert_eq!(record.quota_use.unwrap().count, 50);

    // That of a user, with keys of their own.
    let rate = RateLimit::new(20, Duration::from_secs(3600)).unwrap();
    let node = || {
        let tokens = TokenManager::builder(store.clone()).with_shared_limits(redis.limits());
        tokens.with_owner_rate_limit(Some(rate)).build()
    };
    let nodes = [node(), node()];
    let bob = user("bob");
    let keys = [0, 1].map(|_| NewToken::named("one of two"));
    let mut let_in = 0;
    for (tokens, new) in nodes.iter().zip(keys) {
        let key = tokens.create(&bob, new).await.unwrap();
        let_in += admitted(std::slice::from_ref(tokens), &key, 15).await;
    }
    assert_eq!(let_in, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_forgets_is_told_to_it_again() {
    let Some(mut server) = Server::start().await else { return };
    let redis = server.open();
    let store = Arc::new(MemoryStore::new());
    let nodes = counting(&store, &redis, 3);
    let quota = Quota::new(100, QuotaPeriod::Month).unwrap();
    let key = limited(&nodes[0], per_minute(100).with_quota(Some(quota))).await;
    let begun = Instant::now();
    let before = admitted(&nodes, &key, 20).await + all_ask(&nodes, &key).await;
    assert_eq!(before, 63);
    server.command(&["flushall"]);
    server.command(&["script", "flush"]);
    let after = admitted(&nodes, &key, 100).await;
    println!("FLUSHALL after 63 of 100: {after} more");
    // The first of the three knew of 61.
    assert!((100..=102 + refilled(begun)).contains(&(before + after)), "{after}");
    // The quota is known to a process that was never asked, from the store.
    for tokens in &nodes {
        tokens.flush().await.unwrap();
    }
    server.command(&["flushall"]);
    let fresh = TokenManager::builder(store).with_shared_limits(redis.limits()).build();
    assert_eq!(admitted(&[fresh], &key, 100).await, 0);

    let begun = Instant::now();
    let key = limited(&nodes[0], per_minute(100)).await;
    let before = admitted(&nodes, &key, 20).await + all_ask(&nodes, &key).await;
    server.kill();
    server.restart().await;
    let after = admitted(&nodes, &key, 100).await;
    println!("restarted after {before} of 100: {after} more, within {:?}", begun.elapsed());
    assert!((100..=102 + refilled(begun)).contains(&(before + after)), "{after}");
}

/// Has each process learn where the limit stands.
async fn all_ask(nodes: &[TokenManager], key: &IssuedToken) -> usize {
    let mut let_in = 0;
    for tokens in nodes {
        let_in += admitted(std::slice::from_ref(tokens), key, 1).await;
    }
    let_in
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_each_process_counts_and_nobody_waits() {
    let Some(mut server) = Server::start().await else { return };
    let redis = server.open().with_timeout(Duration::from_millis(100)).unwrap();
    let nodes = counting(&Arc::default(), &redis, 3);
    let key = limited(&nodes[0], per_minute(100)).await;
    let begun = Instant::now();
    assert_eq!(admitted(&nodes, &key, 20).await, 60);
    server.freeze(true);
    let slept = Instant::now();
    let meanwhile = admitted(&nodes, &key, 100).await;
    let waited = slept.elapsed();
    println!(
        "frozen after 60 of 100: {meanwhile} more by three on their own, all answered within {waited:?}"
    );
    assert!((40..=120 + 3 * refilled(begun) + 60).contains(&meanwhile), "{meanwhile}");
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    server.freeze(false);
    until(Duration::from_secs(3), async || redis.ready().await.is_ok()).await;
    let after = admitted(&nodes, &key, 20).await;
    println!("back again: {after} more");
    assert!(after <= refilled(begun), "the fullest count goes on: {after}");

    server.kill();
    let fresh = limited(&nodes[0], per_minute(100)).await;
    let begun = Instant::now();
    let alone = admitted(&nodes, &fresh, 150).await;
    println!("without a server from the beginning: {alone} by three, within {:?}", begun.elapsed());
    assert!((300..=300 + 3 * refilled(begun)).contains(&alone), "{alone}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    server.restart().await;
    until(Duration::from_secs(3), async || redis.ready().await.is_ok()).await;
    assert!(admitted(&nodes, &fresh, 10).await <= refilled(begun));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_without_limits_and_beyond_them_ask_nobody() {
    let Some(server) = Server::start().await else { return };
    let redis = server.open();
    let [tokens] = &counting(&Arc::default(), &redis, 1)[..] else { unreachable!() };
    let scripts = || server.calls("evalsha") + server.calls("eval");
    let free = limited(tokens, Limits::default()).await;
    assert_eq!(admitted(std::slice::from_ref(tokens), &free, 50).await, 50);
    assert_eq!(scripts(), 0);
    let hourly = RateLimit::new(5, Duration::from_secs(3600)).unwrap();
    let key = limited(tokens, Limits::default().with_rate(Some(hourly))).await;
    let gate = Gatekeeper::new(tokens);
    for _ in 0..5 {
        assert_eq!(gate.status(&key).await, 200);
    }
    let asked = scripts();
    for _ in 0..50 {
        assert_eq!(gate.status(&key).await, 429);
    }
    assert_eq!(scripts(), asked, "what is refused anyway is not asked");
    assert!(
        server.command(&["keys", "*"]).lines().all(|key| !key.contains("kw_live")),
        "no key is kept there"
    );
}

#[tokio::test]
async fn responses_tell_where_the_shared_limit_stands() {
    let Some((redis, _server)) = shared().await else { return };
    let nodes = counting(&Arc::default(), &redis, 2);
    let hourly = RateLimit::new(7, Duration::from_secs(3600)).unwrap();
    let quota = Quota::new(9, QuotaPeriod::Day).unwrap();
    let key = limited(&nodes[0], Limits::default().with_rate(Some(hourly)).with_quota(Some(quota))).await;
    for (asked, left) in [(0, 6), (1, 5), (1, 4), (0, 3), (1, 2), (1, 1), (0, 0)] {
        let answer = send(&app(&nodes[asked]), request("GET", "/", key.key.expose(), "")).await;
        let told = answer.header("ratelimit").to_owned();
        assert_eq!(answer.status, 200);
        assert!(told.starts_with(&format!(r#""rate";r={left};"#)), "{told}");
        assert!(told.contains(&format!(r#""quota";r={};"#, left + 2)), "{told}");
    }
    assert_eq!(admitted(&nodes, &key, 5).await, 0);
}

/// A node whose wrong credentials count with those of others.
fn guarded(failures: FailureLimit, events: &RecordingSink) -> Router {
    let tokens = TokenManager::builder(MemoryStore::new()).with_audit(events.clone()).build();
    let auth: AuthLayer = AuthLayer::new(ApiKeyAuth::new(&tokens)).with_failure_limit(Some(failures));
    Router::new().route("/", get(async || {})).layer(auth)
}

async fn guesses(nodes: &[Router], each: usize) -> (usize, usize) {
    let mut asking = tokio::task::JoinSet::new();
    for app in nodes {
        for guess in 0..each {
            let app = app.clone();
            // A wrong checksum, an unknown prefix, and keys that might be good.
            let key = match guess % 3 {
                0 => "kw_live_1AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
                1 => format!("other_{guess}"),
                _ => keyward::token::KeyFormat::default().generate().unwrap().expose().to_owned(),
            };
            let request = request("GET", "/", &key, "");
            asking.spawn(async move { send(&app, request).await.status.as_u16() });
        }
    }
    let statuses = asking.join_all().await;
    let count = |status| statuses.iter().filter(|other| **other == status).count();
    let (wrong, too_many) = (count(401), count(429));
    assert_eq!(wrong + too_many + count(503), statuses.len(), "{statuses:?}");
    (wrong, too_many)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_count_for_all_processes() {
    let Some(mut server) = Server::start().await else { return };
    let redis = server.open();
    let (limit, events) = (NonZeroU32::new(30).unwrap(), RecordingSink::default());
    let limits: Vec<_> =
        (0..3).map(|_| FailureLimit::per_minute(limit).with_shared_limits(redis.limits())).collect();
    let nodes: Vec<_> = limits.iter().map(|failures| guarded(failures.clone(), &events)).collect();
    let (wrong, too_many) = guesses(&nodes, 25).await;
    println!("75 guesses at three processes, 30 allowed: {wrong} are told so, {too_many} are too many");
    assert_eq!(wrong, 30);
    let alerts = || events.alerts().iter().filter(|alert| **alert == Alert::BruteForce).count();
    assert_eq!(alerts(), 1, "once for all of them");
    let now = keyward::time::Clock::now(&keyward::time::SystemClock);
    assert_eq!(limits[0].count_shared(None, now).await.unwrap_err().status(), 429);

    // Without the server each counts on its own.
    server.kill();
    let nodes: Vec<_> = (0..2)
        .map(|_| guarded(FailureLimit::per_minute(limit).with_shared_limits(redis.limits()), &events))
        .collect();
    let begun = Instant::now();
    let (wrong, _) = guesses(&nodes, 60).await;
    println!("without a server: {wrong} of 120 at two processes, within {:?}", begun.elapsed());
    assert_eq!(wrong, 60);
}

#[tokio::test]
async fn ready_says_whether_the_server_does_its_work() {
    let Some(mut server) = Server::start_with(&["--requirepass", "pa55word"]).await else { return };
    let socket = server.url();
    for (url, is_ready) in
        [(format!("{socket}?pass=pa55word"), true), (format!("{socket}?pass=wr0ng"), false), (socket, false)]
    {
        let redis = Redis::open(&url).unwrap();
        let ready = redis.ready().await;
        assert_eq!(ready.is_ok(), is_ready);
        let shown = format!("{redis:?} {:?} {:?} {ready:?}", redis.wakeup(), redis.limits());
        assert!(!shown.contains("pa55word") && !shown.contains("wr0ng"), "{shown}");
    }
    let redis = Redis::open(&format!("{}?pass=pa55word", server.url())).unwrap();
    server.freeze(true);
    let begun = Instant::now();
    let error = redis.ready().await.unwrap_err().to_string();
    assert!(begun.elapsed() < Duration::from_secs(3), "{error}");
    server.freeze(false);
    server.kill();
    assert!(redis.ready().await.is_err());
    server.restart().await;
    until(Duration::from_secs(2), async || redis.ready().await.is_ok()).await;
}
