//! Races on real stores: two managers, each with its own connections as in two processes, on one SQLite file and on one
//! PostgreSQL database.
//!
//! `KEYWARD_RACE_ROUNDS` makes them longer. The race for the last places of a quota is in `limits.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/postgres.rs"]
mod postgres;
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use keyward::{
    AdminProof, TokenManager, UserId,
    event::{AuditSink, Event},
    manage::{IssuedToken, ListQuery, NewToken, TokenError, TokenManagerBuilder, WhenFull},
    store::SqliteStore,
    token::{TokenRecord, TokenStatus},
};
use postgres::Database;
use support::{Gatekeeper, user};
use tokio::{sync::Barrier, task::JoinSet};

const DAY: Duration = Duration::from_secs(86_400);

/// The limit of active tokens, and how many ask at once for the last place.
const LIMIT: u32 = 3;
const AT_ONCE: usize = 8;

#[expect(clippy::disallowed_methods, reason = "lets a longer run be asked for")]
fn rounds() -> usize {
    std::env::var("KEYWARD_RACE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(100)
}

/// Forgets all events, so that the races are about keys.
#[derive(Debug)]
struct Silent;

impl AuditSink for Silent {
    fn record(&self, _: &Event) {}
}

fn operator() -> AdminProof {
    AdminProof::operator("ops", "a race").unwrap()
}

struct World {
    managers: [TokenManager; 2],
    store: &'static str,
    // Beside what it has no use for, since each write is synced.
    _folder: Option<tempfile::TempDir>,
    _database: Option<Database>,
    begun: Instant,
}

impl World {
    async fn on_each_store(change: impl Fn(TokenManagerBuilder) -> TokenManagerBuilder) -> Vec<Self> {
        let mut worlds = vec![Self::on_sqlite(&change).await];
        if let Some(database) = Database::new() {
            worlds.push(Self::on_postgres(database, &change).await);
        }
        worlds
    }

    async fn on_sqlite(change: &impl Fn(TokenManagerBuilder) -> TokenManagerBuilder) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let open = async || {
            let store = SqliteStore::open(folder.path().join("tokens.db")).await.unwrap();
            change(TokenManager::builder(store).with_audit(Silent)).build()
        };
        let managers = [open().await, open().await];
        Self { managers, store: "SQLite", _folder: Some(folder), _database: None, begun: now() }
    }

    async fn on_postgres(
        database: Database,
        change: &impl Fn(TokenManagerBuilder) -> TokenManagerBuilder,
    ) -> Self {
        let open = async || change(TokenManager::builder(database.open().await).with_audit(Silent)).build();
        let managers = [open().await, open().await];
        Self { managers, store: "PostgreSQL", _folder: None, _database: Some(database), begun: now() }
    }

    async fn issue(&self, owner: &UserId) -> IssuedToken {
        self.managers[0].create(owner, NewToken::named("race")).await.unwrap()
    }

    /// The tokens of `owner` that work, as the second manager sees them.
    async fn active(&self, owner: &UserId) -> Vec<TokenRecord> {
        let query = ListQuery::default().with_limit(200).with_status(TokenStatus::Active);
        self.managers[1].list(owner, query).await.unwrap().tokens
    }

    fn tell(&self, what: &str) {
        let (store, passed) = (self.store, self.begun.elapsed());
        println!("{what}, on {store}: {} rounds, no violation, {passed:?}", rounds());
    }
}

#[expect(clippy::disallowed_methods, reason = "says how long it took")]
fn now() -> Instant {
    Instant::now()
}

