//! JSON Web Tokens between this crate and others: PyJWT and jose make what is verified here, and the other way
//! round.
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
    let mut child =
        command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
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

/// A library of another language, in a folder of the target directory.
#[derive(Clone, Copy)]
enum Peer {
    PyJwt,
    Jose,
}

impl Peer {
    /// The command that runs its script of this name, if the library can be had.
    fn script(self, name: &str) -> Option<Command> {
        static PYJWT: OnceLock<Option<PathBuf>> = OnceLock::new();
        static JOSE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let once = match self {
            Self::PyJwt => &PYJWT,
            Self::Jose => &JOSE,
        };
        let place = once.get_or_init(|| self.install().inspect_err(|error| skip(self.name(), error)).ok());
        let place = place.as_deref()?;
        let (program, script) = match self {
            Self::PyJwt => (place.join("bin/python"), peers().join(format!("{name}.py"))),
            // Node looks for libraries where the script is.
            Self::Jose => ("node".into(), place.join(format!("{name}.mjs"))),
        };
        let mut command = Command::new(program);
        command.arg(script);
        Some(command)
    }

    fn name(self) -> &'static str {
        match self {
            Self::PyJwt => "PyJWT",
            Self::Jose => "jose",
        }
    }

    /// What it says of a token that was changed.
    fn refusal(self) -> &'static str {
        match self {
            Self::PyJwt => "InvalidSignatureError",
            Self::Jose => "ERR_JWS_SIGNATURE_VERIFICATION_FAILED",
        }
    }

    /// The files of which an installation is made.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::PyJwt => &["requirements.txt"],
            Self::Jose => &["package.json", "package-lock.json", "webcrypto.mjs", "make.mjs", "check.mjs"],
        }
    }

    /// Installs it, once for the same files.
    fn install(self) -> Result<PathBuf, String> {
        let program = if matches!(self, Self::PyJwt) { "python3" } else { "node" };
        run(Command::new(program).arg("--version"), "")?;
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jwt_peers").join(self.name());
        let texts = self.files().iter().map(|file| fs::read_to_string(peers().join(file)).unwrap());
        let (wanted, installed) = (texts.collect::<String>(), place.join("installed.txt"));
        if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
            return Ok(place);
        }
        fs::create_dir_all(&place).unwrap();
        for file in self.files() {
            fs::copy(peers().join(file), place.join(file)).unwrap();
        }
        match self {
            Self::PyJwt => {
                run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place), "")?;
                let mut pip = Command::new(place.join("bin/python"));
                let requirements = peers().join("requirements.txt");
                run(pip.args(["-m", "pip", "install", "--quiet", "-r"]).arg(requirements), "")?;
            }
            Self::Jose => {
                let quiet = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
                run(Command::new("npm").args(quiet).current_dir(&place), "")?;
            }
        }
        fs::write(&installed, wanted).unwrap();
        Ok(place)
    }
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
    // RFC 9864 gives EdDSA with this curve a name of its own.
    let name = if case["alg"] == "Ed25519" { "EdDSA" } else { case["alg"].as_str().unwrap() };
    let algorithm = ALGORITHMS.into_iter().find(|algorithm| algorithm.name() == name).unwrap();
    let jwk = auth(VerifyingKey::from_jwk(case["jwk"].as_str().unwrap()));
    let other = match case["secret"].as_str() {
        Some(secret) => ("hmac", auth(VerifyingKey::hmac(algorithm, secret))),
        None => ("pem", auth(VerifyingKey::from_pem(algorithm, case["pem"].as_str().unwrap()))),
    };
    vec![("jwk", jwk), other]
}

/// Each token is accepted with its own key, however it is given, and with no other.
async fn verify_all(peer: Peer, more: &[&str]) {
    let Some(mut make) = peer.script("make") else { return };
    let cases: Vec<Value> = serde_json::from_str(&run(&mut make, "").unwrap()).unwrap();
    let made: Vec<_> = cases.iter().map(|case| case["alg"].as_str().unwrap()).collect();
    assert_eq!(made, [&ALGORITHMS.map(Algorithm::name), more].concat());
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

/// Tokens of this crate are accepted there, by a secret and by a key set, and not when they were changed.
fn is_verified_by(peer: Peer) {
    let secret = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-tests-only";
    let seed: &[u8; 32] = secret.as_bytes().first_chunk().unwrap();
    let shared = JwtIssuer::hs256(secret, ISSUER, AUDIENCE).unwrap();
    let public = JwtIssuer::ed25519(seed, ISSUER, AUDIENCE).unwrap();
    let jwks = public.jwks();
    for (issuer, key, value) in [(shared, "secret", secret), (public, "jwks", &jwks)] {
        let token = issuer.token(&UserId::new("alice").unwrap()).unwrap();
        for (name, token, good) in [("as it is", token.clone(), true), ("changed", changed(&token), false)] {
            let Some(mut check) = peer.script("check") else { return };
            match run(&mut check, &json!({ "token": token, key: value }).to_string()) {
                Ok(subject) => assert!(good && subject.trim() == "alice", "{key}, {name}: {subject}"),
                Err(error) => assert!(!good && error.contains(peer.refusal()), "{key}, {name}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn tokens_of_pyjwt_are_verified() {
    verify_all(Peer::PyJwt, &[]).await;
}

#[tokio::test]
async fn tokens_of_jose_are_verified() {
    verify_all(Peer::Jose, &["Ed25519"]).await;
}

#[test]
fn tokens_of_this_crate_are_verified_by_pyjwt() {
    is_verified_by(Peer::PyJwt);
}

#[test]
fn tokens_of_this_crate_are_verified_by_jose() {
    is_verified_by(Peer::Jose);
}
