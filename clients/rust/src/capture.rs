//! Noticing what changes: tables of this library beside the app's, and triggers on the app's.
//!
//! There is one outbox entry per row. It says that the row may differ from what the server has, and not how: that is seen
//! when it is sent. Beside it stands the row as it was before (its base), in a table of its own per table, with every
//! value as it is; of a row that the server did not have it means nothing. Rows that are made are only listed, in the
//! order in which they come, and enter the outbox with the next sync: keys are random, and another index to put them in
//! would cost as much as the insert itself.
//!
//! Triggers hold for every connection to the file. A row that is written because the server said so is named in
//! `_outrigger_now` meanwhile: it alone is not captured, and what a cascade or a trigger of the app's does to other
//! rows is.
//!
//! In a trigger the conflict clause of the outer statement takes the place of every inner one (`INSERT OR REPLACE`), so
//! nothing here rests on one. `ON CONFLICT ... DO UPDATE` is not touched by that.
//!
//! An insert pays for all this with every row, so the triggers ask what is cheapest and mostly false first, and look up
//! one index at a time.

use rusqlite::{Connection, OptionalExtension};

use crate::error::Error;
use crate::shape::{Indexed, Shape, literal, quoted};

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
    attempts INTEGER NOT NULL DEFAULT 0, sent_id INTEGER, sent_edit INTEGER, sent_op TEXT, sent_version INTEGER,
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
";

/// The table that keeps the bases of a table's rows.
pub(crate) fn base_table(shape: &Shape) -> String {
    quoted(&format!("_outrigger_base_{}", shape.name))
}

/// Creates what is missing, and mends what is not as it has to be. Rows that nothing is known of enter the outbox.
pub(crate) fn install(connection: &mut Connection, shapes: &[Shape]) -> Result<(), Error> {
    let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    tx.execute_batch(TABLES)?;
    for shape in shapes {
        let is_whole = triggers(shape).iter().all(|(name, sql)| sql_of(&tx, name).ok().flatten().as_ref() == Some(sql));
        if is_whole && sql_of(&tx, &format!("_outrigger_base_{}", shape.name))?.as_deref() == Some(&base_sql(shape)) {
            continue;
        }
        rebuild(&tx, shape)?;
    }
    Ok(tx.commit()?)
}

/// Removes all triggers and tables of this library.
pub(crate) fn remove(connection: &mut Connection) -> Result<(), Error> {
    let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let names = "SELECT type, name FROM sqlite_schema WHERE name LIKE '\\_outrigger\\_%' ESCAPE '\\' \
                 AND type IN ('trigger', 'table') ORDER BY type DESC";
    let names: Vec<(String, String)> =
        tx.prepare(names)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (kind, name) in names {
        tx.execute_batch(&format!("DROP {kind} {}", quoted(&name)))?;
    }
    Ok(tx.commit()?)
}

fn sql_of(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    connection.query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [name], |row| row.get(0)).optional()
}

/// Triggers that were not there, or were others, may have missed something: every row is compared with the server again.
fn rebuild(connection: &Connection, shape: &Shape) -> Result<(), Error> {
    for (name, _) in triggers(shape) {
        connection.execute_batch(&format!("DROP TRIGGER IF EXISTS {}", quoted(&name)))?;
    }
    let (base, table, pk, tbl) = (base_table(shape), quoted(&shape.name), quoted(&shape.pk.name), literal(&shape.name));
    // Bases of other columns are of no use; without one the local row counts as changed in every column.
    connection.execute_batch(&format!("DROP TABLE IF EXISTS {base}; {}", base_sql(shape)))?;
    connection.execute_batch(&format!(
        "INSERT INTO _outrigger_outbox (tbl, pk) SELECT {tbl}, {pk} FROM {table} WHERE {pk} IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM _outrigger_outbox o WHERE o.tbl = {tbl} AND o.pk = {table}.{pk})"
    ))?;
    for (_, sql) in triggers(shape) {
        connection.execute_batch(&sql)?;
    }
    Ok(())
}

/// The columns have no type, so that every value stays what it is.
fn base_sql(shape: &Shape) -> String {
    let columns: String = shape.columns.iter().map(|column| format!(", {}", quoted(&column.name))).collect();
    format!(
        "CREATE TABLE {} ({} NOT NULL PRIMARY KEY{columns}) WITHOUT ROWID",
        base_table(shape),
        quoted(&shape.pk.name)
    )
}

