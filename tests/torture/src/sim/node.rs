//! A server process: the real binary, killed and started again, on a clock that jumps.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::plan::Pruning;
use super::tokens::SECRET;

/// How long a node may take to listen once nothing is in its way. A machine that is busy is slow.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the nodes listen now; port 0 is down.
#[derive(Clone)]
pub(crate) struct Addresses(Arc<Vec<AtomicU16>>);

impl Addresses {
    pub(crate) fn new(nodes: usize) -> Self {
        Self(Arc::new((0..nodes).map(|_| AtomicU16::new(0)).collect()))
    }

    /// Connects to that node, or to the next one that is up, as a load balancer does.
    pub(crate) async fn connect(&self, node: usize) -> io::Result<TcpStream> {
        let count = self.0.len();
        for at in (node..node + count).map(|at| at % count) {
            let port = self.0[at].load(Ordering::SeqCst);
            if port != 0
                && let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await
            {
                return Ok(stream);
            }
        }
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    /// The address of that node, or of the next one that is up.
    pub(crate) fn url(&self, node: usize) -> Option<String> {
        let count = self.0.len();
        let ports = (node..node + count).map(|at| self.0[at % count].load(Ordering::SeqCst));
        ports.filter(|port| *port != 0).map(|port| format!("http://127.0.0.1:{port}")).next()
    }
}

/// How the binary is called, for all nodes of an episode and for commands beside them.
#[derive(Clone)]
pub(crate) struct Program {
    binary: PathBuf,
    clock: PathBuf,
    folder: PathBuf,
    database_url: String,
}

impl Program {
    /// Writes the configuration into the folder.
    pub(crate) fn new(folder: &Path, database_url: &str) -> Result<Self, String> {
        const CONFIGURATION: &str = "
[[tables]]
name = \"users\"
owner_column = \"owner\"
materialize = \"required\"

[[tables]]
name = \"posts\"
owner_column = \"owner\"
materialize = \"required\"
references = { author_id = \"users\" }
";
        fs::write(folder.join("sim.toml"), CONFIGURATION).map_err(|error| error.to_string())?;
        let database_url = database_url.to_owned();
        Ok(Self { binary: binary()?, clock: clock_library()?, folder: folder.to_owned(), database_url })
    }

    /// A call with these arguments, on the machine's clock.
    pub(crate) fn command(&self, arguments: &[&str], pruning: Pruning) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).args(["--config", "sim.toml", "--database-url", &self.database_url]);
        command.current_dir(&self.folder).env_clear().env("JWT_SECRET", SECRET).stdin(Stdio::null());
        let (entries, keys) = match pruning {
            Pruning::Never => ("never", "never"),
            Pruning::Entries => ("0s", "never"),
            Pruning::EntriesAndKeys => ("0s", "0s"),
        };
        command.env("OUTRIGGER_RETENTION__SUPERSEDED_AFTER", entries);
        command.env("OUTRIGGER_RETENTION__TOMBSTONES_AFTER", entries);
        command.env("OUTRIGGER_RETENTION__KEYS_AFTER", keys);
        command.env("OUTRIGGER_RETENTION__EVERY", "1s");
        // Its users have nothing else to do.
        command.env("OUTRIGGER_LIMITS__USER_REQUESTS_PER_S", "0");
        command
    }

    /// Runs a command beside the server, and gives what it said.
    pub(crate) fn run(&self, arguments: &[&str], pruning: Pruning) -> Result<String, String> {
        let output = self.command(arguments, pruning).output().map_err(|error| error.to_string())?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (status, said) = (output.status, text(output.stdout) + &text(output.stderr));
        if status.success() { Ok(said) } else { Err(format!("{status}: {said}")) }
    }
}

/// One node.
pub(crate) struct Node {
    program: Program,
    number: usize,
    addresses: Addresses,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn new(program: Program, number: usize, addresses: Addresses) -> Self {
        Self { program, number, addresses, child: None }
    }

    /// Moves its clock to so many seconds from the machine's.
    pub(crate) fn set_clock(&self, offset_s: i64) -> io::Result<()> {
        // Written beside and renamed, so that the node never reads half of it.
        let (path, new) = (self.clock_file(), self.clock_file().with_extension("new"));
        fs::write(&new, format!("{offset_s:+}\n"))?;
        fs::rename(new, path)
    }

    /// Starts it, again and again until it listens: as long as the database is away it cannot.
    pub(crate) async fn start(&mut self, pruning: Pruning) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + START_TIMEOUT;
        loop {
            let mut child = self.spawn(pruning).map_err(|error| format!("{:?}: {error}", self.program.binary))?;
            let stdout = child.stdout.take();
            let line = tokio::task::spawn_blocking(move || {
                let mut line = String::new();
                stdout.map(|stdout| BufReader::new(stdout).read_line(&mut line));
                line
            });
            let line = line.await.map_err(|error| error.to_string())?;
            if let Some(port) = line.trim().rsplit_once(':').and_then(|(_, port)| port.parse().ok()) {
                self.addresses.0[self.number].store(port, Ordering::SeqCst);
                self.child = Some(child);
                return Ok(());
            }
            let status = child.wait().map_err(|error| error.to_string())?;
            if tokio::time::Instant::now() > deadline {
                return Err(format!("node {} does not start: {status}: {}", self.number, self.log()));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills it with SIGKILL. An error if it had ended by itself.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        self.addresses.0[self.number].store(0, Ordering::SeqCst);
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        let _ = child.kill();
        let _ = child.wait();
        // The library's own, which it only removes from a process that ends in peace.
        for name in ["faketime_shm", "sem.faketime_sem"] {
            let _ = fs::remove_file(format!("/dev/shm/{name}_{}", child.id()));
        }
        match ended {
            None => Ok(()),
            Some(status) => Err(format!("node {} ended by itself: {status}: {}", self.number, self.log())),
        }
    }

    /// What it has said, in all its lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn spawn(&self, pruning: Pruning) -> io::Result<Child> {
        if !self.clock_file().exists() {
            self.set_clock(0)?;
        }
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = self.program.command(&["serve", "--listen", "127.0.0.1:0", "--log", "warn"], pruning);
        // Timers count on a clock that does not jump, as on any machine.
        command.env("LD_PRELOAD", &self.program.clock).env("FAKETIME_TIMESTAMP_FILE", self.clock_file());
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_CACHE_DURATION", "1");
        command.stdout(Stdio::piped()).stderr(log).spawn()
    }

    fn clock_file(&self) -> PathBuf {
        self.program.folder.join(format!("clock-{}", self.number))
    }

    fn log_file(&self) -> PathBuf {
        self.program.folder.join(format!("node-{}.log", self.number))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The server's binary: the one that is named, or the one that was built with this program.
fn binary() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("OUTRIGGER_BIN") {
        return Ok(named.into());
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let candidates = own.ancestors().skip(1).take(3).map(|folder| folder.join("outrigger"));
    let found = candidates.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| "there is no server beside this program: run `cargo build -p outrigger`".to_owned())
}

/// The library that gives a process a clock of its own.
fn clock_library() -> Result<PathBuf, String> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = folders.chain(["/usr/lib".into(), "/usr/lib64".into()]);
    let libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    let found = libraries.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| "clocks cannot jump without libfaketime: on Debian, apt-get install libfaketime".to_owned())
}
