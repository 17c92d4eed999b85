//! What is inserted comes back as it was.

use std::{net::IpAddr, time::Duration};

use serde_json::json;

use crate::{
    scope::{Grant, RoleSet, ScopeSet},
    secret::TokenDigest,
    store::{Change, Owner, StoreErrorKind, TokenStore},
    testing::conformance::{
        harness::within,
        records::{
            assert_holds, assert_not_found, assert_refused, assert_stored, changed, current, id, ips, later,
            object, rich, stored, token,
        },
    },
    time::UnixTime,
    token::{TokenClass, TokenRecord},
};

/// A fresh store says that it works.
pub async fn a_fresh_store_is_healthy(store: &dyn TokenStore) {
    store.health().await.expect("a fresh store is healthy");
    assert_holds(store, &[]).await;
}

/// Asking for changes without a cursor gives the current cursor and does not wait for a change.
pub async fn changes_without_a_cursor_return_at_once(store: &dyn TokenStore) {
    for n in 1..3 {
        let changes = within(Duration::from_secs(5), store.changes(None)).await;
        changes.expect("changes(None) returns at once").expect("changes(None) gives a cursor");
        stored(store, token(n, "alice")).await;
    }
}

/// A record with a value in every field comes back with all of them.
pub async fn every_field_comes_back(store: &dyn TokenStore) {
    let record = TokenRecord {
        disabled_at: Some(later(2_000)),
        revoked_at: Some(later(3_000)),
        successor: Some(id(9)),
        ..rich(1, "alice")
    };
    assert_stored(store, &stored(store, record).await).await;
}

/// A record without any optional value comes back without any.
pub async fn what_is_absent_stays_absent(store: &dyn TokenStore) {
    assert_stored(store, &stored(store, token(1, "alice")).await).await;
}

/// The class of a token comes back.
pub async fn every_class_comes_back(store: &dyn TokenStore) {
    for (n, class) in (1..).zip([TokenClass::User, TokenClass::Admin, TokenClass::Service]) {
        assert_stored(store, &stored(store, TokenRecord { class, ..token(n, "alice") }).await).await;
    }
}

/// A grant of nothing, of something and of everything stay apart, for scopes and for roles.
pub async fn grants_keep_their_kind(store: &dyn TokenStore) {
    let scopes = ScopeSet::new(["jobs:read", "*"]).expect("valid scopes");
    let roles = RoleSet::new(["admin"]).expect("valid roles");
    let grants = [
        (Grant::All, Grant::Only(roles)),
        (Grant::Only(scopes), Grant::Only(RoleSet::empty())),
        (Grant::Only(ScopeSet::empty()), Grant::All),
    ];
    for (n, (scopes, roles)) in (1..).zip(grants) {
        assert_stored(store, &stored(store, TokenRecord { scopes, roles, ..token(n, "alice") }).await).await;
    }
}

/// Names, hints and texts in metadata come back character by character: spaces, scripts of all kinds,
/// control characters, long texts, and what means something to a database.
pub async fn texts_come_back_unchanged(store: &dyn TokenStore) {
    for (n, text) in (1..).zip(texts()) {
        let mut record = token(n, "alice");
        record.metadata.insert(text.clone(), text.clone().into());
        record.hint = text.clone().into();
        record.name = text.into();
        assert_stored(store, &stored(store, record).await).await;
    }
}

fn texts() -> impl Iterator<Item = String> {
    let short = [
        "",
        " ",
        "  two  spaces  ",
        "Zoë’s naïve café",
        "e\u{301} is not \u{e9}",
        "👩‍👩‍👧‍👦 🏳️‍🌈 🇺🇳",
        "שלום مرحبا",
        "\u{202e}gnp.exe\u{202c}\u{200f}",
        "\u{feff}\u{fffd}\u{10ffff}\u{e000}",
        "a\tb\r\nc\u{1}\u{1b}[2J\u{7f}\u{85}\u{2028}",
        "'; DROP TABLE tokens; --",
        "\" OR \"\"=\"",
        "100%_\\",
        "$1 ?1 :name @name {0}",
        "NULL",
        "null",
        "007",
        "1e5",
        "\\u0000 \\x00 \\N",
        "{\"not\": [\"an object\"",
    ];
    short.map(str::to_owned).into_iter().chain(["x".repeat(10_000), "ж𝄞".repeat(2_000)])
}

/// The character U+0000 ends no text.
pub async fn nul_characters_come_back(store: &dyn TokenStore) {
    let mut record = token(1, "alice");
    record.name = "a\0b\0".into();
    record.metadata.insert("c\0d".to_owned(), "e\0f".into());
    assert_stored(store, &stored(store, record).await).await;
}

/// Metadata comes back with its structure and its types.
pub async fn metadata_comes_back(store: &dyn TokenStore) {
    let nested = (0..30).fold(json!("core"), |inner, _| json!([{ "in": inner }]));
    let values = [
        json!({ "null": null, "yes": true, "no": false, "": "", "list": [], "object": {}, "mixed": [1, "1", [1]] }),
        json!({ "small": i64::MIN, "large": u64::MAX, "zero": 0, "half": 0.5, "negative": -2.25 }),
        json!({ "a": 1, "A": 2, "á": 3, "a.b": 4, "$a": 5, "a b": 6, "0": 7 }),
        json!({ "nested": nested }),
        json!({ "many": (0..1_000).collect::<Vec<_>>() }),
    ];
    for (n, value) in (1..).zip(values) {
        let metadata = object(value);
        assert_stored(store, &stored(store, TokenRecord { metadata, ..token(n, "alice") }).await).await;
    }
}

