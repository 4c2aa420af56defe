//! Rows of the app's tables: read as images, and written because the server said so.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use crate::capture::base_table;
use crate::conflict::Image;
use crate::members::Members;
use crate::shape::{Column, Indexed, Shape, quoted};
use crate::values::{from_json, to_json};

/// An image, or why there is none of the row though it exists.
pub(crate) type Imaged = Result<Image, String>;

/// The row as it is; none if there is none.
pub(crate) fn image(connection: &Connection, shape: &Shape, key: &Value) -> rusqlite::Result<Option<Imaged>> {
    read(connection, shape, &quoted(&shape.name), key)
}

/// The row as it was before it was edited, if that is known.
pub(crate) fn base(connection: &Connection, shape: &Shape, key: &Value) -> rusqlite::Result<Option<Image>> {
    Ok(read(connection, shape, &base_table(shape), key)?.and_then(Result::ok))
}

fn read(connection: &Connection, shape: &Shape, table: &str, key: &Value) -> rusqlite::Result<Option<Imaged>> {
    let columns: Vec<String> = shape.columns.iter().map(|column| quoted(&column.name)).collect();
    let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(", ") };
    let sql = format!("SELECT {columns} FROM {table} WHERE {} = ?1", quoted(&shape.pk.name));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([key])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let value = |(n, column): (usize, &Column)| {
        Ok((column.name.clone(), to_json(row.get_ref(n).map_err(|e| e.to_string())?, column)?))
    };
    Ok(Some(shape.columns.iter().enumerate().map(value).collect()))
}

/// Sets the base of a row, or removes it.
pub(crate) fn set_base(
    connection: &Connection,
    shape: &Shape,
    key: &Value,
    image: Option<&Image>,
) -> rusqlite::Result<()> {
    let (table, pk) = (base_table(shape), quoted(&shape.pk.name));
    connection.prepare_cached(&format!("DELETE FROM {table} WHERE {pk} = ?1"))?.execute([key])?;
    let Some(image) = image else { return Ok(()) };
    // A base that cannot be kept is none.
    let value = |column: &Column| image.get(&column.name).map_or(Ok(Value::Null), |json| from_json(json, column));
    let Ok(values) = shape.columns.iter().map(value).collect::<Result<Vec<Value>, _>>() else { return Ok(()) };
    let (names, places): (Vec<_>, Vec<_>) =
        shape.columns.iter().map(|c| (format!(", {}", quoted(&c.name)), ", ?")).unzip();
    let insert = format!("INSERT INTO {table} ({pk}{}) VALUES (?{})", names.concat(), places.concat());
    connection.prepare_cached(&insert)?.execute(params_from_iter(std::iter::once(key.clone()).chain(values)))?;
    Ok(())
}

/// Why a row was not written.
pub(crate) enum Unwritten {
    /// It does not fit the table.
    Unfit(String),
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for Unwritten {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::ConstraintViolation | rusqlite::ErrorCode::TypeMismatch) => {
                Self::Unfit(error.to_string())
            }
            _ => Self::Failed(error),
        }
    }
}

/// Makes a row that exists let go of its unique values, uncaptured, so that another can take them.
pub(crate) fn let_go(connection: &Connection, shape: &Shape, key: &Value) -> Result<(), Unwritten> {
    let column = |of: &Vec<Indexed>| shape.columns.iter().find(|column| of.iter().any(|of| of.column == column.name));
    let sets: Vec<String> = shape
        .unique
        .iter()
        .filter_map(column)
        .map(|column| {
            let value = match column {
                Column { is_nullable: true, .. } => "NULL",
                Column { is_blob: true, .. } => "randomblob(16)",
                Column { .. } => "'_outrigger_' || hex(randomblob(16))",
            };
            format!("{} = {value}", quoted(&column.name))
        })
        .collect();
    if sets.is_empty() {
        return Ok(());
    }
    let update =
        format!("UPDATE {} SET {} WHERE {} = ?1", quoted(&shape.name), sets.join(", "), quoted(&shape.pk.name));
    name_uncaptured(connection, shape, key)?;
    connection.prepare_cached(&update)?.execute([key])?;
    Ok(())
}

