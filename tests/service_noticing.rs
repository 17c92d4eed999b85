//! The example service notices who uses a key: a real process, behind a proxy that it trusts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod service_process;

use serde_json::json;
use service_process::{Service, scratch};

const PROXY: (&str, &str) = ("KEYWARD_TRUSTED_PROXIES", "127.0.0.1");

/// Only the first use is learnt.
const STRICT: (&str, &str) = ("KEYWARD_WATCH_LEARNING_HOURS", "0");

/// A use of `key` from `address`, by `agent`.
fn visit(service: &Service, key: &str, address: &str, agent: &str) -> u16 {
    let headers = [("X-API-Key", key), ("X-Forwarded-For", address), ("User-Agent", agent)];
    service.with_headers("GET", "/whoami", &headers).status
}

#[test]
fn another_network_another_program_and_a_shared_key_are_told_once() {
    let folder = scratch();
    let service = Service::start(folder.path(), &[PROXY, STRICT]);
    let admin = service.admin_key.clone();
    let made = service.post("/admin/tokens", &admin, json!({ "user_id": "alice", "name": "first" }));
    let (key, id) = (made.text("key"), made.text("id"));
    for _ in 0..3 {
        assert_eq!(visit(&service, &key, "192.0.2.7", "curl/8.5.0"), 200);
        assert_eq!(visit(&service, &key, "192.0.2.7", "curl/8.6.0"), 200);
    }
    assert_eq!(service.alerts(""), 0, "the first use is learnt");
    for _ in 0..3 {
        assert_eq!(visit(&service, &key, "198.51.100.9", "curl/8.6.0"), 200);
        assert_eq!(visit(&service, &key, "192.0.2.7", "evil-fetcher/1.0"), 200);
    }
    service.wait_for_alerts("new_network", 1);
    service.wait_for_alerts("new_user_agent", 1);
    service.wait_for_line(&["security alert", "new_network", &id, "198.51.100.9"]);
    service.wait_for_line(&["security alert", "new_user_agent", &id, "evil-fetcher/1.0"]);
    for round in 0..3 {
        for n in 1..=4 {
            assert_eq!(visit(&service, &key, &format!("203.0.{n}.1"), "curl/8.6.0"), 200, "{round}");
        }
    }
    service.wait_for_alerts("shared_token", 1);
    service.wait_for_alerts("new_network", 3);
    let log = service.get("/admin/audit?user_id=alice&event=shared_token", &admin).json();
    assert_eq!(
        (&log["entries"][0]["count"], &log["entries"][0]["token_id"]),
        (&json!(5), &json!(id)),
        "{log}"
    );
    assert_eq!(service.stop().code, Some(0));

    let service = Service::start(folder.path(), &[PROXY, STRICT]);
    for (address, agent) in [("198.51.100.9", "curl/9"), ("203.0.2.1", "evil-fetcher/2")] {
        assert_eq!(visit(&service, &key, address, agent), 200);
    }
    assert_eq!(visit(&service, &key, "203.0.99.1", "curl/9"), 200, "while it is shared, one more is no news");
    assert_eq!(visit(&service, &key, "203.0.99.1", &format!("x {key}")), 200);
    service.wait_for_alerts("new_user_agent", 1);
    let output = service.stop();
    assert!(!output.stderr.contains("new_network") && !output.stderr.contains(&key), "{output:?}");
}

#[test]
fn a_trap_is_set_by_an_administrator_and_answers_like_any_wrong_key() {
    let folder = scratch();
    let service = Service::start(folder.path(), &[PROXY]);
    let admin = service.admin_key.clone();
    let body = json!({ "user_id": "ops", "name": "backup upload", "honeytoken": true });
    let made = service.post("/admin/tokens", &admin, body);
    assert_eq!((made.status, &made.json()["honeytoken"]), (201, &json!(true)));
    let (trap, id) = (made.text("key"), made.text("id"));
    let wrong = service.get("/whoami", "kw_live_junk");
    for _ in 0..3 {
        assert_eq!(service.get("/whoami", &trap), wrong, "byte for byte");
    }
    assert_eq!(visit(&service, &trap, "198.51.100.66", "curl/8"), 401);
    service.wait_for_alerts("honeytoken_used", 1);
    service.wait_for_line(&["security alert", "honeytoken_used", &id]);
    let list = service.get("/admin/tokens?user_id=ops", &admin).json();
    assert_eq!(
        (&list["tokens"][0]["honeytoken"], &list["tokens"][0]["status"]),
        (&json!(true), &json!("active"))
    );
    let output = service.stop();
    assert!(!output.stderr.contains(&trap));
}

#[test]
fn what_is_switched_off_says_nothing() {
    let folder = scratch();
    let service = Service::start(folder.path(), &[PROXY, ("KEYWARD_WATCH", "false"), STRICT]);
    let made = service.post("/admin/tokens", &service.admin_key, json!({ "user_id": "a", "name": "x" }));
    for n in 0..20 {
        assert_eq!(visit(&service, &made.text("key"), &format!("203.0.{n}.1"), &"x".repeat(n + 1)), 200);
    }
    assert!(!service.stop().stderr.contains("security alert"));
}
