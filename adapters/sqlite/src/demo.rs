//! The business tables of the demo.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::{OpenError, SqliteStore};

/// How long another process may hold the file's write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const CREATE: &str = "
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY,
    name TEXT,
    email TEXT,
    created_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE TABLE IF NOT EXISTS posts (
    id TEXT PRIMARY KEY,
    title TEXT,
    content TEXT,
    author_id TEXT REFERENCES users (id),
    created_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at TEXT DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
COMMIT;";

impl SqliteStore {
    /// Creates the tables `users` and `posts` of the demo in this file, unless they are there.
    ///
    /// On a connection of its own: it happens once, before there is anything to wait for the writer for.
    pub fn create_demo_tables(path: &Path) -> Result<(), OpenError> {
        let create = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.execute_batch(CREATE)
        };
        create().map_err(|source| OpenError::Sqlite { path: path.to_owned(), source })
    }
}
