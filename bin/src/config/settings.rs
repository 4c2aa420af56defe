//! The keys of the configuration, with their types and defaults.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;
use std::{fmt, str::FromStr};

use outrigger_application::Materialize;
use outrigger_domain::TableName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::age::Age;
use super::auth;
use super::database_url::DatabaseUrl;
use super::edge::{Cors, Limits, Network, ProxyHeader, Timeouts, TlsFiles};
use crate::logging;

/// What stands in the place of a secret where settings are shown.
pub(super) const MASK: &str = "***";

/// Everything that can be configured. A key that is not here is an error, so that a misspelt one is noticed. Written
/// out, it can be read again, but for secrets, which are masked.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    #[serde(deserialize_with = "from_text")]
    pub(crate) listen: Listen,
    #[serde(deserialize_with = "from_text_if_any")]
    pub(crate) metrics_listen: Option<Listen>,
    #[serde(deserialize_with = "from_text")]
    pub(crate) database_url: DatabaseUrl,
    pub(crate) schema_version: u32,
    pub(super) demo: Option<bool>,
    pub(crate) drain_s: u32,
    pub(crate) drain_timeout_s: u32,
    pub(crate) h2c: bool,
    pub(crate) trusted_proxies: Vec<Network>,
    pub(crate) proxy_header: ProxyHeader,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) cors: Cors,
    #[serde(deserialize_with = "from_text")]
    pub(crate) log: LogFilter,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) sqlite: Sqlite,
    pub(crate) postgres: Postgres,
    pub(super) auth: auth::Settings,
    pub(crate) projection: Projection,
    pub(crate) retention: Retention,
    pub(crate) otlp: Otlp,
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

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sqlite {
    pub(crate) synchronous: Synchronous,
}

/// What a SQLite commit survives; see the README.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Synchronous {
    #[default]
    Full,
    Normal,
}

/// What an adapter has a default for is optional here.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Postgres {
    pub(crate) max_connections: Option<NonZeroU32>,
    pub(crate) session_settings: Option<bool>,
    pub(crate) acquire_timeout_ms: Option<NonZeroU32>,
    pub(crate) statement_timeout_ms: Option<NonZeroU32>,
    pub(crate) lock_timeout_ms: Option<NonZeroU32>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Projection {
    pub(crate) timeout_ms: NonZeroU32,
    pub(crate) catalog_refresh_s: NonZeroU32,
}

impl Default for Projection {
    fn default() -> Self {
        const fn limit(value: u32) -> NonZeroU32 {
            NonZeroU32::new(value).expect("the default is not zero")
        }
        const { Self { timeout_ms: limit(2_000), catalog_refresh_s: limit(5) } }
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retention {
    #[serde(deserialize_with = "from_text")]
    pub(crate) superseded_after: Age,
    #[serde(deserialize_with = "from_text")]
    pub(crate) tombstones_after: Age,
    #[serde(deserialize_with = "from_text")]
    pub(crate) keys_after: Age,
    #[serde(deserialize_with = "from_text")]
    pub(crate) every: Age,
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
pub(crate) struct Otlp {
    pub(crate) endpoint: Option<String>,
    pub(crate) service_name: String,
    pub(crate) sample_ratio: f64,
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
pub(crate) struct Listen(pub(crate) SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("{text:?} is not an IP address with a port, such as 127.0.0.1:8080");
        text.parse().map(Self).map_err(wrong)
    }
}

/// What to log; see [`logging`].
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct LogFilter(pub(crate) String);

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why| format!("{text:?} is not a filter such as info or info,sqlx=warn: {why}");
        logging::check(text).map(|()| Self(text.into())).map_err(wrong)
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
