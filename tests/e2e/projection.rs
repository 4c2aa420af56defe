//! Business tables, and the commands for operators, beside a running server.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::{Client, FREE_PORT, SECRET, Server, command};

/// Runs the binary to its end: exit code, stdout, stderr.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command(folder).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn row_of(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

async fn delete(client: &Client, id: u32, number: u32) {
    let change =
        json!({"source_change_id": id, "table": "users", "op": "DELETE", "pk": row_of(number), "server_version": 1});
    assert_eq!(client.change(change).await.unwrap()["status"], "applied");
}

#[tokio::test]
async fn the_demo_fills_its_business_tables() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let alice = server.sign_in("alice", "phone").await;
    let orphan = json!({"source_change_id": 7, "table": "posts", "op": "INSERT", "pk": row_of(9), "server_version": 0,
                        "payload": {"title": "Hello", "author_id": row_of(1)}});
    let refused = alice.change(orphan.clone()).await.unwrap();
    assert_eq!(refused["invalid"]["reason"], "fk_missing", "found in the catalog: {refused}");
    alice.insert(1).await.unwrap();
    assert_eq!(alice.change(orphan).await.unwrap()["status"], "applied");
    let database = rusqlite::Connection::open(folder.path().join("outrigger.db")).unwrap();
    let title: String = database
        .query_row("SELECT title FROM posts JOIN users ON users.id = posts.author_id", [], |row| row.get(0))
        .unwrap();
    assert_eq!(title, "Hello");
}

#[tokio::test]
async fn failures_are_listed_and_tried_again_beside_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let (alice, bob) = (server.sign_in("alice", "phone").await, server.sign_in("bob", "phone").await);
    for client in [&alice, &bob] {
        client.insert(1).await.unwrap();
        client.insert(2).await.unwrap();
    }
    let (code, stdout, _) = run(folder.path(), &["failures", "list"]);
    assert_eq!((code, stdout.lines().count()), (Some(0), 3), "{stdout}");
    assert!(stdout.starts_with("USER  ID  TABLE"), "{stdout}");
    let (_, stdout, stderr) = run(folder.path(), &["failures", "list", "--json", "--user", "bob", "--limit", "1"]);
    let line: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&line["user"], &line["id"], &line["payload"]["number"]), (&json!("bob"), &json!(1), &json!(1)));
    assert!(stderr.contains("--limit"), "{stderr}");
    assert_eq!(run(folder.path(), &["failures", "list", "--json", "--user", "alice"]).1, "");

    assert_eq!(run(folder.path(), &["failures", "retry", "--id", "1", "--user", "alice"]).0, Some(1));
    assert_eq!(run(folder.path(), &["failures", "retry", "--id", "1", "--user", "bob"]).0, Some(1));
    delete(&alice, 3, 1).await;
    let (code, stdout, _) = run(folder.path(), &["failures", "retry", "--table", "users"]);
    assert_eq!((code, stdout.as_str()), (Some(1), "1 materialized, 1 remaining\n"));
    delete(&alice, 4, 2).await;
    let (code, stdout, _) = run(folder.path(), &["failures", "retry", "--all"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "1 materialized, 0 remaining\n"));
    assert_eq!(run(folder.path(), &["failures", "retry", "--all"]).1, "0 materialized, 0 remaining\n");
}

