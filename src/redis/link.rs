//! The connection, and when it is better not to wait for it.

use std::{
    fmt,
    future::Future,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{
    Client, ErrorKind, RedisError, RedisResult, RetryMethod,
    aio::{ConnectionManager, ConnectionManagerConfig, PubSub},
};

use super::Unavailable;
use crate::{error::ConfigError, time::Stopwatch};

/// How long it takes to connect, at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long somebody waits who asks for nothing but this.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a request that still has time waits before it tries again.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a server that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// After so many failures in a row the connection is thrown away: it may lead to a machine that is no more.
const GIVE_UP: u32 = 4;

/// The way to one server.
pub(super) struct Link {
    client: Client,
    manager: Mutex<Option<ConnectionManager>>,
    timeout: Duration,
    health: Health,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("server", &self.server()).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(url: &str, timeout: Duration) -> Result<Self, ConfigError> {
        #[cfg(feature = "redis-tls")]
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Somebody else may be faster, which is as good.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let client = Client::open(url).map_err(|error| {
            // What it says of details may be part of the password.
            let detail = error.to_string();
            let what = detail.split_once('-').map_or(&*detail, |(what, _)| what).trim_end();
            ConfigError::new(format!("this is no URL of a Redis server, such as redis://host:6379: {what}"))
        })?;
        Ok(Self::of(client, timeout))
    }

    fn of(client: Client, timeout: Duration) -> Self {
        Self { client, manager: Mutex::default(), timeout, health: Health::default() }
    }

    pub(super) fn with_timeout(&self, timeout: Duration) -> Self {
        Self::of(self.client.clone(), timeout)
    }

    pub(super) fn server(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Has `work` done, within the time limit. While the server is known to be down nobody waits, but one in half a
    /// second.
    ///
    /// It may be done several times: where a connection turns out to be closed, it is done on the next one.
    pub(super) async fn run<T, F>(&self, work: impl Fn(ConnectionManager) -> F) -> Option<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        if !self.health.may_try() {
            return None;
        }
        let trial = Trial { link: self, is_over: false };
        trial.end(self.within(self.timeout, work).await).ok()
    }

    pub(super) async fn ready(&self, key: String) -> Result<(), Unavailable> {
        let trial = Trial { link: self, is_over: false };
        let command = ::redis::cmd("SET").arg(key).arg(1).arg("EX").arg(1).to_owned();
        let command = &command;
        let written = self
            .within(READY_TIMEOUT, |mut connection| async move { command.exec_async(&mut connection).await });
        trial.end(written.await)
    }

    async fn within<T, F>(
        &self,
        limit: Duration,
        work: impl Fn(ConnectionManager) -> F,
    ) -> Result<T, Unavailable>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let manager = self.manager()?;
        let (begun, mut last) = (Stopwatch::start(), None);
        let done = async {
            loop {
                match work(manager.clone()).await {
                    // A server that is restarted is there again before long, and to count alone meanwhile would count
                    // less.
                    Err(error) if is_passing(&error) && begun.elapsed() + PAUSE < self.timeout => {
                        last = Some(error);
                        tokio::time::sleep(PAUSE).await;
                    }
                    done => return done,
                }
            }
        };
        let error = match tokio::time::timeout(limit, done).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => Some(error),
            Err(_) => last,
        };
        Err(Unavailable::because(error.map_or("no answer in time".to_owned(), |error| error.to_string())))
    }

    fn manager(&self) -> Result<ConnectionManager, Unavailable> {
        let mut manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(manager) = &*manager {
            return Ok(manager.clone());
        }
        // Who waits, and for how long, is decided here.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None)
            .set_number_of_retries(0);
        let made = ConnectionManager::new_lazy_with_config(self.client.clone(), config);
        let made = made.map_err(|error| Unavailable::because(error.to_string()))?;
        Ok(manager.insert(made).clone())
    }

    /// A connection of its own, for what others publish.
    pub(super) async fn listen(&self, channel: &str) -> Result<PubSub, Unavailable> {
        let listening = async {
            let mut listening = self.client.get_async_pubsub().await?;
            listening.subscribe(channel).await?;
            Ok::<_, ::redis::RedisError>(listening)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, listening).await {
            Ok(listening) => listening.map_err(|error| Unavailable::because(error.to_string())),
            Err(_) => Err(Unavailable::because("no answer in time")),
        }
    }
}

/// Whether it may work in a moment.
fn is_passing(error: &RedisError) -> bool {
    error.kind() != ErrorKind::AuthenticationFailed && !matches!(error.retry_method(), RetryMethod::NoRetry)
}

/// One try. Given up without a word it counts as failed: whoever waited may have waited too long.
struct Trial<'a> {
    link: &'a Link,
    is_over: bool,
}

impl Trial<'_> {
    fn end<T>(mut self, answer: Result<T, Unavailable>) -> Result<T, Unavailable> {
        self.is_over = true;
        match &answer {
            Ok(_) => {
                if self.link.health.succeeded() {
                    tracing::info!(server = %self.link.server(), "Redis answers again");
                }
            }
            Err(error) => self.link.failed(error),
        }
        answer
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        // Whoever tried for all must not leave them without an answer; somebody else shall try.
        if !self.is_over {
            self.link.health.abandoned();
        }
    }
}

impl Link {
    #[cold]
    fn failed(&self, error: &Unavailable) {
        let failures = self.health.failed();
        if failures == 1 {
            tracing::warn!(server = %self.server(), %error, "limits are each process's own while it lasts");
        }
        if failures.is_multiple_of(GIVE_UP) {
            *self.manager.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// Whether the server is worth waiting for.
#[derive(Debug)]
struct Health {
    since: Stopwatch,
    /// When it last failed or was last tried since, in milliseconds; zero if it works.
    tried_at: AtomicU64,
    /// In a row.
    failures: AtomicU32,
}

impl Default for Health {
    fn default() -> Self {
        Self { since: Stopwatch::start(), tried_at: AtomicU64::new(0), failures: AtomicU32::new(0) }
    }
}

impl Health {
    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether the server works, or this is the one who finds out.
    fn may_try(&self) -> bool {
        let tried_at = self.tried_at.load(Ordering::Relaxed);
        if tried_at == 0 {
            return true;
        }
        let now = self.now();
        now.saturating_sub(tried_at) >= RETRY_AFTER.as_millis() as u64
            && self.tried_at.compare_exchange(tried_at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Says whether it had failed before.
    fn succeeded(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.tried_at.store(0, Ordering::Relaxed);
        self.failures.swap(0, Ordering::Relaxed) > 0
    }

    /// Says how often in a row.
    fn failed(&self) -> u32 {
        self.tried_at.store(self.now(), Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Whoever tried for all is gone: the next one may.
    fn abandoned(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.tried_at.store(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_one_in_half_a_second_tries_until_it_works() {
        let health = Health::default();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(health.may_try() && health.may_try() && !health.succeeded());
        assert_eq!([health.failed(), health.failed()], [1, 2]);
        assert!(!health.may_try());
        tokio::time::advance(Duration::from_millis(499)).await;
        assert!(!health.may_try());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(health.may_try() && !health.may_try(), "one of them");
        health.abandoned();
        assert!(health.may_try(), "the one who tried is gone");
        assert!(health.succeeded() && health.may_try() && health.may_try() && !health.succeeded());
    }
}
