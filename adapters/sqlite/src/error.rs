//! What SQLite's errors mean to a caller.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use outrigger_application::ports::store::StoreError;
use rusqlite::ErrorCode;
use rusqlite::types::FromSqlError;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer release has migrated the database.
    #[error("the database is at migration {found}, this binary knows up to {known}: upgrade the binary")]
    Newer {
        /// The last migration that was applied to the database.
        found: i64,
        /// The last migration that this binary knows.
        known: i64,
    },
    /// A migration that was applied to the database is not the one that this binary knows by that number.
    #[error("migration {number} of the database is not the one this binary knows: it was made by another program")]
    Foreign {
        /// The migration's number.
        number: i64,
    },
    /// The file cannot be used with a write-ahead log, without which readers and the writer would block each other.
    #[error("the database cannot use a write-ahead log, it stays in journal mode {mode}: it must be a local file")]
    NoWriteAheadLog {
        /// The journal mode that SQLite stays in.
        mode: String,
    },
    /// A table that is to be projected cannot be.
    #[error("{0}")]
    Table(String),
    /// SQLite refused.
    #[error("cannot open the database {path}: {source}", path = path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The writer's thread could not be started.
    #[error("cannot start the database's writer: {0}")]
    Thread(#[from] std::io::Error),
}

/// A [`StoreError`] on its way out of this crate, so that `?` works on what rusqlite returns.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) StoreError);

impl Failure {
    /// The database holds something that this server cannot have written.
    pub(crate) fn corrupt(what: impl Display) -> Self {
        Self(StoreError::Corrupt { what: what.to_string() })
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self(store_error(Arc::new(error)))
    }
}

impl From<FromSqlError> for Failure {
    fn from(error: FromSqlError) -> Self {
        Self::from(rusqlite::Error::from(error))
    }
}

/// Classifies by the result code and never by its text. Takes an `Arc`, since a transaction that fails fails
/// every plan in it.
pub(crate) fn store_error(error: Arc<rusqlite::Error>) -> StoreError {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    match (&*error, error.sqlite_error_code()) {
        (FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..), _) => {
            StoreError::Corrupt { what: error.to_string() }
        }
        // A constraint says that a row is there that the stream's end says cannot be.
        (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation)) => {
            StoreError::Corrupt { what: error.to_string() }
        }
        (
            _,
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory
                // Another process keeps changing the write-ahead log's locks.
                | ErrorCode::FileLockingProtocolFailed,
            ),
        ) => StoreError::Unavailable(Box::new(error)),
        _ => StoreError::Backend(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn class(code: i32) -> &'static str {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        match Failure::from(error).0 {
            StoreError::Unavailable(_) => "unavailable",
            StoreError::Corrupt { .. } => "corrupt",
            StoreError::Backend(_) => "backend",
            StoreError::Contention => "contention",
        }
    }

    #[test]
    fn a_result_code_says_what_the_caller_can_do() {
        for (code, expected) in [
            (ffi::SQLITE_BUSY, "unavailable"),
            (ffi::SQLITE_BUSY_SNAPSHOT, "unavailable"),
            (ffi::SQLITE_LOCKED, "unavailable"),
            (ffi::SQLITE_FULL, "unavailable"),
            (ffi::SQLITE_IOERR_FSYNC, "unavailable"),
            (ffi::SQLITE_CANTOPEN, "unavailable"),
            (ffi::SQLITE_NOMEM, "unavailable"),
            (ffi::SQLITE_PROTOCOL, "unavailable"),
            (ffi::SQLITE_CORRUPT, "corrupt"),
            (ffi::SQLITE_NOTADB, "corrupt"),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, "corrupt"),
            (ffi::SQLITE_READONLY, "backend"),
            (ffi::SQLITE_ERROR, "backend"),
            (ffi::SQLITE_MISUSE, "backend"),
        ] {
            assert_eq!(class(code), expected, "{code}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_corrupt() {
        assert!(matches!(Failure::from(FromSqlError::InvalidType).0, StoreError::Corrupt { .. }));
    }
}
