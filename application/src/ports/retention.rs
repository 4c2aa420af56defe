//! What becomes of streams in the long run.

use std::num::NonZeroU32;

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_domain::retention::Cutoffs;
use outrigger_domain::{Epoch, ServerSeq, UserId};

use super::store::StoreError;

/// What one step of a sweep has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneStep {
    /// Entries that are gone because later ones supersede them.
    pub superseded: u64,
    /// Deletions that are gone, each with what was known of its row.
    pub tombstones: u64,
    /// Where the sweep goes on; none if it has come to its end.
    pub next: Option<ServerSeq>,
    /// Whether something was kept that may go later, though nothing changes until then.
    pub left: bool,
    /// The end of the stream when the step began.
    pub head: ServerSeq,
}

/// From when on a stream cannot have been taken: a node's clock was wrong then, or is wrong now. Clocks may differ by as
/// much as two sweeps of a stream are apart.
pub fn cannot_be(before: Timestamp, at: Timestamp) -> Timestamp {
    at.checked_add(at.duration_since(before)).unwrap_or(Timestamp::MAX)
}

/// The storage as something that is cleared of what nobody needs any more.
///
/// Every call is a bounded piece of work, and holds up no upload for longer than that.
///
/// # What a caller may rely on
///
/// - Numbers of a stream are never used twice. A step that prunes deletions takes a number for itself, with no change
///   behind it, and says in [`Kept`](outrigger_domain::Kept) which it was.
/// - The key of a pruned entry, or of a change that was settled without one, is remembered until
///   [`forget_keys`](Self::forget_keys) takes it, and from then on the highest forgotten number of its source: see
///   [`Snapshot::forgotten`](outrigger_domain::Snapshot::forgotten).
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait RetentionStore: Send + Sync {
    /// Takes up to `limit` users behind `after`, in their order, whose streams were last taken before `before` and
    /// have changed since or have something left to go; they count as taken at `at`. Of two nodes that ask at once
    /// only one is given a user. A stream that was taken at a time which [cannot be](cannot_be) counts as not taken.
    #[cfg_attr(any(test, feature = "mock"), mockall::concretize)]
    async fn take_due(
        &self,
        after: Option<&UserId>,
        before: Timestamp,
        at: Timestamp,
        limit: u32,
    ) -> Result<Vec<UserId>, StoreError>;

    /// Sweeps up to [`STEP_ENTRIES_MAX`](outrigger_domain::retention::STEP_ENTRIES_MAX) entries of a stream behind
    /// `after`, as [`Sweep`](outrigger_domain::retention::Sweep) has it. The entries up to `after` must have
    /// been swept with the same cutoffs. Fails with [`StoreError::Contention`] if an upload came in between: the same
    /// step may be taken again.
    async fn prune(
        &self,
        user: &UserId,
        cutoffs: Cutoffs,
        after: ServerSeq,
        at: Timestamp,
    ) -> Result<PruneStep, StoreError>;

    /// Forgets up to `limit` keys whose entries were pruned, or whose changes were settled without one, before `before`
    /// and whose rows are forgotten or were never there. Gives how many were forgotten, and whether any keys are left.
    async fn forget_keys(&self, user: &UserId, before: Timestamp, limit: u32) -> Result<(u64, bool), StoreError>;

    /// Notes that a sweep has left nothing to do on a stream that ends at `head`.
    async fn mark_clean(&self, user: &UserId, head: ServerSeq) -> Result<(), StoreError>;

    /// Begins another epoch of every stream, after the database was restored from a backup. Every stream skips `skip`
    /// numbers: those that were handed out in the time that was lost are not handed out again. It skips one at least, so
    /// that no commit which was planned before, and goes by where its stream ended, comes into the new epoch.
    async fn restore_mark(&self, skip: NonZeroU32) -> Result<Epoch, StoreError>;
}
