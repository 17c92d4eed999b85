//! Tokens that end with others, and what was made through them.

use crate::{
    store::{Owner, Reach, Revoked, StoreErrorKind, TokenStore},
    testing::conformance::records::{
        admin, assert_holds, assert_not_found, assert_refused, assert_same, current, id, ids, later, stored,
        token, user,
    },
    token::TokenRecord,
};

/// A token is revoked with all that end with it, at any depth and whatever their state, and the store tells which;
/// what was only made through it stays.
pub async fn what_ends_with_a_token_is_revoked_with_it(store: &dyn TokenStore) {
    let root = stored(store, token(1, "alice")).await;
    let child = stored(store, child_of(1, token(2, "alice"))).await;
    let grandchild = TokenRecord { disabled_at: Some(later(1)), ..child_of(2, token(3, "alice")) };
    let grandchild = stored(store, grandchild).await;
    let made = stored(store, made_by(1, token(4, "alice"))).await;
    let revoked = revoke(store, Owner::User(&root.owner), 1, Reach::Children).await;
    assert_ended(&revoked, [2, 3]);
    let [root, child, grandchild] = [root, child, grandchild].map(dead);
    assert_same("the returned record", &revoked.record, &root);
    assert_holds(store, &[made, grandchild, child, root]).await;
}

/// On demand what was made through a token is revoked as well, and what was made through that.
pub async fn everything_made_through_a_token_is_revoked_on_demand(store: &dyn TokenStore) {
    let root = stored(store, token(1, "alice")).await;
    let others = [
        stored(store, made_by(1, token(2, "alice"))).await,
        stored(store, child_of(2, token(3, "alice"))).await,
        stored(store, made_by(3, token(4, "alice"))).await,
    ];
    let apart = stored(store, made_by(9, token(5, "alice"))).await;
    let revoked = revoke(store, Owner::User(&root.owner), 1, Reach::Minted).await;
    assert_ended(&revoked, [2, 3, 4]);
    assert_same("a token that somebody else made", &current(store, &apart).await, &apart);
    for other in others {
        assert_same("a token that was made through it", &current(store, &other).await, &dead(other));
    }
}

/// Tokens that are revoked already are not revoked again, and what was made through them is found.
pub async fn revoked_tokens_are_passed_through(store: &dyn TokenStore) {
    stored(store, token(1, "alice")).await;
    let old = TokenRecord { revoked_at: Some(later(5)), revision: 1, ..made_by(1, token(2, "alice")) };
    let old = stored(store, old).await;
    stored(store, made_by(2, token(3, "alice"))).await;
    for ended in [&[3][..], &[]] {
        let revoked = revoke(store, Owner::User(&old.owner), 1, Reach::Minted).await;
        assert_ended(&revoked, ended.iter().copied());
        assert_eq!(revoked.record.revoked_at, Some(later(9)), "the time of the first revocation");
    }
    assert_same("a token that was revoked before", &current(store, &old).await, &old);
}

/// When a user revokes, what was made for others stays; when an administrator does, it goes.
pub async fn only_administrators_revoke_what_was_made_for_others(store: &dyn TokenStore) {
    stored(store, token(1, "alice")).await;
    let foreign = stored(store, made_by(1, token(2, "bob"))).await;
    let beyond = stored(store, made_by(2, token(3, "alice"))).await;
    let revoked = revoke(store, Owner::User(&user("alice")), 1, Reach::Minted).await;
    assert_ended(&revoked, []);
    for record in [&foreign, &beyond] {
        assert_same("what was made by or for another user", &current(store, record).await, record);
    }
    let revoked = revoke(store, Owner::Any(&admin()), 1, Reach::Minted).await;
    assert_ended(&revoked, [2, 3]);
    assert_same("the token of the other user", &current(store, &foreign).await, &dead(foreign));
}

/// Tokens that name each other as their origin, as in a damaged store, are all revoked, and the call returns.
pub async fn circles_end(store: &dyn TokenStore) {
    stored(store, made_by(3, token(1, "alice"))).await;
    stored(store, child_of(1, token(2, "alice"))).await;
    stored(store, made_by(2, child_of(2, token(3, "alice")))).await;
    let revoked = revoke(store, Owner::User(&user("alice")), 1, Reach::Minted).await;
    assert_ended(&revoked, [2, 3]);
}

/// A token of somebody else is not revoked, nor is one that does not exist.
pub async fn foreign_tokens_are_not_revoked(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    let child = stored(store, child_of(1, token(2, "alice"))).await;
    for reach in [Reach::Children, Reach::Minted] {
        for n in [1, 9] {
            let outcome = store.revoke(Owner::User(&user("bob")), id(n), later(9), reach).await;
            assert_eq!(outcome.expect("revoke"), None, "what a user revokes who has no tokens");
        }
    }
    assert_holds(store, &[child, record]).await;
}

/// A token is not stored below one that is revoked, replaced, or another user's, unless it is revoked itself; below
/// one that is not stored (yet), it is.
pub async fn dead_parents_take_no_children(store: &dyn TokenStore) {
    stored(store, TokenRecord { revoked_at: Some(later(1)), ..token(1, "alice") }).await;
    stored(store, TokenRecord { successor: Some(id(9)), ..token(2, "alice") }).await;
    stored(store, token(3, "bob")).await;
    stored(store, TokenRecord { expires_at: Some(later(1)), ..token(4, "alice") }).await;
    for parent in [1, 2, 3] {
        let child = child_of(parent, token(10, "alice"));
        assert_refused("a child", store.insert(&child, None).await, StoreErrorKind::Conflict);
        let room = crate::store::Room::new(100);
        let outcome = store.insert_making_room(&child, &room).await;
        assert_refused("a child that finds room", outcome, StoreErrorKind::Conflict);
        assert_not_found("a refused child", store, 10).await;
    }
    stored(store, TokenRecord { revoked_at: Some(later(1)), ..child_of(1, token(11, "alice")) }).await;
    stored(store, child_of(4, token(12, "alice"))).await;
    stored(store, child_of(99, token(13, "alice"))).await;
}

pub(super) fn child_of(parent: u16, record: TokenRecord) -> TokenRecord {
    TokenRecord { parent: Some(id(parent)), ..record }
}

fn made_by(maker: u16, record: TokenRecord) -> TokenRecord {
    TokenRecord { created_by: Some(id(maker)), ..record }
}

/// As it is after it was revoked.
fn dead(record: TokenRecord) -> TokenRecord {
    TokenRecord { revoked_at: Some(later(9)), revision: record.revision + 1, ..record }
}

async fn revoke(store: &dyn TokenStore, owner: Owner<'_>, n: u16, reach: Reach) -> Revoked {
    let revoked = store.revoke(owner, id(n), later(9), reach).await.expect("revoke");
    revoked.expect("the token to revoke is found")
}

#[track_caller]
fn assert_ended(revoked: &Revoked, numbers: impl IntoIterator<Item = u16>) {
    let mut ended: Vec<_> = revoked.others.iter().map(|ended| ended.id).collect();
    ended.sort_unstable();
    assert_eq!(ended, ids(numbers), "the other tokens that are revoked");
}
