//! What can go wrong, named by what the app can do about it.

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
    #[error("the server cannot be reached: {0}")]
    Offline(String),
    /// The server does not accept the token, nor the one that the token's source gave then. Sign in again.
    #[error("the server does not accept the token: {0}")]
    Unauthorized(String),
    /// No token was to be had.
    #[error("there is no token: {0}")]
    Token(String),
    /// The server answers what this library does not understand: it is no Outrigger, or a much later one.
    #[error("the server answers something unexpected: {0}")]
    Protocol(String),
    /// The app's database refused. What was being done was undone.
    #[error("the database failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// The database was closed or given back.
    #[error("the client was closed")]
    Closed,
    /// A test wanted it so.
    #[error("stopped at {0} for a test")]
    Stopped(&'static str),
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::Offline(error.0)
    }
}
