//! The protocol as a few maps: what the server has to answer, written from its description and from nothing else.
#![expect(missing_docs, reason = "the fields are the protocol's")]

use std::collections::BTreeMap;

use crate::wire::{
    Details, Downloaded, Failure, Invalid, Message, Page, Raw, ServerRow, SnapshotRow, Status, Uploaded,
};

/// A payload, with what the model has to know of it.
#[derive(Clone, Debug)]
pub struct Payload {
    /// Its JSON.
    pub text: String,
    /// Two payloads of one number are the same JSON value.
    pub value: u32,
    pub is_object: bool,
    /// Members that hold keys: the key, or none if it is no key.
    pub references: Vec<(&'static str, Option<String>)>,
}

/// A change as it is sent.
#[derive(Clone, Debug)]
pub struct Change {
    /// None if it is no number.
    pub id: Option<i64>,
    pub schema: Option<&'static str>,
    pub table: &'static str,
    pub op: &'static str,
    pub pk: String,
    pub version: i64,
    pub payload: Option<Payload>,
}

impl Change {
    /// The same change in other letters, with other white space.
    pub fn rewritten(&self) -> Self {
        let mut change = self.clone();
        change.pk = change.pk.to_uppercase();
        if let Some(payload) = change.payload.as_mut().filter(|payload| payload.is_object) {
            payload.text = format!("{{ {}", &payload.text[1..]);
        }
        change
    }
}

/// What a download asks for.
#[derive(Clone, Debug)]
pub struct Query {
    pub after: i64,
    pub limit: Option<i64>,
    pub schema: Option<&'static str>,
    pub include_self: bool,
    pub until: i64,
    pub wait: Option<i64>,
    pub epoch: Option<Epoch>,
    /// Whether a parameter is given that is none of its kind.
    pub is_odd: bool,
}

/// A life of the stream, as it is named by whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    This,
    Another,
    NoUuid,
}

type Row = (String, String);

#[derive(Clone)]
struct Entry {
    server_id: i64,
    /// Whether it is known by its key alone.
    is_pruned: bool,
    row: Row,
    op: String,
    payload: Option<Payload>,
    source: String,
    id: i64,
    version: i64,
}

/// One user's part.
#[derive(Clone, Default)]
struct Stream {
    /// Version, and what the row is; none if it was deleted.
    rows: BTreeMap<Row, (i64, Option<Payload>)>,
    log: Vec<Entry>,
    head: i64,
    /// The last deletion that was pruned, and the number that pruning took for itself.
    floor: i64,
    moved_at: i64,
    /// What was settled last without an entry, by source and number.
    settled: BTreeMap<(String, i64), Settled>,
}

/// A change that left no entry.
#[derive(Clone)]
struct Settled {
    op: String,
    row: Row,
    version: i64,
    /// The answer, if it was a deletion of nothing; else it was a conflict.
    deletion: Option<Status>,
}

/// A change that is well-formed, of a registered table.
struct Admitted<'a> {
    id: i64,
    row: Row,
    op: String,
    version: i64,
    payload: Option<&'a Payload>,
    parents: Vec<Row>,
}

/// All users.
pub struct Model {
    /// Each registered table with its columns that hold keys, and the tables of those.
    tables: BTreeMap<&'static str, Vec<(&'static str, &'static str)>>,
    changes_max: usize,
    users: BTreeMap<String, Stream>,
}

