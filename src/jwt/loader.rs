//! One attempt to fetch a key set: where from, how long, and what is believed of the answer.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use http::Uri;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    error::ConfigError,
    jwt::fetch::{Fetched, HttpFetch},
    outbound::check_url,
};

/// What such URLs are called in errors.
const WHAT: &str = "a URL of keys";

/// For discovery and the key set together.
pub(super) const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
pub(super) const BODY_LIMIT: usize = 512 * 1024;

/// Where the keys are.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The URL of a JWK set.
    KeySet(Uri),
    /// An OpenID issuer, and the URL of its discovery document.
    Issuer { issuer: Box<str>, discovery: Uri },
}

/// Makes a set from the body of an answer, or says in a sentence why it cannot. A set without a usable key
/// must be an error, so that it does not replace a good one.
pub(super) type Parse<S> = Box<dyn Fn(&[u8]) -> Result<S, String> + Send + Sync>;

pub(super) type Flight<S> = Pin<Box<dyn Future<Output = Result<Loaded<S>, String>> + Send>>;
pub(super) type Content = [u8; 32];

impl Source {
    /// # Errors
    ///
    /// If [`check_url`] refuses `url`.
    pub(super) fn key_set(url: &str) -> Result<Self, ConfigError> {
        check_url(WHAT, url).map(Self::KeySet)
    }

    /// # Errors
    ///
    /// If [`check_url`] refuses `issuer`, or if it has a query.
    pub(super) fn issuer(issuer: &str) -> Result<Self, ConfigError> {
        if check_url(WHAT, issuer)?.query().is_some() {
            return Err(ConfigError::new("an issuer must not have a query (`?`)"));
        }
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let discovery = check_url(WHAT, &format!("{base}/.well-known/openid-configuration"))?;
        Ok(Self::Issuer { issuer: issuer.into(), discovery })
    }

    pub(super) fn host(&self) -> &str {
        let (Self::KeySet(url) | Self::Issuer { discovery: url, .. }) = self;
        host(url)
    }
}

pub(super) struct Loader<S> {
    pub(super) source: Source,
    pub(super) fetch: Arc<dyn HttpFetch>,
    pub(super) parse: Parse<S>,
}

pub(super) struct Loaded<S> {
    /// None if the content is what the set in use was made from.
    pub(super) set: Option<S>,
    pub(super) content: Content,
    pub(super) max_age: Option<Duration>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl<S: Send + Sync + 'static> Loader<S> {
    /// The future holds the loader only, not the slot that it lies in.
    pub(super) fn begin(self: &Arc<Self>, known: Option<Content>) -> Flight<S> {
        let loader = Arc::clone(self);
        Box::pin(async move {
            let late = |_| Err(format!("{}: no answer within 5 seconds", loader.source.host()));
            tokio::time::timeout(ATTEMPT_LIMIT, loader.load(known)).await.unwrap_or_else(late)
        })
    }

    async fn load(&self, known: Option<Content>) -> Result<Loaded<S>, String> {
        let url = match &self.source {
            Source::KeySet(url) => url.clone(),
            Source::Issuer { issuer, discovery } => self.discover(issuer, discovery).await?,
        };
        let Fetched { body, max_age } = self.get(&url).await?;
        let content: Content = Sha256::digest(&body).into();
        if known == Some(content) {
            return Ok(Loaded { set: None, content, max_age });
        }
        let set = (self.parse)(&body).map_err(|why| format!("{}: {why}", host(&url)))?;
        Ok(Loaded { set: Some(set), content, max_age })
    }

    async fn discover(&self, issuer: &str, url: &Uri) -> Result<Uri, String> {
        let failed = |why: &dyn fmt::Display| format!("{}: {why}", host(url));
        let answer = self.get(url).await?;
        let found: Discovery = serde_json::from_slice(&answer.body)
            .map_err(|_| failed(&"the discovery document is not JSON with `issuer` and `jwks_uri`"))?;
        if found.issuer != issuer {
            return Err(failed(&"the discovery document is that of another issuer"));
        }
        let keys = check_url(WHAT, &found.jwks_uri).map_err(|error| failed(&error))?;
        if url.scheme() == Some(&http::uri::Scheme::HTTPS) && keys.scheme() != url.scheme() {
            return Err(failed(&"the discovery document leads from https to http"));
        }
        Ok(keys)
    }

    async fn get(&self, url: &Uri) -> Result<Fetched, String> {
        let answer = self.fetch.get(url, BODY_LIMIT).await;
        let fetched = answer.map_err(|error| format!("{}: {error}", host(url)))?;
        let fits = fetched.body.len() <= BODY_LIMIT;
        fits.then_some(fetched).ok_or_else(|| format!("{}: the answer is too long", host(url)))
    }
}

fn host(url: &Uri) -> &str {
    url.host().unwrap_or("the source of keys")
}
