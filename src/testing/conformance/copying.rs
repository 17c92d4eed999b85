//! Everything can be given out and taken in, for a copy from one store to another.
//!
//! A store that can neither says so by [`StoreErrorKind::ReadOnly`], and promises nothing of this.

use crate::{
    store::{
        Change, JwtId, JwtRevocation, Owner, StoreErrorKind, TokenStore, Usage, UserState, UserStatus,
        Warnings,
        transfer::{Conflict, Imported, Item, KnownUser, Section, StoredToken},
    },
    testing::conformance::records::{
        NOW, admin, assert_refused, assert_same, assert_stored, changed, current, digest, id, later, rich,
        stored, token, user,
    },
    time::UnixTime,
    token::TokenRecord,
};

/// Steps of any size give out each section once, in ascending order, and say at first how many there are of tokens.
pub async fn each_section_is_given_out_in_order(store: &dyn TokenStore) {
    for (n, owner) in [(3, "b"), (1, "Zoë"), (2, "a"), (5, "Z"), (4, "b")] {
        stored(store, rich(n, owner)).await;
    }
    for (n, name) in (1..).zip(["b", "c", "用户", "B"]) {
        let state = UserState::new(user(name), UserStatus::Suspended).with_jwts_not_before(Some(later(n)));
        store.set_user_state(&state).await.expect("set_user_state");
    }
    for n in [7, 3, 250, 1] {
        store.revoke_jwt(&jwt(n, 100), NOW).await.expect("revoke_jwt");
    }
    let tokens = all(store, Section::Tokens, 1000).await;
    let ids: Vec<_> = tokens.iter().map(|item| stored_token(item).record.id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5].map(id), "the tokens that are given out");
    for item in &tokens {
        assert_stored(store, &stored_token(item).record).await;
    }
    let users: Vec<_> =
        all(store, Section::Users, 1000).await.iter().map(|item| known_user(item).clone()).collect();
    let expected = [("B", false, Some(4)), ("Z", true, None), ("Zoë", true, None), ("a", true, None)];
    let more = [("b", true, Some(1)), ("c", false, Some(2)), ("用户", false, Some(3))];
    let expected = expected.into_iter().chain(more).map(|(name, had_token, before)| {
        let state = before.map(|seconds| {
            UserState::new(user(name), UserStatus::Suspended).with_jwts_not_before(Some(later(seconds)))
        });
        KnownUser::new(user(name), had_token, state)
    });
    assert_eq!(users, expected.collect::<Vec<_>>(), "the users that are given out");
    let jwts = all(store, Section::RevokedJwts, 1000).await;
    assert_eq!(jwts, [1, 3, 7, 250].map(|n| Item::Jwt(jwt(n, 100))), "the JWTs that are given out");
    for (section, whole) in [(Section::Tokens, tokens), (Section::RevokedJwts, jwts)] {
        for limit in [1, 2, 4, 5] {
            assert_eq!(all(store, section, limit).await, whole, "{section:?} in steps of {limit}");
        }
    }
    for limit in [1, 3] {
        assert_eq!(all(store, Section::Users, limit).await.len(), 7, "the users in steps of {limit}");
    }
    let first = store.export(&admin(), Section::Tokens, None, 2).await.expect("export");
    assert!(first.total.is_none_or(|total| total == 5), "how many tokens there are: {:?}", first.total);
}

/// What is taken in is stored as it is, whatever became of its owner, its parent and its limits; a second time nothing
/// happens.
pub async fn what_is_taken_in_is_stored_as_it_is(store: &dyn TokenStore) {
    store
        .set_user_state(&UserState::new(user("alice"), UserStatus::Suspended))
        .await
        .expect("set_user_state");
    let parent = TokenRecord { revoked_at: Some(later(9)), revision: 3, ..rich(1, "alice") };
    let records = [
        TokenRecord { parent: Some(parent.id), ..rich(2, "alice") },
        parent,
        token(3, "bob"),
        TokenRecord { successor: Some(id(3)), disabled_at: Some(later(1)), ..rich(4, "bob") },
    ];
    let items: Vec<_> = records.iter().cloned().map(item).collect();
    assert_eq!(import(store, &items).await, [Imported::Added; 4], "what becomes of new tokens");
    for record in &records {
        assert_stored(store, record).await;
    }
    assert_eq!(import(store, &items).await, [Imported::Same; 4], "what becomes of them a second time");
    let mut expected = items;
    expected.sort_by_key(|item| stored_token(item).record.id);
    assert_eq!(all(store, Section::Tokens, 1000).await, expected, "what is given out of what was taken in");
    let others = vec![Item::Jwt(jwt(1, 50)), Item::User(KnownUser::new(user("carol"), true, None))];
    assert_eq!(import(store, &others).await, [Imported::Added; 2], "what becomes of others");
    assert_eq!(import(store, &others).await, [Imported::Same; 2], "what becomes of others a second time");
    assert_eq!(store.denials(NOW).await.expect("denials").jwts, [jwt(1, 50)], "the JWTs that are denied");
}

