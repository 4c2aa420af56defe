//! The configuration: read from its sources, checked, and complete before anything is started.

mod settings;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ffi::OsString;

use outrigger_domain::{Catalog, Table, TableName};

pub(crate) use self::settings::{DatabaseUrl, Settings, Synchronous};
use crate::cli::ServeArgs;

/// The shortest secret that is taken, in bytes: the output of the hash that HS256 stands on (RFC 7518, 3.2).
pub(crate) const SECRET_BYTES_MIN: usize = 32;
/// The tables of the demo, parents first.
pub(crate) const DEMO_TABLES: [&str; 2] = ["users", "posts"];

/// One plain sentence that names the key that is wrong.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(String);

/// A configuration that the server can start with.
pub(crate) struct Config {
    /// The keys as they were given or defaulted.
    pub(crate) settings: Settings,
    /// Whether anybody on this machine may sign in, to try the server out.
    pub(crate) demo: bool,
    /// What tokens are signed with. None in demo mode if none was given: it is made up for the run.
    pub(crate) secret: Option<String>,
    /// The tables that take part in syncing, those of the demo included.
    pub(crate) catalog: Catalog,
}

/// Puts the configuration together from the command line, the environment and the file.
pub(crate) fn load(
    flags: &ServeArgs,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let (mut settings, file) = sources::read(flags, environment)?;
    let secret = settings.auth.jwt_secret.take();
    let address = settings.listen.0;
    let loopback = address.ip().is_loopback();
    let demo = settings.demo.unwrap_or(file.is_none() && secret.is_none() && loopback);
    if demo && !loopback {
        let why = "lets anybody sign in as anybody, so listen must be a loopback address";
        return Err(ConfigError(format!("demo {why}, which {address} is not")));
    }
    if !demo {
        check_secret(secret.as_deref())?;
    }
    let catalog = catalog(&settings, demo)?;
    Ok(Config { settings, demo, secret, catalog })
}

fn check_secret(secret: Option<&str>) -> Result<(), ConfigError> {
    let help = "set JWT_SECRET, for example to the output of: openssl rand -base64 48";
    match secret.map(str::len) {
        None => Err(ConfigError(format!("auth.jwt_secret is missing; {help}"))),
        Some(length) if length < SECRET_BYTES_MIN => {
            Err(ConfigError(format!("auth.jwt_secret has {length} bytes and needs {SECRET_BYTES_MIN} or more; {help}")))
        }
        Some(_) => Ok(()),
    }
}

fn catalog(settings: &Settings, demo: bool) -> Result<Catalog, ConfigError> {
    let mut seen = HashSet::new();
    for table in &settings.tables {
        if !seen.insert(&table.name) {
            return Err(ConfigError(format!("tables: {} is named twice", table.name)));
        }
    }
    let configured = settings.tables.iter().map(|table| table.name.clone());
    let demo_tables = DEMO_TABLES.iter().filter(|_| demo).filter_map(|name| TableName::parse_qualified(name).ok());
    Ok(Catalog::new(configured.chain(demo_tables).map(Table::new)))
}
