//! A reader of one user's stream, who follows it from its beginning and past every fault of the server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::ledger::Page;
use super::plan::Pruning;
use super::proxy::Lines;
use super::tokens::token;

const PAUSE: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(30);

/// The reader, and what it has come to.
pub(crate) struct Reader {
    pub(crate) user: String,
    lines: Arc<Lines>,
    client: reqwest::Client,
    token: String,
    /// Where it stands, in which epoch.
    pub(crate) cursor: i64,
    pub(crate) epoch: Option<String>,
    /// Places of this epoch that it was shown, and stretches that it was told to leave out.
    pub(crate) seen: BTreeSet<i64>,
    pub(crate) left_out: Vec<(i64, i64)>,
    requests: usize,
}

impl Reader {
    pub(crate) fn new(lines: &Arc<Lines>, user: String) -> Result<Self, String> {
        let token = token(&user, "reader")?;
        let client = reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|error| error.to_string())?;
        let (lines, seen) = (Arc::clone(lines), BTreeSet::new());
        Ok(Self { user, lines, client, token, cursor: 0, epoch: None, seen, left_out: Vec::new(), requests: 0 })
    }

    /// Reads until told to stop.
    pub(crate) async fn follow(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            self.read().await;
            sleep(PAUSE).await;
        }
    }

    /// Reads to the end of the stream.
    pub(crate) async fn finish(&mut self) {
        while !self.read().await {
            sleep(PAUSE).await;
        }
    }

    /// Reads one page. True if that was the last one.
    async fn read(&mut self) -> bool {
        let epoch = self.epoch.as_ref().map_or_else(String::new, |epoch| format!("&epoch={epoch}"));
        // Small pages, so that windows end everywhere.
        let limit = 1 + self.requests % 7;
        let path = format!("/sync/download?include_self=true&after={}&limit={limit}{epoch}", self.cursor);
        let Some((status, body)) = self.get(&path).await else { return false };
        let said = || String::from_utf8_lossy(&body).into_owned();
        match status {
            200 => match serde_json::from_slice::<Page>(&body) {
                Ok(page) => return self.take(&page),
                Err(error) => self.lines.ledger.broken(format!("{path} was answered with no page: {error}")),
            },
            409 | 410 => self.start_again(&said()).await,
            503 => {}
            _ => self.lines.ledger.broken(format!("{path} was answered {status}: {}", said())),
        }
        false
    }

    fn take(&mut self, page: &Page) -> bool {
        let ledger = &self.lines.ledger;
        ledger.page((&self.user, "reader"), self.cursor, page);
        let Self { user, cursor, .. } = self;
        if page.next_after < *cursor {
            ledger.broken(format!("{user}'s reader is sent back from {cursor} to {}", page.next_after));
        }
        // With nothing filtered and nothing pruned, the numbers are one after the other.
        let has_holes = self.lines.plan.pruning != Pruning::Never || self.lines.plan.restores();
        for (expected, change) in (*cursor + 1..).zip(&page.changes).filter(|_| !has_holes) {
            if change.server_id != expected {
                ledger.broken(format!("{user}'s reader was shown {} and not {expected}", change.server_id));
            }
        }
        self.seen.extend(page.changes.iter().map(|change| change.server_id));
        self.cursor = page.next_after;
        self.epoch = Some(page.epoch.clone());
        !page.has_more
    }

    /// From the rows as they are, whatever was before; or in another epoch, from the beginning.
    async fn start_again(&mut self, why: &str) {
        if !why.contains("history_pruned") && !self.lines.plan.restores() {
            self.lines.ledger.broken(format!("{}'s reader, at {}, was told {why}", self.user, self.cursor));
        }
        let Some((200, body)) = self.get("/sync/snapshot?limit=1").await else { return };
        let Ok(snapshot) = serde_json::from_slice::<Value>(&body) else { return };
        let as_of = snapshot["as_of"].as_i64().unwrap_or(0);
        let epoch = snapshot["epoch"].as_str().map(str::to_owned);
        if epoch != self.epoch {
            self.seen.clear();
            self.left_out = vec![(0, as_of)];
        } else {
            self.left_out.push((self.cursor, as_of));
        }
        (self.cursor, self.epoch) = (as_of, epoch);
        self.lines.ledger.count("readers start again");
    }

    async fn get(&mut self, path: &str) -> Option<(u16, Vec<u8>)> {
        self.requests += 1;
        let url = self.lines.nodes.url(self.requests)?;
        let answer = self.client.get(format!("{url}{path}")).bearer_auth(&self.token).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.bytes().await.ok()?.to_vec()))
    }
}
