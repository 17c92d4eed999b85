//! A token seen before against other crates that verify tokens:
//! `cargo bench --manifest-path benches/rivals/Cargo.toml --target-dir target`.
//!
//! The cases of `../jwt.rs` and these run by turns in one process, with the same request, the same token and
//! the same service; see `../support/mod.rs` for what is measured. No rival remembers a token: each
//! verifies it every time. Each has its key before, checks issuer, audience and expiry, and must refuse
//! tokens with a flaw before it is measured.
//!
//! | rival | how |
//! |---|---|
//! | `jwt-authorizer` 0.15 | its layer; the signatures are those of *ring* |
//! | `tower-oauth2-resource-server` 0.12 | its layer, with AWS-LC; HS256 is off by default and switched on |
//! | `axum-jwt-auth` 0.7 | its extractor as axum's layer; the signatures are RustCrypto's, it has no others |
//!
//! What keyward must be ahead of the fastest by is a limit on time, so it only warns.

#![expect(unsafe_code, reason = "the counting allocator and the breakpoint; the crate itself has none")]
#![expect(clippy::expect_used, reason = "a bench stops where its setup fails")]

#[expect(dead_code, reason = "no limit fails here")]
#[path = "../support/mod.rs"]
mod support;

#[path = "../support/issuer.rs"]
mod issuer;
#[path = "../support/jwt_cases.rs"]
mod jwt_cases;
#[expect(dead_code, reason = "no refusal is measured here")]
#[path = "../support/runs.rs"]
mod runs;
#[path = "../support/turns.rs"]
mod turns;

use std::{convert::Infallible, process::ExitCode, sync::Arc};

use axum::middleware::from_extractor_with_state;
use axum_jwt_auth::{Decoder, LocalDecoder};
use http::{Extensions, Request, Response, StatusCode};
use jwt_authorizer::{IntoLayer, JwtAuthorizer};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt};
use tower_oauth2_resource_server::{
    server::OAuth2ResourceServer, tenant::TenantConfiguration, validation::ClaimsValidationSpec,
};

use crate::{
    issuer::{AUDIENCE, EDDSA, ES256, HS256, ISSUER, Issuer, RS256, USER, bearer, claims},
    jwt_cases::Claims,
    runs::{Run, accepted},
    support::{
        report::{Gate, Report},
        service::{Body, NoOp, arrived, block_on, send},
    },
    turns::{Case, Results, run_all},
};

const RIVALS: &[Case] = &[
    ("jwt-authorizer HS256", || authorizer(&HS256)),
    ("jwt-authorizer EdDSA", || authorizer(&EDDSA)),
    ("jwt-authorizer RS256", || authorizer(&RS256)),
    ("jwt-authorizer ES256", || authorizer(&ES256)),
    ("tower-oauth2-resource-server HS256", || resource_server(&HS256)),
    ("tower-oauth2-resource-server EdDSA", || resource_server(&EDDSA)),
    ("tower-oauth2-resource-server RS256", || resource_server(&RS256)),
    ("tower-oauth2-resource-server ES256", || resource_server(&ES256)),
    ("axum-jwt-auth HS256", || extractor(&HS256)),
    ("axum-jwt-auth EdDSA", || extractor(&EDDSA)),
    ("axum-jwt-auth RS256", || extractor(&RS256)),
    ("axum-jwt-auth ES256", || extractor(&ES256)),
];

fn main() -> ExitCode {
    run_all(&[jwt_cases::CASES, RIVALS].concat(), judge)
}

/// Each rival must be slower by the factor, so the fastest must.
fn judge(results: &Results) -> Report {
    let mut report = Report::default();
    for (algorithm, limit) in [("HS256", 15.0), ("EdDSA", 150.0), ("RS256", 100.0), ("ES256", 300.0)] {
        let seen = results.find(&format!("{algorithm} seen"));
        for (rival, _) in RIVALS.iter().filter(|(name, _)| name.ends_with(algorithm)) {
            let rival = results.find(rival);
            let what = format!("ratio {} / {}", rival.name, seen.name);
            report.line(&format!("{what} instructions"), rival.instructions_over(seen), 0.0, Gate::Told);
            report.at_least(&format!("{what} time"), Some(rival.time_over(seen)), limit, Gate::Warn);
        }
    }
    report
}

