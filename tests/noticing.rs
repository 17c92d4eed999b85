//! What is unusual about the use of a key is told once: on a real file, across restarts, by a clock that is set.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests"
)]

mod support;

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use http::{Request, header};
use keyward::{
    AdminProof, AuthLayer, Owner, TokenId, TokenManager, api,
    auth::ApiKeyAuth,
    event::{Alert, Event, EventKind, Outcome},
    manage::{IssuedToken, ListQuery, NewToken, TokenError},
    net::{IpList, PeerAddr},
    principal::ADMIN_ROLE,
    scope::{Grant, RoleSet},
    store::{MemoryStore, SqliteStore, TokenStore, Usage},
    testing::{ManualClock, RecordingSink},
    time::{Clock, UnixTime},
    token::{LifetimePolicy, Lifetimes, TokenClass, TokenStatus},
    watch::{MAX_NETWORKS, Sharing, Spike, Watch},
};
use serde_json::Value;
use support::{Answer, UnrulyStore, request, send, start, user};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const HOME: &str = "192.0.2.7";

/// A manager on a file, which can be restarted.
struct World {
    directory: tempfile::TempDir,
    clock: ManualClock,
    events: RecordingSink,
    watch: Watch,
    tokens: TokenManager,
    app: Router,
}

impl World {
    async fn new(watch: Watch) -> Self {
        let (directory, clock) = (tempfile::tempdir().unwrap(), ManualClock::at(start()));
        let events = RecordingSink::default();
        let path = directory.path().join("tokens.db");
        let tokens = manager(SqliteStore::open(&path).await.unwrap(), &clock, &events, Some(watch));
        let app = app(&tokens);
        Self { directory, clock, events, watch, tokens, app }
    }

    /// Another process on the same file.
    async fn neighbour(&self) -> (TokenManager, Router, RecordingSink) {
        let store = SqliteStore::open(self.directory.path().join("tokens.db")).await.unwrap();
        let events = RecordingSink::default();
        let tokens = manager(store, &self.clock, &events, Some(self.watch));
        let app = app(&tokens);
        (tokens, app, events)
    }

    async fn restart(&mut self) {
        self.tokens.flush().await.unwrap();
        let (tokens, app, events) = self.neighbour().await;
        (self.tokens, self.app, self.events) = (tokens, app, events);
    }

    async fn key(&self) -> IssuedToken {
        self.tokens.create(&user("alice"), NewToken::named("laptop")).await.unwrap()
    }

    /// Uses the key from these addresses in turn, and gives the alerts that this raised.
    async fn visit<'a>(&self, key: &IssuedToken, from: impl IntoIterator<Item = &'a str>) -> Vec<Event> {
        self.events.clear();
        for ip in from {
            assert_eq!(ask(&self.app, key, ip.parse().unwrap(), None).await.status, 200, "{ip}");
        }
        self.alerts()
    }

    async fn visit_by(&self, key: &IssuedToken, agent: &str) -> Vec<Event> {
        self.visit_as(key, Some(agent)).await
    }

    async fn visit_as(&self, key: &IssuedToken, agent: Option<&str>) -> Vec<Event> {
        self.events.clear();
        assert_eq!(ask(&self.app, key, HOME.parse().unwrap(), agent).await.status, 200);
        self.alerts()
    }

    fn alerts(&self) -> Vec<Event> {
        self.events.events().into_iter().filter(|event| event.kind.is_alert()).collect()
    }
}

fn manager(
    store: impl TokenStore,
    clock: &ManualClock,
    events: &RecordingSink,
    watch: Option<Watch>,
) -> TokenManager {
    let policy = LifetimePolicy::default().with_idle_timeout(None);
    let lifetimes = Lifetimes::default().with_policy(TokenClass::User, policy);
    let builder = TokenManager::builder(store).with_clock(clock.clone()).with_audit(events.clone());
    let builder = builder.with_lifetimes(lifetimes).with_max_active(Some(3));
    match watch {
        Some(watch) => builder.with_watch(watch).build(),
        None => builder.build(),
    }
}

fn app(tokens: &TokenManager) -> Router {
    Router::new()
        .route("/", get(async || {}))
        .nest("/api/keys", api::own_tokens(tokens.clone()))
        .nest("/admin/tokens", api::admin_tokens(tokens.clone()))
        .layer(AuthLayer::new(ApiKeyAuth::new(tokens)).with_failure_limit(None))
}

async fn ask(app: &Router, key: &IssuedToken, ip: IpAddr, agent: Option<&str>) -> Answer {
    let mut request = Request::get("/").header("x-api-key", key.key.expose()).body(Body::empty()).unwrap();
    request.extensions_mut().insert(PeerAddr((ip, 50_000).into()));
    if let Some(agent) = agent {
        request.headers_mut().insert(header::USER_AGENT, agent.parse().unwrap());
    }
    send(app, request).await
}

fn kinds(events: &[Event]) -> Vec<Alert> {
    let alert =
        |event: &Event| if let EventKind::Alert(alert) = event.kind { alert } else { panic!("{event:?}") };
    events.iter().map(alert).collect()
}

/// The stable names.
fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.name()).collect()
}

/// Without a time of learning, and each address by itself.
fn strict() -> Watch {
    Watch::default().with_learning(Duration::ZERO).with_prefixes(32, 64).unwrap()
}

fn operator() -> AdminProof {
    AdminProof::operator("ops", "a test").unwrap()
}

