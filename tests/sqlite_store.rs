//! The SQLite store against its file: several processes, and files that are not as they should be.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keyward::{
    AdminProof, Owner, TokenId, UserId,
    net::IpList,
    scope::{Grant, RoleSet, ScopeSet},
    secret::TokenDigest,
    store::{Change, Page, Rotation, SqliteOptions, SqliteStore, StoreErrorKind, TokenStore, Usage},
    time::UnixTime,
    token::{TokenClass, TokenRecord},
};
use tempfile::TempDir;

const NOW: UnixTime = UnixTime::from_millis(1_767_225_600_000);

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("tokens.db")
    }

    async fn open(&self) -> SqliteStore {
        SqliteStore::open(self.path()).await.unwrap()
    }

    async fn refusal(&self) -> (StoreErrorKind, String) {
        let error = SqliteStore::open(self.path()).await.unwrap_err();
        (error.kind(), error.to_string())
    }

    /// Waits until the threads of a dropped store have closed the file.
    async fn closed(&self) {
        let wal = self.directory.path().join("tokens.db-wal");
        while wal.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn alice() -> UserId {
    UserId::new("alice").unwrap()
}

fn id(number: u64) -> TokenId {
    let mut bytes = [0x01; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    TokenId::from_bytes(bytes).unwrap()
}

fn record(number: u64) -> TokenRecord {
    TokenRecord::new(id(number), TokenDigest::of(&number.to_be_bytes()), alice(), NOW)
}

fn full_record() -> TokenRecord {
    let mut record = record(1);
    record.name = "ci · \0 \"laptop\" 用户".into();
    record.class = TokenClass::Service;
    record.scopes = Grant::Only(ScopeSet::new(["jobs:*", "keys:read"]).unwrap());
    record.roles = Grant::Only(RoleSet::empty());
    record.allowed_ips = Some(IpList::new(["192.0.2.7", "2001:db8::/32"]).unwrap());
    record.metadata.insert("team".into(), serde_json::json!({"id": 7, "tags": ["a", null], "share": 0.5}));
    record.hint = "kw_live_1abc…89AB".into();
    record.created_ip = Some("::ffff:192.0.2.1".parse().unwrap());
    record.created_by = Some(id(90));
    record.expires_at = Some(NOW.saturating_add(Duration::from_secs(86_400)));
    record.rolling = true;
    record.hard_end = Some(UnixTime::MAX);
    record.disabled_at = Some(UnixTime::EPOCH);
    record.revoked_at = Some(UnixTime::from_millis(-1));
    record.successor = Some(id(91));
    record.revision = u64::MAX;
    record.last_used = Some(NOW);
    record.last_used_ip = Some("2001:db8::1".parse().unwrap());
    record.request_count = u64::MAX - 1;
    record
}

#[tokio::test]
async fn every_field_comes_back_also_after_reopening() {
    let place = Place::new();
    let expected = full_record();
    let plain = record(2);
    let store = place.open().await;
    store.insert(&expected, None).await.unwrap();
    store.insert(&plain, None).await.unwrap();
    let any = AdminProof::operator("test", "looks at everything").unwrap();
    for _ in 0..2 {
        let store = place.open().await;
        assert_eq!(store.find(&expected.digest).await.unwrap().as_ref(), Some(&expected));
        assert_eq!(store.get(Owner::User(&alice()), expected.id).await.unwrap().as_ref(), Some(&expected));
        let list = store.list(Owner::Any(&any), Page::first(9)).await.unwrap();
        assert_eq!(list, [plain.clone(), expected.clone()]);
        assert_eq!(
            store.list(Owner::User(&alice()), Page::after(plain.id, 9)).await.unwrap(),
            std::slice::from_ref(&expected)
        );
        assert_eq!(store.count(Owner::Any(&any)).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn two_stores_on_one_file_see_each_other() {
    let place = Place::new();
    let (one, two) = (place.open().await, place.open().await);
    one.insert(&record(1), None).await.unwrap();
    assert_eq!(two.find(&record(1).digest).await.unwrap(), Some(record(1)));
    let revoked = two.update(Owner::User(&alice()), id(1), &Change::revoke(NOW)).await.unwrap().unwrap();
    assert_eq!(one.find(&record(1).digest).await.unwrap(), Some(revoked));
    assert_eq!(two.insert(&record(1), None).await.unwrap_err().kind(), StoreErrorKind::Duplicate);
}

#[tokio::test]
async fn a_rotation_is_whole_or_not_at_all() {
    let place = Place::new();
    let store = place.open().await;
    store.insert(&record(1), None).await.unwrap();
    store.insert(&record(2), None).await.unwrap();
    let taken = Rotation::new(record(2), NOW, 0);
    let error = store.rotate(Owner::User(&alice()), id(1), &taken).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Duplicate);
    assert_eq!(store.find(&record(1).digest).await.unwrap(), Some(record(1)));
    let old =
        store.rotate(Owner::User(&alice()), id(1), &Rotation::new(record(3), NOW, 0)).await.unwrap().unwrap();
    assert_eq!((old.successor, old.expires_at, old.revision), (Some(id(3)), Some(NOW), 1));
    assert_eq!(store.find(&record(3).digest).await.unwrap(), Some(record(3)));
}

#[tokio::test]
async fn another_process_learns_of_a_revocation_but_not_of_use() {
    let place = Place::new();
    let (here, there) = (Arc::new(place.open().await), place.open().await);
    let start = here.changes(None).await.unwrap();
    assert_eq!(start.digests.as_deref(), Some(&[][..]));
    there.insert(&record(1), None).await.unwrap();
    let inserted = here.changes(Some(start.cursor)).await.unwrap();
    assert_eq!(inserted.digests.as_deref(), Some(&[record(1).digest][..]));

    let cursor = inserted.cursor;
    let waiting = tokio::spawn({
        let here = Arc::clone(&here);
        async move { here.changes(Some(cursor)).await.unwrap() }
    });
    there.record_usage(&[Usage::new(id(1), 5, NOW)]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(450)).await;
    assert!(!waiting.is_finished());
    assert_eq!(there.revoke_all(&alice(), NOW).await.unwrap(), [record(1).digest]);
    let revoked = tokio::time::timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
    assert_eq!(revoked.digests.as_deref(), Some(&[record(1).digest][..]));
    assert!(revoked.cursor > cursor);
}

#[tokio::test]
async fn concurrent_inserts_never_pass_the_limit() {
    let place = Place::new();
    let stores = [Arc::new(place.open().await), Arc::new(place.open().await)];
    let inserts = (0..64).map(|number| {
        let store = Arc::clone(&stores[number as usize % 2]);
        tokio::spawn(async move { store.insert(&record(number), Some(10)).await })
    });
    let mut done = 0;
    for insert in inserts.collect::<Vec<_>>() {
        match insert.await.unwrap() {
            Ok(()) => done += 1,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::LimitReached),
        }
    }
    assert_eq!((done, stores[0].count(Owner::User(&alice())).await.unwrap()), (10, 10));
}

#[tokio::test]
async fn use_is_added_in_one_batch_as_the_record_says() {
    let place = Place::new();
    let store = place.open().await;
    let mut expected = Vec::new();
    for number in 0..50 {
        let mut record = record(number);
        record.rolling = number % 2 == 0;
        record.expires_at = (number % 3 != 0).then_some(NOW);
        record.revoked_at = (number % 5 == 0).then_some(NOW);
        record.request_count = if number == 7 { u64::MAX } else { number };
        store.insert(&record, None).await.unwrap();
        expected.push(record);
    }
    for round in [2, 1, 3] {
        let batch: Vec<_> = (0..1000)
            .map(|number| {
                let mut usage = Usage::new(id(number), 3, NOW.saturating_add(Duration::from_secs(round)));
                usage.ip = (number % 4 == 0).then_some([192, 0, 2, round as u8].into());
                usage.renewed_to = Some(NOW.saturating_add(Duration::from_secs(round * 60)));
                usage
            })
            .collect();
        store.record_usage(&batch).await.unwrap();
        for (record, usage) in expected.iter_mut().zip(&batch) {
            usage.apply(record);
        }
    }
    for record in expected {
        assert_eq!(store.find(&record.digest).await.unwrap(), Some(record));
    }
}

#[tokio::test]
async fn many_may_make_the_file_at_once() {
    for _ in 0..5 {
        let place = Place::new();
        let opening: Vec<_> = (0..4).map(|_| tokio::spawn(SqliteStore::open(place.path()))).collect();
        let mut stores = Vec::new();
        for store in opening {
            stores.push(store.await.unwrap().unwrap());
        }
        for (number, store) in (0..).zip(&stores) {
            store.insert(&record(number), None).await.unwrap();
        }
        assert_eq!(stores[0].count(Owner::User(&alice())).await.unwrap(), 4);
    }
}

#[tokio::test]
async fn what_is_no_database_of_keyward_is_refused_and_left_alone() {
    let place = Place::new();
    for content in [
        "not a database, but a text that is long enough to be read as a header of one\n".repeat(40),
        "x".into(),
    ] {
        fs::write(place.path(), &content).unwrap();
        private(&place.path());
        let (kind, sentence) = place.refusal().await;
        assert_eq!(kind, StoreErrorKind::Corrupt, "{sentence}");
        assert!(sentence.contains("tokens.db"), "{sentence}");
        assert_eq!(fs::read_to_string(place.path()).unwrap(), content);
    }
    fs::remove_file(place.path()).unwrap();
    fs::create_dir(place.path()).unwrap();
    assert_eq!(place.refusal().await.0, StoreErrorKind::Unavailable);
    let nowhere = place.path().join("missing").join("tokens.db");
    assert_eq!(SqliteStore::open(nowhere).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(SqliteStore::open("").await.unwrap_err().kind(), StoreErrorKind::Unavailable);
}

#[cfg(unix)]
fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[cfg(not(unix))]
fn private(_: &Path) {}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_private_and_one_that_is_not_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.open().await;
    store.insert(&record(1), None).await.unwrap();
    for entry in fs::read_dir(place.directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    for open in [0o604, 0o602, 0o666] {
        fs::set_permissions(place.path(), fs::Permissions::from_mode(open)).unwrap();
        let (kind, sentence) = place.refusal().await;
        assert_eq!(kind, StoreErrorKind::Unavailable);
        assert!(sentence.contains("chmod o-rwx"), "{sentence}");
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o660)).unwrap();
    drop(place.open().await);
}

/// Opens a copy of `bytes` and looks for what a damaged file must never give: another record.
async fn never_wrong(place: &Place, bytes: &[u8], records: &[TokenRecord]) -> usize {
    fs::write(place.path(), bytes).unwrap();
    private(&place.path());
    let Ok(store) = SqliteOptions::new(place.path()).with_readers(1).open().await else { return 0 };
    let mut refused = 0;
    for record in records {
        match store.find(&record.digest).await {
            Ok(Some(found)) => assert_eq!(&found, record),
            Ok(None) | Err(_) => refused += 1,
        }
        if let Ok(Some(found)) = store.get(Owner::User(&record.owner), record.id).await {
            assert_eq!(&found, record);
        }
    }
    refused
}

#[tokio::test]
async fn a_flipped_byte_is_refused_or_harmless() {
    let original = Place::new();
    let mut records = vec![full_record()];
    records.extend((2..12).map(record));
    let store = original.open().await;
    for record in &records {
        store.insert(record, None).await.unwrap();
    }
    drop(store);
    original.closed().await;
    let bytes = fs::read(original.path()).unwrap();
    let used: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut noticed_late = 0;
    for (round, at) in used.iter().step_by(used.len() / 160).enumerate() {
        let place = Place::new();
        let mut damaged = bytes.clone();
        damaged[*at] ^= 1 << (round % 8);
        noticed_late += never_wrong(&place, &damaged, &records).await;
    }
    assert!(noticed_late > 0, "the check of each row is at work");
    for length in [0, 1, 99, 512, 4096, bytes.len() / 2, bytes.len() - 1] {
        let place = Place::new();
        never_wrong(&place, &bytes[..length], &records).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_deleted_file_stays_an_error_and_a_restored_one_is_used() {
    let place = Place::new();
    let store = place.open().await;
    store.insert(&record(1), None).await.unwrap();
    let away = place.directory.path().join("away.db");
    fs::rename(place.path(), &away).unwrap();

    let error = store.insert(&record(2), None).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    assert_eq!(store.health().await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    let cursor = keyward::store::ChangeCursor(0);
    assert_eq!(store.changes(Some(cursor)).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(store.find(&record(1).digest).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert!(!place.path().exists());

    fs::rename(&away, place.path()).unwrap();
    store.health().await.unwrap();
    assert_eq!(store.find(&record(1).digest).await.unwrap(), Some(record(1)), "nothing acknowledged is lost");
    assert_eq!(store.find(&record(2).digest).await.unwrap(), None);
    store.insert(&record(2), None).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_put_in_its_place_is_picked_up() {
    let (place, backup) = (Place::new(), Place::new());
    let other = backup.open().await;
    for number in 5..9 {
        other.insert(&record(number), None).await.unwrap();
    }
    drop(other);
    backup.closed().await;

    let store = place.open().await;
    for number in 1..3 {
        store.insert(&record(number), None).await.unwrap();
    }
    let cursor = store.changes(None).await.unwrap().cursor;
    fs::rename(backup.path(), place.path()).unwrap();
    store.insert(&record(9), None).await.unwrap();
    assert_eq!(store.find(&record(1).digest).await.unwrap(), None);
    assert_eq!(store.find(&record(5).digest).await.unwrap(), Some(record(5)));
    let changes = store.changes(Some(cursor)).await.unwrap();
    assert!(changes.digests.is_none() && changes.cursor > cursor);
    assert_eq!(place.open().await.count(Owner::User(&alice())).await.unwrap(), 5);

    fs::write(backup.path(), "no database").unwrap();
    private(&backup.path());
    fs::rename(backup.path(), place.path()).unwrap();
    assert_eq!(store.insert(&record(10), None).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    assert_eq!(store.find(&record(5).digest).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
}
