//! What a store promises that cannot be written. `known` is everything that it holds.

use std::cmp::Reverse;

use crate::{
    id::UserId,
    secret::TokenDigest,
    store::{Change, Owner, Page, Purge, Reach, Room, Rotation, StoreErrorKind, TokenStore, Usage},
    testing::conformance::records::{
        admin, assert_holds, assert_refused, assert_same, assert_stored, digest, later, token,
    },
    token::{Lifetimes, TokenRecord},
};

/// The store says that it works.
pub async fn the_store_is_healthy(store: &dyn TokenStore, _known: &[(UserId, TokenDigest)]) {
    store.health().await.expect("the store is healthy");
}

/// Each token is found by its digest and belongs to its owner.
pub async fn known_digests_are_found(store: &dyn TokenStore, known: &[(UserId, TokenDigest)]) {
    for ((owner, digest), record) in known.iter().zip(records(store, known).await) {
        assert_eq!((&record.owner, &record.digest), (owner, digest), "the record of a known digest");
        assert_stored(store, &record).await;
    }
}

/// Other digests find nothing, also when all but the last byte is that of a known one.
pub async fn unknown_digests_are_not_found(store: &dyn TokenStore, known: &[(UserId, TokenDigest)]) {
    let similar = known.iter().map(|(_, digest)| {
        let mut bytes = *digest.as_bytes();
        bytes.iter_mut().skip(31).for_each(|byte| *byte ^= 1);
        TokenDigest::from_bytes(bytes)
    });
    for digest in similar.chain([digest(1)]) {
        assert_eq!(store.find(&digest).await.expect("find"), None, "an unknown digest is found");
    }
}

/// A token is read by its owner and by administrators, and by nobody else.
pub async fn records_are_read_by_their_owner_only(store: &dyn TokenStore, known: &[(UserId, TokenDigest)]) {
    let records = records(store, known).await;
    let admin = admin();
    for record in &records {
        let found = store.get(Owner::Any(&admin), record.id).await.expect("get");
        assert_same("get", &found.expect("an administrator reads every token"), record);
        for (user, _) in known {
            let found = store.get(Owner::User(user), record.id).await.expect("get").is_some();
            assert_eq!(found, record.owner == *user, "whether {user:?} reads a token of {:?}", record.owner);
        }
    }
}

/// A user lists and counts exactly their own tokens, an administrator all of them.
pub async fn lists_and_counts_are_complete_and_scoped(
    store: &dyn TokenStore,
    known: &[(UserId, TokenDigest)],
) {
    let mut all = records(store, known).await;
    all.sort_unstable_by_key(|record| Reverse(record.id));
    assert_holds(store, &all).await;
    for (user, _) in known {
        let own: Vec<_> = all.iter().filter(|record| record.owner == *user).cloned().collect();
        let listed = store.list(Owner::User(user), Page::first(u32::MAX)).await.expect("list");
        assert_eq!(listed, own, "the list of {user:?}");
        let live = own.iter().filter(|record| record.revoked_at.is_none()).count();
        assert_eq!(
            store.count(Owner::User(user)).await.expect("count"),
            live as u64,
            "the count of {user:?}"
        );
    }
    let live = all.iter().filter(|record| record.revoked_at.is_none()).count();
    assert_eq!(store.count(Owner::Any(&admin())).await.expect("count"), live as u64, "the count of all");
}

/// Pages, one after the other, give each token once; one of size zero is empty.
pub async fn pages_join_without_gaps_or_repeats(store: &dyn TokenStore, known: &[(UserId, TokenDigest)]) {
    let mut all = records(store, known).await;
    all.sort_unstable_by_key(|record| Reverse(record.id));
    let admin = admin();
    let mut page = Page::first(1);
    for record in &all {
        let one = store.list(Owner::Any(&admin), page).await.expect("list");
        assert_eq!(one, std::slice::from_ref(record), "a page of one");
        page = Page::after(record.id, 1);
    }
    for page in [page, Page::first(0)] {
        let none = store.list(Owner::Any(&admin), page).await.expect("list");
        assert_eq!(none, [], "a page after the last token or of size zero");
    }
}

/// Every write but that of use is refused as [`StoreErrorKind::ReadOnly`], and nothing changes. Use may
/// be dropped.
pub async fn writes_are_refused(store: &dyn TokenStore, known: &[(UserId, TokenDigest)]) {
    let mut all = records(store, known).await;
    let kind = StoreErrorKind::ReadOnly;
    assert_refused("an insert", store.insert(&token(1, "alice"), None).await, kind);
    let outcome = store.insert_making_room(&token(1, "alice"), &Room::new(1)).await;
    assert_refused("an insert that makes room", outcome, kind);
    let purge = Purge::new(later(900_000), Lifetimes::default(), 10);
    assert_refused("a removal", store.purge(&admin(), &purge).await, kind);
    for record in &all {
        let owner = Owner::User(&record.owner);
        let change = Change::revoke(later(9));
        assert_refused("a change", store.update(owner, record.id, &change).await, kind);
        let successor = TokenRecord { owner: record.owner.clone(), ..token(2, "alice") };
        let rotation = Rotation::new(successor, later(60), record.revision);
        let outcome = store.revoke(owner, record.id, later(9), Reach::Minted).await;
        assert_refused("a revocation", outcome, kind);
        assert_refused("a rotation", store.rotate(owner, record.id, &rotation).await, kind);
        assert_refused("a revocation of all", store.revoke_all(&record.owner, later(9)).await, kind);
        if let Err(error) = store.record_usage(&[Usage::new(record.id, 1, later(9))]).await {
            assert_eq!(error.kind(), kind, "use is refused for another reason: {error}");
        }
    }
    all.sort_unstable_by_key(|record| Reverse(record.id));
    assert_holds(store, &all).await;
}

/// The records of the `known` digests, in their order.
async fn records(store: &dyn TokenStore, known: &[(UserId, TokenDigest)]) -> Vec<TokenRecord> {
    let mut records = Vec::new();
    for (owner, digest) in known {
        let found = store.find(digest).await.expect("find");
        match found {
            Some(record) => records.push(record),
            None => panic!("a known digest of {owner:?} is not found"),
        }
    }
    records
}
