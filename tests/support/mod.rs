//! What the integration tests share: a store that misbehaves on demand, a captured log, and requests.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, of which each test uses its part"
)]

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use keyward::{
    AdminProof, AuthLayer, Owner, Principal, TokenId, TokenManager, UserId,
    auth::{AnyOf, ApiKeyAuth, StaticAuth},
    jwt::{JwtAuth, JwtIssuer},
    manage::IssuedToken,
    secret::TokenDigest,
    store::{
        Change, Claimed, Denials, Ended, JwtRevocation, MemoryStore, Page, Purge, Purged, Reach, Revoked,
        Room, Rotation, StaticList, StoreError, StoreErrorKind, TokenStore, Usage, UserState, Warnings,
    },
    testing::{ManualClock, RecordingSink},
    time::{Clock, UnixTime},
    token::TokenRecord,
};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt, service_fn, util::ServiceFn};
use tracing_subscriber::filter::LevelFilter;

/// A user id.
pub(crate) fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

/// The day on which all manual clocks start.
pub(crate) fn start() -> UnixTime {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// A [`MemoryStore`] that counts, stops, fails and lies when it is told to.
#[derive(Debug, Default)]
pub(crate) struct UnrulyStore {
    /// What an honest store would know.
    pub(crate) memory: MemoryStore,
    finds: AtomicUsize,
    denials_asked: AtomicUsize,
    health_checks: AtomicUsize,
    longest_batch: AtomicUsize,
    down: AtomicBool,
    hangs: AtomicBool,
    usage_fails: AtomicBool,
    gets_fail: AtomicBool,
    denials_fail: AtomicBool,
    fails_for: Mutex<Option<TokenDigest>>,
    gate: Mutex<Option<Arc<Gate>>>,
    get_gate: Mutex<Option<Arc<Gate>>>,
    claim_gate: Mutex<Option<Arc<Gate>>>,
    upkeep_slow: AtomicBool,
    lie: Mutex<Option<TokenRecord>>,
}

/// Where `find` or `get` waits, after it has read, until it is let through.
#[derive(Debug)]
pub(crate) struct Gate {
    arrivals: Semaphore,
    passes: Semaphore,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self { arrivals: Semaphore::new(0), passes: Semaphore::new(0) })
    }

    async fn pass(&self) {
        self.arrivals.add_permits(1);
        let _pass = self.passes.acquire().await;
    }

    /// Waits until one more call stands at the gate.
    pub(crate) async fn arrival(&self) {
        self.arrivals.acquire().await.unwrap().forget();
    }

    /// Lets everybody through, now and later.
    pub(crate) fn open(&self) {
        self.passes.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UnrulyStore {
    /// How often `find` was called.
    pub(crate) fn finds(&self) -> usize {
        self.finds.load(Ordering::SeqCst)
    }

    /// How often `denials` was called.
    pub(crate) fn denials_asked(&self) -> usize {
        self.denials_asked.load(Ordering::SeqCst)
    }

    /// How often `health` was called.
    pub(crate) fn health_checks(&self) -> usize {
        self.health_checks.load(Ordering::SeqCst)
    }

    /// The most that was ever to be written with one `record_usage`.
    pub(crate) fn longest_batch(&self) -> usize {
        self.longest_batch.load(Ordering::SeqCst)
    }

    /// Every call fails.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// No call is ever answered.
    pub(crate) fn set_hanging(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    /// Usage cannot be written.
    pub(crate) fn set_usage_failing(&self, fails: bool) {
        self.usage_fails.store(fails, Ordering::SeqCst);
    }

    /// Nothing is found by its id.
    pub(crate) fn set_gets_failing(&self, fails: bool) {
        self.gets_fail.store(fails, Ordering::SeqCst);
    }

    /// What is denied cannot be read.
    pub(crate) fn set_denials_failing(&self, fails: bool) {
        self.denials_fail.store(fails, Ordering::SeqCst);
    }

    /// `find` fails for this key alone.
    pub(crate) fn fail_for(&self, key: &str) {
        *lock(&self.fails_for) = Some(TokenDigest::of(key.as_bytes()));
    }

    /// `find` waits at the gate that is returned.
    pub(crate) fn close_gate(&self) -> Arc<Gate> {
        let gate = Gate::closed();
        *lock(&self.gate) = Some(gate.clone());
        gate
    }

    /// The next `get`, and no other, waits at the gate that is returned.
    pub(crate) fn stop_next_get(&self) -> Arc<Gate> {
        let gate = Gate::closed();
        *lock(&self.get_gate) = Some(gate.clone());
        gate
    }

    /// Warnings that were claimed wait at the gate that is returned.
    pub(crate) fn close_claim_gate(&self) -> Arc<Gate> {
        let gate = Gate::closed();
        *lock(&self.claim_gate) = Some(gate.clone());
        gate
    }

    /// Each step of the upkeep takes a second and a half.
    pub(crate) fn set_upkeep_slow(&self, slow: bool) {
        self.upkeep_slow.store(slow, Ordering::SeqCst);
    }

    async fn delay_upkeep(&self) {
        if self.upkeep_slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
    }

    /// Whatever is asked for, this record is the answer.
    pub(crate) fn lie(&self, record: Option<TokenRecord>) {
        *lock(&self.lie) = record;
    }

    fn lied(&self) -> Option<TokenRecord> {
        lock(&self.lie).clone()
    }

    async fn misbehave(&self) -> Result<(), StoreError> {
        if self.hangs.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        match self.down.load(Ordering::SeqCst) {
            true => Err(StoreErrorKind::Unavailable.into()),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl TokenStore for UnrulyStore {
    async fn insert(&self, record: &TokenRecord, limit: Option<u32>) -> Result<(), StoreError> {
        self.misbehave().await?;
        self.memory.insert(record, limit).await
    }

    async fn find(&self, digest: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        self.finds.fetch_add(1, Ordering::SeqCst);
        self.misbehave().await?;
        if *lock(&self.fails_for) == Some(*digest) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let found = self.memory.find(digest).await;
        let gate = lock(&self.gate).clone();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        self.lied().map_or(found, |lie| Ok(Some(lie)))
    }

    async fn get(&self, owner: Owner<'_>, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        self.misbehave().await?;
        if self.gets_fail.load(Ordering::SeqCst) {
            return Err(StoreErrorKind::Unavailable.into());
        }
        let found = self.memory.get(owner, id).await;
        let gate = lock(&self.get_gate).take();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        self.lied().map_or(found, |lie| Ok(Some(lie)))
    }

    async fn list(&self, owner: Owner<'_>, page: Page) -> Result<Vec<TokenRecord>, StoreError> {
        self.misbehave().await?;
        let mut found = self.memory.list(owner, page).await?;
        found.extend(self.lied());
        Ok(found)
    }

    async fn count(&self, owner: Owner<'_>) -> Result<u64, StoreError> {
        self.misbehave().await?;
        self.memory.count(owner).await
    }

    async fn update(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        change: &Change,
    ) -> Result<Option<TokenRecord>, StoreError> {
        self.misbehave().await?;
        match self.lied() {
            Some(lie) => Ok(Some(lie)),
            None => self.memory.update(owner, id, change).await,
        }
    }

    async fn rotate(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        rotation: &Rotation,
    ) -> Result<Option<TokenRecord>, StoreError> {
        self.misbehave().await?;
        match self.lied() {
            Some(lie) => Ok(Some(lie)),
            None => self.memory.rotate(owner, id, rotation).await,
        }
    }

    async fn revoke_all(&self, owner: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        self.misbehave().await?;
        self.memory.revoke_all(owner, at).await
    }

    async fn revoke(
        &self,
        owner: Owner<'_>,
        id: TokenId,
        at: UnixTime,
        reach: Reach,
    ) -> Result<Option<Revoked>, StoreError> {
        self.misbehave().await?;
        self.memory.revoke(owner, id, at, reach).await
    }

    async fn insert_making_room(&self, record: &TokenRecord, room: &Room) -> Result<Vec<Ended>, StoreError> {
        self.misbehave().await?;
        self.memory.insert_making_room(record, room).await
    }

    async fn purge(&self, proof: &AdminProof, purge: &Purge) -> Result<Purged, StoreError> {
        self.misbehave().await?;
        self.delay_upkeep().await;
        self.memory.purge(proof, purge).await
    }

    async fn claim_warnings(&self, proof: &AdminProof, warnings: &Warnings) -> Result<Claimed, StoreError> {
        self.misbehave().await?;
        self.delay_upkeep().await;
        let claimed = self.memory.claim_warnings(proof, warnings).await;
        let gate = lock(&self.claim_gate).clone();
        if let Some(gate) = gate {
            gate.pass().await;
        }
        claimed
    }

    async fn record_usage(&self, batch: &[Usage]) -> Result<(), StoreError> {
        self.longest_batch.fetch_max(batch.len(), Ordering::SeqCst);
        self.misbehave().await?;
        match self.usage_fails.load(Ordering::SeqCst) {
            true => Err(StoreErrorKind::Unavailable.into()),
            false => self.memory.record_usage(batch).await,
        }
    }

    async fn denials(&self, now: UnixTime) -> Result<Denials, StoreError> {
        self.denials_asked.fetch_add(1, Ordering::SeqCst);
        self.misbehave().await?;
        match self.denials_fail.load(Ordering::SeqCst) {
            true => Err(StoreErrorKind::Unavailable.into()),
            false => self.memory.denials(now).await,
        }
    }

    async fn revoke_jwt(&self, revocation: &JwtRevocation, now: UnixTime) -> Result<(), StoreError> {
        self.misbehave().await?;
        self.memory.revoke_jwt(revocation, now).await
    }

    async fn revoke_jwts_of(&self, user: &UserId, at: UnixTime) -> Result<(), StoreError> {
        self.misbehave().await?;
        self.memory.revoke_jwts_of(user, at).await
    }

    async fn set_user_state(&self, state: &UserState) -> Result<(), StoreError> {
        self.misbehave().await?;
        self.memory.set_user_state(state).await
    }

    async fn register(&self, record: &TokenRecord) -> Result<(), StoreError> {
        self.misbehave().await?;
        self.memory.register(record).await
    }

    async fn offboard(&self, user: &UserId, at: UnixTime) -> Result<Vec<TokenDigest>, StoreError> {
        self.misbehave().await?;
        self.memory.offboard(user, at).await
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.health_checks.fetch_add(1, Ordering::SeqCst);
        self.misbehave().await
    }
}

/// Sends requests through the layer to a service that answers everybody.
#[derive(Clone)]
pub(crate) struct Gatekeeper(keyward::layer::Auth<ServiceFn<Answering>>);

type Answering = fn(Request<()>) -> Ready<Result<Response<Full<Bytes>>, Infallible>>;

/// Answers with the caller in the response's extensions.
fn answer(request: Request<()>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    let (mut parts, ()) = request.into_parts();
    let mut response = Response::new(Full::default());
    let principal = parts.extensions.remove::<Principal>();
    response.extensions_mut().insert(principal.expect("the layer has let it in"));
    ready(Ok(response))
}

impl Gatekeeper {
    pub(crate) fn new(tokens: &TokenManager) -> Self {
        let answering: Answering = answer;
        Self(AuthLayer::new(ApiKeyAuth::new(tokens)).with_failure_limit(None).layer(service_fn(answering)))
    }

    /// Whether a request with this key is let in.
    pub(crate) async fn accepts(&self, key: &IssuedToken) -> bool {
        self.ask(key).await.status().is_success()
    }

    /// The status of a request with this key.
    pub(crate) async fn status(&self, key: &IssuedToken) -> u16 {
        self.ask(key).await.status().as_u16()
    }

    /// As whom a request with this key acts.
    pub(crate) async fn principal(&self, key: &IssuedToken) -> Principal {
        self.ask(key).await.extensions().get::<Principal>().expect("accepted").clone()
    }

    async fn ask(&self, key: &IssuedToken) -> Response<Full<Bytes>> {
        let request = Request::get("/").header("x-api-key", key.key.expose()).body(()).unwrap();
        self.0.clone().oneshot(request).await.unwrap()
    }
}

/// A manager whose store, clock and events a test has in its hands, and the layer before it.
pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) store: Arc<UnrulyStore>,
    pub(crate) events: RecordingSink,
    pub(crate) tokens: TokenManager,
    pub(crate) gate: Gatekeeper,
}

impl World {
    pub(crate) fn new() -> Self {
        let (clock, store) = (ManualClock::at(start()), Arc::new(UnrulyStore::default()));
        let events = RecordingSink::default();
        let builder = TokenManager::builder(store.clone()).with_clock(clock.clone());
        let tokens = builder.with_audit(events.clone()).build();
        let gate = Gatekeeper::new(&tokens);
        Self { clock, store, events, tokens, gate }
    }
}

/// Whose JWTs are believed, for whom, and by which secret.
pub(crate) const ISSUER: &str = "https://login.example";
pub(crate) const AUDIENCE: &str = "https://api.example";
pub(crate) const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only";

/// A service that answers whoever presents a key of `tokens`, a JWT of the issuer that comes with it, or a static token
/// of `list`, all by `clock`.
pub(crate) fn every_kind(
    tokens: &TokenManager,
    list: &str,
    clock: &(impl Clock + Clone),
) -> (Router, JwtIssuer) {
    let issuer = JwtIssuer::hs256(SECRET, ISSUER, AUDIENCE).unwrap().with_clock(clock.clone());
    let jwt = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone());
    let list = StaticList::parse(list).unwrap();
    let auth = AuthLayer::new(AnyOf::new([
        ApiKeyAuth::new(tokens).into(),
        jwt.build().unwrap().into(),
        StaticAuth::new(&list).with_clock(clock.clone()).into(),
    ]));
    (Router::new().route("/", get(async || {})).layer(auth), issuer)
}

/// The status of a request with this credential.
pub(crate) async fn status_of(app: &Router, credential: &str) -> u16 {
    let bearer = format!("Bearer {credential}");
    let request = Request::get("/").header("authorization", bearer).body(Body::empty()).unwrap();
    send(app, request).await.status.as_u16()
}

/// All that is logged, at every level and for every target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What was logged so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0)).into_owned()
    }

    /// The lines that hold `text`.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        self.text().lines().filter(|line| line.contains(text)).map(ToOwned::to_owned).collect()
    }

    /// What writes into this log.
    pub(crate) fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
        let log = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish()
    }

    /// Catches what this thread logs while the answer lives.
    pub(crate) fn catch(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(self.subscriber())
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a client sees.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The answer in `response`.
    pub(crate) async fn of<B: http_body::Body>(response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.ok().expect("the body arrives").to_bytes();
        Self { status: parts.status, headers: parts.headers, body }
    }

    /// A header's text, empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// A text of the body.
    pub(crate) fn text(&self, member: &str) -> String {
        self.json()[member].as_str().unwrap().to_owned()
    }

    /// Without what is new in each answer.
    pub(crate) fn comparable(mut self) -> Self {
        self.headers.remove("x-request-id");
        self.headers.remove("date");
        self
    }
}

/// Sends `request` to `app`, in this process.
pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    Answer::of(app.clone().oneshot(request).await.unwrap()).await
}

/// A request with a JSON body.
pub(crate) fn request(method: &str, path: &str, key: &str, body: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("x-api-key", key);
    request.header("content-type", "application/json").body(Body::from(body.to_owned())).unwrap()
}
