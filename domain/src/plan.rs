//! The decision table of the protocol: what becomes of each change of an upload.
//!
//! A [`Planner`] is made of what a store has loaded, decides one upload after another, each change seeing the
//! effect of those before it, and ends as a [`Plan`]: all that is to be written. It cannot fail; whether
//! the plan still holds when it is written is for the store to check, against [`Plan::head`].

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use attempt::Attempt;

use crate::change::{Change, OpKind, Payload, Submission, Upload};
use crate::decision::{Decision, Reason, Refusal, ServerRow};
use crate::ids::{RowVersion, ServerSeq, SourceChangeId, SourceId};
use crate::limits::UploadLimits;
use crate::stream::{LogEntry, RowKey, RowState, Settled, Snapshot, StreamHead, Unlogged};
use crate::window::Reset;

mod attempt;
mod wanted;

/// What is to be written, all of it or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The end of the stream that the plan was made on. It must still be the end when the plan is written.
    pub head: StreamHead,
    /// When the changes count as applied.
    pub at: Timestamp,
    /// The new entries of the log, numbered from `head` on without a gap.
    pub log: Vec<LogEntry>,
    /// What the entries add up to, each row once, in the order of `entry`.
    pub rows: Vec<RowEffect>,
    /// What is to be remembered of changes that leave no entry, by their keys, each once. What is remembered under such a
    /// key is replaced.
    pub unlogged: Vec<((SourceId, SourceChangeId), Unlogged)>,
    /// Whether the plan was made on what was [assumed](Snapshot::assumed). Then it may be written only if that is so:
    /// beside the end of the stream and its epoch, the key of each entry must be new and above all that were forgotten,
    /// and its row must be live at the version before, or never have been there if that is 0.
    pub is_assumed: bool,
}

impl Plan {
    /// Whether there is nothing to be written.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty() && self.unlogged.is_empty()
    }

    /// The end of the stream once the plan is written.
    pub fn next_head(&self) -> ServerSeq {
        self.log.last().map_or(self.head.seq, |entry| entry.server_id)
    }
}

/// What a plan does to one row in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowEffect {
    /// The position in [`Plan::log`] of the row's last entry: its version and payload are the row's.
    pub entry: usize,
    /// Whether the store knows the row already, be it as a tombstone.
    pub known: bool,
}

/// The answer to one upload.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// False if a table was not registered, the upload was too large, or it was atomic and aborted.
    pub accepted: bool,
    /// The end of the stream after this upload.
    pub head: StreamHead,
    /// One decision per change, in the order of the upload.
    pub decisions: Vec<Decision>,
}

/// Decides uploads of one user. See the [module](self).
#[derive(Debug)]
pub struct Planner {
    snapshot: Snapshot,
    limits: UploadLimits,
    log: Vec<LogEntry>,
    /// The position in `log` of the last entry of each row that an entry is about.
    last_entry: HashMap<RowKey, usize>,
    /// The position in `log` of each new idempotency key.
    new_keys: HashMap<(SourceId, SourceChangeId), usize>,
    /// See [`Planner::lacks_payloads`].
    lacks_payloads: bool,
    /// What was settled without an entry and is not in the store yet.
    unlogged: HashMap<(SourceId, SourceChangeId), Unlogged>,
}

impl Planner {
    /// Starts from what a store loaded for [`Wanted::of`](crate::Wanted::of) the uploads to be decided.
    pub fn new(snapshot: Snapshot, limits: UploadLimits) -> Self {
        let (last_entry, new_keys, unlogged) = Default::default();
        Self { snapshot, limits, log: Vec::new(), last_entry, new_keys, lacks_payloads: false, unlogged }
    }

