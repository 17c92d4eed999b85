//! Users who are suspended or unknown in the company's own directory: out with all they have, within the stated
//! time; and a directory that is down, slow, or fails for one user only.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod support;

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body, routing::get};
use http::Request;
use keyward::{
    AdminProof, AuthError, AuthLayer, TokenManager, UserId,
    api::{Admission, Bootstrap, registration},
    auth::{AnyOf, ApiKeyAuth},
    event::Alert,
    jwt::{JwtAuth, JwtIssuer, UserIds, UserMapper},
    manage::{NewToken, TokenError},
    net::PeerAddr,
    principal::JwtClaims,
    store::{MemoryStore, UserDirectory, UserStatus},
    testing::{ManualClock, RecordingSink},
    time::{Clock, UnixTime},
};
use support::{AUDIENCE, ISSUER, SECRET, every_kind, send, start, status_of, user};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

const ALICE: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";
const SECOND: Duration = Duration::from_secs(1);

/// A company's directory. Who is not in it is unknown.
#[derive(Debug)]
struct Staff {
    people: Mutex<HashMap<String, UserStatus>>,
    asked: AtomicUsize,
    down: AtomicBool,
    hangs: AtomicBool,
    fails_for: &'static str,
    /// One permit for each answer.
    answers: Semaphore,
}

impl Staff {
    fn new() -> Arc<Self> {
        let people = ["alice", "bob"].map(|name| (name.to_owned(), UserStatus::Active));
        Arc::new(Self {
            people: Mutex::new(people.into()),
            asked: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            hangs: AtomicBool::new(false),
            fails_for: "mallory",
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    fn set(&self, name: &str, status: Option<UserStatus>) {
        let mut people = self.people.lock().unwrap();
        match status {
            Some(status) => people.insert(name.to_owned(), status),
            None => people.remove(name),
        };
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn wait_until_asked(&self, times: usize) {
        let asked = async {
            while self.asked() < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(5 * SECOND, asked).await.expect("the directory is asked");
    }
}

/// What the manager is given.
#[derive(Debug)]
struct Client(Arc<Staff>);

#[async_trait]
impl UserDirectory for Client {
    async fn status(&self, user: &UserId) -> Result<Option<UserStatus>, Box<dyn Error + Send + Sync>> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        if self.0.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.0.answers.acquire().await?.forget();
        if self.0.down.load(Ordering::SeqCst) || user.as_str() == self.0.fails_for {
            return Err("ldap: connection refused".into());
        }
        Ok(self.0.people.lock().unwrap().get(user.as_str()).copied())
    }
}

/// All that alice has, behind one layer.
struct World {
    staff: Arc<Staff>,
    events: RecordingSink,
    tokens: TokenManager,
    app: Router,
    key: String,
    jwt: String,
    issuer: JwtIssuer,
}

impl World {
    async fn by(clock: &(impl Clock + Clone)) -> Self {
        let (staff, events) = (Staff::new(), RecordingSink::default());
        let tokens = TokenManager::builder(MemoryStore::new())
            .with_user_directory(Client(staff.clone()))
            // So that nothing but the directory's own times makes anybody ask again.
            .with_staleness(300 * SECOND)
            .unwrap()
            .with_clock(clock.clone())
            .with_audit(events.clone())
            .build();
        let (app, issuer) = every_kind(&tokens, &format!("alice:{ALICE}"), clock);
        let key = tokens.create(&user("alice"), NewToken::named("laptop")).await.unwrap().key;
        Self {
            app,
            key: key.expose().to_owned(),
            jwt: issuer.token(&user("alice")).unwrap(),
            issuer,
            staff,
            events,
            tokens,
        }
    }

    async fn status(&self, credential: &str) -> u16 {
        status_of(&self.app, credential).await
    }

    /// Asks with everything that alice has: a key, a JWT and a static token.
    async fn statuses(&self) -> [u16; 3] {
        [self.status(&self.key).await, self.status(&self.jwt).await, self.status(ALICE).await]
    }
}

#[tokio::test]
async fn whom_the_directory_does_not_let_in_is_out_within_a_minute() {
    for status in [Some(UserStatus::Suspended), Some(UserStatus::Offboarded), None] {
        let clock = ManualClock::at(start());
        let world = World::by(&clock).await;
        assert_eq!(world.statuses().await, [200; 3]);
        clock.advance(30 * SECOND);
        assert_eq!(world.statuses().await, [200; 3]);
        world.staff.set("alice", status);
        clock.advance(30 * SECOND);
        assert_eq!(world.statuses().await, [401; 3], "{status:?}, a minute after the last answer");
        world.staff.set("alice", Some(UserStatus::Active));
        clock.advance(60 * SECOND);
        assert_eq!(world.statuses().await, [200; 3], "{status:?}, and back");
    }
}

/// Each kind of credential finds out by itself: none relies on another one of the same user.
#[tokio::test]
async fn each_kind_is_stopped_where_it_is_the_only_one() {
    for kind in 0..3 {
        let clock = ManualClock::at(start());
        let world = World::by(&clock).await;
        let credential = [world.key.as_str(), &world.jwt, ALICE].into_iter().nth(kind).unwrap();
        for _ in 0..59 {
            assert_eq!(world.status(credential).await, 200);
            world.staff.set("alice", Some(UserStatus::Suspended));
            clock.advance(SECOND);
        }
        clock.advance(SECOND);
        assert_eq!(world.status(credential).await, 401, "kind {kind}");
    }
}

#[tokio::test]
async fn both_the_directory_and_the_state_here_must_allow() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    let (operator, alice) = (AdminProof::operator("ops", "test").unwrap(), user("alice"));
    assert_eq!(world.statuses().await, [200; 3]);
    world.tokens.suspend(&operator, &alice).await.unwrap();
    assert_eq!(world.statuses().await, [401; 3], "suspended here");
    world.staff.set("alice", Some(UserStatus::Suspended));
    clock.advance(60 * SECOND);
    assert_eq!(world.statuses().await, [401; 3], "suspended in both");
    world.tokens.restore(&operator, &alice).await.unwrap();
    assert_eq!(world.statuses().await, [401; 3], "suspended there");
}

#[tokio::test]
async fn while_the_directory_is_down_its_last_answer_counts_for_five_minutes() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    assert_eq!(world.statuses().await, [200; 3]);
    world.staff.down.store(true, Ordering::SeqCst);
    for (passed, expected) in [(59, 200), (1, 200), (100, 200), (139, 200), (1, 503), (600, 503)] {
        clock.advance(passed * SECOND);
        assert_eq!(world.statuses().await, [expected; 3], "{passed} seconds later");
    }
    assert_eq!(world.events.alerts(), [Alert::DirectoryUnavailable], "said once");
    let refused = world.tokens.create(&user("alice"), NewToken::named("more")).await;
    assert!(matches!(refused, Err(TokenError::Store(_))), "{refused:?}");

    world.staff.down.store(false, Ordering::SeqCst);
    clock.advance(SECOND / 2);
    assert_eq!(world.statuses().await, [200; 3], "half a second after its return");
    assert_eq!(world.events.alerts(), [Alert::DirectoryUnavailable, Alert::DirectoryRecovered]);
}

#[tokio::test]
async fn who_was_suspended_before_it_went_down_stays_out() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    world.staff.set("alice", Some(UserStatus::Suspended));
    clock.advance(60 * SECOND);
    assert_eq!(world.statuses().await, [401; 3]);
    world.staff.down.store(true, Ordering::SeqCst);
    clock.advance(200 * SECOND);
    assert_eq!(world.statuses().await, [401; 3]);
}

#[tokio::test]
async fn of_whom_it_never_spoke_nobody_is_let_in() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    clock.advance(3600 * SECOND); // what it said when the key was made is too old
    world.staff.down.store(true, Ordering::SeqCst);
    assert_eq!(world.statuses().await, [503; 3]);
    let asked = world.staff.asked();
    for _ in 0..20 {
        assert_eq!(world.statuses().await, [503; 3]);
    }
    assert_eq!(world.staff.asked(), asked, "it is left alone for half a second");
}

