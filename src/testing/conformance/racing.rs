//! Calls at the same time do not mix.

use crate::{
    store::{Change, Owner, Room, Rotation, StoreError, StoreErrorKind, TokenStore, Usage},
    testing::conformance::{
        harness::join_all,
        records::{assert_stored, changed, current, digest, everything, id, later, rich, stored, token},
        room::active,
    },
    token::TokenRecord,
};

/// Of 64 inserts at once with a limit of 10, exactly 10 store their token.
pub async fn limits_hold(store: &dyn TokenStore) {
    let created_at = later(0);
    let records: Vec<_> = (1..=64).map(|n| TokenRecord { created_at, ..token(n, "alice") }).collect();
    let outcomes = join_all(records.iter().map(|record| store.insert(record, Some(10)))).await;
    assert_winners(&outcomes, 10, StoreErrorKind::LimitReached);
    assert_eq!(everything(store).await.len(), 10, "the number of stored tokens");
}

/// Of 64 tokens at once for which others give way, all are stored, and the limit holds.
pub async fn room_is_made_for_each(store: &dyn TokenStore) {
    for n in 1..=10 {
        stored(store, token(n, "alice")).await;
    }
    let (created_at, room) = (later(100), Room::new(10));
    let records: Vec<_> = (11..=74).map(|n| TokenRecord { created_at, ..token(n, "alice") }).collect();
    let calls = records.iter().map(|record| store.insert_making_room(record, &room));
    for outcome in join_all(calls).await {
        outcome.expect("insert_making_room");
    }
    assert_eq!(everything(store).await.len(), 74, "the number of stored tokens");
    assert_eq!(active(store).await, 10, "the number of active tokens");
}

/// Of 64 inserts at once with the same digest, exactly one stores its token.
pub async fn one_digest_is_stored_once(store: &dyn TokenStore) {
    let digest = digest(0);
    let records: Vec<_> = (1..=64).map(|n| TokenRecord { digest, ..token(n, "alice") }).collect();
    let outcomes = join_all(records.iter().map(|record| store.insert(record, None))).await;
    assert_winners(&outcomes, 1, StoreErrorKind::Duplicate);
    assert_eq!(everything(store).await.len(), 1, "the number of stored tokens");
}

/// Of 64 rotations of one token at once, exactly one stores its successor.
pub async fn a_token_is_replaced_once(store: &dyn TokenStore) {
    let old = stored(store, rich(1, "alice")).await;
    let owner = Owner::User(&old.owner);
    let rotations: Vec<_> =
        (2..=65).map(|n| Rotation::new(token(n, "alice"), later(60), old.revision)).collect();
    let outcomes = join_all(rotations.iter().map(|rotation| store.rotate(owner, old.id, rotation))).await;
    assert_winners(&outcomes, 1, StoreErrorKind::Conflict);
    let held = everything(store).await;
    assert_eq!(held.len(), 2, "the number of stored tokens");
    assert_eq!(current(store, &old).await.successor, held.first().map(|newest| newest.id), "the successor");
}

/// Of 64 changes at once that expect the same revision, exactly one is made.
pub async fn one_of_several_changes_of_a_revision_wins(store: &dyn TokenStore) {
    let record = stored(store, rich(1, "alice")).await;
    let owner = Owner::User(&record.owner);
    let rename = |n: u16| Change {
        name: Some(n.to_string().into()),
        if_revision: Some(record.revision),
        ..Change::default()
    };
    let changes: Vec<_> = (1..=64).map(rename).collect();
    let outcomes = join_all(changes.iter().map(|change| store.update(owner, record.id, change))).await;
    assert_winners(&outcomes, 1, StoreErrorKind::Conflict);
    let winner = outcomes.into_iter().find_map(|outcome| outcome.ok().flatten()).expect("one change is made");
    assert_stored(store, &winner).await;
}

/// A revocation, a renaming and a disabling at once are all kept, and each counts the revision.
pub async fn changes_of_different_fields_are_all_kept(store: &dyn TokenStore) {
    let record = stored(store, rich(1, "alice")).await;
    let owner = Owner::User(&record.owner);
    let rename = Change { name: Some("renamed".into()), ..Change::default() };
    let disable = Change { disabled_at: Some(Some(later(8))), ..Change::default() };
    let revoke = Change::revoke(later(9));
    let changes = [&rename, &revoke, &disable];
    join_all(changes.map(|change| store.update(owner, record.id, change))).await.into_iter().for_each(
        |outcome| {
            changed(outcome);
        },
    );
    let expected = TokenRecord {
        name: "renamed".into(),
        disabled_at: Some(later(8)),
        revoked_at: Some(later(9)),
        revision: record.revision + 3,
        ..record
    };
    assert_stored(store, &expected).await;
}

/// A revocation and a rotation at once: the token is revoked afterwards, and its successor is stored if
/// and only if the rotation succeeded.
pub async fn revocation_and_rotation_do_not_mix(store: &dyn TokenStore) {
    for n in (1..=32).step_by(2) {
        let old = stored(store, rich(n, "alice")).await;
        let owner = Owner::User(&old.owner);
        let (revoke, rotation) =
            (Change::revoke(later(9)), Rotation::new(token(n + 1, "alice"), later(60), old.revision));
        let revoking = store.update(owner, old.id, &revoke);
        let rotating = store.rotate(owner, old.id, &rotation);
        // The one that is polled first has a head start, so each is in turn.
        let (revoked, rotated) = if n % 4 == 1 {
            tokio::join!(biased; revoking, rotating)
        } else {
            let (rotated, revoked) = tokio::join!(biased; rotating, revoking);
            (revoked, rotated)
        };
        assert_eq!(changed(revoked).revoked_at, Some(later(9)), "since when the token is revoked");
        let after = current(store, &old).await;
        assert_eq!(after.revoked_at, Some(later(9)), "the rotation undoes the revocation");
        let successor = store.find(&rotation.successor.digest).await.expect("find");
        assert_eq!(after.successor, successor.map(|record| record.id), "the successor");
        assert_winners(&[rotated], usize::from(after.successor.is_some()), StoreErrorKind::Conflict);
    }
}

/// Uses and changes at once are all kept.
pub async fn uses_and_changes_are_all_kept(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    let owner = Owner::User(&record.owner);
    let uses: Vec<_> = (1..=32).map(|n| [Usage::new(id(1), n, later(n))]).collect();
    let rename = |n: u16| Change { name: Some(n.to_string().into()), ..Change::default() };
    let changes: Vec<_> = (1..=32).map(rename).collect();
    let (used, changed_ones) = tokio::join!(
        join_all(uses.iter().map(|batch| store.record_usage(batch))),
        join_all(changes.iter().map(|change| store.update(owner, record.id, change))),
    );
    used.into_iter().for_each(|outcome| outcome.expect("record_usage"));
    changed_ones.into_iter().for_each(|outcome| drop(changed(outcome)));
    let after = current(store, &record).await;
    assert_eq!((after.request_count, after.last_used), (528, Some(later(32))), "count and last use");
    assert_eq!(after.revision, record.revision + 32, "the revision after 32 changes");
}

/// Panics unless `winners` of the calls succeeded and all others failed for this reason.
#[track_caller]
pub(super) fn assert_winners<T>(outcomes: &[Result<T, StoreError>], winners: usize, others: StoreErrorKind) {
    let won = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(won, winners, "the number of calls that succeed, of {}", outcomes.len());
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!(error.kind(), others, "a call fails for another reason: {error}");
    }
}
