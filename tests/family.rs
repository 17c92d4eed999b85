//! Keys that end with others, and the end of everything that was made through one.
//!
//! `KEYWARD_RACE_ROUNDS` makes the races longer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use keyward::{
    AdminProof, AuthLayer, TokenManager, api,
    auth::ApiKeyAuth,
    event::EventKind,
    manage::{IssuedToken, ListQuery, NewToken, TokenError, TokenUpdate, WhenFull},
    store::{MemoryStore, SqliteOptions, TokenStore},
    testing::{ManualClock, RecordingSink},
    token::{LifetimePolicy, Lifetimes, TokenClass, TokenStatus},
};
use serde_json::json;
use support::{Gatekeeper, World, request, send, start, user};

const DAY: Duration = Duration::from_secs(86_400);

#[expect(clippy::disallowed_methods, reason = "lets a longer run be asked for")]
fn rounds() -> usize {
    std::env::var("KEYWARD_RACE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1_000)
}

impl World {
    async fn key(&self, name: &str) -> IssuedToken {
        self.tokens.create(&user("alice"), NewToken::named(name)).await.unwrap()
    }

    /// One that is made through `maker`.
    async fn make(&self, maker: &IssuedToken, new: NewToken) -> IssuedToken {
        self.tokens.create(&self.gate.principal(maker).await, new).await.unwrap()
    }

    /// A key, its child and its grandchild, all of which were just used.
    async fn family(&self) -> [IssuedToken; 3] {
        let parent = self.key("parent").await;
        let child = self.make(&parent, NewToken::named("child").as_child()).await;
        let grandchild = self.make(&child, NewToken::named("grandchild").as_child()).await;
        let family = [parent, child, grandchild];
        self.assert_accepted("at first", &family, [true; 3]).await;
        family
    }

    async fn assert_accepted<const N: usize>(
        &self,
        when: &str,
        keys: &[IssuedToken; N],
        expected: [bool; N],
    ) {
        let mut accepted = [false; N];
        for (key, accepted) in keys.iter().zip(&mut accepted) {
            *accepted = self.gate.accepts(key).await;
        }
        assert_eq!(accepted, expected, "{when}");
    }
}

// ---- the end of a parent ---------------------------------------------------------------------------

#[tokio::test]
async fn a_child_stops_when_its_parent_is_revoked_and_stays_dead() {
    let world = World::new();
    let family = world.family().await;
    let independent = world.make(&family[0], NewToken::named("independent")).await;
    world.tokens.revoke(&user("alice"), family[0].record.id).await.unwrap();
    world.assert_accepted("at once", &family, [false; 3]).await;
    assert!(world.gate.accepts(&independent).await, "what was only made through it goes on");
    for key in &family[1..] {
        let record = world.tokens.get(&user("alice"), key.record.id).await.unwrap();
        assert_eq!(world.tokens.status(&record), TokenStatus::Revoked);
        let told = |event: &keyward::event::Event| {
            event.kind == EventKind::TokenRevoked && event.token == Some(key.record.id)
        };
        assert!(world.events.events().iter().any(told), "each end is in the audit log");
    }
    let enable = TokenUpdate::default().with_enabled(true);
    world.tokens.update(&user("alice"), family[1].record.id, enable).await.unwrap();
    world.assert_accepted("whatever is tried", &family, [false; 3]).await;
}

#[tokio::test]
async fn a_child_pauses_while_its_parent_is_switched_off() {
    let world = World::new();
    let family = world.family().await;
    let (alice, parent) = (user("alice"), family[0].record.id);
    for round in 0..3 {
        let off = TokenUpdate::default().with_enabled(false);
        world.tokens.update(&alice, parent, off).await.unwrap();
        world.assert_accepted(&format!("round {round}: off"), &family, [false; 3]).await;
        let shown = world.tokens.get(&alice, family[2].record.id).await.unwrap();
        assert_eq!(world.tokens.status(&shown), TokenStatus::Disabled, "and its owner sees why");
        let on = TokenUpdate::default().with_enabled(true);
        world.tokens.update(&alice, parent, on).await.unwrap();
        world.assert_accepted(&format!("round {round}: on"), &family, [true; 3]).await;
    }
}

#[tokio::test]
async fn a_child_ends_when_its_parent_expires_or_rests_too_long() {
    for (how, lifetime, dead_after) in [("expired", Some(10 * DAY), 10 * DAY), ("idle", None, 30 * DAY)] {
        let world = World::new();
        let new = NewToken::named("parent");
        let new = lifetime.map_or(new.clone(), |lifetime| new.with_lifetime(lifetime));
        let parent = world.tokens.create(&user("alice"), new).await.unwrap();
        let child = world.make(&parent, NewToken::named("child").as_child()).await;
        let keys = [parent, child];
        world.clock.advance(dead_after - DAY);
        assert!(world.gate.accepts(&keys[1]).await, "{how}: the child is in use, its parent is not");
        world.clock.advance(DAY - Duration::from_millis(1));
        assert!(world.gate.accepts(&keys[1]).await, "{how}: the last moment");
        world.clock.advance(Duration::from_millis(1));
        world.assert_accepted(how, &keys, [false; 2]).await;
        let page = world.tokens.list(&user("alice"), ListQuery::default()).await.unwrap();
        let statuses: Vec<_> = page.tokens.iter().map(|record| world.tokens.status(record)).collect();
        assert_eq!(statuses, [TokenStatus::Expired; 2], "{how}: and its owner sees it");
    }
}

#[tokio::test]
async fn a_child_lives_while_its_parent_is_used_though_that_cannot_be_written() {
    let world = World::new();
    let family = world.family().await;
    world.store.set_usage_failing(true);
    for day in [29, 31, 59] {
        world.clock.set(start().saturating_add(day * DAY));
        world.assert_accepted(&format!("day {day}"), &family, [true; 3]).await;
    }
}

#[tokio::test]
async fn the_grace_of_a_parent_is_its_own() {
    let clock = ManualClock::at(start());
    let policy = LifetimePolicy::default().with_grace(Some(DAY));
    let lifetimes = Lifetimes::default().with_policy(TokenClass::User, policy);
    let builder = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone());
    let tokens = builder.with_lifetimes(lifetimes).build();
    let gate = Gatekeeper::new(&tokens);
    let parent = NewToken::named("parent").with_lifetime(DAY);
    let parent = tokens.create(&user("alice"), parent).await.unwrap();
    let me = gate.principal(&parent).await;
    let child = tokens.create(&me, NewToken::named("child").as_child()).await.unwrap();
    // Renewed, the parent would outlive the child; so this one gets an expiry of its own.
    assert_eq!(child.record.expires_at, parent.record.expires_at);
    clock.advance(DAY);
    assert!(gate.accepts(&parent).await, "it still reads");
    assert!(!gate.accepts(&child).await);
}

