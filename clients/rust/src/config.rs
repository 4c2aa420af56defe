//! What an app decides.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::clock::{Clock, SystemClock};
use crate::conflict::Conflicts;
use crate::transport::{Http, Transport};

/// What a source of tokens answers.
pub type TokenResult = Result<String, Box<dyn std::error::Error + Send + Sync>>;
type Tokens = Arc<dyn Fn() -> BoxFuture<'static, TokenResult> + Send + Sync>;
/// Stops the library at a named point if it answers true.
pub(crate) type Failpoint = Arc<dyn Fn(&'static str) -> bool + Send + Sync>;

/// How a database is synced. Everything but the server, the tokens and the tables has a default.
#[derive(Clone)]
pub struct Config {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tokens: Tokens,
    pub(crate) tables: Vec<Table>,
    pub(crate) conflicts: Conflicts,
    pub(crate) poll_every: Duration,
    pub(crate) failpoint: Option<Failpoint>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("tables", &self.tables)
            .field("conflicts", &self.conflicts)
            .field("poll_every", &self.poll_every)
            .finish_non_exhaustive()
    }
}

/// A table that syncs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Its name in the app's database.
    pub(crate) name: String,
    /// Its schema and name on the server.
    pub(crate) schema: String,
    pub(crate) table: String,
}

impl Config {
    /// Syncs with the server at that address, as in `https://sync.example.com`.
    ///
    /// `token` is asked for a token when one is needed, and again when the server refuses the last one.
    ///
    /// ```
    /// use outrigger_client::{Config, TokenResult};
    ///
    /// async fn token() -> TokenResult {
    ///     // Here the app asks its own backend, or its keychain.
    ///     Ok("a token".to_owned())
    /// }
    ///
    /// let config = Config::new("https://sync.example.com", token).table("notes");
    /// # drop(config);
    /// ```
    pub fn new<F: Future<Output = TokenResult> + Send + 'static>(
        url: impl Into<String>,
        token: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self::over(Http::new(url), token)
    }

    /// Syncs over a transport of the app's own, see [`Transport`].
    ///
    /// ```
    /// use outrigger_client::{Config, transport::Http};
    ///
    /// let http = Http::new("https://sync.example.com");
    /// let config = Config::over(http, || async { Ok("a token".to_owned()) }).table("notes");
    /// # drop(config);
    /// ```
    pub fn over<F: Future<Output = TokenResult> + Send + 'static>(
        transport: impl Transport + 'static,
        token: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            transport: Arc::new(transport),
            clock: Arc::new(SystemClock),
            tokens: Arc::new(move || Box::pin(token())),
            tables: Vec::new(),
            conflicts: Conflicts::default(),
            poll_every: Duration::from_secs(30),
            failpoint: None,
        }
    }

    /// Syncs this table too, under its own name in lower case.
    #[must_use]
    /// Syncs this table too, under its own name in lower case.
    ///
    /// ```
    /// use outrigger_client::Config;
    ///
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) })
    ///     .table("notes")
    ///     .table("folders");
    /// # drop(config);
    /// ```
    pub fn table(self, name: impl Into<String>) -> Self {
        let name = name.into();
        let remote = name.to_ascii_lowercase();
        self.table_as(name, remote)
    }

    /// Syncs this table too, as `table` or `schema.table` of the server.
    #[must_use]
    /// Syncs this table too, as `table` or `schema.table` of the server.
    ///
    /// ```
    /// use outrigger_client::Config;
    ///
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) })
    ///     .table_as("Notes", "business.posts");
    /// # drop(config);
    /// ```
    pub fn table_as(mut self, name: impl Into<String>, remote: impl AsRef<str>) -> Self {
        let (schema, table) = remote.as_ref().split_once('.').unwrap_or(("public", remote.as_ref()));
        self.tables.push(Table { name: name.into(), schema: schema.to_owned(), table: table.to_owned() });
        self
    }

    /// What becomes of an edit of a row that another device has changed meanwhile; by default
    /// [`Conflicts::MergeFields`].
    #[must_use]
    /// What becomes of an edit of a row that another device has changed meanwhile; by default
    /// [`Conflicts::MergeFields`].
    ///
    /// ```
    /// use outrigger_client::{Config, Conflicts};
    ///
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) })
    ///     .table("notes")
    ///     .conflicts(Conflicts::ServerWins);
    /// # drop(config);
    /// ```
    pub fn conflicts(self, conflicts: Conflicts) -> Self {
        Self { conflicts, ..self }
    }

    /// How often the background task looks for changes of others where the server has no event stream, or
    /// something waits for a better day; by default every 30 s.
    #[must_use]
    /// How often the background task looks for changes of others where the server has no event stream, or something waits
    /// for a better day; by default every 30 s.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use outrigger_client::Config;
    ///
    /// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) })
    ///     .table("notes")
    ///     .poll_every(Duration::from_secs(300));
    /// # drop(config);
    /// ```
    pub fn poll_every(self, poll_every: Duration) -> Self {
        Self { poll_every, ..self }
    }

    /// Takes the time from that clock, for a simulator.
    #[must_use]
    /// Takes the time from that clock, for a simulator. See [`Clock`] for one.
    pub fn clock(self, clock: impl Clock + 'static) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// Stops what is done as if the process had died, wherever the function says so of a point's name. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn failpoint(self, stop: impl Fn(&'static str) -> bool + Send + Sync + 'static) -> Self {
        Self { failpoint: Some(Arc::new(stop)), ..self }
    }
}
