//! A server of its own for a run, and what it costs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrigger_application::{SystemClock, TokenIssuer};
use outrigger_domain::{SourceId, UserId};
use outrigger_jwt::{JwtIssuer, JwtOptions};

use crate::BenchError;

/// What the servers of a run check tokens with.
pub(crate) const SECRET: &str = "a secret of benchmarks, long enough to be taken";
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// The tables that a run uploads to. A benchmark asks for more than any user does, and is there to find what bounds a server
/// that does not say stop.
pub(crate) const TABLES: &str = "\
[limits]
user_requests_per_s = 0
user_requests_max = 1000000
user_uploads_max = 1000000
user_watchers_max = 1000000
requests_max = 1000000
watchers_max = 1000000

[[tables]]
name = \"users\"
";

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Host and port.
    pub(crate) address: String,
    issuer: JwtIssuer,
}

impl Server {
    /// Starts this very program as a server on that database, with its files in the folder.
    pub(crate) fn start(folder: &Path, database_url: &str) -> Result<Self, BenchError> {
        std::fs::write(folder.join("bench.toml"), TABLES)?;
        let program: PathBuf = std::env::current_exe()?;
        let mut child = Command::new(program)
            .args(["serve", "--config", "bench.toml", "--listen", "127.0.0.1:0", "--log", "warn"])
            .args(["--database-url", database_url])
            .current_dir(folder)
            .env("JWT_SECRET", SECRET)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let Some((_, address)) = line.trim().rsplit_once("http://") else {
            let _ = child.kill();
            return Err(BenchError::Refused("the server did not start".into()));
        };
        let address = address.to_owned();
        let issuer = JwtIssuer::hs256(SECRET.as_bytes(), JwtOptions::default(), std::sync::Arc::new(SystemClock));
        Ok(Self { child, address, issuer })
    }

    /// A token of that device.
    pub(crate) fn token(&self, user: &str, device: &str) -> Result<String, BenchError> {
        let user = UserId::parse(user).map_err(BenchError::other)?;
        let source = SourceId::parse(device).map_err(BenchError::other)?;
        Ok(self.issuer.issue(&user, &source, TOKEN_TTL))
    }

    /// The id of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// What it has cost so far.
    pub(crate) fn cost(&self) -> Cost {
        Cost::of(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used, as far as this system tells: zero where it does not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Time on a core.
    pub(crate) cpu: Duration,
    /// Memory that is its own now, in bytes.
    pub(crate) memory: u64,
    /// The most that it has ever been.
    pub(crate) memory_peak: u64,
}

impl Cost {
    /// That of a process.
    pub(crate) fn of(pid: u32) -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let status = read("status");
        let kib = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Self { cpu: cpu(&read("stat")), memory: kib("VmRSS:") * 1024, memory_peak: kib("VmHWM:") * 1024 }
    }

    /// Time on a core of a process's parent and all that this has started, those included that have ended.
    pub(crate) fn cpu_of_siblings(pid: u32) -> Duration {
        let stat = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some(parent) = field(&stat(pid), 1) else { return Duration::ZERO };
        let running = children(parent).map(|pid| cpu(&stat(pid)));
        let line = stat(parent as u32);
        let ended = [13, 14].map(|at| field(&line, at).unwrap_or(0)).iter().sum::<u64>();
        running.sum::<Duration>() + cpu(&line) + Duration::from_millis(10 * ended)
    }

    /// How many processes a process's parent has started that have not ended.
    pub(crate) fn siblings(pid: u32) -> usize {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        field(&stat, 1).map_or(0, |parent| children(parent).count())
    }

    /// The name of a process's program; empty if there is none.
    pub(crate) fn name(pid: u32) -> String {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
    }

    /// Has the process's peak of memory count from now on, where the system lets us.
    pub(crate) fn forget_peak(pid: u32) {
        // The peak is then that of the whole life, which is no less.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }

    /// The same without what was used before.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(before.cpu), ..self }
    }
}

fn children(parent: u64) -> impl Iterator<Item = u32> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let pids: Vec<u32> = list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    pids.into_iter()
}

/// User and system time of a line of /proc/PID/stat, in its unit of a hundredth of a second.
fn cpu(stat: &str) -> Duration {
    let ticks = |at| field(stat, at).unwrap_or(0);
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// A number in a line of /proc/PID/stat, counted from behind the name of the program.
fn field(stat: &str, at: usize) -> Option<u64> {
    // The name may hold anything but ends at the last parenthesis.
    stat.rsplit_once(')')?.1.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_of_a_process_is_read_whatever_its_name_is() {
        let line = "12 (a) b) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 5 1 1 1";
        assert_eq!(cpu(line), Duration::from_secs(3));
        assert_eq!(cpu(""), Duration::ZERO);
    }

    #[test]
    fn this_process_costs_something() {
        let cost = Cost::of(std::process::id());
        assert!(!cfg!(target_os = "linux") || cost.memory > 0 && cost.memory_peak >= cost.memory);
    }
}