#[tokio::test]
async fn a_child_is_not_renewed_by_use() {
    let world = World::new();
    let [_, child, _] = world.family().await;
    assert!(!child.record.rolling);
    let (id, until) = (child.record.id, child.record.expires_at);
    for day in 1..29 {
        world.clock.advance(DAY);
        assert!(world.gate.accepts(&child).await, "day {day}");
    }
    let used = keyward::store::Usage::new(id, 1, start().saturating_add(80 * DAY));
    world.store.record_usage(&[used]).await.unwrap();
    world.tokens.flush().await.unwrap();
    assert_eq!(world.tokens.get(&user("alice"), id).await.unwrap().expires_at, until);
}

// ---- rotation --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_child_moves_to_the_successor_of_its_parent() {
    let world = World::new();
    let family = world.family().await;
    let alice = user("alice");
    let mut newest = family[0].record.id;
    for overlap in [DAY, Duration::ZERO, Duration::ZERO] {
        newest = world.tokens.rotate(&alice, newest, Some(overlap)).await.unwrap().record.id;
        let record = world.tokens.get(&alice, family[1].record.id).await.unwrap();
        assert_eq!(record.parent, Some(newest));
        assert!(world.gate.accepts(&family[1]).await && world.gate.accepts(&family[2]).await);
    }
    world.clock.advance(2 * DAY);
    world.assert_accepted("the overlap of the first is over", &family, [false, true, true]).await;
    world.tokens.revoke(&alice, family[0].record.id).await.unwrap();
    world.assert_accepted("and revoking it changes nothing", &family, [false, true, true]).await;
    world.tokens.revoke(&alice, newest).await.unwrap();
    world.assert_accepted("but revoking its successor does", &family, [false; 3]).await;
}

