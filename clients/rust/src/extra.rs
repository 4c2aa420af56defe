//! Members of a row that this device's table has no column for, because a newer version of the app has made it.
//!
//! They are kept beside the row as they came, go up again with every edit of it, and always are those of the server's
//! latest row, whatever becomes of a conflict. When the app is updated and the table gets such a column, the row takes
//! the member over: see [`take_up`].

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};

use crate::Error;
use crate::capture::base_table;
use crate::conflict::Image;
use crate::members::Members;
use crate::rows;
use crate::shape::{Shape, quoted};
use crate::values::{from_json, key_from_text};

/// Whether anything is kept at all, which is rare.
pub(crate) fn is_any(tx: &Connection) -> rusqlite::Result<bool> {
    tx.prepare_cached("SELECT 1 FROM _outrigger_extra LIMIT 1")?.exists([])
}

/// What is kept of a row.
pub(crate) fn of(tx: &Connection, shape: &Shape, pk: &str) -> Result<Option<Image>, Error> {
    let mut find = tx.prepare_cached("SELECT members FROM _outrigger_extra WHERE tbl = ?1 AND pk = ?2")?;
    let text: Option<String> = find.query_row([&*shape.name, pk], |row| row.get(0)).optional()?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Keeps what the server's row has beyond this table's columns.
pub(crate) fn keep(tx: &Connection, shape: &Shape, pk: &str, members: &Members<'_>) -> Result<(), Error> {
    set(tx, shape, pk, &members.unknown(shape))
}

/// Forgets what is kept of a row.
pub(crate) fn forget(tx: &Connection, shape: &Shape, pk: &str) -> Result<(), Error> {
    set(tx, shape, pk, &Image::new())
}

fn set(tx: &Connection, shape: &Shape, pk: &str, members: &Image) -> Result<(), Error> {
    if members.is_empty() {
        let mut forget = tx.prepare_cached("DELETE FROM _outrigger_extra WHERE tbl = ?1 AND pk = ?2")?;
        forget.execute([&*shape.name, pk])?;
        return Ok(());
    }
    let mut keep = tx.prepare_cached(
        "INSERT INTO _outrigger_extra (tbl, pk, members) VALUES (?1, ?2, ?3) \
         ON CONFLICT (tbl, pk) DO UPDATE SET members = excluded.members",
    )?;
    keep.execute(params![shape.name, pk, serde_json::to_string(members).unwrap_or_default()])?;
    Ok(())
}

/// The table has got these columns: rows that have members of that name take them over, uncaptured. A value that the app
/// has given to the column of an edited row stays, and becomes part of the edit. What does not fit is kept on.
pub(crate) fn take_up(tx: &Connection, shape: &Shape, added: &[String]) -> Result<(), Error> {
    let mut all = tx.prepare("SELECT pk, members FROM _outrigger_extra WHERE tbl = ?1")?;
    let all = all.query_map([&shape.name], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let all: Vec<(String, String)> = all.collect::<Result<_, _>>()?;
    for (pk, text) in all {
        let Ok(mut members) = serde_json::from_str::<Image>(&text) else { continue };
        let key = key_from_text(&pk, &shape.pk).map_err(Error::Protocol)?;
        for name in added {
            let column = shape.columns.iter().find(|column| column.name == *name);
            let Some((column, json)) = column.zip(members.get(name)) else { continue };
            let Ok(value) = from_json(json, column) else { continue };
            if take_over(tx, shape, (&key, name, &column.default), &value)? {
                members.remove(name);
            }
        }
        set(tx, shape, &pk, &members)?;
    }
    Ok(())
}

fn take_over(
    tx: &Connection,
    shape: &Shape,
    (key, name, default): (&Value, &str, &str),
    value: &Value,
) -> Result<bool, Error> {
    let (name, pk) = (quoted(name), quoted(&shape.pk.name));
    rows::name_uncaptured(tx, shape, key)?;
    let set = format!(
        "UPDATE {} SET {name} = ?1 WHERE {pk} = ?2 AND ({name} IS ({default}) OR NOT EXISTS ( \
         SELECT 1 FROM _outrigger_outbox WHERE tbl = ?3 AND pk = ?2 AND unsure = 0))",
        quoted(&shape.name)
    );
    match tx.prepare_cached(&set)?.execute(params![value, key, shape.name]) {
        Ok(_) => {}
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let base = format!("UPDATE {} SET {name} = ?1 WHERE {pk} = ?2", base_table(shape));
    tx.prepare_cached(&base)?.execute(params![value, key])?;
    Ok(true)
}
