//! A server of a test's own.

use std::io;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::server::Server;
use crate::watcher;

/// How long a killed server may take to be gone.
const DEATH_TIMEOUT: Duration = Duration::from_secs(30);

/// What a [`Cluster`] is to be like.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Lines of `postgresql.conf` beyond the defaults, such as `("max_connections", "20")`.
    pub parameters: Vec<(&'static str, String)>,
}

/// A Postgres cluster that one test may stop, start again and kill. It writes to disk in earnest (`fsync` is on)
/// and is removed on drop.
///
/// The methods block: call them from a blocking thread where that matters.
pub struct Cluster {
    server: Server,
    folder: TempDir,
}

impl Cluster {
    /// Makes a cluster and starts it.
    pub fn start(settings: &Settings) -> Self {
        let folder = tempfile::Builder::new().prefix("outrigger-test-cluster-").tempdir();
        let folder = folder.expect("the temporary folder is writable");
        watcher::remove_after(std::process::id(), folder.path());
        let lines =
            settings.parameters.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")));
        Self { server: Server::create(folder.path(), &lines.collect::<String>()), folder }
    }

    /// Where to connect to a database of it. `postgres` exists from the start; the port stays the same for good.
    pub fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// Stops it at once, without a checkpoint (`pg_ctl stop -m immediate`): the next start recovers.
    pub fn stop(&self) {
        self.server.stop("immediate");
    }

    /// Stops it in order: running statements are cancelled, everything is written (`pg_ctl stop -m fast`).
    pub fn shut_down(&self) {
        self.server.stop("fast");
    }

    /// Starts it again after a stop or a kill, and waits until it accepts connections.
    pub fn restart(&self) {
        self.server.start();
    }

    /// Kills the server with SIGKILL, and waits until all of its processes are gone.
    pub fn kill(&self) {
        let process = self.server.process().expect("the server is running");
        signal("-KILL", &process).expect("the server's process can be killed");
        // Its children notice on their own. Until they have, the cluster cannot be started again.
        let deadline = Instant::now() + DEATH_TIMEOUT;
        while self.has_processes() {
            assert!(Instant::now() < deadline, "processes of the killed server are still there");
            sleep(Duration::from_millis(20));
        }
        // A dead server keeps its number until its parent asks for it, and by that would pass for a live one.
        self.server.forget_process();
    }

    /// Whether a process works in the cluster's folder, which all processes of a server do.
    fn has_processes(&self) -> bool {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut folders = processes.filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok());
        folders.any(|folder| folder.starts_with(self.folder.path()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(process) = self.server.process() {
            // What `pg_ctl stop -m immediate` sends. The watcher would do the same, later.
            let _ = signal("-QUIT", &process);
            let deadline = Instant::now() + DEATH_TIMEOUT;
            while self.server.process().is_some() && Instant::now() < deadline {
                sleep(Duration::from_millis(10));
            }
        }
    }
}

fn signal(signal: &str, process: &str) -> io::Result<()> {
    Command::new("kill").args([signal, process]).output().map(drop)
}
