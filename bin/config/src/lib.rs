//! The configuration: read from its sources, checked, and complete before anything is started.

mod age;
mod auth;
mod database_url;
mod edge;
mod flags;
mod settings;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use outrigger_application::TableConfig;
use outrigger_domain::TableName;
use outrigger_domain::limits::NAME_BYTES_MAX;

pub use self::auth::Auth;
pub use self::edge::ProxyHeader;
pub use self::settings::{Otlp, Settings, Synchronous};
pub use self::{age::Age, database_url::DatabaseUrl, flags::Flags};

/// The longest bound on the projection of an upload.
pub const PROJECTION_TIMEOUT_MS_MAX: u32 = 10_000;
/// The tables of the demo, parents first.
pub const DEMO_TABLES: [&str; 2] = ["users", "posts"];

/// One plain sentence that names the key that is wrong.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// That sentence.
    pub fn new(sentence: String) -> Self {
        Self(sentence)
    }
}

/// A configuration that the server can start with.
pub struct Config {
    /// The keys as they were given or defaulted.
    pub settings: Settings,
    /// Whether anybody on this machine may sign in, to try the server out.
    pub demo: bool,
    /// How tokens are checked. In demo mode there may be no key: one is made up for the run.
    pub auth: Auth,
    /// The tables that take part in syncing, those of the demo included.
    pub tables: Vec<TableConfig>,
}

impl Config {
    /// What may well be meant otherwise, a sentence each.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let mut doubt = |when: bool, what: &str| doubts.extend(when.then(|| what.to_owned()));
        doubt(self.demo, "demo is on: anybody on this machine can sign in as anybody");
        doubt(self.tables.is_empty(), "tables is empty, so every change will be refused");
        doubt(
            self.settings.database_url == DatabaseUrl::Memory,
            "database_url is memory: all data is gone with the server",
        );
        doubt(
            self.settings.sqlite.synchronous == Synchronous::Normal,
            "sqlite.synchronous is normal: a loss of power loses uploads that were answered",
        );
        let auth = &self.auth;
        doubt(
            auth.jwks_url.is_some() && (auth.options.issuer.is_none() || auth.options.audience.is_none()),
            "auth.jwks_url without auth.issuer and auth.audience: tokens that the provider made for another app are accepted",
        );
        doubts
    }
}

/// What a configuration is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To run the server.
    Serve,
    /// To say whether it could.
    Check,
    /// To make tokens for it.
    Sign,
    /// To work on its database, which takes no secret.
    Operate,
}

/// Puts the configuration together from the command line, the environment and the file.
pub fn load(
    flags: &Flags,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    purpose: Purpose,
) -> Result<Config, ConfigError> {
    let (mut settings, file) = sources::read(flags, environment)?;
    let auth = Auth::read(std::mem::take(&mut settings.auth), purpose)?;
    let address = settings.listen.0;
    let loopback = address.ip().is_loopback();
    let demo = settings.demo.unwrap_or(file.is_none() && !auth.has_keys() && loopback);
    if demo && !loopback {
        let why = "lets anybody sign in as anybody, so listen must be a loopback address";
        return Err(ConfigError(format!("demo {why}, which {address} is not")));
    }
    if !demo && matches!(purpose, Purpose::Serve | Purpose::Check) && !auth.has_keys() {
        return Err(auth::no_keys());
    }
    check_bound(&settings)?;
    check_retention(&settings)?;
    check_otlp(&settings.otlp)?;
    let tables = tables(std::mem::take(&mut settings.tables), demo)?;
    Ok(Config { settings, demo, auth, tables })
}

/// The settings in force as TOML that can be read again, but for secrets, which are masked; and the file that some of
/// them are from. Refused like the configuration itself.
pub fn show(flags: &Flags, environment: Vec<(OsString, OsString)>) -> Result<(Settings, Option<PathBuf>), ConfigError> {
    let demo = load(flags, environment.clone(), Purpose::Check)?.demo;
    let (mut settings, file) = sources::read(flags, environment)?;
    settings.demo = Some(demo);
    settings.auth.fill_in();
    Ok((settings, file))
}

/// An upload waits for its projection, so the bound stays below what a device, a proxy or the database waits for.
fn check_bound(settings: &Settings) -> Result<(), ConfigError> {
    let timeout_ms = settings.projection.timeout_ms.get();
    if timeout_ms > PROJECTION_TIMEOUT_MS_MAX {
        let why = format!("is {timeout_ms} and may be {PROJECTION_TIMEOUT_MS_MAX} at the most: uploads wait for it");
        return Err(ConfigError(format!("projection.timeout_ms {why}")));
    }
    Ok(())
}

/// A deletion outlives what it supersedes, and a sweep is no busy loop.
fn check_retention(settings: &Settings) -> Result<(), ConfigError> {
    let ages = &settings.retention;
    if ages.tombstones_after < ages.superseded_after {
        let why = "must not be shorter than retention.superseded_after: without its deletion a row would come back";
        return Err(ConfigError(format!("retention.tombstones_after {why}")));
    }
    if ages.every.0 < Duration::from_secs(1) {
        return Err(ConfigError("retention.every must be one second or more".into()));
    }
    Ok(())
}

fn check_otlp(otlp: &settings::Otlp) -> Result<(), ConfigError> {
    if otlp.endpoint.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        return Err(ConfigError("otlp.endpoint must begin with http:// or https://".into()));
    }
    if !(0.0..=1.0).contains(&otlp.sample_ratio) {
        return Err(ConfigError("otlp.sample_ratio must be from 0 to 1".into()));
    }
    Ok(())
}

/// The tables of the file, and behind them those of the demo that it does not name.
fn tables(configured: Vec<settings::Table>, demo: bool) -> Result<Vec<TableConfig>, ConfigError> {
    let mut seen = HashSet::new();
    let mut tables = Vec::with_capacity(configured.len());
    for (position, entry) in configured.into_iter().enumerate() {
        let settings::Name(name) = entry.name;
        if !seen.insert(name.clone()) {
            return Err(ConfigError(format!("tables: {name} is named twice")));
        }
        let mut config = TableConfig::new(name);
        for (column, settings::Name(parent)) in entry.references {
            let column = plain_name(column, &format!("tables.{position}.references"))?;
            config.table = config.table.referring(column, parent);
        }
        config.materialize = entry.materialize.0;
        let owner_column = entry.owner_column.map(|name| plain_name(name, &format!("tables.{position}.owner_column")));
        config.owner_column = owner_column.transpose()?;
        tables.push(config);
    }
    let demo_tables = DEMO_TABLES.iter().filter(|_| demo).filter_map(|name| TableName::parse_qualified(name).ok());
    tables.extend(demo_tables.filter(|name| !seen.contains(name)).map(TableConfig::new));
    Ok(tables)
}

/// The name of a column, which unlike that of a table has its case.
fn plain_name(name: String, key: &str) -> Result<String, ConfigError> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain && (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(name);
    }
    let rule = format!("a column's name is 1 to {NAME_BYTES_MAX} letters, digits and _");
    Err(ConfigError(format!("{key}: {name:?} is not a column's name: {rule}")))
}
