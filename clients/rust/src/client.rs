//! What an app has in its hands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::{Notify, broadcast};

use crate::aside::{self, Aside};
use crate::config::Config;
use crate::database::Database;
use crate::events::Event;
use crate::run::Background;
use crate::shape;
use crate::sync::{Report, Syncer};
use crate::{Error, capture, outbox};

/// A database that syncs. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    syncer: Syncer,
    edited: Arc<Notify>,
    background: Mutex<Option<Background>>,
}

/// What a sign-out leaves.
#[derive(Debug)]
pub struct SignedOut {
    /// The connection, which nothing of this library works with any more.
    pub connection: Connection,
    /// Rows whose edits the server has not seen. They are still in the app's tables.
    pub unsent: usize,
}

impl Client {
    /// Takes the app's connection and makes its tables sync.
    ///
    /// Rows that are there already are uploaded with the first sync. The app goes on writing ordinary SQL, through
    /// [`with`](Self::with) or on connections of its own to the same file. Fails if a table cannot be synced as it
    /// is; then nothing has changed.
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    /// # fn main() -> Result<(), outrigger_client::Error> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// client.with(|connection| {
    ///     connection.execute("INSERT INTO notes VALUES ('550e8400-e29b-41d4-a716-446655440000', 'milk')", [])
    /// })?;
    /// assert_eq!(client.unsent()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(mut connection: Connection, config: Config) -> Result<Self, Error> {
        let shapes = shape::read_all(&connection, &config.tables)?;
        let database_is_busy = !connection.is_autocommit();
        if database_is_busy {
            let why = "the connection is in the middle of a transaction".to_owned();
            return Err(Error::Table { table: String::new(), why });
        }
        capture::install(&mut connection, &shapes)?;
        let database = Database::new(connection, config.failpoint.clone())?;
        let syncer = Syncer::new(database, shapes, config);
        Ok(Self { inner: Arc::new(Inner { syncer, edited: Arc::default(), background: Mutex::default() }) })
    }

    /// Works with the connection. End every transaction before returning: a sync would find it open.
    ///
    /// ```
    /// # use outrigger_client::{Client, Config};
    /// # fn count(client: &Client) -> Result<i64, outrigger_client::Error> {
    /// client.with(|connection| connection.query_row("SELECT count(*) FROM notes", [], |row| row.get(0)))
    /// # }
    /// ```
    pub fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        let done = self.inner.syncer.database.with(|connection| Ok(work(connection)?));
        self.inner.edited.notify_one();
        done
    }

    /// Uploads what was changed here and downloads what was changed elsewhere, once.
    ///
    /// ```no_run
    /// # async fn example(client: &outrigger_client::Client) -> Result<(), outrigger_client::Error> {
    /// let report = client.sync_once().await?;
    /// println!("{} up, {} down, {} waiting", report.uploaded, report.downloaded, report.waiting);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sync_once(&self) -> Result<Report, Error> {
        self.inner.syncer.sync_once().await
    }

    /// Syncs in the background from now on: at once, after every edit, and when others have changed something.
    ///
    /// Runs on the tokio runtime that it is called in, until [`stop`](Self::stop) or until all clones are dropped.
    pub fn start(&self) {
        let mut background = self.background();
        if background.is_none() {
            *background = Some(Background::start(self.inner.syncer.clone(), Arc::clone(&self.inner.edited)));
        }
    }

    /// Ends syncing in the background. What is under way is undone, or done again later.
    pub fn stop(&self) {
        *self.background() = None;
    }

    /// Rests, with the background task kept: while the app is on an expensive connection, say.
    pub fn pause(&self) {
        if let Some(background) = &*self.background() {
            background.pause(true);
        }
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&self) {
        if let Some(background) = &*self.background() {
            background.pause(false);
        }
    }

    /// What happens from now on, for a user interface.
    ///
    /// ```no_run
    /// # async fn example(client: &outrigger_client::Client) {
    /// let mut events = client.events();
    /// while let Ok(event) = events.recv().await {
    ///     println!("{event:?}");
    /// }
    /// # }
    /// ```
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.syncer.events.subscribe()
    }

    /// Rows whose edits the server has not seen yet.
    pub fn unsent(&self) -> Result<usize, Error> {
        self.inner.syncer.database.with(|connection| Ok(outbox::waiting(connection)?.0))
    }

    /// Changes that can never be uploaded as they are. The rows are still in the app's tables; the next edit of one is
    /// uploaded again.
    pub fn aside(&self) -> Result<Vec<Aside>, Error> {
        self.inner.syncer.database.with(|connection| aside::all(connection))
    }

    /// Forgets a change that was put aside, by its [`id`](Aside::id).
    pub fn forget_aside(&self, id: i64) -> Result<(), Error> {
        self.inner.syncer.database.with(|connection| {
            connection.execute("DELETE FROM _outrigger_aside WHERE id = ?1", [id])?;
            Ok(())
        })
    }

    /// Ends syncing, gives the connection back and says what is still unsent. Everything stays as it is for the next
    /// [`open`](Self::open).
    pub fn close(self) -> Result<SignedOut, Error> {
        self.end(false)
    }

    /// Ends syncing for good: removes all triggers and tables of this library, and says what was never sent. The app's
    /// tables stay; another user's [`open`](Self::open) would upload their rows.
    pub fn sign_out(self) -> Result<SignedOut, Error> {
        self.end(true)
    }

    fn end(self, for_good: bool) -> Result<SignedOut, Error> {
        self.stop();
        let unsent = self.unsent()?;
        let mut connection = self.inner.syncer.database.take().ok_or(Error::Closed)?;
        if for_good {
            capture::remove(&mut connection)?;
        }
        Ok(SignedOut { connection, unsent })
    }

    fn background(&self) -> MutexGuard<'_, Option<Background>> {
        // Nothing that can panic runs under the lock.
        self.inner.background.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
