//! The app's tables as this library has to know them.

use rusqlite::{Connection, OptionalExtension};

use crate::config::Table;
use crate::error::Error;
use crate::rows::upsert;

/// A table that syncs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Its name in the app's database.
    pub(crate) name: String,
    /// Its schema and name on the server.
    pub(crate) schema: String,
    pub(crate) table: String,
    /// The column of the key.
    pub(crate) pk: Column,
    /// The other columns that can be written.
    pub(crate) columns: Vec<Column>,
    /// Columns that are unique together, besides the key.
    pub(crate) unique: Vec<Vec<Indexed>>,
    /// How a row is written that has all columns.
    pub(crate) upsert: String,
    /// Tables that its rows refer to.
    pub(crate) parents: Vec<String>,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Whether it holds bytes, which travel as base64.
    pub(crate) is_blob: bool,
    pub(crate) is_nullable: bool,
    /// What it holds if nothing is said, as SQL.
    pub(crate) default: String,
}

/// A column of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Indexed {
    pub(crate) column: String,
    /// How the index compares it.
    pub(crate) collation: String,
}

/// An identifier as SQL has it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL has it.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The shapes of all tables, each behind those that it refers to, as far as they are no circle.
pub(crate) fn read_all(connection: &Connection, tables: &[Table]) -> Result<Vec<Shape>, Error> {
    let mut left: Vec<Shape> = tables.iter().map(|table| read(connection, table)).collect::<Result<_, _>>()?;
    for (n, shape) in left.iter().enumerate() {
        let is_twice =
            |other: &Shape| shape.name == other.name || (&shape.schema, &shape.table) == (&other.schema, &other.table);
        if left[..n].iter().any(is_twice) {
            let why = "it is named twice, or another is the same table on the server".to_owned();
            return Err(Error::Table { table: shape.name.clone(), why });
        }
    }
    let mut ordered: Vec<Shape> = Vec::new();
    while !left.is_empty() {
        let names: Vec<String> = left.iter().map(|shape| shape.name.to_ascii_lowercase()).collect();
        let waits = |shape: &Shape| {
            let others = shape.parents.iter().map(|parent| parent.to_ascii_lowercase());
            others.filter(|parent| *parent != shape.name.to_ascii_lowercase()).any(|parent| names.contains(&parent))
        };
        let at = left.iter().position(|shape| !waits(shape)).unwrap_or(0);
        ordered.push(left.remove(at));
    }
    Ok(ordered)
}

fn read(connection: &Connection, table: &Table) -> Result<Shape, Error> {
    let refused = |why: &str| Error::Table { table: table.name.clone(), why: why.to_owned() };
    let kind: Option<(String, String, String)> = connection
        .query_row(
            "SELECT type, sql, name FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')",
            [&table.name],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let name = match kind {
        None => return Err(refused("there is no such table")),
        Some((kind, ..)) if kind == "view" => return Err(refused("it is a view")),
        Some((_, sql, _)) if sql.to_ascii_uppercase().starts_with("CREATE VIRTUAL") => {
            return Err(refused("it is a virtual table, on which there can be no triggers"));
        }
        // As it was made, however the app writes it.
        Some((.., name)) => name,
    };
    let is_name = |name: &str| {
        (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if !is_name(&table.schema) || !is_name(&table.table) {
        return Err(refused("the server's name of it must be lower-case letters, digits and _; see table_as"));
    }
    let (pk, columns) = columns(connection, table)?;
    let (unique, parents) = (unique(connection, table, &pk.name)?, parents(connection, table)?);
    Ok(Shape {
        upsert: upsert(&name, &pk, columns.iter()),
        name,
        schema: table.schema.clone(),
        table: table.table.clone(),
        pk,
        columns,
        unique,
        parents,
    })
}

fn columns(connection: &Connection, table: &Table) -> Result<(Column, Vec<Column>), Error> {
    let refused = |why: String| Error::Table { table: table.name.clone(), why };
    let mut statement =
        connection.prepare("SELECT name, type, \"notnull\", pk, hidden, dflt_value FROM pragma_table_xinfo(?1)")?;
    let rows = statement.query_map([&table.name], |row| {
        let declared = row.get::<_, String>(1)?.to_ascii_uppercase();
        let is_blob = declared.contains("BLOB");
        let default = row.get::<_, Option<String>>(5)?.unwrap_or_else(|| "NULL".into());
        let column = Column { name: row.get(0)?, is_blob, is_nullable: !row.get::<_, bool>(2)?, default };
        Ok((column, declared, row.get::<_, i64>(3)?, row.get::<_, i64>(4)?))
    })?;
    let (mut keys, mut columns) = (Vec::new(), Vec::new());
    for row in rows {
        let (column, declared, key, hidden) = row?;
        if key > 0 {
            let is_text = declared.contains("TEXT") || declared.contains("CHAR") || declared.contains("CLOB");
            if !column.is_blob && !is_text {
                return Err(refused(format!("its key {} must be a UUID, declared TEXT or BLOB", column.name)));
            }
            keys.push(column);
        } else if hidden == 0 {
            // Generated columns make themselves.
            columns.push(column);
        }
    }
    match keys.len() {
        1 => Ok((keys.remove(0), columns)),
        0 => Err(refused("it has no primary key".into())),
        _ => Err(refused("its primary key has several columns".into())),
    }
}

/// What an INSERT OR REPLACE may remove without a trigger of its own.
fn unique(connection: &Connection, table: &Table, pk: &str) -> Result<Vec<Vec<Indexed>>, Error> {
    let mut indexes = connection.prepare("SELECT name FROM pragma_index_list(?1) WHERE \"unique\"")?;
    let names: Vec<String> = indexes.query_map([&table.name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for name in names {
        let mut columns =
            connection.prepare("SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno")?;
        let columns = columns.query_map([&name], |row| {
            let column: Option<String> = row.get(0)?;
            let collation = row.get(1)?;
            Ok(column.map(|column| Indexed { column, collation }))
        })?;
        let Some(columns) = columns.collect::<Result<Option<Vec<Indexed>>, _>>()? else {
            let why = format!("its unique index {name} is on an expression: what it replaces would go unnoticed");
            return Err(Error::Table { table: table.name.clone(), why });
        };
        if !matches!(&*columns, [only] if only.column == pk) {
            all.push(columns);
        }
    }
    Ok(all)
}

fn parents(connection: &Connection, table: &Table) -> Result<Vec<String>, Error> {
    let mut statement = connection.prepare("SELECT DISTINCT \"table\" FROM pragma_foreign_key_list(?1)")?;
    Ok(statement.query_map([&table.name], |row| row.get(0))?.collect::<Result<_, _>>()?)
}
