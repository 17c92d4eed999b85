//! What the recorder is told: each number moves by what happened, and nothing that clients send makes new ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod prometheus;
mod support;

use std::{
    collections::BTreeSet,
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body, routing::get};
use http::Request;
use keyward::{
    AdminProof, AuthLayer, RequireLayer, TokenManager,
    audit::{Batch, DeliveryError, DeliveryPlan, Destination, QueueSink},
    auth::{AnyOf, ApiKeyAuth, EmergencyAuth, StaticAuth},
    event::{AuditSink, Event},
    jwt::{JwtAuth, JwtIssuer},
    limit::{Limits, RateLimit},
    manage::NewToken,
    metrics::{DURATION_BUCKETS, publish},
    net::PeerAddr,
    scope::{Grant, ScopeSet},
    secret::TokenDigest,
    store::{StaticList, StoreError, StoreErrorKind},
    testing::{FakeIssuer, IssuerMode, ManualClock},
    token::KeyFormat,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use prometheus::Scrape;
use serde_json::json;
use support::{UnrulyStore, send, start, user};
use tokio::sync::oneshot;

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "https://api.example";
const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only";
const STATIC: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";
const EMERGENCY: &str = "b7c1f0a4e29d4b6f8e35a7d90c1b2f3e4d5a69788796a5b4c3d2e1f00f1e2d3c";
const SECOND: Duration = Duration::from_secs(1);

/// Counts are of the whole process, so one story at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A recorder, which is never dropped: two never have the same address.
struct Recorder {
    recorder: &'static PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Recorder {
    fn new() -> Self {
        let durations = Matcher::Suffix("_duration_seconds".to_owned());
        let builder = PrometheusBuilder::new().set_buckets_for_metric(durations, DURATION_BUCKETS).unwrap();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Self { recorder: Box::leak(Box::new(recorder)), handle }
    }

    fn scrape(&self) -> Scrape {
        metrics::with_local_recorder(self.recorder, publish);
        Scrape::read(&self.handle.render())
    }
}

/// Tells a story on this thread, with a recorder of its own.
fn tell(story: impl AsyncFnOnce(&Recorder)) {
    let _one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let recorder = Recorder::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(recorder.recorder, || runtime.block_on(story(&recorder)));
}

/// What `step` adds to each of these series.
async fn moves(recorder: &Recorder, expected: &[(&str, f64)], step: impl Future<Output = ()>) {
    let before = recorder.scrape();
    step.await;
    let after = recorder.scrape();
    before.only_grew_to(&after);
    for (series, by) in expected {
        assert_eq!(after.get(series) - before.get(series), *by, "{series} in\n{}", after.text);
    }
}

/// The series of a verdict.
fn verdict(outcome: &str, method: &str, reason: &str) -> String {
    format!("keyward_verdicts_total{{outcome=\"{outcome}\",method=\"{method}\",reason=\"{reason}\"}}")
}

/// All kinds of credentials in front of a store that does as it is told.
struct World {
    clock: ManualClock,
    store: Arc<UnrulyStore>,
    tokens: TokenManager,
    issuer: JwtIssuer,
    app: Router,
}

impl World {
    fn new() -> Self {
        Self::with_capacity(1000)
    }

    fn with_capacity(capacity: usize) -> Self {
        let (clock, store) = (ManualClock::at(start()), Arc::new(UnrulyStore::default()));
        let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).with_max_active(None);
        let tokens = tokens.with_cache_capacity(capacity).with_audit(Nowhere).build();
        let issuer = JwtIssuer::hs256(SECRET, ISSUER, AUDIENCE).unwrap().with_clock(clock.clone());
        let jwt = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone());
        let list = StaticList::parse(&format!("ops:{STATIC}")).unwrap();
        let hash = TokenDigest::of(EMERGENCY.as_bytes());
        let hash = hash.as_bytes().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        let layer = AuthLayer::new(AnyOf::new([
            ApiKeyAuth::new(&tokens).into(),
            jwt.with_audit(tokens.audit()).build().unwrap().into(),
            StaticAuth::new(&list).with_clock(clock.clone()).into(),
            EmergencyAuth::new(&hash).unwrap().with_audit(tokens.audit()).into(),
        ]));
        let layer = layer.with_failure_limit(None);
        let open = Router::new().route("/open", get(async || {})).layer(layer.clone().optional());
        let app = Router::new()
            .route("/", get(async || {}))
            .route("/{*rest}", get(async || {}))
            .route("/guarded", get(async || {}).layer(RequireLayer::scope("jobs:read")))
            .layer(layer)
            .merge(open);
        Self { clock, store, tokens, issuer, app }
    }

    async fn ask(&self, path: &str, key: &str) -> u16 {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        let name = if key.contains('.') { "authorization" } else { "x-api-key" };
        let value = if key.contains('.') { format!("Bearer {key}") } else { key.to_owned() };
        if !key.is_empty() {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        send(&self.app, request).await.status.as_u16()
    }

    async fn key(&self, new: NewToken) -> (String, keyward::TokenId) {
        let issued = self.tokens.create(&user("alice"), new).await.unwrap();
        (issued.key.expose().to_owned(), issued.record.id)
    }
}