/// Times come back to the millisecond, also the epoch, those before it, and the far end of time.
pub async fn times_at_the_edges_come_back(store: &dyn TokenStore) {
    let times = [0, 1, -1, 999, 1_000, 1 << 31, 1 << 32, 253_402_300_800_000, i64::MAX];
    for (n, time) in (1..).zip(times.map(UnixTime::from_millis)) {
        let record = TokenRecord {
            created_at: time,
            expires_at: Some(time),
            hard_end: Some(time),
            disabled_at: Some(time),
            revoked_at: Some(time),
            last_used: Some(time),
            ..token(n, "alice")
        };
        assert_stored(store, &stored(store, record).await).await;
    }
}

/// Addresses of both families come back, and address lists of any permitted length.
pub async fn addresses_come_back(store: &dyn TokenStore) {
    let many: Vec<_> = (0..64).map(|n| format!("2001:db8:{n:x}::/48")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let lists = [ips(&["0.0.0.0/0", "::/0"]), ips(&["192.0.2.255", "2001:db8::ff"]), ips(&many)];
    let addresses = ["0.0.0.0", "255.255.255.255", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"];
    for ((n, list), address) in (1..).zip(lists).zip(addresses) {
        let address: IpAddr = address.parse().expect("a valid address");
        let record = TokenRecord {
            allowed_ips: Some(list),
            created_ip: Some(address),
            last_used_ip: Some(address),
            ..token(n, "alice")
        };
        assert_stored(store, &stored(store, record).await).await;
    }
}

/// A digest that was never stored finds nothing.
pub async fn unknown_digests_are_not_found(store: &dyn TokenStore) {
    assert_not_found("a token of an empty store", store, 1).await;
    stored(store, token(1, "alice")).await;
    assert_not_found("an unknown token", store, 2).await;
}

/// Digests that differ in one byte, wherever it is, are different, and no byte has a meaning.
pub async fn digests_are_compared_in_full(store: &dyn TokenStore) {
    let mut digests = vec![[0; 32], [b'%'; 32], [0xff; 32]];
    digests.extend((0..32).map(|place| {
        let mut bytes = [b'%'; 32];
        bytes.iter_mut().skip(place).take(1).for_each(|byte| *byte = b'_');
        bytes
    }));
    for (n, bytes) in (1..).zip(&digests) {
        let digest = TokenDigest::from_bytes(*bytes);
        let found = store.find(&digest).await.expect("find");
        assert!(found.is_none(), "digest {n} is found before it is stored");
        stored(store, TokenRecord { digest, ..token(n, "alice") }).await;
    }
    for (n, bytes) in (1..).zip(&digests) {
        let found = store.find(&TokenDigest::from_bytes(*bytes)).await.expect("find");
        assert_eq!(found.map(|record| record.id), Some(id(n)), "digest {n} finds another record");
    }
}

/// A digest that is stored already is refused, whoever owns it, and nothing is stored.
pub async fn taken_digests_are_refused(store: &dyn TokenStore) {
    let first = stored(store, rich(1, "alice")).await;
    for owner in ["alice", "bob"] {
        let second = TokenRecord { digest: first.digest, ..token(2, owner) };
        assert_refused("a taken digest", store.insert(&second, None).await, StoreErrorKind::Duplicate);
        assert_holds(store, std::slice::from_ref(&first)).await;
    }
    changed(store.update(Owner::User(&first.owner), first.id, &Change::revoke(later(9))).await);
    let second = TokenRecord { digest: first.digest, ..token(2, "alice") };
    assert_refused("a revoked token's digest", store.insert(&second, None).await, StoreErrorKind::Duplicate);
}

/// An id that is stored already is refused, whoever owns it, and nothing is stored.
pub async fn taken_ids_are_refused(store: &dyn TokenStore) {
    let first = stored(store, rich(1, "alice")).await;
    for owner in ["alice", "bob"] {
        let second = TokenRecord { id: first.id, ..token(2, owner) };
        assert_refused("a taken id", store.insert(&second, None).await, StoreErrorKind::Duplicate);
        assert_holds(store, std::slice::from_ref(&first)).await;
        assert_not_found("a refused token", store, 2).await;
    }
    stored(store, token(2, "alice")).await;
}

/// A digest finds its token also when that is disabled, expired, replaced or revoked.
pub async fn tokens_are_found_in_any_state(store: &dyn TokenStore) {
    let states = [
        TokenRecord { disabled_at: Some(later(1)), ..token(1, "alice") },
        TokenRecord { expires_at: Some(UnixTime::EPOCH), ..token(2, "alice") },
        TokenRecord { successor: Some(id(1)), ..token(3, "alice") },
        TokenRecord { revoked_at: Some(later(1)), ..token(4, "alice") },
    ];
    for record in states {
        let record = stored(store, record).await;
        let found = store.find(&record.digest).await.expect("find");
        assert_eq!(found, Some(current(store, &record).await), "find and get differ");
    }
}
