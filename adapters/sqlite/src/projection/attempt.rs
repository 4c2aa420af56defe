//! One attempt at a task whose rows could not be projected all at once.

use std::collections::{BTreeMap, HashSet};
use std::slice;
use std::time::Duration;

use outrigger_application::{Batch, MaterializeError};
use outrigger_domain::TableName;
use rusqlite::Connection;

use super::careful::{Outcome, Tries, is_constraint};
use super::{Mode, Projection, Row, TIMED_OUT, Task, declarative, failures, refusal, rows};
use crate::error::Failure;
use crate::transaction::Transaction;

/// A budget below this is used up.
const WORTHWHILE: Duration = Duration::from_millis(1);

/// One transaction in which every group of rows has a savepoint of its own.
pub(super) struct Attempt<'a, 'c> {
    tx: Transaction<'c>,
    projection: &'a Projection,
    task: &'a dyn Task,
    rows: Vec<Row>,
    budget: &'a mut Duration,
    errors: BTreeMap<usize, String>,
}

/// What became of a group.
enum Tried {
    Done,
    Failed(String),
    /// The transaction went with it.
    Lost(String),
}

impl Attempt<'_, '_> {
    /// None if the transaction was lost: then one more group is given up, and another attempt is due.
    pub(super) fn run(
        connection: &mut Connection,
        projection: &mut Projection,
        task: &dyn Task,
        Tries { budget, given_up, wasted }: &mut Tries,
    ) -> Result<Option<Outcome>, Failure> {
        let is_late = *wasted > projection.timeout / 4;
        let tx = Transaction::begin(connection)?;
        projection.prepare(tx.connection)?;
        let rows = task.write(tx.connection, projection, Mode::InParts)?;
        let mut attempt = Attempt { tx, projection, task, rows, budget, errors: given_up.clone() };
        if let Err((group, error)) = attempt.groups()? {
            given_up.extend(attempt.as_bad(&group).filter(|_| is_late).map(|row| (row, TIMED_OUT.into())));
            given_up.extend(group.iter().map(|row| (*row, error.clone())));
            return Ok(None);
        }
        let outcome = attempt.record()?;
        match attempt.tx.commit() {
            Ok(()) => Ok(Some(outcome)),
            // A constraint that shows only at the end, and not which row is to blame for it: none is projected.
            Err(error) if is_constraint(&error) && outcome.projected > 0 => {
                let text = refusal::refusal(error).0;
                for row in 0..attempt.rows.len() {
                    given_up.entry(row).or_insert_with(|| text.clone());
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tries all groups, and those that fail again for as long as that helps others: a unique value may first have to be
    /// given up by another row. The error is the group that lost the transaction.
    fn groups(&mut self) -> Result<Result<(), (Vec<usize>, String)>, Failure> {
        let mut waiting = self.order();
        waiting.retain(|group| group.iter().all(|row| !self.errors.contains_key(row)));
        loop {
            let before = waiting.len();
            let mut failed = Vec::new();
            for group in waiting {
                let error = match self.try_group(&group)? {
                    Tried::Done => {
                        self.errors.retain(|row, _| !group.contains(row));
                        continue;
                    }
                    Tried::Lost(error) => return Ok(Err((group, error))),
                    Tried::Failed(error) => error,
                };
                self.errors.extend(group.iter().map(|row| (*row, error.clone())));
                failed.push(group);
            }
            if failed.is_empty() || failed.len() == before || *self.budget < WORTHWHILE {
                return Ok(Ok(()));
            }
            waiting = failed;
        }
    }

    /// Rows of the tables of a group that lost the transaction, which may do so too, one after another. Rather than all
    /// of the time, these are given up: the other tables are to have some of it.
    fn as_bad(&self, group: &[usize]) -> impl Iterator<Item = usize> {
        let tables: HashSet<&TableName> = group.iter().map(|row| &self.rows[*row].key.table).collect();
        (0..self.rows.len()).filter(move |row| tables.contains(&self.rows[*row].key.table))
    }

    /// Groups that write, parents first; then those that delete, children first.
    fn order(&self) -> Vec<Vec<usize>> {
        let groups = self.task.groups(&self.rows);
        let (writes, mut deletes): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group| group.iter().any(|row| self.rows[*row].payload.is_some()));
        deletes.sort_by_key(|group| std::cmp::Reverse(self.projection.rank(&self.rows[group[0]].key.table)));
        writes.into_iter().chain(deletes).collect()
    }

    fn try_group(&mut self, group: &[usize]) -> Result<Tried, Failure> {
        if *self.budget < WORTHWHILE {
            return Ok(Tried::Failed(TIMED_OUT.into()));
        }
        self.tx.connection.execute_batch("SAVEPOINT projected_group")?;
        let Self { tx, projection, task, rows, budget, .. } = self;
        let limit = **budget / 2;
        let result = projection.deadline.within(limit, budget, || project(projection, tx, *task, rows, group));
        match result {
            Err(MaterializeError(error)) if tx.is_lost() => Ok(Tried::Lost(error)),
            Err(MaterializeError(error)) => {
                tx.connection.execute_batch("ROLLBACK TO projected_group; RELEASE projected_group")?;
                Ok(Tried::Failed(error))
            }
            Ok(()) => {
                for row in group {
                    rows::mark(tx.connection, task.user(), slice::from_ref(&rows[*row]))?;
                }
                tx.connection.execute_batch("RELEASE projected_group")?;
                Ok(Tried::Done)
            }
        }
    }

    /// Records what failed.
    fn record(&mut self) -> Result<Outcome, Failure> {
        let user = self.task.user();
        for (row, error) in &self.errors {
            let row = &self.rows[*row];
            failures::record(self.tx.connection, user, row, (error, self.task.at()))?;
            if let Some(id) = self.task.retried() {
                failures::count_up(self.tx.connection, user, id, (row.version, error))?;
            }
        }
        let (failed, all) = (self.errors.len(), self.rows.len());
        if failed > 0 {
            tracing::warn!(
                user.id = user.as_str(),
                rows = failed,
                "rows were not projected; the failures are recorded"
            );
        }
        Ok(Outcome { projected: all - failed, failed })
    }
}

/// Projects one group, and checks at once what is otherwise checked at the end of the transaction.
fn project(
    projection: &Projection,
    tx: &mut Transaction<'_>,
    task: &dyn Task,
    rows: &[Row],
    group: &[usize],
) -> Result<(), MaterializeError> {
    let of_group: Vec<&Row> = group.iter().map(|row| &rows[*row]).collect();
    let orphans = projection.orphans(tx.connection, &of_group)?;
    for row in &of_group {
        let batch = Batch { user: task.user(), table: &row.key.table, rows: &[row.net()] };
        projection.apply(tx.connection, batch)?;
        if tx.is_lost() {
            return Err(MaterializeError("the projection of the row ended the transaction".into()));
        }
    }
    of_group.iter().try_for_each(|row| projection.check(tx.connection, row))?;
    if projection.orphans(tx.connection, &of_group)? > orphans {
        return Err(declarative::broken_reference());
    }
    Ok(())
}
