//! Acting as a user in a test, with real credentials: nothing of the service is bypassed.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
};

use http::{HeaderValue, Request, header};

use crate::{
    auth::{AnyOf, ApiKeyAuth},
    id::UserId,
    manage::{NewToken, TokenManager},
    scope::{Grant, RoleSet, ScopeSet},
    secret::ApiKey,
    store::MemoryStore,
    testing::{ManualClock, RecordingSink},
    time::UnixTime,
};
#[cfg(feature = "_jwt")]
use crate::{
    jwt::{JwtAuth, JwtIssuer},
    store::TokenLookup,
};

/// The first moment of 2026.
const START: UnixTime = UnixTime::from_millis(1_767_225_600_000);

#[cfg(feature = "_jwt")]
const ISSUER: &str = "https://issuer.test";
#[cfg(feature = "_jwt")]
const AUDIENCE: &str = "https://service.test";

/// What the tests of a service need: callers to act as, a clock to set, and the events so far.
///
/// A caller presents a real credential, which was issued for the test and is checked by the service's own
/// layers: there is no switch that turns checks off, in tests or elsewhere. So build the service by the function
/// that `main` uses, with [`auth`](Self::auth) in place of its authenticator, and send it requests.
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, body::Body, http::Request, routing::{delete, get}};
/// use keyward::{
///     AuthLayer, Principal, RequireLayer,
///     auth::Authenticator,
///     error::Refusal,
///     event::EventKind,
///     testing::{Caller, Kit},
/// };
/// use tower::ServiceExt;
///
/// /// The service, as `main` builds it.
/// fn app(auth: impl Authenticator) -> Router {
///     let jobs = get(async |me: Principal| format!("jobs of {}", me.user_id()));
///     Router::new()
///         .route("/jobs", jobs.layer(RequireLayer::scope("jobs:read")))
///         .route("/users", delete(async || {}).layer(RequireLayer::role("admin")))
///         .layer(AuthLayer::new(auth))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let kit = Kit::new();
/// let app = app(kit.auth());
/// let status = async |caller: &Caller, method: &str, path: &str| {
///     let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
///     app.clone().oneshot(caller.authorize(request)).await.unwrap().status().as_u16()
/// };
///
/// let alice = kit.acting_as("alice").scopes(["jobs:read"]).await;
/// let admin = kit.acting_as("root").role("admin").await;
/// let nobody = kit.anonymous();
/// assert_eq!(status(&alice, "GET", "/jobs").await, 200);
/// assert_eq!(status(&alice, "DELETE", "/users").await, 403);
/// assert_eq!(status(&admin, "DELETE", "/users").await, 200);
/// assert_eq!(status(&nobody, "GET", "/jobs").await, 401);
///
/// let refused = |reason| EventKind::AccessRefused(reason);
/// assert_eq!(kit.events().kinds(), [refused(Refusal::MissingRole), refused(Refusal::NoCredential)]);
///
/// kit.clock().advance(Duration::from_secs(91 * 86_400)); // no key is used for 91 days
/// assert_eq!(status(&alice, "GET", "/jobs").await, 401);
/// # }
/// ```
///
/// Requests without a peer's address share one [`FailureLimit`](crate::limit::FailureLimit): a test in which
/// more than a hundred of them are refused with 401 before it moves the clock gives the layer another one.
///
/// A service that also manages keys takes [`tokens`](Self::tokens). Its store is a [`MemoryStore`], its settings
/// are the defaults but for the number of keys that a user may have.
#[derive(Debug)]
pub struct Kit {
    tokens: TokenManager,
    /// Issues the callers' keys, so that the events are those of the service alone.
    issuing: TokenManager,
    clock: ManualClock,
    events: RecordingSink,
    #[cfg(feature = "_jwt")]
    issuer: JwtIssuer,
}

impl Default for Kit {
    fn default() -> Self {
        Self::new()
    }
}

impl Kit {
    /// An empty store, no events, and a clock that stands at 2026-01-01T00:00:00Z until it is moved.
    ///
    /// # Panics
    ///
    /// If the operating system gives no random numbers.
    #[must_use]
    pub fn new() -> Self {
        let (clock, events) = (ManualClock::at(START), RecordingSink::default());
        let store = Arc::new(MemoryStore::new());
        let manager = |sink: &RecordingSink| {
            let builder = TokenManager::builder(store.clone()).with_clock(clock.clone());
            builder.with_audit(sink.clone()).with_max_active(None).with_creation_limit(None).build()
        };
        Self {
            tokens: manager(&events),
            issuing: manager(&RecordingSink::default()),
            #[cfg(feature = "_jwt")]
            issuer: issuer(&clock),
            clock,
            events,
        }
    }

