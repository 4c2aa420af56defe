//! Taking in what devices changed: read, decide, write.

use std::sync::Arc;
use std::time::Duration;

use outrigger_domain::change::admit;
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::plan::Verdict;
use outrigger_domain::{Plan, Planner, RawChange, Snapshot, SourceId, Submission, Upload, UserId, Wanted};
use tokio::sync::oneshot;
use tracing::{Instrument, Span, debug_span};

use crate::error::SyncError;
use crate::lanes::{Budget, Joined, Lanes, Weight};
use crate::measures;
use crate::ports::clock::Clock;
use crate::ports::notifier::{News, Notifier};
use crate::ports::store::{StoreError, SyncStore};
use crate::tables::SharedCatalog;

/// What is loaded, decided and written together, at the most, unless one upload alone has more. Its payloads are
/// written twice, to the log and to the state, and a statement has to end well before its timeout.
const ROUND_MAX: Budget = Budget { changes: 1_000, bytes: 8 * 1024 * 1024 };
/// Bytes that a change holds beside its payload, about.
const CHANGE_BYTES: usize = 256;
/// Times that a round is planned before other nodes, uploading for the same user, are held to have won.
const ATTEMPTS_MAX: u32 = 20;
/// The longest pause before the second attempt; it doubles up to [`BACKOFF_MAX`]. Each pause is random.
const BACKOFF_MIN: Duration = Duration::from_millis(1);
const BACKOFF_MAX: Duration = Duration::from_millis(64);

type Answer = Result<Verdict, SyncError>;

struct Job {
    upload: Upload,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
    /// Of the request, so that what is done for it can be found by its id.
    span: Span,
}

impl Weight for Job {
    fn changes(&self) -> usize {
        self.upload.submissions.len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }
}

/// The use case behind `POST /sync/upload`. Cheap to clone.
#[derive(Clone)]
pub struct UploadService {
    inner: Arc<Inner>,
}

/// What uploads stand on.
#[derive(Clone)]
pub struct UploadPorts {
    /// Keeps the streams.
    pub store: Arc<dyn SyncStore>,
    /// Says when a change was applied.
    pub clock: Arc<dyn Clock>,
    /// Is told of every commit.
    pub notifier: Arc<dyn Notifier>,
}

struct Inner {
    ports: UploadPorts,
    catalog: SharedCatalog,
    limits: UploadLimits,
    lanes: Lanes<Job>,
}

impl UploadService {
    /// Uploads changes of these tables.
    pub fn new(ports: UploadPorts, catalog: SharedCatalog, limits: UploadLimits) -> Self {
        Self { inner: Arc::new(Inner { ports, catalog, limits, lanes: Lanes::default() }) }
    }

    /// Changes in one upload, at the most.
    pub fn changes_max(&self) -> usize {
        self.inner.limits.changes_max
    }

    /// Checks one change as it was sent.
    pub fn admit(&self, raw: RawChange<'_>) -> Submission {
        admit(raw, &self.inner.catalog.current(), &self.inner.limits)
    }

    /// Decides an upload and writes what is to be applied.
    ///
    /// An upload whose caller goes away is dropped if its turn has not come. If it has, the work goes on: the
    /// device will ask again and be told what came of it.
    /// Fails with [`StoreError::Contention`] only if other nodes kept winning the user's stream.
    pub async fn upload(&self, user: &UserId, upload: Upload) -> Answer {
        let (answer, answered) = oneshot::channel();
        let bytes = upload.payload_bytes() + CHANGE_BYTES * upload.submissions.len();
        match self.inner.lanes.join(user, Job { upload, bytes, answer, span: Span::current() }) {
            Joined::Waiting => {}
            Joined::Full => return Err(unavailable("too many uploads are waiting")),
            Joined::StartWorker => {
                let worker = Worker { inner: Arc::clone(&self.inner), user: user.clone() };
                tokio::spawn(async move { worker.run().await });
            }
        }
        let answer = answered.await.unwrap_or_else(|_| Err(unavailable("the upload's worker died")));
        answer.inspect(measures::decided)
    }
}

fn unavailable(what: &'static str) -> SyncError {
    StoreError::Unavailable(what.into()).into()
}

/// Works off the lane of one user. Closes the lane when dropped, so that a panic cannot leave it blocked.
struct Worker {
    inner: Arc<Inner>,
    user: UserId,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.inner.lanes.close(&self.user);
        }
    }
}

impl Worker {
    async fn run(&self) {
        while let Some(jobs) = self.inner.lanes.take(&self.user, ROUND_MAX) {
            let uploads: Vec<&Upload> = jobs.iter().map(|job| &job.upload).collect();
            let answers = self.inner.answer_all(&self.user, &uploads).instrument(round(&jobs)).await;
            for (job, answer) in jobs.into_iter().zip(answers) {
                let Job { answer: waiting, span, .. } = job;
                // First: who is told of the answer may count on the request's span having ended with it.
                drop(span);
                // A device that has gone away does not hear the answer.
                let _ = waiting.send(answer);
            }
        }
    }
}

