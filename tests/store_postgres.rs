//! The PostgreSQL store keeps every promise, on a real server, and what needs a server to go wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

#[path = "support/postgres.rs"]
mod postgres;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyward::{
    AdminProof, Owner, TokenId, TokenManager, UserId,
    audit::{AuditQuery, ChainHead},
    event::Event,
    limit::{QuotaPeriod, QuotaUse},
    secret::TokenDigest,
    store::{
        AuditStore, Change, MemoryStore, Page, PostgresOptions, PostgresStore, Purge, Reach, Room, Rotation,
        StoreError, StoreErrorKind, TokenStore, Usage, UserState, UserStatus, Warnings,
    },
    testing::{RecordingSink, conformance},
    time::UnixTime,
    token::{Lifetimes, TokenRecord},
    watch::{Habits, Network},
};
use postgres::{Database, Server};
use tokio::task::JoinSet;

const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_000);

/// The requests' own limit is 4.5 seconds.
const BOUND: Duration = Duration::from_millis(4_500);

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn id(number: u64) -> TokenId {
    let mut bytes = [1; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    TokenId::from_bytes(bytes).unwrap()
}

fn record(number: u64) -> TokenRecord {
    let mut record = TokenRecord::new(id(number), TokenDigest::of(&number.to_be_bytes()), user("alice"), NOW);
    record.expires_at = Some(NOW.saturating_add(Duration::from_secs(86_400)));
    record.rolling = true;
    record
}

fn record_of(name: &str, number: u64) -> TokenRecord {
    let mut record = record(number);
    record.owner = user(name);
    record
}

fn habits() -> Box<Habits> {
    let mut habits = Habits::default();
    habits.networks.push((Network::of([192, 0, 2, 1].into()), NOW).into());
    Box::new(habits)
}

fn noticed(id: TokenId) -> Usage {
    let mut usage = Usage::new(id, 1, NOW);
    usage.habits = Some(habits());
    usage
}

#[expect(clippy::disallowed_methods, reason = "how long something takes is what is tested")]
fn clock() -> Instant {
    Instant::now()
}

/// Waits until `holds` does, 10 seconds at most.
async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let start = clock();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn event() -> Event {
    let events = RecordingSink::default();
    let tokens = TokenManager::builder(MemoryStore::new()).with_audit(events.clone()).build();
    tokens.create(&user("alice"), keyward::manage::NewToken::named("␀")).await.unwrap();
    events.events().pop().unwrap()
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> StoreErrorKind {
    outcome.unwrap_err().kind()
}

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

#[tokio::test]
async fn many_start_at_once_on_an_empty_database() {
    let Some(database) = Database::new() else { return };
    let mut starting = JoinSet::new();
    for _ in 0..8 {
        starting.spawn(database.options().with_connections(1).open());
    }
    for store in starting.join_all().await {
        store.unwrap().health().await.unwrap();
    }
    assert_eq!(database.value("SELECT count(*) || ' ' || max(version) FROM keyward_schema").await, "1 1");
}

#[tokio::test]
async fn tables_of_others_and_of_later_versions_are_refused_and_left_alone() {
    let Some(database) = Database::new() else { return };
    let refusal = || async {
        let error = database.options().open().await.unwrap_err();
        (error.kind(), error.to_string())
    };
    drop(database.open().await);
    database.run("UPDATE keyward_schema SET version = 99").await;
    let (kind, sentence) = refusal().await;
    assert_eq!(kind, StoreErrorKind::Incompatible);
    assert!(sentence.contains("version 99") && sentence.contains("run a newer keyward"), "{sentence}");
    assert_eq!(database.value("SELECT max(version) FROM keyward_schema").await, "99");

    database.run("DROP TABLE keyward_schema").await;
    let (kind, sentence) = refusal().await;
    assert_eq!(kind, StoreErrorKind::Incompatible);
    assert!(sentence.contains("schema of its own"), "{sentence}");
    assert_eq!(database.value("SELECT to_regclass('keyward_schema') IS NULL").await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_among_several_processes() {
    let Some(database) = Database::new() else { return };
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(Arc::new(database.open().await));
    }
    let mut inserts = JoinSet::new();
    for number in 1..=64 {
        let store = Arc::clone(&stores[number as usize % 4]);
        inserts.spawn(async move { store.insert(&record(number), Some(10)).await });
    }
    let outcomes = inserts.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 10);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), StoreErrorKind::LimitReached, "{error}");
    }
    assert_eq!(stores[0].count(Owner::User(&user("alice"))).await.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_token_while_another_process_sees_them_off() {
    let Some(database) = Database::new() else { return };
    let (one, other) = (Arc::new(database.open().await), database.open().await);
    for round in 0..20 {
        let owner = user(&format!("user-{round}"));
        let mut inserts = JoinSet::new();
        for number in 1..=8 {
            let (one, owner) = (Arc::clone(&one), owner.clone());
            let mut record = record(round * 100 + number);
            record.owner = owner;
            inserts.spawn(async move { one.insert(&record, Some(100)).await });
        }
        let revoked = other.offboard(&owner, NOW).await.unwrap();
        let outcomes = inserts.join_all().await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), revoked.len());
        assert_eq!(one.count(Owner::User(&owner)).await.unwrap(), 0, "living tokens of one who is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_write_one_chain() {
    let Some(database) = Database::new() else { return };
    let event = event().await;
    let mut appends = JoinSet::new();
    for _ in 0..4 {
        let store = Arc::new(database.open().await);
        for _ in 0..5 {
            let store = Arc::clone(&store);
            let events = vec![event.clone(); 10];
            appends.spawn(async move { store.append(&events).await });
        }
    }
    appends.join_all().await.into_iter().for_each(|head| assert!(head.is_ok()));
    let store = database.open().await;
    let entries = store.entries_after(0, 1_000).await.unwrap();
    let mut head = ChainHead::START;
    for entry in &entries {
        entry.check_after(&head).unwrap();
        head = entry.head();
    }
    assert_eq!((entries.len(), store.chain_ends().await.unwrap().head), (200, head));
}

#[tokio::test]
async fn values_that_were_changed_beside_are_noticed() {
    let Some(database) = Database::new() else { return };
    let store = database.open().await;
    let changes = [
        "tokens SET revoked_at = NULL",
        "tokens SET scopes = NULL",
        "tokens SET user_id = 'mallory'",
        "tokens SET name = name || '␀'",
        "tokens SET expires_at = expires_at + 1",
        "tokens SET expires_at = NULL",
        "tokens SET rolling = NOT rolling",
        "tokens SET quota_period = 'day'",
        "tokens SET id = '02010101-0101-0101-0000-000000000001'",
        "tokens SET seal = '\\x0000000000000000'",
        "usage SET last_used = 7",
        "usage SET request_count = request_count - 1",
        "usage SET quota_count = 0",
        "usage SET habits = NULL",
        "usage SET habits = '{}'",
    ];
    for (number, change) in (1..).zip(changes) {
        let mut stored = record(number);
        stored.revoked_at = Some(NOW);
        stored.scopes = keyward::scope::Grant::Only(keyward::scope::ScopeSet::empty());
        stored.quota_use = Some(QuotaUse::new(QuotaPeriod::Day, NOW, 3));
        stored.habits = Some(habits());
        store.insert(&stored, None).await.unwrap();
        assert_eq!(store.find(&stored.digest).await.unwrap(), Some(stored.clone()));
        database
            .run(&format!("ALTER TABLE usage DROP CONSTRAINT IF EXISTS usage_id_fkey; UPDATE {change}"))
            .await;
        let again = store.find(&stored.digest).await;
        assert_eq!(kind(again), StoreErrorKind::Corrupt, "{change}");
        // Its use is lost, and does not seal the damage.
        store.record_usage(&[Usage::new(stored.id, 1, NOW)]).await.unwrap();
        store.record_usage(&[noticed(stored.id)]).await.unwrap();
        assert_eq!(kind(store.find(&stored.digest).await), StoreErrorKind::Corrupt, "{change}, after use");
        assert!(store.list(Owner::User(&user("alice")), Page::first(9)).await.unwrap().is_empty());
        database.run("DELETE FROM usage; DELETE FROM tokens").await;
    }
    store.set_user_state(&UserState::new(user("alice"), UserStatus::Suspended)).await.unwrap();
    database.run("UPDATE users SET status = 'active'").await;
    assert_eq!(kind(store.denials(NOW).await), StoreErrorKind::Corrupt);
    assert_eq!(kind(store.insert(&record(90), None).await), StoreErrorKind::Corrupt);
}

#[tokio::test]
async fn connections_that_were_killed_are_replaced() {
    let Some(database) = Database::new() else { return };
    let mut url = database.url.clone();
    url.push_str(if url.contains('?') { "&" } else { "?" });
    url.push_str(&format!("application_name={}", database.schema));
    let options = PostgresOptions::new(&url).unwrap().with_schema(&database.schema).unwrap();
    let store = Arc::new(options.with_connections(4).open().await.unwrap());
    store.insert(&record(1), None).await.unwrap();
    let cursor = store.changes(None).await.unwrap().cursor;
    // Waits until they are gone: a change that was begun before is nobody's to repeat.
    let kill = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = '{}'",
        database.schema
    );
    for round in 2..10 {
        let mut finds = JoinSet::new();
        for _ in 0..4 {
            let store = Arc::clone(&store);
            finds.spawn(async move { store.find(&record(1).digest).await });
        }
        finds.join_all().await.into_iter().for_each(|found| assert!(found.unwrap().is_some()));
        assert_ne!(database.value(&kill).await, "0");
        // The first call afterwards, be it a change or not.
        if round % 2 == 0 {
            store.insert(&record(round), None).await.unwrap();
        }
        assert!(store.find(&record(1).digest).await.unwrap().is_some(), "round {round}");
    }
    // Nor is a change missed by the one who listens.
    let changes = store.changes(Some(cursor)).await.unwrap();
    assert_eq!(changes.digests.unwrap().len(), 4);
}

