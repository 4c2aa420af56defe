//! News from node to node, by LISTEN and NOTIFY.
//!
//! A node hears on a connection of its own and tells by statements of its own, never inside an upload: a NOTIFY takes a
//! lock of the whole database when it commits. What is to be told while a statement is under way is folded into the next
//! one, a user once. A node that has heard of no other one for a while tells nobody.
//!
//! None of this is relied on. While a node cannot hear, and now and then in any case, it looks up where the streams end
//! that somebody waits for.

mod message;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_application::{Hub, News, Notifier};
use outrigger_domain::{ServerSeq, UserId};
use sqlx::Row;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::PostgresStore;
use crate::session::Sessions;
use message::Message;

const CHANNEL: &str = "outrigger_news";
/// How often a node says that it is there. It hears itself, too: that is how it knows that it can hear.
const HELLO_EVERY: Duration = Duration::from_secs(5);
/// Without a word for that long a connection counts as lost, and a node that was heard of as gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How often a node looks for itself while it can hear, and while it cannot.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const LOOK_EVERY_DEAF: Duration = Duration::from_secs(1);
/// Between two attempts to connect again.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// Users told of by one statement, and looked up by one.
const USERS_MAX: usize = 500;

const TELL: &str = "SELECT pg_notify($1, word) FROM unnest($2::text[]) AS w (word)";
const LOOK: &str = "SELECT user_id, last_server_id FROM sync.user_stream WHERE user_id = ANY ($1)";

/// Carries news between the nodes on one database. Cheap to clone.
#[derive(Clone)]
pub struct PostgresNews {
    inner: Arc<Inner>,
}

struct Inner {
    node: Uuid,
    hub: Hub,
    sessions: Sessions,
    target: PgConnectOptions,
    began: Instant,
    /// What is to be told to other nodes, a user once.
    untold: Mutex<HashMap<UserId, News>>,
    wake: Notify,
    is_deaf: AtomicBool,
    /// When another node was last heard of, in milliseconds since the beginning; at first 0.
    heard_other_at: AtomicU64,
}

impl PostgresStore {
    /// Carries news between this node's hub and those of other nodes on the database, as long as it is
    /// [run](PostgresNews::run).
    pub fn news(&self, hub: Hub) -> PostgresNews {
        PostgresNews {
            inner: Arc::new(Inner {
                node: Uuid::new_v4(),
                hub,
                sessions: self.sessions.clone(),
                target: self.target.clone(),
                began: Instant::now(),
                untold: Mutex::default(),
                wake: Notify::new(),
                is_deaf: AtomicBool::new(true),
                heard_other_at: AtomicU64::new(0),
            }),
        }
    }
}

impl Notifier for PostgresNews {
    fn announce(&self, news: News) {
        if self.inner.has_company() {
            self.inner.put(news.clone());
            self.inner.wake.notify_one();
        }
        self.inner.hub.announce(news);
    }
}

impl PostgresNews {
    /// Hears, tells and looks until it is dropped.
    pub async fn run(&self) {
        tokio::join!(self.inner.hear(), self.inner.tell(), self.inner.say_hello(), self.inner.look());
    }
}

impl Inner {
    /// Whether anybody else may be listening. A node that is deaf, or has not been there for long, cannot know.
    fn has_company(&self) -> bool {
        let silence_ms = SILENCE_MAX.as_millis() as u64;
        let heard_at = self.heard_other_at.load(Ordering::Relaxed);
        self.is_deaf.load(Ordering::Relaxed) || self.now_ms() < heard_at + silence_ms
    }

    fn now_ms(&self) -> u64 {
        1 + self.began.elapsed().as_millis() as u64
    }

    fn put(&self, news: News) {
        let mut untold = self.untold();
        let known = untold.entry(news.user.clone()).or_insert_with(|| news.clone());
        // What lies between the two is told by somebody else.
        if known.only != news.only || news.after > known.head || news.head < known.after {
            known.only = None;
        }
        known.after = known.after.min(news.after);
        known.head = known.head.max(news.head);
    }

    fn untold(&self) -> MutexGuard<'_, HashMap<UserId, News>> {
        // Nothing that can panic runs under the lock.
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what is to be told, again and again: one statement at a time.
    async fn tell(&self) {
        loop {
            self.wake.notified().await;
            loop {
                let words: Vec<String> = {
                    let mut untold = self.untold();
                    let users: Vec<UserId> = untold.keys().take(USERS_MAX).cloned().collect();
                    let told = users.iter().filter_map(|user| untold.remove(user));
                    told.map(|news| Message::News(news).to_text(self.node)).collect()
                };
                if words.is_empty() {
                    break;
                }
                self.say(&words).await;
            }
        }
    }

    async fn say_hello(&self) {
        loop {
            self.say(&[Message::Hello.to_text(self.node)]).await;
            sleep(HELLO_EVERY).await;
        }
    }

    /// What cannot be said is lost: the others look for themselves.
    async fn say(&self, words: &[String]) {
        let statement = sqlx::query(TELL).bind(CHANNEL).bind(words);
        if let Err(error) = self.sessions.rows(statement).await {
            tracing::debug!(%error, "other nodes cannot be told of changes now");
        }
    }

    /// Hears what other nodes tell, on one connection after another.
    async fn hear(&self) {
        loop {
            if let Err(error) = self.hear_on_one_connection().await {
                tracing::debug!(%error, "other nodes cannot be heard now");
            }
            if !self.is_deaf.swap(true, Ordering::Relaxed) {
                tracing::warn!("the connection on which other nodes are heard is lost; looking for changes instead");
            }
            sleep(RECONNECT_AFTER).await;
        }
    }

    /// Returns when the connection is lost, or has been silent for too long: a node hears at least itself.
    async fn hear_on_one_connection(&self) -> Result<(), sqlx::Error> {
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(self.target.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        // What came before is not heard any more, so it has to be looked for.
        self.look_once().await;
        // Nor can it be known who is there: those that are say so within a moment.
        self.heard_other_at.store(self.now_ms(), Ordering::Relaxed);
        if self.is_deaf.swap(false, Ordering::Relaxed) {
            tracing::debug!("other nodes can be heard");
        }
        while let Ok(Some(heard)) = timeout(SILENCE_MAX, listener.try_recv()).await.unwrap_or(Ok(None)) {
            self.take(heard.payload());
        }
        Ok(())
    }

    fn take(&self, text: &str) {
        let Some((node, message)) = Message::parse(text) else { return };
        if node == self.node {
            return;
        }
        self.heard_other_at.store(self.now_ms(), Ordering::Relaxed);
        if let Message::News(news) = message {
            self.hub.announce(news);
        }
    }

    async fn look(&self) {
        loop {
            let is_deaf = self.is_deaf.load(Ordering::Relaxed);
            sleep(if is_deaf { LOOK_EVERY_DEAF } else { LOOK_EVERY }).await;
            self.look_once().await;
        }
    }

    /// Announces where the streams end that anybody waits for. Those that have not moved are no news to the hub.
    async fn look_once(&self) {
        for users in self.hub.users().chunks(USERS_MAX) {
            let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
            let rows = match self.sessions.rows(sqlx::query(LOOK).bind(users)).await {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::debug!(%error, "changes cannot be looked for now");
                    return;
                }
            };
            for row in rows {
                let user = row.try_get(0).ok().and_then(|user| UserId::parse(user).ok());
                if let (Some(user), Ok(head)) = (user, row.try_get(1)) {
                    let head = ServerSeq(head);
                    self.hub.announce(News { user, after: head, head, only: None });
                }
            }
        }
    }
}
