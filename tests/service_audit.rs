//! The audit log of the example service from outside: real processes, a real SQLite file, and a program that
//! knows nothing of keyward to verify it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

mod service_process;

use std::{path::Path, process::Command, time::Duration};

use keyward::{
    AdminProof,
    audit::{AuditLog, ChainHead, Verified},
    store::{AuditStore, SqliteStore},
};
use serde_json::{Value, json};
use service_process::{Service, scratch, setting};

/// Goes along the chain with this crate.
fn verified(folder: &Path, noted: Option<ChainHead>) -> Verified {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(folder.join("keyward.db")).await.unwrap();
        let proof = AdminProof::operator("test", "after a kill").unwrap();
        AuditLog::new(store).1.verify(&proof, noted).await.unwrap()
    })
}

/// Goes along the chain with the program of the documentation.
fn verified_by_python(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit/verify.py");
    let mut command = Command::new("python3");
    let output = command.arg(program).arg(folder.join("keyward.db")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap().trim().to_owned())
}

fn events(answer: &Value) -> Vec<&str> {
    answer["entries"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect()
}

#[test]
fn what_happened_is_in_the_log_and_stays_there() {
    let folder = scratch();
    let service = Service::start(folder.path(), &[]);
    let admin = service.admin_key.clone();
    let made = service.post("/admin/tokens", &admin, json!({ "user_id": "alice", "name": "first" }));
    let (alice, id) = (made.text("key"), made.text("id"));
    assert_eq!(service.post("/jobs", &alice, json!({ "name": "build" })).status, 201);
    assert_eq!(service.get("/users/bob/jobs", &alice).status, 404);
    assert_eq!(service.get("/whoami", "kw_live_junk").status, 401);
    assert_eq!(service.get("/admin/audit", &alice).status, 403);
    assert_eq!(service.get("/admin/audit", "").status, 401);

    let log = service.get("/admin/audit?user_id=alice", &admin).json();
    let expected = ["access.refused", "access.refused", "foreign_access", "token.created"];
    assert_eq!(events(&log), expected, "the two refusals are a missing role and a foreign list: {log}");
    assert_eq!(
        (&log["entries"][3]["actor"], &log["entries"][3]["token_id"]),
        (&json!("keyward:admin"), &json!(id))
    );
    assert_eq!(log["entries"][2]["client_ip"], "127.0.0.1");
    assert_eq!((&log["entries"][2]["alert"], &log["entries"][2]["user_id"]), (&json!(true), &json!("bob")));
    service.wait_for_alerts("foreign_access", 1);

    assert_eq!(service.send("DELETE", &format!("/api/keys/{id}"), &alice, None).status, 204);
    let output = service.stop();
    assert_eq!(output.code, Some(0), "{output:?}");
    let (whole, says) = verified_by_python(folder.path(), &[]);
    assert!(whole, "{says}");
    let verified = verified(folder.path(), None);
    assert_eq!(says, format!("{} entries, {}", verified.entries, verified.head), "two programs agree");

    let service = Service::start(folder.path(), &[]);
    let log = service.get("/admin/audit?limit=200", &admin).json();
    assert!(events(&log).contains(&"token.revoked"), "what happened just before the end: {log}");
    assert_eq!(events(&log).last(), Some(&"tokens.listed"), "the log begins with the first start");
    let noted = verified.head.to_string();
    assert!(verified_by_python(folder.path(), &[&noted]).0);
    let forged = ChainHead { number: verified.head.number, ..ChainHead::START }.to_string();
    let (whole, says) = verified_by_python(folder.path(), &[&forged]);
    assert!(!whole && says.ends_with("is not the one that was noted"), "{says}");
}

/// Kills the service in the middle of writes, again and again.
#[test]
fn a_killed_writer_leaves_a_whole_chain() {
    let folder = scratch();
    let (mut admin, mut noted) = (String::new(), None);
    for round in 0..setting("KEYWARD_KILL_ROUNDS", 10) {
        let service = Service::start(folder.path(), &[]);
        if admin.is_empty() {
            admin = service.admin_key.clone();
        }
        let killer = service.kill_after(Duration::from_millis(50 + (round as u64 * 97) % 300));
        let mut requests = 0_u32;
        while service.try_send("GET", "/whoami", "kw_live_junk", None).is_some() {
            requests += 1;
            let body = json!({ "user_id": "alice", "name": "k" });
            service.try_send("POST", "/admin/tokens", &admin, Some(body));
        }
        killer.join().unwrap();
        let verified = verified(folder.path(), noted);
        assert!(requests == 0 || noted.is_none_or(|noted| verified.head.number > noted.number));
        noted = Some(verified.head);
    }
    let (whole, says) = verified_by_python(folder.path(), &[&noted.unwrap().to_string()]);
    assert!(whole, "{says}");
    println!("{says}");
}

/// What takes no credential must not fill the disk: refusals are counted, and nothing is kept for ever.
#[test]
#[cfg_attr(not(debug_assertions), ignore = "a release build does not let its time be set")]
fn the_log_is_kept_for_ninety_days_unless_it_shall_be_longer() {
    let folder = scratch();
    let clock = folder.path().join("clock");
    let run = |day: &str, settings: &[(&str, &str)]| {
        std::fs::write(&clock, format!("{day}T12:00:00Z")).unwrap();
        let time = ("KEY_SERVICE_TEST_CLOCK", clock.to_str().unwrap());
        let service = Service::start(folder.path(), &[&[time], settings].concat());
        for _ in 0..200 {
            assert_eq!(service.get("/whoami", "").status, 401);
        }
        assert_eq!(service.stop().code, Some(0));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = runtime.block_on(SqliteStore::open(folder.path().join("keyward.db"))).unwrap();
        runtime.block_on(store.entries_after(0, 1000)).unwrap()
    };
    let entries = run("2026-01-01", &[]);
    let refused = entries.iter().filter(|entry| &*entry.event == "access.refused");
    assert_eq!(refused.map(|entry| entry.count).collect::<Vec<_>>(), [None, Some(199)]);
    let first = entries.first().unwrap().at;
    assert_eq!(run("2026-05-01", &[("KEYWARD_AUDIT_RETENTION_DAYS", "0")]).first().unwrap().at, first);
    assert!(run("2026-05-02", &[]).first().unwrap().at > first);
}

#[test]
fn two_processes_on_one_file_write_one_chain() {
    let folder = scratch();
    let one = Service::start(folder.path(), &[]);
    let two = Service::start(folder.path(), &[]);
    let admin = one.admin_key.clone();
    std::thread::scope(|scope| {
        for service in [&one, &two] {
            let admin = &admin;
            scope.spawn(move || {
                for _ in 0..100 {
                    assert_eq!(service.get("/api/keys", admin).status, 200);
                }
            });
        }
    });
    let log = two.get("/admin/audit?event=tokens.listed&limit=200", &admin).json();
    let seen = events(&log).len();
    assert!((100..=200).contains(&seen), "all of its own, and what the other has written: {seen}");
    assert_eq!((one.stop().code, two.stop().code), (Some(0), Some(0)));
    let verified = verified(folder.path(), None);
    assert!(verified.entries >= 200, "{verified:?}");
    let (whole, says) = verified_by_python(folder.path(), &[]);
    assert!(whole && says.starts_with(&format!("{} entries", verified.entries)), "{says}");
}
