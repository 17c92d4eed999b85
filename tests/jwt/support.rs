//! What the tests of JSON Web Tokens share: tokens, and a layer to ask about them.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, of which each test uses its part"
)]

use std::convert::Infallible;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use keyward::{
    AuthLayer, Principal,
    auth::Authenticator,
    event::Audit,
    jwt::{JwtAuth, VerifyingKey},
    testing::{ManualClock, RecordingSink},
    time::UnixTime,
};
use serde_json::{Value, json};
use sha2::{Sha256, Sha384, Sha512};
use tower::{Layer, ServiceExt, service_fn};

pub(crate) const SECRET: &str = "7f3aX91kQw0bVt5LzR8cYp2MdE6uHj4N-tests-only";
pub(crate) const ISSUER: &str = "https://login.example";
pub(crate) const AUDIENCE: &str = "https://api.example";
pub(crate) const NOW: i64 = 1_800_000_000;
pub(crate) const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

// The claims of `claims`, signed by the keys of `jwt_vectors/cases.py`, whose public halves follow. Their
// `kid` is `one`.
pub(crate) const RS256: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im9uZSJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJhdWQiOiJodHRwczovL2FwaS5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJpYXQiOjE3OTk5OTk5OTAsImV4cCI6MTgwMDAwMDYwMCwianRpIjoib25lIn0.OPiSVTUHJCTh6FAHNuLXEhprZpR0H6U1kwLtnZATGZ9rvIUlALScziUHcMnPKYFDIkSWbFpcrv08CqrWtP9CBdRKGcMTgm4J9pC8OEOGnkHdhfXSTFa8oUQlxs24WiawxKQG4ES1_Dr5wp6LrhHpTWp-TMYY-5dPLYax18rlH9apq_7Sty_eY6ZeZfxlaK3h7M_jcNAFpiGhXnhw0_EQiELdup9Nb9583NUISkUQ5JRwjmRFsLnn_jo1rGcgpALqnrmGBILqANcR3OcBgqqUX7b2H10wPJRdUTSTF3A9EUzJApw4JDYw_9OM-D7AmIrNDDzLTVJ-pGAA3FcuYDrh_g";
pub(crate) const PS256: &str = "eyJhbGciOiJQUzI1NiIsImtpZCI6Im9uZSJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJhdWQiOiJodHRwczovL2FwaS5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJpYXQiOjE3OTk5OTk5OTAsImV4cCI6MTgwMDAwMDYwMCwianRpIjoib25lIn0.IG3zjcvQLzueMsurXIxm4EvTWgh9jNpMNRyic0C4cXw38K_LjguMLEAQ7oTVXsV3haRBAHOCJjyWZWfjlIu1MCXzd3-p2hG6Xq8rT4rKV4wSS-JnOwTUQSmy0UFlhgrYdy_RE4faHjFbsfKjBKywCbjPUYl_mzE6iQbpcV-HpdRirGN44hexKaFg3BhVFy6NozbQjk6iOToTfNT8HFJJt_pCHDDu9ayFd42qsYjNLlQugCv6cbPrCVKjVVvJDH1kRSSPbASI0K-I1IsTUxOr3HCWtgbi75dc2PqIddWEyDyjc5sXnfgt0sefxiJ6wD4vZ2VeiChmuxYiATqX9Xrejw";
pub(crate) const ES256: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6Im9uZSJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJhdWQiOiJodHRwczovL2FwaS5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJpYXQiOjE3OTk5OTk5OTAsImV4cCI6MTgwMDAwMDYwMCwianRpIjoib25lIn0.qFdWRwhFd9PzdVNBKFdRpu-IpUsROm1Jox3h7z19txMGnV8k7Q4ljn4USKUlYp7DuMnhJ2ISBazd4NM4FscOKw";
pub(crate) const EDDSA: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6Im9uZSJ9.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJhdWQiOiJodHRwczovL2FwaS5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJpYXQiOjE3OTk5OTk5OTAsImV4cCI6MTgwMDAwMDYwMCwianRpIjoib25lIn0.rZLxEQwEu2FUR7reVa5GAalbSD-ASEBY8Vecb42TvPLFYGuLvN8p7Kqk-ph3d8ICeBlRtne7visI9QlL5OhWDg";
/// By another key, which is in its header.
pub(crate) const EDDSA_WITH_JWK: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6Im9uZSIsImp3ayI6eyJrdHkiOiJPS1AiLCJjcnYiOiJFZDI1NTE5IiwieCI6Im9oM0d6MHEzTmlIc3ltcHRrVll4ajdVb3NZM29JU3NtWmQ2UV9neXM4Qk0ifX0.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUiLCJhdWQiOiJodHRwczovL2FwaS5leGFtcGxlIiwic3ViIjoiYWxpY2UiLCJpYXQiOjE3OTk5OTk5OTAsImV4cCI6MTgwMDAwMDYwMCwianRpIjoib25lIn0.MWinKRMtJX7g3TtwUob0Fd5C3fIfkESMYGIM65mm2eIy6sVoMlCY02bd6df-my816hMS418-biZ9jnVJcH79CA";
pub(crate) const RSA_JWK: &str = r#"{"kty":"RSA","n":"yvrLlurahUCWg8CO03mmUN1uDFs_5bOIIbWZU4jt5GfnHbK251rMBhctdbcrGliryNV7RNa8wmPCT9wqXqdAuKd5KjvSrNqhGwOZgOr6tj8Gq2NJYCP-471befr5nxKC_CpOc9C0IQTZzr4QFRuEiveuJ1vdj4WEYGp5g8E-41cB4VUS2eHrje6v7BffoFvqm6KHLIhzkt-sMk99eHprdfRbUcb7DyfOYyiohXLRxTJDn-3-am4kvtcoPnUu_7WdBCQkgyjO4iFZn5CrB_nCs54d-cgzMIjN0LyvxgX0wLYjcXqkW4662kEULVCOu0sq7vGnfFAhUZNmaLBrBLYs3Q","e":"AQAB"}"#;
pub(crate) const EC_JWK: &str = r#"{"kty":"EC","crv":"P-256","x":"QL-fbRv9vuKbXBAWUlRn-HU9K-BAbdpb8Rb2dsSymYw","y":"f8zDp2MbmYnXNc-ABS1F22VHVc-bIf_U8urBEnu-kWw"}"#;
pub(crate) const ED_JWK: &str =
    r#"{"kty":"OKP","crv":"Ed25519","x":"lZfDBK_P93B_PeyeMp__mHXw5PBF72qgs-kOlkA7Xcg"}"#;

