//! Writing what was counted to SQLite.

use std::{path::Path, time::Instant};

use keyward::{
    TokenId, UserId,
    secret::TokenDigest,
    store::{SqliteStore, TokenStore, Usage},
    time::UnixTime,
    token::TokenRecord,
};

use crate::support::{
    measure::median,
    report::{Gate, Report},
};

/// The keys in use among all that are stored, and the requests with each in one interval.
const ACTIVE: u64 = 1000;
const REQUESTS: u64 = 20;

const CREATED: UnixTime = UnixTime::from_millis(1_767_225_600_000);

/// Measures with a file of `keys` tokens on the disk.
pub(crate) async fn measure(report: &mut Report, keys: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("tokens.db");
    fill(&path, keys).await;
    let store = SqliteStore::open(&path).await.expect("the store");
    let all: Vec<Usage> = (0..keys).map(|number| usage(number, 1)).collect();
    let active: Vec<Usage> = (0..ACTIVE).map(|number| usage(number * (keys / ACTIVE), REQUESTS)).collect();
    let all = flush(&store, &all, 5).await;
    let active_time = flush(&store, &active, 21).await;
    let start = now();
    for _ in 0..REQUESTS {
        for usage in &active {
            let mut one = usage.clone();
            one.count = 1;
            store.record_usage(&[one]).await.expect("written");
        }
    }
    let naive = start.elapsed().as_nanos() as f64;
    report.line(&format!("flush of {keys} keys, ms"), Some(all / 1e6), 0.0, Gate::Told);
    report.line(&format!("flush of {ACTIVE} keys, ms"), Some(active_time / 1e6), 10.0, Gate::Warn);
    report.line("an update for each request, ms", Some(naive / 1e6), 0.0, Gate::Told);
    report.line("ratio flush/updates time", Some(active_time / naive), 1.0 / 30.0, Gate::Warn);
    report.line("ratio updates/flush time", Some(naive / active_time), 0.0, Gate::Told);
}

#[expect(clippy::disallowed_methods, reason = "the disk's time is no thread's")]
fn now() -> Instant {
    Instant::now()
}

async fn flush(store: &SqliteStore, batch: &[Usage], rounds: usize) -> f64 {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = now();
        store.record_usage(batch).await.expect("written");
        times.push(start.elapsed().as_nanos() as f64);
    }
    median(times)
}

fn id(number: u64) -> TokenId {
    // As ids of tokens that were made one after the other: they grow.
    let mut bytes = [0x5a; 16];
    bytes[..8].copy_from_slice(&(0x019a_9d5a_7c00_0000 + number).to_be_bytes());
    TokenId::from_bytes(bytes).expect("not all zero")
}

fn usage(number: u64, count: u64) -> Usage {
    Usage::new(id(number), count, CREATED)
}

/// Fills the file at `path`. Each token is synced to the disk when it is stored, so this is done in memory
/// where there is a directory for that.
async fn fill(path: &Path, keys: u64) {
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let full = memory.path().join("tokens.db");
    let store = SqliteStore::open(&full).await.expect("the store");
    for number in 0..keys {
        let user = UserId::new(format!("user-{}", number % 1000)).expect("a user id");
        let digest = TokenDigest::of(&number.to_le_bytes());
        let record = TokenRecord::new(id(number), digest, user, CREATED);
        store.insert(&record, None).await.expect("stored");
    }
    drop(store);
    wait_until_closed(&full).await;
    std::fs::copy(&full, path).expect("the copy");
}

/// The last connection to close takes the log's file away.
async fn wait_until_closed(path: &Path) {
    let log = path.with_extension("db-wal");
    while log.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
