//! Several processes of the example service on one file and one Redis server: a revocation reaches all of them, and a
//! limit is one limit, also when the server goes away in the middle.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod redis_server;
mod service_process;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use redis_server::Server;
use serde_json::json;
use service_process::{Service, scratch};

fn start(url: &str, instances: usize) -> Vec<Service> {
    let folder = scratch();
    (0..instances).map(|_| Service::start(folder.path(), &[("KEYWARD_REDIS_URL", url)])).collect()
}

/// How many of so many requests to each, one after the other at each and at all of them at once, are let in.
fn admitted(instances: &[Service], key: &str, requests: usize) -> usize {
    let admitted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for instance in instances {
            scope.spawn(|| {
                for _ in 0..requests {
                    let status = instance.get("/whoami", key).status;
                    assert!(matches!(status, 200 | 429), "{status}");
                    admitted.fetch_add(usize::from(status == 200), Ordering::Relaxed);
                }
            });
        }
    });
    admitted.into_inner()
}

fn limited_key(instance: &Service, admin: &str) -> String {
    let limits = json!({"rate": {"requests": 100, "seconds": 60}});
    let body = json!({"user_id": "alice", "name": "limited", "limits": limits});
    instance.post("/admin/tokens", admin, body).text("key")
}

/// How many more a limit of 100 a minute may have let in since then.
fn refilled(since: Instant) -> usize {
    (since.elapsed().as_millis() / 600) as usize + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_are_one() {
    let Some(mut server) = Server::start().await else { return };
    let instances = Arc::new(start(&server.url(), 3));
    let [first, second, third] = &instances[..] else { panic!("three") };
    let admin = &first.admin_key;
    assert_eq!(first.get("/admin/health", admin).json()["redis"], "ok");

    let key = limited_key(first, admin);
    let begun = Instant::now();
    let all = admitted(&instances, &key, 100);
    println!("of 300 at three processes: {all} within {:?}", begun.elapsed());
    assert!((100..=100 + refilled(begun)).contains(&all), "{all}");

    // Restarted while requests come in.
    let key = limited_key(first, admin);
    let begun = Instant::now();
    let asking = std::thread::spawn({
        let (instances, key) = (instances.clone(), key.clone());
        move || admitted(&instances, &key, 100)
    });
    server.kill();
    let gone = Instant::now();
    server.restart().await;
    let gone = gone.elapsed();
    let all = asking.join().unwrap() + admitted(&instances, &key, 20);
    println!("with Redis gone for {gone:?} in the middle: {all} of 360 within {:?}", begun.elapsed());
    // A request waits for a tenth of a second. Beyond that each of them has what was left when it last asked.
    let most = if gone < Duration::from_millis(70) { 103 } else { 300 };
    assert!((100..=most + refilled(begun)).contains(&all), "{all}");

    // A key that is used everywhere, and revoked at one of them.
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let made = first.post("/admin/tokens", admin, json!({"user_id": "alice", "name": "laptop"})).json();
        let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
        assert!(instances.iter().all(|instance| instance.get("/whoami", key).status == 200));
        assert!(second.send("DELETE", &format!("/admin/tokens/{id}"), admin, None).status < 300);
        let begun = Instant::now();
        for instance in [second, first, third] {
            while instance.get("/whoami", key).status != 401 {
                assert!(begun.elapsed() < Duration::from_secs(1), "a revocation reaches all within a second");
            }
        }
        slowest = slowest.max(begun.elapsed());
    }
    println!("a revocation reaches all within {slowest:?}");

    server.kill();
    assert_eq!(second.get("/ready", "").status, 200, "it goes on");
    let health = second.get("/admin/health", admin).json();
    assert_eq!((&health["status"], &health["redis"]), (&json!("degraded"), &json!("unavailable")));
    for instance in Arc::into_inner(instances).unwrap() {
        let output = instance.stop();
        assert_eq!(output.code, Some(0), "{}", output.stderr);
    }
}

#[test]
fn its_password_is_shown_nowhere() {
    let folder = scratch();
    let url = "redis://keyward:s3cr3t-pa55@127.0.0.1:1/0";
    let settings = [("KEYWARD_REDIS_URL", url), ("RUST_LOG", "trace"), ("KEYWARD_DATABASE_URL", "memory:")];
    let shown = Service::run(folder.path(), &settings, &["--print-config"]);
    assert!(shown.stdout.contains("redis_url") && !shown.stdout.contains("s3cr3t"), "{}", shown.stdout);
    let service = Service::start(folder.path(), &settings);
    let key = limited_key(&service, &service.admin_key);
    assert_eq!(service.get("/whoami", &key).status, 200, "without a server limits are its own");
    let output = service.stop();
    assert!(output.stderr.contains("127.0.0.1:1") && !output.stderr.contains("s3cr3t"), "{}", output.stderr);
    for url in ["redis://u:s3cr3t@", "s3cr3t@cache", ""] {
        let refused = Service::run(folder.path(), &[("KEYWARD_REDIS_URL", url)], &["--print-config"]);
        let text = format!("{}{}", refused.stdout, refused.stderr);
        assert!(!text.contains("s3cr3t"), "{text}");
        assert_ne!(refused.code, Some(0), "{text}");
    }
}
