//! A database in Postgres, asked by the programs that come with it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use outrigger_testkit::postgres_program;

use crate::BenchError;
use crate::server::Cost;

/// How long a process of the server may take to be gone after its client.
const GONE_TIMEOUT: Duration = Duration::from_secs(2);

/// A database, and the server that it is in if that runs on this machine.
pub(crate) struct Database {
    url: String,
    psql: PathBuf,
    /// A process that the server has started, and that stays as long as the server does.
    child: Option<u32>,
}

impl Database {
    /// The database of that url, which has to answer. None if the url is of another kind.
    pub(crate) fn of(url: &str) -> Result<Option<Self>, BenchError> {
        if !url.starts_with("postgres") {
            return Ok(None);
        }
        let mut database = Self { url: of_libpq(url), psql: program("psql")?, child: None };
        let answer = database.ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")?;
        // On another machine the number is that of some other process, or of none.
        let is_postgres = |pid: &u32| Cost::name(*pid).contains("postgres");
        database.child = String::from_utf8_lossy(&answer).trim().parse().ok().filter(is_postgres);
        Ok(Some(database))
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Runs SQL, and gives what it says.
    pub(crate) fn ask(&self, sql: &str) -> Result<Vec<u8>, BenchError> {
        let mut command = Command::new(&self.psql);
        let child = command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", &self.url]).stdin(Stdio::piped());
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // Dropped when all is written, so that psql sees the end. What it says before that is short.
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(sql.as_bytes()))?;
        succeeded("psql", child.wait_with_output()?)
    }

    /// Runs SQL, and drops what it says; the bytes of that.
    pub(crate) fn read(&self, sql: &str) -> Result<u64, BenchError> {
        let mut command = Command::new(&self.psql);
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut bytes = 0;
        if let Some(mut stdout) = child.stdout.take() {
            bytes = std::io::copy(&mut stdout, &mut std::io::sink())?;
        }
        succeeded("psql", child.wait_with_output()?).map(|_| bytes)
    }

    /// What all processes of the database server have used, those that have ended included. None if it runs elsewhere.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        self.child.map(Cost::cpu_of_siblings).filter(|cpu| !cpu.is_zero())
    }

    /// How many processes the server has.
    pub(crate) fn processes(&self) -> usize {
        self.child.map_or(0, Cost::siblings)
    }

    /// Waits until the server has no more processes than that: what one has used is known for good once it is gone.
    pub(crate) fn settle(&self, processes: usize) {
        let deadline = Instant::now() + GONE_TIMEOUT;
        while self.processes() > processes && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The url without what only the server's driver knows, which spells some of the rest in its own way.
fn of_libpq(url: &str) -> String {
    let Some((place, parameters)) = url.split_once('?') else { return url.to_owned() };
    let spelled = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        (name != "statement-cache-capacity").then(|| format!("{}={value}", name.replace('-', "")))
    };
    let parameters: Vec<String> = parameters.split('&').filter_map(spelled).collect();
    format!("{place}?{}", parameters.join("&"))
}

/// Where a program of Postgres is.
pub(crate) fn program(name: &str) -> Result<PathBuf, BenchError> {
    let missing = || BenchError::Refused(format!("{name} is not installed (on Debian: apt-get install postgresql)"));
    postgres_program(name).ok_or_else(missing)
}

/// The output of a program that has not failed.
pub(crate) fn succeeded(program: &str, output: Output) -> Result<Vec<u8>, BenchError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(BenchError::Refused(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_spelled_as_libpq_has_it() {
        let url = "postgres://u:p@h:1/d?ssl-mode=prefer&statement-cache-capacity=100&application_name=a-b";
        assert_eq!(of_libpq(url), "postgres://u:p@h:1/d?sslmode=prefer&application_name=a-b");
        assert_eq!(of_libpq("postgres://h/d"), "postgres://h/d");
    }
}
