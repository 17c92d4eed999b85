//! Tokens that ended long ago are removed for good.
//!
//! A store that cannot remove says so by [`StoreErrorKind::ReadOnly`](crate::store::StoreErrorKind::ReadOnly), and
//! promises nothing of this.

use std::time::Duration;

use crate::{
    store::{Owner, Purge, Purged, TokenStore},
    testing::conformance::{
        families::child_of,
        records::{
            admin, assert_holds, assert_not_found, assert_same, current, everything, id, ids, later, stored,
            token, user,
        },
    },
    token::{LifetimePolicy, Lifetimes, TokenClass, TokenRecord},
};

/// What had ended by then is removed, in whatever way it ended, and all else stays: what lives, what ended later,
/// and traps.
pub async fn what_ended_long_ago_is_removed(store: &dyn TokenStore) {
    let ended = [
        TokenRecord { revoked_at: Some(later(100)), ..token(1, "alice") },
        TokenRecord { expires_at: Some(later(100)), ..token(2, "alice") },
        TokenRecord { hard_end: Some(later(100)), ..token(3, "bob") },
        TokenRecord { class: TokenClass::Service, last_used: Some(later(50)), ..token(4, "alice") },
        TokenRecord { successor: Some(id(50)), expires_at: Some(later(99)), ..token(5, "alice") },
    ];
    let living = [
        TokenRecord { revoked_at: Some(later(101)), ..token(11, "alice") },
        TokenRecord { expires_at: Some(later(101)), ..token(12, "alice") },
        TokenRecord { class: TokenClass::Service, last_used: Some(later(51)), ..token(13, "alice") },
        TokenRecord { disabled_at: Some(later(1)), ..token(14, "alice") },
        TokenRecord { honeytoken: true, expires_at: Some(later(1)), ..token(15, "alice") },
        token(16, "bob"),
    ];
    for record in ended.iter().chain(&living) {
        stored(store, record.clone()).await;
    }
    assert_eq!(purge(store, 100, 1_000).await, Purged::new(11, 5, None));
    assert_holds(store, &living.into_iter().rev().collect::<Vec<_>>()).await;
    assert_eq!(purge(store, 100, 1_000).await, Purged::new(6, 0, None), "a second time");
}

/// A removed token is found in no way, and its id and digest can be stored again.
pub async fn what_was_removed_is_unknown(store: &dyn TokenStore) {
    let record = TokenRecord { expires_at: Some(later(1)), ..token(1, "alice") };
    let record = stored(store, record).await;
    purge(store, 100, 10).await;
    assert_not_found("a removed token", store, 1).await;
    let owner = Owner::User(&record.owner);
    assert_eq!(store.get(owner, record.id).await.expect("get"), None, "a removed token by its id");
    assert_eq!(store.count(owner).await.expect("count"), 0);
    stored(store, token(1, "alice")).await;
    assert_same("a token of the same id", &current(store, &record).await, &token(1, "alice"));
}

/// Steps of any size, one after the other, look at each record once, and at no more than they were told.
pub async fn steps_join_without_gaps_or_repeats(store: &dyn TokenStore) {
    for size in [1, 3, 7, 20] {
        for n in 1..=20 {
            let expires_at = (n % 3 == 0).then(|| later(1));
            drop(store.insert(&TokenRecord { expires_at, ..token(n, "alice") }, None).await);
        }
        let (mut looked_at, mut removed, mut after) = (0, 0, None);
        for _ in 0..30 {
            let mut step = Purge::new(later(100), lifetimes(), size);
            step.after = after;
            let done = store.purge(&admin(), &step).await.expect("purge");
            assert!(done.looked_at <= u64::from(size), "a step of {size} looks at {}", done.looked_at);
            (looked_at, removed, after) = (looked_at + done.looked_at, removed + done.removed, done.next);
            if after.is_none() {
                break;
            }
        }
        assert_eq!((looked_at, removed, after), (20, 6, None), "in steps of {size}");
        assert_eq!(everything(store).await.len(), 14, "in steps of {size}");
    }
}

