//! `outrigger bench sweep`: how long uploads take while the log of their user is cleared.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use crate::client::Client;
use crate::server::{SECRET, Server};
use crate::stats::Times;
use crate::{BenchError, Progress};

/// Changes in one upload that fills the log.
const BATCH: u32 = 1_000;
/// Uploads that are timed while nothing is cleared.
const QUIET: u32 = 300;

/// How much of it.
#[derive(Clone, Debug)]
pub struct SweepBench {
    /// The database; an empty one.
    pub database_url: String,
    /// Rows that are made, changed and deleted: each leaves three entries, of which one is a deletion.
    pub rows: u32,
    /// Bytes of each payload.
    pub payload_bytes: u32,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct SweepReport {
    entries: u32,
    /// Uploads of one change by the same user while nothing is cleared.
    quiet: Times,
    /// The same while `outrigger compact` clears everything as fast as it can.
    sweeping: Times,
    uploads: usize,
    sweep_ms: f64,
}

impl SweepReport {
    /// For people.
    pub fn table(&self) -> String {
        let line = |what: &str, times: &Times| {
            format!("{what:<44} {:>8.2} {:>8.2} {:>8.2}\n", times.p50_ms, times.p99_ms, times.max_ms)
        };
        let mut text = format!("{:<44} {:>8} {:>8} {:>8}\n", "", "p50 ms", "p99 ms", "max ms");
        text += &line("an upload while nothing is cleared", &self.quiet);
        text += &line("an upload while the user's log is cleared", &self.sweeping);
        text += &format!("{} uploads while {} entries went in {:.0} ms\n", self.uploads, self.entries, self.sweep_ms);
        text
    }
}

/// Measures all of it on a server of its own.
pub async fn run(bench: &SweepBench, progress: &dyn Progress) -> Result<SweepReport, BenchError> {
    let folder = tempfile::tempdir()?;
    let server = Server::start(folder.path(), &bench.database_url)?;
    progress.begin("filling the log");
    fill(&server, bench).await?;
    let mut phone = Client::connect(&server.address, &server.token("alice", "phone")?).await?;
    progress.begin("uploads while nothing is cleared");
    let (mut number, mut quiet) = (0, Vec::new());
    while number < QUIET {
        number += 1;
        quiet.push(timed(&mut phone, number).await?);
    }
    progress.begin("uploads while the log is cleared");
    let (began, mut sweeping) = (Instant::now(), Vec::new());
    let mut sweep = compact(folder.path(), &bench.database_url)?;
    let sweep_ms = loop {
        if let Some(status) = sweep.try_wait()? {
            if !status.success() {
                return Err(BenchError::Refused("the log was not cleared".into()));
            }
            break began.elapsed().as_secs_f64() * 1e3;
        }
        number += 1;
        sweeping.push(timed(&mut phone, number).await?);
    };
    let uploads = sweeping.len();
    let (quiet, sweeping) = (Times::of(quiet), Times::of(sweeping));
    Ok(SweepReport { entries: 3 * bench.rows, quiet, sweeping, uploads, sweep_ms })
}

async fn fill(server: &Server, bench: &SweepBench) -> Result<(), BenchError> {
    let mut tablet = Client::connect(&server.address, &server.token("alice", "tablet")?).await?;
    let payload = format!(r#"{{"name":"{}"}}"#, "x".repeat(bench.payload_bytes as usize - 11));
    for (round, op) in ["INSERT", "UPDATE", "DELETE"].into_iter().enumerate() {
        let payload = if op == "DELETE" { "null" } else { &payload };
        for begin in (0..bench.rows).step_by(BATCH as usize) {
            let change = |n: u32| {
                let (id, pk) = (round as u32 * bench.rows + n + 1, uuid::Uuid::from_u128(n.into()));
                format!(
                    r#"{{"source_change_id":{id},"table":"users","op":"{op}","pk":"{pk}","server_version":{round},"payload":{payload}}}"#
                )
            };
            let changes: Vec<String> = (begin..bench.rows.min(begin + BATCH)).map(change).collect();
            let body = format!(r#"{{"changes":[{}]}}"#, changes.join(","));
            tablet.call("POST", "/sync/upload", Bytes::from(body)).await?;
        }
    }
    Ok(())
}

/// Clears all that is old enough, with ages of nothing.
fn compact(folder: &Path, database_url: &str) -> Result<Child, BenchError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["compact", "--config", "bench.toml", "--database-url", database_url]).current_dir(folder);
    for age in ["SUPERSEDED_AFTER", "TOMBSTONES_AFTER"] {
        command.env(format!("OUTRIGGER_RETENTION__{age}"), "0s");
    }
    Ok(command.env("JWT_SECRET", SECRET).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

async fn timed(phone: &mut Client, number: u32) -> Result<Duration, BenchError> {
    let pk = uuid::Uuid::new_v4();
    let body = format!(
        r#"{{"changes":[{{"source_change_id":{number},"table":"users","op":"INSERT","pk":"{pk}","server_version":0,"payload":{{"name":"n"}}}}]}}"#
    );
    let began = Instant::now();
    phone.call("POST", "/sync/upload", Bytes::from(body)).await?;
    Ok(began.elapsed())
}
