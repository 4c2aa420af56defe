//! A SQLite file that somebody else has locked, or that has no room left, under a running server.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::raw::{Socket, upload};
use crate::server::{Client, FREE_PORT, Server, command};

fn user(number: u32, text: &str) -> Value {
    json!({"changes": [{"source_change_id": number, "table": "users", "op": "INSERT", "server_version": 0,
                        "pk": format!("00000000-0000-4000-8000-{number:012}"), "payload": {"name": text}}]})
}

async fn assert_applied(client: &Client, number: u32, text: &str) {
    let answer = client.post("/sync/upload", &user(number, text)).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    let applied = json!([{"source_change_id": number, "status": "applied", "new_server_version": 1}]);
    assert_eq!(answer["statuses"], applied);
}

/// The upload is refused for now, and reading goes on.
async fn assert_come_again(client: &Client, number: u32, text: &str, stream: usize) {
    let answer = client.post("/sync/upload", &user(number, text)).await;
    assert_eq!(answer.status(), 503, "{}", answer.text().await.unwrap());
    assert!(answer.headers().contains_key("retry-after"));
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["error"], "unavailable");
    assert_eq!(client.download().await.len(), stream);
}

/// The file is whole, and whatever is in it is there altogether.
fn assert_whole(path: &Path, changes: i64) {
    let database = Connection::open(path).unwrap();
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    for counted in [
        "SELECT sum(last_server_id) FROM user_stream",
        "SELECT count(*) FROM server_change_log",
        "SELECT count(*) FROM sync_row_meta",
        "SELECT count(*) FROM sync_state",
    ] {
        let count: i64 = database.query_row(counted, [], |row| row.get(0)).unwrap();
        assert_eq!(count, changes, "{counted}");
    }
}

#[tokio::test]
async fn a_lock_held_by_another_process_is_a_503_until_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outrigger.db");
    let server = Server::demo(folder.path());
    let phone = server.sign_in("alice", "phone").await;
    assert_applied(&phone, 1, "before").await;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Devices that do not wait for the answer: what becomes of their uploads is for the next try to tell.
    for n in 0..20 {
        let token = server.sign_in(&format!("user-{n}"), "phone").await.token().to_owned();
        let mut socket = Socket::open(&server);
        socket.send(&upload(&server, &token, user(1, "hung up").to_string().as_bytes()));
        socket.hang_up(n % 2 == 0);
    }
    assert_come_again(&phone, 2, "while it is locked", 1).await;
    other.execute_batch("ROLLBACK").unwrap();
    assert_applied(&phone, 2, "while it is locked").await;
    for n in 0..20 {
        let again = server.sign_in(&format!("user-{n}"), "phone").await;
        assert_applied(&again, 1, "hung up").await;
        assert_eq!(again.download().await.len(), 1, "applied once");
    }
    drop(server);
    assert_whole(&path, 22);
}

/// What takes the room away from a server, and gives it back.
trait Room {
    fn take(&self, server: &Server, database: &Path);
    fn give_back(&self, server: &Server);
}

/// Files of the process must not grow beyond what the write-ahead log has now.
struct FileSizeLimit;

impl FileSizeLimit {
    fn set(server: &Server, limit: &str) {
        let process = server.process().to_string();
        let set = Command::new("prlimit").args(["--pid", &process, &format!("--fsize={limit}:")]).status();
        assert!(set.unwrap().success(), "prlimit is part of util-linux");
    }
}

impl Room for FileSizeLimit {
    fn take(&self, server: &Server, database: &Path) {
        let log = PathBuf::from(format!("{}-wal", database.display()));
        Self::set(server, &fs::metadata(log).unwrap().len().to_string());
    }

    fn give_back(&self, server: &Server) {
        Self::set(server, "unlimited");
    }
}

/// A file takes up what is left of a small file system that only the server has mounted.
struct FullFileSystem(PathBuf);

impl FullFileSystem {
    /// The file system's root, which is mounted for the server alone.
    fn seen_by(&self, server: &Server) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", server.process()));
        root.join(self.0.strip_prefix("/").unwrap())
    }

    fn filler(&self, server: &Server) -> PathBuf {
        self.seen_by(server).join("filler")
    }
}

impl Room for FullFileSystem {
    fn take(&self, server: &Server, _: &Path) {
        let mut filler = File::create(self.filler(server)).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    fn give_back(&self, server: &Server) {
        fs::remove_file(self.filler(server)).unwrap();
    }
}

#[tokio::test]
async fn a_file_that_must_not_grow_is_a_503_until_it_may() {
    let folder = tempfile::tempdir().unwrap();
    // The signal that goes with the limit would end any process that does not ignore it.
    let server = Server::spawn(shell(folder.path(), "trap '' XFSZ; exec \"$@\"").args(FREE_PORT)).listening();
    runs_out_of_room(&server, &FileSizeLimit, &folder.path().join("outrigger.db")).await;
    drop(server);
    assert_whole(&folder.path().join("outrigger.db"), 4);
}

#[tokio::test]
async fn a_full_disk_is_a_503_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(unshare) = unshare() else {
        println!("nothing may be mounted here: the test of the limit of a file's size is all there is");
        return;
    };
    let mount = format!("exec {unshare} sh -c 'mount -t tmpfs -o size=4m none disk && exec \"$@\"' - \"$@\"");
    let mut starting = shell(folder.path(), &mount);
    starting.args(FREE_PORT).args(["--database-url", "sqlite://disk/outrigger.db"]);
    let server = Server::spawn(&mut starting).listening();
    let room = FullFileSystem(disk);
    runs_out_of_room(&server, &room, Path::new("")).await;
    // A copy: SQLite would look for the file where this process has it.
    for file in ["outrigger.db", "outrigger.db-wal"] {
        fs::copy(room.seen_by(&server).join(file), folder.path().join(file)).unwrap();
    }
    assert_whole(&folder.path().join("outrigger.db"), 4);
}

/// The binary, by way of a script that ends with `exec "$@"`.
fn shell(folder: &Path, script: &str) -> Command {
    let binary = command(folder);
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "-"]).arg(binary.get_program()).current_dir(folder).env_clear();
    shell.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").stdin(std::process::Stdio::null());
    shell
}

/// How to get a mount table of one's own, as root or as anybody.
fn unshare() -> Option<&'static str> {
    let works = |how: &&str| {
        let tried = Command::new("sh").args(["-c", &format!("{how} mount -t tmpfs none /mnt")]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    ["unshare -m", "unshare -rm"].into_iter().find(works)
}

async fn runs_out_of_room(server: &Server, room: &dyn Room, database: &Path) {
    let phone = server.sign_in("alice", "phone").await;
    let text = "x".repeat(100_000);
    assert_applied(&phone, 1, &text).await;
    assert_applied(&phone, 2, &text).await;
    room.take(server, database);
    for _ in 0..3 {
        assert_come_again(&phone, 3, &text, 2).await;
    }
    room.give_back(server);
    assert_applied(&phone, 3, &text).await;
    assert_applied(&phone, 4, &text).await;
    assert_eq!(phone.download().await.len(), 4);
}
