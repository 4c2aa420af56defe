//! Business tables, written in the transaction that writes the sidecar.
//!
//! It runs in the writer's thread. First the whole batch, with foreign keys checked at the end
//! ([`Projection::whole_within`]); if anything of it fails, the transaction is written again row by row ([`careful`]).
//! A catalog that has changed is noticed at the beginning of every transaction, by its version, which SQLite keeps in
//! the file's header.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use outrigger_application::{Batch, Materialize, MaterializeError, Materializer, NetRow, TableConfig};
use outrigger_domain::{Reference, TableName, UserId};
use rusqlite::Connection;

use crate::error::OpenError;

mod attempt;
pub(crate) mod careful;
mod deadline;
mod declarative;
pub(crate) mod failures;
mod refusal;
mod rows;
mod shape;
mod store;
mod values;
mod waiting;

use deadline::Deadline;
pub(crate) use rows::{Commit, Listed, Mode, Row, Task};
use shape::{Found, Shape};
use waiting::Waiting;

/// What is recorded for rows that the bound left no time for.
const TIMED_OUT: &str = "timed out";

/// The materializers of the app's own, by table.
pub type Materializers = HashMap<TableName, Arc<dyn Materializer<Connection>>>;

/// How a table is projected.
enum Target {
    Declarative(Box<Shape>),
    Custom(Arc<dyn Materializer<Connection>>),
    /// Not at all, for this reason, which is recorded for every row.
    Broken(String),
}

/// The projection, with the catalog as it was last read.
pub(crate) struct Projection {
    tables: Vec<TableConfig>,
    materializers: Materializers,
    timeout: Duration,
    deadline: Deadline,
    waiting: Waiting,
    targets: HashMap<TableName, Target>,
    /// The place of each table, parents before children.
    ranks: HashMap<TableName, usize>,
    references: Vec<(TableName, Reference)>,
    schema_version: Option<i64>,
}