// ---- networks --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_new_network_is_told_once_with_its_facts_and_known_after_a_restart() {
    let mut world = World::new(strict()).await;
    let key = world.key().await;
    assert_eq!(world.visit(&key, [HOME, HOME]).await.len(), 0, "the first use is learnt");
    let alerts = world.visit(&key, ["198.51.100.9", "198.51.100.9", HOME, "198.51.100.9"]).await;
    assert_eq!(names(&alerts), ["new_network"]);
    let [alert] = &alerts[..] else { panic!() };
    assert_eq!((alert.client_ip, alert.token), (Some("198.51.100.9".parse().unwrap()), Some(key.record.id)));
    assert_eq!(alert.owner, Some(user("alice")));
    let json = serde_json::to_value(alert).unwrap();
    assert_eq!((&json["event"], &json["outcome"]), (&"new_network".into(), &"success".into()));
    assert_eq!(json["reason"], "none of the 1 networks that are known of it: 198.51.100.9");
    for _ in 0..2 {
        world.restart().await;
        world.clock.advance(HOUR);
        assert_eq!(world.visit(&key, [HOME, "198.51.100.9"]).await.len(), 0, "after a restart");
    }
    assert_eq!(names(&world.visit(&key, ["2001:db8::1"]).await), ["new_network"]);
    assert_eq!(world.visit(&key, ["2001:db8::ffff:1", "2001:db8::2"]).await.len(), 0, "the same /64");
    world.clock.advance(HOUR);
    assert_eq!(names(&world.visit(&key, ["2001:db8:0:1::1"]).await), ["new_network"], "another one");
}

#[tokio::test]
async fn people_who_move_about_are_no_alert_and_a_thief_is_one() {
    let mut world = World::new(Watch::default().with_learning(DAY).with_prefixes(24, 48).unwrap()).await;
    let key = world.key().await;
    // Office, home and train on the first day; then the providers renumber.
    let first = [HOME, "198.51.100.9", "203.0.113.1", "2001:db8:1:2::1"];
    assert_eq!(names(&world.visit(&key, first).await), [""; 0]);
    world.clock.advance(DAY);
    world.restart().await;
    let next = ["192.0.2.200", "198.51.100.1", "203.0.113.77", "2001:db8:1:99::1"];
    assert_eq!(names(&world.visit(&key, next).await), [""; 0]);
    world.clock.advance(HOUR);
    let alerts = world.visit(&key, ["100.64.0.1"]).await;
    assert_eq!(kinds(&alerts), [Alert::NewNetwork { new: 1, known: 4 }]);
    assert_eq!(
        alerts[0].reason.as_deref(),
        Some("none of the 4 networks that are known of it: 100.64.0.0/24")
    );
}

#[tokio::test]
async fn a_thief_among_many_networks_is_told_of_a_day_later_at_the_latest() {
    let world = World::new(strict().with_sharing(None)).await;
    let key = world.key().await;
    let ips: Vec<_> = (1..=17).map(|n| format!("198.51.100.{n}")).collect();
    assert_eq!(world.visit(&key, ips.iter().map(String::as_str)).await.len(), 15);
    world.clock.advance(HOUR);
    assert_eq!(world.visit(&key, ["203.0.113.66"]).await.len(), 0, "no room, and something was told today");
    world.clock.advance(DAY);
    world.events.clear();
    assert_eq!(ask(&world.app, &key, "198.51.100.17".parse().unwrap(), None).await.status, 200);
    world.tokens.flush().await.unwrap();
    assert_eq!(kinds(&world.alerts()), [Alert::NewNetwork { new: 2, known: 14 }]);
    assert_eq!(world.alerts()[0].client_ip, None, "of two there is no one address");
}

#[tokio::test]
async fn where_a_key_was_used_before_somebody_watched_is_known() {
    let (clock, events) = (ManualClock::at(start()), RecordingSink::default());
    let store = Arc::new(MemoryStore::new());
    let before = manager(store.clone(), &clock, &events, None);
    let key = before.create(&user("alice"), NewToken::named("x")).await.unwrap();
    assert_eq!(ask(&app(&before), &key, HOME.parse().unwrap(), None).await.status, 200);
    before.flush().await.unwrap();
    let tokens = manager(store, &clock, &events, Some(strict()));
    let app = app(&tokens);
    for ip in ["198.51.100.9", HOME] {
        assert_eq!(ask(&app, &key, ip.parse().unwrap(), None).await.status, 200);
    }
    assert_eq!(events.alerts(), [], "the first use is learnt, and the last one before is known");
    assert_eq!(ask(&app, &key, "203.0.113.9".parse().unwrap(), None).await.status, 200);
    assert_eq!(events.alerts(), [Alert::NewNetwork { new: 1, known: 2 }]);
}

