//! What a JSON Web Token costs through the layer, and without it: see `jwt.rs`.

use std::hint::black_box;

use http::{Extensions, Request, StatusCode};
use jsonwebtoken::Validation;
use keyward::{
    AuthLayer, TokenManager, UserId,
    auth::ApiKeyAuth,
    jwt::{JwtAuth, JwtBuilder, Said, VerifyingKey},
    manage::NewToken,
    store::MemoryStore,
};
use serde::Deserialize;
use tower::Layer;

use crate::{
    issuer::{AUDIENCE, EDDSA, ES256, HS256, ISSUER, Issuer, RS256, SCOPE, USER, bearer, claims},
    runs::{Run, accepted, accepted_by_turns},
    support::service::{NoOp, arrived, block_on, request, send},
    turns::Case,
};

/// Every cache holds the same number of others.
const OTHERS: u32 = 1000;

pub(crate) const KEY_HIT: &str = "key hit";

pub(crate) const CASES: &[Case] = &[
    (KEY_HIT, key_hit),
    ("HS256 seen", || seen(&HS256)),
    ("HS256 first", || first(&HS256)),
    ("HS256 bare", || bare(&HS256)),
    ("EdDSA seen", || seen(&EDDSA)),
    ("EdDSA first", || first(&EDDSA)),
    ("EdDSA bare", || bare(&EDDSA)),
    ("RS256 seen", || seen(&RS256)),
    ("RS256 first", || first(&RS256)),
    ("RS256 bare", || bare(&RS256)),
    ("ES256 seen", || seen(&ES256)),
    ("ES256 first", || first(&ES256)),
    ("ES256 bare", || bare(&ES256)),
];

fn builder(issuer: &Issuer) -> JwtBuilder<Said, Said> {
    JwtAuth::key(VerifyingKey::from_jwk(issuer.jwk.to_string())).issuer(ISSUER).audience(AUDIENCE)
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
    let layer = AuthLayer::new(builder(issuer).build().expect("a verifier"));
    for other in 0..OTHERS {
        pass(&layer, bearer(&issuer.signed(&claims(&format!("user-{other}")))));
    }
    through(&layer, || bearer(&issuer.token))
}

/// So many tokens by turns, in a cache that holds about one of sixteen: each is new when it comes, is kept, and
/// makes another one go.
fn first(issuer: &Issuer) -> Run {
    const TOKENS: u32 = 512;
    let layer = AuthLayer::new(builder(issuer).with_cache_bytes(32 * 2048).build().expect("a verifier"));
    let token = |number: u32| {
        let mut claims = claims(USER);
        let id = claims.as_object_mut().and_then(|claims| claims.get_mut("jti")).expect("an id");
        *id = format!("{number:022}").into();
        bearer(&issuer.signed(&claims))
    };
    let requests: Vec<_> = (0..TOKENS).map(token).collect();
    let marks = pass(&layer, token(0));
    accepted_by_turns(layer.layer(NoOp), requests, Extensions::new, marks)
}

/// What a handler needs at least.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    pub(crate) exp: u64,
    pub(crate) scope: String,
}

impl Claims {
    pub(crate) fn check(&self) {
        assert!(self.sub == USER && self.exp > 0 && self.scope == SCOPE);
    }
}

fn bare(issuer: &Issuer) -> Run {
    let (token, key) = (issuer.token.clone(), issuer.decoding.clone());
    let mut rules = Validation::new(issuer.algorithm);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[AUDIENCE]);
    rules.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    rules.validate_nbf = true;
    Box::new(move |times| {
        for _ in 0..times {
            let decoded = jsonwebtoken::decode::<Claims>(black_box(token.as_str()), &key, &rules);
            black_box(decoded).expect("a good token").claims.check();
        }
    })
}
