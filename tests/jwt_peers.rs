//! JSON Web Tokens between this crate and others: PyJWT makes what is verified here, and the other way round.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests"
)]

use std::{
    convert::Infallible,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keyward::{
    AuthLayer, ConfigError, UserId,
    jwt::{Algorithm, JwtAuth, JwtIssuer, VerifyingKey},
};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "https://api.example";
const ALGORITHMS: [Algorithm; 12] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jwt_peers")
}

/// The output of a command, or what went wrong.
fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    // It may end without having read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Skips a test of a developer whose machine lacks something; CI must not.
fn skip(what: &str, error: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{what}: {error}");
    println!("skipped: {what}: {error}");
}

/// A Python with PyJWT, installed once for these requirements.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = || {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jwt_peers_python");
        let python = place.join("bin/python");
        let (wanted, installed) = (peers().join("requirements.txt"), place.join("installed.txt"));
        let text = fs::read_to_string(&wanted).unwrap();
        if fs::read_to_string(&installed).is_ok_and(|installed| installed == text) {
            return Ok(python);
        }
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place), "")?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&wanted), "")?;
        fs::write(&installed, text).unwrap();
        Ok(python)
    };
    let python = PYTHON.get_or_init(|| install().inspect_err(|error: &String| skip("PyJWT", error)).ok());
    python.as_deref()
}

fn auth(key: Result<VerifyingKey, ConfigError>) -> JwtAuth {
    JwtAuth::key(key).issuer(ISSUER).audience(AUDIENCE).build().unwrap()
}

async fn ask(auth: &JwtAuth, token: &str) -> u16 {
    let layer: AuthLayer = AuthLayer::new(auth.clone());
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = Request::builder().header("authorization", format!("Bearer {token}")).body(()).unwrap();
    service.oneshot(request).await.unwrap().status().as_u16()
}

/// The token with one byte of its signature changed.
fn changed(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut signature = BASE64.decode(signature).unwrap();
    let middle = signature.len() / 2;
    signature[middle] ^= 1;
    format!("{message}.{}", BASE64.encode(signature))
}

/// Every way to give the key of a case.
fn keys(case: &Value) -> Vec<(&'static str, JwtAuth)> {
    let algorithm = ALGORITHMS.into_iter().find(|algorithm| algorithm.name() == case["alg"]).unwrap();
    let jwk = auth(VerifyingKey::from_jwk(case["jwk"].as_str().unwrap()));
    let other = match case["secret"].as_str() {
        Some(secret) => ("hmac", auth(VerifyingKey::hmac(algorithm, secret))),
        None => ("pem", auth(VerifyingKey::from_pem(algorithm, case["pem"].as_str().unwrap()))),
    };
    vec![("jwk", jwk), other]
}

/// Each token is accepted with its own key, however it is given, and with no other.
async fn verify_all(cases: &str) {
    let cases: Vec<Value> = serde_json::from_str(cases).unwrap();
    let made: Vec<_> = cases.iter().map(|case| case["alg"].as_str().unwrap()).collect();
    assert_eq!(made, ALGORITHMS.map(Algorithm::name));
    for case in &cases {
        for (form, auth) in keys(case) {
            for other in &cases {
                let name = format!("{} of {} by {form}", other["alg"], case["alg"]);
                let token = other["token"].as_str().unwrap();
                assert_eq!(ask(&auth, &changed(token)).await, 401, "{name}, changed");
                let expected = if other["alg"] == case["alg"] { 200 } else { 401 };
                assert_eq!(ask(&auth, token).await, expected, "{name}");
                assert_eq!(ask(&auth, &changed(token)).await, 401, "{name}, changed, known");
            }
        }
    }
}

#[tokio::test]
async fn tokens_of_pyjwt_are_verified() {
    let Some(python) = python() else { return };
    verify_all(&run(Command::new(python).arg(peers().join("make.py")), "").unwrap()).await;
}

#[test]
fn tokens_of_this_crate_are_verified_by_pyjwt() {
    let Some(python) = python() else { return };
    let check = |given: Value| run(Command::new(python).arg(peers().join("check.py")), &given.to_string());
    let alice = UserId::new("alice").unwrap();

    let secret = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-tests-only";
    let token = JwtIssuer::hs256(secret, ISSUER, AUDIENCE).unwrap().token(&alice).unwrap();
    assert_eq!(check(json!({ "token": token, "secret": secret })).unwrap().trim(), "alice");
    let error = check(json!({ "token": changed(&token), "secret": secret })).unwrap_err();
    assert!(error.contains("InvalidSignatureError"), "{error}");

    let mut seed = [0; 32];
    seed.copy_from_slice(&secret.as_bytes()[..32]);
    let issuer = JwtIssuer::ed25519(&seed, ISSUER, AUDIENCE).unwrap();
    let token = issuer.token(&alice).unwrap();
    assert_eq!(check(json!({ "token": token, "jwks": issuer.jwks() })).unwrap().trim(), "alice");
    let error = check(json!({ "token": changed(&token), "jwks": issuer.jwks() })).unwrap_err();
    assert!(error.contains("InvalidSignatureError"), "{error}");
}
