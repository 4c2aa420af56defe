//! The keys of the configuration, with their types and defaults.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;
use std::{fmt, str::FromStr};

use outrigger_application::Materialize;
use outrigger_domain::TableName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tracing_subscriber::EnvFilter;

use super::age::Age;
use super::auth;
use super::database_url::DatabaseUrl;
use super::edge::{Cors, Limits, Network, ProxyHeader, Timeouts, TlsFiles};

/// What stands in the place of a secret where settings are shown.
pub(super) const MASK: &str = "***";

/// Everything that can be configured. A key that is not here is an error, so that a misspelt one is noticed. Written
/// out, it can be read again, but for secrets, which are masked.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The address and port that is served.
    #[serde(deserialize_with = "from_text")]
    pub listen: Listen,
    /// Where metrics and health are served instead, if not there.
    #[serde(deserialize_with = "from_text_if_any")]
    pub metrics_listen: Option<Listen>,
    /// The store.
    #[serde(deserialize_with = "from_text")]
    pub database_url: DatabaseUrl,
    /// The app's own version of its tables, told to devices.
    pub schema_version: u32,
    pub(super) demo: Option<bool>,
    /// Seconds from being told to stop to taking no more requests.
    pub drain_s: u32,
    /// Seconds that running requests then have.
    pub drain_timeout_s: u32,
    /// HTTP/2 without TLS.
    pub h2c: bool,
    /// Whose word on the address of a client is taken.
    pub trusted_proxies: Vec<Network>,
    /// Where they write it.
    pub proxy_header: ProxyHeader,
    /// The certificate, if TLS is ended here.
    pub tls: Option<TlsFiles>,
    /// Whose pages may use the API.
    pub cors: Cors,
    /// What is logged.
    #[serde(deserialize_with = "from_text")]
    pub log: LogFilter,
    /// How much and how often.
    pub limits: Limits,
    /// How slowly.
    pub timeouts: Timeouts,
    /// What is of SQLite alone.
    pub sqlite: Sqlite,
    /// What is of Postgres alone.
    pub postgres: Postgres,
    pub(super) auth: auth::Settings,
    /// How business tables are written.
    pub projection: Projection,
    /// What of the log is forgotten, and when.
    pub retention: Retention,
    /// Where traces go.
    pub otlp: Otlp,
    pub(super) tables: Vec<Table>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            metrics_listen: None,
            database_url: DatabaseUrl::Sqlite("outrigger.db".into()),
            schema_version: 1,
            demo: None,
            drain_s: 0,
            drain_timeout_s: 10,
            h2c: false,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
            tls: None,
            cors: Cors::default(),
            log: LogFilter("info".into()),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            sqlite: Sqlite::default(),
            postgres: Postgres::default(),
            auth: auth::Settings::default(),
            projection: Projection::default(),
            retention: Retention::default(),
            otlp: Otlp::default(),
            tables: Vec::new(),
        }
    }
}

/// What is of SQLite alone.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sqlite {
    /// What a commit survives.
    pub synchronous: Synchronous,
}

/// What a SQLite commit survives; see the README.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// A loss of power.
    #[default]
    Full,
    /// A crash of the process, and not always a loss of power.
    Normal,
}

/// What an adapter has a default for is optional here.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Postgres {
    /// Connections of this node at the most.
    pub max_connections: Option<NonZeroU32>,
    /// Whether connections are set up as the statements want them, which some poolers do not let through.
    pub session_settings: Option<bool>,
    /// How long a request waits for a connection.
    pub acquire_timeout_ms: Option<NonZeroU32>,
    /// How long a statement may take.
    pub statement_timeout_ms: Option<NonZeroU32>,
    /// How long one waits for a lock.
    pub lock_timeout_ms: Option<NonZeroU32>,
}

/// How business tables are written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Projection {
    /// How long an upload waits for its rows to be projected.
    pub timeout_ms: NonZeroU32,
    /// How often the business tables are looked at anew.
    pub catalog_refresh_s: NonZeroU32,
}

