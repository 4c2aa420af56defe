//! `outrigger doctor`: what is wrong, before a user finds out.

use std::io::{self, Write, stdout};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use outrigger_application::ports::projection::FailureFilter;
use outrigger_application::{Clock, SystemClock};
use outrigger_config::{Config, DatabaseUrl};
use outrigger_jwt::RemoteKeys;
use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::edge;
use crate::wire::{self, Examined, PostgresExamined, Store, failed};
use crate::{Outcome, RunError, output, ping};

/// Clocks of the nodes and the database may differ by so much without anybody noticing.
const CLOCKS_DIFFER_MAX: SignedDuration = SignedDuration::from_secs(5);
/// Failures that are counted, at the most.
const FAILURES_MAX: u32 = 1_000;
/// Every device that listens is an open file.
const OPEN_FILES_FEW: u64 = 4_096;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// The server runs, and somebody should know.
    Doubtful,
    /// The server would not start, or not do what it is for.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    detail: String,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, state: State::Ok, detail: detail.into() }
    }

    fn doubtful(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, state: State::Doubtful, detail: detail.into() }
    }

    fn wrong(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, state: State::Wrong, detail: detail.into() }
    }
}

/// Looks at everything and prints what was found.
pub(crate) async fn run(config: &Config, args: &DoctorArgs) -> Result<Outcome, RunError> {
    let mut findings = configuration(config);
    findings.extend(database(config).await);
    findings.extend(keys(config).await);
    findings.push(address(config).await);
    findings.extend(open_files());
    let written = write(&findings, args.json, &mut stdout());
    output::unless_closed(written).map_err(|error| failed("cannot write", error))?;
    let any_wrong = findings.iter().any(|finding| finding.state == State::Wrong);
    Ok(if any_wrong { Outcome::Remaining } else { Outcome::Done })
}

fn write(findings: &[Finding], json: bool, to: &mut impl Write) -> io::Result<()> {
    if json {
        return findings.iter().try_for_each(|finding| {
            serde_json::to_writer(&mut *to, finding)?;
            writeln!(to)
        });
    }
    let row = |finding: &Finding| {
        let state = match finding.state {
            State::Ok => "ok",
            State::Doubtful => "doubtful",
            State::Wrong => "WRONG",
        };
        [state.to_owned(), finding.check.to_owned(), output::one_line(&finding.detail)]
    };
    let rows: Vec<[String; 3]> = findings.iter().map(row).collect();
    output::table(to, ["", "CHECK", "FOUND"], &rows)
}

fn configuration(config: &Config) -> Vec<Finding> {
    // That it is one was found out before anything else, but for the files that it names.
    let mut findings: Vec<_> =
        config.doubts().into_iter().map(|doubt| Finding::doubtful("configuration", doubt)).collect();
    findings
        .extend(edge::serving(&config.settings).err().map(|error| Finding::wrong("configuration", error.to_string())));
    if findings.is_empty() {
        findings.push(Finding::ok("configuration", format!("{} tables", config.tables.len())));
    }
    findings
}

async fn database(config: &Config) -> Vec<Finding> {
    let place = config.settings.database_url.to_string();
    let (mut findings, missing) = match wire::examine(config).await {
        Err(error) => return vec![Finding::wrong("database", error.to_string())],
        Ok(Examined::Memory) => return vec![Finding::ok("database", "memory")],
        Ok(Examined::NoFile(_)) => return vec![no_file(config, &place)],
        Ok(Examined::Sqlite(found)) => {
            let version = format!("{place}, SQLite {}", found.version);
            let damage = found.damage.into_iter().map(|what| Finding::wrong("integrity", what));
            let findings: Vec<_> = std::iter::once(Finding::ok("database", version)).chain(damage).collect();
            (findings, found.migrations_known - found.migrations)
        }
        Ok(Examined::Postgres(found)) => {
            let missing = found.migrations_known - found.migrations;
            (postgres(config, &place, found), missing)
        }
    };
    if missing > 0 {
        let detail = format!("{missing} are missing: outrigger migrate, or the next start, applies them");
        findings.push(Finding::doubtful("migrations", detail));
        return findings;
    }
    findings.push(Finding::ok("migrations", "none is missing"));
    match wire::open_existing(config).await {
        Err(error) => findings.push(Finding::wrong("business tables", error.to_string())),
        Ok(store) => findings.extend(business_tables(&store).await),
    }
    findings
}

/// The server makes a file, and no folder for it.
fn no_file(config: &Config, place: &str) -> Finding {
    let folder = match &config.settings.database_url {
        DatabaseUrl::Sqlite(path) => path.parent().filter(|folder| !folder.as_os_str().is_empty()),
        _ => None,
    };
    match folder.filter(|folder| !folder.is_dir()) {
        Some(missing) => Finding::wrong("database", format!("{place}: there is no folder {}", missing.display())),
        None => Finding::ok("database", format!("{place}: made at the first start")),
    }
}

