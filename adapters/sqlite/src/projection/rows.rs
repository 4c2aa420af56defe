//! The rows that a transaction projects, and where they come from.

use std::collections::HashMap;

use jiff::Timestamp;
use outrigger_application::NetRow;
use outrigger_application::projection::net;
use outrigger_domain::change::OpKind;
use outrigger_domain::{Payload, Plan, RowKey, RowVersion, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Projection, failures};
use crate::commit::{self, buffer, text};
use crate::error::Failure;

/// One row as it is to be.
pub(crate) struct Row {
    pub(crate) key: RowKey,
    pub(crate) version: RowVersion,
    pub(crate) op: OpKind,
    pub(crate) payload: Option<Payload>,
    pub(crate) ours: bool,
    /// Whether the sidecar says already that it is projected.
    pub(crate) marked: bool,
}

/// How the rows of a task are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All of them, or the transaction is rolled back.
    Whole,
    /// Those that can be.
    InParts,
}

impl Row {
    pub(super) fn net(&self) -> NetRow<'_> {
        NetRow { pk: self.key.pk, version: self.version, payload: self.payload.as_ref(), ours: self.ours }
    }
}

/// What one transaction does for one user. It may be run more than once, each time in a new transaction.
pub(crate) trait Task {
    fn user(&self) -> &UserId;
    /// When a failure counts as seen first.
    fn at(&self) -> Timestamp;
    /// Writes the sidecar, and gives the rows that are to be projected: the same ones each time.
    fn write(&self, tx: &Connection, projection: &Projection, mode: Mode) -> Result<Vec<Row>, Failure>;
    /// The rows that stand or fall together, parents before children.
    fn groups(&self, rows: &[Row]) -> Vec<Vec<usize>>;
    /// The failure that is tried again.
    fn retried(&self) -> Option<i64>;
}

/// An upload.
pub(crate) struct Commit<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) plan: &'a Plan,
}

impl Task for Commit<'_> {
    fn user(&self) -> &UserId {
        self.user
    }

    fn at(&self) -> Timestamp {
        self.plan.at
    }

    fn write(&self, tx: &Connection, projection: &Projection, mode: Mode) -> Result<Vec<Row>, Failure> {
        commit::write(tx, self.user, self.plan, |table| mode == Mode::Whole && projection.covers(table))?;
        let mut rows = Vec::new();
        for effect in &self.plan.rows {
            let entry = &self.plan.log[effect.entry];
            let key = &entry.change.row;
            if projection.covers(&key.table) {
                let ours = effect.known && is_ours(tx, self.user, key)?;
                let (op, payload) = (entry.change.op.kind(), entry.change.op.payload().cloned());
                let marked = mode == Mode::Whole && !effect.known && payload.is_some();
                rows.push(Row { key: key.clone(), version: entry.version, op, payload, ours, marked });
            }
        }
        Ok(rows)
    }

    fn groups(&self, rows: &[Row]) -> Vec<Vec<usize>> {
        let positions: HashMap<&RowKey, usize> = rows.iter().map(|row| &row.key).zip(0..).collect();
        let position =
            |effect: &usize| positions.get(&self.plan.log[self.plan.rows[*effect].entry].change.row).copied();
        let groups = net::groups(self.plan).into_iter();
        groups
            .map(|group| group.iter().filter_map(position).collect())
            .filter(|group: &Vec<_>| !group.is_empty())
            .collect()
    }

    fn retried(&self) -> Option<i64> {
        None
    }
}

/// Rows that the sidecar has already.
pub(crate) struct Listed {
    pub(crate) user: UserId,
    pub(crate) at: Timestamp,
    pub(crate) keys: Vec<RowKey>,
    pub(crate) retried: Option<i64>,
}

impl Task for Listed {
    fn user(&self) -> &UserId {
        &self.user
    }

    fn at(&self) -> Timestamp {
        self.at
    }

    fn write(&self, tx: &Connection, _projection: &Projection, _mode: Mode) -> Result<Vec<Row>, Failure> {
        self.keys.iter().filter_map(|key| current(tx, &self.user, key).transpose()).collect()
    }

    fn groups(&self, rows: &[Row]) -> Vec<Vec<usize>> {
        (0..rows.len()).map(|row| vec![row]).collect()
    }

    fn retried(&self) -> Option<i64> {
        self.retried
    }
}

/// The row as the sidecar has it now; none if it is forgotten.
fn current(tx: &Connection, user: &UserId, key: &RowKey) -> Result<Option<Row>, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT meta.server_version, meta.deleted, meta.projected, state.payload FROM sync_row_meta AS meta \
         LEFT JOIN sync_state AS state USING (user_id, schema_name, table_name, pk_uuid) \
         WHERE user_id = ?1 AND schema_name = ?2 AND table_name = ?3 AND pk_uuid = ?4",
    )?;
    let (table, mut buffer) = (&key.table, buffer());
    let of_row = params![user.as_str(), table.schema(), table.table(), text(key.pk, &mut buffer)];
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let found: Option<(i64, bool, bool, Option<String>)> = statement.query_row(of_row, row).optional()?;
    let Some((version, deleted, ours, payload)) = found else { return Ok(None) };
    let payload = payload.and_then(Payload::from_text);
    if deleted == payload.is_some() {
        return Err(Failure::corrupt(format_args!("row {key} has deleted = {deleted}, and its state says otherwise")));
    }
    let op = match (deleted, version) {
        (true, _) => OpKind::Delete,
        (false, 1) => OpKind::Insert,
        (false, _) => OpKind::Update,
    };
    Ok(Some(Row { key: key.clone(), version: RowVersion(version), op, payload, ours, marked: false }))
}

fn is_ours(tx: &Connection, user: &UserId, key: &RowKey) -> Result<bool, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT projected FROM sync_row_meta WHERE user_id = ?1 AND schema_name = ?2 AND table_name = ?3 AND pk_uuid = ?4",
    )?;
    let (table, mut buffer) = (&key.table, buffer());
    let of_row = params![user.as_str(), table.schema(), table.table(), text(key.pk, &mut buffer)];
    Ok(statement.query_row(of_row, |row| row.get(0))?)
}

/// Notes that these rows are in their business tables as the sidecar has them.
pub(super) fn mark(tx: &Connection, user: &UserId, rows: &[Row]) -> Result<(), Failure> {
    let mut statement = tx.prepare_cached(
        "UPDATE sync_row_meta SET projected = ?5 WHERE user_id = ?1 AND schema_name = ?2 AND table_name = ?3 \
         AND pk_uuid = ?4",
    )?;
    for row in rows.iter().filter(|row| !row.marked && row.ours != row.payload.is_some()) {
        let (table, mut buffer) = (&row.key.table, buffer());
        let pk = text(row.key.pk, &mut buffer);
        statement.execute(params![user.as_str(), table.schema(), table.table(), pk, row.payload.is_some()])?;
    }
    // Looked for once: about no user has a failure.
    if !rows.is_empty() && failures::any(tx, user)? {
        rows.iter().try_for_each(|row| failures::clear(tx, user, &row.key))?;
    }
    Ok(())
}
