//! The layers in process: readiness, modes, guards, refusals, and what happens when those around them
//! misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests"
)]

mod support;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use keyward::{
    AuthError, AuthErrorKind, AuthLayer, Checked, Owned, OwnerLayer, Principal, RequireLayer, TokenManager,
    UserId,
    auth::{ApiKeyAuth, Authenticator, RequestHead, Verdict},
    error::Refusal,
    event::{Alert, Audit, AuditSink, Event, EventKind},
    extract::LoadOwned,
    layer::{Empty, Mode},
    manage::{IssuedToken, ListQuery, NewToken, TokenError, TokenUpdate},
    net::{OverTls, PeerAddr, TrustedProxies},
    principal::AuthMethod,
    scope::{Grant, RoleSet, ScopeSet},
    store::MemoryStore,
    testing::RecordingSink,
};
use support::{Answer, Log, UnrulyStore, request, send, user};
use tower::{Layer, Service, ServiceExt};

/// A layer can be named without its parameters.
fn auth(tokens: &TokenManager) -> AuthLayer {
    AuthLayer::new(ApiKeyAuth::new(tokens))
}

fn manager(events: &RecordingSink) -> TokenManager {
    TokenManager::builder(MemoryStore::new()).with_audit(events.clone()).build()
}

async fn issue(tokens: &TokenManager, owner: &str) -> IssuedToken {
    tokens.create(&user(owner), NewToken::named("test")).await.unwrap()
}

async fn issue_key(tokens: &TokenManager, owner: &str) -> String {
    issue(tokens, owner).await.key.expose().to_owned()
}

/// Says who asks, or `nobody`.
async fn whoami(me: Option<Principal>) -> String {
    me.map_or("nobody".to_owned(), |me| me.user_id().to_string())
}

fn with(headers: &[(&str, &str)]) -> Request<Body> {
    let request = Request::get("/");
    headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value))
        .body(Body::empty())
        .unwrap()
}

// ---- readiness -------------------------------------------------------------------------------------

/// Panics when it is called on an instance that has not said, since its last call, that it is ready. Is
/// not ready when it is asked for the first time.
#[derive(Debug, Default)]
struct Strict {
    asked: bool,
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<B> Service<Request<B>> for Strict {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if std::mem::replace(&mut self.asked, true) {
            self.ready = true;
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having said that it is ready");
        ready(Ok(Response::default()))
    }
}

async fn call_thrice<S>(name: &str, mut service: S, key: &str)
where
    S: Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible>,
{
    for round in 1..=3 {
        let request = Request::get("/users/alice").header("x-api-key", key).body(()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{name}, call {round}");
    }
}

#[tokio::test]
async fn only_a_service_that_said_it_is_ready_is_called() {
    let tokens = manager(&RecordingSink::default());
    let uncached = TokenManager::builder(MemoryStore::new()).with_staleness(std::time::Duration::ZERO);
    let uncached = uncached.unwrap().build();
    let (key, waiting) = (issue_key(&tokens, "alice").await, issue_key(&uncached, "alice").await);
    let by_path = OwnerLayer::path("/users/{user}").unwrap();
    let by_lookup = OwnerLayer::lookup(|_: &RequestHead<'_>| async {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Some(user("alice")))
    });
    call_thrice("cached", auth(&tokens).layer(Strict::default()), &key).await;
    call_thrice("asking the store", auth(&uncached).layer(Strict::default()), &waiting).await;
    let require = RequireLayer::scope("jobs:read").layer(Strict::default());
    call_thrice("required scope", auth(&tokens).layer(require), &key).await;
    call_thrice("owner in the path", auth(&tokens).layer(by_path.layer(Strict::default())), &key).await;
    call_thrice("owner looked up", auth(&tokens).layer(by_lookup.layer(Strict::default())), &key).await;
    let all = by_lookup.layer(by_path.layer(RequireLayer::scope("x").layer(Strict::default())));
    call_thrice("all of them", auth(&uncached).layer(all), &waiting).await;
}

// ---- bodies ----------------------------------------------------------------------------------------

/// A body that counts how often it is asked for more.
#[derive(Debug)]
struct WatchedBody(Arc<AtomicUsize>);

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(None)
    }
}

