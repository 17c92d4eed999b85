//! What needs SQL of its own: locks, full disks, foreign tables, and threads.

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::limit::{QuotaPeriod, QuotaUse};

const NOW: UnixTime = UnixTime::from_millis(1_767_225_600_000);

fn alice() -> UserId {
    UserId::new("alice").unwrap()
}

fn record(number: u64) -> TokenRecord {
    let mut id = [1; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let digest = TokenDigest::of(&number.to_be_bytes());
    TokenRecord::new(TokenId::from_bytes(id).unwrap(), digest, alice(), NOW)
}

async fn open() -> (TempDir, PathBuf, SqliteStore) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens.db");
    let options = SqliteOptions::new(&path).with_busy_timeout(Duration::from_millis(100));
    let store = options.open().await.unwrap();
    (directory, path, store)
}

async fn refusal(path: &Path) -> (StoreErrorKind, String) {
    let error = SqliteStore::open(path).await.unwrap_err();
    (error.kind(), error.to_string())
}

#[tokio::test]
async fn files_of_others_and_of_later_versions_are_refused_and_left_alone() {
    let (_directory, path, store) = open().await;
    let change = |sql: &str| Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    change("PRAGMA user_version = 99");
    assert_eq!(refusal(&path).await.0, StoreErrorKind::Incompatible);
    assert!(refusal(&path).await.1.contains("run a newer keyward"));
    change("PRAGMA user_version = 0");
    assert_eq!(refusal(&path).await.0, StoreErrorKind::Incompatible);
    change("PRAGMA user_version = 1; PRAGMA application_id = 7");
    assert!(refusal(&path).await.1.contains("another application"));
    drop(store);

    let foreign = path.with_file_name("foreign.db");
    std::fs::copy(&path, &foreign).unwrap();
    std::fs::File::options().write(true).open(&foreign).unwrap().set_len(0).unwrap();
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let before = std::fs::read(&foreign).unwrap();
    assert_eq!(refusal(&foreign).await.0, StoreErrorKind::Incompatible);
    assert_eq!(std::fs::read(&foreign).unwrap(), before);
}

