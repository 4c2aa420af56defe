//! The app's connection, lent to whoever works with it for as long as that takes.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior, ffi};

use crate::config::{Failpoint, Table};
use crate::shape::Shape;
use crate::{Error, install, outbox};

/// Statements that are kept prepared.
const STATEMENTS: usize = 128;

/// A connection that several tasks share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Database {
    connection: Arc<Mutex<Option<Connection>>>,
    /// The version of the schema that is known.
    schema: Arc<AtomicI64>,
    failpoint: Option<Failpoint>,
}

impl Database {
    pub(crate) fn new(connection: Connection, failpoint: Option<Failpoint>) -> Self {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Self { connection: Arc::new(Mutex::new(Some(connection))), schema: Arc::default(), failpoint }
    }

    /// Makes the tables sync, and leaves others alone if so told. Gives their shapes.
    pub(crate) async fn install(&self, tables: Vec<Table>, leave_others: bool) -> Result<Vec<Shape>, Error> {
        let database = self.clone();
        self.run(move |connection| database.install_on(connection, &tables, leave_others)).await
    }

    /// The same on this thread.
    pub(crate) fn install_now(&self, tables: &[Table], leave_others: bool) -> Result<Vec<Shape>, Error> {
        self.with(|connection| self.install_on(connection, tables, leave_others))
    }

    fn install_on(&self, connection: &mut Connection, tables: &[Table], leave: bool) -> Result<Vec<Shape>, Error> {
        let (tx, stops) = (transaction(connection)?, self.stops());
        let (shapes, schema) = install::install(&tx, tables, leave, &stops)?;
        stops.at("before commit")?;
        tx.commit()?;
        self.schema.store(schema, Ordering::Relaxed);
        stops.at("after commit")?;
        Ok(shapes)
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
        match tokio::task::spawn_blocking(move || database.with(work)).await {
            Ok(done) => done,
            // The app's own code, which decides a conflict.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Closed),
        }
    }

    /// Works in a transaction, which lasts only if the work succeeds.
    pub(crate) async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>, &Stops) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (database, stops) = (self.clone(), self.stops());
        self.run(move |connection| {
            let tx = database.begin(connection)?;
            stops.at("begun")?;
            let done = work(&tx, &stops)?;
            stops.at("before commit")?;
            tx.commit()?;
            stops.at("after commit")?;
            Ok(done)
        })
        .await
    }

    /// A transaction that sees all that waits. Fails with SQLITE_SCHEMA if the tables are not those that are known.
    pub(crate) fn begin<'c>(&self, connection: &'c mut Connection) -> Result<Transaction<'c>, Error> {
        let tx = transaction(connection)?;
        if install::schema_version(&tx)? != self.schema.load(Ordering::Relaxed) {
            let changed = ffi::Error::new(ffi::SQLITE_SCHEMA);
            return Err(Error::Database(rusqlite::Error::SqliteFailure(changed, None)));
        }
        outbox::gather(&tx)?;
        Ok(tx)
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

/// A transaction that nobody else writes beside.
pub(crate) fn transaction(connection: &mut Connection) -> Result<Transaction<'_>, Error> {
    if !connection.is_autocommit() {
        return Err(Error::Busy("the app has a transaction open on this connection".into()));
    }
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
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
