//! Business tables, written beside the sidecar.

use async_trait::async_trait;
use outrigger_domain::{Payload, RowVersion, TableName, UserId};
use uuid::Uuid;

/// What one upload does to one table in the end: rows to write or rows to delete, never both.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Whose rows they are.
    pub user: &'a UserId,
    /// Their table.
    pub table: &'a TableName,
    /// The rows, each once. All have a payload, or none has.
    pub rows: &'a [NetRow<'a>],
}

/// One row as it is to be in the business table.
#[derive(Clone, Copy, Debug)]
pub struct NetRow<'a> {
    /// The row's key.
    pub pk: Uuid,
    /// Its version in the sidecar.
    pub version: RowVersion,
    /// Its payload; none if the row is to be deleted.
    pub payload: Option<&'a Payload>,
    /// Whether an earlier projection for this user put the business row there. If not, only an insert is allowed:
    /// what is there belongs to another user, or to the app's own backend.
    pub ours: bool,
}

/// Why rows were not projected. The text is recorded and shown to the user's devices and to operators: it
/// may name columns and types, and must not hold values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MaterializeError(pub String);

/// Projects the rows of a table onto wherever the app wants them, inside the transaction that writes the sidecar.
///
/// `Tx` is the adapter's open transaction. The store calls once per table and batch: parents before children to
/// write, children before parents to delete. A call that fails is undone to where it began, by a savepoint,
/// and its rows are tried again one by one; what still fails is recorded and the upload goes on. So an
/// implementation may fail for any reason, must do nothing that outlives a rollback, and must leave alone
/// every row that is not [`ours`](NetRow::ours).
#[async_trait]
pub trait Materializer<Tx: Send>: Send + Sync {
    /// Writes or deletes all rows of the batch, or fails.
    async fn apply(&self, tx: &mut Tx, batch: Batch<'_>) -> Result<(), MaterializeError>;
}
