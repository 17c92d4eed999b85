//! Users who register themselves: along with their first token, and only if nobody was called so before.
//!
//! A store that does not keep who ever had a token refuses to register anybody as
//! [`StoreErrorKind::ReadOnly`], and promises nothing of this.

use crate::{
    store::{Change, Owner, StoreErrorKind, TokenStore, UserState, UserStatus},
    testing::conformance::{
        harness::join_all,
        racing::assert_winners,
        records::{
            assert_holds, assert_not_found, assert_refused, assert_stored, changed, digest, everything,
            later, rich, stored, token, user,
        },
    },
    token::TokenRecord,
};

/// The first token of a new user is stored whole, and counts like any other.
pub async fn new_users_are_stored_with_their_first_token(store: &dyn TokenStore) {
    let [alice, bob] = [rich(1, "alice"), token(2, "bob")];
    for record in [&alice, &bob] {
        registered(store, record).await;
        assert_stored(store, record).await;
        assert_eq!(store.count(Owner::User(&record.owner)).await.expect("count"), 1, "the number of tokens");
    }
    assert_holds(store, &[bob, alice]).await;
}

/// A user is new once. User ids are compared byte for byte.
pub async fn users_are_registered_once(store: &dyn TokenStore) {
    let first = token(1, "alice");
    registered(store, &first).await;
    refused(store, "a registered user", 2).await;
    let other = token(3, "Alice");
    registered(store, &other).await;
    assert_holds(store, &[other, first]).await;
}

/// Who was given a token is not new, and stays so when the token is revoked.
pub async fn users_with_tokens_are_not_new(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    refused(store, "a user with a token", 2).await;
    let revoke = Change::revoke(later(9));
    let revoked = changed(store.update(Owner::User(&record.owner), record.id, &revoke).await);
    refused(store, "a user whose only token is revoked", 2).await;
    assert_holds(store, &[revoked]).await;
}

/// Who has a state is not new, whichever it is. A store that keeps no states has nothing to do here.
pub async fn users_with_a_state_are_not_new(store: &dyn TokenStore) {
    for status in [UserStatus::Suspended, UserStatus::Offboarded, UserStatus::Active] {
        let state = UserState::new(user("alice"), status);
        match store.set_user_state(&state).await {
            Err(error) if error.kind() == StoreErrorKind::ReadOnly => return,
            done => done.expect("set_user_state"),
        }
        refused(store, status.as_str(), 1).await;
    }
    registered(store, &token(2, "bob")).await;
}

/// A token that cannot be stored makes nobody known.
pub async fn taken_tokens_register_nobody(store: &dyn TokenStore) {
    let bob = stored(store, token(1, "bob")).await;
    let same_digest = TokenRecord { digest: digest(1), ..token(2, "alice") };
    let same_id = TokenRecord { id: bob.id, ..token(3, "alice") };
    for taken in [same_digest, same_id] {
        assert_refused("a taken token", store.register(&taken).await, StoreErrorKind::Duplicate);
    }
    let alice = token(4, "alice");
    registered(store, &alice).await;
    assert_holds(store, &[alice, bob]).await;
}

/// Of 64 registrations of one user at once, exactly one stores its token.
pub async fn of_several_registrations_one_wins(store: &dyn TokenStore) {
    let records: Vec<_> = (1..=64).map(|n| token(n, "alice")).collect();
    let outcomes = join_all(records.iter().map(|record| store.register(record))).await;
    assert_winners(&outcomes, 1, StoreErrorKind::UserExists);
    assert_eq!(everything(store).await.len(), 1, "the number of stored tokens");
}

async fn registered(store: &dyn TokenStore, record: &TokenRecord) {
    store.register(record).await.expect("register of a new user");
}

/// Panics with `what` unless alice cannot be registered with the token number `n`.
async fn refused(store: &dyn TokenStore, what: &str, n: u16) {
    assert_refused(what, store.register(&token(n, "alice")).await, StoreErrorKind::UserExists);
    assert_not_found("the token of a refused registration", store, n).await;
}