#[tokio::test]
async fn rotating_a_child_does_not_set_it_free() {
    let world = World::new();
    let family = world.family().await;
    let me = world.gate.principal(&family[1]).await;
    let next = world.tokens.rotate(&me, family[1].record.id, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(next.record.parent, Some(family[0].record.id));
    assert!(world.gate.accepts(&next).await && world.gate.accepts(&family[2]).await);
    world.tokens.revoke(&user("alice"), family[0].record.id).await.unwrap();
    assert!(!world.gate.accepts(&next).await && !world.gate.accepts(&family[2]).await);
}

// ---- making children -------------------------------------------------------------------------------

#[tokio::test]
async fn only_a_key_has_children_and_they_are_its_owners() {
    let world = World::new();
    let child = || NewToken::named("child").as_child();
    let operator = AdminProof::operator("ops", "try").unwrap();
    for result in [
        world.tokens.create(&user("alice"), child()).await,
        world.tokens.create(&operator, child().for_user(user("alice"))).await,
    ] {
        assert!(matches!(result, Err(TokenError::Invalid(sentence)) if sentence.contains("through a key")));
    }
    let roles = |_: &keyward::UserId| keyward::scope::RoleSet::new(["admin"]).unwrap();
    let tokens = TokenManager::builder(MemoryStore::new()).with_roles(roles).build();
    let admin = tokens.create(&user("root"), NewToken::named("admin")).await.unwrap();
    let proof = Gatekeeper::new(&tokens).principal(&admin).await.admin("a key for alice").unwrap();
    let refused = tokens.create(&proof, child().for_user(user("alice"))).await;
    assert!(matches!(refused, Err(TokenError::Invalid(sentence)) if sentence.contains("owner")));
    assert!(tokens.create(&proof, child()).await.is_ok(), "their own is fine");
}

#[tokio::test]
async fn a_chain_of_children_has_an_end() {
    let world = World::new();
    let mut last = world.key("first").await;
    for depth in 1..=8 {
        last = world.make(&last, NewToken::named("child").as_child()).await;
        assert!(world.gate.accepts(&last).await, "child {depth}");
    }
    let me = world.gate.principal(&last).await;
    let ninth = world.tokens.create(&me, NewToken::named("child").as_child()).await;
    assert!(matches!(ninth, Err(TokenError::Invalid(_))), "{ninth:?}");
    assert!(world.tokens.create(&me, NewToken::named("independent")).await.is_ok());
}

#[tokio::test]
async fn a_request_that_outlives_its_keys_parent_hands_out_nothing() {
    let world = World::new();
    let family = world.family().await;
    let me = world.gate.principal(&family[2]).await;
    let off = TokenUpdate::default().with_enabled(false);
    world.tokens.update(&user("alice"), family[0].record.id, off).await.unwrap();
    let refused = world.tokens.create(&me, NewToken::named("late")).await;
    assert!(matches!(refused, Err(TokenError::CredentialDied)), "{refused:?}");
    let refused = world.tokens.rotate(&me, family[2].record.id, None).await;
    assert!(matches!(refused, Err(TokenError::CredentialDied)), "{refused:?}");
}

#[tokio::test]
async fn a_store_that_cannot_say_what_a_key_ends_with_lets_nobody_in() {
    let world = World::new();
    let family = world.family().await;
    world.clock.advance(Duration::from_secs(10)); // so that the store is asked again
    world.store.set_gets_failing(true);
    let statuses = [world.gate.status(&family[0]).await, world.gate.status(&family[1]).await];
    assert_eq!(statuses, [200, 503], "the parent is found by its digest, the child's parent cannot be");
    world.store.set_gets_failing(false);
    world.assert_accepted("when it answers again", &family, [true; 3]).await;
}

// ---- races -----------------------------------------------------------------------------------------

#[tokio::test]
async fn a_slow_look_at_a_parent_does_not_bring_back_its_child() {
    for how in ["revoke", "disable", "cascade", "offboard"] {
        let world = World::new();
        let family = world.family().await;
        world.clock.advance(Duration::from_secs(10)); // so that the store is asked again
        let gate = world.store.stop_next_get();
        let asking = tokio::spawn({
            let gatekeeper = world.gate.clone();
            async move {
                gatekeeper.accepts(&family[1]).await; // it began before: either answer is right
                family
            }
        });
        gate.arrival().await; // the child and its parent were read while both still worked
        let alice = user("alice");
        let parent = world.tokens.list(&alice, ListQuery::default()).await.unwrap().tokens[2].id;
        match how {
            "revoke" => drop(world.tokens.revoke(&alice, parent).await.unwrap()),
            "cascade" => drop(world.tokens.revoke_cascade(&alice, parent).await.unwrap()),
            "disable" => {
                let off = TokenUpdate::default().with_enabled(false);
                drop(world.tokens.update(&alice, parent, off).await.unwrap());
            }
            _ => {
                let proof = AdminProof::operator("ops", "gone").unwrap();
                let _ = world.tokens.offboard(&proof, &alice).await.unwrap();
            }
        }
        gate.open();
        let family = asking.await.unwrap();
        world.assert_accepted(how, &family, [false; 3]).await;
    }
}

/// The child of a round, and whether the revocation of its parent has returned.
struct Round {
    child: IssuedToken,
    over: AtomicBool,
}

#[test]
fn no_request_with_a_child_that_starts_after_its_parents_end_is_accepted() {
    let tokens =
        TokenManager::builder(MemoryStore::new()).with_max_active(None).with_creation_limit(None).build();
    let (gate, done) = (Gatekeeper::new(&tokens), AtomicBool::new(false));
    let current: Mutex<Option<Arc<Round>>> = Mutex::default();
    let (accepted, violations) = std::thread::scope(|scope| {
        let hammering = scope.spawn(|| single_thread().block_on(hammer(&gate, &current, &done)));
        let ending = scope.spawn(|| single_thread().block_on(end_parents(&tokens, &gate, &current)));
        let ended = ending.join();
        done.store(true, Ordering::SeqCst);
        ended.unwrap();
        hammering.join().unwrap()
    });
    println!("{} rounds: {accepted} accepted by the other thread, {violations} of them too late", rounds());
    assert_eq!(violations, 0);
    assert!(accepted > 0, "the threads never met");
}

fn single_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn hammer(gate: &Gatekeeper, current: &Mutex<Option<Arc<Round>>>, done: &AtomicBool) -> (usize, usize) {
    let (mut accepted, mut violations) = (0, 0);
    while !done.load(Ordering::SeqCst) {
        let Some(round) = current.lock().unwrap().clone() else { continue };
        let over = round.over.load(Ordering::SeqCst);
        let passed = gate.accepts(&round.child).await;
        accepted += usize::from(passed);
        violations += usize::from(passed && over);
    }
    (accepted, violations)
}

async fn end_parents(tokens: &TokenManager, gate: &Gatekeeper, current: &Mutex<Option<Arc<Round>>>) {
    let alice = user("alice");
    for round in 0..rounds() {
        let parent = tokens.create(&alice, NewToken::named("parent")).await.unwrap();
        let me = gate.principal(&parent).await;
        let child = tokens.create(&me, NewToken::named("child").as_child()).await.unwrap();
        let now = Arc::new(Round { child, over: AtomicBool::new(false) });
        *current.lock().unwrap() = Some(now.clone());
        if round % 2 == 0 {
            assert!(gate.accepts(&now.child).await, "round {round}: not accepted while it lives");
        }
        if round % 4 < 2 {
            tokens.revoke(&alice, parent.record.id).await.unwrap();
        } else {
            let off = TokenUpdate::default().with_enabled(false);
            tokens.update(&alice, parent.record.id, off).await.unwrap();
        }
        now.over.store(true, Ordering::SeqCst);
        assert!(!gate.accepts(&now.child).await, "round {round}: accepted after its parent's end");
    }
}

#[tokio::test]
async fn a_child_that_is_made_while_its_parent_is_replaced_is_not_left_behind() {
    let world = World::new();
    let parent = world.key("parent").await;
    let me = world.gate.principal(&parent).await;
    let gate = world.store.stop_next_get();
    let making = tokio::spawn({
        let tokens = world.tokens.clone();
        async move { tokens.create(&me, NewToken::named("child").as_child()).await }
    });
    gate.arrival().await; // it was seen that the parent lives
    let other = TokenManager::builder(world.store.clone()).with_clock(world.clock.clone()).build();
    other.rotate(&user("alice"), parent.record.id, Some(DAY)).await.unwrap();
    gate.open();
    let refused = making.await.unwrap();
    assert!(matches!(refused, Err(TokenError::Conflict)), "{refused:?}");
}

// ---- another process -------------------------------------------------------------------------------

#[tokio::test]
async fn another_process_stops_a_child_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.db");
    let open = async || {
        let store = SqliteOptions::new(&path).with_watch_interval(Duration::from_millis(20)).open().await;
        TokenManager::builder(store.unwrap()).with_staleness(Duration::from_secs(300)).unwrap().build()
    };
    let (here, there) = (open().await, open().await);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let following = tokio::spawn(there.clone().run(async { drop(stopped.await) }));
    let (gate, other) = (Gatekeeper::new(&here), Gatekeeper::new(&there));
    let alice = user("alice");
    for how in ["disable", "revoke"] {
        let parent = here.create(&alice, NewToken::named("parent")).await.unwrap();
        let me = gate.principal(&parent).await;
        let child = here.create(&me, NewToken::named("child").as_child()).await.unwrap();
        let me = gate.principal(&child).await;
        let grandchild = here.create(&me, NewToken::named("grandchild").as_child()).await.unwrap();
        // Their verdicts are good for five minutes there, were it not for the notice of the change; that of their
        // making has been and gone.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(other.accepts(&child).await && other.accepts(&grandchild).await);
        if how == "revoke" {
            here.revoke(&alice, parent.record.id).await.unwrap();
        } else {
            let off = TokenUpdate::default().with_enabled(false);
            here.update(&alice, parent.record.id, off).await.unwrap();
        }
        let refused = async {
            while other.accepts(&child).await || other.accepts(&grandchild).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(1), refused).await;
        assert!(in_time.is_ok(), "{how}: still accepted after a second");
    }
    drop(stop);
    following.await.unwrap();
}

