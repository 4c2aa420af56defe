//! What can go wrong, named by what the app can do about it.

use std::time::Duration;

use rusqlite::ErrorCode;

use crate::transport::TransportError;

/// Why a call did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A table cannot be synced as it is. The app has to change it, or leave it out.
    #[error("the table {table} cannot be synced: {why}")]
    Table {
        /// The table.
        table: String,
        /// What is in the way.
        why: String,
    },
    /// The server cannot be reached or is overloaded. The same call may succeed later; nothing is lost.
    #[error("the server cannot be reached: {why}")]
    Offline {
        /// What is in the way.
        why: String,
        /// How long the server wants to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// The server does not accept the token, nor the one that the token's source gave then. Sign in again.
    #[error("the server does not accept the token: {0}")]
    Unauthorized(String),
    /// No token was to be had.
    #[error("there is no token: {0}")]
    Token(String),
    /// The token is another user's than the rows are; nothing was sent or changed. Sign that user in again, or
    /// [sign out](crate::Client::sign_out), remove the rows, and open the database anew.
    #[error("the rows here are those of {was}, and the token is one of {is}")]
    OtherUser {
        /// Whose the rows are.
        was: String,
        /// Whose the token is.
        is: String,
    },
    /// The app is in the middle of a transaction, on this connection or on another, or another client of the file
    /// fetches all rows into it. The same call succeeds when that has ended.
    #[error("the database is busy: {0}")]
    Busy(String),
    /// The server answers what this library does not understand: it is no Outrigger, or a much later one. Nothing of
    /// the answer was taken.
    #[error("the server answers something unexpected: {0}")]
    Protocol(String),
    /// The app's database refused. What was being done was undone.
    #[error("the database failed: {0}")]
    Database(#[source] rusqlite::Error),
    /// The database was closed or given back.
    #[error("the client was closed")]
    Closed,
    /// A test wanted it so.
    #[doc(hidden)]
    #[error("stopped at {0} for a test")]
    Stopped(&'static str),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(error.to_string()),
            _ => Self::Database(error),
        }
    }
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::Offline { why: error.0, retry_after: None }
    }
}
