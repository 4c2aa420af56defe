//! What waits to be uploaded.

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use crate::aside::{Aside, put_aside};
use crate::conflict::Image;
use crate::rows::{self, Known};
use crate::shape::Shape;
use crate::values::{key_from_text, key_to_text};
use crate::{Error, state};

/// Times that a change is tried whose parents do not come, before it is put aside.
const ATTEMPTS_MAX: i64 = 50;

/// A change on its way: fixed from the first time that it is sent until its answer.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// The position of its table's shape.
    pub(crate) shape: usize,
    pub(crate) pk: String,
    pub(crate) id: i64,
    pub(crate) op: String,
    pub(crate) version: i64,
    pub(crate) payload: Option<Box<RawValue>>,
}

/// The next changes to send, fixed: those that were sent already and not answered, or else new ones.
pub(crate) fn collect(tx: &Connection, shapes: &[Shape], max: usize) -> Result<(Vec<Sent>, Vec<Aside>), Error> {
    let pending = pending(tx, shapes, max)?;
    if !pending.is_empty() {
        return Ok((pending, Vec::new()));
    }
    let (mut sent, mut aside) = (Vec::new(), Vec::new());
    for (position, shape) in shapes.iter().enumerate() {
        let mut waiting = tx.prepare_cached(
            "SELECT pk FROM _outrigger_outbox WHERE tbl = ?1 AND sent_id IS NULL AND hold = 0 LIMIT ?2",
        )?;
        let keys: Vec<Value> = waiting
            .query_map(params![shape.name, (max - sent.len()) as i64], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for key in keys {
            match prepare(tx, shape, &key)? {
                Prepared::Nothing => drop_entry(tx, shape, &key)?,
                Prepared::Unfit(why) => aside.push(put_aside(tx, shape, &key, ("UPDATE", None), ("unsyncable", &why))?),
                Prepared::Change { pk, op, version, payload } => {
                    let id = state::next_id(tx)?;
                    let mut fix = tx.prepare_cached(
                        "UPDATE _outrigger_outbox SET sent_id = ?3, sent_edit = edit, sent_op = ?4, sent_version = ?5, \
                         sent_payload = ?6 WHERE tbl = ?1 AND pk = ?2",
                    )?;
                    let text = payload.as_ref().map(|payload| payload.get());
                    fix.execute(params![shape.name, key, id, op, version, text])?;
                    sent.push(Sent { shape: position, pk, id, op: op.to_owned(), version, payload });
                }
            }
        }
    }
    Ok((sent, aside))
}

fn pending(tx: &Connection, shapes: &[Shape], max: usize) -> Result<Vec<Sent>, Error> {
    let mut statement = tx.prepare_cached(
        "SELECT tbl, pk, sent_id, sent_op, sent_version, sent_payload FROM _outrigger_outbox \
         WHERE sent_id IS NOT NULL ORDER BY sent_id LIMIT ?1",
    )?;
    let mut rows = statement.query([max as i64])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        // A table that the app does not sync any more waits until it does.
        all.extend(read_sent(row, shapes)?);
    }
    Ok(all)
}

fn read_sent(row: &Row<'_>, shapes: &[Shape]) -> Result<Option<Sent>, Error> {
    let table: String = row.get(0)?;
    let Some(shape) = shapes.iter().position(|shape| shape.name == table) else { return Ok(None) };
    let Ok(pk) = key_to_text(row.get_ref(1)?) else { return Ok(None) };
    let payload: Option<String> = row.get(5)?;
    let payload = payload.and_then(|text| RawValue::from_string(text).ok());
    Ok(Some(Sent { shape, pk, id: row.get(2)?, op: row.get(3)?, version: row.get(4)?, payload }))
}

enum Prepared {
    /// The server has the row as it is.
    Nothing,
    Unfit(String),
    Change {
        pk: String,
        op: &'static str,
        version: i64,
        payload: Option<Box<RawValue>>,
    },
}

fn prepare(tx: &Connection, shape: &Shape, key: &Value) -> Result<Prepared, Error> {
    let pk = match key_to_text(ValueRef::from(key)) {
        Ok(pk) => pk,
        Err(why) => return Ok(Prepared::Unfit(why)),
    };
    let Known { version, deleted_at } = rows::known(tx, shape, &pk)?;
    let deleted = deleted_at.is_some();
    let image = match rows::image(tx, shape, key)? {
        None if version == 0 || deleted => return Ok(Prepared::Nothing),
        None => return Ok(Prepared::Change { pk, op: "DELETE", version, payload: None }),
        Some(Err(why)) => return Ok(Prepared::Unfit(why)),
        Some(Ok(image)) => image,
    };
    let text = serde_json::to_string(&image).unwrap_or_default();
    if version > 0 && !deleted {
        let base = rows::base(tx, shape, key)?.map(|base| serde_json::to_string(&base).unwrap_or_default());
        if base.as_ref() == Some(&text) {
            return Ok(Prepared::Nothing);
        }
    }
    let op = if version == 0 { "INSERT" } else { "UPDATE" };
    Ok(Prepared::Change { pk, op, version, payload: RawValue::from_string(text).ok() })
}

/// Takes a row out of the outbox.
pub(crate) fn drop_entry(tx: &Connection, shape: &Shape, key: &Value) -> Result<(), Error> {
    tx.prepare_cached("DELETE FROM _outrigger_outbox WHERE tbl = ?1 AND pk = ?2")?.execute(params![shape.name, key])?;
    Ok(rows::set_base(tx, shape, key, None)?)
}

