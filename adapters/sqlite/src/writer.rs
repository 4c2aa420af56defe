//! The one writer: commits queue up, and whatever waits is written in one transaction.
//!
//! SQLite has one write lock per file, and what a commit costs is mostly the `fsync` at its end. So the write
//! connection lives in a thread of its own, and the plans that arrive while it is busy share the next
//! transaction (group commit). Nothing waits for company: a plan that comes alone is written at once.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use outrigger_application::ports::store::StoreError;
use outrigger_domain::{Op, Plan, UserId};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Failure, store_error};
use crate::projection::{Commit, Mode, Projection, Task, careful};
use crate::transaction::Transaction;

/// Plans that wait for the writer, at the most. More callers wait for a place.
const QUEUE_PLANS_MAX: usize = 1_024;
/// Bytes written in one transaction, at the most, but for the plan that goes over it. Bounds how long the first
/// plan waits for the last, and keeps what a transaction changes in the page cache.
const ROUND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that a change costs apart from its payload, roughly.
const CHANGE_BYTES: usize = 512;

type Answer = Result<(), StoreError>;
type Call = Box<dyn FnOnce(&mut Connection, &mut Projection) + Send>;

enum Job {
    Plan(PlanJob),
    /// Anything else that writes; it has the connection to itself.
    Call(Call),
}

struct PlanJob {
    user: UserId,
    plan: Plan,
    answer: oneshot::Sender<Answer>,
}

impl PlanJob {
    /// A payload counts twice: it goes into the log and becomes the row's state.
    fn bytes(&self) -> usize {
        let payload = |op: &Op| op.payload().map_or(0, |payload| payload.as_str().len());
        let entries: usize = self.plan.log.iter().map(|entry| CHANGE_BYTES + 2 * payload(&entry.change.op)).sum();
        entries + CHANGE_BYTES * self.plan.unlogged.len()
    }

    fn task(&self) -> Commit<'_> {
        Commit { user: &self.user, plan: &self.plan }
    }
}

/// The handle of the writer's thread. Dropping it ends the thread, once all that waits is written, and waits
/// for that, so that the connection is closed.
pub(crate) struct Writer {
    // The order matters: the thread ends when its queue is closed.
    jobs: mpsc::Sender<Job>,
    _thread: JoinOnDrop,
}

struct JoinOnDrop(Option<JoinHandle<()>>);

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // If it panicked, its callers have been told and the panic's message is out.
            let _ = thread.join();
        }
    }
}

impl Writer {
    /// Starts the thread that owns this connection from now on.
    pub(crate) fn start(connection: Connection, projection: Projection) -> io::Result<Self> {
        Self::start_with(move |jobs| run(connection, projection, jobs))
    }

    fn start_with(body: impl FnOnce(mpsc::Receiver<Job>) + Send + 'static) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE_PLANS_MAX);
        let thread = thread::Builder::new().name("sqlite-writer".into()).spawn(move || body(queue))?;
        Ok(Self { jobs, _thread: JoinOnDrop(Some(thread)) })
    }

    /// Writes the plan. Once it has a place in the queue it is written even if the caller goes away.
    pub(crate) async fn commit(&self, user: &UserId, plan: Plan) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job::Plan(PlanJob { user: user.clone(), plan, answer })).await.map_err(|_| dead())?;
        answered.await.unwrap_or_else(|_| Err(dead()))
    }

    /// Runs something with the connection. Once it has a place in the queue it is run even if the caller goes away.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Connection, &mut Projection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |connection, projection| {
            // A caller that has gone away does not hear the answer.
            let _ = answer.send(call(connection, projection).map_err(|failure| failure.0));
        });
        self.jobs.send(Job::Call(call)).await.map_err(|_| dead())?;
        answered.await.unwrap_or_else(|_| Err(dead()))
    }
}

fn dead() -> StoreError {
    StoreError::Unavailable("the database's writer has died".into())
}

fn run(mut connection: Connection, mut projection: Projection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(round) = next_round(&mut jobs) {
        let answers = write_round(&mut connection, &mut projection, &round.plans);
        for (job, answer) in round.plans.into_iter().zip(answers) {
            // A caller that has gone away does not hear the answer.
            let _ = job.answer.send(answer);
        }
        if let Some(call) = round.call {
            call(&mut connection, &mut projection);
        }
    }
}

/// Plans that are written together, and the call that came behind them.
#[derive(Default)]
struct Round {
    plans: Vec<PlanJob>,
    call: Option<Call>,
}

/// Waits for a job and takes those that wait behind it. None when the store is closed.
fn next_round(jobs: &mut mpsc::Receiver<Job>) -> Option<Round> {
    let (mut round, mut bytes) = (Round::default(), 0);
    let mut next = Some(jobs.blocking_recv()?);
    while let Some(job) = next {
        match job {
            Job::Plan(plan) => {
                bytes += plan.bytes();
                round.plans.push(plan);
            }
            Job::Call(call) => {
                round.call = Some(call);
                break;
            }
        }
        next = if bytes < ROUND_BYTES_MAX { jobs.try_recv().ok() } else { None };
    }
    Some(round)
}

