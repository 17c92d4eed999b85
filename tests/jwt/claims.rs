//! Claims. All tokens here have a good header and the right signature.

use std::time::Duration;

use keyward::{
    auth::RequestHead,
    jwt::{AnyAudience, AnyIssuer, ConfirmationVerifier, JwtAuth},
};
use serde_json::{Value, json};

use crate::support::{
    AUDIENCE, HEADER, ISSUER, NOW, SECRET, ask, ask_with, claims, clock, hs256, sign, with, with_text,
};

/// Id and what is wrong; the claims that differ; and why they are refused.
type Row = (&'static str, Value, &'static str);

fn times() -> Vec<Row> {
    vec![
        ("J11 expired", json!({ "exp": NOW - 60 }), "expired"),
        ("J11 long expired", json!({ "exp": 1 }), "expired"),
        ("J13 exp missing", json!({ "exp": null }), "claim"),
        ("J12 nbf", json!({ "nbf": NOW + 61 }), "not_yet_valid"),
        ("J12 iat", json!({ "iat": NOW + 61 }), "not_yet_valid"),
        ("J12 iat in ten years", json!({ "iat": NOW + 315_360_000 }), "not_yet_valid"),
        ("X25 exp for ever", json!({ "exp": u64::MAX }), "claim"),
        ("X25 exp after the year 9999", json!({ "exp": 1_000_000_000_000_000_000_u64 }), "claim"),
        ("X25 exp in milliseconds", json!({ "exp": NOW * 1000 }), "claim"),
        ("X25 exp far away", json!({ "exp": NOW + 90_000, "iat": NOW }), "lives_too_long"),
        ("X25 exp far away, no iat", json!({ "exp": NOW + 90_000, "iat": null }), "lives_too_long"),
        ("X25 a long life nearly over", json!({ "iat": NOW - 90_000 }), "lives_too_long"),
    ]
}

fn issuers() -> Vec<Row> {
    vec![
        ("J15 missing", json!({ "iss": null }), "issuer"),
        ("J15 a number", json!({ "iss": 1 }), "issuer"),
        ("J15 true", json!({ "iss": true }), "issuer"),
        ("J15 an object", json!({ "iss": { "https://login.example": 1 } }), "issuer"),
        ("J15 with a slash", json!({ "iss": "https://login.example/" }), "issuer"),
        ("J15 in another case", json!({ "iss": "https://LOGIN.example" }), "issuer"),
        ("J15 with a user name", json!({ "iss": "https://login.example@evil.example" }), "issuer"),
        ("J15 without TLS", json!({ "iss": "http://login.example" }), "issuer"),
        ("J15 a space after it", json!({ "iss": "https://login.example " }), "issuer"),
        ("J15 NUL after it", json!({ "iss": "https://login.example\u{0}" }), "issuer"),
        ("J15 looking alike", json!({ "iss": "https://l\u{43e}gin.example" }), "issuer"),
        ("X21 a list", json!({ "iss": [ISSUER] }), "issuer"),
        ("X21 a list with another", json!({ "iss": ["https://evil.example", ISSUER] }), "issuer"),
        ("X22 a letter", json!({ "iss": "h" }), "issuer"),
        ("X22 a part", json!({ "iss": "https://login" }), "issuer"),
        ("X22 longer", json!({ "iss": "https://login.example.evil" }), "issuer"),
        ("X22 empty", json!({ "iss": "" }), "issuer"),
    ]
}

fn audiences() -> Vec<Row> {
    vec![
        ("X23 missing", json!({ "aud": null }), "audience"),
        ("X23 empty list", json!({ "aud": [] }), "audience"),
        ("X23 a list with an empty text", json!({ "aud": [""] }), "audience"),
        ("X28 of another tenant", json!({ "aud": "https://other.example" }), "audience"),
        ("J14 a part", json!({ "aud": "https://api" }), "audience"),
        ("J14 longer", json!({ "aud": "https://api.example.evil" }), "audience"),
        ("J14 in another case", json!({ "aud": "https://API.example" }), "audience"),
        ("J14 ours and another in one text", json!({ "aud": "https://api.example other" }), "audience"),
        ("J14 mixed", json!({ "aud": [AUDIENCE, 1] }), "audience"),
        ("J14 mixed, ours last", json!({ "aud": [null, AUDIENCE] }), "audience"),
        ("J14 a list in a list", json!({ "aud": [[AUDIENCE]] }), "audience"),
        ("J14 an object", json!({ "aud": { "https://api.example": 1 } }), "audience"),
        ("J14 a number", json!({ "aud": 1 }), "audience"),
        ("J14 true", json!({ "aud": true }), "audience"),
    ]
}

