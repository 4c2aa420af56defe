//! What is known of an upload while it is being decided.

use std::collections::HashMap;

use crate::change::{OpKind, Upload};
use crate::ids::{SourceChangeId, SourceId};
use crate::stream::{RowKey, Unlogged};

/// One way through an upload. It is taken again, with more orphans known, until no hope is disappointed.
#[derive(Default)]
pub(super) struct Attempt<'a> {
    /// What `Planner::last_entry` held before each entry.
    pub(super) undo: Vec<(RowKey, Option<usize>)>,
    /// The position of the last change that would make each row. Empty if no change refers to a row.
    pub(super) last_write: HashMap<&'a RowKey, usize>,
    /// Changes that were decided in the hope that these parents come to exist.
    pub(super) hopes: Vec<(usize, Vec<RowKey>)>,
    /// Changes whose hope was disappointed, with the parents that do not exist.
    pub(super) orphans: HashMap<usize, Vec<RowKey>>,
    /// What was settled without an entry, to be remembered if this is the way that is taken.
    pub(super) unlogged: HashMap<(SourceId, SourceChangeId), Unlogged>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(upload: &'a Upload) -> Self {
        let changes = || {
            let numbered = upload.submissions.iter().enumerate();
            numbered.filter_map(|(position, submission)| Some((position, submission.change.as_deref().ok()?)))
        };
        if changes().all(|(_, change)| change.parents.is_empty()) {
            return Self::default();
        }
        let writes = changes().filter(|(_, change)| change.op.kind() != OpKind::Delete);
        Self { last_write: writes.map(|(position, change)| (&change.row, position)).collect(), ..Self::default() }
    }
}
