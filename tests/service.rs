//! The example service from outside: a real process, real sockets, a real SQLite file; with
//! `KEYWARD_TEST_SERVICE_STORE=postgres` a real PostgreSQL server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod service_process;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use keyward::{
    AdminProof,
    store::Purge,
    time::{Clock, SystemClock},
    token::Lifetimes,
};
use serde_json::{Value, json};
use service_process::{Answer, Service, scratch};

const OPS: &str = "3f5c0a9e7b1d4826a0c3e5f7192b4d6e";

/// A key for `user`, made by the administrator.
fn issue(service: &Service, user: &str) -> (String, String) {
    let answer =
        service.post("/admin/tokens", &service.admin_key, json!({ "user_id": user, "name": "first" }));
    assert_eq!(answer.status, 201, "{answer:?}");
    (answer.text("key"), answer.text("id"))
}

#[test]
fn the_first_start_prints_one_admin_key_and_later_ones_none() {
    let folder = scratch();
    let first = Service::start(folder.path(), &[]);
    assert!(first.admin_key.starts_with("kw_live_1"));
    let me = first.get("/whoami", &first.admin_key);
    let expected = json!({
        "user_id": "keyward:admin", "method": "api_key", "token_id": me.text("token_id"),
        "scopes": null, "roles": ["admin"],
    });
    assert_eq!(me.json(), expected);
    let key = first.admin_key.clone();
    let output = first.stop();
    assert_eq!(output.code, Some(0), "SIGTERM ends it well: {output:?}");

    let second = Service::start(folder.path(), &[]);
    assert!(second.admin_key.is_empty());
    assert_eq!(second.get("/whoami", &key).status, 200);
}

#[test]
fn when_all_keys_are_gone_it_is_no_first_start() {
    for (method, path) in [("DELETE", "/api/keys"), ("POST", "/admin/users/keyward:admin/offboard")] {
        let folder = scratch();
        let first = Service::start(folder.path(), &[]);
        assert_eq!(first.send(method, path, &first.admin_key, None).status, 200, "{path}");
        let key = first.admin_key.clone();
        assert_eq!(first.stop().code, Some(0));
        assert_eq!(remove_what_ended(folder.path()), 1);
        let second = Service::start(folder.path(), &[]);
        assert!(second.admin_key.is_empty(), "after {path}");
        assert_eq!(second.get("/whoami", &key).status, 401);
    }
}

/// Removes all keys that have ended, however lately; says how many.
fn remove_what_ended(folder: &Path) -> u64 {
    let proof = AdminProof::operator("test", "as after thirty days").unwrap();
    let purge = Purge::new(SystemClock.now(), Lifetimes::default(), 100);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = service_process::open_store(folder).await;
        store.purge(&proof, &purge).await.unwrap().removed
    })
}

