//! The audit log behind the layer and the routes: what a full queue, a slow store, a changed entry and the
//! passing of time do to it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, and a test fails by panicking"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, routing::get};
use keyward::{
    AdminProof, AuthLayer, TokenManager, api,
    audit::{AuditEntry, AuditError, AuditLog, AuditQuery, ChainHead, Flaw, QueueSink},
    auth::ApiKeyAuth,
    event::{Alert, Event, EventKind, Outcome},
    manage::NewToken,
    scope::{Grant, RoleSet, ScopeSet},
    store::{AuditStore, ChainEnds, MemoryStore, StoreError, StoreErrorKind},
    testing::{Kit, ManualClock, RecordingSink},
    time::UnixTime,
};
use support::{request, send, start, user};
use tokio::{sync::Semaphore, sync::oneshot, task::JoinHandle};

/// A store of audit entries that waits, fails and forges when it is told to.
#[derive(Debug)]
struct Unruly {
    memory: MemoryStore,
    arrived: Semaphore,
    gate: Semaphore,
    down: AtomicBool,
    forges: AtomicBool,
}

impl Unruly {
    fn new() -> Arc<Self> {
        let gate = Semaphore::new(Semaphore::MAX_PERMITS / 2);
        let (down, forges) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { memory: MemoryStore::new(), arrived: Semaphore::new(0), gate, down, forges })
    }

    fn close_gate(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }
}

#[async_trait]
impl AuditStore for Unruly {
    async fn append(&self, events: &[Event]) -> Result<ChainHead, StoreError> {
        self.arrived.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        if self.down.load(SeqCst) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        self.memory.append(events).await
    }

    async fn entries_after(&self, number: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let mut entries = self.memory.entries_after(number, limit).await?;
        if self.forges.load(SeqCst)
            && let Some(entry) = entries.iter_mut().find(|entry| entry.number == 2)
        {
            entry.reason = Some("nothing of interest".into());
        }
        Ok(entries)
    }

    async fn search(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        if self.down.load(SeqCst) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        self.memory.search(query).await
    }

    async fn chain_ends(&self) -> Result<ChainEnds, StoreError> {
        self.memory.chain_ends().await
    }

    async fn delete_before(&self, before: UnixTime, limit: u32) -> Result<u64, StoreError> {
        self.memory.delete_before(before, limit).await
    }
}

/// A service with its audit log in `store`.
struct World {
    store: Arc<Unruly>,
    tokens: TokenManager,
    log: AuditLog,
    app: Router,
    clock: ManualClock,
    /// What happened, as it happened, and what is said of the log itself.
    seen: RecordingSink,
    stop: oneshot::Sender<()>,
    writing: JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        Self::with_capacity(1024, 256)
    }

    fn with_capacity(events: usize, alerts: usize) -> Self {
        let (store, seen, clock) = (Unruly::new(), RecordingSink::default(), ManualClock::at(start()));
        let builder = AuditLog::builder(store.clone()).with_capacity(events, alerts);
        let builder = builder.with_audit(seen.clone()).with_clock(clock.clone());
        let (audit, log) = builder.with_retention(Duration::from_secs(30 * 86_400)).build();
        let roles = |user: &keyward::UserId| match user.as_str() {
            "root" => RoleSet::new(["admin"]).unwrap(),
            _ => RoleSet::empty(),
        };
        let tokens = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone()).with_roles(roles);
        let tokens = tokens.with_audit((seen.clone(), audit)).build();
        let app = Router::new()
            .nest("/admin/audit", api::audit_log(log.clone()))
            .nest("/keys", api::own_tokens(tokens.clone()))
            .route("/", get(async || ""))
            .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)).with_failure_limit(None));
        let (stop, stopped) = oneshot::channel::<()>();
        let writing = tokio::spawn(log.clone().run(async { drop(stopped.await) }));
        Self { store, tokens, log, app, clock, seen, stop, writing }
    }

    async fn key(&self, name: &str, scopes: Grant) -> (String, keyward::TokenId) {
        let new = NewToken::named("first").with_scopes(scopes);
        let issued = self.tokens.create(&user(name), new).await.unwrap();
        (issued.key.expose().to_owned(), issued.record.id)
    }

    async fn get(&self, path: &str, key: &str) -> support::Answer {
        send(&self.app, request("GET", path, key, "")).await
    }

    /// The names of all events in the log, oldest first.
    async fn names(&self) -> Vec<String> {
        let entries = self.store.memory.entries_after(0, 10_000).await.unwrap();
        entries.into_iter().map(|entry| entry.event.into()).collect()
    }

    async fn end(self) -> (Arc<Unruly>, AuditLog) {
        drop(self.stop);
        self.writing.await.unwrap();
        (self.store, self.log)
    }
}

