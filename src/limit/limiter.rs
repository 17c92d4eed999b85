//! What limits one credential: its rules, and the counts that all requests with it share.

use std::{fmt::Write, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    error::Refusal,
    limit::{
        Limits, Quota, QuotaUse, RateLimit, SharedLimits,
        gcra::{Gcra, Level, RateMeter},
        meters::Meter,
        quota::{QuotaMeter, Span},
        together::Together,
    },
    time::UnixTime,
};

static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What is counted of one token, for as long as the process lives.
#[derive(Debug, Default)]
pub(crate) struct TokenMeter {
    pub(super) rate: RateMeter,
    pub(super) quota: QuotaMeter,
}

impl Meter for TokenMeter {
    fn new_from(&self) -> i64 {
        self.rate.new_from()
    }
}

impl Meter for RateMeter {
    fn new_from(&self) -> i64 {
        Self::new_from(self)
    }
}

/// The limits of one credential.
#[derive(Debug)]
pub(crate) struct Limiter {
    pub(super) meter: Arc<TokenMeter>,
    rate: Option<Gcra>,
    pub(super) quota: Option<(Quota, Span)>,
    /// For all keys of its owner together.
    owner: Option<(Gcra, Arc<RateMeter>)>,
    policy: HeaderValue,
    /// Whoever counts for other processes as well.
    pub(super) together: Option<Box<Together>>,
}

/// Why a request is refused.
#[derive(Debug)]
pub(crate) struct Exceeded {
    pub(crate) reason: Refusal,
    pub(crate) retry_after: Duration,
    pub(crate) told: Told,
}

/// What the caller is told of their limits (draft-ietf-httpapi-ratelimit-headers-10).
#[derive(Debug)]
pub(crate) struct Told {
    /// The limits themselves.
    policy: HeaderValue,
    /// Where they stand.
    standing: Option<HeaderValue>,
}

impl Told {
    /// The headers and their values.
    pub(crate) fn into_map(self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(RATE_LIMIT_POLICY.clone(), self.policy);
        if let Some(standing) = self.standing {
            headers.insert(RATE_LIMIT.clone(), standing);
        }
        headers
    }
}

impl Limiter {
    /// The limiter for `limits`, which counts in `meter`, and what the store knows of its quota.
    pub(crate) fn new(
        limits: Limits,
        meter: Arc<TokenMeter>,
        owner: Option<(RateLimit, Arc<RateMeter>)>,
        stored: Option<QuotaUse>,
        now: UnixTime,
    ) -> Self {
        let quota = limits.quota().map(|quota| (quota, Span::at(quota.period(), now)));
        if let (Some((_, span)), Some(stored)) = (quota, stored) {
            meter.quota.learn(stored, span);
        }
        let policy = policy(limits, quota.map(|(_, span)| span), owner.as_ref().map(|(limit, _)| *limit));
        let owner = owner.map(|(limit, meter)| (Gcra::new(limit), meter));
        Self { meter, rate: limits.rate().map(Gcra::new), quota, owner, policy, together: None }
    }

    /// Has `shared` count as well.
    pub(crate) fn together(self, shared: &SharedLimits, token: &str, owner: &str) -> Self {
        Self { together: Some(Box::new(Together::new(shared, token, owner))), ..self }
    }

    /// Counts a request, if every limit has room for it. The quota is asked last: what is refused uses none
    /// of it.
    pub(crate) fn admit(&self, now: UnixTime) -> Result<Told, Exceeded> {
        let span = self.span(now);
        let mut standing = String::with_capacity(64);
        for (name, rate, meter) in self.rates() {
            match meter.take(rate, now) {
                Ok(level) => tell_level(&mut standing, name, level),
                Err(level) => return Err(self.too_fast(name, level)),
            }
        }
        if let (Some((quota, _)), Some(span)) = (self.quota, span) {
            match self.meter.quota.take(quota.requests().get(), span) {
                Some(left) => tell(&mut standing, "quota", left, nanos_left(span, now)),
                None => return Err(self.used_up(span, now)),
            }
        }
        Ok(self.told(standing))
    }

