//! How many keys a user may have, and what happens at the limit.
//!
//! `KEYWARD_RACE_ROUNDS` makes the races longer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{sync::Arc, time::Duration};

use keyward::{
    AuthLayer, TokenManager, api,
    auth::ApiKeyAuth,
    event::EventKind,
    manage::{IssuedToken, ListQuery, NewToken, TokenError, TokenManagerBuilder, WhenFull},
    store::{MemoryStore, SqliteStore, TokenStore},
    testing::{ManualClock, RecordingSink},
    token::TokenStatus,
};
use support::{Gatekeeper, UnrulyStore, request, send, start, user};
use tokio::{sync::Barrier, task::JoinSet};

const DAY: Duration = Duration::from_secs(86_400);

#[expect(clippy::disallowed_methods, reason = "lets a longer run be asked for")]
fn rounds(default: usize) -> usize {
    std::env::var("KEYWARD_RACE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

fn displacing(store: impl TokenStore) -> TokenManagerBuilder {
    TokenManager::builder(store).with_when_full(WhenFull::RevokeLongestUnused)
}

async fn active(tokens: &TokenManager, owner: &str) -> Vec<IssuedName> {
    let query = ListQuery::default().with_status(TokenStatus::Active).with_limit(200);
    let page = tokens.list(&user(owner), query).await.unwrap();
    page.tokens.into_iter().map(|record| record.name).collect()
}

type IssuedName = Box<str>;

async fn key(tokens: &TokenManager, name: &str) -> IssuedToken {
    tokens.create(&user("alice"), NewToken::named(name)).await.unwrap()
}

#[tokio::test]
async fn a_script_that_makes_a_key_at_each_run_never_gets_stuck() {
    let (clock, events) = (ManualClock::at(start()), RecordingSink::default());
    let builder = displacing(MemoryStore::new()).with_max_active(Some(5)).with_clock(clock.clone());
    let tokens = builder.with_audit(events.clone()).build();
    let gate = Gatekeeper::new(&tokens);
    let daily = key(&tokens, "in daily use").await;
    let mut before: Option<IssuedToken> = None;
    for run in 0..20 {
        clock.advance(Duration::from_secs(3600));
        assert!(gate.accepts(&daily).await, "run {run}");
        let made = key(&tokens, &format!("run {run}")).await;
        assert!(gate.accepts(&made).await, "run {run}");
        if let Some(before) = before.replace(made) {
            assert!(gate.accepts(&before).await, "run {run}: the one before is not the longest unused");
        }
        assert!(active(&tokens, "alice").await.len() <= 5);
    }
    let names = active(&tokens, "alice").await;
    assert_eq!(
        names.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["run 19", "run 18", "run 17", "run 16", "in daily use"]
    );
    let ended: Vec<_> =
        events.events().into_iter().filter(|event| event.kind == EventKind::TokenRevoked).collect();
    assert_eq!(ended.len(), 16, "each end is in the audit log");
    assert!(ended.iter().all(|event| event.reason.as_ref().unwrap().starts_with("made room for")));
}

#[tokio::test]
async fn whoever_makes_and_revokes_keys_in_a_loop_fills_no_disk() {
    let clock = ManualClock::at(start());
    let tokens = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let routes = axum::Router::new().nest("/keys", api::own_tokens(tokens.clone()));
    let app = routes.layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
    let (mallory, alice) = (NewToken::named("first"), NewToken::named("first"));
    let mallory = tokens.create(&user("mallory"), mallory).await.unwrap();
    let alice = tokens.create(&user("alice"), alice).await.unwrap();
    let ask = async |method: &str, path: &str, key: &IssuedToken| {
        let body = if method == "POST" { r#"{"name":"another"}"# } else { "" };
        let body = if path.ends_with("/rotate") { r#"{"overlap_seconds":0}"# } else { body };
        send(&app, request(method, path, key.key.expose(), body)).await
    };
    let made = async |key: &IssuedToken| {
        let answer = ask("POST", "/keys", key).await;
        let id = answer.json()["id"].as_str().map(|id| format!("/keys/{id}"));
        (answer, id)
    };
    let mut last = None;
    for n in 0..300 {
        let (answer, id) = made(&mallory).await;
        assert_eq!(answer.status, 201, "{n}");
        if let Some(before) = std::mem::replace(&mut last, id) {
            assert_eq!(ask("DELETE", &before, &mallory).await.status, 204);
        }
    }
    let last = last.unwrap();
    for path in ["/keys", &format!("{last}/rotate")] {
        let refused = ask("POST", path, &mallory).await;
        assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, "12"), "{path}");
    }
    assert_eq!(ask("DELETE", &last, &mallory).await.status, 204, "what takes away is never refused");
    assert_eq!(made(&alice).await.0.status, 201, "others go on");
    tokens.create(&user("mallory"), NewToken::named("by the program")).await.unwrap();
    let operator = keyward::AdminProof::operator("ops", "a new key for a user").unwrap();
    tokens.create(&operator, NewToken::named("by ops").for_user(user("mallory"))).await.unwrap();
    clock.advance(Duration::from_secs(12));
    assert_eq!(made(&mallory).await.0.status, 201);
    assert_eq!(made(&mallory).await.0.status, 429);
}

#[tokio::test]
async fn a_key_that_gave_way_is_refused_at_once() {
    let tokens = displacing(MemoryStore::new()).with_max_active(Some(2)).build();
    let gate = Gatekeeper::new(&tokens);
    let clockwise = [key(&tokens, "one").await, key(&tokens, "two").await];
    for key in &clockwise {
        assert!(gate.accepts(key).await);
    }
    let third = key(&tokens, "three").await;
    let accepted = [gate.accepts(&clockwise[0]).await, gate.accepts(&clockwise[1]).await];
    assert_eq!(
        accepted.iter().filter(|accepted| **accepted).count(),
        1,
        "one of them is in the cache, and dead"
    );
    assert!(gate.accepts(&third).await);
}

#[tokio::test]
async fn a_key_does_not_displace_itself() {
    let clock = ManualClock::at(start());
    let builder = displacing(MemoryStore::new()).with_max_active(Some(2));
    let tokens = builder.with_clock(clock.clone()).build();
    let gate = Gatekeeper::new(&tokens);
    let presented = key(&tokens, "presented").await;
    let me = gate.principal(&presented).await;
    clock.advance(DAY);
    let other = key(&tokens, "other").await;
    assert!(gate.accepts(&other).await, "used later than the presented one");
    tokens.create(&me, NewToken::named("new")).await.unwrap();
    assert!(gate.accepts(&presented).await && !gate.accepts(&other).await);
    let alone = displacing(MemoryStore::new()).with_max_active(Some(1)).build();
    let only = key(&alone, "only").await;
    let me = Gatekeeper::new(&alone).principal(&only).await;
    let refused = alone.create(&me, NewToken::named("new")).await;
    assert!(matches!(refused, Err(TokenError::LimitReached)), "{refused:?}");
}

#[tokio::test]
async fn a_use_that_is_not_written_yet_counts() {
    let (clock, store) = (ManualClock::at(start()), Arc::new(UnrulyStore::default()));
    let builder = displacing(store.clone()).with_max_active(Some(2)).with_clock(clock.clone());
    let tokens = builder.build();
    let gate = Gatekeeper::new(&tokens);
    let (old, new) = (key(&tokens, "old").await, key(&tokens, "new").await);
    clock.advance(DAY);
    assert!(gate.accepts(&old).await, "and this use is in memory only");
    key(&tokens, "newest").await;
    assert!(gate.accepts(&old).await && !gate.accepts(&new).await);
}

#[tokio::test]
async fn by_default_the_limit_refuses_and_one_that_is_asked_for_always_does() {
    let tokens = TokenManager::builder(MemoryStore::new()).with_max_active(Some(1)).build();
    key(&tokens, "one").await;
    let refused = tokens.create(&user("alice"), NewToken::named("two")).await;
    assert!(matches!(refused, Err(TokenError::LimitReached)));
    let tokens = displacing(MemoryStore::new()).build();
    let first = key(&tokens, "first").await;
    let refused =
        tokens.create(&user("alice"), NewToken::named("only if it is the first").with_max_active(1)).await;
    assert!(matches!(refused, Err(TokenError::LimitReached)));
    assert!(Gatekeeper::new(&tokens).accepts(&first).await);
}

#[tokio::test]
async fn a_lowered_limit_does_not_end_many_keys_at_once() {
    let store = Arc::new(MemoryStore::new());
    let generous = TokenManager::builder(store.clone()).build();
    for n in 0..10 {
        key(&generous, &format!("{n}")).await;
    }
    let strict = displacing(store).with_max_active(Some(3)).build();
    key(&strict, "new").await;
    assert_eq!(active(&strict, "alice").await.len(), 10);
}

/// 64 creations at once, round after round, on a user with some keys already.
async fn race(tokens: TokenManager, limit: usize, rounds: usize, when_full: WhenFull) {
    for round in 0..rounds {
        let owner = format!("user {round}");
        let before = round % (limit + 1);
        for _ in 0..before {
            tokens.create(&user(&owner), NewToken::named("before")).await.unwrap();
        }
        let (barrier, mut tasks) = (Arc::new(Barrier::new(64)), JoinSet::new());
        for _ in 0..64 {
            let (tokens, owner, barrier) = (tokens.clone(), user(&owner), barrier.clone());
            tasks.spawn(async move {
                barrier.wait().await;
                tokens.create(&owner, NewToken::named("at once")).await
            });
        }
        let results = tasks.join_all().await;
        let made = results.iter().filter(|result| result.is_ok()).count();
        let refused = results.iter().filter(|result| matches!(result, Err(TokenError::LimitReached))).count();
        let expected = if when_full == WhenFull::Refuse { limit - before } else { 64 };
        assert_eq!((made, refused), (expected, 64 - expected), "round {round}");
        assert_eq!(active(&tokens, &owner).await.len(), limit, "round {round}");
        tokens.revoke_all(&user(&owner)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_creations_at_once_keep_the_limit_in_memory() {
    for when_full in [WhenFull::Refuse, WhenFull::RevokeLongestUnused] {
        let builder = TokenManager::builder(MemoryStore::new()).with_max_active(Some(10));
        let builder = builder.with_audit(RecordingSink::default());
        race(builder.with_when_full(when_full).build(), 10, rounds(200), when_full).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_creations_at_once_keep_the_limit_in_sqlite() {
    for when_full in [WhenFull::Refuse, WhenFull::RevokeLongestUnused] {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("tokens.db")).await.unwrap();
        let builder = TokenManager::builder(store).with_max_active(Some(10));
        let builder = builder.with_audit(RecordingSink::default());
        race(builder.with_when_full(when_full).build(), 10, rounds(10), when_full).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_on_one_file_keep_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.db");
    let mut processes = Vec::new();
    for _ in 0..4 {
        let store = SqliteStore::open(&path).await.unwrap();
        processes.push(displacing(store).with_max_active(Some(10)).build());
    }
    for round in 0..rounds(5) {
        let (owner, mut tasks) = (format!("user {round}"), JoinSet::new());
        for n in 0..64 {
            let (tokens, owner) = (processes[n % 4].clone(), user(&owner));
            tasks.spawn(async move { tokens.create(&owner, NewToken::named("at once")).await });
        }
        assert!(tasks.join_all().await.iter().all(Result::is_ok));
        assert_eq!(active(&processes[0], &owner).await.len(), 10, "round {round}");
    }
}
