//! What an operator is told of a database before it is trusted with data.

use jiff::Timestamp;
use outrigger_application::tables::Materialize;
use outrigger_domain::TableName;
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
    /// The role that the server has there.
    pub role: String,
    /// Business tables that are there, are to be projected onto, and which the role may not write.
    pub unwritable: Vec<TableName>,
    /// The time there.
    pub now: Timestamp,
}

const QUESTION: &str = "
SELECT current_setting('server_version'), pg_is_in_recovery(),
       current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8,
       clock_timestamp(), current_setting('fsync'), current_setting('synchronous_commit'),
       current_setting('full_page_writes'), current_user::text";

const UNWRITABLE: &str = "
SELECT w.place FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (schema_name, table_name, place)
JOIN pg_namespace n ON n.nspname = w.schema_name
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.table_name AND c.relkind IN ('r', 'p')
WHERE NOT (
    has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'DELETE')
    AND has_any_column_privilege(c.oid, 'INSERT') AND has_any_column_privilege(c.oid, 'UPDATE')
)
ORDER BY w.place";

/// Looks at the database without changing anything. Fails where opening a store would: it cannot be reached, is too
/// old, or a newer release has migrated it.
pub async fn examine(url: &str, options: &PostgresOptions) -> Result<Examined, ConnectError> {
    let target = session::target(url, options)?;
    let mut connection = session::open(&target, options.acquire_timeout).await?;
    let (migrations, migrations_known) = migrate::state(&mut connection).await?;
    let row = sqlx::query(QUESTION).fetch_one(&mut connection).await?;
    let projected = options.tables.iter().filter(|table| table.materialize != Materialize::Off);
    let tables: Vec<&TableName> = projected.map(|table| &table.table.name).collect();
    let unwritable = sqlx::query_scalar::<_, i64>(UNWRITABLE)
        .bind(tables.iter().map(|table| table.schema()).collect::<Vec<_>>())
        .bind(tables.iter().map(|table| table.table()).collect::<Vec<_>>());
    let unwritable = unwritable.fetch_all(&mut connection).await?;
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
        role: row.try_get(7)?,
        unwritable: unwritable.into_iter().map(|place| tables[place as usize - 1].clone()).collect(),
        now: row.try_get::<TimestampTz, _>(3)?.0,
    })
}
