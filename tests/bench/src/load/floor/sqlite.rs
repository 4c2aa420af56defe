//! The floor of SQLite: one thread that does nothing but write, with the file's settings as the server has them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rusqlite::{Connection, OpenFlags, Transaction, params};

use super::{Shape, Write};
use crate::BenchError;
use crate::load::changes::{Changes, Row};
use crate::load::drive::{Driven, Limit};
use crate::load::sample::Sample;
use crate::load::work::ROWS_OF_DEVICE;
use crate::server::Cost;

const SETUP: &str = include_str!("setup.sqlite.sql");
/// Changes that are read in one run, about.
const READ: u64 = 1_000_000;

/// The floor beside the server's file.
pub(crate) struct SqliteFloor {
    /// The server's file.
    served: PathBuf,
    /// One file for all lines, which grows as the server's does.
    floor: Mutex<Floor>,
}

impl SqliteFloor {
    /// With a file of its own beside that of the server.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(crate) fn new(served: PathBuf) -> Result<Self, BenchError> {
        let folder = served.parent().map_or_else(PathBuf::new, PathBuf::from);
        Ok(Self { served, floor: Mutex::new(Self::open(&folder)?) })
    }

    fn open(folder: &Path) -> Result<Floor, BenchError> {
        let path = tempfile::Builder::new().prefix("bench-floor-").tempfile_in(folder)?.into_temp_path();
        let connection = Connection::open(&path)?;
        // What the server's writer has.
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
        connection.pragma_update(None, "cache_size", -8 * 1024)?;
        connection.set_prepared_statement_cache_capacity(32);
        connection.execute_batch(SETUP)?;
        Ok(Floor { connection, path })
    }

    /// Writes as fast as one thread can. The users take turns.
    pub(crate) fn write(&self, write: Write, shape: Shape, limit: Limit) -> Result<Sample, BenchError> {
        let mut floor = self.floor.lock().unwrap_or_else(PoisonError::into_inner);
        let (run, mut users) = (fastrand::u32(..), Vec::new());
        for n in 0..shape.users {
            users.push(floor.user(format!("run-{run}-user-{n}"), write, shape)?);
        }
        let (cpu, began) = (Cost::of(std::process::id()).cpu, Instant::now());
        let mut driven = Driven::default();
        let quota = limit.changes.unwrap_or(u64::MAX);
        while driven.changes < quota && began.elapsed() < limit.time {
            let count = users.len();
            let user = &mut users[driven.times.len() % count];
            let batch = user.batch(write, shape.batch as usize);
            let began = Instant::now();
            let tx = floor.connection.transaction()?;
            user.write(&tx, write, &batch)?;
            tx.commit()?;
            driven.times.push(began.elapsed());
            driven.changes += u64::from(shape.batch);
        }
        driven.wall = began.elapsed();
        let cpu = Cost::of(std::process::id()).cpu.saturating_sub(cpu);
        Ok(Sample { driven, database_cpu: Some(cpu), ..Sample::default() })
    }

    /// Reads a user's log from the server's file, in its order.
    pub(crate) fn read(&self, user: &str, limit: Limit) -> Result<Sample, BenchError> {
        let connection = Connection::open_with_flags(&self.served, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let mut statement = connection.prepare(
            "SELECT server_id, schema_name, table_name, op, pk_uuid, payload, server_version, source_id, \
             source_change_id, ts FROM server_change_log WHERE user_id = ?1 ORDER BY server_id",
        )?;
        let (cpu, began) = (Cost::of(std::process::id()).cpu, Instant::now());
        let mut driven = Driven::default();
        while driven.changes < limit.changes.unwrap_or(READ).min(READ) {
            let began = Instant::now();
            let mut rows = statement.query([user])?;
            let before = driven.changes;
            while let Some(row) = rows.next()? {
                driven.bytes += row.get_ref(5)?.as_str_or_null().ok().flatten().map_or(0, str::len) as u64;
                driven.changes += 1;
            }
            driven.times.push(began.elapsed());
            if driven.changes == before {
                break;
            }
        }
        driven.wall = began.elapsed();
        let cpu = Cost::of(std::process::id()).cpu.saturating_sub(cpu);
        Ok(Sample { driven, database_cpu: Some(cpu), ..Sample::default() })
    }
}

struct Floor {
    connection: Connection,
    path: tempfile::TempPath,
}

