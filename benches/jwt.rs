//! What a JSON Web Token costs on its way through the layer: `cargo bench --bench jwt`.
//!
//! All cases run by turns in one process, as in `hot_path.rs`; see `support/mod.rs` for what is measured.
//! With the signatures of AWS-LC:
//!
//! | case | what |
//! |---|---|
//! | `key hit` | an API key in the cache, with the layer's defaults: the measure for `seen` |
//! | `<algorithm> seen` | the layer with its defaults, the token in the cache among many others |
//! | `<algorithm> first` | the layer without a cache: as if each token came for the first time |
//! | `<algorithm> bare` | `jsonwebtoken::decode` alone, with the key made before and the same rules |
//!
//! It fails when a limit on instructions is exceeded. A limit on time only warns.

#![expect(unsafe_code, reason = "the counting allocator and the breakpoint; the crate itself has none")]
#![expect(clippy::expect_used, reason = "a bench stops where its setup fails")]

mod support;

#[expect(dead_code, reason = "nothing is refused here")]
#[path = "support/runs.rs"]
mod runs;

use std::{collections::BTreeMap, env, hint::black_box, process::ExitCode};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use http::{
    Extensions, HeaderValue, Request, StatusCode,
    header::{AUTHORIZATION, HeaderName},
};
use jsonwebtoken::{DecodingKey, Validation};
use keyward::{
    AuthLayer, TokenManager, UserId,
    auth::ApiKeyAuth,
    jwt::{Algorithm, JwtAuth, JwtBuilder, JwtIssuer, Said, VerifyingKey},
    manage::NewToken,
    store::MemoryStore,
    time::{Clock, SystemClock},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::Layer;

use crate::{
    runs::{Run, accepted},
    support::{
        alloc::{allocated, settle},
        measure::{
            counted, instructions_each, is_bench, mark_regions, median, percentile, setting, thread_time,
        },
        report::{Gate, Report, number},
        service::{NoOp, arrived, block_on, request, send},
    },
};

const USER: &str = "alice";
const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "https://api.example";
const SCOPE: &str = "jobs:read jobs:write";
const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-example-only";
const SEED: [u8; 32] = *b"\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x84\x4a\xf4\x92\xec\x2c\xc4\
    \x44\x49\xc5\x69\x7b\x32\x69\x19\x70\x3b\xac\x03\x1c\xae\x7f\x60";

/// Every cache holds the same number of others.
const OTHERS: u32 = 1000;

/// How many times a case runs between the second pair of breakpoints, beyond once.
const COUNTED: u64 = 10;

/// A case runs for so many nanoseconds in each round.
const BATCH: f64 = 2e6;

type Case = (&'static str, fn() -> Run);

const KEY_HIT: &str = "key hit";

const CASES: &[Case] = &[
    (KEY_HIT, key_hit),
    ("HS256 seen", || seen(&Issuer::hs256())),
    ("HS256 first", || first(&Issuer::hs256())),
    ("HS256 bare", || bare(&Issuer::hs256())),
    ("EdDSA seen", || seen(&Issuer::eddsa())),
    ("EdDSA first", || first(&Issuer::eddsa())),
    ("EdDSA bare", || bare(&Issuer::eddsa())),
    ("RS256 seen", || seen(&Issuer::rs256())),
    ("RS256 first", || first(&Issuer::rs256())),
    ("RS256 bare", || bare(&Issuer::rs256())),
    ("ES256 seen", || seen(&Issuer::es256())),
    ("ES256 first", || first(&Issuer::es256())),
    ("ES256 bare", || bare(&Issuer::es256())),
];

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _timers = runtime.enter();
    let arguments: Vec<String> = env::args().collect();
    if let Some(("--one", name)) =
        arguments.get(1).map(String::as_str).zip(arguments.get(2).map(String::as_str))
    {
        let (_, case) = CASES.iter().find(|(case, _)| *case == name).expect("a case");
        let mut run = case();
        run(3);
        mark_regions(COUNTED, run);
        return ExitCode::SUCCESS;
    }
    let mut runs: Vec<Run> = CASES.iter().map(|(_, case)| case()).collect();
    if !is_bench() {
        runs.iter_mut().for_each(|run| run(3));
        return ExitCode::SUCCESS;
    }
    settle();
    let results = measure(&mut runs);
    print_table(&results);
    judge(&results).exit_code()
}

/// What was measured of one case.
struct Measured {
    name: &'static str,
    /// Nanoseconds each, one for each round.
    times: Vec<f64>,
    instructions: Option<f64>,
    allocations: f64,
}

fn measure(runs: &mut [Run]) -> Vec<Measured> {
    let rounds = setting("KEYWARD_ROUNDS").and_then(|rounds| rounds.to_str()?.parse().ok()).unwrap_or(41);
    let batches: Vec<u64> =
        runs.iter_mut().map(|run| (BATCH / time_each(run, 200)).max(1.0) as u64).collect();
    let names = CASES.iter().map(|(name, _)| *name);
    let mut results: Vec<Measured> = names.zip(runs.iter_mut()).map(|(name, run)| start(name, run)).collect();
    for _ in 0..rounds {
        for ((run, batch), result) in runs.iter_mut().zip(&batches).zip(&mut results) {
            result.times.push(time_each(run, *batch));
        }
    }
    results
}

fn time_each(run: &mut Run, times: u64) -> f64 {
    let start = thread_time();
    run(times);
    (thread_time() - start) / times as f64
}

/// Counts what needs no rounds: it is the same each time.
fn start(name: &'static str, run: &mut Run) -> Measured {
    const TIMES: u64 = 1000;
    run(3);
    let before = allocated().blocks;
    run(TIMES);
    let allocations = (allocated().blocks - before) as f64 / TIMES as f64;
    let regions = counted(&["--one", name]);
    let instructions = regions.map(|(regions, _)| match regions.as_slice() {
        [once, again] => instructions_each(*once, *again, COUNTED),
        other => unreachable!("two regions are marked, not {}", other.len()),
    });
    Measured { name, times: Vec::new(), instructions, allocations }
}

fn print_table(results: &[Measured]) {
    println!(
        "{:<14} {:>10} {:>10} {:>12} {:>11}",
        "case", "ns median", "ns p10", "instructions", "allocations"
    );
    for result in results {
        let times = || result.times.iter().copied();
        println!(
            "{:<14} {:>10.1} {:>10.1} {:>12} {:>11.2}",
            result.name,
            median(times()),
            percentile(times(), 10),
            number(result.instructions),
            result.allocations
        );
    }
}

fn judge(results: &[Measured]) -> Report {
    let mut report = Report::default();
    let find = |name: &str| results.iter().find(|result| result.name == name).expect("a case");
    for algorithm in ["HS256", "EdDSA", "RS256", "ES256"] {
        let [seen, first, bare] = ["seen", "first", "bare"].map(|case| find(&format!("{algorithm} {case}")));
        for (of, to, limit, gate) in [
            (seen, find(KEY_HIT), 1.25, Gate::Must),
            (first, bare, 1.0, Gate::Must),
            (bare, seen, 0.0, Gate::Told),
        ] {
            let what = format!("ratio {} / {}", of.name, to.name);
            let counted = of.instructions.zip(to.instructions).map(|(of, to)| of / to);
            report.line(&format!("{what} instructions"), counted, limit, gate);
            let ratios = of.times.iter().zip(&to.times).map(|(of, to)| of / to);
            let gate = if gate == Gate::Told { Gate::Told } else { Gate::Warn };
            report.line(&format!("{what} time"), Some(median(ratios)), limit, gate);
        }
    }
    report
}

/// Whoever signs the tokens of one algorithm, and the keys that verify them.
struct Issuer {
    algorithm: jsonwebtoken::Algorithm,
    sign: Box<dyn Fn(&UserId) -> String>,
    verifying: VerifyingKey,
    decoding: DecodingKey,
}

impl Issuer {
    fn hs256() -> Self {
        let issuer = JwtIssuer::hs256(SECRET, ISSUER, AUDIENCE).expect("an issuer");
        Self::own(jsonwebtoken::Algorithm::HS256, issuer, DecodingKey::from_secret(SECRET.as_bytes()))
    }

    fn eddsa() -> Self {
        let issuer = JwtIssuer::ed25519(&SEED, ISSUER, AUDIENCE).expect("an issuer");
        let keys: Value = serde_json::from_str(&issuer.jwks()).expect("a key set");
        let x = keys.pointer("/keys/0/x").and_then(Value::as_str).expect("a public key");
        let decoding = DecodingKey::from_ed_components(x).expect("a key");
        Self::own(jsonwebtoken::Algorithm::EdDSA, issuer, decoding)
    }

    /// The crate's own.
    fn own(algorithm: jsonwebtoken::Algorithm, issuer: JwtIssuer, decoding: DecodingKey) -> Self {
        let verifying = issuer.verifying_key().expect("a key");
        let sign = move |user: &UserId| {
            issuer.token_with(user, BTreeMap::from([("scope", json!(SCOPE))])).expect("a token")
        };
        Self { algorithm, sign: Box::new(sign), verifying, decoding }
    }

    fn rs256() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key pair");
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("the public key");
        let verifying = verifying(Algorithm::RS256, public.as_ref());
        let decoding = DecodingKey::from_rsa_der(pair.public_key().as_ref());
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("a signature");
            signature
        };
        Self::other(jsonwebtoken::Algorithm::RS256, sign, verifying, decoding)
    }

    fn es256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key pair");
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("the public key");
        let verifying = verifying(Algorithm::ES256, public.as_ref());
        let decoding = DecodingKey::from_ec_der(pair.public_key().as_ref());
        let sign = move |message: &[u8]| {
            pair.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
        };
        Self::other(jsonwebtoken::Algorithm::ES256, sign, verifying, decoding)
    }

    /// Tokens of the same form, from elsewhere.
    fn other(
        algorithm: jsonwebtoken::Algorithm,
        sign: impl Fn(&[u8]) -> Vec<u8> + 'static,
        verifying: VerifyingKey,
        decoding: DecodingKey,
    ) -> Self {
        let sign = move |user: &UserId| {
            let now = SystemClock.now().as_millis() / 1000;
            let header = json!({ "alg": format!("{algorithm:?}"), "typ": "at+jwt" });
            let claims = json!({
                "iss": ISSUER, "sub": user, "aud": AUDIENCE, "iat": now, "exp": now + 3600,
                "jti": "Yk4bGm0qSxW2z1oR7uHc3A", "scope": SCOPE,
            });
            let encode = |part: &Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
            let message = format!("{}.{}", encode(&header), encode(&claims));
            let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
            format!("{message}.{signature}")
        };
        Self { algorithm, sign: Box::new(sign), verifying, decoding }
    }

    fn token(&self) -> String {
        (self.sign)(&UserId::new(USER).expect("a user id"))
    }

    fn builder(&self) -> JwtBuilder<Said, Said> {
        JwtAuth::key(Ok(self.verifying.clone())).issuer(ISSUER).audience(AUDIENCE)
    }
}

