//! Where settings come from: flags over the environment over the file over the defaults.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::error::{Error, Kind};
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::settings::Settings;
use super::{ConfigError, Flags};

/// The file that is read if no other is named.
const DEFAULT_FILE: &str = "outrigger.toml";
/// Variables that other programs set too; those with our prefix win over them.
const SHARED_VARIABLES: [(&str, &str); 3] =
    [("DATABASE_URL", "database_url"), ("JWT_SECRET", "auth.jwt_secret"), ("RUST_LOG", "log")];
/// Keys whose values are lists.
const LISTS: [&str; 5] = ["tables", "auth.keys", "auth.source_claims", "cors.origins", "trusted_proxies"];
const PREFIX: &str = "OUTRIGGER_";
/// Variables with our prefix that are for the tests.
const FOR_TESTS: &str = "TEST_";

/// Whether Kubernetes gives a variable of that name to every container: for a service called `outrigger` or
/// `outrigger-db` there are `OUTRIGGER_PORT`, `OUTRIGGER_DB_SERVICE_HOST`, `OUTRIGGER_DB_PORT_5432_TCP_ADDR` and
/// more of the kind. No key looks like that.
fn is_service_link(name: &str) -> bool {
    let name = format!("_{name}");
    name.ends_with("_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
}

/// All settings, and the file that some of them were read from.
pub(super) fn read(
    flags: &Flags,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Settings, Option<PathBuf>), ConfigError> {
    let file = flags.config.clone().or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()));
    let mut figment = Figment::new();
    if let Some(path) = &file {
        // Read here and not by the provider, which takes a missing file for an empty one.
        std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("config: cannot read {}: {error}", path.display())))?;
        figment = figment.merge(Toml::file_exact(path));
    }
    for layer in variables(environment)? {
        figment = figment.merge(layer);
    }
    let flags = Value::serialize(flags).ok().and_then(Value::into_dict).unwrap_or_default();
    figment = figment.merge(Layer { name: "the command line".into(), dict: flags });
    // Lossy: a variable is text, and becomes the number or boolean that its key asks for.
    let settings = figment.extract_lossy().map_err(|error| sentence(error, file.as_deref()))?;
    Ok((settings, file))
}

/// One source of settings, under the name by which an error is to call it.
struct Layer {
    name: String,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// A layer for each variable that concerns us, so that an error can name the variable.
fn variables(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Vec<Layer>, ConfigError> {
    let mut shared = Vec::new();
    let mut own = Vec::new();
    for (name, value) in environment {
        let Ok(name) = name.into_string() else { continue };
        let (layers, key) = match (name.strip_prefix(PREFIX), SHARED_VARIABLES.iter().find(|(known, _)| *known == name))
        {
            (Some(rest), _) if !rest.starts_with(FOR_TESTS) && !is_service_link(rest) => {
                (&mut own, rest.to_ascii_lowercase().replace("__", "."))
            }
            // An empty filter is how RUST_LOG is switched off; that is no wish for a server without a log.
            (_, Some((_, key))) if *key != "log" || !value.is_empty() => (&mut shared, (*key).to_owned()),
            _ => continue,
        };
        let value = value.into_string().map_err(|_| ConfigError(format!("{key}: {name} is not UTF-8")))?;
        // A list can only be written as one; anything else stays text, and a secret of digits stays a secret.
        let value = if LISTS.contains(&key.as_str()) { parse_list(&value) } else { Value::from(value) };
        let dict = figment::util::nest(&key, value).into_dict().unwrap_or_default();
        layers.push(Layer { name, dict });
    }
    shared.append(&mut own);
    Ok(shared)
}

fn parse_list(text: &str) -> Value {
    text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
}

/// Says in one sentence which key is wrong, where, and why. Never repeats a value that could be a secret.
fn sentence(error: Error, file: Option<&Path>) -> ConfigError {
    let place = match &error.metadata {
        Some(Metadata { source: Some(Source::File(path)), .. }) => path.display().to_string(),
        Some(metadata) => metadata.name.to_string(),
        None => file.unwrap_or(Path::new(DEFAULT_FILE)).display().to_string(),
    };
    let key = error.path.join(".");
    ConfigError(match error.kind {
        Kind::UnknownField(_, known) => {
            format!("{key}: unknown key in {place}; the keys there are {}", known.join(", "))
        }
        Kind::MissingField(field) => format!("{key}.{field} is missing in {place}"),
        Kind::UnknownVariant(_, known) => format!("{key} in {place} must be one of {}", known.join(", ")),
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => {
            format!("{key} in {place} must be {}", plain(&expected))
        }
        // A file that is not TOML has no key to name, and its message is drawn over several lines.
        Kind::Message(message) if key.is_empty() => {
            let lines: Vec<&str> = message.lines().collect();
            let first = lines.first().copied().unwrap_or_default();
            let last = lines.last().filter(|_| lines.len() > 1).copied().unwrap_or_default();
            format!("config: {place} cannot be read: {first} {last}").trim_end().to_owned()
        }
        Kind::Message(message) => format!("{key} in {place}: {message}"),
        other => format!("{key} in {place}: {other}"),
    })
}

/// What a Rust type is called by people.
fn plain(expected: &str) -> &str {
    match expected {
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number",
        "a nonzero u32" | "a nonzero usize" => "a whole number, 1 or more",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}
