//! Finds out which column a value was not fit for.
//!
//! Postgres does not say: a text that is too long, a number out of range and a text that is none of a type's values are
//! errors of an expression. So the row is projected again with one of its columns at a time, and undone.

use std::collections::BTreeMap;

use outrigger_application::projection::convert::mismatch;
use outrigger_domain::json;
use sqlx::PgConnection;

use super::careful::{Careful, Refused, Why, undo};
use super::values;

impl Careful<'_> {
    /// The reason with the column and the type of the value that it is about, if there is time to find out.
    pub(super) async fn with_column(
        &self,
        tx: &mut PgConnection,
        group: &[usize],
        why: Why,
    ) -> Result<String, sqlx::Error> {
        let (Some(sqlstate), &[position]) = (&why.of_value, group) else { return Ok(why.text) };
        let row = self.rows[position];
        let (Ok(shape), Some(payload)) = (self.targets.shape(&row.key.table), row.payload) else {
            return Ok(why.text);
        };
        let names: Vec<&str> = shape.columns.iter().map(|column| column.name.as_str()).collect();
        let members = json::members(payload.as_str(), &names).unwrap_or_default();
        for (c, (column, member)) in shape.columns.iter().zip(members).enumerate() {
            let (Some(member), Ok(values)) = (member, values::of(shape, row)) else { continue };
            let left = self.left();
            if left.is_zero() {
                break;
            }
            let Some(values) = values.only(c) else { continue };
            let tried = match self.save(tx, left).await {
                Ok(()) => self.project(tx, BTreeMap::from([(&row.key.table, vec![(row, values)])])).await,
                broken => broken,
            };
            match undo(tx).await.and(tried) {
                Err(Refused::Broken(error)) => return Err(error),
                Err(Refused::Because(Why { of_value: Some(again), .. })) if again == *sqlstate => {
                    return Ok(format!("column {}: {}: {}", column.name, mismatch(&column.kind, member), why.text));
                }
                Ok(()) | Err(Refused::Because(_)) => {}
            }
        }
        Ok(why.text)
    }
}
