//! Forms: what is written otherwise than three canonical parts, and signatures that are none.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use keyward::AuthLayer;
use serde_json::json;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    ED_JWK, EDDSA, HEADER, SECRET, answer, ask, by_jwk, claims, clock, good_tokens, hs256, joined, message,
    request, sign, sign_text, split, with,
};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[tokio::test]
async fn other_forms_of_a_good_token_are_refused() {
    let signed = |text: &str| sign_text("HS256", SECRET, text);
    for (kind, auth, token) in good_tokens() {
        // The good one is known by now: no other form may be taken for it.
        assert_eq!(ask(auth.clone(), &token).await.0, 200, "{kind}");
        let (message, _) = split(&token);
        let parts: Vec<_> = token.split('.').collect();
        let (header, payload, signature) = (parts[0], parts[1], parts[2]);
        for (name, form, status) in [
            ("J01 one part", header.to_owned(), 401),
            ("J01 two parts", message.to_owned(), 401),
            ("J01 four parts", format!("{token}.{signature}"), 401),
            ("J01 six parts", format!("{token}.{token}"), 401),
            ("X10 five parts, a good token first", format!("{token}.AAAA.AAAA"), 401),
            ("X10 five parts, a good token in the middle", format!("{header}.{token}.AAAA"), 401),
            ("X10 five parts, a good token last", format!("{header}..{token}"), 401),
            ("J01 a dot after it", format!("{token}."), 401),
            ("J01 a dot before it", format!(".{token}"), 401),
            ("J01 no header", format!(".{payload}.{signature}"), 401),
            ("J01 no claims", format!("{header}..{signature}"), 401),
            ("J01 only dots", "..".to_owned(), 401),
            ("J01 padding", format!("{token}="), 401),
            ("J01 more padding", format!("{token}=="), 401),
            ("J01 padding of the header", format!("{header}=.{payload}.{signature}"), 400),
            ("P3.14 a space", format!("{header}. {payload}.{signature}"), 400),
            ("P3.14 a tab", format!("{header}.{payload}\t.{signature}"), 400),
            ("P3.14 a comma", format!("{token},{token}"), 400),
            ("P3.14 a question mark", format!("{header}.{payload}?.{signature}"), 400),
            ("P3.14 a percent sign", format!("{header}%2e{payload}.{signature}"), 400),
            ("P3.14 beyond ASCII", format!("{header}.{payload}.{signature}é"), 400),
            ("X33 in upper case", token.to_ascii_uppercase(), 401),
            ("X33 in lower case", token.to_ascii_lowercase(), 401),
            ("the header twice", format!("{header}{header}.{payload}.{signature}"), 401),
            ("the claims twice", format!("{header}.{payload}{payload}.{signature}"), 401),
            ("header and claims exchanged", format!("{payload}.{header}.{signature}"), 401),
            ("X11 flattened", json!({ "payload": payload, "protected": header, "signature": signature }).to_string(), 400),
            (
                "X11 general",
                json!({ "payload": payload, "signatures": [{ "protected": header, "signature": signature }] })
                    .to_string(),
                400,
            ),
            ("X11 compact within", format!("{{\"x\":\"{header}\"}}.{payload}.{signature}"), 400),
        ] {
            assert_eq!(ask(auth.clone(), &form).await.0, status, "{kind}: {name}");
        }
        for at in [4, header.len() / 2, header.len() + 5, message.len() - 1] {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(ask(auth.clone(), &changed).await.0, 401, "{kind}: a changed character");
        }
        assert_eq!(ask(auth, &token).await.0, 200, "{kind}");
    }
    // With a good signature over the other form.
    let claims = with(json!({ "x": "???>>>~~~" }));
    let good = message(HEADER, claims);
    assert!(good.contains(['-', '_']));
    assert_eq!(ask(hs256(&clock()), &signed(&good)).await.0, 200);
    let standard = signed(&good.replace('-', "+").replace('_', "/"));
    assert_eq!(ask(hs256(&clock()), &standard).await, (401, "malformed".to_owned()), "J01 standard alphabet");
}