#[tokio::test]
async fn where_a_key_was_made_is_known_and_what_is_off_says_nothing() {
    let world = World::new(strict().with_sharing(None)).await;
    let new = NewToken::named("x").with_created_ip(Some("203.0.113.1".parse().unwrap()));
    let key = world.tokens.create(&user("alice"), new).await.unwrap();
    assert_eq!(world.visit(&key, [HOME, "203.0.113.1"]).await.len(), 0);
    assert_eq!(world.visit(&key, ["203.0.113.2"]).await.len(), 1);

    let none = strict().with_new_networks(false).with_sharing(None).with_spike(None);
    let world = World::new(none).await;
    let key = world.key().await;
    assert_eq!(world.visit(&key, [HOME, "203.0.113.1", "203.0.113.2"]).await.len(), 0);

    let (clock, events) = (ManualClock::at(start()), RecordingSink::default());
    let tokens = manager(MemoryStore::new(), &clock, &events, None);
    let key = tokens.create(&user("alice"), NewToken::named("x")).await.unwrap();
    for n in 0..50 {
        assert_eq!(ask(&app(&tokens), &key, [192, 0, 2, n].into(), Some("x")).await.status, 200);
    }
    tokens.flush().await.unwrap();
    assert_eq!(events.alerts(), [], "by default nobody watches");
    assert_eq!(tokens.get(&user("alice"), key.record.id).await.unwrap().habits, None);
}

#[tokio::test]
async fn a_key_that_many_use_is_told_once_until_it_has_ended() {
    let mut world = World::new(strict()).await;
    let key = world.key().await;
    let five = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5"];
    let alerts = world.visit(&key, five).await;
    let shared = Alert::SharedToken { networks: 5, seconds: 600 };
    let new = |known| Alert::NewNetwork { new: 1, known };
    assert_eq!(kinds(&alerts), [new(1), new(2), new(3), shared]);
    let json = serde_json::to_value(&alerts[3]).unwrap();
    assert_eq!((&json["event"], &json["count"]), (&"shared_token".into(), &5.into()));
    assert_eq!(json["reason"], "used from 5 networks within 600 seconds");
    for round in 0..20 {
        world.clock.advance(4 * MINUTE);
        assert_eq!(world.visit(&key, five).await.len(), 0, "round {round}: it goes on");
        if round % 7 == 3 {
            world.restart().await;
        }
    }
    world.clock.advance(16 * MINUTE);
    assert_eq!(world.visit(&key, five.into_iter().take(4)).await.len(), 0, "four are not five");
    assert_eq!(kinds(&world.visit(&key, five).await), [shared], "it began anew");
}

#[tokio::test]
async fn a_hundred_thousand_addresses_are_a_handful_of_alerts_and_sixteen_networks() {
    let alone = strict().with_sharing(None);
    // Three networks one by one and then that it is shared; or as many as there is room for beside the first one.
    let room = MAX_NETWORKS - 1;
    for (watch, addresses, told) in [(strict(), 100_000_u32, 4), (alone, 2_000, room)] {
        let world = World::new(watch).await;
        let key = world.key().await;
        for n in 0..addresses {
            let ip = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            assert_eq!(ask(&world.app, &key, ip, None).await.status, 200);
            world.clock.advance(Duration::from_millis(1));
        }
        world.tokens.flush().await.unwrap();
        assert_eq!(world.alerts().len(), told, "{:?}", kinds(&world.alerts()));
        let record = world.tokens.get(&user("alice"), key.record.id).await.unwrap();
        let habits = record.habits.unwrap();
        assert_eq!(habits.networks.len(), MAX_NETWORKS);
        assert!(serde_json::to_string(&habits).unwrap().len() < 1024);
    }
}

#[tokio::test]
async fn what_could_not_be_written_is_not_told_again() {
    let (clock, events) = (ManualClock::at(start()), RecordingSink::default());
    let store = Arc::new(UnrulyStore::default());
    let tokens = manager(store.clone(), &clock, &events, Some(strict()));
    let (app, key) = (app(&tokens), tokens.create(&user("alice"), NewToken::named("x")).await.unwrap());
    store.set_usage_failing(true);
    for _ in 0..5 {
        for ip in [HOME, "198.51.100.9"] {
            assert_eq!(ask(&app, &key, ip.parse().unwrap(), None).await.status, 200);
        }
        assert!(tokens.flush().await.is_err());
        // The record is loaded again, and says nothing of it.
        clock.advance(Duration::from_secs(6));
    }
    let new = |alert: &&Alert| alert.name() == "new_network";
    assert_eq!(events.alerts().iter().filter(new).count(), 1, "{:?}", events.alerts());
    store.set_usage_failing(false);
    tokens.flush().await.unwrap();
    let stored = store.get(Owner::User(&user("alice")), key.record.id).await.unwrap().unwrap();
    assert_eq!((stored.habits.unwrap().networks.len(), stored.request_count), (2, 10));
}

#[tokio::test]
async fn several_processes_learn_from_one_another() {
    let world = World::new(strict()).await;
    let (neighbour, their_app, their_events) = world.neighbour().await;
    let key = world.key().await;
    let ip = |ip: &str| ip.parse().unwrap();
    world.visit(&key, [HOME]).await;
    world.tokens.flush().await.unwrap();
    assert_eq!(ask(&their_app, &key, ip(HOME), None).await.status, 200);
    assert_eq!(world.visit(&key, ["198.51.100.9"]).await.len(), 1);
    assert_eq!(ask(&their_app, &key, ip("198.51.100.9"), None).await.status, 200);
    assert_eq!(their_events.alerts(), [Alert::NewNetwork { new: 1, known: 1 }], "at worst each tells once");
    world.tokens.flush().await.unwrap();
    neighbour.flush().await.unwrap();
    assert_eq!(world.visit(&key, ["203.0.113.9"]).await.len(), 1);
    world.tokens.flush().await.unwrap();
    world.clock.advance(Duration::from_secs(6));
    assert_eq!(ask(&their_app, &key, ip("203.0.113.9"), None).await.status, 200);
    assert_eq!(their_events.alerts().len(), 1, "what one knew for the time of a reload, all know");
}

