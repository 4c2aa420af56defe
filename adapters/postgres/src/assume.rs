//! What may be assumed of a user's stream without a look.
//!
//! Most users upload through one node for a while, and most uploads are new and apply. Then all that a look would tell is
//! known: the stream ends where this node's last commit left it. Such an upload is one statement, which looks and
//! writes at once (see [`commit::assumed`](crate::commit)); if it finds otherwise it writes nothing, and has cost a round
//! trip. So nothing is assumed of a user whose uploads turn out otherwise, until looks have shown a few times that it
//! would be right again.

use outrigger_application::StoreError;
use outrigger_domain::{Plan, ServerSeq, Snapshot, StreamHead, UserId, Wanted};
use quick_cache::sync::Cache;

/// Users that are kept in mind, at the most.
const USERS_MAX: usize = 4_096;
/// Looks that have to have shown that it would be right, at the most.
const DOUBT_MAX: u32 = 64;

/// What is known of the streams that this node has lately written to. Of none of it depends what is written.
#[derive(Debug)]
pub(crate) struct Assumptions {
    users: Cache<UserId, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// Where the stream ended.
    head: StreamHead,
    /// Looks that have to show that it would be right before it is assumed again.
    doubt: u32,
    /// The doubt that the last wrong one left behind; grows with each, and falls with each that is right.
    lesson: u32,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self { users: Cache::new(USERS_MAX) }
    }
}

impl Assumptions {
    /// What to assume, if anything.
    pub(crate) fn make(&self, user: &UserId, wanted: &Wanted) -> Option<Snapshot> {
        // Where a stream has no row yet, there is none for the commit to put its conditions on.
        let known = self.users.get(user).filter(|known| known.doubt == 0 && known.head.seq > ServerSeq(0))?;
        Snapshot::assumed(known.head, wanted)
    }

    /// A look has shown this.
    pub(crate) fn loaded(&self, user: &UserId, wanted: &Wanted, loaded: &Snapshot) {
        let Some(mut known) = self.users.get(user) else { return };
        if loaded.was_to_be_assumed(known.head, wanted) {
            known.doubt = known.doubt.saturating_sub(1);
        }
        known.head = loaded.head;
        self.users.insert(user.clone(), known);
    }

    /// A plan was written, or not.
    pub(crate) fn committed(&self, user: &UserId, plan: &Plan, answer: &Result<(), StoreError>) {
        let known = self.users.get(user);
        let head = StreamHead { seq: plan.next_head(), ..plan.head };
        let known = match (answer, known) {
            (Ok(()), Some(known)) if plan.is_assumed => Known { head, doubt: 0, lesson: known.lesson / 2 },
            (Ok(()), Some(known)) => Known { head, ..known },
            (Ok(()), None) => Known { head, doubt: 0, lesson: 0 },
            (Err(StoreError::Contention), Some(known)) if plan.is_assumed => {
                let lesson = (known.lesson * 2).clamp(1, DOUBT_MAX);
                Known { doubt: lesson, lesson, ..known }
            }
            (Err(_), _) => return,
        };
        self.users.insert(user.clone(), known);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use jiff::Timestamp;
    use outrigger_domain::Epoch;

    use super::*;

    struct Node {
        assumptions: Assumptions,
        alice: UserId,
        end: i64,
    }

    impl Node {
        fn head(&self) -> StreamHead {
            StreamHead { seq: ServerSeq(self.end), epoch: Epoch::default() }
        }

        fn assumed(&self) -> Option<StreamHead> {
            self.assumptions.make(&self.alice, &Wanted::default()).map(|assumed| assumed.head)
        }

        /// A look, which finds that the stream ends at `end`.
        fn look(&self) {
            let loaded = Snapshot { head: self.head(), rows: HashMap::new(), ..Snapshot::default() };
            self.assumptions.loaded(&self.alice, &Wanted::default(), &loaded);
        }

        fn commit(&self, is_assumed: bool, answer: Result<(), StoreError>) {
            let (log, rows, unlogged) = Default::default();
            let plan = Plan { head: self.head(), at: Timestamp::UNIX_EPOCH, log, rows, unlogged, is_assumed };
            self.assumptions.committed(&self.alice, &plan, &answer);
        }
    }

    fn node() -> Node {
        Node { assumptions: Assumptions::default(), alice: UserId::parse("alice").unwrap(), end: 7 }
    }

    #[test]
    fn what_this_node_has_written_is_assumed() {
        let mut node = node();
        node.look();
        assert_eq!(node.assumed(), None);
        for end in [7, 8] {
            node.end = end;
            node.commit(end == 8, Ok(()));
            assert_eq!(node.assumed(), Some(node.head()));
        }
        let bob = UserId::parse("bob").unwrap();
        assert_eq!(node.assumptions.make(&bob, &Wanted::default()), None);
    }

    #[test]
    fn a_wrong_one_is_doubted_longer_each_time_and_after_right_ones_less() {
        let node = node();
        node.commit(false, Ok(()));
        let is_wrong_for = |looks: u32| {
            node.commit(true, Err(StoreError::Contention));
            for _ in 0..looks {
                assert_eq!(node.assumed(), None, "of {looks}");
                node.look();
            }
            assert_eq!(node.assumed(), Some(node.head()), "after {looks}");
        };
        [1, 2, 4, 8, 16, 32, 64, 64].into_iter().for_each(is_wrong_for);
        (0..3).for_each(|_| node.commit(true, Ok(())));
        is_wrong_for(16);
    }

    #[test]
    fn a_look_that_finds_another_end_does_not_count_but_brings_the_end() {
        let mut node = node();
        node.commit(false, Ok(()));
        node.commit(true, Err(StoreError::Contention));
        node.end = 9;
        node.look();
        assert_eq!(node.assumed(), None);
        node.look();
        assert_eq!(node.assumed(), Some(node.head()));
    }

    #[test]
    fn nothing_is_assumed_of_a_stream_that_has_not_begun() {
        let node = Node { end: 0, ..node() };
        node.commit(false, Ok(()));
        assert_eq!(node.assumed(), None);
    }

    #[test]
    fn other_failures_teach_nothing() {
        let node = node();
        node.commit(false, Ok(()));
        node.commit(true, Err(StoreError::Unavailable("down".into())));
        node.commit(false, Err(StoreError::Contention));
        assert_eq!(node.assumed(), Some(node.head()));
    }
}