    /// The rate limits, by their names.
    pub(super) fn rates(&self) -> impl Iterator<Item = (&'static str, Gcra, &RateMeter)> {
        let own = self.rate.map(|rate| ("rate", rate, &self.meter.rate));
        let owner = self.owner.as_ref().map(|(rate, meter)| ("owner", *rate, &**meter));
        own.into_iter().chain(owner)
    }

    /// The quota's period. It was worked out when the credential was loaded, which is rarely long ago.
    pub(super) fn span(&self, now: UnixTime) -> Option<Span> {
        let (quota, span) = self.quota?;
        Some(if span.contains(now) { span } else { Span::at(quota.period(), now) })
    }

    #[cold]
    pub(super) fn too_fast(&self, name: &str, level: Level) -> Exceeded {
        self.exceeded(Refusal::RateLimited, level.retry_in, name, level.full_in)
    }

    #[cold]
    pub(super) fn used_up(&self, span: Span, now: UnixTime) -> Exceeded {
        let ends_in = nanos_left(span, now);
        self.exceeded(Refusal::QuotaExhausted, ends_in, "quota", ends_in)
    }

    fn exceeded(&self, reason: Refusal, retry_in: i64, name: &str, full_in: i64) -> Exceeded {
        let mut standing = String::new();
        tell(&mut standing, name, 0, full_in);
        let retry_after = Duration::from_secs(seconds(retry_in).max(1));
        Exceeded { reason, retry_after, told: self.told(standing) }
    }

    pub(super) fn told(&self, standing: String) -> Told {
        Told { policy: self.policy.clone(), standing: HeaderValue::try_from(standing).ok() }
    }

    /// What is to be written of the quota.
    pub(crate) fn begin_write(&self) -> Option<QuotaUse> {
        self.meter.quota.begin_write(self.quota?.0.period())
    }

    /// The store has what was to be written.
    pub(crate) fn wrote(&self) {
        self.meter.quota.wrote();
    }

    /// It has not, as far as anybody knows.
    pub(crate) fn not_written(&self) {
        self.meter.quota.not_written();
    }

    /// What the store does not know of the quota yet.
    pub(crate) fn unwritten(&self) -> Option<QuotaUse> {
        self.meter.quota.unwritten(self.quota?.0.period())
    }
}

fn policy(limits: Limits, span: Option<Span>, owner: Option<RateLimit>) -> HeaderValue {
    let mut items = Vec::new();
    for (name, rate) in [("rate", limits.rate()), ("owner", owner)] {
        items.extend(rate.map(|rate| (name, rate.requests().get(), rate.period().as_secs())));
    }
    let quota = limits.quota().zip(span);
    items.extend(quota.map(|(quota, span)| ("quota", quota.requests().get(), span.seconds())));
    let items: Vec<_> = items.iter().map(|(name, q, w)| format!("\"{name}\";q={q};w={w}")).collect();
    HeaderValue::try_from(items.join(", ")).unwrap_or(HeaderValue::from_static(""))
}

pub(super) fn tell_level(standing: &mut String, name: &str, level: Level) {
    tell(standing, name, level.left, level.full_in);
}

/// Adds one limit: so many left, and in how many seconds all of it is there again.
pub(super) fn tell(standing: &mut String, name: &str, left: u32, full_in: i64) {
    let separator = if standing.is_empty() { "" } else { ", " };
    let _ = write!(standing, "{separator}\"{name}\";r={left};t={}", seconds(full_in));
}

/// In how many nanoseconds a quota's period ends.
pub(super) fn nanos_left(span: Span, now: UnixTime) -> i64 {
    span.ends_in(now).saturating_mul(1_000_000)
}

/// Nanoseconds as whole seconds, rounded up.
fn seconds(nanos: i64) -> u64 {
    u64::try_from(nanos).unwrap_or(0).div_ceil(1_000_000_000)
}
