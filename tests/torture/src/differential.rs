//! One history on the model and on every store: each answer is the model's, and the stores' are alike to the byte.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use outrigger_domain::limits::UploadLimits;
use outrigger_testserver::{Options, Server};
use reqwest::{Client, Response};
use serde::de::DeserializeOwned;

use crate::history::{CHANGES_MAX, Id, Place, Sketch, Step, TABLES, Version, Who};
use crate::model::{Change, Model, Query};
use crate::wire::{Failure, Snapshot, SnapshotRow, Uploaded};

/// A server on each store.
pub struct Field {
    servers: Vec<(&'static str, Server)>,
    client: Client,
    histories: AtomicU64,
    verdicts: Mutex<BTreeMap<String, usize>>,
}

impl Field {
    /// Starts them.
    pub async fn start() -> Self {
        let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
        let limits = UploadLimits { changes_max: CHANGES_MAX, ..UploadLimits::default() };
        let mut options = Options { limits, ..Options::of(&names) };
        for (table, references) in TABLES {
            for (column, parent) in references {
                options = options.referring(table, column, parent);
            }
        }
        let servers = vec![
            ("memory", Server::memory(&options).await),
            ("sqlite", Server::sqlite(&options).await),
            ("postgres", Server::postgres(&options).await),
        ];
        Self { servers, client: Client::new(), histories: AtomicU64::new(0), verdicts: Mutex::default() }
    }

    /// How often each status and reason has been answered.
    pub fn verdicts(&self) -> BTreeMap<String, usize> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, uploaded: &Uploaded) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        for status in &uploaded.statuses {
            let name = status.invalid.as_ref().map_or(&status.status, |invalid| &invalid.reason);
            *verdicts.entry(name.clone()).or_default() += 1;
        }
    }

    /// Goes through a history with users of its own. The error says where the answers part.
    pub async fn run(&self, steps: &[Step]) -> Result<(), String> {
        let number = self.histories.fetch_add(1, Ordering::Relaxed);
        let model = Model::new(&TABLES, CHANGES_MAX);
        let mut run = Run { field: self, number, model, ids: HashMap::new(), last: HashMap::new() };
        for (position, step) in steps.iter().enumerate() {
            run.take(step).await.map_err(|why| format!("at step {position}, {step:?}:\n{why}"))?;
        }
        for user in 0..2 {
            let who = Who { user, device: 9 };
            run.snapshot(who, 3).await.map_err(|why| format!("the rows at the end: {why}"))?;
            let all = Step::Download {
                who,
                after: Place::Start,
                limit: Some(1000),
                schema: None,
                include_self: true,
                until: Place::Start,
            };
            run.take(&all).await.map_err(|why| format!("the stream at the end: {why}"))?;
        }
        Ok(())
    }
}

struct Run<'a> {
    field: &'a Field,
    number: u64,
    model: Model,
    /// The numbers that each device has used.
    ids: HashMap<String, Vec<i64>>,
    last: HashMap<String, (Vec<Change>, bool)>,
}