#[tokio::test]
async fn a_key_that_is_shared_across_processes_is_noticed() {
    let five = ["198.51.100.1", "198.51.101.1", "198.51.102.1", "198.51.103.1", "198.51.104.1"];
    for steady in [false, true] {
        let world = World::new(strict()).await;
        let (neighbour, their_app, their_events) = world.neighbour().await;
        let key = world.key().await;
        for ip in five {
            world.visit(&key, [ip]).await;
            world.clock.advance(HOUR);
        }
        world.tokens.flush().await.unwrap();
        world.events.clear();
        their_events.clear();
        // Some use it here and some there, all from networks that it knows.
        let (here, there) = if steady { (&five[..1], &five[1..]) } else { five.split_at(3) };
        for _ in 0..30 {
            for ip in here {
                assert_eq!(ask(&world.app, &key, ip.parse().unwrap(), None).await.status, 200);
            }
            for ip in there {
                assert_eq!(ask(&their_app, &key, ip.parse().unwrap(), None).await.status, 200);
            }
            world.tokens.flush().await.unwrap();
            neighbour.flush().await.unwrap();
            world.clock.advance(MINUTE);
        }
        let told = [world.events.alerts(), their_events.alerts()].concat();
        let shared = Alert::SharedToken { networks: 5, seconds: 600 };
        assert!(matches!(told.len(), 1..=2) && told.iter().all(|alert| *alert == shared), "{told:?}");
    }
}

// ---- user agents -----------------------------------------------------------------------------------

#[tokio::test]
async fn another_program_is_told_once_and_another_version_is_none() {
    let mut world = World::new(strict().with_user_agents(true)).await;
    let key = world.key().await;
    for agent in ["curl/8.5.0", "curl/8.5.0", "curl/8.14.1"] {
        assert_eq!(world.visit_by(&key, agent).await.len(), 0, "{agent}");
    }
    let alerts = world.visit_by(&key, "python-requests/2.32.3\u{9}x").await;
    assert_eq!(names(&alerts), ["new_user_agent"]);
    let reason = alerts[0].reason.as_deref().unwrap();
    assert_eq!(reason, "none of the 1 programs that are known of it: python-requests/2.32.3 x");
    assert_eq!(alerts[0].client_ip, Some(HOME.parse().unwrap()));
    let json = serde_json::to_value(&alerts[0]).unwrap();
    assert_eq!((&json["user_agent"], &json["known"]), (&"python-requests/2.32.3 x".into(), &1.into()));
    assert_eq!(world.visit_by(&key, "curl/9").await.len(), 0);
    world.restart().await;
    world.clock.advance(HOUR);
    for agent in ["python-requests/3.0\u{9}x", "curl/8.5.0"] {
        assert_eq!(world.visit_by(&key, agent).await.len(), 0, "{agent} after a restart");
    }
    let long = "a b ".repeat(1000);
    let alerts = world.visit_by(&key, &long).await;
    assert!(alerts[0].reason.as_deref().unwrap().len() < 150, "{alerts:?}");
}

#[tokio::test]
async fn who_names_no_program_is_noticed_as_well() {
    let mut world = World::new(strict().with_user_agents(true)).await;
    for is_cached in [true, false] {
        let key = world.key().await;
        world.visit_by(&key, "curl/8").await;
        if !is_cached {
            world.restart().await;
        }
        let alerts = world.visit_as(&key, None).await;
        assert_eq!(names(&alerts), ["new_user_agent"], "cached: {is_cached}");
        assert_eq!(alerts[0].reason.as_deref(), Some("none of the 1 programs that are known of it: none"));
        assert_eq!(world.visit_as(&key, None).await.len(), 0, "it is known");
        assert_eq!(world.visit_by(&key, "").await.len(), 0, "an empty text says as little");
    }
    let key = world.key().await;
    assert_eq!(world.visit_as(&key, None).await.len(), 0, "the first one is learnt");
    assert_eq!(names(&world.visit_by(&key, "curl/8").await), ["new_user_agent"]);
}

#[tokio::test]
async fn no_secret_in_a_user_agent_is_told() {
    let world = World::new(strict().with_user_agents(true)).await;
    let (key, other) = (world.key().await, world.key().await);
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.abc-def-ghi-jkl-mno-pqr-stu-vwx";
    let secrets = [key.key.expose(), other.key.expose(), jwt];
    let half = &key.key.expose()[14..34];
    world.visit_by(&key, "curl/8").await;
    let mut raised = 0;
    for (n, agent) in secrets.into_iter().chain([half]).enumerate() {
        for agent in [agent.to_owned(), format!("{} client {agent} of {n}", "x".repeat(n + 50))] {
            // In a request that finds the key in the cache, and in one that does not.
            world.clock.advance(6 * Duration::from_secs(n as u64 % 2));
            let alerts = world.visit_by(&key, &agent).await;
            raised += alerts.len();
            for secret in secrets.into_iter().chain([half]) {
                let text = serde_json::to_string(&world.events.events()).unwrap();
                let part = &secret[secret.len() - 12..];
                assert!(!text.contains(part), "{alerts:?}");
                assert!(!format!("{alerts:?}").contains(part));
            }
        }
    }
    assert_eq!(raised, 7, "as many as there is room for beside the first one");
}

