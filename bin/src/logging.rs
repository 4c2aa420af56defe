//! The log, on stderr: for people on a terminal, JSON for everything else. And the spans, if they are exported.

use std::io::{IsTerminal, stderr};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::traces::Traces;

/// Whether `filter` can be read as one.
pub(crate) fn check(filter: &str) -> Result<(), ParseError> {
    EnvFilter::builder().parse(filter).map(drop)
}

/// Starts to log what passes the filter, which has been [checked](check), and to export spans.
pub(crate) fn start(filter: &str, traces: Option<&Traces>) {
    let traces = traces.map(|traces| {
        // Our own spans, whatever is logged; those of the exporter's own requests would have no end.
        let ours = Targets::new().with_target("outrigger", LevelFilter::DEBUG);
        OpenTelemetryLayer::new(traces.tracer()).with_filter(ours)
    });
    tracing_subscriber::registry().with(log(filter)).with(traces).init();
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
