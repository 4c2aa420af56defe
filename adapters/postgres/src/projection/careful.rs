//! Projects what the whole batch could not: in ever smaller parts, each under a savepoint.
//!
//! A part that fails is undone and halved, so that one bad row among a thousand costs about twenty statements and not a
//! thousand. What fails by itself is tried again after the others, as long as that makes any progress: parents may
//! have come, and unique values may have become free.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use outrigger_domain::{TableName, UserId};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::shape::Shape;
use super::values::{self, NetChange, Values};
use super::{Projection, Targets, sql};
use crate::error;
use crate::session::timed_out;

/// What is recorded when the business row is not as it was to be, and no error says why.
const NOT_OURS: &str = "the business row was not put there by this user, or a trigger of the table ignored the row";
pub(crate) const TIMED_OUT: &str = "timed out";

/// What is still to come in the transaction is not bound by what was left for the part.
const KEEP: &str = "RELEASE SAVEPOINT part; SET LOCAL statement_timeout TO DEFAULT; SET LOCAL lock_timeout TO DEFAULT";
const UNDO: &str = "ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part";

/// The rows of one user's transaction that are to be projected.
pub(crate) struct Careful<'a> {
    pub(crate) projection: &'a Projection,
    pub(crate) targets: &'a Targets,
    pub(crate) user: &'a UserId,
    pub(crate) rows: &'a [NetChange<'a>],
    /// When to give up.
    pub(crate) deadline: Instant,
}

/// What is recorded of a part that was not projected.
#[derive(Clone, Debug)]
pub(super) struct Why {
    pub(super) text: String,
    /// The SQLSTATE by which the database refused a value, where it did not say of which column.
    pub(super) of_value: Option<String>,
}

/// Why a part was not projected.
pub(super) enum Refused {
    /// This is recorded.
    Because(Why),
    /// The connection is of no use any more.
    Broken(sqlx::Error),
}

impl Refused {
    pub(super) fn because(text: impl Into<String>) -> Self {
        Self::Because(Why { text: text.into(), of_value: None })
    }
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(_) => {
                Self::Because(Why { text: error::describe(&error), of_value: error::blames_a_value(&error) })
            }
            error => Self::Broken(error),
        }
    }
}

/// Rows that stand or fall together, by their positions.
type Group = Vec<usize>;