#[tokio::test]
async fn what_is_too_long_is_neither_told_nor_looked_through() {
    let mut world = World::new(Watch::default().with_user_agents(true)).await;
    let key = world.key().await;
    world.visit_by(&key, "curl/8").await;
    // From the cache, and from the store.
    for n in 0..2 {
        let hidden = format!("other{} {} {}", "x".repeat(n), "a ".repeat(300), key.key.expose());
        let alerts = world.visit_by(&key, &hidden).await;
        assert!(matches!(kinds(&alerts)[..], [Alert::NewUserAgent { new: 1, .. }]), "{alerts:?}");
        let reason = alerts[0].reason.as_deref().unwrap();
        assert!(reason.ends_with("not told, since it is too long"), "{reason}");
        world.restart().await;
        world.clock.advance(HOUR);
    }
}

/// A client can choose both texts, so they must not be compared word by word.
#[tokio::test]
async fn nobody_spends_the_services_time_with_long_headers() {
    let world = World::new(Watch::default().with_user_agents(true)).await;
    let key = world.key().await;
    let other = manager(MemoryStore::new(), &world.clock, &world.events, None);
    let unknown = other.create(&user("nobody"), NewToken::named("unknown")).await.unwrap();
    let words = |first: char| (0..20_000).map(|n| format!("{first}{n:08} ")).collect::<String>();
    let (agent, credentials) = (words('u'), format!("Basic {}", words('z')));
    let id = "a-request-id_".repeat(9);
    let begin = tokio::time::Instant::now();
    for (key, status) in [(&unknown, 401), (&key, 200), (&key, 200)] {
        let request = Request::get("/").header("x-api-key", key.key.expose()).header("x-request-id", &id);
        let request = request.header("user-agent", &agent).header("authorization", &credentials);
        let answer = send(&world.app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, status);
    }
    // Twenty thousand words times twenty thousand words take tens of seconds.
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

// ---- spikes ----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_spike_against_its_own_past_is_told_once_an_hour() {
    let watch = strict().with_spike(Some(Spike::new(2, 100).unwrap()));
    let mut world = World::new(watch).await;
    let key = world.key().await;
    let use_it = async |world: &World, times: usize| {
        world.visit(&key, std::iter::repeat_n(HOME, times)).await;
        world.tokens.flush().await.unwrap();
        kinds(&world.alerts())
    };
    assert_eq!(use_it(&world, 500).await, [], "on its first day it has no past");
    for _ in 0..30 {
        world.clock.advance(HOUR);
        assert_eq!(use_it(&world, 20).await, []);
    }
    world.clock.advance(30 * DAY);
    // Half of the busiest hour is forgotten in 30 days: of 500 about 250 are left.
    assert_eq!(use_it(&world, 90).await, [], "that is not worth a look");
    assert_eq!(use_it(&world, 310).await, [], "and that is not twice as much");
    world.restart().await;
    let alerts = use_it(&world, 110).await;
    let [Alert::UsageSpike { requests: 510, usual: 240..=250 }] = alerts[..] else { panic!("{alerts:?}") };
    let json = serde_json::to_value(&world.alerts()[0]).unwrap();
    assert_eq!((&json["event"], &json["count"]), (&"usage_spike".into(), &510.into()));
    assert!(json["reason"].as_str().unwrap().starts_with("510 requests in this hour, and 24"), "{json}");
    assert_eq!((&json["token_id"], &json["client_ip"]), (&key.record.id.to_string().into(), &HOME.into()));
    assert_eq!(use_it(&world, 500).await, [], "once");
    world.restart().await;
    assert_eq!(use_it(&world, 500).await, [], "after a restart as well");
    world.clock.advance(HOUR);
    assert_eq!(use_it(&world, 1300).await, [], "that is its usual now");
}

// ---- clocks that are wrong ---------------------------------------------------------------------------

#[tokio::test]
async fn a_clock_that_was_a_day_ahead_switches_nothing_off_and_alerts_nobody() {
    let watch = strict().with_spike(Some(Spike::new(10, 100).unwrap()));
    let mut world = World::new(watch).await;
    let key = world.key().await;
    let elsewhere = ["198.51.100.1", "198.51.101.1", "198.51.102.1", "198.51.103.1"];
    world.visit(&key, [HOME]).await;
    world.restart().await;
    let right = world.clock.now().saturating_add(2 * DAY);
    // The host boots with a wrong clock, serves, and is corrected.
    world.clock.set(right.saturating_add(DAY));
    world.restart().await;
    world.visit(&key, elsewhere.into_iter().chain([HOME])).await;
    world.restart().await;
    world.clock.set(right);
    world.restart().await;
    let shared = |alerts: &[Event]| kinds(alerts).iter().any(|alert| alert.name() == "shared_token");
    assert!(!shared(&world.visit(&key, [HOME, "203.0.113.9"]).await), "two networks, since it is today");
    world.tokens.flush().await.unwrap();
    let stored = world.tokens.get(&user("alice"), key.record.id).await.unwrap().habits.unwrap();
    let times = stored.networks.iter().map(|network| network.at).chain(stored.hour);
    assert!(times.chain(stored.shared_at).all(|at| at <= right), "{stored:?}");
    // All that is looked for is found.
    world.visit(&key, std::iter::repeat_n(HOME, 101)).await;
    world.tokens.flush().await.unwrap();
    assert!(matches!(kinds(&world.alerts())[..], [Alert::UsageSpike { .. }]), "{:?}", world.alerts());
    world.restart().await;
    assert!(shared(&world.visit(&key, elsewhere).await));
}

