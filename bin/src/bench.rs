//! `outrigger bench`: what the server does in a second on this machine.

use std::io::{Write, stdout};
use std::time::Duration;

use indicatif::ProgressBar;
use outrigger_bench::Progress;
use outrigger_bench::watch::{self, WatchBench};

use crate::cli::{BenchCommand, BenchWatchArgs};
use crate::wire::failed;
use crate::{Outcome, RunError, output};

struct Spinner(ProgressBar);

impl Progress for Spinner {
    fn begin(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.enable_steady_tick(Duration::from_millis(100));
    }
}

/// Runs a benchmark and prints what it measured.
pub(crate) async fn run(command: &BenchCommand) -> Result<Outcome, RunError> {
    match command {
        BenchCommand::Watch(args) => run_watch(args).await,
    }
}

async fn run_watch(args: &BenchWatchArgs) -> Result<Outcome, RunError> {
    let folder = tempfile::tempdir().map_err(|error| failed("cannot make a folder for the benchmark", error))?;
    let file = || format!("sqlite://{}", folder.path().join("bench.db").display());
    let bench = WatchBench {
        database_url: args.database_url.clone().unwrap_or_else(file),
        changes: args.changes,
        crowd: args.crowd,
        idle: args.idle,
        idle_for: Duration::from_secs(args.seconds.into()),
    };
    let spinner = Spinner(output::spinner());
    let report = watch::run(&bench, &spinner).await.map_err(|error| failed("the benchmark stopped", error))?;
    spinner.0.finish_and_clear();
    let text = if args.json { serde_json::to_string(&report).unwrap_or_default() + "\n" } else { report.table() };
    output::unless_closed(stdout().write_all(text.as_bytes())).map_err(|error| failed("cannot write", error))?;
    Ok(Outcome::Done)
}