/// The triggers by name.
fn triggers(shape: &Shape) -> Vec<(String, String)> {
    let (table, pk, tbl) = (quoted(&shape.name), quoted(&shape.pk.name), literal(&shape.name));
    let foreign = |row: &str| {
        format!("{row}.{pk} IS NOT NULL AND (SELECT pk IS NOT {row}.{pk} OR tbl IS NOT {tbl} FROM _outrigger_now)")
    };
    let name = |suffix: &str| format!("_outrigger_{}_{suffix}", shape.name);
    let trigger = |suffix: &str, when: &str, condition: String, body: String| {
        let name = name(suffix);
        let sql = format!("CREATE TRIGGER {} {when} ON {table} WHEN {condition} BEGIN {body}END", quoted(&name));
        (name, sql)
    };
    let moved = format!(
        "{}{}",
        noted(&tbl, &format!("OLD.{pk}"), Some(&format!("OLD.{pk} IS NOT NEW.{pk}"))),
        noted(&tbl, &format!("NEW.{pk}"), None)
    );
    let mut all = vec![
        trigger("insert", "AFTER INSERT", foreign("NEW"), listed(&tbl, &format!("NEW.{pk}"))),
        trigger("update", "AFTER UPDATE", foreign("NEW"), format!("{}{moved}", kept(shape, "OLD"))),
        trigger(
            "delete",
            "AFTER DELETE",
            foreign("OLD"),
            kept(shape, "OLD") + &noted(&tbl, &format!("OLD.{pk}"), None),
        ),
    ];
    // What is replaced goes without a trigger. It is noted before, and drops out again if it is still there.
    let equal =
        |column: &Indexed| format!("t.{0} = NEW.{0} COLLATE {1}", quoted(&column.column), quoted(&column.collation));
    let of_key = format!("t.{pk} = NEW.{pk}");
    let unique = shape.unique.iter().map(|columns| columns.iter().map(equal).collect::<Vec<_>>().join(" AND "));
    let matches: Vec<String> = std::iter::once(of_key).chain(unique).collect();
    let there = |matches: &[String], but: &str| {
        let each: Vec<String> =
            matches.iter().map(|columns| format!("EXISTS (SELECT 1 FROM {table} t WHERE {columns}{but})")).collect();
        format!("({})", each.join(" OR "))
    };
    all.push(trigger(
        "replace",
        "BEFORE INSERT",
        format!("{} AND {}", there(&matches, ""), foreign("NEW")),
        replaced(shape, &format!("({})", matches.join(") OR ("))),
    ));
    if let [_, others @ ..] = &*matches
        && !others.is_empty()
    {
        let but = format!(" AND t.{pk} IS NOT OLD.{pk}");
        all.push(trigger(
            "displace",
            "BEFORE UPDATE",
            format!("{} AND {}", there(others, &but), foreign("NEW")),
            replaced(shape, &format!("(({})){but}", others.join(") OR ("))),
        ));
    }
    all
}

/// Notes that a row may have changed.
fn noted(tbl: &str, pk: &str, condition: Option<&str>) -> String {
    let row = match condition {
        Some(condition) => format!("SELECT {tbl}, {pk} WHERE {condition}"),
        None => format!("VALUES ({tbl}, {pk})"),
    };
    format!("INSERT INTO _outrigger_outbox (tbl, pk) {row} ON CONFLICT (tbl, pk) DO UPDATE SET edit = edit + 1; ")
}

/// Notes that a row was made.
fn listed(tbl: &str, pk: &str) -> String {
    format!("INSERT INTO _outrigger_inserted (tbl, pk) VALUES ({tbl}, {pk}); ")
}

/// Keeps a row as it was before its first edit.
fn kept(shape: &Shape, row: &str) -> String {
    let (pk, base) = (quoted(&shape.pk.name), base_table(shape));
    let columns: String = shape.columns.iter().map(|column| format!(", {row}.{}", quoted(&column.name))).collect();
    format!("INSERT INTO {base} VALUES ({row}.{pk}{columns}) ON CONFLICT ({pk}) DO NOTHING; ")
}

/// Keeps and notes all rows that a statement may replace.
fn replaced(shape: &Shape, matches: &str) -> String {
    let (pk, tbl, base, table) = (quoted(&shape.pk.name), literal(&shape.name), base_table(shape), quoted(&shape.name));
    let columns: String = shape.columns.iter().map(|column| format!(", t.{}", quoted(&column.name))).collect();
    format!(
        "INSERT INTO {base} SELECT t.{pk}{columns} FROM {table} t WHERE ({matches}) AND t.{pk} IS NOT NULL \
         ON CONFLICT ({pk}) DO NOTHING; \
         INSERT INTO _outrigger_outbox (tbl, pk) SELECT {tbl}, t.{pk} FROM {table} t \
         WHERE ({matches}) AND t.{pk} IS NOT NULL ON CONFLICT (tbl, pk) DO UPDATE SET edit = edit + 1; "
    )
}
