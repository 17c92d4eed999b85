//! The example service on a PostgreSQL server, as several processes, and what only happens there: they start at once on
//! an empty database, the server goes away, and the password must be seen nowhere. All other tests of the service run
//! on PostgreSQL with `KEYWARD_TEST_SERVICE_STORE=postgres`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod service_process;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use keyward::{AdminProof, audit::AuditLog, store::PostgresStore};
use serde_json::json;
use service_process::{GLASS, GLASS_SHA256, Service, postgres::Server, scratch};

const URL: &str = "KEYWARD_DATABASE_URL";

/// What nobody who reads a log or looks at the settings may see.
const PASSWORD: &str = "right";

/// Retries until the answer has this status, for five seconds.
fn until(status: u16, what: &str, ask: impl Fn() -> u16) -> Duration {
    let begun = Instant::now();
    while ask() != status {
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: no {status} within five seconds");
        thread::yield_now();
    }
    begun.elapsed()
}

fn issue(service: &Service, admin: &str, user: &str) -> (String, String) {
    let made = service.post("/admin/tokens", admin, json!({ "user_id": user, "name": "first" }));
    assert_eq!(made.status, 201, "{made:?}");
    (made.text("key"), made.text("id"))
}

#[test]
fn instances_that_start_at_once_on_an_empty_database_are_one_service() {
    let Some(server) = Server::start("trust", &[]) else { return };
    let url = server.url("postgres", "127.0.0.1");
    let start = |folder: &Path| Service::start(folder, &[(URL, &url)]);
    let folders = [(); 4].map(|()| scratch());
    let services = thread::scope(|threads| {
        let starting = folders.each_ref().map(|folder| threads.spawn(|| start(folder.path())));
        starting.map(|thread| thread.join().unwrap())
    });
    let keys: Vec<_> =
        services.iter().map(|service| &*service.admin_key).filter(|key| !key.is_empty()).collect();
    let [admin] = keys[..] else { panic!("{} first keys", keys.len()) };
    let [one, two, three, four] = &services;
    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        let (key, id) = issue(one, admin, &format!("user {round}"));
        assert_eq!(two.get("/whoami", &key).status, 200);
        assert_eq!(three.send("DELETE", &format!("/api/keys/{id}"), &key, None).status, 204);
        slowest = slowest.max(until(401, "a revocation", || two.get("/whoami", &key).status));
    }
    println!("slowest of 10 revocations seen by another process: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let (alice, _) = issue(two, admin, "alice");
    assert_eq!(one.get("/whoami", &alice).status, 200);
    assert_eq!(four.post("/admin/users/alice/suspend", admin, json!({})).status, 204);
    until(401, "a suspension", || one.get("/whoami", &alice).status);
    // One that is killed in the middle of writes leaves the others and a whole audit log.
    let killer = four.kill_after(Duration::from_millis(50));
    while four
        .try_send("POST", "/admin/tokens", admin, Some(json!({ "user_id": "bob", "name": "more" })))
        .is_some()
    {}
    killer.join().unwrap();
    assert_eq!(start(folders[3].path()).get("/whoami", admin).status, 200);
    for service in services.into_iter().take(3) {
        assert_eq!(service.stop().code, Some(0));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let verified = runtime.block_on(async {
        let proof = AdminProof::operator("test", "after a kill").unwrap();
        AuditLog::new(PostgresStore::open(&url).await.unwrap()).1.verify(&proof, None).await.unwrap()
    });
    assert!(verified.entries >= 24, "{verified:?}");
}

#[test]
fn it_goes_on_by_itself_when_the_server_is_back() {
    let Some(server) = Server::start("trust", &[]) else { return };
    let url = server.url("postgres", "127.0.0.1");
    let folder = scratch();
    let service = Service::start(folder.path(), &[(URL, &url)]);
    let admin = service.admin_key.clone();
    let (alice, id) = issue(&service, &admin, "alice");
    server.stop("immediate");
    assert_eq!((service.get("/health", "").status, service.get("/ready", "").status), (200, 503));
    let begun = Instant::now();
    assert_eq!(service.get(&format!("/api/keys/{id}"), &alice).status, 503);
    assert_eq!(service.get("/whoami", "kw_live_1nobody").status, 401, "what is no key needs no store");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Without its store it does not start, unless there is an emergency key.
    let refused = Service::refused(folder.path(), &[(URL, &url)]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("no connection to PostgreSQL"), "{refused:?}");
    let other = scratch();
    let late = Service::start(other.path(), &[(URL, &url), GLASS_SHA256]);
    let headers = [("X-API-Key", GLASS), ("X-Emergency-Reason", "the database is down")];
    assert_eq!(late.with_headers("GET", "/whoami", &headers).status, 200);

    server.resume();
    until(200, "the store is back", || service.get("/ready", "").status);
    assert_eq!(service.get(&format!("/api/keys/{id}"), &alice).status, 200);
    until(200, "the one that started without it", || late.get("/whoami", &alice).status);
}

#[test]
fn the_password_is_seen_nowhere() {
    let Some(server) = Server::start("scram-sha-256", &[]) else { return };
    let folder = scratch();
    let place = server.url("", "127.0.0.1").replacen("postgres://@", "", 1);
    let at = |login: &str| format!("postgres://{login}{place}");
    let port = place.split([':', '/']).nth(1).unwrap();
    let urls = [
        at(&format!("postgres:{PASSWORD}@")),
        format!("postgres:///postgres?host=127.0.0.1&port={port}&user=postgres&password={PASSWORD}"),
        format!("postgres:///postgres?host=127.0.0.1&port={port}&user=postgres&p%61ssword={PASSWORD}"),
    ];
    let nowhere = |what: &str, text: &str| assert!(!text.contains(PASSWORD), "{what}: {text}");
    for url in &urls {
        let settings = [(URL, &**url), ("RUST_LOG", "trace")];
        let shown = Service::run(folder.path(), &settings, &["--print-config"]);
        assert_eq!(shown.code, Some(0), "{shown:?}");
        let line = shown.stdout.lines().find(|line| line.starts_with("database_url")).unwrap();
        assert!(line.contains('…') && line.contains("postgres"), "{line}");
        nowhere("the settings", &format!("{shown:?}"));
        let service = Service::start(folder.path(), &settings);
        assert_eq!(service.get("/ready", "").status, 200);
        if url != &urls[0] {
            nowhere("its log", &service.stop().stderr);
            continue;
        }
        server.stop("fast");
        // The answer may be a moment old.
        until(503, "the server is gone", || service.get("/ready", "").status);
        nowhere("an answer", &service.get("/ready", "").body);
        let output = service.stop();
        assert!(output.stderr.contains("DEBUG"), "{output:?}");
        nowhere("its log", &output.stderr);
        nowhere("a refusal to start", &format!("{:?}", Service::refused(folder.path(), &settings)));
        server.resume();
    }
    let absent = at(&format!("postgres:{PASSWORD}@")).replace(&place, &place.replace("/postgres", "/absent"));
    for (url, says) in [
        (at("postgres:right-not@"), "refused the user or the password"),
        (absent, "does not exist"),
        (format!("{}?sslmode={PASSWORD}", at(&format!("postgres:{PASSWORD}@"))), "unknown sslmode"),
    ] {
        let output = Service::refused(folder.path(), &[(URL, &url)]);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(says), "{output:?}");
        nowhere("a refusal", &output.stderr);
    }
}