/// The key in a `PUBLIC KEY` of PEM.
fn verifying(algorithm: Algorithm, public: &[u8]) -> VerifyingKey {
    let base64 = BASE64_STANDARD.encode(public);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(64).map(|line| str::from_utf8(line).expect("ASCII")).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
    VerifyingKey::from_pem(algorithm, pem).expect("a public key")
}

/// The request with a bearer token in the place of the key.
fn bearer(token: &str) -> Request<()> {
    const KEY: HeaderName = HeaderName::from_static("x-api-key");
    let mut request = request("");
    request.headers_mut().remove(KEY);
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a header");
    request.headers_mut().insert(AUTHORIZATION, value);
    request
}

/// Requests that are let through by `layer`, with as many extensions as the first that arrived.
fn through(layer: &AuthLayer, fresh: impl Fn() -> Request<()>) -> Run {
    let marks = pass(layer, fresh());
    accepted(layer.layer(NoOp), fresh(), Extensions::new, marks)
}

/// Sends one request through `layer`, and counts the extensions it gave.
fn pass(layer: &AuthLayer, request: Request<()>) -> usize {
    assert_eq!(send(&mut layer.layer(NoOp), request).status(), StatusCode::OK);
    let request = arrived();
    assert!(request.extensions().get::<UserId>().is_some());
    request.extensions().len()
}

