//! The one writer: commits queue up, and whatever waits is written in one transaction.
//!
//! SQLite has one write lock per file, and what a commit costs is mostly the `fsync` at its end. So the write
//! connection lives in a thread of its own, and the plans that arrive while it is busy share the next
//! transaction (group commit). Nothing waits for company: a plan that comes alone is written at once.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::{io, slice};

use outrigger_application::ports::store::StoreError;
use outrigger_domain::{Op, Plan, UserId};
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::commit;
use crate::error::store_error;

/// Plans that wait for the writer, at the most. More callers wait for a place.
const QUEUE_PLANS_MAX: usize = 1_024;
/// Bytes written in one transaction, at the most, but for the plan that goes over it. Bounds how long the first
/// plan waits for the last, and keeps what a transaction changes in the page cache.
const ROUND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes that a change costs apart from its payload, roughly.
const CHANGE_BYTES: usize = 512;

type Answer = Result<(), StoreError>;

struct Job {
    user: UserId,
    plan: Plan,
    answer: oneshot::Sender<Answer>,
}

impl Job {
    /// A payload counts twice: it goes into the log and becomes the row's state.
    fn bytes(&self) -> usize {
        let payload = |op: &Op| op.payload().map_or(0, |payload| payload.as_str().len());
        self.plan.log.iter().map(|entry| CHANGE_BYTES + 2 * payload(&entry.change.op)).sum()
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
    pub(crate) fn start(connection: Connection) -> io::Result<Self> {
        Self::start_with(move |jobs| run(connection, jobs))
    }

    fn start_with(body: impl FnOnce(mpsc::Receiver<Job>) + Send + 'static) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE_PLANS_MAX);
        let thread = thread::Builder::new().name("sqlite-writer".into()).spawn(move || body(queue))?;
        Ok(Self { jobs, _thread: JoinOnDrop(Some(thread)) })
    }

    /// Writes the plan. Once it has a place in the queue it is written even if the caller goes away.
    pub(crate) async fn commit(&self, user: &UserId, plan: Plan) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job { user: user.clone(), plan, answer }).await.map_err(|_| dead())?;
        answered.await.unwrap_or_else(|_| Err(dead()))
    }

    /// Fails if the thread has died.
    pub(crate) fn check(&self) -> Answer {
        if self.jobs.is_closed() { Err(dead()) } else { Ok(()) }
    }
}

fn dead() -> StoreError {
    StoreError::Unavailable("the database's writer has died".into())
}

fn run(mut connection: Connection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(round) = next_round(&mut jobs) {
        let answers = write_round(&mut connection, &round);
        for (job, answer) in round.into_iter().zip(answers) {
            // A caller that has gone away does not hear the answer.
            let _ = job.answer.send(answer);
        }
    }
}

/// Waits for a job and takes those that wait behind it. None when the store is closed.
fn next_round(jobs: &mut mpsc::Receiver<Job>) -> Option<Vec<Job>> {
    let first = jobs.blocking_recv()?;
    let mut bytes = first.bytes();
    let mut round = vec![first];
    while bytes < ROUND_BYTES_MAX
        && let Ok(job) = jobs.try_recv()
    {
        bytes += job.bytes();
        round.push(job);
    }
    Some(round)
}

/// Why a round was not written.
enum Broken {
    /// One of its plans cannot be written.
    Plan(StoreError),
    /// The transaction could not be begun or committed.
    Transaction(rusqlite::Error),
}

/// Writes all plans in one transaction: one answer each.
///
/// A plan that fails undoes the transaction, since SQLite's worst errors do so anyway, and each plan is written
/// again alone. That happens about never, and costs the others a delay instead of a savepoint each.
fn write_round(connection: &mut Connection, round: &[Job]) -> Vec<Answer> {
    match try_round(connection, round) {
        Ok(answers) => answers,
        Err(Broken::Plan(error)) if round.len() == 1 => vec![Err(error)],
        Err(Broken::Plan(_)) => round.iter().flat_map(|job| write_round(connection, slice::from_ref(job))).collect(),
        Err(Broken::Transaction(error)) => {
            let shared = Arc::new(error);
            round.iter().map(|_| Err(store_error(Arc::clone(&shared)))).collect()
        }
    }
}

fn try_round(connection: &mut Connection, round: &[Job]) -> Result<Vec<Answer>, Broken> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Broken::Transaction)?;
    let mut answers = Vec::with_capacity(round.len());
    for job in round {
        match commit::write(&tx, &job.user, &job.plan).map_err(|failure| failure.0) {
            // Contention is found before anything is written, so there is nothing to undo.
            answer @ (Ok(()) | Err(StoreError::Contention)) => answers.push(answer),
            Err(error) => return Err(Broken::Plan(error)),
        }
    }
    tx.commit().map_err(Broken::Transaction)?;
    Ok(answers)
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
        let plan = Plan { head: StreamHead::default(), at: Timestamp::UNIX_EPOCH, log: Vec::new(), rows: Vec::new() };
        (UserId::parse("alice").unwrap(), plan)
    }

    /// A job that writes about so many bytes.
    fn job_of(bytes: usize) -> Job {
        let payload = Payload::from_text(format!("{{\"a\":\"{}\"}}", "x".repeat(bytes / 2))).unwrap();
        let row = RowKey { table: TableName::parse(None, "users").unwrap(), pk: Uuid::nil() };
        let (source_change_id, base) = (SourceChangeId(1), RowVersion(0));
        let change = Arc::new(Change { source_change_id, row, base, op: Op::Insert(payload), parents: Vec::new() });
        let source = SourceId::parse("phone").unwrap();
        let (user, mut plan) = job();
        plan.log.push(LogEntry { server_id: ServerSeq(1), source, change, version: RowVersion(1) });
        Job { user, plan, answer: oneshot::channel().0 }
    }

    #[test]
    fn a_round_takes_what_waits_up_to_its_bound() {
        let (jobs, mut queue) = mpsc::channel(QUEUE_PLANS_MAX);
        let third = ROUND_BYTES_MAX / 3;
        for bytes in [10, 10, third, third, third, 10, 3 * ROUND_BYTES_MAX, 10] {
            jobs.try_send(job_of(bytes)).unwrap();
        }
        drop(jobs);
        let rounds: Vec<usize> = std::iter::from_fn(|| next_round(&mut queue)).map(|round| round.len()).collect();
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
        assert!(matches!(writer.check(), Err(StoreError::Unavailable(_))));
    }
}
