//! Getting a document over HTTP: the trait [`HttpFetch`], and a client that implements it.

use std::{borrow::Cow, fmt::Debug, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::Uri;

/// Fetches key sets and the documents that point to them.
///
/// `HttpsFetch` (feature `jwks`) does it with an HTTPS client of its own; implement this trait to use the
/// client, the proxy or the certificates of your service.
#[async_trait]
pub trait HttpFetch: Debug + Send + Sync + 'static {
    /// Gets `url` once. keyward itself limits the time, by dropping the future.
    ///
    /// It must not follow redirects, and must stop reading a body that is longer than `limit` bytes.
    ///
    /// # Errors
    ///
    /// If there is no answer, if its status is not 200, or if its body is longer than `limit`.
    async fn get(&self, url: &Uri, limit: usize) -> Result<Fetched, FetchError>;
}

/// An answer with the status 200.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fetched {
    /// The body, without any content coding.
    pub body: Bytes,
    /// For how long the answer is fresh, by its `Cache-Control`, if that says so.
    pub max_age: Option<Duration>,
}

impl Fetched {
    /// An answer with this body.
    #[must_use]
    pub fn new(body: impl Into<Bytes>, max_age: Option<Duration>) -> Self {
        Self { body: body.into(), max_age }
    }
}

/// Why there is no answer, in one sentence that may appear in logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(Cow<'static, str>);

impl FetchError {
    /// An error with one sentence, which must hold no secret.
    #[must_use]
    pub fn new(sentence: impl Into<Cow<'static, str>>) -> Self {
        Self(sentence.into())
    }
}
