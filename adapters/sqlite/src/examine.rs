//! What an operator is told of a file before it is trusted with data.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::error::OpenError;
use crate::migrate::{self, Refused};

/// What was found. Looking changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// The release of SQLite in this binary.
    pub version: &'static str,
    /// Migrations that the file has.
    pub migrations: usize,
    /// Migrations that this binary knows.
    pub migrations_known: usize,
    /// What SQLite finds wrong with the file itself; nothing, if it is sound.
    pub damage: Vec<String>,
}

/// Migrations that this binary knows.
pub fn migrations_known() -> usize {
    migrate::known()
}

/// Looks at the file without changing anything, and reads all of it. Fails where opening a store would.
pub fn examine(path: &Path) -> Result<Examined, OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.into(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    let (migrations, migrations_known) = migrate::state(&connection).map_err(|refused| match refused {
        Refused::Open(error) => error,
        Refused::Sqlite(source) => sqlite(source),
    })?;
    let damage = damage(&connection).map_err(sqlite)?;
    Ok(Examined { version: rusqlite::version(), migrations, migrations_known, damage })
}

fn damage(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("PRAGMA quick_check(10)")?;
    let found: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(if found == ["ok"] { Vec::new() } else { found })
}