fn key_hit() -> Run {
    let tokens = TokenManager::builder(MemoryStore::new()).with_max_active(None).build();
    let user = UserId::new(USER).expect("a user id");
    let layer = AuthLayer::new(ApiKeyAuth::new(&tokens));
    for other in 0..OTHERS {
        let issued = block_on(tokens.create(&user, NewToken::named(other.to_string()))).expect("a key");
        pass(&layer, request(issued.key.expose()));
    }
    let issued = block_on(tokens.create(&user, NewToken::named("bench"))).expect("a key");
    through(&layer, || request(issued.key.expose()))
}

fn seen(issuer: &Issuer) -> Run {
    let layer = AuthLayer::new(issuer.builder().build().expect("a verifier"));
    for other in 0..OTHERS {
        let user = UserId::new(format!("user-{other}")).expect("a user id");
        pass(&layer, bearer(&(issuer.sign)(&user)));
    }
    let token = issuer.token();
    through(&layer, || bearer(&token))
}

fn first(issuer: &Issuer) -> Run {
    let layer = AuthLayer::new(issuer.builder().with_cache_bytes(0).build().expect("a verifier"));
    let token = issuer.token();
    through(&layer, || bearer(&token))
}

/// What a handler needs at least.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    scope: String,
}

fn bare(issuer: &Issuer) -> Run {
    let (token, key) = (issuer.token(), issuer.decoding.clone());
    let mut rules = Validation::new(issuer.algorithm);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[AUDIENCE]);
    rules.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    rules.validate_nbf = true;
    Box::new(move |times| {
        for _ in 0..times {
            let decoded = jsonwebtoken::decode::<Claims>(black_box(token.as_str()), &key, &rules);
            let Claims { sub, exp, scope } = black_box(decoded).expect("a good token").claims;
            assert!(sub == USER && exp > 0 && scope == SCOPE);
        }
    })
}
