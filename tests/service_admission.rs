//! The example service from outside, again: who comes in without a key of their own, and who is thrown out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod service_process;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use keyward::store::SqliteStore;
use serde_json::{Value, json};
use service_process::{Answer, GLASS, GLASS_SHA256, Service, scratch};

const OPS: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";

/// JSON Web Tokens of anybody, for tests.
const LOGIN: [(&str, &str); 5] = [
    ("ENABLE_LOGIN", "true"),
    ("KEYWARD_ALLOW_DEV_LOGIN_IN_RELEASE", "true"),
    ("JWT_SECRET", "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only"),
    ("JWT_ISSUER", "https://login.example"),
    ("JWT_AUDIENCE", "https://api.example"),
];

fn issue(service: &Service, user: &str) -> (String, String) {
    let answer =
        service.post("/admin/tokens", &service.admin_key, json!({ "user_id": user, "name": "first" }));
    assert_eq!(answer.status, 201, "{answer:?}");
    (answer.text("key"), answer.text("id"))
}

/// A request with the emergency key, for this reason.
fn break_glass(service: &Service, method: &str, path: &str, reason: &str) -> Answer {
    let kind = ("Content-Type", "application/json");
    service.with_headers(method, path, &[("X-API-Key", GLASS), ("X-Emergency-Reason", reason), kind])
}

/// A request without a credential from this address, behind a trusted proxy.
fn from(service: &Service, address: &str, path: &str, body: &Value) -> Answer {
    let headers = [("X-Forwarded-For", address), ("Content-Type", "application/json")];
    service.with_body("POST", path, &headers, body.to_string().as_bytes())
}

/// Puts a file that is no database where the database was, which is kept under the name that is returned.
fn corrupt(file: &Path) -> PathBuf {
    // Whoever closes it as the last one takes everything out of its log.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    drop(runtime.block_on(SqliteStore::open(file)).unwrap());
    while file.with_extension("db-wal").exists() {
        std::thread::yield_now();
    }
    let kept = file.with_extension("kept");
    fs::rename(file, &kept).unwrap();
    fs::write(file, [b'x'; 8192]).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    kept
}

#[test]
fn behind_a_corrupt_store_the_emergency_key_opens_and_nothing_else() {
    if service_process::is_on_postgres() {
        return; // There is no file.
    }
    let folder = scratch();
    let before = Service::start(folder.path(), &[]);
    let admin = before.admin_key.clone();
    assert_eq!(before.stop().code, Some(0));
    let file = folder.path().join("keyward.db");
    let backup = corrupt(&file);
    assert_eq!(Service::refused(folder.path(), &[]).code, Some(1), "without an emergency key");

    let service = Service::start(folder.path(), &[GLASS_SHA256, ("API_TOKENS", &format!("ops:{OPS}"))]);
    assert!(service.admin_key.is_empty());
    assert_eq!((service.get("/health", "").status, service.get("/ready", "").status), (200, 503));
    let me = break_glass(&service, "GET", "/whoami", "the store is broken");
    let expected = json!({
        "user_id": "keyward:emergency", "method": "emergency", "token_id": null, "scopes": null, "roles": ["admin"],
    });
    assert_eq!((me.status, me.json()), (200, expected));
    let bearer = format!("Bearer {GLASS}");
    let headers = [("Authorization", &*bearer), ("X-Emergency-Reason", "as a bearer token")];
    assert_eq!(service.with_headers("GET", "/whoami", &headers).status, 200);
    let health = break_glass(&service, "GET", "/admin/health", "what is it?");
    assert_eq!((health.status, health.json()["store"].clone()), (200, json!("unavailable")));

    let opens = 3;
    assert_eq!(service.get("/whoami", GLASS).status, 403, "without a reason");
    for (method, path) in [
        ("GET", "/api/keys"),
        ("GET", "/admin/tokens"),
        ("POST", "/admin/users/alice/suspend"),
        ("DELETE", "/admin/tokens/019a9d5a-7c00-7abc-8def-0123456789ab"),
    ] {
        let answer = break_glass(&service, method, path, "it must be tried");
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1".into()), "{method} {path}");
    }
    service.wait_for_alerts("emergency_use", opens + 4);
    service.wait_for_alerts("emergency_refused", 1);
    for (what, key, status) in [
        ("another key", "c0ffee".repeat(11), 401),
        ("an API key", admin.clone(), 503),
        ("static", OPS.to_owned(), 503),
    ] {
        assert_eq!(service.get("/whoami", &key).status, status, "{what}");
    }
    service.wait_for_line(&["security alert", "emergency_use", "keyward:emergency", "the store is broken"]);
    assert!(service.logged(&GLASS[..12]).is_empty(), "the key itself is not");

    fs::rename(&backup, &file).unwrap();
    #[expect(clippy::disallowed_methods, reason = "measures another process")]
    let returned = Instant::now();
    while service.get("/ready", "").status != 200 {
        assert!(
            returned.elapsed() < Duration::from_secs(2),
            "not ready two seconds after the store's return"
        );
    }
    assert_eq!(service.get("/whoami", &admin).status, 200);
    assert_eq!(service.get("/whoami", OPS).status, 200);
    let audited = || {
        let list = service.get("/admin/audit?event=emergency_use", &admin).json();
        list["entries"].as_array().unwrap().iter().map(|entry| entry["reason"].clone()).collect::<Vec<_>>()
    };
    while audited().len() < opens + 4 {
        assert!(returned.elapsed() < Duration::from_secs(10), "not audited: {:?}", audited());
    }
    assert!(audited().contains(&json!("the store is broken")), "{:?}", audited());
}

