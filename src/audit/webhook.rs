//! Events to a URL, signed.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Request, Response, Uri, header};
use serde::Serialize;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{Batch, DeliveryError, DeliveryPlan, Destination};
use crate::{
    error::ConfigError,
    event::Event,
    outbound::{HttpsClient, check_url},
    secret::distinct,
    time::{Clock, SystemClock, UnixTime},
};

/// How long one attempt may take.
const TIME_LIMIT: Duration = Duration::from_secs(15);

const WRONG_SECRET: &str = "a webhook's secret is `whsec_` and the base64 of 24 to 64 random bytes: make one by \
                            `echo whsec_$(openssl rand -base64 32)`";

/// Sends events to a URL as [Standard Webhooks](https://www.standardwebhooks.com) 1.0.0, so that any of its
/// libraries can verify them.
///
/// Each request is a `POST` of at most 50 events, alerts first, as
/// `{"type": "audit.events", "timestamp": …, "data": {"events": […]}}` with the [members](Event) of an event. Its
/// header `webhook-id` is the same for each attempt, `webhook-timestamp` is the second of the attempt, and
/// `webhook-signature` is `v1,` and the base64 of the HMAC-SHA-256 of id, timestamp and body with full stops
/// between them. Whoever receives it must compare the signature in constant time, refuse old timestamps, and
/// drop what it knows by its id.
///
/// An answer of 2xx is a success; redirects are not followed. After a failure it tries again in one second, then
/// twice as long up to a minute, or as long as `Retry-After` says up to that; after ten attempts, about five
/// minutes, the events are given up, which is an event itself.
///
/// ```no_run
/// use keyward::{TokenManager, audit::{QueueSink, Webhook}, event::TracingSink, store::MemoryStore};
///
/// # async fn example(secret: &str) -> Result<(), keyward::ConfigError> {
/// let (sink, queue) = QueueSink::new();
/// let webhook = Webhook::new("https://alerts.example/keyward", secret)?;
/// let tokens =
///     TokenManager::builder(MemoryStore::new()).with_audit((TracingSink, sink.alerts_only())).build();
/// tokio::spawn(queue.run(webhook, std::future::pending()));
/// # drop(tokens);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Webhook {
    url: Uri,
    keys: Vec<Hmac<Sha256>>,
    client: Arc<dyn HttpPost>,
    clock: Arc<dyn Clock>,
    plan: DeliveryPlan,
}

/// Sends a request for a [`Webhook`]; [`HttpsPost`] does it with an HTTPS client of its own. Implement it to use
/// the client, the proxy or the certificates of your service.
#[async_trait]
pub trait HttpPost: fmt::Debug + Send + Sync + 'static {
    /// Sends `request` once and returns status and headers of the answer. keyward itself limits the time, by
    /// dropping the future. It must not follow redirects.
    ///
    /// # Errors
    /// If there is no answer.
    async fn post(&self, request: Request<Bytes>) -> Result<Response<()>, DeliveryError>;
}

/// A small HTTPS client: HTTP/1.1, TLS 1.2 and 1.3 by AWS-LC, Mozilla's root certificates.
///
/// It follows no redirects, keeps no connection open, uses no proxy and reads no environment variable.
/// A connection takes at most 3 seconds to open. While a request runs, its connection is a task in the
/// runtime of the caller.
#[derive(Clone, Debug)]
pub struct HttpsPost(HttpsClient);

impl HttpsPost {
    /// A client with the settings above.
    ///
    /// # Errors
    /// If the TLS library can speak no version of TLS; as it is built here, it can.
    pub fn new() -> Result<Self, ConfigError> {
        HttpsClient::new().map(Self)
    }

    /// A client that trusts the certificate authorities in `pem` (RFC 7468, section 5) and no others.
    ///
    /// # Errors
    /// If there is no certificate in it, or one that cannot be an authority's.
    pub fn with_root_certificates(pem: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        HttpsClient::with_root_certificates(pem.as_ref()).map(Self)
    }
}

#[async_trait]
impl HttpPost for HttpsPost {
    async fn post(&self, request: Request<Bytes>) -> Result<Response<()>, DeliveryError> {
        let answer = self.0.send(request).await.map_err(DeliveryError::new)?;
        Ok(answer.map(drop))
    }
}

impl Webhook {
    /// Sends to `url`, which is `https`, or `http` on this machine, and signs with `secret`: `whsec_` and the
    /// base64 of 24 to 64 random bytes.
    ///
    /// # Errors
    /// If one of them is anything else. The sentence repeats neither.
    pub fn new(url: &str, secret: &str) -> Result<Self, ConfigError> {
        let plan = DeliveryPlan::default().with_batch(50).alerts_first().with_attempts(10);
        Ok(Self {
            url: check_url("a webhook's URL", url)?,
            keys: vec![read_secret(secret)?],
            client: Arc::new(HttpsPost::new()?),
            clock: Arc::new(SystemClock),
            plan: plan.with_delays(Duration::from_secs(1), Duration::from_secs(60)),
        })
    }

