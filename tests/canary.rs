//! Secrets that must not be found again: in no log line, no answer but the creating one, no `Debug` and no
//! file, in clear or encoded, wherever a client puts them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests"
)]

mod support;

use std::{fmt::Write, path::Path, sync::Arc, sync::OnceLock};

use axum::{Router, body::Body, routing::get};
use http::{HeaderValue, Request};
use keyward::{
    AdminProof, AuthLayer, OwnerLayer, Principal, RequireLayer, TokenManager, UserId, api,
    audit::{AuditLog, AuditQuery},
    auth::{AnyOf, ApiKeyAuth, Authenticator, CredentialReader, RequestHead, StaticAuth, Verdict},
    event::TracingSink,
    manage::{ListQuery, NewToken},
    net::{IpList, PeerAddr},
    scope::{Grant, RoleSet, ScopeSet},
    secret::{Pepper, TokenDigest},
    store::{MemoryStore, SqliteStore, StaticList, TokenStore},
    token::KeyFormat,
};
use support::{Answer, Log, send, user};
use tokio::{sync::oneshot, task::JoinHandle};

/// So many characters of a secret in a row are a leak. Hints show fewer.
const WINDOW: usize = 12;

/// A secret of 38 random letters and digits.
fn random() -> String {
    KeyFormat::default().generate().unwrap().expose()["kw_live_1".len()..].to_owned() + "x"
}

/// A secret without long runs of letters and digits.
fn random_with_dots() -> String {
    let text = random();
    let parts: Vec<_> = text.as_bytes().chunks(5).map(|part| std::str::from_utf8(part).unwrap()).collect();
    parts.join(".")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect::<Vec<_>>();
    let digit = |bits: &[u8]| bits.iter().fold(0, |value, bit| value << 1 | usize::from(*bit));
    bits.chunks_exact(6).map(|bits| char::from(ALPHABET[digit(bits)])).collect()
}

/// Everything by which the secret part of `secret` could be recognized.
fn traces(secret: &str) -> Vec<String> {
    let body = secret.strip_prefix("kw_live_1").unwrap_or(secret);
    let mut traces = Vec::new();
    for start in 0..=body.len() - WINDOW {
        let part = &body[start..start + WINDOW];
        let escaped: String = part.bytes().map(|byte| format!("%{byte:02x}")).collect();
        traces.extend([part.to_owned(), hex(part.as_bytes()), hex(part.as_bytes()).to_uppercase()]);
        traces.extend([escaped.to_uppercase(), escaped]);
    }
    for shift in 0..3 {
        // Whatever stands before it, its middle is encoded in one of these three ways.
        let text = base64(&[&vec![b'-'; shift], body.as_bytes()].concat());
        let middle = text[4..4 + 16].to_owned();
        traces.extend([middle.replace('+', "-").replace('/', "_"), middle]);
    }
    traces
}

/// What must not be found, by name.
#[derive(Debug, Default)]
struct Secrets(Vec<(String, Vec<String>)>);

impl Secrets {
    fn add(&mut self, name: &str, secret: &str) {
        self.0.push((name.to_owned(), traces(secret)));
    }

    /// What of the secrets is in `text`.
    fn found_in(&self, text: &str) -> Vec<&str> {
        let found = |(_, traces): &&(String, Vec<String>)| traces.iter().any(|trace| text.contains(trace));
        self.0.iter().filter(found).map(|(name, _)| name.as_str()).collect()
    }

    /// The lines of `text` with a secret in them.
    fn check(&self, place: &str, text: &str) {
        if !self.found_in(text).is_empty() {
            let lines: Vec<_> = text.lines().filter(|line| !self.found_in(line).is_empty()).collect();
            panic!("{place} holds {:?}:\n{}", self.found_in(text), lines.join("\n"));
        }
    }
}

#[test]
fn the_canary_sings() {
    let mut secrets = Secrets::default();
    let key = KeyFormat::default().generate().unwrap();
    let key = key.expose();
    secrets.add("key", key);
    let percent: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for text in [
        key.to_owned(),
        key[9..21].to_owned(),
        key[30..].to_owned(),
        hex(key.as_bytes()),
        hex(key.as_bytes()).to_uppercase(),
        percent,
        base64(key.as_bytes()),
        base64(format!("alice:{key}").as_bytes()),
        base64(format!("xx{key}").as_bytes()),
        base64(format!("xxx{key}").as_bytes()),
    ] {
        assert_eq!(secrets.found_in(&format!("some {text} text")), ["key"], "{text}");
    }
    for text in [&key[..20], "kw_live_1", &*hex(TokenDigest::of(key.as_bytes()).as_bytes())] {
        assert_eq!(secrets.found_in(text), [""; 0], "{text}");
    }
    assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhc");
}