#[tokio::test]
async fn a_lock_makes_changes_fail_in_time_and_reads_go_on() {
    let (_directory, path, store) = open().await;
    store.insert(&record(1), None).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let second = record(2);
    let insert = tokio::time::timeout(Duration::from_secs(1), store.insert(&second, None));
    assert_eq!(insert.await.unwrap().unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(store.health().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert!(store.find(&record(1).digest).await.unwrap().is_some());
    other.execute_batch("ROLLBACK").unwrap();
    store.insert(&record(2), None).await.unwrap();
    store.health().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_recovers() {
    let (_directory, _path, store) = open().await;
    let limit = |pages: i64| {
        store.writer.call(move |connection| {
            Ok(connection
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get::<_, i64>(0))?)
        })
    };
    limit(40).await.unwrap();
    let mut stored = 0;
    let full = loop {
        match store.insert(&record(stored), None).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), StoreErrorKind::Unavailable);
    assert!(full.to_string().contains("disk is full"), "{full}");
    assert_eq!(store.count(Owner::User(&alice())).await.unwrap(), stored);
    for number in 0..stored {
        assert_eq!(store.find(&record(number).digest).await.unwrap(), Some(record(number)));
    }
    assert!(store.find(&record(stored).digest).await.unwrap().is_none());
    limit(10_000).await.unwrap();
    store.insert(&record(stored), None).await.unwrap();
}

#[tokio::test]
async fn a_panic_fails_its_call_only() {
    let (_directory, _path, store) = open().await;
    for crew in [&store.writer, &store.readers, &store.watcher] {
        let lost = crew.call(|connection| -> Result<(), _> {
            connection.execute_batch("BEGIN").unwrap();
            panic!("as a test");
        });
        assert_eq!(lost.await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    }
    store.insert(&record(1), None).await.unwrap();
    assert_eq!(store.find(&record(1).digest).await.unwrap(), Some(record(1)));
}

#[tokio::test]
async fn values_that_were_changed_in_the_file_are_noticed() {
    let (_directory, path, store) = open().await;
    let mut stored = record(1);
    stored.revoked_at = Some(NOW);
    stored.scopes = crate::scope::Grant::Only(crate::scope::ScopeSet::empty());
    store.insert(&stored, None).await.unwrap();
    let other = Connection::open(&path).unwrap();
    for damage in [
        "UPDATE tokens SET revoked_at = NULL",
        "UPDATE tokens SET scopes = NULL",
        "UPDATE tokens SET scopes = 'null'",
        "UPDATE tokens SET class = 'root'",
        "UPDATE tokens SET expires_at = 9999999999999",
        "UPDATE tokens SET rolling = 2",
        "UPDATE tokens SET id = zeroblob(16)",
        "UPDATE usage SET last_used = 1",
        "UPDATE usage SET request_count = 1",
        "DELETE FROM usage",
    ] {
        other.execute_batch(&format!("SAVEPOINT before; {damage}; RELEASE before")).unwrap();
        let error = store.find(&stored.digest).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{damage}");
        other.execute_batch("DELETE FROM usage; DELETE FROM tokens").unwrap();
        store.insert(&stored, None).await.unwrap();
        assert_eq!(store.find(&stored.digest).await.unwrap().as_ref(), Some(&stored));
    }
}

#[tokio::test]
async fn a_log_that_was_trimmed_says_that_anything_may_have_changed() {
    let (_directory, path, store) = open().await;
    let start = store.changes(None).await.unwrap().cursor;
    store.insert(&record(1), None).await.unwrap();
    store.insert(&record(2), None).await.unwrap();
    assert_eq!(store.changes(Some(start)).await.unwrap().digests.unwrap().len(), 2);
    Connection::open(&path).unwrap().execute_batch("UPDATE sqlite_sequence SET seq = 10002").unwrap();
    store.insert(&record(3), None).await.unwrap();
    let changes = store.changes(Some(start)).await.unwrap();
    assert!(changes.digests.is_none());
    assert_eq!(changes.cursor, ChangeCursor(10_003));
    let ahead = store.changes(Some(ChangeCursor(20_000))).await.unwrap();
    assert!(ahead.digests.is_none() && ahead.cursor == changes.cursor);
}

#[tokio::test]
async fn queries_use_their_indexes() {
    let (_directory, _path, store) = open().await;
    let plan = |sql: &'static str| {
        store.readers.call(move |connection| {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let lines: Result<Vec<String>, _> = statement.raw_query().mapped(|row| row.get(3)).collect();
            Ok(lines?.join("\n"))
        })
    };
    for (sql, index) in [
        (rows::select!("WHERE t.digest = ?1"), "tokens_digest"),
        (rows::select!("WHERE t.id = ?1 AND t.user_id = ?2"), "(user_id=? AND id=?)"),
        (rows::select!("WHERE t.user_id = ?1 AND t.id < ?2 ORDER BY t.id DESC LIMIT ?3"), "tokens_user"),
        (rows::select!("WHERE t.id < ?1 ORDER BY t.id DESC LIMIT ?2"), "tokens_id"),
        (rows::select!("WHERE t.id > ?1 ORDER BY t.id LIMIT ?2"), "tokens_id"),
        (family::ENDLESS_CHILDREN, "tokens_children (parent=? AND expires_at=?)"),
        (family::LIVING_CHILDREN, "tokens_children (parent=? AND expires_at>?)"),
        (family::LIVING_FAMILY, "tokens_children (parent=? AND expires_at=?)"),
        (family::LIVING_FAMILY, "tokens_children (parent=? AND expires_at>?)"),
        (queries::ACTIVE, "tokens_living (user_id=? AND expires_at=?)"),
        (queries::ACTIVE, "tokens_living (user_id=? AND expires_at>?)"),
        (queries::UNREVOKED, "tokens_living (user_id=?)"),
        (family::ENDLESS_OF_USER, "tokens_living (user_id=? AND expires_at=?)"),
        (family::LIVING_OF_USER, "tokens_living (user_id=? AND expires_at>?)"),
        (upkeep::WAITING, "tokens_warn_from"),
        (family::CHILDREN, "tokens_parent"),
        (family::MINTED, "tokens_created_by"),
    ] {
        let plan = plan(sql).await.unwrap();
        assert!(plan.contains(index) && !plan.contains("B-TREE"), "{plan}");
    }
}

#[tokio::test]
async fn changes_are_synced_and_threads_end_with_the_store() {
    let (_directory, path, store) = open().await;
    store.insert(&record(1), None).await.unwrap();
    store.record_usage(&[Usage::new(record(1).id, 1, NOW)]).await.unwrap();
    let pragma = |name: &'static str| {
        store.writer.call(move |connection| {
            Ok(connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0))?)
        })
    };
    assert_eq!((pragma("synchronous").await.unwrap(), pragma("foreign_keys").await.unwrap()), (2, 1));
    let file = Arc::downgrade(&store.file);
    drop(store);
    while file.strong_count() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!path.with_file_name("tokens.db-wal").exists());
}

