//! `GET /metrics`: what Prometheus reads. It holds counts, and names, addresses and ids of nobody.
//!
//! Yet counts by reason are no matter for clients: whoever presents a key that was found and then sees which number
//! grew knows whether it was revoked, or a trap. So those are for administrators and for this machine.

use std::{error::Error, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::get,
};
use keyward::{
    AuthLayer, Principal,
    metrics::{DURATION_BUCKETS, publish},
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// How often measured durations are sorted into their buckets, so that they do not pile up while nobody reads them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Makes the recorder that everything in this program reports to.
pub(crate) fn install() -> Result<PrometheusHandle, Box<dyn Error>> {
    let durations = Matcher::Suffix("_duration_seconds".to_owned());
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(durations, DURATION_BUCKETS)?;
    Ok(recorder.install_recorder()?)
}

pub(crate) fn route(recorder: PrometheusHandle, auth: AuthLayer) -> Router {
    Router::new().route("/metrics", get(text)).layer(auth.optional()).with_state(recorder)
}

async fn text(
    State(recorder): State<PrometheusHandle>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    me: Option<Principal>,
) -> Response {
    publish();
    let is_admin = me.is_some_and(|me| me.has_role("admin"));
    let is_local = peer.ip().to_canonical().is_loopback() && !is_forwarded(&headers);
    let whole = recorder.render();
    let text = if is_admin || is_local { whole } else { for_anybody(&whole) };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], text).into_response()
}

/// Whether a proxy says that somebody else asks.
fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        name.starts_with("x-forwarded-") || ["forwarded", "via", "x-real-ip"].contains(&name)
    })
}

/// How the service is, without what its clients do.
fn for_anybody(text: &str) -> String {
    const OPEN: [&str; 3] = ["keyward_store_up", "keyward_store_errors_total", "keyward_jwks_"];
    let is_open = |line: &&str| {
        let name = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
        OPEN.iter().any(|open| name.starts_with(open))
    };
    let mut open = "# The rest is for administrators, and for requests from this machine.\n".to_owned();
    for line in text.lines().filter(is_open) {
        open.extend([line, "\n"]);
    }
    open
}

/// Looks after the recorder. Never returns.
pub(crate) async fn keep_up(recorder: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        recorder.run_upkeep();
    }
}