/// The log of all threads of this program: only one can be had.
fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Log::default();
        tracing::subscriber::set_global_default(log.subscriber()).unwrap();
        log
    })
}

struct World {
    folder: tempfile::TempDir,
    tokens: TokenManager,
    app: Router,
    /// The audit log, in the file of the tokens.
    audit: AuditLog,
    stop_audit: (oneshot::Sender<()>, JoinHandle<()>),
    secrets: Secrets,
    /// The static tokens of `ops` and of nobody by name.
    fixed: String,
    dotted: String,
    /// What came back, in clear, without the keys of creating answers.
    answers: String,
}

impl World {
    async fn new() -> Self {
        log();
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("tokens.db")).await.unwrap();
        let roles = |user: &UserId| match user.as_str() {
            "root" => RoleSet::new(["admin"]).unwrap(),
            _ => RoleSet::empty(),
        };
        let (pepper, fixed, dotted) = (random(), random(), random_with_dots());
        let list = StaticList::parse(&format!("ops:{fixed},{dotted}")).unwrap();
        let mut secrets = Secrets::default();
        for (name, secret) in [("pepper", &pepper), ("static token", &fixed), ("dotted token", &dotted)] {
            secrets.add(name, secret);
        }
        let pepper = Pepper::new(pepper.as_bytes()).unwrap();
        let store = Arc::new(store);
        let (sink, audit) = AuditLog::new(store.clone());
        let tokens = TokenManager::builder(store).with_pepper(pepper).with_roles(roles);
        let tokens = tokens.with_audit((TracingSink, sink)).build();
        let (stop, stopped) = oneshot::channel::<()>();
        let writing = tokio::spawn(audit.clone().run(async { drop(stopped.await) }));
        let either = AnyOf::new([ApiKeyAuth::new(&tokens).into(), StaticAuth::new(&list).into()]);
        let own = OwnerLayer::path("/users/{user}").unwrap();
        let app = Router::new()
            .nest("/api/keys", api::own_tokens(tokens.clone()))
            .nest("/admin/tokens", api::admin_tokens(tokens.clone()))
            .nest("/admin/audit", api::audit_log(audit.clone()))
            .route("/users/{user}/jobs", get(async |_: Principal| "jobs").layer(own.allow_admin()))
            .route("/scoped", get(async || "scoped").layer(RequireLayer::scope("jobs:read")))
            .layer(AuthLayer::new(either).report_accepted(1));
        let stop_audit = (stop, writing);
        Self { folder, tokens, app, audit, stop_audit, secrets, fixed, dotted, answers: String::new() }
    }

    async fn issue(&mut self, name: &str, change: impl FnOnce(NewToken) -> NewToken) -> (String, String) {
        let owner = user(name.split(' ').next().unwrap());
        let issued = self.tokens.create(&owner, change(NewToken::named("first"))).await.unwrap();
        self.secrets.add(name, issued.key.expose());
        (issued.key.expose().to_owned(), issued.record.id.to_string())
    }

    /// Sends `request` and keeps the answer.
    async fn ask(&mut self, request: Request<Body>) -> Answer {
        let answer = send(&self.app, request).await;
        let body = String::from_utf8_lossy(&answer.body);
        writeln!(self.answers, "{} {:?} {body}", answer.status, answer.headers).unwrap();
        answer
    }

    async fn call(&mut self, method: &str, path: &str, key: &str, body: &str) -> Answer {
        self.ask(support::request(method, path, key, body)).await
    }

    /// Makes a key through the route, whose answer alone may hold it, once.
    async fn make(&mut self, path: &str, key: &str, body: &str) -> (String, String) {
        let answer = send(&self.app, support::request("POST", path, key, body)).await;
        assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (201, "no-store"));
        let (made, text) = (answer.text("key"), String::from_utf8_lossy(&answer.body).into_owned());
        self.secrets.check("a creating answer, of other keys", &text);
        self.secrets.add(path, &made);
        self.secrets.check("a creating answer, besides the key", &text.replacen(&made, "", 1));
        (made, answer.text("id"))
    }

    /// Everything that was written anywhere.
    async fn check(self) {
        self.tokens.flush().await.unwrap();
        let (proof, query) = (AdminProof::operator("canary", "look").unwrap(), AuditQuery::default());
        let entries = self.audit.search(&proof, &query).await.unwrap().entries;
        assert!(entries.len() > 10, "what happened is stored, beside the tokens");
        assert!(self.audit.verify(&proof, None).await.unwrap().entries >= entries.len() as u64);
        self.secrets.check("the log", &log().text());
        self.secrets.check("the answers", &self.answers);
        check_files(&self.secrets, self.folder.path());
        let (stop, writing) = self.stop_audit;
        drop(stop);
        writing.await.unwrap();
        drop((self.app, self.tokens, self.audit));
        check_files(&self.secrets, self.folder.path());
    }
}