// ---- everything that was made through a key --------------------------------------------------------

#[tokio::test]
async fn nothing_that_was_made_through_a_stolen_key_survives_its_cascade() {
    let world = World::new();
    let stolen = world.key("stolen").await;
    let own = world.key("own").await;
    let second = world.make(&stolen, NewToken::named("second")).await;
    let third = world.make(&second, NewToken::named("third")).await;
    let child = world.make(&third, NewToken::named("child").as_child()).await;
    let me = world.gate.principal(&stolen).await;
    let successor = world.tokens.rotate(&me, stolen.record.id, Some(DAY)).await.unwrap();
    let keys = [stolen, second, third, child, successor, own];
    world.assert_accepted("before", &keys, [true; 6]).await;
    let (alice, id) = (user("alice"), keys[0].record.id);
    world.tokens.revoke(&alice, keys[1].record.id).await.unwrap();
    world.assert_accepted("a plain revocation ends one", &keys, [true, false, true, true, true, true]).await;
    assert_eq!(world.tokens.revoke_cascade(&alice, id).await.unwrap(), 4);
    world.assert_accepted("after", &keys, [false, false, false, false, false, true]).await;
    assert_eq!(world.tokens.revoke_cascade(&alice, id).await.unwrap(), 0, "there is nothing left");
    let ended: Vec<_> =
        world.events.events().into_iter().filter(|e| e.kind == EventKind::TokenRevoked).collect();
    for key in &keys[..5] {
        assert!(ended.iter().any(|event| event.token == Some(key.record.id)), "each is in the audit log");
    }
}

