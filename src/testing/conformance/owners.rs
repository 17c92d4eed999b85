//! A record of another owner is treated as one that does not exist.

use crate::{
    store::{Change, Owner, Page, Rotation, TokenStore},
    testing::conformance::records::{
        admin, assert_holds, assert_not_found, assert_same, changed, current, id, ids, later, list, rich,
        stored, token, user,
    },
    token::TokenRecord,
};

/// The id of another user's token gives nothing.
pub async fn foreign_records_are_not_read(store: &dyn TokenStore) {
    stored(store, token(1, "alice")).await;
    stored(store, token(2, "bob")).await;
    for (owner, n) in [("alice", 2), ("bob", 1), ("carol", 1)] {
        let found = store.get(Owner::User(&user(owner)), id(n)).await.expect("get");
        assert!(found.is_none(), "{owner} reads a token of somebody else");
    }
}

/// A change of another user's token finds nothing and changes nothing.
pub async fn foreign_records_are_not_changed(store: &dyn TokenStore) {
    let records = [stored(store, rich(2, "bob")).await, stored(store, rich(1, "alice")).await];
    let alice = user("alice");
    let stale = Change { if_revision: Some(99), ..Change::default() };
    for change in [Change { name: Some("mine".into()), ..Change::default() }, Change::revoke(later(9)), stale]
    {
        let outcome = store.update(Owner::User(&alice), id(2), &change).await;
        assert_eq!(
            outcome.expect("a foreign token is absent, not refused"),
            None,
            "a foreign token is changed"
        );
    }
    assert_holds(store, &records).await;
}

/// A rotation of another user's token finds nothing and stores no successor.
pub async fn foreign_records_are_not_rotated(store: &dyn TokenStore) {
    let records = [stored(store, rich(2, "bob")).await, stored(store, rich(1, "alice")).await];
    let alice = user("alice");
    for revision in [7, 99] {
        let rotation = Rotation::new(token(3, "alice"), later(60), revision);
        let outcome = store.rotate(Owner::User(&alice), id(2), &rotation).await;
        assert_eq!(
            outcome.expect("a foreign token is absent, not refused"),
            None,
            "a foreign token is rotated"
        );
    }
    assert_holds(store, &records).await;
    assert_not_found("the successor of a foreign token", store, 3).await;
}

/// An id that was never stored is read, changed and rotated as nothing, by users and by administrators.
pub async fn unknown_ids_are_nobodys(store: &dyn TokenStore) {
    let records = [stored(store, rich(1, "alice")).await];
    let (alice, admin) = (user("alice"), admin());
    for owner in [Owner::User(&alice), Owner::Any(&admin)] {
        assert_eq!(store.get(owner, id(2)).await.expect("get"), None);
        let outcome = store.update(owner, id(2), &Change::revoke(later(9))).await;
        assert_eq!(outcome.expect("an unknown id is absent, not refused"), None);
        let rotation = Rotation::new(token(3, "alice"), later(60), 0);
        let outcome = store.rotate(owner, id(2), &rotation).await;
        assert_eq!(outcome.expect("an unknown id is absent, not refused"), None);
    }
    assert_holds(store, &records).await;
    assert_not_found("the successor of an unknown token", store, 3).await;
}

/// A user lists and counts their own tokens and nobody else's; a user without tokens has none.
pub async fn lists_and_counts_show_own_records_only(store: &dyn TokenStore) {
    for (n, owner) in (1..).zip(["alice", "bob", "alice", "bob", "alice"]) {
        stored(store, token(n, owner)).await;
    }
    for (owner, numbers) in [("alice", vec![5, 3, 1]), ("bob", vec![4, 2]), ("carol", vec![])] {
        let count = store.count(Owner::User(&user(owner))).await.expect("count");
        assert_eq!(count, numbers.len() as u64, "the count of {owner}");
        assert_eq!(list(store, owner, Page::first(10)).await, ids(numbers), "the list of {owner}");
    }
}

/// An administrator reads, lists, counts, changes and rotates the tokens of all users.
pub async fn admins_reach_every_record(store: &dyn TokenStore) {
    let records = [stored(store, rich(2, "bob")).await, stored(store, rich(1, "alice")).await];
    let admin = admin();
    let everybody = Owner::Any(&admin);
    assert_holds(store, &records).await;
    assert_eq!(store.count(everybody).await.expect("count"), 2);
    for record in &records {
        let found = store.get(everybody, record.id).await.expect("get");
        assert_eq!(found.as_ref(), Some(record), "an administrator does not get a token");
    }
    let rename = Change { name: Some("renamed".into()), ..Change::default() };
    let renamed = changed(store.update(everybody, id(1), &rename).await);
    assert_eq!((&*renamed.name, renamed.owner), ("renamed", user("alice")));
    let rotation = Rotation::new(token(3, "bob"), later(60), 7);
    let replaced = changed(store.rotate(everybody, id(2), &rotation).await);
    assert_same("the replaced token", &replaced, &current(store, &replaced).await);
    assert_eq!((replaced.successor, replaced.owner), (Some(id(3)), user("bob")));
}

/// User ids that differ in case, in length, in accents or in how these are encoded are different users.
pub async fn user_ids_are_compared_byte_for_byte(store: &dyn TokenStore) {
    let similar =
        ["alice", "Alice", "ALICE", "al", "alice2", "alicé", "alice\u{301}", "ａｌｉｃｅ", "a lice", "alıce"];
    assert_apart(store, &similar.map(str::to_owned)).await;
}

/// User ids that mean something in a query, a pattern or a path are user ids like all others.
pub async fn user_ids_are_not_interpreted(store: &dyn TokenStore) {
    let special = [
        "'; DROP TABLE tokens; --",
        "' OR '1'='1",
        "\"",
        "%",
        "_",
        "a%",
        "ab",
        "\\",
        "*",
        "?1",
        "NULL",
        "0",
        "00",
        "0.0",
        "../ab",
        "a:b",
        "a:b:c",
    ];
    assert_apart(store, &special.map(str::to_owned)).await;
}

/// User ids of the greatest length that differ in their last byte alone are different users.
pub async fn long_user_ids_are_not_cut(store: &dyn TokenStore) {
    let start = "ж".repeat(127);
    assert_apart(store, &[format!("{start}a"), format!("{start}b"), start]).await;
}

/// Gives each user one token and panics unless each reaches exactly that.
async fn assert_apart(store: &dyn TokenStore, users: &[String]) {
    let mut records: Vec<TokenRecord> = Vec::new();
    for (n, name) in (1..).zip(users) {
        records.push(stored(store, token(n, name)).await);
    }
    for (n, name) in (1..).zip(users) {
        let user = user(name);
        let owner = Owner::User(&user);
        assert_eq!(store.count(owner).await.expect("count"), 1, "the count of {name:?}");
        assert_eq!(list(store, name, Page::first(100)).await, ids([n]), "the list of {name:?}");
        for record in &records {
            let found = store.get(owner, record.id).await.expect("get").is_some();
            assert_eq!(found, record.owner == user, "whether {name:?} reads a token of {:?}", record.owner);
        }
    }
    for record in &records {
        let revoked = store.revoke_all(&record.owner, later(9)).await.expect("revoke_all");
        assert_eq!(revoked.len(), 1, "how many tokens of {:?} are revoked", record.owner);
        assert_eq!(revoked.first(), Some(&record.digest), "the digest revoked for {:?}", record.owner);
    }
}
