//! The example service's settings, as a process of its own in a folder with a `keyward.toml`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod service_process;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use service_process::{Output, Service, scratch};

const CANARY: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-canary";

fn write(folder: &Path, text: &str) {
    fs::write(folder.join("keyward.toml"), text).unwrap();
    fs::set_permissions(folder.join("keyward.toml"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn print_config(folder: &Path, settings: &[(&str, &str)]) -> Output {
    Service::run(folder, settings, &["--print-config"])
}

/// The line about a setting, with single spaces.
fn line(output: &Output, key: &str) -> String {
    let mut lines = output.stdout.lines().filter(|line| line.split(' ').next() == Some(key));
    let line = lines.next().unwrap_or_else(|| panic!("no {key}: {output:?}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_variable_wins_over_the_file_and_the_file_over_the_default() {
    let folder = scratch();
    write(folder.path(), "debug_ownership = true\nadmin_users = ['carol']\nlisten = 'nonsense'\n");
    let output = print_config(folder.path(), &[("KEYWARD_ADMIN_USERS", "alice, bob")]);
    assert_eq!(output.code, Some(0), "{output:?}");
    for (key, expected) in [
        ("admin_users", "admin_users alice, bob environment variable KEYWARD_ADMIN_USERS"),
        ("listen", "listen 127.0.0.1:0 environment variable KEYWARD_LISTEN"),
        ("debug_ownership", "debug_ownership true keyward.toml, line 1"),
        ("database_url", "database_url sqlite:keyward.db default"),
        ("jwt.secret", "jwt.secret not set"),
    ] {
        assert_eq!(line(&output, key), expected);
    }
    assert!(!folder.path().join("keyward.db").exists(), "it only looks");

    let path = "/api/keys/debug/ownership";
    let service = Service::start(folder.path(), &[]);
    assert_eq!(service.get(path, &service.admin_key).status, 200, "by the file");
    let key = service.admin_key.clone();
    service.stop();
    let service = Service::start(folder.path(), &[("KEYWARD_DEBUG_OWNERSHIP", "false")]);
    assert_eq!(service.get(path, &key).status, 404, "by the variable");
    service.stop();
    let service = Service::start(folder.path(), &[("KEYWARD_DEBUG_OWNERSHIP", "")]);
    assert_eq!(service.get(path, &key).status, 200, "an empty variable is none");
}

/// Every variable can stand in the file, too.
#[test]
fn the_whole_service_can_be_set_by_the_file() {
    let folder = scratch();
    let file = r#"
        listen = "127.0.0.1:0"
        database_url = "memory:"
        redis_url = "redis://:b81Zt4@127.0.0.1/2"
        api_tokens = "ops:b81Zt4Wm6Qe9Xc2Rv7Ny0Ps3Ld5Ka1Gf"
        admin_users = ["ops", "alice"]
        trusted_proxies = ["10.0.0.0/8", "::1"]
        client_ip_header = "Forwarded"
        debug_ownership = true
        max_failures_per_minute = 0
        watch = false
        watch_learning_hours = 24
        audit_retention_days = 365
        bootstrap = "register"
        enable_login = true
        allow_dev_login_in_release = true
        [emergency]
        key_sha256 = "bd913ff68243d41b9611b2690dfbf2b0f6e42ea14536a98232af60e9f64ffdaa"
        ips = ["10.0.0.0/8"]
        until = 2030-01-01T00:00:00Z
        [jwt]
        secret = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-canary"
        issuer = "https://login.example"
        audience = "https://api.example"
        ttl_minutes = 5
        leeway_seconds = 10
        [jwks]
        file = "keys.json"
        cooldown_seconds = 60
    "#;
    write(folder.path(), file);
    // The key of RFC 8037, appendix A.2.
    let keys =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    std::fs::write(folder.path().join("keys.json"), keys).unwrap();
    let output = print_config(folder.path(), &[]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let other_source = |line: &&str| !line.contains("keyward.toml, line");
    let others: Vec<_> =
        output.stdout.lines().filter(other_source).map(|line| line.split(' ').next()).collect();
    // The tests' own variable, and what cannot stand beside the rest.
    let expected = ["config", "listen", "oidc.issuer", "oidc.audience", "jwks.url"];
    assert_eq!(others, expected.map(Some), "{output:?}");
    assert!(!output.stdout.contains(CANARY) && !output.stdout.contains("b81Zt4"), "{output:?}");
}

#[test]
fn all_mistakes_are_told_in_one_go_and_no_secret_with_them() {
    let folder = scratch();
    let file = format!(
        "admin_user = ['x']\ndebug_ownership = 'yes'\n[jwt]\nsecert = '{CANARY}'\nttl_minutes = 0\nissuer = ''\n"
    );
    write(folder.path(), &file);
    let settings = [
        ("KEYWARD_MAX_FAILURES_PER_MINUTE", "many"),
        ("KEYWARD_DATABASE_URL", "mysql://x"),
        ("KEYWARD_BOOTSTRAPP", CANARY),
        ("API_TOKENS", CANARY.get(..10).unwrap()),
    ];
    for output in [Service::refused(folder.path(), &settings), print_config(folder.path(), &settings)] {
        assert_eq!((output.code, &*output.stdout), (Some(1), ""), "{output:?}");
        let expected = "key_service: 9 settings are wrong:
- admin_user (keyward.toml, line 1): not known; the nearest is admin_users
- debug_ownership (keyward.toml, line 2): must be `true` or `false`
- jwt.secert (keyward.toml, line 4): not known; the nearest is jwt.secret
- jwt.ttl_minutes (keyward.toml, line 5): must be a whole number from 1 to 1440
- jwt.issuer (keyward.toml, line 6): empty; unset it, or give it a value
- jwt.issuer (keyward.toml, line 6): needs keys: set JWT_SECRET, KEYWARD_OIDC_ISSUER, KEYWARD_JWKS_URL or KEYWARD_JWKS_FILE
- environment variable API_TOKENS: entry 1 of the static token list ";
        assert!(output.stderr.starts_with(expected), "{}", output.stderr);
        for end in [
            "\n- environment variable KEYWARD_DATABASE_URL: must be `sqlite:PATH`, `postgres://user:password@host/database` \
             or `memory:`\n",
            "\n- environment variable KEYWARD_MAX_FAILURES_PER_MINUTE: must be a whole number from 0 to 4294967295\n",
            "\nwarning: environment variable KEYWARD_BOOTSTRAPP: not known, so without effect; the nearest is \
             KEYWARD_BOOTSTRAP\n",
        ] {
            assert!(output.stderr.contains(end), "{end}: {}", output.stderr);
        }
        assert!(!output.stderr.contains("7f3aX91kQw"), "{output:?}");
    }
    assert!(!folder.path().join("keyward.db").exists(), "nothing was begun");
}

/// Where the service listens and where keys come from is checked with all the rest, before anything is begun.
#[test]
fn addresses_and_keys_are_checked_with_all_other_settings() {
    let folder = scratch();
    write(folder.path(), "");
    std::fs::write(folder.path().join("keys.json"), "{}").unwrap();
    let settings = [
        ("KEYWARD_LISTEN", "nonsense"),
        ("KEYWARD_JWKS_URL", "http://idp.example/k"),
        ("JWT_SECRET", "short"),
        ("KEYWARD_CLIENT_IP_HEADER", "X-Real-IP"),
        ("KEYWARD_EMERGENCY_IPS", "office"),
        ("ENABLE_LOGIN", "maybe"),
    ];
    for output in [Service::refused(folder.path(), &settings), print_config(folder.path(), &settings)] {
        for start in [
            "- environment variable KEYWARD_LISTEN: must be an address and a port",
            "- environment variable KEYWARD_JWKS_URL: a URL of keys must begin with `https://`",
            "- environment variable JWT_SECRET: needs JWT_ISSUER and JWT_AUDIENCE",
            "- environment variable KEYWARD_CLIENT_IP_HEADER: needs KEYWARD_TRUSTED_PROXIES",
            "- environment variable KEYWARD_EMERGENCY_IPS: needs KEYWARD_EMERGENCY_KEY_SHA256",
            "- environment variable KEYWARD_EMERGENCY_IPS: an address list holds",
            "- environment variable ENABLE_LOGIN: must be `true` or `false`",
        ] {
            assert!(output.stderr.contains(start), "{start}: {}", output.stderr);
        }
    }
    for (name, value) in [
        ("KEYWARD_JWKS_FILE", "keys.json"),
        ("KEYWARD_JWKS_FILE", "absent.json"),
        ("KEYWARD_OIDC_ISSUER", "login.example"),
        ("KEYWARD_LISTEN", "localhost"),
        ("KEYWARD_LISTEN", "[::1:80"),
        ("KEYWARD_LISTEN", "::1:80"),
        ("KEYWARD_LISTEN", ":80"),
    ] {
        let variables = [("JWT_AUDIENCE", "a"), ("JWT_ISSUER", "https://i.example"), (name, value)];
        let output = print_config(folder.path(), &variables);
        assert!(
            output.stderr.contains(&format!("environment variable {name}: ")),
            "{name}={value}: {output:?}"
        );
    }
    for value in ["localhost:0", "[::1]:80", "0.0.0.0:65535"] {
        assert_eq!(print_config(folder.path(), &[("KEYWARD_LISTEN", value)]).code, Some(0), "{value}");
    }
    assert!(!folder.path().join("keyward.db").exists(), "nothing was begun");
}

#[test]
fn an_unknown_variable_is_warned_about_and_nothing_more() {
    let folder = scratch();
    let service = Service::start(folder.path(), &[("KEYWARD_LISTENS", CANARY)]);
    assert!(service.has_logged(&["WARN", "KEYWARD_LISTENS", "the nearest is KEYWARD_LISTEN"]));
    assert_eq!(service.get("/health", "").status, 200);
    assert!(!service.stop().stderr.contains(CANARY));
}

#[test]
fn a_named_file_must_exist_and_other_arguments_are_refused() {
    let folder = scratch();
    let named = [("KEYWARD_CONFIG", "other.toml")];
    let output = Service::refused(folder.path(), &named);
    assert!(output.code == Some(1) && output.stderr.contains("other.toml: cannot be opened"), "{output:?}");
    fs::write(folder.path().join("other.toml"), "debug_ownership = true").unwrap();
    write(folder.path(), "debug_ownership = 1");
    let output = print_config(folder.path(), &named);
    assert_eq!(line(&output, "debug_ownership"), "debug_ownership true other.toml, line 1");
    for arguments in [&["--help"][..], &["--print-config", "x"]] {
        let output = Service::run(folder.path(), &[], arguments);
        assert!(output.code == Some(1) && output.stderr.contains("--print-config"), "{output:?}");
    }
}

#[test]
fn a_secret_from_the_file_is_in_no_output_whatever_is_logged() {
    let folder = scratch();
    let jwt = format!(
        "enable_login = true\n[jwt]\nsecret = '{CANARY}'\nissuer = 'https://i.example'\naudience = 'https://a.example'\n"
    );
    write(folder.path(), &jwt);
    let private = print_config(folder.path(), &[]);
    assert_eq!(line(&private, "jwt.secret"), "jwt.secret … keyward.toml, line 3");
    assert!(!private.stderr.contains("chmod"), "{private:?}");
    fs::set_permissions(folder.path().join("keyward.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = print_config(folder.path(), &[]);
    assert!(open.stderr.contains("WARN") && open.stderr.contains("chmod o-r keyward.toml"), "{open:?}");
    let service = Service::start(folder.path(), &[("RUST_LOG", "trace")]);
    assert!(service.has_logged(&["DEBUG", "jwt.issuer", "https://i.example"]));
    let login = service.post("/dev-login", "", serde_json::json!({ "user_id": "alice" }));
    assert_eq!(login.status, 200, "by the secret of the file");
    let running = service.stop();
    for output in [private, open, running] {
        assert!(!output.stdout.contains(CANARY) && !output.stderr.contains(CANARY), "{output:?}");
    }
}
