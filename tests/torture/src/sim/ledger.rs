//! What went over the line in an episode: every upload that was sent, what it was answered, and what readers were shown.
//!
//! What can be judged at once is: an answer that contradicts an earlier one, a number that stands for two changes. The
//! rest is compared with the database at the end.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::Value;

use super::plan::Pruning;

/// A change of a source of a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) user: String,
    pub(crate) source: String,
    pub(crate) id: i64,
}

/// What a change does to which row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Content {
    pub(crate) table: String,
    pub(crate) op: String,
    pub(crate) pk: String,
    pub(crate) payload: Option<Value>,
}

/// All that is known of a change that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) content: Content,
    /// Times that it was sent, and that an answer came back.
    pub(crate) attempts: u32,
    pub(crate) answers: u32,
    /// That it was answered `applied`: in which life of the database, and with which version.
    pub(crate) applied: Vec<(u32, Option<i64>)>,
}

/// A place in a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) user: String,
    pub(crate) epoch: String,
    pub(crate) server_id: i64,
}

/// A change as a reader was shown it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    pub(crate) key: Key,
    pub(crate) content: Content,
    pub(crate) version: i64,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// By the name of a status, a reason, a fault.
    pub(crate) named: BTreeMap<String, u64>,
}

impl Counts {
    pub(crate) fn count(&mut self, name: impl Into<String>) {
        self.add(name, 1);
    }

    pub(crate) fn add(&mut self, name: impl Into<String>, by: u64) {
        *self.named.entry(name.into()).or_default() += by;
    }
}

/// The ledger. Shared by all that watch the line.
pub(crate) struct Ledger {
    pruning: Pruning,
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) sent: HashMap<Key, Sent>,
    pub(crate) shown: HashMap<Place, Shown>,
    pub(crate) counts: Counts,
    /// What is wrong already.
    pub(crate) broken: Vec<String>,
    /// How often a backup was put back.
    pub(crate) life: u32,
    /// Everything in its order, one line for each.
    story: Vec<String>,
}

/// The story.
impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.story.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// An upload on its way.
pub(crate) struct Attempt {
    user: String,
    source: String,
    changes: Vec<Change>,
    /// The version that each change is known to have been applied with before this attempt.
    known: Vec<Option<i64>>,
    life: u32,
}

impl Ledger {
    pub(crate) fn new(pruning: Pruning) -> Self {
        Self { pruning, inner: Mutex::default() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, name: impl Into<String>) {
        self.lock().counts.count(name);
    }

    /// Something to be read when an episode has failed.
    pub(crate) fn note(&self, what: String) {
        self.lock().story.push(what);
    }

    pub(crate) fn broken(&self, what: String) {
        self.lock().broken.push(what);
    }

    /// Another life of the database begins: what was answered before and is not in the backup is lost.
    pub(crate) fn restored(&self) {
        let mut inner = self.lock();
        inner.life += 1;
        inner.story.push("a backup was put back".into());
    }

    /// An upload is about to be sent.
    pub(crate) fn attempt(&self, user: &str, source: &str, body: &[u8]) -> Option<Attempt> {
        // A body that was cut is none.
        let upload: Upload = serde_json::from_slice(body).ok()?;
        let mut inner = self.lock();
        let life = inner.life;
        let mut known = Vec::new();
        inner.story.push(format!("{user} {source} sends {:?}", upload.changes));
        for change in &upload.changes {
            let key = Key { user: user.into(), source: source.into(), id: change.source_change_id };
            let content = change.content();
            let new = || Sent { content: content.clone(), attempts: 0, answers: 0, applied: Vec::new() };
            let sent = inner.sent.entry(key.clone()).or_insert_with(new);
            sent.attempts += 1;
            let of_this_life = sent.applied.iter().filter(|(of, _)| *of == life);
            known.push(of_this_life.filter_map(|(_, version)| *version).next_back());
            if sent.content != content {
                let before = sent.content.clone();
                inner.broken.push(format!("{key:?} was sent for {before:?} and then for {content:?}"));
            }
        }
        Some(Attempt { user: user.into(), source: source.into(), changes: upload.changes, known, life })
    }

    /// The whole answer to it came back.
    pub(crate) fn answered(&self, attempt: &Attempt, status: u16, body: &[u8]) {
        let mut inner = self.lock();
        inner.counts.count(format!("http {status}"));
        let Attempt { user, source, .. } = attempt;
        inner.story.push(format!("{user} {source} is answered {status} {}", String::from_utf8_lossy(body)));
        if status != 200 {
            // Refused as a whole, before any change was looked at, or after none was written.
            return;
        }
        let Ok(uploaded) = serde_json::from_slice::<Uploaded>(body) else {
            inner.broken.push(format!("no answer to an upload: {}", String::from_utf8_lossy(body)));
            return;
        };
        let asked: Vec<i64> = attempt.changes.iter().map(|change| change.source_change_id).collect();
        let told: Vec<i64> = uploaded.statuses.iter().map(|status| status.source_change_id).collect();
        if asked != told {
            inner.broken.push(format!("asked for {asked:?} and was told of {told:?}"));
            return;
        }
        for ((change, status), known) in attempt.changes.iter().zip(&uploaded.statuses).zip(&attempt.known) {
            inner.judge(attempt, change, status, (*known, self.pruning));
        }
    }

    /// Rows were shown as they are.
    pub(crate) fn rows(&self, user: &str, body: &[u8]) {
        let mut inner = self.lock();
        let Ok(rows) = serde_json::from_slice::<Rows>(body) else {
            inner.broken.push(format!("no rows: {}", String::from_utf8_lossy(body)));
            return;
        };
        rows.rows.iter().for_each(|row| inner.check_owner(user, row.payload.as_ref()));
    }

    /// A page of a stream was shown.
    pub(crate) fn page(&self, (user, source): (&str, &str), after: i64, page: &Page) {
        let mut inner = self.lock();
        if !page.changes.is_empty() {
            inner.story.push(format!("{user} {source} reads behind {after} {page:?}"));
        }
        let mut last = after;
        for change in &page.changes {
            if change.server_id <= last || change.server_id > page.window_until {
                let Page { window_until, .. } = page;
                inner.broken.push(format!(
                    "{user} was shown {} behind {last} in a window until {window_until}",
                    change.server_id
                ));
            }
            last = change.server_id;
            inner.show(user, &page.epoch, change);
        }
    }
}

impl Inner {
    fn judge(&mut self, attempt: &Attempt, change: &Change, status: &Status, (known, pruning): (Option<i64>, Pruning)) {
        let reason = status.invalid.as_ref().map_or(&status.status, |invalid| &invalid.reason);
        self.counts.count(reason.clone());
        let key = Key { user: attempt.user.clone(), source: attempt.source.clone(), id: change.source_change_id };
        let is_applied = status.status == "applied";
        let is_same = is_applied && status.new_server_version == known;
        // An attempt that a restore came in the way of may have been decided before it or after it.
        let is_of_one_life = attempt.life == self.life;
        // Where keys are forgotten a retry is told that it may have been applied.
        let may_be_forgotten = pruning == Pruning::EntriesAndKeys && status.status == "conflict";
        if known.is_some() && !is_same && is_of_one_life && !may_be_forgotten {
            self.broken.push(format!("{key:?} was applied with {known:?} and is told {status:?} now"));
        }
        if matches!(&**reason, "bad_payload" | "unregistered_table" | "source_change_id_reused" | "internal_error") {
            self.broken.push(format!("{key:?}, {change:?}, was refused: {status:?}"));
        }
        let life = self.life;
        if let Some(sent) = self.sent.get_mut(&key) {
            sent.answers += 1;
            if is_applied && is_of_one_life {
                sent.applied.push((life, status.new_server_version));
            } else if is_applied {
                sent.answers -= 1;
            }
        }
        let row = status.server_row.as_ref().and_then(|row| row.payload.clone());
        self.check_owner(&attempt.user, row.as_ref());
    }

