//! Lists come in pages, newest first, and counts agree with them.

use crate::{
    id::TokenId,
    store::{Owner, Page, TokenStore},
    testing::conformance::records::{admin, everything, id, ids, later, list, stored, token, user},
    time::UnixTime,
    token::TokenRecord,
};

/// Tokens are listed in descending order of their ids, whatever order or time they were stored with.
pub async fn newest_come_first(store: &dyn TokenStore) {
    for n in [3, 1, 5, 2, 4] {
        let created_at = later(1_000 - u64::from(n));
        stored(store, TokenRecord { created_at, ..token(n, "alice") }).await;
    }
    assert_eq!(list(store, "alice", Page::first(10)).await, ids([5, 4, 3, 2, 1]));
    let all: Vec<_> = everything(store).await.iter().map(|record| record.id).collect();
    assert_eq!(all, ids([5, 4, 3, 2, 1]), "the list of all users");
}

/// Pages of any size, one after the other, give each token once, to users and to administrators.
pub async fn pages_join_without_gaps_or_repeats(store: &dyn TokenStore) {
    for n in 1..=20 {
        stored(store, token(n, if n % 3 == 0 { "bob" } else { "alice" })).await;
    }
    let (alice, admin) = (user("alice"), admin());
    let own = ids((1..=20).rev().filter(|n| n % 3 != 0));
    for size in [1, 2, 7, 14, 50] {
        assert_eq!(in_pages(store, Owner::User(&alice), size).await, own, "in pages of {size}");
        let all = in_pages(store, Owner::Any(&admin), size).await;
        assert_eq!(all, ids((1..=20).rev()), "all users in pages of {size}");
    }
}

async fn in_pages(store: &dyn TokenStore, owner: Owner<'_>, size: u32) -> Vec<TokenId> {
    let mut listed = Vec::new();
    // A store that gives the same page for ever must not hang the suite.
    for _ in 0..100 {
        let page = listed.last().map_or(Page::first(size), |last| Page::after(*last, size));
        let records = store.list(owner, page).await.expect("list");
        assert!(records.len() <= size as usize, "a page of {size} holds {} tokens", records.len());
        if records.is_empty() {
            break;
        }
        listed.extend(records.iter().map(|record| record.id));
    }
    listed
}

/// A page holds as many tokens as it asks for, if there are as many; one of size zero holds none.
pub async fn limits_are_kept(store: &dyn TokenStore) {
    for n in 1..=5 {
        stored(store, token(n, "alice")).await;
    }
    for (size, length) in [(0, 0), (1, 1), (4, 4), (5, 5), (6, 5), (u32::MAX, 5)] {
        assert_eq!(list(store, "alice", Page::first(size)).await.len(), length, "a page of {size}");
        let rest = list(store, "alice", Page::after(id(5), size)).await;
        assert_eq!(rest.len(), length.min(4), "a page of {size} after the first token");
    }
}

/// A page can start at an id that is not stored, or is another user's: it has the older tokens.
pub async fn any_id_can_be_a_cursor(store: &dyn TokenStore) {
    for (n, owner) in [(1, "alice"), (2, "alice"), (3, "bob"), (5, "alice")] {
        stored(store, token(n, owner)).await;
    }
    for (cursor, numbers) in [(0, vec![]), (1, vec![]), (3, vec![2, 1]), (4, vec![2, 1]), (9, vec![5, 2, 1])]
    {
        let page = list(store, "alice", Page::after(id(cursor), 10)).await;
        assert_eq!(page, ids(numbers), "the tokens before number {cursor}");
    }
}

/// Tokens that are added between two pages neither repeat nor hide what the second one shows.
pub async fn pages_stay_while_tokens_are_added(store: &dyn TokenStore) {
    for n in 1..=6 {
        stored(store, token(n, "alice")).await;
    }
    assert_eq!(list(store, "alice", Page::first(3)).await, ids([6, 5, 4]));
    for n in 7..=10 {
        stored(store, token(n, "alice")).await;
    }
    assert_eq!(list(store, "alice", Page::after(id(4), 3)).await, ids([3, 2, 1]));
}

/// Disabled, expired, replaced and revoked tokens are listed with the others.
pub async fn lists_show_tokens_in_any_state(store: &dyn TokenStore) {
    store_every_state(store).await;
    assert_eq!(list(store, "alice", Page::first(10)).await, ids([5, 4, 3, 2, 1]));
}

/// Revoked tokens are not counted, and all others are, for users and for administrators.
pub async fn counts_leave_out_revoked_tokens_only(store: &dyn TokenStore) {
    store_every_state(store).await;
    stored(store, token(6, "bob")).await;
    assert_eq!(store.count(Owner::User(&user("alice"))).await.expect("count"), 4);
    assert_eq!(store.count(Owner::Any(&admin())).await.expect("count"), 5);
}

async fn store_every_state(store: &dyn TokenStore) {
    stored(store, token(1, "alice")).await;
    stored(store, TokenRecord { disabled_at: Some(later(1)), ..token(2, "alice") }).await;
    stored(store, TokenRecord { expires_at: Some(UnixTime::EPOCH), ..token(3, "alice") }).await;
    stored(store, TokenRecord { successor: Some(id(1)), ..token(4, "alice") }).await;
    stored(store, TokenRecord { revoked_at: Some(later(1)), ..token(5, "alice") }).await;
}
