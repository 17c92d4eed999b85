//! Tokens and keys in the classes of Wycheproof's JOSE files: what keyward answers, and what plain
//! `jsonwebtoken` answers on the same backend when it is used as its documentation shows.
//!
//! The vectors are made by `jwt_vectors/make.py`, which says how. X05 is CVE-2022-21449.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests")]

use std::{convert::Infallible, panic};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
use keyward::{
    AuthLayer, ConfigError,
    jwt::{FetchError, Fetched, HttpFetch, JwtAuth, JwtBuilder, KeySet, VerifyingKey},
    testing::ManualClock,
    time::UnixTime,
};
use serde::Deserialize;
use serde_json::Value;
use tower::{Layer, ServiceExt, service_fn};

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "https://api.example";
/// When the tokens expire, in 2100: plain `jsonwebtoken` reads the system's clock.
const EXPIRY: i64 = 4_102_444_800;

#[cfg(feature = "jwt")]
const BACKEND: &str = "aws_lc_rs";
#[cfg(not(feature = "jwt"))]
const BACKEND: &str = "rust_crypto";

const VECTORS: usize = 898;
/// How many of them plain `jsonwebtoken` answers right.
const PLAIN_RIGHT: usize = if cfg!(feature = "jwt") { 764 } else { 755 };

/// Tokens that share their keys.
#[derive(Deserialize)]
struct Group {
    class: String,
    jwks: Value,
    tests: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    comment: String,
    token: String,
    result: Answer,
    /// One answer, or one of each backend.
    plain: Value,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Valid,
    Invalid,
}

impl Answer {
    fn of(accepted: bool) -> Self {
        if accepted { Self::Valid } else { Self::Invalid }
    }
}

impl Case {
    fn plain(&self) -> Answer {
        let plain = self.plain.get(BACKEND).unwrap_or(&self.plain);
        serde_json::from_value(plain.clone()).unwrap()
    }
}

/// A key set as an issuer would publish it.
#[derive(Clone, Debug)]
struct Published(String);

#[async_trait]
impl HttpFetch for Published {
    async fn get(&self, _: &Uri, _: usize) -> Result<Fetched, FetchError> {
        Ok(Fetched::new(self.0.clone(), None))
    }
}

fn build(builder: JwtBuilder) -> Result<JwtAuth, ConfigError> {
    let clock = ManualClock::at(UnixTime::from_millis((EXPIRY - 600) * 1000));
    builder.issuer(ISSUER).audience(AUDIENCE).with_clock(clock).build()
}

impl Group {
    fn keys(&self) -> &Vec<Value> {
        self.jwks["keys"].as_array().unwrap()
    }

    fn has_only_secrets(&self) -> bool {
        self.keys().iter().all(|key| key["kty"] == "oct")
    }

    /// With the keys in the configuration: a file of public keys, or secrets.
    fn configured(&self) -> Result<JwtAuth, ConfigError> {
        if !self.has_only_secrets() {
            return build(JwtAuth::keys(&KeySet::from_jwks(self.jwks.to_string())?));
        }
        let mut secrets = self.keys().iter().map(|key| VerifyingKey::from_jwk(key.to_string()));
        let first = JwtAuth::key(secrets.next().unwrap());
        build(secrets.fold(first, JwtBuilder::and_key))
    }

    /// With the keys of an issuer's URL, which must all be public.
    fn fetched(&self) -> JwtAuth {
        let published = Published(self.jwks.to_string());
        build(JwtAuth::jwks("https://login.example/keys").with_fetch(published)).unwrap()
    }

    /// What the documentation of `jsonwebtoken` shows. It panics for some keys: that lets nobody in.
    fn plain(&self, token: &str) -> bool {
        let decode = || {
            let set: JwkSet = serde_json::from_value(self.jwks.clone()).ok()?;
            let header = jsonwebtoken::decode_header(token).ok()?;
            let key = header.kid.as_ref().map_or(set.keys.first(), |kid| set.find(kid))?;
            let mut validation = Validation::new(header.alg);
            validation.set_issuer(&[ISSUER]);
            validation.set_audience(&[AUDIENCE]);
            let key = DecodingKey::from_jwk(key).ok()?;
            jsonwebtoken::decode::<Value>(token, &key, &validation).ok()
        };
        panic::catch_unwind(decode).is_ok_and(|decoded| decoded.is_some())
    }
}

async fn status(auth: &JwtAuth, token: &str) -> u16 {
    let layer: AuthLayer = AuthLayer::new(auth.clone());
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    // What cannot stand in a header is refused before anybody sees it.
    let Ok(request) = Request::builder().header("authorization", format!("Bearer {token}")).body(()) else {
        return 400;
    };
    service.oneshot(request).await.unwrap().status().as_u16()
}

fn groups() -> Vec<Group> {
    serde_json::from_str(include_str!("jwt_vectors/vectors.json")).unwrap()
}

/// Counts the answers that are right, and gathers those that are not `expected`.
#[derive(Default)]
struct Count {
    all: usize,
    right: usize,
    unexpected: Vec<String>,
}

impl Count {
    fn add(&mut self, group: &Group, case: &Case, answer: Answer, expected: Answer) {
        self.all += 1;
        self.right += usize::from(answer == case.result);
        if answer != expected {
            self.unexpected.push(format!("{}: {}: {answer:?}", group.class, case.comment));
        }
    }

    fn check(&self, who: &str, right: usize) {
        println!("{who} on {BACKEND}: {}/{} right", self.right, self.all);
        assert!(self.unexpected.is_empty(), "{who}:\n{}", self.unexpected.join("\n"));
        assert_eq!((self.right, self.all), (right, VECTORS), "{who}");
    }
}

#[tokio::test]
async fn keyward_answers_all_vectors_right() {
    let mut count = Count::default();
    for group in groups() {
        // What refuses to start lets nobody in. Secrets have no URL.
        let by_file = group.configured().ok();
        let by_url = (!group.has_only_secrets()).then(|| group.fetched());
        for case in &group.tests {
            let mut statuses = Vec::new();
            // Once new, and once known if it was good.
            for _ in 0..2 {
                for auth in by_file.iter().chain(&by_url) {
                    statuses.push(status(auth, &case.token).await);
                }
            }
            let accepted = statuses.iter().filter(|status| **status == 200).count();
            assert!(accepted == 0 || accepted == statuses.len(), "{}: {statuses:?}", case.comment);
            count.add(&group, case, Answer::of(accepted > 0), case.result);
        }
    }
    count.check("keyward", VECTORS);
}

#[test]
fn plain_jsonwebtoken_answers_as_noted() {
    #[cfg(feature = "jwt")]
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let mut count = Count::default();
    for group in groups() {
        for case in &group.tests {
            count.add(&group, case, Answer::of(group.plain(&case.token)), case.plain());
        }
    }
    count.check("plain jsonwebtoken", PLAIN_RIGHT);
}
