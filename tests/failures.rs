//! Guessing: who presents too many wrong credentials is told to wait, and nobody else is.
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
    net::IpAddr,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keyward::{
    AdminProof, AuthLayer, RequireLayer, TokenManager,
    auth::{AnyOf, ApiKeyAuth, StaticAuth},
    error::Refusal,
    event::{Alert, EventKind},
    jwt::{JwtAuth, JwtIssuer},
    layer::{Auth, GrpcStatus},
    limit::{FailureLimit, Limits, RateLimit},
    manage::NewToken,
    net::{IpList, PeerAddr, TrustedProxies},
    store::StaticList,
    testing::{ManualClock, RecordingSink},
    time::Clock,
    token::KeyFormat,
};
use support::{Answer, UnrulyStore, start, user};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn, util::ServiceFn};

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "https://api.example";
const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only";
const STATIC: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";

/// Right but for its checksum.
const BAD_CHECKSUM: &str = "kw_live_10123456789ABCDEFGHIJKLMNOPQRSTU1G9zjb";

const ATTACKER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 66)));
const NEIGHBOUR: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 67)));

type Answering = fn(Request<()>) -> Ready<Result<Response<Full<Bytes>>, Infallible>>;

fn answer(_: Request<()>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    ready(Ok(Response::default()))
}

fn limit(failures: u32) -> FailureLimit {
    FailureLimit::per_minute(NonZeroU32::new(failures).unwrap())
}

/// A key that was never issued.
fn unknown_key() -> String {
    KeyFormat::default().generate().unwrap().expose().to_owned()
}

/// All kinds of credentials behind one layer, by a clock that stands still.
#[derive(Clone)]
struct World {
    store: Arc<UnrulyStore>,
    events: RecordingSink,
    clock: ManualClock,
    tokens: TokenManager,
    issuer: JwtIssuer,
    layer: AuthLayer,
    service: Auth<ServiceFn<Answering>>,
}

impl World {
    fn new(failures: Option<FailureLimit>) -> Self {
        let (store, events) = (Arc::new(UnrulyStore::default()), RecordingSink::default());
        let clock = ManualClock::at(start());
        let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).with_max_active(None);
        let tokens = tokens.with_audit(events.clone()).build();
        let jwt = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone());
        let list = StaticList::parse(&format!("ops:{STATIC}")).unwrap();
        let auth = AnyOf::new([
            ApiKeyAuth::new(&tokens).into(),
            jwt.build().unwrap().into(),
            StaticAuth::new(&list).with_clock(clock.clone()).into(),
        ]);
        let issuer = JwtIssuer::hs256(SECRET, ISSUER, AUDIENCE).unwrap().with_clock(clock.clone());
        let layer = AuthLayer::new(auth).with_failure_limit(failures);
        let answering: Answering = answer;
        let service = layer.layer(service_fn(answering));
        Self { store, events, clock, tokens, issuer, layer, service }
    }

    async fn key(&self) -> String {
        self.issue(NewToken::named("laptop")).await
    }

    async fn issue(&self, new: NewToken) -> String {
        self.tokens.create(&user("alice"), new).await.unwrap().key.expose().to_owned()
    }

    fn jwt(&self) -> String {
        self.issuer.token(&user("alice")).unwrap()
    }

    async fn send(&self, from: Option<IpAddr>, name: &str, value: &str) -> Answer {
        let mut request = Request::get("/").header(name, value).body(()).unwrap();
        if let Some(ip) = from {
            request.extensions_mut().insert(PeerAddr((ip, 50_000).into()));
        }
        Answer::of(self.service.clone().oneshot(request).await.unwrap()).await
    }

    async fn status(&self, from: Option<IpAddr>, credential: &str) -> u16 {
        self.send(from, "authorization", &format!("Bearer {credential}")).await.status.as_u16()
    }

    /// How often the same is answered in turn.
    async fn statuses(&self, from: Option<IpAddr>, credential: &str, times: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..times {
            statuses.push(self.status(from, credential).await);
        }
        statuses
    }

    /// Sends as many at once as there are credentials.
    async fn at_once(&self, from: Option<IpAddr>, credentials: Vec<String>) -> Vec<u16> {
        let mut tasks = JoinSet::new();
        for credential in credentials {
            let world = self.clone();
            tasks.spawn(async move { world.status(from, &credential).await });
        }
        tasks.join_all().await
    }
}

fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|other| **other == status).count()
}