/// Lets a change be sent anew, as the row is then. Held, it waits for its turn in a later sync.
pub(crate) fn release(tx: &Connection, shape: &Shape, key: &Value, hold: bool) -> Result<i64, Error> {
    let mut release = tx.prepare_cached(
        "UPDATE _outrigger_outbox SET sent_id = NULL, sent_edit = NULL, sent_op = NULL, sent_version = NULL, \
         sent_payload = NULL, hold = ?3, attempts = attempts + ?3 WHERE tbl = ?1 AND pk = ?2 RETURNING attempts",
    )?;
    let attempts = release.query_row(params![shape.name, key, hold], |row| row.get(0)).optional()?;
    Ok(attempts.unwrap_or(0))
}

/// Takes the rows that were made into the outbox. To be called before anything here is asked.
pub(crate) fn gather(tx: &Connection) -> Result<(), Error> {
    if tx.prepare_cached("SELECT 1 FROM _outrigger_inserted LIMIT 1")?.exists([])? {
        let gather = "INSERT INTO _outrigger_outbox (tbl, pk) SELECT tbl, pk FROM _outrigger_inserted WHERE true \
                      ON CONFLICT (tbl, pk) DO UPDATE SET edit = edit + 1";
        tx.prepare_cached(gather)?.execute([])?;
        tx.prepare_cached("DELETE FROM _outrigger_inserted")?.execute([])?;
    }
    Ok(())
}

/// Whether the row has an entry.
pub(crate) fn has_entry(tx: &Connection, shape: &Shape, key: &Value) -> Result<bool, Error> {
    let mut statement = tx.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM _outrigger_outbox WHERE tbl = ?1 AND pk = ?2), \
         EXISTS (SELECT 1 FROM _outrigger_inserted)",
    )?;
    let mut ask = || statement.query_row(params![shape.name, key], |row| Ok((row.get(0)?, row.get(1)?)));
    let (has_entry, are_inserted): (bool, bool) = ask()?;
    if has_entry || !are_inserted {
        return Ok(has_entry);
    }
    // A cascade, or a trigger of the app's, has made some meanwhile.
    gather(tx)?;
    Ok(ask()?.0)
}

/// The change was applied: the row on the server is at that version, none if there never was one to delete, at the
/// latest at that place in the stream.
pub(crate) fn applied(
    tx: &Connection,
    shape: &Shape,
    sent: &Sent,
    (version, at): (Option<i64>, i64),
) -> Result<(), Error> {
    let key = key_from_text(&sent.pk, &shape.pk).map_err(Error::Protocol)?;
    let known = Known { version: version.unwrap_or(0), deleted_at: (sent.op == "DELETE").then_some(at) };
    rows::set_known(tx, shape, &sent.pk, known)?;
    if is_edited(tx, shape, &key)? {
        // Edited on the way: the next change is on top of this one.
        let image: Option<Image> = sent.payload.as_ref().and_then(|payload| serde_json::from_str(payload.get()).ok());
        rows::set_base(tx, shape, &key, image.as_ref())?;
        release(tx, shape, &key, false)?;
        return Ok(());
    }
    drop_entry(tx, shape, &key)
}

/// Whether the row was edited since its change was fixed.
fn is_edited(tx: &Connection, shape: &Shape, key: &Value) -> Result<bool, Error> {
    let mut statement =
        tx.prepare_cached("SELECT edit IS NOT sent_edit FROM _outrigger_outbox WHERE tbl = ?1 AND pk = ?2")?;
    Ok(statement.query_row(params![shape.name, key], |row| row.get(0)).optional()?.unwrap_or(false))
}

/// The change was refused. Gives what was put aside, if the change can never be applied.
pub(crate) fn refused(
    tx: &Connection,
    shape: &Shape,
    sent: &Sent,
    (reason, message): (&str, &str),
) -> Result<Option<Aside>, Error> {
    let key = key_from_text(&sent.pk, &shape.pk).map_err(Error::Protocol)?;
    let is_passing = matches!(reason, "fk_missing" | "batch_aborted" | "internal_error" | "precheck_error");
    if reason == "source_change_id_reused" {
        release(tx, shape, &key, false)?;
        return Ok(None);
    }
    if is_passing && release(tx, shape, &key, true)? < ATTEMPTS_MAX {
        return Ok(None);
    }
    if !is_passing && is_edited(tx, shape, &key)? {
        release(tx, shape, &key, false)?;
        return Ok(None);
    }
    let payload = sent.payload.as_ref().map(|payload| payload.get());
    put_aside(tx, shape, &key, (&sent.op, payload), (reason, message)).map(Some)
}

/// How many rows wait, and how many of them could be sent now.
pub(crate) fn waiting(connection: &Connection) -> Result<(usize, usize), Error> {
    let count = "SELECT count(*), count(*) FILTER (WHERE hold = 0) FROM ( \
                 SELECT hold FROM _outrigger_outbox UNION ALL \
                 SELECT 0 FROM (SELECT DISTINCT tbl, pk FROM _outrigger_inserted) i WHERE NOT EXISTS ( \
                 SELECT 1 FROM _outrigger_outbox o WHERE o.tbl = i.tbl AND o.pk = i.pk))";
    let (all, ready): (u32, u32) = connection.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((all as usize, ready as usize))
}

/// Gives everything that was held another turn.
pub(crate) fn unhold(connection: &Connection) -> Result<(), Error> {
    connection.prepare_cached("UPDATE _outrigger_outbox SET hold = 0 WHERE hold <> 0")?.execute([])?;
    Ok(())
}