#[tokio::test]
async fn a_key_that_is_still_shared_is_not_told_of_again() {
    let world = World::new(strict().with_sharing(Some(Sharing::new(2, 10 * MINUTE).unwrap()))).await;
    let key = world.key().await;
    let alerts = world.visit(&key, [HOME, "198.51.100.9"]).await;
    assert_eq!(names(&alerts), ["shared_token"]);
    // It is shared until here, of which not each use is noted, and then again before ten minutes have passed.
    world.clock.advance(5 * MINUTE);
    assert_eq!(world.visit(&key, [HOME, "198.51.100.9"]).await.len(), 0);
    world.clock.advance(9 * MINUTE);
    assert_eq!(world.visit(&key, [HOME, "198.51.100.9"]).await.len(), 0);
    world.clock.advance(16 * MINUTE);
    assert_eq!(names(&world.visit(&key, [HOME, "198.51.100.9"]).await), ["shared_token"]);
}

#[tokio::test]
async fn a_key_from_where_it_may_not_be_used_is_told_of_once_an_hour() {
    let world = World::new(strict()).await;
    let home = IpList::new([HOME]).unwrap();
    let key = world.tokens.create(&user("alice"), NewToken::named("x").with_allowed_ips(home)).await.unwrap();
    assert_eq!(world.visit(&key, [HOME]).await.len(), 0);
    let thief: IpAddr = "198.51.100.66".parse().unwrap();
    for round in 1..=2 {
        for _ in 0..10 {
            assert_eq!(ask(&world.app, &key, thief, None).await.status, 403);
        }
        let told = world.alerts();
        assert_eq!(kinds(&told), vec![Alert::AddressNotAllowed; round]);
        assert_eq!((told[0].client_ip, told[0].token), (Some(thief), Some(key.record.id)));
        assert_eq!((told[0].owner.clone(), told[0].kind.outcome()), (Some(user("alice")), Outcome::Refused));
        world.clock.advance(HOUR);
    }
    assert_eq!(world.visit(&key, [HOME]).await.len(), 0);
}

// ---- keys that ended -------------------------------------------------------------------------------

#[tokio::test]
async fn dead_keys_are_told_once_an_hour_and_a_straggler_by_another_name() {
    let world = World::new(strict()).await;
    let (revoked, rotated) = (world.key().await, world.key().await);
    world.tokens.revoke(&user("alice"), revoked.record.id).await.unwrap();
    world.tokens.rotate(&user("alice"), rotated.record.id, Some(DAY)).await.unwrap();
    assert_eq!(world.visit(&rotated, [HOME]).await.len(), 0, "within the overlap");
    world.clock.advance(DAY);
    for (key, alert) in [(&revoked, Alert::RevokedTokenUsed), (&rotated, Alert::RotatedTokenUsed)] {
        world.events.clear();
        for seconds in 0..600 {
            assert_eq!(ask(&world.app, key, [192, 0, 2, (seconds % 7) as u8].into(), None).await.status, 401);
            world.clock.advance(Duration::from_secs(1));
        }
        assert_eq!(world.events.alerts(), [alert]);
        let told = &world.alerts()[0];
        assert_eq!((told.token, told.owner.clone()), (Some(key.record.id), Some(user("alice"))));
        assert_eq!(told.client_ip, Some([192, 0, 2, 0].into()));
        // A job that was forgotten hides no thief.
        let thief = [198, 51, 100, 66].into();
        ask(&world.app, key, thief, None).await;
        assert_eq!(world.events.alerts(), [alert, alert]);
        assert_eq!(world.alerts()[1].client_ip, Some(thief));
        world.clock.advance(HOUR);
        ask(&world.app, key, HOME.parse().unwrap(), None).await;
        assert_eq!(world.events.alerts(), [alert, alert, alert], "an hour later");
    }
}

#[tokio::test]
async fn a_successor_knows_what_its_predecessor_knew() {
    let mut world = World::new(strict()).await;
    let old = world.key().await;
    world.visit(&old, [HOME, "198.51.100.9"]).await;
    // What is known is not written yet.
    let new = world.tokens.rotate(&user("alice"), old.record.id, None).await.unwrap();
    assert_eq!(world.visit(&new, [HOME, "198.51.100.9"]).await.len(), 0);
    assert_eq!(names(&world.visit(&new, ["203.0.113.9"]).await), ["new_network"]);
    world.restart().await;
    let newest = world.tokens.rotate(&user("alice"), new.record.id, None).await.unwrap();
    assert_eq!(
        names(&world.visit(&newest, ["203.0.113.10"]).await),
        ["new_network"],
        "even by its first use"
    );
    assert_eq!(world.visit(&newest, [HOME, "203.0.113.9"]).await.len(), 0);
}

#[tokio::test]
async fn what_is_known_of_a_key_goes_with_it() {
    let world = World::new(strict()).await;
    let key = world.key().await;
    world.visit(&key, [HOME]).await;
    world.tokens.flush().await.unwrap();
    world.tokens.revoke(&user("alice"), key.record.id).await.unwrap();
    world.clock.advance(31 * DAY);
    assert_eq!(world.tokens.cleanup(&operator()).await.unwrap().removed, 1);
    let path = world.directory.path().join("tokens.db");
    let file = rusqlite_count(&path);
    assert_eq!(file, 0, "rows of use that are left");
}

