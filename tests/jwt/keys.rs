//! Keys: a public one is no secret, and each works by its own algorithm only.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use keyward::jwt::{Algorithm, JwtAuth, JwtIssuer, KeySet, UserIds, VerifyingKey};
use serde_json::{Value, json};

use crate::support::{
    AUDIENCE, EC_JWK, ED_JWK, EDDSA, ES256, HEADER, ISSUER, PS256, RS256, RSA_JWK, SECRET, ask, by_jwk,
    claims, clock, hs256, jwk_with, message, sign, sign_text,
};

const HMACS: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match u16::try_from(content.len()).unwrap().to_be_bytes() {
        [0, short @ 0..0x80] => vec![short],
        [0, long] => vec![0x81, long],
        [high, low] => vec![0x82, high, low],
    };
    [&[tag][..], &length, content].concat()
}

fn member(jwk: &str, name: &str) -> Vec<u8> {
    let key: Value = serde_json::from_str(jwk).unwrap();
    URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap()
}

/// The public key as in a PEM of RSA's own, and all kinds' `PUBLIC KEY`.
struct Public {
    jwk: &'static str,
    raw: Vec<u8>,
    info: Vec<u8>,
    ssh: &'static str,
}

fn public_keys() -> [Public; 3] {
    let info =
        |algorithm: &[u8], raw: &[u8]| der(0x30, &[algorithm, &der(3, &[&[0], raw].concat())].concat());
    let modulus = der(2, &[&[0][..], &member(RSA_JWK, "n")].concat());
    let rsa = der(0x30, &[&modulus[..], &der(2, &member(RSA_JWK, "e"))].concat());
    let point = [&[4][..], &member(EC_JWK, "x"), &member(EC_JWK, "y")].concat();
    let ed = member(ED_JWK, "x");
    [
        Public {
            jwk: RSA_JWK,
            info: info(b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00", &rsa),
            raw: rsa,
            ssh: "ssh-rsa",
        },
        Public {
            jwk: EC_JWK,
            info: info(
                b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
                &point,
            ),
            raw: point,
            ssh: "ecdsa-sha2-nistp256",
        },
        Public { jwk: ED_JWK, info: info(b"\x30\x05\x06\x03\x2b\x65\x70", &ed), raw: ed, ssh: "ssh-ed25519" },
    ]
}

impl Public {
    fn pem(&self, label: &str, content: &[u8], line_end: &str) -> String {
        let text = STANDARD.encode(content);
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        [
            &format!("-----BEGIN {label}-----")[..],
            &lines.join(line_end),
            &format!("-----END {label}-----"),
            "",
        ]
        .join(line_end)
    }

    /// Every way in which such a key is published, by which it can be told.
    fn spellings(&self) -> Vec<(&'static str, Vec<u8>)> {
        let pem = self.pem("PUBLIC KEY", &self.info, "\n");
        let key: Value = serde_json::from_str(self.jwk).unwrap();
        let texts = [
            ("PEM", pem.clone()),
            ("PEM without a line end", pem.trim_end().to_owned()),
            ("PEM with CRLF", self.pem("PUBLIC KEY", &self.info, "\r\n")),
            ("PEM in one line", pem.replace('\n', "\\n")),
            ("PEM after white space", format!(" \t\r\n{pem}")),
            ("PEM after a BOM", format!("\u{feff}{pem}")),
            ("PEM after a comment", format!("the key of login.example:\n{pem}")),
            ("PEM of a certificate", self.pem("CERTIFICATE", &self.info, "\n")),
            ("PEM of RSA's own", self.pem("RSA PUBLIC KEY", &self.raw, "\n")),
            ("PEM of SSH", format!("---- BEGIN SSH2 PUBLIC KEY ----\n{}", STANDARD.encode(&self.info))),
            ("SSH", format!("{} {} me@host", self.ssh, STANDARD.encode(&self.info))),
            ("base64 of DER", STANDARD.encode(&self.info)),
            ("base64 of DER without padding", STANDARD_NO_PAD.encode(&self.info)),
            (
                "base64 of DER in lines",
                pem.lines().filter(|line| !line.starts_with('-')).collect::<Vec<_>>().join("\n"),
            ),
            ("base64url of DER", URL_SAFE_NO_PAD.encode(&self.info)),
            ("JWK", self.jwk.to_owned()),
            ("JWK, indented", serde_json::to_string_pretty(&key).unwrap()),
            ("JWK set", json!({ "keys": [key] }).to_string()),
        ];
        let mut all: Vec<_> = texts.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
        all.push(("DER", self.info.clone()));
        all
    }
}

#[test]
fn a_public_key_is_no_secret() {
    for key in public_keys() {
        for (name, secret) in key.spellings() {
            let name = format!("J21, X02 {name} of {}", key.ssh);
            for algorithm in HMACS {
                assert!(VerifyingKey::hmac(algorithm, &secret).is_err(), "{name}");
            }
            assert!(JwtAuth::hs256(&secret).issuer(ISSUER).audience(AUDIENCE).build().is_err(), "{name}");
            assert!(JwtIssuer::hs256(&secret, ISSUER, AUDIENCE).is_err(), "{name}");
            let jwk = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(&secret) }).to_string();
            assert!(VerifyingKey::from_jwk(jwk).is_err(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_public_key_makes_no_token() {
    for key in public_keys() {
        let kinds: &[&str] = if key.ssh == "ssh-rsa" {
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
        } else if key.ssh == "ssh-ed25519" {
            &["EdDSA"]
        } else {
            &["ES256"]
        };
        let mut secrets = key.spellings();
        secrets.push(("as it is", key.raw.clone()));
        secrets.push(("modulus or x", member(key.jwk, if kinds.len() > 1 { "n" } else { "x" })));
        secrets.push((
            "the whole JWK",
            jwk_with(key.jwk, &json!({ "alg": kinds[0], "kid": "one" })).into_bytes(),
        ));
        secrets.push(("nothing", Vec::new()));
        for kind in kinds {
            let auth = by_jwk(key.jwk, json!({ "alg": kind, "kid": "one" }));
            for (name, secret) in &secrets {
                for algorithm in HMACS.map(Algorithm::name) {
                    let header = json!({ "alg": algorithm, "kid": "one" }).to_string();
                    let token = sign_text(algorithm, secret, &message(header, claims().to_string()));
                    let answer = ask(auth.clone(), &token).await;
                    assert_eq!(
                        answer,
                        (401, "algorithm".to_owned()),
                        "X01 {algorithm} for {kind} with {name}"
                    );
                    // The header tells what the key is for; the signature is what it was.
                    let header = json!({ "alg": kind, "kid": "one" }).to_string();
                    let token = sign_text(algorithm, secret, &message(header, claims().to_string()));
                    let answer = ask(auth.clone(), &token).await;
                    assert_eq!(answer, (401, "bad_signature".to_owned()), "X01 {kind} with {name}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_everybody_knows_is_refused_as_a_secret() {
    for (name, secret) in [
        ("X06 empty", ""),
        ("X06 a space", " "),
        ("X06 a line end", "\n"),
        ("X06 white space", "                                                                "),
        ("X06 zeros", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("P3.5 31 bytes", "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4"),
        ("P3.5 one letter", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        ("P3.5 few letters", "abababcdabababcdabcdabababababcdabababcdcdcdabab"),
        ("P3.5 counting", "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKL"),
        ("P3.5 repeating", "7f3aX91kQw0b7f3aX91kQw0b7f3aX91kQw0b7f3aX91kQw0b"),
        ("X07 secret", "secret"),
        ("X07 random", "random"),
        ("X07 changeme", "changemechangemechangemechangemechangeme"),
        ("X07 of a site", "your-256-bit-secret"),
        ("X07 of a site, longer", "your-256-bit-secret-your-256-bit-secret"),
        ("X07 of a site, today", "a-string-secret-at-least-256-bits-long"),
        ("X07 of a site, in upper case", "A-STRING-SECRET-AT-LEAST-256-BITS-LONG"),
        ("X07 of a site, 512 bits", "your-512-bit-secret-your-512-bit-secret-your-512-bit-secret-your"),
        ("X07 of samples", "my-super-secret-jwt-secret-key-change-me-please"),
        ("X07 of samples, too", "super_secret_key_change_in_production_123456"),
        ("X07 of a tutorial", "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7"),
        ("X07 of another tutorial", "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970"),
        (
            "X07 of RFC 7515, appendix A.1",
            "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
        ),
    ] {
        let built = JwtAuth::hs256(secret).issuer(ISSUER).audience(AUDIENCE).build();
        let Err(error) = built else { panic!("{name} is accepted") };
        let sentence = error.to_string();
        assert!(secret.trim().len() < 12 || !sentence.contains(secret.trim()), "{name}: {sentence}");
        assert!(sentence.contains("openssl rand"), "{name}: it says what to do: {sentence}");
        assert!(JwtIssuer::hs256(secret, ISSUER, AUDIENCE).is_err(), "{name}");
        let jwk = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret) }).to_string();
        assert!(VerifyingKey::from_jwk(jwk).is_err(), "{name}");
        // Nor is it a way in beside the real one.
        let token = sign(secret, HEADER, claims().to_string());
        assert_eq!(ask(hs256(&clock()), &token).await, (401, "bad_signature".to_owned()), "{name}");
    }
    for (name, secret) in [
        ("shorter by one", &SECRET[1..]),
        ("in upper case", &SECRET.to_ascii_uppercase()),
        ("with a line end", &format!("{SECRET}\n")),
        ("twice", &SECRET.repeat(2)),
    ] {
        let token = sign(secret, HEADER, claims().to_string());
        assert_eq!(ask(hs256(&clock()), &token).await, (401, "bad_signature".to_owned()), "{name}");
    }
}

#[tokio::test]
async fn a_key_works_by_its_own_algorithm_only() {
    let rsa = |members| by_jwk(RSA_JWK, members);
    for (name, auth, token, answer) in [
        ("its own", rsa(json!({ "alg": "RS256" })), RS256, (200, "alice")),
        ("its own", rsa(json!({ "alg": "PS256" })), PS256, (200, "alice")),
        ("P3.1b RS256 on a PS256 key", rsa(json!({ "alg": "PS256" })), RS256, (401, "algorithm")),
        ("P3.1b PS256 on an RS256 key", rsa(json!({ "alg": "RS256" })), PS256, (401, "algorithm")),
        ("P3.1c RS256 on a PS512 key", rsa(json!({ "alg": "PS512" })), RS256, (401, "algorithm")),
        ("P3.1c PS256 on a PS512 key", rsa(json!({ "alg": "PS512" })), PS256, (401, "algorithm")),
        ("X02 no alg, its own", rsa(json!({})), RS256, (200, "alice")),
        ("X02 no alg, another", rsa(json!({})), PS256, (401, "algorithm")),
        ("another kind", rsa(json!({})), ES256, (401, "algorithm")),
        ("another kind", by_jwk(EC_JWK, json!({})), EDDSA, (401, "algorithm")),
        ("another kind", by_jwk(ED_JWK, json!({})), ES256, (401, "algorithm")),
    ] {
        assert_eq!(ask(auth, token).await, (answer.0, answer.1.to_owned()), "{name}");
    }
}

#[tokio::test]
async fn a_key_that_says_it_is_for_something_else_verifies_nothing() {
    let set = |keys: &[String]| format!("{{\"keys\":[{}]}}", keys.join(","));
    for alg in ["none", "HS256", "HS512", "ES256", "RSA-OAEP"] {
        let bad = jwk_with(RSA_JWK, &json!({ "alg": alg, "kid": "one" }));
        assert!(KeySet::from_jwks(set(std::slice::from_ref(&bad))).is_err(), "X09 {alg}");
        let keys = KeySet::from_jwks(set(&[bad, jwk_with(ED_JWK, &json!({ "kid": "two" }))])).unwrap();
        let auth =
            JwtAuth::keys(&keys).issuer(ISSUER).audience(AUDIENCE).with_clock(clock()).build().unwrap();
        assert_eq!(ask(auth.clone(), RS256).await, (401, "unknown_key".to_owned()), "X09 {alg}");
        let unsigned = format!("{}.", message(r#"{"alg":"none","kid":"one"}"#, claims().to_string()));
        assert_eq!(ask(auth, &unsigned).await.0, 401, "X09 {alg}");
    }
}

#[tokio::test]
async fn an_issuers_key_speaks_for_no_other_issuer() {
    let trust = |issuer: &str, jwk, users| {
        let key = VerifyingKey::from_jwk(jwk_with(jwk, &json!({ "kid": "one" })));
        let builder = JwtAuth::key(key).issuer(issuer).audience(AUDIENCE).with_user_ids(users);
        builder.with_clock(clock()).build().unwrap()
    };
    let other = "https://other.example";
    for (first, second, token, answer) in [
        (RSA_JWK, EC_JWK, RS256, (200, "alice")),
        (RSA_JWK, EC_JWK, ES256, (401, "algorithm")),
        (EC_JWK, RSA_JWK, ES256, (200, "alice")),
        (EC_JWK, RSA_JWK, RS256, (401, "algorithm")),
        (ED_JWK, EC_JWK, ES256, (401, "algorithm")),
        (EC_JWK, EC_JWK, ES256, (200, "alice")),
    ] {
        let issuers = [trust(ISSUER, first, UserIds::Subject), trust(other, second, UserIds::Namespaced)];
        let auth = JwtAuth::any_of(issuers).unwrap();
        assert_eq!(ask(auth, token).await, (answer.0, answer.1.to_owned()), "P3.1d");
    }
}