#[tokio::test]
async fn the_body_of_a_refused_request_is_never_read() {
    let tokens = manager(&RecordingSink::default());
    let key = issue_key(&tokens, "alice").await;
    let unknown = keyward::token::KeyFormat::default().generate().unwrap();
    let polled = Arc::new(AtomicUsize::new(0));
    let foreign = OwnerLayer::path("/{user}").unwrap();
    let looked_up = OwnerLayer::lookup(|_: &RequestHead<'_>| ready(Ok::<_, Infallible>(Some(user("bob")))));
    let reader = tower::service_fn(async |request: Request<WatchedBody>| {
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        Ok::<_, Infallible>(Response::<Full<Bytes>>::default())
    });
    let service = auth(&tokens).layer(
        RequireLayer::policy(|_: &Principal, head: &RequestHead<'_>| head.uri.query() != Some("no"))
            .layer(foreign.layer(looked_up.layer(reader))),
    );
    for (path, key, status) in [
        ("/alice", "", 401),
        ("/alice?access_token=x", "made up", 400),
        ("/alice", unknown.expose(), 401),
        ("/alice?no", &key, 403),
        ("/bob", &key, 404),
        ("/alice", &key, 404),
    ] {
        let request = Request::post(path).header("x-api-key", key).body(WatchedBody(polled.clone())).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(polled.load(Ordering::SeqCst), 0, "{path}: the body was touched");
    }
}

// ---- modes -----------------------------------------------------------------------------------------

#[tokio::test]
async fn an_optional_layer_passes_what_is_absent_and_refuses_what_is_bad() {
    let tokens = manager(&RecordingSink::default());
    let key = issue_key(&tokens, "alice").await;
    let custom = |head: &RequestHead<'_>| match *head.method {
        Method::GET => Mode::Optional,
        _ => Mode::Required,
    };
    let optional: Router = Router::new().route("/", get(whoami).post(whoami)).layer(auth(&tokens).optional());
    let mixed: Router =
        Router::new().route("/", get(whoami).post(whoami)).layer(auth(&tokens).with_mode(custom));
    for (name, app, method, headers, status, body) in [
        ("absent", &optional, "GET", &[][..], 200, "nobody"),
        ("absent on POST", &optional, "POST", &[], 200, "nobody"),
        ("good", &optional, "GET", &[("x-api-key", &*key)], 200, "alice"),
        ("invalid", &optional, "GET", &[("x-api-key", "kw_live_1x")], 401, ""),
        ("of another kind", &optional, "GET", &[("x-api-key", "something")], 401, ""),
        ("empty", &optional, "GET", &[("x-api-key", "")], 401, ""),
        ("two", &optional, "GET", &[("x-api-key", &*key), ("x-api-key", &*key)], 400, ""),
        ("another scheme", &optional, "GET", &[("authorization", "Basic YTpi")], 200, "nobody"),
        ("custom says optional", &mixed, "GET", &[], 200, "nobody"),
        ("custom says required", &mixed, "POST", &[], 401, ""),
        ("custom, good", &mixed, "POST", &[("x-api-key", &*key)], 200, "alice"),
        ("custom, invalid", &mixed, "GET", &[("x-api-key", "kw_live_1x")], 401, ""),
    ] {
        let mut request = with(headers);
        *request.method_mut() = method.parse().unwrap();
        let answer = send(app, request).await;
        assert_eq!(answer.status, status, "{name}");
        if status == 200 {
            assert_eq!(&*answer.body, body.as_bytes(), "{name}");
        }
    }
}

/// Takes everybody for the user of its name.
#[derive(Debug)]
struct Believer(&'static str);

impl Authenticator for Believer {
    fn authenticate(&self, _: &RequestHead<'_>) -> Verdict {
        Verdict::Decided(Ok(Principal::builder(AuthMethod::Custom, user(self.0)).build()))
    }
}

#[tokio::test]
async fn what_an_outer_layer_said_does_not_survive_an_inner_one() {
    let tokens = manager(&RecordingSink::default());
    let key = issue_key(&tokens, "alice").await;
    let ids = async |request: axum::extract::Request| {
        let extensions = request.extensions();
        let me = extensions.get::<Principal>().map_or("nobody", |me| me.user_id().as_str());
        let id = extensions.get::<UserId>().map_or("nobody", UserId::as_str);
        format!("{me} {id}")
    };
    let routes = Router::new().route("/", get(ids));
    let app: Router = routes.layer(auth(&tokens).optional()).layer(AuthLayer::new(Believer("mallory")));
    assert_eq!(send(&app, with(&[])).await.body, "nobody nobody");
    assert_eq!(send(&app, with(&[("x-api-key", &key)])).await.body, "alice alice");
    let app: Router = Router::new()
        .route("/", get(ids))
        .layer(AuthLayer::new(Believer("alice")))
        .layer(auth(&tokens).optional());
    assert_eq!(send(&app, with(&[])).await.body, "alice alice", "nor does `nobody`");
}

#[tokio::test]
async fn only_real_preflights_pass_and_only_where_they_were_let() {
    let tokens = manager(&RecordingSink::default());
    let key = issue_key(&tokens, "alice").await;
    let app = |pass| -> Router {
        Router::new().route("/", axum::routing::any(whoami)).layer(auth(&tokens).pass_preflight(pass))
    };
    let preflight = &[("origin", "https://app.example"), ("access-control-request-method", "POST")][..];
    let with_key = &[preflight[0], preflight[1], ("x-api-key", &*key)][..];
    for (name, pass, method, headers, status) in [
        ("off", false, "OPTIONS", preflight, 401),
        ("on", true, "OPTIONS", preflight, 200),
        ("on, with a key", true, "OPTIONS", with_key, 200),
        ("without Origin", true, "OPTIONS", &preflight[1..], 401),
        ("without the method", true, "OPTIONS", &preflight[..1], 401),
        ("GET", true, "GET", preflight, 401),
        ("POST", true, "POST", preflight, 401),
        ("a method of no standard", true, "options", preflight, 401),
    ] {
        let mut request = with(headers);
        *request.method_mut() = method.parse().unwrap();
        let answer = send(&app(pass), request).await;
        assert_eq!(answer.status, status, "{name}");
        if status == 200 {
            assert_eq!(answer.body, "nobody", "{name}: a preflight is nobody's, whatever it carries");
        }
    }
}

#[tokio::test]
async fn https_is_what_a_trusted_proxy_or_this_process_vouches_for() {
    let tokens = manager(&RecordingSink::default());
    let key = issue_key(&tokens, "alice").await;
    let proxies = TrustedProxies::new(["10.0.0.0/8"]).unwrap();
    let layer = auth(&tokens).require_https(true);
    let proxied: Router = Router::new().route("/", get(whoami)).layer(layer.clone().with_client_ip(proxies));
    let direct: Router = Router::new().route("/", get(whoami)).layer(layer);
    let (proxy, stranger) = ([10, 0, 0, 1], [192, 0, 2, 1]);
    for (name, app, peer, proto, tls, status) in [
        ("proxy says https", &proxied, proxy, &["https"][..], false, 200),
        ("proxy says http", &proxied, proxy, &["http"], false, 403),
        ("proxy says http, though over TLS", &proxied, proxy, &["http"], true, 403),
        ("proxy appends http", &proxied, proxy, &["https, http"], false, 403),
        ("proxy adds a line", &proxied, proxy, &["https", "http"], false, 403),
        ("proxy says nothing", &proxied, proxy, &[], false, 403),
        ("stranger says https", &proxied, stranger, &["https"], false, 403),
        ("stranger over TLS", &proxied, stranger, &[], true, 200),
        ("no proxies, says https", &direct, proxy, &["https"], false, 403),
        ("no proxies, over TLS", &direct, proxy, &[], true, 200),
    ] {
        let mut request = with(&[("x-api-key", &key)]);
        for value in proto {
            request.headers_mut().append("x-forwarded-proto", value.parse().unwrap());
        }
        request.extensions_mut().insert(PeerAddr((peer, 1).into()));
        if tls {
            request.extensions_mut().insert(OverTls);
        }
        assert_eq!(send(app, request).await.status, status, "{name}");
    }
}

// ---- without a layer -------------------------------------------------------------------------------

#[derive(Debug)]
struct Job(UserId);

impl Owned for Job {
    const KIND: &'static str = "job";

    fn owner(&self) -> &UserId {
        &self.0
    }
}

impl LoadOwned<()> for Job {
    type Key = String;
    type Error = Infallible;

    async fn load(_: &(), owner: String) -> Result<Option<Self>, Infallible> {
        Ok(UserId::new(owner).ok().filter(|owner| owner.as_str() != "none").map(Job))
    }
}

#[tokio::test]
async fn a_forgotten_layer_is_an_error_of_the_service_and_is_named_in_the_log() {
    let plain = || get(async || "reached");
    let looked_up = OwnerLayer::lookup(|_: &RequestHead<'_>| ready(Ok::<_, Infallible>(None)));
    for (name, route) in [
        ("RequireLayer", plain().layer(RequireLayer::scope("x"))),
        ("OwnerLayer by path", plain().layer(OwnerLayer::path("/{user}").unwrap())),
        ("OwnerLayer by lookup", plain().layer(looked_up)),
        ("Principal", get(async |_: Principal| "reached")),
        ("Option<Principal>", get(async |_: Option<Principal>| "reached")),
        ("UserId", get(async |_: UserId| "reached")),
        ("Checked", get(async |_: Checked<Job>| "reached")),
    ] {
        let app = Router::new().route("/{user}", route);
        let log = Log::default();
        let guard = log.catch();
        let answer = send(&app, Request::get("/alice").body(Body::empty()).unwrap()).await;
        drop(guard);
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{name}");
        assert_eq!(answer.json()["detail"], AuthErrorKind::Misconfigured.detail(), "{name}");
        let errors = log.lines_with("ERROR");
        assert_eq!(errors.len(), 1, "{name}: {errors:?}");
        assert!(errors[0].contains("add `.layer(AuthLayer::new(…))`"), "{name}: {errors:?}");
        let asker = name.split(' ').next().unwrap();
        assert!(errors[0].contains(asker), "{name}: {errors:?}");
    }
}

#[tokio::test]
async fn nobody_behind_an_optional_layer_is_asked_for_a_credential() {
    let tokens = manager(&RecordingSink::default());
    for (name, route) in [
        ("RequireLayer", get(async || "reached").layer(RequireLayer::scope("x"))),
        ("OwnerLayer", get(async || "reached").layer(OwnerLayer::path("/{user}").unwrap())),
        ("Principal", get(async |_: Principal| "reached")),
        ("UserId", get(async |_: UserId| "reached")),
        ("Checked", get(async |_: Checked<Job>| "reached")),
    ] {
        let app = Router::new().route("/{user}", route).layer(auth(&tokens).optional());
        let answer = send(&app, Request::get("/alice").body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{name}");
        assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="api""#, "{name}");
    }
}

// ---- guards ----------------------------------------------------------------------------------------

async fn through(layer: RequireLayer, scopes: &[&str], roles: &[&str]) -> Answer {
    let scopes = Grant::Only(ScopeSet::new(scopes).unwrap());
    let me = Principal::builder(AuthMethod::Custom, user("alice")).scopes(scopes);
    let me = me.roles(RoleSet::new(roles).unwrap()).build();
    let app = Router::new().route("/", get(async || "passed")).layer(layer);
    let mut request = with(&[]);
    request.extensions_mut().insert(me);
    send(&app, request).await
}

/// What is behind a [`RequireLayer`].
enum Gets {
    In,
    /// 403, and the scopes that the challenge names.
    LacksScope(&'static str),
    /// 403 without a challenge.
    Forbidden,
}

/// A name, the layer, the scopes and the roles of the caller, and what they get.
type Row<'a> = (&'a str, RequireLayer, &'a [&'a str], &'a [&'a str], Gets);

async fn check_required(rows: &[Row<'_>]) {
    for (name, layer, scopes, roles, gets) in rows {
        let (status, challenge) = match gets {
            Gets::In => (200, String::new()),
            Gets::Forbidden => (403, String::new()),
            // A scope attribute must not be empty (RFC 6750, section 3; RFC 6749, section 3.3).
            Gets::LacksScope("") => (403, r#"Bearer realm="api", error="insufficient_scope""#.to_owned()),
            Gets::LacksScope(scope) => {
                (403, format!(r#"Bearer realm="api", error="insufficient_scope", scope="{scope}""#))
            }
        };
        let answer = through(layer.clone(), scopes, roles).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("www-authenticate")),
            (status, &*challenge),
            "{name}"
        );
    }
}

#[tokio::test]
async fn scopes_are_required_as_written() {
    let two = ["a:r", "b:r"];
    check_required(&[
        ("one", RequireLayer::scope("a:r"), &["a:r"], &[], Gets::In),
        ("one, lacking", RequireLayer::scope("a:r"), &["a:w"], &[], Gets::LacksScope("a:r")),
        ("by wildcard", RequireLayer::scope("a:r"), &["a:*"], &[], Gets::In),
        ("by another wildcard", RequireLayer::scope("a:r"), &["ab:*"], &[], Gets::LacksScope("a:r")),
        ("all of", RequireLayer::all_scopes(two), &["a:r", "b:r"], &[], Gets::In),
        ("all of, one lacking", RequireLayer::all_scopes(two), &["a:r"], &[], Gets::LacksScope("b:r")),
        ("any of", RequireLayer::any_scope(two), &["b:r"], &[], Gets::In),
        ("any of, lacking", RequireLayer::any_scope(two), &["c:r"], &[], Gets::LacksScope("a:r b:r")),
        ("without any", RequireLayer::scope("a:r"), &[], &["admin"], Gets::LacksScope("a:r")),
        ("all of none", RequireLayer::all_scopes([]), &["*"], &[], Gets::LacksScope("")),
        ("any of none", RequireLayer::any_scope([]), &["*"], &[], Gets::LacksScope("")),
    ])
    .await;
}

#[tokio::test]
async fn roles_and_policies_are_required_as_written() {
    let has_a = |me: &Principal, _: &RequestHead<'_>| me.has_role("a");
    let path = |_: &Principal, head: &RequestHead<'_>| head.uri.path() == "/other";
    check_required(&[
        ("one", RequireLayer::role("admin"), &[], &["admin"], Gets::In),
        ("one, lacking", RequireLayer::role("admin"), &["*"], &["auditor"], Gets::Forbidden),
        ("none held", RequireLayer::role("admin"), &["admin"], &[], Gets::Forbidden),
        ("all of", RequireLayer::all_roles(["a", "b"]), &[], &["a", "b"], Gets::In),
        ("all of, one lacking", RequireLayer::all_roles(["a", "b"]), &[], &["a"], Gets::Forbidden),
        ("all of none", RequireLayer::all_roles([]), &[], &["a"], Gets::Forbidden),
        ("any of", RequireLayer::any_role(["a", "b"]), &[], &["b"], Gets::In),
        ("any of none", RequireLayer::any_role([]), &[], &["a"], Gets::Forbidden),
        ("a policy", RequireLayer::policy(has_a), &[], &["a"], Gets::In),
        ("a policy that says no", RequireLayer::policy(path), &["*"], &["a"], Gets::Forbidden),
    ])
    .await;
}

/// A service with guarded routes, for the keys of alice, bob and root, who is an administrator.
struct Guarded {
    events: RecordingSink,
    tokens: TokenManager,
    keys: [String; 3],
}

impl Guarded {
    async fn new() -> Self {
        let events = RecordingSink::default();
        let roles = |user: &UserId| match user.as_str() {
            "root" => RoleSet::new(["admin"]).unwrap(),
            _ => RoleSet::empty(),
        };
        let tokens =
            TokenManager::builder(MemoryStore::new()).with_audit(events.clone()).with_roles(roles).build();
        let mut keys = [String::new(), String::new(), String::new()];
        for (key, name) in keys.iter_mut().zip(["alice", "bob", "root"]) {
            *key = issue_key(&tokens, name).await;
        }
        Self { events, tokens, keys }
    }

    /// Asks for `/things/{of}` behind `guard`, and tells what was reported.
    async fn ask(&self, guard: OwnerLayer, of: &str, key: usize) -> (Answer, Vec<EventKind>) {
        let handler = get(async || "passed");
        let app = Router::new().route("/things/{of}", handler).layer(guard).layer(auth(&self.tokens));
        self.events.clear();
        let answer = send(&app, request("GET", &format!("/things/{of}"), &self.keys[key], "")).await;
        (answer, self.events.kinds())
    }
}

fn owner_guards() -> [(&'static str, OwnerLayer); 2] {
    let lookup = |head: &RequestHead<'_>| {
        let owner = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        async move { Ok::<_, std::io::Error>(UserId::new(owner).ok().filter(|owner| owner.as_str() != "none")) }
    };
    [("path", OwnerLayer::path("/things/{of}").unwrap()), ("lookup", OwnerLayer::lookup(lookup))]
}

#[tokio::test]
async fn what_is_somebody_elses_looks_like_what_is_not_there() {
    let refused = EventKind::AccessRefused(Refusal::NotOwner);
    let alert = EventKind::Alert(Alert::ForeignAccess);
    for (name, guard) in owner_guards() {
        let world = Guarded::new().await;
        let (own, events) = world.ask(guard.clone(), "alice", 0).await;
        assert_eq!((own.status.as_u16(), &*own.body), (200, &b"passed"[..]), "{name}");
        assert_eq!(events, [], "{name}");
        let (foreign, events) = world.ask(guard.clone(), "bob", 0).await;
        assert_eq!(foreign.status, 404, "{name}");
        assert_eq!(events, [alert, refused], "{name}: one alert");
        let (absent, _) = world.ask(guard.clone(), "none", 0).await;
        assert_eq!(absent.comparable(), foreign.comparable(), "{name}");
        let (admin, events) = world.ask(guard.clone(), "alice", 2).await;
        assert_eq!(admin.status, 404, "{name}: administrators are nobody special by default");
        assert_eq!(events, [alert, refused], "{name}");
        let (admin, events) = world.ask(guard.clone().allow_admin(), "alice", 2).await;
        assert_eq!((admin.status.as_u16(), &*events), (200, &[EventKind::AdminOverride][..]), "{name}");
        let (bob, events) = world.ask(guard.clone().allow_admin(), "alice", 1).await;
        assert_eq!((bob.status.as_u16(), &*events), (404, &[alert, refused][..]), "{name}");
        let (forbidden, events) = world.ask(guard.clone().forbid_foreign(), "carol", 0).await;
        assert_eq!((forbidden.status.as_u16(), &*events), (403, &[alert, refused][..]), "{name}");
        let (again, events) = world.ask(guard, "bob", 0).await;
        assert_eq!((again.status.as_u16(), &*events), (404, &[refused][..]), "{name}: told a moment ago");
    }
}

#[tokio::test]
async fn an_override_names_the_administrator_and_the_owner() {
    let world = Guarded::new().await;
    for (name, guard) in owner_guards() {
        world.ask(guard.allow_admin(), "alice", 2).await;
        let event = world.events.events().remove(0);
        let names = (event.actor.as_ref().map(UserId::as_str), event.owner.as_ref().map(UserId::as_str));
        assert_eq!(names, (Some("root"), Some("alice")), "{name}");
        assert!(event.token.is_some(), "{name}");
    }
}

#[tokio::test]
async fn the_extractor_tells_nothing_about_what_is_somebody_elses() {
    let world = Guarded::new().await;
    let app = Router::new()
        .route("/jobs/{owner}", get(async |_: Checked<Job>| "passed"))
        .layer(auth(&world.tokens));
    let ask = async |path: &str| send(&app, request("GET", path, &world.keys[0], "")).await;
    assert_eq!(ask("/jobs/alice").await.status, 200);
    world.events.clear();
    let foreign = ask("/jobs/bob").await;
    assert_eq!((foreign.status.as_u16(), world.events.alerts()), (404, vec![Alert::ForeignAccess]));
    for absent in ["/jobs/none", "/jobs/%00"] {
        assert_eq!(ask(absent).await.comparable(), foreign.clone().comparable(), "{absent}");
    }
    assert_eq!(world.events.alerts().len(), 1);
}

#[tokio::test]
async fn a_lookup_that_fails_is_no_answer() {
    let world = Guarded::new().await;
    let failing = OwnerLayer::lookup(|_: &RequestHead<'_>| ready(Err::<Option<UserId>, _>("no connection")));
    let (answer, _) = world.ask(failing.allow_admin(), "alice", 2).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
}

#[tokio::test]
async fn a_list_of_others_is_cut_with_an_alert_for_each() {
    let events = RecordingSink::default();
    let me = Principal::builder(AuthMethod::Custom, user("alice")).audit(Audit::new(events.clone())).build();
    let jobs = ["alice", "bob", "alice", "Alice", "carol"].map(|owner| Job(user(owner)));
    let own = me.verify_all(jobs);
    assert!(own.len() == 2 && own.iter().all(|job| job.owner() == me.user_id()));
    assert_eq!(events.alerts(), [Alert::ForeignRecord; 3]);
    let owners: Vec<_> =
        events.events().iter().map(|event| event.owner.clone().unwrap().to_string()).collect();
    assert_eq!(owners, ["bob", "Alice", "carol"]);
    assert!(events.events().iter().all(|event| event.reason.as_deref() == Some("job")));
}

// ---- what a refusal looks like ---------------------------------------------------------------------

fn teapot(error: &AuthError) -> Response<Full<Bytes>> {
    let body = Full::<Bytes>::from(format!("{:?}", error.kind()));
    Response::builder().status(418).header("cache-control", "private").body(body).unwrap()
}

async fn check_refusal(name: &str, service: impl Plain, key: &str, status: u16, kind: AuthErrorKind) {
    let request = Request::get("/bob").header(if key.is_empty() { "x-none" } else { "x-api-key" }, key);
    let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
    let error = response.extensions().get::<AuthError>().expect("the error is in the extensions");
    assert_eq!(error.kind(), kind, "{name}");
    let answer = Answer::of(response).await;
    let (body, cache) = match status {
        418 => (format!("{kind:?}"), "private"),
        _ => (String::new(), "no-store"),
    };
    assert_eq!((answer.status.as_u16(), &*answer.body), (status, body.as_bytes()), "{name}");
    assert_eq!(answer.header("cache-control"), cache, "{name}: what is there stays");
    let challenged = kind == AuthErrorKind::Missing;
    assert_eq!(answer.headers.contains_key("www-authenticate"), challenged, "{name}");
}

/// A service with nothing special about it.
trait Plain: Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible> {}
impl<S: Service<Request<()>, Response = Response<Full<Bytes>>, Error = Infallible>> Plain for S {}

#[tokio::test]
async fn refusals_look_as_the_application_wants() {
    use AuthErrorKind::{Forbidden, Missing, NotFound};
    let tokens = manager(&RecordingSink::default());
    let key = issue_key(&tokens, "alice").await;
    let inner = tower::service_fn(async |_: Request<()>| Ok::<_, Infallible>(teapot(&Forbidden.into())));
    let foreign = OwnerLayer::path("/{user}").unwrap();
    let require = RequireLayer::role("admin");
    let own = auth(&tokens).with_rejection(teapot);
    let scoped = own.layer(require.clone().with_rejection(teapot).layer(inner));
    let owned = own.layer(foreign.clone().with_rejection(teapot).layer(inner));
    let empty = auth(&tokens).with_rejection(Empty);
    let scoped_empty = empty.layer(require.with_rejection(Empty).layer(inner));
    let owned_empty = empty.layer(foreign.with_rejection(Empty).layer(inner));
    check_refusal("a closure, AuthLayer", owned.clone(), "", 418, Missing).await;
    check_refusal("a closure, RequireLayer", scoped, &key, 418, Forbidden).await;
    check_refusal("a closure, OwnerLayer", owned, &key, 418, NotFound).await;
    check_refusal("empty, AuthLayer", owned_empty.clone(), "", 401, Missing).await;
    check_refusal("empty, RequireLayer", scoped_empty, &key, 403, Forbidden).await;
    check_refusal("empty, OwnerLayer", owned_empty, &key, 404, NotFound).await;
}

#[tokio::test]
async fn a_request_id_comes_back_if_it_is_one_and_no_secret() {
    let events = RecordingSink::default();
    let tokens = manager(&events);
    let key = issue_key(&tokens, "alice").await;
    let guarded = get(whoami).layer(RequireLayer::role("admin"));
    let app = Router::new().route("/", get(whoami)).route("/guarded", guarded).layer(auth(&tokens));
    let (long, part) = ("x".repeat(129), key[9..40].to_owned());
    for (name, path, sent, id, comes_back) in [
        ("clean", "/", "", "7f3a:req-1_b.2", true),
        ("clean, by a guard", "/guarded", &*key, "7f3a:req-1_b.2", true),
        ("a trace id", "/", "", "4bf92f3577b34da6a3ce929d0e0e4736", true),
        ("a UUID", "/", "", "019a9d5a-7c00-7abc-8def-0123456789ab", true),
        ("somebody else's key", "/", "", &*key, false),
        ("too long", "/", "", &*long, false),
        ("empty", "/", "", "", false),
        ("a forged line", "/", "", "a b", false),
        ("the refused credential", "/", "not-a-key-but-secret", "not-a-key-but-secret", false),
        ("holding the credential", "/", "not-a-key-but-secret", "id-not-a-key-but-secret", false),
        ("the good key, by a guard", "/guarded", &*key, &*key, false),
        ("a part of it, by a guard", "/guarded", &*key, &*part, false),
    ] {
        events.clear();
        let mut request = with(&[("x-request-id", id)]);
        request.headers_mut().insert("x-api-key", sent.parse().unwrap());
        *request.uri_mut() = path.parse().unwrap();
        let answer = send(&app, request).await;
        let answered = answer.header("x-request-id");
        assert!(!answer.status.is_success(), "{name}");
        assert_eq!(answered == id, comes_back, "{name}: {answered}");
        assert!(comes_back || answered.len() == 36, "{name}: {answered}");
        let logged: Vec<_> = events.events().into_iter().filter_map(|event| event.request_id).collect();
        assert_eq!(logged, [Box::from(answered)], "{name}: the log and the client have the same id");
    }
}

#[tokio::test]
async fn headers_that_only_look_like_it_have_no_effect() {
    let tokens = manager(&RecordingSink::default());
    let key = issue_key(&tokens, "alice").await;
    let app = Router::new().route("/", get(whoami)).layer(auth(&tokens));
    for (name, headers, status) in [
        ("spoofed user", &[("x-api-key", &*key), ("x-user-id", "bob"), ("x-keyward-user", "bob")][..], 200),
        ("underscores", &[("x_api_key", &*key)], 401),
        ("underscores beside a key", &[("x-api-key", &*key), ("x_api_key", "other")], 200),
        ("hop by hop", &[("x-api-key", &*key), ("connection", "x-api-key")], 200),
        ("proxy authorization", &[("proxy-authorization", &*format!("Bearer {key}"))], 401),
        ("cookie", &[("cookie", &*format!("x-api-key={key}"))], 401),
        ("another method", &[("x-http-method-override", "OPTIONS")], 401),
    ] {
        let answer = send(&app, with(headers)).await;
        assert_eq!(answer.status, status, "{name}");
        assert!(status != 200 || answer.body == "alice", "{name}");
    }
    let query = Request::get(format!("/?api_key={key}&access_token={key}")).body(Body::empty()).unwrap();
    assert_eq!(send(&app, query).await.status, 401);
    let mut form = Request::post("/").header("content-type", "application/x-www-form-urlencoded");
    form = form.header("content-length", "0");
    assert_eq!(send(&app, form.body(Body::from(format!("access_token={key}"))).unwrap()).await.status, 401);
}

// ---- a store that lies -----------------------------------------------------------------------------

#[tokio::test]
async fn a_record_of_somebody_else_is_dropped_with_an_alert_wherever_it_comes_from() {
    let (events, store) = (RecordingSink::default(), Arc::new(UnrulyStore::default()));
    let tokens = TokenManager::builder(store.clone()).with_audit(events.clone()).build();
    let (own, foreign) = (issue(&tokens, "alice").await, issue(&tokens, "bob").await);
    let (alice, id) = (user("alice"), own.record.id);
    store.lie(Some(foreign.record.clone()));
    let rename = || TokenUpdate::default().with_name("mine");
    let not_found = |result: Result<keyward::token::TokenRecord, TokenError>| {
        assert!(matches!(result, Err(TokenError::NotFound)), "{result:?}");
    };
    let noted = |what: &str| {
        assert!(events.alerts().contains(&Alert::ForeignRecord), "{what}: {:?}", events.alerts());
        events.clear();
    };
    not_found(tokens.get(&alice, id).await);
    noted("get");
    not_found(tokens.update(&alice, id, rename()).await);
    noted("update");
    not_found(tokens.revoke(&alice, id).await);
    noted("revoke");
    not_found(tokens.rotate(&alice, id, None).await.map(|issued| issued.record));
    noted("rotate");
    let page = tokens.list(&alice, ListQuery::default()).await.unwrap();
    assert_eq!(page.tokens.iter().map(|record| record.id).collect::<Vec<_>>(), [id]);
    noted("list");
    let app = Router::new().route("/", get(whoami)).layer(auth(&tokens));
    assert_eq!(send(&app, with(&[("x-api-key", own.key.expose())])).await.status, 401);
    noted("find");
}

// ---- hooks that panic ------------------------------------------------------------------------------

/// A hook that panics while it is armed.
#[derive(Clone, Debug, Default)]
struct Bomb(Arc<AtomicBool>);

impl Bomb {
    fn tick(&self) {
        assert!(!self.0.load(Ordering::SeqCst), "the hook's own panic");
    }

    fn arm(&self, on: bool) {
        self.0.store(on, Ordering::SeqCst);
    }
}

impl AuditSink for Bomb {
    fn record(&self, _: &Event) {
        self.tick();
    }
}

/// Whether the handler was reached. A panic is no way to reach it.
async fn reached(app: &Router, key: &str) -> bool {
    let work = tokio::spawn({
        let (app, request) = (app.clone(), with(&[("x-api-key", key)]));
        async move { AssertUnwindSafe(app.oneshot(request)).await.unwrap().status() }
    });
    work.await.is_ok_and(|status| status.is_success())
}

fn apps_with_hooks(tokens: &TokenManager, bomb: &Bomb) -> Vec<(&'static str, Router)> {
    let app = |layer| -> Router { Router::new().route("/", get(async || "reached")).layer(layer) };
    let (mode, policy, lookup, rejection) = (bomb.clone(), bomb.clone(), bomb.clone(), bomb.clone());
    let policy = RequireLayer::policy(move |_: &Principal, _: &RequestHead<'_>| {
        policy.tick();
        true
    });
    let lookup = OwnerLayer::lookup(move |_: &RequestHead<'_>| {
        lookup.tick();
        ready(Ok::<_, Infallible>(Some(user("alice"))))
    });
    let rejection = auth(tokens).with_rejection(move |error: &AuthError| {
        rejection.tick();
        Response::builder().status(error.status()).body(Body::empty()).unwrap()
    });
    let mode = auth(tokens).with_mode(move |_| {
        mode.tick();
        Mode::Required
    });
    vec![
        ("mode", app(mode)),
        ("policy", Router::new().route("/", get(async || "")).layer(policy).layer(auth(tokens))),
        ("lookup", Router::new().route("/", get(async || "")).layer(lookup).layer(auth(tokens))),
        ("rejection", Router::new().route("/", get(async || "")).layer(rejection)),
        ("nothing but the manager's own hooks", app(auth(tokens))),
    ]
}

#[tokio::test]
async fn a_hook_that_panics_lets_nobody_in_and_breaks_nothing() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.to_string().contains("the hook's own panic") {
            report(panic);
        }
    }));
    let bomb = Bomb::default();
    let roles = bomb.clone();
    let roles = move |_: &UserId| {
        roles.tick();
        RoleSet::empty()
    };
    let tokens = TokenManager::builder(MemoryStore::new()).with_audit(bomb.clone()).with_roles(roles).build();
    let good = issue(&tokens, "alice").await;
    let doomed = issue(&tokens, "alice").await;
    for (name, app) in apps_with_hooks(&tokens, &bomb) {
        let fresh = issue(&tokens, "alice").await;
        bomb.arm(true);
        assert!(!reached(&app, fresh.key.expose()).await, "{name}: the directory of roles panicked");
        assert!(!reached(&app, "").await, "{name}: refused, with a panic or without");
        assert!(!reached(&app, "kw_live_1broken").await, "{name}");
        bomb.arm(false);
        assert!(reached(&app, good.key.expose()).await, "{name}: works again");
        assert!(reached(&app, fresh.key.expose()).await, "{name}: and loads again");
        assert!(!reached(&app, "").await, "{name}");
    }
    let app = Router::new().route("/", get(async || "")).layer(auth(&tokens));
    assert!(reached(&app, doomed.key.expose()).await);
    bomb.arm(true);
    let revoke = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.revoke(&user("alice"), doomed.record.id).await.map(drop) }
    });
    // Whether the caller hears of the panic is not the point.
    let _ = revoke.await;
    bomb.arm(false);
    assert!(!reached(&app, doomed.key.expose()).await, "revoked before the sink was told");
}