impl Projection {
    /// Reads the catalog; refuses tables that are to be projected and cannot be.
    pub(crate) fn start(
        connection: &Connection,
        tables: Vec<TableConfig>,
        materializers: Materializers,
        timeout: Duration,
    ) -> Result<Self, OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: connection.path().unwrap_or_default().into(), source };
        // For materializers that wait for something; those by columns never do.
        let waiting = Waiting::new()?;
        let mut projection = Self {
            tables,
            materializers,
            timeout,
            deadline: Deadline::watch(connection).map_err(sqlite)?,
            waiting,
            targets: HashMap::new(),
            ranks: HashMap::new(),
            references: Vec::new(),
            schema_version: None,
        };
        projection.refresh(connection).map_err(sqlite)?;
        let broken = projection.tables.iter().find_map(|config| match projection.targets.get(&config.table.name) {
            Some(Target::Broken(why)) => Some(why.clone()),
            _ => None,
        });
        broken.map_or(Ok(projection), |why| Err(OpenError::Table(why)))
    }

    /// The foreign keys that the catalog declares between registered tables.
    pub(crate) fn references(&self) -> &[(TableName, Reference)] {
        &self.references
    }

    /// To be called in every transaction before anything is projected.
    fn prepare(&mut self, tx: &Connection) -> rusqlite::Result<()> {
        if self.tables.is_empty() {
            return Ok(());
        }
        self.look_again(tx)?;
        // Circles, self-references and any order of rows need nothing more. Ends with the transaction.
        tx.prepare_cached("PRAGMA defer_foreign_keys = ON")?.query([])?.next()?;
        Ok(())
    }

    /// Reads the catalog if it has changed.
    fn look_again(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let version: i64 = connection.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?;
        if self.schema_version == Some(version) { Ok(()) } else { self.refresh(connection) }
    }

    /// Reads the catalog.
    pub(crate) fn refresh(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let version = connection.query_row("PRAGMA schema_version", [], |row| row.get(0))?;
        self.references = shape::references(connection, &self.tables)?;
        for config in &self.tables {
            let name = &config.table.name;
            if config.materialize == Materialize::Off {
                continue;
            }
            let target = match (self.materializers.get(name), self.keys_of(config)) {
                (Some(custom), _) => Some(Target::Custom(Arc::clone(custom))),
                (None, keys) => match shape::read(connection, config, &keys)? {
                    Found::Table(shape) => Some(Target::Declarative(shape)),
                    Found::Refused(why) => Some(Target::Broken(why)),
                    // A table that was there when the server started is missed when it is gone.
                    Found::None if self.targets.contains_key(name) || config.materialize == Materialize::Required => {
                        Some(Target::Broken(format!("table {name} cannot be projected: it does not exist")))
                    }
                    Found::None => None,
                },
            };
            self.targets.extend(target.map(|target| (name.clone(), target)));
        }
        self.ranks = ranks(&self.tables, &self.references);
        self.schema_version = Some(version);
        Ok(())
    }

    /// The columns of a table that hold keys of rows of registered tables, and of which.
    fn keys_of(&self, config: &TableConfig) -> HashMap<String, TableName> {
        let registered = |name: &TableName| self.tables.iter().any(|other| other.table.name == *name);
        let declared = config.table.references.iter().filter(|reference| registered(&reference.parent));
        let found = self.references.iter().filter(|(table, _)| *table == config.table.name).map(|(_, of)| of);
        // What is declared counts, and so comes last.
        found.chain(declared).map(|reference| (reference.column.clone(), reference.parent.clone())).collect()
    }

    /// Whether rows of the table are projected, or ought to be.
    fn covers(&self, table: &TableName) -> bool {
        self.targets.contains_key(table)
    }

    fn rank(&self, table: &TableName) -> usize {
        self.ranks.get(table).copied().unwrap_or(usize::MAX)
    }

    /// Projects all rows of a user, with one call per table: parents before children to write, then children before
    /// parents to delete. After an error the transaction is of no more use.
    ///
    /// Upserts come first: a delete that cascades must not take along a row that is about to move to another parent.
    fn whole(&self, tx: &mut Connection, user: &UserId, rows: &[Row]) -> Result<(), MaterializeError> {
        let mut upserts: Vec<&Row> = rows.iter().filter(|row| row.payload.is_some()).collect();
        let mut deletes: Vec<&Row> = rows.iter().filter(|row| row.payload.is_none()).collect();
        // Stable: within a table the rows stay in the order of their changes.
        upserts.sort_by_key(|row| self.rank(&row.key.table));
        deletes.sort_by_key(|row| std::cmp::Reverse(self.rank(&row.key.table)));
        let same_table = |a: &&Row, b: &&Row| a.key.table == b.key.table;
        for rows in upserts.chunk_by(same_table).chain(deletes.chunk_by(same_table)) {
            let net: Vec<NetRow<'_>> = rows.iter().map(|row| row.net()).collect();
            self.apply(tx, Batch { user, table: &rows[0].key.table, rows: &net })?;
            // Short statements end before SQLite looks at the clock.
            if self.deadline.remaining().is_zero() {
                return Err(MaterializeError(TIMED_OUT.into()));
            }
        }
        Ok(())
    }

    /// Has the rows of one table projected by whoever does that.
    fn apply(&self, tx: &mut Connection, batch: Batch<'_>) -> Result<(), MaterializeError> {
        match self.targets.get(batch.table) {
            Some(Target::Declarative(shape)) => shape.project(tx, batch),
            Some(Target::Custom(custom)) => self.apply_custom(&**custom, tx, batch),
            Some(Target::Broken(why)) => Err(MaterializeError(why.clone())),
            None => Err(MaterializeError(format!("table {} is not projected", batch.table))),
        }
    }

    /// Foreign code: it may wait for ever, and it may panic.
    fn apply_custom(
        &self,
        custom: &dyn Materializer<Connection>,
        tx: &mut Connection,
        batch: Batch<'_>,
    ) -> Result<(), MaterializeError> {
        let time = self.deadline.remaining();
        // Whatever it leaves half done in the transaction is rolled back.
        let call = AssertUnwindSafe(|| {
            self.waiting.wait_for(async { tokio::time::timeout(time, custom.apply(tx, batch)).await })
        });
        match catch_unwind(call) {
            Ok(Some(Ok(answer))) => answer,
            Ok(Some(Err(_)) | None) => Err(MaterializeError(TIMED_OUT.into())),
            Err(_) => Err(MaterializeError("the materializer of the table panicked".into())),
        }
    }

    /// How many rows refer to none because of rows of these tables.
    fn orphans(&self, tx: &Connection, rows: &[&Row]) -> Result<i64, MaterializeError> {
        let tables: HashSet<&TableName> = rows.iter().map(|row| &row.key.table).collect();
        let shapes = tables.into_iter().filter_map(|table| match self.targets.get(table) {
            Some(Target::Declarative(shape)) => Some(shape),
            _ => None,
        });
        shapes.map(|shape| shape.orphans(tx)).sum()
    }

    /// Fails if a row refers to one that is not there.
    fn check(&self, tx: &Connection, row: &Row) -> Result<(), MaterializeError> {
        match self.targets.get(&row.key.table) {
            Some(Target::Declarative(shape)) => shape.check(tx, &row.net()),
            _ => Ok(()),
        }
    }
}

/// Counts the tables so that parents come before children, as far as circles leave such an order.
fn ranks(tables: &[TableConfig], found: &[(TableName, Reference)]) -> HashMap<TableName, usize> {
    fn visit(
        catalog: &outrigger_domain::Catalog,
        name: &TableName,
        seen: &mut HashSet<TableName>,
        order: &mut Vec<TableName>,
    ) {
        if !seen.insert(name.clone()) {
            return;
        }
        for reference in catalog.find(name.schema(), name.table()).into_iter().flat_map(|table| &table.references) {
            visit(catalog, &reference.parent, seen, order);
        }
        order.push(name.clone());
    }
    let catalog = outrigger_application::tables::catalog(tables, found);
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    for table in catalog.tables() {
        visit(&catalog, &table.name, &mut seen, &mut order);
    }
    order.into_iter().zip(0..).collect()
}
