//! What an operator is told of a database before it is trusted with data.

use jiff::Timestamp;
use sqlx::Row;

use crate::error::ConnectError;
use crate::timestamp::TimestampTz;
use crate::{PostgresOptions, migrate, session};

/// What was found. Looking changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// The release of the server, such as `15.8`.
    pub version: String,
    /// Migrations that the database has.
    pub migrations: usize,
    /// Migrations that this binary knows.
    pub migrations_known: usize,
    /// Settings that give durability away, each with its value: an answered upload may be lost with them.
    pub unsafe_settings: Vec<(String, String)>,
    /// Whether it is a standby, which takes no writes.
    pub is_standby: bool,
    /// Connections that the server allows, those for administrators left out.
    pub connections_max: u32,
    /// The time there.
    pub now: Timestamp,
}

const QUESTION: &str = "
SELECT current_setting('server_version'), pg_is_in_recovery(),
       current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8,
       clock_timestamp(), current_setting('fsync'), current_setting('synchronous_commit'),
       current_setting('full_page_writes')";

/// Looks at the database without changing anything. Fails where opening a store would: it cannot be reached, is too
/// old, or a newer release has migrated it.
pub async fn examine(url: &str, options: &PostgresOptions) -> Result<Examined, ConnectError> {
    let target = session::target(url, options)?;
    let mut connection = session::open(&target, options.acquire_timeout).await?;
    let (migrations, migrations_known) = migrate::state(&mut connection).await?;
    let row = sqlx::query(QUESTION).fetch_one(&mut connection).await?;
    session::close(connection).await;
    let mut unsafe_settings = Vec::new();
    // With synchronous_commit at local, on or above an answered commit is on this server's disk.
    for (at, name, lossy) in [(4, "fsync", "off"), (5, "synchronous_commit", "off"), (6, "full_page_writes", "off")] {
        let value: String = row.try_get(at)?;
        if value == lossy {
            unsafe_settings.push((name.to_owned(), value));
        }
    }
    Ok(Examined {
        version: row.try_get(0)?,
        migrations,
        migrations_known,
        unsafe_settings,
        is_standby: row.try_get(1)?,
        connections_max: u32::try_from(row.try_get::<i64, _>(2)?).unwrap_or_default(),
        now: row.try_get::<TimestampTz, _>(3)?.0,
    })
}
