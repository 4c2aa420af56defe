//! Failures, their retry, and the rebuild of a table.

use jiff::Timestamp;
use outrigger_application::ProjectionStore;
use outrigger_application::ports::projection::{FailureFilter, Retried};
use outrigger_sqlite::{SqliteOptions, SqliteStore};

use crate::support::*;

const USERS: &str = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT CHECK (name <> 'bad'))";

#[tokio::test]
async fn a_retry_takes_the_row_as_it_is_now() {
    let world = World::new(USERS, &["users"]);
    world.up("alice", &[("INSERT", "users", 1, r#"{"name":"bad"}"#)]).await;
    world.up("alice", &[("UPDATE", "users", 1, r#"{"name":"bad"}"#)]).await;
    let failures = world.failures("alice").await;
    assert_eq!(
        failures.iter().map(|of| (of.id, of.attempted_version.0, of.retry_count)).collect::<Vec<_>>(),
        [(1, 1, 0), (2, 2, 0)]
    );
    assert_eq!(failures[1].payload.as_ref().unwrap().as_str(), r#"{"name":"bad"}"#);
    let Retried::Failed(again) = world.store.retry(&user("alice"), 2).await.unwrap() else { panic!() };
    assert_eq!((again.id, again.retry_count), (2, 1));
    let Retried::Failed(stale) = world.store.retry(&user("alice"), 1).await.unwrap() else { panic!() };
    assert_eq!((stale.id, stale.retry_count), (1, 1));
    assert_eq!(world.store.retry(&user("bob"), 1).await.unwrap(), Retried::Unknown);
    world.shell.execute_batch("DROP TABLE users; CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT)").unwrap();
    assert_eq!(world.store.retry(&user("alice"), 1).await.unwrap(), Retried::Materialized);
    assert_eq!(world.failures("alice").await, []);
    assert_eq!(world.rows("SELECT name FROM users"), ["bad"]);
    assert_eq!(world.store.retry(&user("alice"), 1).await.unwrap(), Retried::Unknown);
}

#[tokio::test]
async fn failures_of_all_users_come_in_pages() {
    let world = World::new(USERS, &["users"]);
    for who in ["bob", "alice"] {
        world
            .up(who, &[("INSERT", "users", 1, r#"{"name":"bad"}"#), ("INSERT", "users", 2, r#"{"name":"bad"}"#)])
            .await;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    while let [failure] = &world.store.all_failures(&FailureFilter::default(), after.clone(), 1).await.unwrap()[..] {
        after = Some((failure.user.clone(), failure.id));
        seen.push(format!("{} {}", failure.user, failure.id));
    }
    assert_eq!(seen, ["alice 1", "alice 2", "bob 1", "bob 2"]);
    let other = FailureFilter { schema: None, table: Some("posts".into()) };
    assert_eq!(world.store.all_failures(&other, None, 9).await.unwrap(), []);
    assert_eq!(world.store.failures(&user("bob"), &FailureFilter::default(), 1, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_rebuild_makes_the_rows_what_the_sidecar_has() {
    // Uploaded before the table is there.
    let world = World::new("", &["users"]);
    for (who, first) in [("alice", 1), ("bob", 11)] {
        for pk in first..first + 5 {
            world.up(who, &[("INSERT", "users", pk, &format!("{{\"name\":\"{pk}\"}}"))]).await;
        }
        world.up(who, &[("DELETE", "users", first, "")]).await;
    }
    world.shell.execute_batch(USERS).unwrap();
    world.up("bob", &[("UPDATE", "users", 12, r#"{"name":"new"}"#)]).await;
    world.shell.execute_batch("UPDATE users SET name = 'spoilt'").unwrap();
    let (mut cursor, mut projected) = (None, 0);
    loop {
        let step = world.store.rebuild(&name("users"), cursor, 3, Timestamp::UNIX_EPOCH).await.unwrap();
        projected += step.projected;
        assert_eq!(step.failed, 0);
        cursor = step.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(projected, 8);
    assert_eq!(world.rows("SELECT name FROM users ORDER BY id"), ["2", "3", "4", "5", "new", "13", "14", "15"]);
}

#[tokio::test]
async fn what_is_ours_is_remembered_by_the_database() {
    let world = World::new(USERS, &["users"]);
    world.up("alice", &[("INSERT", "users", 1, r#"{"name":"a"}"#)]).await;
    let options = SqliteOptions { tables: tables(&["users"]), ..SqliteOptions::default() };
    let other = SqliteStore::open(&world.path(), options).unwrap();
    world.shell.execute_batch("UPDATE users SET name = 'spoilt'").unwrap();
    let step = other.rebuild(&name("users"), None, 10, Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!((step.projected, step.failed), (1, 0));
    assert_eq!(world.rows("SELECT name FROM users"), ["a"]);
}
