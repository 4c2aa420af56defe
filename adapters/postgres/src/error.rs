//! What an error of the database means, told by its SQLSTATE and never by its text.
//!
//! The codes are those of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::time::Duration;

use outrigger_application::StoreError;
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// `serialization_failure`: only where the server's default isolation level is stricter than it has to be.
const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK_DETECTED: &str = "40P01";
const UNIQUE_VIOLATION: &str = "23505";
/// Raised by the commit statement itself, to undo all of it.
const DIVISION_BY_ZERO: &str = "22012";
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// By the statement timeout, or by an operator.
const QUERY_CANCELED: &str = "57014";
const CANNOT_CONNECT_NOW: &str = "57P03";
const TOO_MANY_CONNECTIONS: &str = "53300";
/// `read_only_sql_transaction`: the connection leads to a server that was a primary once and is none now.
const READ_ONLY: &str = "25006";

/// Why the store could not be opened. Each message is one sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The url does not say where to connect to.
    #[error("the database url is not a valid Postgres url: {}", brief(.0))]
    Url(#[source] sqlx::Error),
    /// No connection came about.
    #[error("cannot connect to Postgres at {host}:{port}: {}", brief(.source))]
    Unreachable {
        /// The host, or the folder of the socket.
        host: String,
        /// The port.
        port: u16,
        /// What happened.
        source: sqlx::Error,
    },
    /// The server lacks what the store relies on.
    #[error("Postgres {found} is too old: version {needed} or later is needed")]
    TooOld {
        /// The server's major version.
        found: i32,
        /// The lowest major version that will do.
        needed: i32,
    },
    /// Not every text can be stored.
    #[error("the database has the encoding {found}: it must be created with the encoding UTF8")]
    Encoding {
        /// The database's encoding.
        found: String,
    },
    /// A later release has migrated the database.
    #[error("the database is at migration {database}, this binary knows up to {binary}: upgrade the binary")]
    Newer {
        /// The last migration of the database.
        database: i64,
        /// The last migration that this binary knows.
        binary: i64,
    },
    /// A migration was edited, or came from another line of development.
    #[error("migration {version} of the database is not the one that this binary knows")]
    Diverged {
        /// The migration.
        version: i64,
    },
    /// Another session holds the migration lock and does not come to an end.
    #[error("another session has been migrating the database for more than {} s: look for it in pg_stat_activity", .waited.as_secs())]
    Locked {
        /// How long this one waited.
        waited: Duration,
    },
    /// A migration failed and was undone.
    #[error("cannot migrate the database: {}", brief_migrate(.0))]
    Migrate(#[source] MigrateError),
    /// A business table is not as the projection needs it.
    #[error("{0}")]
    Table(String),
    /// The database refused a question about its state.
    #[error("cannot look into the database: {}", brief(.0))]
    Database(#[from] sqlx::Error),
}

/// An error that the server reported.
///
/// Holds neither the details nor the context of it: they quote rows, and payloads do not belong in a log.
#[derive(Debug, thiserror::Error)]
#[error("{message} (SQLSTATE {sqlstate})")]
struct Refused {
    sqlstate: String,
    message: String,
}

/// What an error means for a caller of the port.
pub(crate) fn from_sqlx(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(reported) => {
            let sqlstate = reported.code().unwrap_or_default().into_owned();
            let message = reported.message().to_owned();
            if is_corruption(&sqlstate) {
                return corrupt(message);
            }
            let passing = is_passing(&sqlstate);
            let cause = Box::new(Refused { sqlstate, message });
            if passing { StoreError::Unavailable(cause) } else { StoreError::Backend(cause) }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => StoreError::Unavailable(error.into()),
        defect => StoreError::Backend(defect.into()),
    }
}

/// What an error of a commit means. Whatever it is, nothing was written, unless the connection broke.
pub(crate) fn from_commit(error: sqlx::Error) -> StoreError {
    let reported = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    match reported.map(PgDatabaseError::code) {
        Some(SERIALIZATION_FAILURE | DEADLOCK_DETECTED) => StoreError::Contention,
        // Whoever races for the same place in the stream fails at the swap, before it writes. So what is
        // there already was not there when the plan was made, though the stream has not moved since.
        Some(UNIQUE_VIOLATION) => {
            let key = reported.and_then(PgDatabaseError::constraint).unwrap_or_default();
            corrupt(format!("a new entry exists already, by the key {key}"))
        }
        Some(DIVISION_BY_ZERO) => corrupt("a row that the stream has seen is missing or has a later version"),
        _ => from_sqlx(error),
    }
}

/// What the database holds is not what this server has written.
pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { what: what.into() }
}

/// Whether the error is that a lock was not to be had in time.
pub(crate) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == LOCK_NOT_AVAILABLE)
}

/// Whether the connection may serve another call after such an error.
///
/// Not if the server has ended it, and not if it only reads: after a failover the pool must not hold on to it.
pub(crate) fn leaves_connection_usable(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    !ends_connection(error) && code.is_some_and(|code| code != READ_ONLY && !code.starts_with("08"))
}

