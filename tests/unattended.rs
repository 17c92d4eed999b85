//! A manager whose background work nobody runs. Alone in its process: a warning is looked for in the log, and whether a
//! place in the code logs at all is decided once for all threads.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use keyward::{
    TokenManager,
    manage::{IssuedToken, NewToken},
    store::MemoryStore,
    testing::ManualClock,
};
use support::{Gatekeeper, Log, start, user};

const DAY: Duration = Duration::from_secs(86_400);

async fn issue(tokens: &TokenManager, owner: &str) -> IssuedToken {
    tokens.create(&user(owner), NewToken::named("k")).await.unwrap()
}

#[tokio::test]
async fn a_key_in_daily_use_lives_and_one_that_rests_for_thirty_days_dies_without_run() {
    let log = Log::default();
    let _guard = log.catch();
    let clock = ManualClock::at(start());
    let tokens = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).build();
    let gate = Gatekeeper::new(&tokens);
    let (daily, resting) = (issue(&tokens, "alice").await, issue(&tokens, "alice").await);
    assert!(gate.accepts(&resting).await);
    for day in 0..60 {
        assert!(gate.accepts(&daily).await, "day {day}");
        if day == 30 {
            assert!(!gate.accepts(&resting).await, "not used for thirty days");
        }
        clock.advance(DAY);
    }
    let warnings = log.lines_with("nobody runs `TokenManager::run`");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("WARN"), "{warnings:?}");
    let record = tokens.get(&user("alice"), daily.record.id).await.unwrap();
    assert_eq!(record.request_count, 60);
    assert!(record.expires_at > daily.record.expires_at, "and its use has renewed it");
    clock.advance(29 * DAY);
    assert!(!gate.accepts(&daily).await, "the last use was thirty days ago");
}
