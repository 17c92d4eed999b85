//! From a request to a verdict: the [`Authenticator`] contract and the schemes that keyward brings.

use std::{fmt, future::Future, net::IpAddr, pin::Pin, sync::Arc};

use http::{Extensions, HeaderMap, Method, Uri};

use crate::{error::AuthError, event::Audit, principal::Principal, secret::without_secrets};

mod api_key;
mod attempt;
mod credential;
mod emergency;
mod mentions;
mod revocations;
mod static_token;

pub use api_key::ApiKeyAuth;
pub(crate) use attempt::Attempt;
use credential::credential_lines;
pub use credential::{CredentialReader, Presented, Word};
pub use emergency::EmergencyAuth;
pub(crate) use revocations::Adoption;
pub use revocations::{JwtSubject, RevocationRefresh, Revocations, Subject};
pub use static_token::StaticAuth;

/// What an authenticator sees of a request: everything but the body.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The URI.
    pub uri: &'a Uri,
    /// The headers. The credential is read for you: see `presented`.
    pub headers: &'a HeaderMap,
    /// What outer layers left.
    pub extensions: &'a Extensions,
    /// The client's address, if it is known.
    pub client_ip: Option<IpAddr>,
    /// The one credential that was presented, if any.
    pub presented: Option<Presented<'a>>,
    /// What the layer knows of others from this address, if it counts failures.
    pub(crate) attempt: Option<&'a Attempt<'a>>,
}

/// Without headers and query, which may hold credentials.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", self.method)
            .field("client_ip", &self.client_ip)
            .field("presented", &self.presented)
            .finish_non_exhaustive()
    }
}

impl<'a> RequestHead<'a> {
    /// The head of `request`, without a credential and without an address.
    pub fn new<B>(request: &'a http::Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
            client_ip: None,
            presented: None,
            attempt: None,
        }
    }

    #[cfg(feature = "axum")]
    pub(crate) fn from_parts(parts: &'a http::request::Parts) -> Self {
        Self {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            extensions: &parts.extensions,
            client_ip: None,
            presented: None,
            attempt: None,
        }
    }

    /// Whether so many credentials from this address were wrong that an unknown one must not cost anything at once:
    /// then a verdict that costs something is pending, and the layer has its turn come or not.
    #[cfg_attr(not(feature = "_jwt"), allow(dead_code, reason = "only JWTs are judged by it"))]
    pub(crate) fn is_suspect(&self) -> bool {
        self.attempt.is_some_and(|attempt| attempt.is_suspect(self.client_ip))
    }

    /// Tells the layer that the credential is known, and only waits for something else: that is no guess.
    pub(crate) fn note_known(&self) {
        if let Some(attempt) = self.attempt {
            attempt.note_known();
        }
    }

    /// The client's `X-Request-Id`, if it is one: 1 to 128 letters, digits and `-_.:`, and nothing that
    /// looks like a key or is a part of the credential.
    pub(crate) fn request_id(&self) -> Option<&'a str> {
        let id = self.headers.get("x-request-id")?.to_str().ok()?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        let fits = (1..=128).contains(&id.len()) && id.bytes().all(allowed);
        // The trace ids of W3C Trace Context are as long as a key could be.
        let is_trace_id = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let harmless = is_trace_id || without_secrets(id) == id;
        (fits && harmless && !self.shares_text_with_credential(id)).then_some(id)
    }

    /// Whether `text`, which the client chose, or a word of it is a part of what stands in the credential
    /// headers, or holds it, or it would take too long to find out: then it must not be logged.
    pub(crate) fn shares_text_with_credential(&self, text: &str) -> bool {
        let presented = self.presented.map_or("", |presented| presented.token());
        mentions::shares_text(presented, credential_lines(self.headers), text)
    }
}

