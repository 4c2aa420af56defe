//! The statements that project, made of the shapes of the tables.
//!
//! A fragment projects the rows of one table. Fragments stand behind the statement of a commit, or by themselves.
//! Identifiers are always quoted, types and defaults are the catalog's own text.

use std::fmt::Write;

use super::shape::Shape;

/// Goes in front of fragments that stand by themselves. $1 is the user.
const ALONE: &str = "WITH turn AS (SELECT 1)";

/// Goes behind fragments that stand by themselves, where `written` has the rows: remembers whose the business rows
/// are, and forgets the failures of the rows.
pub(crate) const MARK: &str = "
, marked AS (
    UPDATE sync.sync_row_meta m SET projected = NOT w.deleted FROM written w
    WHERE m.user_id = w.user_id AND m.schema_name = w.schema_name AND m.table_name = w.table_name AND m.pk_uuid = w.pk
      AND m.projected = w.deleted
), cured AS (
    DELETE FROM sync.materialize_failures f USING written w
    WHERE f.user_id = w.user_id AND f.schema_name = w.schema_name AND f.table_name = w.table_name AND f.pk_uuid = w.pk
)";

/// A statement that projects rows of these tables and marks them. Answers with how many rows of the business tables
/// are not as they were to be: anything but 0 asks for a rollback.
pub(crate) fn alone(shapes: &[&Shape]) -> String {
    let mut sql = ALONE.to_owned();
    let mut first = 2;
    for (n, shape) in shapes.iter().enumerate() {
        first = fragment(&mut sql, n, shape, first);
    }
    let union: Vec<String> = shapes
        .iter()
        .enumerate()
        .map(|(n, shape)| {
            let (schema, table) = (literal(shape.name.schema()), literal(shape.name.table()));
            format!("SELECT $1::text AS user_id, {schema} AS schema_name, {table} AS table_name, pk, deleted FROM t{n}")
        })
        .collect();
    let _ = write!(sql, ",\nwritten AS MATERIALIZED ({}){MARK}\nSELECT ", union.join(" UNION ALL "));
    let shortfalls: Vec<String> = (0..shapes.len()).map(shortfall).collect();
    let _ = write!(sql, "({})::int8", shortfalls.join(" + "));
    sql
}

/// Adds the fragment number `n`, whose parameters begin at `first`; gives the number of the next parameter.
///
/// The look-ups have a LIMIT, which the planner cannot turn into a join; what is written is found by `= ANY`, so that no
/// plan reads more of a business table than these rows, whatever was known of its size.
pub(crate) fn fragment(sql: &mut String, n: usize, shape: &Shape, first: usize) -> usize {
    let (biz, pk, pk_type) = (table(shape), quoted(&shape.pk), &shape.pk_type);
    let (schema, name) = (literal(shape.name.schema()), literal(shape.name.table()));
    let numbers = 0..shape.columns.len();
    let arguments: String = numbers.clone().map(|c| format!(", ${}::text[]", first + 3 + c)).collect();
    let raw: String = numbers.clone().map(|c| format!(", c{c}")).collect();
    let typed: String =
        numbers.zip(&shape.columns).map(|(c, column)| format!(", u.c{c}::{} AS c{c}", column.type_name)).collect();
    let _ = write!(
        sql,
        ",
t{n} AS MATERIALIZED (
    SELECT u.pk, u.pk::{pk_type} AS key, u.deleted, u.mask, coalesce(m.projected, false) AS ours,
           b.there IS NOT NULL AS there{typed}
    FROM turn CROSS JOIN unnest(${first}::uuid[], ${}::bool[], ${}::bytea[]{arguments}) AS u (pk, deleted, mask{raw})
    LEFT JOIN LATERAL (
        SELECT r.projected FROM sync.sync_row_meta r
        WHERE r.user_id = $1::text AND r.schema_name = {schema} AND r.table_name = {name} AND r.pk_uuid = u.pk
        LIMIT 1
    ) m ON true
    LEFT JOIN LATERAL (SELECT true AS there FROM {biz} b WHERE b.{pk} = u.pk::{pk_type} LIMIT 1) b ON true
),
t{n}_del AS (
    DELETE FROM {biz} b WHERE b.{pk} = ANY (ARRAY(SELECT key FROM t{n} WHERE deleted AND ours)){}
    RETURNING 1
),
",
        first + 1,
        first + 2,
        owner_matches(shape),
    );
    write_rows(sql, n, shape);
    first + 3 + shape.columns.len()
}

