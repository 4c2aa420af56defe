//! The first thing anybody does: start it in an empty folder and paste what it prints.

use std::process::Command;

use serde_json::Value;

use crate::server::Server;

/// The three lines of the banner.
fn walk(server: &Server) -> Vec<String> {
    let stderr = server.stderr();
    let lines: Vec<String> = stderr.lines().filter(|line| line.contains("curl -s")).map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{stderr}");
    lines
}

/// Runs the three lines of the banner in one shell, and returns what the last two of them print.
pub(crate) fn paste_walk(server: &Server) -> (Value, Value) {
    let output = Command::new("sh").arg("-c").arg(walk(server).join("\n")).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [uploaded, downloaded] = <[Value; 2]>::try_from(answers).unwrap();
    (uploaded, downloaded)
}

/// Asserts that what one device of the walk uploaded is what the other one got.
pub(crate) fn assert_in_sync((uploaded, downloaded): (Value, Value)) {
    assert_eq!(uploaded["statuses"][0]["status"], "applied", "{uploaded}");
    let change = &downloaded["changes"][0];
    assert_eq!(change["source_id"], "phone", "{downloaded}");
    assert_eq!(change["server_version"], uploaded["statuses"][0]["new_server_version"]);
    assert_eq!(change["payload"]["name"], "Alice");
    assert_eq!(downloaded["next_after"], uploaded["highest_server_seq"]);
}

#[test]
fn three_pasted_lines_bring_two_devices_in_sync() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    assert!(server.stderr().contains("DEMO MODE"));
    assert!(server.stderr().contains("made up for this run"));
    assert_in_sync(paste_walk(&server));
    // Pasted again, nothing changes and the answers are the same.
    let (uploaded, downloaded) = paste_walk(&server);
    assert_eq!(downloaded["changes"].as_array().unwrap().len(), 1);
    assert_in_sync((uploaded, downloaded));
    assert!(folder.path().join("outrigger.db").exists());
}

#[test]
fn the_readme_shows_the_lines_that_are_printed() {
    let readme = include_str!("../../README.md");
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    for line in walk(&server) {
        let line = line.replace(&server.url, "http://127.0.0.1:8080");
        assert!(readme.contains(&format!("\n{line}\n")), "{line}");
    }
}

#[test]
fn the_tables_of_the_demo_are_created_once() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        drop(Server::demo(folder.path()));
    }
    let database = rusqlite::Connection::open(folder.path().join("outrigger.db")).unwrap();
    let columns = |table: &str| -> Vec<String> {
        let mut statement = database.prepare("SELECT name FROM pragma_table_info(?1)").unwrap();
        statement.query_map([table], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(columns("users"), ["id", "name", "email", "created_at", "updated_at"]);
    assert_eq!(columns("posts"), ["id", "title", "content", "author_id", "created_at", "updated_at"]);
}

#[tokio::test]
async fn without_demo_mode_nobody_signs_in_and_no_banner_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[("JWT_SECRET", crate::server::SECRET)]);
    assert!(!server.stderr().contains("DEMO"), "{}", server.stderr());
    let http = reqwest::Client::new();
    let answer = http.post(format!("{}/dummy-signin", server.url)).body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(http.get(format!("{}/ready", server.url)).send().await.unwrap().status(), 200);
}
