//! The SQLite store keeps every promise, in a file of its own for each.

use std::sync::atomic::{AtomicU32, Ordering};

use keyward::{store::SqliteStore, testing::conformance};

#[tokio::test]
async fn sqlite_keeps_every_promise() {
    conformance_in_files().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_every_promise_on_several_threads() {
    conformance_in_files().await;
}

#[expect(clippy::expect_used, reason = "a test, though not marked as one")]
async fn conformance_in_files() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let files = AtomicU32::new(0);
    let fresh = || async {
        let name = format!("{}.sqlite", files.fetch_add(1, Ordering::Relaxed));
        SqliteStore::open(directory.path().join(name)).await.expect("a store in a new file")
    };
    conformance::check(fresh).await;
    conformance::check_audit(fresh).await;
}
