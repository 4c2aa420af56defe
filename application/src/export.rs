//! All that is kept of a user, part by part.

use std::sync::Arc;

use outrigger_domain::limits::PAGE_CHANGES_MAX;
use outrigger_domain::stream::StreamChange;
use outrigger_domain::window::PageQuery;
use outrigger_domain::{ServerSeq, SourceId, StreamHead, UserId};

use crate::error::SyncError;
use crate::ports::projection::{Failure, FailureFilter, ProjectionStore};
use crate::ports::store::SyncStore;
use crate::ports::users::{DeviceRecord, UserStore};
use crate::snapshot::{Cursor, SnapshotRow, Snapshots};

/// Devices and failures in one part. A failure may hold a payload of a megabyte.
const FEW: u32 = 20;

/// What there is in one part of an export.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// The user, at the beginning.
    User(StreamHead),
    /// Rows as they are.
    Rows(Vec<SnapshotRow>),
    /// What the log still has, in order.
    Changes(Vec<StreamChange>),
    /// The devices.
    Devices(Vec<DeviceRecord>),
    /// Rows that the business tables could not take.
    Failures(Vec<Failure>),
    /// The end, with how many of each there were. Without it the export was cut.
    End {
        /// Rows.
        rows: u64,
        /// Changes of the log.
        changes: u64,
        /// Devices.
        devices: u64,
        /// Failures.
        failures: u64,
    },
}

/// Exports users. Cheap to clone.
#[derive(Clone)]
pub struct Exports {
    store: Arc<dyn SyncStore>,
    snapshots: Snapshots,
    projection: Arc<dyn ProjectionStore>,
    users: Arc<dyn UserStore>,
}

impl Exports {
    /// Exports what this store holds.
    pub fn new(
        store: Arc<dyn SyncStore>,
        snapshots: Snapshots,
        projection: Arc<dyn ProjectionStore>,
        users: Arc<dyn UserStore>,
    ) -> Self {
        Self { store, snapshots, projection, users }
    }

    /// Begins an export. None if nothing is kept of a user of that id.
    pub async fn begin(&self, user: &UserId) -> Result<Option<Export>, SyncError> {
        if self.users.user(user).await?.is_none() {
            return Ok(None);
        }
        let counts = [0; 4];
        Ok(Some(Export { from: self.clone(), user: user.clone(), next: Next::User, head: ServerSeq(0), counts }))
    }
}

/// Where an export stands.
enum Next {
    User,
    Rows(Option<Cursor>),
    Changes(ServerSeq),
    Devices(Option<(UserId, SourceId)>),
    Failures(i64),
    End,
    Nothing,
}

/// One export under way. Bounded in memory: a part is a page.
///
/// As with a snapshot, rows may be newer than the beginning of the export, and of what is written while it runs some is
/// in it and some not. What the log has is exported up to where it ended at the beginning.
pub struct Export {
    from: Exports,
    user: UserId,
    next: Next,
    head: ServerSeq,
    /// Rows, changes, devices and failures so far.
    counts: [u64; 4],
}

impl Export {
    /// The user.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The next part; none behind the last one.
    pub async fn next(&mut self) -> Result<Option<Part>, SyncError> {
        let part = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::User => {
                let (head, _) = self.from.store.head(&self.user).await?;
                self.head = head.seq;
                self.next = Next::Rows(None);
                Part::User(head)
            }
            Next::Rows(cursor) => self.rows(cursor).await?,
            Next::Changes(after) => self.changes(after).await?,
            Next::Devices(after) => self.devices(after).await?,
            Next::Failures(after) => self.failures(after).await?,
            Next::End => {
                let [rows, changes, devices, failures] = self.counts;
                Part::End { rows, changes, devices, failures }
            }
            Next::Nothing => return Ok(None),
        };
        Ok(Some(part))
    }

    async fn rows(&mut self, cursor: Option<Cursor>) -> Result<Part, SyncError> {
        let page = self.from.snapshots.page(&self.user, cursor, PAGE_CHANGES_MAX, None).await?;
        self.counts[0] += page.rows.len() as u64;
        self.next = page.next.map_or(Next::Changes(ServerSeq(0)), |cursor| Next::Rows(Some(cursor)));
        Ok(Part::Rows(page.rows))
    }

    async fn changes(&mut self, after: ServerSeq) -> Result<Part, SyncError> {
        let (limit, until) = (PAGE_CHANGES_MAX, Some(self.head));
        let query = PageQuery { after, until, limit, schema: None, exclude: None, epoch: None };
        // The port and not the use case: what was pruned from the beginning is no reason to refuse an export.
        let slice = self.from.store.page(&self.user, &query).await?;
        self.counts[1] += slice.changes.len() as u64;
        self.next = match slice.changes.last() {
            Some(last) if slice.more => Next::Changes(last.server_id),
            _ => Next::Devices(None),
        };
        Ok(Part::Changes(slice.changes))
    }

    async fn devices(&mut self, after: Option<(UserId, SourceId)>) -> Result<Part, SyncError> {
        let devices = self.from.users.devices(Some(&self.user), after.as_ref(), FEW).await?;
        self.counts[2] += devices.len() as u64;
        self.next = match devices.last() {
            Some(last) if devices.len() == FEW as usize => {
                Next::Devices(Some((last.user.clone(), last.source.clone())))
            }
            _ => Next::Failures(0),
        };
        Ok(Part::Devices(devices))
    }

    async fn failures(&mut self, after: i64) -> Result<Part, SyncError> {
        let filter = FailureFilter::default();
        let failures = self.from.projection.failures(&self.user, &filter, after, FEW).await?;
        self.counts[3] += failures.len() as u64;
        self.next = match failures.last() {
            Some(last) if failures.len() == FEW as usize => Next::Failures(last.id),
            _ => Next::End,
        };
        Ok(Part::Failures(failures))
    }
}
