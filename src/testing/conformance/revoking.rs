//! Revocation is for ever.

use crate::{
    secret::TokenDigest,
    store::{Change, Owner, TokenStore},
    testing::conformance::records::{
        assert_holds, assert_same, assert_stored, changed, current, id, later, rich, stored, token, user,
    },
    time::UnixTime,
    token::TokenRecord,
};

/// Revoking sets the time of the revocation and leaves all other fields.
pub async fn revoked_tokens_carry_the_time(store: &dyn TokenStore) {
    let record = stored(store, rich(1, "alice")).await;
    let revoked =
        changed(store.update(Owner::User(&record.owner), record.id, &Change::revoke(later(9))).await);
    let expected = TokenRecord { revoked_at: Some(later(9)), revision: record.revision + 1, ..record };
    assert_same("the revoked token", &revoked, &expected);
    assert_stored(store, &expected).await;
}

/// Revoking what is revoked already succeeds and keeps the time of the first revocation.
pub async fn the_first_revocation_stands(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    for seconds in [50, 90, 10] {
        let change = Change::revoke(later(seconds));
        let revoked = changed(store.update(Owner::User(&record.owner), record.id, &change).await);
        assert_eq!(revoked.revoked_at, Some(later(50)), "since when the token is revoked");
        assert_eq!(current(store, &record).await.revoked_at, Some(later(50)), "the stored time");
    }
}

/// A revoked token can still be renamed or enabled, and is revoked afterwards.
pub async fn revoked_tokens_stay_revoked(store: &dyn TokenStore) {
    let record = stored(store, TokenRecord { disabled_at: Some(later(1)), ..rich(1, "alice") }).await;
    changed(store.update(Owner::User(&record.owner), record.id, &Change::revoke(later(9))).await);
    let rename = Change { name: Some("alive?".into()), ..Change::default() };
    let enable = Change { disabled_at: Some(None), ..Change::default() };
    for change in [rename, enable, Change::default()] {
        let after = changed(store.update(Owner::User(&record.owner), record.id, &change).await);
        assert_eq!(after.revoked_at, Some(later(9)), "a revoked token comes back to life");
        assert_stored(store, &after).await;
    }
}

/// Revoking all tokens of a user gives the digests of those that were not revoked yet, whatever their
/// state, and leaves the time of those that were.
pub async fn revoke_all_tells_what_it_revoked(store: &dyn TokenStore) {
    let mut records = vec![
        TokenRecord { revoked_at: Some(later(1)), ..rich(5, "alice") },
        TokenRecord { successor: Some(id(1)), ..rich(4, "alice") },
        TokenRecord { expires_at: Some(UnixTime::EPOCH), ..rich(3, "alice") },
        TokenRecord { disabled_at: Some(later(1)), ..rich(2, "alice") },
        rich(1, "alice"),
    ];
    for record in &records {
        store.insert(record, None).await.expect("insert of a new record");
    }
    let revoked = store.revoke_all(&user("alice"), later(9)).await.expect("revoke_all");
    let mut expected = Vec::new();
    for record in records.iter_mut().filter(|record| record.revoked_at.is_none()) {
        expected.push(record.digest);
        record.revoked_at = Some(later(9));
        record.revision += 1;
    }
    assert_eq!(sorted(&revoked), sorted(&expected), "the digests of the revoked tokens");
    assert_holds(store, &records).await;
}

/// Revoking all tokens of a user leaves the tokens of others, also of users with similar ids.
pub async fn revoke_all_spares_other_users(store: &dyn TokenStore) {
    let others = [
        stored(store, rich(4, "al%")).await,
        stored(store, rich(3, "ALICE")).await,
        stored(store, rich(2, "al")).await,
        stored(store, rich(1, "bob")).await,
    ];
    for nobody in ["alice", "%", "a"] {
        let revoked = store.revoke_all(&user(nobody), later(9)).await.expect("revoke_all");
        assert_eq!(revoked.len(), 0, "{nobody} has no tokens, but some are revoked");
    }
    let revoked = store.revoke_all(&user("al%"), later(9)).await.expect("revoke_all");
    assert_eq!(revoked, [others.first().expect("four records").digest]);
    for record in others.iter().skip(1) {
        assert_stored(store, record).await;
    }
}

/// Each token that is revoked with all others has one revision more, so that a change at the same time
/// conflicts.
pub async fn revoke_all_counts_as_a_change(store: &dyn TokenStore) {
    let record = stored(store, rich(1, "alice")).await;
    store.revoke_all(&record.owner, later(9)).await.expect("revoke_all");
    assert_eq!(current(store, &record).await.revision, record.revision + 1);
}

/// Revoking all tokens a second time gives no digests and changes nothing.
pub async fn revoke_all_again_revokes_nothing(store: &dyn TokenStore) {
    let record = stored(store, rich(1, "alice")).await;
    store.revoke_all(&record.owner, later(9)).await.expect("revoke_all");
    let once = current(store, &record).await;
    let again = store.revoke_all(&record.owner, later(10)).await.expect("revoke_all");
    assert_eq!(again.len(), 0, "tokens are revoked a second time");
    assert_holds(store, &[once]).await;
}

fn sorted(digests: &[TokenDigest]) -> Vec<&[u8; 32]> {
    let mut bytes: Vec<_> = digests.iter().map(TokenDigest::as_bytes).collect();
    bytes.sort_unstable();
    bytes
}
