//! Keys that are fetched, by a client that notes what it is asked for.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use http::Uri;
use keyward::{
    UserId,
    event::{Alert, Audit},
    jwt::{Algorithm, FetchError, Fetched, HttpFetch, JwtAuth, JwtBuilder, JwtIssuer, Said, UserIds},
    testing::{ManualClock, RecordingSink},
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::support::{
    AUDIENCE, ED_JWK, EDDSA, EDDSA_WITH_JWK, HEADER, ISSUER, PS256, RS256, RSA_JWK, SECRET, ask, claims,
    clock, clock_time, jwk_with, sign, with,
};

const URL: &str = "https://login.example/keys";

/// How the issuer's server answers.
#[derive(Clone, Debug)]
enum Answer {
    Keys(String),
    After(Duration, String),
    Failure,
    Nothing,
}

/// The network, with one document in it.
#[derive(Clone, Debug)]
struct Web(Arc<Mutex<(Answer, Vec<String>)>>);

#[async_trait]
impl HttpFetch for Web {
    async fn get(&self, url: &Uri, limit: usize) -> Result<Fetched, FetchError> {
        let answer = {
            let mut web = self.0.lock().unwrap();
            web.1.push(url.to_string());
            web.0.clone()
        };
        match answer {
            Answer::Keys(body) if body.len() <= limit => Ok(Fetched::new(body, None)),
            Answer::After(time, body) => {
                tokio::time::sleep(time).await;
                Ok(Fetched::new(body, None))
            }
            Answer::Nothing => std::future::pending().await,
            Answer::Keys(_) | Answer::Failure => Err(FetchError::new("no answer")),
        }
    }
}

impl Web {
    fn with(keys: &[Value]) -> Self {
        Self(Arc::new(Mutex::new((Answer::Keys(set(keys)), Vec::new()))))
    }

    fn answers(&self, answer: Answer) {
        self.0.lock().unwrap().0 = answer;
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }

    fn jwt(&self, clock: &ManualClock) -> JwtBuilder<Said, Said> {
        let builder = JwtAuth::jwks(URL).issuer(ISSUER).audience(AUDIENCE);
        builder.with_fetch(self.clone()).with_clock(clock.clone())
    }
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// An issuer's key with this name, and a token of it.
fn key(seed: &[u8; 32], issuer: &str, clock: &ManualClock) -> (Value, String) {
    let issuer = JwtIssuer::ed25519(seed, issuer, AUDIENCE).unwrap().with_clock(clock.clone());
    let keys: Value = serde_json::from_str(&issuer.jwks()).unwrap();
    (keys["keys"][0].clone(), issuer.token(&UserId::new("alice").unwrap()).unwrap())
}

const FIRST: &[u8; 32] = b"Vt5LzR8cYp27f3aX91kQw0bMdE6uHj4N";
const SECOND: &[u8; 32] = b"Zx1Cv2Bn3Mq4We5Rt6Yu7Io8Pa9Sd0Fg";

fn ed(kid: &str) -> Value {
    serde_json::from_str(&jwk_with(ED_JWK, &json!({ "kid": kid }))).unwrap()
}

fn refused(reason: &str) -> (u16, String) {
    (401, reason.to_owned())
}

#[tokio::test]
async fn a_token_never_says_where_keys_are() {
    let hs256 = |header: Value, claims: String| sign(SECRET, header.to_string(), claims);
    let header = |members: Value| {
        let mut header = json!({ "alg": "EdDSA", "kid": "evil" });
        header.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        hs256(header, claims().to_string())
    };
    let evil = "https://evil.example/keys";
    for (name, token, reason, most) in [
        ("J08 jku", header(json!({ "jku": evil })), "malformed", 0),
        ("J08 jku of the issuer's server", header(json!({ "jku": URL })), "malformed", 0),
        ("J08 x5u", header(json!({ "x5u": evil })), "malformed", 0),
        ("J08 x5c", header(json!({ "x5c": ["AAAA"] })), "malformed", 0),
        ("X08 the key that signed it", EDDSA_WITH_JWK.to_owned(), "malformed", 0),
        ("X32 another issuer", hs256(json!({ "alg": "EdDSA" }), with(json!({ "iss": evil }))), "issuer", 0),
        (
            "X32 an issuer of this machine",
            hs256(json!({ "alg": "EdDSA" }), with(json!({ "iss": "http://169.254.169.254/" }))),
            "issuer",
            0,
        ),
        (
            "X32 no audience of ours",
            hs256(json!({ "alg": "EdDSA" }), with(json!({ "aud": evil }))),
            "audience",
            0,
        ),
        ("J09 kid a URL", header(json!({ "kid": evil })), "unknown_key", 2),
        ("J09 kid a path", header(json!({ "kid": "../../dev/null" })), "unknown_key", 2),
        ("J09 kid with another case", header(json!({ "kid": "ONE" })), "unknown_key", 2),
        ("P3.2b no algorithm", header(json!({ "alg": "none", "kid": "one" })), "algorithm", 1),
    ] {
        let clock = clock();
        let web = Web::with(&[ed("one")]);
        let auth = web.jwt(&clock).build().unwrap();
        for _ in 0..3 {
            assert_eq!(ask(auth.clone(), &token).await, refused(reason), "{name}");
            clock.advance(Duration::from_secs(1));
        }
        let asked = web.asked();
        assert!(asked.len() <= most && asked.iter().all(|url| url == URL), "{name}: {asked:?}");
        assert_eq!(ask(auth, EDDSA).await.0, 200, "{name}: the issuer's own are still good");
    }
}

#[tokio::test]
async fn a_bad_key_drops_only_itself_and_a_secret_one_is_nobodys() {
    let events = RecordingSink::default();
    let secret = json!({ "kty": "oct", "alg": "HS256", "kid": "shared", "k": "N2YzYVg5MWtRdzBiVnQ1THpSOGNZcDJNZEU2dUhqNE4tdGVzdHMtb25seQ" });
    let web = Web::with(&[
        json!({ "kty": "EC", "crv": "P-521", "kid": "a", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "OKP", "crv": "X25519", "kid": "b", "x": "gJfF897rOb9EpEv67pkUgUXwj9CZ0LKVRDWOZ6E_lFU" }),
        secret,
        ed("one"),
        json!("garbage"),
        json!(null),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" }),
    ]);
    let auth = web.jwt(&clock()).with_audit(Audit::new(events.clone())).build().unwrap();
    assert_eq!(ask(auth.clone(), EDDSA).await.0, 200, "J19");
    for header in [r#"{"alg":"HS256","kid":"shared"}"#, HEADER] {
        let token = sign(SECRET, header, claims().to_string());
        assert_eq!(ask(auth.clone(), &token).await.0, 401, "J20 {header}");
    }
    assert_eq!(events.alerts(), [Alert::KeyRefused], "J20");
    assert_eq!(web.asked().len(), 1);
}

#[tokio::test]
async fn an_rsa_key_that_does_not_say_so_has_the_algorithm_of_the_setting() {
    let rsa: Value = serde_json::from_str(&jwk_with(RSA_JWK, &json!({ "kid": "one" }))).unwrap();
    let web = Web::with(&[rsa]);
    for (algorithm, good, bad) in [(Algorithm::RS256, RS256, PS256), (Algorithm::PS256, PS256, RS256)] {
        let auth = web.jwt(&clock()).with_rsa_algorithm(algorithm).build().unwrap();
        assert_eq!(ask(auth.clone(), good).await.0, 200, "X02 {algorithm:?}");
        assert_eq!(ask(auth, bad).await, refused("algorithm"), "X02 {algorithm:?}");
    }
}

#[tokio::test]
async fn keys_belong_to_the_issuer_that_they_were_fetched_for() {
    let clock = clock();
    let other = "https://other.example";
    let ((ours, our_token), (mut theirs, their_token)) =
        (key(FIRST, ISSUER, &clock), key(SECOND, ISSUER, &clock));
    // The other issuer gives its key the name of ours.
    theirs["kid"] = ours["kid"].clone();
    let (web, their_web) = (Web::with(&[ours]), Web::with(&[theirs]));
    let first = web.jwt(&clock).build().unwrap();
    let second = JwtAuth::jwks("https://other.example/keys").issuer(other).audience(AUDIENCE);
    let second = second.with_fetch(their_web.clone()).with_user_ids(UserIds::Namespaced);
    let auth = JwtAuth::any_of([first, second.with_clock(clock).build().unwrap()]).unwrap();
    assert_eq!(ask(auth.clone(), &our_token).await, (200, "alice".to_owned()));
    assert_eq!(ask(auth.clone(), &their_token).await, refused("unknown_key"), "X42 its own name");
    assert_eq!(their_web.asked().len(), 0, "X42 only the issuer that is named is asked");
    let (message, signature) = their_token.rsplit_once('.').unwrap();
    let (_, payload) = message.split_once('.').unwrap();
    let (header, _) = our_token.split_once('.').unwrap();
    let forged = format!("{header}.{payload}.{signature}");
    assert_eq!(ask(auth, &forged).await, refused("bad_signature"), "X42 our name");
}

#[tokio::test]
async fn a_key_that_changes_under_its_name_takes_its_tokens_along() {
    let clock = clock();
    let ((old, old_token), (new, new_token)) = (key(FIRST, ISSUER, &clock), key(SECOND, ISSUER, &clock));
    let web = Web::with(std::slice::from_ref(&old));
    let auth = web.jwt(&clock).build().unwrap();
    assert_eq!(ask(auth.clone(), &old_token).await.0, 200);
    // Another key with the old one's name, and the new one beside it.
    let mut replaced = new.clone();
    replaced["kid"] = old["kid"].clone();
    web.answers(Answer::Keys(set(&[replaced, new])));
    assert_eq!(ask(auth.clone(), &new_token).await, refused("unknown_key"), "X46 within the cool-down");
    clock.advance(Duration::from_secs(30));
    assert_eq!(ask(auth.clone(), &new_token).await.0, 200, "X46");
    assert_eq!(ask(auth, &old_token).await, refused("bad_signature"), "X46 although it was known");
    assert_eq!(web.asked().len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_no_set_leaves_the_old_one() {
    let clock = clock();
    let good = ed("one");
    let many: Vec<_> = (0..101).map(|n| ed(&n.to_string())).collect();
    for (name, answer) in [
        ("X43 a failure", Answer::Failure),
        ("X43 more than 100 keys", Answer::Keys(set(&many))),
        (
            "X43 more than 512 KiB",
            Answer::Keys(format!("{}{}", set(std::slice::from_ref(&good)), " ".repeat(512 * 1024))),
        ),
        ("X43 no keys", Answer::Keys(set(&[]))),
        ("X43 no JSON", Answer::Keys("<html>".to_owned())),
        ("X43 deep", Answer::Keys("[".repeat(100_000))),
        ("X43 only keys that cannot be used", Answer::Keys(set(&[json!({ "kty": "oct", "k": "AAAA" })]))),
    ] {
        let web = Web::with(std::slice::from_ref(&good));
        let auth = web.jwt(&clock).build().unwrap();
        assert_eq!(ask(auth.clone(), EDDSA).await.0, 200);
        web.answers(answer);
        clock.advance(Duration::from_secs(31));
        let unknown = sign(SECRET, r#"{"alg":"EdDSA","kid":"two"}"#, claims().to_string());
        assert_eq!(ask(auth.clone(), &unknown).await.0, 503, "{name}");
        assert_eq!(ask(auth.clone(), EDDSA).await.0, 200, "{name}");
        assert_eq!(web.asked().len(), 2, "{name}");
        clock.set(clock_time());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_holds_up_nobody_whose_key_is_known() {
    let clock = clock();
    let web = Web::with(&[ed("one")]);
    let auth = web.jwt(&clock).build().unwrap();
    assert_eq!(ask(auth.clone(), EDDSA).await.0, 200);
    web.answers(Answer::Nothing);
    clock.advance(Duration::from_secs(31));
    let unknown = sign(SECRET, r#"{"alg":"EdDSA","kid":"two"}"#, claims().to_string());
    let start = Instant::now();
    let waits = tokio::spawn({
        let auth = auth.clone();
        async move { ask(auth, &unknown).await }
    });
    while web.asked().len() < 2 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        assert_eq!(ask(auth.clone(), EDDSA).await.0, 200, "X43");
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "X43");
    assert_eq!(waits.await.unwrap(), (503, "keys_unavailable".to_owned()), "X43");
    assert!(start.elapsed() <= Duration::from_secs(5), "X43 {:?}", start.elapsed());
    assert_eq!(ask(auth, EDDSA).await.0, 200, "X43");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_fetch_once() {
    let clock = clock();
    let web = Web::with(&[ed("one")]);
    let auth = web.jwt(&clock).build().unwrap();
    for (name, advance, expected) in [("X44 the first time", 0, 1), ("X44 when the set is old", 480, 2)] {
        web.answers(Answer::After(Duration::from_millis(50), set(&[ed("one")])));
        clock.advance(Duration::from_secs(advance));
        let mut requests = JoinSet::new();
        for _ in 0..1000 {
            let auth = auth.clone();
            requests.spawn(async move { ask(auth, EDDSA).await.0 });
        }
        assert_eq!(requests.join_all().await, [200; 1000], "{name}");
        assert_eq!(web.asked().len(), expected, "{name}");
    }
}