/// Drops events.
#[derive(Clone, Debug)]
struct Nowhere;

impl AuditSink for Nowhere {
    fn record(&self, _: &Event) {}
}

fn operator() -> AdminProof {
    AdminProof::operator("ops", "test").unwrap()
}

#[test]
fn each_verdict_is_counted_by_its_method_and_its_reason() {
    tell(async |recorder| {
        let world = World::new();
        let (key, id) = world.key(NewToken::named("laptop")).await;
        let jwt = world.issuer.token(&user("alice")).unwrap();
        let forged = format!("{}AAAA", &jwt[..jwt.len() - 4]);
        let slow = RateLimit::new(1, 60 * SECOND).unwrap();
        let (limited, _) =
            world.key(NewToken::named("limited").with_limits(Limits::default().with_rate(Some(slow)))).await;
        let never = KeyFormat::default().generate().unwrap();
        let broken = format!("{}x", never.expose());

        for (path, credential, status, outcome, method, reason) in [
            ("/", &*key, 200, "accepted", "api_key", "none"),
            ("/", &key, 200, "accepted", "api_key", "none"),
            ("/", &jwt, 200, "accepted", "jwt", "none"),
            ("/", &jwt, 200, "accepted", "jwt", "none"),
            ("/", STATIC, 200, "accepted", "static", "none"),
            ("/open", "", 200, "anonymous", "none", "none"),
            ("/open", &key, 200, "accepted", "api_key", "none"),
            ("/", "", 401, "refused", "none", "no_credential"),
            ("/", "nonsense", 401, "refused", "none", "unknown_kind"),
            ("/", &broken, 401, "refused", "api_key", "bad_checksum"),
            ("/", never.expose(), 401, "refused", "api_key", "unknown"),
            ("/", never.expose(), 401, "refused", "api_key", "unknown"),
            ("/", &forged, 401, "refused", "jwt", "bad_signature"),
            ("/", EMERGENCY, 403, "refused", "emergency", "missing_reason"),
            ("/", &limited, 200, "accepted", "api_key", "none"),
            ("/", &limited, 429, "refused", "api_key", "rate_limited"),
        ] {
            let series = verdict(outcome, method, reason);
            moves(recorder, &[(&series, 1.0)], async {
                assert_eq!(world.ask(path, credential).await, status, "{series}");
            })
            .await;
        }

        world.tokens.revoke(&user("alice"), id).await.unwrap();
        world.tokens.suspend(&operator(), &user("ops")).await.unwrap();
        world.clock.advance(2 * 3600 * SECOND);
        let late = jwt;
        for (credential, status, method, reason) in [
            (&*key, 401, "api_key", "revoked"),
            (STATIC, 401, "static", "user_inactive"),
            (&late, 401, "jwt", "expired"),
        ] {
            let series = verdict("refused", method, reason);
            moves(recorder, &[(&series, 1.0)], async {
                assert_eq!(world.ask("/", credential).await, status, "{series}");
            })
            .await;
        }
        world.store.set_down(true);
        let series = verdict("refused", "api_key", "store_unavailable");
        moves(recorder, &[(&series, 1.0)], async { assert_eq!(world.ask("/", &limited).await, 503) }).await;
    });
}

