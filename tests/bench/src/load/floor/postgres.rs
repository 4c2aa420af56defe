//! The floor of Postgres, driven by pgbench: one prepared statement a batch, one client a device.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{FloorForm, Shape, Write};
use crate::BenchError;
use crate::load::changes::Changes;
use crate::load::drive::{Driven, Limit};
use crate::load::sample::Sample;
use crate::load::work::ROWS_OF_DEVICE;
use crate::postgres::{Database, program, succeeded};

const SETUP: &str = include_str!("setup.sql");
const ROWS: &str = include_str!("rows.sql");
/// Changes that are read in one run, about.
const READ: u64 = 1_000_000;
/// As the server's own sessions have it: plans that do not hang on how small a table was when they were made.
const SESSION: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off -c jit=off";

/// The floor's tables in the database.
pub(crate) struct PostgresFloor {
    database: Database,
    pgbench: PathBuf,
    folder: PathBuf,
    form: FloorForm,
}

impl PostgresFloor {
    /// Makes the tables.
    pub(crate) fn new(folder: &Path, database: Database, form: FloorForm) -> Result<Self, BenchError> {
        let pgbench = program("pgbench")?;
        let insert = match form {
            FloorForm::Statement => include_str!("insert.sql"),
            FloorForm::Transaction => include_str!("insert_plainly.sql"),
        };
        std::fs::write(folder.join("insert.sql"), insert)?;
        std::fs::write(folder.join("update.sql"), include_str!("update.sql"))?;
        database.ask(SETUP)?;
        Ok(Self { database, pgbench, folder: folder.to_owned(), form })
    }

    /// How it writes, in few words.
    pub(crate) fn name(&self) -> &'static str {
        match self.form {
            FloorForm::Statement => "one SQL statement a batch, by pgbench",
            FloorForm::Transaction => {
                "one transaction a batch, with a statement a table, by pgbench; updates in one statement"
            }
        }
    }

    /// Writes as fast as all clients together can.
    pub(crate) fn write(&self, write: Write, shape: Shape, limit: Limit) -> Result<Sample, BenchError> {
        let (run, clients) = (fastrand::u32(..), shape.users * shape.devices);
        let rows = ROWS_OF_DEVICE.max(shape.batch as usize);
        let name_bytes = Changes::new(shape.payload_bytes, 1).values().0.len();
        let variables = [
            ("run", run.to_string()),
            ("users", shape.users.to_string()),
            ("clients", clients.to_string()),
            ("batch", shape.batch.to_string()),
            ("rows", rows.to_string()),
            ("name_bytes", name_bytes.to_string()),
        ];
        let mut prepare = String::new();
        for (name, value) in &variables {
            prepare += &format!("\\set {name} {value}\n");
        }
        prepare += "INSERT INTO bench_floor.user_stream SELECT :run || '-user-' || n, 0 FROM generate_series(0, :users - 1) n;\n";
        if write == Write::Update {
            prepare += ROWS;
            // Without it the planner takes the first of the keys' columns for enough.
            prepare += "ANALYZE bench_floor.sync_row_meta, bench_floor.sync_state, bench_floor.users;";
        }
        self.database.ask(&prepare)?;
        let script = if write == Write::Insert { "insert.sql" } else { "update.sql" };
        self.pgbench(script, &variables, (clients, u64::from(shape.batch)), limit)
    }

    fn pgbench(
        &self,
        script: &str,
        variables: &[(&str, String)],
        (clients, batch): (u32, u64),
        limit: Limit,
    ) -> Result<Sample, BenchError> {
        let prefix = format!("times-{}", fastrand::u32(..));
        let mut command = Command::new(&self.pgbench);
        command.current_dir(&self.folder).env("PGOPTIONS", SESSION).stdin(Stdio::null());
        command.args(["-n", "-M", "prepared", "-j", "1", "-c", &clients.to_string(), "-f", script, "-l"]);
        command.arg(format!("--log-prefix={prefix}"));
        for (name, value) in variables {
            command.args(["-D", &format!("{name}={value}")]);
        }
        match limit.changes {
            Some(changes) => command.args(["-t", &changes.div_ceil(batch * u64::from(clients)).max(1).to_string()]),
            None => command.args(["-T", &limit.time.as_secs().max(seconds_for(clients)).to_string()]),
        };
        let (processes, cpu) = (self.database.processes(), self.database.cpu());
        let output = succeeded("pgbench", command.arg(self.database.url()).output()?)?;
        self.database.settle(processes);
        let cpu = self.database.cpu().zip(cpu).map(|(after, before)| after.saturating_sub(before));
        let text = String::from_utf8_lossy(&output);
        let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse::<f64>().ok());
        let nothing =
            || BenchError::Refused(format!("the floor was done with nothing in its time; it needs more: {text}"));
        let tps = tps.filter(|tps| *tps > 0.0).ok_or_else(nothing)?;
        let times = self.times(&prefix)?;
        let (changes, wall) = (times.len() as u64 * batch, Duration::from_secs_f64(times.len() as f64 / tps));
        Ok(Sample { driven: Driven { changes, wall, times, bytes: 0 }, database_cpu: cpu, ..Sample::default() })
    }

    /// How long each transaction took, from the log of the only thread.
    fn times(&self, prefix: &str) -> Result<Vec<Duration>, BenchError> {
        let mut times = Vec::new();
        for file in std::fs::read_dir(&self.folder)?.flatten() {
            if file.file_name().to_string_lossy().starts_with(prefix) {
                let log = std::fs::read_to_string(file.path())?;
                let micros = log.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok());
                times.extend(micros.map(Duration::from_micros));
                std::fs::remove_file(file.path())?;
            }
        }
        Ok(times)
    }

    /// COPY of a user's log, in its order.
    pub(crate) fn read(&self, user: &str, limit: Limit) -> Result<Sample, BenchError> {
        let count = format!("SELECT count(*) FROM sync.server_change_log WHERE user_id = '{user}'");
        let rows: u64 = String::from_utf8_lossy(&self.database.ask(&count)?).trim().parse().unwrap_or(0);
        let times = limit.changes.unwrap_or(READ).min(READ).div_ceil(rows.max(1));
        let copy = format!(
            "COPY (SELECT server_id, schema_name, table_name, op, pk_uuid, payload, server_version, source_id, \
             source_change_id, ts FROM sync.server_change_log WHERE user_id = '{user}' ORDER BY server_id) TO STDOUT;\n"
        );
        let copies = format!("SET enable_seqscan = off;\n{}", copy.repeat(times as usize));
        let (processes, cpu, began) = (self.database.processes(), self.database.cpu(), Instant::now());
        let bytes = self.database.read(&copies)?;
        let wall = began.elapsed();
        self.database.settle(processes);
        let cpu = self.database.cpu().zip(cpu).map(|(after, before)| after.saturating_sub(before));
        let driven = Driven { changes: rows * times, wall, times: vec![wall / times.max(1) as u32], bytes };
        Ok(Sample { driven, database_cpu: cpu, ..Sample::default() })
    }
}

impl Drop for PostgresFloor {
    fn drop(&mut self) {
        // That it stays is no failure of the run.
        let _ = self.database.ask("SET client_min_messages = warning; DROP SCHEMA IF EXISTS bench_floor CASCADE");
    }
}

/// Every client has to connect and to plan first, which must not be most of what is measured.
fn seconds_for(clients: u32) -> u64 {
    u64::from(clients).div_ceil(8).max(1)
}
