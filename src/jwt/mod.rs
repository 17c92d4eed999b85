//! JSON Web Tokens, checked all the way: [`JwtAuth`].
//!
//! A token is read by a strict parser of this crate (three canonical base64url parts, unique names, bounded
//! size and depth), judged by one plain function (`exp`, `nbf`, `iat`, `iss`, `aud`, `sub`, its type and its
//! lifetime), and only then verified, by a key that is bound to one algorithm: the token's header cannot
//! choose. What was verified once is known again until it expires, its key leaves the key set, or it is
//! withdrawn; then it costs what an API key costs.
//!
//! Keys come from the configuration or are fetched from the issuer, by URL or by OpenID Connect Discovery,
//! ahead of need and off the request's path. An issuer that is down, slow or hostile costs nobody their
//! request whose key is known.
//!
//! Signatures are those of the crate `jsonwebtoken`, on AWS-LC with the feature `jwt` and in Rust alone with
//! `jwt-rust-crypto`; with both on, AWS-LC is used. Its process-wide default is never touched.

use std::{fmt, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use crate::{
    auth::{Authenticator, Presented, RequestHead, Revocations, Verdict},
    count::{self, Cache},
    error::{AuthError, AuthErrorKind, ConfigError, Refusal, Scheme},
    event::{Alert, Audit, Event},
    metrics,
    principal::Principal,
    secret::TokenDigest,
    time::UnixTime,
};

mod builder;
mod cache;
mod claims;
mod compact;
mod crypto;
mod fetch;
#[cfg(feature = "jwks")]
mod https;
mod issuer;
mod json;
mod jwk;
mod key;
mod loader;
mod names;
mod pem;
mod provider;
mod remote;
mod secret;
mod several;
pub(crate) mod sign;
mod users;
mod verify;

pub use crate::principal::JwtClaims;
pub use builder::{JwtBuilder, Said, Unsaid};
pub use claims::ClaimPath;
pub use fetch::{FetchError, Fetched, HttpFetch};
#[cfg(feature = "jwks")]
pub use https::HttpsFetch;
pub use issuer::JwtIssuer;
pub use key::{Algorithm, KeySet, VerifyingKey};
pub use names::{AnyAudience, AnyIssuer, IntoAudience, IntoIssuer};
pub use provider::Provider;
pub use users::{UserIds, UserMapper};
pub use verify::ConfirmationVerifier;

use compact::Parts;
use remote::Demand;
use verify::{Need, Step, Verifier, Waited};

/// How long a request waits at most for all that its token needs.
const VERDICT_TIMEOUT: Duration = Duration::from_millis(4900);

/// How often verified tokens that have ended are wiped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Accepts JSON Web Tokens, as bearer tokens in `Authorization`.
///
/// ```
/// use keyward::{AuthLayer, jwt::JwtAuth};
///
/// // A secret that this service shares with whoever issues the tokens.
/// let secret = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only";
/// let jwt = JwtAuth::hs256(secret)
///     .issuer("https://login.example")
///     .audience("https://api.example")
///     .build()?;
/// let auth: AuthLayer = AuthLayer::new(jwt);
/// # let _ = auth;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
///
/// An identity provider's tokens, with its keys fetched now and from now on:
///
/// ```no_run
/// use keyward::{AuthLayer, jwt::JwtAuth};
///
/// # async fn example() -> Result<(), keyward::ConfigError> {
/// let jwt = JwtAuth::oidc("https://login.example", "https://api.example").await?;
/// tokio::spawn(jwt.clone().run(std::future::pending())); // fetches keys ahead of need
/// let auth: AuthLayer = AuthLayer::new(jwt);
/// # Ok(())
/// # }
/// ```
///
/// A token's subject is its user, so a person's API keys and JWTs belong to one owner.
///
/// Several issuers are one authenticator, by [`any_of`](Self::any_of): of two in one `AnyOf` the first would refuse
/// the tokens of the second. Alone it asks nobody whether a token or its user was withdrawn; beside
/// [`ApiKeyAuth`](crate::auth::ApiKeyAuth) it asks the store of the keys, or whom
/// [`with_revocations`](JwtBuilder::with_revocations) names.
///
/// Clones share the keys and what was verified. Whom they ask about withdrawn tokens may differ: each takes that
/// from the [`AnyOf`](crate::auth::AnyOf) that it is put into.
pub struct JwtAuth {
    verifier: Arc<Verifier>,
}

impl Clone for JwtAuth {
    fn clone(&self) -> Self {
        Self { verifier: Arc::new((*self.verifier).clone()) }
    }
}

impl fmt::Debug for JwtAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtAuth").field("trusts", &self.verifier.trusts).finish_non_exhaustive()
    }
}