impl Default for Projection {
    fn default() -> Self {
        const fn limit(value: u32) -> NonZeroU32 {
            NonZeroU32::new(value).expect("the default is not zero")
        }
        const { Self { timeout_ms: limit(2_000), catalog_refresh_s: limit(5) } }
    }
}

/// What of the log is forgotten, and when.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Entries that a later one of their row has replaced.
    #[serde(deserialize_with = "from_text")]
    pub superseded_after: Age,
    /// Deletions.
    #[serde(deserialize_with = "from_text")]
    pub tombstones_after: Age,
    /// What is remembered of pruned entries' numbers.
    #[serde(deserialize_with = "from_text")]
    pub keys_after: Age,
    /// How often it is looked at.
    #[serde(deserialize_with = "from_text")]
    pub every: Age,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Age(Duration::from_secs(days * 86_400));
        Self { superseded_after: days(7), tombstones_after: days(90), keys_after: days(90), every: days(1) }
    }
}

/// Where traces go, if anywhere.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Otlp {
    /// The collector, by HTTP; none: nothing is exported.
    pub endpoint: Option<String>,
    /// What the server is called there.
    pub service_name: String,
    /// The part of traces that is exported, from 0 to 1.
    pub sample_ratio: f64,
}

impl Default for Otlp {
    fn default() -> Self {
        Self { endpoint: None, service_name: "outrigger".into(), sample_ratio: 1.0 }
    }
}

/// One `[[tables]]` entry.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub(super) name: Name,
    #[serde(default)]
    pub(super) references: BTreeMap<String, Name>,
    #[serde(default)]
    pub(super) materialize: MaterializeSetting,
    pub(super) owner_column: Option<String>,
}

/// `table` or `schema.table`
#[derive(Deserialize, Serialize)]
pub(super) struct Name(#[serde(deserialize_with = "table_name", serialize_with = "to_text")] pub(super) TableName);

/// `true`, `false` or `"required"`
#[derive(Default)]
pub(super) struct MaterializeSetting(pub(super) Materialize);

impl<'de> Deserialize<'de> for MaterializeSetting {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Materialize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or \"required\"")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Materialize, E> {
                Ok(if value { Materialize::IfPresent } else { Materialize::Off })
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Materialize, E> {
                if value == "required" {
                    return Ok(Materialize::Required);
                }
                Err(E::invalid_value(de::Unexpected::Str(value), &self))
            }
        }

        from.deserialize_any(Visitor).map(Self)
    }
}

impl Serialize for MaterializeSetting {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Materialize::IfPresent => to.serialize_bool(true),
            Materialize::Off => to.serialize_bool(false),
            Materialize::Required => to.serialize_str("required"),
        }
    }
}

/// An IP address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Listen(pub SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("{text:?} is not an IP address with a port, such as 127.0.0.1:8080");
        text.parse().map(Self).map_err(wrong)
    }
}

/// What to log; as in `RUST_LOG`.
#[derive(Debug, PartialEq, Serialize)]
pub struct LogFilter(pub String);

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why| format!("{text:?} is not a filter such as info or info,sqlx=warn: {why}");
        EnvFilter::builder().parse(text).map(|_| Self(text.into())).map_err(wrong)
    }
}

pub(super) fn from_text<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

fn from_text_if_any<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(de::Error::custom)).transpose()
}

pub(super) fn to_text<S: Serializer>(value: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// Shows that there is a secret, and nothing of it.
pub(super) fn mask<S: Serializer>(secret: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| MASK).serialize(to)
}

fn table_name<'de, D: Deserializer<'de>>(from: D) -> Result<TableName, D::Error> {
    let text = String::deserialize(from)?;
    TableName::parse_qualified(&text).map_err(|why| de::Error::custom(format!("{text:?} is not a table's name: {why}")))
}