fn postgres(config: &Config, place: &str, found: PostgresExamined) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("database", format!("{place}, Postgres {}", found.version))];
    if found.is_standby {
        findings.push(Finding::wrong("database", "it is a standby, which takes no writes"));
    }
    findings.extend(found.unsafe_settings.iter().map(|(name, value)| {
        let detail = format!("{name} is {value}: a crash of the database loses uploads that were answered");
        Finding::wrong("durability", detail)
    }));
    if found.unsafe_settings.is_empty() {
        findings.push(Finding::ok("durability", "an answered upload is on the disk"));
    }
    let (ours, all) = (wire::connections_max(config), found.connections_max);
    let detail = format!("a node takes up to {ours} of {all}");
    findings.push(match (ours, all) {
        (ours, all) if ours > all => Finding::wrong("connections", detail),
        (ours, all) if 2 * ours > all => {
            Finding::doubtful("connections", format!("{detail}: no room for a second node"))
        }
        _ => Finding::ok("connections", detail),
    });
    findings.extend(found.unwritable.iter().map(|table| {
        let detail =
            format!("the role {} may not read and write {table}: GRANT SELECT, INSERT, UPDATE, DELETE", found.role);
        Finding::wrong("business tables", detail)
    }));
    findings.push(clock(found.now, SystemClock.now()));
    findings
}

fn clock(there: Timestamp, here: Timestamp) -> Finding {
    let apart = here.duration_since(there).abs();
    let detail = format!("{:.1} s from the database's", apart.as_secs_f64());
    if apart > CLOCKS_DIFFER_MAX { Finding::doubtful("clock", detail) } else { Finding::ok("clock", detail) }
}

async fn business_tables(store: &Store) -> Vec<Finding> {
    let references = match store.projection.refresh_catalog().await {
        Ok(references) => references,
        Err(error) => return vec![Finding::wrong("business tables", error.to_string())],
    };
    let tables =
        Finding::ok("business tables", format!("their catalog can be read: {} foreign keys", references.len()));
    let failures = match store.projection.all_failures(&FailureFilter::default(), None, FAILURES_MAX).await {
        Err(error) => Finding::wrong("failures", error.to_string()),
        Ok(failures) if failures.is_empty() => Finding::ok("failures", "every row could be projected"),
        Ok(failures) => {
            let more = if failures.len() == FAILURES_MAX as usize { " or more" } else { "" };
            let detail = format!("{}{more} rows could not be projected: outrigger failures list", failures.len());
            Finding::doubtful("failures", detail)
        }
    };
    vec![tables, failures]
}

async fn keys(config: &Config) -> Option<Finding> {
    let url = config.auth.jwks_url.clone()?;
    let place = url.to_string();
    let fetched = match RemoteKeys::new(url, Arc::new(SystemClock)) {
        Ok(keys) => keys.refresh().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Some(match fetched {
        Ok(0) => Finding::wrong("published keys", format!("{place} has none that tokens can be checked with")),
        Ok(found) => Finding::ok("published keys", format!("{found} at {place}")),
        Err(error) => Finding::wrong("published keys", error),
    })
}

/// Whether the server could listen, or does already.
async fn address(config: &Config) -> Finding {
    let listen = config.settings.listen.0;
    let Err(error) = TcpListener::bind(listen) else { return Finding::ok("address", format!("{listen} is free")) };
    if error.kind() != io::ErrorKind::AddrInUse {
        return Finding::wrong("address", format!("{listen}: {error}"));
    }
    match ping::ask(config, "/health", ANSWER_TIMEOUT).await {
        Ok(_) => Finding::ok("address", format!("a server answers at {listen}")),
        Err(error) => Finding::wrong("address", format!("{listen} is taken by another program: {error}")),
    }
}

/// How many devices may be connected at once, where this system says so.
fn open_files() -> Option<Finding> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    let detail = format!("{soft} may be open at once, one for each device that is connected");
    Some(match soft.parse::<u64>() {
        Ok(few) if few < OPEN_FILES_FEW => Finding::doubtful("open files", detail),
        _ => Finding::ok("open files", detail),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_doubtful() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (there, here, state) in [(100, 104, State::Ok), (100, 106, State::Doubtful), (106, 100, State::Doubtful)] {
            assert_eq!(clock(at(there), at(here)).state, state);
        }
    }

    #[test]
    fn findings_are_lines_for_people_and_for_programs() {
        let findings = [Finding::ok("a", "b\nc"), Finding::wrong("d", "e")];
        let mut text = Vec::new();
        write(&findings, false, &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "       CHECK  FOUND\nok     a      b c\nWRONG  d      e\n");
        let mut lines = Vec::new();
        write(&findings, true, &mut lines).unwrap();
        let lines = String::from_utf8(lines).unwrap();
        assert_eq!(lines.lines().last(), Some(r#"{"check":"d","state":"wrong","detail":"e"}"#));
    }
}