#[test]
fn a_store_that_comes_late_and_empty_has_its_first_start_then() {
    if service_process::is_on_postgres() {
        return; // There is no file.
    }
    let folder = scratch();
    let file = folder.path().join("keyward.db");
    fs::write(&file, [b'x'; 8192]).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let service = Service::start(folder.path(), &[GLASS_SHA256]);
    assert!(service.admin_key.is_empty());
    fs::remove_file(&file).unwrap();
    service.wait_for_line(&["admin key: "]);
    let printed = service.logged("admin key: ").remove(0);
    assert_eq!(service.get("/whoami", printed.trim_start_matches("admin key: ")).status, 200);
    assert_eq!(service.stop().code, Some(0));
    assert!(Service::start(folder.path(), &[GLASS_SHA256]).admin_key.is_empty(), "once");
}

#[test]
fn the_emergency_key_takes_away_and_makes_nothing() {
    let service = Service::start(scratch().path(), &[GLASS_SHA256]);
    let (alice, id) = issue(&service, "alice");
    let (_, revoked) = issue(&service, "bob");
    let act = |method: &str, path: &str| break_glass(&service, method, path, "break-in").status;
    assert_eq!(act("POST", "/admin/users/alice/suspend"), 204);
    assert_eq!(service.get("/whoami", &alice).status, 401);
    assert_eq!(act("POST", "/admin/users/alice/restore"), 204);
    assert_eq!(service.get("/whoami", &alice).status, 200);
    assert_eq!(act("DELETE", &format!("/admin/tokens/{revoked}")), 204);
    let offboarded = break_glass(&service, "POST", "/admin/users/alice/offboard", "break-in");
    assert_eq!((offboarded.status, offboarded.json()), (200, json!({ "revoked": 1 })));
    assert_eq!(act("POST", "/admin/users/keyward:emergency/suspend"), 400, "it has no state");

    let send = |method: &str, path: &str, body: Value| {
        let (key, kind) = (format!("{GLASS}\r\nX-Emergency-Reason: break-in"), "application/json");
        service.raw(method, path, &key, body.to_string().as_bytes(), kind).status
    };
    let ids = || {
        let list = service.get("/admin/tokens", &service.admin_key).json();
        list["tokens"].as_array().unwrap().iter().map(|token| token["id"].clone()).collect::<Vec<_>>()
    };
    let before = ids();
    assert_eq!(send("POST", "/api/keys", json!({ "name": "back door" })), 403);
    assert_eq!(send("POST", "/admin/tokens", json!({ "name": "back door", "user_id": "mallory" })), 403);
    assert_eq!(send("POST", &format!("/api/keys/{id}/rotate"), json!({})), 404, "somebody else's");
    let of_emergency = json!({ "name": "x", "user_id": "keyward:emergency" });
    assert_eq!(service.post("/admin/tokens", &service.admin_key, of_emergency).status, 400);
    assert_eq!(ids(), before);
}

#[test]
fn the_emergency_key_can_be_limited_in_place_and_time() {
    for (name, value, status) in [
        ("KEYWARD_EMERGENCY_IPS", "10.0.0.0/8", 403),
        ("KEYWARD_EMERGENCY_IPS", "10.0.0.0/8,127.0.0.1", 200),
        ("KEYWARD_EMERGENCY_UNTIL", "2020-01-01T00:00:00Z", 401),
        ("KEYWARD_EMERGENCY_UNTIL", "2999-01-01T00:00:00Z", 200),
    ] {
        let service = Service::start(scratch().path(), &[GLASS_SHA256, (name, value)]);
        assert_eq!(break_glass(&service, "GET", "/whoami", "drill").status, status, "{name}={value}");
        let alert = if status == 200 { "emergency_use" } else { "emergency_refused" };
        service.wait_for_alerts(alert, 1);
    }
}

