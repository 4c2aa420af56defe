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

use crate::shape::{Indexed, Shape, literal, quoted};

/// What the names of a table's triggers end with.
pub(crate) const TRIGGERS: [&str; 5] = ["insert", "update", "delete", "replace", "displace"];

/// The name of one of a table's triggers.
pub(crate) fn trigger_name(table: &str, suffix: &str) -> String {
    format!("_outrigger_{table}_{suffix}")
}

/// The name of the table that keeps the bases of a table's rows.
pub(crate) fn base_name(table: &str) -> String {
    format!("_outrigger_base_{table}")
}

/// The same, as SQL has it.
pub(crate) fn base_table(shape: &Shape) -> String {
    quoted(&base_name(&shape.name))
}

/// The triggers by name, in the order of [`TRIGGERS`].
pub(crate) fn triggers(shape: &Shape) -> Vec<(String, String)> {
    let (table, pk, tbl) = (quoted(&shape.name), quoted(&shape.pk.name), literal(&shape.name));
    let foreign = |row: &str| {
        format!("{row}.{pk} IS NOT NULL AND (SELECT pk IS NOT {row}.{pk} OR tbl IS NOT {tbl} FROM _outrigger_now)")
    };
    let trigger = |suffix: &str, when: &str, condition: String, body: String| {
        let name = trigger_name(&shape.name, suffix);
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
            matches.iter().map(|columns| format!("SELECT 1 FROM {table} t WHERE {columns}{but}")).collect();
        format!("EXISTS ({})", each.join(" UNION ALL "))
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

/// The key and the other columns, each behind that.
fn listed_columns(shape: &Shape, prefix: &str) -> String {
    let all = std::iter::once(&shape.pk).chain(&shape.columns);
    all.map(|column| format!("{prefix}{}", quoted(&column.name))).collect::<Vec<_>>().join(", ")
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
    let (names, values) = (listed_columns(shape, ""), listed_columns(shape, &format!("{row}.")));
    format!("INSERT INTO {base} ({names}) VALUES ({values}) ON CONFLICT ({pk}) DO NOTHING; ")
}

/// Keeps and notes all rows that a statement may replace.
fn replaced(shape: &Shape, matches: &str) -> String {
    let (pk, tbl, base, table) = (quoted(&shape.pk.name), literal(&shape.name), base_table(shape), quoted(&shape.name));
    let (names, values) = (listed_columns(shape, ""), listed_columns(shape, "t."));
    format!(
        "INSERT INTO {base} ({names}) SELECT {values} FROM {table} t WHERE ({matches}) AND t.{pk} IS NOT NULL \
         ON CONFLICT ({pk}) DO NOTHING; \
         INSERT INTO _outrigger_outbox (tbl, pk) SELECT {tbl}, t.{pk} FROM {table} t \
         WHERE ({matches}) AND t.{pk} IS NOT NULL ON CONFLICT (tbl, pk) DO UPDATE SET edit = edit + 1; "
    )
}