#[tokio::test]
async fn a_failure_over_one_user_is_none_over_others() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    let mallory = world.issuer.token(&user("mallory")).unwrap();
    let bob = world.issuer.token(&user("bob")).unwrap();
    assert_eq!(world.status(&mallory).await, 503);
    assert_eq!(world.status(&bob).await, 200, "he is asked about although it failed just now");
    let stranger = world.issuer.token(&user("stranger")).unwrap();
    assert_eq!(world.status(&stranger).await, 401);
}

#[tokio::test]
async fn requests_ask_the_directory_once_a_minute() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    assert_eq!(world.staff.asked(), 1, "when her key was made");
    for passed in 1..=2 {
        for _ in 0..60 {
            assert_eq!(world.statuses().await, [200; 3]);
            clock.advance(SECOND);
        }
        assert_eq!(world.staff.asked(), passed, "{passed} minutes");
    }
}

/// Time stands still while anybody has something to do, so whoever waits in vain is seen by its moving on.
#[tokio::test(start_paused = true)]
async fn a_herd_asks_once_and_does_not_wait_where_there_is_an_answer() {
    let clock = ManualClock::at(start());
    let world = Arc::new(World::by(&clock).await);
    let bob = world.issuer.token(&user("bob")).unwrap();
    let herd = |requests: &mut JoinSet<u16>, number: usize| {
        for _ in 0..number {
            let (world, bob) = (world.clone(), bob.clone());
            requests.spawn(async move { world.status(&bob).await });
        }
    };
    let before = world.staff.asked();
    world.staff.answers.forget_permits(usize::MAX);
    let mut first = JoinSet::new();
    herd(&mut first, 64);
    world.staff.wait_until_asked(before + 1).await;
    world.staff.answers.add_permits(1);
    assert_eq!(first.join_all().await, [200; 64]);
    assert_eq!(world.staff.asked(), before + 1);

    clock.advance(90 * SECOND);
    let mut waiting = JoinSet::new();
    herd(&mut waiting, 1);
    world.staff.wait_until_asked(before + 2).await;
    let mut others = JoinSet::new();
    herd(&mut others, 64);
    assert_eq!(others.join_all().await, [200; 64], "by the last answer, while one of them asks");
    world.staff.answers.add_permits(1);
    assert_eq!(waiting.join_all().await, [200]);
    assert_eq!(world.events.alerts(), [], "nobody waited until the directory was given up");
    assert_eq!(world.staff.asked(), before + 2);
}

