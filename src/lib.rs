//! API-key and JWT authentication, ownership guards and the whole life of a key, as [tower] layers.
//!
//! A layer checks the key of each request, puts the owning user into the request's extensions, and guards
//! what belongs to whom. Behind it stand a pluggable [`TokenStore`](store::TokenStore) and a
//! [`TokenManager`] that issues, rotates and revokes keys, in your own process and your own database.
//!
//! [tower]: https://docs.rs/tower
//!
//! ```
//! use axum::{Router, body::Body, extract::Path, http::{Request, StatusCode}, routing::get};
//! use keyward::{
//!     AuthLayer, NotOwner, Owned, Principal, RequireLayer, TokenManager, UserId,
//!     api, auth::ApiKeyAuth, manage::NewToken, store::MemoryStore,
//! };
//! use tower::ServiceExt;
//!
//! struct Job { owner: UserId }
//! impl Owned for Job {
//!     const KIND: &'static str = "job";
//!     fn owner(&self) -> &UserId { &self.owner }
//! }
//!
//! async fn job(me: Principal, Path(owner): Path<String>) -> Result<StatusCode, NotOwner> {
//!     let found = UserId::new(owner).ok().map(|owner| Job { owner });
//!     me.check(found)?; // somebody else's job: 404, and a security alert
//!     Ok(StatusCode::OK)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tokens = TokenManager::new(MemoryStore::new());
//! let app: Router = Router::new()
//!     .route("/jobs/{owner}", get(job).layer(RequireLayer::scope("jobs:read")))
//!     .nest("/api/keys", api::own_tokens(tokens.clone()))
//!     .layer(AuthLayer::new(ApiKeyAuth::new(&tokens)));
//!
//! let alice = tokens.create(&UserId::new("alice")?, NewToken::named("laptop")).await?;
//! let get = async |path: &str, key: &str| {
//!     let request = Request::get(path).header("x-api-key", key).body(Body::empty()).unwrap();
//!     app.clone().oneshot(request).await.unwrap().status()
//! };
//! assert_eq!(get("/jobs/alice", "made-up").await, StatusCode::UNAUTHORIZED);
//! assert_eq!(get("/jobs/alice", alice.key.expose()).await, StatusCode::OK);
//! assert_eq!(get("/jobs/bob", alice.key.expose()).await, StatusCode::NOT_FOUND);
//! assert_eq!(get("/api/keys", alice.key.expose()).await, StatusCode::OK);
//! # Ok(())
//! # }
//! ```
//!
//! # Words
//!
//! * **Token**: the stored record of a credential ([`token::TokenRecord`]); **API key**: the secret text
//!   that a client presents ([`ApiKey`]). Only a digest of it is stored.
//! * **Principal**: who a request acts as ([`Principal`]); **owner**: the user that a token or resource
//!   belongs to ([`UserId`], [`Owned`]).
//! * **Authenticator**: one way to check a credential ([`auth::Authenticator`]); its answer is a
//!   **verdict**.
//! * **Guard**: a check of ownership ([`OwnerLayer`], [`Principal::check`]); what passed is [`Checked`].
//! * **Sink**: a receiver of audit events ([`event::AuditSink`]); **audit log**: where they are kept and can be
//!   verified ([`audit::AuditLog`]).
//!
//! # How a request is decided
//!
//! 1. Exactly one credential is read; two are refused ([`auth::CredentialReader`]).
//! 2. Its shape and checksum are looked at, then it is hashed, once.
//! 3. The cache knows the digest, or the store is asked, once for all who ask at the same time.
//! 4. Lifetime, addresses and method are judged ([`token::decide`]).
//! 5. The [`Principal`] goes into the request's extensions, or a refusal into the response's.
//!
//! A revoked key is refused from the moment that [`TokenManager::revoke`] returns in this process, and
//! within the cache's bound (5 seconds, [`with_staleness`](manage::TokenManagerBuilder::with_staleness))
//! in others. While the store is down, cached keys work within that bound, then answers are 503; JWTs and
//! static tokens beside them are judged by what was last known of their users. Nobody is let in by an error; only
//! the key that was configured for this, [`auth::EmergencyAuth`], works on.
//!
//! # What this does not do
//!
//! It keeps no passwords and no sessions, terminates no TLS, and does not find your missing check: handlers
//! must ask [`Principal::check`] or stand behind an [`OwnerLayer`].
//!
//! It needs a tokio runtime with its time driver (`enable_time` or `enable_all`), which `#[tokio::main]` has.
//!
//! # Features
//!
//! None is on by default. They only add modules; none changes what another does.
//!
//! | feature | adds |
//! |---|---|
//! | `axum` | extractors for [`Principal`], [`UserId`], [`Checked`] and a JWT's claims; errors as responses |
//! | `api` | the key routes and that of the audit log, mountable in an axum router |
//! | `sqlite` | the embedded store on the system's SQLite, 3.51.3 or newer |
//! | `sqlite-bundled` | the embedded store with SQLite compiled in |
//! | `postgres` | the store on a PostgreSQL server, 13 or newer, on this machine or without encryption |
//! | `postgres-tls` | the same over TLS, which a server on another machine needs |
//! | `jwt` | [`jwt`]: JSON Web Tokens, with the signatures of AWS-LC |
//! | `jwt-rust-crypto` | the same without C code; with both on, AWS-LC is used |
//! | `jwks` | keys of an issuer by URL and by OpenID Connect Discovery, with an HTTPS client |
//! | `webhooks` | audit events to a URL, signed, with an HTTPS client |
//! | `config` | [`config`]: settings from the environment, a TOML file and defaults, with the source of each |
//! | `metrics` | [`metrics`]: counters, gauges and durations by the facade of that name |
//! | `redis` | [`redis`]: revocations that all processes hear of at once, and limits that they count together |
//! | `redis-tls` | the same over TLS |
//! | `testing` | callers to act as, a settable clock, the store conformance suite, the isolation check, a fake issuer |
//! | `full` | all of them but `jwt-rust-crypto` |
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "api")]
pub mod api;
pub mod audit;
pub mod auth;
#[cfg(feature = "config")]
pub mod config;
mod count;
pub mod error;
pub mod event;
#[cfg(feature = "axum")]
pub mod extract;
pub mod id;
#[cfg(feature = "_jwt")]
pub mod jwt;
pub mod layer;
pub mod limit;
pub mod manage;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "metrics/off.rs"]
mod metrics;
pub mod net;
#[cfg(any(feature = "_jwt", feature = "_https", feature = "postgres-tls"))]
mod outbound;
pub mod principal;
#[cfg(feature = "redis")]
pub mod redis;
pub mod scope;
pub mod secret;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod token;
pub mod watch;

pub use crate::{
    error::{AuthError, AuthErrorKind, ConfigError, NotOwner},
    id::{TokenId, UserId},
    layer::{AuthLayer, OwnerLayer, RequireLayer},
    manage::TokenManager,
    principal::{AdminProof, Checked, Owned, Principal},
    secret::ApiKey,
    store::Owner,
};

/// The README's snippets compile as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
