//! Limits that several processes count together.

use std::{sync::LazyLock, time::Duration};

use ::redis::Script;
use async_trait::async_trait;

use super::Redis;
use crate::limit::{
    Counted, QuotaPeriod, SharedAnswer, SharedCounts, SharedFailure, SharedFailures, SharedLimits,
    SharedRequest,
};

/// Counts a request in all that limits it, or in none.
static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

/// Counts a wrong credential.
static FAIL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("fail.lua")));

impl Redis {
    /// Limits that are counted in this server, for all processes that use it with the same prefix; see the
    /// [module](super).
    ///
    /// A key's limits are those that its record has: processes that still have an older one cached go by that. Limits of
    /// more than a million requests a second are limited to that.
    #[must_use]
    pub fn limits(&self) -> SharedLimits {
        SharedLimits::new(self.clone())
    }
}

#[async_trait]
impl SharedCounts for Redis {
    async fn take(&self, request: &SharedRequest<'_>) -> Option<SharedAnswer> {
        let mut call = TAKE.prepare_invoke();
        call.arg(request.rates.len());
        for rate in &request.rates {
            call.key(match rate.of {
                Counted::Token(token) => self.key(&format!("rate:{token}")),
                Counted::Owner(owner) => self.key(&format!("owner:{owner}")),
            });
            call.arg(rate.interval).arg(rate.burst).arg(rate.ahead);
        }
        if let Some(quota) = &request.quota {
            let period = match quota.period {
                QuotaPeriod::Day => "day",
                QuotaPeriod::Month => "month",
            };
            call.key(self.key(&format!("quota:{}:{period}:{}", quota.token, quota.start)));
            call.arg(quota.requests).arg(quota.used).arg(millis(quota.ends_in));
        }
        let call = &call;
        let answer: Vec<i64> =
            self.0.link.run(|mut connection| async move { call.invoke_async(&mut connection).await }).await?;
        let (refused_by, rest) = answer.split_first()?;
        let (used, ahead) = rest.split_last()?;
        Some(SharedAnswer {
            // Lua counts from one.
            refused_by: usize::try_from(*refused_by).ok()?.checked_sub(1),
            ahead: ahead.to_vec(),
            used: u32::try_from(*used).unwrap_or(u32::MAX),
        })
    }

    async fn fail(&self, failure: SharedFailure) -> Option<SharedFailures> {
        let SharedFailure { suspect, limit } = failure;
        let mut call = FAIL.prepare_invoke();
        call.key(self.key(&format!("failures:{suspect:016x}")))
            .key(self.key(&format!("told:{suspect:016x}")));
        call.arg(limit);
        let call = &call;
        let answer: (u64, u64, bool) =
            self.0.link.run(|mut connection| async move { call.invoke_async(&mut connection).await }).await?;
        let (count, left, is_first) = answer;
        Some(SharedFailures { count, left: Duration::from_millis(left), is_first })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
