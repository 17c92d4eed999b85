//! One request against limits that several processes count together.

use std::time::Duration;

use crate::{
    limit::{
        SharedLimits,
        limiter::{Exceeded, Limiter, Told, nanos_left, tell, tell_level},
        shared::{Counted, SharedAnswer, SharedQuota, SharedRate, SharedRequest},
    },
    time::UnixTime,
};

/// Whoever counts for all, and what as.
#[derive(Debug)]
pub(crate) struct Together {
    limits: SharedLimits,
    token: Box<str>,
    owner: Box<str>,
}

impl Together {
    pub(super) fn new(limits: &SharedLimits, token: &str, owner: &str) -> Self {
        Self { limits: limits.clone(), token: token.into(), owner: owner.into() }
    }
}

impl Limiter {
    /// Whether somebody counts for other processes as well, so that [`admit_together`](Self::admit_together) is to be
    /// asked.
    #[inline]
    pub(crate) fn is_shared(&self) -> bool {
        self.together.is_some()
    }

    /// As [`admit`](Self::admit), by the count of all processes. What this process knows of it is never more than that,
    /// since counts only fall by time: so what it refuses is refused without asking, and where nobody answers it
    /// goes on from there.
    pub(crate) async fn admit_together(&self, now: UnixTime) -> Result<Told, Exceeded> {
        let Some(together) = &self.together else { return self.admit(now) };
        if let Some(exceeded) = self.refusal(now) {
            return Err(exceeded);
        }
        match together.limits.take(&self.request(together, now)).await {
            Some(answer) => self.learn(&answer, now),
            None => self.admit(now),
        }
    }

    /// Why a request would be refused, as far as this process knows.
    fn refusal(&self, now: UnixTime) -> Option<Exceeded> {
        for (name, rate, meter) in self.rates() {
            let level = meter.level(rate, now);
            if level.retry_in > 0 {
                return Some(self.too_fast(name, level));
            }
        }
        let (quota, span) = (self.quota?.0, self.span(now)?);
        (self.meter.quota.used(span) >= quota.requests().get()).then(|| self.used_up(span, now))
    }

    fn request<'a>(&self, together: &'a Together, now: UnixTime) -> SharedRequest<'a> {
        let rates = self.rates().map(|(name, rate, meter)| {
            let (interval, burst, ahead) = meter.in_micros(rate, now);
            let of = match name {
                "owner" => Counted::Owner(&together.owner),
                _ => Counted::Token(&together.token),
            };
            SharedRate { of, interval, burst, ahead }
        });
        let quota = self.quota.zip(self.span(now)).map(|((quota, _), span)| SharedQuota {
            token: &together.token,
            requests: quota.requests().get(),
            period: quota.period(),
            start: span.start,
            ends_in: Duration::from_millis(u64::try_from(span.ends_in(now)).unwrap_or(1)),
            used: self.meter.quota.used(span),
        });
        SharedRequest { rates: rates.collect(), quota }
    }

    /// Takes note of where the limits stand, so that this process can go on alone, and tells the caller.
    fn learn(&self, answer: &SharedAnswer, now: UnixTime) -> Result<Told, Exceeded> {
        let mut standing = String::with_capacity(64);
        let (mut refused, mut rates) = (None, 0);
        for (name, rate, meter) in self.rates() {
            // One that the answer does not speak of is known to nobody else.
            let ahead = answer.ahead.get(rates).copied().unwrap_or(0);
            let level = meter.learn(rate, ahead, now);
            if answer.refused_by == Some(rates) {
                refused = Some(self.too_fast(name, level));
            } else {
                tell_level(&mut standing, name, level);
            }
            rates += 1;
        }
        if let (Some((quota, _)), Some(span)) = (self.quota, self.span(now)) {
            if answer.refused_by.is_some() {
                self.meter.quota.learn_total(answer.used, span);
            } else {
                self.meter.quota.count_of(answer.used, span);
            }
            if answer.refused_by == Some(rates) {
                refused = Some(self.used_up(span, now));
            }
            tell(
                &mut standing,
                "quota",
                quota.requests().get().saturating_sub(answer.used),
                nanos_left(span, now),
            );
        }
        match (refused, answer.refused_by) {
            (Some(exceeded), _) => Err(exceeded),
            (None, None) => Ok(self.told(standing)),
            // An answer about a limit that was not asked for.
            (None, Some(_)) => self.admit(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Refusal,
        limit::{
            Limits, Quota, QuotaPeriod, RateLimit, TokenMeter,
            shared::{SharedCounts, SharedFailure, SharedFailures},
        },
    };
    use std::sync::{Arc, Mutex};

    /// Answers what it is told to, and keeps what it was asked.
    #[derive(Debug, Default)]
    struct Scripted(Mutex<Option<(Option<usize>, i64, u32)>>, Mutex<Vec<(i64, u32)>>);

    #[async_trait::async_trait]
    impl SharedCounts for Arc<Scripted> {
        async fn take(&self, request: &SharedRequest<'_>) -> Option<SharedAnswer> {
            let used = request.quota.as_ref().map_or(0, |quota| quota.used);
            self.1.lock().unwrap().push((request.rates[0].ahead, used));
            let (refused_by, ahead, used) = (*self.0.lock().unwrap())?;
            Some(SharedAnswer { refused_by, ahead: vec![ahead], used })
        }

        async fn fail(&self, _: SharedFailure) -> Option<SharedFailures> {
            None
        }
    }

    #[tokio::test]
    async fn who_is_not_answered_goes_on_from_the_last_answer() {
        let now = UnixTime::from_millis(1_767_225_600_000);
        let rate = RateLimit::new(10, Duration::from_secs(10)).unwrap();
        let quota = Quota::new(20, QuotaPeriod::Day).unwrap();
        let limits = Limits::default().with_rate(Some(rate)).with_quota(Some(quota));
        let others = Arc::new(Scripted::default());
        let shared = SharedLimits::new(others.clone());
        let limiter = Limiter::new(limits, Arc::new(TokenMeter::default()), None, None, now);
        let limiter = limiter.together(&shared, "token", "owner");
        let say = |answer| *others.0.lock().unwrap() = answer;
        let asked = || others.1.lock().unwrap().pop();

        say(Some((None, 7_000_000, 15)));
        limiter.admit_together(now).await.unwrap();
        assert_eq!(asked(), Some((0, 0)));
        say(None);
        for (ahead, used) in [(7_000_000, 15), (8_000_000, 16), (9_000_000, 17)] {
            limiter.admit_together(now).await.unwrap();
            assert_eq!(asked(), Some((ahead, used)), "what it knows is told with each request");
        }
        say(Some((None, 0, 0)));
        let exceeded = limiter.admit_together(now).await.unwrap_err();
        assert_eq!(
            (exceeded.reason, asked()),
            (Refusal::RateLimited, None),
            "nobody is asked for what is refused"
        );

        let later = now.saturating_add(Duration::from_secs(10));
        say(Some((Some(0), 10_000_000, 18)));
        assert_eq!(limiter.admit_together(later).await.unwrap_err().reason, Refusal::RateLimited);
        let later = later.saturating_add(Duration::from_secs(10));
        say(Some((Some(1), 1_000_000, 20)));
        assert_eq!(limiter.admit_together(later).await.unwrap_err().reason, Refusal::QuotaExhausted);
        say(None);
        assert_eq!(limiter.admit_together(later).await.unwrap_err().reason, Refusal::QuotaExhausted);
        let written = limiter.begin_write().unwrap();
        assert_eq!(written.count, 4, "its own alone");
    }
}