impl Model {
    /// Of these tables, all with their schema.
    pub fn new(tables: &[(&'static str, &[(&'static str, &'static str)])], changes_max: usize) -> Self {
        let tables = tables.iter().map(|(table, references)| (*table, references.to_vec())).collect();
        Self { tables, changes_max, users: BTreeMap::new() }
    }

    /// The version of a row; 0 if there never was one.
    pub fn version(&self, user: &str, table: &str, pk: &str) -> i64 {
        let row = (table.to_owned(), pk.to_owned());
        self.users.get(user).and_then(|stream| stream.rows.get(&row)).map_or(0, |(version, _)| *version)
    }

    /// The end of a user's stream.
    pub fn head(&self, user: &str) -> i64 {
        self.users.get(user).map_or(0, |stream| stream.head)
    }

    /// Forgets of a user's history what may be forgotten, but no keys.
    pub fn forget(&mut self, user: &str) {
        let Some(stream) = self.users.get_mut(user) else { return };
        let Stream { rows, log, head, floor, moved_at, .. } = stream;
        let mut deletions = Vec::new();
        for entry in log.iter_mut().filter(|entry| !entry.is_pruned) {
            let is_last = rows.get(&entry.row).is_some_and(|(version, _)| *version == entry.version);
            let is_deletion = is_last && entry.payload.is_none();
            entry.is_pruned = !is_last || is_deletion;
            if is_deletion {
                deletions.push((entry.row.clone(), entry.server_id));
            }
        }
        if let Some((_, last)) = deletions.last() {
            (*floor, *moved_at, *head) = (*last, *head + 1, *head + 1);
        }
        deletions.iter().for_each(|(row, _)| drop(rows.remove(row)));
    }

    /// What an upload answers that names a life of the stream.
    pub fn upload_in(
        &mut self,
        (user, source): (&str, &str),
        changes: &[Change],
        atomic: bool,
        epoch: Option<Epoch>,
    ) -> Result<Uploaded, (u16, Failure)> {
        refuse_epoch(epoch)?;
        Ok(self.upload(user, source, changes, atomic))
    }

    fn upload(&mut self, user: &str, source: &str, changes: &[Change], atomic: bool) -> Uploaded {
        let before = self.users.entry(user.to_owned()).or_default().clone();
        let head = before.head;
        if changes.len() > self.changes_max {
            let refused = |change: &Change| refusal(change.id.unwrap_or(0), "batch_too_large", Vec::new());
            let statuses = changes.iter().map(refused).collect();
            return Uploaded { accepted: false, highest_server_seq: head, epoch: nothing(), statuses };
        }
        let admitted: Vec<Result<Admitted<'_>, &'static str>> =
            changes.iter().map(|change| self.admit(change)).collect();
        let mut orphans: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let (mut stream, mut statuses) = loop {
            let mut stream = before.clone();
            let (statuses, hopes) = pass(&mut stream, source, changes, &admitted, &orphans);
            let mut disappointed = false;
            for (position, parents) in hopes {
                let missing: Vec<String> = parents.iter().filter(|row| !exists(&stream, row)).map(named).collect();
                if !missing.is_empty() {
                    orphans.insert(position, missing);
                    disappointed = true;
                }
            }
            if !disappointed {
                break (stream, statuses);
            }
        };
        let mut accepted = !admitted.iter().any(|change| matches!(change, Err("unregistered_table")));
        if atomic && statuses.iter().any(|status| status.status != "applied") {
            let mut undone = before.clone();
            undone.settled.extend(stream.settled.into_iter().filter(|(_, of)| of.deletion.is_none()));
            for (status, change) in statuses.iter_mut().zip(&admitted) {
                let Ok(change) = change else { continue };
                match &*status.status {
                    "applied"
                        if !before.log.iter().any(|entry| (&*entry.source, entry.id) == (source, change.id))
                            && settled(&before, source, change).is_none() =>
                    {
                        *status = refusal(change.id, "batch_aborted", Vec::new());
                    }
                    "conflict" => *status = conflict(&before, change),
                    _ => {}
                }
            }
            (stream, accepted) = (undone, false);
        }
        let highest_server_seq = stream.head;
        self.users.insert(user.to_owned(), stream);
        Uploaded { accepted, highest_server_seq, epoch: nothing(), statuses }
    }

    /// Rows 1 and 2 of the table.
    fn admit<'a>(&self, change: &'a Change) -> Result<Admitted<'a>, &'static str> {
        let id = change.id.filter(|id| *id > 0).ok_or("bad_payload")?;
        let name = |text: &str| {
            let name = text.trim().to_lowercase();
            let fits = (1..=63).contains(&name.len()) && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'));
            fits.then_some(name).ok_or("bad_payload")
        };
        let table = format!("{}.{}", name(change.schema.unwrap_or("public"))?, name(change.table)?);
        let op = change.op.to_uppercase();
        let pk = uuid::Uuid::try_parse(&change.pk).map_err(|_| "bad_payload")?.to_string();
        let fits = match &*op {
            "DELETE" => change.payload.is_none(),
            "INSERT" | "UPDATE" => change.payload.as_ref().is_some_and(|payload| payload.is_object),
            _ => false,
        };
        if !fits || change.version < 0 {
            return Err("bad_payload");
        }
        let references = self.tables.get(&*table).ok_or("unregistered_table")?;
        let mut parents: Vec<Row> = Vec::new();
        for (column, key) in change.payload.iter().flat_map(|payload| &payload.references) {
            let Some((_, parent)) = references.iter().find(|(name, _)| name == column) else { continue };
            let parent = ((*parent).to_owned(), key.clone().ok_or("bad_payload")?);
            if !parents.contains(&parent) {
                parents.push(parent);
            }
        }
        Ok(Admitted { id, row: (table, pk), op, version: change.version, payload: change.payload.as_ref(), parents })
    }

    /// What a download answers.
    pub fn download(&self, user: &str, source: &str, query: &Query) -> Result<Page, (u16, Failure)> {
        let limit = query.limit.unwrap_or(100);
        let is_wait = (0..=60).contains(&query.wait.unwrap_or(0));
        if !(1..=1000).contains(&limit) || query.after < 0 || query.until < 0 || !is_wait || query.is_odd {
            return Err((400, failure("invalid_request", None)));
        }
        refuse_epoch(query.epoch)?;
        let head = self.head(user);
        if query.after > head {
            return Err((409, failure("cursor_ahead", Some(head))));
        }
        let none = Stream::default();
        let Stream { log, floor, moved_at, .. } = self.users.get(user).unwrap_or(&none);
        let is_new = (query.after == 0 && query.epoch.is_none()) || (query.until > 0 && query.until >= *moved_at);
        if query.after < *floor && !is_new {
            return Err((410, Failure { floor: Some(*floor), ..failure("history_pruned", None) }));
        }
        let window_until = if query.until == 0 { head } else { query.until.min(head) };
        let entries = log.iter().filter(|entry| !entry.is_pruned);
        let matching: Vec<Downloaded> = entries
            .filter(|entry| entry.server_id > query.after && entry.server_id <= window_until)
            .filter(|entry| query.include_self || entry.source != source)
            .filter(|entry| query.schema.is_none_or(|schema| entry.row.0.split('.').next() == Some(schema)))
            .map(downloaded)
            .collect();
        let has_more = matching.len() as i64 > limit;
        let changes: Vec<Downloaded> = matching.into_iter().take(limit as usize).collect();
        let last = changes.last().map_or(0, |change| change.server_id);
        let next_after = if has_more { last } else { query.after.max(window_until) };
        Ok(Page { changes, has_more, next_after, window_until, epoch: nothing() })
    }

    /// The rows that there are, in the order of their names.
    pub fn rows(&self, user: &str) -> Vec<SnapshotRow> {
        let rows = self.users.get(user).into_iter().flat_map(|stream| &stream.rows);
        let live = rows.filter_map(|((table, pk), (version, payload))| {
            let (schema, table) = table.split_once('.')?;
            let payload = Raw(payload.as_ref()?.text.clone());
            Some(SnapshotRow {
                schema: schema.into(),
                table: table.into(),
                pk: pk.clone(),
                server_version: *version,
                payload,
            })
        });
        live.collect()
    }
}

/// There is one life of the stream: whoever names another one has to start again.
fn refuse_epoch(epoch: Option<Epoch>) -> Result<(), (u16, Failure)> {
    match epoch {
        None | Some(Epoch::This) => Ok(()),
        Some(Epoch::Another) => Err((409, Failure { epoch: Some(nothing()), ..failure("epoch_changed", None) })),
        Some(Epoch::NoUuid) => Err((400, failure("invalid_request", None))),
    }
}

type Hopes = Vec<(usize, Vec<Row>)>;

/// Decides all changes in their order. With it come those whose parents may yet be made.
fn pass(
    stream: &mut Stream,
    source: &str,
    changes: &[Change],
    admitted: &[Result<Admitted<'_>, &'static str>],
    orphans: &BTreeMap<usize, Vec<String>>,
) -> (Vec<Status>, Hopes) {
    let (mut statuses, mut hopes) = (Vec::new(), Vec::new());
    for (position, (sent, change)) in changes.iter().zip(admitted).enumerate() {
        let change = match change {
            Ok(change) => change,
            Err(reason) => {
                statuses.push(refusal(sent.id.unwrap_or(0), reason, Vec::new()));
                continue;
            }
        };
        if let Some(status) = known_key(stream, source, change) {
            statuses.push(status);
            continue;
        }
        if let Some(status) = settled(stream, source, change) {
            statuses.push(status);
            continue;
        }
        let missing: Vec<&Row> =
            change.parents.iter().filter(|row| **row != change.row && !exists(stream, row)).collect();
        let mut later = admitted[position + 1..].iter().flatten();
        let may_come = later.any(|later| later.op != "DELETE" && missing.contains(&&later.row));
        if let Some(missing) = orphans.get(&position) {
            statuses.push(refusal(change.id, "fk_missing", missing.clone()));
        } else if !missing.is_empty() && !may_come {
            statuses.push(refusal(change.id, "fk_missing", missing.into_iter().map(named).collect()));
        } else {
            if may_come {
                hopes.push((position, missing.into_iter().cloned().collect()));
            }
            statuses.push(decide(stream, source, change));
        }
    }
    (statuses, hopes)
}

/// Rows 3 and 4.
fn known_key(stream: &Stream, source: &str, change: &Admitted<'_>) -> Option<Status> {
    let entry = stream.log.iter().find(|entry| (&*entry.source, entry.id) == (source, change.id))?;
    let value = |payload: Option<&Payload>| payload.map(|payload| payload.value);
    let same =
        entry.op == change.op && entry.row == change.row && value(entry.payload.as_ref()) == value(change.payload);
    Some(if same {
        applied(change.id, Some(entry.version))
    } else {
        refusal(change.id, "source_change_id_reused", vec![])
    })
}

/// What was settled before without an entry stays so, whatever has become of its row.
fn settled(stream: &Stream, source: &str, change: &Admitted<'_>) -> Option<Status> {
    let Settled { op, row, version, deletion } = stream.settled.get(&(source.to_owned(), change.id))?;
    let is_same = (op, row, *version) == (&change.op, &change.row, change.version);
    is_same.then(|| deletion.clone().unwrap_or_else(|| conflict(stream, change)))
}

/// Rows 6 to 9.
fn decide(stream: &mut Stream, source: &str, change: &Admitted<'_>) -> Status {
    let (version, is_there) =
        stream.rows.get(&change.row).map_or((0, false), |(version, payload)| (*version, payload.is_some()));
    let is_deletion = change.op == "DELETE" && (version == 0 || (!is_there && change.version == version));
    if is_deletion || change.version != version {
        let deletion = is_deletion.then(|| applied(change.id, Some(version).filter(|version| *version > 0)));
        // A deletion at 0 can fit no row, so that nobody has to remember it.
        if !is_deletion || change.version > 0 {
            let (op, row, version) = (change.op.clone(), change.row.clone(), change.version);
            let settled = Settled { op, row, version, deletion: deletion.clone() };
            stream.settled.insert((source.to_owned(), change.id), settled);
        }
        return deletion.unwrap_or_else(|| conflict(stream, change));
    }
    stream.rows.insert(change.row.clone(), (version + 1, change.payload.cloned()));
    stream.head += 1;
    stream.log.push(Entry {
        server_id: stream.head,
        is_pruned: false,
        row: change.row.clone(),
        op: change.op.clone(),
        payload: change.payload.cloned(),
        source: source.to_owned(),
        id: change.id,
        version: version + 1,
    });
    applied(change.id, Some(version + 1))
}

fn exists(stream: &Stream, row: &Row) -> bool {
    stream.rows.get(row).is_some_and(|(_, payload)| payload.is_some())
}

fn named((table, pk): &Row) -> String {
    format!("{table}:{pk}")
}

fn conflict(stream: &Stream, change: &Admitted<'_>) -> Status {
    let (table, pk) = &change.row;
    let (schema_name, table_name) = table.split_once('.').unwrap_or_default();
    let (server_version, payload) = stream.rows.get(&change.row).cloned().unwrap_or_default();
    let server_row = ServerRow {
        schema_name: schema_name.into(),
        table_name: table_name.into(),
        id: pk.clone(),
        server_version,
        deleted: payload.is_none(),
        payload: payload.map(|payload| Raw(payload.text)),
    };
    Status { server_row: Some(server_row), ..status(change.id, "conflict") }
}

fn applied(id: i64, version: Option<i64>) -> Status {
    Status { new_server_version: version, ..status(id, "applied") }
}

fn refusal(id: i64, reason: &str, missing: Vec<String>) -> Status {
    let invalid = Some(Invalid { reason: reason.into(), details: Details { missing } });
    Status { invalid, message: Some(nothing()), ..status(id, "invalid") }
}

fn status(source_change_id: i64, status: &str) -> Status {
    let (new_server_version, server_row, invalid, message) = (None, None, None, None);
    Status { source_change_id, status: status.into(), new_server_version, server_row, invalid, message }
}

fn failure(error: &str, highest_server_seq: Option<i64>) -> Failure {
    Failure { error: error.into(), message: nothing(), highest_server_seq, epoch: None, floor: None }
}

fn downloaded(entry: &Entry) -> Downloaded {
    let (schema, table) = entry.row.0.split_once('.').unwrap_or_default();
    Downloaded {
        server_id: entry.server_id,
        schema: schema.into(),
        table: table.into(),
        op: entry.op.clone(),
        pk: entry.row.1.clone(),
        payload: entry.payload.as_ref().map(|payload| Raw(payload.text.clone())),
        server_version: entry.version,
        deleted: entry.payload.is_none(),
        source_id: entry.source.clone(),
        source_change_id: entry.id,
        ts: nothing(),
    }
}

fn nothing() -> Message {
    Message(String::new())
}