/// A token that was taken in is changed, used and revoked like any other.
pub async fn what_was_taken_in_is_like_any_other(store: &dyn TokenStore) {
    let [old, child] = [token(1, "alice"), TokenRecord { parent: Some(id(1)), ..token(2, "alice") }];
    import(store, &[item(child), item(old.clone())]).await;
    let owner = Owner::User(&old.owner);
    let usage = Usage::new(old.id, 3, later(5));
    store.record_usage(&[usage]).await.expect("record_usage");
    assert_eq!(current(store, &old).await.request_count, 3, "the uses of a token that was taken in");
    let rename = Change { name: Some("n".into()), ..Change::default() };
    assert_eq!(changed(store.update(owner, old.id, &rename).await).revision, 1, "its revision");
    assert_refused("a taken digest", store.insert(&old, None).await, StoreErrorKind::Duplicate);
    let revoked = store.revoke(owner, old.id, later(9), crate::store::Reach::Children).await.expect("revoke");
    let others = revoked.map(|revoked| revoked.others.len());
    assert_eq!(others, Some(1), "how many end with it");
}

/// A token takes the place of what it was before: its settings, its use, its family and its warnings; what is later
/// there, or something else, stays, and the rest of the batch is taken in.
pub async fn only_earlier_versions_give_way(store: &dyn TokenStore) {
    let first = rich(1, "alice");
    let [second, third] = [stored(store, rich(2, "alice")).await, stored(store, rich(3, "alice")).await];
    stored(store, first.clone()).await;
    let later_first = TokenRecord {
        name: "later".into(),
        parent: Some(id(50)),
        expires_at: Some(later(200_000)),
        last_used: Some(later(5_000)),
        request_count: first.request_count + 1,
        quota_use: None,
        revision: first.revision + 1,
        ..first.clone()
    };
    let earlier_second = TokenRecord { revision: second.revision - 1, ..second.clone() };
    let other_third = TokenRecord { digest: digest(99), revision: 100, ..third.clone() };
    let same_secret = TokenRecord { digest: second.digest, ..token(4, "bob") };
    let new = token(5, "bob");
    let given = [&later_first, &earlier_second, &other_third, &same_secret, &new];
    let imported = import(store, &given.map(|record| item(record.clone()))).await;
    let expected = [
        Imported::Changed,
        Imported::Refused(Conflict::ChangedThere),
        Imported::Refused(Conflict::OtherToken),
        Imported::Refused(Conflict::DigestTaken),
        Imported::Added,
    ];
    assert_eq!(imported, expected, "what becomes of a batch");
    for record in [&later_first, &second, &third, &new] {
        assert_same("a token after the batch", &current(store, record).await, record);
        assert_stored(store, record).await;
    }
    assert_eq!(all(store, Section::Tokens, 1000).await.len(), 4, "how many tokens there are");
    let family =
        store.revoke(Owner::User(&first.owner), id(1), later(9), crate::store::Reach::Children).await;
    assert!(family.is_ok(), "the token that was changed is revoked");
}