#[test]
fn what_is_over_the_limit_of_failures_is_counted_as_that() {
    tell(async |recorder| {
        let tokens = TokenManager::builder(keyward::store::MemoryStore::new()).with_audit(Nowhere).build();
        let layer: AuthLayer = AuthLayer::new(ApiKeyAuth::new(&tokens));
        let app = Router::new().route("/", get(async || {})).layer(layer);
        let alert = "keyward_alerts_total{alert=\"brute_force\"}";
        let series = [
            verdict("refused", "api_key", "bad_checksum"),
            verdict("refused", "api_key", "too_many_failures"),
        ];
        let [wrong, over] = &series;
        moves(recorder, &[(wrong, 100.0), (over, 3.0), (alert, 1.0)], async {
            for _ in 0..103 {
                let mut request =
                    Request::get("/").header("x-api-key", "kw_live_1wrong").body(Body::empty()).unwrap();
                request.extensions_mut().insert(PeerAddr("192.0.2.7:5000".parse().unwrap()));
                send(&app, request).await;
            }
        })
        .await;
    });
}

/// While a store hangs, those who give up are all there is.
#[test]
fn who_gives_up_waiting_is_counted_and_timed() {
    tell(async |recorder| {
        let world = World::new();
        let (key, _) = world.key(NewToken::named("laptop")).await;
        world.store.set_hanging(true);
        let abandoned = verdict("abandoned", "none", "none");
        let waited = "keyward_verdict_duration_seconds_count{method=\"none\"}";
        assert!(recorder.scrape().has(&abandoned), "its first time shows as a rise");
        moves(recorder, &[(&abandoned, 1.0), (waited, 1.0)], async {
            let mut asked = Box::pin(world.ask("/", &key));
            let first = std::future::poll_fn(|context| std::task::Poll::Ready(asked.as_mut().poll(context)));
            assert!(first.await.is_pending());
        })
        .await;
    });
}

/// A rate is zero where a series begins with its first burst.
#[test]
fn every_reason_is_there_from_the_start() {
    tell(async |recorder| {
        let reason = |name: &str| format!("keyward_refusals_total{{reason=\"{name}\"}}");
        for name in ["bad_signature", "honeytoken", "too_many_failures"] {
            assert!(recorder.scrape().has(&reason(name)), "{name}");
        }
        let world = World::new();
        moves(recorder, &[(&reason("bad_checksum"), 1.0)], async {
            assert_eq!(world.ask("/", "kw_live_1nonsense").await, 401);
        })
        .await;
    });
}

#[test]
fn extractors_that_say_no_are_guards() {
    tell(async |recorder| {
        let me = get(async |_: keyward::Principal| {});
        let id = get(async |_: keyward::UserId| {});
        let bare = Router::new().route("/me", me).route("/id", id);
        let anonymous = bare.clone().layer(
            AuthLayer::new(StaticAuth::new(&StaticList::parse(&format!("ops:{STATIC}")).unwrap())).optional(),
        );
        let count = |reason: &str| format!("keyward_guard_refusals_total{{reason=\"{reason}\"}}");
        for path in ["/me", "/id"] {
            for (app, reason, status) in [(&bare, "misconfigured", 500), (&anonymous, "no_credential", 401)] {
                moves(recorder, &[(&count(reason), 1.0)], async {
                    let request = Request::get(path).body(Body::empty()).unwrap();
                    assert_eq!(send(app, request).await.status.as_u16(), status);
                })
                .await;
            }
        }
    });
}

#[test]
fn guards_alerts_and_events_are_counted_by_name() {
    tell(async |recorder| {
        let world = World::new();
        let first = recorder.scrape();
        assert!(
            first.has("keyward_alerts_total{alert=\"foreign_access\"}"),
            "an alert's first time shows as a rise"
        );
        let scopes = Grant::Only(ScopeSet::new(["jobs:write"]).unwrap());
        let mut made = None;
        moves(recorder, &[("keyward_events_total{event=\"token.created\"}", 1.0)], async {
            made = Some(world.key(NewToken::named("writer").with_scopes(scopes)).await);
        })
        .await;
        let (key, id) = made.unwrap();
        let accepted = verdict("accepted", "api_key", "none");
        let guarded = "keyward_guard_refusals_total{reason=\"missing_scope\"}";
        moves(recorder, &[(guarded, 1.0), (&accepted, 1.0)], async {
            assert_eq!(world.ask("/guarded", &key).await, 403);
        })
        .await;
        let (revoked, alert) = (
            "keyward_events_total{event=\"token.revoked\"}",
            "keyward_alerts_total{alert=\"revoked_token_used\"}",
        );
        moves(recorder, &[(revoked, 1.0), (alert, 1.0)], async {
            world.tokens.revoke(&user("alice"), id).await.unwrap();
            assert_eq!(world.ask("/", &key).await, 401);
        })
        .await;
    });
}

