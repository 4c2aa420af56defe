//! What the same changes cost without a server: the SQL that any implementation has to run for them, and nothing else.

mod postgres;
mod sqlite;

use std::path::Path;

use super::drive::Limit;
use super::sample::Sample;
use crate::BenchError;
use crate::postgres::Database;
use postgres::PostgresFloor;
use sqlite::SqliteFloor;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Insert,
    Update,
}

/// How the floor of Postgres writes new rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorForm {
    /// One statement a batch: the least that there is.
    Statement,
    /// One transaction a batch, with a statement for each table.
    Transaction,
}

/// How it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) users: u32,
    /// Of each user.
    pub(crate) devices: u32,
    pub(crate) batch: u32,
    pub(crate) payload_bytes: u32,
}

/// The database without the server.
pub(crate) enum Floor {
    Postgres(PostgresFloor),
    Sqlite(SqliteFloor),
    /// A store in memory has none.
    None,
}

impl Floor {
    /// The floor of that database, with its own tables in it or beside it.
    pub(crate) fn of(folder: &Path, database_url: &str, form: FloorForm) -> Result<Self, BenchError> {
        if let Some(database) = Database::of(database_url)? {
            return Ok(Self::Postgres(PostgresFloor::new(folder, database, form)?));
        }
        Ok(match database_url.strip_prefix("sqlite://") {
            Some(path) => Self::Sqlite(SqliteFloor::new(path.into())?),
            None => Self::None,
        })
    }

    /// Writes changes of that shape.
    pub(crate) fn write(&self, write: Write, shape: Shape, limit: Limit) -> Result<Option<Sample>, BenchError> {
        match self {
            Self::Postgres(floor) => floor.write(write, shape, limit).map(Some),
            Self::Sqlite(floor) => floor.write(write, shape, limit).map(Some),
            Self::None => Ok(None),
        }
    }

    /// Reads the entries of a user's log, as often as the limit lets it.
    pub(crate) fn read(&self, user: &str, limit: Limit) -> Result<Option<Sample>, BenchError> {
        match self {
            Self::Postgres(floor) => floor.read(user, limit).map(Some),
            Self::Sqlite(floor) => floor.read(user, limit).map(Some),
            Self::None => Ok(None),
        }
    }

    /// What it is, in few words.
    pub(crate) fn name(&self, reads: bool) -> &'static str {
        match (self, reads) {
            (Self::Postgres(floor), false) => floor.name(),
            (Self::Postgres(_), true) => "COPY of the same rows",
            (Self::Sqlite(_), false) => "one transaction a batch, by one thread",
            (Self::Sqlite(_), true) => "SELECT of the same rows",
            (Self::None, _) => "none",
        }
    }
}