#[tokio::test]
async fn what_another_process_makes_meanwhile_does_not_escape_a_cascade() {
    for rotates in [false, true] {
        let world = World::new();
        let here = TokenManager::builder(world.store.clone()).with_clock(world.clock.clone()).build();
        let stolen = world.key("stolen").await;
        let second = world.make(&stolen, NewToken::named("second")).await;
        let me = world.gate.principal(&second).await;
        let gate = world.store.stop_next_get();
        let making = tokio::spawn({
            let (tokens, id) = (world.tokens.clone(), second.record.id);
            async move {
                match rotates {
                    true => tokens.rotate(&me, id, Some(DAY)).await,
                    false => tokens.create(&me, NewToken::named("third")).await,
                }
            }
        });
        gate.arrival().await; // it was seen that the second one lives
        assert_eq!(here.revoke_cascade(&user("alice"), stolen.record.id).await.unwrap(), 2);
        gate.open();
        assert!(making.await.unwrap().is_err(), "rotates: {rotates}");
        let query = ListQuery::default().with_status(TokenStatus::Active);
        let living = here.list(&user("alice"), query).await.unwrap().tokens;
        assert!(living.is_empty(), "rotates: {rotates}: {living:?}");
    }
}

#[tokio::test]
async fn what_an_administrator_made_for_others_ends_when_an_administrator_says_so() {
    let roles = |user: &keyward::UserId| {
        let admin: &[&str] = if user.as_str() == "root" { &["admin"] } else { &[] };
        keyward::scope::RoleSet::new(admin).unwrap()
    };
    let events = RecordingSink::default();
    let builder = TokenManager::builder(MemoryStore::new()).with_roles(roles);
    let tokens = builder.with_audit(events.clone()).build();
    let gate = Gatekeeper::new(&tokens);
    let stolen = tokens.create(&user("root"), NewToken::named("stolen")).await.unwrap();
    let proof = gate.principal(&stolen).await.admin("new colleagues").unwrap();
    let alice = tokens.create(&proof, NewToken::named("alice's").for_user(user("alice"))).await.unwrap();
    let bob = tokens.create(&proof, NewToken::named("bob's").for_user(user("bob"))).await.unwrap();
    let me = gate.principal(&alice).await;
    let deep = tokens.create(&me, NewToken::named("made by alice's")).await.unwrap();
    assert_eq!(tokens.revoke_cascade(&user("root"), stolen.record.id).await.unwrap(), 1);
    for key in [&alice, &bob, &deep] {
        assert!(gate.accepts(key).await, "a user ends what is theirs");
    }
    let operator = AdminProof::operator("ops", "a stolen key").unwrap();
    assert_eq!(tokens.revoke_cascade(&operator, stolen.record.id).await.unwrap(), 3);
    for key in [&alice, &bob, &deep] {
        assert!(!gate.accepts(key).await);
    }
    let by_operator = events.events().into_iter().filter(|event| {
        event.kind == EventKind::TokenRevoked
            && event.actor == Some(user("ops"))
            && event.reason.as_ref().is_some_and(|why| why.contains("a stolen key"))
    });
    assert_eq!(by_operator.count(), 4, "the key and the three, with the reason");
}