#[tokio::test]
async fn calls_beyond_the_queue_are_refused_at_once() {
    let (_directory, _path, store) = open().await;
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let mut blocked = Box::pin(store.writer.call(move |_| Ok(gate.recv().is_ok())));
    std::future::poll_fn(|context| std::task::Poll::Ready(blocked.as_mut().poll(context).is_ready())).await;
    let mut refused = false;
    for _ in 0..1100 {
        let mut call = Box::pin(store.writer.call(|_| Ok(())));
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context))).await;
        if let std::task::Poll::Ready(Err(error)) = polled {
            assert_eq!(error.kind(), StoreErrorKind::Unavailable);
            refused = true;
        }
    }
    assert!(refused);
    release.send(()).unwrap();
    assert!(blocked.await.unwrap());
    while store.insert(&record(1), None).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn what_takes_rights_away_is_done_before_the_keys_that_somebody_makes() {
    let (_directory, _path, store) = open().await;
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let mut blocked = Box::pin(store.writer.call(move |_| Ok(gate.recv().is_ok())));
    std::future::poll_fn(|context| std::task::Poll::Ready(blocked.as_mut().poll(context).is_ready())).await;
    let records: Vec<_> = (0..500).map(record).collect();
    let mut calls: Vec<_> = records.iter().map(|record| store.insert(record, None)).collect();
    for call in &mut calls {
        std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context).is_ready())).await;
    }
    let alice = alice();
    let mut offboarding = store.offboard(&alice, NOW);
    std::future::poll_fn(|context| std::task::Poll::Ready(offboarding.as_mut().poll(context).is_ready()))
        .await;
    release.send(()).unwrap();
    assert!(blocked.await.unwrap());
    assert!(offboarding.await.unwrap().is_empty(), "it came first");
    for call in calls {
        assert_eq!(call.await.unwrap_err().kind(), StoreErrorKind::OwnerInactive);
    }
}

