//! A transaction of its own for one task: all of it at once, and if that fails, group by group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::attempt::Attempt;
use super::{Mode, Projection, Row, Task, rows};
use crate::error::Failure;
use crate::transaction::Transaction;

/// What became of a task's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) projected: usize,
    pub(crate) failed: usize,
}

/// Where the attempts at a task stand.
pub(super) struct Tries {
    /// The time that is left.
    pub(super) budget: Duration,
    /// Rows that no further attempt projects, with the reasons.
    pub(super) given_up: BTreeMap<usize, String>,
    /// The time that went into writing again what a lost transaction had written.
    pub(super) wasted: Duration,
}

/// Writes the sidecar in any case, projects what can be projected, and records the rest.
///
/// The projection takes at most its bound, over all attempts, and so does all that is written more than once because
/// of it. Each attempt gets half of what is left, so that one row that takes for ever does not use up what the
/// others need.
pub(crate) fn run(
    connection: &mut Connection,
    projection: &mut Projection,
    task: &dyn Task,
) -> Result<Outcome, Failure> {
    let mut tries = Tries { budget: projection.timeout, given_up: BTreeMap::new(), wasted: Duration::ZERO };
    if let Some(outcome) = try_whole(connection, projection, task, &mut tries.budget)? {
        return Ok(outcome);
    }
    loop {
        let (began, before) = (Instant::now(), tries.budget);
        if let Some(outcome) = Attempt::run(connection, projection, task, &mut tries)? {
            return Ok(outcome);
        }
        let wasted = began.elapsed().saturating_sub(before.saturating_sub(tries.budget));
        tries.wasted += wasted;
        tries.budget = tries.budget.saturating_sub(wasted);
    }
}

/// None if a row cannot be projected; nothing is written then.
fn try_whole(
    connection: &mut Connection,
    projection: &mut Projection,
    task: &dyn Task,
    budget: &mut Duration,
) -> Result<Option<Outcome>, Failure> {
    let tx = Transaction::begin(connection)?;
    projection.prepare(tx.connection)?;
    let rows = task.write(tx.connection, projection, Mode::Whole)?;
    if !rows.is_empty() {
        match projection.whole_within(tx.connection, task, &rows, budget) {
            Err(Unprojected::Refused) => return Ok(None),
            Err(Unprojected::Store(failure)) => return Err(failure),
            Ok(()) => {}
        }
    }
    match tx.commit() {
        Ok(()) => Ok(Some(Outcome { projected: rows.len(), failed: 0 })),
        Err(error) if is_constraint(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Why a task was not projected as a whole.
pub(crate) enum Unprojected {
    /// A row was refused, or took too long.
    Refused,
    /// The sidecar could not be written.
    Store(Failure),
}

impl Projection {
    /// Projects all rows of a task, and notes it, within half of the budget. After an error the transaction is of no
    /// more use.
    pub(crate) fn whole_within(
        &self,
        tx: &mut Connection,
        task: &dyn Task,
        rows: &[Row],
        budget: &mut Duration,
    ) -> Result<(), Unprojected> {
        let limit = *budget / 2;
        let projected = self.deadline.within(limit, budget, || self.whole(tx, task.user(), rows));
        if projected.is_err() || tx.is_autocommit() {
            return Err(Unprojected::Refused);
        }
        rows::mark(tx, task.user(), rows).map_err(Unprojected::Store)
    }

    /// How long one upload's projection may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Begins the use of a transaction that was begun by the caller.
    pub(crate) fn enter(&mut self, tx: &Connection) -> Result<(), Failure> {
        Ok(self.prepare(tx)?)
    }
}

/// Whether a COMMIT failed because of what is in the business tables: a deferred foreign key.
pub(crate) fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}
