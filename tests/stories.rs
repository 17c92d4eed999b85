//! Nine stories of what goes wrong with tokens over the years, each told to the end: what is feared, and that it
//! cannot happen or is seen. The service is a real process on a real SQLite file; only its time is set, as a
//! debug build allows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod service_process;

use std::{
    cell::Cell,
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use keyward::{
    UserId,
    secret::TokenDigest,
    store::{AuditStore, SqliteStore, TokenStore},
    testing::ManualClock,
    time::{Clock, UnixTime},
    token::{KeyFormat, TokenRecord},
};
use serde_json::{Value, json};
use service_process::{Answer, GLASS, GLASS_SHA256, Service, scratch};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// The administrator of all stories, whose token does not end as years go by.
const OPS: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";

const LOGIN: [(&str, &str); 4] = [
    ("ENABLE_LOGIN", "true"),
    ("JWT_SECRET", "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only"),
    ("JWT_ISSUER", "https://login.example"),
    ("JWT_AUDIENCE", "https://api.example"),
];

const OFFICE: &str = "10.1.2.3";
const ELSEWHERE: &str = "203.0.113.66";

struct World {
    service: Service,
    folder: Arc<tempfile::TempDir>,
    clock: ManualClock,
}

struct Key {
    key: String,
    id: String,
}

impl World {
    fn new(settings: &[(&str, &str)]) -> Self {
        let folder = scratch();
        let clock = ManualClock::at("2026-01-05T09:00:00Z".parse().unwrap());
        let world = |service| Self { service, folder: folder.clone(), clock: clock.clone() };
        write_time(&folder.path().join("clock"), clock.now());
        world(start(&folder.path().join("clock"), settings))
    }

    /// Lets time pass.
    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        write_time(&self.folder.path().join("clock"), self.clock.now());
    }

    fn from(&self, address: &str, method: &str, path: &str, key: &str, body: &Value) -> Answer {
        let headers =
            [("X-Forwarded-For", address), ("X-API-Key", key), ("Content-Type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.service.with_body(method, path, &headers, body.as_bytes())
    }

    fn get(&self, path: &str, key: &str) -> Answer {
        self.from(OFFICE, "GET", path, key, &Value::Null)
    }

    fn post(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.from(OFFICE, "POST", path, key, body)
    }

    fn delete(&self, path: &str, key: &str) -> Answer {
        self.from(OFFICE, "DELETE", path, key, &Value::Null)
    }

    fn whoami(&self, key: &str) -> u16 {
        self.get("/whoami", key).status
    }

    /// A first key for `user`, from the administrator.
    fn issue(&self, user: &str) -> Key {
        made(&self.post("/admin/tokens", OPS, &json!({ "user_id": user, "name": "first" })))
    }

    /// A key that the holder of `key` makes for themselves.
    fn make(&self, key: &str, body: &Value) -> Key {
        made(&self.post("/api/keys", key, body))
    }

    fn job(&self, key: &str) -> String {
        let job = self.post("/jobs", key, &json!({ "name": "train" }));
        assert_eq!(job.status, 201, "{job:?}");
        format!("/jobs/{}", job.text("id"))
    }

    fn jwt(&self, user: &str) -> String {
        self.service.post("/dev-login", "", json!({ "user_id": user })).text("access_token")
    }

    fn with_jwt(&self, method: &str, path: &str, jwt: &str) -> u16 {
        self.service.with_headers(method, path, &[("Authorization", &format!("Bearer {jwt}"))]).status
    }

    fn clean_up(&self) -> Value {
        let answer = self.post("/admin/cleanup", OPS, &json!({}));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["complete"], true);
        answer.json()
    }

    /// The entries of the audit log that `query` asks for; waits until there are `least` of them, since events
    /// are written after the answer.
    fn audited(&self, query: &str, least: usize) -> Vec<Value> {
        let patience = Patience::new(Duration::from_secs(5));
        loop {
            let answer = self.get(&format!("/admin/audit?limit=200&{query}"), OPS);
            assert_eq!(answer.status, 200, "{answer:?}");
            let entries = answer.json()["entries"].as_array().unwrap().clone();
            if entries.len() >= least {
                return entries;
            }
            patience.or(|| format!("{query}: {least} expected, there is {entries:?}"));
        }
    }

    /// How many entries of refused requests there are when the service has ended, and how many requests they stand
    /// for.
    fn refusals_at_the_end(self) -> (usize, u64) {
        assert_eq!(self.service.stop().code, Some(0));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = runtime.block_on(SqliteStore::open(self.folder.path().join("keyward.db"))).unwrap();
        let entries = runtime.block_on(store.entries_after(0, 10_000)).unwrap();
        let refused = entries.iter().filter(|entry| &*entry.event == "access.refused");
        refused.fold((0, 0), |(told, requests), entry| (told + 1, requests + entry.count.unwrap_or(1)))
    }

    /// That the audit log says so, of any entry that `query` asks for.
    fn assert_audited(&self, query: &str, members: &Value) {
        let patience = Patience::new(Duration::from_secs(5));
        let is_it = |entry: &Value| members.as_object().unwrap().iter().all(|(name, is)| entry[name] == *is);
        loop {
            let entries = self.audited(query, 0);
            if entries.iter().any(is_it) {
                return;
            }
            patience.or(|| format!("{query}: {members} is not in {entries:?}"));
        }
    }
}

fn made(answer: &Answer) -> Key {
    assert_eq!(answer.status, 201, "{answer:?}");
    Key { key: answer.text("key"), id: answer.text("id") }
}

fn start(clock: &std::path::Path, settings: &[(&str, &str)]) -> Service {
    let (tokens, clock_file) = (format!("ops:{OPS}"), clock.to_str().unwrap());
    let own = [
        ("KEY_SERVICE_TEST_CLOCK", clock_file),
        ("API_TOKENS", &*tokens),
        ("KEYWARD_ADMIN_USERS", "ops"),
        ("KEYWARD_TRUSTED_PROXIES", "127.0.0.1"),
    ];
    Service::start(clock.parent().unwrap(), &[&own[..], settings].concat())
}

/// At once, so that no half a time is read.
fn write_time(file: &std::path::Path, now: UnixTime) {
    let next = file.with_extension("next");
    fs::write(&next, now.to_string()).unwrap();
    fs::rename(next, file).unwrap();
}

/// How long something may take in another process.
struct Patience(Instant, Duration);

impl Patience {
    #[expect(clippy::disallowed_methods, reason = "waits for another process")]
    fn new(most: Duration) -> Self {
        Self(Instant::now(), most)
    }

    fn or(&self, what: impl FnOnce() -> String) {
        assert!(self.0.elapsed() < self.1, "{}", what());
        std::thread::yield_now();
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn issue_1_token_expires_while_a_job_runs() {
    let world = World::new(&LOGIN);
    let laptop = world.issue("alice");
    let batch = world.make(&laptop.key, &json!({ "name": "batch", "expires_in_days": 10 }));
    let expires = world.get("/whoami", &batch.key).header("x-key-expires");
    assert_eq!(expires, "2026-01-15T09:00:00.000Z", "each answer says when the key ends");
    let jobs: Vec<_> = (0..3).map(|_| world.job(&batch.key)).collect();

    // Nobody is surprised: there is a warning a week before the end, and one on the last day.
    for (passes, days) in [(3, 7), (6, 1)] {
        world.pass(passes * DAY);
        assert_eq!(world.get(&jobs[0], &batch.key).status, 200);
        assert_eq!(world.clean_up()["warned"], 1);
        assert_eq!(world.clean_up()["warned"], 0, "once");
        let query = format!("event=token.expiring&token_id={}", batch.id);
        world.assert_audited(&query, &json!({ "user_id": "alice", "count": days }));
    }

    world.pass(DAY);
    assert_eq!(world.get(&jobs[0], &batch.key).status, 401, "it expired while the jobs run");
    assert_eq!(world.delete(&jobs[0], &batch.key).status, 401);
    let query = format!("event=access.refused&token_id={}", batch.id);
    world.assert_audited(&query, &json!({ "refusal": "expired", "user_id": "alice" }));

    // The jobs are the user's, not the key's: whatever the user holds shows and cancels them.
    assert_eq!(world.get(&jobs[0], &laptop.key).text("status"), "queued");
    assert_eq!(world.delete(&jobs[0], &laptop.key).status, 204);
    let jwt = world.jwt("alice");
    assert_eq!((world.with_jwt("GET", &jobs[1], &jwt), world.with_jwt("DELETE", &jobs[1], &jwt)), (200, 204));
    let another = world.issue("alice");
    assert_eq!(world.delete(&jobs[2], &another.key).status, 204, "one that did not exist when it began");
    let bob = world.issue("bob");
    let job = world.job(&laptop.key);
    assert_eq!(world.delete(&job, &bob.key).status, 404, "but nobody else");
    world.assert_audited("event=foreign_access", &json!({ "actor": "bob", "user_id": "alice" }));

    // A key of ninety days that is in use outlives a job of four months.
    for day in 0..120 {
        world.pass(DAY);
        assert_eq!(world.get(&job, &laptop.key).status, 200, "day {day}");
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn issue_2_token_is_stolen_and_used_by_somebody_else() {
    let world = World::new(&[]);
    let alice = world.issue("alice");
    let job = world.job(&alice.key);

    // What is only good at the office, or only for reading, is worth little elsewhere.
    let office = world.make(&alice.key, &json!({ "name": "office", "allowed_ips": ["10.0.0.0/8"] }));
    let reader = world.make(&alice.key, &json!({ "name": "reader", "scopes": ["jobs:read"] }));
    let limits = json!({ "quota": { "requests": 5, "per": "day" } });
    let slow = world.make(&alice.key, &json!({ "name": "slow", "limits": limits }));
    let submit = |key: &str| world.from(ELSEWHERE, "POST", "/jobs", key, &json!({ "name": "mine" })).status;
    assert_eq!(world.whoami(&office.key), 200);
    assert_eq!(submit(&office.key), 403);
    let query = format!("event=access.refused&token_id={}", office.id);
    world.assert_audited(&query, &json!({ "client_ip": ELSEWHERE, "refusal": "client_ip" }));
    assert_eq!(submit(&reader.key), 403);
    let submitted: Vec<_> = (0..7).map(|_| submit(&slow.key)).collect();
    assert_eq!(submitted, [201, 201, 201, 201, 201, 429, 429]);

    // The thief has the key itself: uses it, and makes others through it so as to stay.
    assert_eq!(submit(&alice.key), 201);
    let stolen = |body: &Value| made(&world.from(ELSEWHERE, "POST", "/api/keys", &alice.key, body));
    let back_door = stolen(&json!({ "name": "back door" }));
    let second =
        made(&world.from(ELSEWHERE, "POST", "/api/keys", &back_door.key, &json!({ "name": "more" })));
    assert_eq!(submit(&second.key), 201);
    world.assert_audited(
        &format!("event=token.created&token_id={}", back_door.id),
        &json!({ "actor": "alice", "client_ip": ELSEWHERE }),
    );
    let shown = world.get(&format!("/api/keys/{}", alice.id), &alice.key).json();
    assert_eq!(shown["last_used_ip"], OFFICE, "the owner sees from where it is used; now it is this request");
    world.assert_audited(
        &format!("event=new_network&token_id={}", alice.id),
        &json!({ "client_ip": ELSEWHERE }),
    );

    // The owner ends it, and with it all that was made through it, at once.
    let path = format!("/api/keys/{}?cascade=true", alice.id);
    assert_eq!(world.delete(&path, &alice.key).status, 204);
    for key in [&alice, &back_door, &second, &office] {
        assert_eq!(world.from(ELSEWHERE, "GET", "/whoami", &key.key, &Value::Null).status, 401);
    }
    world.assert_audited(
        &format!("event=revoked_token_used&token_id={}", second.id),
        &json!({ "client_ip": ELSEWHERE, "user_id": "alice", "alert": true }),
    );
    let fresh = world.issue("alice");
    assert_eq!(world.get(&job, &fresh.key).status, 200, "nothing of hers is lost");

    // A rotation that is forced every quarter ends what nobody noticed.
    let next = world.post(&format!("/api/keys/{}/rotate", fresh.id), &fresh.key, &json!({}));
    world.pass(DAY + MINUTE);
    assert_eq!((world.whoami(&fresh.key), world.whoami(&next.text("key"))), (401, 200));
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn issue_3_several_users_share_one_token() {
    let world = World::new(&[]);
    let lead = world.issue("lead");
    for address in ["10.1.0.1", "10.2.0.2", "10.3.0.3", "10.4.0.4", "10.5.0.5"] {
        let job = world.from(address, "POST", "/jobs", &lead.key, &json!({ "name": "train" }));
        assert_eq!(job.text("user_id"), "lead", "whoever it was");
    }
    world.assert_audited(&format!("event=shared_token&token_id={}", lead.id), &json!({ "user_id": "lead" }));

    // A key of one's own is one request, and then each job says whose it is.
    for user in ["ann", "ben", "cem"] {
        let key = world.issue(user);
        let job = world.post("/jobs", &key.key, &json!({ "name": "train" }));
        assert_eq!(job.text("user_id"), user);
        let me = world.get("/whoami", &key.key);
        assert_eq!((me.text("user_id"), me.text("token_id")), (user.to_owned(), key.id.clone()));
        assert_eq!(world.get("/users/lead/jobs", &key.key).status, 404);
        world.assert_audited(
            &format!("event=token.created&token_id={}", key.id),
            &json!({ "actor": "ops", "user_id": user }),
        );
    }
    // Within a team of one user, each machine has a key by name, made from the first one: who did it is which key.
    let machines: Vec<_> =
        ["build", "nightly"].map(|name| world.make(&lead.key, &json!({ "name": name }))).into();
    for key in &machines {
        assert_eq!(world.from("10.9.0.1", "GET", "/users/ann/jobs", &key.key, &Value::Null).status, 404);
        let query = format!("event=foreign_access&token_id={}", key.id);
        world.assert_audited(&query, &json!({ "actor": "lead", "client_ip": "10.9.0.1" }));
    }
    // When the shared one is ended, the others go on.
    assert_eq!(world.delete(&format!("/api/keys/{}", lead.id), &lead.key).status, 204);
    assert_eq!([&lead, &machines[0], &machines[1]].map(|key| world.whoami(&key.key)), [401, 200, 200]);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn issue_4_token_database_is_corrupted() {
    let world = World::new(&[GLASS_SHA256]);
    let (alice, bob) = (world.issue("alice"), world.issue("bob"));
    assert_eq!((world.whoami(&alice.key), world.whoami(OPS)), (200, 200));
    let job = world.job(&alice.key);
    let kept = corrupt(&world);
    world.service.wait_for_alerts("store_unavailable", 1);

    // Whom the service knows goes on for as long as the bound says; nobody is told that a good key is wrong.
    assert_eq!((world.whoami(&alice.key), world.get(&job, &alice.key).status), (200, 200));
    let locked_out = world.get("/whoami", &bob.key);
    assert_eq!((locked_out.status, locked_out.header("retry-after")), (503, "1".into()));
    let unknown = KeyFormat::default().generate().unwrap();
    assert_eq!(world.whoami(unknown.expose()), 503, "and nobody is let in");
    assert_eq!((world.get("/health", "").status, world.get("/ready", "").status), (200, 503));

    // The administrator has a key that needs no database.
    let glass = |path: &str| {
        let headers = [("X-API-Key", GLASS), ("X-Emergency-Reason", "the database is gone")];
        world.service.with_headers("GET", path, &headers)
    };
    assert_eq!(glass("/whoami").text("method"), "emergency");
    assert_eq!(glass("/admin/health").json()["store"], "unavailable");
    world.service.wait_for_line(&["security alert", "emergency_use", "the database is gone"]);
    world.pass(10 * MINUTE);
    assert_eq!(world.whoami(&alice.key), 503, "what was known is not believed for ever");

    // The file comes back, and with it everybody; what happened meanwhile is in the log.
    fs::rename(kept, world.folder.path().join("keyward.db")).unwrap();
    let patience = Patience::new(Duration::from_secs(2));
    while world.get("/ready", "").status != 200 {
        patience.or(|| "not ready two seconds after the file's return".into());
    }
    assert_eq!([&alice, &bob].map(|key| world.whoami(&key.key)), [200, 200]);
    assert_eq!((world.whoami(OPS), world.get(&job, &alice.key).status), (200, 200));
    assert_eq!(world.whoami(unknown.expose()), 401);
    world.service.wait_for_alerts("store_recovered", 1);
    for event in ["store_unavailable", "emergency_use", "store_recovered"] {
        world.assert_audited(&format!("event={event}"), &json!({ "alert": true }));
    }
}

/// Puts what is no database where the database of the running service was, which it returns.
fn corrupt(world: &World) -> PathBuf {
    let file = world.folder.path().join("keyward.db");
    let kept = file.with_extension("kept");
    fs::rename(&file, &kept).unwrap();
    fs::write(&file, [b'x'; 8192]).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    kept
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn issue_5_token_never_expires() {
    let world = World::new(&[("KEYWARD_AUDIT_RETENTION_DAYS", "400")]);
    let daily = world.issue("alice");
    let make = |body: Value| world.post("/api/keys", &daily.key, &body);
    for days in [json!(0), json!(-1), json!(366), json!(36_500)] {
        assert_eq!(make(json!({ "name": "for ever", "expires_in_days": days })).status, 400, "{days}");
    }
    let default = make(json!({ "name": "x", "expires_in_days": null }));
    assert_eq!(default.text("expires_at"), "2026-04-05T09:00:00.000Z", "who says nothing gets 90 days");
    let forgotten = world.make(&daily.key, &json!({ "name": "forgotten", "expires_in_days": 365 }));
    assert_eq!(world.whoami(&forgotten.key), 200);

    let mut warned = Vec::new();
    for day in 1..365 {
        world.pass(DAY);
        assert_eq!(world.whoami(&daily.key), 200, "in use, on day {day}");
        match day {
            20 => {
                let unused = world.get("/api/keys?unused_for_days=20", &daily.key).json();
                let unused: Vec<_> =
                    unused["tokens"].as_array().unwrap().iter().map(|token| &token["name"]).collect();
                assert_eq!(unused, ["forgotten", "x"], "its owner can see what nobody uses");
            }
            30 => assert_eq!(world.whoami(&forgotten.key), 401, "nobody used it for thirty days"),
            _ => {}
        }
        if world.clean_up()["warned"] != 0 {
            warned.push(365 - day);
        }
    }
    let query = format!("event=access.refused&token_id={}", forgotten.id);
    world.assert_audited(&query, &json!({ "refusal": "idle" }));
    (0..1100).for_each(|_| assert_eq!(world.whoami(&daily.key), 200));
    world.assert_audited(&format!("event=usage_spike&token_id={}", daily.id), &json!({ "user_id": "alice" }));

    world.pass(DAY);
    assert_eq!(world.whoami(&daily.key), 401, "after a year use does not renew it any more");
    let query = format!("event=access.refused&token_id={}", daily.id);
    world.assert_audited(&query, &json!({ "refusal": "too_old", "user_id": "alice" }));
    assert_eq!(warned, [30, 7, 1], "its owner was told in time");
    assert_eq!(world.audited(&format!("event=token.expiring&token_id={}", daily.id), 3).len(), 3);
    let listed = world.get("/admin/tokens?status=active", OPS).json();
    assert_eq!(listed["tokens"], json!([]), "nothing of the year is left that opens anything");
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn issue_6_user_leaves_and_the_token_is_still_there() {
    let settings = [&LOGIN[..], &[("KEYWARD_BOOTSTRAP", "register")]].concat();
    let world = World::new(&settings);
    let key = world.issue("alice");
    let office = world.make(&key.key, &json!({ "name": "office", "allowed_ips": ["10.0.0.0/8"] }));
    let job = world.make(&key.key, &json!({ "name": "nightly", "child": true }));
    let jwt = world.jwt("alice");
    let keys = [&key, &office, &job];
    assert_eq!(keys.map(|key| world.whoami(&key.key)), [200; 3]);
    assert_eq!(world.with_jwt("GET", "/whoami", &jwt), 200);
    assert_eq!(world.from(ELSEWHERE, "GET", "/whoami", &office.key, &Value::Null).status, 403, "from home");
    // A second process of the service, which knows the key by now.
    let other = start(&world.folder.path().join("clock"), &settings);
    assert_eq!(other.get("/whoami", &key.key).status, 200);

    let headers = [("X-API-Key", OPS), ("X-Audit-Reason", "left on Friday, ticket 4711")];
    let gone = world.service.with_headers("POST", "/admin/users/alice/offboard", &headers);
    assert_eq!((gone.status, gone.json()), (200, json!({ "revoked": 3 })));
    assert_eq!(keys.map(|key| world.whoami(&key.key)), [401; 3], "at once");
    assert_eq!(world.with_jwt("GET", "/whoami", &jwt), 401);
    let patience = Patience::new(Duration::from_secs(1));
    while other.get("/whoami", &key.key).status != 401 {
        patience.or(|| "the other process lets it in a second later".into());
    }
    world.assert_audited(
        "event=user.offboarded",
        &json!({ "actor": "ops", "user_id": "alice", "count": 3, "reason": "left on Friday, ticket 4711" }),
    );
    assert_eq!(world.from(ELSEWHERE, "GET", "/whoami", &key.key, &Value::Null).status, 401);
    // The alert came with the first use after the end, and is not repeated for an hour; each use is on record.
    let query = format!("event=revoked_token_used&token_id={}", key.id);
    world.assert_audited(&query, &json!({ "user_id": "alice", "alert": true }));
    let query = format!("event=access.refused&token_id={}", key.id);
    world.assert_audited(&query, &json!({ "client_ip": ELSEWHERE, "user_id": "alice" }));

    // There is no way back in: not by a new login, a new key, a new account of that name, or by waiting.
    world.pass(MINUTE);
    let again = world.jwt("alice");
    assert_eq!(world.with_jwt("GET", "/whoami", &again), 401);
    let new = json!({ "user_id": "alice", "name": "again" });
    assert_eq!(world.post("/admin/tokens", OPS, &new).status, 403);
    assert_eq!(world.service.post("/auth/register", "", json!({ "user_id": "alice" })).status, 409);
    for _ in 0..12 {
        world.pass(31 * DAY);
        world.clean_up();
        assert_eq!(keys.map(|key| world.whoami(&key.key)), [401; 3]);
    }
    assert_eq!(world.service.post("/auth/register", "", json!({ "user_id": "alice" })).status, 409);
    assert_eq!(world.post("/admin/users/alice/restore", OPS, &Value::Null).status, 204);
    assert_eq!(keys.map(|key| world.whoami(&key.key)), [401; 3], "who comes back gets new keys");
    assert_eq!(world.whoami(&world.issue("alice").key), 200);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn issue_7_two_tokens_have_the_same_hash() {
    let world = World::new(&[]);
    let mut keys = Vec::new();
    for n in 0..40 {
        let user = format!("user-{n}");
        keys.push((user.clone(), world.issue(&user)));
    }
    for (user, key) in &keys {
        assert_eq!(world.get("/whoami", &key.key).text("user_id"), *user);
    }

    // What no mathematics allows, by force: bob is to have a token with the hash of somebody else's.
    let (owner, key) = &keys[7];
    let digest = TokenDigest::of(key.key.as_bytes());
    let forged = TokenRecord::new(
        "019a9d5a-7c00-7abc-8def-0123456789ab".parse().unwrap(),
        digest,
        UserId::new("bob").unwrap(),
        world.clock.now(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(world.folder.path().join("keyward.db")).await.unwrap();
        let found = store.find(&digest).await.unwrap().unwrap();
        assert_eq!(found.owner.as_str(), owner, "this is the hash that is stored");
        store.insert(&forged, None).await.unwrap_err();
        assert_eq!(store.find(&digest).await.unwrap().unwrap().owner.as_str(), owner);
    });
    assert_eq!(world.get("/whoami", &key.key).text("user_id"), *owner);
    let bobs = world.get("/admin/tokens?user_id=bob", OPS).json();
    assert_eq!(bobs["tokens"], json!([]), "nothing of it was stored");

    // Nor does what looks almost the same reach the hash at all.
    let mut almost = key.key.clone().into_bytes();
    almost.swap(12, 13);
    let almost = String::from_utf8(almost).unwrap();
    assert!(almost == key.key || world.whoami(&almost) == 401);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn issue_8_tokens_are_guessed_by_brute_force() {
    let world = World::new(&[]);
    let (alice, bob) = (world.issue("alice"), world.issue("bob"));
    assert_eq!(world.whoami(&alice.key), 200);
    let refused = Cell::new(0);
    let guess = |address: &str| {
        refused.set(refused.get() + 1);
        let key = KeyFormat::default().generate().unwrap();
        world.from(address, "GET", "/whoami", key.expose(), &Value::Null)
    };
    let dead = world.make(&alice.key, &json!({ "name": "dead" }));
    assert_eq!(world.delete(&format!("/api/keys/{}", dead.id), &alice.key).status, 204);
    let wrong = guess(ELSEWHERE);
    assert_eq!(
        world.from(ELSEWHERE, "GET", "/whoami", &dead.key, &Value::Null),
        wrong,
        "no guess learns a thing"
    );

    assert_eq!(world.whoami(&alice.key), 200);
    let statuses: Vec<_> = (2..150).map(|_| guess(ELSEWHERE).status).collect();
    let failures = 2 + statuses.iter().filter(|status| **status == 401).count();
    assert!((90..=100).contains(&failures), "{failures} of a hundred a minute");
    assert!(statuses[failures - 2..].iter().all(|status| *status == 429), "{statuses:?}");
    let wait: u64 = guess(ELSEWHERE).header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait));
    world.service.wait_for_alerts("brute_force", 1);
    world.assert_audited("event=brute_force", &json!({ "client_ip": ELSEWHERE, "alert": true }));
    for (address, refusal) in
        [(ELSEWHERE, "unknown"), (ELSEWHERE, "revoked"), (ELSEWHERE, "too_many_failures")]
    {
        let first = json!({ "client_ip": address, "refusal": refusal, "count": null });
        world.assert_audited("event=access.refused", &first);
    }

    // Whoever sits at the same address and whoever does not goes on working.
    // Keys that are not known at this moment are looked up, ten a second.
    world.pass(Duration::from_secs(1));
    for key in [&alice, &bob] {
        assert_eq!(world.from(ELSEWHERE, "GET", "/whoami", &key.key, &Value::Null).status, 200);
    }
    assert_eq!(guess(OFFICE).status, 401, "somebody else has a limit of their own");
    // An address of its own for each guess does not make them more likely, nor the others' limit smaller.
    for n in 0_u32..200 {
        let address = IpAddr::from((0xc612_0000 + n).to_be_bytes());
        assert_eq!(guess(&address.to_string()).status, 401);
    }

    world.pass(MINUTE);
    assert_eq!(guess(ELSEWHERE).status, 401, "the minute is over");
    assert_eq!(world.service.alerts("brute_force"), 1, "one alert, not one for each guess");
    // At a hundred a minute, one of a million keys of 190 bits is not found before the sun is gone.
    let secret = alice.key.rsplit('_').next().unwrap();
    assert!(secret.len() >= 33, "{}", secret.len());
    // What is alike is counted, and no guess is forgotten: nor is the use of the dead key.
    let (told, guesses) = world.refusals_at_the_end();
    assert_eq!(guesses, refused.get() + 1);
    assert!(told < 150, "{told}");
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn issue_9_token_database_grows_without_bound() {
    let world = World::new(&[("KEYWARD_AUDIT_RETENTION_DAYS", "1000")]);
    let most = Cell::new(0);
    let stored = || {
        let stored = world.clean_up()["stored"].as_u64().unwrap();
        most.set(most.get().max(stored));
        stored
    };
    let mut first = None;
    for month in 0..24 {
        // A script that makes a key at each run and never cleans up.
        let script = world.issue("script");
        for _ in 0..40 {
            let key = world.make(&script.key, &json!({ "name": "run", "expires_in_days": 1 }));
            first.get_or_insert(key.key);
        }
        world.pass(31 * DAY);
        let stored = stored();
        if month > 2 {
            assert!(stored <= 2 * 41 + 41, "month {month}: {stored} are stored");
        }
    }
    assert!(most.get() < 24 * 41 / 4, "{} at most, of {} that were made", most.get(), 24 * 41);
    let removed: u64 =
        world.audited("event=tokens.removed", 24).iter().filter_map(|entry| entry["count"].as_u64()).sum();
    assert!(removed >= 20 * 41, "{removed} were removed, and the log says so");
    assert_eq!(world.whoami(&first.unwrap()), 401, "what is gone opens nothing");

    // Nor can somebody fill it between two rounds.
    let script = world.issue("flood");
    let statuses: Vec<_> =
        (0..105).map(|_| world.post("/api/keys", &script.key, &json!({ "name": "x" })).status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 99, "{statuses:?}");
    assert!(statuses[99..].iter().all(|status| *status == 409), "{statuses:?}");
    world.pass(366 * DAY);
    world.clean_up();
    world.pass(31 * DAY);
    assert_eq!(stored(), 0, "a year after the last use there is nothing left");
}

/// What the stories set in a debug build is a hole in one that is meant seriously.
#[test]
#[cfg(not(debug_assertions))]
fn a_release_build_refuses_a_clock_for_tests() {
    let folder = scratch();
    let clock = folder.path().join("clock");
    let output = Service::refused(folder.path(), &[("KEY_SERVICE_TEST_CLOCK", clock.to_str().unwrap())]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("KEY_SERVICE_TEST_CLOCK"), "{}", output.stderr);
}

#[test]
#[cfg(debug_assertions)]
fn a_clock_for_tests_is_announced_and_none_is_not() {
    let warned = "which is for tests only";
    let world = World::new(&[]);
    world.service.wait_for_line(&["WARN", warned]);
    let output = Service::start(scratch().path(), &[]).stop();
    assert!(!output.stderr.contains(warned), "{}", output.stderr);
    // What the file does not say is the end of time, when nothing works any more.
    let alice = world.issue("alice");
    assert_eq!(world.whoami(&alice.key), 200);
    fs::write(world.folder.path().join("clock"), "soon").unwrap();
    assert_eq!(world.whoami(&alice.key), 401);
}
