//! What a dashboard shows, by the [`metrics`](https://docs.rs/metrics) facade: install the recorder of your choice, such
//! as that of `metrics-exporter-prometheus`, and everything below appears in it.
//!
//! Requests count in atomics of this crate: two additions, about ten nanoseconds, and no question to a recorder. Once a second
//! [`TokenManager::run`](crate::TokenManager::run) and `JwtAuth::run` tell the recorder what there is;
//! [`publish`] does it now, for a service that runs neither, or right before a scrape. So it does not matter when the
//! recorder is installed: whatever was counted before is in the first report. Only durations go to the recorder as they
//! are measured, and those from before are lost.
//!
//! ```
//! use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
//!
//! let durations = Matcher::Suffix("_duration_seconds".to_owned());
//! let recorder = PrometheusBuilder::new()
//!     .set_buckets_for_metric(durations, keyward::metrics::DURATION_BUCKETS)?
//!     .install_recorder()?;
//!
//! // In the handler of `GET /metrics`:
//! keyward::metrics::publish();
//! let text = recorder.render();
//! assert!(text.contains("keyward_verdicts_total{outcome=\"accepted\",method=\"api_key\",reason=\"none\"} 0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Show the text to those who look after the service, not to its clients: who presents a key that was found, and sees which
//! number grew, learns what the refusal does not say, such as that the key is a trap.
//!
//! # Names
//!
//! Counts are of the process, whatever managers and layers there are in it; amounts are the sums over them. They are
//! base units: seconds, bytes, or just a number.
//!
//! | name | labels | what |
//! |---|---|---|
//! | `keyward_verdicts_total` | `outcome`, `method`, `reason` | requests that an [`AuthLayer`](crate::AuthLayer) `accepted`, let pass as `anonymous` or `refused`, or that were `abandoned` while their verdict was on its way |
//! | `keyward_refusals_total` | `reason` | the refused ones by reason alone; each reason is there from the start, so that its first burst shows as a rise |
//! | `keyward_verdict_duration_seconds` | `method` | histogram: verdicts that had to wait, for the store, for keys, for their turn |
//! | `keyward_jwt_verification_duration_seconds` | | histogram: reading and verifying a JWT that was not seen before, without waiting for keys |
//! | `keyward_guard_refusals_total` | `reason` | requests that a guard or an extractor behind it refused; `no_credential` where nobody was let pass, `misconfigured` where a layer is missing |
//! | `keyward_alerts_total` | `alert` | alerts, by [`Alert::name`](crate::event::Alert::name), each foreign access as well that is not told of each time; each kind is there from the start |
//! | `keyward_events_total` | `event` | other audit events, by [`EventKind::name`](crate::event::EventKind::name), but for access |
//! | `keyward_cache_requests_total` | `cache`, `result` | `hit`, `refused_hit` (known to be no good) or `miss`; cache `api_key` or `jwt` |
//! | `keyward_cache_entries` | `cache` | gauge: how many are kept; cache `api_key`, `api_key_refused` or `jwt` |
//! | `keyward_cache_evictions_total` | `cache` | how many had to make room |
//! | `keyward_jwt_cache_bytes` | | gauge: memory of verified JWTs, roughly |
//! | `keyward_store_up` | | gauge: 1 while every store answers, 0 while one does not; absent without a store |
//! | `keyward_store_errors_total` | `kind` | `unavailable`, `corrupt` or `incompatible` |
//! | `keyward_tokens_stored` | | gauge: records in the store, as of the last whole [cleanup](crate::TokenManager::cleanup) |
//! | `keyward_usage_queue_length` | | gauge: tokens with uses that are not written yet |
//! | `keyward_usage_flushes_total` | `outcome` | batches of uses: `success` or `failure`; a failed one is tried again |
//! | `keyward_usage_flush_duration_seconds` | | histogram: how long a batch took |
//! | `keyward_denied_users`, `keyward_denied_jwts` | | gauges: users who are suspended or gone, JWTs that are revoked |
//! | `keyward_denials_last_load_timestamp_seconds` | | gauge: when those were last read from the store, in Unix time |
//! | `keyward_audit_queue_length` | | gauge: events on their way |
//! | `keyward_audit_queue_capacity`, `keyward_audit_queue_reserve` | | gauges: room for events, and for alerts beyond them |
//! | `keyward_audit_dropped_total` | `kind` | lost: each `event`, and each that was an `alert` |
//! | `keyward_audit_deliveries_total` | `outcome` | batches to the store or a URL: `success` or `failure`, each attempt |
//! | `keyward_jwks_keys` | | gauge: fetched keys that are in use |
//! | `keyward_jwks_fetches_total` | `outcome` | attempts to fetch a key set |
//! | `keyward_jwks_failing` | | gauge: key sets whose last attempt failed |
//! | `keyward_jwks_last_success_timestamp_seconds` | | gauge: when the fetched key set that is furthest behind was fetched, in Unix time; one that never was shows in `keyward_jwks_failing` |
//!
//! `method` is [`AuthMethod::as_str`](crate::principal::AuthMethod::as_str), or `none` where no authenticator took the
//! credential for its own, also because its address had failed too often before; `reason` is [`Refusal::as_str`](crate::error::Refusal::as_str), or `none`. What clients send, names, ids, addresses, paths
//! and keys, is no label of anything, so no client can make a series. Of reasons, events and methods only those appear
//! that have happened: with all of them there would be some 600 series.
//!
//! # Durations
//!
//! A verdict from a cache takes less than a microsecond, and to measure it would cost a good part of that. So
//! `keyward_verdict_duration_seconds` holds those that had to wait, and its `_count` over `keyward_verdicts_total` says
//! how many do. A recorder without buckets for histograms may make quantiles of them: [`DURATION_BUCKETS`] are
//! buckets that fit.
//!
//! # Alerts
//!
//! A start for rules:
//!
//! ```text
//! keyward_store_up == 0
//! increase(keyward_alerts_total{alert=~"foreign_access|foreign_record|audit_tampered|emergency_.*"}[5m]) > 0
//! increase(keyward_audit_dropped_total[5m]) > 0
//! keyward_audit_queue_length > 0.8 * keyward_audit_queue_capacity
//! time() - keyward_jwks_last_success_timestamp_seconds > 3 * 3600
//! keyward_jwks_failing > 0
//! sum by (reason) (rate(keyward_refusals_total[5m]))
//! histogram_quantile(0.99, sum by (le) (rate(keyward_verdict_duration_seconds_bucket[5m])))
//! ```

