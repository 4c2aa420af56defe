//! Brings a database up to the tables that this binary knows.
//!
//! The ledger is a table of its own and not `PRAGMA user_version`: the file may be that of an app, whose own
//! migrations count there. It keeps the text of every migration, so that an edited one is noticed.

use rusqlite::{Connection, TransactionBehavior};

use crate::error::{Failure, OpenError};

/// A migration; its number is its place in [`MIGRATIONS`], counted from 1.
struct Migration {
    name: &'static str,
    sql: &'static str,
}

macro_rules! migration {
    ($name:literal) => {
        Migration { name: $name, sql: include_str!(concat!("../../../migrations/sqlite/", $name, ".sql")) }
    };
}

const MIGRATIONS: &[Migration] = &[
    migration!("0001_sidecar"),
    migration!("0002_materialize"),
    migration!("0003_long_lived"),
    migration!("0004_unlogged"),
];

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS sync_schema_migrations (
    number     INTEGER NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    sql        TEXT    NOT NULL,
    applied_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT";

/// Why [`migrate`] left the database as it was.
pub(crate) enum Refused {
    /// For good, until someone does something about it.
    Open(OpenError),
    /// By SQLite, perhaps only because another process has the file.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Applies what is missing, in one transaction that takes the write lock before it looks: of two processes that
/// start at once the second finds everything done.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), Refused> {
    apply(connection, MIGRATIONS)
}

fn apply(connection: &mut Connection, known: &[Migration]) -> Result<(), Refused> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(LEDGER)?;
    let applied = check(&tx, known)?;
    for (number, migration) in (1_i64..).zip(known).skip(applied) {
        tx.execute_batch(migration.sql)?;
        let row = (number, migration.name, migration.sql);
        tx.execute("INSERT INTO sync_schema_migrations (number, name, sql) VALUES (?1, ?2, ?3)", row)?;
        tracing::info!(migration = migration.name, "migrated the database");
    }
    Ok(tx.commit()?)
}

/// How many migrations this binary knows.
pub(crate) fn known() -> usize {
    MIGRATIONS.len()
}

/// How many migrations the database has, and how many this binary knows. Changes nothing.
pub(crate) fn state(connection: &Connection) -> Result<(usize, usize), Refused> {
    let exists = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sync_schema_migrations')";
    let exists: bool = connection.query_row(exists, [], |row| row.get(0))?;
    Ok((if exists { check(connection, MIGRATIONS)? } else { 0 }, MIGRATIONS.len()))
}

/// Whether the database has the migrations of this binary as they are known here. That a later release has added some does
/// not count: while that is rolled out, both work on the same tables.
pub(crate) fn still_there(connection: &Connection) -> Result<(), Failure> {
    let mut statement = connection.prepare_cached("SELECT number, sql FROM sync_schema_migrations ORDER BY number")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let applied: Vec<(i64, String)> = rows.collect::<Result<_, _>>()?;
    let is_known = |(number, migration): &(i64, &Migration)| {
        applied.iter().any(|(applied, sql)| applied == number && sql.lines().eq(migration.sql.lines()))
    };
    match (1_i64..).zip(MIGRATIONS).find(|migration| !is_known(migration)) {
        Some((number, _)) => Err(Failure::corrupt(format!("migration {number} is not there as it is known here"))),
        None => Ok(()),
    }
}

