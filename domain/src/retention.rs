//! What of a stream may go, and when.
//!
//! A sweep walks a stream from its beginning and sorts every entry. It works on a prefix: an entry of a given age is
//! looked at only if all before it are as old, so that a row's deletion goes after all that came before it, whatever
//! the clocks of the nodes said. What a device needs is never touched: the last entry of each row stays, and so a
//! device that reads what is left ends up with the same rows.

use jiff::Timestamp;

use crate::change::OpKind;
use crate::ids::{RowVersion, ServerSeq};

/// Entries that one step of a sweep looks at, at the most.
pub const STEP_ENTRIES_MAX: u32 = 500;
/// Bytes of payloads that one step of a sweep reads, but for the payload that goes over it.
pub const STEP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Before when an entry must have been made to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// An entry that a later change of its row supersedes.
    pub superseded: Timestamp,
    /// A deletion, with all that is known of its row.
    pub tombstones: Timestamp,
}

impl Cutoffs {
    /// A deletion goes no earlier than what it supersedes: without it, its row would come back.
    pub fn new(superseded: Timestamp, tombstones: Timestamp) -> Self {
        Self { superseded, tombstones: tombstones.min(superseded) }
    }
}

/// An entry of a stream, and how its row stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aged {
    /// Its place in the stream.
    pub server_id: ServerSeq,
    /// When it was made.
    pub at: Timestamp,
    /// What it did.
    pub op: OpKind,
    /// The version that it gave its row.
    pub version: RowVersion,
    /// The version of the row now.
    pub row_version: RowVersion,
    /// Whether the business row of the row is still there, though the row was deleted.
    pub is_projected: bool,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Kept,
    /// It goes: a later change of its row stays.
    Superseded,
    /// It goes, and its row is forgotten.
    Tombstone,
}

/// One walk through a stream.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    cutoffs: Cutoffs,
    tombstones_are_young: bool,
    /// Whether anything was kept that may go later without any change being made.
    pub left: bool,
}

impl Sweep {
    /// Begins a walk, or goes on with one, from an entry before which all are older than the cutoffs.
    pub fn new(cutoffs: Cutoffs) -> Self {
        Self { cutoffs, tombstones_are_young: false, left: false }
    }

    /// What becomes of the next entry; none if the walk ends here, since the entry is too young.
    pub fn fate(&mut self, entry: &Aged) -> Option<Fate> {
        if entry.at >= self.cutoffs.superseded {
            self.left = true;
            return None;
        }
        self.tombstones_are_young |= entry.at >= self.cutoffs.tombstones;
        if entry.version < entry.row_version {
            return Some(Fate::Superseded);
        }
        if entry.op != OpKind::Delete {
            return Some(Fate::Kept);
        }
        if self.tombstones_are_young || entry.is_projected {
            self.left = true;
            return Some(Fate::Kept);
        }
        Some(Fate::Tombstone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).unwrap()
    }

    /// Entries by (day, op, version, row's version, projected) and what becomes of them on cutoffs of day 20 and 10.
    fn fates(entries: &[(i64, OpKind, i64, i64, bool)]) -> (Vec<Option<Fate>>, bool) {
        let mut sweep = Sweep::new(Cutoffs::new(at(20), at(10)));
        let aged = |&(day, op, version, row_version, is_projected): &(i64, OpKind, i64, i64, bool)| Aged {
            server_id: ServerSeq(1),
            at: at(day),
            op,
            version: RowVersion(version),
            row_version: RowVersion(row_version),
            is_projected,
        };
        let fates = entries.iter().map(|entry| sweep.fate(&aged(entry))).collect();
        (fates, sweep.left)
    }

    use Fate::{Kept, Superseded, Tombstone};
    use OpKind::{Delete, Insert, Update};

    #[test]
    fn the_last_entry_of_a_row_stays_and_the_others_go() {
        let (fates, left) = fates(&[(1, Insert, 1, 2, false), (2, Update, 2, 2, false)]);
        assert_eq!((fates, left), (vec![Some(Superseded), Some(Kept)], false));
    }

    #[test]
    fn a_deletion_goes_when_it_is_old_and_its_business_row_is_gone() {
        let (fates, left) = fates(&[(1, Delete, 2, 2, false), (2, Delete, 2, 2, true), (3, Delete, 2, 3, true)]);
        assert_eq!((fates, left), (vec![Some(Tombstone), Some(Kept), Some(Superseded)], true));
    }

    #[test]
    fn behind_an_entry_that_is_too_young_for_it_no_deletion_goes() {
        let (fates, left) = fates(&[(11, Insert, 1, 1, false), (1, Delete, 2, 2, false)]);
        assert_eq!((fates, left), (vec![Some(Kept), Some(Kept)], true));
    }

    #[test]
    fn the_walk_ends_at_the_first_young_entry() {
        assert_eq!(fates(&[(20, Insert, 1, 2, false)]), (vec![None], true));
    }

    #[test]
    fn a_deletion_goes_no_earlier_than_what_it_supersedes() {
        assert_eq!(Cutoffs::new(at(3), at(9)).tombstones, at(3));
    }
}