use std::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, with_recorder};

use crate::{
    count::{self, Cache, Counter, Oldest, Outcomes, Sum},
    error::{Refusal, Scheme},
    event::Alert,
};

/// How often it is told what there is.
const INTERVAL: Duration = Duration::from_secs(1);

/// Buckets for the histograms, in seconds: from what verifying a JWT takes, 10 microseconds, to what a request waits at
/// most, 5 seconds.
pub const DURATION_BUCKETS: &[f64] = &[
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0,
];

/// Tells the recorder what there is: some hundred numbers. A second call at the same time does no harm.
///
/// Without a recorder nothing happens, and nothing is lost.
pub fn publish() {
    describe_once();
    verdicts();
    events();
    caches();
    stores();
    queues();
    key_sets();
}

/// Tells the recorder once a second. Never returns.
pub(crate) async fn keep_published() {
    loop {
        publish();
        tokio::time::sleep(INTERVAL).await;
    }
}

fn verdicts() {
    let count = |outcome: &'static str, by: Scheme, reason: &'static str, count: u64| {
        counter!("keyward_verdicts_total", "outcome" => outcome, "method" => by.as_str(), "reason" => reason)
            .absolute(count);
    };
    for by in Scheme::ALL {
        if by != Scheme::None {
            count("accepted", by, "none", count::accepted_by(by));
        }
        let reasons = count::REFUSED.get(by as usize).into_iter().flatten();
        for (reason, refused) in happened(reasons) {
            count("refused", by, reason, refused);
        }
    }
    count("anonymous", Scheme::None, "none", count::ANONYMOUS.get());
    count("abandoned", Scheme::None, "none", count::ABANDONED.get());
    for reason in Refusal::ALL {
        let by_method = count::REFUSED.iter().filter_map(|reasons| reasons.get(*reason as usize));
        counter!("keyward_refusals_total", "reason" => reason.as_str())
            .absolute(by_method.map(Counter::get).sum());
    }
    for (reason, refused) in happened(&count::GUARDED) {
        counter!("keyward_guard_refusals_total", "reason" => reason).absolute(refused);
    }
}