    fn show(&mut self, user: &str, epoch: &str, change: &Downloaded) {
        let place = Place { user: user.into(), epoch: epoch.into(), server_id: change.server_id };
        let (op, pk) = (change.op.clone(), change.pk.clone());
        let content = Content { table: change.table.clone(), op, pk, payload: change.payload.clone() };
        self.check_owner(user, change.payload.as_ref());
        let key = Key { user: user.into(), source: change.source_id.clone(), id: change.source_change_id };
        let shown = Shown { key, content, version: change.server_version };
        if let Some(before) = self.shown.get(&place) {
            if *before != shown {
                let before = before.clone();
                self.broken.push(format!("{place:?} was {before:?} and is {shown:?}"));
            }
            return;
        }
        self.shown.insert(place, shown);
    }

    /// Whatever is written says who wrote it.
    pub(crate) fn check_owner(&mut self, user: &str, payload: Option<&Value>) {
        let texts = payload.and_then(Value::as_object).into_iter().flatten();
        for (_, text) in texts.filter(|(name, _)| matches!(&***name, "name" | "email" | "title")) {
            if text.as_str().is_some_and(|text| !text.is_empty() && !text.starts_with(&format!("{user}/"))) {
                self.broken.push(format!("{user} was shown {payload:?}, which is somebody else's"));
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct Upload {
    changes: Vec<Change>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Change {
    source_change_id: i64,
    table: String,
    op: String,
    pk: String,
    #[expect(dead_code, reason = "told in the story")]
    server_version: i64,
    payload: Option<Value>,
}

impl Change {
    fn content(&self) -> Content {
        let Self { table, op, pk, payload, .. } = self;
        Content { table: table.clone(), op: op.clone(), pk: pk.clone(), payload: payload.clone() }
    }
}

#[derive(Debug, Deserialize)]
struct Uploaded {
    statuses: Vec<Status>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    source_change_id: i64,
    status: String,
    new_server_version: Option<i64>,
    server_row: Option<ServerRow>,
    invalid: Option<Invalid>,
}

#[derive(Debug, Deserialize)]
struct ServerRow {
    payload: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Invalid {
    reason: String,
}

/// Rows as they are.
#[derive(Debug, Deserialize)]
struct Rows {
    rows: Vec<ServerRow>,
}

/// One page of a stream.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    pub(crate) changes: Vec<Downloaded>,
    pub(crate) has_more: bool,
    pub(crate) next_after: i64,
    pub(crate) window_until: i64,
    pub(crate) epoch: String,
}

/// A change in a page.
#[derive(Debug, Deserialize)]
pub(crate) struct Downloaded {
    pub(crate) server_id: i64,
    table: String,
    op: String,
    pk: String,
    payload: Option<Value>,
    server_version: i64,
    source_id: String,
    source_change_id: i64,
}
