//! Getting a document over HTTP: the trait [`HttpFetch`], and a client that implements it.

use std::{
    borrow::Cow,
    fmt::Debug,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::Uri;

use crate::error::ConfigError;

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

/// Reads an absolute URL that keys may come from: `https`, or `http` to this machine, without user name,
/// password and fragment.
///
/// # Errors
///
/// If it is anything else. The text does not repeat the URL, which may hold a password.
pub(super) fn check_url(url: &str) -> Result<Uri, ConfigError> {
    let refused = |why: &'static str| Err(ConfigError::new(why));
    // `Uri` drops a fragment without a word.
    if url.contains('#') {
        return refused("a URL of keys must not have a fragment (`#`)");
    }
    let Ok(uri) = url.parse::<Uri>() else {
        return refused("a URL of keys must be absolute, such as `https://login.example.com/keys`");
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return refused("a URL of keys must be absolute, such as `https://login.example.com/keys`");
    };
    if authority.as_str().contains('@') {
        return refused("a URL of keys must not hold a user name or password");
    }
    let host = authority.host();
    if host.is_empty() || (authority.as_str().len() > host.len() && authority.port_u16().is_none()) {
        return refused("a URL of keys must have a host, and a port from 1 to 65535 if any");
    }
    match scheme {
        "https" => Ok(uri),
        "http" if is_loopback(host) => Ok(uri),
        _ => refused("a URL of keys must begin with `https://`; `http://` is for this machine only"),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback()),
        None => {
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for good in [
            "https://login.example.com/keys?v=1",
            "https://login.example.com:8443",
            "HTTPS://login.example.com/",
            "http://localhost:8080/keys",
            "http://LOCALHOST/keys",
            "http://127.0.0.1:1/keys",
            "http://127.9.9.9/keys",
            "http://[::1]:8080/keys",
        ] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/keys",
            "login.example.com",
            "login.example.com/keys",
            "http://login.example.com/keys",
            "http://10.0.0.1/keys",
            "http://localhost.example.com/keys",
            "http://127.0.0.1.example.com/",
            "http://2130706433/",
            "http://[::ffff:10.0.0.1]/",
            "http://localhost@example.com/keys",
            "https://user:password@login.example.com/keys",
            "https://login.example.com/keys#one",
            "https://login.example.com:99999/keys",
            "https://login.example.com:/keys",
            "https://:443/keys",
            "https://login example.com/",
            "https://login.example.com/\nkeys",
            "ftp://login.example.com/keys",
            "file:///etc/keys",
        ] {
            let error = check_url(bad).expect_err(bad).to_string();
            assert!(!error.contains("password@"), "{error}");
        }
    }
}