#[test]
fn caches_tell_what_they_knew_and_what_made_room() {
    tell(async |recorder| {
        let empty = recorder.scrape();
        let requests =
            |cache, result| format!("keyward_cache_requests_total{{cache=\"{cache}\",result=\"{result}\"}}");
        let entries = |cache| format!("keyward_cache_entries{{cache=\"{cache}\"}}");
        let [hit, refused_hit, miss] =
            ["hit", "refused_hit", "miss"].map(|result| requests("api_key", result));
        let [kept, refused] = ["api_key", "api_key_refused"].map(entries);
        // Room for one key in each of 64 shards.
        let world = World::with_capacity(64);
        let (key, _) = world.key(NewToken::named("laptop")).await;
        moves(recorder, &[(&miss, 1.0), (&hit, 2.0), (&refused_hit, 0.0), (&kept, 1.0)], async {
            for _ in 0..3 {
                assert_eq!(world.ask("/", &key).await, 200);
            }
        })
        .await;
        let never = KeyFormat::default().generate().unwrap();
        moves(
            recorder,
            &[(&miss, 1.0), (&hit, 0.0), (&refused_hit, 1.0), (&kept, 0.0), (&refused, 1.0)],
            async {
                for _ in 0..2 {
                    assert_eq!(world.ask("/", never.expose()).await, 401);
                }
            },
        )
        .await;

        let evicted = "keyward_cache_evictions_total{cache=\"api_key\"}";
        let before = recorder.scrape();
        for n in 0..200 {
            let (key, _) = world.key(NewToken::named(n.to_string())).await;
            assert_eq!(world.ask("/", &key).await, 200);
        }
        let full = recorder.scrape();
        let grown = full.get(&kept) - before.get(&kept);
        assert_eq!(full.get(evicted) - before.get(evicted), 200.0 - grown, "what is not kept made room");
        assert!(grown < 64.0);

        let (bytes, jwts) = ("keyward_jwt_cache_bytes", entries("jwt"));
        let (jwt_hit, jwt_miss) = (requests("jwt", "hit"), requests("jwt", "miss"));
        let jwt = world.issuer.token(&user("alice")).unwrap();
        let took = "keyward_jwt_verification_duration_seconds_count";
        moves(recorder, &[(&jwt_miss, 1.0), (&jwt_hit, 1.0), (&jwts, 1.0), (took, 1.0)], async {
            for _ in 0..2 {
                assert_eq!(world.ask("/", &jwt).await, 200);
            }
        })
        .await;
        assert!(recorder.scrape().get(bytes) > full.get(bytes) + jwt.len() as f64);
        drop(world);
        let after = recorder.scrape();
        for gauge in [&kept, &refused, &jwts, bytes] {
            assert_eq!(after.get(gauge), empty.get(gauge), "{gauge}");
        }
    });
}