#[tokio::test]
async fn a_hundred_failures_a_minute_are_answered_401_and_more_429() {
    let world = World::new(Some(FailureLimit::default()));
    assert_eq!(world.statuses(ATTACKER, BAD_CHECKSUM, 100).await, [401; 100]);
    let answer = world.send(ATTACKER, "x-api-key", BAD_CHECKSUM).await;
    assert_eq!(answer.status, 429);
    assert_eq!((answer.header("retry-after"), answer.header("www-authenticate")), ("60", ""));
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.json()["status"], 429);
    assert_eq!(world.status(NEIGHBOUR, BAD_CHECKSUM).await, 401, "another address");
    world.clock.advance(Duration::from_millis(59_999));
    assert_eq!(world.send(ATTACKER, "x-api-key", BAD_CHECKSUM).await.header("retry-after"), "1");
    world.clock.advance(Duration::from_millis(1));
    let statuses = world.statuses(ATTACKER, BAD_CHECKSUM, 101).await;
    assert_eq!((count(&statuses, 401), count(&statuses, 429)), (100, 1), "a minute later");
    assert_eq!(world.store.finds(), 0, "a wrong checksum costs no look-up");
}

#[tokio::test]
async fn the_default_layer_has_the_limit_and_it_can_be_switched_off() {
    let world = World::new(None);
    assert_eq!(world.statuses(ATTACKER, BAD_CHECKSUM, 300).await, [401; 300]);
    assert_eq!(count(&world.at_once(ATTACKER, vec![unknown_key(); 300]).await, 401), 300);

    let default = AuthLayer::new(ApiKeyAuth::new(&world.tokens));
    let answering: Answering = answer;
    let service = default.layer(service_fn(answering));
    let mut statuses = Vec::new();
    for _ in 0..101 {
        let request = Request::get("/").header("x-api-key", BAD_CHECKSUM).body(()).unwrap();
        statuses.push(service.clone().oneshot(request).await.unwrap().status().as_u16());
    }
    assert_eq!((count(&statuses, 401), count(&statuses, 429)), (100, 1));
}

#[tokio::test]
async fn what_is_answered_401_to_a_credential_is_a_failure_and_nothing_else() {
    let world = World::new(Some(limit(1)));
    let operator = AdminProof::operator("ops", "test").unwrap();
    let issued = |new| world.tokens.create(&operator, new);
    let of_alice = || NewToken::named("x").for_user(user("alice"));
    let revoked = issued(of_alice()).await.unwrap();
    world.tokens.revoke(&operator, revoked.record.id).await.unwrap();
    let bound = issued(of_alice().with_allowed_ips(IpList::new(["10.0.0.1"]).unwrap())).await.unwrap();
    let rate = RateLimit::new(1, Duration::from_secs(1)).unwrap();
    let slow = issued(of_alice().with_limits(Limits::default().with_rate(Some(rate)))).await.unwrap();
    assert_eq!(world.status(NEIGHBOUR, slow.key.expose()).await, 200);
    let down = unknown_key();
    world.store.fail_for(&down);
    let expired = world.jwt();
    world.clock.advance(Duration::from_secs(7200));
    assert_eq!(world.status(NEIGHBOUR, slow.key.expose()).await, 200);
    let key = |key: &str| ("x-api-key", key.to_owned());
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let cases = [
        ("wrong checksum", key(BAD_CHECKSUM), 401, true),
        ("wrong prefix", key("sk_test_10123456789ABCDEFGHIJKLMNOPQRSTU1G9zja"), 401, true),
        ("never issued", key(&unknown_key()), 401, true),
        ("revoked", key(revoked.key.expose()), 401, true),
        ("a word", bearer("word"), 401, true),
        ("a bad signature", bearer(&format!("{}AAAA", world.jwt())), 401, true),
        ("an expired token", bearer(&expired), 401, true),
        ("no credential", ("accept", "*/*".into()), 401, false),
        ("another scheme", ("authorization", "Basic YTpi".into()), 401, false),
        ("an empty key", key(""), 401, false),
        ("nothing after the scheme", bearer(""), 401, false),
        ("two words", ("authorization", "Bearer a b".into()), 400, false),
        ("from elsewhere", key(bound.key.expose()), 403, false),
        ("beyond its own limit", key(slow.key.expose()), 429, false),
        ("the store is down", key(&down), 503, false),
    ];
    for (n, (name, (header, value), status, counts)) in (1_u8..).zip(cases) {
        let from = Some(IpAddr::from([198, 51, 100, n]));
        let first = world.send(from, header, &value).await;
        assert_eq!(first.status, status, "{name}");
        let next = world.status(from, BAD_CHECKSUM).await;
        assert_eq!(next, if counts { 429 } else { 401 }, "{name}");
    }
}