impl Run<'_> {
    async fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Upload { who, changes, atomic } => {
                let changes = self.resolve(*who, changes, *atomic);
                self.last.insert(self.token(*who), (changes.clone(), *atomic));
                self.upload(*who, &changes, *atomic).await
            }
            Step::Again { who } => match self.last.get(&self.token(*who)).cloned() {
                Some((changes, atomic)) => self.upload(*who, &changes, atomic).await,
                None => Ok(()),
            },
            Step::Download { who, after, limit, schema, include_self, until } => {
                let head = self.model.head(&self.user(*who));
                let (after, until) = (place(*after, head), place(*until, head));
                let query = Query { after, limit: *limit, schema: *schema, include_self: *include_self, until };
                self.download(*who, &query).await
            }
            Step::Snapshot { who, limit } => self.snapshot(*who, *limit).await,
        }
    }

    fn user(&self, who: Who) -> String {
        format!("h{}-{}", self.number, who.user)
    }

    fn device(who: Who) -> String {
        format!("device-{}", who.device)
    }

    fn token(&self, who: Who) -> String {
        format!("{}/{}", self.user(who), Self::device(who))
    }

    /// What the sketches stand for now, each as if those before it had been decided.
    fn resolve(&mut self, who: Who, sketches: &[Sketch], atomic: bool) -> Vec<Change> {
        let (user, token) = (self.user(who), self.token(who));
        let mut versions: HashMap<(String, String), i64> = HashMap::new();
        let used = self.ids.entry(token).or_default();
        let mut changes = Vec::new();
        for sketch in sketches {
            let id = match sketch.id {
                Id::Fresh => Some(used.iter().filter(|id| **id != i64::MAX).max().unwrap_or(&0) + 1),
                Id::Used(ago) => Some(used.iter().rev().nth(ago.into()).copied().unwrap_or(1)),
                Id::Odd(id) => Some(id),
                Id::NoNumber => None,
            };
            used.extend(id.filter(|id| *id > 0));
            let row = sketch.row();
            let current = *versions.entry(row.clone()).or_insert_with(|| self.model.version(&user, &row.0, &row.1));
            let version = match sketch.version {
                Version::Current => current,
                Version::Off(by) => current + by,
                Version::Exactly(version) => version,
            };
            if version == current && !atomic {
                versions.insert(row, current + 1);
            }
            changes.push(sketch.change(id, version));
        }
        changes
    }

    async fn upload(&mut self, who: Who, changes: &[Change], atomic: bool) -> Result<(), String> {
        let expected = self.model.upload(&self.user(who), &Self::device(who), changes, atomic);
        let body = body(changes, atomic);
        let told = self.ask(who, "/sync/upload", Some(&body)).await?;
        let found: Uploaded = self.alike(&told, 200)?;
        if found != expected {
            return Err(format!("{body}\nexpected {expected:#?}\nfound {found:#?}"));
        }
        self.field.count(&found);
        let explained = |status: &crate::wire::Status| status.message.is_some() == status.invalid.is_some();
        if !found.statuses.iter().all(explained) {
            return Err(format!("a refusal without a message, or a message without one: {found:#?}"));
        }
        Ok(())
    }

    async fn download(&self, who: Who, query: &Query) -> Result<(), String> {
        let mut path = format!("/sync/download?after={}&include_self={}", query.after, query.include_self);
        for (name, value) in [("limit", query.limit), ("until", (query.until != 0).then_some(query.until))] {
            path += &value.map_or_else(String::new, |value| format!("&{name}={value}"));
        }
        path += &query.schema.map_or_else(String::new, |schema| format!("&schema={schema}"));
        let told = self.ask(who, &path, None).await?;
        match self.model.download(&self.user(who), &Self::device(who), query) {
            Ok(expected) => same(&path, &expected, &self.alike(&told, 200)?),
            Err((status, expected)) => same(&path, &expected, &self.alike::<Failure>(&told, status)?),
        }
    }

    async fn snapshot(&self, who: Who, limit: u8) -> Result<(), String> {
        let mut pages: Vec<Option<String>> = vec![None; self.field.servers.len()];
        let mut rows: Vec<SnapshotRow> = Vec::new();
        loop {
            let mut last: Option<Snapshot> = None;
            for (page, (name, server)) in pages.iter_mut().zip(&self.field.servers) {
                let behind = page.as_ref().map_or_else(String::new, |page| format!("&page={page}"));
                let path = format!("/sync/snapshot?limit={limit}{behind}");
                let (_, text) = self.one(server, who, &path, None).await?;
                let found: Snapshot = read(&text)?;
                *page = found.next_page.clone();
                match &last {
                    // The cursors name the epoch, which is each store's own.
                    Some(first) if first.rows != found.rows || first.has_more != found.has_more => {
                        return Err(format!("{name} has other rows: {found:#?}\nthan {first:#?}"));
                    }
                    _ => last = Some(found),
                }
            }
            let Some(page) = last else { return Ok(()) };
            rows.extend(page.rows);
            if !page.has_more {
                break;
            }
        }
        let is_child = |row: &SnapshotRow| row.table != "users";
        if !rows.is_sorted_by_key(is_child) {
            return Err(format!("children before their parents: {rows:#?}"));
        }
        rows.sort_unstable();
        let mut expected = self.model.rows(&self.user(who));
        expected.sort_unstable();
        same("/sync/snapshot", &expected, &rows)
    }

    /// Asks all servers at once.
    async fn ask(&self, who: Who, path: &str, body: Option<&str>) -> Result<Vec<(u16, String)>, String> {
        let asked = self.field.servers.iter().map(|(_, server)| self.one(server, who, path, body));
        futures::future::try_join_all(asked).await
    }

    async fn one(&self, server: &Server, who: Who, path: &str, body: Option<&str>) -> Result<(u16, String), String> {
        let url = format!("{}{path}", server.url);
        let request = match body {
            Some(body) => self.field.client.post(url).header("content-type", "application/json").body(body.to_owned()),
            None => self.field.client.get(url),
        };
        let answer: Response = request.bearer_auth(self.token(who)).send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.map_err(|error| error.to_string())?))
    }

    /// The answers as one, if they are the same text but for times and epochs.
    fn alike<T: DeserializeOwned>(&self, told: &[(u16, String)], status: u16) -> Result<T, String> {
        let masked: Vec<(u16, String)> = told.iter().map(|(status, text)| (*status, masked(text))).collect();
        let names = self.field.servers.iter().map(|(name, _)| *name);
        for ((answer, name), (found, text)) in masked.iter().zip(names).zip(told) {
            if *answer != masked[0] {
                return Err(format!("{name} answers {answer:?}\nand not {:?}", masked[0]));
            }
            if *found != status {
                return Err(format!("expected {status}, found {found}: {text}"));
            }
        }
        read(&told[0].1)
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, found: &T) -> Result<(), String> {
    (expected == found).then_some(()).ok_or_else(|| format!("{what}\nexpected {expected:#?}\nfound {found:#?}"))
}

fn place(place: Place, head: i64) -> i64 {
    match place {
        Place::Start => 0,
        Place::Part(part) => head * i64::from(part) / 1000,
        Place::End => head,
        Place::Behind(by) => head + by,
    }
}

/// Without the values of `ts` and `epoch`, which are each server's own.
fn masked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((at, name)) = ["\"ts\":\"", "\"epoch\":\""].iter().filter_map(|n| Some((rest.find(n)?, n))).min() {
        let value = at + name.len();
        out += &rest[..value];
        rest = rest[value..].find('"').map_or("", |end| &rest[value + end..]);
    }
    out + rest
}

fn body(changes: &[Change], atomic: bool) -> String {
    let changes: Vec<String> = changes.iter().map(json).collect();
    let atomic = if atomic { r#","atomic":true"# } else { "" };
    format!(r#"{{"last_server_seq_seen":0,"changes":[{}]{atomic}}}"#, changes.join(","))
}

fn json(change: &Change) -> String {
    let id = change.id.map_or_else(|| "\"one\"".into(), |id| id.to_string());
    let schema = change.schema.map_or_else(String::new, |schema| format!(r#""schema":"{schema}","#));
    let payload = change.payload.as_ref().map_or("null", |payload| &payload.text);
    let Change { table, op, pk, version, .. } = change;
    format!(
        r#"{{"source_change_id":{id},{schema}"table":"{table}","op":"{op}","pk":"{pk}","server_version":{version},"payload":{payload}}}"#
    )
}
