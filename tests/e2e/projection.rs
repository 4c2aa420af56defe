//! Business tables, and the commands for operators, beside a running server.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use outrigger_testkit::{TestDatabase, postgres_database};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::server::{Client, FREE_PORT, SECRET, Server, command};

/// Runs the binary to its end: exit code, stdout, stderr.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    ended(command(folder).args(arguments))
}

fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Where a demo keeps its data, and the commands beside it.
struct Storage {
    folder: TempDir,
    postgres: Option<TestDatabase>,
}

impl Storage {
    fn sqlite() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), postgres: None }
    }

    async fn postgres() -> Self {
        Self { postgres: Some(postgres_database().await), ..Self::sqlite() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.folder.path());
        command.args(arguments).envs(self.postgres.as_ref().map(|database| ("DATABASE_URL", database.url())));
        command
    }

    fn demo(&self) -> Server {
        Server::spawn(&mut self.command(&FREE_PORT)).listening()
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        ended(&mut self.command(arguments))
    }

    /// How many rows the business table `users` has.
    async fn users(&self) -> i64 {
        match &self.postgres {
            None => self.file().query_row("SELECT count(*) FROM users", [], |row| row.get(0)).unwrap(),
            Some(database) => {
                let mut shell = PgConnection::connect(database.url()).await.unwrap();
                sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&mut shell).await.unwrap()
            }
        }
    }

    async fn execute(&self, sql: &'static str) {
        match &self.postgres {
            None => self.file().execute_batch(sql).unwrap(),
            Some(database) => {
                let mut shell = PgConnection::connect(database.url()).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut shell).await.unwrap();
            }
        }
    }

    fn file(&self) -> rusqlite::Connection {
        let file = rusqlite::Connection::open(self.folder.path().join("outrigger.db")).unwrap();
        file.busy_timeout(Duration::from_secs(10)).unwrap();
        file
    }
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
    list_and_retry(Storage::sqlite()).await;
}

#[tokio::test]
async fn failures_are_listed_and_tried_again_beside_a_server_on_postgres() {
    list_and_retry(Storage::postgres().await).await;
}

async fn list_and_retry(storage: Storage) {
    let server = storage.demo();
    let (alice, bob) = (server.sign_in("alice", "phone").await, server.sign_in("bob", "phone").await);
    for client in [&alice, &bob] {
        client.insert(1).await.unwrap();
        client.insert(2).await.unwrap();
    }
    let (code, stdout, _) = storage.run(&["failures", "list"]);
    assert_eq!((code, stdout.lines().count()), (Some(0), 3), "{stdout}");
    assert!(stdout.starts_with("USER  ID  TABLE"), "{stdout}");
    let (_, stdout, stderr) = storage.run(&["failures", "list", "--json", "--user", "bob", "--limit", "1"]);
    let line: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&line["user"], &line["id"], &line["payload"]["number"]), (&json!("bob"), &json!(1), &json!(1)));
    assert!(stderr.contains("--limit"), "{stderr}");
    assert_eq!(storage.run(&["failures", "list", "--json", "--user", "alice"]).1, "");
    let of_table = |table| storage.run(&["failures", "list", "--json", "--table", table]).1.lines().count();
    assert_eq!((of_table("users"), of_table("public.users"), of_table("posts")), (2, 2, 0));

    assert_eq!(storage.run(&["failures", "retry", "--id", "1", "--user", "alice"]).0, Some(1));
    assert_eq!(storage.run(&["failures", "retry", "--id", "1", "--user", "bob"]).0, Some(1));
    assert_eq!(storage.run(&["failures", "retry", "--table", "posts"]).1, "0 materialized, 0 remaining\n");
    delete(&alice, 3, 1).await;
    let (code, stdout, _) = storage.run(&["failures", "retry", "--table", "users"]);
    assert_eq!((code, stdout.as_str()), (Some(1), "1 materialized, 1 remaining\n"));
    delete(&alice, 4, 2).await;
    let (code, stdout, _) = storage.run(&["failures", "retry", "--all"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "1 materialized, 0 remaining\n"));
    assert_eq!(storage.run(&["failures", "retry", "--all"]).1, "0 materialized, 0 remaining\n");
}

#[tokio::test]
async fn a_table_is_rebuilt_beside_a_server() {
    rebuild(Storage::sqlite()).await;
}

#[tokio::test]
async fn a_table_is_rebuilt_beside_a_server_on_postgres() {
    rebuild(Storage::postgres().await).await;
}