#[tokio::test]
async fn a_lock_held_elsewhere_makes_calls_fail_in_time() {
    let Some(database) = Database::new() else { return };
    let store = Arc::new(database.options().with_connections(2).open().await.unwrap());
    store.insert(&record(1), None).await.unwrap();
    let other = database.client().await;
    other.batch_execute("BEGIN; LOCK TABLE tokens").await.unwrap();
    let start = clock();
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let store = Arc::clone(&store);
        calls.spawn(async move { store.find(&record(1).digest).await.map(drop) });
    }
    for outcome in calls.join_all().await {
        assert_eq!(kind(outcome), StoreErrorKind::Unavailable);
    }
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    let error = store.insert(&record(2), None).await.unwrap_err();
    assert!(error.to_string().contains("a lock is held elsewhere"), "{error}");
    other.batch_execute("ROLLBACK").await.unwrap();
    assert!(store.find(&record(1).digest).await.unwrap().is_some());
    store.insert(&record(2), None).await.unwrap();
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://alice:s3cret@{}/keys", silent.local_addr().unwrap());
    let options = || PostgresOptions::new(&url).unwrap().with_timeout(Duration::from_millis(400));
    let start = clock();
    let error = options().open().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("does not answer"), "{error}");
    let late = options().open_late().unwrap();
    assert_eq!(kind(late.find(&record(1).digest).await), StoreErrorKind::Unavailable);
    assert_eq!(kind(late.changes(None).await), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < 4 * Duration::from_millis(400), "{:?}", start.elapsed());
    assert!(!format!("{error} {error:?} {late:?} {:?}", options()).contains("s3cret"));
}