    /// Decides one upload on top of those decided before. One that names another life of the stream is refused.
    pub fn decide(&mut self, upload: &Upload) -> Result<Verdict, Reset> {
        Reset::check_epoch(self.snapshot.head, upload.epoch)?;
        if upload.submissions.len() > self.limits.changes_max {
            return Ok(self.refuse_whole(upload));
        }
        let start = self.log.len();
        let mut attempt = Attempt::new(upload);
        let mut decisions = self.decide_all(upload, &mut attempt);
        while self.find_orphans(&mut attempt) {
            self.undo(start, &mut attempt);
            decisions = self.decide_all(upload, &mut attempt);
        }
        let is_unregistered = |submission: &Submission| {
            submission.change.as_ref().is_err_and(|refusal| refusal.reason == Reason::UnregisteredTable)
        };
        let mut accepted = !upload.submissions.iter().any(is_unregistered);
        if upload.atomic && !decisions.iter().all(Decision::is_applied) {
            self.undo(start, &mut attempt);
            self.abort(upload, &mut decisions);
            accepted = false;
            // Its conflicts were answered like any others; its deletions were not.
            attempt.unlogged.retain(|_, unlogged| unlogged.settled == Settled::Conflict);
        }
        self.unlogged.extend(attempt.unlogged);
        Ok(Verdict { accepted, head: self.stream_head(), decisions })
    }

    /// Whether a conflict shows a row whose payload was left out. It may be with a change that names the version of its
    /// row and is a conflict for what is remembered of its key. Then nobody must be told of it: what was decided is to be
    /// decided anew, on what [`Wanted::want_payloads`](crate::Wanted::want_payloads) asks for.
    pub fn lacks_payloads(&self) -> bool {
        self.lacks_payloads
    }

    /// All that the decided uploads write.
    pub fn finish(self, at: Timestamp) -> Plan {
        let mut rows: Vec<RowEffect> = self
            .last_entry
            .iter()
            .map(|(key, &entry)| RowEffect { entry, known: self.snapshot.rows.contains_key(key) })
            .collect();
        rows.sort_unstable_by_key(|effect| effect.entry);
        // What was applied in the end, at another version, is answered from the log.
        let is_news = |(key, unlogged): &(_, Unlogged)| {
            !self.new_keys.contains_key(key) && self.snapshot.unlogged.get(key) != Some(unlogged)
        };
        let mut unlogged: Vec<_> = self.unlogged.into_iter().filter(is_news).collect();
        unlogged.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let Snapshot { head, is_assumed, .. } = self.snapshot;
        Plan { head, at, log: self.log, rows, unlogged, is_assumed }
    }

    fn head(&self) -> ServerSeq {
        self.log.last().map_or(self.snapshot.head.seq, |entry| entry.server_id)
    }

    fn stream_head(&self) -> StreamHead {
        StreamHead { seq: self.head(), ..self.snapshot.head }
    }

    fn refuse_whole(&self, upload: &Upload) -> Verdict {
        // How many there are is not said: a transport need not keep all of them to know that they are too many.
        let message = format!("too many changes in one upload, {} at most", self.limits.changes_max);
        let refusal = Refusal::new(Reason::BatchTooLarge, message);
        let decisions = vec![Decision::Invalid(refusal); upload.submissions.len()];
        Verdict { accepted: false, head: self.stream_head(), decisions }
    }

    fn decide_all(&mut self, upload: &Upload, attempt: &mut Attempt<'_>) -> Vec<Decision> {
        attempt.unlogged.clear();
        let decide = |(position, submission): (usize, &Submission)| match &submission.change {
            Ok(change) => self.decide_change(position, &upload.source, change, attempt),
            Err(refusal) => Decision::Invalid(refusal.clone()),
        };
        upload.submissions.iter().enumerate().map(decide).collect()
    }

    fn decide_change(
        &mut self,
        position: usize,
        source: &SourceId,
        change: &Arc<Change>,
        attempt: &mut Attempt<'_>,
    ) -> Decision {
        if let Some(decision) = self.decide_known_key(source, change) {
            return decision;
        }
        if self.is_forgotten(source, change.source_change_id) {
            return self.settle(change, Settled::Conflict);
        }
        if let Some(settled) = self.settled(source, change, Some(attempt)) {
            return self.settle(change, settled);
        }
        if let Some(missing) = self.missing_parents(position, change, attempt) {
            return fk_missing(missing);
        }
        let (version, exists) = self.row(&change.row);
        let settled = match (change.op.kind(), version, exists) {
            (OpKind::Delete, RowVersion(0), _) => Settled::NeverThere,
            (OpKind::Delete, version, false) if change.base == version => Settled::DeletedBefore,
            (_, version, _) if change.base == version => return self.apply(source, change, &mut attempt.undo),
            _ => Settled::Conflict,
        };
        // A deletion at 0 fits no row that will ever be there.
        if change.base > RowVersion(0) || settled == Settled::Conflict {
            let key = (source.clone(), change.source_change_id);
            attempt.unlogged.insert(key, Unlogged::of(change, settled));
        }
        self.settle(change, settled)
    }

