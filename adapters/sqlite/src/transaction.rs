//! A write transaction on a connection that stays whole: a materializer is handed the connection itself.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::is_busy;

/// How often it is tried to get the write lock of the file while another process has it.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// An open transaction. Dropping it rolls it back, unless it is committed or SQLite has rolled it back already.
pub(crate) struct Transaction<'c> {
    /// The connection that it is open on.
    pub(crate) connection: &'c mut Connection,
}

impl<'c> Transaction<'c> {
    /// Begins with the file's write lock, so that nothing can change between what is read and what is written.
    ///
    /// Waits for it as long as the connection's busy timeout says, but not as SQLite does, which looks again after up to 100
    /// ms: another process that writes one transaction after the other would be ahead of it again and again.
    pub(crate) fn begin(connection: &'c mut Connection) -> rusqlite::Result<Self> {
        let patience_ms: u32 = connection.pragma_query_value(None, "busy_timeout", |row| row.get(0))?;
        let patience = Duration::from_millis(patience_ms.into());
        let deadline = Instant::now() + patience;
        connection.busy_timeout(Duration::ZERO)?;
        let begun = loop {
            match connection.execute_batch("BEGIN IMMEDIATE") {
                Err(error) if is_busy(&error) && Instant::now() < deadline => thread::sleep(LOOK_EVERY),
                begun => break begun,
            }
        };
        connection.busy_timeout(patience)?;
        begun.map(|()| Self { connection })
    }

    pub(crate) fn commit(self) -> rusqlite::Result<()> {
        self.connection.execute_batch("COMMIT")
    }

    /// Whether SQLite has rolled it back by itself: after an interrupt, an error of the disk, or `RAISE(ROLLBACK)`.
    pub(crate) fn is_lost(&self) -> bool {
        self.connection.is_autocommit()
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.is_lost() {
            // Should it fail, the next BEGIN fails and says so.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}
