//! The registered tables as an operator configures them, and as they stand at run time.

use std::sync::{Arc, PoisonError, RwLock};

use outrigger_domain::{Catalog, Reference, Table, TableName};
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};

/// Whether a table is projected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Materialize {
    /// If its business table exists.
    #[default]
    IfPresent,
    /// Always; the server does not start without the business table.
    Required,
    /// Never.
    Off,
}

/// One table as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableConfig {
    /// The table, with the references that were declared.
    pub table: Table,
    /// Whether it is projected.
    pub materialize: Materialize,
    /// The column of the business table that names the user.
    pub owner_column: Option<String>,
}

impl TableConfig {
    /// A table of that name, projected if its business table exists.
    pub fn new(name: TableName) -> Self {
        Self { table: Table::new(name), materialize: Materialize::default(), owner_column: None }
    }
}

/// The catalog in force. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedCatalog(Arc<RwLock<Arc<Catalog>>>);

impl SharedCatalog {
    /// Starts with these tables.
    pub fn new(catalog: Catalog) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(catalog))))
    }

    /// The catalog as it is now.
    pub fn current(&self) -> Arc<Catalog> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another catalog in force.
    pub fn replace(&self, catalog: Catalog) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }
}

/// The tables, each behind those that its rows refer to. Where tables refer to each other in a circle, or to
/// themselves, no order of them could do that for their rows.
pub fn parents_first(catalog: &Catalog) -> Vec<TableName> {
    let tables = catalog.tables();
    let mut references: DiGraph<(), ()> = DiGraph::new();
    for _ in tables {
        references.add_node(());
    }
    for (child, table) in tables.iter().enumerate() {
        for reference in &table.references {
            if let Some(parent) = tables.iter().position(|table| table.name == reference.parent) {
                references.add_edge(NodeIndex::new(child), NodeIndex::new(parent), ());
            }
        }
    }
    // Tarjan's algorithm gives a component after those it points to.
    tarjan_scc(&references).into_iter().flatten().map(|table| tables[table.index()].name.clone()).collect()
}

/// The configured tables with the references that were found in the database besides those declared.
/// Where a column has both, the declared one counts.
pub fn catalog(tables: &[TableConfig], found: &[(TableName, Reference)]) -> Catalog {
    Catalog::new(tables.iter().map(|config| {
        let mut table = config.table.clone();
        for (_, reference) in found.iter().filter(|(name, _)| *name == table.name) {
            if table.references.iter().all(|declared| declared.column != reference.column) {
                table.references.push(reference.clone());
            }
        }
        table
    }))
}
