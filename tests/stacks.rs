//! The same table of requests in axum, bare hyper and tonic, over real sockets: the answer to a credential
//! does not depend on the stack.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

#[path = "jwt/support.rs"]
mod jwt;
mod support;

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::{Buf, BufMut, Bytes};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{Empty, Full};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use keyward::{
    AuthLayer, Principal, RequireLayer, TokenManager,
    auth::{AnyOf, ApiKeyAuth},
    layer::GrpcStatus,
    manage::{IssuedToken, NewToken, TokenUpdate},
    net::{IpList, PeerAddr},
    scope::{Grant, ScopeSet},
    testing::ManualClock,
    token::KeyFormat,
};
use serde_json::json;
use support::{Answer, UnrulyStore, start, user};
use tokio::net::TcpListener;
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::NamedService,
    transport::{Channel, Endpoint, Server, server::TcpConnectInfo},
};
use tower::{Service, ServiceBuilder, service_fn};

const MISSING: Option<&str> = Some(r#"Bearer realm="api""#);
const INVALID: Option<&str> = Some(r#"Bearer realm="api", error="invalid_token""#);
const MALFORMED: Option<&str> = Some(r#"Bearer realm="api", error="invalid_request""#);
const NO_SCOPE: Option<&str> = Some(r#"Bearer realm="api", error="insufficient_scope", scope="jobs:read""#);

type Lines = Vec<(&'static str, Vec<u8>)>;

/// What a client sends, and what it must get.
struct Case {
    name: &'static str,
    lines: Lines,
    status: u16,
    code: Code,
    challenge: Option<&'static str>,
}

impl Case {
    fn new(
        name: &'static str,
        lines: Lines,
        status: u16,
        code: Code,
        challenge: Option<&'static str>,
    ) -> Self {
        Self { name, lines, status, code, challenge }
    }

    fn accepted(name: &'static str, lines: Lines) -> Self {
        Self::new(name, lines, 200, Code::Ok, None)
    }

    fn invalid(name: &'static str, lines: Lines) -> Self {
        Self::new(name, lines, 401, Code::Unauthenticated, INVALID)
    }

    fn malformed(name: &'static str, lines: Lines) -> Self {
        Self::new(name, lines, 400, Code::InvalidArgument, MALFORMED)
    }
}

/// Keys in every state.
struct World {
    clock: ManualClock,
    store: Arc<UnrulyStore>,
    tokens: TokenManager,
}

impl World {
    fn new() -> Self {
        let clock = ManualClock::at(start());
        let store = Arc::new(UnrulyStore::default());
        let tokens = TokenManager::builder(store.clone()).with_clock(clock.clone()).build();
        Self { clock, store, tokens }
    }

    async fn issue(&self, change: impl FnOnce(NewToken) -> NewToken) -> IssuedToken {
        self.tokens.create(&user("alice"), change(NewToken::named("test"))).await.unwrap()
    }

    async fn key(&self, change: impl FnOnce(NewToken) -> NewToken) -> String {
        self.issue(change).await.key.expose().to_owned()
    }

    async fn revoked(&self) -> String {
        let issued = self.issue(|new| new).await;
        self.tokens.revoke(&user("alice"), issued.record.id).await.unwrap();
        issued.key.expose().to_owned()
    }

    async fn disabled(&self) -> String {
        let issued = self.issue(|new| new).await;
        let off = TokenUpdate::default().with_enabled(false);
        self.tokens.update(&user("alice"), issued.record.id, off).await.unwrap();
        issued.key.expose().to_owned()
    }

    async fn expired(&self) -> String {
        let key = self.key(|new| new.with_lifetime(Duration::from_secs(60))).await;
        self.clock.advance(Duration::from_secs(61));
        key
    }

    async fn limited_to(&self, network: &str) -> String {
        let list = IpList::new([network]).unwrap();
        self.key(|new| new.with_allowed_ips(list)).await
    }

    async fn unreachable(&self) -> String {
        let key = self.key(|new| new).await;
        self.store.fail_for(&key);
        key
    }

    fn auth(&self) -> AuthLayer {
        let jwt = jwt::hs256(&jwt::clock());
        AuthLayer::new(AnyOf::new([ApiKeyAuth::new(&self.tokens).into(), jwt.into()]))
    }

    /// The table.
    async fn cases(&self) -> Vec<Case> {
        let good = self.key(|new| new).await;
        let mut cases = acceptable(&good);
        cases.extend(refusable(&good));
        cases.extend(web_tokens());
        let scopes = Grant::Only(ScopeSet::new(["jobs:write"]).unwrap());
        let narrow = self.key(|new| new.with_scopes(scopes)).await;
        let unknown = KeyFormat::default().generate().unwrap().expose().to_owned();
        let (unavailable, forbidden) = (Code::Unavailable, Code::PermissionDenied);
        cases.extend([
            Case::invalid("unknown", key(&unknown)),
            Case::invalid("revoked", key(&self.revoked().await)),
            Case::invalid("expired", key(&self.expired().await)),
            Case::invalid("disabled", key(&self.disabled().await)),
            Case::accepted("from its network", key(&self.limited_to("127.0.0.0/8").await)),
            Case::new("from elsewhere", key(&self.limited_to("192.0.2.0/24").await), 403, forbidden, None),
            Case::new("lacking scope", key(&narrow), 403, forbidden, NO_SCOPE),
            Case::new("store down", key(&self.unreachable().await), 503, unavailable, None),
        ]);
        cases
    }
}

fn key(text: &str) -> Lines {
    vec![("x-api-key", text.as_bytes().to_vec())]
}

fn authorization(text: &str) -> Lines {
    vec![("authorization", text.as_bytes().to_vec())]
}

fn acceptable(good: &str) -> Vec<Case> {
    let mut beside_basic = key(good);
    beside_basic.extend(authorization("Basic YWxpY2U6c2VjcmV0"));
    vec![
        Case::accepted("key header", key(good)),
        Case::accepted("bearer", authorization(&format!("Bearer {good}"))),
        Case::accepted("bearer in lower case", authorization(&format!("bearer {good}"))),
        Case::accepted("bearer in upper case, more spaces", authorization(&format!("BEARER   {good}"))),
        Case::accepted("another scheme beside a key", beside_basic),
    ]
}

fn refusable(good: &str) -> Vec<Case> {
    let mut two = key(good);
    two.extend(authorization(&format!("Bearer {good}")));
    let mut twice = key(good);
    twice.extend(key(good));
    let mut broken = good.to_owned();
    let last = if broken.pop() == Some('0') { '1' } else { '0' };
    broken.push(last);
    let none = Code::Unauthenticated;
    vec![
        Case::new("no credential", vec![], 401, none, MISSING),
        Case::new("another scheme", authorization("Basic YWxpY2U6c2VjcmV0"), 401, none, MISSING),
        Case::invalid("bad checksum", key(&broken)),
        Case::invalid("another kind", key("0f1e2d3c4b5a69788796a5b4c3d2e1f0")),
        Case::new("empty key", key(""), 401, none, MISSING),
        Case::new("bearer alone", authorization("Bearer"), 401, none, MISSING),
        Case::malformed("two credentials", two),
        Case::malformed("repeated header", twice),
        Case::malformed("non-ASCII", vec![("x-api-key", [good.as_bytes(), b"\xc3\xa9"].concat())]),
        Case::malformed("bearer and more", authorization(&format!("Bearer {good} x"))),
        Case::malformed("two keys in one line", key(&format!("{good}, {good}"))),
    ]
}

/// X24 of the tests of JSON Web Tokens: no stack is a way around a check.
fn web_tokens() -> Vec<Case> {
    let signed = |claims: String| jwt::sign(jwt::SECRET, jwt::HEADER, claims);
    let with = |changes: serde_json::Value| {
        let mut all = json!({ "scope": "jobs:read" });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        signed(jwt::with(all))
    };
    let bearer = |token: &str| authorization(&format!("Bearer {token}"));
    let good = with(json!({}));
    let (message, _) = jwt::split(&good);
    let none = jwt::message(r#"{"alg":"none"}"#, jwt::claims().to_string());
    let now = jwt::NOW;
    vec![
        Case::accepted("JWT", bearer(&good)),
        Case::accepted("JWT again", bearer(&good)),
        Case::new(
            "JWT without scope",
            bearer(&signed(jwt::with(json!({})))),
            403,
            Code::PermissionDenied,
            NO_SCOPE,
        ),
        Case::invalid("JWT as a key", key(&good)),
        Case::invalid("J11 expired", bearer(&with(json!({ "exp": now - 60 })))),
        Case::invalid("J12 not yet", bearer(&with(json!({ "nbf": now + 61 })))),
        Case::invalid("J12 from the future", bearer(&with(json!({ "iat": now + 61 })))),
        Case::invalid("J13 for ever", bearer(&with(json!({ "exp": null })))),
        Case::invalid("J14 for nobody", bearer(&with(json!({ "aud": null })))),
        Case::invalid("J15 by nobody", bearer(&with(json!({ "iss": null })))),
        Case::invalid("X20 exp a text", bearer(&with(json!({ "exp": "never" })))),
        Case::invalid("X21 iss a list", bearer(&with(json!({ "iss": [jwt::ISSUER] })))),
        Case::invalid("X23 aud empty", bearer(&with(json!({ "aud": [] })))),
        Case::invalid("X25 too long", bearer(&with(json!({ "exp": now + 90_000 })))),
        Case::invalid("D9-2 bound", bearer(&with(json!({ "cnf": { "jkt": "x" } })))),
        Case::invalid("P3.12 ID token", bearer(&with(json!({ "nonce": "x" })))),
        Case::invalid("X03 none", bearer(&format!("{none}."))),
        Case::invalid("X04 no signature", bearer(&format!("{message}."))),
        Case::invalid("X06 no secret", bearer(&jwt::sign("", jwt::HEADER, jwt::claims().to_string()))),
        Case::malformed("X11 JSON", bearer(&json!({ "payload": message }).to_string())),
    ]
}

fn add_lines(headers: &mut http::HeaderMap, lines: &Lines) {
    for (name, value) in lines {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    }
}

async fn call(address: SocketAddr, lines: &Lines) -> Answer {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut request = Request::get(format!("http://{address}/")).body(Empty::new()).unwrap();
    add_lines(request.headers_mut(), lines);
    Answer::of(client.request(request).await.unwrap()).await
}

/// Sends the table to `address` and compares all that a client may see.
async fn check_http(stack: &str, address: SocketAddr, world: &World) {
    let mut unauthorized = Vec::new();
    for case in world.cases().await {
        let name = format!("{stack}, {}", case.name);
        let answer = call(address, &case.lines).await;
        assert_eq!(answer.status, case.status, "{name}: {answer:?}");
        let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, case.challenge.into_iter().collect::<Vec<_>>(), "{name}");
        let wait = if case.status == 503 { "1" } else { "" };
        assert_eq!(answer.header("retry-after"), wait, "{name}");
        if case.status == 200 {
            assert_eq!(&*answer.body, b"alice", "{name}");
        } else {
            check_refusal(&name, &answer, case.status);
        }
        if case.status == 401 {
            unauthorized.push(answer.body);
        }
    }
    assert!(unauthorized.len() > 8);
    unauthorized.dedup();
    assert_eq!(unauthorized.len(), 1, "{stack}: all bodies of 401 are the same, byte for byte");
}

fn check_refusal(name: &str, answer: &Answer, status: u16) {
    for (header, value) in [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(answer.header(header), value, "{name}");
    }
    assert_eq!(answer.header("x-request-id").len(), 36, "{name}");
    let problem = answer.json();
    let members: Vec<_> = problem.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["detail", "status", "title", "type"], "{name}");
    assert_eq!((&problem["status"], &problem["type"]), (&status.into(), &"about:blank".into()), "{name}");
}

fn whoami(extensions: &http::Extensions) -> String {
    let (me, id) = (extensions.get::<Principal>().unwrap(), extensions.get::<keyward::UserId>().unwrap());
    assert_eq!(me.user_id(), id);
    id.to_string()
}

#[tokio::test]
async fn axum_answers_by_the_table() {
    let world = World::new();
    let app = Router::new()
        .route("/", get(async |me: Principal| me.user_id().to_string()))
        .layer(RequireLayer::scope("jobs:read"))
        .layer(world.auth());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    check_http("axum", address, &world).await;
}

#[tokio::test]
async fn bare_hyper_answers_by_the_table() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_hyper(listener, world.auth()));
    check_http("hyper", address, &world).await;
}

async fn serve_hyper(listener: TcpListener, auth: AuthLayer) {
    loop {
        let (stream, peer) = listener.accept().await.unwrap();
        let service = ServiceBuilder::new()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            })
            .layer(auth.clone())
            .layer(RequireLayer::scope("jobs:read"))
            .service(service_fn(async |request: Request<Incoming>| {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(whoami(request.extensions()))))
            }));
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        tokio::spawn(connection);
    }
}