/// All other ways to write the same bytes: the last character has bits that do not count.
fn other_writings(part: &str) -> Vec<String> {
    let unused = match part.len() % 4 {
        2 => 4,
        3 => 2,
        _ => return Vec::new(),
    };
    let (rest, last) = part.split_at(part.len() - 1);
    let value = ALPHABET.iter().position(|c| *c == last.as_bytes()[0]).unwrap();
    (1..1 << unused).map(|bits| format!("{rest}{}", char::from(ALPHABET[value | bits]))).collect()
}

#[tokio::test]
async fn unused_bits_are_zero() {
    let auth = hs256(&clock());
    let mut tried = 0;
    for space in ["", " ", "  "] {
        let text = message(format!("{HEADER}{space}"), format!("{}{space}", claims()));
        let (header, payload) = text.split_once('.').unwrap();
        let good = sign_text("HS256", SECRET, &text);
        assert_eq!(ask(auth.clone(), &good).await.0, 200);
        let signature = &good[text.len() + 1..];
        let signed = |text: String| sign_text("HS256", SECRET, &text);
        let headers = other_writings(header).into_iter().map(|header| signed(format!("{header}.{payload}")));
        let payloads =
            other_writings(payload).into_iter().map(|payload| signed(format!("{header}.{payload}")));
        let signatures = other_writings(signature).into_iter().map(|signature| format!("{text}.{signature}"));
        for form in headers.chain(payloads).chain(signatures) {
            assert_eq!(ask(auth.clone(), &form).await, (401, "malformed".to_owned()), "J02 {form}");
            tried += 1;
        }
    }
    // 15 and 3 for header and claims each, and 3 for each signature.
    assert_eq!(tried, 2 * (15 + 3) + 3 * 3);
}

#[tokio::test]
async fn none_is_no_algorithm_however_it_is_written() {
    let spellings = (0..16).map(|upper| {
        let letters = "none".chars().enumerate();
        let letter = |(at, letter): (usize, char)| {
            if upper >> at & 1 == 1 { letter.to_ascii_uppercase() } else { letter }
        };
        letters.map(letter).collect::<String>()
    });
    for none in spellings {
        for (kind, auth, token) in good_tokens() {
            let (_, signature) = split(&token);
            let text = message(json!({ "alg": none, "kid": "one" }).to_string(), claims().to_string());
            for (name, form) in [
                ("no signature", text.clone()),
                ("an empty signature", format!("{text}.")),
                ("a random signature", joined(&text, &[0x5a; 32])),
                ("the signature of a good token", joined(&text, &signature)),
                ("a MAC with the secret", sign_text("HS256", SECRET, &text)),
                ("a MAC without a secret", sign_text("HS256", "", &text)),
            ] {
                let (status, _) = ask(auth.clone(), &form).await;
                assert_eq!(status, 401, "X03 {none} for {kind}, {name}");
            }
        }
    }
}

#[tokio::test]
async fn signatures_of_every_other_length_are_refused() {
    for (kind, auth, token) in good_tokens() {
        let (message, signature) = split(&token);
        for length in 0..signature.len() {
            for (name, form) in [
                ("its beginning", joined(message, &signature[..length])),
                ("its end", joined(message, &signature[signature.len() - length..])),
                ("zeros", joined(message, &vec![0; length])),
            ] {
                assert_eq!(ask(auth.clone(), &form).await.0, 401, "X04 {kind}, {name}, {length} bytes");
            }
        }
        for more in [1, 2, 32, 64] {
            for (name, form) in [
                ("zeros after it", joined(message, &[&signature[..], &vec![0; more]].concat())),
                ("zeros before it", joined(message, &[&vec![0; more], &signature[..]].concat())),
            ] {
                assert_eq!(ask(auth.clone(), &form).await.0, 401, "X04 {kind}, {name}, {more} bytes");
            }
        }
        assert_eq!(ask(auth, &token).await.0, 200, "{kind}");
    }
}

