//! Warnings before keys expire, and the removal of those that ended long ago.
//!
//! `KEYWARD_CLEANUP_TOKENS` sets how many tokens are stored where the removal is measured.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, response::IntoResponse};
use keyward::{
    AdminProof, AuthLayer, TokenId, TokenManager, api,
    auth::ApiKeyAuth,
    error::Refusal,
    event::{Alert, EventKind},
    manage::{IssuedToken, ListQuery, NewToken, TokenError, TokenUpdate},
    scope::{Grant, RoleSet, ScopeSet},
    secret::TokenDigest,
    store::{MemoryStore, SqliteStore, TokenStore},
    testing::{ManualClock, RecordingSink},
    time::UnixTime,
    token::{LifetimePolicy, Lifetimes, TokenClass, TokenRecord, TokenStatus},
};
use serde_json::json;
use support::{Gatekeeper, World, request, send, start, user};

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

fn operator() -> AdminProof {
    AdminProof::operator("ops", "a test").unwrap()
}

impl World {
    async fn key(&self, name: &str, days: u32) -> IssuedToken {
        let new = NewToken::named(name).with_lifetime(days * DAY);
        self.tokens.create(&user("alice"), new).await.unwrap()
    }

    /// The days of the warnings that one round sends, by token.
    async fn round(&self) -> Vec<(TokenId, u32)> {
        self.events.clear();
        self.tokens.cleanup(&operator()).await.unwrap();
        warnings(&self.events)
    }
}

fn is_warning(event: &keyward::event::Event) -> bool {
    matches!(event.kind, EventKind::TokenExpiring(_))
}

fn warnings(events: &RecordingSink) -> Vec<(TokenId, u32)> {
    let days = |event: keyward::event::Event| match event.kind {
        EventKind::TokenExpiring(days) => Some((event.token?, days)),
        _ => None,
    };
    events.events().into_iter().filter_map(days).collect()
}

// ---- warnings --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_key_in_use_is_warned_about_at_thirty_seven_and_one_days_and_once_each() {
    let world = World::new();
    let key = world.key("laptop", 90).await;
    let mut told = Vec::new();
    for hour in 0..90 * 24 {
        if hour % 24 == 0 {
            assert!(world.gate.accepts(&key).await, "hour {hour}");
        }
        told.extend(world.round().await.into_iter().map(|(_, days)| (hour / 24, days)));
        world.clock.advance(HOUR);
    }
    assert_eq!(told, [(60, 30), (83, 7), (89, 1)]);
    let event = {
        world.clock.set(start().saturating_add(60 * DAY));
        let other = world.key("other", 31).await;
        world.clock.advance(DAY);
        assert_eq!(world.round().await, [(other.record.id, 30)]);
        world.events.events().remove(0)
    };
    assert_eq!(event.owner, Some(user("alice")));
    assert_eq!(event.reason.as_deref(), Some("expires at 2026-04-02T00:00:00.000Z"));
}

#[tokio::test]
async fn warnings_are_sent_once_across_restarts_and_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.db");
    let clock = ManualClock::at(start());
    let open = async || {
        let store = SqliteStore::open(&path).await.unwrap();
        let events = RecordingSink::default();
        let builder = TokenManager::builder(store).with_clock(clock.clone()).with_audit(events.clone());
        (builder.with_max_active(None).build(), events)
    };
    let (first, _) = open().await;
    let mut ids = Vec::new();
    for n in 0..150 {
        let new = NewToken::named(format!("{n}")).with_lifetime(20 * DAY);
        ids.push(first.create(&user("alice"), new).await.unwrap().record.id);
    }
    drop(first);
    for (day, days) in [(0, None), (13, Some(7)), (14, None), (19, Some(1)), (19, None)] {
        clock.set(start().saturating_add(day * DAY));
        let processes = [open().await, open().await, open().await];
        let [(one, _), (two, _), (three, _)] = &processes;
        let proof = operator();
        let rounds = tokio::join!(one.cleanup(&proof), two.cleanup(&proof), three.cleanup(&proof));
        let done = [rounds.0.unwrap(), rounds.1.unwrap(), rounds.2.unwrap()];
        let mut told: Vec<_> = processes.iter().flat_map(|(_, events)| warnings(events)).collect();
        told.sort_unstable();
        let expected: Vec<_> = ids.iter().flat_map(|id| days.map(|days| (*id, days))).collect();
        assert_eq!(told, expected, "day {day}");
        assert_eq!(done.map(|done| done.warned).iter().sum::<u64>(), expected.len() as u64);
    }
}

