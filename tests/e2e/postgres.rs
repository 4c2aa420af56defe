//! The same binary on Postgres.

use std::time::Duration;

use outrigger_testkit::postgres_database;
use sqlx::{Connection, Executor, PgConnection};

use crate::demo::{assert_in_sync, paste_walk};
use crate::server::{FREE_PORT, Server, Starting, command};

#[tokio::test]
async fn the_same_three_lines_work_on_postgres() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let server = Server::start(folder.path(), &[("DATABASE_URL", database.url())]);
    assert!(!server.stderr().contains(database.url()), "the banner shows the password");
    assert_in_sync(paste_walk(&server));
    assert!(!folder.path().join("outrigger.db").exists());
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    connection.execute("SELECT id, title, content, author_id, created_at, updated_at FROM public.posts").await.unwrap();
    let name: String = sqlx::query_scalar("SELECT name FROM public.users").fetch_one(&mut connection).await.unwrap();
    assert_eq!(name, "Alice", "the demo's business table is filled");
}

#[tokio::test]
async fn two_nodes_can_start_at_once_on_an_empty_database() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let mut node = command(folder.path());
    node.args(FREE_PORT).env("DATABASE_URL", database.url());
    let [one, two] = [Server::spawn(&mut node), Server::spawn(&mut node)].map(Starting::listening);
    let status = one.sign_in("alice", "phone").await.insert(1).await.unwrap();
    assert_eq!(status["status"], "applied");
    assert_eq!(two.sign_in("alice", "laptop").await.download().await.len(), 1);
}

#[tokio::test]
async fn a_change_on_one_node_wakes_a_watcher_on_another() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let variables = [("DATABASE_URL", database.url())];
    let (one, two) = (Server::start(folder.path(), &variables), Server::start(folder.path(), &variables));
    let mut events = two.sign_in("alice", "laptop").await.watch().await;
    let mut until = async |number: u32| {
        let mut text = String::new();
        while !text.contains(&format!("data: {{\"highest_server_seq\":{number}}}")) {
            let chunk = tokio::time::timeout(Duration::from_secs(40), events.chunk()).await;
            text += std::str::from_utf8(&chunk.expect("news comes").unwrap().expect("the watch goes on")).unwrap();
        }
    };
    until(0).await;
    let phone = one.sign_in("alice", "phone").await;
    for number in 1..=3 {
        phone.insert(number).await.unwrap();
        until(number).await;
    }
}

#[tokio::test]
async fn a_database_of_a_later_release_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let variables = [("DATABASE_URL", database.url())];
    drop(Server::start(folder.path(), &variables));
    let later = "INSERT INTO sync.schema_migrations (version, description, success, checksum, execution_time)
                 VALUES (1000, 'later', true, '', 0)";
    PgConnection::connect(database.url()).await.unwrap().execute(later).await.unwrap();
    let (code, stderr) = Server::spawn(command(folder.path()).args(FREE_PORT).envs(variables)).refused();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("1000") && stderr.contains("upgrade"), "{stderr}");
}

#[test]
fn an_unreachable_database_is_one_plain_sentence() {
    let folder = tempfile::tempdir().unwrap();
    // Port 1 is reserved, and nothing listens there.
    let url = "postgres://u:hunter2@127.0.0.1:1/app";
    let (code, stderr) = Server::spawn(command(folder.path()).args(FREE_PORT).env("DATABASE_URL", url)).refused();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.lines().last().is_some_and(|line| line.contains("127.0.0.1:1")), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}