/// How many rows of use there are in the file.
fn rusqlite_count(path: &std::path::Path) -> i64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.query_row("SELECT count(*) FROM usage", [], |row| row.get(0)).unwrap()
}

// ---- traps -----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_trap_never_works_and_whoever_presents_it_is_told_of() {
    let world = World::new(strict()).await;
    let ops = user("ops");
    let trap = world.tokens.create(&ops, NewToken::named("backup").as_honeytoken()).await.unwrap();
    let unknown = world.key().await;
    let ended = world.key().await;
    world.tokens.revoke(&user("alice"), ended.record.id).await.unwrap();
    world.events.clear();
    let ip: IpAddr = "198.51.100.66".parse().unwrap();
    let mut junk = Request::get("/").header("x-api-key", format!("{}x", unknown.key.expose()));
    junk = junk.header("accept", "*/*");
    let wrong = send(&world.app, junk.body(Body::empty()).unwrap()).await.comparable();
    for _ in 0..100 {
        let answer = ask(&world.app, &trap, ip, None).await;
        assert_eq!(answer.clone().comparable(), wrong, "like any other wrong key, byte for byte");
        let answer = ask(&world.app, &ended, ip, None).await;
        assert_eq!(answer.comparable(), wrong);
        world.clock.advance(Duration::from_secs(1));
    }
    let told: Vec<_> =
        world.alerts().into_iter().filter(|event| event.token == Some(trap.record.id)).collect();
    assert_eq!(kinds(&told), [Alert::HoneytokenUsed]);
    assert_eq!((told[0].client_ip, told[0].owner.clone()), (Some(ip), Some(ops.clone())));
    assert_eq!(serde_json::to_value(&told[0]).unwrap()["event"], "honeytoken_used");

    world.clock.advance(1000 * DAY);
    world.tokens.cleanup(&operator()).await.unwrap();
    assert_eq!(ask(&world.app, &trap, ip, None).await.status, 401);
    assert_eq!(world.events.alerts().last(), Some(&Alert::HoneytokenUsed), "it never wears out");
}

#[tokio::test]
async fn a_trap_looks_like_a_key_and_is_none() {
    let world = World::new(strict()).await;
    let alice = user("alice");
    let keys = [world.key().await, world.key().await, world.key().await];
    assert!(matches!(world.tokens.create(&alice, NewToken::named("x")).await, Err(TokenError::LimitReached)));
    let new = || NewToken::named("trap").for_user(alice.clone()).as_honeytoken();
    let trap = world.tokens.create(&operator(), new()).await.unwrap();
    let id: TokenId = trap.record.id;
    world.tokens.revoke(&alice, keys[0].record.id).await.unwrap();
    world.tokens.create(&alice, NewToken::named("one more")).await.expect("a trap counts against no limit");

    let shown = world.tokens.get(&alice, id).await.unwrap();
    assert_eq!(world.tokens.status(&shown), TokenStatus::Active);
    world.clock.advance(360 * DAY);
    let expiring = ListQuery::default().with_expiring_within(30 * DAY);
    let expiring = world.tokens.list(&alice, expiring).await.unwrap().tokens;
    assert!(expiring.iter().all(|record| record.id != id), "it does not expire");
    for actor in
        [world.tokens.rotate(&alice, id, None).await, world.tokens.rotate(&operator(), id, None).await]
    {
        assert!(matches!(actor, Err(TokenError::Conflict)), "nothing that works comes of it");
    }
    for wrong in [new().with_lifetime(DAY), new().as_child()] {
        assert!(matches!(world.tokens.create(&operator(), wrong).await, Err(TokenError::Invalid(_))));
    }
    world.tokens.revoke(&alice, id).await.unwrap();
    world.events.clear();
    ask(&world.app, &trap, HOME.parse().unwrap(), None).await;
    assert_eq!(world.events.alerts(), [Alert::RevokedTokenUsed]);
}

