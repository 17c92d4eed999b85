//! A rotation stores the successor and marks the old token, both or neither.

use crate::{
    store::{Change, Owner, Rotation, StoreErrorKind, TokenStore, Usage},
    testing::conformance::{
        families::child_of,
        records::{
            assert_holds, assert_not_found, assert_refused, assert_same, assert_stored, changed, current, id,
            later, rich, stored, token,
        },
    },
    token::TokenRecord,
};

/// The successor is stored with all its fields.
pub async fn successors_are_stored_whole(store: &dyn TokenStore) {
    let old = stored(store, token(1, "alice")).await;
    let rotation = Rotation::new(rich(2, "alice"), later(60), old.revision);
    changed(store.rotate(Owner::User(&old.owner), old.id, &rotation).await);
    assert_stored(store, &rotation.successor).await;
}

/// The old token names its successor, ends with the overlap, is renewed no more and has one revision
/// more; it is returned so, and all its other fields stay.
pub async fn replaced_tokens_name_their_successor(store: &dyn TokenStore) {
    let old = stored(store, rich(1, "alice")).await;
    let rotation = Rotation::new(token(2, "alice"), later(60), old.revision);
    let replaced = changed(store.rotate(Owner::User(&old.owner), old.id, &rotation).await);
    let expected = TokenRecord {
        successor: Some(id(2)),
        expires_at: Some(later(60)),
        rolling: false,
        revision: old.revision + 1,
        ..old
    };
    assert_same("the returned record", &replaced, &expected);
    assert_holds(store, &[rotation.successor, expected]).await;
}

/// Tokens that end with the old one and may work, now or when they are switched on, end with its successor from now
/// on, which counts as a change; those that end with others stay.
pub async fn what_ends_with_it_moves_to_the_successor(store: &dyn TokenStore) {
    let old = stored(store, token(1, "alice")).await;
    let child = stored(store, child_of(1, token(2, "alice"))).await;
    let off = TokenRecord { disabled_at: Some(later(3)), ..child_of(1, token(3, "alice")) };
    let off = stored(store, off).await;
    let grandchild = stored(store, child_of(2, token(4, "alice"))).await;
    let rotation = Rotation::new(token(5, "alice"), later(60), old.revision);
    let replaced = changed(store.rotate(Owner::User(&old.owner), old.id, &rotation).await);
    let moved = |record: TokenRecord| TokenRecord { revision: record.revision + 1, ..child_of(5, record) };
    assert_holds(store, &[rotation.successor, grandchild, moved(off), moved(child), replaced]).await;
}

/// Tokens that are dead when the old one is replaced stay with it and are not changed: those that are revoked, and
/// those that expired by the time that the rotation names. Without such a time what expired moves.
pub async fn what_is_dead_stays_with_the_old_token(store: &dyn TokenStore) {
    let old = stored(store, token(1, "alice")).await;
    let child = |n| child_of(1, token(n, "alice"));
    let revoked = stored(store, TokenRecord { revoked_at: Some(later(3)), ..child(2) }).await;
    let expired = stored(store, TokenRecord { expires_at: Some(later(50)), ..child(3) }).await;
    let in_grace = stored(store, TokenRecord { expires_at: Some(later(51)), ..child(4) }).await;
    let mut rotation = Rotation::new(token(5, "alice"), later(90), old.revision);
    rotation.dead_by = Some(later(50));
    let replaced = changed(store.rotate(Owner::User(&old.owner), old.id, &rotation).await);
    let moved = |n, record: TokenRecord| TokenRecord { revision: record.revision + 1, ..child_of(n, record) };
    let in_grace = moved(5, in_grace);
    let Rotation { successor, .. } = rotation;
    assert_holds(store, &[successor.clone(), in_grace.clone(), expired, revoked, replaced]).await;
    let rotation = Rotation::new(token(6, "alice"), later(99), successor.revision);
    changed(store.rotate(Owner::User(&old.owner), successor.id, &rotation).await);
    assert_stored(store, &moved(6, in_grace)).await;
}

/// A successor that would be one active token too many is refused and changes nothing; the old token counts as long as
/// it has an overlap, and what is dead does not count.
pub async fn successors_stay_within_the_limit(store: &dyn TokenStore) {
    let old = stored(store, token(1, "alice")).await;
    let other = stored(store, token(2, "alice")).await;
    let dead = stored(store, TokenRecord { revoked_at: Some(later(3)), ..token(3, "alice") }).await;
    let foreign = stored(store, token(4, "bob")).await;
    let successor = TokenRecord { created_at: later(10), ..token(5, "alice") };
    let rotation =
        |end, limit| Rotation::new(successor.clone(), later(end), old.revision).with_max_active(Some(limit));
    let refused = store.rotate(Owner::User(&old.owner), old.id, &rotation(60, 2)).await;
    assert_eq!(
        refused.err().map(|error| error.kind()),
        Some(StoreErrorKind::LimitReached),
        "with an overlap"
    );
    assert_holds(store, &[foreign, dead, other, old.clone()]).await;
    changed(store.rotate(Owner::User(&old.owner), old.id, &rotation(10, 2)).await);
}

