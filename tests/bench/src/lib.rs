//! Measures a server from outside: over HTTP, as devices use it, on servers that it starts itself.

mod client;
pub mod load;
mod postgres;
mod server;
pub mod snapshot;
mod stats;
pub mod sweep;
pub mod watch;
mod wire;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The server refused, or did not start.
    #[error("{0}")]
    Refused(String),
    /// A watch ended before its time.
    #[error("a watch ended before its time")]
    Ended,
    /// The connection failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A file, a process or a socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl BenchError {
    fn other(error: impl ToString) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Is told how far a run has come.
pub trait Progress: Sync {
    /// Something else is measured from now on.
    fn begin(&self, what: &str);

    /// How many steps there are.
    fn steps(&self, _steps: u64) {}

    /// Another one is done.
    fn step(&self) {}
}