fn operator() -> AdminProof {
    AdminProof::operator("ops", "yearly review").unwrap()
}

#[tokio::test]
async fn nobody_can_push_changes_and_alerts_out_of_the_log() {
    let world = World::with_capacity(256, 64);
    let (alice, _) = world.key("alice", Grant::All).await;
    let (_, of_root) = world.key("root", Grant::All).await;
    let traps = [(); 20].map(|()| NewToken::named("trap").as_honeytoken());
    let mut trap_keys = Vec::new();
    for trap in traps {
        trap_keys.push(world.tokens.create(&operator(), trap.for_user(user("root"))).await.unwrap().key);
    }
    world.log.search(&operator(), &AuditQuery::default()).await.unwrap();
    let before = world.store.memory.chain_ends().await.unwrap().head.number;
    world.store.close_gate();
    for n in 0..200 {
        assert_eq!(world.get("/", "").await.status, 401);
        assert_eq!(world.get("/", &alice).await.status, 200);
        assert_eq!(world.get(&format!("/keys/{of_root}"), &alice).await.status, 404);
        world.tokens.get(&user("mallory"), of_root).await.unwrap_err();
        if n % 10 == 9 {
            let new = NewToken::named("new").for_user(user(&format!("user{n}")));
            world.tokens.create(&operator(), new).await.unwrap();
            let trap = trap_keys.pop().unwrap();
            assert_eq!(world.get("/", trap.expose()).await.status, 401);
        }
    }
    world.store.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let (store, _) = world.end().await;
    let entries = store.memory.entries_after(before, 10_000).await.unwrap();
    let count = |name: &str| entries.iter().filter(|entry| *entry.event == *name).count();
    assert_eq!((count("token.created"), count("honeytoken_used")), (20, 20));
    let foreign = entries.iter().filter(|entry| &*entry.event == "foreign_access");
    let told: Vec<_> =
        foreign.map(|entry| (entry.actor.as_deref().unwrap_or_default(), entry.count)).collect();
    let expected = [None, Some(9), Some(90)].map(|count| [("alice", count), ("mallory", count)]).concat();
    assert_eq!(told, expected, "once, and how often since");
}

#[tokio::test]
async fn while_the_store_hangs_requests_go_on_and_alerts_are_kept() {
    let world = World::with_capacity(10, 5);
    let (alice, id) = world.key("alice", Grant::All).await;
    world.log.search(&operator(), &AuditQuery::default()).await.unwrap();
    while !world.names().await.contains(&"audit.read".into()) {
        tokio::task::yield_now().await;
    }
    let before = world.names().await.len();
    world.store.close_gate();
    world.store.arrived.forget_permits(Semaphore::MAX_PERMITS);

    assert_eq!(world.get("/", "kw_live_junk").await.status, 401);
    world.store.arrived.acquire().await.unwrap().forget();
    // From here on one event is on its way, and nothing gets through.
    let everything = async {
        for _ in 0..100 {
            assert_eq!(world.get("/", "kw_live_junk").await.status, 401);
            assert_eq!(world.get("/", &alice).await.status, 200);
        }
        for caller in 0..18 {
            world.tokens.get(&user(&format!("bob{caller}")), id).await.unwrap_err();
        }
        assert_eq!(world.get("/keys", &alice).await.status, 200);
    };
    tokio::time::timeout(Duration::from_secs(60), everything).await.expect("nothing waits for the store");

    world.store.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let (store, log) = world.end().await;
    let entries = store.memory.entries_after(before as u64, 100).await.unwrap();
    let count = |name: &str| entries.iter().filter(|entry| *entry.event == *name).count();
    assert_eq!((count("access.refused"), count("foreign_access"), count("tokens.listed")), (2, 15, 0));
    let refused = entries.iter().filter(|entry| &*entry.event == "access.refused");
    assert_eq!(refused.map(|entry| entry.count).collect::<Vec<_>>(), [None, Some(100)], "none is forgotten");
    let dropped: Vec<_> = entries.iter().filter(|entry| &*entry.event == "audit.dropped").collect();
    assert_eq!(dropped.len(), 1);
    assert_eq!((dropped[0].count, dropped[0].alert), (Some(3 + 1), true));
    assert_eq!(dropped[0].reason.as_deref(), Some("3 of them alerts"));
    assert_eq!(log.verify(&operator(), None).await.unwrap().entries, (before + entries.len()) as u64);
}