#[tokio::test]
async fn good_credentials_from_an_address_over_its_limit_go_on_working() {
    let world = World::new(Some(limit(20)));
    let (key, jwt) = (world.key().await, world.jwt());
    for credential in [&key, &jwt, STATIC] {
        assert_eq!(world.status(NEIGHBOUR, credential).await, 200);
    }
    let statuses = world.statuses(ATTACKER, BAD_CHECKSUM, 30).await;
    assert_eq!((count(&statuses, 401), count(&statuses, 429)), (20, 10));
    let finds = world.store.finds();
    for _ in 0..100 {
        for credential in [&key, &jwt, STATIC] {
            assert_eq!(world.status(ATTACKER, credential).await, 200);
        }
    }
    assert_eq!(world.store.finds(), finds, "they were known");
}

#[tokio::test]
async fn to_look_up_again_what_was_good_is_no_guess() {
    let world = World::new(Some(limit(20)));
    let mut keys = Vec::new();
    for _ in 0..50 {
        keys.push(world.key().await);
    }
    assert_eq!(count(&world.at_once(NEIGHBOUR, keys.clone()).await, 200), 50);
    assert_eq!(world.status(NEIGHBOUR, STATIC).await, 200);
    assert_eq!(count(&world.statuses(ATTACKER, BAD_CHECKSUM, 21).await, 429), 1);
    let finds = world.store.finds();
    world.clock.advance(Duration::from_secs(6));
    assert_eq!(count(&world.at_once(ATTACKER, vec![STATIC.to_owned(); 50]).await, 200), 50);
    assert_eq!(count(&world.at_once(ATTACKER, keys).await, 200), 50);
    assert_eq!(world.store.finds(), finds + 50, "their verdicts had grown old");
}

#[tokio::test]
async fn an_address_over_its_limit_has_ten_look_ups_a_second() {
    let world = World::new(Some(limit(5)));
    assert_eq!(count(&world.statuses(ATTACKER, BAD_CHECKSUM, 6).await, 429), 1);
    let mut keys = Vec::new();
    for _ in 0..13 {
        keys.push(world.key().await);
    }
    for key in &keys[..4] {
        assert_eq!(world.status(ATTACKER, key).await, 200, "a good key within the budget");
    }
    for _ in 0..6 {
        assert_eq!(world.status(ATTACKER, &unknown_key()).await, 429, "a wrong one is told nothing");
    }
    assert_eq!(world.store.finds(), 10);
    let refused = world.send(ATTACKER, "x-api-key", &keys[4]).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, "1"));
    assert_eq!(world.status(ATTACKER, &unknown_key()).await, 429);
    assert_eq!(world.store.finds(), 10, "beyond it nobody asks");
    world.clock.advance(Duration::from_millis(100));
    assert_eq!(world.status(ATTACKER, &keys[4]).await, 200, "one more after a tenth of a second");
    assert_eq!(world.status(ATTACKER, &keys[5]).await, 429);
    world.clock.advance(Duration::from_secs(1));
    for key in &keys[5..13] {
        assert_eq!(world.status(ATTACKER, key).await, 200);
    }
    assert_eq!(world.status(NEIGHBOUR, &unknown_key()).await, 401);
}

#[tokio::test]
async fn an_address_over_its_limit_has_ten_signatures_a_second() {
    let world = World::new(Some(limit(5)));
    assert_eq!(count(&world.statuses(ATTACKER, BAD_CHECKSUM, 6).await, 429), 1);
    let forged = format!("{}AAAA", world.jwt());
    let statuses = world.statuses(ATTACKER, &forged, 9).await;
    assert_eq!(count(&statuses, 429), 9, "a wrong one is told nothing");
    let (tenth, eleventh) = (world.jwt(), world.jwt());
    assert_eq!(world.status(ATTACKER, &tenth).await, 200, "the tenth of the second");
    assert_eq!(world.status(ATTACKER, &eleventh).await, 429, "first seen, and over the budget");
    assert_eq!(world.status(ATTACKER, &tenth).await, 200, "seen before");
    assert_eq!(world.status(NEIGHBOUR, &eleventh).await, 200);
    assert_eq!(world.status(ATTACKER, &eleventh).await, 200, "seen from elsewhere");
}

