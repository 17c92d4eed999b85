//! The PostgreSQL store keeps every promise, on a real server, and what needs a server to go wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

#[path = "support/postgres.rs"]
mod postgres;

use keyward::testing::conformance;
use postgres::Database;

#[tokio::test]
async fn postgres_keeps_every_promise() {
    let Some(database) = Database::new() else { return };
    conformance::check(|| database.fresh()).await;
    conformance::check_audit(|| database.fresh()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_every_promise_on_several_threads() {
    let Some(database) = Database::new() else { return };
    conformance::check(|| database.fresh()).await;
    conformance::check_audit(|| database.fresh()).await;
}