#[tokio::test]
async fn an_optional_layer_lets_no_bad_token_pass_as_nobody() {
    let layer: AuthLayer = AuthLayer::new(hs256(&clock())).optional();
    for (name, line, status) in [
        ("no token", None, 200),
        ("a good one", Some(sign(SECRET, HEADER, claims().to_string())), 200),
        ("X12 expired", Some(sign(SECRET, HEADER, with(json!({ "exp": 1 })))), 401),
        ("X12 badly signed", Some(sign("other", HEADER, claims().to_string())), 401),
        ("X12 unsigned", Some(format!("{}.", message(r#"{"alg":"none"}"#, claims().to_string()))), 401),
        ("X12 no token at all", Some("x".to_owned()), 401),
    ] {
        let service = layer.layer(service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        let mut request = Request::new(());
        if let Some(token) = line {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        assert_eq!(service.oneshot(request).await.unwrap().status().as_u16(), status, "{name}");
    }
}

#[tokio::test]
async fn the_longest_token_is_8_kib() {
    let filled = |filling: usize| sign(SECRET, HEADER, with(json!({ "x": "x".repeat(filling) })));
    // Three characters of a claim are four of the token.
    let of_length = |length: usize| {
        let about = (length - filled(0).len()) * 3 / 4;
        (about - 3..).map(filled).find(|token| token.len() >= length).unwrap()
    };
    let (fits, long) = (of_length(8190), of_length(8193));
    assert!((8190..=8192).contains(&fits.len()) && (8193..=8196).contains(&long.len()));
    assert_eq!(ask(hs256(&clock()), &fits).await.0, 200, "P3.15");
    assert_eq!(ask(hs256(&clock()), &long).await, (401, "malformed".to_owned()), "P3.15");
}

/// What is refused must not cost more than what is accepted, whatever it holds.
#[tokio::test]
async fn nothing_takes_long_to_refuse() {
    let body = |text: String| sign(SECRET, HEADER, text);
    let names = |name: fn(usize) -> String| {
        format!("{{{}}}", (0..500).map(|n| format!("\"{}\":0", name(n))).collect::<Vec<_>>().join(","))
    };
    for (name, line) in [
        ("X29 a million dots", ".".repeat(1 << 20)),
        ("X29 dots as long as a token", format!("ey{}", ".".repeat(8000))),
        ("X29 two dots in a million", format!("ey.{}.A", "A".repeat(1 << 20))),
        ("X29 a million schemes", "Bearer ".repeat(1 << 20)),
        ("X29 a thousand schemes", "Bearer ".repeat(1000)),
        ("X29 deep lists", body(format!("{{\"a\":{}", "[".repeat(5000)))),
        ("X29 deep objects", body("{\"a\":".repeat(1100))),
        ("X29 many names", body(names(|n| format!("n{n}")))),
        ("X29 one name many times", body(names(|_| "n".to_owned()))),
        ("X29 escapes", body(format!("{{\"a\":\"{}\"}}", "\\u0061".repeat(900)))),
        ("X29 an open text", body(format!("{{\"a\":\"{}", "a".repeat(5000)))),
        ("X29 digits", body(format!("{{\"exp\":{}}}", "9".repeat(5000)))),
        ("X29 an exponent", body("{\"exp\":1e999999999}".to_owned())),
        (
            "X30 rounds",
            sign(SECRET, r#"{"alg":"HS256","p2c":2147483647,"p2s":"AAAA"}"#, claims().to_string()),
        ),
    ] {
        let auth = hs256(&clock());
        let value = format!("Bearer {line}");
        // The shortest of three: the machine may be busy.
        let mut shortest = Duration::MAX;
        for _ in 0..3 {
            let request = request(&[("authorization", &*value)]);
            #[expect(clippy::disallowed_methods, reason = "how long it takes, on the real clock")]
            let start = Instant::now();
            let (status, _) = answer(auth.clone(), request).await;
            shortest = shortest.min(start.elapsed());
            assert!(matches!(status, 400 | 401), "{name}: {status}");
        }
        // Measured without optimization: well below a millisecond with it.
        assert!(shortest < Duration::from_millis(50), "{name}: {shortest:?}");
    }
}

#[tokio::test]
async fn an_ed25519_signature_has_one_form() {
    // The order of the group, little end first: adding it to S makes another text for the same signature.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let auth = by_jwk(ED_JWK, json!({}));
    let (message, mut signature) = split(EDDSA);
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(add);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    let other = format!("{message}.{}", BASE64.encode(&signature));
    assert_eq!(ask(auth, &other).await, (401, "bad_signature".to_owned()), "X33");
}