#[tokio::test]
async fn addresses_are_told_apart_as_networks_are_handed_out() {
    let cases: &[(&str, &[&str], bool)] = &[
        ("one IPv4 address", &["192.0.2.1", "192.0.2.1"], true),
        ("the next one", &["192.0.2.1", "192.0.2.2"], false),
        ("mapped into IPv6", &["192.0.2.1", "::ffff:192.0.2.1"], true),
        ("another mapped one", &["192.0.2.1", "::ffff:192.0.2.2"], false),
        ("a /64", &["2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"], true),
        ("the next /64", &["2001:db8:0:1::1", "2001:db8:0:2::1"], false),
        ("nobody knows", &["", ""], true),
        ("nobody knows, and an address", &["", "192.0.2.1"], false),
        ("nobody knows, and loopback", &["", "::1"], false),
    ];
    for (name, addresses, same) in cases {
        let world = World::new(Some(limit(1)));
        let from = |n: usize| addresses[n].parse().ok();
        assert_eq!(world.status(from(0), BAD_CHECKSUM).await, 401, "{name}");
        assert_eq!(world.status(from(1), BAD_CHECKSUM).await, if *same { 429 } else { 401 }, "{name}");
    }
}

#[tokio::test]
async fn nobody_gets_another_address_by_claiming_one() {
    let world = World::new(Some(limit(5)));
    let proxies = TrustedProxies::new(["10.0.0.1"]).unwrap();
    let answering: Answering = answer;
    for (layer, peer, free) in [
        (world.layer.clone(), [192, 0, 2, 1], false),
        (world.layer.clone().with_client_ip(proxies.clone()), [192, 0, 2, 2], false),
        (world.layer.clone().with_client_ip(proxies), [10, 0, 0, 1], true),
    ] {
        let service = layer.layer(service_fn(answering));
        let mut statuses = Vec::new();
        for n in 0..20 {
            let claimed = format!("198.51.100.{n}");
            let mut request = Request::get("/").header("x-api-key", BAD_CHECKSUM);
            for header in ["x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip"] {
                let value = if header == "forwarded" { format!("for={claimed}") } else { claimed.clone() };
                request = request.header(header, value);
            }
            let mut request = request.body(()).unwrap();
            request.extensions_mut().insert(PeerAddr((peer, 1).into()));
            statuses.push(service.clone().oneshot(request).await.unwrap().status().as_u16());
        }
        assert_eq!(count(&statuses, 401), if free { 20 } else { 5 }, "{peer:?}");
    }
}

