//! Keys that are fetched over a real TLS connection, from an issuer whose certificate a private authority made.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use keyward::{
    AuthLayer, ConfigError, UserId,
    jwt::{HttpsFetch, JwtAuth, JwtIssuer},
};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tower::{Layer, ServiceExt};

const AUDIENCE: &str = "https://api.example";
const SEED: &[u8; 32] = b"7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N";

// Made for these tests, good for a hundred years; the authority's key is gone.
const AUTHORITY: &str = include_str!("jwt_tls/ca.pem");
const LOCALHOST: &str = include_str!("jwt_tls/localhost.pem");
const OTHER: &str = include_str!("jwt_tls/other.pem");
const KEY: &str = include_str!("jwt_tls/key.pem");

/// An OpenID provider on a free port, under this certificate; it ends with the runtime.
async fn provider(certificate: &str) -> JwtIssuer {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let issuer = issuer_at(&listener);
    let signing = JwtIssuer::ed25519(SEED, &issuer, AUDIENCE).unwrap();
    let keys = signing.jwks();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust the certificate hangs up.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let (issuer, keys) = (issuer.clone(), keys.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = if request.uri().path() == "/keys" {
                    keys.clone()
                } else {
                    format!(r#"{{"issuer":"{issuer}","jwks_uri":"{issuer}/keys"}}"#)
                };
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer)))) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    signing
}

fn issuer_at(listener: &TcpListener) -> String {
    format!("https://localhost:{}", listener.local_addr().unwrap().port())
}

async fn connect(signing: &JwtIssuer, fetch: HttpsFetch) -> Result<JwtAuth, ConfigError> {
    JwtAuth::oidc(signing.issuer(), AUDIENCE).with_fetch(fetch).await
}

#[tokio::test]
async fn keys_come_from_whom_the_authority_knows() {
    let signing = provider(LOCALHOST).await;
    let auth = connect(&signing, HttpsFetch::with_root_certificates(AUTHORITY).unwrap()).await.unwrap();
    let layer: AuthLayer = AuthLayer::new(auth);
    let service = layer.layer(tower::service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let token = signing.token(&UserId::new("alice").unwrap()).unwrap();
    let request = Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn no_keys_come_from_anybody_else() {
    let trusting = HttpsFetch::with_root_certificates(AUTHORITY).unwrap();
    // Mozilla's authorities did not make this certificate.
    let signing = provider(LOCALHOST).await;
    assert!(connect(&signing, HttpsFetch::new().unwrap()).await.is_err());
    assert!(connect(&signing, trusting.clone()).await.is_ok());
    // A certificate for another host.
    let signing = provider(OTHER).await;
    assert!(connect(&signing, trusting).await.is_err());
}

#[test]
fn what_is_no_root_certificate_is_refused() {
    let leaf = HttpsFetch::with_root_certificates(LOCALHOST).unwrap_err().to_string();
    assert!(leaf.contains("CA:TRUE"), "{leaf}");
    for pem in
        ["", "no PEM at all", KEY, "-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n"]
    {
        let sentence = HttpsFetch::with_root_certificates(pem).unwrap_err().to_string();
        assert!(sentence.contains("BEGIN CERTIFICATE"), "{sentence}");
    }
}