#[test]
fn a_store_that_goes_and_comes_shows() {
    tell(async |recorder| {
        let world = World::new();
        let (key, _) = world.key(NewToken::named("laptop")).await;
        let (success, failure) = (
            "keyward_usage_flushes_total{outcome=\"success\"}",
            "keyward_usage_flushes_total{outcome=\"failure\"}",
        );
        let (queue, took) = ("keyward_usage_queue_length", "keyward_usage_flush_duration_seconds_count");
        let waited = "keyward_verdict_duration_seconds_count{method=\"api_key\"}";
        moves(recorder, &[(queue, 1.0), (waited, 1.0)], async {
            assert_eq!(world.ask("/", &key).await, 200);
            assert_eq!(world.ask("/", &key).await, 200);
        })
        .await;
        assert_eq!(recorder.scrape().get("keyward_store_up"), 1.0);

        world.store.set_down(true);
        let errors = "keyward_store_errors_total{kind=\"unavailable\"}";
        let alert = "keyward_alerts_total{alert=\"store_unavailable\"}";
        moves(recorder, &[(failure, 1.0), (took, 1.0), (success, 0.0), (queue, 0.0), (alert, 1.0)], async {
            assert!(world.tokens.flush().await.is_err());
        })
        .await;
        let down = recorder.scrape();
        assert!(down.get(errors) >= 1.0 && down.has("keyward_store_up"));
        assert_eq!(down.get("keyward_store_up"), 0.0);

        world.store.set_down(false);
        moves(recorder, &[(failure, 0.0), (took, 1.0), (success, 1.0), (queue, -1.0)], async {
            world.tokens.flush().await.unwrap();
        })
        .await;
        assert_eq!(recorder.scrape().get("keyward_store_up"), 1.0);
        moves(recorder, &[(success, 0.0)], async { world.tokens.flush().await.unwrap() }).await;

        moves(recorder, &[("keyward_denied_users", 1.0), ("keyward_denied_jwts", 0.0)], async {
            world.tokens.suspend(&operator(), &user("bob")).await.unwrap();
            world.clock.advance(6 * SECOND);
            assert_eq!(world.ask("/", &key).await, 200);
        })
        .await;
        let loaded = recorder.scrape().get("keyward_denials_last_load_timestamp_seconds");
        assert_eq!(loaded, start().saturating_add(6 * SECOND).as_millis() as f64 / 1000.0);

        moves(recorder, &[("keyward_tokens_stored", 1.0)], async {
            assert!(world.tokens.cleanup(&operator()).await.unwrap().complete);
        })
        .await;
        drop(world);
        let gone = recorder.scrape();
        assert_eq!((gone.get("keyward_tokens_stored"), gone.get("keyward_denied_users")), (0.0, 0.0));
    });
}

#[test]
fn two_stores_are_up_when_both_are() {
    tell(async |recorder| {
        let (one, other) = (World::new(), World::new());
        one.store.set_down(true);
        assert!(one.tokens.health().await.is_err());
        other.tokens.health().await.unwrap();
        assert_eq!(recorder.scrape().get("keyward_store_up"), 0.0);
        drop(one);
        assert_eq!(recorder.scrape().get("keyward_store_up"), 1.0);
        drop(other);
    });
}

/// Where events go, unless it is shut.
#[derive(Clone, Debug, Default)]
struct Door {
    shut: Arc<AtomicBool>,
}

#[async_trait]
impl Destination for Door {
    async fn deliver(&self, _: &Batch) -> Result<(), DeliveryError> {
        if self.shut.load(Relaxed) {
            Err(StoreError::from(StoreErrorKind::Unavailable).into())
        } else {
            Ok(())
        }
    }

    fn plan(&self) -> DeliveryPlan {
        DeliveryPlan::default()
            .with_attempts(2)
            .with_delays(Duration::from_millis(1), Duration::from_millis(1))
    }
}

#[test]
fn the_audit_queue_tells_how_full_it_is_and_what_it_lost() {
    tell(async |recorder| {
        let [length, capacity, reserve] =
            ["length", "capacity", "reserve"].map(|what| format!("keyward_audit_queue_{what}"));
        let [events, alerts] =
            ["event", "alert"].map(|kind| format!("keyward_audit_dropped_total{{kind=\"{kind}\"}}"));
        let [success, failure] = ["success", "failure"]
            .map(|outcome| format!("keyward_audit_deliveries_total{{outcome=\"{outcome}\"}}"));
        let mut made = None;
        moves(recorder, &[(&capacity, 3.0), (&reserve, 1.0)], async {
            let (sink, queue) = QueueSink::with_capacity(3, 1);
            let store = keyward::store::MemoryStore::new();
            made = Some((TokenManager::builder(store).with_audit(sink).build(), queue));
        })
        .await;
        let (tokens, queue) = made.unwrap();
        moves(recorder, &[(&length, 3.0), (&events, 2.0), (&alerts, 0.0)], async {
            for n in 0..5 {
                tokens.create(&user("alice"), NewToken::named(n.to_string())).await.unwrap();
            }
        })
        .await;
        // A list that has no room, and two alerts of which one has.
        moves(recorder, &[(&length, 1.0), (&events, 2.0), (&alerts, 1.0)], async {
            let list = tokens.list(&user("alice"), keyward::manage::ListQuery::default()).await.unwrap();
            let id = list.tokens.first().unwrap().id;
            assert!(tokens.get(&user("eve"), id).await.is_err());
            assert!(tokens.get(&user("mallory"), id).await.is_err());
        })
        .await;
        let door = Door::default();
        door.shut.store(true, Relaxed);
        moves(
            recorder,
            &[
                (&length, -4.0),
                (&failure, 2.0),
                (&success, 0.0),
                (&events, 4.0),
                (&alerts, 1.0),
                (&capacity, -3.0),
            ],
            async {
                queue.run(door, std::future::ready(())).await;
            },
        )
        .await;
        drop(tokens);

        let (sink, queue) = QueueSink::new();
        let tokens = TokenManager::builder(keyward::store::MemoryStore::new()).with_audit(sink).build();
        moves(recorder, &[(&success, 1.0), (&failure, 0.0), (&events, 0.0), (&length, 0.0)], async {
            tokens.create(&user("alice"), NewToken::named("one")).await.unwrap();
            queue.run(Door::default(), std::future::ready(())).await;
        })
        .await;
    });
}