#[tokio::test]
async fn there_is_one_alert_for_each_address_and_episode() {
    let world = World::new(Some(limit(3)));
    let alerts = || world.events.alerts().iter().filter(|alert| **alert == Alert::BruteForce).count();
    world.statuses(ATTACKER, BAD_CHECKSUM, 3).await;
    assert_eq!(alerts(), 0, "within the limit");
    world.statuses(ATTACKER, BAD_CHECKSUM, 50).await;
    assert_eq!(alerts(), 1);
    let alert = world.events.events().into_iter().find(|event| event.kind.is_alert()).unwrap();
    assert_eq!(alert.client_ip, ATTACKER);
    world.statuses(NEIGHBOUR, &unknown_key(), 50).await;
    assert_eq!(alerts(), 2, "another address, whose keys have no checksum that is wrong");
    for _ in 0..5 {
        world.clock.advance(Duration::from_secs(61));
        world.statuses(ATTACKER, BAD_CHECKSUM, 10).await;
    }
    assert_eq!(alerts(), 2, "it goes on");
    world.clock.advance(Duration::from_secs(61));
    world.statuses(ATTACKER, BAD_CHECKSUM, 3).await;
    world.clock.advance(Duration::from_secs(61));
    world.statuses(ATTACKER, BAD_CHECKSUM, 10).await;
    assert_eq!(alerts(), 3, "after a minute within the limit it is a new one");
    let kinds = world.events.kinds();
    let refused = kinds.iter().filter(|kind| **kind == EventKind::AccessRefused(Refusal::TooManyFailures));
    assert_eq!(refused.count(), 50 + 47 + 5 * 7 + 7, "each refusal is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_guesses_get_no_further_than_one_after_the_other() {
    for round in 0..20 {
        let world = World::new(Some(limit(20)));
        let keys: Vec<_> = (0..1000).map(|_| unknown_key()).collect();
        let statuses = world.at_once(ATTACKER, keys).await;
        assert_eq!((count(&statuses, 401), count(&statuses, 429)), (20, 980), "round {round}");
        assert!(world.store.finds() <= 20 + 10, "round {round}: {} look-ups", world.store.finds());
    }
}

#[tokio::test]
async fn guesses_that_are_under_way_count_as_failures_that_may_come() {
    let world = World::new(Some(limit(20)));
    let gate = world.store.close_gate();
    let asking = {
        let world = world.clone();
        let keys: Vec<_> = (0..1000).map(|_| unknown_key()).collect();
        tokio::spawn(async move { world.at_once(ATTACKER, keys).await })
    };
    for _ in 0..20 {
        gate.arrival().await;
    }
    assert_eq!(world.status(NEIGHBOUR, STATIC).await, 200);
    assert_eq!(world.store.finds(), 20, "the others wait");
    assert_eq!(world.status(ATTACKER, BAD_CHECKSUM).await, 401, "none of them has failed yet");
    gate.open();
    let statuses = asking.await.unwrap();
    assert_eq!((count(&statuses, 401), count(&statuses, 429)), (19, 981), "one failed meanwhile");
    assert!(world.store.finds() <= 20 + 10, "{} look-ups", world.store.finds());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_good_keys_at_once_are_all_let_in() {
    let world = World::new(Some(limit(20)));
    let mut keys = Vec::new();
    for _ in 0..1000 {
        keys.push(world.key().await);
    }
    let statuses = world.at_once(ATTACKER, keys).await;
    assert_eq!(count(&statuses, 200), 1000, "{} are not", 1000 - count(&statuses, 200));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_others_of_the_same_address() {
    let world = World::new(Some(limit(20)));
    world.store.set_hanging(true);
    let begun = tokio::time::Instant::now();
    let statuses = world.at_once(ATTACKER, (0..200).map(|_| unknown_key()).collect()).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(count(&statuses, 503), 200, "that is the store's fault");
    world.store.set_hanging(false);
    assert_eq!(world.status(ATTACKER, BAD_CHECKSUM).await, 401, "and no failure of theirs");
}

#[tokio::test]
async fn a_guess_whose_answer_is_not_awaited_counts() {
    let world = World::new(Some(limit(20)));
    let gate = world.store.close_gate();
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let (world, key) = (world.clone(), unknown_key());
        tasks.spawn(async move { world.status(ATTACKER, &key).await });
        gate.arrival().await;
    }
    tasks.shutdown().await;
    gate.open();
    assert_eq!(world.status(ATTACKER, BAD_CHECKSUM).await, 429);
}

#[tokio::test]
async fn layers_and_routes_can_share_one_limit() {
    let failures = limit(3);
    let (one, other) = (World::new(Some(failures.clone())), World::new(Some(failures.clone())));
    assert_eq!(one.status(ATTACKER, BAD_CHECKSUM).await, 401);
    assert_eq!(other.status(ATTACKER, BAD_CHECKSUM).await, 401);
    assert!(failures.count(ATTACKER, one.clock.now()).is_ok(), "a wrong password");
    let error = failures.count(ATTACKER, one.clock.now()).unwrap_err();
    assert_eq!((error.status().as_u16(), error.retry_after()), (429, Some(Duration::from_secs(60))));
    assert_eq!(one.status(ATTACKER, BAD_CHECKSUM).await, 429);
    assert_eq!(one.events.alerts(), [Alert::BruteForce], "the layer raises it");
    assert_eq!(other.status(ATTACKER, BAD_CHECKSUM).await, 429);
}

#[tokio::test]
async fn grpc_clients_see_resource_exhausted() {
    let world = World::new(Some(limit(1)));
    let answering: Answering = answer;
    let service = world.layer.clone().with_rejection(GrpcStatus).layer(service_fn(answering));
    for expected in ["16", "8"] {
        let request = Request::get("/").header("x-api-key", BAD_CHECKSUM).body(()).unwrap();
        let answer = Answer::of(service.clone().oneshot(request).await.unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, expected));
    }
}

#[tokio::test]
async fn a_lack_of_rights_is_no_failure() {
    let world = World::new(Some(limit(1)));
    let key = world.key().await;
    let answering: Answering = answer;
    let service = world.layer.layer(RequireLayer::role("admin").layer(service_fn(answering)));
    for _ in 0..5 {
        let request = Request::get("/").header("x-api-key", &key).body(()).unwrap();
        assert_eq!(service.clone().oneshot(request).await.unwrap().status(), 403);
    }
    assert_eq!(world.status(None, BAD_CHECKSUM).await, 401);
}

/// The filter as fail2ban reads it: the address in the place of `<HOST>`, what is left of a line after its date.
struct Filter(regex_automata::nfa::thompson::pikevm::PikeVM);

impl Filter {
    fn read() -> Self {
        let file = include_str!("../examples/fail2ban/keyward.conf");
        let regex = file.lines().find_map(|line| line.strip_prefix("failregex = ")).unwrap();
        assert_eq!(regex.matches("<HOST>").count(), 1);
        Self(regex_automata::nfa::thompson::pikevm::PikeVM::new(&regex.replace("<HOST>", r"(\S+)")).unwrap())
    }

    /// The address that would be banned for `line`.
    fn host<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (_date, rest) = line.split_once('Z').unwrap();
        let (mut cache, mut captures) = (self.0.create_cache(), self.0.create_captures());
        self.0.captures(&mut cache, rest, &mut captures);
        captures.get_group(1).map(|span| &rest[span.range()])
    }
}

