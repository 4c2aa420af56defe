//! What the server answers to one change. A refusal is a value, not an error.

use std::fmt;

use uuid::Uuid;

use crate::catalog::TableName;
use crate::change::Payload;
use crate::ids::RowVersion;
use crate::stream::RowKey;

/// The answer to one change.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The change is in force, now or since an earlier upload of it.
    Applied {
        /// The row's version right after the change; none where there never was a row to delete.
        version: Option<RowVersion>,
    },
    /// The change names a version that is not the row's, or was not when it first came; this is the row as the server has
    /// it now.
    Conflict(ServerRow),
    /// The change can never be applied as it was sent.
    Invalid(Refusal),
}

impl Decision {
    /// Whether the device may take the change as done.
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Applied { .. })
    }
}

/// A row as the server has it, handed to a device whose change conflicts.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerRow {
    /// The row's table.
    pub table: TableName,
    /// The row's key.
    pub pk: Uuid,
    /// 0 if the server never saw the row.
    pub version: RowVersion,
    /// None for a tombstone and for a row the server never saw.
    pub payload: Option<Payload>,
}

/// Why a change was not accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The machine-readable reason.
    pub reason: Reason,
    /// A sentence for a human.
    pub message: String,
    /// The rows that [`Reason::FkMissing`] is about, each once; empty for every other reason.
    pub missing: Vec<RowKey>,
}

impl Refusal {
    /// A refusal with that reason and message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), missing: Vec::new() }
    }
}

/// The machine-readable reasons of [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The change is malformed.
    BadPayload,
    /// Its table does not take part in syncing.
    UnregisteredTable,
    /// A row that it refers to does not exist for its user.
    FkMissing,
    /// Its source used the same `source_change_id` for a different change before.
    SourceChangeIdReused,
    /// The upload has more changes than the server takes at once.
    BatchTooLarge,
    /// The upload was atomic and another of its changes was not applied.
    BatchAborted,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::BadPayload,
        Self::UnregisteredTable,
        Self::FkMissing,
        Self::SourceChangeIdReused,
        Self::BatchTooLarge,
        Self::BatchAborted,
    ];

    /// The reason as it goes over the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadPayload => "bad_payload",
            Self::UnregisteredTable => "unregistered_table",
            Self::FkMissing => "fk_missing",
            Self::SourceChangeIdReused => "source_change_id_reused",
            Self::BatchTooLarge => "batch_too_large",
            Self::BatchAborted => "batch_aborted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_reasons_are_listed_once() {
        // A new reason has to be given its place here, and with it in `ALL`.
        let place = |reason| match reason {
            Reason::BadPayload => 0,
            Reason::UnregisteredTable => 1,
            Reason::FkMissing => 2,
            Reason::SourceChangeIdReused => 3,
            Reason::BatchTooLarge => 4,
            Reason::BatchAborted => 5,
        };
        assert_eq!(Reason::ALL.map(place), [0, 1, 2, 3, 4, 5]);
    }
}