#[tokio::test]
async fn nobody_is_warned_of_a_key_that_renews_itself() {
    let world = World::new();
    let key = world.tokens.create(&user("alice"), NewToken::named("default")).await.unwrap();
    for day in 0..300 {
        assert!(world.gate.accepts(&key).await, "day {day}");
        assert_eq!(world.round().await, [], "day {day}");
        world.clock.advance(DAY);
    }
    // The year is the end whatever its use.
    let mut told = Vec::new();
    for day in 300..366 {
        world.gate.accepts(&key).await;
        told.extend(world.round().await.into_iter().map(|(_, days)| (day, days)));
        world.clock.advance(DAY);
    }
    assert_eq!(told, [(335, 30), (358, 7), (364, 1)]);
}

#[tokio::test]
async fn nobody_is_warned_of_a_key_that_nobody_misses() {
    let world = World::new();
    let alice = user("alice");
    let [revoked, replaced, disabled, idle] = [
        world.key("revoked", 40).await,
        world.key("replaced", 40).await,
        world.key("disabled", 40).await,
        world.key("idle", 61).await,
    ];
    let parent = world.key("parent", 364).await;
    let me = world.gate.principal(&parent).await;
    let child =
        world.tokens.create(&me, NewToken::named("child").with_lifetime(40 * DAY).as_child()).await.unwrap();
    let short = world.key("short", 1).await;
    world.tokens.revoke(&alice, revoked.record.id).await.unwrap();
    world.tokens.rotate(&alice, replaced.record.id, Some(39 * DAY)).await.unwrap();
    let off = TokenUpdate::default().with_enabled(false);
    world.tokens.update(&alice, disabled.record.id, off.clone()).await.unwrap();
    world.tokens.update(&alice, parent.record.id, off).await.unwrap();
    world.clock.advance(10 * DAY + HOUR);
    let told = world.round().await;
    let silent = [&revoked, &replaced, &disabled, &child, &short].map(|key| key.record.id);
    assert!(told.iter().all(|(id, _)| !silent.contains(id)), "{told:?}");
    world.clock.advance(21 * DAY);
    let told = world.round().await;
    assert!(told.iter().all(|(id, _)| *id != idle.record.id), "it died of idleness: {told:?}");
}

#[tokio::test]
async fn a_warning_of_a_child_tells_the_end_of_the_key_that_it_ends_with() {
    let (clock, events) = (ManualClock::at(start()), RecordingSink::default());
    let policy = LifetimePolicy::default().with_idle_timeout(None);
    let lifetimes = Lifetimes::default().with_policy(TokenClass::User, policy);
    let builder = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone());
    let tokens = builder.with_audit(events.clone()).with_lifetimes(lifetimes).build();
    let parent = tokens.create(&user("alice"), NewToken::named("parent")).await.unwrap();
    let me = Gatekeeper::new(&tokens).principal(&parent).await;
    let child = NewToken::named("child").with_lifetime(110 * DAY).as_child();
    let child = tokens.create(&me, child).await.unwrap().record.id;
    clock.advance(80 * DAY);
    tokens.cleanup(&operator()).await.unwrap();
    let told = events.events().into_iter().find(|event| event.token == Some(child) && is_warning(event));
    let told = told.unwrap();
    assert_eq!(told.kind, EventKind::TokenExpiring(10));
    assert_eq!(told.reason.as_deref(), Some("expires at 2026-04-01T00:00:00.000Z"));
}

/// Three keys and a child of one of them, for all of which a warning is due.
async fn due(world: &World) -> Vec<TokenId> {
    let parent = world.key("parent", 40).await;
    let me = world.gate.principal(&parent).await;
    let child = NewToken::named("child").with_lifetime(39 * DAY).as_child();
    let child = world.tokens.create(&me, child).await.unwrap();
    let others = [world.key("one", 40).await, world.key("two", 40).await];
    world.clock.advance(10 * DAY);
    let mut ids = vec![parent.record.id, child.record.id];
    ids.extend(others.map(|key| key.record.id));
    ids.sort_unstable();
    ids
}