    /// Signs with another secret as well: the one before, until whoever receives has the new one.
    ///
    /// # Errors
    /// If it cannot be a secret.
    pub fn with_another_secret(mut self, secret: &str) -> Result<Self, ConfigError> {
        self.keys.push(read_secret(secret)?);
        Ok(self)
    }

    /// Other batches, attempts and delays than those above.
    #[must_use]
    pub fn with_plan(mut self, plan: DeliveryPlan) -> Self {
        self.plan = plan;
        self
    }

    /// The HTTP client; [`HttpsPost`] by default.
    #[must_use]
    pub fn with_client(mut self, client: impl HttpPost) -> Self {
        self.client = Arc::new(client);
        self
    }

    /// The clock that dates the requests; the system's by default.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    fn request(&self, batch: &Batch) -> Result<Request<Bytes>, DeliveryError> {
        let timestamp = batch.events.iter().map(|event| event.at).max().unwrap_or_default();
        let message = Message { r#type: "audit.events", timestamp, data: Data { events: &batch.events } };
        let body = serde_json::to_vec(&message).map_err(|error| DeliveryError::new(error.to_string()))?;
        let seconds = self.clock.now().as_millis().div_euclid(1000);
        let request = Request::post(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &*batch.id)
            .header("webhook-timestamp", seconds)
            .header("webhook-signature", self.signatures(&batch.id, seconds, &body));
        request.body(body.into()).map_err(|error| DeliveryError::new(error.to_string()))
    }

    fn signatures(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        let head = format!("{id}.{seconds}.");
        let sign = |key: &Hmac<Sha256>| {
            let mut mac = key.clone();
            mac.update(head.as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        self.keys.iter().map(sign).collect::<Vec<_>>().join(" ")
    }
}

/// The URL may hold a secret in its path, so only the host is shown.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.url.host()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Destination for Webhook {
    async fn deliver(&self, batch: &Batch) -> Result<(), DeliveryError> {
        let answer = tokio::time::timeout(TIME_LIMIT, self.client.post(self.request(batch)?)).await;
        let answer = answer.unwrap_or_else(|_| Err(DeliveryError::new("no answer in 15 seconds")))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let error = DeliveryError::new(format!("the answer has the status {}", answer.status().as_u16()));
        Err(error.with_retry_after(retry_after(answer.headers())))
    }

    fn plan(&self) -> DeliveryPlan {
        self.plan.clone()
    }
}

/// Seconds (RFC 9110, section 10.2.3); a date is not read.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn read_secret(secret: &str) -> Result<Hmac<Sha256>, ConfigError> {
    let wrong = || ConfigError::new(WRONG_SECRET);
    let text = secret.strip_prefix("whsec_").ok_or_else(wrong)?;
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| wrong())?);
    if !(24..=64).contains(&bytes.len()) || distinct(&bytes) < 8 {
        return Err(wrong());
    }
    Hmac::new_from_slice(&bytes).map_err(|_| wrong())
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'static str,
    timestamp: UnixTime,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    events: &'a [Event],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_random_and_urls_are_safe() {
        let good = format!("whsec_{}", STANDARD.encode((0..32).collect::<Vec<u8>>()));
        assert!(Webhook::new("https://alerts.example/a", &good).is_ok());
        let encoded = |bytes: Vec<u8>| format!("whsec_{}", STANDARD.encode(bytes));
        for bad in [
            "",
            "whsec_",
            "secret",
            &good["whsec_".len()..],
            &good[..good.len() - 1],
            &encoded((0..23).collect()),
            &encoded((0..65).collect()),
            &encoded(vec![7; 32]),
        ] {
            let error = Webhook::new("https://alerts.example/a", bad).unwrap_err().to_string();
            assert!(error.contains("openssl rand"), "{bad}");
        }
        let error = Webhook::new("http://alerts.example/a", &good).unwrap_err().to_string();
        assert!(error.starts_with("a webhook's URL must begin with"), "{error}");
        let shown = format!("{:?}", Webhook::new("https://alerts.example/T0/s3cret", &good).unwrap());
        assert!(shown.contains("alerts.example") && !shown.contains("s3cret"), "{shown}");
    }

    /// The vector of the reference libraries' tests.
    #[test]
    fn the_signature_is_that_of_the_standard() {
        let hook = Webhook::new("https://alerts.example", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature =
            hook.signatures("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = hook.with_another_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(both.signatures("a", 1, b"").split(' ').count(), 2);
    }

    #[derive(Debug)]
    struct Hangs;

    #[async_trait]
    impl HttpPost for Hangs {
        async fn post(&self, _: Request<Bytes>) -> Result<Response<()>, DeliveryError> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_ends_after_fifteen_seconds() {
        let hook = Webhook::new("https://alerts.example", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let batch = Batch { id: "1".into(), events: Vec::new() };
        let start = tokio::time::Instant::now();
        let error = hook.with_client(Hangs).deliver(&batch).await.unwrap_err();
        assert_eq!((start.elapsed(), &*error.to_string()), (TIME_LIMIT, "no answer in 15 seconds"));
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        for (text, seconds) in
            [("120", Some(120)), (" 7 ", Some(7)), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None)]
        {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
