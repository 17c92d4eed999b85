//! While the store is down: static tokens and JWTs are judged by what was last known of their users, API
//! keys only within their bound, and nobody waits for long.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod support;

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use http::Request;
use keyward::{
    AdminProof, AuthLayer, TokenManager,
    auth::StaticAuth,
    event::Alert,
    manage::{NewToken, TokenError},
    store::{StaticList, TokenStore, UserState, UserStatus},
    testing::{ManualClock, RecordingSink},
    time::{Clock, UnixTime},
};
use support::{UnrulyStore, every_kind, send, start, status_of, user};
use tokio::{task::JoinSet, time::Instant};

const ALICE: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";
const BOB: &str = "91b7d2c4e6f8a0b3c5d7e9f1a2b4c6d8";
const SECOND: Duration = Duration::from_secs(1);

/// All kinds of credentials of two users, behind one layer.
struct World {
    store: Arc<UnrulyStore>,
    events: RecordingSink,
    tokens: TokenManager,
    app: Router,
    key: String,
    alice_jwt: String,
    bob_jwt: String,
}

impl World {
    async fn by(clock: &(impl Clock + Clone)) -> Self {
        let (store, events) = (Arc::new(UnrulyStore::default()), RecordingSink::default());
        let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone());
        let tokens = tokens.with_audit(events.clone()).build();
        let (app, issuer) = every_kind(&tokens, &format!("alice:{ALICE},bob:{BOB}"), clock);
        let key = tokens.create(&user("alice"), NewToken::named("laptop")).await.unwrap().key;
        Self {
            app,
            key: key.expose().to_owned(),
            alice_jwt: issuer.token(&user("alice")).unwrap(),
            bob_jwt: issuer.token(&user("bob")).unwrap(),
            store,
            events,
            tokens,
        }
    }

    async fn suspend_bob(&self) {
        let operator = AdminProof::operator("ops", "test").unwrap();
        self.tokens.suspend(&operator, &user("bob")).await.unwrap();
    }

    async fn status(&self, credential: &str) -> u16 {
        status_of(&self.app, credential).await
    }

    /// Asks with everything that alice and bob have, in the order key, JWTs, static tokens.
    async fn statuses(&self) -> [u16; 5] {
        [
            self.status(&self.key).await,
            self.status(&self.alice_jwt).await,
            self.status(&self.bob_jwt).await,
            self.status(ALICE).await,
            self.status(BOB).await,
        ]
    }
}

#[tokio::test]
async fn what_was_last_known_counts_until_the_store_is_back() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    assert_eq!(world.statuses().await, [200; 5]);
    world.suspend_bob().await;
    assert_eq!(world.statuses().await, [200, 200, 401, 200, 401]);
    world.store.set_down(true);
    clock.advance(3 * SECOND);
    assert_eq!(world.statuses().await, [200, 200, 401, 200, 401], "within the bound");
    for passed in [3, 60, 3000] {
        clock.advance(passed * SECOND);
        assert_eq!(world.statuses().await, [503, 200, 401, 200, 401], "{passed} seconds later");
    }
    assert_eq!(world.events.alerts(), [Alert::StoreUnavailable], "said once");

    world.store.set_down(false);
    let restored = UserState::new(user("bob"), UserStatus::Active);
    world.store.set_user_state(&restored).await.unwrap();
    clock.advance(SECOND);
    assert_eq!(world.statuses().await, [200; 5], "what another process changed meanwhile is seen");
    assert_eq!(world.events.alerts(), [Alert::StoreUnavailable, Alert::StoreRecovered]);
}

#[tokio::test]
async fn where_nothing_was_ever_known_nobody_is_let_in() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    world.store.set_down(true);
    assert_eq!(world.statuses().await, [503; 5]);
    clock.advance(60 * SECOND);
    assert_eq!(world.statuses().await, [503; 5]);
    assert_eq!(world.events.alerts(), [Alert::StoreUnavailable], "said once");
    world.store.set_down(false);
    assert_eq!(world.statuses().await, [200; 5]);
}

#[tokio::test]
async fn a_store_that_finds_keys_but_knows_no_users_lets_no_key_in_past_the_bound() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    assert_eq!(world.statuses().await, [200; 5]);
    world.store.set_denials_failing(true);
    clock.advance(4 * SECOND);
    assert_eq!(world.statuses().await, [200; 5], "within the bound");
    for _ in 0..3 {
        clock.advance(2 * SECOND);
        assert_eq!(world.statuses().await, [503, 200, 200, 200, 200]);
    }
    world.store.set_denials_failing(false);
    clock.advance(SECOND);
    assert_eq!(world.statuses().await, [200; 5]);
}

