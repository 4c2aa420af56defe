//! Removes a cluster once the process that it was started for is gone.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Waits for process $1 to end, or for the folder to go, then kills the server in folder $2 and removes
/// that and its lock file. SIGQUIT is what `pg_ctl stop -m immediate` sends; the server's last act is to remove
/// its file. In the background, so that it is no child of this process.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
{
    while kill -0 "$1" && test -d "$2"; do sleep 0.5; done
    file="$2/data/postmaster.pid"
    if test -s "$file"; then
        kill -QUIT "$(head -n 1 "$file")" && for i in $(seq 300); do test -e "$file" && sleep 0.1; done
    fi
    rm -rf "$2" "$2.lock"
} 2>/dev/null &
"#;

/// Starts the watcher. It outlives this process, in a process group of its own, and holds none of its files open.
pub(crate) fn remove_after(process: u32, folder: &Path) {
    let status = Command::new("sh")
        .args(["-c", SCRIPT, "outrigger-test-watcher", &process.to_string()])
        .arg(folder)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("sh runs").success(), "the watcher of a test cluster does not start");
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::server::Server;

    #[test]
    fn nothing_is_left_of_a_cluster_once_its_runner_was_killed() {
        let mut runner = Command::new("sleep").arg("600").spawn().unwrap();
        let folder = tempfile::tempdir().unwrap().keep();
        remove_after(runner.id(), &folder);
        let server = Server::create(&folder, "fsync = off");
        let is_listening = || std::net::TcpStream::connect(("127.0.0.1", server.port())).is_ok();
        assert!(is_listening());

        runner.kill().unwrap();
        runner.wait().unwrap();

        let deadline = Instant::now() + Duration::from_secs(30);
        while folder.exists() {
            assert!(Instant::now() < deadline, "{} is still there", folder.display());
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(!is_listening());
    }
}
