//! Several processes as one, through a Redis server: a revocation that all of them hear of at once, and limits that
//! they count together.
//!
//! ```no_run
//! use keyward::{AuthLayer, TokenManager, auth::ApiKeyAuth, limit::FailureLimit, redis::Redis, store::MemoryStore};
//!
//! # async fn example(store: MemoryStore) -> Result<(), Box<dyn std::error::Error>> {
//! let redis = Redis::open("redis://127.0.0.1:6379")?; // connects when it is first needed
//! let tokens = TokenManager::builder(store) // the store that all of them use
//!     .with_wakeup(redis.wakeup()) // who revokes tells the others
//!     .with_shared_limits(redis.limits()) // 100 a minute are 100, whoever is asked
//!     .build();
//! let failures = FailureLimit::default().with_shared_limits(redis.limits());
//! let auth: AuthLayer = AuthLayer::new(ApiKeyAuth::new(&tokens)).with_failure_limit(Some(failures));
//!
//! tokio::spawn(tokens.run(std::future::pending())); // listens as well
//! # Ok(())
//! # }
//! ```
//!
//! Each of the three works without the others. What is kept in Redis may be lost at any time, by a restart or by
//! `FLUSHALL`: it holds no keys, no digests for longer than a message takes, and nothing that lets anybody in.
//!
//! | use | while Redis is down, or does not answer in time | afterwards |
//! |---|---|---|
//! | [`wakeup`](Redis::wakeup) | a revocation reaches others by the store's own feed, and by the cache's bound at the latest | all that is cached is looked up again, so nothing that was missed counts |
//! | rate limits | each process counts on its own, from where the shared limit stood when it last asked | the fullest count goes on |
//! | quotas | the same; what others use is learnt from the store every few seconds | the highest count goes on |
//! | [`FailureLimit`](crate::limit::FailureLimit) | each process counts on its own, and what it told others counts on | a new minute begins for all together |
//!
//! So while it is down a limit of 100 may let through 100 for each process, and nobody is let in who is not otherwise.
//! When it forgets, each process tells it where the limit stood when that process last asked, with its next request: so
//! what may be let through again is what others used since then. A restart between two requests is no more than that; a
//! closed connection is made again within the same request.
//!
//! A request waits for Redis 100 milliseconds at most, unless [told otherwise](Redis::with_timeout). After a failure
//! all go on without it, and one request or message in half a second tries again. Only requests with a limited key,
//! and wrong credentials, ever wait; beyond its limit a key is refused without asking.
//!
//! It must be one server of version 6.2 or later, or whatever answers at one address for one: scripts name several
//! keys, which a cluster does not allow. Its clock counts, not those of the processes. Who can write to it can lift
//! and use up limits, and make caches look again, but can let nobody in: still, give keyward a user of its own with
//! `~keyward:* &keyward:* +@connection +@scripting +publish +subscribe +get +set +incr +pexpire +pttl +time`.

use std::{fmt, sync::Arc, time::Duration};

use crate::error::ConfigError;

mod limits;
mod link;
mod message;
mod wakeup;

use link::Link;
pub use wakeup::RedisWakeup;

/// How long a request waits, unless told otherwise.
const TIMEOUT: Duration = Duration::from_millis(100);

/// A handle to one Redis server. Clones share their connection.
///
/// It connects when it is first needed, and again whenever the connection is lost. It needs a tokio runtime then; its
/// connection is a task in that.
///
/// ```
/// use keyward::redis::Redis;
///
/// let redis = Redis::open("redis://keyward:secret@cache.internal:6379/2")?;
/// assert_eq!(format!("{redis:?}"), r#"Redis { server: "cache.internal:6379", prefix: "keyward:" }"#);
/// # Ok::<(), keyward::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Redis(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    link: Arc<Link>,
    prefix: Arc<str>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { link, prefix } = &*self.0;
        f.debug_struct("Redis").field("server", &link.server()).field("prefix", prefix).finish()
    }
}

/// Redis did not do what it was asked for: it cannot be reached, takes too long, or refuses.
#[derive(Clone, Debug, thiserror::Error)]
#[error("Redis is not available: {reason}")]
pub struct Unavailable {
    reason: Arc<str>,
}

impl Unavailable {
    fn because(reason: impl Into<Arc<str>>) -> Self {
        Self { reason: reason.into() }
    }
}

impl Redis {
    /// The server at `url`: `redis://user:password@host:port/database`, of which all but the host may be absent,
    /// `unix:///path`, or with the feature `redis-tls` also `rediss://`. TLS trusts Mozilla's root certificates; it goes
    /// by the process's default provider of rustls, and makes AWS-LC that one if there is none.
    ///
    /// # Errors
    /// When it is no such URL. Whether there is a server shows later; see [`ready`](Self::ready).
    pub fn open(url: &str) -> Result<Self, ConfigError> {
        let link = Arc::new(Link::new(url, TIMEOUT)?);
        Ok(Self(Arc::new(Inner { link, prefix: "keyward:".into() })))
    }

    /// What all its keys and channels begin with, `keyward:` by default. Services that share a server but no keys
    /// need one each.
    ///
    /// # Errors
    /// When it is empty, longer than 100 bytes, or holds other than printable ASCII.
    pub fn with_prefix(self, prefix: &str) -> Result<Self, ConfigError> {
        if prefix.is_empty() || prefix.len() > 100 || !prefix.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigError::new("a prefix in Redis is 1 to 100 characters of printable ASCII"));
        }
        Ok(Self(Arc::new(Inner { prefix: prefix.into(), ..(*self.0).clone() })))
    }

    /// How long a request waits for Redis before it goes on without it; 100 milliseconds by default, one
    /// millisecond to one second. Handles that were cloned before keep theirs.
    ///
    /// # Errors
    /// When it is outside these bounds.
    pub fn with_timeout(self, timeout: Duration) -> Result<Self, ConfigError> {
        if !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&timeout) {
            return Err(ConfigError::new("a request waits for Redis between 1 millisecond and 1 second"));
        }
        let link = Arc::new(self.0.link.with_timeout(timeout));
        Ok(Self(Arc::new(Inner { link, prefix: self.0.prefix.clone() })))
    }

    /// Whether the server answers and may be written to, within two seconds. Ask at the start, and in a health check;
    /// everything works on without it, as described [above](self).
    ///
    /// # Errors
    /// When it does not.
    pub async fn ready(&self) -> Result<(), Unavailable> {
        self.0.link.ready(self.key("ready")).await
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.0.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_server_is_refused_and_passwords_are_not_shown() {
        for url in
            ["", "localhost", "http://localhost", "redis://", "redis://:s3cret@host/x", "redis://u:s3cret@"]
        {
            let error = Redis::open(url).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
        let redis = Redis::open("redis://u:s3cret@localhost").unwrap();
        assert!(!format!("{redis:?} {:?}", redis.0.link).contains("s3cret"));
        assert_eq!(Redis::open("rediss://localhost").is_ok(), cfg!(feature = "redis-tls"));
    }

    #[test]
    fn settings_have_bounds() {
        let redis = || Redis::open("redis://localhost").unwrap();
        for (prefix, is_good) in [("", false), ("a b", false), ("shop:", true), ("ü", false)] {
            assert_eq!(redis().with_prefix(prefix).is_ok(), is_good, "{prefix}");
        }
        for (millis, is_good) in [(0, false), (1, true), (1000, true), (1001, false)] {
            assert_eq!(redis().with_timeout(Duration::from_millis(millis)).is_ok(), is_good, "{millis}");
        }
    }
}
