//! `outrigger failures`: what could not be projected, and trying it again.

use std::io::{self, Write, stdout};

use outrigger_application::ports::projection::{Failure, FailureFilter, ProjectionStore, Retried};
use outrigger_application::ports::store::StoreError;
use outrigger_domain::UserId;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::cli::{ListArgs, RetryArgs};
use crate::wire::failed;
use crate::{Outcome, RunError, output};

/// Failures that are fetched at once. Each may hold a payload of a megabyte.
const PAGE: u32 = 100;

/// `failures list`
pub(crate) async fn list(store: &dyn ProjectionStore, args: &ListArgs) -> Result<Outcome, RunError> {
    let mut filter = args.table.clone().unwrap_or_default();
    if let Some(schema) = &args.schema {
        if filter.schema.as_ref().is_some_and(|named| named != schema) {
            return Err(RunError::Configuration("--schema is one and --table names another".into()));
        }
        filter.schema = Some(schema.clone());
    }
    let mut pages = Pages::new(store, args.user.as_ref(), filter);
    let mut rows = Vec::new();
    let mut left = args.limit;
    while left > 0 {
        let page = pages.next(left.min(PAGE)).await.map_err(cannot)?;
        if page.is_empty() {
            break;
        }
        left = left.saturating_sub(u32::try_from(page.len()).unwrap_or(u32::MAX));
        if args.json {
            output::unless_closed(json_lines(&page)).map_err(|error| failed("cannot write", error))?;
        } else {
            rows.extend(page.iter().map(cells));
        }
    }
    let more = left == 0 && !pages.next(1).await.map_err(cannot)?.is_empty();
    if !args.json {
        let heading = ["USER", "ID", "TABLE", "PK", "VERSION", "OP", "RETRIES", "FIRST SEEN", "ERROR"];
        let written = output::table(&mut stdout().lock(), heading, &rows);
        output::unless_closed(written).map_err(|error| failed("cannot write", error))?;
    }
    if more {
        eprintln!("there are more than {}: raise --limit", args.limit);
    }
    Ok(Outcome::Done)
}

/// `failures retry`
pub(crate) async fn retry(store: &dyn ProjectionStore, args: &RetryArgs) -> Result<Outcome, RunError> {
    if let (Some(id), Some(user)) = (args.id, &args.user) {
        return retry_one(store, user, id).await;
    }
    let mut pages = Pages::new(store, args.user.as_ref(), args.table.clone().unwrap_or_default());
    // Those that are there now, by their names alone: what failed again is not tried for ever.
    let mut found: Vec<(UserId, i64)> = Vec::new();
    loop {
        let page = pages.next(PAGE).await.map_err(cannot)?;
        if page.is_empty() {
            break;
        }
        found.extend(page.into_iter().map(|failure| (failure.user, failure.id)));
    }
    let bar = output::bar(found.len() as u64).with_message("tried again");
    let mut remaining = 0_usize;
    for (user, id) in &found {
        let remains = match store.retry(user, *id).await {
            // One that has gone was cleared with another failure of its row, or by the server.
            Ok(Retried::Materialized | Retried::Unknown) => false,
            Ok(Retried::Failed(_) | Retried::InProgress) | Err(StoreError::Contention) => true,
            Err(error) => {
                bar.abandon();
                return Err(cannot(error));
            }
        };
        remaining += usize::from(remains);
        bar.inc(1);
    }
    bar.finish_and_clear();
    say(&format!("{} materialized, {remaining} remaining", found.len() - remaining));
    Ok(if remaining == 0 { Outcome::Done } else { Outcome::Remaining })
}

async fn retry_one(store: &dyn ProjectionStore, user: &UserId, id: i64) -> Result<Outcome, RunError> {
    match store.retry(user, id).await.map_err(cannot)? {
        Retried::Materialized => {
            say("1 materialized, 0 remaining");
            Ok(Outcome::Done)
        }
        Retried::Failed(failure) => {
            let error = output::one_line(&failure.error);
            say(&format!("0 materialized, 1 remaining, tried again {} times: {error}", failure.retry_count));
            Ok(Outcome::Remaining)
        }
        Retried::Unknown => Err(RunError::Failed(format!("the user {user} has no failure {id}"))),
        Retried::InProgress => Err(RunError::Failed(format!("failure {id} is being tried again right now"))),
    }
}

/// Failures, page by page, of one user or of all.
struct Pages<'a> {
    store: &'a dyn ProjectionStore,
    user: Option<&'a UserId>,
    filter: FailureFilter,
    after: Option<(UserId, i64)>,
}

impl<'a> Pages<'a> {
    fn new(store: &'a dyn ProjectionStore, user: Option<&'a UserId>, filter: FailureFilter) -> Self {
        Self { store, user, filter, after: None }
    }

    /// The next ones; none at the end.
    async fn next(&mut self, limit: u32) -> Result<Vec<Failure>, StoreError> {
        let page = match self.user {
            Some(user) => {
                let after = self.after.as_ref().map_or(0, |(_, id)| *id);
                self.store.failures(user, &self.filter, after, limit).await?
            }
            None => self.store.all_failures(&self.filter, self.after.clone(), limit).await?,
        };
        if let Some(last) = page.last() {
            self.after = Some((last.user.clone(), last.id));
        }
        Ok(page)
    }
}

/// A failure as a program reads it: what the API shows of it, and whose it is.
#[derive(Serialize)]
struct Line<'a> {
    user: &'a str,
    id: i64,
    schema: &'a str,
    table: &'a str,
    pk: uuid::Uuid,
    attempted_version: i64,
    op: &'static str,
    payload: Option<&'a RawValue>,
    error: &'a str,
    first_seen: String,
    retry_count: i64,
}

impl<'a> From<&'a Failure> for Line<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self {
            user: failure.user.as_str(),
            id: failure.id,
            schema: failure.row.table.schema(),
            table: failure.row.table.table(),
            pk: failure.row.pk,
            attempted_version: failure.attempted_version.0,
            op: failure.op.as_str(),
            payload: failure.payload.as_ref().map(|payload| payload.as_raw()),
            error: &failure.error,
            first_seen: failure.first_seen.to_string(),
            retry_count: failure.retry_count,
        }
    }
}

fn json_lines(page: &[Failure]) -> io::Result<()> {
    let mut stdout = stdout().lock();
    for failure in page {
        serde_json::to_writer(&mut stdout, &Line::from(failure))?;
        stdout.write_all(b"\n")?;
    }
    Ok(())
}

fn cells(failure: &Failure) -> [String; 9] {
    [
        failure.user.to_string(),
        failure.id.to_string(),
        failure.row.table.to_string(),
        failure.row.pk.to_string(),
        failure.attempted_version.0.to_string(),
        failure.op.as_str().to_owned(),
        failure.retry_count.to_string(),
        failure.first_seen.to_string(),
        output::one_line(&failure.error),
    ]
}

fn say(line: &str) {
    // That nobody reads it changes nothing of what was done.
    let _ = writeln!(stdout(), "{line}");
}

fn cannot(error: StoreError) -> RunError {
    failed("the database cannot be used", error)
}
