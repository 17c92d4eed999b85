//! Keys of an issuer that is asked over HTTP by the client that the crate brings along: X40 to X47 of the
//! tests of JSON Web Tokens.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "jwt/support.rs"]
mod support;

use std::time::Duration;

use keyward::{
    jwt::JwtAuth,
    testing::{FakeIssuer, IssuerMode},
};
use serde_json::json;
use support::{ED_JWK, EDDSA, ask, clock, jwk_with};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::test]
async fn keys_are_found_rotated_and_forgotten() {
    let clock = clock();
    let provider = FakeIssuer::start().await.with_clock(clock.clone());
    let audience = FakeIssuer::AUDIENCE;
    let auth = JwtAuth::oidc(&provider.issuer(), audience).with_clock(clock.clone()).await.unwrap();
    auth.ready().unwrap();
    let old = provider.token(json!({ "sub": "alice" }));
    assert_eq!(ask(auth.clone(), &old).await, (200, "alice".to_owned()));
    assert_eq!((provider.discovery_requests(), provider.key_set_requests()), (1, 1));

    // X46: a key that is new is asked for once the cool-down is over.
    provider.rotate();
    let new = provider.token(json!({ "sub": "bob" }));
    assert_eq!(ask(auth.clone(), &new).await, (401, "unknown_key".to_owned()), "within the cool-down");
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(auth.clone(), &new).await, (200, "bob".to_owned()));
    assert_eq!(ask(auth.clone(), &old).await.0, 200, "the old key is still there");
    assert_eq!(provider.key_set_requests(), 2);

    // X41: a key that leaves the set takes its tokens along, known ones too.
    provider.forget_old_keys();
    clock.advance(Duration::from_secs(600));
    assert_eq!(ask(auth, &old).await, (401, "unknown_key".to_owned()));
    assert_eq!(provider.key_set_requests(), 3);
}

#[tokio::test]
async fn a_provider_that_fails_harms_nobody_whose_key_is_known() {
    let clock = clock();
    let provider = FakeIssuer::start().await.with_clock(clock.clone());
    provider.set_mode(IssuerMode::Down);
    let lazy = JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).with_clock(clock.clone());
    let auth = lazy.build().unwrap();
    let token = provider.token(json!({ "sub": "alice" }));
    // X45: without keys nobody is told that their token is bad.
    assert_eq!(ask(auth.clone(), &token).await, (503, "keys_unavailable".to_owned()));
    assert!(auth.ready().is_err());
    let eager = JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).with_clock(clock.clone()).await;
    assert!(eager.unwrap_err().to_string().contains("cannot be fetched"));

    provider.set_mode(IssuerMode::Up);
    clock.advance(Duration::from_secs(2));
    assert_eq!(ask(auth.clone(), &token).await.0, 200);
    for mode in [
        IssuerMode::Down,
        IssuerMode::Garbage,
        IssuerMode::Huge,
        IssuerMode::Redirect,
        IssuerMode::WrongIssuer,
        IssuerMode::NoKeys,
    ] {
        provider.set_mode(mode);
        clock.advance(Duration::from_secs(601));
        assert_eq!(ask(auth.clone(), &provider.token(json!({ "sub": "bob" }))).await.0, 200, "{mode:?}");
        let unknown = provider.token_with(json!({ "kid": "nobody" }), json!({ "sub": "eve" }));
        assert_eq!(ask(auth.clone(), &unknown).await.0, 503, "{mode:?}");
    }
    clock.advance(Duration::from_secs(24 * 3600));
    assert_eq!(
        ask(auth.clone(), &provider.token(json!({ "sub": "bob" }))).await.0,
        503,
        "too old to believe"
    );
    provider.set_mode(IssuerMode::Up);
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(auth, &provider.token(json!({ "sub": "bob" }))).await.0, 200);
}

/// Q1 of the flood of random names: X40.
#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_fetch_in_a_cool_down() {
    let clock = clock();
    let provider = FakeIssuer::start().await.with_clock(clock.clone());
    let auth =
        JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).with_clock(clock.clone()).await.unwrap();
    let good = provider.token(json!({ "sub": "alice" }));
    for round in 1..=3 {
        clock.advance(Duration::from_secs(30));
        for n in 0..700 {
            let kid = format!("random-{round}-{n}");
            let unknown = provider.token_with(json!({ "kid": kid }), json!({ "sub": "eve" }));
            assert_eq!(ask(auth.clone(), &unknown).await, (401, "unknown_key".to_owned()));
        }
        assert_eq!(ask(auth.clone(), &good).await.0, 200);
        assert!(provider.key_set_requests() <= 1 + round, "{}", provider.key_set_requests());
    }
}

/// A server on this machine that answers each connection with these bytes, `repeated` for as long as they
/// are read.
async fn serve(head: String, repeated: &'static [u8]) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let mut written = stream.write_all(head.as_bytes()).await;
                while written.is_ok() && !repeated.is_empty() {
                    written = stream.write_all(repeated).await;
                }
            });
        }
    });
    format!("http://{address}/keys")
}

#[tokio::test]
async fn an_answer_that_is_not_plain_and_short_is_none() {
    let keys = json!({ "keys": [serde_json::from_str::<serde_json::Value>(&jwk_with(ED_JWK, &json!({ "kid": "one" }))).unwrap()] });
    let body = keys.to_string();
    let answer = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n{body}");
    let length = format!("Content-Length: {}", body.len());
    for (name, head, repeated, status) in [
        ("as it should be", answer(&length), &b""[..], 200),
        ("X43 gzip", answer(&format!("{length}\r\nContent-Encoding: gzip")), b"", 503),
        (
            "X43 brotli in a second line",
            answer(&format!("{length}\r\nContent-Encoding: identity\r\nContent-Encoding: br")),
            b"",
            503,
        ),
        (
            "X43 without an end",
            answer("Transfer-Encoding: identity\r\nConnection: close"),
            &[b' '; 65_536],
            503,
        ),
        (
            "X43 in chunks without an end",
            answer("Transfer-Encoding: chunked").replace(&body, ""),
            b"2\r\n  \r\n",
            503,
        ),
        ("X43 a length of 10 MB", answer("Content-Length: 10000000"), &[b' '; 65_536], 503),
        ("X43 headers without an end", "HTTP/1.1 200 OK\r\n".to_owned(), b"X: y\r\n", 503),
        ("X43 no HTTP", "SSH-2.0-OpenSSH_9.2\r\n".to_owned(), b"", 503),
    ] {
        let builder = JwtAuth::jwks(&serve(head, repeated).await);
        let auth =
            builder.issuer(support::ISSUER).audience(support::AUDIENCE).with_clock(clock()).build().unwrap();
        assert_eq!(ask(auth, EDDSA).await.0, status, "{name}");
    }
}

#[tokio::test]
async fn an_issuer_that_calls_itself_otherwise_is_not_believed() {
    let provider = FakeIssuer::start().await;
    provider.set_mode(IssuerMode::WrongIssuer);
    let refused = JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).await;
    assert!(refused.unwrap_err().to_string().contains("cannot be fetched"), "X47");
    assert_eq!((provider.discovery_requests(), provider.key_set_requests()), (1, 0), "X47");
    provider.set_mode(IssuerMode::Up);
    let slash = JwtAuth::oidc(&format!("{}/", provider.issuer()), FakeIssuer::AUDIENCE).await;
    assert!(slash.is_err(), "X47 a slash makes another issuer");
    assert!(JwtAuth::oidc(&provider.issuer(), FakeIssuer::AUDIENCE).await.is_ok());
}
