//! A change sets what it names, leaves the rest, and counts the revision.

use serde_json::json;

use crate::{
    limit::{Limits, Quota, QuotaPeriod},
    scope::{Grant, ScopeSet},
    store::{Change, Owner, StoreErrorKind, TokenStore, Usage},
    testing::conformance::records::{
        assert_holds, assert_refused, assert_same, assert_stored, changed, id, ips, later, object, rich,
        stored, token,
    },
    token::TokenRecord,
};

/// A change of one field leaves all others, counts the revision, and returns the record as it is then.
pub async fn each_field_changes_alone(store: &dyn TokenStore) {
    let change = everything_changes();
    let none = Change::default;
    let changes = [
        Change { name: change.name, ..none() },
        Change { scopes: change.scopes, ..none() },
        Change { allowed_ips: change.allowed_ips, ..none() },
        Change { metadata: change.metadata, ..none() },
        Change { limits: change.limits, ..none() },
        Change { disabled_at: change.disabled_at, ..none() },
        Change { revoked_at: Some(later(51)), ..none() },
    ];
    for (n, change) in (1..).zip(changes) {
        assert_changes(store, rich(n, "alice"), &change).await;
    }
}

/// A change of several fields sets all of them and counts as one.
pub async fn several_fields_change_at_once(store: &dyn TokenStore) {
    let other = stored(store, rich(1, "alice")).await;
    assert_changes(store, rich(2, "alice"), &everything_changes()).await;
    assert_stored(store, &other).await;
}

/// Address limits, names, metadata, scopes and the disabled state can be emptied, which is not the same
/// as leaving them.
pub async fn limits_and_texts_can_be_taken_away(store: &dyn TokenStore) {
    let change = Change {
        name: Some("".into()),
        scopes: Some(Grant::Only(ScopeSet::empty())),
        allowed_ips: Some(None),
        metadata: Some(object(json!({}))),
        limits: Some(Limits::default()),
        disabled_at: Some(None),
        ..Change::default()
    };
    let record = TokenRecord { disabled_at: Some(later(1)), ..rich(1, "alice") };
    let emptied = assert_changes(store, record, &change).await;
    assert_eq!((&*emptied.name, emptied.allowed_ips, emptied.disabled_at), ("", None, None));
}

/// Every change counts the revision up by one.
pub async fn revisions_count_changes(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    for (revision, name) in (1..).zip(["a", "b", "b", "a"]) {
        let change = Change { name: Some(name.into()), ..Change::default() };
        let renamed = changed(store.update(Owner::User(&record.owner), record.id, &change).await);
        assert_eq!(renamed.revision, record.revision + revision, "the revision after {revision} changes");
    }
}

/// A change that expects another revision, older or newer, is refused and changes nothing.
pub async fn another_revision_conflicts(store: &dyn TokenStore) {
    let record = stored(store, rich(1, "alice")).await;
    for revision in [0, 6, 8] {
        let change = Change { if_revision: Some(revision), ..everything_changes() };
        let outcome = store.update(Owner::User(&record.owner), id(1), &change).await;
        assert_refused("a change of another revision", outcome, StoreErrorKind::Conflict);
        let change = Change { if_revision: Some(revision), ..Change::revoke(later(9)) };
        let outcome = store.update(Owner::User(&record.owner), id(1), &change).await;
        assert_refused("a revocation of another revision", outcome, StoreErrorKind::Conflict);
    }
    assert_holds(store, &[record]).await;
}

/// A change that expects the record's revision is made once; made again it conflicts.
pub async fn the_expected_revision_is_accepted(store: &dyn TokenStore) {
    let record = rich(1, "alice");
    let change = Change { if_revision: Some(record.revision), ..everything_changes() };
    let once = assert_changes(store, record, &change).await;
    let outcome = store.update(Owner::User(&once.owner), once.id, &change).await;
    assert_refused("a change of the revision before", outcome, StoreErrorKind::Conflict);
    assert_holds(store, &[once]).await;
}

/// A token can be disabled and enabled again, any number of times.
pub async fn disabled_tokens_can_be_enabled(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    for disabled_at in [Some(later(1)), Some(later(2)), None, None, Some(later(3)), None] {
        let change = Change { disabled_at: Some(disabled_at), ..Change::default() };
        let switched = changed(store.update(Owner::User(&record.owner), record.id, &change).await);
        assert_eq!(switched.disabled_at, disabled_at, "since when the token is switched off");
        assert_stored(store, &switched).await;
    }
}

/// An expiry can be brought forward, also that of a token that has none, and is never put off; no later use renews
/// what has one.
pub async fn an_expiry_only_comes_earlier(store: &dyn TokenStore) {
    let lives = [(None, 60), (Some(30), 30), (Some(60), 60), (Some(90), 60)];
    for (n, (expires, end)) in (1..).zip(lives) {
        let expires_at = expires.map(later);
        let record = stored(store, TokenRecord { expires_at, rolling: true, ..token(n, "alice") }).await;
        let change = Change { expires_by: Some(later(60)), ..Change::default() };
        let ended = changed(store.update(Owner::User(&record.owner), record.id, &change).await);
        assert_eq!((ended.expires_at, ended.rolling), (Some(later(end)), false), "instead of {expires:?}");
        let usage = Usage { renewed_to: Some(later(900)), ..Usage::new(record.id, 1, later(20)) };
        store.record_usage(&[usage]).await.expect("record_usage");
        let expected = TokenRecord { request_count: 1, last_used: Some(later(20)), ..ended };
        assert_stored(store, &expected).await;
    }
}

/// A new value for every field that a live token can change.
fn everything_changes() -> Change {
    Change {
        name: Some("'; -- ☃".into()),
        scopes: Some(Grant::All),
        allowed_ips: Some(Some(ips(&["203.0.113.0/24"]))),
        metadata: Some(object(json!({ "team": ["red"], "new": null }))),
        limits: Some(Limits::default().with_quota(Quota::new(1, QuotaPeriod::Day).ok())),
        disabled_at: Some(Some(later(50))),
        ..Change::default()
    }
}

/// Stores `record`, changes it, and panics unless it is changed as [`Change::apply`] would.
async fn assert_changes(store: &dyn TokenStore, record: TokenRecord, change: &Change) -> TokenRecord {
    let mut expected = stored(store, record).await;
    let returned = changed(store.update(Owner::User(&expected.owner), expected.id, change).await);
    change.apply(&mut expected).expect("a change of the expected revision");
    assert_same("the returned record", &returned, &expected);
    assert_stored(store, &expected).await;
    expected
}