#[test]
fn a_key_lives_through_its_whole_life() {
    let service = Service::start(scratch().path(), &[("KEYWARD_DEBUG_OWNERSHIP", "true")]);
    let (alice, first) = issue(&service, "alice");
    let body = json!({
        "name": "ci", "scopes": ["jobs:*", "keys:read"], "expires_in_days": 7,
        "allowed_ips": ["127.0.0.0/8"], "metadata": { "team": "blue" },
    });
    let made = service.post("/api/keys", &alice, body);
    assert_eq!(made.status, 201);
    let (id, key) = (made.text("id"), made.text("key"));
    let mut expected = made.json();
    let shown = service.get(&format!("/api/keys/{id}"), &alice).json();
    expected.as_object_mut().unwrap().remove("key");
    assert_eq!(shown, expected, "what is shown later is all but the key");
    assert_eq!(shown["scopes"], json!(["jobs:*", "keys:read"]));
    assert_eq!(shown["created_ip"], "127.0.0.1");
    assert_eq!(
        (&shown["last_used"], &shown["revoked"], &shown["status"]),
        (&Value::Null, &json!(false), &json!("active"))
    );

    assert_eq!(service.post("/jobs", &key, json!({ "name": "build" })).status, 201);
    assert_eq!(service.get("/admin/tokens", &key).status, 403, "no role");
    assert_eq!(service.post("/api/keys", &key, json!({ "name": "more" })).status, 403, "no keys:write");
    let used = service.get(&format!("/api/keys/{id}"), &alice).json();
    assert!(used["last_used"].is_string() && used["last_used_ip"] == "127.0.0.1");

    let changed = service.send(
        "PATCH",
        &format!("/api/keys/{id}"),
        &alice,
        Some(json!({ "name": "CI", "enabled": false })),
    );
    assert_eq!(
        (changed.status, changed.text("name"), changed.text("status")),
        (200, "CI".into(), "disabled".into())
    );
    assert_eq!(service.get("/whoami", &key).status, 401);
    service.send("PATCH", &format!("/api/keys/{id}"), &alice, Some(json!({ "enabled": true })));
    assert_eq!(service.get("/whoami", &key).status, 200);

    let rotated = service.post(&format!("/api/keys/{id}/rotate"), &alice, json!({ "overlap_seconds": 0 }));
    assert_eq!(rotated.status, 201);
    assert_eq!(rotated.json()["scopes"], json!(["jobs:*", "keys:read"]));
    assert_eq!(service.get("/whoami", &key).status, 401, "an overlap of zero ends it at once");
    assert_eq!(service.get("/whoami", &rotated.text("key")).status, 200);
    assert_eq!(service.post(&format!("/api/keys/{id}/rotate"), &alice, json!({})).status, 409);
    assert_eq!(service.get(&format!("/api/keys/{id}"), &alice).text("status"), "rotated");

    let counted = service.get("/api/keys/debug/ownership", &alice).json();
    assert_eq!(counted["user_tokens_count"], 3);
    assert_eq!(counted["total_tokens_in_system"], 4);
    let path = format!("/api/keys/{}", rotated.text("id"));
    assert_eq!(service.send("DELETE", &path, &alice, None).status, 204);
    assert_eq!(service.send("DELETE", &path, &alice, None).status, 204, "again is fine");
    assert_eq!(service.get("/whoami", &rotated.text("key")).status, 401);
    assert_eq!(service.send("DELETE", "/api/keys", &alice, None).json(), json!({ "revoked": 2 }));
    assert_eq!(service.get(&format!("/api/keys/{first}"), &alice).status, 401, "the presented one included");
}

#[test]
fn a_rotation_is_finished_a_family_ends_and_an_administrator_cleans_up() {
    let service = Service::start(scratch().path(), &[]);
    let (alice, first) = issue(&service, "alice");
    let child = service.post("/api/keys", &alice, json!({ "name": "child", "child": true }));
    assert_eq!((child.status, child.text("parent_id")), (201, first.clone()));
    let next = service.post(&format!("/api/keys/{first}/rotate"), &alice, json!({}));
    let (key, finish) = (next.text("key"), format!("/api/keys/{first}/finish-rotation"));
    assert_eq!(service.post(&finish, &key, json!({})).status, 409, "it was used a moment ago");
    let finished = service.post(&finish, &key, json!({ "force": true }));
    assert_eq!((finished.status, &finished.json()["still_used"]), (200, &json!(true)));
    assert_eq!(service.get("/whoami", &alice).status, 401);
    assert_eq!(service.get("/whoami", &child.text("key")).status, 200, "it went to the successor");
    assert_eq!(service.get("/api/keys?unused_for_days=1", &key).json()["tokens"], json!([]));
    let cleaned = service.post("/admin/cleanup", &service.admin_key, json!({}));
    let expected = json!({ "removed": 0, "stored": 4, "warned": 0, "complete": true });
    assert_eq!((cleaned.status, cleaned.json()), (200, expected));
    assert_eq!(service.post("/admin/cleanup", &key, json!({})).status, 403);
    let path = format!("/api/keys/{}?cascade=true", next.text("id"));
    assert_eq!(service.send("DELETE", &path, &key, None).status, 204);
    assert_eq!(service.get("/whoami", &child.text("key")).status, 401);
}

