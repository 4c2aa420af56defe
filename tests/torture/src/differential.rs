//! One history on the model and on every store: each answer is the model's, and the stores' are alike to the byte.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use outrigger_domain::limits::UploadLimits;
use outrigger_testserver::{Options, Server};
use proptest::test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use reqwest::{Client, Response};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::history::{Again, Asked, CHANGES_MAX, Id, Place, Sketch, Step, TABLES, Version, Who, histories};
use crate::model::{Change, Epoch, Model, Query};
use crate::requests::{THIS_EPOCH, body, path};
use crate::seed;
use crate::wire::{Failure, Page, Snapshot, SnapshotRow, Uploaded};

/// Steps of one history at the most.
const STEPS_MAX: usize = 30;

/// A server on each store.
pub struct Field {
    servers: Vec<(&'static str, Server)>,
    /// The life of each server's streams.
    epochs: Vec<String>,
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
        let (client, mut epochs) = (Client::new(), Vec::new());
        for (_, server) in &servers {
            let asked = client.get(format!("{}/sync/download", server.url)).bearer_auth("somebody/anything").send();
            let page: Page = asked.await.expect("the server answers").json().await.expect("it is a page");
            epochs.push(page.epoch.0);
        }
        Self { servers, epochs, client, histories: AtomicU64::new(0), verdicts: Mutex::default() }
    }