impl Drop for Floor {
    fn drop(&mut self) {
        for end in ["-wal", "-shm"] {
            let mut name = self.path.as_os_str().to_owned();
            name.push(end);
            // SQLite has removed it where it could.
            let _ = std::fs::remove_file(name);
        }
    }
}

impl Floor {
    /// A user, with rows if they are to be updated.
    fn user(&mut self, name: String, write: Write, shape: Shape) -> Result<User, BenchError> {
        self.connection.execute("INSERT INTO user_stream VALUES (?1, 0)", [&name])?;
        let mut user = User { name, head: 0, at: 0, rows: Vec::new(), changes: Changes::new(shape.payload_bytes, 1) };
        if write == Write::Update {
            let rows = user.batch(Write::Insert, ROWS_OF_DEVICE.max(shape.batch as usize));
            let tx = self.connection.transaction()?;
            user.write(&tx, Write::Insert, &rows)?;
            tx.commit()?;
            user.rows = rows.iter().map(|change| change.row).collect();
        }
        Ok(user)
    }
}

struct User {
    name: String,
    head: i64,
    at: usize,
    rows: Vec<Row>,
    changes: Changes,
}

/// A change, made before its time is taken, as that of a device is.
struct Change {
    row: Row,
    pk: String,
    name: String,
    email: String,
    payload: String,
}

impl User {
    fn batch(&mut self, write: Write, size: usize) -> Vec<Change> {
        let first = self.at;
        self.at += size;
        let change = |n: usize| {
            let row = match write {
                Write::Insert => self.changes.row(),
                Write::Update => self.rows[(first + n) % self.rows.len()],
            };
            let pk = row.pk.to_string();
            let (name, email) = self.changes.values();
            let payload = format!(r#"{{"id":"{pk}","name":"{name}","email":"{email}"}}"#);
            Change { row, pk, name, email, payload }
        };
        (0..size).map(change).collect()
    }

    fn write(&mut self, tx: &Transaction<'_>, write: Write, batch: &[Change]) -> Result<(), BenchError> {
        let (before, user) = (self.head, &self.name);
        self.head += batch.len() as i64;
        tx.prepare_cached("UPDATE user_stream SET last_server_id = ?2 WHERE user_id = ?1 AND last_server_id = ?3")?
            .execute(params![user, self.head, before])?;
        let (op, meta, state, business) = match write {
            Write::Insert => ("INSERT", META, STATE, USERS),
            Write::Update => ("UPDATE", META_UPDATE, STATE_UPDATE, USERS_UPDATE),
        };
        let mut log = tx.prepare_cached(LOG)?;
        let (mut meta, mut state) = (tx.prepare_cached(meta)?, tx.prepare_cached(state)?);
        let mut business = tx.prepare_cached(business)?;
        for (n, change) in (before + 1..).zip(batch) {
            log.execute(params![user, n, op, change.pk, n, NOW, change.payload])?;
            meta.execute(params![user, change.pk, NOW])?;
            state.execute(params![user, change.pk, change.payload])?;
            business.execute(params![change.pk, change.name, change.email])?;
        }
        Ok(())
    }
}

const NOW: &str = "2026-01-01T00:00:00.000000Z";
const LOG: &str = "INSERT INTO server_change_log VALUES (?1, ?2, 'public', 'users', ?3, ?4, 'phone', ?5, 1, ?6, ?7)";
const META: &str = "INSERT INTO sync_row_meta VALUES (?1, 'public', 'users', ?2, 1, 0, ?3)";
const STATE: &str = "INSERT INTO sync_state VALUES (?1, 'public', 'users', ?2, ?3)";
const USERS: &str = "INSERT INTO users (id, name, email) VALUES (?1, ?2, ?3)";
const META_UPDATE: &str = "UPDATE sync_row_meta SET server_version = server_version + 1, updated_at = ?3 \
     WHERE user_id = ?1 AND schema_name = 'public' AND table_name = 'users' AND pk_uuid = ?2";
const STATE_UPDATE: &str = "UPDATE sync_state SET payload = ?3 \
     WHERE user_id = ?1 AND schema_name = 'public' AND table_name = 'users' AND pk_uuid = ?2";
const USERS_UPDATE: &str = "UPDATE users SET name = ?2, email = ?3 WHERE id = ?1";
