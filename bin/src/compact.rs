//! `outrigger compact` and `outrigger restore-mark`: what becomes of streams in the long run.

use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::Duration;

use outrigger_application::retention::{Report, RetentionAges};
use outrigger_application::{Retention, RetentionStore, SystemClock};
use outrigger_config::Config;

use crate::cli::{CompactArgs, RestoreMarkArgs};
use crate::wire::failed;
use crate::{Outcome, RunError, output, shutdown, wire};

/// Between two steps of a sweep in the background: with steps of some milliseconds it takes a tenth of a connection.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// Between two steps of a sweep that somebody waits for: uploads that have come meanwhile are ahead of the next one.
const PAUSE_ON_DEMAND: Duration = Duration::from_millis(5);

/// Sweeps as the configuration has it.
pub(crate) fn retention(config: &Config, store: Arc<dyn RetentionStore>, pause: Duration) -> Retention {
    let ages = &config.settings.retention;
    let ages = RetentionAges {
        superseded: ages.superseded_after.0,
        tombstones: ages.tombstones_after.0,
        keys: ages.keys_after.0,
    };
    Retention::new(store, Arc::new(SystemClock), ages, pause)
}

/// Sweeps every stream that has something to go, or one.
pub(crate) async fn run(config: &Config, args: &CompactArgs) -> Result<Outcome, RunError> {
    let store = wire::open_existing(config).await?.retention;
    let told_to_stop = shutdown::listen().map_err(|error| failed("cannot listen for signals", error))?;
    let retention = retention(config, store, PAUSE_ON_DEMAND);
    let bar = output::counter();
    let work = async {
        match &args.user {
            Some(user) => retention.sweep_user(user).await,
            None => {
                let progress = |report: &Report| {
                    bar.set_position(report.superseded + report.tombstones);
                    bar.set_message(format!("cleared, {} users", report.users));
                };
                retention.sweep(Duration::ZERO, progress).await
            }
        }
    };
    let report = tokio::select! {
        report = work => report.map_err(|error| failed("the sweep stopped", error))?,
        // A step that is cut short is undone or done; the next run goes on.
        () = told_to_stop => {
            bar.abandon();
            return Err(RunError::Failed("stopped before all streams were swept; run it again to go on".into()));
        }
    };
    bar.finish_and_clear();
    let Report { users, superseded, tombstones, keys, failed } = report;
    let _ = writeln!(
        stdout(),
        "{users} users swept: {superseded} superseded entries, {tombstones} deletions and {keys} keys cleared"
    );
    if failed > 0 {
        return Err(RunError::Failed(format!("{failed} users could not be swept; the log says why")));
    }
    Ok(Outcome::Done)
}

/// Begins another epoch of every stream.
pub(crate) async fn restore_mark(config: &Config, args: &RestoreMarkArgs) -> Result<Outcome, RunError> {
    let store = wire::open_existing(config).await?.retention;
    let epoch = store.restore_mark(args.skip).await.map_err(|error| failed("nothing was marked", error))?;
    let _ = writeln!(stdout(), "every stream has begun the epoch {epoch}: devices start again from a snapshot");
    Ok(Outcome::Done)
}
