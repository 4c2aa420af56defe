//! `/metrics`: collected in this process, handed out where the configuration says.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use metrics::gauge;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use outrigger_application::measures::{self, BUILD_INFO, STREAM_LENGTH};
use outrigger_config::{Config, DatabaseUrl};
use outrigger_http::{Metrics, Serving, metrics_router};
use tokio::net::TcpListener;

use crate::RunError;
use crate::wire::failed;

/// Bounds of what is counted in seconds: from a look-up in memory to the longest that a device waits.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Bounds of the lengths of streams, in changes.
const CHANGES: [f64; 7] = [1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];
/// How often what was recorded is put into its buckets, so that it takes no room however rarely somebody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Begins to collect, and to serve at `metrics_listen`. Without that key the answer is for `GET /metrics` of the server
/// itself if that is for this machine alone: the numbers are not for everybody.
///
/// The future has to run for as long as the server does.
pub(crate) async fn start(
    config: &Config,
    gauges: impl Fn() + Send + Sync + 'static,
    server: &TcpListener,
) -> Result<(Option<Metrics>, BoxFuture<'static, ()>), RunError> {
    let cannot = |error| failed("cannot collect metrics", error);
    let address = server.local_addr().map_err(|error| failed("cannot collect metrics", error))?;
    let own = config.settings.metrics_listen.map(|listen| listen.0);
    if own.is_none() && !address.ip().is_loopback() {
        return Ok((None, Box::pin(async {})));
    }
    let handle = recorder().map_err(cannot)?;
    build_info(&config.settings.database_url);
    let process = Collector::default();
    process.describe();
    let rendering = handle.clone();
    let metrics: Metrics = Arc::new(move || {
        gauges();
        process.collect();
        rendering.render()
    });
    let upkeep = async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            handle.run_upkeep();
        }
    };
    let Some(own) = own else { return Ok((Some(metrics), Box::pin(upkeep))) };
    let listener = TcpListener::bind(own).await;
    let listener = listener.map_err(|error| failed(format!("metrics_listen: cannot listen on {own}"), error))?;
    let listening = listener.local_addr().unwrap_or(own);
    tracing::info!("metrics are at http://{listening}/metrics");
    let serving = outrigger_http::serve(listener, metrics_router(metrics), Serving::default(), std::future::pending());
    let both = async move {
        tokio::join!(upkeep, serving);
    };
    Ok((None, Box::pin(both)))
}

/// Puts the collector in place, for good.
fn recorder() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(STREAM_LENGTH.into()), &CHANGES)?;
    let handle = builder.install_recorder()?;
    measures::describe();
    Ok(handle)
}

fn build_info(database: &DatabaseUrl) {
    let store = match database {
        DatabaseUrl::Memory => "memory",
        DatabaseUrl::Sqlite(_) => "sqlite",
        DatabaseUrl::Postgres(_) => "postgres",
    };
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "store" => store).set(1.0);
}
