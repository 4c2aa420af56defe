//! What waits to be uploaded.

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use crate::aside::{Aside, put_aside};
use crate::conflict::Image;
use crate::database::Stops;
use crate::rows::{self, Known};
use crate::shape::Shape;
use crate::values::key_to_text;
use crate::{Error, extra, state};

/// The `hold` of an entry: it can be sent, or it waits for a later sync. 2: the app does not sync its table any more.
const READY: i64 = 0;
const HELD: i64 = 1;

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
pub(crate) fn collect(
    tx: &Connection,
    shapes: &[Shape],
    max: usize,
    stops: &Stops,
) -> Result<(Vec<Sent>, Vec<Aside>), Error> {
    let pending = pending(tx, shapes, max)?;
    if !pending.is_empty() {
        return Ok((pending, Vec::new()));
    }
    let (mut sent, mut aside) = (Vec::new(), Vec::new());
    for (position, shape) in shapes.iter().enumerate() {
        let mut waiting = tx.prepare_cached(
            "SELECT pk FROM _outrigger_outbox WHERE tbl = ?1 AND sent_id IS NULL AND hold = 0 AND unsure = 0 LIMIT ?2",
        )?;
        let keys: Vec<Value> = waiting
            .query_map(params![shape.name, (max - sent.len()) as i64], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for key in keys {
            match prepare(tx, shape, &key)? {
                Prepared::Nothing => drop_entry(tx, shape, &key)?,
                Prepared::Unfit(why) => {
                    aside.push(put_aside(tx, shape, &key, ("UPDATE", None), ("unsyncable", &why))?);
                    stops.at("put aside")?;
                }
                Prepared::Change { pk, op, version, payload } => {
                    let id = state::next_id(tx)?;
                    let mut fix = tx.prepare_cached(
                        "UPDATE _outrigger_outbox SET sent_id = ?3, sent_edit = edit, sent_op = ?4, sent_version = ?5, \
                         sent_payload = ?6 WHERE tbl = ?1 AND pk = ?2",
                    )?;
                    let text = payload.as_ref().map(|payload| payload.get());
                    fix.execute(params![shape.name, key, id, op, version, text])?;
                    sent.push(Sent { shape: position, pk, id, op: op.to_owned(), version, payload });
                    stops.at("collected")?;
                }
            }
        }
    }
    Ok((sent, aside))
}

fn pending(tx: &Connection, shapes: &[Shape], max: usize) -> Result<Vec<Sent>, Error> {
    let mut statement = tx.prepare_cached(
        "SELECT tbl, pk, sent_id, sent_op, sent_version, sent_payload FROM _outrigger_outbox \
         WHERE sent_id IS NOT NULL AND hold <> 2 ORDER BY sent_id LIMIT ?1",
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
    let mut text = serde_json::to_string(&image).unwrap_or_default();
    if version > 0 && !deleted {
        let base = rows::base(tx, shape, key)?.map(|base| serde_json::to_string(&base).unwrap_or_default());
        if base.as_ref() == Some(&text) {
            return Ok(Prepared::Nothing);
        }
    }
    if let Some(extra) = extra::of(tx, shape, &pk)? {
        // This device's columns, and what only newer ones know.
        let whole: Image = extra.into_iter().chain(image).collect();
        text = serde_json::to_string(&whole).unwrap_or_default();
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
pub(crate) fn release(tx: &Connection, shape: &Shape, key: &Value, hold: bool) -> Result<(), Error> {
    let mut release = tx.prepare_cached(
        "UPDATE _outrigger_outbox SET sent_id = NULL, sent_edit = NULL, sent_op = NULL, sent_version = NULL, \
         sent_payload = NULL, hold = ?3 WHERE tbl = ?1 AND pk = ?2",
    )?;
    release.execute(params![shape.name, key, if hold { HELD } else { READY }])?;
    Ok(())
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

/// What waits of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Nothing watched the row for a while, and nothing was seen to edit it.
    pub(crate) is_doubt: bool,
    /// Nothing watched the row for a while, so its base may be wrong.
    pub(crate) is_unsure: bool,
}

/// What waits of that row.
pub(crate) fn entry(tx: &Connection, shape: &Shape, key: &Value) -> Result<Option<Entry>, Error> {
    let mut find = tx.prepare_cached("SELECT unsure, edit FROM _outrigger_outbox WHERE tbl = ?1 AND pk = ?2")?;
    let mut ask = || {
        let row = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?));
        let found = find.query_row(params![shape.name, key], row).optional()?;
        Ok::<_, Error>(found.map(|(is_unsure, edits)| Entry { is_doubt: is_unsure && edits == 0, is_unsure }))
    };
    let found = ask()?;
    if found.is_some() || !tx.prepare_cached("SELECT 1 FROM _outrigger_inserted LIMIT 1")?.exists([])? {
        return Ok(found);
    }
    // A cascade, or a trigger of the app's, has made some meanwhile.
    gather(tx)?;
    ask()
}

/// Whether a change of the row could be sent now.
pub(crate) fn is_ready(tx: &Connection, shape: &Shape, key: &Value) -> Result<bool, Error> {
    let ask = "SELECT 1 FROM _outrigger_outbox WHERE tbl = ?1 AND pk = ?2 AND hold = 0";
    Ok(tx.prepare_cached(ask)?.exists(params![shape.name, key])?)
}

/// It is known what was edited.
pub(crate) fn make_sure(tx: &Connection, shape: &Shape, key: &Value) -> Result<(), Error> {
    let mut sure = tx.prepare_cached("UPDATE _outrigger_outbox SET unsure = 0 WHERE tbl = ?1 AND pk = ?2")?;
    sure.execute(params![shape.name, key])?;
    Ok(())
}

/// Whether that change is what the server is asked about: another sync of the same file may have settled it.
pub(crate) fn is_asked(tx: &Connection, shape: &Shape, key: &Value, sent: &Sent) -> Result<bool, Error> {
    let ask = "SELECT 1 FROM _outrigger_outbox WHERE tbl = ?1 AND pk = ?2 AND sent_id = ?3";
    Ok(tx.prepare_cached(ask)?.exists(params![shape.name, key, sent.id])?)
}

/// The change was applied: the row on the server is at that version, none if there never was one to delete, at the
/// latest at that place in the stream.
pub(crate) fn applied(
    tx: &Connection,
    shape: &Shape,
    (key, sent): (&Value, &Sent),
    (version, at): (Option<i64>, i64),
) -> Result<(), Error> {
    let is_deletion = sent.op == "DELETE";
    let known = Known { version: version.unwrap_or(0), deleted_at: is_deletion.then_some(at) };
    rows::set_known(tx, shape, &sent.pk, known)?;
    if is_edited(tx, shape, key)? {
        // Edited on the way: the next change is on top of this one.
        let image: Option<Image> = sent.payload.as_ref().and_then(|payload| serde_json::from_str(payload.get()).ok());
        rows::set_base(tx, shape, key, image.as_ref())?;
        return release(tx, shape, key, false);
    }
    if is_deletion {
        extra::forget(tx, shape, &sent.pk)?;
    }
    drop_entry(tx, shape, key)
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
    (key, sent): (&Value, &Sent),
    (reason, message): (&str, &str),
) -> Result<Option<Aside>, Error> {
    let is_passing = matches!(reason, "fk_missing" | "batch_aborted" | "internal_error" | "precheck_error");
    let is_other_by_now = reason == "source_change_id_reused" || is_edited(tx, shape, key)?;
    if is_passing || is_other_by_now {
        release(tx, shape, key, is_passing)?;
        return Ok(None);
    }
    let payload = sent.payload.as_ref().map(|payload| payload.get());
    put_aside(tx, shape, key, (&sent.op, payload), (reason, message)).map(Some)
}
