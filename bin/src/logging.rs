//! The log, on stderr: for people on a terminal, JSON for everything else.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Whether `filter` can be read as one.
pub(crate) fn check(filter: &str) -> Result<(), ParseError> {
    EnvFilter::builder().parse(filter).map(drop)
}

/// Starts to log what passes the filter, which has been [checked](check).
pub(crate) fn start(filter: &str) {
    let subscriber = tracing_subscriber::fmt().with_writer(stderr).with_env_filter(EnvFilter::new(filter));
    if stderr().is_terminal() {
        subscriber.init();
    } else {
        subscriber.json().flatten_event(true).init();
    }
}
