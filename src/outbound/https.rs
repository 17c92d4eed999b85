//! The HTTPS client.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::RootCertStore;

use super::tls;
use crate::error::{ConfigError, with_causes};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Why the rest of an answer did not come, in one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BrokenOff(String);

/// A small HTTPS client: HTTP/1.1, TLS 1.2 and 1.3 by AWS-LC, Mozilla's root certificates or others. It follows
/// no redirects, keeps no connection open, uses no proxy and reads no environment variable.
///
/// It does not touch the process-wide provider of rustls. While a request runs, its connection is a task in the
/// runtime of the caller.
#[derive(Clone, Debug)]
pub(crate) struct HttpsClient(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl HttpsClient {
    pub(crate) fn new() -> Result<Self, ConfigError> {
        Self::trusting(tls::public_roots())
    }

    /// Trusts the certificate authorities in `pem` and no others.
    pub(crate) fn with_root_certificates(pem: &[u8]) -> Result<Self, ConfigError> {
        tls::roots_of(pem).and_then(Self::trusting)
    }

    fn trusting(roots: RootCertStore) -> Result<Self, ConfigError> {
        let tls = tls::trusting(roots)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        tcp.set_nodelay(true);
        // `check_url` lets http through for this machine only.
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls);
        let connector = connector.https_or_http().enable_http1().wrap_connector(tcp);
        // Requests are minutes apart: a kept connection would mostly be found dead.
        Ok(Self(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)))
    }

    /// Sends `request`; an error is one sentence, with its causes.
    pub(crate) async fn send(
        &self,
        mut request: Request<Bytes>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, BrokenOff>>, String> {
        request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("keyward"));
        let answer = self.0.request(request.map(Full::new)).await.map_err(|error| with_causes(&error))?;
        Ok(answer.map(|body| body.map_err(|error| BrokenOff(with_causes(&error))).boxed_unsync()))
    }
}