impl Inner {
    async fn answer_all(&self, user: &UserId, uploads: &[&Upload]) -> Vec<Answer> {
        match self.write(user, uploads).await {
            Ok(answers) => answers,
            // One upload that the storage chokes on must not take the others with it.
            Err(StoreError::Backend(_) | StoreError::Corrupt { .. }) if uploads.len() > 1 => {
                let mut answers = Vec::with_capacity(uploads.len());
                for upload in uploads {
                    let alone = self.write(user, &[upload]).await;
                    answers.push(alone.map_or_else(|error| Err(error.into()), |mut answers| answers.remove(0)));
                }
                answers
            }
            Err(error) => {
                let shared = SyncError::from(error);
                uploads.iter().map(|_| Err(shared.clone())).collect()
            }
        }
    }

    /// Decides the uploads one after another and writes them together: one answer each.
    async fn write(&self, user: &UserId, uploads: &[&Upload]) -> Result<Vec<Answer>, StoreError> {
        let decidable = |upload: &&&Upload| upload.submissions.len() <= self.limits.changes_max;
        let mut wanted = Wanted::of(uploads.iter().filter(decidable).copied());
        if let Some(answers) = self.write_assumed(user, uploads, &wanted).await? {
            return Ok(answers);
        }
        let mut backoff = BACKOFF_MIN;
        for _ in 0..ATTEMPTS_MAX {
            let (answers, planner) = self.decide(self.ports.store.load(user, &wanted).await?, uploads);
            if planner.lacks_payloads() {
                wanted.want_payloads();
                continue;
            }
            match self.commit(user, planner.finish(self.ports.clock.now()), &answers).await {
                Ok(()) => return Ok(answers),
                Err(StoreError::Contention) => {
                    measures::beaten();
                    tokio::time::sleep(backoff.mul_f64(fastrand::f64())).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Contention)
    }

    /// Decides and writes without a look at what is there, where the store has reason to assume that the devices are
    /// right. None, with nothing written, if that is not so.
    async fn write_assumed(
        &self,
        user: &UserId,
        uploads: &[&Upload],
        wanted: &Wanted,
    ) -> Result<Option<Vec<Answer>>, StoreError> {
        let Some(assumed) = self.ports.store.assume(user, wanted) else { return Ok(None) };
        let (answers, planner) = self.decide(assumed, uploads);
        let plan = planner.finish(self.ports.clock.now());
        let changes: usize = uploads.iter().map(|upload| upload.submissions.len()).sum();
        // What is not applied was decided by what nobody has looked at, and the commit does not look at it either.
        if plan.log.is_empty() || plan.log.len() < changes {
            return Ok(None);
        }
        let held = match self.commit(user, plan, &answers).await {
            Ok(()) => true,
            Err(StoreError::Contention) => false,
            Err(error) => return Err(error),
        };
        measures::assumed(held);
        Ok(held.then_some(answers))
    }

    /// One answer for each upload, decided on top of those before.
    fn decide(&self, snapshot: Snapshot, uploads: &[&Upload]) -> (Vec<Answer>, Planner) {
        let mut planner = Planner::new(snapshot, self.limits);
        let answers = uploads.iter().map(|upload| planner.decide(upload).map_err(SyncError::from)).collect();
        (answers, planner)
    }

    /// Writes a plan, if there is anything to be written, and tells of it.
    async fn commit(&self, user: &UserId, plan: Plan, answers: &[Answer]) -> Result<(), StoreError> {
        let UploadPorts { store, notifier, .. } = &self.ports;
        let (written, head) = (plan.log.len(), plan.next_head());
        if !plan.is_empty() {
            let news = News { user: user.clone(), after: plan.head.seq, head, only: only_source(&plan) };
            store.commit(user, plan).await?;
            // Of what leaves no entry nobody else has to hear.
            if written > 0 {
                notifier.announce(news);
            }
        }
        measures::settled(answers, written, head);
        Ok(())
    }
}

/// The span of what is done for these jobs together: inside that of the first, and following from all others.
fn round(jobs: &[Job]) -> Span {
    let round = debug_span!(parent: &jobs[0].span, "upload_round", uploads = jobs.len());
    for job in &jobs[1..] {
        round.follows_from(&job.span);
    }
    round
}

/// The source of all changes of the plan, if it is one.
fn only_source(plan: &Plan) -> Option<SourceId> {
    let mut sources = plan.log.iter().map(|entry| &entry.source);
    let first = sources.next()?;
    sources.all(|source| source == first).then(|| first.clone())
}

#[cfg(test)]
mod tests;
