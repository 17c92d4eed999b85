//! Limits that several processes count together: what is asked of whoever counts them.
#![cfg_attr(not(feature = "redis"), allow(dead_code, reason = "nobody else counts yet"))]

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::limit::QuotaPeriod;

/// Where several processes count their limits together, such as [`Redis::limits`](crate::redis::Redis::limits). While
/// that cannot be asked, each process counts on its own.
///
/// For [`with_shared_limits`](crate::manage::TokenManagerBuilder::with_shared_limits) of a manager and of a
/// [`FailureLimit`](crate::limit::FailureLimit::with_shared_limits). Clones are the same.
#[derive(Clone)]
pub struct SharedLimits(Arc<dyn SharedCounts>);

impl fmt::Debug for SharedLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedLimits").field(&self.0).finish()
    }
}

impl SharedLimits {
    pub(crate) fn new(counts: impl SharedCounts) -> Self {
        Self(Arc::new(counts))
    }

    pub(super) async fn take(&self, request: &SharedRequest<'_>) -> Option<SharedAnswer> {
        self.0.take(request).await
    }

    pub(super) async fn fail(&self, failure: SharedFailure) -> Option<SharedFailures> {
        self.0.fail(failure).await
    }
}

/// Counts for all. `None` is the answer of one that cannot tell in time.
#[async_trait]
pub(crate) trait SharedCounts: fmt::Debug + Send + Sync + 'static {
    /// Counts a request in all that limits it, or in none if one of them has no room.
    async fn take(&self, request: &SharedRequest<'_>) -> Option<SharedAnswer>;

    /// Counts a wrong credential, whether there was room for it or not.
    async fn fail(&self, failure: SharedFailure) -> Option<SharedFailures>;
}

/// A request, and what limits it.
#[derive(Debug)]
pub(crate) struct SharedRequest<'a> {
    /// Of the key, and of its owner.
    pub(crate) rates: Vec<SharedRate<'a>>,
    pub(crate) quota: Option<SharedQuota<'a>>,
}

/// A rate limit, in microseconds; see [`Gcra`](super::gcra::Gcra).
#[derive(Debug)]
pub(crate) struct SharedRate<'a> {
    pub(crate) of: Counted<'a>,
    pub(crate) interval: i64,
    pub(crate) burst: i64,
    /// How far ahead of the time it is, as far as this process knows.
    pub(crate) ahead: i64,
}

/// A quota of a key.
#[derive(Debug)]
pub(crate) struct SharedQuota<'a> {
    pub(crate) token: &'a str,
    pub(crate) requests: u32,
    pub(crate) period: QuotaPeriod,
    /// The day with which the period begins, counted from 1970.
    pub(crate) start: u32,
    pub(crate) ends_in: Duration,
    /// How much is used, as far as this process knows.
    pub(crate) used: u32,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counted<'a> {
    Token(&'a str),
    Owner(&'a str),
}

/// Where the limits of a request stand now.
#[derive(Debug)]
pub(crate) struct SharedAnswer {
    /// Which of them had no room: the number of a rate, or the number after the last for the quota.
    pub(crate) refused_by: Option<usize>,
    /// How far each rate is ahead of the time, in microseconds.
    pub(crate) ahead: Vec<i64>,
    /// How much of the quota is used.
    pub(crate) used: u32,
}

/// A wrong credential.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedFailure {
    /// By whom; see [`Suspect`](super::suspects::Suspect).
    pub(crate) suspect: u64,
    pub(crate) limit: u32,
}

/// How many there were.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedFailures {
    /// In this minute, with this one.
    pub(crate) count: u64,
    /// For how long they count.
    pub(crate) left: Duration,
    /// Whether this is the first beyond the limit since the limit was kept for a whole minute.
    pub(crate) is_first: bool,
}
