//! What was noticed of a token's use is kept.
//!
//! A store need not keep it: one that gives back no [habits](TokenRecord::habits) of a record that it stored with some
//! promises nothing of this.

use crate::{
    store::{Change, Owner, Rotation, StoreError, StoreErrorKind, TokenStore, Usage},
    testing::conformance::records::{assert_same, assert_stored, changed, current, id, later, stored, token},
    token::TokenRecord,
    watch::{Habits, MAX_NETWORKS, MAX_USER_AGENTS, Network},
};

/// Habits of any size come back as they were stored.
pub async fn habits_come_back(store: &dyn TokenStore) {
    let mut full = habits(0..MAX_NETWORKS as u8);
    full.user_agents = (0..MAX_USER_AGENTS as u64).map(|n| (u64::MAX - n, later(n)).into()).collect();
    (full.since, full.hour) = (Some(later(1)), Some(later(3600)));
    (full.told_network, full.told_agent) = (Some(later(2)), Some(later(3)));
    (full.shared_at, full.told_spike) = (Some(later(4)), Some(later(5)));
    (full.before_hour, full.usual_milli) = (u64::MAX, u64::MAX);
    for (n, habits) in (1..).zip([Habits::default(), habits(0..1), full]) {
        let record = TokenRecord { habits: Some(Box::new(habits)), ..token(n, "alice") };
        let record = stored(store, record).await;
        assert_stored(store, &record).await;
    }
}

/// What is noticed is added to what was known, also when one batch names a token twice, and is no change.
pub async fn what_is_noticed_is_added_up(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    let other = stored(store, token(2, "alice")).await;
    notice(store, &[(1, 0..2)]).await;
    notice(store, &[(1, 1..3), (1, 3..4)]).await;
    store.record_usage(&[Usage::new(id(1), 1, later(9))]).await.expect("record_usage");
    let mut known = habits(0..4);
    let current_record = current(store, &record).await;
    let mut found = current_record.habits.map(|habits| *habits).unwrap_or_default();
    for habits in [&mut known, &mut found] {
        habits.networks.sort_by_key(|network| network.at);
    }
    assert_eq!(found, known, "the habits after three batches");
    assert_eq!(current_record.revision, record.revision, "the revision");
    assert_same("another token", &current(store, &other).await, &other);
    let seventeen = 0..=MAX_NETWORKS as u8;
    for n in seventeen {
        notice(store, &[(1, n..n + 1)]).await;
    }
    let found = current(store, &record).await.habits.unwrap_or_default();
    assert_eq!(found.networks.len(), MAX_NETWORKS, "how many networks are known after 17");
}

/// They stay when the token is changed, replaced or revoked, and a successor has those that it comes with.
pub async fn habits_stay_whatever_changes(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    notice(store, &[(1, 0..2)]).await;
    let known = current(store, &record).await.habits;
    assert!(known.is_some(), "nothing is known of a token that was noticed");
    let owner = Owner::User(&record.owner);
    let rename = Change { name: Some("desktop".into()), ..Change::default() };
    assert_eq!(changed(store.update(owner, record.id, &rename).await).habits, known, "after a change");
    let successor = TokenRecord { habits: known.clone(), ..token(2, "alice") };
    let rotation = Rotation::new(successor.clone(), later(100), record.revision + 1);
    changed(store.rotate(owner, record.id, &rotation).await);
    assert_stored(store, &successor).await;
    changed(store.update(owner, record.id, &Change::revoke(later(9))).await);
    assert_eq!(current(store, &record).await.habits, known, "after a rotation and a revocation");
}

/// Whether the store gives back what it knows of a token's use.
pub(super) async fn keep_habits(store: &dyn TokenStore) -> Result<(), StoreError> {
    let record = TokenRecord { habits: Some(Box::new(habits(0..1))), ..token(1, "alice") };
    store.insert(&record, None).await?;
    match store.find(&record.digest).await? {
        Some(found) if found.habits.is_none() => Err(StoreErrorKind::ReadOnly.into()),
        _ => Ok(()),
    }
}

/// Of a token that was used from networks with these numbers.
fn habits(networks: std::ops::Range<u8>) -> Habits {
    let network = |n: u8| (Network::of([192, 0, 2, n].into()), later(n.into())).into();
    Habits { networks: networks.rev().map(network).collect(), ..Habits::default() }
}

async fn notice(store: &dyn TokenStore, noticed: &[(u16, std::ops::Range<u8>)]) {
    let usage = |(n, networks): &(u16, std::ops::Range<u8>)| {
        let last = networks.end.saturating_sub(1);
        let habits = Some(Box::new(habits(networks.clone())));
        Usage { habits, ..Usage::new(id(*n), 1, later(last.into())) }
    };
    let batch: Vec<_> = noticed.iter().map(usage).collect();
    store.record_usage(&batch).await.expect("record_usage");
}