    /// Rule 5: the parents of a change that do not exist, if that is certain by now.
    ///
    /// A parent counts if it exists at this point of the request, or at its end. Whether the request makes it
    /// later on is not known yet: then the change is decided in the hope that it does.
    fn missing_parents(&self, position: usize, change: &Change, attempt: &mut Attempt<'_>) -> Option<Vec<RowKey>> {
        if let Some(missing) = attempt.orphans.get(&position) {
            return Some(missing.clone());
        }
        let is_missing = |parent: &&RowKey| **parent != change.row && !self.row(parent).1;
        let missing: Vec<RowKey> = change.parents.iter().filter(is_missing).cloned().collect();
        let is_made_later = |parent| attempt.last_write.get(parent).is_some_and(|&last| last > position);
        if missing.iter().any(is_made_later) {
            attempt.hopes.push((position, missing));
            return None;
        }
        (!missing.is_empty()).then_some(missing)
    }

    /// At the end of an attempt: notes the changes whose hoped-for parents do not exist. False if there are none.
    fn find_orphans(&self, attempt: &mut Attempt<'_>) -> bool {
        let known = attempt.orphans.len();
        for (position, mut parents) in attempt.hopes.drain(..) {
            parents.retain(|parent| !self.row(parent).1);
            if !parents.is_empty() {
                attempt.orphans.insert(position, parents);
            }
        }
        attempt.orphans.len() > known
    }

    /// Whether the key may be one of those that were forgotten. Such a change may have been applied long ago, and the
    /// row that it changed be forgotten too: to apply it could bring back what was deleted since.
    fn is_forgotten(&self, source: &SourceId, id: SourceChangeId) -> bool {
        !self.new_keys.contains_key(&(source.clone(), id))
            && self.snapshot.forgotten.get(source).is_some_and(|&highest| id <= highest)
    }

    /// How the change was settled before, if it was, and left no entry. It stays so, whatever has become of its row: its
    /// device was told and has gone on from there. The row may be forgotten by now, or made again and at that version.
    fn settled(&self, source: &SourceId, change: &Change, attempt: Option<&Attempt<'_>>) -> Option<Settled> {
        let key = (source.clone(), change.source_change_id);
        let now = attempt.and_then(|attempt| attempt.unlogged.get(&key));
        let known = now.or_else(|| self.unlogged.get(&key)).or_else(|| self.snapshot.unlogged.get(&key))?;
        known.is_of(change).then_some(known.settled)
    }

    /// Rules 3 and 4: the key is in the log already, for this change or for another.
    fn decide_known_key(&self, source: &SourceId, change: &Change) -> Option<Decision> {
        let key = (source.clone(), change.source_change_id);
        let payload = change.op.payload();
        let (op, row, same_payload, version) = match self.new_keys.get(&key) {
            Some(&position) => {
                let LogEntry { change, version, .. } = &self.log[position];
                (change.op.kind(), &change.row, change.op.payload() == payload, *version)
            }
            None => {
                let logged = self.snapshot.logged.get(&key)?;
                let same = match (&logged.payload, payload) {
                    (Some(logged), Some(payload)) => logged.is_of(payload),
                    (logged, payload) => logged.is_none() && payload.is_none(),
                };
                (logged.op, &logged.row, same, logged.version)
            }
        };
        let same = op == change.op.kind() && *row == change.row && same_payload;
        Some(if same {
            Decision::Applied { version: Some(version) }
        } else {
            let message = format!("source_change_id {} was used for another change before", change.source_change_id);
            Decision::Invalid(Refusal::new(Reason::SourceChangeIdReused, message))
        })
    }

