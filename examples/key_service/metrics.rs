//! `GET /metrics`: what Prometheus reads, open to anybody. It holds counts, and names, addresses and ids of nobody.

use std::{error::Error, time::Duration};

use axum::{
    Router,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use keyward::metrics::{DURATION_BUCKETS, publish};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// How often measured durations are sorted into their buckets, so that they do not pile up while nobody reads them.
const UPKEEP: Duration = Duration::from_secs(5);

/// Makes the recorder that everything in this program reports to.
pub(crate) fn install() -> Result<PrometheusHandle, Box<dyn Error>> {
    let durations = Matcher::Suffix("_duration_seconds".to_owned());
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(durations, DURATION_BUCKETS)?;
    Ok(recorder.install_recorder()?)
}

pub(crate) fn route(recorder: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(text)).with_state(recorder)
}

async fn text(State(recorder): State<PrometheusHandle>) -> Response {
    publish();
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], recorder.render()).into_response()
}

/// Looks after the recorder. Never returns.
pub(crate) async fn keep_up(recorder: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        recorder.run_upkeep();
    }
}
