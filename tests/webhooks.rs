//! Webhooks against a real server on loopback, which fails, leads astray and comes back.
#![cfg(feature = "webhooks")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests"
)]

mod support;

use std::{
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::hmac;
use axum::{Router, body::Bytes, extract::State, response::IntoResponse, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, StatusCode};
use keyward::{
    TokenManager,
    audit::{DeliveryPlan, QueueSink, Webhook},
    manage::NewToken,
    store::MemoryStore,
    testing::{ManualClock, RecordingSink},
};
use serde_json::{Value, json};
use support::{start, user};
use tokio::sync::{Notify, oneshot};

const SECRET: &str = "whsec_3q2+796tvu8BI0VniavN7wARIjNEVWZ3iJmqu8zd7v8=";
const OLD_SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Who receives: what came, and how to answer.
#[derive(Debug, Default)]
struct Receiver {
    got: Mutex<Vec<(HeaderMap, Bytes)>>,
    arrived: Notify,
    /// The next answers; afterwards 204.
    answers: Mutex<Vec<u16>>,
    astray: Mutex<u32>,
}

impl Receiver {
    async fn start() -> (Arc<Self>, String) {
        let receiver = Arc::new(Self::default());
        let app = Router::new()
            .route("/hook", post(hook))
            .route("/elsewhere", post(elsewhere).get(elsewhere))
            .with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, app).into_future());
        (receiver, url)
    }

    async fn wait_for(&self, count: usize) -> Vec<(HeaderMap, Bytes)> {
        loop {
            let arrived = self.arrived.notified();
            let got = self.got.lock().unwrap().clone();
            if got.len() >= count {
                return got;
            }
            arrived.await;
        }
    }
}

async fn hook(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let answer = receiver.answers.lock().unwrap().pop().unwrap_or(204);
    receiver.got.lock().unwrap().push((headers, body));
    receiver.arrived.notify_one();
    (StatusCode::from_u16(answer).unwrap(), [("location", "/elsewhere")])
}

