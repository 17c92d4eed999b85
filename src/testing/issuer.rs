//! An issuer of tokens for tests, with its discovery document and its keys, that can fail on demand.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::{
    jwt::sign::Signer,
    time::{Clock, SystemClock},
};

const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/keys";
/// Where [`IssuerMode::Redirect`] leads, so that a client that follows finds what it must not.
const ELSEWHERE: &str = "/elsewhere";

/// An OpenID provider on a port of this machine, which signs with Ed25519 keys of its own (`EdDSA`).
///
/// It runs as a task of the runtime that started it, until it is dropped. All methods may be called while
/// a service under test talks to it. They panic where something cannot be: they are for tests.
///
/// ```
/// use keyward::testing::{FakeIssuer, IssuerMode};
/// use serde_json::json;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let issuer = FakeIssuer::start().await;
/// let token = issuer.token(json!({ "sub": "alice", "scope": "jobs:read" }));
/// assert_eq!(token.split('.').count(), 3);
///
/// issuer.rotate(); // tokens of the old key stay good ...
/// issuer.forget_old_keys(); // ... until the provider takes it out of its set
/// issuer.set_mode(IssuerMode::Down);
/// assert_eq!(issuer.key_set_requests(), 0);
/// # }
/// ```
#[derive(Debug)]
pub struct FakeIssuer {
    provider: Arc<Provider>,
    clock: Arc<dyn Clock>,
    server: JoinHandle<()>,
}

/// How a [`FakeIssuer`] answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IssuerMode {
    /// As it should.
    #[default]
    Up,
    /// With the status 500.
    Down,
    /// Never.
    Hanging,
    /// As it should, but only after this time.
    Slow(Duration),
    /// With the status 200 and a page that is no JSON.
    Garbage,
    /// With 10 MB.
    Huge,
    /// With a redirect, behind which is what was asked for.
    Redirect,
    /// With a discovery document that names another issuer; the key set is as it should be.
    WrongIssuer,
    /// With a key set that is empty; the discovery document is as it should be.
    NoKeys,
}

#[derive(Debug)]
struct Provider {
    address: SocketAddr,
    state: Mutex<State>,
    key_set_requests: AtomicUsize,
    discovery_requests: AtomicUsize,
}

#[derive(Debug)]
struct State {
    mode: IssuerMode,
    /// Never empty; the last one signs.
    keys: Vec<Arc<SigningKey>>,
    made: usize,
}

struct SigningKey {
    kid: String,
    signer: Signer,
}

impl FakeIssuer {
    /// The `aud` of its tokens, unless the claims hold another.
    pub const AUDIENCE: &'static str = "keyward-tests";

    /// Starts an issuer with one key, by the system's clock.
    ///
    /// # Panics
    ///
    /// If there is no free port on 127.0.0.1, or outside a tokio runtime with its IO driver.
    #[expect(clippy::expect_used, reason = "a test helper reports by panicking")]
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on 127.0.0.1");
        let address = listener.local_addr().expect("the address of a listener");
        let provider = Arc::new(Provider {
            address,
            state: Mutex::new(State {
                mode: IssuerMode::Up,
                keys: vec![Arc::new(SigningKey::new(1))],
                made: 1,
            }),
            key_set_requests: AtomicUsize::new(0),
            discovery_requests: AtomicUsize::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&provider)));
        Self { provider, clock: Arc::new(SystemClock), server }
    }

    /// Dates tokens by `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Its name, which is the `iss` of its tokens: `http://127.0.0.1:PORT`, without a slash at the end.
    #[must_use]
    pub fn issuer(&self) -> String {
        self.provider.issuer()
    }

    /// Where its key set is.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        format!("{}{KEYS}", self.issuer())
    }

    /// A token of the type `at+jwt` with these claims, signed with the newest key.
    ///
    /// `iss`, `aud`, `iat` (now) and `exp` (in one hour) are added where they are missing; a claim that is
    /// null is left out.
    ///
    /// # Panics
    ///
    /// If `claims` is not a JSON object.
    #[must_use]
    pub fn token(&self, claims: Value) -> String {
        self.token_with(Value::Object(Map::new()), claims)
    }

    /// Like [`token`](Self::token), with these members in the header in place of or beside `alg`, `typ` and
    /// `kid`; one that is null is left out. It is signed with the newest key, whatever the header says.
    ///
    /// # Panics
    ///
    /// If `header` or `claims` is not a JSON object.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test helper reports by panicking")]
    pub fn token_with(&self, header: Value, claims: Value) -> String {
        let key = self.provider.state().keys.last().cloned().expect("a key");
        let now = self.clock.now().as_millis().div_euclid(1000);
        let header = merged(json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": key.kid }), header);
        let added = json!({
            "iss": self.issuer(),
            "aud": Self::AUDIENCE,
            "iat": now,
            "exp": now.saturating_add(3600),
        });
        key.signer.token(&header, &merged(added, claims)).expect("a signature")
    }

    /// Signs with a new key from now on. The old ones stay in the set.
    pub fn rotate(&self) {
        let mut state = self.provider.state();
        state.made = state.made.saturating_add(1);
        let key = SigningKey::new(state.made);
        state.keys.push(Arc::new(key));
    }

    /// Takes all keys but the newest out of the set.
    pub fn forget_old_keys(&self) {
        let keys = &mut self.provider.state().keys;
        keys.drain(..keys.len().saturating_sub(1));
    }

    /// Changes how it answers. Requests that it already has are answered in the old way.
    pub fn set_mode(&self, mode: IssuerMode) {
        self.provider.state().mode = mode;
    }

    /// How often it was asked for its key set, in whichever mode.
    #[must_use]
    pub fn key_set_requests(&self) -> usize {
        self.provider.key_set_requests.load(Ordering::SeqCst)
    }

    /// How often it was asked for its discovery document, in whichever mode.
    #[must_use]
    pub fn discovery_requests(&self) -> usize {
        self.provider.discovery_requests.load(Ordering::SeqCst)
    }
}