#[tokio::test]
async fn the_filter_for_fail2ban_finds_who_guesses() {
    let log = support::Log::default();
    let _caught = log.catch();
    let tokens = TokenManager::new(support::UnrulyStore::default());
    let answering: Answering = answer;
    let layer = AuthLayer::new(ApiKeyAuth::new(&tokens)).with_failure_limit(Some(limit(3)));
    let service = layer.layer(service_fn(answering));
    let operator = AdminProof::operator("ops", "test").unwrap();
    let hostile = user("x\" client.address=203.0.113.1 y");
    let revoked = tokens.create(&operator, NewToken::named("x").for_user(hostile.clone())).await.unwrap();
    tokens.revoke(&operator, revoked.record.id).await.unwrap();
    let bound = NewToken::named("x").with_allowed_ips(IpList::new(["10.0.0.1"]).unwrap());
    let bound = tokens.create(&hostile, bound).await.unwrap();
    let filter = Filter::read();
    for (name, peer, header, value, id, expected) in [
        ("wrong checksum", "192.0.2.1", "x-api-key", BAD_CHECKSUM, "", true),
        ("over IPv6", "2001:db8::1", "x-api-key", BAD_CHECKSUM, "", true),
        ("an id that is kept", "192.0.2.2", "x-api-key", "junk", "abc-1", true),
        ("an id that is not", "192.0.2.3", "x-api-key", "junk", "a\" client.address=203.0.113.1", true),
        ("a name that would be an address", "192.0.2.4", "x-api-key", revoked.key.expose(), "", true),
        ("a good key from elsewhere", "192.0.2.5", "x-api-key", bound.key.expose(), "", false),
        ("no credential", "192.0.2.6", "accept", "*/*", "", false),
        ("two words", "192.0.2.7", "authorization", "Bearer a b", "", false),
    ] {
        let before = log.text().len();
        let request = Request::get("/").header(header, value).header("x-request-id", id);
        let mut request = request.body(()).unwrap();
        request.extensions_mut().insert(PeerAddr((peer.parse::<IpAddr>().unwrap(), 1).into()));
        service.clone().oneshot(request).await.unwrap();
        let text = log.text().split_off(before);
        let hosts: Vec<_> = text.lines().filter_map(|line| filter.host(line)).collect();
        assert_eq!(hosts, if expected { vec![peer] } else { Vec::new() }, "{name}: {text}");
    }
    let many = (0..5).map(|_| {
        let mut request = Request::get("/").header("x-api-key", BAD_CHECKSUM).body(()).unwrap();
        request.extensions_mut().insert(PeerAddr(([192, 0, 2, 8], 1).into()));
        service.clone().oneshot(request)
    });
    let before = log.lines_with("client.address=192.0.2.8").len();
    for request in many {
        request.await.unwrap();
    }
    let lines = log.lines_with("client.address=192.0.2.8").split_off(before);
    let found = lines.iter().filter(|line| filter.host(line).is_some()).count();
    assert_eq!((found, lines.len()), (5, 6), "each refusal, and not the alert: {lines:?}");
    assert!(lines.iter().any(|line| line.contains("security alert") && line.contains("brute_force")));
}
