//! A device: an app's SQLite on the real client library, and a user who works on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outrigger_client::{Client, Config, Conflicts, Error, Report};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::plan::{DevicePlan, Policy, Step};
use super::proxy::Lines;
use super::tokens::token;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, name TEXT, age INTEGER, email TEXT);
CREATE TABLE IF NOT EXISTS posts (
    id TEXT PRIMARY KEY, title TEXT, author_id TEXT REFERENCES users (id) ON DELETE CASCADE
);";

/// A running device.
pub(crate) struct Device {
    pub(crate) plan: DevicePlan,
    lines: Arc<Lines>,
    path: PathBuf,
    url: String,
    client: Client,
    /// Points of the client at which it may die.
    points: Arc<AtomicU64>,
}

impl Device {
    /// A device with an empty database in that folder.
    pub(crate) async fn start(lines: &Arc<Lines>, folder: &std::path::Path, plan: DevicePlan) -> Result<Self, String> {
        let url = lines.open(&plan).await.map_err(|error| error.to_string())?;
        let path = folder.join(format!("{}.db", plan.name()));
        let points = Arc::new(AtomicU64::new(0));
        let client = open(lines, &path, (&url, &plan), &points)?;
        Ok(Self { plan, lines: Arc::clone(lines), path, url, client, points })
    }

    /// Does all that the plan has for it.
    pub(crate) async fn live(&mut self) -> Result<(), String> {
        if self.plan.is_background {
            self.client.start();
        }
        for step in self.plan.steps.clone() {
            match step {
                Step::Edit(sql) => {
                    let done = self.client.with(|connection| connection.execute_batch(&sql));
                    done.map_err(|error| format!("{}: {sql}: {error}", self.plan.name()))?;
                }
                Step::Sync if self.plan.is_background => {}
                Step::Sync => drop(self.sync().await?),
                Step::Pause(ms) => sleep(Duration::from_millis(ms)).await,
                Step::Restart => self.restart()?,
            }
        }
        Ok(())
    }

    /// Ends the background task, as an app does that only syncs when told to from now on.
    pub(crate) fn calm(&mut self) -> Result<(), String> {
        self.plan.is_background = false;
        self.restart()
    }

    /// Syncs once. None if the server could not be reached, or the app died on the way and was started again.
    pub(crate) async fn sync(&mut self) -> Result<Option<Report>, String> {
        match self.client.sync_once().await {
            Ok(report) => Ok(Some(report)),
            Err(Error::Offline { .. }) => {
                self.lines.ledger.count("syncs offline");
                Ok(None)
            }
            Err(Error::Stopped(_)) => {
                self.lines.ledger.count("device crashes");
                self.restart()?;
                Ok(None)
            }
            Err(error) => Err(format!("{} of {}: {error}", self.plan.name(), self.plan.user_name())),
        }
    }

    /// Removes what can never go up, as an app does: posts whose author is gone, and changes that were put aside for
    /// that. Gives how many there were.
    pub(crate) fn tidy(&self) -> Result<usize, String> {
        let aside = self.client.aside().map_err(|error| error.to_string())?;
        for aside in &aside {
            if aside.reason != "fk_missing" {
                return Err(format!("{} has put aside {aside:?}", self.plan.name()));
            }
            self.client.forget_aside(aside.id).map_err(|error| error.to_string())?;
        }
        let orphans = "DELETE FROM posts WHERE author_id IS NOT NULL AND author_id NOT IN (SELECT id FROM users)";
        let removed = self.client.with(|connection| connection.execute(orphans, []));
        removed.map(|removed| removed + aside.len()).map_err(|error| error.to_string())
    }

    /// All rows, by table and key.
    pub(crate) fn rows(&self) -> Result<BTreeMap<(String, String), Value>, String> {
        let read = |connection: &mut Connection| {
            let mut rows = BTreeMap::new();
            let mut users = connection.prepare("SELECT id, name, age, email FROM users")?;
            let mut all = users.query([])?;
            while let Some(row) = all.next()? {
                let image = json!({"name": row.get::<_, Option<String>>(1)?, "age": row.get::<_, Option<i64>>(2)?,
                                   "email": row.get::<_, Option<String>>(3)?});
                rows.insert(("users".to_owned(), row.get(0)?), image);
            }
            let mut posts = connection.prepare("SELECT id, title, author_id FROM posts")?;
            let mut all = posts.query([])?;
            while let Some(row) = all.next()? {
                let image = json!({"title": row.get::<_, Option<String>>(1)?,
                                   "author_id": row.get::<_, Option<String>>(2)?});
                rows.insert(("posts".to_owned(), row.get(0)?), image);
            }
            Ok(rows)
        };
        self.client.with(read).map_err(|error| format!("{}: {error}", self.plan.name()))
    }

    fn restart(&mut self) -> Result<(), String> {
        self.client.stop();
        // What still runs of the old one finds its database gone.
        drop(self.client.clone().close());
        self.client = open(&self.lines, &self.path, (&self.url, &self.plan), &self.points)?;
        if self.plan.is_background {
            self.client.start();
        }
        Ok(())
    }
}

fn open(
    lines: &Arc<Lines>,
    path: &std::path::Path,
    (url, plan): (&str, &DevicePlan),
    points: &Arc<AtomicU64>,
) -> Result<Client, String> {
    let token = token(&plan.user_name(), &plan.source())?;
    let conflicts = match plan.policy {
        Policy::ServerWins => Conflicts::ServerWins,
        Policy::ClientWins => Conflicts::ClientWins,
        Policy::MergeFields => Conflicts::MergeFields,
    };
    let (dying, points, number) = (Arc::clone(lines), Arc::clone(points), plan.number);
    let config = Config::new(url, move || {
        let token = token.clone();
        async move { Ok(token) }
    });
    let config = config
        .table("posts")
        .table("users")
        .conflicts(conflicts)
        .poll_every(Duration::from_millis(500))
        .failpoint(move |_| !dying.is_calm() && dying.plan.dies(number, points.fetch_add(1, Ordering::SeqCst)));
    let open = || {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // The device's process dies here, its system never does.
        connection.pragma_update(None, "synchronous", "off")?;
        connection.execute_batch(SCHEMA)?;
        Ok(connection)
    };
    loop {
        let connection = open().map_err(|error: rusqlite::Error| format!("{}: {error}", path.display()))?;
        match Client::open(connection, config.clone()) {
            // It died before it was up, and is started again.
            Err(Error::Stopped(_)) => lines.ledger.count("device crashes"),
            opened => return opened.map_err(|error| format!("{}: {error}", path.display())),
        }
    }
}
