//! Which part of a stream one download may hand out.

use crate::ids::{Epoch, ServerSeq, SourceId};
use crate::stream::{Kept, StreamChange, StreamHead};

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
    /// The life of the stream that the cursor is of, if the device says so.
    pub epoch: Option<Epoch>,
}

/// Why a device cannot go on from its cursor. It starts again from the rows as they are, and keeps what it has not
/// uploaded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reset {
    /// The numbers that the device knows are of another life of the stream.
    #[error("the stream has begun anew since: its epoch is {epoch}")]
    EpochChanged {
        /// The life of the stream now.
        epoch: Epoch,
    },
    /// The stream does not reach as far as the device's cursor: it was restored from a backup.
    #[error("the cursor is beyond the end of the stream, which is {head}")]
    CursorAhead {
        /// The end of the stream.
        head: ServerSeq,
    },
    /// Deletions behind the device's cursor are not kept any more.
    #[error("the history after the cursor is not kept any more: it begins at {floor}")]
    HistoryPruned {
        /// The lowest cursor that a device can go on from.
        floor: ServerSeq,
    },
}

impl Reset {
    /// Refuses an epoch that is named and not the stream's.
    pub fn check_epoch(head: StreamHead, named: Option<Epoch>) -> Result<(), Self> {
        match named {
            Some(epoch) if epoch != head.epoch => Err(Self::EpochChanged { epoch: head.epoch }),
            _ => Ok(()),
        }
    }

    /// Refuses a cursor from which the stream can not be followed.
    ///
    /// A device without a cursor has nothing that could be deleted, so it may page through what is kept. On its later
    /// pages it is told from one that was away for long by its window: that was opened after the last pruning. One that
    /// names an epoch has been in touch before, and may have rows of its own though it has downloaded nothing yet.
    pub fn check(head: StreamHead, kept: Kept, query: &PageQuery) -> Result<(), Self> {
        Self::check_epoch(head, query.epoch)?;
        if query.after > head.seq {
            return Err(Self::CursorAhead { head: head.seq });
        }
        let is_new = (query.after == ServerSeq(0) && query.epoch.is_none())
            || query.until.is_some_and(|until| until >= kept.moved_at);
        if query.after < kept.floor && !is_new {
            return Err(Self::HistoryPruned { floor: kept.floor });
        }
        Ok(())
    }
}

/// What a store answers: the stream's end, and the first changes that match, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slice {
    /// The end of the stream.
    pub head: StreamHead,
    /// From where on it is kept.
    pub kept: Kept,
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
    /// The life of the stream.
    pub epoch: Epoch,
}

/// Makes a page of a slice.
///
/// An exhausted window moves the cursor to its end, so that what was filtered out is never read again;
/// the cursor never goes back.
pub fn page(query: &PageQuery, slice: Slice) -> Result<Page, Reset> {
    Reset::check(slice.head, slice.kept, query)?;
    let epoch = slice.head.epoch;
    let head = slice.head.seq;
    let window_until = query.until.map_or(head, |until| until.min(head));
    let Slice { changes, more: has_more, .. } = slice;
    let next_after = match changes.last() {
        Some(last) if has_more => last.server_id,
        _ => query.after.max(window_until),
    };
    Ok(Page { changes, has_more, next_after, window_until, epoch })
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
        let head = StreamHead { seq: ServerSeq(head), ..StreamHead::default() };
        Slice { head, kept: Kept::default(), more: inside().count() > changes.len(), changes }
    }

    fn query(after: i64, until: Option<i64>) -> PageQuery {
        let until = until.map(ServerSeq);
        PageQuery { after: ServerSeq(after), until, limit: 100, schema: None, exclude: None, epoch: None }
    }

    #[test]
    fn a_cursor_is_refused_beyond_the_end_and_behind_what_was_pruned() {
        let head = StreamHead { seq: ServerSeq(20), epoch: Epoch(Uuid::from_u128(7)) };
        let kept = Kept { floor: ServerSeq(10), moved_at: ServerSeq(15) };
        let pruned = Err(Reset::HistoryPruned { floor: ServerSeq(10) });
        let ahead = Err(Reset::CursorAhead { head: ServerSeq(20) });
        for (after, until, expected) in [
            (20, None, Ok(())),
            (21, None, ahead),
            (21, Some(5), ahead),
            (10, None, Ok(())),
            (9, None, pruned),
            (0, None, Ok(())),
            // Opened before the pruning, and after it.
            (9, Some(14), pruned),
            (9, Some(15), Ok(())),
        ] {
            assert_eq!(Reset::check(head, kept, &query(after, until)), expected, "{after} {until:?}");
        }
    }

    #[test]
    fn a_device_at_the_beginning_that_was_here_before_is_refused_too() {
        let head = StreamHead { seq: ServerSeq(20), epoch: Epoch(Uuid::from_u128(7)) };
        let named = PageQuery { epoch: Some(head.epoch), ..query(0, None) };
        let kept = Kept { floor: ServerSeq(10), moved_at: ServerSeq(15) };
        assert_eq!(Reset::check(head, kept, &named), Err(Reset::HistoryPruned { floor: ServerSeq(10) }));
        assert_eq!(Reset::check(head, Kept::default(), &named), Ok(()));
    }

    #[test]
    fn another_epoch_is_refused_before_all_else() {
        let head = StreamHead { seq: ServerSeq(20), epoch: Epoch(Uuid::from_u128(7)) };
        let changed = Err(Reset::EpochChanged { epoch: head.epoch });
        for (epoch, expected) in [(6, changed), (7, Err(Reset::CursorAhead { head: head.seq }))] {
            let query = PageQuery { epoch: Some(Epoch(Uuid::from_u128(epoch))), ..query(30, None) };
            assert_eq!(Reset::check(head, Kept::default(), &query), expected);
        }
    }

    proptest! {
        #[test]
        fn a_device_that_follows_the_cursor_reads_each_match_of_the_window_once(
            head in 0..30_i64,
            odd_only in any::<bool>(),
            share in 0..=100_i64,
            until in proptest::option::of(1..35_i64),
            limit in 1..8_u32,
        ) {
            let matching: Vec<i64> = (1..=head).filter(|seq| !odd_only || seq % 2 == 1).collect();
            let after = head * share / 100;
            let end = until.unwrap_or(i64::MAX).min(head);
            let mut query =
                PageQuery { after: ServerSeq(after), until: until.map(ServerSeq), limit, schema: None, exclude: None, epoch: None };
            let mut seen = Vec::new();
            loop {
                let page = page(&query, slice(&query, head, &matching)).unwrap();
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
