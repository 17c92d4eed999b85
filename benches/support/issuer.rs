//! Whoever signs the tokens: one issuer for each algorithm, and one token of each for all cases.

use std::sync::LazyLock;

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{
    HeaderValue, Request,
    header::{AUTHORIZATION, HeaderName},
};
use jsonwebtoken::{Algorithm, DecodingKey};
use keyward::time::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::support::service::request;

pub(crate) const USER: &str = "alice";
pub(crate) const ISSUER: &str = "https://login.example";
pub(crate) const AUDIENCE: &str = "https://api.example";
pub(crate) const SCOPE: &str = "jobs:read jobs:write";

const KID: &str = "2026-08";
const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only";
const SEED: [u8; 32] = *b"\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x84\x4a\xf4\x92\xec\x2c\xc4\
    \x44\x49\xc5\x69\x7b\x32\x69\x19\x70\x3b\xac\x03\x1c\xae\x7f\x60";

pub(crate) static HS256: LazyLock<Issuer> = LazyLock::new(Issuer::hs256);
pub(crate) static EDDSA: LazyLock<Issuer> = LazyLock::new(Issuer::eddsa);
pub(crate) static RS256: LazyLock<Issuer> = LazyLock::new(Issuer::rs256);
pub(crate) static ES256: LazyLock<Issuer> = LazyLock::new(Issuer::es256);

pub(crate) struct Issuer {
    pub(crate) algorithm: Algorithm,
    /// The key that verifies, as a JSON Web Key; of HS256 it is the secret.
    pub(crate) jwk: Value,
    pub(crate) decoding: DecodingKey,
    /// A token for [`USER`].
    pub(crate) token: String,
    sign: Sign,
}

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

impl Issuer {
    fn hs256() -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let sign = move |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec();
        let jwk = json!({ "kty": "oct", "alg": "HS256", "kid": KID, "k": encode(SECRET.as_bytes()) });
        Self::new(Algorithm::HS256, jwk, DecodingKey::from_secret(SECRET.as_bytes()), sign)
    }

    fn eddsa() -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&SEED).expect("a key pair");
        let public = pair.public_key().as_ref().to_vec();
        let jwk = json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": KID, "x": encode(&public),
        });
        let sign = move |message: &[u8]| pair.sign(message).as_ref().to_vec();
        Self::new(Algorithm::EdDSA, jwk, DecodingKey::from_ed_der(&public), sign)
    }

    fn rs256() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key pair");
        let public = pair.public_key().as_ref().to_vec();
        // An `RSAPublicKey` (RFC 8017, appendix A.1.1): with 2048 bits the modulus always lies here.
        assert!(public.len() == 270 && public.ends_with(&[2, 3, 1, 0, 1]));
        let n = public.get(9..265).expect("the modulus");
        let jwk = json!({ "kty": "RSA", "alg": "RS256", "kid": KID, "n": encode(n), "e": "AQAB" });
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("a signature");
            signature
        };
        Self::new(Algorithm::RS256, jwk, DecodingKey::from_rsa_der(&public), sign)
    }

    fn es256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key pair");
        let public = pair.public_key().as_ref().to_vec();
        let part = |range| encode(public.get(range).expect("an uncompressed point"));
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": KID, "x": part(1..33), "y": part(33..65),
        });
        let sign = move |message: &[u8]| {
            pair.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
        };
        Self::new(Algorithm::ES256, jwk, DecodingKey::from_ec_der(&public), sign)
    }

    fn new(
        algorithm: Algorithm,
        jwk: Value,
        decoding: DecodingKey,
        sign: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let mut issuer = Self { algorithm, jwk, decoding, token: String::new(), sign: Box::new(sign) };
        issuer.token = issuer.signed(&claims(USER));
        issuer
    }

    /// A token with these claims.
    pub(crate) fn signed(&self, claims: &Value) -> String {
        let header = json!({ "alg": format!("{:?}", self.algorithm), "typ": "at+jwt", "kid": KID });
        let part = |part: &Value| encode(part.to_string().as_bytes());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = encode(&(self.sign)(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// The claims of an access token (RFC 9068).
pub(crate) fn claims(user: &str) -> Value {
    let now = SystemClock.now().as_millis() / 1000;
    json!({
        "iss": ISSUER, "sub": user, "aud": AUDIENCE, "iat": now, "exp": now + 3600,
        "jti": "Yk4bGm0qSxW2z1oR7uHc3A", "scope": SCOPE,
    })
}

fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The request with a bearer token in the place of the key.
pub(crate) fn bearer(token: &str) -> Request<()> {
    const KEY: HeaderName = HeaderName::from_static("x-api-key");
    let mut request = request("");
    request.headers_mut().remove(KEY);
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a header");
    request.headers_mut().insert(AUTHORIZATION, value);
    request
}
