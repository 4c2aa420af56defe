//! What an operator sees of users and their devices, and what is done to a user as a whole.

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_domain::{Epoch, ServerSeq, SourceChangeId, SourceId, UserId};

use super::store::StoreError;

/// A user of whom anything is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// The user.
    pub user: UserId,
    /// Where the stream ends.
    pub head: ServerSeq,
    /// Devices that have been in touch.
    pub devices: u64,
    /// When the last of them was.
    pub last_contact: Option<Timestamp>,
    /// Rows that could not be projected.
    pub failures: u64,
}

/// A device that has been in touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its user.
    pub user: UserId,
    /// The source that it is.
    pub source: SourceId,
    /// When it was first in touch.
    pub first_contact: Timestamp,
    /// When it was last in touch.
    pub last_contact: Timestamp,
    /// The cursor that it last named.
    pub cursor: Option<ServerSeq>,
    /// Where the stream of its user ends.
    pub head: ServerSeq,
    /// The highest number of its applied changes.
    pub highest_source_change_id: SourceChangeId,
}

impl DeviceRecord {
    /// Numbers of the stream that it has not been through yet; its own changes and pruned ones count.
    pub fn lag(&self) -> i64 {
        (self.head.0 - self.cursor.unwrap_or_default().0).max(0)
    }
}

/// The users, as something that is listed, and of which one is removed.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait UserStore: Send + Sync {
    /// A user; none if nothing is kept of one of that id: no entries in a log, no rows, no devices that were in touch.
    async fn user(&self, user: &UserId) -> Result<Option<UserRecord>, StoreError>;

    /// Up to `limit` users of whom something is kept behind `after`, in the order of their ids' bytes.
    #[cfg_attr(any(test, feature = "mock"), mockall::concretize)]
    async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserRecord>, StoreError>;

    /// Up to `limit` devices behind `after`, in the order of user and source, of one user or of all.
    #[cfg_attr(any(test, feature = "mock"), mockall::concretize)]
    async fn devices(
        &self,
        user: Option<&UserId>,
        after: Option<&(UserId, SourceId)>,
        limit: u32,
    ) -> Result<Vec<DeviceRecord>, StoreError>;

    /// Begins another epoch of this stream alone: devices that name the one before start again. A user never heard of
    /// gets none.
    async fn begin_anew(&self, user: &UserId) -> Result<Option<Epoch>, StoreError>;

    /// Forgets when the user's devices were in touch and with which cursors, and keeps of each the highest number that
    /// was forgotten: a replay of a change that is gone stays one.
    async fn forget_devices(&self, user: &UserId) -> Result<(), StoreError>;
}