/// The tokens that were warned about.
fn warned(events: &RecordingSink) -> Vec<TokenId> {
    let mut ids: Vec<_> = warnings(events).into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn warnings_that_were_given_out_are_sent_also_if_the_round_is_given_up() {
    let world = World::new();
    let expected = due(&world).await;
    let gate = world.store.stop_next_get();
    let (tokens, proof) = (world.tokens.clone(), operator());
    let round = tokio::spawn(async move { tokens.cleanup(&proof).await });
    gate.arrival().await;
    round.abort();
    assert!(round.await.is_err());
    assert_eq!(warned(&world.events), expected);
    assert_eq!(world.round().await, [], "and once");
}

#[tokio::test(start_paused = true)]
async fn warnings_whose_giving_out_takes_long_are_sent_by_the_next_round() {
    let world = World::new();
    let expected = due(&world).await;
    let gate = world.store.close_claim_gate();
    let failed = world.tokens.cleanup(&operator()).await;
    assert!(matches!(failed, Err(TokenError::Store(_))), "{failed:?}");
    gate.arrival().await;
    gate.open();
    assert_eq!(warned(&world.events), []);
    world.tokens.cleanup(&operator()).await.unwrap();
    assert_eq!(warned(&world.events), expected);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_loses_no_warning_that_was_given_out() {
    let world = World::new();
    let expected = due(&world).await;
    let gate = world.store.close_claim_gate();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let work = tokio::spawn(world.tokens.clone().run(async { drop(stopped.await) }));
    gate.arrival().await;
    drop(stop);
    tokio::task::yield_now().await;
    gate.open();
    work.await.unwrap();
    assert_eq!(warned(&world.events), expected);
}

#[tokio::test]
async fn other_times_of_warnings_can_be_chosen_and_none() {
    for (ahead, expected) in [(vec![3 * DAY], vec![3]), (vec![], vec![])] {
        let (clock, events) = (ManualClock::at(start()), RecordingSink::default());
        let builder = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone());
        let tokens = builder.with_audit(events.clone()).with_expiry_warnings(ahead).build();
        tokens.create(&user("alice"), NewToken::named("x").with_lifetime(20 * DAY)).await.unwrap();
        for _ in 0..20 {
            tokens.cleanup(&operator()).await.unwrap();
            clock.advance(DAY);
        }
        let days: Vec<_> = warnings(&events).into_iter().map(|(_, days)| days).collect();
        assert_eq!(days, expected);
    }
}

// ---- lists -----------------------------------------------------------------------------------------

#[tokio::test]
async fn lists_show_what_expires_soon_and_what_nobody_uses() {
    let world = World::new();
    let names = async |query: ListQuery| {
        let page = world.tokens.list(&user("alice"), query).await.unwrap();
        page.tokens.iter().map(|record| record.name.to_string()).collect::<Vec<_>>()
    };
    let (soon, used, later) =
        (world.key("soon", 10).await, world.key("used", 60).await, world.key("later", 60).await);
    let gone = world.key("gone", 10).await;
    world.tokens.revoke(&user("alice"), gone.record.id).await.unwrap();
    world.key("past", 2).await;
    world.clock.advance(5 * DAY);
    assert!(world.gate.accepts(&used).await, "a use that is not written yet counts");
    let all = ListQuery::default;
    for (what, query, expected) in [
        ("expiring within 4 days", all().with_expiring_within(4 * DAY), &[][..]),
        ("expiring within 5 days", all().with_expiring_within(5 * DAY), &["soon"]),
        ("expiring within 55 days", all().with_expiring_within(55 * DAY), &["later", "used", "soon"]),
        ("unused for 5 days", all().with_unused_for(5 * DAY), &["past", "gone", "later", "soon"]),
        ("unused for 6 days", all().with_unused_for(6 * DAY), &[]),
        (
            "unused and active",
            all().with_unused_for(5 * DAY).with_status(TokenStatus::Active),
            &["later", "soon"],
        ),
        (
            "all three",
            all().with_unused_for(DAY).with_expiring_within(30 * DAY).with_status(TokenStatus::Active),
            &["soon"],
        ),
    ] {
        assert_eq!(names(query).await, expected, "{what}");
    }
    let (_, _) = (soon, later);
}

#[tokio::test]
async fn filters_over_http() {
    let tokens = TokenManager::builder(MemoryStore::new())
        .with_roles(|user: &keyward::UserId| {
            let admin: &[&str] = if user.as_str() == "root" { &["admin"] } else { &[] };
            RoleSet::new(admin).unwrap()
        })
        .build();
    let app = Router::new()
        .nest("/api/keys", api::own_tokens(tokens.clone()))
        .nest("/admin/tokens", api::admin_tokens(tokens.clone()))
        .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
    let short = tokens.create(&user("alice"), NewToken::named("short").with_lifetime(5 * DAY)).await.unwrap();
    let long = tokens.create(&user("alice"), NewToken::named("long")).await.unwrap();
    let admin = tokens.create(&user("root"), NewToken::named("admin")).await.unwrap();
    let own = ("/api/keys", long.key.expose());
    let all = ("/admin/tokens", admin.key.expose());
    for ((path, key), query, expected) in [
        (own, "expiring_within_days=5", &["short"][..]),
        (own, "expiring_within_days=4", &[]),
        (own, "unused_for_days=1", &[]),
        (own, "expiring_within_days=5&status=active&unused_for_days=1", &[]),
        (all, "expiring_within_days=5", &["short"]),
        (all, "user_id=root&expiring_within_days=90", &["admin"]),
    ] {
        let answer = send(&app, request("GET", &format!("{path}?{query}"), key, "")).await;
        let json = answer.json();
        let names: Vec<_> =
            json["tokens"].as_array().unwrap().iter().map(|token| token["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{path}?{query}");
    }
    for query in [
        "expiring_within_days=0",
        "unused_for_days=0",
        "unused_for_days=-1",
        "expiring_within_days=soon",
        "expiring_within_days=1&expiring_within_days=2",
    ] {
        for (path, key) in [own, all] {
            let answer = send(&app, request("GET", &format!("{path}?{query}"), key, "")).await;
            assert_eq!(answer.status, 400, "{path}?{query}");
        }
    }
    let _ = short;
}

// ---- removal ---------------------------------------------------------------------------------------

#[tokio::test]
async fn keys_that_ended_are_kept_for_thirty_days_and_then_they_are_gone() {
    let world = World::new();
    let alice = user("alice");
    let (living, revoked, expired) =
        (world.key("living", 365).await, world.key("revoked", 365).await, world.key("expired", 1).await);
    world.tokens.revoke(&alice, revoked.record.id).await.unwrap();
    for day in 0..62 {
        assert!(world.gate.accepts(&living).await, "day {day}");
        world.round().await;
        let has = async |key: &IssuedToken| world.tokens.get(&alice, key.record.id).await.is_ok();
        assert!(has(&living).await);
        assert_eq!((has(&revoked).await, has(&expired).await), (day < 30, day < 31), "day {day}");
        if day == 29 {
            world.events.clear();
            assert!(!world.gate.accepts(&revoked).await);
            assert_eq!(world.events.alerts(), [Alert::RevokedTokenUsed], "whoever has it is noticed");
        }
        world.clock.advance(DAY);
    }
    world.events.clear();
    assert!(!world.gate.accepts(&revoked).await && !world.gate.accepts(&expired).await);
    assert_eq!(world.events.alerts(), [], "then it is as unknown as any other");
    assert_eq!(world.tokens.list(&alice, ListQuery::default()).await.unwrap().tokens.len(), 1);
}

#[tokio::test]
async fn however_many_keys_are_made_what_is_stored_stays_bounded() {
    let world = World::new();
    let mut most = 0;
    for day in 0..200 {
        for n in 0..10 {
            world.key(&format!("day {day}, {n}"), 1).await;
        }
        let done = world.tokens.cleanup(&operator()).await.unwrap();
        assert!(done.complete);
        most = most.max(done.stored);
        world.clock.advance(DAY);
    }
    assert_eq!(most, 10 * 31, "those of today, and of the thirty days for which they are kept");
}

#[tokio::test]
async fn traps_are_never_removed_and_a_shorter_retention_can_be_chosen() {
    let clock = ManualClock::at(start());
    let store = Arc::new(MemoryStore::new());
    let builder = TokenManager::builder(store.clone()).with_clock(clock.clone());
    let tokens = builder.with_retention(DAY).build();
    let mut trap =
        tokens.create(&user("alice"), NewToken::named("x").with_lifetime(DAY)).await.unwrap().record;
    trap.id = "019a9d5a-7c00-7abc-8def-0123456789ab".parse().unwrap();
    trap.digest = TokenDigest::of(b"trap");
    trap.honeytoken = true;
    store.insert(&trap, None).await.unwrap();
    clock.advance(2 * DAY);
    let done = tokens.cleanup(&operator()).await.unwrap();
    assert_eq!((done.removed, done.stored), (1, 1));
    clock.advance(1000 * DAY);
    assert_eq!(tokens.cleanup(&operator()).await.unwrap().removed, 0);
}

#[tokio::test]
async fn cleaning_up_is_audited_and_a_store_that_is_down_says_so() {
    let world = World::new();
    world.key("x", 1).await;
    world.clock.advance(40 * DAY);
    world.events.clear();
    world.store.set_down(true);
    assert!(matches!(world.tokens.cleanup(&operator()).await, Err(TokenError::Store(_))));
    assert!(world.events.kinds().contains(&EventKind::OperationFailed));
    world.store.set_down(false);
    world.events.clear();
    assert_eq!(world.tokens.cleanup(&operator()).await.unwrap().removed, 1);
    let removed =
        world.events.events().into_iter().find(|event| event.kind == EventKind::TokensRemoved(1)).unwrap();
    assert_eq!((removed.actor, removed.reason.as_deref()), (Some(user("ops")), Some("a test")));
}

#[tokio::test]
async fn cleaning_up_over_http_needs_the_role_and_the_scope() {
    let roles = |user: &keyward::UserId| {
        let admin: &[&str] = if user.as_str() == "root" { &["admin"] } else { &[] };
        RoleSet::new(admin).unwrap()
    };
    let clock = ManualClock::at(start());
    let builder = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).with_roles(roles);
    let tokens = builder.build();
    let app = Router::new()
        .route("/admin/cleanup", api::admin_cleanup(tokens.clone()))
        .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
    tokens.create(&user("alice"), NewToken::named("old").with_lifetime(DAY)).await.unwrap();
    clock.advance(40 * DAY);
    let issue = async |owner: &str, scopes: Option<&str>| {
        let grant = scopes.map_or(Grant::All, |scope| Grant::Only(ScopeSet::new([scope]).unwrap()));
        tokens.create(&user(owner), NewToken::named("k").with_scopes(grant)).await.unwrap()
    };
    for (owner, scope, status) in [
        ("alice", None, 403),
        ("alice", Some("admin:write"), 403),
        ("root", Some("admin:read"), 403),
        ("root", Some("admin:write"), 200),
        ("root", None, 200),
    ] {
        let key = issue(owner, scope).await;
        let answer = send(&app, request("POST", "/admin/cleanup", key.key.expose(), "")).await;
        assert_eq!(answer.status, status, "{owner} with {scope:?}");
        if status == 200 {
            let removed = u64::from(scope.is_some());
            let json = answer.json();
            assert_eq!(
                (&json["removed"], &json["complete"], &json["warned"]),
                (&json!(removed), &json!(true), &json!(0))
            );
        }
    }
    let key = issue("root", None).await;
    assert_eq!(
        send(&app, request("POST", "/admin/cleanup", key.key.expose(), r#"{"all": true}"#)).await.status,
        400
    );
    assert_eq!(send(&app, request("GET", "/admin/cleanup", key.key.expose(), "")).await.status, 405);
    assert_eq!(send(&app, request("POST", "/admin/cleanup", "nobody", "")).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_round_that_does_not_get_its_turn_says_so() {
    let world = World::new();
    world.key("x", 40).await;
    let gate = world.store.close_claim_gate();
    let (tokens, proof) = (world.tokens.clone(), operator());
    let first = tokio::spawn(async move { tokens.cleanup(&proof).await });
    gate.arrival().await;
    let second = world.tokens.cleanup(&operator()).await;
    assert!(matches!(second, Err(TokenError::Busy)), "{second:?}");
    assert!(world.events.kinds().contains(&EventKind::OperationRefused(Refusal::Busy)));
    assert!(first.await.unwrap().is_err(), "that store does not answer");
    let error = api::ApiError::from(TokenError::Busy).into_response();
    assert_eq!(error.status(), 409);
}

#[tokio::test(start_paused = true)]
async fn a_round_without_time_for_the_removal_tells_what_was_counted_before() {
    let world = World::new();
    let insert = async |numbers: std::ops::Range<u64>, expires_at| {
        for n in numbers {
            let mut record = numbered(n);
            record.expires_at = expires_at;
            world.store.insert(&record, None).await.unwrap();
        }
    };
    insert(0..300, None).await;
    world.store.set_upkeep_slow(true);
    let done = world.tokens.cleanup(&operator()).await.unwrap();
    assert!(!done.complete && done.stored > 0, "{done:?}");
    insert(300..900, Some(start().saturating_add(90 * DAY))).await;
    let next = world.tokens.cleanup(&operator()).await.unwrap();
    assert_eq!((next.complete, next.stored), (false, done.stored), "it only looked for warnings");
}

// ---- the background work ---------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_background_work_warns_and_removes_once_an_hour_and_stops_when_it_is_told() {
    let world = World::new();
    let warned = world.key("warned", 40).await;
    let removed = world.key("removed", 1).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let work = tokio::spawn(world.tokens.clone().run(async { drop(stopped.await) }));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(warnings(&world.events), [], "a first round soon after the start");
    for _ in 0..35 {
        world.clock.advance(DAY);
        assert!(world.gate.accepts(&warned).await);
        tokio::time::sleep(HOUR + Duration::from_secs(5)).await;
    }
    assert_eq!(warnings(&world.events), [(warned.record.id, 30), (warned.record.id, 7)]);
    let kinds = world.events.kinds();
    assert!(kinds.contains(&EventKind::TokensRemoved(1)), "{kinds:?}");
    assert!(matches!(world.tokens.get(&user("alice"), removed.record.id).await, Err(TokenError::NotFound)));
    world.store.set_hanging(true);
    tokio::time::sleep(2 * HOUR).await;
    world.store.set_hanging(false);
    world.clock.advance(4 * DAY);
    tokio::time::sleep(HOUR + Duration::from_secs(65)).await;
    assert_eq!(warnings(&world.events).last(), Some(&(warned.record.id, 1)), "it goes on after an outage");
    drop(stop);
    tokio::time::timeout(Duration::from_secs(1), work).await.expect("it stops at once").unwrap();
}

// ---- measured --------------------------------------------------------------------------------------

#[expect(clippy::disallowed_methods, reason = "lets a longer run be asked for")]
fn stored() -> u64 {
    std::env::var("KEYWARD_CLEANUP_TOKENS").ok().and_then(|count| count.parse().ok()).unwrap_or(5_000)
}

#[expect(clippy::disallowed_methods, reason = "measures what users would notice")]
fn now() -> Instant {
    Instant::now()
}

fn numbered(number: u64) -> TokenRecord {
    let mut id = [0x5a; 16];
    id[..8].copy_from_slice(&(0x0100_9d5a_7c00_0000 + number).to_be_bytes());
    let owner = user(&format!("user {}", number % 10_007));
    let digest = TokenDigest::of(&number.to_le_bytes());
    let mut record = TokenRecord::new(TokenId::from_bytes(id).unwrap(), digest, owner, start());
    record.name = "a token among many".into();
    record.rolling = true;
    record.expires_at = Some(start().saturating_add(90 * DAY));
    record
}

/// A file with so many tokens, nine of ten of which were revoked or forgotten long ago.
async fn fill(path: &Path, tokens: u64, now: UnixTime) {
    // Each token is synced to the disk when it is stored, so this is done in memory where there is some.
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let full = memory.path().join("tokens.db");
    let store = SqliteStore::open(&full).await.unwrap();
    for number in 0..tokens {
        let mut record = numbered(number);
        match number % 10 {
            0 => (record.created_at, record.expires_at) = (now, Some(now.saturating_add(90 * DAY))),
            1..4 => record.revoked_at = Some(start().saturating_add(DAY)),
            _ => {}
        }
        store.insert(&record, None).await.unwrap();
    }
    drop(store);
    while full.with_file_name("tokens.db-wal").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::copy(&full, path).unwrap();
}

/// No request waits longer for it.
const STALL: Duration = Duration::from_millis(50);

/// Forgets all events, so that their list is not measured.
#[derive(Debug)]
struct Silent;

impl keyward::event::AuditSink for Silent {
    fn record(&self, _: &keyward::event::Event) {}
}

/// What clients wait, sorted, and the longest of it that was not the machine's.
struct Waits {
    sorted: Vec<Duration>,
    longest_own: Duration,
}

impl Waits {
    fn of(waits: &[Wait], machine: &Machine) -> Self {
        let mut sorted: Vec<_> = waits.iter().map(Wait::length).collect();
        sorted.sort_unstable();
        let own = waits.iter().map(|wait| wait.length().saturating_sub(machine.stalled(wait)));
        Self { sorted, longest_own: own.max().unwrap_or_default() }
    }

    fn at(&self, part: f64) -> Duration {
        self.sorted[((self.sorted.len() - 1) as f64 * part) as usize]
    }

    fn tell(&self, name: &str) {
        println!(
            "{name:44} {:7} requests, p50 {:8.3} ms, p99 {:8.3} ms, p99.9 {:8.3} ms, longest {:8.3} ms, \
             of which not the machine's {:8.3} ms",
            self.sorted.len(),
            self.at(0.5).as_secs_f64() * 1e3,
            self.at(0.99).as_secs_f64() * 1e3,
            self.at(0.999).as_secs_f64() * 1e3,
            self.at(1.0).as_secs_f64() * 1e3,
            self.longest_own.as_secs_f64() * 1e3,
        );
    }
}

#[derive(Clone, Copy)]
struct Wait {
    begun: Instant,
    ended: Instant,
}

impl Wait {
    fn since(begun: Instant) -> Self {
        Self { begun, ended: now() }
    }

    fn length(&self) -> Duration {
        self.ended - self.begun
    }
}

/// When the machine had no time for this process, or its disk none: a thread that only sleeps for a moment woke late,
/// and another one waited for a small file of its own to be synced.
struct Machine {
    late: Vec<Wait>,
    syncs: Vec<Wait>,
}

impl Machine {
    /// Watches it until `done`.
    fn watch(folder: &Path, done: &AtomicBool) -> Self {
        let path = folder.join("beside");
        std::thread::scope(|scope| {
            let syncing = scope.spawn(move || {
                let mut syncs = Vec::new();
                let mut file = std::fs::File::create(path).unwrap();
                while !done.load(Ordering::SeqCst) {
                    let begun = now();
                    std::io::Write::write_all(&mut file, b"x").unwrap();
                    file.sync_data().unwrap();
                    syncs.push(Wait::since(begun));
                    std::thread::sleep(Duration::from_millis(20));
                }
                syncs
            });
            let mut late = Vec::new();
            while !done.load(Ordering::SeqCst) {
                let begun = now();
                std::thread::sleep(Duration::from_millis(1));
                late.push(Wait::since(begun));
            }
            late.retain(|wait| wait.length() > Duration::from_millis(3));
            Self { late, syncs: syncing.join().unwrap() }
        })
    }

    /// How long of `wait` this was so.
    fn stalled(&self, wait: &Wait) -> Duration {
        let most = |stalls: &[Wait]| {
            let overlap = |stall: &Wait| {
                stall.ended.min(wait.ended).saturating_duration_since(stall.begun.max(wait.begun))
            };
            stalls.iter().map(overlap).sum::<Duration>()
        };
        most(&self.late).max(most(&self.syncs))
    }
}

/// Three clients: one whose every request asks the store, one whose key is in the cache, one that makes and revokes
/// keys. Until `done`.
async fn serve(tokens: &[TokenManager; 2], keys: &[IssuedToken], done: &AtomicBool) -> [Vec<Wait>; 3] {
    let [tokens, caching] = tokens;
    let gate = Gatekeeper::new(tokens);
    let cached = async {
        let (gate, mut waits) = (Gatekeeper::new(caching), Vec::new());
        while !done.load(Ordering::SeqCst) {
            let begun = now();
            assert!(gate.accepts(&keys[0]).await);
            waits.push(Wait::since(begun));
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        waits
    };
    let reading = async {
        let mut waits = Vec::new();
        for key in keys.iter().cycle() {
            let begun = now();
            assert!(gate.accepts(key).await);
            waits.push(Wait::since(begun));
            if done.load(Ordering::SeqCst) {
                break;
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        waits
    };
    let writing = async {
        let mut waits = Vec::new();
        while !done.load(Ordering::SeqCst) {
            let begun = now();
            let made = tokens.create(&user("writer"), NewToken::named("x")).await.unwrap();
            waits.push(Wait::since(begun));
            let begun = now();
            tokens.revoke(&user("writer"), made.record.id).await.unwrap();
            waits.push(Wait::since(begun));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        waits
    };
    tokio::join!(reading, cached, writing).into()
}

/// What the clients wait while `work` is done.
async fn measured<T>(
    managers: &[TokenManager; 2],
    keys: &[IssuedToken],
    folder: &Path,
    work: impl Future<Output = T>,
) -> ([Waits; 3], T) {
    let (done, folder) = (Arc::new(AtomicBool::new(false)), folder.to_path_buf());
    let watched = done.clone();
    let machine = tokio::task::spawn_blocking(move || Machine::watch(&folder, &watched));
    let work = async {
        let result = work.await;
        done.store(true, Ordering::SeqCst);
        result
    };
    let (waits, result) = tokio::join!(serve(managers, keys, &done), work);
    let machine = machine.await.unwrap();
    (waits.map(|waits| Waits::of(&waits, &machine)), result)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_many_dead_keys_are_removed_nobody_waits() {
    let clock = ManualClock::at(start().saturating_add(200 * DAY));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.db");
    let tokens_before = stored();
    fill(&path, tokens_before, keyward::time::Clock::now(&clock)).await;
    let store = Arc::new(SqliteStore::open(&path).await.unwrap());
    let builder = || TokenManager::builder(store.clone()).with_clock(clock.clone()).with_audit(Silent);
    let managers = [builder().with_staleness(Duration::ZERO).unwrap().build(), builder().build()];
    let tokens = &managers[0];
    let mut keys = Vec::new();
    for n in 0..20 {
        keys.push(tokens.create(&user("reader"), NewToken::named(format!("{n}"))).await.unwrap());
    }
    let alone = measured(&managers, &keys, folder.path(), async {
        tokio::time::sleep(Duration::from_secs(2 + tokens_before / 20_000)).await;
    });
    let (alone, ()) = alone.await;
    let cleaning = async {
        let (begun, mut removed) = (now(), 0);
        loop {
            let round = tokens.cleanup(&operator()).await.unwrap();
            removed += round.removed;
            if round.complete {
                return (begun.elapsed(), removed, round.stored);
            }
        }
    };
    let (busy, (took, removed, left)) = measured(&managers, &keys, folder.path(), cleaning).await;
    println!("{removed} of {tokens_before} tokens removed in {took:?}, {left} are left");
    for (name, waits) in [("alone", &alone), ("during the removal", &busy)] {
        waits[0].tell(&format!("{name}: requests that ask the store"));
        waits[1].tell(&format!("{name}: requests, cached"));
        waits[2].tell(&format!("{name}: keys made and revoked"));
    }
    assert_eq!(removed, tokens_before / 10 * 9);
    // What is slow without the removal as well is the machine's.
    for (n, what) in ["look-ups", "requests", "changes"].into_iter().enumerate() {
        let bound = STALL.max(alone[n].at(1.0) * 2);
        assert!(busy[n].at(0.99) <= bound, "{what}: {:?}", busy[n].at(0.99));
        // Among other tests a single request may wait for its turn.
        if tokens_before >= 100_000 {
            assert!(busy[n].longest_own <= bound, "{what}: {:?}", busy[n].longest_own);
        }
    }
}
