//! The rows of a user as they are: where a new device starts, instead of replaying the history.

mod cursor;

use std::sync::Arc;

use outrigger_domain::limits::PAGE_BYTES_MAX;
use outrigger_domain::{Epoch, Payload, Reset, RowKey, RowVersion, ServerSeq, TableName, UserId};
use uuid::Uuid;

pub use cursor::Cursor;

use crate::error::SyncError;
use crate::ports::store::{LiveRow, Rows, RowsQuery, StoreError, SyncStore};
use crate::tables::{SharedCatalog, parents_first};

/// A row as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotRow {
    /// The row.
    pub row: RowKey,
    /// Its version.
    pub version: RowVersion,
    /// Its payload.
    pub payload: Payload,
}

/// Some of a user's rows.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotPage {
    /// The rows, those of one table together.
    pub rows: Vec<SnapshotRow>,
    /// The end of the stream when the snapshot began: where the device goes on once it has all pages. Every row that
    /// existed then and still does is in one of them.
    pub as_of: ServerSeq,
    /// The life of the stream.
    pub epoch: Epoch,
    /// Where the next page begins; none if this is the last one.
    pub next: Option<Cursor>,
}

/// The use case behind `GET /sync/snapshot`.
///
/// Pages follow the tables, parents first, and in a table the keys of its rows. Nothing is held between two pages, so
/// that the rows may be newer than the beginning of the snapshot. A device that applies a row or a change only if
/// its version is higher than the one it has ends up right whatever came first.
#[derive(Clone)]
pub struct Snapshots {
    store: Arc<dyn SyncStore>,
    catalog: SharedCatalog,
}

impl Snapshots {
    /// Snapshots of what this store holds of these tables.
    pub fn new(store: Arc<dyn SyncStore>, catalog: SharedCatalog) -> Self {
        Self { store, catalog }
    }

    /// One page: the first, or the one that begins at the cursor.
    pub async fn page(
        &self,
        user: &UserId,
        from: Option<Cursor>,
        limit: u32,
        epoch: Option<Epoch>,
    ) -> Result<SnapshotPage, SyncError> {
        let (head, _) = self.store.head(user).await?;
        Reset::check_epoch(head, epoch)?;
        Reset::check_epoch(head, from.as_ref().map(|cursor| cursor.epoch))?;
        let as_of = from.as_ref().map_or(head.seq, |cursor| cursor.as_of);
        if as_of > head.seq {
            return Err(Reset::CursorAhead { head: head.seq }.into());
        }
        let mut page = SnapshotPage { rows: Vec::new(), as_of, epoch: head.epoch, next: None };
        let mut room = Room { rows: limit, bytes: PAGE_BYTES_MAX };
        let mut walk = Walk::new(self, user, from).await?;
        while let Some(table) = walk.table(self, user).await? {
            if room.is_used_up() {
                page.next = Some(Cursor { as_of, epoch: head.epoch, order: walk.order, table, after: walk.after });
                break;
            }
            let query = RowsQuery { table: table.clone(), after: walk.after, limit: room.rows };
            let found = self.store.rows(user, &query).await?;
            room.take(&found.rows);
            walk.pass(&found);
            let row = |found: LiveRow| SnapshotRow {
                row: RowKey { table: table.clone(), pk: found.pk },
                version: found.version,
                payload: found.payload,
            };
            page.rows.extend(found.rows.into_iter().map(row));
        }
        Ok(page)
    }
}

/// A way through the tables: those of the catalog, parents first, and behind them those that take part in syncing no
/// more, whose rows are still the user's.
struct Walk {
    tables: Vec<TableName>,
    /// How many of them are the catalog's. The others are only looked for behind these.
    registered: usize,
    has_others: bool,
    /// Tells one order of the catalog's tables from another.
    order: u64,
    position: usize,
    /// The key of the last row of the table at the position.
    after: Option<Uuid>,
}

impl Walk {
    /// Begins at the cursor. If the order of the tables has changed since the page before, all pages come again: some
    /// rows twice, but none never.
    async fn new(snapshots: &Snapshots, user: &UserId, from: Option<Cursor>) -> Result<Self, StoreError> {
        let tables = parents_first(&snapshots.catalog.current());
        let (order, registered) = (cursor::fingerprint(&tables), tables.len());
        let mut walk = Self { tables, registered, has_others: false, order, position: 0, after: None };
        let Some(cursor) = from.filter(|cursor| cursor.order == order) else { return Ok(walk) };
        match walk.tables.iter().position(|table| *table == cursor.table) {
            Some(position) => walk.position = position,
            None => {
                walk.find_others(snapshots, user).await?;
                let others = &walk.tables[registered..];
                walk.position = registered + others.partition_point(|table| *table < cursor.table);
            }
        }
        if walk.tables.get(walk.position) == Some(&cursor.table) {
            walk.after = cursor.after;
        }
        Ok(walk)
    }

    /// The table at the position; none behind the last one.
    async fn table(&mut self, snapshots: &Snapshots, user: &UserId) -> Result<Option<TableName>, StoreError> {
        if self.position == self.tables.len() && !self.has_others {
            self.find_others(snapshots, user).await?;
        }
        Ok(self.tables.get(self.position).cloned())
    }

    async fn find_others(&mut self, snapshots: &Snapshots, user: &UserId) -> Result<(), StoreError> {
        let mut others = snapshots.store.tables(user).await?;
        others.retain(|table| !self.tables[..self.registered].contains(table));
        others.sort();
        self.tables.extend(others);
        self.has_others = true;
        Ok(())
    }

    fn pass(&mut self, found: &Rows) {
        if found.more {
            self.after = found.rows.last().map(|row| row.pk);
        } else {
            self.position += 1;
            self.after = None;
        }
    }
}

/// What still fits into a page.
struct Room {
    rows: u32,
    bytes: usize,
}

impl Room {
    fn take(&mut self, rows: &[LiveRow]) {
        self.rows -= rows.len() as u32;
        self.bytes = self.bytes.saturating_sub(rows.iter().map(|row| row.payload.as_str().len()).sum());
    }

    fn is_used_up(&self) -> bool {
        self.rows == 0 || self.bytes == 0
    }
}
