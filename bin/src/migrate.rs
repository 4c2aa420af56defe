//! `outrigger migrate`

use std::io::{Write, stdout};

use outrigger_config::Config;

use crate::cli::MigrateArgs;
use crate::wire::{self, Examined};
use crate::{Outcome, RunError};

/// Applies the migrations that are missing, or says how many are.
pub(crate) async fn run(config: &Config, args: &MigrateArgs) -> Result<Outcome, RunError> {
    let (applied, known) = match wire::examine(config).await? {
        Examined::Memory => {
            return Err(RunError::Configuration("database_url: memory: has nothing to migrate".into()));
        }
        Examined::NoFile(known) => (0, known),
        Examined::Sqlite(found) => (found.migrations, found.migrations_known),
        Examined::Postgres(found) => (found.migrations, found.migrations_known),
    };
    let missing = known.saturating_sub(applied);
    if args.check && missing > 0 {
        say(&format!("{missing} of {known} migrations are missing"));
        return Ok(Outcome::Remaining);
    }
    if missing > 0 {
        wire::open(config).await?;
    }
    say(&match missing {
        0 => format!("the database is up to date: {known} migrations"),
        _ => format!("the database is up to date: {missing} of {known} migrations were applied"),
    });
    Ok(Outcome::Done)
}

fn say(line: &str) {
    // That nobody reads it is no failure.
    let _ = writeln!(stdout(), "{line}");
}
