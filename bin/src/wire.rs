//! Opens the store. The only file that names a concrete one.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use outrigger_application::measures::{POOL_CONNECTIONS, POOL_CONNECTIONS_MAX};
use outrigger_application::{
    Clock, ContactStore, ErasurePorts, Hub, Notifier, ProjectionStore, RetentionStore, SyncStore, SystemClock,
    UserStore,
};
use outrigger_config::{Config, DatabaseUrl, Synchronous};
use outrigger_memory::MemoryStore;
pub(crate) use outrigger_postgres::Examined as PostgresExamined;
use outrigger_postgres::{ConnectError, PostgresNews, PostgresOptions, PostgresStore};
use outrigger_sqlite::{SqliteOptions, SqliteStore};

use crate::RunError;

/// One store, by the ports that it serves.
pub(crate) struct Store {
    /// Users' streams.
    pub(crate) sync: Arc<dyn SyncStore>,
    /// The business tables.
    pub(crate) projection: Arc<dyn ProjectionStore>,
    /// What is kept of the streams.
    pub(crate) retention: Arc<dyn RetentionStore>,
    /// The devices.
    pub(crate) contacts: Arc<dyn ContactStore>,
    /// The users.
    pub(crate) users: Arc<dyn UserStore>,
    /// The store itself where it is Postgres: there can be other nodes then, and there are connections to count.
    postgres: Option<PostgresStore>,
}

impl Store {
    /// What is told of commits, and what has to run so that other nodes hear of them.
    pub(crate) fn notifier(&self, hub: Hub) -> (Arc<dyn Notifier>, Option<PostgresNews>) {
        match self.postgres.as_ref().map(|store| store.news(hub.clone())) {
            Some(news) => (Arc::new(news.clone()), Some(news)),
            None => (Arc::new(hub), None),
        }
    }
}

impl Store {
    /// What the removal of a user stands on; that is told of what is deleted.
    pub(crate) fn erasure(&self, notifier: Arc<dyn Notifier>) -> ErasurePorts {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        ErasurePorts {
            store: Arc::clone(&self.sync),
            projection: Arc::clone(&self.projection),
            retention: Arc::clone(&self.retention),
            contacts: Arc::clone(&self.contacts),
            users: Arc::clone(&self.users),
            clock,
            notifier,
        }
    }

    /// What sets the gauges of the store to what they are now.
    pub(crate) fn gauges(&self) -> impl Fn() + Send + Sync + 'static {
        let postgres = self.postgres.clone();
        move || {
            for (pool, connections) in postgres.iter().flat_map(PostgresStore::connections) {
                gauge!(POOL_CONNECTIONS, "pool" => pool, "state" => "idle").set(connections.idle as f64);
                gauge!(POOL_CONNECTIONS, "pool" => pool, "state" => "busy").set(connections.busy as f64);
                gauge!(POOL_CONNECTIONS_MAX, "pool" => pool).set(connections.max as f64);
            }
        }
    }
}

impl<S: SyncStore + ProjectionStore + RetentionStore + ContactStore + UserStore + 'static> From<S> for Store {
    fn from(store: S) -> Self {
        let store = Arc::new(store);
        Self {
            sync: Arc::<S>::clone(&store),
            projection: Arc::<S>::clone(&store),
            retention: Arc::<S>::clone(&store),
            contacts: Arc::<S>::clone(&store),
            users: store,
            postgres: None,
        }
    }
}

/// Opens the store of a server, and creates what is not there: in demo mode the tables of the demo too.
pub(crate) async fn open(config: &Config) -> Result<Store, RunError> {
    match &config.settings.database_url {
        DatabaseUrl::Memory => Ok(MemoryStore::default().into()),
        DatabaseUrl::Sqlite(path) => {
            if config.demo {
                SqliteStore::create_demo_tables(path).map_err(|error| RunError::Failed(error.to_string()))?;
            }
            Ok(open_sqlite(path, config)?.into())
        }
        DatabaseUrl::Postgres(url) => {
            if config.demo {
                let created = PostgresStore::create_demo_tables(url, &postgres_options(config)).await;
                created.map_err(cannot_connect)?;
            }
            let store = open_postgres(url, config).await?;
            Ok(Store { postgres: Some(store.clone()), ..store.into() })
        }
    }
}

