//! What stands between the sidecar and the business tables: the catalog, failures and their retry.

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_domain::change::OpKind;
use outrigger_domain::{Payload, Reference, RowKey, RowVersion, TableName, UserId};

use super::store::StoreError;

/// A row that could not be projected. The sidecar has it, the business table does not.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Names the failure among those of its user.
    pub id: i64,
    /// Whose row it is.
    pub user: UserId,
    /// The row.
    pub row: RowKey,
    /// The version that was to be projected. There is one failure per row and version.
    pub attempted_version: RowVersion,
    /// What the change of that version did.
    pub op: OpKind,
    /// Its payload; none for a delete.
    pub payload: Option<Payload>,
    /// What went wrong the last time.
    pub error: String,
    /// When it went wrong the first time.
    pub first_seen: Timestamp,
    /// How often it was tried again, in vain.
    pub retry_count: i64,
}

/// Which failures are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureFilter {
    /// Those of rows of this schema.
    pub schema: Option<String>,
    /// Those of rows of tables of this name.
    pub table: Option<String>,
}

/// What came of trying one failure again.
#[derive(Clone, Debug, PartialEq)]
pub enum Retried {
    /// The row is as the sidecar has it; all failures of the row are gone.
    Materialized,
    /// It failed again; this is the failure as it stands now.
    Failed(Failure),
    /// The user has no such failure.
    Unknown,
    /// It is being tried again right now.
    InProgress,
}

/// Where a rebuild stands: the last row that it has done, in the order of user and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildCursor {
    /// The row's user.
    pub user: UserId,
    /// The row's key.
    pub pk: uuid::Uuid,
}

/// What one step of a rebuild has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RebuildStep {
    /// Rows that are now as the sidecar has them.
    pub projected: u64,
    /// Rows that could not be projected; their failures are recorded.
    pub failed: u64,
    /// Where to go on; none when the table is done.
    pub next: Option<RebuildCursor>,
}

/// The projection of a store.
///
/// The store projects by itself whatever it commits: the sidecar and the business tables change in one
/// transaction, and what cannot be projected is recorded in it. What is here is for the cases beyond that.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait ProjectionStore: Send + Sync {
    /// Reads the catalog of the business tables anew and projects by it from now on. Gives the foreign keys between
    /// registered tables that it declares.
    async fn refresh_catalog(&self) -> Result<Vec<(TableName, Reference)>, StoreError>;

    /// The user's failures that match, oldest first, at most `limit`, with a higher id than `after`.
    async fn failures(
        &self,
        user: &UserId,
        filter: &FailureFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Failure>, StoreError>;

    /// The failures of all users that match, in the order of user and id, at most `limit`, behind `after`.
    async fn all_failures(
        &self,
        filter: &FailureFilter,
        after: Option<(UserId, i64)>,
        limit: u32,
    ) -> Result<Vec<Failure>, StoreError>;

    /// Projects the row of a failure as the sidecar has it now.
    ///
    /// Serialised with the user's uploads. A failure that is tried elsewhere at the same time is left alone.
    async fn retry(&self, user: &UserId, id: i64) -> Result<Retried, StoreError>;

    /// Projects up to `limit` rows of one table, whoever they belong to, as the sidecar has them now.
    ///
    /// Each user's rows are projected in a transaction that is serialised with the user's uploads. Calling it from
    /// cursor to cursor makes every row of the table that was there at the beginning equal to the sidecar.
    async fn rebuild(
        &self,
        table: &TableName,
        after: Option<RebuildCursor>,
        limit: u32,
        at: Timestamp,
    ) -> Result<RebuildStep, StoreError>;
}