/// The overlap shortens the old token's life and never lengthens it.
pub async fn overlaps_never_lengthen_a_life(store: &dyn TokenStore) {
    let lives = [(None, 60), (Some(30), 30), (Some(60), 60), (Some(90), 60)];
    for (n, (expires, end)) in (1..).step_by(2).zip(lives) {
        let old = stored(store, TokenRecord { expires_at: expires.map(later), ..token(n, "alice") }).await;
        let rotation = Rotation::new(token(n + 1, "alice"), later(60), old.revision);
        changed(store.rotate(Owner::User(&old.owner), old.id, &rotation).await);
        let expires_at = current(store, &old).await.expires_at;
        assert_eq!(expires_at, Some(later(end)), "the end of a token that expires at {:?}", old.expires_at);
    }
}

/// Use of a replaced token, also use from before the rotation, does not move its end.
pub async fn replaced_tokens_are_not_renewed(store: &dyn TokenStore) {
    let old = stored(store, rich(1, "alice")).await;
    let rotation = Rotation::new(rich(2, "alice"), later(60), old.revision);
    let replaced = changed(store.rotate(Owner::User(&old.owner), old.id, &rotation).await);
    let usage = Usage { renewed_to: Some(later(200_000)), ..Usage::new(old.id, 1, later(5)) };
    store.record_usage(&[usage]).await.expect("record_usage");
    assert_eq!(current(store, &old).await.expires_at, replaced.expires_at, "the end of a replaced token");
}

/// A token that has a successor cannot get another one.
pub async fn tokens_are_replaced_once(store: &dyn TokenStore) {
    let old = stored(store, rich(1, "alice")).await;
    let rotation = Rotation::new(token(2, "alice"), later(60), old.revision);
    let replaced = changed(store.rotate(Owner::User(&old.owner), old.id, &rotation).await);
    for revision in [old.revision, replaced.revision] {
        let again = Rotation::new(token(3, "alice"), later(60), revision);
        let outcome = store.rotate(Owner::User(&old.owner), old.id, &again).await;
        assert_refused("a second rotation", outcome, StoreErrorKind::Conflict);
    }
    assert_holds(store, &[rotation.successor, replaced]).await;
    assert_not_found("a refused successor", store, 3).await;
}

/// A successor can be replaced in its turn, and the chain stays.
pub async fn successors_can_be_replaced(store: &dyn TokenStore) {
    let first = stored(store, token(1, "alice")).await;
    for n in 1..4 {
        let rotation = Rotation::new(token(n + 1, "alice"), later(60), 0);
        let replaced = changed(store.rotate(Owner::User(&first.owner), id(n), &rotation).await);
        assert_eq!(replaced.successor, Some(id(n + 1)));
    }
    assert_eq!(current(store, &first).await.successor, Some(id(2)));
}

/// A revoked token cannot be replaced, and its successor is not stored.
pub async fn revoked_tokens_are_not_replaced(store: &dyn TokenStore) {
    let old = stored(store, rich(1, "alice")).await;
    let revoked = changed(store.update(Owner::User(&old.owner), old.id, &Change::revoke(later(9))).await);
    let rotation = Rotation::new(token(2, "alice"), later(60), revoked.revision);
    let outcome = store.rotate(Owner::User(&old.owner), old.id, &rotation).await;
    assert_refused("the rotation of a revoked token", outcome, StoreErrorKind::Conflict);
    assert_holds(store, &[revoked]).await;
    assert_not_found("a refused successor", store, 2).await;
}

/// A rotation that expects another revision, older or newer, is refused and its successor is not stored.
pub async fn another_revision_conflicts(store: &dyn TokenStore) {
    let old = stored(store, rich(1, "alice")).await;
    for revision in [0, 6, 8] {
        let rotation = Rotation::new(token(2, "alice"), later(60), revision);
        let outcome = store.rotate(Owner::User(&old.owner), old.id, &rotation).await;
        assert_refused("the rotation of another revision", outcome, StoreErrorKind::Conflict);
    }
    assert_holds(store, &[old]).await;
    assert_not_found("a refused successor", store, 2).await;
}

/// A successor whose id or digest is taken is refused, and the old token is as before.
pub async fn taken_successors_leave_the_old_token_alone(store: &dyn TokenStore) {
    let other = stored(store, rich(2, "bob")).await;
    let old = stored(store, rich(1, "alice")).await;
    let taken = [
        TokenRecord { digest: other.digest, ..token(3, "alice") },
        TokenRecord { id: other.id, ..token(3, "alice") },
        TokenRecord { digest: old.digest, ..token(3, "alice") },
        TokenRecord { id: old.id, ..token(3, "alice") },
    ];
    let owner = old.owner.clone();
    let records = [other, old];
    for successor in taken {
        let rotation = Rotation::new(successor, later(60), 7);
        let outcome = store.rotate(Owner::User(&owner), id(1), &rotation).await;
        assert_refused("a successor that exists already", outcome, StoreErrorKind::Duplicate);
        assert_holds(store, &records).await;
    }
    assert_not_found("a refused successor", store, 3).await;
}
