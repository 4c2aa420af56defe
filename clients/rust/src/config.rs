//! What an app decides.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

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
    pub fn new<F: Future<Output = TokenResult> + Send + 'static>(
        url: impl Into<String>,
        token: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self::over(Http::new(url), token)
    }

    /// Syncs over a transport of the app's own.
    pub fn over<F: Future<Output = TokenResult> + Send + 'static>(
        transport: impl Transport + 'static,
        token: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            transport: Arc::new(transport),
            tokens: Arc::new(move || Box::pin(token())),
            tables: Vec::new(),
            conflicts: Conflicts::default(),
            poll_every: Duration::from_secs(30),
            failpoint: None,
        }
    }

    /// Syncs this table too, under its own name in lower case.
    #[must_use]
    pub fn table(self, name: impl Into<String>) -> Self {
        let name = name.into();
        let remote = name.to_ascii_lowercase();
        self.table_as(name, remote)
    }

    /// Syncs this table too, as `table` or `schema.table` of the server.
    #[must_use]
    pub fn table_as(mut self, name: impl Into<String>, remote: impl AsRef<str>) -> Self {
        let (schema, table) = remote.as_ref().split_once('.').unwrap_or(("public", remote.as_ref()));
        self.tables.push(Table { name: name.into(), schema: schema.to_owned(), table: table.to_owned() });
        self
    }

    /// What becomes of an edit of a row that another device has changed meanwhile; by default
    /// [`Conflicts::MergeFields`].
    #[must_use]
    pub fn conflicts(self, conflicts: Conflicts) -> Self {
        Self { conflicts, ..self }
    }

    /// How often the background task looks for changes of others where the server has no event stream; by default
    /// every 30 s.
    #[must_use]
    pub fn poll_every(self, poll_every: Duration) -> Self {
        Self { poll_every, ..self }
    }

    /// Stops what is done as if the process had died, wherever the function says so of a point's name. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn failpoint(self, stop: impl Fn(&'static str) -> bool + Send + Sync + 'static) -> Self {
        Self { failpoint: Some(Arc::new(stop)), ..self }
    }
}