/// jwt-authorizer's layer.
fn authorizer(issuer: &Issuer) -> Run {
    let rules = jwt_authorizer::Validation::new().iss(&[ISSUER]).aud(&[AUDIENCE]).nbf(true);
    let authorizer = JwtAuthorizer::<Claims>::from_jwks_text(&key_set(issuer)).validation(rules).build();
    let layer = block_on(authorizer).expect("an authorizer").into_layer();
    let service = layer.layer(NoOp.map_response(Answer)).map_response(|Answer(response)| response);
    run(service, issuer, |extensions| {
        let token = extensions.get::<jsonwebtoken_9::TokenData<Claims>>();
        token.expect("the token's content").claims.check();
    })
}

/// A response that can be made of jwt-authorizer's errors.
struct Answer(Response<Body>);

impl From<jwt_authorizer::AuthError> for Answer {
    fn from(_: jwt_authorizer::AuthError) -> Self {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        Self(response)
    }
}

/// tower-oauth2-resource-server's layer.
fn resource_server(issuer: &Issuer) -> Run {
    // Not `recommended`: that demands an `nbf`, which an access token need not have.
    let rules = ClaimsValidationSpec::new().exp(true).iss(ISSUER).aud(&vec![AUDIENCE.to_owned()]);
    let tenant = TenantConfiguration::static_builder(key_set(issuer)).claims_validation(rules);
    let tenant = tenant.allowed_algorithms(&[issuer.algorithm]).build().expect("a tenant");
    let server = OAuth2ResourceServer::<Claims>::builder().add_tenant(tenant).build();
    let layer = block_on(server).expect("a server").into_layer::<Body>();
    run(layer.layer(NoOp), issuer, |extensions| extensions.get::<Claims>().expect("the claims").check())
}

/// axum-jwt-auth's extractor, asked by axum's cheapest way to a layer; the claims are not passed on.
fn extractor(issuer: &Issuer) -> Run {
    let key = serde_json::from_value(issuer.jwk.clone()).expect("a key");
    let key = jsonwebtoken_10::DecodingKey::from_jwk(&key).expect("a key");
    let algorithm = format!("{:?}", issuer.algorithm).parse().expect("an algorithm");
    let mut rules = jsonwebtoken_10::Validation::new(algorithm);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[AUDIENCE]);
    rules.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    rules.validate_nbf = true;
    let decoder = LocalDecoder::new(vec![key], rules).expect("a decoder");
    let decoder: Decoder<Claims> = Arc::new(decoder);
    let layer = from_extractor_with_state::<axum_jwt_auth::Claims<Claims>, _>(decoder);
    let service = layer.layer(NoOp).map_response(|response| response.map(|_| Body::default()));
    run(service, issuer, |_| ())
}

fn key_set(issuer: &Issuer) -> String {
    json!({ "keys": [issuer.jwk] }).to_string()
}

/// Requests that `service` lets through, which `check` finds to have left their claims.
fn run<S>(mut service: S, issuer: &Issuer, check: fn(&Extensions)) -> Run
where
    S: Service<Request<()>, Response = Response<Body>, Error = Infallible> + 'static,
{
    for token in flawed(issuer) {
        assert_eq!(send(&mut service, bearer(&token)).status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(send(&mut service, bearer(&issuer.token)).status(), StatusCode::OK);
    let request = arrived();
    check(request.extensions());
    let marks = request.extensions().len();
    accepted(service, bearer(&issuer.token), Extensions::new, marks)
}

/// Tokens of another issuer, for another audience, expired, and with the signature of another.
fn flawed(issuer: &Issuer) -> Vec<String> {
    let with = |name: &str, value: Value| {
        let mut claims = claims(USER);
        claims.as_object_mut().expect("an object").insert(name.to_owned(), value);
        issuer.signed(&claims)
    };
    let (signed, _) = issuer.token.rsplit_once('.').expect("a signature");
    let other = with("jti", json!("other"));
    let (_, signature) = other.rsplit_once('.').expect("a signature");
    vec![
        with("iss", json!("https://login.example.net")),
        with("aud", json!("https://other.example")),
        with("exp", json!(1_767_225_600)),
        format!("{signed}.{signature}"),
    ]
}
