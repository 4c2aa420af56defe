//! The rows of an upload, sorted into the fragments of the one statement that writes all of it.
//!
//! Most rows of most uploads are new, and there is nothing to look up for a new row: who else could have put a business
//! row there is told by that table's own key. So new rows that have the same columns have a fragment of their own, which
//! is an INSERT and no more.

use std::collections::BTreeMap;
use std::fmt::Write;

use outrigger_domain::TableName;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::shape::Shape;
use super::sql;
use super::values::{self, NetChange, Values};
use super::{Projection, Targets};
use crate::commit::sidecar::Sidecar;

/// A table and, if it is about new rows, which of the columns they have.
pub(crate) type Form = (TableName, Option<Vec<u8>>);

/// Rows of one table that one fragment projects.
pub(crate) struct Part<'a> {
    shape: &'a Shape,
    /// The columns that all rows have, if all of them are new.
    new: Option<Vec<u8>>,
    rows: Vec<(NetChange<'a>, Values)>,
}

/// All rows that are projected, by their fragments. None if there is one that no statement for all of them can take.
pub(crate) fn sorted<'a>(
    projection: &Projection,
    targets: &'a Targets,
    rows: &[NetChange<'a>],
) -> Option<Vec<Part<'a>>> {
    let mut tables: BTreeMap<&TableName, Vec<(NetChange<'a>, Values)>> = BTreeMap::new();
    for row in rows.iter().filter(|row| projection.projects(targets, &row.key.table)) {
        let table = &row.key.table;
        let shape = targets.shape(table).ok().filter(|shape| !shape.deferred && projection.custom(table).is_none())?;
        tables.entry(table).or_default().push((*row, values::of(shape, *row).ok()?));
    }
    let (mut any, mut new) = (Vec::new(), Vec::new());
    for (table, rows) in tables {
        let shape = targets.shape(table).ok()?;
        let (fresh, others): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(row, _)| !row.known && row.payload.is_some());
        let mask = fresh.first().map(|(_, values)| values.mask().to_vec());
        let alike = fresh.iter().all(|(_, values)| Some(values.mask()) == mask.as_deref());
        let (fresh, others) = if alike { (fresh, others) } else { (Vec::new(), [others, fresh].concat()) };
        any.extend((!others.is_empty()).then_some(Part { shape, new: None, rows: others }));
        new.extend((!fresh.is_empty()).then_some(Part { shape, new: mask, rows: fresh }));
    }
    // What is counted first is done first: deletes and updates may free a unique value that a new row takes.
    any.append(&mut new);
    Some(any)
}

/// The same with no fragments of new rows: there are many sets of columns, and not all can have statements.
pub(crate) fn merged(parts: Vec<Part<'_>>) -> Vec<Part<'_>> {
    let mut merged: Vec<Part<'_>> = Vec::new();
    for part in parts {
        match merged.iter_mut().find(|other| other.shape.name == part.shape.name) {
            Some(other) => other.rows.extend(part.rows),
            None => merged.push(Part { new: None, ..part }),
        }
    }
    merged
}

impl<'a> Part<'a> {
    /// What its fragment is made of.
    pub(crate) fn form(&self) -> Form {
        (self.shape.name.clone(), self.new.clone())
    }

    /// Its table.
    pub(crate) fn table(&self) -> &'a TableName {
        &self.shape.name
    }

    /// Binds its rows in the order of its fragment's parameters.
    pub(crate) fn bind<'q>(
        self,
        statement: Query<'q, Postgres, PgArguments>,
        sidecar: Sidecar,
    ) -> Query<'q, Postgres, PgArguments> {
        match self.new {
            None => values::bind(statement, self.shape, self.rows),
            Some(mask) if sidecar.is_single => values::bind_single(statement, &columns(self.shape, &mask), self.rows),
            Some(mask) => values::bind_columns(statement, &columns(self.shape, &mask), self.rows),
        }
    }
}

/// Adds the fragments, whose parameters stand behind those of the sidecar; gives what asks how many business rows are not
/// as they were to be, one expression for each.
pub(crate) fn fragments(text: &mut String, parts: &[Part<'_>], sidecar: Sidecar) -> Vec<String> {
    let (mut shortfalls, mut first) = (Vec::new(), sidecar.next_parameter());
    for (n, part) in parts.iter().enumerate() {
        match &part.new {
            None => {
                first = sql::fragment(text, n, part.shape, first);
                shortfalls.push(sql::shortfall(n));
            }
            Some(mask) => {
                let columns = columns(part.shape, mask);
                insert(text, n, (part.shape, &columns), (first, sidecar.is_single));
                shortfalls.push(if sidecar.is_single {
                    // To count them would take three nodes of the plan more.
                    format!("(EXISTS (SELECT FROM turn) <> EXISTS (SELECT FROM t{n}_ins))::int4")
                } else {
                    let rows = format!("cardinality(${first}::uuid[])");
                    format!("((SELECT count(*) FROM turn) * {rows} - (SELECT count(*) FROM t{n}_ins))")
                });
                first += 1 + columns.len();
            }
        }
    }
    shortfalls
}

/// New rows, in the order of their keys, as everybody inserts them: those who insert the same cannot wait in a circle.
/// The parameters begin at `first`, and are arrays unless there is a single row.
fn insert(sql: &mut String, n: usize, (shape, columns): (&Shape, &[usize]), (first, is_single): (usize, bool)) {
    let key = if is_single { format!("${first}::uuid") } else { "u.pk".into() };
    let (mut names, mut values) = (sql::quoted(&shape.pk), format!("{key}::{}", shape.pk_type));
    if let Some((owner, owner_type)) = &shape.owner {
        let _ = write!(names, ", {}", sql::quoted(owner));
        let _ = write!(values, ", $1::text::{owner_type}");
    }
    let (mut arguments, mut raw) = (format!("${first}::uuid[]"), "pk".to_owned());
    for (place, &c) in columns.iter().enumerate() {
        let (column, parameter) = (&shape.columns[c], first + 1 + place);
        let value = if is_single { format!("${parameter}::text") } else { format!("u.c{c}") };
        let _ = write!(names, ", {}", sql::quoted(&column.name));
        let _ = write!(values, ", {value}::{}", column.type_name);
        let _ = write!(arguments, ", ${parameter}::text[]");
        let _ = write!(raw, ", c{c}");
    }
    let rows = if is_single {
        "turn".into()
    } else {
        format!("turn CROSS JOIN unnest({arguments}) AS u ({raw})\n    ORDER BY 1")
    };
    let (table, conflict) = (sql::table(shape), sql::on_conflict(shape));
    let _ = write!(
        sql,
        ",
t{n}_ins AS (
    INSERT INTO {table} ({names}) SELECT {values} FROM {rows} {conflict} RETURNING 1
)"
    );
}

/// The columns whose bits are set.
fn columns(shape: &Shape, mask: &[u8]) -> Vec<usize> {
    (0..shape.columns.len()).filter(|c| mask.get(c / 8).is_some_and(|byte| byte & (1 << (c % 8)) != 0)).collect()
}