#[tokio::test]
async fn a_cascade_reaches_nobody_elses_keys_and_raises_an_alert_when_it_is_tried() {
    let world = World::new();
    let family = world.family().await;
    let refused = world.tokens.revoke_cascade(&user("bob"), family[0].record.id).await;
    assert!(matches!(refused, Err(TokenError::NotFound)));
    assert_eq!(world.events.alerts(), [keyward::event::Alert::ForeignAccess]);
    world.assert_accepted("unharmed", &family, [true; 3]).await;
}

// ---- over HTTP -------------------------------------------------------------------------------------

#[tokio::test]
async fn children_and_cascades_over_http() {
    let tokens = TokenManager::new(MemoryStore::new());
    let app = Router::new()
        .nest("/api/keys", api::own_tokens(tokens.clone()))
        .route("/", get(async || "in"))
        .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
    let first = tokens.create(&user("alice"), NewToken::named("first")).await.unwrap();
    let key = first.key.expose();
    let make = async |body: serde_json::Value| {
        send(&app, request("POST", "/api/keys", key, &body.to_string())).await
    };
    let child = make(json!({ "name": "child", "child": true })).await;
    assert_eq!((child.status.as_u16(), child.text("parent_id")), (201, first.record.id.to_string()));
    let independent = make(json!({ "name": "independent", "child": false })).await;
    assert_eq!((independent.status.as_u16(), &independent.json()["parent_id"]), (201, &json!(null)));
    for body in [json!({ "name": "x", "child": "yes" }), json!({ "name": "x", "child": 1 })] {
        assert_eq!(make(body).await.status, 400);
    }
    let accepted = async |key: &str| send(&app, request("GET", "/", key, "")).await.status == 200;
    let (child, independent) = (child.text("key"), independent.text("key"));
    for query in ["?cascade=maybe", "?cascade=true&cascade=true", "?force=true"] {
        let path = format!("/api/keys/{}{query}", first.record.id);
        assert_eq!(send(&app, request("DELETE", &path, key, "")).await.status, 400, "{query}");
    }
    assert!(accepted(&child).await && accepted(&independent).await);
    let path = format!("/api/keys/{}", first.record.id);
    assert_eq!(send(&app, request("DELETE", &path, &independent, "")).await.status, 204);
    assert!(!accepted(&child).await && accepted(&independent).await, "it ends with its parent");
    let path = format!("/api/keys/{}?cascade=true", first.record.id);
    assert_eq!(send(&app, request("DELETE", &path, &independent, "")).await.status, 204);
    assert!(!accepted(&independent).await, "what was made through it ends as well");
}