#[tokio::test]
async fn what_happens_while_the_store_is_down_is_written_when_it_is_back() {
    let world = World::new();
    world.store.down.store(true, SeqCst);
    let (alice, _) = world.key("alice", Grant::All).await;
    for _ in 0..3 {
        world.store.arrived.acquire().await.unwrap().forget();
    }
    assert_eq!(world.get("/", &alice).await.status, 200);
    let (root, _) = world.key("root", Grant::All).await;
    let answer = world.get("/admin/audit", &root).await;
    assert_eq!(answer.status, 503, "which is said to whoever wants to read");
    world.store.down.store(false, SeqCst);
    let (store, _) = world.end().await;
    let entries = store.memory.entries_after(0, 100).await.unwrap();
    let names: Vec<_> = entries.iter().map(|entry| &*entry.event).collect();
    assert_eq!(names, ["token.created", "token.created", "admin.override", "audit.read"][..names.len()]);
    assert!(names.len() >= 3, "{names:?}");
}

#[tokio::test]
async fn administrators_search_the_log_page_by_page_and_are_seen_doing_it() {
    let world = World::new();
    let (root, _) = world.key("root", Grant::All).await;
    let (alice, id) = world.key("alice", Grant::All).await;
    world.clock.advance(Duration::from_secs(60));
    for _ in 0..3 {
        assert_eq!(world.get("/", &format!("{alice}x")).await.status, 401);
    }
    // Other reasons, which are told apart.
    assert_eq!(world.get("/", "").await.status, 401);
    assert_eq!(world.get("/admin/audit", &alice).await.status, 403);
    let mut with_id = request("DELETE", &format!("/keys/{id}"), &alice, "");
    with_id.headers_mut().insert("x-request-id", "r-42".parse().unwrap());
    assert_eq!(send(&world.app, with_id).await.status, 204);

    let page = world.get("/admin/audit?limit=2", &root).await.json();
    let of = |page: &serde_json::Value| -> Vec<String> {
        let entries = page["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["event"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of(&page), ["admin.override", "token.revoked"], "newest first");
    let revoked = &page["entries"][1];
    let expected = serde_json::json!({
        "number": 6, "at": "2026-01-01T00:01:00.000Z", "event": "token.revoked", "alert": false,
        "outcome": "success", "actor": "alice", "actor_email": null, "user_id": "alice", "token_id": id,
        "client_ip": null, "request_id": "r-42", "refusal": null, "reason": null, "count": null,
        "hash": revoked["hash"],
    });
    assert_eq!(*revoked, expected);
    assert_eq!(revoked["hash"].as_str().unwrap().len(), 64);
    let cursor = page["next_cursor"].as_str().unwrap();
    let page = world.get(&format!("/admin/audit?limit=200&cursor={cursor}"), &root).await.json();
    assert_eq!(of(&page)[..3], ["access.refused"; 3]);
    assert_eq!(of(&page)[3..], ["token.created"; 2]);
    assert!(page["next_cursor"].is_null());

    for (filter, count) in [
        ("user_id=alice&event=token.created", 1),
        ("user_id=nobody", 0),
        ("outcome=refused", 3),
        ("until=2026-01-01T00:00:30Z", 2),
        ("since=2026-01-01T00:00:30Z&event=token.created", 0),
        (&*format!("token_id={id}&event=token.revoked"), 1),
    ] {
        let page = world.get(&format!("/admin/audit?{filter}"), &root).await.json();
        assert_eq!(of(&page).len(), count, "{filter}");
    }
    let reads = world.get("/admin/audit?event=audit.read&limit=200", &root).await.json();
    assert_eq!(of(&reads).len(), 8, "each of the listings before");
    assert_eq!(reads["entries"][0]["actor"], "root");
    assert_eq!(reads["entries"][0]["reason"], "GET /admin/audit");
    world.end().await;
}

#[tokio::test]
async fn the_log_is_for_administrators_with_the_scope() {
    let world = World::new();
    let only = |scope: &str| Grant::Only(ScopeSet::new([scope]).unwrap());
    let (root, _) = world.key("root", Grant::All).await;
    let (reader, _) = world.key("root", only("admin:read")).await;
    let (writer, _) = world.key("root", only("admin:write")).await;
    let (alice, _) = world.key("alice", Grant::All).await;
    for (key, status) in [(&*root, 200), (&*reader, 200), (&*writer, 403), (&*alice, 403), ("", 401)] {
        assert_eq!(world.get("/admin/audit", key).await.status.as_u16(), status);
    }
    for bad in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=x",
        "cursor=-1",
        "token_id=1",
        "event=",
        "event=A",
        "event=a'b",
        "outcome=maybe",
        "outcome=Success",
        "since=yesterday",
        "user_id=",
        "user_id=%00",
        "what=1",
        "limit=1&limit=2",
    ] {
        let answer = world.get(&format!("/admin/audit?{bad}"), &root).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{bad}");
    }
    assert_eq!(send(&world.app, request("DELETE", "/admin/audit", &root, "")).await.status, 405);
    world.end().await;
}

#[tokio::test]
async fn a_changed_entry_is_named_and_raises_an_alert() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.key(name, Grant::All).await;
    }
    world.log.search(&operator(), &AuditQuery::default()).await.unwrap();
    let head = world.log.verify(&operator(), None).await.unwrap().head;
    assert!(head.number >= 3);
    world.store.forges.store(true, SeqCst);
    let Err(AuditError::Broken(broken)) = world.log.verify(&operator(), Some(head)).await else {
        panic!("a forged entry is not noticed");
    };
    assert_eq!((broken.number, broken.flaw), (2, Flaw::Altered));
    let alert = world.seen.events().pop().unwrap();
    assert_eq!(alert.kind, EventKind::Alert(Alert::AuditTampered));
    assert!(alert.reason.unwrap().starts_with("audit entry 2 was altered"));
    let (store, _) = world.end().await;
    let last = store.memory.search(&AuditQuery::default().with_limit(1)).await.unwrap();
    assert_eq!(&*last[0].event, "audit_tampered", "the log says so itself");
}