/// What an operator is told of the database.
pub(crate) enum Examined {
    /// There is none.
    Memory,
    /// A file that the server would make, with that many migrations.
    NoFile(usize),
    /// A file.
    Sqlite(outrigger_sqlite::Examined),
    /// A database in Postgres.
    Postgres(PostgresExamined),
}

/// Looks at the database, and changes nothing.
pub(crate) async fn examine(config: &Config) -> Result<Examined, RunError> {
    match &config.settings.database_url {
        DatabaseUrl::Memory => Ok(Examined::Memory),
        DatabaseUrl::Sqlite(path) if !path.exists() => Ok(Examined::NoFile(outrigger_sqlite::migrations_known())),
        DatabaseUrl::Sqlite(path) => {
            let found = outrigger_sqlite::examine(path).map_err(|error| RunError::Failed(error.to_string()))?;
            Ok(Examined::Sqlite(found))
        }
        DatabaseUrl::Postgres(url) => {
            let found = outrigger_postgres::examine(url, &postgres_options(config)).await.map_err(cannot_connect)?;
            Ok(Examined::Postgres(found))
        }
    }
}

/// Connections that the server takes from its database, those that hear of other nodes included.
pub(crate) fn connections_max(config: &Config) -> u32 {
    postgres_options(config).max_connections + 1
}

/// Opens a store that a server has been using.
pub(crate) async fn open_existing(config: &Config) -> Result<Store, RunError> {
    match &config.settings.database_url {
        DatabaseUrl::Memory => {
            Err(RunError::Configuration("database_url: memory: is inside of one server, and out of reach here".into()))
        }
        // A mistyped path is to be noticed, not to become an empty database.
        DatabaseUrl::Sqlite(path) if !path.exists() => {
            Err(RunError::Failed(format!("database_url: there is no file {}", path.display())))
        }
        DatabaseUrl::Sqlite(path) => Ok(open_sqlite(path, config)?.into()),
        DatabaseUrl::Postgres(url) => Ok(open_postgres(url, config).await?.into()),
    }
}

fn open_sqlite(path: &Path, config: &Config) -> Result<SqliteStore, RunError> {
    let synchronous = match config.settings.sqlite.synchronous {
        Synchronous::Full => outrigger_sqlite::Synchronous::Full,
        Synchronous::Normal => outrigger_sqlite::Synchronous::Normal,
    };
    let options = SqliteOptions {
        synchronous,
        tables: config.tables.clone(),
        projection_timeout: projection_timeout(config),
        ..SqliteOptions::default()
    };
    SqliteStore::open(path, options).map_err(|error| RunError::Failed(error.to_string()))
}

async fn open_postgres(url: &str, config: &Config) -> Result<PostgresStore, RunError> {
    PostgresStore::connect(url, postgres_options(config)).await.map_err(cannot_connect)
}

fn cannot_connect(error: ConnectError) -> RunError {
    match error {
        ConnectError::Url(_) => RunError::Configuration(format!("database_url: {error}")),
        error => RunError::Failed(error.to_string()),
    }
}

fn postgres_options(config: &Config) -> PostgresOptions {
    let defaults = PostgresOptions::default();
    let settings = &config.settings.postgres;
    let ms =
        |setting: Option<NonZeroU32>, default| setting.map_or(default, |ms| Duration::from_millis(ms.get().into()));
    PostgresOptions {
        acquire_timeout: ms(settings.acquire_timeout_ms, defaults.acquire_timeout),
        statement_timeout: ms(settings.statement_timeout_ms, defaults.statement_timeout),
        lock_timeout: ms(settings.lock_timeout_ms, defaults.lock_timeout),
        max_connections: settings.max_connections.map_or(defaults.max_connections, Into::into),
        session_settings: settings.session_settings.unwrap_or(defaults.session_settings),
        tables: config.tables.clone(),
        projection_timeout: projection_timeout(config),
        ..defaults
    }
}

fn projection_timeout(config: &Config) -> Duration {
    Duration::from_millis(config.settings.projection.timeout_ms.get().into())
}

/// A failure of that, for that reason.
pub(crate) fn failed(what: impl Display, error: impl Display) -> RunError {
    RunError::Failed(format!("{what}: {error}"))
}
