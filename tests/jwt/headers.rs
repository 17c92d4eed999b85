//! Headers. All tokens here have the right claims and the right signature over what they say.

use serde_json::json;

use crate::support::{HEADER, SECRET, ask, claims, clock, hs256, sign};

/// Id and what is wrong; the header; and why it is refused.
type Row = (&'static str, &'static str, &'static str);

const ALGORITHM: &[Row] = &[
    ("J05 missing", r#"{"typ":"JWT"}"#, "algorithm"),
    ("J05 null", r#"{"alg":null}"#, "malformed"),
    ("J05 a list", r#"{"alg":["HS256"]}"#, "malformed"),
    ("J05 an object", r#"{"alg":{}}"#, "malformed"),
    ("J05 a number", r#"{"alg":0}"#, "malformed"),
    ("J05 true", r#"{"alg":true}"#, "malformed"),
    ("J05 empty", r#"{"alg":""}"#, "algorithm"),
    ("J05 in lower case", r#"{"alg":"hs256"}"#, "algorithm"),
    ("J05 another kind in lower case", r#"{"alg":"es384"}"#, "algorithm"),
    ("J05 a space after it", r#"{"alg":"HS256 "}"#, "algorithm"),
    ("J05 a space before it", r#"{"alg":" HS256"}"#, "algorithm"),
    ("J05 NUL after it", r#"{"alg":"HS256\u0000"}"#, "algorithm"),
    ("J05 with more behind", r#"{"alg":"HS256,none"}"#, "algorithm"),
    ("J05 another hash", r#"{"alg":"HS384"}"#, "algorithm"),
    ("J05 another kind", r#"{"alg":"EdDSA"}"#, "algorithm"),
    ("J05 a curve", r#"{"alg":"ES256"}"#, "algorithm"),
    ("X01 public key as secret", r#"{"alg":"RS256"}"#, "algorithm"),
    ("P3.2a SHA-1", r#"{"alg":"HS1"}"#, "algorithm"),
    ("P3.2a encryption", r#"{"alg":"RSA1_5"}"#, "algorithm"),
    ("P3.2a direct encryption", r#"{"alg":"dir"}"#, "algorithm"),
    ("P3.2a a password", r#"{"alg":"PBES2-HS256+A128KW"}"#, "algorithm"),
    ("P3.2a unsupported curves", r#"{"alg":"ES512"}"#, "algorithm"),
];

const JSON: &[Row] = &[
    ("J03 alg twice", r#"{"alg":"HS256","alg":"HS256"}"#, "malformed"),
    ("J03 alg twice, the last is none", r#"{"alg":"HS256","alg":"none"}"#, "malformed"),
    ("J03 alg twice, escaped", r#"{"alg":"none","\u0061lg":"HS256"}"#, "malformed"),
    ("J03 kid twice", r#"{"alg":"HS256","kid":"a","kid":"b"}"#, "malformed"),
    ("J03 unknown name twice", r#"{"alg":"HS256","x":1,"x":1}"#, "malformed"),
    ("J03 unknown name twice, within", r#"{"alg":"HS256","x":{"y":1,"y":1}}"#, "malformed"),
    ("J03 a list", "[]", "malformed"),
    ("J03 a text", r#""HS256""#, "malformed"),
    ("J03 a number", "1", "malformed"),
    ("J03 null", "null", "malformed"),
    ("J03 true", "true", "malformed"),
    ("J03 not closed", r#"{"alg":"HS256""#, "malformed"),
    ("J03 something after it", r#"{"alg":"HS256"}x"#, "malformed"),
    ("J03 a second one after it", r#"{"alg":"HS256"}{"alg":"none"}"#, "malformed"),
    ("J03 a comment", r#"{"alg":/**/"HS256"}"#, "malformed"),
    ("J03 other quotes", "{'alg':'HS256'}", "malformed"),
    ("J03 half a surrogate", r#"{"alg":"HS256","x":"\ud800"}"#, "malformed"),
    ("J03 BOM", "\u{feff}{\"alg\":\"HS256\"}", "malformed"),
];

const CRITICAL: &[Row] = &[
    ("J06 unknown", r#"{"alg":"HS256","crit":["x"],"x":1}"#, "malformed"),
    ("J06 unknown and absent", r#"{"alg":"HS256","crit":["x"]}"#, "malformed"),
    ("J06 empty", r#"{"alg":"HS256","crit":[]}"#, "malformed"),
    ("J06 a registered name", r#"{"alg":"HS256","crit":["alg"]}"#, "malformed"),
    ("J06 the name of a claim", r#"{"alg":"HS256","crit":["exp"]}"#, "malformed"),
    ("J06 a name twice", r#"{"alg":"HS256","crit":["x","x"],"x":1}"#, "malformed"),
    ("J06 a text", r#"{"alg":"HS256","crit":"x","x":1}"#, "malformed"),
    ("J06 null", r#"{"alg":"HS256","crit":null}"#, "malformed"),
    ("J06 b64", r#"{"alg":"HS256","crit":["b64"],"b64":true}"#, "malformed"),
    ("J07 b64", r#"{"alg":"HS256","b64":false}"#, "malformed"),
    ("J07 b64, critical", r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, "malformed"),
    ("J07 b64 a text", r#"{"alg":"HS256","crit":["b64"],"b64":"false"}"#, "malformed"),
    ("J07 b64 as it is anyway", r#"{"alg":"HS256","b64":true}"#, "malformed"),
];

const BROUGHT_ALONG: &[Row] = &[
    ("J08 jku", r#"{"alg":"HS256","jku":"https://evil.example"}"#, "malformed"),
    ("J08 jku of the issuer", r#"{"alg":"HS256","jku":"https://login.example/keys"}"#, "malformed"),
    ("J08 x5u", r#"{"alg":"HS256","x5u":"https://evil.example"}"#, "malformed"),
    ("J08 x5c", r#"{"alg":"HS256","x5c":["AAAA"]}"#, "malformed"),
    ("X08 jwk", r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}"#, "malformed"),
    ("P3.6 zip", r#"{"alg":"HS256","zip":"DEF"}"#, "malformed"),
    ("X30 enc", r#"{"alg":"HS256","enc":"A128GCM"}"#, "malformed"),
    ("X30 epk", r#"{"alg":"HS256","epk":{"kty":"EC"}}"#, "malformed"),
    ("P3.13 p2c", r#"{"alg":"HS256","p2c":2147483647}"#, "malformed"),
    ("X30 p2s", r#"{"alg":"HS256","p2s":"AAAA"}"#, "malformed"),
    ("P3.3 nested", r#"{"alg":"HS256","cty":"JWT"}"#, "malformed"),
    ("P3.3 nested, in lower case", r#"{"alg":"HS256","cty":"jwt"}"#, "malformed"),
];

const NAMES: &[Row] = &[
    ("J09 a number", r#"{"alg":"HS256","kid":1}"#, "malformed"),
    ("J09 null", r#"{"alg":"HS256","kid":null}"#, "malformed"),
    ("J09 a list", r#"{"alg":"HS256","kid":["a"]}"#, "malformed"),
    ("J09 an object", r#"{"alg":"HS256","kid":{"$ne":""}}"#, "malformed"),
    ("J09 empty", r#"{"alg":"HS256","kid":""}"#, "malformed"),
    ("J09 NUL", r#"{"alg":"HS256","kid":"a\u0000"}"#, "malformed"),
    ("J09 a line end", r#"{"alg":"HS256","kid":"a\r\nSet-Cookie: x"}"#, "malformed"),
    ("J09 an escape sequence", r#"{"alg":"HS256","kid":"\u001b[2J"}"#, "malformed"),
    ("J09 right to left", r#"{"alg":"HS256","kid":"\u202ea"}"#, "malformed"),
    ("P3.11 DPoP proof", r#"{"alg":"HS256","typ":"dpop+jwt"}"#, "token_type"),
    ("P3.11 logout token", r#"{"alg":"HS256","typ":"logout+jwt"}"#, "token_type"),
    ("P3.11 security event", r#"{"alg":"HS256","typ":"secevent+jwt"}"#, "token_type"),
    ("P3.11 with its media type", r#"{"alg":"HS256","typ":"application/dpop+jwt"}"#, "token_type"),
    ("P3.11 no JWT", r#"{"alg":"HS256","typ":"JOSE"}"#, "token_type"),
    ("P3.11 empty", r#"{"alg":"HS256","typ":""}"#, "token_type"),
    ("P3.11 the media type alone", r#"{"alg":"HS256","typ":"application/"}"#, "token_type"),
    ("P3.11 another media type", r#"{"alg":"HS256","typ":"text/jwt"}"#, "token_type"),
    ("P3.11 a space after it", r#"{"alg":"HS256","typ":"JWT "}"#, "token_type"),
    ("P3.11 a number", r#"{"alg":"HS256","typ":1}"#, "malformed"),
    ("P3.11 null", r#"{"alg":"HS256","typ":null}"#, "malformed"),
    ("P3.11 a list", r#"{"alg":"HS256","typ":["JWT"]}"#, "malformed"),
];

/// What does not begin as the base64url of `{` does is no JWT to anybody.
fn expected(token: &str, reason: &str) -> (u16, String) {
    let is_shaped = token.starts_with("ey") || token.starts_with("ew");
    (401, if is_shaped { reason } else { "unknown_kind" }.to_owned())
}

#[tokio::test]
async fn headers_that_attack_are_refused() {
    let clock = clock();
    for (name, header, reason) in [ALGORITHM, JSON, CRITICAL, BROUGHT_ALONG, NAMES].concat() {
        let token = sign(SECRET, header, claims().to_string());
        assert_eq!(ask(hs256(&clock), &token).await, expected(&token, reason), "{name}");
    }
    let long = json!({ "alg": "HS256", "kid": "k".repeat(129) }).to_string();
    let token = sign(SECRET, long, claims().to_string());
    assert_eq!(ask(hs256(&clock), &token).await, (401, "malformed".to_owned()), "J09 129 bytes");
}

#[tokio::test]
async fn headers_in_other_encodings_are_refused() {
    let utf16 = |to_bytes: fn(u16) -> [u8; 2], mark: &[u8]| {
        let units = HEADER.encode_utf16().flat_map(to_bytes);
        [mark, &units.collect::<Vec<u8>>()].concat()
    };
    for (name, header) in [
        ("P3.7 UTF-16, little end first", utf16(u16::to_le_bytes, b"\xff\xfe")),
        ("P3.7 UTF-16, big end first", utf16(u16::to_be_bytes, b"\xfe\xff")),
        ("P3.7 UTF-16 without a mark", utf16(u16::to_le_bytes, b"")),
        ("P3.7 Latin-1", b"{\"alg\":\"HS256\",\"x\":\"\xe9\"}".to_vec()),
        ("P3.7 a long form of a character", b"{\"alg\":\"HS256\",\"x\":\"\xc0\xaf\"}".to_vec()),
        ("P3.7 NUL after it", [HEADER.as_bytes(), b"\0"].concat()),
        ("P3.7 nothing", Vec::new()),
    ] {
        let token = sign(SECRET, header, claims().to_string());
        assert_eq!(ask(hs256(&clock()), &token).await, expected(&token, "malformed"), "{name}");
    }
    let latin1 = [claims().to_string().trim_end_matches('}').as_bytes(), b",\"x\":\"\xe9\"}"].concat();
    let token = sign(SECRET, HEADER, latin1);
    assert_eq!(ask(hs256(&clock()), &token).await, (401, "malformed".to_owned()), "P3.7 claims");
}

#[tokio::test]
async fn headers_that_are_only_unusual_are_accepted() {
    let clock = clock();
    for (name, header) in [
        ("nothing but alg", r#"{"alg":"HS256"}"#),
        ("white space", "{ \"typ\":\"JWT\",\r\n \"alg\"\t: \"HS256\" } "),
        ("a line end first", "{\n\"alg\":\"HS256\"}"),
        ("escaped", r#"{"\u0061lg":"\u0048S256"}"#),
        ("J10 in lower case", r#"{"alg":"HS256","typ":"jwt"}"#),
        ("J10 in mixed case", r#"{"alg":"HS256","typ":"AT+JWT"}"#),
        ("J10 an access token", r#"{"alg":"HS256","typ":"at+jwt"}"#),
        ("J10 the whole media type", r#"{"alg":"HS256","typ":"application/at+jwt"}"#),
        ("J10 the whole media type in mixed case", r#"{"alg":"HS256","typ":"Application/AT+jwt"}"#),
        ("J09 a path", r#"{"alg":"HS256","kid":"../../dev/null"}"#),
        ("J09 SQL", r#"{"alg":"HS256","kid":"' OR 1=1--"}"#),
        ("J09 a URL", r#"{"alg":"HS256","kid":"http://evil.example/key"}"#),
        ("J09 a command", r#"{"alg":"HS256","kid":"|/usr/bin/id"}"#),
        ("an unknown member", r#"{"alg":"HS256","x":{"y":[1]}}"#),
        ("a thumbprint", r#"{"alg":"HS256","x5t#S256":"AAAA"}"#),
    ] {
        let token = sign(SECRET, header, claims().to_string());
        assert_eq!(ask(hs256(&clock), &token).await.0, 200, "{name}");
    }
    let long = json!({ "alg": "HS256", "kid": "k".repeat(128) }).to_string();
    assert_eq!(ask(hs256(&clock), &sign(SECRET, long, claims().to_string())).await.0, 200, "J09 128 bytes");
}