fn others() -> Vec<Row> {
    let jkt = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    vec![
        ("sub missing", json!({ "sub": null }), "subject"),
        ("sub empty", json!({ "sub": "" }), "subject"),
        ("sub a number", json!({ "sub": 7 }), "subject"),
        ("sub a list", json!({ "sub": ["alice"] }), "subject"),
        ("sub with NUL", json!({ "sub": "a\u{0}" }), "subject"),
        ("sub long", json!({ "sub": "a".repeat(256) }), "subject"),
        ("sub of keyward's own", json!({ "sub": "keyward:admin" }), "subject"),
        ("sub of a static token", json!({ "sub": "static:0123456789abcdef" }), "subject"),
        ("D9-2 bound to a key", json!({ "cnf": { "jkt": jkt } }), "unconfirmed"),
        ("M8-1 bound to a certificate", json!({ "cnf": { "x5t#S256": jkt } }), "unconfirmed"),
        ("D9-2 bound to something unknown", json!({ "cnf": { "x": 1 } }), "unconfirmed"),
        ("D9-2 bound to nothing", json!({ "cnf": {} }), "unconfirmed"),
        ("D9-2 a text", json!({ "cnf": "x" }), "claim"),
        ("D9-2 a list", json!({ "cnf": [{ "jkt": jkt }] }), "claim"),
        ("P3.12 ID token", json!({ "at_hash": "x" }), "token_type"),
        ("P3.12 ID token by its nonce", json!({ "nonce": "x" }), "token_type"),
        ("P3.12 ID token by its code", json!({ "c_hash": "x" }), "token_type"),
        ("P3.11 logout token", json!({ "events": {} }), "token_type"),
        ("jti a number", json!({ "jti": 1 }), "claim"),
        ("jti empty", json!({ "jti": "" }), "claim"),
        ("jti long", json!({ "jti": "j".repeat(129) }), "claim"),
        ("A08 scope an object", json!({ "scope": {} }), "claim"),
        ("A08 scope a number", json!({ "scope": 1 }), "claim"),
        ("A08 scope a mixed list", json!({ "scope": ["a", 1] }), "claim"),
    ]
}

#[tokio::test]
async fn claims_that_do_not_fit_are_refused() {
    let clock = clock();
    for (name, changes, reason) in [times(), issuers(), audiences(), others()].concat() {
        let token = sign(SECRET, HEADER, with(changes));
        assert_eq!(ask(hs256(&clock), &token).await, (401, reason.to_owned()), "{name}");
    }
    for (name, changes) in [
        ("J11 within the leeway", json!({ "exp": NOW - 59 })),
        ("J12 nbf within the leeway", json!({ "nbf": NOW + 60 })),
        ("J12 iat within the leeway", json!({ "iat": NOW + 60 })),
        ("J12 no iat", json!({ "iat": null })),
        ("J13 a fraction", json!({ "exp": 1_800_000_600.7 })),
        ("J14 a list", json!({ "aud": ["https://other.example", AUDIENCE] })),
        ("J14 a list of one", json!({ "aud": [AUDIENCE] })),
        ("X25 as long as allowed", json!({ "iat": NOW, "exp": NOW + 86_400 })),
        ("A08 a list", json!({ "scope": ["jobs:read"] })),
        ("jti as long as allowed", json!({ "jti": "j".repeat(128) })),
        ("no jti", json!({ "jti": null })),
    ] {
        assert_eq!(ask(hs256(&clock), &sign(SECRET, HEADER, with(changes))).await.0, 200, "{name}");
    }
}

/// Every way to be set up that looks at fewer claims, or at more.
fn profiles() -> Vec<(&'static str, JwtAuth)> {
    let start = || JwtAuth::hs256(SECRET).with_clock(clock());
    let usual = || start().issuer(ISSUER).audience(AUDIENCE);
    vec![
        ("default", usual().build().unwrap()),
        ("access tokens", usual().require_access_token().build().unwrap()),
        ("ID tokens", usual().accept_id_tokens().build().unwrap()),
        ("any lifetime", usual().with_any_lifetime().build().unwrap()),
        ("anybody's", start().issuer(AnyIssuer).audience(AnyAudience).build().unwrap()),
    ]
}

