//! Connections that stay open between calls, and are lent out for one at a time.
//!
//! The pool of sqlx asks a connection that comes back whether it is still there, which costs every call a second round
//! trip, and a task. Here a connection comes back only behind a call that ended in order, and is asked only if nobody has
//! used it for a while.

use std::time::Duration;

use deadpool::managed::{self, Manager, Metrics, Object, PoolError, QueueMode, RecycleResult, WeakPool};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::runtime::Handle;
use tokio::time::Instant;
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
    connection: PgConnection,
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
        Ok(Session { connection, opened_at: now, lent_at: now })
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<sqlx::Error> {
        if session.lent_at.elapsed() > TEST_AFTER_IDLE {
            session.connection.ping().await?;
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
    /// Connections that are lent out, and those that are being closed.
    away: TaskTracker,
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
        let pool = Self { sessions, max, patience, away: TaskTracker::new() };
        tokio::spawn(close_idle(pool.sessions.weak(), pool.away.clone()));
        pool
    }

    /// Lends a connection out.
    pub(crate) async fn lend(&self) -> Result<Lease, sqlx::Error> {
        let lent = tokio::time::timeout(self.patience, self.sessions.get()).await;
        match lent.unwrap_or(Err(PoolError::Timeout(managed::TimeoutType::Wait))) {
            Ok(session) => Ok(Lease { session: Some(session), reusable: false, away: self.away.token() }),
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Closed) => Err(sqlx::Error::PoolClosed),
            Err(PoolError::Timeout(_) | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => {
                Err(sqlx::Error::PoolTimedOut)
            }
        }
    }

    /// What is open now.
    pub(crate) fn in_use(&self) -> PoolUse {
        let status = self.sessions.status();
        PoolUse { idle: status.available, busy: status.size - status.available, max: self.max }
    }

    /// Closes all connections, waiting for the calls that are under way. Later ones fail.
    pub(crate) async fn close(&self) {
        close_all(self.sessions.retain(|_, _| false).removed, &self.away);
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
        &mut self.session.as_mut().expect("a lease has its session until it ends").connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let is_wanted = Object::pool(&session).is_some_and(|pool| !pool.is_closed());
        // Kept, it goes back to the pool by being dropped.
        if !(self.reusable && is_wanted && !session.is_worn()) {
            close_all([Object::take(session)], self.away.task_tracker());
        }
    }
}

/// Closes what has been idle or open for too long, until the pool is gone.
async fn close_idle(sessions: WeakPool<Connector>, away: TaskTracker) {
    let mut turns = tokio::time::interval(LOOK_EVERY);
    loop {
        turns.tick().await;
        let Some(sessions) = sessions.upgrade() else { return };
        let is_kept = |session: &Session, _| session.lent_at.elapsed() < IDLE_MAX && !session.is_worn();
        close_all(sessions.retain(is_kept).removed, &away);
    }
}

/// Takes leave of the database, which need not wait to find out then. Where no runtime is left, the connections just end.
fn close_all(sessions: impl IntoIterator<Item = Session>, away: &TaskTracker) {
    let Ok(runtime) = Handle::try_current() else { return };
    for Session { connection, .. } in sessions {
        away.spawn_on(
            async {
                match tokio::time::timeout(CLOSING_MAX, connection.close()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a connection did not close cleanly"),
                    Err(_) => tracing::debug!("a connection did not close in time"),
                }
            },
            &runtime,
        );
    }
}