/// Checks one kind of credential.
///
/// The layer asks each request's authenticator once. Decide at once what can be decided at once; a
/// [`Verdict::Pending`] costs an allocation and is for what needs a store. A verdict that is pending is not
/// waited for while its client's address fails too often; see [`FailureLimit`](crate::limit::FailureLimit). So
/// have the future do what costs something, not the call that makes it.
///
/// ```
/// use keyward::{AuthErrorKind, Principal, UserId, principal::AuthMethod};
/// use keyward::auth::{Authenticator, RequestHead, Verdict};
///
/// /// Believes the name that a TLS-terminating sidecar puts into the request's extensions.
/// #[derive(Debug)]
/// struct ClientCertificate;
/// #[derive(Clone)]
/// struct VerifiedName(UserId);
///
/// impl Authenticator for ClientCertificate {
///     fn authenticate(&self, head: &RequestHead<'_>) -> Verdict {
///         match head.extensions.get::<VerifiedName>() {
///             None => Verdict::Abstain,
///             Some(name) => {
///                 Verdict::Decided(Ok(Principal::builder(AuthMethod::Custom, name.0.clone()).build()))
///             }
///         }
///     }
/// }
/// ```
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// The verdict over the request. [`Verdict::Abstain`] says that the credential, if there is one, is
    /// of another kind.
    fn authenticate(&self, head: &RequestHead<'_>) -> Verdict;

    /// The scheme that 401 answers name in `WWW-Authenticate`.
    fn challenge(&self) -> &str {
        "Bearer"
    }

    /// Where the layer reports what it refuses; [`tracing`] by default.
    fn audit(&self) -> Audit {
        Audit::default()
    }

    /// What this authenticator knows of withdrawn credentials, for others beside it; nothing by default.
    fn revocations(&self) -> Option<Arc<dyn Revocations>> {
        None
    }

    /// Takes over what another authenticator in the same [`AnyOf`] knows of withdrawn credentials. Ignored
    /// by default, and by one that was told itself whom to ask.
    fn adopt_revocations(&self, _: &Arc<dyn Revocations>) {}
}

impl<A: Authenticator + ?Sized> Authenticator for Arc<A> {
    fn authenticate(&self, head: &RequestHead<'_>) -> Verdict {
        (**self).authenticate(head)
    }

    fn challenge(&self) -> &str {
        (**self).challenge()
    }

    fn audit(&self) -> Audit {
        (**self).audit()
    }

    fn revocations(&self) -> Option<Arc<dyn Revocations>> {
        (**self).revocations()
    }

    fn adopt_revocations(&self, revocations: &Arc<dyn Revocations>) {
        (**self).adopt_revocations(revocations);
    }
}

/// An authenticator's answer.
#[expect(clippy::exhaustive_enums, reason = "a layer must handle each")]
pub enum Verdict {
    /// Not my kind of credential.
    Abstain,
    /// Accepted or refused, at once.
    Decided(Result<Principal, AuthError>),
    /// The store must be asked first.
    Pending(PendingVerdict),
}

/// A verdict on its way.
pub type PendingVerdict = Pin<Box<dyn Future<Output = Result<Principal, AuthError>> + Send>>;

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abstain => f.write_str("Abstain"),
            Self::Decided(verdict) => f.debug_tuple("Decided").field(verdict).finish(),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}

/// Several authenticators in one layer: the first that does not abstain decides.
///
/// ```
/// use keyward::{AuthLayer, TokenManager};
/// use keyward::auth::{AnyOf, ApiKeyAuth, StaticAuth};
/// use keyward::store::{MemoryStore, StaticList};
///
/// let tokens = TokenManager::new(MemoryStore::new());
/// let list = StaticList::parse("ops:3f5c0a9e7b1d4826a0c3e5f7192b4d6e")?;
/// let auth: AuthLayer = AuthLayer::new(AnyOf::new([
///     ApiKeyAuth::new(&tokens).into(),
///     StaticAuth::new(&list).into(),
/// ]));
/// # let _ = auth;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct AnyOf(Arc<[Box<dyn Authenticator>]>);

impl AnyOf {
    /// These authenticators, in this order. What the first that can tell knows of withdrawn credentials is
    /// offered to all: so JWTs and static tokens beside [`ApiKeyAuth`] stop with a user who is suspended in the
    /// same store, without being told.
    #[must_use]
    pub fn new(authenticators: impl IntoIterator<Item = Box<dyn Authenticator>>) -> Self {
        let any = Self(authenticators.into_iter().collect());
        if let Some(revocations) = any.revocations() {
            any.adopt_revocations(&revocations);
        }
        any
    }
}

impl<A: Authenticator> From<A> for Box<dyn Authenticator> {
    fn from(authenticator: A) -> Self {
        Box::new(authenticator)
    }
}

impl Authenticator for AnyOf {
    fn authenticate(&self, head: &RequestHead<'_>) -> Verdict {
        for authenticator in self.0.iter() {
            match authenticator.authenticate(head) {
                Verdict::Abstain => {}
                verdict => return verdict,
            }
        }
        Verdict::Abstain
    }

    fn challenge(&self) -> &str {
        self.0.first().map_or("Bearer", |first| first.challenge())
    }

    fn audit(&self) -> Audit {
        self.0.first().map_or_else(Audit::default, |first| first.audit())
    }

    fn revocations(&self) -> Option<Arc<dyn Revocations>> {
        self.0.iter().find_map(|authenticator| authenticator.revocations())
    }

    fn adopt_revocations(&self, revocations: &Arc<dyn Revocations>) {
        self.0.iter().for_each(|authenticator| authenticator.adopt_revocations(revocations));
    }
}