fn check_files(secrets: &Secrets, folder: &Path) {
    let mut sizes = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let Ok(bytes) = std::fs::read(&path) else { continue }; // the log goes when the store does
        sizes += bytes.len();
        secrets.check(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
    assert!(sizes > 10_000, "the store has written its files");
}

#[tokio::test]
async fn the_life_of_a_key_leaves_no_trace_of_it() {
    let mut world = World::new().await;
    let (alice, _) = world.issue("alice", |new| new).await;
    let (root, _) = world.issue("root", |new| new).await;
    let body = r#"{"name":"ci","scopes":["jobs:*"],"expires_in_days":7,"metadata":{"a":1}}"#;
    let (made, id) = world.make("/api/keys", &alice, body).await;
    let (for_carol, carol_id) =
        world.make("/admin/tokens", &root, r#"{"user_id":"carol","name":"first"}"#).await;
    let path = format!("/api/keys/{id}");
    for (method, path, key, body, status) in [
        ("GET", "/scoped", &made, "", 200),
        ("GET", "/users/alice/jobs", &made, "", 200),
        ("GET", "/users/carol/jobs", &for_carol, "", 200),
        ("GET", "/users/carol/jobs", &root, "", 200),
        ("GET", "/users/bob/jobs", &alice, "", 404),
        ("GET", "/api/keys", &alice, "", 200),
        ("GET", "/admin/tokens", &root, "", 200),
        ("GET", "/admin/audit", &root, "", 200),
        ("GET", "/admin/tokens", &alice, "", 403),
        ("GET", &*path, &alice, "", 200),
        ("GET", &*path, &for_carol, "", 404),
        ("PATCH", &*path, &alice, r#"{"name":"CI"}"#, 200),
    ] {
        assert_eq!(world.call(method, path, key, body).await.status, status, "{method} {path}");
    }
    let (successor, _) = world.make(&format!("{path}/rotate"), &alice, "{}").await;
    let (fixed, dotted) = (world.fixed.clone(), world.dotted.clone());
    for (method, path, key, status) in [
        ("GET", "/scoped", &successor, 200),
        ("POST", &*format!("{path}/rotate"), &alice, 409),
        ("DELETE", &*path, &alice, 204),
        ("GET", "/scoped", &made, 401),
        ("DELETE", &*format!("/admin/tokens/{carol_id}"), &root, 204),
        ("GET", "/users/carol/jobs", &for_carol, 401),
        ("DELETE", "/api/keys", &alice, 200),
        ("GET", "/api/keys", &alice, 401),
        ("GET", "/users/ops/jobs", &fixed, 200),
        ("GET", "/users/ops/jobs", &dotted, 404),
    ] {
        assert_eq!(world.call(method, path, key, "").await.status, status, "{method} {path}");
    }
    world.check().await;
}

#[tokio::test]
async fn no_refusal_repeats_what_was_presented() {
    let mut world = World::new().await;
    let (alice, _) = world.issue("alice", |new| new).await;
    let list = IpList::new(["192.0.2.0/24"]).unwrap();
    let (elsewhere, _) = world.issue("alice elsewhere", |new| new.with_allowed_ips(list)).await;
    let narrow = Grant::Only(ScopeSet::new(["nothing:*"]).unwrap());
    let (narrow, _) = world.issue("alice narrow", |new| new.with_scopes(narrow)).await;
    let (revoked, id) = world.issue("alice revoked", |new| new).await;
    world.tokens.revoke(&user("alice"), id.parse().unwrap()).await.unwrap();
    let unknown = KeyFormat::default().generate().unwrap().expose().to_owned();
    world.secrets.add("unknown", &unknown);
    let (cut, fixed, dotted) = (&alice[..alice.len() - 1], world.fixed.clone(), world.dotted.clone());
    for (header, value, status) in [
        ("x-api-key", alice.clone(), 200),
        ("x-api-key", elsewhere, 403),
        ("x-api-key", narrow, 403),
        ("x-api-key", revoked, 401),
        ("x-api-key", unknown, 401),
        ("x-api-key", cut.to_owned(), 401),
        ("x-api-key", format!("{alice}x"), 401),
        ("x-api-key", alice.to_lowercase(), 401),
        ("x-api-key", format!("{alice}, {alice}"), 400),
        ("x-api-key", format!("{alice} {alice}"), 400),
        ("x-api-key", format!("{alice}é"), 400),
        ("authorization", format!("Bearer {alice} {fixed}"), 400),
        ("authorization", format!("Bearer {alice},"), 400),
        ("authorization", format!("Bearer token=\"{alice}\""), 400),
        ("authorization", format!("Bearer {alice}=="), 401),
        ("authorization", format!("Bearer{alice}"), 401),
        ("authorization", format!("Basic {}", base64(format!("alice:{alice}").as_bytes())), 401),
        ("authorization", alice.clone(), 401),
        ("x-api-key", format!("{fixed}x"), 401),
        ("x-api-key", format!("Bearer {dotted}"), 400),
    ] {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let mut request = Request::get("/scoped").header(header, value).body(Body::empty()).unwrap();
        request.extensions_mut().insert(PeerAddr(([127, 0, 0, 1], 1).into()));
        assert_eq!(world.ask(request).await.status, status, "{header}");
    }
    world.check().await;
}

/// A request that holds `secret` where it does not belong.
fn misplaced(secret: &str) -> Vec<(&'static str, Request<Body>)> {
    let encoded: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let get = |path: String| Request::get(path).body(Body::empty()).unwrap();
    let with = |path: &str, name: &str, value: String| {
        Request::get(path).header(name, value).body(Body::empty()).unwrap()
    };
    let json = |path: &str, body: String| {
        Request::post(path).header("content-type", "application/json").body(Body::from(body)).unwrap()
    };
    vec![
        ("X-Request-Id", with("/api/keys", "x-request-id", secret.to_owned())),
        ("X-Request-Id of a refusal", with("/users/bob/jobs", "x-request-id", secret.to_owned())),
        ("part of X-Request-Id", with("/admin/tokens", "x-request-id", secret[10..30].to_owned())),
        ("path", get(format!("/{secret}"))),
        ("encoded path", get(format!("/{encoded}"))),
        ("token id", get(format!("/api/keys/{secret}"))),
        ("user id in the path", get(format!("/users/{secret}/jobs"))),
        ("encoded user id", get(format!("/users/{encoded}/jobs"))),
        ("part of a user id", get(format!("/users/{}/jobs", &secret[10..32]))),
        ("query", get(format!("/api/keys?api_key={secret}"))),
        ("cursor", get(format!("/api/keys?cursor={secret}"))),
        ("status", get(format!("/api/keys?status={secret}"))),
        ("filter", get(format!("/admin/tokens?user_id={secret}"))),
        ("User-Agent", with("/api/keys", "user-agent", format!("curl {secret}"))),
        ("Referer", with("/nowhere", "referer", format!("https://example.com/?key={secret}"))),
        ("Cookie", with("/nowhere", "cookie", format!("session={secret}"))),
        ("X-Forwarded-For", with("/nowhere", "x-forwarded-for", secret.to_owned())),
        ("audit user", get(format!("/admin/audit?user_id={secret}"))),
        ("audit event", get(format!("/admin/audit?event={secret}"))),
        ("audit cursor", get(format!("/admin/audit?cursor={secret}"))),
        ("audit reason", with("/admin/audit", "x-audit-reason", format!("because of {secret}"))),
        ("reason", with("/admin/tokens", "x-audit-reason", format!("because of {secret}"))),
        ("part of a reason", with("/admin/tokens", "x-audit-reason", secret[10..30].to_owned())),
        ("name of a field", json("/api/keys", format!(r#"{{"name":"x","{secret}":1}}"#))),
        ("unknown field", json("/api/keys", format!(r#"{{"name":"x","key":"{secret}"}}"#))),
        ("wrong type", json("/api/keys", format!(r#"{{"name":"x","expires_in_days":"{secret}"}}"#))),
        ("wrong shape", json("/api/keys", format!(r#"{{"name":{{"{secret}":"{secret}"}}}}"#))),
        ("address", json("/api/keys", format!(r#"{{"name":"x","allowed_ips":["{secret}"]}}"#))),
        ("no JSON", json("/api/keys", secret.to_owned())),
        ("two values", json("/api/keys", format!(r#"{{"name":"x"}} "{secret}""#))),
    ]
}

#[tokio::test]
async fn a_secret_in_the_wrong_place_is_not_repeated() {
    let mut world = World::new().await;
    let (alice, _) = world.issue("alice", |new| new).await;
    let (root, _) = world.issue("root", |new| new).await;
    let (fixed, dotted) = (world.fixed.clone(), world.dotted.clone());
    let mut leaks = Vec::new();
    for secret in [&alice, &root, &fixed, &dotted] {
        for presented in [None, Some(&alice), Some(&root), Some(&fixed), Some(&dotted)] {
            for (place, mut request) in misplaced(secret) {
                // A text that is nobody's credential here and has no run of thirty characters is any text.
                let unknowable = *secret == dotted || place.starts_with("part of");
                if unknowable && presented != Some(secret) {
                    continue;
                }
                if let Some(key) = presented {
                    request.headers_mut().insert("x-api-key", key.parse().unwrap());
                }
                let before = (log().text().len(), world.answers.len());
                world.ask(request).await;
                let own = if presented == Some(secret) { "its own" } else { "another" };
                for (what, text) in
                    [("log", &log().text()[before.0..]), ("answer", &world.answers[before.1..])]
                {
                    if !world.secrets.found_in(text).is_empty() {
                        leaks.push(format!("{place}, presenting {own}: in the {what}: {text}"));
                    }
                }
            }
        }
    }
    assert!(leaks.is_empty(), "{} leaks:\n{}", leaks.len(), leaks.join("\n"));
    world.check().await;
}

/// Shows what it is given, and abstains.
#[derive(Debug)]
struct Chatty;

impl Authenticator for Chatty {
    fn authenticate(&self, head: &RequestHead<'_>) -> Verdict {
        tracing::info!(?head, presented = ?head.presented, "asked");
        Verdict::Abstain
    }
}

#[tokio::test]
async fn the_debug_of_a_request_head_hides_the_credential() {
    let key = KeyFormat::default().generate().unwrap();
    let mut secrets = Secrets::default();
    secrets.add("key", key.expose());
    let reader = CredentialReader::default().with_cookie("session").unwrap();
    let layer = AuthLayer::new(Chatty).with_reader(reader.with_insecure_query("api_key").unwrap());
    let app = Router::new().route("/", get(async || "")).layer(layer);
    let (log, key) = (Log::default(), key.expose());
    let guard = log.catch();
    for request in [
        Request::get("/").header("x-api-key", key),
        Request::get("/").header("authorization", format!("Bearer {key}")),
        Request::get("/").header("cookie", format!("session={key}")),
        Request::get(format!("/?api_key={key}")),
    ] {
        assert_eq!(send(&app, request.body(Body::empty()).unwrap()).await.status, 401);
    }
    drop(guard);
    assert_eq!(log.lines_with("asked").len(), 4);
    secrets.check("the Debug of RequestHead", &log.text());
}

#[tokio::test]
async fn no_debug_shows_a_secret() {
    let mut secrets = Secrets::default();
    let (salt, first, second) = (random(), random(), random_with_dots());
    for (name, secret) in [("pepper", &salt), ("static token", &first), ("dotted token", &second)] {
        secrets.add(name, secret);
    }
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Arc::new(SqliteStore::open(folder.path().join("tokens.db")).await.unwrap());
    let pepper = Pepper::new(salt.as_bytes()).unwrap();
    let memory = Arc::new(MemoryStore::new());
    let builder = || TokenManager::builder(memory.clone()).with_pepper(pepper.clone());
    let tokens = builder().build();
    let issued = tokens.create(&user("alice"), NewToken::named("first")).await.unwrap();
    sqlite.insert(&issued.record, None).await.unwrap();
    secrets.add("key", issued.key.expose());
    let list = StaticList::parse(&format!("ops:{first},{second}")).unwrap();
    let (own, fixed) = (ApiKeyAuth::new(&tokens), StaticAuth::new(&list));
    let layer = AuthLayer::new(AnyOf::new([own.clone().into(), fixed.clone().into()]));
    let page = tokens.list(&user("alice"), ListQuery::default()).await.unwrap();
    let proof = AdminProof::operator("ops", "look").unwrap();
    let shown = [
        format!("{:?} {:#?} {:?}", issued, issued, issued.key),
        format!("{:?} {:#?} {:?}", page, issued.record, issued.record.digest),
        format!("{tokens:?} {own:?} {fixed:?} {list:?} {layer:?} {:?} {proof:?}", builder()),
        format!("{memory:?} {sqlite:?} {pepper:?}"),
        format!(
            "{:?} {:?}",
            StaticList::parse(&format!("{first},{first}")),
            Pepper::new(&salt.as_bytes()[..20])
        ),
    ]
    .join("\n");
    secrets.check("a Debug", &shown);
    let digest = hex(pepper.digest(issued.key.expose().as_bytes()).as_bytes());
    assert!(!shown.contains(&digest) && !shown.contains(&hex(salt.as_bytes())), "nor a digest");
    assert!(shown.contains(&*issued.record.hint), "hints are what they may show");
}
