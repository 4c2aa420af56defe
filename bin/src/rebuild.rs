//! `outrigger materialize`: makes the rows of a business table what the sidecar has.

use std::fmt;
use std::io::{Write, stdout};
use std::str::FromStr;

use indicatif::ProgressBar;
use outrigger_application::ports::projection::{FailureFilter, ProjectionStore, RebuildCursor};
use outrigger_application::{Clock, Materialize, StoreError, SystemClock};
use outrigger_config::Config;
use outrigger_domain::{TableName, UserId};
use uuid::Uuid;

use crate::cli::MaterializeArgs;
use crate::wire::failed;
use crate::{Outcome, RunError, output, shutdown, wire};

/// Where to go on, as text: the key first, since a user's id may hold any character.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cursor(RebuildCursor);

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a cursor is PK:USER, as an interrupted run has printed it";
        let (pk, user) = text.split_once(':').ok_or(wrong)?;
        let (pk, user) = (Uuid::parse_str(pk).map_err(|_| wrong)?, UserId::parse(user).map_err(|_| wrong)?);
        Ok(Self(RebuildCursor { user, pk }))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.pk, self.0.user)
    }
}

/// Rebuilds the table step by step; when it is stopped or fails it says how to go on.
pub(crate) async fn run(config: &Config, args: &MaterializeArgs) -> Result<Outcome, RunError> {
    check(config, &args.rebuild)?;
    let store = wire::open_existing(config).await?.projection;
    let told_to_stop = shutdown::listen().map_err(|error| failed("cannot listen for signals", error))?;
    let bar = output::counter();
    let mut after = args.after.clone();
    let rebuilt = tokio::select! {
        rebuilt = passes(&*store, args, (&mut after, &bar)) => {
            rebuilt.map_err(|error| failed("the rebuild stopped", error))
        }
        // A step that is cut short is undone, or done again by the next run: both come to the same.
        () = told_to_stop => Err(RunError::Failed("stopped before all rows were rebuilt".into())),
    };
    let Pass { projected, failures } = rebuilt.inspect_err(|_| {
        bar.abandon();
        say_how_to_go_on(after.as_ref());
    })?;
    bar.finish_and_clear();
    let _ = writeln!(stdout(), "{}: {projected} rows rebuilt, {failures} failed", args.rebuild);
    Ok(if failures == 0 { Outcome::Done } else { Outcome::Remaining })
}

/// What has come of the rows behind a cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Pass {
    projected: u64,
    failures: u64,
}

/// Goes over the table, and once more over all of it as long as that helps: a row may need one that comes behind it, be
/// it a parent in the same table or a row that held its unique value.
async fn passes(
    store: &dyn ProjectionStore,
    args: &MaterializeArgs,
    (after, bar): (&mut Option<Cursor>, &ProgressBar),
) -> Result<Pass, StoreError> {
    let filter =
        FailureFilter { schema: Some(args.rebuild.schema().to_owned()), table: Some(args.rebuild.table().to_owned()) };
    let mut before = None;
    loop {
        let is_whole = after.is_none();
        let pass = pass(store, args, (after, bar)).await?;
        let is_done = if is_whole {
            pass.failures == 0 || before.is_some_and(|before| pass.failures >= before)
        } else {
            // What had failed before the cursor is not known but by what is recorded.
            store.all_failures(&filter, None, 1).await?.is_empty()
        };
        if is_done {
            return Ok(pass);
        }
        before = is_whole.then_some(pass.failures);
        *after = None;
    }
}

async fn pass(
    store: &dyn ProjectionStore,
    args: &MaterializeArgs,
    (after, bar): (&mut Option<Cursor>, &ProgressBar),
) -> Result<Pass, StoreError> {
    let mut pass = Pass::default();
    loop {
        let cursor = after.clone().map(|Cursor(cursor)| cursor);
        let step = store.rebuild(&args.rebuild, cursor, args.batch, SystemClock.now()).await?;
        pass.projected += step.projected;
        pass.failures += step.failed;
        bar.set_position(pass.projected + pass.failures);
        bar.set_message(format!("rebuilt, {} failed", pass.failures));
        match step.next {
            Some(next) => *after = Some(Cursor(next)),
            None => return Ok(pass),
        }
    }
}

fn check(config: &Config, table: &TableName) -> Result<(), RunError> {
    let refused = |why| Err(RunError::Configuration(format!("tables: {table} {why}")));
    match config.tables.iter().find(|config| config.table.name == *table) {
        None => refused("is not registered"),
        Some(config) if config.materialize == Materialize::Off => refused("has materialize = false"),
        Some(_) => Ok(()),
    }
}

fn say_how_to_go_on(after: Option<&Cursor>) {
    eprintln!("to go on: {}", command(std::env::args(), after));
}

/// The command line as it was given, from that cursor on.
fn command(arguments: impl Iterator<Item = String>, after: Option<&Cursor>) -> String {
    let mut words = Vec::new();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        if argument == "--after" {
            arguments.next();
        } else if !argument.starts_with("--after=") {
            words.push(quoted(&argument));
        }
    }
    words.extend(after.into_iter().flat_map(|cursor| ["--after".to_owned(), quoted(&cursor.to_string())]));
    words.join(" ")
}

/// The word as a POSIX shell reads it back. A password in it is not repeated: this may end up in a log.
fn quoted(word: &str) -> String {
    let (flag, value) = word.split_at(word.find("://").map_or(0, |_| word.find('=').map_or(0, |at| at + 1)));
    if value.contains("://") && value.contains('@') {
        return format!("{flag}\"$DATABASE_URL\"");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PK: &str = "550e8400-e29b-41d4-a716-446655440000";

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        for user in ["alice", "a:b c'd", "søster"] {
            let text = format!("{PK}:{user}");
            assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
        }
        for bad in ["", PK, "alice", &format!("{PK}:"), "x:alice"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_that_goes_on_is_the_one_that_was_given() {
        let after: Cursor = format!("{PK}:it's").parse().unwrap();
        let on = |line: &[&str]| command(line.iter().map(|word| (*word).to_owned()), Some(&after));
        let expected = format!(r"outrigger materialize --rebuild users --batch=5 --after '{PK}:it'\''s'");
        let given = ["outrigger", "materialize", "--rebuild", "users", "--batch=5"];
        assert_eq!(on(&given), expected);
        assert_eq!(on(&[given.as_slice(), &["--after", "x"]].concat()), expected);
        assert_eq!(on(&[given.as_slice(), &["--after=x"]].concat()), expected);
        assert_eq!(command(["a b".to_owned()].into_iter(), None), "'a b'");
    }

    #[test]
    fn the_command_that_goes_on_holds_no_password() {
        for word in ["postgres://u:hunter2@db/app", "--database-url=postgres://u:hunter2@db/app?a=b"] {
            let quoted = quoted(word);
            assert!(quoted.ends_with("\"$DATABASE_URL\"") && !quoted.contains("hunter2"), "{quoted}");
        }
        assert_eq!(quoted("--database-url=postgres://db/app"), "--database-url=postgres://db/app");
    }
}
