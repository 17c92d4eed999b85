//! A warning that a token will expire is given out once.
//!
//! A store that knows nothing of warnings says so by
//! [`StoreErrorKind::ReadOnly`](crate::store::StoreErrorKind::ReadOnly), and promises nothing of this.

use std::time::Duration;

use crate::{
    id::TokenId,
    store::{Change, Claimed, Owner, Rotation, TokenStore, Usage, Warnings},
    testing::conformance::{
        harness::join_all,
        records::{admin, assert_same, changed, current, id, ids, later, stored, token},
    },
    token::TokenRecord,
};

/// A token is given out once for each of the times, whoever asks how often, and is as it is stored.
pub async fn each_warning_is_given_out_once(store: &dyn TokenStore) {
    let record = stored(store, expiring(1, 1_000)).await;
    for (seconds, due) in [
        (10, false),
        (699, false),
        (700, true),
        (700, false),
        (899, false),
        (901, true),
        (950, false),
        (999, false),
        (1_000, false),
        (2_000, false),
    ] {
        let claimed = claim(store, seconds, 10).await.tokens;
        assert_eq!(claimed.len(), usize::from(due), "warnings {seconds} seconds on");
        for claimed in &claimed {
            assert_same("the token of a warning", claimed, &record);
        }
    }
    assert_same("a token after its warnings", &current(store, &record).await, &record);
}

/// Of several times that passed unnoticed only one is told.
pub async fn what_was_missed_is_told_once(store: &dyn TokenStore) {
    stored(store, expiring(1, 1_000)).await;
    stored(store, expiring(2, 500)).await;
    assert_eq!(claimed(store, 950).await, ids([1]), "the other one has expired unnoticed");
    assert_eq!(claimed(store, 960).await, []);
}

/// A renewal starts anew: what is due is counted from the new expiry, and what the renewal passed is not told.
pub async fn a_renewal_starts_anew(store: &dyn TokenStore) {
    stored(store, TokenRecord { rolling: true, ..expiring(1, 1_000) }).await;
    for (seconds, due) in [(700, true), (900, true), (950, false)] {
        assert_eq!(claimed(store, seconds).await.len(), usize::from(due), "{seconds} seconds on");
    }
    renew(store, 1, 960, 2_000).await;
    for (seconds, due) in [(970, false), (1_699, false), (1_700, true), (1_800, false), (1_900, true)] {
        assert_eq!(claimed(store, seconds).await.len(), usize::from(due), "{seconds} seconds on");
    }
    // By a use within the last of the times: whoever uses it knows.
    renew(store, 1, 1_950, 2_000 + 40).await;
    assert_eq!(claimed(store, 1_960).await, [], "right after a renewal");
}

/// Nobody is warned about a token that never expires, or that was revoked, replaced or switched off.
pub async fn nobody_is_warned_without_need(store: &dyn TokenStore) {
    stored(store, token(1, "alice")).await;
    let records = [2, 3, 4].map(|n| expiring(n, 1_000));
    for record in &records {
        stored(store, record.clone()).await;
    }
    let [revoked, replaced, disabled] = &records;
    let owner = Owner::User(&revoked.owner);
    changed(store.update(owner, revoked.id, &Change::revoke(later(9))).await);
    let rotation = Rotation::new(token(5, "alice"), later(2_000), replaced.revision);
    changed(store.rotate(owner, replaced.id, &rotation).await);
    let disable = Change { disabled_at: Some(Some(later(9))), ..Change::default() };
    changed(store.update(owner, disabled.id, &disable).await);
    assert_eq!(claimed(store, 750).await, []);
    let enable = Change { disabled_at: Some(None), ..Change::default() };
    changed(store.update(owner, disabled.id, &enable).await);
    assert_eq!(claimed(store, 950).await, ids([4]), "once it is switched on again");
}

/// A step gives out no more than it was told, and says whether there may be more.
pub async fn steps_give_out_each_warning_once(store: &dyn TokenStore) {
    for n in 1..=10 {
        stored(store, expiring(n, 1_000)).await;
    }
    let mut tokens = Vec::new();
    for _ in 0..20 {
        let step = claim(store, 750, 3).await;
        assert!(step.tokens.len() <= 3, "a step of 3 gives out {}", step.tokens.len());
        tokens.extend(numbers(&step));
        if !step.more {
            break;
        }
    }
    tokens.sort_unstable();
    assert_eq!(tokens, ids(1..=10));
}

/// Of many who ask at once, each warning goes to one.
pub async fn each_warning_goes_to_one_of_many(store: &dyn TokenStore) {
    for n in 1..=20 {
        stored(store, expiring(n, 1_000)).await;
    }
    let claims = join_all((0..16).map(|_| claim(store, 750, 5))).await;
    let mut tokens: Vec<_> = claims.iter().flat_map(numbers).collect();
    tokens.sort_unstable();
    assert_eq!(tokens.len(), 20, "how many warnings are given out for 20 tokens");
    assert_eq!(tokens, ids(1..=20));
}

fn expiring(n: u16, seconds: u64) -> TokenRecord {
    TokenRecord { created_at: later(0), expires_at: Some(later(seconds)), ..token(n, "alice") }
}

async fn claim(store: &dyn TokenStore, seconds: u64, limit: u32) -> Claimed {
    let ahead = [300, 100].map(Duration::from_secs).to_vec();
    let warnings = Warnings::new(later(seconds), ahead, limit);
    store.claim_warnings(&admin(), &warnings).await.expect("claim_warnings")
}

async fn claimed(store: &dyn TokenStore, seconds: u64) -> Vec<TokenId> {
    numbers(&claim(store, seconds, 10).await)
}

fn numbers(claimed: &Claimed) -> Vec<TokenId> {
    claimed.tokens.iter().map(|record| record.id).collect()
}

async fn renew(store: &dyn TokenStore, n: u16, seconds: u64, to: u64) {
    let usage = Usage { renewed_to: Some(later(to)), ..Usage::new(id(n), 1, later(seconds)) };
    store.record_usage(&[usage]).await.expect("record_usage");
}
