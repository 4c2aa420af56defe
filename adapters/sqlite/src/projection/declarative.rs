//! The projection of a table by its columns.
//!
//! One prepared statement per row, not one for the whole batch: SQLite runs in this process, so there is no round trip
//! to save, and a row that is refused is known at once. The statements of one set of columns are prepared
//! once and kept; SQLite prepares them anew by itself when the catalog has changed.

use std::fmt::Write;

use async_trait::async_trait;
use outrigger_application::{Batch, MaterializeError, Materializer, NetRow};
use outrigger_domain::{Payload, UserId, json};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::refusal::refusal;
use super::shape::{Shape, quoted};

/// As SQLite says it at the end of a transaction.
pub(super) fn broken_reference() -> MaterializeError {
    MaterializeError("SQLITE_CONSTRAINT_FOREIGNKEY: FOREIGN KEY constraint failed".into())
}

const NOT_OURS: &str = "the business row was not put there by this user";
const IGNORED: &str = "a trigger of the table ignored the row";

#[async_trait]
impl Materializer<Connection> for Shape {
    async fn apply(&self, tx: &mut Connection, batch: Batch<'_>) -> Result<(), MaterializeError> {
        self.project(tx, batch)
    }
}

impl Shape {
    /// Writes or deletes the rows of the batch.
    pub(crate) fn project(&self, tx: &Connection, batch: Batch<'_>) -> Result<(), MaterializeError> {
        batch.rows.iter().try_for_each(|row| match row.payload {
            Some(payload) => self.put(tx, batch.user, row, payload),
            None => self.delete(tx, batch.user, row),
        })
    }

    /// Fails if a row of the batch, or a row that refers to one, now refers to a row that is not there.
    pub(crate) fn check(&self, tx: &Connection, row: &NetRow<'_>) -> Result<(), MaterializeError> {
        let of_row = self.checks.of_row.iter().filter(|_| row.payload.is_some());
        for check in of_row.chain(&self.checks.of_children) {
            let mut statement = tx.prepare_cached(check).map_err(refusal)?;
            if statement.exists([self.pk.kind.key(row.pk)]).map_err(refusal)? {
                return Err(broken_reference());
            }
        }
        Ok(())
    }

    /// How many rows refer to none, of those that [`check`](Self::check) does not see.
    pub(crate) fn orphans(&self, tx: &Connection) -> Result<i64, MaterializeError> {
        let count = |sql: &String| tx.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0));
        self.checks.counts.iter().map(count).sum::<Result<_, _>>().map_err(refusal)
    }

    fn put(&self, tx: &Connection, user: &UserId, row: &NetRow<'_>, payload: &Payload) -> Result<(), MaterializeError> {
        let (names, mut values) = self.bind(payload)?;
        values.push(self.pk.kind.key(row.pk));
        values.extend(self.owner.as_ref().map(|_| Value::Text(user.as_str().to_owned())));
        let run = |sql: &str| tx.prepare_cached(sql)?.execute(params_from_iter(&values));
        // A row of ours that is gone was deleted by the app's backend or a cascade, and comes back.
        if row.ours && run(&self.update(&names)).map_err(refusal)? == 1 {
            return Ok(());
        }
        match run(&self.insert(&names)).map_err(refusal)? {
            1 => Ok(()),
            _ if self.exists(tx, row)? => Err(self.left_alone(row)),
            _ => Err(MaterializeError(IGNORED.into())),
        }
    }

    /// Why a row is still as it was. Of a row of ours only the owner's column could say that it is another's now.
    fn left_alone(&self, row: &NetRow<'_>) -> MaterializeError {
        MaterializeError(if row.ours && self.owner.is_none() { IGNORED } else { NOT_OURS }.into())
    }

    fn delete(&self, tx: &Connection, user: &UserId, row: &NetRow<'_>) -> Result<(), MaterializeError> {
        if row.ours {
            let mut sql = format!("DELETE FROM {} WHERE {} = ?1", self.table, quoted(&self.pk.name));
            let mut values = vec![self.pk.kind.key(row.pk)];
            if let Some(owner) = &self.owner {
                let _ = write!(sql, " AND {} = ?2", quoted(owner));
                values.push(Value::Text(user.as_str().to_owned()));
            }
            let delete = || tx.prepare_cached(&sql)?.execute(params_from_iter(&values));
            if delete().map_err(refusal)? == 1 {
                return Ok(());
            }
        }
        if self.exists(tx, row)? { Err(self.left_alone(row)) } else { Ok(()) }
    }

    fn exists(&self, tx: &Connection, row: &NetRow<'_>) -> Result<bool, MaterializeError> {
        let sql = format!("SELECT 1 FROM {} WHERE {} = ?1", self.table, quoted(&self.pk.name));
        let exists = || tx.prepare_cached(&sql)?.exists([self.pk.kind.key(row.pk)]);
        exists().map_err(refusal)
    }

    /// The columns that the payload has, and their values.
    fn bind(&self, payload: &Payload) -> Result<(Vec<&str>, Vec<Value>), MaterializeError> {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let members = json::members(payload.as_str(), &names).unwrap_or_default();
        let (mut present, mut values) = (Vec::new(), Vec::with_capacity(names.len() + 2));
        for (column, member) in self.columns.iter().zip(members) {
            if let Some(member) = member {
                values.push(column.kind.bind(&column.name, member)?);
                present.push(column.name.as_str());
            }
        }
        Ok((present, values))
    }

    /// Binds the named columns, then the pk, then the owner.
    fn insert(&self, names: &[&str]) -> String {
        let all = names.iter().copied().chain([self.pk.name.as_str()]).chain(self.owner.as_deref());
        let (mut columns, mut values) = (String::new(), String::new());
        for (number, name) in (1..).zip(all) {
            let comma = if number == 1 { "" } else { ", " };
            let _ = write!(columns, "{comma}{}", quoted(name));
            let _ = write!(values, "{comma}?{number}");
        }
        let Self { table, or_abort, .. } = self;
        let pk = quoted(&self.pk.name);
        format!("INSERT {or_abort}INTO {table} ({columns}) VALUES ({values}) ON CONFLICT ({pk}) DO NOTHING")
    }

    /// Binds the same.
    fn update(&self, names: &[&str]) -> String {
        let pk = quoted(&self.pk.name);
        let mut set = String::new();
        for (number, name) in (1..).zip(names) {
            let comma = if number == 1 { "" } else { ", " };
            let _ = write!(set, "{comma}{} = ?{number}", quoted(name));
        }
        let at = names.len() + 1;
        if set.is_empty() {
            // A payload without a column of the table is an update all the same, and says whether the row is there.
            let _ = write!(set, "{pk} = {pk}");
        }
        let Self { table, or_abort, .. } = self;
        let mut sql = format!("UPDATE {or_abort}{table} SET {set} WHERE {pk} = ?{at}");
        if let Some(owner) = &self.owner {
            let _ = write!(sql, " AND {} = ?{}", quoted(owner), at + 1);
        }
        sql
    }
}
