//! One sync: up, down, and again while anything is left.

mod pull;
mod push;
mod start;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::ErrorCode;
use tokio::sync::broadcast;

use crate::config::Config;
use crate::database::Database;
use crate::events::Event;
use crate::remote::{Identity, Remote};
use crate::shape::Shape;
use crate::waiting::{self, Waiting};
use crate::{Error, state};

/// Rounds of one sync: conflicts that are decided make new changes, which may conflict again.
const ROUNDS_MAX: usize = 20;
/// Times that a sync starts again from the rows as they are.
const RESTARTS_MAX: usize = 5;
/// Times that the app may change its tables during one sync.
const SCHEMAS_MAX: usize = 5;
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
    shapes: Arc<Mutex<Arc<Vec<Shape>>>>,
    pub(crate) config: Config,
    pub(crate) events: broadcast::Sender<Event>,
    /// Changes in one upload, and bytes of their payloads, as far as the server is known to take them.
    batch: Arc<AtomicUsize>,
    batch_bytes: Arc<AtomicUsize>,
    /// Times that this sync had to start again.
    restarts: Arc<AtomicUsize>,
    /// Two syncs at once would send the same changes twice, to no use.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Syncer {
    pub(crate) fn new(database: Database, shapes: Vec<Shape>, known: Option<Identity>, config: Config) -> Self {
        Self {
            database,
            remote: Remote::new(config.clone(), known),
            shapes: Arc::new(Mutex::new(Arc::new(shapes))),
            config,
            events: broadcast::Sender::new(1_024),
            batch: Arc::new(AtomicUsize::new(BATCH)),
            batch_bytes: Arc::new(AtomicUsize::new(BATCH_BYTES)),
            restarts: Arc::default(),
            turn: Arc::default(),
        }
    }

    pub(crate) async fn sync_once(&self) -> Result<Report, Error> {
        let _turn = self.turn.lock().await;
        for _ in 0..SCHEMAS_MAX {
            match self.all_rounds().await {
                Err(Error::Database(error)) if error.sqlite_error_code() == Some(ErrorCode::SchemaChanged) => {
                    self.reread().await?;
                }
                done => return done,
            }
        }
        Err(Error::Busy("the app changes its tables all the time".into()))
    }

    async fn all_rounds(&self) -> Result<Report, Error> {
        let mut report = Report::default();
        self.restarts.store(0, Ordering::Relaxed);
        self.start().await?;
        self.database.transact(|tx, _| waiting::unhold(tx)).await?;
        for _ in 0..ROUNDS_MAX {
            report.uploaded += self.push().await?;
            report.downloaded += self.pull().await?;
            let Waiting { waiting, ready, .. } = self.waiting().await?;
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

    /// The app has changed its tables meanwhile: the triggers and all that is known of them follow.
    async fn reread(&self) -> Result<(), Error> {
        let tables = self.config.tables.clone();
        let shapes = self.database.install(tables, false).await?;
        *self.shapes.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(shapes);
        Ok(())
    }

    /// The tables as they were last seen.
    fn shapes(&self) -> Arc<Vec<Shape>> {
        Arc::clone(&self.shapes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many changes wait.
    pub(crate) async fn waiting(&self) -> Result<Waiting, Error> {
        self.database.run(|connection| waiting::waiting(connection)).await
    }

    pub(crate) fn tell(&self, event: Event) {
        // That nobody listens is no loss.
        let _ = self.events.send(event);
    }

    fn tell_all(&self, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// A server that sends the device back to the start again and again would keep it busy for ever.
    fn count_restart(&self) -> Result<(), Error> {
        if self.restarts.fetch_add(1, Ordering::Relaxed) < RESTARTS_MAX {
            return Ok(());
        }
        Err(Error::Protocol(format!("the device was to start again more than {RESTARTS_MAX} times")))
    }

    /// The device starts again from the rows as they are; what is not uploaded stays.
    async fn restart(&self) -> Result<(), Error> {
        self.count_restart()?;
        self.tell(Event::Resync);
        self.database.transact(|tx, _| state::start_over(tx)).await?;
        self.start().await
    }
}
