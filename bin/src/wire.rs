//! Puts the server together. The only file that names a concrete store.

use std::fmt::Display;
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrigger_application::{Clock, Download, SharedCatalog, SyncStore, SystemClock, UploadService};
use outrigger_domain::limits::UploadLimits;
use outrigger_http::{Api, Demo, Stopped};
use outrigger_jwt::{JwtAuthenticator, JwtIssuer, JwtOptions, LEEWAY_S};
use outrigger_memory::MemoryStore;
use outrigger_postgres::{ConnectError, PostgresOptions, PostgresStore};
use outrigger_sqlite::{SqliteOptions, SqliteStore};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::banner::Banner;
use crate::config::{Config, DatabaseUrl, Settings, Synchronous};
use crate::shutdown;

/// Why the server did not start, in one plain sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The configuration can never work.
    #[error("{0}")]
    Configuration(String),
    /// Something outside of the server is not as it has to be.
    #[error("{0}")]
    Failed(String),
}

/// Runs the server until it is told to stop.
pub(crate) async fn run(config: Config) -> Result<(), StartError> {
    let store = open_store(&config).await?;
    let (listener, url) = bind(&config.settings).await?;
    // From here on a signal means a graceful stop; whoever reads the line below may send one at once.
    let shutdown = shutdown::listen().map_err(|error| failed("cannot listen for signals", error))?;
    let drain_timeout = Duration::from_secs(config.settings.drain_timeout_s.into());
    let database = &config.settings.database_url;
    if config.demo {
        eprint!("{}", Banner { url: &url, database, secret_generated: config.secret.is_none() });
    }
    if config.catalog.tables().is_empty() {
        tracing::warn!("no tables are configured, so every change will be refused: name them under [[tables]]");
    }
    tracing::info!(%database, demo = config.demo, "listening on {url}");
    // That nobody reads the line is no reason to stop.
    let _ = writeln!(stdout(), "outrigger is listening on {url}");
    match outrigger_http::serve(listener, outrigger_http::router(api(&config, store)), shutdown, drain_timeout).await {
        Stopped::Drained => tracing::info!("stopped"),
        Stopped::TimedOut => tracing::warn!("stopped, though requests were still running when the time was up"),
    }
    Ok(())
}

async fn bind(settings: &Settings) -> Result<(TcpListener, String), StartError> {
    let wanted = settings.listen.0;
    let cannot = |error| failed(format!("cannot listen on {wanted}"), error);
    let listener = TcpListener::bind(wanted).await.map_err(cannot)?;
    let url = format!("http://{}", listener.local_addr().map_err(cannot)?);
    Ok((listener, url))
}

fn api(config: &Config, store: Arc<dyn SyncStore>) -> Api {
    let settings = &config.settings;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let secret = config.secret.clone().unwrap_or_else(random_secret);
    let options = JwtOptions {
        issuer: settings.auth.issuer.clone(),
        audience: settings.auth.audience.clone(),
        leeway_s: settings.auth.leeway_s.unwrap_or(LEEWAY_S),
    };
    let demo = config
        .demo
        .then(|| Demo { issuer: Arc::new(JwtIssuer::hs256(secret.as_bytes(), options.clone(), Arc::clone(&clock))) });
    let authenticator = JwtAuthenticator::hs256(secret.as_bytes(), options, Arc::clone(&clock));
    let limits = UploadLimits {
        changes_max: settings.limits.upload_changes_max.get(),
        payload_bytes_max: settings.limits.payload_bytes_max.get(),
    };
    Api {
        upload: UploadService::new(Arc::clone(&store), clock, SharedCatalog::new(config.catalog.clone()), limits),
        download: Download::new(Arc::clone(&store)),
        store,
        authenticator: Arc::new(authenticator),
        schema_version: settings.schema_version,
        body_bytes_max: settings.limits.body_bytes_max.get(),
        demo,
    }
}

/// Two random UUIDs: 244 bits from the system's generator for secrets.
fn random_secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

async fn open_store(config: &Config) -> Result<Arc<dyn SyncStore>, StartError> {
    match &config.settings.database_url {
        DatabaseUrl::Memory => Ok(Arc::new(MemoryStore::default())),
        DatabaseUrl::Sqlite(path) => open_sqlite(path, config),
        DatabaseUrl::Postgres(url) => open_postgres(url, config).await,
    }
}

fn open_sqlite(path: &Path, config: &Config) -> Result<Arc<dyn SyncStore>, StartError> {
    let synchronous = match config.settings.sqlite.synchronous {
        Synchronous::Full => outrigger_sqlite::Synchronous::Full,
        Synchronous::Normal => outrigger_sqlite::Synchronous::Normal,
    };
    let options = SqliteOptions { synchronous, ..SqliteOptions::default() };
    let store = SqliteStore::open(path, options).map_err(|error| StartError::Failed(error.to_string()))?;
    if config.demo {
        SqliteStore::create_demo_tables(path).map_err(demo_failed)?;
    }
    Ok(Arc::new(store))
}

async fn open_postgres(url: &str, config: &Config) -> Result<Arc<dyn SyncStore>, StartError> {
    let defaults = PostgresOptions::default();
    let settings = &config.settings.postgres;
    let options = PostgresOptions {
        max_connections: settings.max_connections.map_or(defaults.max_connections, Into::into),
        session_settings: settings.session_settings.unwrap_or(defaults.session_settings),
        ..defaults
    };
    let store = PostgresStore::connect(url, options).await.map_err(|error| match error {
        ConnectError::Url(_) => StartError::Configuration(format!("database_url: {error}")),
        error => StartError::Failed(error.to_string()),
    })?;
    if config.demo {
        store.create_demo_tables().await.map_err(demo_failed)?;
    }
    Ok(Arc::new(store))
}

fn demo_failed(error: impl Display) -> StartError {
    failed("cannot create the tables of the demo", error)
}

fn failed(what: impl Display, error: impl Display) -> StartError {
    StartError::Failed(format!("{what}: {error}"))
}