pub(crate) fn clock() -> ManualClock {
    ManualClock::at(clock_time())
}

/// The time that `clock` begins with.
pub(crate) fn clock_time() -> UnixTime {
    UnixTime::from_millis(NOW * 1000)
}

pub(crate) fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": NOW - 10, "exp": NOW + 600, "jti": "one" })
}

/// The plain claims, with these instead; `null` leaves one out.
#[expect(clippy::needless_pass_by_value, reason = "callers write it in place")]
pub(crate) fn with(changes: Value) -> String {
    let mut all = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            all.as_object_mut().unwrap().remove(name);
        } else {
            all[name] = value.clone();
        }
    }
    all.to_string()
}

/// The plain claims, with this text of JSON as the value of one, whatever it was.
pub(crate) fn with_text(name: &str, text: &str) -> String {
    with(json!({ name: null })).replacen('{', &format!("{{\"{name}\":{text},"), 1)
}

/// Header and claims, as they are signed.
pub(crate) fn message(header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
    format!("{}.{}", BASE64.encode(header), BASE64.encode(claims))
}

pub(crate) fn sign(secret: impl AsRef<[u8]>, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
    sign_text("HS256", secret, &message(header, claims))
}

/// The text with an HMAC of it.
pub(crate) fn sign_text(algorithm: &str, secret: impl AsRef<[u8]>, text: &str) -> String {
    macro_rules! mac {
        ($hash:ty) => {{
            let mut mac = Hmac::<$hash>::new_from_slice(secret.as_ref()).unwrap();
            mac.update(text.as_bytes());
            BASE64.encode(mac.finalize().into_bytes())
        }};
    }
    let signature = match algorithm {
        "HS384" => mac!(Sha384),
        "HS512" => mac!(Sha512),
        _ => mac!(Sha256),
    };
    format!("{text}.{signature}")
}

/// A token's signed text, and the bytes of its signature.
pub(crate) fn split(token: &str) -> (&str, Vec<u8>) {
    let (message, signature) = token.rsplit_once('.').unwrap();
    (message, BASE64.decode(signature).unwrap())
}

/// The text with these bytes as its signature.
pub(crate) fn joined(message: &str, signature: &[u8]) -> String {
    format!("{message}.{}", BASE64.encode(signature))
}

pub(crate) fn hs256(clock: &ManualClock) -> JwtAuth {
    JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock.clone()).build().unwrap()
}

/// An authenticator by this JSON Web Key, with these members too.
#[expect(clippy::needless_pass_by_value, reason = "callers write it in place")]
pub(crate) fn by_jwk(jwk: &str, members: Value) -> JwtAuth {
    let key = VerifyingKey::from_jwk(jwk_with(jwk, &members));
    JwtAuth::key(key).issuer(ISSUER).audience(AUDIENCE).with_clock(clock()).build().unwrap()
}

pub(crate) fn jwk_with(jwk: &str, members: &Value) -> String {
    let mut key: Value = serde_json::from_str(jwk).unwrap();
    key.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    key.to_string()
}

/// The good tokens of each kind, with who accepts them.
pub(crate) fn good_tokens() -> Vec<(&'static str, JwtAuth, String)> {
    vec![
        ("HS256", hs256(&clock()), sign(SECRET, HEADER, claims().to_string())),
        ("RS256", by_jwk(RSA_JWK, json!({ "kid": "one" })), RS256.to_owned()),
        ("PS256", by_jwk(RSA_JWK, json!({ "kid": "one", "alg": "PS256" })), PS256.to_owned()),
        ("ES256", by_jwk(EC_JWK, json!({ "kid": "one" })), ES256.to_owned()),
        ("EdDSA", by_jwk(ED_JWK, json!({ "kid": "one" })), EDDSA.to_owned()),
    ]
}

/// The status, the user if it was accepted, and the reason of the audit log if it was refused.
pub(crate) async fn ask(auth: impl Authenticator, token: &str) -> (u16, String) {
    ask_with(auth, &[("authorization", &format!("Bearer {token}"))]).await
}

/// The same for a request with these header lines.
pub(crate) async fn ask_with(auth: impl Authenticator, lines: &[(&str, &str)]) -> (u16, String) {
    answer(auth, request(lines)).await
}

pub(crate) fn request(lines: &[(&str, &str)]) -> Request<()> {
    let request =
        lines.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap()
}

pub(crate) async fn answer(auth: impl Authenticator, request: Request<()>) -> (u16, String) {
    let events = RecordingSink::default();
    let layer: AuthLayer = AuthLayer::new(auth).with_audit(Audit::new(events.clone()));
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let me = request.extensions().get::<Principal>().unwrap();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(me.user_id().to_string())))
    }));
    let response = service.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    if status == 200 {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        return (status, String::from_utf8(body.to_vec()).unwrap());
    }
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    let reason = events.events().iter().find_map(|event| event.kind.refusal()).unwrap();
    (status, reason.as_str().to_owned())
}
