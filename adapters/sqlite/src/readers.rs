//! The connections that read beside the writer and wait for nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_application::ports::store::{Cause, StoreError};
use rusqlite::{Connection, Transaction};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::error::Failure;

/// A pool of read-only connections. Reads run on tokio's threads for blocking work, as many at once as there
/// are connections: there is no thread of our own to be kept alive through a panic or to be told to stop.
pub(crate) struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(crate) fn new(connections: Vec<Connection>) -> Self {
        Self { permits: Arc::new(Semaphore::new(connections.len())), idle: Mutex::new(connections) }
    }

    /// Runs `read` in one transaction. If the caller goes away it still runs to its end.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(unavailable)?;
        let readers = Arc::clone(self);
        let answer = spawn_blocking(move || {
            // Dropped last: a permit is free only when a connection is back.
            let _permit = permit;
            let mut lease = Lease { connection: readers.idle().pop(), readers: &readers };
            let connection = lease.connection.as_mut().ok_or_else(|| Failure(unavailable("no connection is idle")))?;
            let tx = connection.transaction()?;
            read(&tx)
        });
        answer.await.map_err(unavailable)?.map_err(|failure| failure.0)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Nothing that can panic runs under the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that goes back to the pool however the read ends.
struct Lease<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.readers.idle().extend(self.connection.take());
    }
}

/// The pool is closed, the runtime is stopping or the read has panicked.
fn unavailable(cause: impl Into<Cause>) -> StoreError {
    StoreError::Unavailable(cause.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool_of_one() -> Arc<Readers> {
        Arc::new(Readers::new(vec![Connection::open_in_memory().unwrap()]))
    }

    #[tokio::test]
    async fn a_panic_in_a_read_costs_no_connection() {
        let readers = pool_of_one();
        let panicked = readers.read(|_| -> Result<(), Failure> { panic!("planted") }).await;
        assert!(matches!(panicked, Err(StoreError::Unavailable(_))));
        assert!(readers.read(|_| Ok(())).await.is_ok());
    }

    #[tokio::test]
    async fn a_read_leaves_no_transaction_open() {
        let readers = pool_of_one();
        let failed = readers.read(|tx| Ok(tx.execute_batch("SELECT nonsense")?)).await;
        assert!(matches!(failed, Err(StoreError::Backend(_))));
        assert!(readers.idle().iter().all(Connection::is_autocommit));
    }
}
