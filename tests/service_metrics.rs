//! `GET /metrics` of the example service, as a process of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod prometheus;
mod service_process;

use prometheus::Scrape;
use serde_json::json;
use service_process::{Answer, Service, scratch};

const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-tests-only";

/// What a scraper without any credential gets.
fn scrape(service: &Service) -> Scrape {
    let answer = service.get("/metrics", "");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    Scrape::read(&answer.body)
}

fn verdict(outcome: &str, method: &str, reason: &str) -> String {
    format!("keyward_verdicts_total{{outcome=\"{outcome}\",method=\"{method}\",reason=\"{reason}\"}}")
}

#[test]
fn prometheus_reads_the_service_and_finds_counts_but_nobody() {
    let folder = scratch();
    let settings = [
        ("JWT_SECRET", SECRET),
        ("JWT_ISSUER", "https://login.example"),
        ("JWT_AUDIENCE", "https://api.example"),
        ("ENABLE_LOGIN", "true"),
    ];
    let service = Service::start(folder.path(), &settings);
    let first = scrape(&service);
    assert_eq!(first.get(&verdict("accepted", "api_key", "none")), 0.0);
    assert_eq!(first.get("keyward_store_up"), 1.0);
    assert_eq!(first.get("keyward_audit_queue_capacity"), 1024.0);

    let made = json!({ "user_id": "alice-CANARY", "name": "laptop-CANARY" });
    let made = service.post("/admin/tokens", &service.admin_key, made);
    let (key, id) = (made.text("key"), made.text("id"));
    for _ in 0..3 {
        assert_eq!(service.get("/whoami", &key).status, 200);
    }
    assert_eq!(service.get("/whoami", "kw_live_1never-CANARY").status, 401);
    assert_eq!(service.get("/jobs/none-CANARY", "").status, 401);
    let login = service.post("/dev-login", "", json!({ "user_id": "bob-CANARY" }));
    let jwt = format!("Bearer {}", login.text("access_token"));
    assert_eq!(service.get("/whoami", &jwt).status, 200);
    assert_eq!(service.get("/admin/health", &key).status, 403);

    let second = scrape(&service);
    first.only_grew_to(&second);
    for (series, count) in [
        (&*verdict("accepted", "api_key", "none"), 5.0),
        (&verdict("accepted", "jwt", "none"), 1.0),
        (&verdict("refused", "api_key", "bad_checksum"), 1.0),
        (&verdict("refused", "none", "no_credential"), 1.0),
        ("keyward_guard_refusals_total{reason=\"missing_role\"}", 1.0),
        ("keyward_cache_requests_total{cache=\"api_key\",result=\"miss\"}", 2.0),
        ("keyward_cache_entries{cache=\"api_key\"}", 2.0),
        ("keyward_jwt_verification_duration_seconds_count", 1.0),
        ("keyward_verdict_duration_seconds_count{method=\"api_key\"}", 2.0),
    ] {
        assert_eq!(second.get(series), count, "{series} in\n{}", second.text);
    }
    for secret in ["CANARY", &key, &key[10..24], &service.admin_key, &id, "127.0.0.1", "whoami"] {
        assert!(secret.len() > 4 && !second.text.contains(secret), "{secret} in\n{}", second.text);
    }
    scrape(&service).only_grew_to(&scrape(&service));

    assert_eq!(service.send("POST", "/metrics", "", None).status, 405);
    assert_eq!(service.get("/metrics/", "").status, 404);
    assert_eq!(service.stop().code, Some(0));
}

/// Somebody found keys, and reads the numbers before and after presenting them: nothing tells a trap from a key that
/// was never issued.
#[test]
fn nobody_learns_from_the_numbers_what_a_refusal_does_not_say() {
    let folder = scratch();
    let service = Service::start(folder.path(), &[]);
    let admin = service.admin_key.clone();
    let made = |body| service.post("/admin/tokens", &admin, body);
    let trap = made(json!({ "user_id": "ops", "name": "trap", "honeytoken": true })).text("key");
    let revoked = made(json!({ "user_id": "ops", "name": "old" }));
    let gone = service.send("DELETE", &format!("/admin/tokens/{}", revoked.text("id")), &admin, None);
    assert!(gone.status < 300, "{gone:?}");
    let keys = [trap, revoked.text("key"), "kw_live_1never".to_owned()];
    let sorted = |answer: &Answer| {
        let mut lines: Vec<_> = answer.body.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let proxy = ("X-Forwarded-For", "192.0.2.1");
    for stranger in [proxy, ("Forwarded", "for=192.0.2.1"), ("Via", "1.1 proxy"), ("X-Real-IP", "192.0.2.1")]
    {
        let read = || service.with_headers("GET", "/metrics", &[stranger]);
        let first = read();
        assert_eq!(first.status, 200);
        assert!(first.body.contains("keyward_store_up 1"), "{}", first.body);
        for key in &keys {
            assert_eq!(service.get("/whoami", key).status, 401);
            assert_eq!(sorted(&read()), sorted(&first));
        }
    }
    assert_eq!(scrape(&service).get(&verdict("refused", "api_key", "honeytoken")), 4.0);
    let through_proxy = |key: &str| service.with_headers("GET", "/metrics", &[proxy, ("X-API-Key", key)]);
    assert!(through_proxy(&admin).body.contains("honeytoken"), "an administrator sees all");
    let other = made(json!({ "user_id": "ops", "name": "own" })).text("key");
    assert!(!through_proxy(&other).body.contains("honeytoken"));
}
