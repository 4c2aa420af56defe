//! `outrigger bench`: what the server does in a second on this machine.

use std::io::{Write, stdout};
use std::time::Duration;

use indicatif::ProgressBar;
use outrigger_bench::Progress;
use outrigger_bench::load::{self, Access, FloorForm, LoadBench, Running, Store};
use outrigger_bench::snapshot::{self, SnapshotBench};
use outrigger_bench::sweep::{self, SweepBench};
use outrigger_bench::watch::{self, WatchBench};
use tempfile::TempDir;

use crate::cli::{
    BenchArgs, BenchCommand, BenchLoadArgs, BenchSnapshotArgs, BenchSweepArgs, BenchWatchArgs, FloorKind, StoreKind,
};
use crate::wire::failed;
use crate::{Outcome, RunError, output};

struct Spinner(ProgressBar);

impl Progress for Spinner {
    fn begin(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.enable_steady_tick(Duration::from_millis(100));
    }
}

/// A bar of as many steps as there turn out to be.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn begin(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    fn steps(&self, steps: u64) {
        self.0.set_length(steps);
    }

    fn step(&self) {
        self.0.inc(1);
    }
}

/// Runs a benchmark and prints what it measured.
pub(crate) async fn run(args: &BenchArgs) -> Result<Outcome, RunError> {
    match &args.command {
        None => run_load(&args.load).await,
        Some(BenchCommand::Watch(args)) => run_watch(args).await,
        Some(BenchCommand::Snapshot(args)) => run_snapshot(args).await,
        Some(BenchCommand::Sweep(args)) => run_sweep(args).await,
    }
}

async fn run_load(args: &BenchLoadArgs) -> Result<Outcome, RunError> {
    let access = args.token.clone().map(Access::Token).or(args.secret.clone().map(Access::Secret));
    let server = args.url.clone().zip(access).map(|(url, access)| Running { url, access, process: args.process });
    let bench = LoadBench {
        server,
        store: match args.store {
            StoreKind::Memory => Store::Memory,
            StoreKind::Sqlite => Store::Sqlite,
            StoreKind::Postgres => Store::Postgres,
        },
        database_url: args.database_url.clone(),
        only: args.only.clone(),
        users: args.users,
        devices: args.devices,
        batches: args.batch.clone(),
        pages: args.page.clone(),
        rows: args.rows,
        payload_bytes: args.payload_bytes,
        time: Duration::from_secs(args.seconds.into()),
        changes: args.changes,
        runs: args.runs,
        floor: match args.floor {
            FloorKind::Statement => Some(FloorForm::Statement),
            FloorKind::Transaction => Some(FloorForm::Transaction),
            FloorKind::None => None,
        },
    };
    let bar = Bar(output::bar(0));
    let report = load::run(&bench, &bar).await.map_err(stopped)?;
    bar.0.finish_and_clear();
    print(if args.json { serde_json::to_string(&report).ok() } else { None }, report.table())
}

async fn run_watch(args: &BenchWatchArgs) -> Result<Outcome, RunError> {
    let (_folder, database_url) = database(args.database_url.as_ref())?;
    let bench = WatchBench {
        database_url,
        changes: args.changes,
        crowd: args.crowd,
        idle: args.idle,
        idle_for: Duration::from_secs(args.seconds.into()),
    };
    let spinner = Spinner(output::spinner());
    let report = watch::run(&bench, &spinner).await.map_err(stopped)?;
    spinner.0.finish_and_clear();
    print(if args.json { serde_json::to_string(&report).ok() } else { None }, report.table())
}

async fn run_snapshot(args: &BenchSnapshotArgs) -> Result<Outcome, RunError> {
    let (_folder, database_url) = database(args.database_url.as_ref())?;
    let &BenchSnapshotArgs { rows, payload_bytes, rounds, .. } = args;
    let spinner = Spinner(output::spinner());
    let bench = SnapshotBench { database_url, rows, payload_bytes, rounds };
    let report = snapshot::run(&bench, &spinner).await.map_err(stopped)?;
    spinner.0.finish_and_clear();
    print(if args.json { serde_json::to_string(&report).ok() } else { None }, report.table())
}

async fn run_sweep(args: &BenchSweepArgs) -> Result<Outcome, RunError> {
    let (_folder, database_url) = database(args.database_url.as_ref())?;
    let bench = SweepBench { database_url, rows: args.rows, payload_bytes: args.payload_bytes };
    let spinner = Spinner(output::spinner());
    let report = sweep::run(&bench, &spinner).await.map_err(stopped)?;
    spinner.0.finish_and_clear();
    print(if args.json { serde_json::to_string(&report).ok() } else { None }, report.table())
}

/// The database that was named, or a file in a folder that is removed with the answer.
fn database(named: Option<&String>) -> Result<(TempDir, String), RunError> {
    let folder = tempfile::tempdir().map_err(|error| failed("cannot make a folder for the benchmark", error))?;
    let url = named.cloned().unwrap_or_else(|| format!("sqlite://{}", folder.path().join("bench.db").display()));
    Ok((folder, url))
}

fn stopped(error: outrigger_bench::BenchError) -> RunError {
    failed("the benchmark stopped", error)
}

fn print(json: Option<String>, table: String) -> Result<Outcome, RunError> {
    let text = json.map_or(table, |json| json + "\n");
    output::unless_closed(stdout().write_all(text.as_bytes())).map_err(|error| failed("cannot write", error))?;
    Ok(Outcome::Done)
}