#[test]
fn an_administrator_suspends_restores_and_offboards() {
    let list = format!("alice:{OPS}");
    let settings = [&LOGIN[..], &[("API_TOKENS", &*list)]].concat();
    let service = Service::start(scratch().path(), &settings);
    let (alice, _) = issue(&service, "alice");
    let (bob, _) = issue(&service, "bob");
    let jwt = service.post("/dev-login", "", json!({ "user_id": "alice" })).text("access_token");
    let bearer = format!("Bearer {jwt}");
    let of_alice = || {
        let by_jwt = service.with_headers("GET", "/whoami", &[("Authorization", &bearer)]).status;
        [service.get("/whoami", &alice).status, by_jwt, service.get("/whoami", OPS).status]
    };
    let act = |action: &str| {
        service.send("POST", &format!("/admin/users/alice/{action}"), &service.admin_key, None)
    };
    assert_eq!(of_alice(), [200; 3]);
    assert_eq!(act("suspend").status, 204);
    assert_eq!(of_alice(), [401; 3]);
    assert_eq!(service.get("/whoami", &bob).status, 200);
    assert_eq!(act("restore").status, 204);
    assert_eq!(of_alice(), [200; 3]);
    let gone = act("offboard");
    assert_eq!((gone.status, gone.json()), (200, json!({ "revoked": 1 })));
    assert_eq!(of_alice(), [401; 3]);
    let refused =
        service.post("/admin/tokens", &service.admin_key, json!({ "user_id": "alice", "name": "x" }));
    assert_eq!(refused.status, 403, "who is gone gets no keys");
    assert_eq!(act("restore").status, 204);
    assert_eq!(of_alice(), [401, 401, 200], "only the static list can end a static token");

    let path = "/admin/users/auth0%7C5f7c/suspend";
    assert_eq!(service.send("POST", path, &service.admin_key, None).status, 204, "whoever it is");
    service.wait_for_line(&["user.suspended", "auth0|5f7c"]);
}

#[test]
fn the_users_routes_are_for_administrators_and_say_why() {
    let service = Service::start(scratch().path(), &[]);
    let (alice, _) = issue(&service, "alice");
    let scoped = json!({ "name": "reader", "scopes": ["admin:read"] });
    let reader = service.post("/api/keys", &service.admin_key, scoped).text("key");
    for action in ["suspend", "restore", "offboard"] {
        let path = format!("/admin/users/bob/{action}");
        for (who, key, status) in [("nobody", "", 401), ("a user", &*alice, 403), ("a reader", &*reader, 403)]
        {
            assert_eq!(service.send("POST", &path, key, None).status, status, "{action} by {who}");
        }
        assert_eq!(service.get(&path, &service.admin_key).status, 405, "{action}");
    }
    for path in [
        "/admin/users/%01/suspend",
        "/admin/users/%20a/suspend",
        "/admin/users/%ff/suspend",
        "/admin/users/a/delete",
    ] {
        assert_eq!(service.send("POST", path, &service.admin_key, None).status, 404, "{path}");
    }
    assert_eq!(service.get("/admin/health", "").status, 401);
    assert_eq!(service.get("/admin/health", &alice).status, 403);
    assert_eq!(service.get("/admin/health", &reader).json()["status"], "ok");

    let because = |reason: &str| {
        let headers = [("X-API-Key", &*service.admin_key), ("X-Audit-Reason", reason)];
        service.with_headers("POST", "/admin/users/bob/suspend", &headers).status
    };
    assert_eq!(because("ticket 4711"), 204);
    assert_eq!((because(&"é".repeat(200)), because(&"x".repeat(201)), because("a\tb")), (204, 400, 400));
    assert_eq!(service.send("POST", "/admin/users/bob/restore", &service.admin_key, None).status, 204);
    let admin = ("X-API-Key", &*service.admin_key);
    let twice = [admin, ("X-Audit-Reason", "a"), ("X-Audit-Reason", "b")];
    for (method, path) in
        [("POST", "/admin/users/bob/suspend"), ("GET", "/admin/tokens"), ("GET", "/admin/audit")]
    {
        assert_eq!(service.with_headers(method, path, &twice).status, 400, "{path}: which of the two?");
    }
    for action in ["suspend", "restore", "offboard"] {
        let path = format!("/admin/users/mallory/{action}");
        let status = |kind: &str, body: &[u8]| {
            service.with_body("POST", &path, &[admin, ("Content-Type", kind)], body).status
        };
        let (json, long) = ("application/json", format!("{}{{}}", " ".repeat(70_000)));
        for body in [r#"{"until": "tomorrow"}"#, "[]", "null", "{"] {
            assert_eq!(status(json, body.as_bytes()), 400, "{action}: {body}");
        }
        assert_eq!(status("text/plain", b"now"), 415, "{action}");
        assert_eq!(status(json, long.as_bytes()), 413, "{action}");
        assert!(!service.has_logged(&["mallory"]), "{action} was not done");
    }
    let none = service.with_body(
        "POST",
        "/admin/users/mallory/offboard",
        &[admin, ("Content-Type", "application/json")],
        b"{}",
    );
    assert_eq!(none.status, 200);
    service.wait_for_line(&["user.suspended", "keyward:admin", "bob", "ticket 4711"]);
    service.wait_for_line(&["user.restored", "POST /admin/users/{id}/restore"]);
}