/// Whether a connection that did not come about may do so in a moment: the database is starting, or leaving, or full.
pub(crate) fn is_worth_another_attempt(error: &sqlx::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof};
    match error {
        sqlx::Error::Io(error) => {
            matches!(error.kind(), ConnectionRefused | ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof)
        }
        // What sqlx makes of a server that hangs up before it has answered the first word.
        sqlx::Error::Protocol(_) => true,
        _ => error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| code == CANNOT_CONNECT_NOW || code == TOO_MANY_CONNECTIONS),
    }
}

/// Whether the session is over, and not only its statement. Told by the severity: any trigger may raise any SQLSTATE.
pub(crate) fn ends_connection(error: &sqlx::Error) -> bool {
    let reported = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    reported.is_none_or(|reported| matches!(reported.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Whether a statement was stopped because it took too long, or waited too long for a lock, or was given up.
pub(crate) fn is_timeout(error: &sqlx::Error) -> bool {
    if let sqlx::Error::Io(error) = error {
        return error.kind() == std::io::ErrorKind::TimedOut;
    }
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == LOCK_NOT_AVAILABLE || code == QUERY_CANCELED)
}

/// The SQLSTATE, if it is a data exception without a column.
pub(crate) fn blames_a_value(error: &sqlx::Error) -> Option<String> {
    let reported = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    let is_of_value = reported.code().starts_with("22") && reported.column().is_none();
    is_of_value.then(|| reported.code().to_owned())
}

/// What a row's failure to be projected is recorded as: never the server's text, which may quote values.
pub(crate) fn describe(error: &sqlx::Error) -> String {
    let reported = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    let Some(reported) = reported else { return "the database did not answer".into() };
    let what = match reported.code() {
        QUERY_CANCELED | LOCK_NOT_AVAILABLE => return "timed out".into(),
        UNIQUE_VIOLATION => "another row has the same unique value",
        "23503" => "a row that it refers to is missing, or another row still refers to it",
        "23502" => "must not be null",
        "23514" => "a check was not passed",
        "23P01" => "another row excludes it",
        "22001" => "a text is too long",
        "22003" => "a number is out of range",
        // The other data exceptions.
        code if code.starts_with("22") => "a value is not one of its column's type",
        DEADLOCK_DETECTED => "it came into a deadlock",
        "42501" => "the server may not write to the table",
        "P0001" => "a trigger refused it",
        _ => "the database refused it",
    };
    let subject = match (reported.column(), reported.constraint()) {
        (Some(column), _) => format!("column {column}: "),
        (None, Some(constraint)) => format!("constraint {constraint}: "),
        (None, None) => String::new(),
    };
    format!("{subject}{what} (SQLSTATE {})", reported.code())
}

/// Whether the same call may succeed later.
fn is_passing(sqlstate: &str) -> bool {
    match sqlstate {
        SERIALIZATION_FAILURE | DEADLOCK_DETECTED | LOCK_NOT_AVAILABLE | READ_ONLY => true,
        // query_canceled (by the statement timeout), idle_in_transaction_session_timeout
        "57014" | "25P03" => true,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout
        "57P01" | "57P02" | "57P03" | "57P05" => true,
        // Connection exceptions; insufficient resources: connections, memory, disk.
        other => other.starts_with("08") || other.starts_with("53"),
    }
}

/// `data_corrupted`, `index_corrupted`
fn is_corruption(sqlstate: &str) -> bool {
    matches!(sqlstate, "XX001" | "XX002")
}

/// The cause, without what the message around it has said already.
fn brief(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(cause) => cause.to_string(),
        sqlx::Error::Io(cause) => cause.to_string(),
        sqlx::Error::Database(reported) => reported.message().to_owned(),
        other => other.to_string(),
    }
}

fn brief_migrate(error: &MigrateError) -> String {
    match error {
        MigrateError::Execute(cause) => brief(cause),
        MigrateError::ExecuteMigration(cause, version) => format!("migration {version}: {}", brief(cause)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_unavailable_and_the_rest_is_not() {
        for sqlstate in ["08006", "53300", "57P01", "57P03", "57014", "40001", "25006"] {
            assert!(is_passing(sqlstate), "{sqlstate}");
        }
        for sqlstate in ["42P01", "23514", "22P02", "28P01", "3D000", "57P04", ""] {
            assert!(!is_passing(sqlstate), "{sqlstate}");
        }
    }

    #[test]
    fn a_broken_connection_is_unavailable_and_not_used_again() {
        let broken = || sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into());
        assert!(!leaves_connection_usable(&broken()));
        assert!(matches!(from_sqlx(broken()), StoreError::Unavailable(_)));
        assert!(matches!(from_commit(broken()), StoreError::Unavailable(_)));
        assert!(matches!(from_sqlx(sqlx::Error::PoolTimedOut), StoreError::Unavailable(_)));
        assert!(matches!(from_sqlx(sqlx::Error::RowNotFound), StoreError::Backend(_)));
    }
}