    /// Accepts the credentials of this kit's callers: put it where the service has its own authenticator. Keys
    /// that [`tokens`](Self::tokens) issues are good as well.
    #[must_use]
    pub fn auth(&self) -> AnyOf {
        AnyOf::new([
            ApiKeyAuth::new(&self.tokens).into(),
            #[cfg(feature = "_jwt")]
            self.jwt_auth().into(),
        ])
    }

    /// Accepts the JWTs of this kit's callers, for a service that takes no keys.
    ///
    /// A JWT without a claim `scope` may do everything here; roles are in the claim `roles`, and a user who is
    /// suspended in [`tokens`](Self::tokens) is refused. What a [`JwtAuth`] with the service's own settings
    /// makes of a provider's tokens is a matter of [`FakeIssuer`](super::FakeIssuer).
    #[cfg(feature = "_jwt")]
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test helper reports by panicking")]
    pub fn jwt_auth(&self) -> JwtAuth {
        JwtAuth::key(self.issuer.verifying_key())
            .issuer(ISSUER)
            .audience(AUDIENCE)
            .with_roles_claim("roles")
            .missing_scope_means_all()
            .with_revocations(TokenLookup::from(&self.tokens))
            .with_clock(self.clock.clone())
            .with_audit(self.tokens.audit())
            .build()
            .expect("settings that are right")
    }

    /// The keys of this kit, for a service that manages them, and for tests that revoke, suspend or issue.
    #[must_use]
    pub fn tokens(&self) -> &TokenManager {
        &self.tokens
    }

    /// The clock of all of it.
    #[must_use]
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// What the service's layers, guards and operations reported. That the kit issued a caller's credential is
    /// not among it.
    #[must_use]
    pub fn events(&self) -> &RecordingSink {
        &self.events
    }

    /// Starts a caller who is `user`: with an API key that may do everything and has no role, until told
    /// otherwise. Await it to have the [`Caller`].
    ///
    /// # Panics
    ///
    /// If `user` cannot be a user id.
    #[track_caller]
    pub fn acting_as(&self, user: &str) -> ActingAs<'_> {
        ActingAs {
            kit: self,
            user: user_id(user),
            scopes: Grant::All,
            roles: RoleSet::empty(),
            #[cfg(feature = "_jwt")]
            claims: None,
        }
    }

    /// A caller who presents nothing.
    #[must_use]
    pub fn anonymous(&self) -> Caller {
        Caller { authorization: None }
    }

    /// An API key of `user` that may do everything and has no role, for where a key itself is needed, such as
    /// [`assert_isolated`](super::assert_isolated) or a cookie.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let kit = keyward::testing::Kit::new();
    /// let key = kit.key_for("alice").await;
    /// assert!(key.expose().starts_with("kw_live_"));
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If `user` cannot be a user id, or is suspended.
    pub async fn key_for(&self, user: &str) -> ApiKey {
        self.issue(&user_id(user), Grant::All, RoleSet::empty()).await
    }

    #[expect(clippy::panic, reason = "a test helper reports by panicking")]
    async fn issue(&self, user: &UserId, scopes: Grant, roles: RoleSet) -> ApiKey {
        let new = NewToken::named("for a test").with_scopes(scopes).with_roles(Grant::Only(roles));
        match self.issuing.create(user, new).await {
            Ok(issued) => issued.key,
            Err(error) => panic!("no key for {user}: {error}"),
        }
    }
}

/// A caller in the making; see [`Kit::acting_as`]. Awaiting it issues the credential.
///
/// ```
/// use http::{Request, header};
/// use keyward::testing::Kit;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let kit = Kit::new();
/// let alice = kit.acting_as("alice").scopes(["jobs:read", "jobs:write"]).role("auditor").await;
/// let request = alice.authorize(Request::new(()));
/// assert!(request.headers()[header::AUTHORIZATION].is_sensitive());
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it is a caller when it is awaited"]
pub struct ActingAs<'a> {
    kit: &'a Kit,
    user: UserId,
    scopes: Grant,
    roles: RoleSet,
    #[cfg(feature = "_jwt")]
    claims: Option<serde_json::Value>,
}

