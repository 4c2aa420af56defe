//! What is counted and timed, by the names that an operator sees.
//!
//! The names follow the [conventions of Prometheus](https://prometheus.io/docs/practices/naming/): the unit is the last
//! word, and what only grows ends in `_total`. No label holds anything of a user: their number has no bound, and what
//! is in a metric is read by many. Where nobody collects, nothing is counted.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, histogram};
use outrigger_domain::plan::Verdict;
use outrigger_domain::{Decision, ServerSeq, TableName};

use crate::error::SyncError;

/// Requests that ended; `route`, `method`, `status`.
pub const HTTP_REQUESTS: &str = "outrigger_http_requests_total";
/// Time to the head of the answer; `route`. Requests that wait for news are left out.
pub const HTTP_DURATION: &str = "outrigger_http_request_duration_seconds";
/// Requests that are being answered.
pub const HTTP_IN_FLIGHT: &str = "outrigger_http_requests_in_flight";
/// Requests that were refused because there were too many; `limit`.
pub const LIMITED: &str = "outrigger_limited_total";
/// Event streams that are open.
pub const WATCHERS: &str = "outrigger_watchers";
/// Changes that were decided; `outcome`, and `reason` of those that are invalid.
pub const CHANGES: &str = "outrigger_changes_total";
/// Changes that are in force without being written: they had been applied before, or had nothing to delete.
pub const CHANGES_REPEATED: &str = "outrigger_changes_repeated_total";
/// Commits that another upload of the same user had beaten; each is planned again.
pub const CONTENTION: &str = "outrigger_commit_contention_total";
/// Uploads that were written without a look at what is there, on the assumption that the devices are right; `held`.
pub const ASSUMED: &str = "outrigger_commit_assumed_total";
/// Where the streams end that were written to.
pub const STREAM_LENGTH: &str = "outrigger_stream_length_changes";
/// Time of a call of the store; `call`, `result`.
pub const STORE_DURATION: &str = "outrigger_store_duration_seconds";
/// Rows that could not be projected onto a business table, once for each attempt; `table`.
pub const PROJECTION_FAILURES: &str = "outrigger_projection_failures_total";
/// What retention has cleared; `kind`.
pub const CLEARED: &str = "outrigger_log_cleared_total";
/// Connections to Postgres; `pool`, `state`.
pub const POOL_CONNECTIONS: &str = "outrigger_postgres_connections";
/// Connections to Postgres that may be open; `pool`.
pub const POOL_CONNECTIONS_MAX: &str = "outrigger_postgres_connections_max";
/// Always 1; `version`, `store`.
pub const BUILD_INFO: &str = "outrigger_build_info";

/// Tells the collector what each name means.
pub fn describe() {
    describe_counter!(HTTP_REQUESTS, "Requests that ended, by route, method and status.");
    describe_histogram!(HTTP_DURATION, Unit::Seconds, "Time to the head of the answer, by route; without long polls.");
    describe_gauge!(HTTP_IN_FLIGHT, "Requests that are being answered.");
    describe_counter!(LIMITED, "Requests that were refused because there were too many, by the limit.");
    describe_gauge!(WATCHERS, "Event streams that are open.");
    describe_counter!(CHANGES, "Changes that were decided, by outcome and reason.");
    describe_counter!(CHANGES_REPEATED, "Changes answered as applied without being written: most are retries.");
    describe_counter!(CONTENTION, "Commits that another upload of the same user had beaten.");
    describe_counter!(ASSUMED, "Commits on the assumption that the devices are right, by whether it held.");
    describe_histogram!(STREAM_LENGTH, Unit::Count, "Where the streams end that were written to, in changes.");
    describe_histogram!(STORE_DURATION, Unit::Seconds, "Time of a call of the store, by call and result.");
    describe_counter!(PROJECTION_FAILURES, "Attempts to project a row that failed, by table.");
    describe_counter!(CLEARED, "What retention has cleared, by kind.");
    describe_gauge!(POOL_CONNECTIONS, "Connections to Postgres, by pool and state.");
    describe_gauge!(POOL_CONNECTIONS_MAX, "Connections to Postgres that may be open, by pool.");
    describe_gauge!(BUILD_INFO, "Always 1; the labels name the version and the store.");
}

/// Counts what an upload was answered.
pub(crate) fn decided(verdict: &Verdict) {
    // Neighbours are mostly alike, and a counter costs more than a comparison.
    for alike in verdict.decisions.chunk_by(|a, b| outcome(a) == outcome(b)) {
        let (outcome, reason) = outcome(&alike[0]);
        counter!(CHANGES, "outcome" => outcome, "reason" => reason).increment(alike.len() as u64);
    }
}

/// The outcome of a decision, and the reason of one that is invalid.
fn outcome(decision: &Decision) -> (&'static str, &'static str) {
    match decision {
        Decision::Applied { .. } => ("applied", ""),
        Decision::Conflict(_) => ("conflict", ""),
        Decision::Invalid(refusal) => ("invalid", refusal.reason.as_str()),
    }
}

/// Counts what came of uploads that were written together as `written` entries, up to that end of the stream.
pub(crate) fn settled(answers: &[Result<Verdict, SyncError>], written: usize, head: ServerSeq) {
    let decisions = answers.iter().flatten().flat_map(|verdict| &verdict.decisions);
    let repeated = decisions.filter(|decision| decision.is_applied()).count().saturating_sub(written);
    if repeated > 0 {
        counter!(CHANGES_REPEATED).increment(repeated as u64);
    }
    if written > 0 {
        histogram!(STREAM_LENGTH).record(head.0 as f64);
    }
}

/// Counts a commit that another upload of the same user had beaten.
pub(crate) fn beaten() {
    counter!(CONTENTION).increment(1);
}

/// Counts a commit on what was assumed.
pub(crate) fn assumed(held: bool) {
    counter!(ASSUMED, "held" => if held { "true" } else { "false" }).increment(1);
}

/// Counts what a step of retention has cleared.
pub(crate) fn cleared(superseded: u64, tombstones: u64, keys: u64) {
    for (kind, number) in [("superseded", superseded), ("tombstones", tombstones), ("keys", keys)] {
        if number > 0 {
            counter!(CLEARED, "kind" => kind).increment(number);
        }
    }
}

/// Counts a row that could not be projected.
pub fn not_projected(table: &TableName) {
    counter!(PROJECTION_FAILURES, "table" => table.to_string()).increment(1);
}
