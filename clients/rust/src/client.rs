//! What an app has in its hands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::{Notify, broadcast};

use crate::aside::{self, Aside};
use crate::config::Config;
use crate::database::{Database, transaction};
use crate::events::Event;
use crate::run::Background;
use crate::sync::{Report, Syncer};
use crate::waiting::{self, Unsent};
use crate::{Error, install, state};

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
    /// Rows whose edits the server has not seen. What of them was not deleted is still in the app's tables.
    pub unsent: Vec<Unsent>,
    /// Changes that the server would never have taken.
    pub aside: Vec<Aside>,
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
    pub fn open(connection: Connection, config: Config) -> Result<Self, Error> {
        let database = Database::new(connection, config.failpoint.clone());
        let shapes = database.install_now(&config.tables, true)?;
        let known = database.with(|connection| state::identity(connection))?;
        let syncer = Syncer::new(database, shapes, known, config);
        Ok(Self { inner: Arc::new(Inner { syncer, edited: Arc::default(), background: Mutex::default() }) })
    }

    /// Works with the connection, to read or to write. Edits wake the background task.
    ///
    /// End every transaction before returning: until then a sync is [`Error::Busy`]. Nothing else of the client works
    /// meanwhile, so do not call it in here.
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// client.with(|connection| {
    ///     connection.execute("INSERT INTO notes VALUES ('550e8400-e29b-41d4-a716-446655440000', 'milk')", [])
    /// })?;
    /// let notes: i64 = client.with(|connection| {
    ///     connection.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))
    /// })?;
    /// assert_eq!(notes, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        let done = self.inner.syncer.database.with(|connection| Ok(work(connection)?));
        self.inner.edited.notify_one();
        done
    }

    /// Uploads what was changed here and downloads what was changed elsewhere, once.
    ///
    /// ```
    /// use outrigger_client::{Client, Config, Error};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("http://127.0.0.1:1", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// match client.sync_once().await {
    ///     Ok(report) => println!("{} up, {} down, {} waiting", report.uploaded, report.downloaded, report.waiting),
    ///     // Everything is still here, and goes up another time.
    ///     Err(Error::Offline { why, .. }) => println!("offline: {why}"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sync_once(&self) -> Result<Report, Error> {
        self.inner.syncer.sync_once().await
    }

    /// Syncs in the background from now on: at once, after every edit, and when others have changed something.
    ///
    /// Runs on the tokio runtime that it is called in, until [`stop`](Self::stop) or until all clones are dropped.
    ///
    /// ```
    /// use outrigger_client::{Client, Config, Event};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("http://127.0.0.1:1", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// let mut events = client.events();
    /// client.start();
    /// // Nobody listens at that address.
    /// assert!(matches!(events.recv().await?, Event::Offline(_)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn start(&self) {
        let mut background = self.background();
        if background.is_none() {
            *background = Some(Background::start(self.inner.syncer.clone(), Arc::clone(&self.inner.edited)));
        }
    }

    /// Ends syncing in the background. What is under way is undone, or done again later.
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("http://127.0.0.1:1", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// client.start();
    /// client.stop();
    /// // The rest goes on: edits are noted, and `sync_once` and `start` take them up.
    /// client.with(|connection| {
    ///     connection.execute("INSERT INTO notes VALUES ('550e8400-e29b-41d4-a716-446655440000', 'milk')", [])
    /// })?;
    /// assert_eq!(client.unsent()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop(&self) {
        *self.background() = None;
    }

    /// Rests, with the background task kept: while the app is on an expensive connection, say. A sync that is under way
    /// comes to its end.
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("http://127.0.0.1:1", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// client.start();
    /// client.pause();
    /// // Nothing goes over the line now.
    /// client.resume();
    /// # Ok(())
    /// # }
    /// ```
    pub fn pause(&self) {
        if let Some(background) = &*self.background() {
            background.pause(true);
        }
    }

    /// Goes on after [`pause`](Self::pause).
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("http://127.0.0.1:1", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// client.start();
    /// client.pause();
    /// client.resume();
    /// # Ok(())
    /// # }
    /// ```
    pub fn resume(&self) {
        if let Some(background) = &*self.background() {
            background.pause(false);
        }
    }

    /// What happens from now on, for a user interface.
    ///
    /// ```
    /// use outrigger_client::{Client, Config, Event};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("http://127.0.0.1:1", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// let mut events = client.events();
    /// client.start();
    /// loop {
    ///     match events.recv().await? {
    ///         Event::Downloaded { rows } => println!("{rows} rows were changed elsewhere"),
    ///         Event::Conflict { table, pk, decision } => println!("{pk} of {table}: {decision:?}"),
    ///         Event::Offline(why) => {
    ///             println!("offline: {why}");
    /// #             break;
    ///         }
    ///         other => println!("{other:?}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.syncer.events.subscribe()
    }

    /// How many rows there are whose edits the server has not seen yet. A row counts once, however often it was edited.
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// client.with(|connection| {
    ///     connection.execute("INSERT INTO notes VALUES ('550e8400-e29b-41d4-a716-446655440000', 'milk')", [])
    /// })?;
    /// client.with(|connection| connection.execute("UPDATE notes SET text = 'oat milk'", []))?;
    /// assert_eq!(client.unsent()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn unsent(&self) -> Result<usize, Error> {
        self.inner.syncer.database.with(|connection| Ok(waiting::waiting(connection)?.all))
    }

    /// Changes that can never be uploaded as they are. The rows are still in the app's tables; the next edit of one is
    /// uploaded again.
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// for aside in client.aside()? {
    ///     println!("{} {} of {}: {}", aside.op, aside.pk, aside.table, aside.message);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn aside(&self) -> Result<Vec<Aside>, Error> {
        self.inner.syncer.database.with(|connection| aside::all(connection))
    }

    /// Forgets a change that was put aside, by its [`id`](Aside::id).
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// for aside in client.aside()? {
    ///     client.forget_aside(aside.id)?;
    /// }
    /// assert_eq!(client.aside()?, []);
    /// # Ok(())
    /// # }
    /// ```
    pub fn forget_aside(&self, id: i64) -> Result<(), Error> {
        self.inner.syncer.database.with(|connection| {
            connection.execute("DELETE FROM _outrigger_aside WHERE id = ?1", [id])?;
            Ok(())
        })
    }

    /// Ends syncing, gives the connection back and says what is still unsent. Everything stays as it is for the next
    /// [`open`](Self::open). No clone of the client works any more.
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// client.with(|connection| {
    ///     connection.execute("INSERT INTO notes VALUES ('550e8400-e29b-41d4-a716-446655440000', 'milk')", [])
    /// })?;
    /// let closed = client.close()?;
    /// assert_eq!(closed.unsent.len(), 1);
    /// let notes: i64 = closed.connection.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))?;
    /// assert_eq!(notes, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(&self) -> Result<SignedOut, Error> {
        self.end(false)
    }

    /// Ends syncing for good: removes all triggers and tables of this library, and says what was never sent.
    ///
    /// The app's rows stay, and whoever signs in next uploads them as their own. Remove them if that is somebody else.
    ///
    /// ```
    /// use outrigger_client::{Client, Config};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let connection = rusqlite::Connection::open_in_memory()?;
    /// connection.execute_batch("CREATE TABLE notes (id TEXT PRIMARY KEY, text TEXT)")?;
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) }).table("notes");
    /// let client = Client::open(connection, config)?;
    /// client.with(|connection| {
    ///     connection.execute("INSERT INTO notes VALUES ('550e8400-e29b-41d4-a716-446655440000', 'milk')", [])
    /// })?;
    /// let out = client.sign_out()?;
    /// for row in &out.unsent {
    ///     println!("never uploaded: {} of {}", row.pk, row.table);
    /// }
    /// out.connection.execute("DELETE FROM notes", [])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sign_out(&self) -> Result<SignedOut, Error> {
        self.end(true)
    }

    fn end(&self, for_good: bool) -> Result<SignedOut, Error> {
        self.stop();
        let database = &self.inner.syncer.database;
        let stops = database.stops();
        let left = database.with(|connection| {
            let tx = transaction(connection)?;
            let left = (waiting::unsent(&tx)?, aside::all(&tx)?);
            if for_good {
                install::remove(&tx, &stops)?;
            }
            tx.commit()?;
            Ok(left)
        });
        let (unsent, aside) = left?;
        Ok(SignedOut { connection: database.take().ok_or(Error::Closed)?, unsent, aside })
    }

    fn background(&self) -> MutexGuard<'_, Option<Background>> {
        // Nothing that can panic runs under the lock.
        self.inner.background.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
