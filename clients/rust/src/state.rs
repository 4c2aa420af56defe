//! Where this device stands.

use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Connection, OptionalExtension, params};

use crate::Error;
use crate::remote::Identity;

/// The last `server_id` that was applied.
pub(crate) const CURSOR: &str = "cursor";
/// The life of the stream that the cursor is of.
pub(crate) const EPOCH: &str = "epoch";
/// The number of the next change.
const NEXT_ID: &str = "next_id";
/// The end of the window that is being downloaded.
pub(crate) const UNTIL: &str = "until";
/// The number of the start that is under way, from the rows as they are or from the beginning of the stream.
pub(crate) const STARTING: &str = "starting";
/// How many starts there were: no two have the same number.
const STARTS: &str = "starts";
/// The page of the snapshot to go on with, and the cursor behind it.
pub(crate) const PAGE: &str = "page";
pub(crate) const AS_OF: &str = "as_of";

/// Whose rows these are, and under which source they were uploaded last.
pub(crate) const USER: &str = "user";
pub(crate) const SOURCE: &str = "source";
/// The layout of this library's tables.
pub(crate) const FORMAT: &str = "format";

/// Whose rows these are.
pub(crate) fn identity(connection: &Connection) -> Result<Option<Identity>, Error> {
    Ok(get(connection, USER)?.zip(get(connection, SOURCE)?).map(|(user, source)| Identity { user, source }))
}

/// Notes whose rows these are.
pub(crate) fn identify(connection: &Connection, Identity { user, source }: &Identity) -> Result<(), Error> {
    set(connection, USER, user)?;
    set(connection, SOURCE, source)
}

/// The rows are to be fetched as they are, once more.
pub(crate) fn start_over(connection: &Connection) -> Result<(), Error> {
    clear(connection, &[CURSOR, EPOCH, UNTIL, PAGE, AS_OF, STARTING])
}

/// The number of the start that is to be made, if one is: of the one that is under way, or a new one.
pub(crate) fn join_start(connection: &Connection) -> Result<Option<i64>, Error> {
    if stands(connection)? {
        return Ok(None);
    }
    match get(connection, STARTING)? {
        Some(number) => Ok(Some(number)),
        None => number_start(connection).map(Some),
    }
}

/// Gives the start a number that none has had: other clients of the file that are at it may not go on from where they
/// are.
pub(crate) fn number_start(connection: &Connection) -> Result<i64, Error> {
    let number = starts(connection)? + 1;
    set(connection, STARTS, number)?;
    set(connection, STARTING, number)?;
    Ok(number)
}

/// A device that started before they were counted has had one.
fn starts(connection: &Connection) -> Result<i64, Error> {
    Ok(get(connection, STARTS)?.unwrap_or(1))
}

/// How many starts there were, if the device has started: what is asked of the server then may only be settled if nobody
/// has started over meanwhile.
pub(crate) fn started(connection: &Connection) -> Result<i64, Error> {
    if stands(connection)? { starts(connection) } else { Err(outrun()) }
}

/// Whether the device has started and knows where it stands.
pub(crate) fn stands(connection: &Connection) -> Result<bool, Error> {
    let cursor: Option<i64> = get(connection, CURSOR)?;
    Ok(cursor.is_some() && get::<i64>(connection, STARTING)?.is_none())
}

/// Fails if another client of the file has come further with the start: what this one has fetched may be outrun.
pub(crate) fn check_start(connection: &Connection, number: i64) -> Result<(), Error> {
    if get(connection, STARTING)? == Some(number) {
        return Ok(());
    }
    Err(outrun())
}

/// Fails unless the device has started, and not once more since there were so many starts.
pub(crate) fn check_started(connection: &Connection, starts: i64) -> Result<(), Error> {
    if started(connection)? == starts { Ok(()) } else { Err(outrun()) }
}

fn outrun() -> Error {
    Error::Busy("another client fetches the rows into it".into())
}

pub(crate) fn get<T: FromSql>(connection: &Connection, key: &str) -> Result<Option<T>, Error> {
    let mut statement = connection.prepare_cached("SELECT value FROM _outrigger_state WHERE key = ?1")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?)
}

pub(crate) fn set(connection: &Connection, key: &str, value: impl ToSql) -> Result<(), Error> {
    let set = "INSERT INTO _outrigger_state (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(set)?.execute(params![key, value])?;
    Ok(())
}

pub(crate) fn clear(connection: &Connection, keys: &[&str]) -> Result<(), Error> {
    for key in keys {
        connection.prepare_cached("DELETE FROM _outrigger_state WHERE key = ?1")?.execute([key])?;
    }
    Ok(())
}

/// A number that no change of this source has had.
pub(crate) fn next_id(connection: &Connection) -> Result<i64, Error> {
    let id: i64 = get(connection, NEXT_ID)?.unwrap_or(1);
    set(connection, NEXT_ID, id.checked_add(1).ok_or_else(none_left)?)?;
    Ok(id)
}

/// Whether it is known which numbers are free.
pub(crate) fn is_numbered(connection: &Connection) -> Result<bool, Error> {
    Ok(get::<i64>(connection, NEXT_ID)?.is_some())
}

/// Numbers from above this one on.
pub(crate) fn number_above(connection: &Connection, highest: i64) -> Result<(), Error> {
    let next = get::<i64>(connection, NEXT_ID)?.unwrap_or(1).max(highest.checked_add(1).ok_or_else(none_left)?);
    set(connection, NEXT_ID, next)
}

fn none_left() -> Error {
    Error::Protocol("there is no higher number for a change".into())
}