/// What ends with a token that is to be removed is removed: it ended with it, whatever its own record says. Each
/// round removes at least those with which nothing ends.
pub async fn what_ends_with_a_removed_token_is_removed(store: &dyn TokenStore) {
    stored(store, TokenRecord { expires_at: Some(later(1)), ..token(1, "alice") }).await;
    stored(store, child_of(1, token(2, "alice"))).await;
    stored(store, child_of(2, token(3, "alice"))).await;
    stored(store, token(4, "alice")).await;
    let mut removed = 0;
    for _ in 0..3 {
        removed += round(store, 1).await;
    }
    let left: Vec<_> = everything(store).await.iter().map(|record| record.id).collect();
    assert_eq!((removed, left), (3, ids([4])));
}

/// However many tokens end with one, no step removes more than it looks at, and what they end with goes last: they
/// would live without it.
pub async fn large_families_go_in_steps(store: &dyn TokenStore) {
    stored(store, TokenRecord { expires_at: Some(later(1)), ..token(1, "alice") }).await;
    for n in 2..=20 {
        stored(store, child_of(1, token(n, "alice"))).await;
    }
    let removed = round(store, 3).await;
    assert_eq!(removed + round(store, 3).await, 20, "how many are removed in two rounds");
    assert_eq!(everything(store).await.len(), 0, "how many are left");
}

/// What is dead and stayed with a token that was replaced is kept as long as any other, and so long that one is.
pub async fn what_stayed_with_a_replaced_token_ends_by_itself(store: &dyn TokenStore) {
    let child =
        stored(store, TokenRecord { revoked_at: Some(later(101)), ..child_of(2, token(1, "alice")) }).await;
    let old = TokenRecord { successor: Some(id(9)), expires_at: Some(later(5)), ..token(2, "alice") };
    let old = stored(store, old).await;
    assert_eq!(round(store, 10).await, 0, "how many are removed");
    assert_holds(store, &[old, child]).await;
    for _ in 0..2 {
        purge(store, 101, 10).await;
    }
    assert_holds(store, &[]).await;
}

/// The removal of many tokens leaves alone what is stored meanwhile.
pub async fn removal_and_inserts_do_not_mix(store: &dyn TokenStore) {
    for n in 1..=30 {
        stored(store, TokenRecord { expires_at: Some(later(1)), ..token(n, "alice") }).await;
    }
    for n in 31..=40 {
        let new = token(n, "alice");
        let (purged, stored) = tokio::join!(purge(store, 100, 5), store.insert(&new, None));
        assert!(purged.removed <= 5, "a step of 5 removes {}", purged.removed);
        stored.expect("insert of a new record");
    }
    let left: Vec<_> = everything(store).await.iter().map(|record| record.id).collect();
    assert_eq!(left, ids((31..=40).rev()), "what is left");
    assert_eq!(store.count(Owner::User(&user("alice"))).await.expect("count"), 10);
}

/// Services idle for fifty seconds are dead; all others live for ever.
fn lifetimes() -> Lifetimes {
    let endless = LifetimePolicy::default().with_idle_timeout(None).with_maximum(None);
    let service = endless.clone().with_idle_timeout(Some(Duration::from_secs(50)));
    Lifetimes::default().with_policy(TokenClass::User, endless).with_policy(TokenClass::Service, service)
}

/// How many tokens one round removes, in steps of `limit`.
async fn round(store: &dyn TokenStore, limit: u32) -> u64 {
    let (mut removed, mut step) = (0, Purge::new(later(100), lifetimes(), limit));
    for _ in 0..MOST_STEPS {
        let done = store.purge(&admin(), &step).await.expect("purge");
        assert!(done.removed <= limit.into(), "a step of {limit} removes {}", done.removed);
        let left = everything(store).await;
        let is_stored = |parent| left.iter().any(|record| record.id == parent);
        let orphan = left.iter().find(|record| record.parent.is_some_and(|parent| !is_stored(parent)));
        assert_eq!(orphan.map(|record| record.id), None, "a token without the one that it ends with");
        (removed, step.after) = (removed + done.removed, done.next);
        if step.after.is_none() {
            return removed;
        }
    }
    panic!("a round does not end within {MOST_STEPS} steps of {limit} tokens")
}

/// Many times more than the few tokens of a promise need.
const MOST_STEPS: usize = 1000;

async fn purge(store: &dyn TokenStore, seconds: u64, limit: u32) -> Purged {
    store.purge(&admin(), &Purge::new(later(seconds), lifetimes(), limit)).await.expect("purge")
}