    /// How often each status and reason has been answered.
    pub fn verdicts(&self) -> BTreeMap<String, usize> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As many random histories as that. The error has the smallest one that fails, which is also kept as a regression.
    ///
    /// Waits for them, so it is to be called where waiting is no harm.
    pub fn run_random(&self, runtime: &Handle, seed: u64, cases: u32) -> Result<(), String> {
        let kept = FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/regressions/differential.txt"));
        let config =
            Config { cases, failure_persistence: Some(Box::new(kept)), max_shrink_iters: 2_000, ..Config::default() };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed::bytes(seed));
        TestRunner::new_with_rng(config, rng)
            .run(&histories(STEPS_MAX), |steps| runtime.block_on(self.run(&steps)).map_err(TestCaseError::fail))
            .map_err(|error| error.to_string())
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
        let (ids, sent, last) = Default::default();
        let mut run = Run { field: self, number, model, ids, sent, last };
        for (position, step) in steps.iter().enumerate() {
            run.take(step).await.map_err(|why| format!("at step {position}, {step:?}:\n{why}"))?;
        }
        for user in 0..2 {
            let who = Who { user, device: 9 };
            run.snapshot(who, 3).await.map_err(|why| format!("the rows at the end: {why}"))?;
            let all = Step::Download { who, asked: Asked::ALL };
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
    /// The changes that each device has sent.
    sent: HashMap<String, Vec<Change>>,
    last: HashMap<String, (Vec<Change>, bool)>,
}

impl Run<'_> {
    async fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Upload { who, changes, atomic, epoch } => {
                let changes = self.resolve(*who, changes, *atomic);
                self.last.insert(self.token(*who), (changes.clone(), *atomic));
                self.upload(*who, &changes, *atomic, *epoch).await
            }
            Step::Again { who } => match self.last.get(&self.token(*who)).cloned() {
                Some((changes, atomic)) => self.upload(*who, &changes, atomic, None).await,
                None => Ok(()),
            },
            Step::Download { who, asked } => self.download(*who, asked).await,
            Step::Forget => {
                self.forget().await;
                Ok(())
            }
            Step::Snapshot { who, limit } => self.snapshot(*who, *limit).await,
        }
    }

    async fn forget(&mut self) {
        for (_, server) in &self.field.servers {
            server.forget_history().await;
        }
        (0..2).for_each(|user| self.model.forget(&self.user(Who { user, device: 0 })));
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
        let sent = self.sent.entry(token.clone()).or_default();
        let used = self.ids.entry(token).or_default();
        let mut changes = Vec::new();
        for sketch in sketches {
            let again = sketch.again.and_then(|again| Some((again, sent.iter().rev().nth(again.ago.into())?)));
            if let Some((Again { rewritten, resolved, .. }, change)) = again {
                let mut change: Change = if rewritten { change.rewritten() } else { change.clone() };
                if resolved {
                    let table = format!("{}.{}", change.schema.unwrap_or("public"), change.table);
                    change.version = self.model.version(&user, &table, &change.pk.to_lowercase());
                }
                changes.push(change.clone());
                sent.push(change);
                continue;
            }
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
            sent.extend(changes.last().cloned());
        }
        changes
    }

    async fn upload(&mut self, who: Who, changes: &[Change], atomic: bool, epoch: Option<Epoch>) -> Result<(), String> {
        let expected = self.model.upload_in((&self.user(who), &Self::device(who)), changes, atomic, epoch);
        let body = body(changes, atomic, epoch);
        let told = self.ask(who, "/sync/upload", Some(&body)).await?;
        let expected = match expected {
            Ok(expected) => expected,
            Err((status, expected)) => return same(&body, &expected, &self.alike::<Failure>(&told, status)?),
        };
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

    async fn download(&self, who: Who, asked: &Asked) -> Result<(), String> {
        let (user, device) = (self.user(who), Self::device(who));
        let head = self.model.head(&user);
        let Asked { limit, schema, include_self, wait, epoch, odd, .. } = *asked;
        let (after, until) = (place(asked.after, head), place(asked.until, head));
        let mut query = Query { after, limit, schema, include_self, until, wait, epoch, is_odd: odd.is_some() };
        let mut expected = self.model.download(&user, &device, &query);
        if wait.is_some_and(|wait| wait > 0) && expected.as_ref().is_ok_and(|page| page.changes.is_empty()) {
            // It would be held until somebody uploads, which nobody does.
            query.wait = None;
            expected = self.model.download(&user, &device, &query);
        }
        let path = path(&query, odd);
        let told = self.ask(who, &path, None).await?;
        match expected {
            Ok(expected) => same(&path, &expected, &self.alike(&told, 200)?),
            Err((status, expected)) => same(&path, &expected, &self.alike::<Failure>(&told, status)?),
        }
    }

    async fn snapshot(&self, who: Who, limit: u8) -> Result<(), String> {
        let mut pages: Vec<Option<String>> = vec![None; self.field.servers.len()];
        let mut rows: Vec<SnapshotRow> = Vec::new();
        loop {
            let mut last: Option<Snapshot> = None;
            for (n, (page, (name, _))) in pages.iter_mut().zip(&self.field.servers).enumerate() {
                let behind = page.as_ref().map_or_else(String::new, |page| format!("&page={page}"));
                let path = format!("/sync/snapshot?limit={limit}{behind}");
                let (_, text) = self.one(n, who, &path, None).await?;
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
        let asked = (0..self.field.servers.len()).map(|n| self.one(n, who, path, body));
        futures::future::try_join_all(asked).await
    }

    /// Asks the server of that number.
    async fn one(&self, n: usize, who: Who, path: &str, body: Option<&str>) -> Result<(u16, String), String> {
        let named = |text: &str| text.replace(THIS_EPOCH, &self.field.epochs[n]);
        let url = format!("{}{}", self.field.servers[n].1.url, named(path));
        let request = match body {
            Some(body) => self.field.client.post(url).header("content-type", "application/json").body(named(body)),
            None => self.field.client.get(url),
        };
        let answer: Response = request.bearer_auth(self.token(who)).send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.map_err(|error| error.to_string())?))
    }

    /// The answers as one, if they are the same text but for times and epochs.
    fn alike<T: DeserializeOwned>(&self, told: &[(u16, String)], status: u16) -> Result<T, String> {
        let masked = |((status, text), epoch): (&(u16, String), &String)| (*status, masked(&text.replace(epoch, "")));
        let masked: Vec<(u16, String)> = told.iter().zip(&self.field.epochs).map(masked).collect();
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

/// Without the values of `ts`, which are each server's own.
fn masked(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("\"ts\":\"") {
        out += before;
        rest = behind.find('"').map_or("", |end| &behind[end..]);
    }
    out + rest
}