impl Drop for FakeIssuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl SigningKey {
    #[expect(clippy::expect_used, reason = "a test helper reports by panicking")]
    fn new(number: usize) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("random bytes");
        let signer = Signer::ed25519(&seed).expect("a key");
        Self { kid: format!("key-{number}"), signer }
    }

    fn jwk(&self) -> Option<Value> {
        self.signer.public_jwk(Some(&self.kid))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Provider {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            DISCOVERY => self.discovery_requests.fetch_add(1, Ordering::SeqCst),
            KEYS => self.key_set_requests.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        let mode = self.state().mode;
        match mode {
            IssuerMode::Hanging => std::future::pending().await,
            IssuerMode::Slow(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        let document = path.strip_prefix(ELSEWHERE).unwrap_or(path);
        match mode {
            IssuerMode::Down => response(StatusCode::INTERNAL_SERVER_ERROR, "down"),
            IssuerMode::Garbage => response(StatusCode::OK, "<html>Welcome to the hotel's network"),
            IssuerMode::Huge => response(StatusCode::OK, vec![b' '; 10_000_000]),
            IssuerMode::Redirect if document == path => {
                let mut answer = response(StatusCode::FOUND, "");
                let target = format!("{}{ELSEWHERE}{path}", self.issuer()).parse();
                target.into_iter().for_each(|to| drop(answer.headers_mut().insert(header::LOCATION, to)));
                answer
            }
            _ => match document {
                DISCOVERY => response(StatusCode::OK, self.discovery(mode).to_string()),
                KEYS => response(StatusCode::OK, self.key_set(mode).to_string()),
                _ => response(StatusCode::NOT_FOUND, ""),
            },
        }
    }

    fn discovery(&self, mode: IssuerMode) -> Value {
        let issuer = self.issuer();
        let other = "https://other.example.com".to_owned();
        json!({
            "issuer": if mode == IssuerMode::WrongIssuer { other } else { issuer.clone() },
            "jwks_uri": format!("{issuer}{KEYS}"),
            "id_token_signing_alg_values_supported": ["EdDSA"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
        })
    }

    fn key_set(&self, mode: IssuerMode) -> Value {
        let keys: Vec<_> = self.state().keys.iter().filter_map(|key| key.jwk()).collect();
        json!({ "keys": if mode == IssuerMode::NoKeys { Vec::new() } else { keys } })
    }
}

/// Its connections are in a set of its own, so that they end with it.
async fn serve(listener: TcpListener, provider: Arc<Provider>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            connections.spawn(connection(stream, Arc::clone(&provider)));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, provider: Arc<Provider>) {
    let service = service_fn(|request: Request<Incoming>| {
        let provider = Arc::clone(&provider);
        async move { Ok::<_, Infallible>(provider.answer(request.uri().path()).await) }
    });
    // A client that hangs up is none of our business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn response(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

#[expect(clippy::panic, reason = "a test helper reports by panicking")]
fn merged(defaults: Value, given: Value) -> Value {
    let (Value::Object(mut all), Value::Object(given)) = (defaults, given) else {
        panic!("the header and the claims of a token are JSON objects");
    };
    all.extend(given);
    all.retain(|_, value| !value.is_null());
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{jwt::VerifyingKey, testing::ManualClock};
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    #[tokio::test]
    async fn tokens_are_signed_by_the_key_that_is_published() {
        let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
        let issuer = FakeIssuer::start().await.with_clock(clock);
        issuer.rotate();
        let header = json!({ "typ": null, "crit": ["b64"] });
        let token = issuer.token_with(header, json!({ "sub": "alice", "aud": null, "exp": 5 }));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let set = issuer.provider.key_set(IssuerMode::Up);
        let key = VerifyingKey::from_jwk(set["keys"][1].to_string()).unwrap();
        assert!(key.verify(signed.as_bytes(), &signature));

        let parts = signed.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
        let parts: Vec<Value> = parts.map(|part| serde_json::from_slice(&part).unwrap()).collect();
        assert_eq!(parts[0], json!({ "alg": "EdDSA", "kid": "key-2", "crit": ["b64"] }));
        let expected = json!({ "iss": issuer.issuer(), "iat": 1_767_225_600, "exp": 5, "sub": "alice" });
        assert_eq!(parts[1], expected);
        issuer.forget_old_keys();
        assert_eq!(issuer.provider.key_set(IssuerMode::Up)["keys"].as_array().unwrap().len(), 1);
    }
}
