//! `outrigger bench`: what a server does in a second, next to what its database could do at all.

mod changes;
mod drive;
mod floor;
mod report;
mod runner;
mod sample;
mod scenario;
mod target;
mod work;

use std::path::Path;
use std::time::Duration;

use outrigger_testkit::{Cluster, Settings};
use rusqlite::Connection;

pub use changes::PAYLOAD_BYTES_MIN;
pub use floor::FloorForm;
pub use report::{Line, LoadReport};
pub use sample::Figures;
pub use scenario::What;
pub use target::{Access, Running};

use crate::postgres::Database;
use crate::{BenchError, Progress};
use floor::Floor;
use runner::Runner;
use target::Target;

/// Where a server that is started for the benchmark keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// In memory.
    Memory,
    /// In a file.
    Sqlite,
    /// In Postgres.
    Postgres,
}

/// How much of it.
#[derive(Clone, Debug)]
pub struct LoadBench {
    /// A running server; otherwise one is started.
    pub server: Option<Running>,
    /// The store of a server that is started.
    pub store: Store,
    /// The database of the server, be it running already or not. A throwaway one if there is none.
    pub database_url: Option<String>,
    /// What is measured; all if there is nothing here.
    pub only: Vec<What>,
    /// Users of every line that is not about one user alone.
    pub users: Option<u32>,
    /// Devices of each user.
    pub devices: Option<u32>,
    /// Changes of one upload.
    pub batches: Vec<u32>,
    /// Changes of one page.
    pub pages: Vec<u32>,
    /// Changes in the stream of the user who has much.
    pub rows: u32,
    /// Bytes of each payload.
    pub payload_bytes: u32,
    /// How long a run takes, at the most.
    pub time: Duration,
    /// Changes of a run, at the most.
    pub changes: Option<u64>,
    /// Runs of each line, of which the medians count.
    pub runs: u32,
    /// The floor that is measured too.
    pub floor: Option<FloorForm>,
}

const BUSINESS: &str = "SET client_min_messages = warning; CREATE TABLE IF NOT EXISTS public.users (id uuid PRIMARY KEY, name text, email text,
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now())";
const BUSINESS_SQLITE: &str = "CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, name TEXT, email TEXT,
    created_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))";

/// Measures all of it.
pub async fn run(bench: &LoadBench, progress: &dyn Progress) -> Result<LoadReport, BenchError> {
    let folder = tempfile::tempdir()?;
    progress.begin("starting");
    let place = Place::of(bench, folder.path()).await?;
    let url = place.url.as_deref();
    let target = match (&bench.server, url) {
        (Some(running), _) => Target::running(running)?,
        (None, url) => Target::start(folder.path(), url.unwrap_or("memory:"))?,
    };
    let memory_idle = target.cost().map(|cost| cost.memory);
    // The log of a server's only user may be anything, and there is no floor of that.
    let floor = match url.zip(bench.floor).filter(|_| target.has_devices()) {
        Some((url, form)) => Floor::of(folder.path(), url, form)?,
        None => Floor::None,
    };
    let database = url.map(Database::of).transpose()?.flatten();
    let mut runner = Runner { bench, target: &target, database, floor, stream: None };
    let scenarios = scenario::scenarios(bench, target.has_devices());
    progress.steps(scenarios.len() as u64 * u64::from(bench.runs));
    let mut lines = Vec::new();
    for scenario in scenarios {
        lines.push(runner.line(scenario, progress).await?);
    }
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    let peaks = lines.iter().filter_map(|line| line.figures().memory_peak_mib);
    Ok(LoadReport {
        version: env!("CARGO_PKG_VERSION"),
        store: url.map(|url| url.split(':').next().unwrap_or_default().to_owned()),
        machine: machine(),
        payload_bytes: bench.payload_bytes,
        runs: bench.runs,
        memory_idle_mib: memory_idle.map(mib),
        memory_peak_mib: peaks.reduce(f64::max),
        lines,
    })
}

/// The database of a benchmark, with the business table in it.
struct Place {
    url: Option<String>,
    /// Gone with this.
    _cluster: Option<Cluster>,
}

impl Place {
    async fn of(bench: &LoadBench, folder: &Path) -> Result<Self, BenchError> {
        let mut place = Self { url: bench.database_url.clone(), _cluster: None };
        if place.url.is_none() && bench.server.is_none() {
            match bench.store {
                Store::Memory => place.url = Some("memory:".into()),
                Store::Sqlite => place.url = Some(format!("sqlite://{}", folder.join("bench.db").display())),
                Store::Postgres => {
                    crate::postgres::program("initdb")?;
                    let cluster = tokio::task::spawn_blocking(cluster).await.map_err(BenchError::other)?;
                    place = Self { url: Some(cluster.url("postgres")), _cluster: Some(cluster) };
                }
            }
        }
        // A running server has found its business tables, or not.
        if let (Some(url), None) = (&place.url, &bench.server) {
            if let Some(path) = url.strip_prefix("sqlite://") {
                Connection::open(path)?.execute_batch(BUSINESS_SQLITE)?;
            } else if let Some(database) = Database::of(url)? {
                database.ask(BUSINESS)?;
            }
        }
        Ok(place)
    }
}

/// A server that writes to disk in earnest, with the memory of a small one.
fn cluster() -> Cluster {
    let parameters =
        vec![("shared_buffers", "128MB".to_owned()), ("max_wal_size", "4GB".to_owned()), ("fsync", "on".to_owned())];
    Cluster::start(&Settings { parameters })
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    format!("{cores} cores of {}", model.map_or("an unknown processor", |(_, model)| model.trim()))
}