#[tokio::test]
async fn a_file_of_the_first_version_gets_what_came_later() {
    let (_directory, path, store) = open().await;
    store.insert(&record(1), None).await.unwrap();
    drop(store);
    let first = "DROP TABLE users; DROP TABLE revoked_jwts; DROP TABLE owners; DROP INDEX tokens_parent; DROP INDEX tokens_children; DROP INDEX tokens_living; \
                 DROP INDEX tokens_created_by; DROP INDEX tokens_warn_from; ALTER TABLE tokens DROP COLUMN warn_from; \
                 ALTER TABLE tokens DROP COLUMN parent; ALTER TABLE tokens DROP COLUMN limits; \
                 ALTER TABLE tokens DROP COLUMN honeytoken; ALTER TABLE usage DROP COLUMN quota; ALTER TABLE usage DROP COLUMN habits; \
                 DROP TABLE audit; DROP TABLE audit_chain; PRAGMA user_version = 1";
    Connection::open(&path).unwrap().execute_batch(first).unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.find(&record(1).digest).await.unwrap(), Some(record(1)), "its seal still holds");
    let again = store.register(&record(3)).await.unwrap_err();
    assert_eq!(again.kind(), StoreErrorKind::UserExists, "who had a token then is no new user");
    let child = TokenRecord { parent: Some(record(1).id), honeytoken: true, ..record(2) };
    store.insert(&child, None).await.unwrap();
    assert_eq!(store.find(&child.digest).await.unwrap().as_ref(), Some(&child));
    let free = "UPDATE tokens SET honeytoken = NULL WHERE honeytoken = 1";
    Connection::open(&path).unwrap().execute_batch(free).unwrap();
    assert_eq!(store.find(&child.digest).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    let used = QuotaUse::new(QuotaPeriod::Day, NOW, 9);
    let counted = TokenRecord { quota_use: Some(used), ..record(3) };
    store.insert(&counted, None).await.unwrap();
    assert_eq!(store.find(&counted.digest).await.unwrap().as_ref(), Some(&counted));
    Connection::open(&path).unwrap().execute_batch("UPDATE usage SET quota = NULL").unwrap();
    assert_eq!(store.find(&counted.digest).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    assert_eq!(store.offboard(&alice(), NOW).await.unwrap(), [record(1).digest]);
    assert_eq!(store.denials(NOW).await.unwrap().users.len(), 1);
    Connection::open(&path).unwrap().execute_batch("UPDATE users SET status = 'active'").unwrap();
    assert_eq!(store.denials(NOW).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    let event = Event::new(crate::event::EventKind::AdminOverride);
    assert_eq!(store.append(&[event]).await.unwrap().number, 1, "it has an audit log now");
}

#[tokio::test]
async fn whose_tokens_are_all_gone_is_still_no_new_user() {
    let (_directory, path, store) = open().await;
    store.insert(&record(1), None).await.unwrap();
    Connection::open(&path).unwrap().execute_batch("DELETE FROM usage; DELETE FROM tokens").unwrap();
    assert_eq!(store.register(&record(2)).await.unwrap_err().kind(), StoreErrorKind::UserExists);
    assert!(store.find(&record(2).digest).await.unwrap().is_none());
}

#[tokio::test]
async fn a_switched_or_replaced_token_is_told_of_with_its_living_children_only() {
    let (_directory, _path, store) = open().await;
    let child = |number| TokenRecord { parent: Some(record(1).id), ..record(number) };
    let at = |millis| UnixTime::from_millis(NOW.as_millis() + millis);
    store.insert(&record(1), None).await.unwrap();
    let living = [
        TokenRecord { expires_at: Some(at(1)), ..child(2) },
        TokenRecord { disabled_at: Some(NOW), ..child(3) },
        TokenRecord { parent: Some(record(3).id), ..child(4) },
    ];
    let dead = [
        TokenRecord { expires_at: Some(at(0)), ..child(5) },
        TokenRecord { revoked_at: Some(NOW), ..child(6) },
        TokenRecord { parent: Some(record(5).id), ..child(7) },
    ];
    for record in living.iter().chain(&dead) {
        store.insert(record, None).await.unwrap();
    }
    let mut seen = store.changes(None).await.unwrap().cursor;
    let mut told = async || {
        let changes = store.changes(Some(seen)).await.unwrap();
        seen = changes.cursor;
        let digests = changes.digests.unwrap();
        let told = |number: &u64| digests.contains(&record(*number).digest);
        (digests.len(), (1..=8).filter(told).collect::<Vec<_>>())
    };
    let alice = alice();
    let owner = Owner::User(&alice);
    for disabled_at in [Some(NOW), None] {
        let switch = Change { disabled_at: Some(disabled_at), dead_by: Some(at(0)), ..Change::default() };
        store.update(owner, record(1).id, &switch).await.unwrap();
        assert_eq!(told().await, (4, vec![1, 2, 3, 4]));
    }
    let unknown = Change { disabled_at: Some(None), ..Change::default() };
    store.update(owner, record(1).id, &unknown).await.unwrap();
    assert_eq!(told().await.1, [1, 2, 3, 4, 5, 7], "what may be in its grace");
    let rotation = Rotation { dead_by: Some(at(0)), ..Rotation::new(record(8), at(9), 3) };
    store.rotate(owner, record(1).id, &rotation).await.unwrap();
    assert_eq!(told().await, (4, vec![1, 2, 3, 8]));
}

#[tokio::test]
async fn of_ids_that_are_made_up_nothing_stays() {
    let (_directory, path, store) = open().await;
    let owned = |number, owner: &str| TokenRecord { owner: UserId::new(owner).unwrap(), ..record(number) };
    store.insert(&owned(1, "alice"), None).await.unwrap();
    store.insert(&owned(2, "keyward:admin"), None).await.unwrap();
    store.register(&owned(3, "public:0f2c7d52-9a3e-4f0b-8d3c-5a1e7b9c2d46")).await.unwrap();
    store.insert(&owned(4, "public:6b1d"), None).await.unwrap();
    store.insert(&owned(5, "static:3f5c"), None).await.unwrap();
    let kept = || {
        let connection = Connection::open(&path).unwrap();
        let mut statement = connection.prepare("SELECT user_id FROM owners").unwrap();
        let owners: Result<Vec<String>, _> = statement.query_map([], |row| row.get(0)).unwrap().collect();
        owners.unwrap()
    };
    assert_eq!(kept(), ["alice", "keyward:admin"]);
    drop(store);
    let before = "DROP TABLE owners; DROP INDEX tokens_children; DROP INDEX tokens_living; \
                  ALTER TABLE usage DROP COLUMN habits; \
                  PRAGMA user_version = 6";
    Connection::open(&path).unwrap().execute_batch(before).unwrap();
    drop(SqliteStore::open(&path).await.unwrap());
    assert_eq!(kept(), ["alice", "keyward:admin"], "in a file of the version before");
}

#[tokio::test]
async fn a_file_that_is_damaged_at_first_is_used_once_it_is_whole() {
    let (directory, path, whole) = open().await;
    whole.insert(&record(1), None).await.unwrap();
    drop(whole);
    while path.with_file_name("tokens.db-wal").exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let backup = directory.path().join("backup.db");
    std::fs::rename(&path, &backup).unwrap();
    std::fs::write(&path, [b'x'; 8192]).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(refusal(&path).await.0, StoreErrorKind::Corrupt);

    let late = SqliteOptions::new(&path).open_late().unwrap();
    for _ in 0..3 {
        assert_eq!(late.find(&record(1).digest).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
        assert_eq!(late.health().await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    }
    std::fs::rename(&backup, &path).unwrap();
    let back = async {
        while late.health().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), back).await.expect("within two seconds of its return");
    assert_eq!(late.find(&record(1).digest).await.unwrap(), Some(record(1)));
}

#[tokio::test]
async fn a_file_that_is_opened_late_is_made_once_and_never_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens.db");
    let late = SqliteOptions::new(&path).open_late().unwrap();
    assert!(!path.exists());
    late.insert(&record(1), None).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(late.insert(&record(2), None).await.is_err());
    assert!(!path.exists(), "a deleted file stays deleted");
}
