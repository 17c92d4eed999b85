//! The limit of active tokens of a user.

use crate::{
    store::{StoreErrorKind, TokenStore},
    testing::conformance::records::{
        assert_holds, assert_not_found, assert_refused, id, later, stored, token,
    },
    token::TokenRecord,
};

/// Exactly as many tokens as the limit says can be stored.
pub async fn limits_refuse_one_more(store: &dyn TokenStore) {
    for n in 1..=3 {
        store.insert(&token(n, "alice"), Some(3)).await.expect("insert below the limit");
    }
    assert_refused_at(store, &token(4, "alice"), 3).await;
    store.insert(&token(4, "alice"), Some(4)).await.expect("insert below a higher limit");
}

/// A token that the limit refuses is not stored; its id and digest stay free.
pub async fn refused_tokens_leave_nothing_behind(store: &dyn TokenStore) {
    let first = stored(store, token(1, "alice")).await;
    assert_refused_at(store, &token(2, "alice"), 1).await;
    assert_not_found("a refused token", store, 2).await;
    assert_holds(store, std::slice::from_ref(&first)).await;
    let second = stored(store, token(2, "bob")).await;
    assert_holds(store, &[second, first]).await;
}

/// Revoked and expired tokens do not count; a replaced one does until its overlap ends.
pub async fn dead_tokens_do_not_count(store: &dyn TokenStore) {
    stored(store, TokenRecord { revoked_at: Some(later(1)), ..token(1, "alice") }).await;
    stored(store, TokenRecord { expires_at: Some(later(5)), ..token(2, "alice") }).await;
    store.insert(&token(10, "alice"), Some(1)).await.expect("insert of the first active token");
    assert_refused_at(store, &token(11, "alice"), 1).await;
    stored(store, TokenRecord { successor: Some(id(9)), ..token(3, "alice") }).await;
    assert_refused_at(store, &token(11, "alice"), 2).await;
}

/// Traps do not count: they open nothing, and their owner may not know of them.
pub async fn traps_do_not_count(store: &dyn TokenStore) {
    stored(store, TokenRecord { honeytoken: true, ..token(1, "alice") }).await;
    store.insert(&token(2, "alice"), Some(1)).await.expect("insert of the first token beside a trap");
    assert_refused_at(store, &token(3, "alice"), 1).await;
}

/// Disabled tokens count: they can be enabled again.
pub async fn disabled_tokens_count(store: &dyn TokenStore) {
    stored(store, TokenRecord { disabled_at: Some(later(1)), ..token(1, "alice") }).await;
    assert_refused_at(store, &token(2, "alice"), 1).await;
}

/// Whether a token counts as expired depends on when the new one is made, and it is at its very end.
pub async fn expiry_is_judged_at_the_new_tokens_time(store: &dyn TokenStore) {
    stored(store, TokenRecord { expires_at: Some(later(50)), ..token(1, "alice") }).await;
    let before = TokenRecord { created_at: later(49), ..token(2, "alice") };
    assert_refused_at(store, &before, 1).await;
    let at_the_end = TokenRecord { created_at: later(50), ..token(2, "alice") };
    store.insert(&at_the_end, Some(1)).await.expect("insert when the other token has expired");
}

/// Tokens of other users do not count, also of users with similar ids.
pub async fn other_users_do_not_count(store: &dyn TokenStore) {
    for (n, owner) in (1..).zip(["bob", "al", "Alice", "alice2", "%"]) {
        stored(store, token(n, owner)).await;
    }
    store.insert(&token(10, "alice"), Some(1)).await.expect("insert of the user's first token");
}

/// A limit of zero refuses the first token.
pub async fn a_limit_of_zero_refuses(store: &dyn TokenStore) {
    assert_refused_at(store, &token(1, "alice"), 0).await;
    assert_holds(store, &[]).await;
}

/// Without a limit, and with the greatest, any number of tokens can be stored.
pub async fn without_a_limit_nothing_counts(store: &dyn TokenStore) {
    for n in 1..=100 {
        let limit = if n % 2 == 0 { Some(u32::MAX) } else { None };
        store.insert(&token(n, "alice"), limit).await.expect("insert without a limit");
    }
}

async fn assert_refused_at(store: &dyn TokenStore, record: &TokenRecord, limit: u32) {
    let outcome = store.insert(record, Some(limit)).await;
    assert_refused("a token above the limit", outcome, StoreErrorKind::LimitReached);
}