#[tokio::test]
async fn a_table_is_rebuilt_beside_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let alice = server.sign_in("alice", "phone").await;
    for number in 1..=3 {
        alice.insert(number).await.unwrap();
    }
    let database = rusqlite::Connection::open(folder.path().join("outrigger.db")).unwrap();
    database.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    let rows = || -> i64 { database.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).unwrap() };
    let rebuild = |after: &[&str]| {
        run(folder.path(), &[["materialize", "--rebuild", "users", "--batch", "2"].as_slice(), after].concat())
    };
    database.execute("DELETE FROM users", []).unwrap();
    // On from a cursor: the rows before it are left as they are.
    let (code, stdout, _) = rebuild(&["--after", &format!("{}:alice", row_of(2))]);
    assert_eq!((code, stdout.as_str(), rows()), (Some(0), "public.users: 1 rows rebuilt, 0 failed\n", 1));
    let (code, stdout, _) = rebuild(&[]);
    assert_eq!((code, stdout.as_str(), rows()), (Some(0), "public.users: 3 rows rebuilt, 0 failed\n", 3));
    let bob = server.sign_in("bob", "phone").await;
    bob.insert(1).await.unwrap();
    let (code, stdout, _) = rebuild(&[]);
    assert_eq!((code, stdout.as_str()), (Some(1), "public.users: 3 rows rebuilt, 1 failed\n"));
}

#[tokio::test]
async fn a_rebuild_that_is_stopped_says_how_to_go_on() {
    const ROWS: u32 = 1_500;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let alice = server.sign_in("alice", "phone").await;
    for numbers in (1..=ROWS).collect::<Vec<_>>().chunks(500) {
        alice.insert_all(numbers).await;
    }
    let database = rusqlite::Connection::open(folder.path().join("outrigger.db")).unwrap();
    database.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    let rows = || -> u32 { database.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).unwrap() };
    database.execute("DELETE FROM users", []).unwrap();
    let arguments = ["materialize", "--rebuild", "users", "--batch", "1"];
    let mut rebuild = Server::spawn(command(folder.path()).args(arguments)).unready();
    while rows() < 3 {
        tokio::task::yield_now().await;
    }
    rebuild.signal("INT");
    assert_eq!(rebuild.wait().code(), Some(1));
    let stderr = rebuild.stderr();
    let on = stderr.lines().find_map(|line| line.strip_prefix("to go on: ")).expect("it says how to go on");
    let done = rows();
    assert!(done < ROWS && stderr.contains("stopped before all rows were rebuilt"), "{done} rows: {stderr}");
    let (_, cursor) = on.split_once("--after ").expect("it goes on from where it was");
    let (code, stdout, _) = run(folder.path(), &[&arguments[..3], &["--after", cursor]].concat());
    assert_eq!((code, rows()), (Some(0), ROWS), "{stdout}");
    let went_on: u32 = stdout.split_whitespace().nth(1).unwrap().parse().unwrap();
    // The step that was cut short may have been done.
    assert!(went_on == ROWS - done || went_on == ROWS - done + 1, "{done} before, {stdout}");
}

#[tokio::test]
async fn the_demo_s_tables_are_there_before_they_are_required() {
    let required = "[[tables]]\nname = 'users'\nmaterialize = 'required'\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outrigger.toml"), required).unwrap();
    let postgres = outrigger_testkit::postgres_database().await;
    for database in ["sqlite://outrigger.db", postgres.url()] {
        let with = |flags: &[&str]| {
            Server::spawn(command(folder.path()).args(FREE_PORT).args(flags).env("JWT_SECRET", SECRET))
        };
        let (code, stderr) = with(&["--database-url", database]).refused();
        assert!(code == Some(1) && stderr.contains("users"), "{database}: {stderr}");
        let demo = with(&["--demo", "--database-url", database]).listening();
        assert_eq!(demo.sign_in("alice", "phone").await.insert(1).await.unwrap()["status"], "applied", "{database}");
    }
}

#[test]
fn commands_refuse_what_they_cannot_work_on() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, expected, part) in [
        (["failures", "list"].as_slice(), 1, "outrigger.db"),
        (&["failures", "retry", "--all"], 1, "outrigger.db"),
        (&["failures", "list", "--database-url", "memory:"], 2, "memory:"),
        (&["failures", "retry"], 2, "--all"),
        (&["materialize", "--rebuild", "nothing"], 2, "public.nothing is not registered"),
        (&["materialize", "--rebuild", "users", "--after", "x"], 2, "PK:USER"),
    ] {
        let (code, _, stderr) = run(folder.path(), arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
    assert!(!folder.path().join("outrigger.db").exists());
}
