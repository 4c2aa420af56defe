//! One sync: up, down, and again while anything is left.

mod pull;
mod push;
mod start;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::broadcast;

use crate::config::Config;
use crate::database::Database;
use crate::events::Event;
use crate::remote::Remote;
use crate::shape::Shape;
use crate::{Error, outbox, state};

/// Rounds of one sync: conflicts that are decided make new changes, which may conflict again.
const ROUNDS_MAX: usize = 20;
/// Changes in one upload, until the server finds that too many.
const BATCH: usize = 500;
/// Bytes of payloads in one upload, until the server finds that too much. A single change may have more.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Rows in one page.
const PAGE: usize = 1_000;

/// What a sync did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Changes that the server has applied.
    pub uploaded: usize,
    /// Rows that were changed here.
    pub downloaded: usize,
    /// Changes that still wait: for their parents, or for a better day.
    pub waiting: usize,
}

/// All that a sync needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Syncer {
    pub(crate) database: Database,
    pub(crate) remote: Remote,
    pub(crate) shapes: Arc<Vec<Shape>>,
    pub(crate) config: Config,
    pub(crate) events: broadcast::Sender<Event>,
    /// Changes in one upload, and bytes of their payloads, as far as the server is known to take them.
    batch: Arc<AtomicUsize>,
    batch_bytes: Arc<AtomicUsize>,
    /// Two syncs at once would send the same changes twice, to no use.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Syncer {
    pub(crate) fn new(database: Database, shapes: Vec<Shape>, config: Config) -> Self {
        Self {
            database,
            remote: Remote::new(config.clone()),
            shapes: Arc::new(shapes),
            config,
            events: broadcast::Sender::new(1_024),
            batch: Arc::new(AtomicUsize::new(BATCH)),
            batch_bytes: Arc::new(AtomicUsize::new(BATCH_BYTES)),
            turn: Arc::default(),
        }
    }

    pub(crate) async fn sync_once(&self) -> Result<Report, Error> {
        let _turn = self.turn.lock().await;
        let mut report = Report::default();
        self.start().await?;
        self.database.transact(|tx, _| outbox::unhold(tx)).await?;
        for _ in 0..ROUNDS_MAX {
            report.uploaded += self.push().await?;
            report.downloaded += self.pull().await?;
            let (waiting, ready) = self.waiting().await?;
            report.waiting = waiting;
            if ready == 0 {
                break;
            }
        }
        if report.waiting == 0 {
            self.tell(Event::InSync);
        }
        Ok(report)
    }

    /// How many changes wait, and how many of them could be sent.
    pub(crate) async fn waiting(&self) -> Result<(usize, usize), Error> {
        self.database.run(|connection| outbox::waiting(connection)).await
    }

    pub(crate) fn tell(&self, event: Event) {
        // That nobody listens is no loss.
        let _ = self.events.send(event);
    }

    fn tell_all(&self, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// The device starts again from the rows as they are; what is not uploaded stays.
    async fn restart(&self) -> Result<(), Error> {
        self.tell(Event::Resync);
        self.database
            .transact(|tx, _| {
                state::clear(
                    tx,
                    &[state::CURSOR, state::EPOCH, state::UNTIL, state::PAGE, state::AS_OF, state::STARTING],
                )
            })
            .await?;
        self.start().await
    }
}