    /// Rule 8: appends the change to the log.
    fn apply(&mut self, source: &SourceId, change: &Arc<Change>, undo: &mut Vec<(RowKey, Option<usize>)>) -> Decision {
        let version = change.base.next();
        let entry =
            LogEntry { server_id: self.head().next(), source: source.clone(), change: Arc::clone(change), version };
        let position = self.log.len();
        self.log.push(entry);
        self.new_keys.insert((source.clone(), change.source_change_id), position);
        let before = self.last_entry.insert(change.row.clone(), position);
        undo.push((change.row.clone(), before));
        Decision::Applied { version: Some(version) }
    }

    /// The row's version, and whether it exists, after all that was decided so far.
    fn row(&self, key: &RowKey) -> (RowVersion, bool) {
        if let Some(&position) = self.last_entry.get(key) {
            let entry = &self.log[position];
            return (entry.version, entry.change.op.kind() != OpKind::Delete);
        }
        match self.snapshot.rows.get(key) {
            Some((version, state)) => (*version, *state != RowState::Deleted),
            None => (RowVersion(0), false),
        }
    }

    /// The answer to a change that leaves no entry.
    fn settle(&mut self, change: &Change, settled: Settled) -> Decision {
        match settled {
            Settled::NeverThere => Decision::Applied { version: None },
            Settled::DeletedBefore => Decision::Applied { version: Some(change.base) },
            Settled::Conflict => {
                let key = &change.row;
                let is_unloaded = || matches!(self.snapshot.rows.get(key), Some((_, RowState::Unloaded)));
                self.lacks_payloads |= !self.last_entry.contains_key(key) && is_unloaded();
                Decision::Conflict(self.server_row(key))
            }
        }
    }

    fn server_row(&self, key: &RowKey) -> ServerRow {
        let payload: Option<&Payload> = match self.last_entry.get(key) {
            Some(&position) => self.log[position].change.op.payload(),
            None => match self.snapshot.rows.get(key) {
                Some((_, RowState::Live(payload))) => Some(payload),
                _ => None,
            },
        };
        ServerRow { table: key.table.clone(), pk: key.pk, version: self.row(key).0, payload: payload.cloned() }
    }

    /// Takes back all entries from `start` on.
    fn undo(&mut self, start: usize, attempt: &mut Attempt<'_>) {
        for (key, before) in attempt.undo.drain(..).rev() {
            match before {
                Some(position) => self.last_entry.insert(key, position),
                None => self.last_entry.remove(&key),
            };
        }
        self.log.truncate(start);
        self.new_keys.retain(|_, position| *position < start);
    }

    /// Rewrites the decisions of an atomic upload that was undone.
    ///
    /// What an earlier upload applied stays `applied`, as promise 1 has it; a conflict shows the row
    /// as it is now and not as the undone changes had made it.
    fn abort(&self, upload: &Upload, decisions: &mut [Decision]) {
        for (decision, submission) in decisions.iter_mut().zip(&upload.submissions) {
            let Ok(change) = &submission.change else {
                continue;
            };
            match decision {
                Decision::Conflict(server_row) => *server_row = self.server_row(&change.row),
                Decision::Applied { .. }
                    if self.decide_known_key(&upload.source, change).is_none()
                        && self.settled(&upload.source, change, None).is_none() =>
                {
                    let message = "another change of this atomic upload was not applied";
                    *decision = Decision::Invalid(Refusal::new(Reason::BatchAborted, message));
                }
                Decision::Applied { .. } | Decision::Invalid(_) => {}
            }
        }
    }
}

fn fk_missing(missing: Vec<RowKey>) -> Decision {
    let names: Vec<String> = missing.iter().map(RowKey::to_string).collect();
    let message = format!("refers to rows that do not exist: {}", names.join(", "));
    Decision::Invalid(Refusal { missing, ..Refusal::new(Reason::FkMissing, message) })
}
