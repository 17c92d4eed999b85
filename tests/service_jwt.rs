//! JSON Web Tokens in the example service, as a process of its own.

mod service_process;

use std::time::Duration;

use keyward::testing::{FakeIssuer, IssuerMode};
use serde_json::json;

use service_process::{Service, scratch};

const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-tests-only";

const OWN: [(&str, &str); 3] = [
    ("JWT_SECRET", SECRET),
    ("JWT_ISSUER", "https://login.example"),
    ("JWT_AUDIENCE", "https://api.example"),
];

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn a_developer_logs_in_where_that_was_asked_for_and_nowhere_else() {
    let off = scratch();
    let off = Service::start(off.path(), &OWN);
    assert_eq!(off.post("/dev-login", "", json!({ "user_id": "alice" })).status, 404, "off by default");
    assert!(!off.has_logged(&["dev-login"]));

    let folder = scratch();
    let service = Service::start(folder.path(), &[&OWN[..], &[("ENABLE_LOGIN", "true")]].concat());
    assert!(service.has_logged(&["WARN", "ENABLE_LOGIN is on"]), "it says loudly that it is open");
    let login = service.post("/dev-login", "", json!({ "user_id": "alice" }));
    assert_eq!((login.status, login.header("access-control-allow-origin")), (200, String::new()));
    assert_eq!(login.json()["expires_in"], 3600);
    assert_eq!(login.header("cache-control"), "no-store");
    let alice = bearer(&login.text("access_token"));

    let me = service.get("/whoami", &alice).json();
    assert_eq!(
        (&me["user_id"], &me["method"], &me["scopes"]),
        (&json!("alice"), &json!("jwt"), &json!(null))
    );
    // Keys that are made by a token belong to the same owner.
    let key = service.post("/api/keys", &alice, json!({ "name": "laptop" }));
    assert_eq!(key.status, 201);
    assert_eq!(service.get("/whoami", &key.text("key")).text("user_id"), "alice");
    // Another secret's token, and this one in another header.
    let other = scratch();
    let settings = [("JWT_SECRET", "b81Zt4Wm6Qe9Xc2Rv7Ny0Ps3Ld5Ka1Gf-tests-only"), ("ENABLE_LOGIN", "true")];
    let other = Service::start(other.path(), &[&settings[..], &OWN[1..]].concat());
    let forged = bearer(&other.post("/dev-login", "", json!({ "user_id": "alice" })).text("access_token"));
    assert_eq!(service.get("/whoami", &forged).status, 401);
    assert_eq!(service.get("/whoami", alice.trim_start_matches("Bearer ")).status, 401);

    for user in ["keyward:admin", "static:0123456789abcdef"] {
        assert_eq!(service.post("/dev-login", "", json!({ "user_id": user })).status, 400, "{user}");
    }
    let admin = service.post("/dev-login", "", json!({ "user_id": "root", "roles": ["admin"] }));
    assert_eq!(service.get("/admin/tokens", &bearer(&admin.text("access_token"))).status, 200);
    assert_eq!(service.get("/admin/tokens", &alice).status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_provider_is_believed_once_its_keys_are_there() {
    let provider = FakeIssuer::start().await;
    provider.set_mode(IssuerMode::Down);
    let (issuer, folder) = (provider.issuer(), scratch());
    let settings = [("KEYWARD_OIDC_ISSUER", &*issuer), ("KEYWARD_OIDC_AUDIENCE", FakeIssuer::AUDIENCE)];
    let service = Service::start(folder.path(), &settings);
    let token = bearer(&provider.token(json!({ "sub": "alice", "roles": ["admin"] })));
    assert_eq!(service.get("/ready", "").status, 503, "no keys yet");
    assert_eq!(service.get("/health", "").status, 200);
    assert_eq!(service.get("/whoami", &token).status, 503, "nobody is told that their token is bad");
    assert_eq!(service.get("/whoami", &service.admin_key).status, 200, "keys work meanwhile");
    service.wait_for_alerts("keys_unavailable", 1);

    provider.set_mode(IssuerMode::Up);
    let until_ready = async {
        while service.get("/ready", "").status != 200 {
            // It asks again by itself; there is no event to await in another process.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), until_ready).await.unwrap();
    let me = service.get("/whoami", &token).json();
    assert_eq!((&me["user_id"], &me["roles"]), (&json!("alice"), &json!(["admin"])));
    assert_eq!(service.get("/admin/tokens", &token).status, 200);

    // Beside tokens of its own the provider's users have names of their own.
    let both = scratch();
    let both = Service::start(both.path(), &[&settings[..], &OWN[..], &[("ENABLE_LOGIN", "true")]].concat());
    assert_eq!(both.get("/whoami", &token).text("user_id"), format!("{issuer}#alice"));
    let own = both.post("/dev-login", "", json!({ "user_id": "alice" })).text("access_token");
    assert_eq!(both.get("/whoami", &bearer(&own)).text("user_id"), "alice");
    let forged = own_token_for(&both, &format!("{issuer}#alice"));
    assert_eq!(both.get("/whoami", &forged).status, 401, "one issuer speaks for no user of another");
}

fn own_token_for(service: &Service, user: &str) -> String {
    bearer(&service.post("/dev-login", "", json!({ "user_id": user })).text("access_token"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_by_url_or_file_is_for_the_named_issuer() {
    let provider = FakeIssuer::start().await;
    let (url, folder) = (provider.jwks_url(), scratch());
    let file = folder.path().join("keys.json");
    let keys =
        keyward::jwt::JwtIssuer::ed25519(b"7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N", OWN[1].1, OWN[2].1).unwrap();
    std::fs::write(&file, keys.jwks()).unwrap();
    let by_file = keys.token(&keyward::UserId::new("alice").unwrap()).unwrap();
    let by_url = provider.token(json!({ "sub": "alice", "iss": OWN[1].1, "aud": OWN[2].1 }));
    for (name, value, good, bad) in [
        ("KEYWARD_JWKS_URL", &*url, &by_url, &by_file),
        ("KEYWARD_JWKS_FILE", file.to_str().unwrap(), &by_file, &by_url),
    ] {
        let folder = scratch();
        let service = Service::start(folder.path(), &[&OWN[1..], &[(name, value)]].concat());
        assert_eq!(service.get("/whoami", &bearer(good)).text("user_id"), "alice", "{name}");
        assert_eq!(service.get("/whoami", &bearer(bad)).status, 401, "{name}");
    }
}

/// A refused start names the variable, and shows no admin key that would be lost.
#[test]
fn half_a_setting_refuses_to_start_before_anything_is_shown() {
    let own = |more: &[(&'static str, &'static str)]| [&OWN[..], more].concat();
    for (settings, name) in [
        (vec![("JWT_SECRET", SECRET)], "JWT_ISSUER"),
        (vec![("JWT_ISSUER", "https://login.example")], "JWT_ISSUER"),
        (vec![("KEYWARD_JWT_LEEWAY_SECONDS", "60")], "KEYWARD_JWT_LEEWAY_SECONDS"),
        (vec![("ENABLE_LOGIN", "true")], "JWT_SECRET"),
        (own(&[("KEYWARD_JWT_LEEWAY_SECONDS", "301")]), "KEYWARD_JWT_LEEWAY_SECONDS"),
        (own(&[("ENABLE_LOGIN", "true"), ("JWT_TTL_MINUTES", "2000")]), "JWT_TTL_MINUTES"),
        (own(&[("KEYWARD_JWKS_FILE", "absent.json")]), "KEYWARD_JWKS_FILE"),
        (vec![OWN[1], OWN[2], ("KEYWARD_JWKS_URL", "http://keys.example")], "KEYWARD_JWKS_URL"),
        (vec![OWN[2], ("KEYWARD_OIDC_ISSUER", "login.example")], "KEYWARD_OIDC_ISSUER"),
        (vec![OWN[1], OWN[2], ("KEYWARD_OIDC_ISSUER", "https://login.example")], "JWT_ISSUER"),
        (own(&[("KEYWARD_OIDC_ISSUER", "https://login.example")]), "KEYWARD_OIDC_ISSUER"),
        (vec![("KEYWARD_LISTEN", "127.0.0.1:99999")], "KEYWARD_LISTEN"),
    ] {
        let folder = scratch();
        let output = Service::refused(folder.path(), &settings);
        assert_eq!(output.code, Some(1), "{settings:?}: {output:?}");
        assert!(output.stderr.contains(name), "{settings:?}: {output:?}");
        assert!(!output.stdout.contains("admin key"), "{settings:?}: {output:?}");
        assert!(!output.stderr.contains(SECRET));
        // The next start shows the key.
        assert!(!Service::start(folder.path(), &[]).admin_key.is_empty(), "{settings:?}");
    }
}