/// The update and the insert of a fragment.
fn write_rows(sql: &mut String, n: usize, shape: &Shape) {
    let (biz, pk) = (table(shape), quoted(&shape.pk));
    let mut sets: Vec<String> = Vec::new();
    let (mut names, mut values) = (pk.clone(), "key".to_owned());
    if let Some((owner, owner_type)) = &shape.owner {
        let _ = write!(names, ", {}", quoted(owner));
        let _ = write!(values, ", $1::text::{owner_type}");
    }
    for (c, column) in shape.columns.iter().enumerate() {
        let (name, type_name) = (quoted(&column.name), &column.type_name);
        sets.push(format!("{name} = CASE WHEN get_bit(t.mask, {c}) = 1 THEN t.c{c} ELSE b.{name} END"));
        let default_value = column.default_value.as_deref().unwrap_or("NULL");
        let _ = write!(names, ", {name}");
        let _ = write!(
            values,
            ", CASE WHEN get_bit(mask, {c}) = 1 THEN c{c} ELSE CAST(({default_value}) AS {type_name}) END"
        );
    }
    if sets.is_empty() {
        sets.push(format!("{pk} = b.{pk}"));
    }
    let conflict = on_conflict(shape);
    let _ = write!(
        sql,
        "t{n}_upd AS (
    UPDATE {biz} b SET {} FROM t{n} t
    WHERE b.{pk} = ANY (ARRAY(SELECT key FROM t{n} WHERE NOT deleted AND ours AND there)) AND b.{pk} = t.key{}
    RETURNING 1
),
t{n}_ins AS (
    INSERT INTO {biz} ({names}) SELECT {values} FROM t{n}
    WHERE NOT deleted AND NOT (ours AND there) ORDER BY key
    {conflict} RETURNING 1
)",
        sets.join(", "),
        owner_matches(shape),
    );
}

/// An expression for how many business rows of a fragment are not as they were to be. Deletes are asked for first, so
/// that a unique value they free can be used by an insert.
pub(crate) fn shortfall(n: usize) -> String {
    format!(
        "((SELECT count(*) FILTER (WHERE NOT deleted OR there) FROM t{n}) - (SELECT count(*) FROM t{n}_del) \
         - (SELECT count(*) FROM t{n}_upd) - (SELECT count(*) FROM t{n}_ins))"
    )
}

fn owner_matches(shape: &Shape) -> String {
    let matches = |(owner, owner_type): &(String, String)| format!(" AND b.{} = $1::text::{owner_type}", quoted(owner));
    shape.owner.as_ref().map(matches).unwrap_or_default()
}

/// What an insert does where there is a row already. It asks for the key's constraint too, which the app may have taken
/// away. A deferrable one cannot arbitrate: then a row that is there is an error of its own.
pub(super) fn on_conflict(shape: &Shape) -> String {
    if shape.pk_deferrable { String::new() } else { format!("ON CONFLICT ({}) DO NOTHING", quoted(&shape.pk)) }
}

/// The business table.
pub(super) fn table(shape: &Shape) -> String {
    format!("{}.{}", quoted(shape.name.schema()), quoted(shape.name.table()))
}

/// An identifier as it stands in SQL.
pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A name of the registered tables as a literal: it holds nothing but letters, digits and underscores.
fn literal(name: &str) -> String {
    format!("'{name}'::text")
}
