//! Which part of a stream one download may hand out.

use crate::ids::{ServerSeq, SourceId};
use crate::stream::{StreamChange, StreamHead};

/// What a device asks of its user's stream.
#[derive(Clone, Debug, PartialEq)]
pub struct PageQuery {
    /// The device's cursor: only changes after it are handed out.
    pub after: ServerSeq,
    /// Freezes the window: no change beyond it is handed out.
    pub until: Option<ServerSeq>,
    /// Changes in the page, at the most.
    pub limit: u32,
    /// Only changes of tables in this schema.
    pub schema: Option<String>,
    /// Leaves out the changes that this source made itself.
    pub exclude: Option<SourceId>,
}

/// What a store answers: the stream's end, and the first changes that match, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slice {
    /// The end of the stream.
    pub head: StreamHead,
    /// Matching changes in ascending order: `limit` + 1 of them if there are so many, so that the caller
    /// knows whether more follow.
    pub changes: Vec<StreamChange>,
}

/// One page of a download.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The changes, in ascending order of `server_id`.
    pub changes: Vec<StreamChange>,
    /// Whether matching changes remain in the window.
    pub has_more: bool,
    /// The cursor to go on from.
    pub next_after: ServerSeq,
    /// Where the window ends.
    pub window_until: ServerSeq,
}

/// Makes a page of a slice.
///
/// An exhausted window moves the cursor to its end, so that what was filtered out is never read again;
/// the cursor never goes back.
pub fn page(query: &PageQuery, slice: Slice) -> Page {
    let head = slice.head.seq;
    let window_until = query.until.map_or(head, |until| until.min(head));
    let limit = query.limit as usize;
    let mut changes = slice.changes;
    changes.retain(|change| change.server_id <= window_until);
    let has_more = changes.len() > limit;
    changes.truncate(limit);
    let next_after = match changes.last() {
        Some(last) if has_more => last.server_id,
        _ => query.after.max(window_until),
    };
    Page { changes, has_more, next_after, window_until }
}