/// Makes the row that, or removes it, uncaptured. Members that are no columns are ignored, columns that have no member
/// stay as they are.
pub(crate) fn write(
    connection: &Connection,
    shape: &Shape,
    key: &Value,
    row: Option<&Members<'_>>,
) -> Result<(), Unwritten> {
    name_uncaptured(connection, shape, key)?;
    match row {
        Some(row) => put(connection, shape, key, row.values(shape).map_err(Unwritten::Unfit)?),
        None => {
            let delete = format!("DELETE FROM {} WHERE {} = ?1", quoted(&shape.name), quoted(&shape.pk.name));
            connection.prepare_cached(&delete)?.execute([key])?;
            Ok(())
        }
    }
}

/// From here on this row is not captured, until another takes its place, or [`capture_all`].
pub(crate) fn name_uncaptured(connection: &Connection, shape: &Shape, key: &Value) -> rusqlite::Result<()> {
    let mut name = connection.prepare_cached("UPDATE _outrigger_now SET tbl = ?1, pk = ?2")?;
    name.execute(params![shape.name, key]).map(drop)
}

/// From here on every row is captured.
pub(crate) fn capture_all(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE _outrigger_now SET tbl = NULL, pk = NULL")?.execute([]).map(drop)
}

/// How a row is written that has all columns.
pub(crate) fn upsert<'a>(table: &str, pk: &Column, columns: impl Iterator<Item = &'a Column>) -> String {
    let (table, pk) = (quoted(table), quoted(&pk.name));
    let (mut names, mut places, mut sets) = (pk.clone(), "?".to_owned(), Vec::new());
    for column in columns {
        let name = quoted(&column.name);
        sets.push(format!("{name} = excluded.{name}"));
        names += &format!(", {name}");
        places += ", ?";
    }
    let then = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sets.join(", ")) };
    format!("INSERT INTO {table} ({names}) VALUES ({places}) ON CONFLICT ({pk}) DO {then}")
}

fn put(connection: &Connection, shape: &Shape, key: &Value, values: Vec<Option<Value>>) -> Result<(), Unwritten> {
    let mut statement = if values.iter().all(Option::is_some) {
        connection.prepare_cached(&shape.upsert)?
    } else {
        let given = shape.columns.iter().zip(&values).filter(|(_, value)| value.is_some());
        connection.prepare_cached(&upsert(&shape.name, &shape.pk, given.map(|(column, _)| column)))?
    };
    statement.execute(params_from_iter(std::iter::once(key).chain(values.iter().flatten())))?;
    Ok(())
}

/// What is known of a row on the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) version: i64,
    /// The place in the stream behind which nothing is known of it, if it was deleted.
    pub(crate) deleted_at: Option<i64>,
}

pub(crate) fn known(connection: &Connection, shape: &Shape, pk: &str) -> rusqlite::Result<Known> {
    let mut statement =
        connection.prepare_cached("SELECT version, deleted_at FROM _outrigger_row WHERE tbl = ?1 AND pk = ?2")?;
    let found =
        statement.query_row([&shape.name, pk], |row| Ok(Known { version: row.get(0)?, deleted_at: row.get(1)? }));
    Ok(found.optional()?.unwrap_or_default())
}

/// Notes what is known of a row on the server; a version of 0 forgets it.
pub(crate) fn set_known(connection: &Connection, shape: &Shape, pk: &str, known: Known) -> rusqlite::Result<()> {
    if known.version == 0 {
        let mut forget = connection.prepare_cached("DELETE FROM _outrigger_row WHERE tbl = ?1 AND pk = ?2")?;
        return forget.execute([&shape.name, pk]).map(drop);
    }
    let mut note = connection.prepare_cached(
        "INSERT INTO _outrigger_row (tbl, pk, version, deleted_at, seen) VALUES (?1, ?2, ?3, ?4, 1) \
         ON CONFLICT (tbl, pk) DO UPDATE SET version = excluded.version, deleted_at = excluded.deleted_at, seen = 1",
    )?;
    note.execute(params![shape.name, pk, known.version, known.deleted_at]).map(drop)
}

/// Notes that the server still has the row.
pub(crate) fn set_seen(connection: &Connection, shape: &Shape, pk: &str) -> rusqlite::Result<()> {
    let mut seen = connection.prepare_cached("UPDATE _outrigger_row SET seen = 1 WHERE tbl = ?1 AND pk = ?2")?;
    seen.execute([&*shape.name, pk]).map(drop)
}
