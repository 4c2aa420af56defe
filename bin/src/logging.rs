//! The log, on stderr: for people on a terminal, JSON for everything else. And the spans, if they are exported.

use std::io::{IsTerminal, stderr};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use crate::traces::Traces;

/// Starts to log what passes the filter, which the configuration has checked, and to export spans.
pub(crate) fn start(filter: &str, traces: Option<&Traces>) {
    let traces = traces.map(|traces| {
        // Our own spans, whatever is logged; those of the exporter's own requests would have no end.
        let ours = Targets::new().with_target("outrigger", LevelFilter::DEBUG);
        OpenTelemetryLayer::new(traces.tracer()).with_filter(ours)
    });
    let subscriber = tracing_subscriber::registry().with(log(filter)).with(traces);
    // Not `init`, which has what crates write to `log` come here, too. Where such a crate only asks whether it would be
    // logged, as sqlx does behind every statement, a filter of one layer remembers the answer and takes the next line of
    // that thread for refused (https://github.com/tokio-rs/tracing/issues/2519).
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        eprintln!("outrigger: the log was started twice");
    }
}

fn log<S: Subscriber + for<'a> LookupSpan<'a>>(filter: &str) -> Box<dyn Layer<S> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    let filter = EnvFilter::new(filter);
    if stderr().is_terminal() {
        Box::new(lines.with_filter(filter))
    } else {
        Box::new(lines.json().flatten_event(true).with_filter(filter))
    }
}
