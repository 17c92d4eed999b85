//! Where there is no room for one more token, another one gives way.

use crate::{
    store::{Ended, Owner, Room, StoreErrorKind, TokenStore, Usage, UserState, UserStatus},
    testing::conformance::{
        families::child_of,
        records::{
            assert_holds, assert_not_found, assert_refused, assert_same, current, everything, id, ids, later,
            stored, token, user,
        },
    },
    token::TokenRecord,
};

/// Below the limit a token is stored and nothing is revoked; dead tokens and those of other users do not count.
pub async fn where_there_is_room_nothing_is_revoked(store: &dyn TokenStore) {
    let first = stored(store, token(1, "alice")).await;
    let gone = stored(store, TokenRecord { revoked_at: Some(later(1)), ..token(2, "alice") }).await;
    let other = stored(store, token(3, "bob")).await;
    let new = token(4, "alice");
    assert_eq!(make_room(store, &new, Room::new(2)).await, []);
    assert_holds(store, &[new, other, gone, first]).await;
}

/// The one gives way that was unused for the longest; one that was never used counts from its creation.
pub async fn the_longest_unused_gives_way(store: &dyn TokenStore) {
    for n in 1..=4 {
        stored(store, token(n, "alice")).await;
    }
    stored(store, token(5, "bob")).await;
    let use_at = |n, seconds| Usage::new(id(n), 1, later(seconds));
    store.record_usage(&[use_at(1, 60), use_at(2, 50), use_at(4, 40)]).await.expect("record_usage");
    for (new, chosen) in [(100, 3), (101, 4), (102, 2), (103, 1), (104, 100)] {
        let record = token(new, "alice");
        let ended = make_room(store, &record, Room::new(4)).await;
        assert_eq!(numbers(&ended), ids([chosen]), "which token gives way to number {new}");
        let victim = store.get(Owner::User(&record.owner), id(chosen)).await.expect("get");
        let victim = victim.expect("a token that gave way is still stored");
        assert_eq!((victim.revoked_at, victim.revision), (Some(record.created_at), 1), "its revocation");
        assert_same("the new token", &current(store, &record).await, &record);
    }
}

/// A token that is spared does not give way, however long it was unused; where all are, the new one is refused.
pub async fn spared_tokens_do_not_give_way(store: &dyn TokenStore) {
    let [one, two] = [stored(store, token(1, "alice")).await, stored(store, token(2, "alice")).await];
    let new = token(10, "alice");
    let mut room = Room::new(2);
    room.spared = vec![one.id, two.id];
    let outcome = store.insert_making_room(&new, &room).await;
    assert_refused("a token for which nothing gives way", outcome, StoreErrorKind::LimitReached);
    let outcome = store.insert_making_room(&new, &Room::new(0)).await;
    assert_refused("a token at a limit of zero", outcome, StoreErrorKind::LimitReached);
    assert_not_found("a refused token", store, 10).await;
    assert_holds(store, &[two, one.clone()]).await;
    room.spared = vec![one.id];
    assert_eq!(numbers(&make_room(store, &new, room).await), ids([2]), "what gives way");
}

/// A trap is never used, yet it does not give way, and takes no room.
pub async fn traps_neither_give_way_nor_take_room(store: &dyn TokenStore) {
    let trap = stored(store, TokenRecord { honeytoken: true, ..token(1, "alice") }).await;
    assert_eq!(make_room(store, &token(2, "alice"), Room::new(1)).await, [], "beside a trap there is room");
    assert_eq!(numbers(&make_room(store, &token(3, "alice"), Room::new(1)).await), ids([2]));
    assert_same("the trap", &current(store, &trap).await, &trap);
}

/// With more tokens than the limit allows, one gives way to one.
pub async fn one_gives_way_to_one(store: &dyn TokenStore) {
    for n in 1..=5 {
        stored(store, token(n, "alice")).await;
    }
    assert_eq!(numbers(&make_room(store, &token(6, "alice"), Room::new(2)).await), ids([1]));
    assert_eq!(active(store).await, 5, "active tokens after one gave way to one");
}

/// What ends with the token that gives way is revoked and named as well.
pub async fn what_ends_with_it_gives_way_too(store: &dyn TokenStore) {
    stored(store, token(1, "alice")).await;
    stored(store, child_of(1, token(2, "alice"))).await;
    stored(store, child_of(2, token(3, "alice"))).await;
    let ended = make_room(store, &token(4, "alice"), Room::new(3)).await;
    assert_eq!(numbers(&ended), ids([1, 2, 3]), "what gives way");
    assert_eq!(active(store).await, 1, "active tokens");
}

/// A user who is suspended gets no new token and loses none.
pub async fn nothing_gives_way_to_what_is_refused(store: &dyn TokenStore) {
    let one = stored(store, token(1, "alice")).await;
    let state = UserState::new(user("alice"), UserStatus::Suspended);
    store.set_user_state(&state).await.expect("set_user_state");
    let outcome = store.insert_making_room(&token(2, "alice"), &Room::new(1)).await;
    assert_refused("a token of a suspended user", outcome, StoreErrorKind::OwnerInactive);
    assert_holds(store, &[one]).await;
}

pub(super) async fn active(store: &dyn TokenStore) -> usize {
    let all = everything(store).await;
    all.iter().filter(|record| record.owner == user("alice") && record.revoked_at.is_none()).count()
}

async fn make_room(store: &dyn TokenStore, record: &TokenRecord, room: Room) -> Vec<Ended> {
    store.insert_making_room(record, &room).await.expect("insert_making_room")
}

fn numbers(ended: &[Ended]) -> Vec<crate::TokenId> {
    let mut ids: Vec<_> = ended.iter().map(|ended| ended.id).collect();
    ids.sort_unstable();
    ids
}