async fn rebuild(storage: Storage) {
    let server = storage.demo();
    let alice = server.sign_in("alice", "phone").await;
    for number in 1..=3 {
        alice.insert(number).await.unwrap();
    }
    let rebuild = |after: &[&str]| {
        storage.run(&[["materialize", "--rebuild", "users", "--batch", "2"].as_slice(), after].concat())
    };
    storage.execute("DELETE FROM users").await;
    // On from a cursor: the rows before it are left as they are.
    let (code, stdout, _) = rebuild(&["--after", &format!("{}:alice", row_of(2))]);
    assert_eq!((code, stdout.as_str()), (Some(0), "public.users: 1 rows rebuilt, 0 failed\n"));
    assert_eq!(storage.users().await, 1);
    let (code, stdout, _) = rebuild(&[]);
    assert_eq!((code, stdout.as_str()), (Some(0), "public.users: 3 rows rebuilt, 0 failed\n"));
    assert_eq!(storage.users().await, 3);
    let bob = server.sign_in("bob", "phone").await;
    bob.insert(1).await.unwrap();
    let (code, stdout, _) = rebuild(&[]);
    assert_eq!((code, stdout.as_str()), (Some(1), "public.users: 3 rows rebuilt, 1 failed\n"));
}

#[tokio::test]
async fn a_rebuild_that_is_stopped_says_how_to_go_on() {
    stop_and_go_on(Storage::sqlite()).await;
}

#[tokio::test]
async fn a_rebuild_that_is_stopped_says_how_to_go_on_on_postgres() {
    stop_and_go_on(Storage::postgres().await).await;
}

async fn stop_and_go_on(storage: Storage) {
    const ROWS: u32 = 1_500;
    let server = storage.demo();
    let alice = server.sign_in("alice", "phone").await;
    for numbers in (1..=ROWS).collect::<Vec<_>>().chunks(500) {
        alice.insert_all(numbers).await;
    }
    storage.execute("DELETE FROM users").await;
    let arguments = ["materialize", "--rebuild", "users", "--batch", "1"];
    let mut rebuild = Server::spawn(&mut storage.command(&arguments)).unready();
    while storage.users().await < 3 {
        tokio::task::yield_now().await;
    }
    rebuild.signal("INT");
    assert_eq!(rebuild.wait().code(), Some(1));
    let stderr = rebuild.stderr();
    let on = stderr.lines().find_map(|line| line.strip_prefix("to go on: ")).expect("it says how to go on");
    let done = storage.users().await;
    assert!(done < ROWS.into() && stderr.contains("stopped before all rows were rebuilt"), "{done} rows: {stderr}");
    let (_, cursor) = on.split_once("--after ").expect("it goes on from where it was");
    let (code, stdout, _) = storage.run(&[&arguments[..3], &["--after", cursor]].concat());
    assert_eq!((code, storage.users().await), (Some(0), ROWS.into()), "{stdout}");
    let went_on: i64 = stdout.split_whitespace().nth(1).unwrap().parse().unwrap();
    let left = i64::from(ROWS) - done;
    // The step that was cut short may have been done.
    assert!(went_on == left || went_on == left + 1, "{done} before, {stdout}");
}

#[tokio::test]
async fn a_rebuild_finds_parents_that_come_behind_their_children() {
    let postgres = Storage::postgres().await;
    for (storage, sql) in [
        (Storage::sqlite(), "CREATE TABLE nodes (id TEXT PRIMARY KEY, up TEXT REFERENCES nodes)"),
        (postgres, "CREATE TABLE nodes (id uuid PRIMARY KEY, up uuid REFERENCES nodes)"),
    ] {
        storage.execute(sql).await;
        std::fs::write(storage.folder.path().join("outrigger.toml"), "demo = true\n[[tables]]\nname = 'nodes'\n")
            .unwrap();
        let server = storage.demo();
        let alice = server.sign_in("alice", "phone").await;
        let node = |n: u32| {
            let up = (n < 4).then(|| row_of(n + 1));
            json!({"source_change_id": n, "table": "nodes", "op": "INSERT", "pk": row_of(n), "server_version": 0,
                   "payload": {"up": up}})
        };
        let answer = alice.post("/sync/upload", &json!({"changes": [node(1), node(2), node(3), node(4)]})).await;
        let answer = answer.text().await.unwrap();
        assert_eq!(answer.matches(r#""status":"applied""#).count(), 4, "{answer}");
        storage.execute("DELETE FROM nodes").await;
        let (code, stdout, _) = storage.run(&["materialize", "--rebuild", "nodes", "--batch", "1"]);
        assert_eq!((code, stdout.as_str()), (Some(0), "public.nodes: 4 rows rebuilt, 0 failed\n"));
        assert_eq!(storage.run(&["failures", "list", "--json"]).1, "");
    }
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