impl JwtAuth {
    /// Tokens that are signed with a shared `secret` by HMAC-SHA-256. It needs at least 32 random bytes:
    /// short, well-known and regular ones are refused when it is built.
    pub fn hs256(secret: impl AsRef<[u8]>) -> JwtBuilder {
        JwtBuilder::new().and_key(VerifyingKey::hmac(Algorithm::HS256, secret))
    }

    /// Tokens that are signed by this key.
    pub fn key(key: Result<VerifyingKey, ConfigError>) -> JwtBuilder {
        JwtBuilder::new().and_key(key)
    }

    /// Tokens that are signed by one of these keys.
    pub fn keys(keys: &KeySet) -> JwtBuilder {
        JwtBuilder::new().and_keys(keys)
    }

    /// Tokens that are signed by one of the keys at `url`, a JSON Web Key Set (RFC 7517).
    pub fn jwks(url: &str) -> JwtBuilder {
        JwtBuilder::new().and_jwks(url)
    }

    /// Tokens of an OpenID Connect issuer for this audience. Its keys are where its metadata says.
    pub fn oidc(issuer: &str, audience: &str) -> JwtBuilder<Said, Said> {
        JwtBuilder::new().issuer(issuer).audience(audience).and_discovery(issuer)
    }

    /// Tokens of a provider whose ways are known.
    pub fn provider(provider: Provider) -> JwtBuilder<Said, Said> {
        JwtBuilder::from_provider(provider)
    }

    /// Tokens of several issuers in one authenticator: which one is told by `iss`, before any signature.
    /// Clock and audit are those of the first.
    ///
    /// # Errors
    /// When two of them have the same issuer, both would give users the bare subject as their id, or were told
    /// to ask different ones for revocations.
    pub fn any_of(issuers: impl IntoIterator<Item = Self>) -> Result<Self, ConfigError> {
        let verifiers: Vec<_> = issuers.into_iter().map(|auth| auth.verifier).collect();
        several::join(&verifiers).map(Self::from_verifier)
    }

    fn from_verifier(verifier: Verifier) -> Self {
        Self { verifier: Arc::new(verifier) }
    }

    /// Whether tokens of every issuer can be verified at the moment: for a readiness probe.
    ///
    /// # Errors
    /// [`AuthErrorKind::Unavailable`] while the keys of one are not there, or too old.
    pub fn ready(&self) -> Result<(), AuthError> {
        let now = self.verifier.clock.now();
        let mut remotes = self.verifier.trusts.iter().filter_map(|trust| trust.remote.as_ref());
        if remotes.all(|remote| remote.usable(now)) {
            Ok(())
        } else {
            Err(AuthError::because(AuthErrorKind::Unavailable, Refusal::KeysUnavailable))
        }
    }

    /// The background work, until `shutdown` is done: fetches keys ahead of need, and once a minute wipes
    /// verified tokens that have ended. Without it a request now and then waits for a fetch, and tokens that
    /// have ended stay in memory until others need their room.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let remotes = self.verifier.trusts.iter().filter_map(|trust| trust.remote.clone());
        let fetching =
            futures_join(remotes.map(|remote| async move { remote.run(std::future::pending()).await }));
        let sweeping = async {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                self.verifier.verified.sweep(self.verifier.clock.now());
            }
        };
        tokio::select! {
            () = metrics::keep_published() => {}
            ((), ()) = async { tokio::join!(fetching, sweeping) } => {}
            () = shutdown => {}
        }
    }

    /// Fetches the keys of every issuer.
    async fn fetch_keys(&self) -> Result<(), ConfigError> {
        for trust in &*self.verifier.trusts {
            if let Some(remote) = &trust.remote {
                remote.refresh(Demand::Due).await;
                if !remote.usable(self.verifier.clock.now()) {
                    let issuer = trust.rules.issuer.as_deref().unwrap_or("the issuer");
                    let why = remote.last_error().map(|why| format!(" ({why})")).unwrap_or_default();
                    return Err(ConfigError::new(format!(
                        "the keys of {issuer} cannot be fetched{why}; use `build` to start without them"
                    )));
                }
            }
        }
        Ok(())
    }

    /// A refusal of this authenticator. It says that a revoked token is used, once an hour of each and each network.
    #[cold]
    fn refused(&self, token: &[u8], error: AuthError, head_ip: Option<std::net::IpAddr>) -> AuthError {
        let begins = || {
            let (audit, digest) = (&self.verifier.audit, TokenDigest::of(token));
            self.verifier.episodes.begins(digest.prefix(), head_ip, audit.now())
        };
        if let (Refusal::Revoked, Some(owner)) = (error.told_reason(), error.owner())
            && begins()
        {
            let event = Event::alert(Alert::RevokedTokenUsed).owned_by(owner).at_ip(head_ip);
            self.verifier.audit.emit(event);
        }
        error.by(Scheme::Jwt)
    }
}

