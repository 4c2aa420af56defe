//! The cluster that all tests of one run share.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{env, io, process};

use crate::server::Server;
use crate::watcher;

/// Durability only costs time where the data is thrown away.
const CONFIGURATION: &str = "
fsync = off
full_page_writes = off
max_wal_size = 128MB
";

/// What has to be free in memory before the cluster is kept there.
const MEMORY_KIB_MIN: u64 = 2 * 1024 * 1024;

/// The url of the run's cluster, which the first test to ask for it starts.
///
/// The run is known by its runner, the parent of the test processes: `cargo nextest` gives each test a process
/// of its own.
pub(crate) fn url() -> String {
    let runner = runner();
    let folder = home().join(format!("outrigger-test-postgres-{}", identity(runner)));
    let lock = File::create(folder.with_extension("lock")).expect("the temporary folder is writable");
    lock.lock().expect("files can be locked");
    let ready = folder.join("url");
    match fs::read_to_string(&ready) {
        Ok(url) => url,
        Err(_) => start(&folder, &ready, runner).expect("the temporary folder is writable"),
    }
}

fn start(folder: &Path, ready: &Path, runner: u32) -> io::Result<String> {
    if !folder.exists() {
        fs::create_dir(folder)?;
        watcher::remove_after(runner, folder);
    }
    // What an attempt that failed has left.
    let data = folder.join("data");
    if data.exists() {
        fs::remove_dir_all(data)?;
    }
    let url = Server::create(folder, CONFIGURATION).url("postgres");
    // Whoever sees the file sees all of it.
    let draft = PathBuf::from(format!("{}.draft", ready.display()));
    fs::write(&draft, &url)?;
    fs::rename(draft, ready)?;
    Ok(url)
}

/// Memory where there is plenty: a new database is 300 files, which cost a disk a tenth of a second.
fn home() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = process::Command::new("df").args(["-Pk", "/dev/shm"]).output().ok().and_then(|output| {
        let table = String::from_utf8(output.stdout).ok()?;
        table.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    match free {
        Some(free) if memory.is_dir() && free >= MEMORY_KIB_MIN => memory.to_owned(),
        _ => env::temp_dir(),
    }
}

/// The parent, or this process itself if it has been orphaned: process 1 never ends.
fn runner() -> u32 {
    match std::os::unix::process::parent_id() {
        0 | 1 => process::id(),
        parent => parent,
    }
}

/// Names a process: its id, and where the system tells it the time of its start, since ids are used again.
fn identity(process: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is a name in brackets, which may hold anything; the start is the 22nd.
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19));
    format!("{process}-{}", start.unwrap_or("0"))
}