#[test]
fn key_sets_tell_how_old_they_are_and_whether_they_fail() {
    tell(async |recorder| {
        let clock = ManualClock::at(start());
        let provider = FakeIssuer::start().await.with_clock(clock.clone());
        let [success, failure] = ["success", "failure"]
            .map(|outcome| format!("keyward_jwks_fetches_total{{outcome=\"{outcome}\"}}"));
        let fetched = "keyward_jwks_last_success_timestamp_seconds";
        let (keys, failing) = ("keyward_jwks_keys", "keyward_jwks_failing");
        let mut made = None;
        moves(recorder, &[(&success, 1.0), (&failure, 0.0), (keys, 1.0), (failing, 0.0)], async {
            let jwt = JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).with_clock(clock.clone());
            made = Some(jwt.await.unwrap());
        })
        .await;
        let first = recorder.scrape().get(fetched);
        assert_eq!(first, start().as_millis() as f64 / 1000.0);
        let jwt = made.unwrap();
        let app = Router::new().route("/", get(async || {})).layer(AuthLayer::new(jwt.clone()));
        let ask = async |name: &str| {
            let token = provider.token_with(json!({ "kid": name }), json!({ "sub": "eve" }));
            let request = Request::get("/").header("authorization", format!("Bearer {token}"));
            send(&app, request.body(Body::empty()).unwrap()).await.status.as_u16()
        };

        provider.set_mode(IssuerMode::Down);
        clock.advance(700 * SECOND);
        let unavailable = verdict("refused", "jwt", "keys_unavailable");
        let waited = "keyward_verdict_duration_seconds_count{method=\"jwt\"}";
        moves(
            recorder,
            &[
                (&success, 0.0),
                (&failure, 1.0),
                (failing, 1.0),
                (keys, 0.0),
                (fetched, 0.0),
                (&unavailable, 1.0),
                (waited, 1.0),
            ],
            async {
                assert_eq!(ask("nobody").await, 503);
            },
        )
        .await;
        provider.set_mode(IssuerMode::Up);
        provider.rotate();
        clock.advance(60 * SECOND);
        moves(recorder, &[(&success, 1.0), (failing, -1.0), (keys, 1.0), (fetched, 760.0)], async {
            assert_eq!(ask("nobody else").await, 401);
        })
        .await;
        drop((jwt, app));
        assert_eq!(recorder.scrape().get(keys), 0.0);
    });
}

