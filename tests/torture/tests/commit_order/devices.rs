//! Devices: some upload, some only read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use outrigger_torture::wire::{Downloaded, Page, Uploaded};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// What anything may take that nothing holds up, on a machine that does much else.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Returns once it is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("in {SOON:?} it did not happen: {what}"));
}

/// A device that uploads.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) user: String,
    pub(crate) source: String,
    node: String,
    http: Client,
    /// The number of its last change.
    pub(crate) last: i64,
    /// The rows that it has made, with their versions.
    rows: VecDeque<(String, i64)>,
}

impl Device {
    pub(crate) fn new(http: &Client, node: &str, user: &str, source: &str) -> Self {
        let (user, source, node) = (user.to_owned(), source.to_owned(), node.to_owned());
        Self { user, source, node, http: http.clone(), last: 0, rows: VecDeque::new() }
    }

    /// Its next upload: a new row; and of those that it has, one is changed and one is deleted.
    pub(crate) fn next(&mut self) -> Value {
        let mut changes = vec![self.change("INSERT", &uuid::Uuid::new_v4().to_string(), 0)];
        self.rows.push_back((changes[0]["pk"].as_str().expect("it is text").to_owned(), 1));
        if let [.., (pk, version), _] = self.rows.make_contiguous() {
            let (pk, base) = (pk.clone(), *version);
            *version += 1;
            changes.push(self.change("UPDATE", &pk, base));
        }
        if self.rows.len() > 2
            && let Some((pk, version)) = self.rows.pop_front()
        {
            changes.push(self.change("DELETE", &pk, version));
        }
        json!({"changes": changes})
    }

    fn change(&mut self, op: &str, pk: &str, base: i64) -> Value {
        self.last += 1;
        let payload = (op != "DELETE").then(|| json!({"text": format!("{} {}", self.source, self.last)}));
        json!({"source_change_id": self.last, "table": "notes", "op": op, "pk": pk, "server_version": base,
               "payload": payload})
    }

    /// Sends it until it is answered. All of it must have been applied, whatever became of earlier tries.
    pub(crate) async fn upload(&self, body: &Value) {
        loop {
            let request = self.http.post(format!("{}/sync/upload", self.node)).json(body);
            let answer = request.bearer_auth(format!("{}/{}", self.user, self.source)).send().await;
            let answer = answer.expect("the node answers");
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
                // Sooner than a device would: to be in the way is what it is here for.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let text = answer.text().await.expect("the answer is whole");
            let uploaded: Uploaded = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(uploaded.statuses.iter().all(|status| status.status == "applied"), "{uploaded:?}");
            return;
        }
    }
}

/// How a device reads.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) node: String,
    pub(crate) user: String,
    pub(crate) limit: u32,
    /// Whose changes it leaves out: its own.
    pub(crate) source: String,
    /// Whether it reads its own changes too, and so sees every number.
    pub(crate) all: bool,
    /// Whether it keeps to a window until that is exhausted.
    pub(crate) windows: bool,
}

/// A device that reads all the time, and checks what it is told.
pub(crate) struct Reader {
    manner: Manner,
    pages: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Downloaded>>,
}

impl Reader {
    pub(crate) fn start(http: &Client, manner: Manner) -> Self {
        let (pages, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(follow(http.clone(), manner.clone(), Arc::clone(&pages), Arc::clone(&stop)));
        Self { manner, pages, stop, task }
    }

    /// Waits until it has asked and been answered, though others may be held up.
    pub(crate) async fn goes_on(&self) {
        let before = self.pages.load(Ordering::SeqCst);
        // The next answer may be one that was on its way.
        until("a reader is answered", async || {
            assert!(!self.task.is_finished(), "a reader has ended: its panic is above");
            self.pages.load(Ordering::SeqCst) > before + 1
        })
        .await;
    }

    /// What it was told is the stream, and nothing is missing.
    pub(crate) async fn check(self, stream: &[Downloaded]) {
        self.stop.store(true, Ordering::SeqCst);
        let told = self.task.await.expect("it reads to the end");
        let Manner { source, all, .. } = &self.manner;
        let expected: Vec<&Downloaded> = stream.iter().filter(|change| *all || change.source_id != *source).collect();
        let missed = expected.iter().find(|change| !told.contains(change));
        assert_eq!(missed, None, "{:?} has missed it", self.manner);
        assert_eq!(told.iter().collect::<Vec<_>>(), expected, "{:?}", self.manner);
    }
}

/// Reads until it is told to stop and has come to the end.
async fn follow(http: Client, manner: Manner, pages: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Vec<Downloaded> {
    let (mut told, mut after, mut until): (Vec<Downloaded>, i64, i64) = (Vec::new(), 0, 0);
    loop {
        let stopping = stop.load(Ordering::SeqCst);
        let page = page(&http, &manner, after, until).await;
        for change in page.changes {
            assert!(change.server_id > after, "{manner:?} is told of {} behind {after}", change.server_id);
            let gap = manner.all && change.server_id != after + 1;
            assert!(!gap, "{manner:?} is told of {} next to {after}", change.server_id);
            after = change.server_id;
            told.push(change);
        }
        assert!(page.next_after >= after, "{manner:?} is sent back from {after} to {}", page.next_after);
        let passed = manner.all && page.next_after != after;
        assert!(!passed, "{manner:?} is sent from {after} to {}, past what it was not told", page.next_after);
        after = page.next_after;
        pages.fetch_add(1, Ordering::SeqCst);
        if stopping && until == 0 && !page.has_more {
            return told;
        }
        until = if manner.windows && page.has_more { page.window_until } else { 0 };
    }
}

/// One page, as that device asks for it.
pub(crate) async fn page(http: &Client, manner: &Manner, after: i64, until: i64) -> Page {
    let Manner { node, user, limit, source, all, .. } = manner;
    let url = format!("{node}/sync/download?after={after}&limit={limit}&until={until}&include_self={all}");
    let answer = http.get(url).bearer_auth(format!("{user}/{source}")).send().await.expect("the node answers");
    let text = answer.text().await.expect("the answer is whole");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