/// Why a round was not written.
enum Broken {
    /// One of its plans cannot be written, or not be projected as a whole.
    Plan,
    /// The transaction could not be begun or committed.
    Transaction(rusqlite::Error),
}

/// Writes all plans in one transaction: one answer each.
///
/// A plan that fails undoes the transaction, since SQLite's worst errors do so anyway, and each plan is written
/// again alone. That happens about never, and costs the others a delay instead of a savepoint each.
fn write_round(connection: &mut Connection, projection: &mut Projection, round: &[PlanJob]) -> Vec<Answer> {
    if round.len() > 1 {
        match try_round(connection, projection, round) {
            Ok(answers) => return answers,
            Err(Broken::Plan) => {}
            Err(Broken::Transaction(error)) => {
                let shared = Arc::new(error);
                return round.iter().map(|_| Err(store_error(Arc::clone(&shared)))).collect();
            }
        }
    }
    let mut alone = |job: &PlanJob| match careful::run(connection, projection, &job.task()) {
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.0),
    };
    round.iter().map(&mut alone).collect()
}

fn try_round(
    connection: &mut Connection,
    projection: &mut Projection,
    round: &[PlanJob],
) -> Result<Vec<Answer>, Broken> {
    let tx = Transaction::begin(connection).map_err(Broken::Transaction)?;
    projection.enter(tx.connection).map_err(|_| Broken::Plan)?;
    let mut answers = Vec::with_capacity(round.len());
    for job in round {
        let task = job.task();
        match task.write(tx.connection, projection, Mode::Whole) {
            Ok(rows) if rows.is_empty() => answers.push(Ok(())),
            Ok(rows) => {
                let mut budget = projection.timeout();
                projection.whole_within(tx.connection, &task, &rows, &mut budget).map_err(|_| Broken::Plan)?;
                answers.push(Ok(()));
            }
            // Contention is found before anything is written, so there is nothing to undo.
            Err(Failure(StoreError::Contention)) => answers.push(Err(StoreError::Contention)),
            Err(_) => return Err(Broken::Plan),
        }
    }
    match tx.commit() {
        Ok(()) => Ok(answers),
        Err(error) if careful::is_constraint(&error) => Err(Broken::Plan),
        Err(error) => Err(Broken::Transaction(error)),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use outrigger_domain::stream::StreamHead;
    use outrigger_domain::{
        Change, LogEntry, Payload, RowKey, RowVersion, ServerSeq, SourceChangeId, SourceId, TableName,
    };
    use uuid::Uuid;

    use super::*;

    fn job() -> (UserId, Plan) {
        let plan = Plan {
            head: StreamHead::default(),
            at: Timestamp::UNIX_EPOCH,
            log: Vec::new(),
            rows: Vec::new(),
            unlogged: Vec::new(),
            is_assumed: false,
        };
        (UserId::parse("alice").unwrap(), plan)
    }

    /// A job that writes about so many bytes.
    fn job_of(bytes: usize) -> PlanJob {
        let payload = Payload::from_text(format!("{{\"a\":\"{}\"}}", "x".repeat(bytes / 2))).unwrap();
        let row = RowKey { table: TableName::parse(None, "users").unwrap(), pk: Uuid::nil() };
        let (source_change_id, base) = (SourceChangeId(1), RowVersion(0));
        let change = Arc::new(Change { source_change_id, row, base, op: Op::Insert(payload), parents: Vec::new() });
        let source = SourceId::parse("phone").unwrap();
        let (user, mut plan) = job();
        plan.log.push(LogEntry { server_id: ServerSeq(1), source, change, version: RowVersion(1) });
        PlanJob { user, plan, answer: oneshot::channel().0 }
    }

    #[test]
    fn a_round_takes_what_waits_up_to_its_bound() {
        let (jobs, mut queue) = mpsc::channel(QUEUE_PLANS_MAX);
        let third = ROUND_BYTES_MAX / 3;
        for bytes in [10, 10, third, third, third, 10, 3 * ROUND_BYTES_MAX, 10] {
            jobs.try_send(Job::Plan(job_of(bytes))).unwrap();
        }
        drop(jobs);
        let rounds: Vec<usize> = std::iter::from_fn(|| next_round(&mut queue)).map(|round| round.plans.len()).collect();
        assert_eq!(rounds, [5, 2, 1]);
    }

    #[tokio::test]
    async fn callers_of_a_dead_writer_are_told_and_do_not_hang() {
        // Dies with one job taken and one waiting.
        let writer = Writer::start_with(|mut jobs| {
            let _taken = jobs.blocking_recv();
            while jobs.is_empty() {
                thread::yield_now();
            }
        })
        .unwrap();
        let ((user, plan), (other, next)) = (job(), job());
        let (taken, waiting) = tokio::join!(writer.commit(&user, plan), writer.commit(&other, next));
        assert!(matches!(taken, Err(StoreError::Unavailable(_))), "{taken:?}");
        assert!(matches!(waiting, Err(StoreError::Unavailable(_))), "{waiting:?}");
        let (user, plan) = job();
        assert!(matches!(writer.commit(&user, plan).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(writer.call(|_, _| Ok(())).await, Err(StoreError::Unavailable(_))));
    }
}