/// As when a machine in between is switched off: nothing ends the connection, and nothing comes over it.
#[tokio::test]
async fn a_connection_that_hangs_is_given_up_and_replaced() {
    let Some(server) = Server::start("trust", &[]) else { return };
    let database = server.database();
    let options = database.options().with_connections(1).with_timeout(Duration::from_millis(800));
    let store = options.open().await.unwrap();
    store.insert(&record(1), None).await.unwrap();
    let cursor = store.changes(None).await.unwrap().cursor;
    let sql = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = 'keyward'";
    let hung = database.value(sql).await;
    assert_eq!(hung.split(' ').count(), 2, "one for calls and one for notifications: {hung}");
    let signal = |name: &str| {
        let status = std::process::Command::new("kill").arg(name).args(hung.split(' ')).status();
        assert!(status.unwrap().success());
    };
    signal("-STOP");
    let start = clock();
    assert_eq!(kind(store.find(&record(1).digest).await), StoreErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(store.find(&record(1).digest).await.unwrap(), Some(record(1)));
    store.insert(&record(2), None).await.unwrap();
    let changes = store.changes(Some(cursor)).await.unwrap();
    assert_eq!(changes.digests, Some(vec![record(2).digest]));
    signal("-CONT");
}

#[tokio::test]
async fn who_gives_up_stores_nothing_and_revokes_nonetheless() {
    let Some(database) = Database::new() else { return };
    let store = Arc::new(database.open().await);
    store.insert(&record(1), None).await.unwrap();
    let other = database.client().await;
    other.batch_execute("BEGIN; LOCK TABLE tokens").await.unwrap();
    let waiting = format!(
        "SELECT count(*) FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
         WHERE NOT l.granted AND c.relname = 'tokens' AND c.relnamespace = '{}'::regnamespace",
        database.schema
    );
    let inserting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.insert(&record(2), None).await }
    });
    let revoking = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.revoke_all(&user("alice"), NOW).await }
    });
    until("both wait", || async { database.value(&waiting).await == "1" }).await;
    inserting.abort();
    revoking.abort();
    assert!(inserting.await.unwrap_err().is_cancelled() && revoking.await.unwrap_err().is_cancelled());
    other.batch_execute("ROLLBACK").await.unwrap();
    until("the revocation is done", || async {
        store.find(&record(1).digest).await.unwrap().unwrap().revoked_at == Some(NOW)
    })
    .await;
    assert_eq!(store.find(&record(2).digest).await.unwrap(), None);
}

#[tokio::test]
async fn a_server_that_was_stopped_or_killed_is_used_again() {
    let Some(server) = Server::start("trust", &[]) else { return };
    let database = server.database();
    let store = database.open().await;
    let cursor = store.changes(None).await.unwrap().cursor;
    for (number, mode) in [(1, "fast"), (2, "immediate"), (3, "immediate")] {
        store.insert(&record(number), None).await.unwrap();
        server.stop(mode);
        let start = clock();
        assert_eq!(kind(store.find(&record(number).digest).await), StoreErrorKind::Unavailable);
        assert_eq!(kind(store.insert(&record(50), None).await), StoreErrorKind::Unavailable);
        assert_eq!(kind(store.changes(Some(cursor)).await), StoreErrorKind::Unavailable);
        assert!(start.elapsed() < BOUND);
        server.resume();
        let start = clock();
        let found = store.find(&record(number).digest).await.unwrap();
        assert_eq!(found, Some(record(number)), "what was acknowledged before {mode}");
        store.health().await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        // It is another start of the server: nothing may be taken for granted.
        assert!(store.changes(Some(cursor)).await.unwrap().digests.is_none());
    }
}