impl Careful<'_> {
    /// Projects what can be, and gives the other rows by their positions, with the reasons.
    pub(crate) async fn run(
        &self,
        tx: &mut PgConnection,
        groups: Vec<Group>,
    ) -> Result<BTreeMap<usize, String>, sqlx::Error> {
        // What the app deferred to the commit is to fail, or to take its time, where it can still be undone.
        sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *tx).await?;
        let (fit, mut failed) = self.sift(groups);
        let mut queue = self.parts(fit);
        loop {
            let (progress, left) = self.pass(tx, &mut queue).await?;
            if !progress || left.is_empty() || self.left().is_zero() {
                for (group, why) in left {
                    let text = self.with_column(tx, &group, why).await?;
                    failed.extend(group.into_iter().map(|row| (row, text.clone())));
                }
                return Ok(failed);
            }
            queue.extend(left.into_iter().map(|(group, _)| vec![group]));
        }
    }

    /// Takes out the groups of which a row cannot even be converted.
    fn sift(&self, groups: Vec<Group>) -> (Vec<Group>, BTreeMap<usize, String>) {
        let mut failed = BTreeMap::new();
        let mut fit = Vec::new();
        for mut group in groups {
            group.retain(|&row| self.projection.projects(self.targets, &self.rows[row].key.table));
            match group.iter().find_map(|&row| self.convert(row).err()) {
                Some(why) => failed.extend(group.into_iter().map(|row| (row, why.clone()))),
                None if group.is_empty() => {}
                None => fit.push(group),
            }
        }
        (fit, failed)
    }

    fn convert(&self, row: usize) -> Result<Option<Values>, String> {
        let row = self.rows[row];
        if self.projection.custom(&row.key.table).is_some() {
            return Ok(None);
        }
        values::of(self.targets.shape(&row.key.table)?, row).map(Some)
    }

    /// One part per table and kind of change: what is written in the order of the groups, what is deleted behind it, in
    /// the opposite order.
    fn parts(&self, groups: Vec<Group>) -> VecDeque<Vec<Group>> {
        let mut parts: Vec<((bool, &TableName), Vec<Group>)> = Vec::new();
        for group in groups {
            let first = self.rows[group[0]];
            let of = (first.payload.is_none(), &first.key.table);
            match parts.iter_mut().find(|(part, _)| *part == of) {
                Some((_, part)) => part.push(group),
                None => parts.push((of, vec![group])),
            }
        }
        let (deletes, writes): (Vec<_>, Vec<_>) = parts.into_iter().partition(|((deleted, _), _)| *deleted);
        writes.into_iter().chain(deletes.into_iter().rev()).map(|(_, part)| part).collect()
    }

    /// Works the queue off. Gives whether anything was projected, and what was not.
    async fn pass(
        &self,
        tx: &mut PgConnection,
        queue: &mut VecDeque<Vec<Group>>,
    ) -> Result<(bool, Vec<(Group, Why)>), sqlx::Error> {
        let (mut progress, mut left) = (false, Vec::new());
        while let Some(mut part) = queue.pop_front() {
            // Its halves are still to come, should it fail.
            let is_last = queue.is_empty() && part.len() == 1;
            let why = match self.attempt(tx, &part.concat(), is_last).await {
                Ok(()) => {
                    progress = true;
                    continue;
                }
                Err(Refused::Broken(error)) => return Err(error),
                Err(Refused::Because(why)) => why,
            };
            if part.len() == 1 {
                left.extend(part.into_iter().map(|group| (group, why.clone())));
                continue;
            }
            if self.left().is_zero() {
                // Which of them was to blame is not known any more.
                let timed_out = Why { text: TIMED_OUT.into(), of_value: None };
                left.extend(part.into_iter().map(|group| (group, timed_out.clone())));
                continue;
            }
            let half = part.split_off(part.len() / 2);
            if why.text == TIMED_OUT {
                // Other tables have their turn first.
                queue.extend([part, half]);
            } else {
                queue.push_front(half);
                queue.push_front(part);
            }
        }
        Ok((progress, left))
    }

    pub(super) fn left(&self) -> Duration {
        // The server takes a timeout of 0 for none, so less than a millisecond is nothing.
        let left = self.deadline.saturating_duration_since(Instant::now());
        Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// Projects rows, all or none. Leaves half of the time if others are still to come.
    async fn attempt(&self, tx: &mut PgConnection, rows: &[usize], is_last: bool) -> Result<(), Refused> {
        let left = self.left() / if is_last { 1 } else { 2 };
        if left.as_millis() == 0 {
            return Err(Refused::because(TIMED_OUT));
        }
        self.save(tx, left).await?;
        // The server stops a statement in time. This is for materializers that wait for something else, and for triggers
        // that catch what is to stop them: nothing gets through to the session of one of these any more.
        let grace = self.projection.lock_timeout();
        match tokio::time::timeout(left + grace, self.apply(tx, rows)).await {
            Ok(Ok(())) => sqlx::raw_sql(KEEP).execute(tx).await.map(drop).map_err(Refused::Broken),
            Ok(Err(refused)) => undo(tx).await.and(Err(refused)),
            Err(_) => {
                let undone = tokio::time::timeout(grace, undo(tx)).await;
                undone.unwrap_or_else(|_| Err(Refused::Broken(timed_out()))).and(Err(Refused::because(TIMED_OUT)))
            }
        }
    }

    /// Begins what can be undone by itself, and may take that long.
    pub(super) async fn save(&self, tx: &mut PgConnection, left: Duration) -> Result<(), Refused> {
        let lock_ms = self.projection.lock_timeout().min(left).as_millis();
        let begin = format!(
            "SAVEPOINT part; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {lock_ms}",
            left.as_millis()
        );
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(tx).await.map(drop).map_err(Refused::Broken)
    }

    async fn apply(&self, tx: &mut PgConnection, rows: &[usize]) -> Result<(), Refused> {
        let mut custom: BTreeMap<&TableName, Vec<NetChange<'_>>> = BTreeMap::new();
        let mut declared: BTreeMap<&TableName, Vec<(NetChange<'_>, Values)>> = BTreeMap::new();
        for &position in rows {
            let row = self.rows[position];
            match self.convert(position).map_err(Refused::because)? {
                Some(values) => declared.entry(&row.key.table).or_default().push((row, values)),
                None => custom.entry(&row.key.table).or_default().push(row),
            }
        }
        if !declared.is_empty() {
            self.project(tx, declared).await?;
        }
        for (table, rows) in custom {
            if let Some(materializer) = self.projection.custom(table) {
                self.hand_over(tx, materializer, (table, &rows)).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn project(
        &self,
        tx: &mut PgConnection,
        tables: BTreeMap<&TableName, Vec<(NetChange<'_>, Values)>>,
    ) -> Result<(), Refused> {
        let shapes = tables.keys().map(|name| self.targets.shape(name)).collect::<Result<Vec<&Shape>, _>>();
        let shapes = shapes.map_err(Refused::because)?;
        let key = (tables.keys().map(|&name| (name.clone(), None)).collect(), None);
        let text = self.targets.statement(key, || sql::alone(&shapes));
        let text = text.ok_or_else(|| Refused::because("there is no statement for the table"))?;
        let mut statement = sqlx::query(AssertSqlSafe(text)).bind(self.user.as_str());
        for (shape, rows) in shapes.into_iter().zip(tables.into_values()) {
            statement = values::bind(statement, shape, rows);
        }
        let shortfall: i64 = statement.fetch_one(tx).await?.try_get(0)?;
        if shortfall == 0 { Ok(()) } else { Err(Refused::because(NOT_OURS)) }
    }
}

/// Undoes all that was done since [`Careful::save`], its timeouts included.
pub(super) async fn undo(tx: &mut PgConnection) -> Result<(), Refused> {
    sqlx::raw_sql(UNDO).execute(tx).await.map(drop).map_err(Refused::Broken)
}