/// Whoever hangs up while the directory is asked never has the answer kept: that must not be a way to stay in.
#[tokio::test]
async fn who_hangs_up_again_and_again_is_out_two_seconds_later_all_the_same() {
    let clock = ManualClock::at(start());
    let world = Arc::new(World::by(&clock).await);
    assert_eq!(world.statuses().await, [200; 3]);
    world.staff.set("alice", Some(UserStatus::Suspended));
    world.staff.answers.forget_permits(usize::MAX);
    clock.advance(60 * SECOND);
    let spawn = |credential: &str| {
        let (world, credential) = (world.clone(), credential.to_owned());
        tokio::spawn(async move { world.status(&credential).await })
    };
    for round in 0..3 {
        let asked = world.staff.asked();
        let hangs_up = spawn(ALICE);
        world.staff.wait_until_asked(asked + 1).await;
        hangs_up.abort();
        assert!(hangs_up.await.is_err(), "round {round}");
        clock.advance(SECOND);
    }
    for credential in [&*world.key, &world.jwt, ALICE] {
        let asked = world.staff.asked();
        let hangs_up = spawn(ALICE);
        world.staff.wait_until_asked(asked + 1).await;
        let other = spawn(credential);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!other.is_finished(), "not by the old answer");
        hangs_up.abort();
        world.staff.wait_until_asked(asked + 2).await;
        other.abort();
    }
    world.staff.answers.add_permits(1);
    assert_eq!(world.statuses().await, [401; 3]);
}

/// Clients that wait for a second and a half only keep it from ever being seen that the directory does not answer.
#[tokio::test(start_paused = true)]
async fn while_it_hangs_its_last_answer_counts_also_if_nobody_waits_for_the_end() {
    let world = Arc::new(World::by(&TokioClock(Instant::now())).await);
    assert_eq!(world.statuses().await, [200; 3]);
    world.staff.hangs.store(true, Ordering::SeqCst);
    tokio::time::sleep(61 * SECOND).await;
    for round in 0..10 {
        let given_up = tokio::time::timeout(3 * SECOND / 2, world.status(ALICE)).await;
        assert!(given_up.is_err(), "round {round}: one has to ask");
        for credential in [&*world.key, &world.jwt, ALICE] {
            let status = tokio::time::timeout(SECOND / 10, world.status(credential)).await;
            assert_eq!(status, Ok(200), "round {round}");
        }
        tokio::time::sleep(SECOND).await;
    }
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
async fn a_directory_that_hangs_holds_nobody_up_for_more_than_five_seconds() {
    let world = Arc::new(World::by(&TokioClock(Instant::now())).await);
    assert_eq!(world.statuses().await, [200; 3]);
    world.staff.hangs.store(true, Ordering::SeqCst);
    for (after, expected) in [(61, 200), (60, 200), (600, 503)] {
        tokio::time::sleep(after * SECOND).await;
        let mut requests = JoinSet::new();
        for credential in [&world.key, &world.jwt, ALICE, &world.key, ALICE] {
            let (world, credential) = (world.clone(), credential.to_owned());
            requests.spawn(async move {
                let asked = Instant::now();
                (world.status(&credential).await, asked.elapsed())
            });
        }
        for (status, took) in requests.join_all().await {
            assert!(status == expected && took <= 5 * SECOND, "{status} after {took:?}, {after} s on");
        }
    }
}

#[tokio::test]
async fn who_is_out_there_gets_no_keys_and_keeps_none_in_rotation() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    let alice = user("alice");
    let issued = world.tokens.create(&alice, NewToken::named("second")).await.unwrap();
    world.staff.set("alice", None);
    clock.advance(60 * SECOND);
    let created = world.tokens.create(&alice, NewToken::named("third")).await;
    assert!(matches!(created, Err(TokenError::OwnerInactive)), "{created:?}");
    let rotated = world.tokens.rotate(&alice, issued.record.id, None).await;
    assert!(matches!(rotated, Err(TokenError::OwnerInactive)), "{rotated:?}");
}