/// Messages that are nothing but their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A service with the one method `WhoAmI`.
#[derive(Clone, Debug)]
struct Greeter;

impl NamedService for Greeter {
    const NAME: &'static str = "keyward.test.Greeter";
}

impl Service<Request<tonic::body::Body>> for Greeter {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let who = service_fn(async |request: tonic::Request<Bytes>| {
            Ok(tonic::Response::new(Bytes::from(whoami(request.extensions()))))
        });
        Box::pin(async move { Ok(tonic::server::Grpc::new(Plain).unary(who, request).await) })
    }
}

async fn serve_tonic(auth: AuthLayer) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = ServiceBuilder::new().map_request(|mut request: Request<tonic::body::Body>| {
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        request.extensions_mut().insert(PeerAddr(peer.unwrap()));
        request
    });
    let server = Server::builder()
        .layer(peer.into_inner())
        .layer(auth.with_rejection(GrpcStatus))
        .layer(RequireLayer::scope("jobs:read").with_rejection(GrpcStatus))
        .add_service(Greeter);
    tokio::spawn(server.serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)));
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn who_am_i(channel: &Channel, lines: Lines) -> Result<tonic::Response<Bytes>, Status> {
    let service = ServiceBuilder::new()
        .map_request(move |mut request: Request<tonic::body::Body>| {
            add_lines(request.headers_mut(), &lines);
            request
        })
        .service(channel.clone());
    let mut client = tonic::client::Grpc::new(service);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/keyward.test.Greeter/WhoAmI");
    client.unary(tonic::Request::new(Bytes::new()), path, Plain).await
}

#[tokio::test]
async fn tonic_answers_by_the_table() {
    let world = World::new();
    let channel = serve_tonic(world.auth()).await;
    for case in world.cases().await {
        match who_am_i(&channel, case.lines).await {
            Ok(answer) => {
                assert_eq!(case.code, Code::Ok, "{}", case.name);
                assert_eq!(answer.into_inner(), "alice", "{}", case.name);
            }
            Err(status) => {
                assert_eq!(status.code(), case.code, "{}: {status:?}", case.name);
                let metadata = status.metadata().clone().into_headers();
                let header = |name| metadata.get(name).map(|value| value.to_str().unwrap());
                assert_eq!(header("www-authenticate"), case.challenge, "{}", case.name);
                assert_eq!(header("retry-after"), (case.status == 503).then_some("1"), "{}", case.name);
                assert_eq!(header("cache-control"), Some("no-store"), "{}", case.name);
                assert!(status.message().ends_with('.'), "{}: {status:?}", case.name);
            }
        }
    }
}
