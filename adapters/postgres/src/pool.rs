//! Connections that stay open between calls, and are lent out for one at a time.
//!
//! The pool of sqlx asks a connection that comes back whether it is still there, which costs every call a second round
//! trip, and a task. Here a connection comes back only behind a call that ended in order, and is asked only if nobody has
//! used it for a while.

use std::time::Duration;

use deadpool::Status;
use deadpool::managed::{
    self, Manager, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType, WeakPool,
};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::error;
use crate::session::PoolUse;

/// A connection that was idle for longer is tested before it is lent out, so that those that a restart of the database
/// has cut, or a firewall silently dropped, do not fail a request. It bounds how long after the database's return a quiet
/// server may still fail. Busy connections are never idle for so long.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(2);
/// A connection that nobody has used for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// A connection that has been open for so long is replaced: what the database keeps for it in memory only grows.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// How often those are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What closing a connection may take, which is to say so to the database.
const CLOSING_MAX: Duration = Duration::from_secs(5);
/// Pauses between attempts to reach a database that is starting: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// An open connection.
#[derive(Debug)]
struct Session {
    /// None once it is being closed.
    connection: Option<PgConnection>,
    opened_at: Instant,
    /// When it was lent out for the last time.
    lent_at: Instant,
}

impl Session {
    fn is_worn(&self) -> bool {
        self.opened_at.elapsed() >= AGE_MAX
    }
}

#[derive(Debug)]
struct Connector {
    target: PgConnectOptions,
}

impl Manager for Connector {
    type Type = Session;
    type Error = sqlx::Error;

    /// A database that is starting or leaving is waited for, for as long as the caller does.
    async fn create(&self) -> Result<Session, sqlx::Error> {
        let (mut pause, longest) = PAUSES;
        let connection = loop {
            // Boxed, since every call carries the room for it along and few have to connect.
            match Box::pin(self.target.connect()).await {
                Err(error) if error::is_worth_another_attempt(&error) => tokio::time::sleep(pause).await,
                answer => break answer?,
            }
            pause = longest.min(pause * 2);
        };
        let now = Instant::now();
        Ok(Session { connection: Some(connection), opened_at: now, lent_at: now })
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<sqlx::Error> {
        let connection = session.connection.as_mut().ok_or(RecycleError::message("it is closed"))?;
        if session.lent_at.elapsed() > TEST_AFTER_IDLE {
            connection.ping().await?;
        }
        session.lent_at = Instant::now();
        Ok(())
    }
}

/// Some connections to one database. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    sessions: managed::Pool<Connector>,
    max: usize,
    /// How long a call waits for a connection.
    patience: Duration,
    /// Calls that have a connection or wait for one, and connections that are being closed.
    away: TaskTracker,
    closing: CancellationToken,
}

impl Pool {
    /// Opens up to `max` connections, when they are needed.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub(crate) fn new(target: PgConnectOptions, max: u32, patience: Duration) -> Self {
        let max = max as usize;
        // Those used last are lent out first: then what is not needed becomes idle, and is closed.
        let built = managed::Pool::builder(Connector { target }).max_size(max).queue_mode(QueueMode::Lifo).build();
        let sessions = built.expect("only timeouts of the pool's own would need a runtime");
        let pool = Self { sessions, max, patience, away: TaskTracker::new(), closing: CancellationToken::new() };
        tokio::spawn(close_idle(pool.sessions.weak(), pool.away.clone()));
        pool
    }

    /// Lends a connection out.
    pub(crate) async fn lend(&self) -> Result<Lease, sqlx::Error> {
        let away = self.away.token();
        let lent = tokio::select! {
            biased;
            lent = tokio::time::timeout(self.patience, self.sessions.get()) => {
                lent.unwrap_or(Err(PoolError::Timeout(TimeoutType::Wait)))
            }
            // Whoever waits for the database to come back.
            () = self.closing.cancelled() => Err(PoolError::Closed),
        };
        match lent {
            Ok(session) => Ok(Lease { session: Some(session), reusable: false, away }),
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Closed) => Err(sqlx::Error::PoolClosed),
            Err(PoolError::Timeout(_) | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => {
                Err(sqlx::Error::PoolTimedOut)
            }
        }
    }

    /// What is open now.
    pub(crate) fn in_use(&self) -> PoolUse {
        let Status { size, available, waiting, .. } = self.sessions.status();
        // A connection that is being opened does not count as one yet, and the call that it is for counts as waiting.
        PoolUse { idle: available, busy: (size - available + waiting).min(self.max), max: self.max }
    }

    /// Closes all connections, waiting for the calls that are under way. Later ones fail.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        for session in self.sessions.retain(|_, _| false).removed {
            spawn(&self.away, take_leave(session.connection));
        }
        self.sessions.close();
        self.away.close();
        self.away.wait().await;
    }
}

/// A connection lent out for one call. It goes back to the pool only when the call has ended in order.
///
/// A call that was dropped or went unanswered leaves the connection in the middle of a statement. Returned, it
/// would keep its place in the pool until the statement ends, or for good if the network is gone; closed, it
/// costs one new connection. The server rolls back or finishes what it was doing on its own.
pub(crate) struct Lease {
    session: Option<Object<Connector>>,
    /// Whether the call has ended in order.
    pub(crate) reusable: bool,
    away: TaskTrackerToken,
}

impl Lease {
    /// The connection.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        let connection = self.session.as_mut().and_then(|session| session.connection.as_mut());
        connection.expect("a lease has its connection until it ends")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let is_wanted = Object::pool(&session).is_some_and(|pool| !pool.is_closed());
        if self.reusable && is_wanted && !session.is_worn() {
            // It goes back to the pool by being dropped.
            return;
        }
        // Its place in the pool is free when it is closed, and not before: or there would be more of them than may be.
        spawn(self.away.task_tracker(), async move {
            let mut session = session;
            take_leave(session.connection.take()).await;
            drop(Object::take(session));
        });
    }
}

/// Closes what has been idle or open for too long, until the pool is gone.
async fn close_idle(sessions: WeakPool<Connector>, away: TaskTracker) {
    let mut turns = tokio::time::interval(LOOK_EVERY);
    loop {
        turns.tick().await;
        let Some(sessions) = sessions.upgrade() else { return };
        let is_kept = |session: &Session, _| session.lent_at.elapsed() < IDLE_MAX && !session.is_worn();
        for session in sessions.retain(is_kept).removed {
            spawn(&away, take_leave(session.connection));
        }
    }
}

/// Tells the database, which need not find out by itself then.
async fn take_leave(connection: Option<PgConnection>) {
    let Some(connection) = connection else { return };
    match tokio::time::timeout(CLOSING_MAX, connection.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection did not close cleanly"),
        Err(_) => tracing::debug!("a connection did not close in time"),
    }
}

/// Where no runtime is left, what is to be done is dropped, and its connection just ends.
fn spawn(away: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        away.spawn_on(task, &runtime);
    }
}