/// 10 000 of everything that a client can choose.
#[test]
fn no_client_makes_a_series_and_nothing_it_sends_is_in_the_text() {
    tell(async |recorder| {
        let world = World::new();
        let (key, _) = world.key(NewToken::named("laptop-of-CANARY")).await;
        let round = async |n: u32| {
            let path = format!("/path-CANARY-{n}");
            let junk = KeyFormat::default().generate().unwrap();
            let kid = json!({ "alg": "HS256", "kid": format!("kid-CANARY-{n}") });
            let claims =
                json!({ "iss": format!("iss-CANARY-{n}"), "sub": format!("sub-CANARY-{n}"), "exp": 1 });
            let part = |value: &serde_json::Value| {
                use base64::Engine;
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
            };
            let forged = format!("{}.{}.{}", part(&kid), part(&claims), part(&kid));
            for credential in [&*key, junk.expose(), &forged, &format!("text-CANARY-{n}"), ""] {
                world.ask(&path, credential).await;
            }
        };
        round(0).await;
        let jwt = world.issuer.token(&user("user-CANARY-0")).unwrap();
        world.ask("/", &jwt).await;
        let before = recorder.scrape();
        for n in 1..2000 {
            round(n).await;
            if n % 100 == 0 {
                let jwt = world.issuer.token(&user(&format!("user-CANARY-{n}"))).unwrap();
                assert_eq!(world.ask("/", &jwt).await, 200);
                world.tokens.create(&user(&format!("user-CANARY-{n}")), NewToken::named("x")).await.unwrap();
            }
        }
        let after = recorder.scrape();
        before.only_grew_to(&after);
        let new: Vec<_> =
            after.series().difference(&before.series()).map(|series| (*series).to_owned()).collect();
        assert_eq!(new, Vec::<String>::new());
        assert!(after.get(&verdict("accepted", "api_key", "none")) >= 2000.0);
        assert!(after.series().len() < 400, "{}", after.series().len());
        assert!(!after.text.contains("CANARY") && !after.text.contains(&key[10..]), "{}", after.text);
    });
}

#[test]
fn a_recorder_that_comes_late_misses_no_count() {
    tell(async |early| {
        let world = World::new();
        let (key, _) = world.key(NewToken::named("laptop")).await;
        let accepted = verdict("accepted", "api_key", "none");
        let before = early.scrape().get(&accepted);
        for _ in 0..7 {
            assert_eq!(world.ask("/", &key).await, 200);
        }
        // Told to nobody; then to two, each of which has all of it.
        let late = Recorder::new();
        assert_eq!(late.scrape().get(&accepted), before + 7.0);
        assert_eq!(early.scrape().get(&accepted), before + 7.0);
        for scrape in [late.scrape(), early.scrape()] {
            assert_eq!(scrape.described(), scrape.names());
        }
    });
}

#[test]
fn the_background_work_publishes_by_itself() {
    tell(async |recorder| {
        let world = World::new();
        let (key, _) = world.key(NewToken::named("laptop")).await;
        let accepted = verdict("accepted", "api_key", "none");
        let published = || Scrape::read(&recorder.handle.render()).get(&accepted);
        let before = recorder.scrape().get(&accepted);
        assert_eq!(world.ask("/", &key).await, 200);
        assert_eq!(published(), before, "nobody has said so yet");
        let (stop, stopped) = oneshot::channel::<()>();
        let work = world.tokens.clone().run(async { drop(stopped.await) });
        let watch = async {
            while published() <= before {
                tokio::task::yield_now().await;
            }
            drop(stop);
        };
        tokio::join!(work, watch);
    });
}

/// The table in the documentation is the list of names, no more and no less.
#[test]
fn every_name_is_described_and_documented() {
    let source = include_str!("../src/metrics/mod.rs");
    let table: BTreeSet<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .flat_map(|row| row.split(" | ").next().unwrap_or_default().split('`'))
        .filter(|name| name.starts_with("keyward_"))
        .collect();
    tell(async |recorder| {
        let world = World::new();
        let (key, id) = world.key(NewToken::named("laptop")).await;
        for credential in ["", &key, &world.issuer.token(&user("alice")).unwrap()] {
            world.ask("/guarded", credential).await;
            world.ask("/", credential).await;
        }
        let scopes = Grant::Only(ScopeSet::new(["a:b"]).unwrap());
        let (narrow, _) = world.key(NewToken::named("narrow").with_scopes(scopes)).await;
        world.ask("/guarded", &narrow).await;
        world.tokens.revoke(&user("alice"), id).await.unwrap();
        world.tokens.flush().await.unwrap();
        let provider = FakeIssuer::start().await;
        let _jwt = JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).await.unwrap();
        let scrape = recorder.scrape();
        assert_eq!(scrape.names(), table);
        assert_eq!(scrape.described(), table);
    });
}