#[tokio::test]
async fn nobody_registers_as_whom_it_knows_nor_learns_whom_that_is() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    world.staff.set("carol", Some(UserStatus::Suspended));
    let asked = world.staff.asked();
    let bootstrap = Bootstrap::Register(Admission::new());
    let app = registration(world.tokens.clone(), &bootstrap);
    let mut answers = Vec::new();
    // With a key already, active without one, suspended, unknown.
    for name in ["alice", "bob", "carol", "nobody"] {
        let registered = world.tokens.register(&user(name), NewToken::named("first")).await;
        assert!(matches!(registered, Err(TokenError::UserExists)), "{name}: {registered:?}");
        let body = format!(r#"{{"user_id":"{name}"}}"#);
        let request = Request::post("/register").header("content-type", "application/json");
        let request = request.extension(PeerAddr(([192, 0, 2, 7], 50_000).into()));
        let answer = send(&app, request.body(Body::from(body)).unwrap()).await;
        answers.push((answer.status.as_u16(), answer.text("detail")));
    }
    assert_eq!(answers, vec![(409, "The user id is taken.".to_owned()); 4]);
    assert_eq!(world.staff.asked(), asked, "whoever waits longer learns something as well");
    let operator = AdminProof::operator("ops", "test").unwrap();
    let first = NewToken::named("first");
    assert!(
        world.tokens.bootstrap(&operator, &user("bob"), first).await.is_ok(),
        "an operator knows who it is"
    );
}

#[tokio::test]
async fn the_directory_is_not_asked_about_users_of_keyward() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    let asked = world.staff.asked();
    let admin = world.tokens.create(&user("keyward:admin"), NewToken::named("first")).await.unwrap();
    assert_eq!(world.status(admin.key.expose()).await, 200);
    assert_eq!(world.staff.asked(), asked);
    for reserved in ["keyward:admin", "static:0123456789abcdef", "public:5f7c8ec7"] {
        let forged = world.issuer.token(&user(reserved)).unwrap();
        assert_eq!(world.status(&forged).await, 401, "no JWT can be theirs");
    }
}

#[derive(Debug)]
struct ByAccount;

#[async_trait]
impl UserMapper for ByAccount {
    async fn user_id(&self, jwt: &JwtClaims) -> Result<Option<UserId>, AuthError> {
        Ok(jwt.subject().strip_prefix("account-of-").and_then(|name| UserId::new(name).ok()))
    }
}

#[tokio::test]
async fn users_who_are_mapped_are_asked_about_by_their_local_name() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    let mapped = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone());
    let mapped = mapped.with_user_ids(UserIds::Mapped(Arc::new(ByAccount))).build().unwrap();
    let auth = AnyOf::new([ApiKeyAuth::new(&world.tokens).into(), mapped.into()]);
    let app = Router::new().route("/", get(async || {})).layer(AuthLayer::new(auth));
    let jwt = world.issuer.token(&user("account-of-bob")).unwrap();
    let status = async || {
        let request = Request::get("/").header("authorization", format!("Bearer {jwt}"));
        send(&app, request.body(Body::empty()).unwrap()).await.status.as_u16()
    };
    assert_eq!(status().await, 200);
    world.staff.set("bob", Some(UserStatus::Suspended));
    clock.advance(60 * SECOND);
    assert_eq!(status().await, 401);
}

#[test]
fn times_that_make_no_sense_are_refused() {
    for (fresh, bound, good) in [(60, 300, true), (0, 0, true), (60, 59, false), (60, 3601, false)] {
        let builder = TokenManager::builder(MemoryStore::new());
        let set = builder.with_directory_staleness(fresh * SECOND, bound * SECOND);
        assert_eq!(set.is_ok(), good, "{fresh} and {bound} seconds");
    }
}

#[tokio::test]
async fn who_comes_in_public_is_nobody_of_the_directorys() {
    let clock = ManualClock::at(start());
    let world = World::by(&clock).await;
    let asked = world.staff.asked();
    let issued = world.tokens.register_anybody(NewToken::named("mine")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(world.status(issued.key.expose()).await, 200);
        clock.advance(60 * SECOND);
    }
    assert_eq!(world.staff.asked(), asked);
    let operator = AdminProof::operator("ops", "test").unwrap();
    world.tokens.suspend(&operator, &issued.record.owner).await.unwrap();
    assert_eq!(world.status(issued.key.expose()).await, 401, "only the state here can stop them");
}