#[tokio::test]
async fn a_thousand_uses_are_one_statement() {
    let Some(server) = Server::start("trust", &["log_statement=all"]) else { return };
    let database = server.database();
    let store = database.options().with_connections(1).open().await.unwrap();
    for number in 1..=1_000 {
        store.insert(&record(number), None).await.unwrap();
    }
    let renewed_to = Some(NOW.saturating_add(Duration::from_secs(2 * 86_400)));
    let batch: Vec<_> = (1..=1_001)
        .map(|number| {
            let mut usage = Usage::new(id(number), number, NOW);
            (usage.ip, usage.renewed_to) = (Some([192, 0, 2, 1].into()), renewed_to);
            usage
        })
        .collect();
    let statements =
        || server.log().matches("LOG:  execute").count() + server.log().matches("LOG:  statement").count();
    store.record_usage(&batch).await.unwrap();
    let before = statements();
    let start = clock();
    store.record_usage(&batch).await.unwrap();
    println!("1000 uses: {:?}", start.elapsed());
    assert_eq!(statements() - before, 1);
    for number in [1, 500, 1_000] {
        let stored = store.find(&record(number).digest).await.unwrap().unwrap();
        let mut expected = record(number);
        (expected.request_count, expected.last_used) = (2 * number, Some(NOW));
        (expected.last_used_ip, expected.expires_at) = (Some([192, 0, 2, 1].into()), renewed_to);
        assert_eq!(stored, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_several_processes_in_any_order_all_count() {
    let Some(database) = Database::new() else { return };
    let (one, other) = (Arc::new(database.open().await), Arc::new(database.open().await));
    for number in 1..=100 {
        one.insert(&record(number), None).await.unwrap();
    }
    let mut writing = JoinSet::new();
    for round in 0..20 {
        let store = Arc::clone(if round % 2 == 0 { &one } else { &other });
        writing.spawn(async move {
            let renewed_to = Some(NOW.saturating_add(Duration::from_secs(100_000 + round)));
            let mut batch: Vec<_> = (1..=100).map(|number| Usage::new(id(number), 1, NOW)).collect();
            batch.iter_mut().for_each(|usage| usage.renewed_to = renewed_to);
            if round % 3 == 0 {
                batch.reverse();
            }
            store.record_usage(&batch).await
        });
    }
    let store = Arc::clone(&one);
    writing.spawn(async move { store.revoke_all(&user("alice"), NOW).await.map(drop) });
    writing.join_all().await.into_iter().for_each(|outcome| outcome.unwrap());
    for record in one.list(Owner::User(&user("alice")), Page::first(200)).await.unwrap() {
        assert_eq!((record.request_count, record.revoked_at), (20, Some(NOW)));
    }
}

#[tokio::test]
async fn changes_are_heard_at_once_and_none_is_missed() {
    let Some(database) = Database::new() else { return };
    let (writer, quick) =
        (database.open().await, database.options().with_watch_interval(Duration::from_secs(60)));
    let reader = quick.open().await.unwrap();
    let start = reader.changes(None).await.unwrap().cursor;
    assert!(tokio::time::timeout(Duration::from_millis(50), reader.changes(Some(start))).await.is_err());
    let (changes, inserted) = tokio::join!(reader.changes(Some(start)), async {
        let begun = clock();
        writer.insert(&record(1), None).await.unwrap();
        begun
    });
    println!("heard after {:?}", inserted.elapsed());
    assert!(inserted.elapsed() < Duration::from_secs(1), "a notification takes {:?}", inserted.elapsed());
    let changes = changes.unwrap();
    assert_eq!((changes.digests, changes.denials), (Some(vec![record(1).digest]), false));

    // A transaction that takes its number first, and ends last.
    let other = database.client().await;
    let add = "INSERT INTO changes (transaction, at, digest) VALUES (pg_current_xact_id()::text::int8, \
               (extract(epoch FROM clock_timestamp()) * 1000)::int8, decode(repeat('07', 32), 'hex'))";
    other.batch_execute(&format!("BEGIN; {add}")).await.unwrap();
    writer.insert(&record(2), None).await.unwrap();
    let changes = reader.changes(Some(changes.cursor)).await.unwrap();
    assert_eq!(changes.digests, Some(vec![record(2).digest]));
    other.batch_execute("COMMIT").await.unwrap();
    writer.set_user_state(&UserState::new(user("alice"), UserStatus::Suspended)).await.unwrap();
    let changes = reader.changes(Some(changes.cursor)).await.unwrap();
    assert_eq!((changes.digests, changes.denials), (Some(vec![TokenDigest::from_bytes([7; 32])]), true));

    // Without a notification the interval finds it; a cursor from before sees all, one from elsewhere nothing for sure.
    let slow = database.options().with_watch_interval(Duration::from_millis(20)).open().await.unwrap();
    let cursor = slow.changes(None).await.unwrap().cursor;
    database.run(add).await;
    assert_eq!(slow.changes(Some(cursor)).await.unwrap().digests.unwrap().len(), 1);
    assert!(reader.changes(Some(start)).await.unwrap().digests.unwrap().len() >= 3);
    let foreign = keyward::store::ChangeCursor(20_000);
    assert!(reader.changes(Some(foreign)).await.unwrap().digests.is_none());
}

#[tokio::test]
async fn what_was_changed_before_the_first_look_is_no_news() {
    let Some(database) = Database::new() else { return };
    let (writer, reader) = (database.open().await, database.open().await);
    let other = database.client().await;
    // While this is open, later transactions cannot be told from those that end after it.
    other.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    writer.insert(&record(1), None).await.unwrap();
    let cursor = reader.changes(None).await.unwrap().cursor;
    writer.insert(&record(2), None).await.unwrap();
    assert_eq!(reader.changes(Some(cursor)).await.unwrap().digests, Some(vec![record(2).digest]));
    other.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn old_changes_are_deleted_by_those_who_write() {
    let Some(database) = Database::new() else { return };
    drop(database.open().await);
    database
        .run("INSERT INTO changes (transaction, at, digest) SELECT 1, n, '\\x00' FROM generate_series(1, 1500) AS n")
        .await;
    for number in 1..=2 {
        database.open().await.insert(&record(number), None).await.unwrap();
    }
    assert_eq!(database.value("SELECT count(*) FROM changes").await, "2");
}

#[tokio::test]
async fn the_url_says_what_is_wrong_and_repeats_no_secret() {
    for (url, word) in [
        ("mysql://root:s3cret@localhost/x", "postgres://user:password@host:port/database"),
        ("postgres://alice:s3cret@local host:x/db", "postgres://user:password@host:port/database"),
        ("postgres://alice@localhost/db?s3cret=1", "postgres://user:password@host:port/database"),
        ("postgres://alice:s3cret@/db", "names no host"),
        ("postgres://alice:s3cret@db.example.com/db?sslmode=prefer", "switch encryption off"),
        ("postgres://alice:s3cret@localhost,db.example.com/db?sslmode=allow", "switch encryption off"),
        ("postgres://alice:s3cret@localhost/db?sslmode=verify", "unknown sslmode"),
        ("postgres://alice:s3cret@localhost/db?sslkey=/key.pem", "`sslkey`"),
        ("postgres://alice:s3cret@db.example.com/db?sslrootcert=/absent", "cannot be read"),
    ] {
        let error = PostgresOptions::new(url).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains("s3cret"), "{url}: {error}");
        assert!(!error.contains("s3"), "{url}: {error}");
    }
    for (url, encrypted) in [
        ("postgres://alice:s3cret@localhost/db", false),
        ("postgres://alice:s3cret@127.0.0.1/db?sslmode=prefer", false),
        ("postgres://alice:s3cret@[::1]:5432/db", false),
        ("postgres://alice:s3cret@%2Fvar%2Frun%2Fpostgresql/db", false),
        ("postgres:///db?host=/var/run/postgresql&password=s3cret", false),
        ("postgres://alice:s3cret?sslmode=disable@db.example.com/db", true),
        ("postgres://alice:s3cret@localhost/db?sslmode=require", true),
        ("postgres://alice:s3cret@db.example.com/db", true),
        ("postgresql://alice:s3cret@localhost,db.example.com/db", true),
        ("postgres://alice:s3cret@localhost/db?hostaddr=192.0.2.1", true),
        ("postgres://alice:s3cret@db.example.com/db?sslmode=disable", false),
    ] {
        let options = format!("{:?}", PostgresOptions::new(url).unwrap());
        assert!(
            options.contains(&format!("encrypted: {encrypted}")) && !options.contains("s3cret"),
            "{options}"
        );
    }
    for schema in ["", "Upper", "a-b", "a\"b", "1st", "pg_x", &"x".repeat(49)] {
        let options = PostgresOptions::new("postgres://localhost/db").unwrap();
        assert!(options.with_schema(schema).is_err(), "{schema}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it() {
    let Some(server) = Server::start("scram-sha-256", &[]) else { return };
    let open = |user: &str, database: &str| {
        let url = server.url(user, "127.0.0.1");
        let url = format!("{}{database}", url.strip_suffix("/postgres").unwrap());
        async move { PostgresStore::open(&url).await }
    };
    let error = open("postgres:s3cret", "/postgres").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("refused the user or the password"), "{error}");
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    let error = open("postgres:right", "/absent").await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
    open("postgres:right", "/postgres").await.unwrap().health().await.unwrap();
    let nobody = PostgresStore::open("postgres://alice:s3cret@127.0.0.1:9/db").await.unwrap_err();
    assert!(
        nobody.to_string().contains("refused") && !format!("{nobody:?}").contains("s3cret"),
        "{nobody:?}"
    );
}

#[tokio::test]
async fn certificates_are_checked_in_full() {
    let Some(server) = Server::start("trust", &[]) else { return };
    let authority = include_str!("jwt_tls/ca.pem");
    let with = |certificate: &str, settings: &str| {
        server.write("data/server.crt", certificate);
        server.write("data/server.key", include_str!("jwt_tls/key.pem"));
        server.stop("fast");
        server.resume_with(settings);
    };
    let tls = format!("{}?sslmode=require", server.url("postgres", "localhost"));
    let open = |authority: Option<&'static str>| {
        let options = PostgresOptions::new(&tls).unwrap();
        let options = match authority {
            Some(pem) => options.with_root_certificates(pem).unwrap(),
            None => options,
        };
        options.open()
    };
    with(include_str!("jwt_tls/localhost.pem"), "-c ssl=on");
    let store = open(Some(authority)).await.unwrap();
    store.insert(&record(1), None).await.unwrap();
    let cursor = store.changes(None).await.unwrap().cursor;
    store.insert(&record(2), None).await.unwrap();
    assert!(store.changes(Some(cursor)).await.unwrap().digests.is_some());
    let sql = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
               WHERE application_name = 'keyward'";
    assert_eq!(server.database().value(sql).await, "t");
    let error = open(None).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("ertificate"), "an unknown authority: {error}");
    drop(store);

    with(include_str!("jwt_tls/other.pem"), "-c ssl=on");
    let error = open(Some(authority)).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "another host's: {error}");
    with(include_str!("jwt_tls/other.pem"), "-c ssl=off");
    let error = open(Some(authority)).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "none at all: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promise_is_kept_behind_row_level_security() {
    let Some(server) = Server::start("trust", &[]) else { return };
    let all = server.database();
    let app = all.for_a_user_without_exemption().await;
    let fresh = || async {
        let store = app.options().with_connections(4).with_row_level_security(true).open().await.unwrap();
        all.clear().await;
        store
    };
    conformance::check(fresh).await;
    conformance::check_audit(fresh).await;
}

#[tokio::test]
async fn row_level_security_is_a_second_wall() {
    let Some(server) = Server::start("trust", &[]) else { return };
    let all = server.database();
    let error = all.options().with_row_level_security(true).open().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Incompatible, "for a superuser it would hold nothing");
    assert!(error.to_string().contains("BYPASSRLS"), "{error}");
    assert_eq!(all.value("SELECT count(*) FROM pg_policies WHERE schemaname = current_schema").await, "0");
    all.run(&format!("DROP SCHEMA {} CASCADE", all.schema)).await;

    let app = all.for_a_user_without_exemption().await;
    let options = || app.options().with_connections(1);
    let mut starting = JoinSet::new();
    for _ in 0..4 {
        starting.spawn(options().with_row_level_security(true).open());
    }
    let store = starting.join_all().await.into_iter().map(Result::unwrap).next().unwrap();
    let bobs = record_of("bob", 2);
    store.insert(&record(1), None).await.unwrap();
    store.insert(&bobs, None).await.unwrap();
    let (alice, bob, star) = (user("alice"), user("bob"), user("*"));

    // Whoever does not say for whom sees and changes nothing, and nobody more than they say.
    let other = app.client().await;
    let count = async |table: &str| {
        let row = other.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    for (scope, seen) in [
        ("RESET keyward.scope", 0),
        ("SET keyward.scope = ''", 0),
        ("SET keyward.scope = 'user:*'", 0),
        ("SET keyward.scope = 'alice'", 0),
        ("SET keyward.scope = 'user:alice'", 1),
        ("SET keyward.scope = '*'", 2),
    ] {
        other.batch_execute(scope).await.unwrap();
        assert_eq!((count("tokens").await, count("usage").await), (seen, seen), "{scope}");
    }
    other.batch_execute("SET keyward.scope = 'user:alice'").await.unwrap();
    for table in ["tokens", "usage"] {
        let touched = other.execute(&format!("UPDATE {table} SET seal = seal"), &[]).await.unwrap();
        assert_eq!(touched, 1, "{table}: a statement without its condition");
    }
    let moved = other.execute("UPDATE tokens SET user_id = 'bob'", &[]).await.unwrap_err();
    assert!(moved.as_db_error().unwrap().message().contains("row-level security"), "{moved:?}");
    assert_eq!(other.execute("DELETE FROM tokens WHERE user_id = 'bob'", &[]).await.unwrap(), 0);

    // On one connection: what narrows one call does not narrow the next.
    assert_eq!(store.get(Owner::User(&alice), id(2)).await.unwrap(), None);
    assert_eq!(store.find(&bobs.digest).await.unwrap(), Some(bobs.clone()));
    assert_eq!(store.count(Owner::User(&star)).await.unwrap(), 0);
    let plain = options().open().await.unwrap();
    assert_eq!(plain.list(Owner::User(&bob), Page::first(9)).await.unwrap(), vec![bobs.clone()]);

    // Each call for one user is narrowed: it finds nothing where the database lets only others through.
    all.run(
        "CREATE POLICY for_all_alone ON tokens AS RESTRICTIVE USING (current_setting('keyward.scope', true) = '*')",
    )
    .await;
    let own = Owner::User(&bob);
    assert_eq!(store.get(own, id(2)).await.unwrap(), None);
    assert_eq!(store.list(own, Page::first(9)).await.unwrap(), []);
    assert_eq!(store.count(own).await.unwrap(), 0);
    assert_eq!(store.update(own, id(2), &Change::revoke(NOW)).await.unwrap(), None);
    assert_eq!(store.update(own, id(2), &Change::default()).await.unwrap(), None);
    let rotation = Rotation::new(record_of("bob", 3), NOW, 0);
    assert_eq!(store.rotate(own, id(2), &rotation).await.unwrap(), None);
    assert!(store.revoke(own, id(2), NOW, Reach::Children).await.unwrap().is_none());
    assert!(store.revoke_all(&bob, NOW).await.unwrap().is_empty());
    assert!(store.offboard(&bob, NOW).await.unwrap().is_empty());
    assert_eq!(store.find(&bobs.digest).await.unwrap(), Some(bobs.clone()), "what is for all goes on");
    assert_eq!(plain.get(own, id(2)).await.unwrap(), Some(bobs), "and who has no wall");
}

/// All that the API offers, at `KEYWARD_POSTGRES_ROWS` rows (50 000 by default; 1 000 000 take minutes). What the
/// server really did is in its log.
#[tokio::test]
async fn nothing_reads_a_table_from_end_to_end() {
    look_at_all_plans(false).await;
}

#[tokio::test]
async fn nothing_reads_a_table_from_end_to_end_behind_row_level_security() {
    look_at_all_plans(true).await;
}

async fn look_at_all_plans(walled: bool) {
    let settings = [
        "session_preload_libraries=auto_explain",
        "auto_explain.log_min_duration=0",
        "auto_explain.log_nested_statements=on",
        "auto_explain.log_format=text",
        "auto_explain.log_analyze=on",
        "auto_explain.log_timing=off",
        "autovacuum=off",
        "shared_buffers=256MB",
    ];
    let Some(server) = Server::start("trust", &settings) else { return };
    let database = server.database();
    let user = match walled {
        true => database.for_a_user_without_exemption().await,
        false => server.database(),
    };
    let options = PostgresOptions::new(&user.url).unwrap().with_schema(&database.schema).unwrap();
    let options = options.with_connections(1).with_row_level_security(walled);
    let store = options.open().await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a longer run is asked for by the environment")]
    let rows = std::env::var("KEYWARD_POSTGRES_ROWS").map_or(50_000, |rows| rows.parse::<u64>().unwrap());
    fill(&database, rows).await;
    let begun = server.log().len();
    for number in 1..=20 {
        let mut record = record(number);
        record.parent = (number > 1).then(|| id(number - 1));
        record.created_by = record.parent;
        store.insert(&record, Some(100)).await.unwrap();
    }
    // More often than PostgreSQL takes to settle for a plan.
    for round in 0..8 {
        everything(&store, FIRST + 20 * round).await;
    }
    let log = server.log()[begun..].to_owned();
    let plans: Vec<_> = log.split("LOG:  duration").skip(1).collect();
    assert!(plans.len() > 300, "{} plans", plans.len());
    for plan in plans {
        // To count all living tokens of all users is to read them all; who is denied is read as a whole.
        let whole = [
            "SELECT count(*) FROM tokens WHERE revoked_at IS NULL\n",
            "SELECT user_id, status, not_before, seal FROM users\n",
            "SELECT id, until, seal FROM revoked_jwts WHERE until > $1\n",
        ];
        let whole = whole.iter().any(|statement| plan.contains(statement));
        let small = ["audit_chain", "probe", "keyward_schema"].iter().any(|table| {
            plan.matches("Seq Scan on").count() == plan.matches(&format!("Seq Scan on {table}")).count()
        });
        assert!(whole || small || !plan.contains("Seq Scan on"), "{plan}");
        // Nor an index from end to end, which is no better.
        assert!(whole || most_rows(plan) <= MOST_ROWS, "{plan}");
    }
}

/// What a step of a plan may read: a batch of uses, and what is dead beside it.
const MOST_ROWS: u64 = 2_500;

/// How many rows the busiest step of a plan gave or threw away, in all its rounds.
fn most_rows(plan: &str) -> u64 {
    let number = |text: &str, name: &str| {
        let (_, rest) = text.split_once(name)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    let rows = plan.lines().filter_map(|line| match line.trim().strip_prefix("Rows Removed by") {
        Some(removed) => number(removed, ": "),
        None => {
            let actual = &line[line.find("(actual ")?..];
            Some(number(actual, "rows=")? * number(actual, "loops=")?)
        }
    });
    rows.max().unwrap_or(0)
}

#[test]
fn the_rows_of_a_plan_are_counted_whichever_way_they_are_read() {
    for (plan, rows) in [
        ("Index Scan using a on t  (cost=0.42..8.44 rows=1 width=16) (actual rows=3 loops=7)", 21),
        ("Index Only Scan  (cost=0..1 rows=9 width=1) (never executed)", 0),
        ("Sort  (cost=1..2 rows=1 width=1) (actual rows=1 loops=1)\n  Rows Removed by Filter: 49999", 49_999),
    ] {
        assert_eq!(most_rows(plan), rows, "{plan}");
    }
}

/// How many dead tokens end with two that are changed.
const DEAD: u64 = 4 * MOST_ROWS;

/// The number of the first of them.
const FIRST: u64 = 1_000;

/// Rows of others, of which none can be opened.
async fn fill(database: &Database, rows: u64) {
    let start = clock();
    let (rotated, disabled) = (id(FIRST), id(FIRST + 3));
    let sql = format!(
        "INSERT INTO tokens (id, digest, user_id, name, class, hint, created_at, created_by, parent, honeytoken, rolling,
             revision, seal, expires_at, expires_seal, revoked_at, warn_from)
         SELECT md5('id' || n)::uuid, sha256(n::text::bytea), 'user-' || n % ({rows} / 10), 'key', 'user', 'kw_', n,
             CASE WHEN n % 10 = 0 THEN md5('id' || n - 1)::uuid END, CASE WHEN n % 10 = 0 THEN md5('id' || n - 1)::uuid END,
             false, true, 0, '\\x00', 1900000000000 + n, '\\x00', CASE WHEN n % 2 = 0 THEN n END, 1900000000000 + n
         FROM generate_series(1, {rows}) AS n;
         INSERT INTO tokens (id, digest, user_id, name, class, hint, created_at, parent, honeytoken, rolling, revision,
             seal, expires_at, expires_seal, revoked_at)
         SELECT md5('dead' || n)::uuid, sha256(('dead' || n)::bytea), 'the-dead', 'key', 'user', 'kw_', n,
             CASE WHEN n % 2 = 0 THEN '{rotated}'::uuid ELSE '{disabled}'::uuid END, false, false, 0, '\\x00',
             CASE WHEN n % 4 < 2 THEN 1700000000000 END, '\\x00', CASE WHEN n % 4 > 1 THEN n END
         FROM generate_series(1, {DEAD}) AS n;
         INSERT INTO usage (id, request_count, seal) SELECT id, 0, '\\x00' FROM tokens;
         INSERT INTO owners SELECT DISTINCT user_id FROM tokens;
         INSERT INTO users SELECT user_id, 'active', NULL, '\\x00' FROM owners;
         INSERT INTO revoked_jwts SELECT sha256(n::text::bytea), 1700000000000 + n * 1000, '\\x00'
         FROM generate_series(1, {rows}) AS n;
         INSERT INTO changes (transaction, at, digest) SELECT n % 100, 9000000000000 + n, '\\x00'
         FROM generate_series(1, 10000) AS n;
         INSERT INTO audit (n, version, at, event, alert, outcome, actor, user_id, token_id, hash)
         SELECT n, 1, n * 1000, 'event-' || n % 30, false, 'success', 'user-' || n % 1000, 'user-' || n % 997,
             'token-' || n % 9999, '\\x00'
         FROM generate_series(1, {rows}) AS n;"
    );
    database.run(&sql).await;
    database.run("VACUUM ANALYZE").await;
    println!("{rows} rows of each kind after {:?}", start.elapsed());
}

/// Every call once; what matters is how the server does it.
async fn everything(store: &PostgresStore, first: u64) {
    let (alice, start) = (user("alice"), clock());
    let admin = AdminProof::operator("test", "a test").unwrap();
    let middle = TokenId::from_bytes([0x80; 16]).unwrap();
    let mine = Owner::User(&alice);
    for owner in [mine, Owner::Any(&admin)] {
        store.get(owner, id(1)).await.unwrap();
        store.list(owner, Page::first(10)).await.unwrap();
        store.list(owner, Page::after(id(10), 10)).await.unwrap();
        store.list(owner, Page::after(middle, 10)).await.unwrap();
        store.count(owner).await.unwrap();
        store.update(owner, id(2), &Change::default()).await.unwrap();
    }
    store.find(&record(1).digest).await.unwrap();
    store.insert(&record(first), Some(1_000)).await.unwrap();
    let mut registered = record(first + 1);
    registered.owner = user(&format!("new-{first}"));
    store.register(&registered).await.unwrap();
    store.insert_making_room(&record(first + 2), &Room::new(10)).await.unwrap();
    let mut rotation = Rotation::new(record(first + 3), NOW, 0).with_max_active(Some(1_000));
    rotation.dead_by = Some(NOW);
    store.rotate(mine, id(first), &rotation).await.unwrap();
    let mut disable = Change::default();
    (disable.disabled_at, disable.dead_by) = (Some(Some(NOW)), Some(NOW));
    store.update(mine, id(first + 3), &disable).await.unwrap();
    store.revoke(mine, id(first + 3), NOW, Reach::Children).await.unwrap();
    store.revoke(Owner::Any(&admin), id(first + 2), NOW, Reach::Minted).await.unwrap();
    let batch: Vec<_> = (1..=1_000).map(|number| Usage::new(id(number), 1, NOW)).collect();
    store.record_usage(&batch).await.unwrap();
    store.record_usage(&[noticed(id(1)), noticed(id(2)), noticed(id(1))]).await.unwrap();
    // The users of the other rows are not as they were stored.
    assert_eq!(kind(store.denials(NOW).await), StoreErrorKind::Corrupt);
    let state = UserState::new(user("bob"), UserStatus::Suspended);
    store.set_user_state(&state).await.unwrap();
    store.revoke_jwts_of(&user("bob"), NOW).await.unwrap();
    store.offboard(&user("bob"), NOW).await.unwrap();
    let jwt =
        keyward::store::JwtRevocation::new(keyward::store::JwtId::of("issuer", &first.to_string()), NOW);
    store.revoke_jwt(&jwt, UnixTime::from_millis(1_700_000_000_000)).await.unwrap();
    store.revoke_all(&user("user-7"), NOW).await.unwrap();
    let mut purge = Purge::new(NOW, Lifetimes::default(), 100);
    for after in [id(first), middle] {
        purge.after = Some(after);
        store.purge(&admin, &purge).await.unwrap();
    }
    remove_a_family(store, first + 10).await;
    store.claim_warnings(&admin, &Warnings::new(NOW, vec![Duration::from_secs(60)], 100)).await.unwrap();
    store.health().await.unwrap();
    store.changes(None).await.unwrap();
    audit(store).await;
    println!("every call once: {:?}", start.elapsed());
}

/// One that ended, and nineteen that end with it.
async fn remove_a_family(store: &PostgresStore, first: u64) {
    let admin = AdminProof::operator("test", "a test").unwrap();
    for number in first..first + 20 {
        let mut member = record(1_000_000 + number);
        member.owner = user(&format!("family-{first}"));
        member.parent = (number > first).then(|| id(1_000_000 + first));
        member.expires_at = member.parent.map_or(Some(NOW), |_| member.expires_at);
        store.insert(&member, None).await.unwrap();
    }
    let (mut step, mut removed) = (Purge::new(NOW, Lifetimes::default(), 5), 0);
    for _ in 0..10 {
        step.after = step.after.or(Some(id(1_000_000 + first - 1)));
        let done = store.purge(&admin, &step).await.unwrap();
        assert!(done.removed <= 5);
        (removed, step.after) = (removed + done.removed, done.next);
        if step.after.is_none_or(|after| after >= id(1_000_000 + first + 19)) {
            step.after = None;
        }
    }
    assert_eq!(removed, 20);
}

async fn audit(store: &PostgresStore) {
    store.append(&[event().await]).await.unwrap();
    store.entries_after(100, 10).await.unwrap();
    let all = AuditQuery::default;
    for query in [
        all(),
        all().with_cursor(Some(100)),
        all().with_user(user("user-7")),
        all().with_user(user("user-7")).since(UnixTime::from_millis(5_000_000)),
        all().with_token(id(1)),
        all().with_event("event-3"),
        all().with_outcome(keyward::event::Outcome::Refused),
        all().since(UnixTime::from_millis(5_000_000)).until(UnixTime::from_millis(5_100_000)),
        all().since(NOW),
        all().until(UnixTime::from_millis(500_000)),
    ] {
        store.search(&query).await.unwrap();
    }
    store.delete_before(UnixTime::from_millis(50_000), 10).await.unwrap();
}
