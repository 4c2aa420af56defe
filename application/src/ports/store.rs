//! Where streams are kept.

use async_trait::async_trait;
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{Kept, Payload, Plan, RowVersion, Snapshot, StreamHead, TableName, UserId, Wanted};
use uuid::Uuid;

/// The cause of a store's error, for the log and never for a device.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a store did not do what it was asked, named by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The stream has moved since the plan was made; nothing was written. Load and plan again.
    #[error("the stream has moved")]
    Contention,
    /// The storage cannot be reached or is overloaded; the same call may succeed later. A commit that ends
    /// like this may have been written: the idempotency keys tell.
    #[error("storage is unavailable: {0}")]
    Unavailable(#[source] Cause),
    /// The storage holds something that this server cannot have written. Retrying does not help.
    #[error("storage is corrupt: {what}")]
    Corrupt {
        /// What is wrong, and where.
        what: String,
    },
    /// The storage refused a call that should have worked: a defect of the adapter or of its set-up.
    #[error("storage failed: {0}")]
    Backend(#[source] Cause),
}

/// Which rows of one table are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsQuery {
    /// The table.
    pub table: TableName,
    /// Only rows with a higher key.
    pub after: Option<Uuid>,
    /// Rows, at the most.
    pub limit: u32,
}

/// A row that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveRow {
    /// Its key.
    pub pk: Uuid,
    /// Its version.
    pub version: RowVersion,
    /// Its payload.
    pub payload: Payload,
}

/// Rows of one table, and the stream that made them, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The end of the stream.
    pub head: StreamHead,
    /// The first rows that were asked for, in the order of their keys.
    pub rows: Vec<LiveRow>,
    /// Whether there are more than are given here.
    pub more: bool,
}

/// The streams, rows and idempotency keys of all users.
///
/// # What a caller may rely on
///
/// - **One user, one stream.** Every call is about one user and neither reads nor writes anything of another.
///   Calls for different users never wait for each other's locks.
/// - **Compare and swap.** [`commit`](Self::commit) writes a plan only if the user's stream still ends where
///   the plan's snapshot saw it. With [`load`](Self::load) seeing one moment, this alone serialises a user's uploads:
///   there is no lock and no transaction between two calls, and nothing to leak when a caller goes away.
/// - **Order of commit.** A page read after a commit was answered holds that commit's changes, and no change ever
///   appears at or below a `server_id` that any reader has already been told of.
/// - **Durability.** What `commit` has answered survives the death of the process, and of the machine
///   unless the store is documented not to.
/// - **Cancellation.** A future dropped at any point leaves the store as after an answer that was lost: a
///   commit is there as a whole or not at all, and no connection stays inside a transaction.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait SyncStore: Send + Sync {
    /// What the rules need to decide uploads of `user`, all of it as of one moment.
    ///
    /// A row or key that is not in the answer is unknown to the store. A user never heard of has an empty stream.
    async fn load(&self, user: &UserId, wanted: &Wanted) -> Result<Snapshot, StoreError>;

    /// What [`load`](Self::load) is likely to answer, without asking the storage: a look that is saved. None if there is
    /// no reason to assume that.
    ///
    /// A plan made on it is [marked](Plan::is_assumed), and to be committed only if it applies all changes.
    fn assume(&self, _user: &UserId, _wanted: &Wanted) -> Option<Snapshot> {
        None
    }

    /// Writes the whole plan, or nothing.
    ///
    /// Needs a plan that is not [empty](Plan::is_empty), made of a snapshot of the same `user`.
    /// Fails with [`StoreError::Contention`], leaving no trace, if the stream no longer ends at the plan's head. So it is
    /// with a plan that has no entries, too: it leaves the end where it is, and of two such plans made on one
    /// end both are written, the second over the first. A stream that was clean is to be swept again after it.
    /// A plan on what was [assumed](Self::assume) is contention too if that is not so.
    async fn commit(&self, user: &UserId, plan: Plan) -> Result<(), StoreError>;

    /// The first changes of the user's stream that match the query, and the stream's end as of the same moment.
    ///
    /// Ascending, at most `query.limit` changes, and fewer only if no more match or their payloads come to
    /// [`PAGE_BYTES_MAX`](outrigger_domain::limits::PAGE_BYTES_MAX); at least one if any matches.
    async fn page(&self, user: &UserId, query: &PageQuery) -> Result<Slice, StoreError>;

    /// Where the user's stream ends, and from where on it is kept, as of one moment.
    async fn head(&self, user: &UserId) -> Result<(StreamHead, Kept), StoreError>;

    /// The user's rows of one table that exist, in the order of their keys; bounded as [`page`](Self::page) is.
    async fn rows(&self, user: &UserId, query: &RowsQuery) -> Result<Rows, StoreError>;

    /// The tables of which the user has rows that exist.
    async fn tables(&self, user: &UserId) -> Result<Vec<TableName>, StoreError>;

    /// Whether the storage answers to reads and writes, and holds the tables that this server knows.
    ///
    /// Writes nothing. Tables that a later release has added are none of this server's business.
    async fn ping(&self) -> Result<(), StoreError>;
}
