//! The app's connection, lent to whoever works with it for as long as that takes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::config::Failpoint;
use crate::{Error, outbox};

/// How long to wait for another connection of the app's that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Statements that are kept prepared.
const STATEMENTS: usize = 128;

/// A connection that several tasks share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Database {
    connection: Arc<Mutex<Option<Connection>>>,
    failpoint: Option<Failpoint>,
}

impl Database {
    pub(crate) fn new(connection: Connection, failpoint: Option<Failpoint>) -> Result<Self, Error> {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(Self { connection: Arc::new(Mutex::new(Some(connection))), failpoint })
    }

    /// Works with the connection on this thread.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T, Error>) -> Result<T, Error> {
        // A panic in the app's own code leaves at most a transaction open, which the next one is told of.
        let mut guard = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(guard.as_mut().ok_or(Error::Closed)?)
    }

    /// Works with the connection on a thread for work that blocks.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let database = self.clone();
        let done = tokio::task::spawn_blocking(move || database.with(work)).await;
        done.unwrap_or(Err(Error::Closed))
    }

    /// Works in a transaction, which lasts only if the work succeeds.
    pub(crate) async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>, &Stops) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let stops = Stops(self.failpoint.clone());
        self.run(move |connection| {
            let tx = begin(connection)?;
            stops.at("begun")?;
            let done = work(&tx, &stops)?;
            stops.at("before commit")?;
            tx.commit()?;
            stops.at("after commit")?;
            Ok(done)
        })
        .await
    }

    /// The points at which a test may stop.
    pub(crate) fn stops(&self) -> Stops {
        Stops(self.failpoint.clone())
    }

    /// Gives the connection back. Whatever wants to work with it from now on fails.
    pub(crate) fn take(&self) -> Option<Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A transaction that sees all that waits.
pub(crate) fn begin(connection: &mut Connection) -> Result<Transaction<'_>, Error> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    outbox::gather(&tx)?;
    Ok(tx)
}

/// Points at which a test may stop what is done, as if the process had died.
pub(crate) struct Stops(Option<Failpoint>);

impl Stops {
    pub(crate) fn at(&self, point: &'static str) -> Result<(), Error> {
        match &self.0 {
            Some(stop) if stop(point) => Err(Error::Stopped(point)),
            _ => Ok(()),
        }
    }
}
