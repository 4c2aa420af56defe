//! The bound on the time that a projection takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// How many instructions of SQLite's virtual machine run between two looks at the clock: some ten microseconds.
const INSTRUCTIONS: i32 = 1_000;
const NEVER: u64 = u64::MAX;

/// A moment after which what runs on a connection is interrupted, or none.
///
/// An interrupted statement that writes takes its whole transaction with it.
pub(super) struct Deadline {
    start: Instant,
    at_nanos: Arc<AtomicU64>,
}

impl Deadline {
    /// Watches a connection, without a deadline for now.
    pub(super) fn watch(connection: &Connection) -> rusqlite::Result<Self> {
        let deadline = Self { start: Instant::now(), at_nanos: Arc::new(AtomicU64::new(NEVER)) };
        let (start, at_nanos) = (deadline.start, Arc::clone(&deadline.at_nanos));
        let is_over = move || {
            let at = at_nanos.load(Ordering::Relaxed);
            at != NEVER && nanos(start.elapsed()) >= at
        };
        connection.progress_handler(INSTRUCTIONS, Some(is_over))?;
        Ok(deadline)
    }

    /// Runs something that may take that long. What it took is taken off the budget.
    pub(super) fn within<T>(&self, limit: Duration, budget: &mut Duration, run: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        self.at_nanos.store(nanos(self.start.elapsed() + limit), Ordering::Relaxed);
        let result = run();
        self.at_nanos.store(NEVER, Ordering::Relaxed);
        *budget = budget.saturating_sub(began.elapsed());
        result
    }

    /// How long until then.
    pub(super) fn remaining(&self) -> Duration {
        Duration::from_nanos(self.at_nanos.load(Ordering::Relaxed)).saturating_sub(self.start.elapsed())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER - 1)
}