/// Lets `AT_ONCE` tokens be made at the same time, by both managers; says which were.
async fn make_at_once(world: &World, owner: &UserId) -> Vec<Result<IssuedToken, TokenError>> {
    let (mut making, barrier) = (JoinSet::new(), Arc::new(Barrier::new(AT_ONCE)));
    for n in 0..AT_ONCE {
        let (tokens, owner, barrier) = (world.managers[n % 2].clone(), owner.clone(), barrier.clone());
        making.spawn(async move {
            barrier.wait().await;
            tokens.create(&owner, NewToken::named("race")).await
        });
    }
    making.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_place_of_a_user_is_taken_once() {
    for world in World::on_each_store(|builder| builder.with_max_active(Some(LIMIT))).await {
        for round in 0..rounds() {
            let owner = user(&format!("user {round}"));
            for _ in 1..LIMIT {
                world.issue(&owner).await;
            }
            let made = make_at_once(&world, &owner).await;
            let refused = made.iter().filter(|made| matches!(made, Err(TokenError::LimitReached))).count();
            assert_eq!(refused, AT_ONCE - 1, "round {round}: {made:?}");
            let last = made.into_iter().find_map(Result::ok).expect("one got it");
            let active = world.active(&owner).await;
            assert_eq!(active.len(), LIMIT as usize, "round {round}");
            assert!(active.iter().any(|token| token.id == last.record.id), "round {round}");
        }
        world.tell("the last place, refused to all others");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_the_oldest_gives_way_there_is_never_one_too_many() {
    let change = |builder: TokenManagerBuilder| builder.with_max_active(Some(LIMIT));
    for world in
        World::on_each_store(|builder| change(builder).with_when_full(WhenFull::RevokeLongestUnused)).await
    {
        let current: Arc<std::sync::Mutex<UserId>> = Arc::new(std::sync::Mutex::new(user("nobody")));
        let (done, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        // Somebody looks all the time.
        let watching = {
            let (tokens, current) = (world.managers[1].clone(), current.clone());
            let (done, looks) = (done.clone(), looks.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let owner = current.lock().unwrap().clone();
                    let query = ListQuery::default().with_limit(200).with_status(TokenStatus::Active);
                    let active = tokens.list(&owner, query).await.unwrap().tokens.len();
                    assert!(active <= LIMIT as usize, "{active} tokens of {owner} work");
                    looks.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        for round in 0..rounds() {
            let owner = user(&format!("user {round}"));
            for _ in 0..LIMIT {
                world.issue(&owner).await;
            }
            *current.lock().unwrap() = owner.clone();
            let made = make_at_once(&world, &owner).await;
            assert!(made.iter().all(Result::is_ok), "round {round}: {made:?}");
            let active = world.active(&owner).await;
            assert_eq!(active.len(), LIMIT as usize, "round {round}");
            // Whoever gave way is refused by the manager that made room, and who is left is let in.
            let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
            for key in &made {
                let lives = active.iter().any(|token| token.id == key.record.id);
                for tokens in &world.managers {
                    assert_eq!(Gatekeeper::new(tokens).accepts(key).await, lives, "round {round}");
                }
            }
        }
        done.store(true, Ordering::SeqCst);
        watching.await.unwrap();
        println!("{} looks", looks.load(Ordering::SeqCst));
        world.tell("the last place, the longest unused gives way");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotation_does_not_save_a_key_from_its_revocation() {
    for world in World::on_each_store(|builder| builder.with_max_active(None).with_creation_limit(None)).await
    {
        let gates = world.managers.each_ref().map(Gatekeeper::new);
        let mut rotated = 0;
        for round in 0..rounds() {
            let owner = user(&format!("user {round}"));
            let key = world.issue(&owner).await;
            assert!(gates[0].accepts(&key).await, "round {round}");
            let (barrier, id, all) = (Arc::new(Barrier::new(2)), key.record.id, round % 2 == 0);
            let rotating = {
                let (tokens, owner, barrier) = (world.managers[0].clone(), owner.clone(), barrier.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    tokens.rotate(&owner, id, Some(DAY)).await
                })
            };
            let revoking = {
                let (tokens, owner, gate) =
                    (world.managers[round % 2].clone(), owner.clone(), gates[round % 2].clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    if all {
                        tokens.revoke_all(&owner).await.unwrap();
                    } else {
                        tokens.revoke(&owner, id).await.unwrap();
                    }
                    assert!(!gate.accepts(&key).await, "round {round}: accepted after its revocation");
                    key
                })
            };
            let key = revoking.await.unwrap();
            let next = rotating.await.unwrap();
            assert!(next.is_ok() || matches!(next, Err(TokenError::Conflict)), "round {round}: {next:?}");
            let old = world.managers[1].get(&owner, id).await.unwrap();
            assert!(old.revoked_at.is_some(), "round {round}");
            let next = next.ok();
            assert_eq!(old.successor, next.as_ref().map(|next| next.record.id), "round {round}");
            rotated += usize::from(next.is_some());
            // The revocation of one leaves the successor that it had by then; that of all leaves none.
            let expected = usize::from(next.is_some() && !all);
            assert_eq!(world.active(&owner).await.len(), expected, "round {round}");
            let gate = &gates[round % 2];
            assert!(!gate.accepts(&key).await, "round {round}");
            if let Some(next) = next {
                assert_eq!(gate.accepts(&next).await, !all, "round {round}");
            }
        }
        println!("in {rotated} rounds the rotation came first");
        world.tell("rotate against revoke");
    }
}

/// A key in use, and new ones being made, while its user is offboarded.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_who_is_offboarded_goes_on() {
    for world in World::on_each_store(|builder| builder.with_max_active(None).with_creation_limit(None)).await
    {
        let gate = Gatekeeper::new(&world.managers[0]);
        let accepted = Arc::new(AtomicUsize::new(0));
        for round in 0..rounds() {
            let owner = user(&format!("user {}", round % 64));
            let key = Arc::new(world.issue(&owner).await);
            assert!(gate.accepts(&key).await, "round {round}: not accepted while it lives");
            let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let using = {
                let (gate, key, accepted) = (gate.clone(), key.clone(), accepted.clone());
                let (over, done) = (over.clone(), done.clone());
                tokio::spawn(async move {
                    while !done.load(Ordering::SeqCst) {
                        let late = over.load(Ordering::SeqCst);
                        let passed = gate.accepts(&key).await;
                        assert!(!(late && passed), "round {round}: accepted after its user was offboarded");
                        accepted.fetch_add(usize::from(passed), Ordering::SeqCst);
                        tokio::task::yield_now().await;
                    }
                })
            };
            let making = {
                let (tokens, owner) = (world.managers[round % 2].clone(), owner.clone());
                tokio::spawn(async move { tokens.create(&owner, NewToken::named("last")).await })
            };
            world.managers[0].offboard(&operator(), &owner).await.unwrap();
            over.store(true, Ordering::SeqCst);
            assert!(!gate.accepts(&key).await, "round {round}");
            done.store(true, Ordering::SeqCst);
            using.await.unwrap();
            let made = making.await.unwrap();
            assert!(
                made.is_ok() || matches!(made, Err(TokenError::OwnerInactive)),
                "round {round}: {made:?}"
            );
            if let Ok(made) = made {
                assert!(!gate.accepts(&made).await, "round {round}: what was made meanwhile");
            }
            // Its uses are written, and bring nothing back.
            world.managers[0].flush().await.unwrap();
            assert_eq!(world.active(&owner).await.len(), 0, "round {round}");
            world.managers[0].restore(&operator(), &owner).await.unwrap();
            assert!(!gate.accepts(&key).await, "round {round}: what was revoked stays so");
        }
        println!("{} requests in time", accepted.load(Ordering::SeqCst));
        world.tell("offboard against use");
    }
}