#[tokio::test]
async fn retention_and_pruning_leave_a_log_that_can_be_verified() {
    let world = World::new();
    world.key("alice", Grant::All).await;
    world.clock.advance(Duration::from_secs(20 * 86_400));
    world.key("bob", Grant::All).await;
    let settle = async || drop(world.log.search(&operator(), &AuditQuery::default()).await.unwrap());
    settle().await;
    world.clock.advance(Duration::from_secs(20 * 86_400));
    world.key("carol", Grant::All).await;
    while !world.names().await.contains(&"audit.pruned".into()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let entries = world.store.memory.entries_after(0, 100).await.unwrap();
    assert_eq!(entries[0].actor.as_deref(), Some("bob"), "what was older than 30 days is gone");
    let pruned = entries.iter().find(|entry| &*entry.event == "audit.pruned").unwrap();
    assert_eq!((pruned.count, pruned.actor.as_deref()), (Some(1), Some("keyward:system")));
    let verified = world.log.verify(&operator(), None).await.unwrap();
    assert_eq!(verified.anchor.number, 1);

    let noted = world.log.head().await.unwrap();
    let before = world.clock.now_later();
    assert!(world.log.prune(&operator(), before).await.unwrap() >= 3);
    settle().await;
    let verified = world.log.verify(&operator(), Some(noted)).await;
    assert!(verified.is_ok(), "{verified:?}");
    let found = AuditQuery::default().with_event("audit.pruned").with_outcome(Outcome::Success);
    let entries = world.log.search(&operator(), &found).await.unwrap().entries;
    assert_eq!(entries[0].reason.as_deref(), Some("yearly review"));
    world.end().await;
}

trait Later {
    fn now_later(&self) -> UnixTime;
}

impl Later for ManualClock {
    fn now_later(&self) -> UnixTime {
        keyward::time::Clock::now(self).saturating_add(Duration::from_millis(1))
    }
}

#[tokio::test]
async fn who_came_with_a_jwt_is_known_by_the_issuers_email() {
    let kit = Kit::new();
    let app = Router::new()
        .nest("/keys", api::own_tokens(kit.tokens().clone()))
        .route("/admin", get(async || "").layer(keyward::RequireLayer::role("admin")))
        .layer(AuthLayer::new(kit.auth()));
    let claims = serde_json::json!({ "email": "alice@example.org" });
    let alice = kit.acting_as("alice").with_claims(claims).await;
    for (method, path, status) in [("POST", "/keys", 201), ("GET", "/admin", 403)] {
        let body = if method == "POST" { r#"{"name":"ci"}"# } else { "" };
        let mut request = request(method, path, "", body);
        request.headers_mut().remove("x-api-key");
        assert_eq!(send(&app, alice.authorize(request)).await.status.as_u16(), status);
        let event = kit.events().events().pop().unwrap();
        assert_eq!(event.actor_email.as_deref(), Some("alice@example.org"), "{event:?}");
    }
}

#[tokio::test]
async fn a_log_is_run_once_and_a_queue_without_a_taker_only_counts() {
    let (audit, log) = AuditLog::new(MemoryStore::new());
    let tokens = TokenManager::builder(MemoryStore::new()).with_audit(audit.clone()).build();
    log.clone().run(std::future::ready(())).await;
    tokens.create(&user("alice"), NewToken::named("late")).await.unwrap();
    assert_eq!(audit.dropped().events, 1, "what happens after the end");
    let again = tokio::time::timeout(Duration::from_secs(60), log.clone().run(std::future::pending()));
    again.await.expect("a second run returns at once");
    let page = log.search(&operator(), &AuditQuery::default()).await.unwrap();
    assert!(page.entries.is_empty());
    let (sink, queue) = QueueSink::new();
    drop(queue);
    assert_eq!(sink.dropped().events, 0);
}