#[test]
fn by_default_only_an_administrator_lets_anybody_in() {
    for settings in [&[][..], &[("KEYWARD_BOOTSTRAP", "admin")]] {
        let service = Service::start(scratch().path(), settings);
        let admission = service.post("/auth/register", "", json!({ "user_id": "alice" }));
        assert_eq!((admission.status, service.get("/auth/register", "").status), (404, 404));
        assert_eq!(service.post("/api/keys", "", json!({ "name": "mine" })).status, 401);
    }
}

#[test]
fn who_registers_is_new_and_gets_the_first_key() {
    let list = format!("ops:{OPS}");
    let settings = [
        ("KEYWARD_BOOTSTRAP", "register"),
        ("KEYWARD_ADMIN_USERS", "root"),
        ("API_TOKENS", &*list),
        ("KEYWARD_TRUSTED_PROXIES", "127.0.0.1"),
    ];
    let folder = scratch();
    let service = Service::start(folder.path(), &settings);
    let count = std::cell::Cell::new(0);
    // Each from an address of its own, so that only the names matter.
    let register = |body: Value| {
        count.set(count.get() + 1);
        from(&service, &format!("192.0.2.{}", count.get()), "/auth/register", &body)
    };
    let made = register(json!({ "user_id": "alice", "email": "alice@example.org" }));
    assert_eq!((made.status, made.header("cache-control")), (201, "no-store".into()), "{made:?}");
    let key = made.text("key");
    let me = service.get("/whoami", &key).json();
    assert_eq!((&me["user_id"], &me["roles"], &me["scopes"]), (&json!("alice"), &json!([]), &Value::Null));
    assert_eq!(made.json()["metadata"], json!({ "email": "alice@example.org" }));
    assert_eq!(made.json()["created_ip"], "192.0.2.1");
    assert_eq!(service.post("/api/keys", &key, json!({ "name": "second" })).status, 201);

    let (_, of_bob) = issue(&service, "bob");
    service.send("DELETE", &format!("/admin/tokens/{of_bob}"), &service.admin_key, None);
    service.send("POST", "/admin/users/carol/suspend", &service.admin_key, None);
    service.send("POST", "/admin/users/dave/restore", &service.admin_key, None);
    let taken = [
        "alice",
        "bob",
        "carol",
        "dave",
        "ops",
        "root",
        "keyward:admin",
        "keyward:x",
        "static:0",
        "public:1",
    ];
    let mut bodies = Vec::new();
    for name in taken {
        let answer = register(json!({ "user_id": name }));
        assert_eq!(answer.status, 409, "{name}: {answer:?}");
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "one body, whoever it is");
    assert_eq!(register(json!({ "user_id": "Alice" })).status, 201, "compared byte for byte");
    for body in [
        json!({}),
        json!({ "user_id": "" }),
        json!({ "user_id": " a" }),
        json!({ "user_id": "a\u{202e}b" }),
        json!({ "user_id": key }),
        json!({ "user_id": "x", "email": "x" }),
        json!({ "user_id": "x", "email": "a b@c" }),
        json!({ "user_id": "x", "email": "@" }),
        json!({ "user_id": "x", "roles": ["admin"] }),
        json!({ "user_id": "x", "name": "mine" }),
    ] {
        assert_eq!(register(body.clone()).status, 400, "{body}");
    }
    service.wait_for_line(&["user.registered", "alice", "192.0.2.1"]);
    service.wait_for_line(&["operation.refused", "user_exists"]);
    service.wait_for_line(&["operation.refused", "invalid_value"]);
    assert!(service.logged(&key[..24]).is_empty(), "a key in the wrong place is not logged");
    assert_eq!(service.post("/api/keys", "", json!({ "name": "mine" })).status, 401);
    assert_eq!(service.stop().code, Some(0));

    let again = Service::start(folder.path(), &settings);
    assert_eq!(
        again.post("/auth/register", "", json!({ "user_id": "alice" })).status,
        409,
        "after a restart"
    );
}

