//! Projects rows onto the app's own tables.
//!
//! Projected with the whole batch first, in the statement of the commit itself (see [`commit`](crate::commit)); what
//! cannot be is projected in parts ([`careful`]), and what is left is recorded ([`failures`]).
//!
//! The declarative projection does not itself stand behind the port [`Materializer`]: whose a row is and whether it may be
//! written is decided by the statement that writes it, in the snapshot of the commit. Behind the port the same would
//! take three round trips more. Custom materializers are called through the port, beside it.
//!
//! # The bound
//!
//! Half of `projection_timeout` is for the whole batch, by the `statement_timeout` of the sessions that it runs in, and
//! the rest for the parts. No wait for a lock takes longer than an eighth, so that a table that is locked for
//! long leaves time for the others. Every upload to such a table pays this anew: a server that stopped trying for a while
//! would turn rows into failures that could have been projected.
//!
//! # A changed catalog
//!
//! The catalog is read anew when a batch has failed, and the batch is tried again if it has changed. A table that
//! was projected and is gone costs failures, until it is back or the server starts again without it.

mod blame;
pub(crate) mod careful;
mod custom;
pub(crate) mod failures;
pub(crate) mod parts;
pub(crate) mod rebuild;
pub(crate) mod shape;
pub(crate) mod sql;
pub(crate) mod values;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use outrigger_application::Materializer;
use outrigger_application::tables::TableConfig;
use outrigger_domain::TableName;
use sqlx::PgConnection;

use crate::commit::sidecar::Sidecar;
use crate::error::ConnectError;
use crate::session::Sessions;
use parts::Form;
use shape::{Shape, Target};

/// Materializers of an app's own, by their tables.
pub type Materializers = HashMap<TableName, Arc<dyn Materializer<PgConnection>>>;

/// What is projected, and onto what.
pub(crate) struct Projection {
    tables: Vec<TableConfig>,
    custom: Materializers,
    timeout: Duration,
    targets: RwLock<Arc<Targets>>,
}

impl fmt::Debug for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Projection").field("tables", &self.tables).finish_non_exhaustive()
    }
}

/// What a statement is made of, and what it writes of the sidecar as well.
type StatementKey = (Vec<Form>, Option<Sidecar>);

/// Texts with fragments of new rows that are kept: devices choose which columns there are, and every text is a prepared
/// statement of every connection.
const NEW_STATEMENTS_MAX: usize = 48;

/// The business tables as the catalog had them at one time, with the statements made for them.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    by_table: HashMap<TableName, Target>,
    statements: Mutex<HashMap<StatementKey, Arc<str>>>,
}

impl Targets {
    /// The shape of a table, or why it has none.
    pub(crate) fn shape(&self, table: &TableName) -> Result<&Shape, String> {
        match self.by_table.get(table) {
            Some(Target::Table(shape)) => Ok(shape),
            Some(Target::Unfit(why)) => Err(why.clone()),
            None => Err(format!("there is no table {table}")),
        }
    }

    /// The statement of these forms: always the same text, so that the server has it prepared. None if there are too many
    /// of its kind already.
    pub(crate) fn statement(&self, key: StatementKey, make: impl FnOnce() -> String) -> Option<Arc<str>> {
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_new = key.0.iter().any(|(_, new)| new.is_some());
        if is_of_new && statements.len() >= NEW_STATEMENTS_MAX && !statements.contains_key(&key) {
            return None;
        }
        Some(Arc::clone(statements.entry(key).or_insert_with(|| make().into())))
    }
}

impl Projection {
    /// Reads the catalog. Fails if it lacks what has to be there.
    pub(crate) async fn start(
        connection: &mut PgConnection,
        tables: Vec<TableConfig>,
        (custom, timeout): (Materializers, Duration),
    ) -> Result<Self, ConnectError> {
        let by_table = shape::read(connection, &tables, &HashSet::new()).await?;
        for (table, target) in &by_table {
            if let (Target::Unfit(why), false) = (target, custom.contains_key(table)) {
                return Err(ConnectError::Table(why.clone()));
            }
        }
        let targets = RwLock::new(Arc::new(Targets { by_table, ..Targets::default() }));
        Ok(Self { tables, custom, timeout, targets })
    }

    /// The business tables as they were last seen.
    pub(crate) fn targets(&self) -> Arc<Targets> {
        Arc::clone(&self.targets.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether rows of the table are projected.
    pub(crate) fn projects(&self, targets: &Targets, table: &TableName) -> bool {
        self.custom.contains_key(table) || targets.by_table.contains_key(table)
    }

    /// The app's own materializer of a table.
    pub(crate) fn custom(&self, table: &TableName) -> Option<&dyn Materializer<PgConnection>> {
        self.custom.get(table).map(AsRef::as_ref)
    }

    /// All the time that the projection of an upload may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long the projection waits for a lock.
    pub(crate) fn lock_timeout(&self) -> Duration {
        (self.timeout / 8).max(Duration::from_millis(1))
    }

    /// The configured tables.
    pub(crate) fn tables(&self) -> &[TableConfig] {
        &self.tables
    }

    /// Reads the catalog anew. Gives whether it has changed.
    pub(crate) async fn reload(&self, sessions: &Sessions) -> Result<bool, sqlx::Error> {
        let before = self.targets();
        let expected = before.by_table.keys().cloned().collect();
        let mut tx = sessions.begin().await?;
        let by_table = shape::read(tx.connection(), &self.tables, &expected).await?;
        tx.rollback().await?;
        let changed = by_table != before.by_table;
        if changed {
            let targets = Arc::new(Targets { by_table, ..Targets::default() });
            *self.targets.write().unwrap_or_else(PoisonError::into_inner) = targets;
        }
        Ok(changed)
    }
}