#[tokio::test]
async fn the_store_that_failed_is_not_asked_for_each_request() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    assert_eq!(world.statuses().await, [200; 5]);
    world.store.set_down(true);
    clock.advance(60 * SECOND);
    let asked = world.store.denials_asked();
    for _ in 0..50 {
        assert_eq!((world.status(ALICE).await, world.status(&world.alice_jwt).await), (200, 200));
    }
    assert_eq!(world.store.denials_asked(), asked + 1);
    clock.advance(Duration::from_millis(500));
    assert_eq!(world.status(ALICE).await, 200);
    assert_eq!(world.store.denials_asked(), asked + 2, "tried again after half a second");
}

/// Goes as tokio's paused time does, which moves on when everybody waits.
#[derive(Clone, Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> UnixTime {
        start().saturating_add(self.0.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_holds_nobody_up_for_more_than_five_seconds() {
    let world = Arc::new(World::by(&TokioClock(Instant::now())).await);
    assert_eq!(world.statuses().await, [200; 5]);
    world.store.set_hanging(true);
    tokio::time::sleep(60 * SECOND).await;
    let began = Instant::now();
    let mut requests = JoinSet::new();
    for (credential, wait) in [(ALICE, 0), (&world.alice_jwt, 1), (BOB, 2), (&world.bob_jwt, 4)] {
        let (world, credential) = (world.clone(), credential.to_owned());
        requests.spawn(async move {
            tokio::time::sleep(wait * SECOND).await;
            let asked = Instant::now();
            (world.status(&credential).await, asked.elapsed())
        });
    }
    for (status, took) in requests.join_all().await {
        assert!(status == 200 && took <= 5 * SECOND, "{status} after {took:?}");
    }
    assert!(began.elapsed() >= 4 * SECOND, "the store was waited for");

    // It is known to hang: one request at a time finds out whether it still does, the others do not wait.
    tokio::time::sleep(SECOND).await;
    let first = tokio::spawn({
        let world = world.clone();
        async move { world.status(ALICE).await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let asked = Instant::now();
    assert_eq!((world.status(BOB).await, world.status(&world.bob_jwt).await), (200, 200));
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert!(!first.is_finished());
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(world.events.alerts(), [Alert::StoreUnavailable], "said once");

    world.store.set_hanging(false);
    world.suspend_bob().await;
    assert_eq!(world.statuses().await, [200, 200, 401, 200, 401], "known as soon as it is back");
}

#[tokio::test(start_paused = true)]
async fn whoever_waited_for_a_request_that_was_given_up_waits_no_longer_for_it() {
    let world = Arc::new(World::by(&TokioClock(Instant::now())).await);
    world.store.set_hanging(true);
    let given_up = tokio::spawn({
        let world = world.clone();
        async move { world.status(ALICE).await }
    });
    tokio::time::sleep(SECOND).await;
    let asked = Instant::now();
    let waiting = tokio::spawn({
        let world = world.clone();
        async move { world.status(&world.alice_jwt).await }
    });
    tokio::time::sleep(3 * SECOND).await;
    given_up.abort();
    assert_eq!(waiting.await.unwrap(), 503);
    assert!(asked.elapsed() <= 5 * SECOND, "{:?}", asked.elapsed());
}

/// Without a store beside it, a static list needs none.
#[tokio::test]
async fn a_static_list_alone_asks_nobody() {
    let list = StaticList::parse(&format!("alice:{ALICE}")).unwrap();
    let app = Router::new().route("/", get(async || {})).layer(AuthLayer::new(StaticAuth::new(&list)));
    let request = Request::get("/").header("x-api-key", ALICE).body(Body::empty()).unwrap();
    assert_eq!(send(&app, request).await.status, 200);
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_ends_an_outage() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    world.suspend_bob().await;
    let create = async || world.tokens.create(&user("bob"), NewToken::named("another")).await.unwrap_err();
    assert!(matches!(create().await, TokenError::OwnerInactive));
    assert_eq!(world.events.alerts(), []);
    world.store.set_down(true);
    assert!(matches!(create().await, TokenError::Store(_)));
    world.store.set_down(false);
    assert!(matches!(create().await, TokenError::OwnerInactive));
    assert_eq!(world.events.alerts(), [Alert::StoreUnavailable, Alert::StoreRecovered]);
}