impl Authenticator for JwtAuth {
    #[inline]
    fn authenticate(&self, head: &RequestHead<'_>) -> Verdict {
        // Keys may stand in other headers too, JWTs only here (RFC 6750, section 2.1).
        let Some(presented @ Presented::Bearer(_)) = head.presented else { return Verdict::Abstain };
        let token = presented.unchecked_bytes();
        if self.verifier.adoption.is_torn() {
            return Verdict::Decided(Err(AuthError::from(AuthErrorKind::Misconfigured).by(Scheme::Jwt)));
        }
        let now = self.verifier.clock.now();
        if let Some(verdict) = self.verifier.seen_before(token, head, now) {
            count::hit(Cache::Jwt);
            return Verdict::Decided(verdict.map_err(|error| self.refused(token, error, head.client_ip)));
        }
        match Parts::of(token) {
            Some(parts) => self.verify(&parts, head, now),
            None => Verdict::Abstain,
        }
    }

    fn audit(&self) -> Audit {
        self.verifier.audit.clone()
    }

    fn adopt_revocations(&self, revocations: &Arc<dyn Revocations>) {
        let asked = self.verifier.revocations.get_or_init(|| revocations.clone());
        self.verifier.adoption.offer(asked, revocations);
    }

    fn revocations(&self) -> Option<Arc<dyn Revocations>> {
        self.verifier.revocations.get().cloned()
    }
}

impl JwtAuth {
    /// A token that was not seen before, or not lately.
    fn verify(&self, parts: &Parts<'_>, head: &RequestHead<'_>, now: UnixTime) -> Verdict {
        count::missed(Cache::Jwt);
        let need = match self.first_step(parts, head, now) {
            Step::Done(verdict) => return Verdict::Decided(self.admit(parts.token, verdict, head)),
            Step::Wait(need) => need,
        };
        // The same one, not a clone of its own.
        let auth = Self { verifier: self.verifier.clone() };
        let token = Zeroizing::new(parts.token.to_vec());
        let request = OwnedHead::of(head, self.verifier.needs_head());
        Verdict::Pending(Box::pin(async move {
            // What must be awaited may hang, one thing after the other.
            let verdict = tokio::time::timeout(VERDICT_TIMEOUT, auth.verifier.verdict(&token, need)).await;
            let verdict = verdict.unwrap_or_else(|_| {
                Err(AuthError::because(AuthErrorKind::Unavailable, Refusal::KeysUnavailable))
            });
            auth.admit(&token, verdict, &request.borrow(&token))
        }))
    }

    /// The verdict over a token, or what it needs first. From an address that presents too many wrong ones a token
    /// that was never seen needs its turn, before its signature is looked at.
    fn first_step(&self, parts: &Parts<'_>, head: &RequestHead<'_>, now: UnixTime) -> Step {
        if self.verifier.knows(parts.token) {
            head.note_known();
        } else if head.is_suspect() {
            return Step::Wait(Need::Turn);
        }
        self.verifier.verify(parts, now, Waited::default())
    }

    fn admit(
        &self,
        token: &[u8],
        verdict: Result<Arc<crate::principal::Credential>, AuthError>,
        head: &RequestHead<'_>,
    ) -> Result<Principal, AuthError> {
        if verdict.as_ref().is_err_and(|error| error.kind() == AuthErrorKind::Invalid) {
            self.verifier.verified.forget(token);
        }
        let admitted = verdict.and_then(|credential| self.verifier.admit(&credential, head));
        admitted.map_err(|error| self.refused(token, error, head.client_ip))
    }
}

/// What is kept of a request's head while something is awaited.
struct OwnedHead {
    request: http::Request<()>,
    client_ip: Option<std::net::IpAddr>,
}

impl OwnedHead {
    /// The client's address; and all of it only where a proof of possession may be in it.
    fn of(head: &RequestHead<'_>, whole: bool) -> Self {
        let mut request = http::Request::new(());
        if whole {
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = head.uri.clone();
            *request.headers_mut() = head.headers.clone();
            *request.extensions_mut() = head.extensions.clone();
        }
        Self { request, client_ip: head.client_ip }
    }

    fn borrow<'a>(&'a self, token: &'a [u8]) -> RequestHead<'a> {
        let mut head = RequestHead::new(&self.request);
        head.client_ip = self.client_ip;
        head.presented = Some(Presented::bearer(token));
        head
    }
}

/// Drives all of these at once, to the end of the last.
async fn futures_join(futures: impl Iterator<Item = impl Future<Output = ()> + Send>) {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
