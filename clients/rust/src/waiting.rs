//! How much waits to be uploaded.

use rusqlite::Connection;

use crate::Error;
use crate::values::key_as_text;

/// How many rows wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Those of tables that the app does not sync any more too.
    pub(crate) all: usize,
    /// Those that will be sent.
    pub(crate) waiting: usize,
    /// Those that could be sent now.
    pub(crate) ready: usize,
}

/// How many rows wait.
pub(crate) fn waiting(connection: &Connection) -> Result<Waiting, Error> {
    let count = "SELECT count(*), count(*) FILTER (WHERE hold <> 2), count(*) FILTER (WHERE hold = 0) FROM ( \
                 SELECT hold FROM _outrigger_outbox UNION ALL \
                 SELECT 0 FROM (SELECT DISTINCT tbl, pk FROM _outrigger_inserted) i WHERE NOT EXISTS ( \
                 SELECT 1 FROM _outrigger_outbox o WHERE o.tbl = i.tbl AND o.pk = i.pk))";
    let mut statement = connection.prepare_cached(count)?;
    let (all, waiting, ready): (u32, u32, u32) =
        statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(Waiting { all: all as usize, waiting: waiting as usize, ready: ready as usize })
}

/// The rows that wait, by table and key.
pub(crate) fn unsent(connection: &Connection) -> Result<Vec<Unsent>, Error> {
    let all = "SELECT tbl, pk FROM _outrigger_outbox UNION SELECT tbl, pk FROM _outrigger_inserted ORDER BY 1, 2";
    let mut statement = connection.prepare(all)?;
    let rows = statement.query_map([], |row| Ok(Unsent { table: row.get(0)?, pk: key_as_text(&row.get(1)?) }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A row whose edit the server has not seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// The app's table.
    pub table: String,
    /// The row's key, as a UUID in text where it is one.
    pub pk: String,
}

/// Gives everything that was held another turn.
pub(crate) fn unhold(connection: &Connection) -> Result<(), Error> {
    connection.prepare_cached("UPDATE _outrigger_outbox SET hold = 0 WHERE hold = 1")?.execute([])?;
    Ok(())
}