// ---- whoever makes room ----------------------------------------------------------------------------

#[tokio::test]
async fn a_new_child_does_not_displace_what_it_ends_with() {
    let builder = TokenManager::builder(MemoryStore::new()).with_max_active(Some(3));
    let tokens = builder.with_when_full(WhenFull::RevokeLongestUnused).build();
    let gate = Gatekeeper::new(&tokens);
    let parent = tokens.create(&user("alice"), NewToken::named("parent")).await.unwrap();
    let child =
        tokens.create(&gate.principal(&parent).await, NewToken::named("child").as_child()).await.unwrap();
    let other = tokens.create(&user("alice"), NewToken::named("other")).await.unwrap();
    let me = gate.principal(&child).await;
    assert!(gate.accepts(&other).await);
    let grandchild = tokens.create(&me, NewToken::named("grandchild").as_child()).await.unwrap();
    assert!(gate.accepts(&parent).await && gate.accepts(&child).await && gate.accepts(&grandchild).await);
    assert!(!gate.accepts(&other).await, "the only one that may give way");
}

#[tokio::test]
async fn a_child_is_told_the_end_of_the_key_that_it_ends_with() {
    let world = World::new();
    let parent = world.key("parent").await;
    let new = NewToken::named("child").with_lifetime(300 * DAY).as_child();
    let child = world.make(&parent, new).await;
    let grandchild =
        world.make(&child, NewToken::named("grandchild").with_lifetime(299 * DAY).as_child()).await;
    let headers = async |key: &IssuedToken| {
        let app =
            Router::new().route("/", get(async || {})).layer(AuthLayer::new(ApiKeyAuth::new(&world.tokens)));
        let answer = send(&app, request("GET", "/", key.key.expose(), "")).await;
        (answer.status.as_u16(), answer.header("x-key-expires").to_owned())
    };
    for day in 0..70 {
        for key in [&child, &grandchild] {
            let expected = if day < 60 { "" } else { "2026-04-01T00:00:00.000Z" };
            for round in ["asked of the store", "in the cache"] {
                assert_eq!(headers(key).await, (200, expected.to_owned()), "day {day}, {round}");
            }
        }
        world.clock.advance(DAY);
        // Used often enough not to die of idleness, and too early to be renewed.
        if matches!(day, 20 | 43) {
            assert!(world.gate.accepts(&parent).await);
        }
    }
    let me = world.gate.principal(&child).await;
    let shown = world.tokens.get(&user("alice"), child.record.id).await.unwrap();
    assert_eq!(me.expires_at(), shown.expires_at);
    // The key that it ends with may be renewed yet: that is no end of what can be made.
    world.make(&child, NewToken::named("long").with_lifetime(200 * DAY)).await;
}