/// The reasons for which something was refused, and how often.
fn happened<'a>(
    by_reason: impl IntoIterator<Item = &'a Counter>,
) -> impl Iterator<Item = (&'static str, u64)> {
    let counts = by_reason.into_iter().map(Counter::get);
    Refusal::ALL.iter().map(|reason| reason.as_str()).zip(counts).filter(|(_, count)| *count > 0)
}

fn events() {
    for (alert, raised) in Alert::KINDS.iter().zip(&count::RAISED) {
        counter!("keyward_alerts_total", "alert" => *alert).absolute(raised.get());
    }
    for (event, count) in count::EVENTS.read() {
        counter!("keyward_events_total", "event" => event).absolute(count);
    }
}

fn caches() {
    let requests = |cache: &'static str, result: &'static str, count: u64| {
        counter!("keyward_cache_requests_total", "cache" => cache, "result" => result).absolute(count);
    };
    let [key_misses, _, jwt_misses] = &count::CACHE_MISSES;
    requests("api_key", "hit", count::hits_in(Cache::ApiKey));
    requests("api_key", "refused_hit", count::hits_in(Cache::Refused));
    requests("api_key", "miss", key_misses.get());
    requests("jwt", "hit", count::hits_in(Cache::Jwt));
    requests("jwt", "miss", jwt_misses.get());
    let sizes = count::CACHE_ENTRIES.iter().zip(&count::CACHE_EVICTIONS);
    for (cache, (entries, evictions)) in ["api_key", "api_key_refused", "jwt"].into_iter().zip(sizes) {
        gauge!("keyward_cache_entries", "cache" => cache).set(entries.get() as f64);
        counter!("keyward_cache_evictions_total", "cache" => cache).absolute(evictions.get());
    }
    amount("keyward_jwt_cache_bytes", &count::JWT_CACHE_BYTES);
}

fn stores() {
    if count::STORES.get() > 0 {
        gauge!("keyward_store_up").set(if count::STORES_DOWN.get() == 0 { 1.0 } else { 0.0 });
    }
    for (kind, errors) in ["unavailable", "corrupt", "incompatible"].into_iter().zip(&count::STORE_ERRORS) {
        counter!("keyward_store_errors_total", "kind" => kind).absolute(errors.get());
    }
    amount("keyward_tokens_stored", &count::TOKENS_STORED);
    amount("keyward_denied_users", &count::DENIED_USERS);
    amount("keyward_denied_jwts", &count::DENIED_JWTS);
    time("keyward_denials_last_load_timestamp_seconds", &count::DENIALS_LOADED);
}

fn queues() {
    amount("keyward_usage_queue_length", &count::USAGE_QUEUE);
    outcomes("keyward_usage_flushes_total", &count::USAGE_FLUSHES);
    amount("keyward_audit_queue_length", &count::AUDIT_QUEUE);
    amount("keyward_audit_queue_capacity", &count::AUDIT_CAPACITY);
    amount("keyward_audit_queue_reserve", &count::AUDIT_RESERVE);
    for (kind, lost) in [("event", &count::AUDIT_LOST_EVENTS), ("alert", &count::AUDIT_LOST_ALERTS)] {
        counter!("keyward_audit_dropped_total", "kind" => kind).absolute(lost.get());
    }
    outcomes("keyward_audit_deliveries_total", &count::AUDIT_DELIVERIES);
}

fn key_sets() {
    amount("keyward_jwks_keys", &count::JWKS_KEYS);
    amount("keyward_jwks_failing", &count::JWKS_FAILING);
    outcomes("keyward_jwks_fetches_total", &count::JWKS_FETCHES);
    time("keyward_jwks_last_success_timestamp_seconds", &count::JWKS_FETCHED);
}

fn amount(name: &'static str, sum: &Sum) {
    gauge!(name).set(sum.get() as f64);
}

/// In Unix time, so that whoever reads it knows the age also if it is not told any more.
fn time(name: &'static str, oldest: &Oldest) {
    if let Some(at) = oldest.get() {
        gauge!(name).set(at.as_millis() as f64 / 1000.0);
    }
}

