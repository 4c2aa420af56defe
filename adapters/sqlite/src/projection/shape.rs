//! What a business table looks like, read from the catalog.
//!
//! SQLite has no schemas. The business table of `public.users` is the table `users`; that of `shop.users` is the
//! table with the dot in its name, `"shop.users"`: no other name of a table can be mistaken for it.

use std::collections::HashMap;

use outrigger_application::TableConfig;
use outrigger_domain::catalog::DEFAULT_SCHEMA;
use outrigger_domain::{Reference, TableName};
use rusqlite::{Connection, params};

use super::values::Type;

/// The server's own tables.
const SIDECAR: &[&str] = &[
    "user_stream",
    "sync_row_meta",
    "sync_state",
    "server_change_log",
    "materialize_failures",
    "sync_epoch",
    "sync_pruned_key",
    "sync_source",
    "sync_schema_migrations",
];

/// A column that payloads fill.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Type,
}

/// A business table.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Its name, quoted.
    pub(crate) table: String,
    pub(crate) pk: Column,
    /// The column that names the user.
    pub(crate) owner: Option<String>,
    /// The other columns, without those that SQLite generates.
    pub(crate) columns: Vec<Column>,
    /// `OR ABORT` where the table's own constraints say what becomes of a conflict: `ON CONFLICT REPLACE` would
    /// delete rows of others. Not everywhere, since it also overrules the statements of triggers.
    pub(crate) or_abort: &'static str,
    pub(crate) checks: Checks,
}

/// A business table as it was found.
pub(crate) enum Found {
    /// There is none.
    None,
    /// It cannot be projected, for this reason.
    Refused(String),
    /// It can.
    Table(Box<Shape>),
}

/// The foreign keys of business tables between registered tables, and where to they lead.
pub(crate) fn references(
    connection: &Connection,
    tables: &[TableConfig],
) -> rusqlite::Result<Vec<(TableName, Reference)>> {
    let mut found = Vec::new();
    for child in tables {
        for key in foreign_keys(connection, &plain_name(&child.table.name))? {
            let parent = tables.iter().find(|of| plain_name(&of.table.name).eq_ignore_ascii_case(&key.parent));
            // A key that is no uuid or text cannot be that of a synced row, whatever the table is called.
            if let (Some(parent), [from], [to]) = (parent, &key.from[..], &key.to[..])
                && let [(name, declared)] = &pk_of_parent(connection, &key.parent)[..]
                && name.eq_ignore_ascii_case(to)
                && is_key(declared)
            {
                let reference = Reference { column: from.clone(), parent: parent.table.name.clone() };
                found.push((child.table.name.clone(), reference));
            }
        }
    }
    Ok(found)
}

/// Reads a table's shape. `keys` are its columns that hold keys of rows of registered tables, each with that table.
pub(crate) fn read(
    connection: &Connection,
    config: &TableConfig,
    keys: &HashMap<String, TableName>,
) -> rusqlite::Result<Found> {
    let name = plain_name(&config.table.name);
    let refused = |why: String| Ok(Found::Refused(format!("table {} cannot be projected: {why}", config.table.name)));
    let mut statement = connection.prepare_cached(
        "SELECT list.type, coalesce(upper(def.sql), '') LIKE '%CONFLICT%' FROM pragma_table_list AS list \
         LEFT JOIN sqlite_schema AS def ON def.name = list.name WHERE list.schema = 'main' AND list.name = ?1 COLLATE NOCASE",
    )?;
    let found = statement.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?.next().transpose()?;
    let Some((kind, has_conflict_clause)): Option<(String, bool)> = found else { return Ok(Found::None) };
    if SIDECAR.contains(&name.as_str()) || name.starts_with("sqlite_") {
        return refused("it is one of the server's own".into());
    }
    if kind != "table" {
        return refused(format!("it is a {kind}"));
    }
    let pk = match &pk_columns(connection, &name)?[..] {
        [] => return refused("it has no primary key; it needs one of one column, TEXT or BLOB".into()),
        [(column, declared)] if is_key(declared) => Column { name: column.clone(), kind: Type::of_key(declared) },
        [(column, declared)] => {
            return refused(format!("its primary key {column} is {declared}; it must be TEXT, BLOB or of no type"));
        }
        more => return refused(format!("its primary key has {} columns; it must have one", more.len())),
    };
    let mut columns = columns(connection, &name, keys)?;
    columns.retain(|column| column.name != pk.name);
    let owner = config.owner_column.clone();
    if let Some(owner) = &owner {
        let before = columns.len();
        columns.retain(|column| column.name != *owner);
        if columns.len() == before {
            return refused(format!("it has no column {owner} to hold the user"));
        }
    }
    let checks = checks(connection, &name, &pk.name)?;
    let or_abort = if has_conflict_clause { "OR ABORT " } else { "" };
    let table = quoted(&name);
    Ok(Found::Table(Box::new(Shape { table, pk, owner, columns, or_abort, checks })))
}

/// A name as it stands in a statement.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn plain_name(table: &TableName) -> String {
    if table.schema() == DEFAULT_SCHEMA { table.table().to_owned() } else { table.to_string() }
}

