//! Users who are suspended or gone, and JWTs that are revoked before their end.
//!
//! A store that does not keep these refuses to write them as [`StoreErrorKind::ReadOnly`], and promises
//! nothing of this.

use crate::{
    store::{
        Denials, JwtId, JwtRevocation, Owner, Rotation, StoreErrorKind, TokenStore, UserState, UserStatus,
    },
    testing::conformance::{
        harness::join_all,
        records::{
            NOW, assert_holds, assert_not_found, assert_refused, assert_same, current, later, rich, stored,
            token, user,
        },
    },
    token::TokenRecord,
};

/// A store without anything denied says so.
pub async fn a_fresh_store_denies_nothing(store: &dyn TokenStore) {
    assert_eq!(denials(store, 0).await, Denials::default(), "what a fresh store denies");
}

/// Each user has the status that was set last; user ids are compared byte for byte.
pub async fn statuses_are_kept(store: &dyn TokenStore) {
    for (name, status) in [("alice", UserStatus::Suspended), ("Alice", UserStatus::Offboarded)] {
        set(store, name, status).await;
    }
    assert_eq!(state(store, "alice").await.status, UserStatus::Suspended);
    assert_eq!(state(store, "Alice").await.status, UserStatus::Offboarded);
    assert!(state(store, "ALICE").await.is_active(), "a user who was never mentioned is active");
    set(store, "alice", UserStatus::Active).await;
    assert!(state(store, "alice").await.is_active(), "a user who was made active again");
}

/// The time before which JWTs do not count never moves back and outlives every change of the status,
/// which it does not touch itself.
pub async fn the_time_of_jwts_never_moves_back(store: &dyn TokenStore) {
    let alice = user("alice");
    set(store, "alice", UserStatus::Suspended).await;
    for (seconds, expected) in [(50, 50), (90, 90), (10, 90)] {
        store.revoke_jwts_of(&alice, later(seconds)).await.expect("revoke_jwts_of");
        let state = state(store, "alice").await;
        assert_eq!(state.jwts_not_before, Some(later(expected)), "the time of JWTs");
        assert_eq!(state.status, UserStatus::Suspended, "the status of a user whose JWTs are revoked");
    }
    let earlier = UserState::new(alice.clone(), UserStatus::Active).with_jwts_not_before(Some(later(20)));
    store.set_user_state(&earlier).await.expect("set_user_state");
    set(store, "alice", UserStatus::Active).await;
    store.offboard(&alice, later(30)).await.expect("offboard");
    assert_eq!(state(store, "alice").await.jwts_not_before, Some(later(90)), "after earlier times");
}

/// Offboarding revokes every token of the user, tells which, and denies all else; other users keep theirs.
pub async fn offboarding_ends_everything_of_one_user(store: &dyn TokenStore) {
    let bob = stored(store, rich(3, "bob")).await;
    let [two, one] = [stored(store, rich(2, "alice")).await, stored(store, token(1, "alice")).await];
    let mut revoked = store.offboard(&user("alice"), later(9)).await.expect("offboard");
    revoked.sort_unstable_by_key(|digest| *digest.as_bytes());
    let mut expected = [one.digest, two.digest];
    expected.sort_unstable_by_key(|digest| *digest.as_bytes());
    assert_eq!(revoked, expected, "the digests that offboarding returns");
    let dead = |record: TokenRecord| TokenRecord {
        revoked_at: Some(later(9)),
        revision: record.revision + 1,
        ..record
    };
    assert_holds(store, &[bob, dead(two), dead(one)]).await;
    let state = state(store, "alice").await;
    assert_eq!((state.status, state.jwts_not_before), (UserStatus::Offboarded, Some(later(9))));
    assert_eq!(denials(store, 0).await.users.len(), 1, "how many users are denied");
    let again = store.offboard(&user("alice"), later(9)).await.expect("offboard again");
    assert_eq!(again.len(), 0, "tokens are revoked a second time");
}

/// A user who is suspended or offboarded gets no new tokens, neither new ones nor successors; one who is
/// restored does.
pub async fn inactive_users_get_no_tokens(store: &dyn TokenStore) {
    let record = stored(store, token(1, "alice")).await;
    let owner = Owner::User(&record.owner);
    for status in [UserStatus::Suspended, UserStatus::Offboarded] {
        set(store, "alice", status).await;
        let kind = StoreErrorKind::OwnerInactive;
        assert_refused("an insert", store.insert(&token(2, "alice"), None).await, kind);
        let rotation = Rotation::new(token(3, "alice"), later(60), record.revision);
        assert_refused("a rotation", store.rotate(owner, record.id, &rotation).await, kind);
        assert_same("the old token", &current(store, &record).await, &record);
        assert_not_found("a refused token", store, 2).await;
        assert_not_found("a refused successor", store, 3).await;
    }
    stored(store, token(4, "bob")).await;
    set(store, "alice", UserStatus::Active).await;
    stored(store, token(2, "alice")).await;
}

/// Whatever is inserted while a user is offboarded is refused or revoked.
pub async fn offboarding_and_inserts_do_not_mix(store: &dyn TokenStore) {
    let alice = user("alice");
    let records: Vec<_> = (1..=32).map(|n| token(n, "alice")).collect();
    let inserts = records.iter().map(|record| {
        Box::pin(async move { drop(store.insert(record, None).await) })
            as std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>
    });
    let (before, after): (Vec<_>, Vec<_>) = inserts.enumerate().partition(|(at, _)| at % 2 == 0);
    let gone = Box::pin(async { drop(store.offboard(&alice, later(9)).await.expect("offboard")) });
    let calls = before.into_iter().map(|(_, call)| call);
    let calls = calls.chain([gone as _]).chain(after.into_iter().map(|(_, call)| call));
    join_all(calls).await;
    assert_eq!(
        store.count(Owner::User(&alice)).await.expect("count"),
        0,
        "living tokens of a user who is gone"
    );
}

/// A revoked JWT is listed until its end; of two ends the later one counts.
pub async fn revoked_jwts_are_listed_until_their_end(store: &dyn TokenStore) {
    let (one, two) = (JwtId::of("https://issuer.example", "1"), JwtId::of("https://issuer.example", "2"));
    for (id, seconds) in [(one, 50), (one, 90), (one, 10), (two, 20)] {
        let revocation = JwtRevocation::new(id, later(seconds));
        store.revoke_jwt(&revocation, NOW).await.expect("revoke_jwt");
    }
    for (seconds, expected) in [(0, vec![one, two]), (19, vec![one, two]), (89, vec![one])] {
        let jwts = denials(store, seconds).await.jwts;
        for id in expected {
            let until = jwts.iter().find(|jwt| jwt.id == id).map(|jwt| jwt.until);
            let end = if id == one { later(90) } else { later(20) };
            assert_eq!(until, Some(end), "the end of a revoked JWT, {seconds} seconds on");
        }
        assert!(denials(store, seconds).await.users.is_empty(), "a revoked JWT denies no user");
    }
}

async fn denials(store: &dyn TokenStore, seconds: u64) -> Denials {
    store.denials(later(seconds)).await.expect("denials")
}

async fn state(store: &dyn TokenStore, name: &str) -> UserState {
    let user = user(name);
    let found = denials(store, 0).await.users.into_iter().find(|state| state.user == user);
    found.unwrap_or_else(|| UserState::new(user, UserStatus::Active))
}

async fn set(store: &dyn TokenStore, name: &str, status: UserStatus) {
    store.set_user_state(&UserState::new(user(name), status)).await.expect("set_user_state");
}
