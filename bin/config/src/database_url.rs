//! Where the data is.

use std::path::PathBuf;
use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

use super::settings::MASK;

/// Which store to use, and where it is.
#[derive(Clone, PartialEq)]
pub enum DatabaseUrl {
    /// In memory, gone with the server.
    Memory,
    /// In that file.
    Sqlite(PathBuf),
    /// In the database of that URL.
    Postgres(String),
}

impl FromStr for DatabaseUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if matches!(text, "memory:" | "memory://") {
            return Ok(Self::Memory);
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.into()));
        }
        match text.strip_prefix("sqlite://") {
            Some("" | ":memory:") => Err("a sqlite:// URL needs the path of a file; memory: keeps nothing on disk"),
            Some(path) if path.contains('?') => Err("a sqlite:// URL takes no parameters"),
            Some(path) => Ok(Self::Sqlite(path.into())),
            // The text is not repeated: it may hold a password.
            None => Err("it must begin with postgres:// or sqlite://, or be memory:"),
        }
    }
}

/// As it was written, but for the password.
impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Memory => to.serialize_str("memory:"),
            Self::Sqlite(path) => to.collect_str(&format_args!("sqlite://{}", path.display())),
            Self::Postgres(url) => to.serialize_str(&masked(url)),
        }
    }
}

/// A Postgres URL with its password masked, whether that stands before the host or among the parameters. Masks rather too
/// much than too little: a password may hold what ends it in a proper URL.
fn masked(url: &str) -> String {
    let login = url.rsplit_once('@').and_then(|(login, rest)| Some((login.split_once("://")?, rest)));
    let text = match login {
        Some(((scheme, login), rest)) => match login.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:{MASK}@{rest}"),
            None => url.to_owned(),
        },
        None => url.to_owned(),
    };
    let Some((place, parameters)) = text.split_once('?') else { return text };
    let parameters = parameters.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, _)) if name.to_ascii_lowercase().contains("password") => format!("{name}={MASK}"),
        _ => parameter.to_owned(),
    });
    format!("{place}?{}", parameters.collect::<Vec<_>>().join("&"))
}

/// Names the place without the user, the password and the parameters.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(path) => write!(f, "SQLite file {}", path.display()),
            Self::Postgres(url) => {
                let place = url.split_once("://").map_or("", |(_, rest)| rest);
                let place = place.split(['?', '#']).next().unwrap_or_default();
                write!(f, "Postgres at {}", place.rsplit('@').next().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_without_its_password() {
        for (url, place) in [
            ("memory:", "memory"),
            ("sqlite:///var/lib/a.db", "SQLite file /var/lib/a.db"),
            ("postgres://localhost/app", "Postgres at localhost/app"),
            ("postgres://u:p@ss@db:5432/app?password=x", "Postgres at db:5432/app"),
        ] {
            let database: DatabaseUrl = url.parse().map_err(|error| format!("{url}: {error}")).unwrap();
            assert_eq!(database.to_string(), place);
        }
    }

    #[test]
    fn a_password_is_masked_wherever_it_stands() {
        for (url, shown) in [
            ("postgres://localhost/app", "postgres://localhost/app"),
            ("postgres://u@db/app?sslmode=require", "postgres://u@db/app?sslmode=require"),
            ("postgres://u:p@ss:w@db:5432/app", "postgres://u:***@db:5432/app"),
            ("postgres://u:p?w@db/app", "postgres://u:***@db/app"),
            (
                "postgres:///app?host=/run&password=x&sslpassword=y",
                "postgres:///app?host=/run&password=***&sslpassword=***",
            ),
        ] {
            assert_eq!(masked(url), shown);
        }
    }

    #[test]
    fn other_databases_are_refused() {
        for url in
            ["", "mysql://x", "outrigger.db", "sqlite:x.db", "sqlite://", "sqlite://:memory:", "sqlite://x?mode=ro"]
        {
            assert!(url.parse::<DatabaseUrl>().is_err(), "{url}");
        }
    }
}