#[test]
fn lists_are_paged_filtered_and_ones_own() {
    let service = Service::start(scratch().path(), &[]);
    let (alice, _) = issue(&service, "alice");
    issue(&service, "bob");
    let made: Vec<String> = (0..7)
        .map(|n| service.post("/api/keys", &alice, json!({ "name": format!("key {n}") })).text("id"))
        .collect();
    service.send("DELETE", &format!("/api/keys/{}", made[3]), &alice, None);
    let mut seen = Vec::new();
    let mut path = "/api/keys?limit=3".to_owned();
    loop {
        let page = service.get(&path, &alice).json();
        let tokens = page["tokens"].as_array().unwrap().clone();
        assert!(
            tokens.len() <= 3
                && tokens.iter().all(|token| token["user_id"] == "alice" && token.get("key").is_none())
        );
        seen.extend(tokens.iter().map(|token| token["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/keys?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    let newest_first: Vec<String> = made.iter().rev().cloned().collect();
    assert_eq!(seen[..7], newest_first);
    assert_eq!(seen.len(), 8);
    let status = |status: &str| {
        let list = service.get(&format!("/api/keys?status={status}"), &alice).json();
        list["tokens"].as_array().unwrap().len()
    };
    assert_eq!((status("active"), status("revoked"), status("disabled")), (7, 1, 0));
    let of_bob = service.get("/admin/tokens?user_id=bob", &service.admin_key).json();
    assert_eq!(of_bob["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(
        service.get("/admin/tokens", &service.admin_key).json()["tokens"].as_array().unwrap().len(),
        10
    );
}

#[test]
fn what_is_foreign_does_not_exist_and_is_reported() {
    let service = Service::start(scratch().path(), &[]);
    let (alice, of_alice) = issue(&service, "alice");
    let job = service.post("/jobs", &alice, json!({ "name": "secret" })).text("id");
    let absent = "019a9d5a-7c00-7abc-8def-0123456789ab";
    let malformed = ["1", "01", "%31", "019A9D5A-7C00-7ABC-8DEF-0123456789AB", "x%00", "..%2f"];
    let asked = [
        ("GET", "/api/keys/{id}", &of_alice, None),
        ("PATCH", "/api/keys/{id}", &of_alice, Some(json!({ "name": "mine now" }))),
        ("DELETE", "/api/keys/{id}", &of_alice, None),
        ("POST", "/api/keys/{id}/rotate", &of_alice, Some(json!({}))),
        ("GET", "/jobs/{id}", &job, None),
        ("DELETE", "/jobs/{id}", &job, None),
        ("GET", "/users/{id}/jobs", &"alice".to_owned(), None),
    ];
    for (n, (method, path, id, body)) in asked.into_iter().enumerate() {
        // Of one caller and target there would be one alert.
        let (bob, _) = issue(&service, &format!("bob{n}"));
        let send = |id: &str| service.send(method, &path.replace("{id}", id), &bob, body.clone());
        let before = service.alerts("foreign_access");
        let foreign = send(id);
        service.wait_for_alerts("foreign_access", before + 1);
        assert_eq!(foreign.status, 404, "{method} {path}");
        let absent = send(absent);
        assert_eq!((foreign.body, foreign.headers), (absent.body, absent.headers), "{method} {path}");
        for id in malformed {
            assert_eq!(send(id).status, 404, "{method} {path} {id}");
        }
    }
    assert_eq!(service.get(&format!("/api/keys/{of_alice}"), &alice).text("name"), "first");
    assert_eq!(service.get("/users/alice/jobs", &alice).json()["jobs"][0]["id"], json!(job));
    assert_eq!(service.get(&format!("/jobs/{job}"), &alice).status, 200);
}

#[test]
fn bad_input_is_answered_from_the_table() {
    let service = Service::start(scratch().path(), &[("API_TOKENS", &format!("ops:{OPS}"))]);
    let (alice, id) = issue(&service, "alice");
    for body in [
        json!({}),
        json!({ "name": "" }),
        json!({ "name": "x".repeat(129) }),
        json!({ "name": "a\nb" }),
        json!({ "name": "a\u{202e}b" }),
        json!({ "name": 1 }),
        json!({ "name": "x", "user_id": "bob" }),
        json!({ "name": "x", "scopes": [] }),
        json!({ "name": "x", "scopes": ["a b"] }),
        json!({ "name": "x", "scopes": "jobs:read" }),
        json!({ "name": "x", "expires_in_days": 0 }),
        json!({ "name": "x", "expires_in_days": 366 }),
        json!({ "name": "x", "expires_in_days": -1 }),
        json!({ "name": "x", "allowed_ips": [] }),
        json!({ "name": "x", "allowed_ips": ["10.0.0.1/8"] }),
        json!({ "name": "x", "metadata": "text" }),
        json!({ "name": "x", "metadata": { "a": "x".repeat(5000) } }),
        json!([]),
        json!(null),
    ] {
        let answer = service.post("/api/keys", &alice, body.clone());
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{body}");
    }
    for text in ["", "{", "\u{0}", "{\"name\":\"a\",\"name\":\"b\"}", "[[[[[["] {
        let answer = service.raw("POST", "/api/keys", &alice, text.as_bytes(), "application/json");
        assert_eq!(answer.status, 400, "{text:?}");
    }
    assert_eq!(service.raw("POST", "/api/keys", &alice, b"{\"name\":\"x\"}", "text/plain").status, 415);
    assert_eq!(
        service.raw("POST", "/api/keys", &alice, &vec![b' '; 8_000_000], "application/json").status,
        413
    );
    for query in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=x",
        "status=dead",
        "limit=1&limit=2",
        "typo=1",
        "limit=%ff",
    ] {
        assert_eq!(service.get(&format!("/api/keys?{query}"), &alice).status, 400, "{query}");
    }
    let patch = |body: Value| service.send("PATCH", &format!("/api/keys/{id}"), &alice, Some(body)).status;
    assert_eq!(
        (patch(json!({ "name": null })), patch(json!({ "id": "x" })), patch(json!({}))),
        (400, 400, 200)
    );
    let long = "x".repeat(10_000);
    assert_eq!(service.get("/whoami", &long).status, 401);
    assert_eq!(service.get("/whoami", OPS).json()["method"], "static");
    assert_eq!(service.get("/nothing", "").status, 404);
    for inside in ["/api", "/api/x", "/admin/x", "/jobs/x/y", "/users/x", "/users/x/y", "/whoami"] {
        assert_eq!(service.get(inside, "").status, 401, "{inside}");
    }
}

#[test]
fn nobody_mints_beyond_their_own_rights() {
    let service = Service::start(scratch().path(), &[]);
    let (alice, _) = issue(&service, "alice");
    let limited = json!({ "name": "l", "scopes": ["keys:*", "jobs:read"], "allowed_ips": ["127.0.0.1"], "expires_in_days": 10 });
    let limited = service.post("/api/keys", &alice, limited);
    let key = limited.text("key");
    let ips = json!(["127.0.0.1"]);
    for (name, body, expected) in [
        ("all scopes", json!({ "name": "x", "allowed_ips": ips }), 403),
        ("more scopes", json!({ "name": "x", "allowed_ips": ips, "scopes": ["jobs:write"] }), 403),
        ("any address", json!({ "name": "x", "scopes": ["jobs:read"] }), 403),
        (
            "more addresses",
            json!({ "name": "x", "scopes": ["jobs:read"], "allowed_ips": ["127.0.0.0/8"] }),
            403,
        ),
        ("as much", json!({ "name": "x", "scopes": ["jobs:read", "keys:read"], "allowed_ips": ips }), 201),
    ] {
        assert_eq!(service.post("/api/keys", &key, body).status, expected, "{name}");
    }
    let own = limited.text("id");
    let widen = service.send("PATCH", &format!("/api/keys/{own}"), &key, Some(json!({ "scopes": null })));
    assert_eq!(widen.status, 403, "it cannot raise itself");
    let sibling =
        service.get("/api/keys", &alice).json()["tokens"].as_array().unwrap().last().unwrap()["id"].clone();
    let path = format!("/api/keys/{}", sibling.as_str().unwrap());
    assert_eq!(
        service.send("PATCH", &path, &key, Some(json!({ "name": "x" }))).status,
        403,
        "a stronger sibling"
    );
    assert_eq!(service.post(&format!("{path}/rotate"), &key, json!({})).status, 403);
}

#[test]
fn wrong_settings_refuse_to_start_with_a_sentence() {
    let folder = scratch();
    let corrupt = folder.path().join("corrupt.db");
    std::fs::write(&corrupt, vec![b'x'; 8192]).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&corrupt, private).unwrap();
    let corrupt = format!("sqlite:{}", corrupt.display());
    let double = format!("a:{OPS},b:{OPS}");
    for (name, value, says) in [
        ("API_TOKENS", "admin:secret", "too easy to guess"),
        ("API_TOKENS", "admin:", "no token"),
        ("API_TOKENS", &double, "repeats an earlier token"),
        ("KEYWARD_TRUSTED_PROXIES", "0.0.0.0/0", "trusts everybody"),
        ("KEYWARD_LISTEN", "nonsense", "an address and a port"),
        ("KEYWARD_DATABASE_URL", "mysql://x", "sqlite:PATH"),
        (
            "KEYWARD_DATABASE_URL",
            "postgres://k:s@db.example.com/keys?sslmode=prefer",
            "switch encryption off",
        ),
        ("KEYWARD_DATABASE_URL", "sqlite:/proc/nowhere/keys.db", "store"),
        ("KEYWARD_DATABASE_URL", &corrupt, "store"),
    ] {
        let output = Service::refused(folder.path(), &[(name, value)]);
        assert_eq!(output.code, Some(1), "{name}={value}: {output:?}");
        assert!(output.stderr.contains(says), "{name}={value}: {output:?}");
        assert!(!output.stderr.contains(OPS) && !output.stderr.contains("panicked"), "{output:?}");
    }
}

/// X06 and X07 of the tests of JSON Web Tokens.
#[test]
fn a_secret_that_others_know_refuses_to_start() {
    let folder = scratch();
    for secret in [
        "",
        " ",
        "secret",
        "changemechangemechangemechangeme",
        "a-string-secret-at-least-256-bits-long",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
        "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    ] {
        let names = [("JWT_ISSUER", "https://login.example"), ("JWT_AUDIENCE", "https://api.example")];
        let output = Service::refused(folder.path(), &[&[("JWT_SECRET", secret)], &names[..]].concat());
        assert_eq!(output.code, Some(1), "{secret}: {output:?}");
        assert!(
            output.stderr.contains("JWT_SECRET: ") && output.stderr.contains("openssl rand"),
            "{output:?}"
        );
        assert!(secret.len() < 12 || !output.stderr.contains(secret), "{output:?}");
        assert!(!output.stderr.contains("token.created"), "no key is made that nobody can use: {output:?}");
    }
}

#[test]
fn another_process_sees_a_revocation_within_a_second() {
    let folder = scratch();
    let one = Service::start(folder.path(), &[]);
    let two = Service::start(folder.path(), &[]);
    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        let (key, id) = issue(&one, &format!("user {round}"));
        assert_eq!(two.get("/whoami", &key).status, 200);
        assert_eq!(one.send("DELETE", &format!("/api/keys/{id}"), &key, None).status, 204);
        #[expect(clippy::disallowed_methods, reason = "measures another process")]
        let revoked = Instant::now();
        while two.get("/whoami", &key).status == 200 {
            assert!(revoked.elapsed() < Duration::from_secs(1), "still accepted after a second");
        }
        slowest = slowest.max(revoked.elapsed());
    }
    println!("slowest of 10 revocations seen by the other process: {slowest:?}");
}

/// Where all requests come from one address and many are refused on purpose.
const UNLIMITED: [(&str, &str); 1] = [("KEYWARD_MAX_FAILURES_PER_MINUTE", "0")];

/// Kills the service in the middle of writes, again and again: what it acknowledged must hold.
#[test]
fn no_acknowledged_write_is_lost_by_a_kill() {
    let rounds: usize = service_process::setting("KEYWARD_KILL_ROUNDS", 20);
    let folder = scratch();
    let mut service = Service::start(folder.path(), &UNLIMITED);
    let admin = service.admin_key.clone();
    let (mut live, mut dead, mut unknown) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        let killer = service.kill_after(Duration::from_millis(5 + (round as u64 * 37) % 95));
        loop {
            let body = json!({ "user_id": format!("user {round}"), "name": "k" });
            let Some(made) = service.try_send("POST", "/admin/tokens", &admin, Some(body)) else { break };
            assert_eq!(made.status, 201, "{made:?}");
            live.push((made.text("key"), made.text("id")));
            if (live.len() + dead.len() + unknown) % 3 == 0 {
                let (key, id) = live.remove(0);
                match service.try_send("DELETE", &format!("/api/keys/{id}"), &key, None) {
                    Some(Answer { status: 204, .. }) => dead.push((key, id)),
                    _ => unknown += 1,
                }
            }
        }
        killer.join().unwrap();
        service = Service::start(folder.path(), &UNLIMITED);
        assert!(service.admin_key.is_empty(), "the store is not empty");
        for (key, id) in live.iter().rev().take(20) {
            assert_eq!(
                service.get("/whoami", key).status,
                200,
                "an acknowledged key {id} is lost in round {round}"
            );
        }
        for (key, id) in dead.iter().rev().take(20) {
            assert_eq!(
                service.get("/whoami", key).status,
                401,
                "the revoked key {id} works in round {round}"
            );
        }
    }
    for (key, _) in &live {
        assert_eq!(service.get("/whoami", key).status, 200);
    }
    for (key, _) in &dead {
        assert_eq!(service.get("/whoami", key).status, 401);
    }
    println!(
        "{rounds} kills: {} keys work, {} are revoked, {unknown} answers were cut off",
        live.len(),
        dead.len()
    );
}

#[test]
fn who_guesses_is_told_to_wait_and_a_good_key_beside_it_works() {
    const WRONG: &str = "kw_live_10123456789ABCDEFGHIJKLMNOPQRSTU1G9zjb";
    let service = Service::start(scratch().path(), &[("KEYWARD_MAX_FAILURES_PER_MINUTE", "20")]);
    let (alice, _) = issue(&service, "alice");
    for _ in 0..20 {
        assert_eq!(service.get("/whoami", WRONG).status, 401);
    }
    for _ in 0..20 {
        let answer = service.get("/whoami", WRONG);
        assert_eq!(answer.status, 429);
        assert!((1..=60).contains(&answer.header("retry-after").parse::<u32>().unwrap()), "{answer:?}");
    }
    assert_eq!(service.get("/whoami", &service.admin_key).status, 200, "known");
    assert_eq!(service.get("/whoami", &alice).status, 200, "looked up");
    assert_eq!(service.get("/whoami", "").status, 401, "nothing presented");
    service.wait_for_alerts("brute_force", 1);

    let free = Service::start(scratch().path(), &[("KEYWARD_MAX_FAILURES_PER_MINUTE", "0")]);
    assert!((0..150).all(|_| free.get("/whoami", WRONG).status == 401));
}

#[test]
fn a_quota_outlives_the_service() {
    let folder = scratch();
    let first = Service::start(folder.path(), &[]);
    let limits =
        json!({ "rate": { "requests": 100, "seconds": 60 }, "quota": { "requests": 5, "per": "month" } });
    let body = json!({ "user_id": "alice", "name": "limited", "limits": limits });
    let made = first.post("/admin/tokens", &first.admin_key, body);
    assert_eq!((made.status, &made.json()["limits"]), (201, &limits), "{made:?}");
    let alice = made.text("key");
    for left in ["4", "3", "2"] {
        let answer = first.get("/whoami", &alice);
        let told = answer.header("ratelimit");
        assert!(answer.status == 200 && told.contains(&format!("\"quota\";r={left};")), "{answer:?}");
    }
    first.stop();
    let second = Service::start(folder.path(), &[]);
    let statuses: Vec<_> = (0..4).map(|_| second.get("/whoami", &alice).status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
}
