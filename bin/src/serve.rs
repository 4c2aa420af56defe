//! Puts the server together and runs it.

use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::Duration;

use outrigger_application::{
    Clock, Contacts, Download, Drain, Failures, Hub, Metered, Notifier, SharedCatalog, Snapshots, SyncStore,
    SystemClock, UploadPorts, UploadService, Watch,
};
use outrigger_config::{Config, Settings};
use outrigger_domain::limits::UploadLimits;
use outrigger_http::{Admin, Api, Metrics, Readiness, Stopped};
use tokio::net::TcpListener;

use crate::banner::Banner;
use crate::tokens::Tokens;
use crate::wire::{self, Store, failed};
use crate::{RunError, catalog, compact, edge, metrics, shutdown, tokens};

/// How often the contacts of devices are written.
const CONTACTS_EVERY: Duration = Duration::from_secs(10);
/// How often streams that are due to be swept are looked for, at the least.
const SWEEP_CHECK_MAX: Duration = Duration::from_secs(600);

/// Runs the server until it is told to stop.
pub(crate) async fn run(config: Config) -> Result<(), RunError> {
    let store = wire::open(&config).await?;
    let cannot = |error| failed("cannot read the catalog of the business tables", error);
    let catalog = catalog::read(&config.tables, &*store.projection).await.map_err(cannot)?;
    let mut tokens = tokens::tokens(&config).await?;
    let serving = edge::serving(&config.settings)?;
    let (listener, url) = bind(&config.settings).await?;
    // From here on a signal means a graceful stop; whoever reads the line below may send one at once.
    let cannot = |error| failed("cannot listen for signals", error);
    let shutdown = shutdown::listen().map_err(cannot)?;
    let reload = shutdown::reload(serving.tls.clone()).map_err(cannot)?;
    let database = &config.settings.database_url;
    if config.demo {
        eprint!("{}", Banner { url: &url, database, secret_generated: config.auth.signing.is_none() });
    }
    if config.tables.is_empty() {
        tracing::warn!("no tables are configured, so every change will be refused: name them under [[tables]]");
    }
    tracing::info!(%database, demo = config.demo, "listening on {url}");
    // That nobody reads the line is no reason to stop.
    let _ = writeln!(stdout(), "outrigger is listening on {url}");
    let every = Duration::from_secs(config.settings.projection.catalog_refresh_s.get().into());
    let projection = Arc::clone(&store.projection);
    let contacts = Contacts::new(Arc::clone(&store.contacts), Arc::new(SystemClock));
    let retention = compact::retention(&config, Arc::clone(&store.retention), compact::PAUSE);
    let mut background = tokio::task::JoinSet::new();
    background.spawn(reload);
    background.spawn(catalog::follow(config.tables.clone(), projection, catalog.clone(), every));
    let noting = contacts.clone();
    background.spawn(async move { noting.follow(CONTACTS_EVERY).await });
    let every = config.settings.retention.every.0;
    background.spawn(async move { retention.follow(every, every.min(SWEEP_CHECK_MAX)).await });
    if let Some((keys, every)) = tokens.remote.take() {
        background.spawn(async move { keys.follow(every).await });
    }
    let (hub, drain) = (Hub::default(), Drain::default());
    let (notifier, news) = store.notifier(hub.clone());
    if let Some(news) = news {
        background.spawn(async move { news.run().await });
    }
    let (metrics, upkeep) = metrics::start(&config, store.gauges(), &listener).await?;
    background.spawn(upkeep);
    let router = outrigger_http::router(api(
        &config,
        store,
        Parts { catalog, contacts: contacts.clone(), hub, notifier, drain: drain.clone(), metrics, tokens },
    ));
    let shutdown = drained(shutdown, drain, config.settings.drain_s);
    let stopped = outrigger_http::serve(listener, router, serving, shutdown).await;
    // Ends what runs in it.
    drop(background);
    if let Err(error) = contacts.flush().await {
        tracing::warn!(%error, "the last contacts of devices could not be written");
    }
    match stopped {
        Stopped::Drained => tracing::info!("stopped"),
        Stopped::TimedOut => tracing::warn!("stopped, though requests were still running when the time was up"),
    }
    Ok(())
}

/// Is over when nothing new is to be accepted: some time after the server was told to stop, in which whoever balances the
/// load notices that nothing is to be sent here any more.
async fn drained(told_to_stop: impl Future<Output = ()>, drain: Drain, drain_s: u32) {
    told_to_stop.await;
    drain.begin();
    tokio::time::sleep(Duration::from_secs(drain_s.into())).await;
    drain.close();
}

async fn bind(settings: &Settings) -> Result<(TcpListener, String), RunError> {
    let wanted = settings.listen.0;
    let cannot = |error| failed(format!("cannot listen on {wanted}"), error);
    let listener = TcpListener::bind(wanted).await.map_err(cannot)?;
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().map_err(cannot)?);
    Ok((listener, url))
}

/// What endpoints share with what runs beside them.
struct Parts {
    catalog: SharedCatalog,
    contacts: Contacts,
    hub: Hub,
    notifier: Arc<dyn Notifier>,
    drain: Drain,
    metrics: Option<Metrics>,
    tokens: Tokens,
}

fn api(config: &Config, store: Store, parts: Parts) -> Api {
    let Parts { catalog, contacts, hub, notifier, drain, metrics, tokens } = parts;
    let settings = &config.settings;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let limits = UploadLimits {
        changes_max: settings.limits.upload_changes_max.get(),
        payload_bytes_max: settings.limits.payload_bytes_max.get(),
    };
    let admin = store.erasure(Arc::clone(&notifier));
    let sync: Arc<dyn SyncStore> = Arc::new(Metered(store.sync));
    let snapshots = Snapshots::new(Arc::clone(&sync), catalog.clone());
    let ports = UploadPorts { store: Arc::clone(&sync), clock: Arc::clone(&clock), notifier };
    Api {
        upload: UploadService::new(ports, catalog.clone(), limits),
        watch: Watch::new(Arc::clone(&sync), clock, hub, drain.clone()),
        download: Download::new(Arc::clone(&sync)),
        admin: Admin::new(admin, snapshots.clone(), catalog),
        snapshots,
        contacts,
        failures: Failures::new(store.projection),
        readiness: Readiness::new(Arc::clone(&sync), drain),
        store: sync,
        authenticator: Arc::new(tokens.authenticator),
        schema_version: settings.schema_version,
        body_bytes_max: settings.limits.body_bytes_max.get(),
        pace: edge::pace(settings),
        admission: edge::admission(settings),
        origins: edge::origins(settings),
        metrics,
        demo: tokens.demo,
    }
}