async fn elsewhere(State(receiver): State<Arc<Receiver>>) {
    *receiver.astray.lock().unwrap() += 1;
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

/// What the standard says a receiver does, by another library.
fn is_signed(secret: &str, headers: &HeaderMap, body: &[u8]) -> bool {
    let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let (id, at) = (header(headers, "webhook-id"), header(headers, "webhook-timestamp"));
    let signed = [id.as_bytes(), b".", at.as_bytes(), b".", body].concat();
    header(headers, "webhook-signature").split(' ').any(|signature| {
        let tag = signature.strip_prefix("v1,").and_then(|tag| BASE64.decode(tag).ok());
        tag.is_some_and(|tag| hmac::verify(&key, &signed, &tag).is_ok())
    })
}

fn signed_by_python(id: &str, at: &str, body: &str) -> String {
    let program = "import base64, hashlib, hmac, sys\n\
                   secret, *parts = sys.argv[1:]\n\
                   key = base64.b64decode(secret.removeprefix('whsec_'))\n\
                   tag = hmac.new(key, '.'.join(parts).encode(), hashlib.sha256).digest()\n\
                   print('v1,' + base64.b64encode(tag).decode())";
    let output = Command::new("python3").args(["-c", program, SECRET, id, at, body]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn hasty(attempts: u32) -> DeliveryPlan {
    let plan = DeliveryPlan::default().with_batch(50).alerts_first().with_attempts(attempts);
    plan.with_delays(Duration::from_millis(5), Duration::from_millis(20))
}

fn names(body: &[u8]) -> Vec<String> {
    let message: Value = serde_json::from_slice(body).unwrap();
    let events = message["data"]["events"].as_array().unwrap();
    events.iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn events_arrive_signed_once_the_receiver_is_back() {
    let (receiver, url) = Receiver::start().await;
    *receiver.answers.lock().unwrap() = vec![410, 302, 503, 500];
    let clock = ManualClock::at(start());
    let webhook = Webhook::new(&url, SECRET).unwrap().with_another_secret(OLD_SECRET).unwrap();
    let webhook = webhook.with_plan(hasty(10)).with_clock(clock.clone());
    let (sink, queue) = QueueSink::new();
    let (stop, stopped) = oneshot::channel::<()>();
    let work = tokio::spawn(queue.run(webhook, async { drop(stopped.await) }));
    let builder = TokenManager::builder(MemoryStore::new()).with_clock(clock.clone());
    let tokens = builder.with_audit((RecordingSink::default(), sink.clone())).build();
    let issued = tokens.create(&user("alice"), NewToken::named("first")).await.unwrap();

    receiver.wait_for(2).await;
    clock.advance(Duration::from_secs(7));
    let got = receiver.wait_for(5).await;
    drop(stop);
    work.await.unwrap();
    assert_eq!(receiver.got.lock().unwrap().len(), 5, "four failures and a success");
    assert_eq!(*receiver.astray.lock().unwrap(), 0, "a redirect is not followed");
    for (headers, body) in &got {
        assert!(is_signed(SECRET, headers, body) && is_signed(OLD_SECRET, headers, body), "{headers:?}");
        assert!(!is_signed(SECRET, headers, &body[1..]), "the test can fail");
        assert_eq!(header(headers, "webhook-id"), header(&got[0].0, "webhook-id"), "one id for all attempts");
        assert_eq!(header(headers, "content-type"), "application/json");
        assert_eq!(body, &got[0].1);
        assert!(!headers.contains_key("cookie") && !headers.contains_key("authorization"));
    }
    let at = header(&got[0].0, "webhook-timestamp").to_owned();
    assert_eq!(at, (start().as_millis() / 1000).to_string());
    assert_eq!(header(&got[4].0, "webhook-timestamp"), (start().as_millis() / 1000 + 7).to_string());
    let (headers, body) = &got[0];
    let by_python = signed_by_python(header(headers, "webhook-id"), &at, std::str::from_utf8(body).unwrap());
    assert!(header(headers, "webhook-signature").starts_with(&by_python), "{by_python}");

    let message: Value = serde_json::from_slice(body).unwrap();
    let event = json!({
        "at": "2026-01-01T00:00:00.000Z", "event": "token.created", "alert": false, "outcome": "success",
        "actor": "alice", "actor_email": null, "user_id": "alice", "token_id": issued.record.id,
        "client_ip": null, "request_id": null, "refusal": null, "reason": null, "count": null,
    });
    let expected = json!({
        "type": "audit.events", "timestamp": "2026-01-01T00:00:00.000Z", "data": { "events": [event] },
    });
    assert_eq!(message, expected);
    assert!(!String::from_utf8_lossy(body).contains(issued.key.expose()));
}

#[tokio::test]
async fn a_receiver_that_stays_away_costs_counted_events_and_no_request() {
    let (receiver, url) = Receiver::start().await;
    *receiver.answers.lock().unwrap() = vec![500; 3];
    let webhook = Webhook::new(&url, SECRET).unwrap().with_plan(hasty(3));
    let (sink, queue) = QueueSink::with_capacity(4, 2);
    let work = tokio::spawn(queue.run(webhook, std::future::pending()));
    let tokens = TokenManager::builder(MemoryStore::new()).with_audit(sink.clone()).build();
    let issued = tokens.create(&user("alice"), NewToken::named("first")).await.unwrap();
    receiver.wait_for(3).await;
    while sink.dropped().events == 0 {
        tokio::task::yield_now().await;
    }
    tokens.get(&user("bob"), issued.record.id).await.unwrap_err();
    let got = receiver.wait_for(4).await;
    assert_eq!(names(&got[3].1), ["foreign_access", "audit.dropped"]);
    assert_ne!(header(&got[3].0, "webhook-id"), header(&got[0].0, "webhook-id"));
    drop((tokens, sink));
    work.await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_a_failure_too() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/T0ps3cret", listener.local_addr().unwrap());
    drop(listener);
    let webhook = Webhook::new(&url, SECRET).unwrap().with_plan(hasty(2));
    let (sink, queue) = QueueSink::new();
    let tokens = TokenManager::builder(MemoryStore::new()).with_audit(sink.clone().alerts_only()).build();
    let issued = tokens.create(&user("alice"), NewToken::named("first")).await.unwrap();
    tokens.get(&user("bob"), issued.record.id).await.unwrap_err();
    drop(tokens);
    let log = support::Log::default();
    let guard = log.catch();
    let dropped = sink.clone();
    drop(sink);
    let given_up = async {
        while dropped.dropped().events == 0 {
            tokio::task::yield_now().await;
        }
    };
    queue.run(webhook, given_up).await;
    drop(guard);
    assert_eq!((dropped.dropped().events, dropped.dropped().alerts), (1, 1), "the alert alone was in it");
    let text = log.text();
    assert!(text.contains("audit events cannot be delivered") && text.contains("127.0.0.1"), "{text}");
    assert!(!text.contains("T0ps3cret") && !text.contains("whsec"), "{text}");
}
