//! `outrigger bench snapshot`: how long the first sync of a new device takes, next to COPY of the same rows.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use crate::client::Client;
use crate::postgres::Database;
use crate::server::Server;
use crate::{BenchError, Progress};

/// Changes in one upload.
const BATCH: u32 = 1_000;
const MIB: f64 = 1024.0 * 1024.0;

/// How much of it.
#[derive(Clone, Debug)]
pub struct SnapshotBench {
    /// The database; an empty one. With one in Postgres `psql` is needed, for the COPY.
    pub database_url: String,
    /// Rows of the user.
    pub rows: u32,
    /// Bytes of each row's payload.
    pub payload_bytes: u32,
    /// How often each is measured. The fastest time counts: whatever else the machine does only slows it down.
    pub rounds: u32,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct SnapshotReport {
    rows: u32,
    payload_bytes: u32,
    /// The whole stream of lines, as it is.
    lines: Run,
    /// The same, compressed by zstd.
    compressed: Run,
    /// The table of the rows' payloads by COPY; only on Postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<Run>,
    /// The rows with their versions, in order, by COPY: what a snapshot has; only on Postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    copy_in_order: Option<Run>,
    memory_before_mib: f64,
    memory_peak_mib: f64,
}

/// The fastest of some rounds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Run {
    wall_ms: f64,
    /// Time on a core of the server and of its database's processes, as far as this system tells.
    cpu_ms: f64,
    mib: f64,
}

impl SnapshotReport {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} rows of {} bytes{:<22} {:>9} {:>9} {:>9}\n",
            self.rows, self.payload_bytes, "", "ms", "CPU ms", "MiB"
        );
        let runs = [
            ("snapshot as lines", Some(self.lines)),
            ("snapshot as lines, zstd", Some(self.compressed)),
            ("COPY of the payloads", self.copy),
            ("COPY of what a snapshot has, in its order", self.copy_in_order),
        ];
        for (what, run) in runs {
            if let Some(Run { wall_ms, cpu_ms, mib }) = run {
                text += &format!("{what:<44} {wall_ms:>9.0} {cpu_ms:>9.0} {mib:>9.1}\n");
            }
        }
        text +=
            &format!("the server at most: {:.1} MiB ({:.1} before)\n", self.memory_peak_mib, self.memory_before_mib);
        text
    }
}

/// Measures all of it on a server of its own.
pub async fn run(bench: &SnapshotBench, progress: &dyn Progress) -> Result<SnapshotReport, BenchError> {
    let folder = tempfile::tempdir()?;
    progress.begin("filling the database");
    fill(&Server::start(folder.path(), &bench.database_url)?, bench).await?;
    // Another server than the one that was filled: its memory tells what the snapshots take.
    let server = Server::start(folder.path(), &bench.database_url)?;
    let database = Database::of(&bench.database_url)?;
    if let Some(database) = &database {
        database.ask("VACUUM ANALYZE")?;
    }
    let before = server.cost();
    progress.begin("a stream of lines");
    let lines = fastest(bench, async || streamed(&server, database.as_ref(), None).await).await?;
    progress.begin("a compressed stream");
    let compressed = fastest(bench, async || streamed(&server, database.as_ref(), Some("zstd")).await).await?;
    progress.begin("COPY");
    let (copy, copy_in_order) = match &database {
        Some(database) => (
            Some(fastest(bench, async || copy(database, COPY)).await?),
            Some(fastest(bench, async || copy(database, COPY_IN_ORDER)).await?),
        ),
        None => (None, None),
    };
    let after = server.cost();
    Ok(SnapshotReport {
        rows: bench.rows,
        payload_bytes: bench.payload_bytes,
        lines,
        compressed,
        copy,
        copy_in_order,
        memory_before_mib: before.memory as f64 / MIB,
        memory_peak_mib: after.memory_peak as f64 / MIB,
    })
}

async fn fastest(bench: &SnapshotBench, run: impl AsyncFn() -> Result<Run, BenchError>) -> Result<Run, BenchError> {
    let mut best = run().await?;
    for _ in 1..bench.rounds {
        let again = run().await?;
        best.wall_ms = best.wall_ms.min(again.wall_ms);
        best.cpu_ms = best.cpu_ms.min(again.cpu_ms);
    }
    Ok(best)
}

async fn fill(server: &Server, bench: &SnapshotBench) -> Result<(), BenchError> {
    let mut phone = Client::connect(&server.address, &server.token("big", "phone")?).await?;
    let mut made = 0;
    while made < bench.rows {
        let until = bench.rows.min(made + BATCH);
        let changes: Vec<String> = (made + 1..=until).map(|number| change(number, bench.payload_bytes)).collect();
        let body = format!(r#"{{"changes":[{}]}}"#, changes.join(","));
        phone.call("POST", "/sync/upload", Bytes::from(body)).await?;
        made = until;
    }
    Ok(())
}

/// A row whose payload has that many bytes, and is not all the same.
fn change(number: u32, payload_bytes: u32) -> String {
    let mut text = String::new();
    while text.len() < payload_bytes as usize {
        text += &uuid::Uuid::new_v4().simple().to_string();
    }
    text.truncate((payload_bytes as usize).saturating_sub(r#"{"name":""}"#.len()));
    format!(
        r#"{{"source_change_id":{number},"table":"users","op":"INSERT","pk":"{}","server_version":0,"payload":{{"name":"{text}"}}}}"#,
        uuid::Uuid::new_v4()
    )
}

async fn streamed(
    server: &Server,
    database: Option<&Database>,
    encoding: Option<&'static str>,
) -> Result<Run, BenchError> {
    let mut tablet = Client::connect(&server.address, &server.token("big", "tablet")?).await?;
    let spent = || server.cost().cpu + database.and_then(Database::cpu).unwrap_or_default();
    let (cpu, began) = (spent(), Instant::now());
    let (bytes, end) = tablet.lines("/sync/snapshot", encoding).await?;
    let wall = began.elapsed();
    if encoding.is_none() && !end.ends_with(b"}\n") {
        return Err(BenchError::Refused("the snapshot was cut".into()));
    }
    Ok(Run::new(wall, spent().saturating_sub(cpu), bytes))
}

impl Run {
    fn new(wall: Duration, cpu: Duration, bytes: u64) -> Self {
        Self { wall_ms: wall.as_secs_f64() * 1e3, cpu_ms: cpu.as_secs_f64() * 1e3, mib: bytes as f64 / MIB }
    }
}

const COPY: &str =
    "COPY (SELECT schema_name, table_name, pk_uuid, payload FROM sync.sync_state WHERE user_id = 'big') TO STDOUT";
const COPY_IN_ORDER: &str = "COPY (SELECT s.schema_name, s.table_name, s.pk_uuid, m.server_version, s.payload \
     FROM sync.sync_state s JOIN sync.sync_row_meta m USING (user_id, schema_name, table_name, pk_uuid) \
     WHERE user_id = 'big' ORDER BY s.schema_name, s.table_name, s.pk_uuid) TO STDOUT";

fn copy(database: &Database, sql: &str) -> Result<Run, BenchError> {
    let spent = || database.cpu().unwrap_or_default();
    let (cpu, began, processes) = (spent(), Instant::now(), database.processes());
    let bytes = database.read(sql)?;
    let wall = began.elapsed();
    database.settle(processes);
    Ok(Run::new(wall, spent().saturating_sub(cpu), bytes))
}