#[tokio::test]
async fn times_are_numbers_in_every_profile() {
    const HEADER: &str = r#"{"alg":"HS256","typ":"at+jwt"}"#;
    let refused = [
        ("X20 a text", r#""never""#, "claim"),
        ("X20 a number in a text", r#""99999999999""#, "claim"),
        ("X20 an object", "{}", "claim"),
        ("X20 a list", "[1800000000]", "claim"),
        ("J13 null", "null", "claim"),
        ("J13 true", "true", "claim"),
        ("J13 negative", "-1", "claim"),
        ("J13 negative zero", "-0", "claim"),
        ("J13 beyond the year 9999", "253402300800", "claim"),
        ("J13 too many for milliseconds", "1000000000000000000", "claim"),
        ("J13 the most of 63 bits", "9223372036854775807", "claim"),
        ("J13 the most of 64 bits", "18446744073709551615", "claim"),
        ("J13 beyond 64 bits", "18446744073709551616", "claim"),
        ("J13 beyond all floats", "1e400", "claim"),
        ("J13 in milliseconds", "1800000000000", "claim"),
        ("J13 no number", "NaN", "malformed"),
        ("J13 infinite", "Infinity", "malformed"),
        ("J13 a leading zero", "01800000000", "malformed"),
        ("J13 a plus", "+1800000000", "malformed"),
        ("J13 in another base", "0x6b49d200", "malformed"),
    ];
    let accepted = [("J13 an exponent", "1.8000006e9"), ("J13 a fraction", "1800000600.75")];
    for (profile, auth) in profiles() {
        let ask = |claim: &'static str, text: &'static str| {
            let claims = with_text(claim, text).replacen('{', r#"{"client_id":"web","#, 1);
            let (auth, token) = (auth.clone(), sign(SECRET, HEADER, claims));
            async move { ask(auth, &token).await }
        };
        for claim in ["exp", "nbf", "iat"] {
            for (name, text, reason) in refused {
                let answer = ask(claim, text).await;
                assert_eq!(answer, (401, reason.to_owned()), "{profile}, {claim}: {name}");
            }
        }
        for (name, text) in accepted {
            assert_eq!(ask("exp", text).await.0, 200, "{profile}: {name}");
        }
    }
}

#[tokio::test]
async fn without_leeway_the_second_counts() {
    let auth = |leeway| {
        let builder = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock());
        builder.with_leeway(Duration::from_secs(leeway)).build().unwrap()
    };
    for (name, leeway, changes, status) in [
        ("J11 now", 0, json!({ "exp": NOW }), 401),
        ("J11 a second later", 0, json!({ "exp": NOW + 1 }), 200),
        ("J11 a part of a second later", 0, json!({ "exp": 1_800_000_000.001 }), 200),
        ("J12 nbf now", 0, json!({ "nbf": NOW }), 200),
        ("J12 nbf a second later", 0, json!({ "nbf": NOW + 1 }), 401),
        ("J12 iat now", 0, json!({ "iat": NOW }), 200),
        ("J12 iat a second later", 0, json!({ "iat": NOW + 1 }), 401),
        ("A05 the most", 300, json!({ "exp": NOW - 299 }), 200),
        ("A05 more than the most", 300, json!({ "exp": NOW - 300 }), 401),
    ] {
        let token = sign(SECRET, HEADER, with(changes));
        assert_eq!(ask(auth(leeway), &token).await.0, status, "{name}");
    }
}

#[tokio::test]
async fn no_claim_is_said_twice() {
    let clock = clock();
    for (name, twice) in [
        ("J04 roles", r#""roles":["user"],"roles":["admin"]"#),
        ("J04 scope", r#""scope":"a","scope":"b""#),
        ("J04 escaped", r#""scope":"a","sc\u006fpe":"b""#),
        ("J04 within", r#""x":{"a":1,"\u0061":2}"#),
        ("J04 in a list", r#""x":[{"a":1,"a":1}]"#),
        ("J04 sub", r#""sub":"alice""#),
        ("J04 exp", r#""exp":1800000600"#),
        ("J04 iss", r#""iss":"https://login.example""#),
        ("J04 aud, escaped", r#""a\u0075d":"https://api.example""#),
    ] {
        let claims = claims().to_string().replacen('{', &format!("{{{twice},"), 1);
        let answer = ask(hs256(&clock), &sign(SECRET, HEADER, claims)).await;
        assert_eq!(answer, (401, "malformed".to_owned()), "{name}");
    }
}

#[tokio::test]
async fn an_access_token_has_all_that_its_profile_demands() {
    let builder = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock());
    let auth = builder.require_access_token().build().unwrap();
    let all = |changes: Value| {
        let mut all = json!({ "client_id": "web" });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        with(all)
    };
    let header = |typ: &str| format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#);
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt"] {
        let token = sign(SECRET, header(typ), all(json!({})));
        assert_eq!(ask(auth.clone(), &token).await.0, 200, "A01 {typ}");
    }
    for header in [
        header("JWT"),
        header("id_token+jwt"),
        header("application/jwt"),
        header(""),
        r#"{"alg":"HS256"}"#.to_owned(),
    ] {
        let token = sign(SECRET, &header, all(json!({})));
        assert_eq!(ask(auth.clone(), &token).await, (401, "token_type".to_owned()), "A01 {header}");
    }
    for (name, reason) in [
        ("iss", "issuer"),
        ("exp", "claim"),
        ("aud", "audience"),
        ("sub", "subject"),
        ("client_id", "token_type"),
        ("iat", "token_type"),
        ("jti", "token_type"),
    ] {
        let token = sign(SECRET, header("at+jwt"), all(json!({ name: null })));
        assert_eq!(ask(auth.clone(), &token).await, (401, reason.to_owned()), "A07 {name}");
    }
    for id in [json!(""), json!(1), json!(["web"])] {
        let token = sign(SECRET, header("at+jwt"), all(json!({ "client_id": id })));
        assert_eq!(ask(auth.clone(), &token).await, (401, "token_type".to_owned()), "A07 {id}");
    }
}

/// Believes in the proof that a request's header names.
#[derive(Debug)]
struct NamedProof;

impl ConfirmationVerifier for NamedProof {
    fn is_confirmed(&self, confirmation: &str, head: &RequestHead<'_>) -> bool {
        let confirmation: Value = serde_json::from_str(confirmation).unwrap();
        head.headers.get("proof").is_some_and(|proof| confirmation["x5t#S256"] == proof.to_str().unwrap())
    }
}

#[tokio::test]
async fn a_bound_token_is_good_only_with_its_proof() {
    let builder = JwtAuth::hs256(SECRET).issuer(ISSUER).audience(AUDIENCE).with_clock(clock());
    let auth = builder.with_confirmation(NamedProof).build().unwrap();
    let bearer = |changes| format!("Bearer {}", sign(SECRET, HEADER, with(changes)));
    let bound = bearer(json!({ "cnf": { "x5t#S256": "one" } }));
    // New and known.
    for _ in 0..2 {
        for (proof, answer) in
            [(Some("one"), (200, "alice")), (Some("two"), (401, "unconfirmed")), (None, (401, "unconfirmed"))]
        {
            let lines: Vec<_> =
                [("authorization", &*bound)].into_iter().chain(proof.map(|proof| ("proof", proof))).collect();
            assert_eq!(
                ask_with(auth.clone(), &lines).await,
                (answer.0, answer.1.to_owned()),
                "M8-1 {proof:?}"
            );
        }
    }
    // D9-2: bound to a key, it may not come as a bearer token, whatever else there is.
    for cnf in [json!({ "jkt": "one" }), json!({ "jkt": "one", "x5t#S256": "one" })] {
        let lines = [("authorization", &*bearer(json!({ "cnf": cnf }))), ("proof", "one")]
            .map(|(a, b)| (a, b.to_owned()));
        let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(ask_with(auth.clone(), &lines).await, (401, "unconfirmed".to_owned()), "D9-2 {cnf}");
    }
    let unbound = bearer(json!({}));
    assert_eq!(ask_with(auth.clone(), &[("authorization", &*unbound)]).await.0, 200);
    // D9-3: two schemes at once.
    let both = [("authorization", &*unbound), ("authorization", "DPoP abc")];
    assert_eq!(ask_with(auth, &both).await, (400, "several_credentials".to_owned()));
}