fn outcomes(name: &'static str, outcomes: &Outcomes) {
    for (outcome, counter) in [("success", &outcomes.success), ("failure", &outcomes.failure)] {
        counter!(name, "outcome" => outcome).absolute(counter.get());
    }
}

/// Describes all of it to a recorder that is another one than the last time.
fn describe_once() {
    static DESCRIBED_TO: AtomicUsize = AtomicUsize::new(0);
    let recorder = with_recorder(|recorder| ptr::from_ref(recorder).cast::<()>().addr());
    if DESCRIBED_TO.swap(recorder, Ordering::Relaxed) != recorder {
        describe();
    }
}

fn describe() {
    for (name, what) in COUNTERS {
        describe_counter!(*name, Unit::Count, *what);
    }
    for (name, unit, what) in GAUGES {
        describe_gauge!(*name, *unit, *what);
    }
    for (name, what) in HISTOGRAMS {
        describe_histogram!(*name, Unit::Seconds, *what);
    }
}

const COUNTERS: &[(&str, &str)] = &[
    (
        "keyward_verdicts_total",
        "Requests that an authentication layer accepted, let pass as nobody or refused.",
    ),
    ("keyward_refusals_total", "Requests that an authentication layer refused, by reason."),
    ("keyward_guard_refusals_total", "Requests that a guard or an extractor refused."),
    ("keyward_alerts_total", "Security alerts."),
    ("keyward_events_total", "Audit events other than alerts and access."),
    ("keyward_cache_requests_total", "Look-ups in the caches of keys and tokens."),
    ("keyward_cache_evictions_total", "Cached keys and tokens that had to make room."),
    ("keyward_store_errors_total", "Calls of the store that failed."),
    ("keyward_usage_flushes_total", "Batches of key uses that were written, or could not be."),
    ("keyward_audit_dropped_total", "Audit events that were lost."),
    ("keyward_audit_deliveries_total", "Attempts to deliver a batch of audit events."),
    ("keyward_jwks_fetches_total", "Attempts to fetch a key set."),
];

const GAUGES: &[(&str, Unit, &str)] = &[
    ("keyward_cache_entries", Unit::Count, "Cached keys and tokens."),
    ("keyward_jwt_cache_bytes", Unit::Bytes, "Memory of verified JSON Web Tokens."),
    ("keyward_store_up", Unit::Count, "Whether the store answers."),
    ("keyward_tokens_stored", Unit::Count, "Token records in the store, as of the last clean-up."),
    ("keyward_usage_queue_length", Unit::Count, "Tokens with uses that are not written yet."),
    ("keyward_denied_users", Unit::Count, "Users who are suspended or gone."),
    ("keyward_denied_jwts", Unit::Count, "JSON Web Tokens that are revoked."),
    (
        "keyward_denials_last_load_timestamp_seconds",
        Unit::Seconds,
        "When denied users and tokens were last read from the store.",
    ),
    ("keyward_audit_queue_length", Unit::Count, "Audit events on their way."),
    ("keyward_audit_queue_capacity", Unit::Count, "Room for audit events on their way."),
    ("keyward_audit_queue_reserve", Unit::Count, "Room for alerts beyond that."),
    ("keyward_jwks_keys", Unit::Count, "Fetched keys that are in use."),
    ("keyward_jwks_failing", Unit::Count, "Key sets that could not be fetched the last time."),
    (
        "keyward_jwks_last_success_timestamp_seconds",
        Unit::Seconds,
        "When the key set that is furthest behind was fetched.",
    ),
];

const HISTOGRAMS: &[(&str, &str)] = &[
    ("keyward_verdict_duration_seconds", "Verdicts that had to wait."),
    ("keyward_jwt_verification_duration_seconds", "Verifying a JSON Web Token that was not seen before."),
    ("keyward_usage_flush_duration_seconds", "Writing a batch of key uses."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_every_kind_of_alert() {
        assert!(Alert::KINDS.len() <= count::ALERTS);
        let kinds: std::collections::HashSet<_> = Alert::KINDS.iter().collect();
        assert_eq!(kinds.len(), Alert::KINDS.len());
    }

    #[test]
    fn places_are_those_of_the_declaration() {
        assert!(Refusal::ALL.iter().enumerate().all(|(place, reason)| *reason as usize == place));
        assert!(Scheme::ALL.iter().enumerate().all(|(place, scheme)| *scheme as usize == place));
    }
}