fn is_key(declared: &str) -> bool {
    let untyped = declared.is_empty() || declared.eq_ignore_ascii_case("any");
    untyped || matches!(Type::of(declared), Type::UuidText | Type::Text | Type::Bytes)
}

fn columns(connection: &Connection, table: &str, keys: &HashMap<String, TableName>) -> rusqlite::Result<Vec<Column>> {
    let mut statement = connection.prepare_cached("SELECT name, type FROM pragma_table_xinfo(?1) WHERE hidden = 0")?;
    let column = |name: String, declared: String| {
        let kind = match keys.get(&name) {
            // A reference without a type is what the key that it is to equal is.
            Some(parent) if declared.is_empty() => {
                let key = pk_of_parent(connection, &plain_name(parent));
                Type::of_key(key.first().map_or("", |(_, declared)| declared))
            }
            Some(_) => Type::of_key(&declared),
            None => Type::of(&declared),
        };
        Column { name, kind }
    };
    statement.query_map([table], |row| Ok(column(row.get(0)?, row.get(1)?)))?.collect()
}

fn pk_columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement =
        connection.prepare_cached("SELECT name, type FROM pragma_table_xinfo(?1) WHERE pk > 0 ORDER BY pk")?;
    statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// The key of what a foreign key leads to. That may be anything, also a view that cannot be read any more: its rows
/// are refused by SQLite itself, and the other tables have nothing to do with it.
fn pk_of_parent(connection: &Connection, parent: &str) -> Vec<(String, String)> {
    pk_columns(connection, parent).unwrap_or_default()
}

/// One foreign key; it may have several columns.
struct ForeignKey {
    parent: String,
    from: Vec<String>,
    to: Vec<String>,
}

fn foreign_keys(connection: &Connection, table: &str) -> rusqlite::Result<Vec<ForeignKey>> {
    let mut statement = connection
        .prepare_cached("SELECT seq, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1) ORDER BY id, seq")?;
    let mut rows = statement.query([table])?;
    let mut keys: Vec<ForeignKey> = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(0)? == 0 {
            keys.push(ForeignKey { parent: row.get(1)?, from: Vec::new(), to: Vec::new() });
        }
        if let Some(key) = keys.last_mut() {
            key.from.push(row.get(2)?);
            key.to.extend(row.get::<_, Option<String>>(3)?);
        }
    }
    for key in keys.iter_mut().filter(|key| key.to.is_empty()) {
        // Without columns it refers to the parent's primary key.
        key.to = pk_of_parent(connection, &key.parent).into_iter().map(|(name, _)| name).collect();
    }
    keys.retain(|key| key.to.len() == key.from.len());
    Ok(keys)
}

/// What makes sure of foreign keys before the end of a transaction, where no row could be blamed any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    /// Queries that find something if the row with this pk refers to a row that is not there.
    pub(crate) of_row: Vec<String>,
    /// Queries that find something if a row has lost what it refers to with the row of this pk.
    pub(crate) of_children: Vec<String>,
    /// Queries for how many rows refer to none, by keys that leave out the pk: any change may be to blame for one.
    pub(crate) counts: Vec<String>,
}

fn checks(connection: &Connection, table: &str, pk: &str) -> rusqlite::Result<Checks> {
    let of_row = foreign_keys(connection, table)?.iter().map(|key| orphan_check(table, pk, key)).collect();
    let mut checks = Checks { of_row, ..Checks::default() };
    let mut statement = connection.prepare_cached("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let tables: Vec<String> = statement.query_map(params![], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for child in tables {
        let keys = foreign_keys(connection, &child)?.into_iter();
        for key in keys.filter(|key| key.parent.eq_ignore_ascii_case(table)) {
            match key.from.iter().zip(&key.to).find(|(_, to)| to.eq_ignore_ascii_case(pk)) {
                Some((from, _)) => {
                    let which = format!("child.{} = ?1", quoted(from));
                    checks.of_children.push(orphans("1", &child, &which, &key));
                }
                None => checks.counts.push(orphans("count(*)", &child, "1", &key)),
            }
        }
    }
    Ok(checks)
}

/// Finds the row if it refers to one that is not there.
fn orphan_check(table: &str, pk: &str, key: &ForeignKey) -> String {
    orphans("1", table, &format!("child.{} = ?1", quoted(pk)), key)
}

fn orphans(what: &str, child: &str, which: &str, key: &ForeignKey) -> String {
    let set: Vec<String> = key.from.iter().map(|from| format!("child.{} IS NOT NULL", quoted(from))).collect();
    let pairs = key.from.iter().zip(&key.to);
    let equal: Vec<String> =
        pairs.map(|(from, to)| format!("parent.{} = child.{}", quoted(to), quoted(from))).collect();
    format!(
        "SELECT {what} FROM {} AS child WHERE {which} AND {} AND NOT EXISTS (SELECT 1 FROM {} AS parent WHERE {})",
        quoted(child),
        set.join(" AND "),
        quoted(&key.parent),
        equal.join(" AND "),
    )
}
