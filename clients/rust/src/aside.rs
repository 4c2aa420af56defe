//! What can never be uploaded.

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use crate::shape::Shape;
use crate::values::key_as_text;
use crate::{Error, outbox};

/// A change that can never be uploaded as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Names it, for [`Client::forget_aside`](crate::Client::forget_aside).
    pub id: i64,
    /// The app's table.
    pub table: String,
    /// The row's key.
    pub pk: String,
    /// `INSERT`, `UPDATE` or `DELETE`.
    pub op: String,
    /// The row as it was to be uploaded.
    pub payload: Option<String>,
    /// Why, for a program.
    pub reason: String,
    /// Why, for a human.
    pub message: String,
}

/// Takes a row out of the outbox and keeps what was to become of it.
pub(crate) fn put_aside(
    tx: &Connection,
    shape: &Shape,
    key: &Value,
    (op, payload): (&str, Option<&str>),
    (reason, message): (&str, &str),
) -> Result<Aside, Error> {
    outbox::drop_entry(tx, shape, key)?;
    let pk = key_as_text(key);
    let insert = "INSERT INTO _outrigger_aside (tbl, pk, op, payload, reason, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    tx.prepare_cached(insert)?.execute(params![shape.name, pk, op, payload, reason, message])?;
    Ok(Aside {
        id: tx.last_insert_rowid(),
        table: shape.name.clone(),
        pk,
        op: op.to_owned(),
        payload: payload.map(str::to_owned),
        reason: reason.to_owned(),
        message: message.to_owned(),
    })
}

/// What was put aside.
pub(crate) fn all(connection: &Connection) -> Result<Vec<Aside>, Error> {
    let mut statement =
        connection.prepare("SELECT id, tbl, pk, op, payload, reason, message FROM _outrigger_aside ORDER BY id")?;
    let rows = statement.query_map([], |row| {
        Ok(Aside {
            id: row.get(0)?,
            table: row.get(1)?,
            pk: row.get(2)?,
            op: row.get(3)?,
            payload: row.get(4)?,
            reason: row.get(5)?,
            message: row.get(6)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