impl ActingAs<'_> {
    /// The credential has these scopes only; with none it may do nothing that needs one.
    ///
    /// # Panics
    ///
    /// If one cannot be a scope.
    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test helper reports by panicking")]
    pub fn scopes<S: AsRef<str>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.scopes = Grant::Only(ScopeSet::new(scopes).expect("scopes"));
        self
    }

    /// The credential carries this role too.
    ///
    /// # Panics
    ///
    /// If it cannot be a role.
    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test helper reports by panicking")]
    pub fn role(mut self, role: &str) -> Self {
        self.roles = RoleSet::new(self.roles.iter().chain([role])).expect("a role");
        self
    }

    /// The credential is a JWT with these claims instead of an API key: what a handler reads as
    /// `Claims<T>`. It is good for 60 minutes by the kit's clock.
    ///
    /// Scopes with an asterisk mean nothing in a JWT, and nothing that needs them is allowed.
    ///
    /// ```
    /// use keyward::testing::Kit;
    /// use serde_json::json;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let kit = Kit::new();
    /// let alice = kit.acting_as("alice").scopes(["jobs:read"]).with_claims(json!({ "email": "a@example.com" })).await;
    /// # let _ = alice;
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// When it is awaited, if `claims` is no JSON object, or holds a claim that the issuer sets: `iss`, `sub`,
    /// `aud`, `exp`, `iat`, `nbf`, `jti` or `cnf`.
    #[cfg(feature = "_jwt")]
    pub fn with_claims(mut self, claims: serde_json::Value) -> Self {
        self.claims = Some(claims);
        self
    }

    async fn caller(self) -> Caller {
        #[cfg(feature = "_jwt")]
        if let Some(claims) = &self.claims {
            return Caller::presenting(&self.jwt(claims));
        }
        Caller::presenting(self.kit.issue(&self.user, self.scopes, self.roles).await.expose())
    }

    #[cfg(feature = "_jwt")]
    #[expect(clippy::expect_used, reason = "a test helper reports by panicking")]
    fn jwt(&self, claims: &serde_json::Value) -> String {
        let claims = claims.as_object().expect("claims are a JSON object");
        let mut claims: std::collections::BTreeMap<_, _> =
            claims.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        if let Grant::Only(scopes) = &self.scopes {
            claims.insert("scope", scopes.iter().collect::<Vec<_>>().join(" ").into());
        }
        if !self.roles.is_empty() {
            claims.insert("roles", self.roles.iter().collect::<Vec<_>>().into());
        }
        self.kit.issuer.token_with(&self.user, claims).expect("claims that the issuer does not set itself")
    }
}

impl<'a> IntoFuture for ActingAs<'a> {
    type Output = Caller;
    type IntoFuture = Pin<Box<dyn Future<Output = Caller> + Send + 'a>>;

    /// # Panics
    ///
    /// If the user is suspended: start the caller before.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.caller())
    }
}

/// Who sends a request in a test; from [`Kit::acting_as`] or [`Kit::anonymous`]. `Debug` shows no credential.
#[derive(Clone)]
pub struct Caller {
    authorization: Option<HeaderValue>,
}

impl Caller {
    #[expect(clippy::expect_used, reason = "a test helper reports by panicking")]
    fn presenting(credential: &str) -> Self {
        let mut value = HeaderValue::try_from(format!("Bearer {credential}")).expect("a header's text");
        value.set_sensitive(true);
        Self { authorization: Some(value) }
    }

    /// The request, as this caller sends it: with their credential in `Authorization`, and nobody else's.
    #[must_use]
    pub fn authorize<B>(&self, mut request: Request<B>) -> Request<B> {
        match &self.authorization {
            Some(value) => drop(request.headers_mut().insert(header::AUTHORIZATION, value.clone())),
            None => drop(request.headers_mut().remove(header::AUTHORIZATION)),
        }
        request.headers_mut().remove("x-api-key");
        request
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.authorization.is_some() { "Caller(…)" } else { "Caller(anonymous)" })
    }
}

#[track_caller]
#[expect(clippy::panic, reason = "a test helper reports by panicking")]
fn user_id(user: &str) -> UserId {
    UserId::new(user).unwrap_or_else(|error| panic!("{user:?}: {error}"))
}

/// Signs with a key of its own, which leaves no test.
#[cfg(feature = "_jwt")]
#[expect(clippy::expect_used, reason = "a test helper reports by panicking")]
fn issuer(clock: &ManualClock) -> JwtIssuer {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("random bytes");
    JwtIssuer::ed25519(&seed, ISSUER, AUDIENCE).expect("an issuer").with_clock(clock.clone())
}