/// Of two states of a user the stricter one stays, and of two ends of a revoked JWT the later one.
pub async fn what_denies_stays(store: &dyn TokenStore) {
    let state = |name, status, seconds: Option<u64>| {
        UserState::new(user(name), status).with_jwts_not_before(seconds.map(later))
    };
    let stricter = Imported::Refused(Conflict::Stricter);
    for (name, there, given, expected, imported) in [
        (
            "a",
            (UserStatus::Active, None),
            (UserStatus::Suspended, Some(5)),
            (UserStatus::Suspended, Some(5)),
            Imported::Changed,
        ),
        (
            "b",
            (UserStatus::Offboarded, Some(5)),
            (UserStatus::Active, None),
            (UserStatus::Offboarded, Some(5)),
            stricter,
        ),
        (
            "c",
            (UserStatus::Suspended, Some(5)),
            (UserStatus::Offboarded, Some(1)),
            (UserStatus::Offboarded, Some(5)),
            stricter,
        ),
    ] {
        let [there, given, expected] =
            [there, given, expected].map(|(status, before)| state(name, status, before));
        store.set_user_state(&there).await.expect("set_user_state");
        let items = [Item::User(KnownUser::new(user(name), true, Some(given)))];
        assert_eq!(import(store, &items).await, [imported], "what becomes of the state of {name}");
        let stored = KnownUser::new(user(name), true, Some(expected));
        let users = all(store, Section::Users, 1000).await;
        assert!(users.contains(&Item::User(stored)), "the state of {name} afterwards: {users:?}");
    }
    store.revoke_jwt(&jwt(1, 50), NOW).await.expect("revoke_jwt");
    for (seconds, imported, end) in
        [(40, stricter, 50), (50, Imported::Same, 50), (60, Imported::Changed, 60)]
    {
        assert_eq!(
            import(store, &[Item::Jwt(jwt(1, seconds))]).await,
            [imported],
            "what becomes of a revoked JWT"
        );
        assert_eq!(store.denials(NOW).await.expect("denials").jwts, [jwt(1, end)], "when it ends");
    }
}

/// Whoever has a token that was taken in, or had one elsewhere, cannot register, and stays known when it is removed.
pub async fn whoever_came_in_is_not_new(store: &dyn TokenStore) {
    import(store, &[item(token(1, "alice")), Item::User(KnownUser::new(user("bob"), true, None))]).await;
    for (n, name) in [(2, "alice"), (3, "bob")] {
        let registered = store.register(&token(n, name)).await;
        // A store that registers nobody has nobody to keep away.
        if registered.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::ReadOnly) {
            return;
        }
        assert_refused("a user who came in", registered, StoreErrorKind::UserExists);
    }
    store.register(&token(4, "carol")).await.expect("register of a new user");
}

/// A warning that was given out elsewhere is not given out again, and one that was not is.
pub async fn warnings_come_along(store: &dyn TokenStore) {
    let expiring = |n| TokenRecord { expires_at: Some(later(2_000)), created_at: NOW, ..token(n, "alice") };
    let reminded = StoredToken::new(expiring(1), None);
    let due = StoredToken::new(expiring(2), Some(UnixTime::EPOCH));
    import(store, &[reminded, due].map(|token| Item::Token(Box::new(token)))).await;
    let warnings = Warnings::new(later(1_500), vec![std::time::Duration::from_secs(1_000)], 10);
    let claimed = match store.claim_warnings(&admin(), &warnings).await {
        Err(error) if error.kind() == StoreErrorKind::ReadOnly => return,
        claimed => claimed.expect("claim_warnings"),
    };
    let ids: Vec<_> = claimed.tokens.iter().map(|record| record.id).collect();
    assert_eq!(ids, [id(2)], "the tokens that there is a warning about");
    let given_out = all(store, Section::Tokens, 10).await;
    let times: Vec<_> = given_out.iter().map(|item| stored_token(item).warn_from).collect();
    assert_eq!(times, [None, None], "when to look at them again");
}

pub(super) fn item(record: TokenRecord) -> Item {
    Item::Token(Box::new(StoredToken::new(record, Some(UnixTime::EPOCH))))
}

fn jwt(n: u8, seconds: u64) -> JwtRevocation {
    JwtRevocation::new(JwtId::from_bytes([n; 32]), later(seconds))
}

fn stored_token(item: &Item) -> &StoredToken {
    match item {
        Item::Token(token) => token,
        other => panic!("{other} is given out among the tokens"),
    }
}

fn known_user(item: &Item) -> &KnownUser {
    match item {
        Item::User(known) => known,
        other => panic!("{other} is given out among the users"),
    }
}

async fn import(store: &dyn TokenStore, items: &[Item]) -> Vec<Imported> {
    store.import(&admin(), items).await.expect("import")
}

/// All of a section, in steps of `limit`.
async fn all(store: &dyn TokenStore, section: Section, limit: u32) -> Vec<Item> {
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        let step = store.export(&admin(), section, after.as_ref(), limit).await.expect("export");
        assert!(step.items.len() <= limit as usize, "a step is longer than its limit");
        assert_eq!(step.damaged, [], "what is damaged in a new store");
        items.extend(step.items);
        match step.next {
            Some(next) => after = Some(next),
            None => return items,
        }
    }
}
