//! The background task: syncs when there is a reason to, and waits longer and longer while the server is away.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::events::Event;
use crate::sync::Syncer;
use crate::{Error, state};

/// How often other connections' edits are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After a sync that failed, at first and at the most. Each pause is random within it.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How long a watch that cannot be opened is left alone.
const WATCH_AGAIN: Duration = Duration::from_secs(20);

/// A running background task. It ends when this is dropped.
pub(crate) struct Background {
    tasks: [JoinHandle<()>; 2],
    paused: watch::Sender<bool>,
}

impl Drop for Background {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Background {
    /// Starts on the runtime of the caller. `edited` wakes it.
    pub(crate) fn start(syncer: Syncer, edited: Arc<Notify>) -> Self {
        let (paused, is_paused) = watch::channel(false);
        let heard = Arc::new(Notify::new());
        let watching = tokio::spawn(listen(syncer.clone(), Arc::clone(&heard), is_paused.clone()));
        let syncing = tokio::spawn(follow(syncer, edited, heard, is_paused));
        Self { tasks: [watching, syncing], paused }
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }
}

async fn unpaused(paused: &mut watch::Receiver<bool>) {
    // Fails only when the task is about to be ended.
    let _ = paused.wait_for(|paused| !*paused).await;
}

async fn follow(syncer: Syncer, edited: Arc<Notify>, heard: Arc<Notify>, mut paused: watch::Receiver<bool>) {
    let (mut failures, mut offline) = (0_u32, false);
    loop {
        unpaused(&mut paused).await;
        match syncer.sync_once().await {
            Ok(_) => {
                if std::mem::take(&mut offline) {
                    syncer.tell(Event::Online);
                }
                failures = 0;
                wait(&syncer, &edited, &heard).await;
            }
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::debug!(%error, "a sync failed");
                if !std::mem::replace(&mut offline, true) {
                    syncer.tell(Event::Offline(error.to_string()));
                }
                failures += 1;
                let longest = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
                sleep(longest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            }
        }
    }
}

/// Waits for an edit, for news, or for the time to look for changes without any.
async fn wait(syncer: &Syncer, edited: &Notify, heard: &Notify) {
    let poll_at = Instant::now() + syncer.config.poll_every;
    loop {
        tokio::select! {
            () = edited.notified() => return,
            () = heard.notified() => return,
            () = sleep_until(poll_at) => return,
            () = sleep(LOOK_EVERY) => {}
        }
        // Edits on other connections tell nobody. What is held waits for the next sync anyway.
        if syncer.waiting().await.is_ok_and(|(_, ready)| ready > 0) {
            return;
        }
    }
}

/// Listens to the server's events, as long as it has any.
async fn listen(syncer: Syncer, heard: Arc<Notify>, mut paused: watch::Receiver<bool>) {
    loop {
        unpaused(&mut paused).await;
        let cursor = syncer.database.run(|connection| state::get::<i64>(connection, state::CURSOR)).await;
        let path = match cursor {
            Err(Error::Closed) => return,
            Ok(Some(cursor)) => format!("/sync/watch?after={cursor}"),
            _ => "/sync/watch".to_owned(),
        };
        if let Ok(mut events) = syncer.remote.watch(path).await {
            while let Some(text) = events.next().await {
                // Whatever it says: there may be something new. Comments only say that the line is open.
                if text.contains("data:") {
                    heard.notify_one();
                }
            }
            sleep(BACKOFF_MIN.mul_f64(1.0 + fastrand::f64())).await;
        } else {
            sleep(WATCH_AGAIN.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }
}
