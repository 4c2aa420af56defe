//! Making tables sync, and keeping up with what the app does to them: columns that come and go, tables that are named
//! later, made anew, left out or dropped.
//!
//! What the triggers were when they were made is remembered, so that it is known whether they have been there all the
//! time. If they were, only they and the base change with the table. If not, as where a table was made anew, edits may have
//! been missed: every row becomes *unsure*, and the rows are fetched once more. An unsure row that differs from what the
//! server has at the version that is known here was edited; for all others the server's row counts. So a row that
//! vanished unnoticed comes back, and nothing is deleted elsewhere that was not seen to be deleted here.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::capture::{TRIGGERS, base_name, base_table, trigger_name, triggers};
use crate::config::Table;
use crate::database::Stops;
use crate::error::Error;
use crate::extra;
use crate::shape::{self, Shape, literal, quoted};
use crate::values::key_from_text;
use crate::{outbox, rows, state};

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS _outrigger_state (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _outrigger_now (one INTEGER PRIMARY KEY CHECK (one = 1), tbl TEXT, pk);
INSERT INTO _outrigger_now (one) SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM _outrigger_now);
UPDATE _outrigger_now SET tbl = NULL, pk = NULL WHERE tbl IS NOT NULL;
CREATE TABLE IF NOT EXISTS _outrigger_row (
    tbl TEXT NOT NULL, pk TEXT NOT NULL, version INTEGER NOT NULL, deleted_at INTEGER, seen INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _outrigger_outbox (
    tbl TEXT NOT NULL, pk NOT NULL, edit INTEGER NOT NULL DEFAULT 0, hold INTEGER NOT NULL DEFAULT 0,
    unsure INTEGER NOT NULL DEFAULT 0, sent_id INTEGER, sent_edit INTEGER, sent_op TEXT, sent_version INTEGER,
    sent_payload TEXT,
    PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _outrigger_inserted (seq INTEGER PRIMARY KEY, tbl TEXT NOT NULL, pk NOT NULL);
CREATE TABLE IF NOT EXISTS _outrigger_aside (
    id INTEGER PRIMARY KEY, tbl TEXT NOT NULL, pk TEXT NOT NULL, op TEXT NOT NULL, payload TEXT, reason TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS _outrigger_unapplied (
    tbl TEXT NOT NULL, pk TEXT NOT NULL, version INTEGER NOT NULL, payload TEXT, at INTEGER NOT NULL,
    PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS _outrigger_extra (
    tbl TEXT NOT NULL, pk TEXT NOT NULL, members TEXT NOT NULL, PRIMARY KEY (tbl, pk)
) WITHOUT ROWID;
";

/// The layout of these tables.
const FORMAT: i64 = 1;

/// Makes the tables sync: creates what is missing and mends what is not as it has to be. Tables that are not among
/// them are left alone from now on if `leave_others`. Gives the shapes, and the schema's version that they are of.
pub(crate) fn install(
    tx: &Transaction<'_>,
    tables: &[Table],
    leave_others: bool,
    stops: &Stops,
) -> Result<(Vec<Shape>, i64), Error> {
    let shapes = shape::read_all(tx, tables)?;
    tx.execute_batch(TABLES)?;
    let format: i64 = state::get(tx, state::FORMAT)?.unwrap_or(FORMAT);
    if format > FORMAT {
        let why = "a later version of this library has worked with this database".to_owned();
        return Err(Error::Table { table: "_outrigger_state".into(), why });
    }
    state::set(tx, state::FORMAT, FORMAT)?;
    outbox::gather(tx)?;
    stops.at("tables made")?;
    for shape in &shapes {
        adopt(tx, shape, stops)?;
        stops.at("table adopted")?;
    }
    if leave_others {
        for name in base_names(tx)? {
            if !shapes.iter().any(|shape| shape.name.eq_ignore_ascii_case(&name)) {
                leave(tx, &name, stops)?;
            }
        }
    }
    Ok((shapes, schema_version(tx)?))
}

/// A number that changes with every change of a table.
pub(crate) fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "schema_version", |row| row.get(0))
}

/// Removes all triggers and tables of this library.
pub(crate) fn remove(tx: &Transaction<'_>, stops: &Stops) -> Result<(), Error> {
    let names = "SELECT type, name FROM sqlite_schema WHERE name LIKE '\\_outrigger\\_%' ESCAPE '\\' \
                 AND type IN ('trigger', 'table') ORDER BY type DESC";
    let names: Vec<(String, String)> =
        tx.prepare(names)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (kind, name) in names {
        tx.execute_batch(&format!("DROP {kind} {}", quoted(&name)))?;
        stops.at("dropped")?;
    }
    Ok(())
}

fn adopt(tx: &Connection, shape: &Shape, stops: &Stops) -> Result<(), Error> {
    let remembered = format!("triggers {}", shape.name);
    let there = triggers_there(tx, &shape.name)?;
    let wanted: String = triggers(shape).iter().map(|(_, sql)| format!("{sql};\n")).collect();
    let was_watched = state::get::<String>(tx, &remembered)?.is_some_and(|text| text == there);
    let columns = base_columns(tx, &shape.name)?;
    let wanted_columns: Vec<&String> = shape.columns.iter().map(|column| &column.name).collect();
    let has_columns = columns.as_ref().is_some_and(|columns| columns.iter().eq(wanted_columns));
    if was_watched && there == wanted && has_columns {
        return Ok(());
    }
    drop_triggers(tx, &shape.name)?;
    stops.at("triggers dropped")?;
    let added = match &columns {
        Some(columns) => evolve_base(tx, shape, columns)?,
        None => {
            tx.execute_batch(&base_sql(shape))?;
            Vec::new()
        }
    };
    stops.at("base made")?;
    if !was_watched {
        doubt(tx, shape)?;
        stops.at("rows doubted")?;
    }
    tx.execute_batch(&wanted)?;
    state::set(tx, &remembered, &wanted)?;
    stops.at("triggers made")?;
    if !added.is_empty() {
        extra::take_up(tx, shape, &added)?;
    }
    Ok(rows::capture_all(tx)?)
}

/// The columns have no type, so that every value stays what it is.
fn base_sql(shape: &Shape) -> String {
    let columns: String = shape.columns.iter().map(|column| format!(", {}", quoted(&column.name))).collect();
    let (base, pk) = (base_table(shape), quoted(&shape.pk.name));
    format!("CREATE TABLE {base} ({pk} NOT NULL PRIMARY KEY{columns}) WITHOUT ROWID")
}

/// Gives the base the columns that the table has, in the same order. Bases of rows stay; what was not known of a new
/// column counts as NULL. Gives the columns that are new.
fn evolve_base(tx: &Connection, shape: &Shape, columns: &[String]) -> Result<Vec<String>, Error> {
    let (base, old) = (base_table(shape), quoted(&format!("_outrigger_old_{}", shape.name)));
    let key: String =
        tx.query_row("SELECT name FROM pragma_table_info(?1) WHERE pk = 1", [&base_name(&shape.name)], |row| {
            row.get(0)
        })?;
    let names = || shape.columns.iter().map(|column| &column.name);
    let kept: String =
        names().filter(|name| columns.contains(name)).map(|name| format!(", {}", quoted(name))).collect();
    let (pk, key) = (quoted(&shape.pk.name), quoted(&key));
    tx.execute_batch(&format!(
        "CREATE TABLE {old} AS SELECT * FROM {base}; DROP TABLE {base}; {}; \
         INSERT INTO {base} ({pk}{kept}) SELECT {key}{kept} FROM {old}; DROP TABLE {old}",
        base_sql(shape)
    ))?;
    Ok(names().filter(|name| !columns.contains(name)).cloned().collect())
}

/// The rows may not be what is known of them: see the module.
fn doubt(tx: &Connection, shape: &Shape) -> Result<(), Error> {
    let (tbl, table, pk) = (literal(&shape.name), quoted(&shape.name), quoted(&shape.pk.name));
    let is_known = "SELECT 1 FROM _outrigger_row WHERE tbl = ?1 AND deleted_at IS NULL LIMIT 1";
    let is_empty = !tx.prepare(&format!("SELECT 1 FROM {table} LIMIT 1"))?.exists([])?;
    if is_empty && tx.prepare(is_known)?.exists([&shape.name])? {
        // It was made anew, and is to be filled again.
        forget(tx, &shape.name)?;
    }
    tx.execute("UPDATE _outrigger_outbox SET hold = 0 WHERE tbl = ?1", [&shape.name])?;
    let known = "SELECT pk FROM _outrigger_row WHERE tbl = ?1 AND deleted_at IS NULL";
    let known: Vec<String> =
        tx.prepare(known)?.query_map([&shape.name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut unsure = tx.prepare(&format!(
        "INSERT INTO _outrigger_outbox (tbl, pk, unsure) SELECT {tbl}, {pk}, 1 FROM {table} WHERE {pk} = ?1 \
         ON CONFLICT (tbl, pk) DO NOTHING"
    ))?;
    for key in known {
        unsure.execute([key_from_text(&key, &shape.pk).map_err(Error::Protocol)?])?;
    }
    tx.execute_batch(&format!(
        "INSERT INTO _outrigger_outbox (tbl, pk) SELECT {tbl}, {pk} FROM {table} WHERE {pk} IS NOT NULL \
         ON CONFLICT (tbl, pk) DO NOTHING"
    ))?;
    // What the server has of this table was never asked for, or is to be compared.
    state::start_over(tx)
}

/// The app does not sync this table any more. What it has not uploaded rests, and is gone if the table is.
fn leave(tx: &Connection, name: &str, stops: &Stops) -> Result<(), Error> {
    drop_triggers(tx, name)?;
    state::clear(tx, &[&format!("triggers {name}")])?;
    stops.at("table left")?;
    let is_there = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    if tx.prepare(is_there)?.exists([name])? {
        tx.execute("UPDATE _outrigger_outbox SET hold = 2 WHERE tbl = ?1", [name])?;
        return Ok(());
    }
    forget(tx, name)?;
    Ok(tx.execute_batch(&format!("DROP TABLE {}", quoted(&base_name(name))))?)
}

/// Forgets all that is known of a table's rows.
fn forget(tx: &Connection, name: &str) -> Result<(), Error> {
    for table in ["outbox", "row", "unapplied", "extra"] {
        tx.execute(&format!("DELETE FROM _outrigger_{table} WHERE tbl = ?1"), [name])?;
    }
    Ok(tx.execute_batch(&format!("DELETE FROM {}", quoted(&base_name(name))))?)
}

fn triggers_there(tx: &Connection, table: &str) -> rusqlite::Result<String> {
    let mut sql = tx.prepare("SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?1 AND tbl_name = ?2")?;
    let mut all = String::new();
    for suffix in TRIGGERS {
        let found: Option<String> =
            sql.query_row(params![trigger_name(table, suffix), table], |row| row.get(0)).optional()?;
        all.extend(found.map(|sql| format!("{sql};\n")));
    }
    Ok(all)
}

fn drop_triggers(tx: &Connection, table: &str) -> rusqlite::Result<()> {
    TRIGGERS.iter().try_for_each(|suffix| {
        tx.execute_batch(&format!("DROP TRIGGER IF EXISTS {}", quoted(&trigger_name(table, suffix))))
    })
}

/// The columns of a base besides its key; none if there is no base.
fn base_columns(tx: &Connection, table: &str) -> rusqlite::Result<Option<Vec<String>>> {
    let mut columns = tx.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid")?;
    let columns = columns.query_map([base_name(table)], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
    let columns: Vec<(String, i64)> = columns.collect::<Result<_, _>>()?;
    let is_there = !columns.is_empty();
    Ok(is_there.then(|| columns.into_iter().filter(|(_, pk)| *pk == 0).map(|(name, _)| name).collect()))
}

/// The tables that there is a base of.
fn base_names(tx: &Connection) -> rusqlite::Result<Vec<String>> {
    let names = "SELECT substr(name, 17) FROM sqlite_schema WHERE type = 'table' \
                 AND name LIKE '\\_outrigger\\_base\\_%' ESCAPE '\\'";
    tx.prepare(names)?.query_map([], |row| row.get(0))?.collect()
}
