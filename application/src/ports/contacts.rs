//! What is known of the devices.

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_domain::{ServerSeq, SourceChangeId, SourceId, UserId};

use super::store::StoreError;

/// A source that has been in touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Its user.
    pub user: UserId,
    /// The source.
    pub source: SourceId,
    /// When.
    pub at: Timestamp,
    /// The cursor that it named, if it named one.
    pub cursor: Option<ServerSeq>,
}

/// What the server knows of a source. All of it is empty for one that was never heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRecord {
    /// When it was first in touch. Written with some delay, as are the next two.
    pub first_contact: Option<Timestamp>,
    /// When it was last in touch.
    pub last_contact: Option<Timestamp>,
    /// The cursor that it last named.
    pub cursor: Option<ServerSeq>,
    /// The highest number of its applied changes, those included that were forgotten. Always exact.
    pub highest_source_change_id: SourceChangeId,
}

/// The memory of sources.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait ContactStore: Send + Sync {
    /// Notes contacts, each source once. A later contact is never overwritten by an earlier one.
    async fn note(&self, contacts: &[Contact]) -> Result<(), StoreError>;

    /// What is known of a source.
    async fn source(&self, user: &UserId, source: &SourceId) -> Result<SourceRecord, StoreError>;
}
