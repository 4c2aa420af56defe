//! The example, run as it stands: two of it, one of them offline for a while.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::world::Server;

/// A running example.
pub(crate) struct Notes {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// Built beside the tests, as cargo does it.
fn example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join("notes")
}

impl Notes {
    pub(crate) fn start(server: &Server, folder: &std::path::Path, device: &str) -> Self {
        let mut child = Command::new(example())
            .args(["--server", &server.url, "--file"])
            .arg(folder.join(format!("{device}.db")))
            .env("TOKEN", format!("alice/{device}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { input: child.stdin.take().unwrap(), output, child }
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Reads until a line has that in it.
    pub(crate) async fn hear(&mut self, part: &str) {
        let heard = async {
            loop {
                let line = self.output.next_line().await.unwrap().unwrap_or_else(|| panic!("it ended before {part:?}"));
                if line.contains(part) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), heard).await.unwrap_or_else(|_| panic!("never heard {part:?}"));
    }
}

#[tokio::test]
async fn two_notes_stay_in_step_also_after_being_offline() {
    let (server, folder) = (Server::memory().await, tempfile::tempdir().unwrap());
    let (mut phone, mut laptop) =
        (Notes::start(&server, folder.path(), "phone"), Notes::start(&server, folder.path(), "laptop"));
    laptop.hear("add TEXT").await;
    phone.say("add milk").await;
    laptop.hear("1 changed elsewhere").await;
    laptop.say("list").await;
    laptop.hear("1  milk").await;
    laptop.say("offline").await;
    laptop.say("edit 1 oat milk").await;
    laptop.say("list").await;
    laptop.hear("1 not uploaded yet").await;
    phone.say("add bread").await;
    laptop.say("online").await;
    phone.hear("1 changed elsewhere").await;
    laptop.hear("1 changed elsewhere").await;
    for notes in [&mut phone, &mut laptop] {
        notes.say("list").await;
        notes.hear("1  oat milk").await;
        notes.hear("2  bread").await;
        notes.hear("0 not uploaded yet").await;
    }
}
