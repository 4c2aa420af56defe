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
    /// The first matching changes in ascending order.
    pub changes: Vec<StreamChange>,
    /// Whether more match than are given here.
    pub more: bool,
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
    let Slice { changes, more: has_more, .. } = slice;
    let next_after = match changes.last() {
        Some(last) if has_more => last.server_id,
        _ => query.after.max(window_until),
    };
    Page { changes, has_more, next_after, window_until }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::change::OpKind;
    use crate::{RowKey, RowVersion, SourceChangeId, TableName};

    fn change(seq: i64) -> StreamChange {
        StreamChange {
            server_id: ServerSeq(seq),
            row: RowKey { table: TableName::parse(None, "t").unwrap(), pk: Uuid::nil() },
            op: OpKind::Delete,
            payload: None,
            version: RowVersion(1),
            source: SourceId::parse("phone").unwrap(),
            source_change_id: SourceChangeId(seq),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    /// What a store answers for a stream of which only some numbers match the filters.
    fn slice(query: &PageQuery, head: i64, matching: &[i64]) -> Slice {
        let until = query.until.map_or(i64::MAX, |until| until.0);
        let inside = || matching.iter().filter(|&&seq| query.after.0 < seq && seq <= until.min(head));
        let changes: Vec<_> = inside().take(query.limit as usize).map(|&seq| change(seq)).collect();
        Slice { head: StreamHead { seq: ServerSeq(head) }, more: inside().count() > changes.len(), changes }
    }

    proptest! {
        #[test]
        fn a_device_that_follows_the_cursor_reads_each_match_of_the_window_once(
            head in 0..30_i64,
            odd_only in any::<bool>(),
            after in 0..35_i64,
            until in proptest::option::of(1..35_i64),
            limit in 1..8_u32,
        ) {
            let matching: Vec<i64> = (1..=head).filter(|seq| !odd_only || seq % 2 == 1).collect();
            let end = until.unwrap_or(i64::MAX).min(head);
            let mut query =
                PageQuery { after: ServerSeq(after), until: until.map(ServerSeq), limit, schema: None, exclude: None };
            let mut seen = Vec::new();
            loop {
                let page = page(&query, slice(&query, head, &matching));
                prop_assert!(page.changes.len() <= limit as usize);
                prop_assert_eq!(page.window_until.0, end);
                prop_assert!(page.next_after >= query.after);
                prop_assert!(!page.has_more || page.next_after > query.after);
                seen.extend(page.changes.iter().map(|change| change.server_id.0));
                query.after = page.next_after;
                if !page.has_more {
                    break;
                }
            }
            let expected: Vec<i64> = matching.into_iter().filter(|&seq| after < seq && seq <= end).collect();
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(query.after.0, after.max(end));
        }
    }
}
