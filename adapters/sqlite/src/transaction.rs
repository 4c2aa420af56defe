//! A write transaction on a connection that stays whole: a materializer is handed the connection itself.

use rusqlite::Connection;

/// An open transaction. Dropping it rolls it back, unless it is committed or SQLite has rolled it back already.
pub(crate) struct Transaction<'c> {
    /// The connection that it is open on.
    pub(crate) connection: &'c mut Connection,
}

impl<'c> Transaction<'c> {
    /// Begins with the file's write lock, so that nothing can change between what is read and what is written.
    pub(crate) fn begin(connection: &'c mut Connection) -> rusqlite::Result<Self> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Self { connection })
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