/// How many of the known migrations the database has. They are the first ones, or it is refused.
fn check(tx: &Connection, known: &[Migration]) -> Result<usize, Refused> {
    let mut statement = tx.prepare("SELECT number, sql FROM sync_schema_migrations ORDER BY number")?;
    let applied: Vec<(i64, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let known_to = known.len() as i64;
    if let Some(&(found, _)) = applied.last().filter(|(number, _)| *number > known_to) {
        return Err(Refused::Open(OpenError::Newer { found, known: known_to }));
    }
    for (expected, ((number, sql), migration)) in (1_i64..).zip(applied.iter().zip(known)) {
        // By lines, since a checkout may have turned the line ends.
        if *number != expected || !sql.lines().eq(migration.sql.lines()) {
            return Err(Refused::Open(OpenError::Foreign { number: *number }));
        }
    }
    Ok(applied.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migration = Migration { name: "0001_one", sql: "CREATE TABLE one (n INTEGER);\n" };
    const TWO: Migration = Migration { name: "0002_two", sql: "CREATE TABLE two (n INTEGER);\n" };

    fn tables(connection: &Connection) -> Vec<String> {
        let mut statement = connection.prepare("SELECT name FROM sqlite_schema ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// The names of the migrations for a database, in order.
    fn folder(database: &str) -> Vec<String> {
        let path = format!("{}/../../migrations/{database}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = files.filter_map(|file| Some(file.strip_suffix(".sql")?.to_owned())).collect();
        names.sort();
        names
    }

    #[test]
    fn every_file_of_the_folder_is_known_by_its_number() {
        let known: Vec<&str> = MIGRATIONS.iter().map(|migration| migration.name).collect();
        assert_eq!(known, folder("sqlite"));
        for (number, name) in (1..).zip(known) {
            assert!(name.starts_with(&format!("{number:04}_")), "{name} is migration {number}");
        }
    }

    #[test]
    fn both_databases_have_the_same_migrations() {
        assert_eq!(folder("sqlite"), folder("postgres"));
    }

    #[test]
    fn only_what_is_missing_is_applied() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(apply(&mut connection, &[ONE]).is_ok());
        assert!(apply(&mut connection, &[ONE, TWO]).is_ok());
        assert!(apply(&mut connection, &[ONE, TWO]).is_ok());
        assert_eq!(tables(&connection), ["one", "sync_schema_migrations", "two"]);
    }

    #[test]
    fn a_table_that_is_made_anew_keeps_its_rows() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(apply(&mut connection, &MIGRATIONS[..3]).is_ok());
        let fill = "INSERT INTO user_stream (user_id, last_server_id, last_failure_id, epoch, kept_floor, kept_moved_at, \
                    swept_at, clean_at) VALUES ('alice', 9, 2, 'e', 3, 4, 's', 8), ('bob', 1, 0, NULL, 0, 0, NULL, NULL)";
        connection.execute_batch(fill).unwrap();
        let rows = |connection: &Connection| {
            let all = "SELECT group_concat(user_id || last_server_id || last_failure_id || coalesce(epoch, '-') || kept_floor \
                       || kept_moved_at || coalesce(swept_at, '-') || coalesce(clean_at, '-')) FROM user_stream";
            connection.query_row(all, [], |row| row.get::<_, String>(0)).unwrap()
        };
        let before = rows(&connection);
        assert!(apply(&mut connection, MIGRATIONS).is_ok());
        assert_eq!((rows(&connection), before.as_str()), (before.clone(), "alice92e34s8,bob10-00--"));
    }

    #[test]
    fn a_migration_that_fails_takes_the_others_back() {
        let mut connection = Connection::open_in_memory().unwrap();
        let broken = Migration { name: "0002_broken", sql: "CREATE TABLE two (n INTEGER); CREATE nonsense;" };
        assert!(matches!(apply(&mut connection, &[ONE, broken]), Err(Refused::Sqlite(_))));
        assert!(tables(&connection).is_empty());
    }

    #[test]
    fn a_newer_database_is_refused_and_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(apply(&mut connection, &[ONE, TWO]).is_ok());
        let Err(Refused::Open(error)) = apply(&mut connection, &[ONE]) else { panic!("it was not refused") };
        assert_eq!(error.to_string(), "the database is at migration 2, this binary knows up to 1: upgrade the binary");
    }

    #[test]
    fn an_edited_migration_is_refused_but_not_for_its_line_ends() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(apply(&mut connection, &[ONE]).is_ok());
        let same = Migration { name: ONE.name, sql: "CREATE TABLE one (n INTEGER);\r\n" };
        assert!(apply(&mut connection, &[same]).is_ok());
        let edited = Migration { name: ONE.name, sql: "CREATE TABLE one (n TEXT);\n" };
        let refused = apply(&mut connection, &[edited]);
        assert!(matches!(refused, Err(Refused::Open(OpenError::Foreign { number: 1 }))));
    }
}
