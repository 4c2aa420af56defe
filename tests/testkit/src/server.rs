//! One cluster on disk and the server that runs it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::binaries::Binaries;

/// Ports are tried one after another: between the choice of one and its use somebody else may take it.
const PORTS_TRIED_MAX: u32 = 5;

/// What suits every test: little memory, many connections, loopback only, and no socket file, whose
/// path has a length limit.
const CONFIGURATION: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
shared_buffers = 64MB
max_wal_size = 1GB
checkpoint_timeout = 1h
jit = off
";

/// A cluster in a folder. Has no `Drop`: who holds it decides how it ends.
pub(crate) struct Server {
    binaries: Binaries,
    folder: PathBuf,
    password: String,
    port: u16,
}

impl Server {
    /// Makes a cluster in an existing, empty folder, and starts it with further lines of configuration.
    pub(crate) fn create(folder: &Path, configuration: &str) -> Self {
        let password: String = std::iter::repeat_with(fastrand::alphanumeric).take(24).collect();
        let mut server = Self { binaries: Binaries::find(), folder: folder.to_owned(), password, port: 0 };
        server.initialise(configuration);
        for _ in 1..PORTS_TRIED_MAX {
            server.port = free_port();
            if server.try_start().is_ok() {
                return server;
            }
        }
        server.port = free_port();
        server.start();
        server
    }

    /// Where to connect to one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Where it listens, on 127.0.0.1.
    #[cfg(test)]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again, on the same port, and waits until it accepts connections.
    pub(crate) fn start(&self) {
        self.try_start().unwrap_or_else(|log| panic!("the test's Postgres does not start:\n{log}"));
    }

    /// Stops it in one of the modes of `pg_ctl stop`.
    pub(crate) fn stop(&self, mode: &str) {
        let mut command = self.control();
        command.args(["stop", "-m", mode, "-t", "60"]);
        run(&mut command);
    }

    /// The id of the process that runs the server.
    pub(crate) fn process(&self) -> Option<String> {
        let file = fs::read_to_string(self.process_file()).ok()?;
        file.lines().next().map(str::to_owned)
    }

    /// Lets the cluster be started though the process that ran it did not sign off. It must be dead.
    pub(crate) fn forget_process(&self) {
        fs::remove_file(self.process_file()).expect("a killed server leaves its file");
    }

    fn process_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn control(&self) -> Command {
        let mut command = self.binaries.command("pg_ctl");
        command.arg("-D").arg(self.data()).arg("-s").arg("-w").current_dir(&self.folder);
        command
    }

    fn initialise(&self, configuration: &str) {
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
        let password = self.folder.join("password");
        fs::write(&password, &self.password).expect("the folder is writable");
        if let Some(account) = self.binaries.account() {
            for path in [&self.folder, &password] {
                chown(path, Some(account.uid), Some(account.gid)).expect("root may give files away");
            }
        }
        let mut command = self.binaries.command("initdb");
        command.arg("-D").arg(self.data()).arg("--pwfile").arg(&password).current_dir(&self.folder);
        // A password in plain text: over loopback it is safe, and it costs a connection nothing.
        command.args(["-U", "postgres", "-A", "password", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(&mut command);
        let file = self.data().join("postgresql.auto.conf");
        fs::write(file, format!("{CONFIGURATION}{configuration}")).expect("the cluster's folder is writable");
    }

    fn try_start(&self) -> Result<(), String> {
        let mut command = self.control();
        command.arg("-l").arg(self.log()).args(["-t", "60", "-o", &format!("-p {}", self.port), "start"]);
        // The server must not inherit a pipe that the test's runner is waiting on.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().expect("pg_ctl runs");
        if status.success() { Ok(()) } else { Err(fs::read_to_string(self.log()).unwrap_or_default()) }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}");
}