#[tokio::test]
async fn administrators_set_traps_and_see_them_and_others_do_neither() {
    let world = World::new(strict()).await;
    let admin = NewToken::named("admin").with_roles(Grant::Only(RoleSet::new([ADMIN_ROLE]).unwrap()));
    let admin = world.tokens.create(&user("root"), admin).await.unwrap();
    let admin = admin.key.expose();
    let body = r#"{"user_id": "ops", "name": "backup", "honeytoken": true}"#;
    let made = send(&world.app, request("POST", "/admin/tokens", admin, body)).await;
    assert_eq!((made.status.as_u16(), &made.json()["honeytoken"]), (201, &true.into()), "{made:?}");
    let owner = world.tokens.create(&user("ops"), NewToken::named("x")).await.unwrap();
    let list = send(&world.app, request("GET", "/admin/tokens?user_id=ops", admin, "")).await.json();
    let marks: Vec<_> = list["tokens"].as_array().unwrap().iter().map(|token| &token["honeytoken"]).collect();
    assert_eq!(marks, [&serde_json::json!(false), &serde_json::json!(true)]);
    let list = send(&world.app, request("GET", "/api/keys", owner.key.expose(), "")).await;
    assert_eq!(list.json()["tokens"].as_array().unwrap().len(), 2);
    assert!(!String::from_utf8_lossy(&list.body).contains("honeytoken"), "{list:?}");
    let tokens = list.json()["tokens"].clone();
    let names = |n: usize| tokens[n].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((names(0), &tokens[1]["status"]), (names(1), &"active".into()));
    let own = send(
        &world.app,
        request("POST", "/api/keys", owner.key.expose(), r#"{"name": "x", "honeytoken": true}"#),
    );
    assert_eq!(own.await.status, 400);
    for wrong in [r#""expires_in_days": 9"#, r#""child": true"#] {
        let body = format!(r#"{{"user_id": "ops", "name": "x", "honeytoken": true, {wrong}}}"#);
        assert_eq!(
            send(&world.app, request("POST", "/admin/tokens", admin, &body)).await.status,
            400,
            "{wrong}"
        );
    }
    assert_eq!(ask(&world.app, &owner, HOME.parse().unwrap(), None).await.status, 200);
}

#[tokio::test]
async fn habits_that_others_wrote_are_taken_as_they_are() {
    let watch = strict().with_sharing(Some(Sharing::new(2, HOUR).unwrap()));
    // As they are now, and as they were before networks had a length.
    for networks in
        [r#"[["192.0.2.7",1000],["198.51.100.9",1000]]"#, "[[281473902969351,1000],[281474007000073,1000]]"]
    {
        let world = World::new(watch).await;
        let key = world.key().await;
        let store = SqliteStore::open(world.directory.path().join("tokens.db")).await.unwrap();
        let mut usage = Usage::new(key.record.id, 1, world.clock.now());
        let json = format!(r#"{{"networks":{networks},"usual_milli":1,"since":"2020-01-01T00:00:00Z"}}"#);
        usage.habits = Some(serde_json::from_str(&json).unwrap());
        store.record_usage(&[usage]).await.unwrap();
        assert_eq!(world.visit(&key, [HOME]).await.len(), 0);
        world.clock.advance(2 * HOUR);
        assert_eq!(world.visit(&key, ["198.51.100.9"]).await.len(), 0);
        world.clock.advance(2 * HOUR);
        assert_eq!(
            kinds(&world.visit(&key, ["203.0.113.9"]).await),
            [Alert::NewNetwork { new: 1, known: 2 }]
        );
    }
}

#[tokio::test]
async fn nobody_finds_a_trap_by_its_end() {
    let world = World::new(Watch::default()).await;
    let ops = user("ops");
    let key = world.tokens.create(&ops, NewToken::named("backup")).await.unwrap();
    let new = NewToken::named("old backup").for_user(ops.clone()).as_honeytoken();
    let trap = world.tokens.create(&operator(), new).await.unwrap().record.id;
    let list = async |query: &str| {
        let path = format!("/api/keys{query}");
        let list = send(&world.app, request("GET", &path, key.key.expose(), "")).await.json();
        let tokens = list["tokens"].as_array().unwrap().iter();
        tokens.map(|token| (token["id"].to_string(), token["expires_at"].clone())).collect::<Vec<_>>()
    };
    let hard_end = world.clock.now().saturating_add(365 * DAY);
    for days in (0..360).step_by(5) {
        // The key is used now, and so renewed when it is time.
        list("").await;
        world.tokens.flush().await.unwrap();
        let shown = list("").await;
        let [(id, end), (_, key_end)] = &shown[..] else { panic!("{shown:?}") };
        assert_eq!(id, &format!("\"{trap}\""));
        let left = |end: &Value| end.as_str().unwrap().parse::<UnixTime>().unwrap().since(world.clock.now());
        let usual = (45 * DAY).min(hard_end.since(world.clock.now()))..=90 * DAY;
        assert!(usual.contains(&left(end)) && usual.contains(&left(key_end)), "{days} days on: {shown:?}");
        assert!(end == key_end || days >= 45, "{days} days on: {shown:?}");
        assert_eq!(list("").await, shown);
        let own = send(&world.app, request("GET", &format!("/api/keys/{trap}"), key.key.expose(), "")).await;
        assert_eq!(own.json()["expires_at"], *end);
        for within in [30, 90] {
            let expiring = list(&format!("?expiring_within_days={within}")).await;
            let is_within = |end: &Value| left(end) <= within * DAY;
            let expected: Vec<_> = shown.iter().filter(|(_, end)| is_within(end)).cloned().collect();
            assert_eq!(expiring, expected, "{days} days on, within {within}");
        }
        world.clock.advance(5 * DAY);
    }
    // Older than any key can be, and yet not over.
    world.clock.advance(100 * DAY);
    let later = world.tokens.create(&ops, NewToken::named("backup")).await.unwrap();
    let path = format!("/api/keys/{trap}");
    let own = send(&world.app, request("GET", &path, later.key.expose(), "")).await.json();
    assert_eq!(own["status"], "active");
    assert!(own["expires_at"].as_str().unwrap().parse::<UnixTime>().unwrap() > world.clock.now(), "{own}");
    let admin = NewToken::named("admin").with_roles(Grant::Only(RoleSet::new([ADMIN_ROLE]).unwrap()));
    let admin = world.tokens.create(&user("root"), admin).await.unwrap();
    let list = send(&world.app, request("GET", "/admin/tokens?user_id=ops", admin.key.expose(), "")).await;
    assert_eq!(list.json()["tokens"][1]["expires_at"], Value::Null, "an administrator knows");
}
