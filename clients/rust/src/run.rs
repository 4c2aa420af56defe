//! The background task: syncs when there is a reason to, and waits longer and longer while the server is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::events::Event;
use crate::sync::Syncer;
use crate::{Error, state};

/// How often other connections' edits are looked for, and whether the app has ended its transaction.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After a sync that failed, at first and at the most. Each pause is random within it.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How long the server is left alone at the most, whatever it asks for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);
/// How long a server without an event stream is not asked for one.
const WATCH_AGAIN: Duration = Duration::from_secs(20);
/// How long an event stream may be silent: servers send something every 15 s. Behind that the line is dead.
const WATCH_SILENT: Duration = Duration::from_secs(50);

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

/// What the two tasks tell each other.
#[derive(Clone)]
struct Signals {
    /// The app has edited something.
    edited: Arc<Notify>,
    /// The server has something new.
    heard: Arc<Notify>,
    /// The server's events come in.
    is_listening: Arc<AtomicBool>,
    paused: watch::Receiver<bool>,
}

impl Background {
    /// Starts on the runtime of the caller. `edited` wakes it.
    pub(crate) fn start(syncer: Syncer, edited: Arc<Notify>) -> Self {
        let (paused, is_paused) = watch::channel(false);
        let signals = Signals { edited, heard: Arc::default(), is_listening: Arc::default(), paused: is_paused };
        let watching = tokio::spawn(listen(syncer.clone(), signals.clone()));
        let syncing = tokio::spawn(follow(syncer, signals));
        Self { tasks: [watching, syncing], paused }
    }

    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
    }
}

impl Signals {
    async fn until_paused(&mut self, paused: bool) {
        // Fails only when the task is about to be ended.
        let _ = self.paused.wait_for(|is| *is == paused).await;
    }
}

async fn follow(syncer: Syncer, mut signals: Signals) {
    let (mut failures, mut told) = (0_u32, None);
    let clock = Arc::clone(&syncer.config.clock);
    loop {
        signals.until_paused(false).await;
        match syncer.sync_once().await {
            Ok(_) => {
                if told.take().is_some() {
                    syncer.tell(Event::Online);
                }
                failures = 0;
                wait(&syncer, &signals).await;
            }
            Err(Error::Closed) => return,
            Err(Error::Busy(_)) => clock.sleep(LOOK_EVERY).await,
            Err(error) => {
                tracing::debug!(%error, "a sync failed");
                let is_offline = matches!(error, Error::Offline { .. });
                if told.replace(is_offline) != Some(is_offline) {
                    let why = error.to_string();
                    syncer.tell(if is_offline { Event::Offline(why) } else { Event::Failed(why) });
                }
                failures += 1;
                clock.sleep(pause(failures, &error)).await;
            }
        }
    }
}

/// How long to wait after so many failures, of which this is the last.
fn pause(failures: u32, error: &Error) -> Duration {
    let longest = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
    let pause = longest.mul_f64(0.5 + fastrand::f64() / 2.0);
    match error {
        // Not all devices at the same moment.
        Error::Offline { retry_after: Some(after), .. } => {
            pause.max((*after).min(RETRY_AFTER_MAX).mul_f64(1.0 + fastrand::f64() / 4.0))
        }
        _ => pause,
    }
}

/// Waits for an edit, for news, or, where the server does not tell them, for the time to ask.
async fn wait(syncer: &Syncer, signals: &Signals) {
    let clock = &syncer.config.clock;
    loop {
        let mut poll = clock.sleep(syncer.config.poll_every);
        loop {
            tokio::select! {
                () = signals.edited.notified() => {}
                () = signals.heard.notified() => return,
                () = &mut poll => break,
                () = clock.sleep(LOOK_EVERY) => {}
            }
            // The app has worked with the connection, to read or to write; edits on other connections tell nobody.
            if syncer.waiting().await.is_ok_and(|now| now.ready > 0) {
                return;
            }
        }
        // What is held gets its turn then too.
        if !signals.is_listening.load(Ordering::Relaxed) || syncer.waiting().await.is_ok_and(|now| now.waiting > 0) {
            return;
        }
    }
}

/// Listens to the server's events, as long as it has any.
async fn listen(syncer: Syncer, mut signals: Signals) {
    let (clock, mut failures) = (Arc::clone(&syncer.config.clock), 0);
    loop {
        signals.until_paused(false).await;
        let cursor = syncer.database.run(|connection| state::get::<i64>(connection, state::CURSOR)).await;
        let path = match cursor {
            Err(Error::Closed) => return,
            // Without a cursor from the beginning: what comes before the stream is open is told then too.
            cursor => format!("/sync/watch?after={}", cursor.ok().flatten().unwrap_or(0)),
        };
        let pause = match syncer.remote.watch(path).await {
            Ok(Some(lines)) => {
                failures = 0;
                signals.is_listening.store(true, Ordering::Relaxed);
                hear(&*clock, lines, &mut signals).await;
                signals.is_listening.store(false, Ordering::Relaxed);
                BACKOFF_MIN.mul_f64(1.0 + fastrand::f64())
            }
            Ok(None) => WATCH_AGAIN.mul_f64(0.5 + fastrand::f64() / 2.0),
            Err(error) => {
                failures += 1;
                pause(failures, &error)
            }
        };
        clock.sleep(pause).await;
    }
}

/// Until the stream ends, falls silent, or is not wanted.
async fn hear(clock: &dyn Clock, mut lines: BoxStream<'static, String>, signals: &mut Signals) {
    let heard = Arc::clone(&signals.heard);
    loop {
        tokio::select! {
            line = lines.next() => match line {
                // Whatever it says: there may be something new. Comments only say that the line is open.
                Some(line) if line.starts_with("data:") => heard.notify_one(),
                Some(_) => {}
                None => return,
            },
            () = clock.sleep(WATCH_SILENT) => return,
            () = signals.until_paused(true) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_at_random_up_to_a_minute_and_are_not_shorter_than_the_server_wants() {
        let offline = |retry_after| Error::Offline { why: String::new(), retry_after };
        for (failures, longest) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (40, 60), (u32::MAX, 60)] {
            let longest = Duration::from_secs(longest);
            let pauses: Vec<Duration> = (0..100).map(|_| pause(failures, &offline(None))).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)), "{failures}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "at random");
        }
        let asked = |seconds| pause(1, &offline(Some(Duration::from_secs(seconds))));
        for _ in 0..100 {
            assert!((Duration::from_secs(120)..=Duration::from_secs(150)).contains(&asked(120)));
            assert!(asked(0) <= Duration::from_secs(1));
            assert!(asked(u64::MAX) <= RETRY_AFTER_MAX.mul_f64(1.25));
        }
    }
}