#[test]
fn of_many_who_register_under_one_name_one_becomes_it() {
    let settings = [("KEYWARD_BOOTSTRAP", "register"), ("KEYWARD_TRUSTED_PROXIES", "127.0.0.1")];
    let service = Service::start(scratch().path(), &settings);
    let alice = json!({ "user_id": "alice" });
    let register = |n: usize| from(&service, &format!("192.0.2.{n}"), "/auth/register", &alice);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|n| scope.spawn(move || register(n).status)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 201).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 409).count(), 15, "{answers:?}");
    let held = service.get("/admin/tokens?user_id=alice", &service.admin_key).json();
    assert_eq!(held["tokens"].as_array().unwrap().len(), 1);
}

#[test]
fn in_public_anybody_gets_a_key_of_their_own_and_nobody_elses() {
    let service = Service::start(scratch().path(), &[("KEYWARD_BOOTSTRAP", "public")]);
    let made = service.post("/api/keys", "", json!({ "name": "mine", "scopes": ["jobs:read"] }));
    assert_eq!(made.status, 201, "{made:?}");
    let (owner, key) = (made.text("user_id"), made.text("key"));
    assert!(owner.starts_with("public:") && owner.len() == "public:".len() + 36, "{owner}");
    let other = service.post("/api/keys", "", json!({ "name": "mine" }));
    assert_ne!(other.text("user_id"), owner);
    assert_eq!(service.get("/whoami", &key).json()["user_id"], json!(owner));
    assert_eq!(service.get("/jobs", &key).status, 200);
    assert_eq!(service.post("/api/keys", "", json!({ "name": "x", "user_id": "keyward:admin" })).status, 400);

    let own = service.post("/api/keys", &other.text("key"), json!({ "name": "second" }));
    assert_eq!((own.status, own.text("user_id")), (201, other.text("user_id")), "with a key it is one's own");
    assert_eq!(service.post("/api/keys", &key, json!({ "name": "more" })).status, 403, "no keys:write");
    assert_eq!(service.post("/api/keys", "kw_live_1nonsense", json!({ "name": "x" })).status, 401);
    for (method, path) in [
        ("GET", "/api/keys"),
        ("DELETE", "/api/keys"),
        ("PUT", "/api/keys"),
        ("POST", "/api/keys/x"),
        ("POST", "/api/keys/"),
        ("POST", "/api//keys"),
        ("POST", "/admin/tokens"),
        ("POST", "/jobs"),
    ] {
        assert_eq!(
            service.send(method, path, "", Some(json!({ "name": "x" }))).status,
            401,
            "{method} {path}"
        );
    }
    assert_eq!(service.post("/auth/register", "", json!({ "user_id": "alice" })).status, 404);
}

#[test]
fn whoever_comes_by_themselves_comes_a_few_at_a_time() {
    for (mode, path, body) in [
        ("register", "/auth/register", json!({ "user_id": "keyward:x" })),
        ("public", "/api/keys", json!({ "name": "mine" })),
    ] {
        let settings = [("KEYWARD_BOOTSTRAP", mode), ("KEYWARD_TRUSTED_PROXIES", "127.0.0.1")];
        let service = Service::start(scratch().path(), &settings);
        let come = |address: &str| from(&service, address, path, &body);
        for n in 0..5 {
            assert_ne!(come(&format!("2001:db8::{n}")).status, 429, "{mode}");
        }
        let early = come("2001:db8::7:7");
        assert_eq!(early.status, 429, "{mode}: one network");
        let wait: u64 = early.header("retry-after").parse().unwrap();
        assert!((1..=12).contains(&wait), "{wait}");
        assert_eq!(early.header("content-type"), "application/problem+json");
        assert_ne!(come("unknown").status, 429, "{mode}");
        let mut others = (1..=250).map(|n| come(&format!("198.51.100.{n}")).status);
        let let_in = others.position(|status| status == 429).expect("there is a limit for all together");
        assert!(let_in >= 54, "{mode}: {let_in} more than the six before; sixty come in a minute");
        service.wait_for_line(&["operation.refused", "rate_limited", "198.51.100."]);
    }
}
