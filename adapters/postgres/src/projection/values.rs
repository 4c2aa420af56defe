//! The rows of a batch as arguments of a statement: one array per column.

use outrigger_application::projection::convert::{Value, convert};
use outrigger_domain::change::OpKind;
use outrigger_domain::plan::RowEffect;
use outrigger_domain::{Payload, Plan, RowKey, RowVersion, json};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::shape::{Column, Shape};

/// A row that is to be projected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetChange<'a> {
    pub(crate) key: &'a RowKey,
    pub(crate) version: RowVersion,
    pub(crate) op: OpKind,
    pub(crate) payload: Option<&'a Payload>,
    /// Whether the server has seen the row before.
    pub(crate) known: bool,
}

/// What a plan does to its rows in the end.
pub(crate) fn of_plan(plan: &Plan) -> Vec<NetChange<'_>> {
    let net = |effect: &RowEffect| {
        let entry = &plan.log[effect.entry];
        let (change, known) = (&entry.change, effect.known);
        NetChange {
            key: &change.row,
            version: entry.version,
            op: change.op.kind(),
            payload: change.op.payload(),
            known,
        }
    };
    plan.rows.iter().map(net).collect()
}

/// The values of one row: text that the database casts to each column's type.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    /// Bit n is set if the payload has the n-th column.
    mask: Vec<u8>,
    columns: Vec<Option<String>>,
}

impl Values {
    /// Which columns there are.
    pub(crate) fn mask(&self) -> &[u8] {
        &self.mask
    }

    /// The same with one of its columns alone. None if there is nothing in that.
    pub(crate) fn only(self, column: usize) -> Option<Self> {
        let count = self.columns.len();
        let mut only = Self { mask: vec![0; self.mask.len()], columns: vec![None; count] };
        only.columns[column] = Some(self.columns.into_iter().nth(column)??);
        only.mask[column / 8] = 1 << (column % 8);
        Some(only)
    }
}

/// Converts a row, or says what is in the way.
pub(crate) fn of(shape: &Shape, row: NetChange<'_>) -> Result<Values, String> {
    let count = shape.columns.len();
    let mut values = Values { mask: vec![0; count.div_ceil(8).max(1)], columns: vec![None; count] };
    let Some(payload) = row.payload else { return Ok(values) };
    let names: Vec<&str> = shape.columns.iter().map(|column| column.name.as_str()).collect();
    let members = json::members(payload.as_str(), &names).unwrap_or_default();
    for (c, (column, member)) in shape.columns.iter().zip(members).enumerate() {
        let Some(member) = member else { continue };
        values.mask[c / 8] |= 1 << (c % 8);
        // In a column of JSON too, null is NULL.
        if member.get() != "null" {
            values.columns[c] = text_of(column, convert(&column.kind, member))?;
        }
    }
    Ok(values)
}

fn text_of<E: std::fmt::Display>(column: &Column, value: Result<Value<'_>, E>) -> Result<Option<String>, String> {
    let text = value.map(text).map_err(|mismatch| format!("column {}: {mismatch}", column.name))?;
    // The one character that Postgres cannot store.
    if text.as_ref().is_some_and(|text| text.contains('\0')) {
        return Err(format!("column {}: cannot make text of a JSON string with a NUL character", column.name));
    }
    Ok(text)
}

fn text(value: Value<'_>) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Uuid(uuid) => uuid.to_string(),
        Value::Bytes(bytes) => {
            let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            "\\x".chars().chain(digits.filter_map(|digit| char::from_digit(digit.into(), 16))).collect()
        }
        Value::Timestamp(at) => at.to_string(),
        Value::Date(date) => date.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Number(digits) => digits,
        Value::Boolean(value) => value.to_string(),
        Value::Json(json) => json.to_owned(),
        Value::Text(text) => text,
        Value::Array(values) => {
            let elements: Vec<String> = values.into_iter().map(element).collect();
            format!("{{{}}}", elements.join(","))
        }
    })
}

/// An element as it stands in the text of an array.
fn element(value: Value<'_>) -> String {
    let is_array = matches!(value, Value::Array(_));
    match text(value) {
        // One more dimension.
        Some(text) if is_array => text,
        None => "NULL".into(),
        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

/// Binds the rows of one table in the order of its fragment's parameters.
pub(crate) fn bind<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    shape: &Shape,
    rows: Vec<(NetChange<'_>, Values)>,
) -> Query<'q, Postgres, PgArguments> {
    let mut columns: Vec<Vec<Option<String>>> = shape.columns.iter().map(|_| Vec::with_capacity(rows.len())).collect();
    let (mut pks, mut deleted, mut masks) = (Vec::new(), Vec::new(), Vec::new());
    for (row, values) in rows {
        pks.push(row.key.pk);
        deleted.push(row.payload.is_none());
        masks.push(values.mask);
        columns.iter_mut().zip(values.columns).for_each(|(column, value)| column.push(value));
    }
    let statement = statement.bind(pks).bind(deleted).bind(masks);
    columns.into_iter().fold(statement, |statement, column| statement.bind(column))
}

/// Binds the key of the only row and those columns alone.
pub(crate) fn bind_single<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    columns: &[usize],
    rows: Vec<(NetChange<'_>, Values)>,
) -> Query<'q, Postgres, PgArguments> {
    rows.into_iter().fold(statement, |statement, (row, mut values)| {
        let statement = statement.bind(row.key.pk);
        columns.iter().fold(statement, |statement, &column| statement.bind(values.columns[column].take()))
    })
}

/// Binds the keys of rows and those columns alone.
pub(crate) fn bind_columns<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    columns: &[usize],
    rows: Vec<(NetChange<'_>, Values)>,
) -> Query<'q, Postgres, PgArguments> {
    let pks: Vec<_> = rows.iter().map(|(row, _)| row.key.pk).collect();
    let mut values: Vec<Values> = rows.into_iter().map(|(_, values)| values).collect();
    columns.iter().fold(statement.bind(pks), |statement, &column| {
        statement.bind(values.iter_mut().map(|values| values.columns[column].take()).collect::<Vec<_>>())
    })
}
