//! The HTTPS client that fetches keys.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{FetchError, Fetched, HttpFetch};
use crate::{error::ConfigError, outbound::HttpsClient};

/// A small HTTPS client: HTTP/1.1, TLS 1.2 and 1.3 by AWS-LC, Mozilla's root certificates.
///
/// It follows no redirects, keeps no connection open, uses no proxy and reads no environment variable.
/// A connection takes at most 3 seconds to open. While a request runs, its connection is a task in the
/// runtime of the caller.
///
/// ```
/// use keyward::jwt::HttpsFetch;
///
/// let fetch = HttpsFetch::new()?;
/// # let _ = fetch;
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct HttpsFetch(HttpsClient);

impl HttpsFetch {
    /// A client with the settings above. It does not touch the process-wide provider of rustls.
    ///
    /// # Errors
    ///
    /// If the TLS library can speak no version of TLS; as it is built here, it can.
    pub fn new() -> Result<Self, ConfigError> {
        HttpsClient::new().map(Self)
    }

    /// A client that trusts the certificate authorities in `pem` (RFC 7468, section 5) and no others: for an
    /// issuer inside a company.
    ///
    /// # Errors
    ///
    /// If there is no certificate in it, or one that cannot be an authority's.
    pub fn with_root_certificates(pem: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        HttpsClient::with_root_certificates(pem.as_ref()).map(Self)
    }
}

#[async_trait]
impl HttpFetch for HttpsFetch {
    async fn get(&self, url: &Uri, limit: usize) -> Result<Fetched, FetchError> {
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json")
            .header(header::ACCEPT_ENCODING, "identity")
            .body(Bytes::new())
            .map_err(|error| FetchError::new(error.to_string()))?;
        let answer = self.0.send(request).await.map_err(FetchError::new)?;
        if answer.status() != StatusCode::OK {
            let status = answer.status().as_u16();
            return Err(FetchError::new(format!("the answer has the status {status} instead of 200")));
        }
        if !is_plain(answer.headers()) {
            return Err(FetchError::new("the answer has a content coding that was not asked for"));
        }
        let max_age = max_age(answer.headers());
        let body = Limited::new(answer.into_body(), limit).collect().await;
        let body = body.map_err(|error| {
            let too_long = error.is::<LengthLimitError>();
            FetchError::new(if too_long { "the answer is too long".to_owned() } else { error.to_string() })
        })?;
        Ok(Fetched::new(body.to_bytes(), max_age))
    }
}

fn is_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// What is left of the freshness (RFC 9111, section 4.2): `max-age`, less the time in caches on the way.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    let mut found: Option<u64> = None;
    for directive in lines.flat_map(|line| line.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let seconds = match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => Some(0),
            "max-age" => value.trim().trim_matches('"').parse().ok(),
            _ => None,
        };
        // Of several the shortest.
        found = seconds.into_iter().chain(found).min();
    }
    let age = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.trim().parse().ok());
    found.map(|seconds| Duration::from_secs(seconds.saturating_sub(age.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeIssuer, IssuerMode};

    fn fresh_for(lines: &[&str], age: Option<&'static str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, line.parse().unwrap());
        }
        if let Some(age) = age {
            headers.insert(header::AGE, age.parse().unwrap());
        }
        max_age(&headers).map(|age| age.as_secs())
    }

    #[test]
    fn cache_control_is_read() {
        assert_eq!(fresh_for(&[], None), None);
        assert_eq!(fresh_for(&["public, Max-Age=300"], None), Some(300));
        assert_eq!(fresh_for(&["max-age=\"300\""], Some("100")), Some(200));
        assert_eq!(fresh_for(&["max-age=300", "max-age=60"], Some("900")), Some(0));
        assert_eq!(fresh_for(&["max-age=300, no-cache"], None), Some(0));
        assert_eq!(fresh_for(&["max-age=soon", "s-maxage=9"], None), None);
        assert_eq!(fresh_for(&["max-age=-1, max-age=99999999999999999999999"], Some("x")), None);
    }

    #[tokio::test]
    async fn only_a_plain_short_200_is_an_answer() {
        let issuer = FakeIssuer::start().await;
        let fetch = HttpsFetch::new().unwrap();
        let url: Uri = issuer.jwks_url().parse().unwrap();
        let answer = fetch.get(&url, 10_000).await.unwrap();
        assert!(answer.body.starts_with(b"{\"keys\":["));
        assert!(fetch.get(&url, 10).await.unwrap_err().to_string().contains("too long"));
        for (mode, word) in [
            (IssuerMode::Down, "status 500"),
            (IssuerMode::Redirect, "status 302"),
            (IssuerMode::Huge, "too long"),
        ] {
            issuer.set_mode(mode);
            let error = fetch.get(&url, 512 * 1024).await.unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let address = issuer.jwks_url();
        drop(issuer);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let error = fetch.get(&address.parse().unwrap(), 10).await.unwrap_err().to_string();
        assert!(error.contains("onnect"), "{error}");
    }
}
