//! Two users with the same key, and rows that are nobody's.

use outrigger_application::TableConfig;
use outrigger_sqlite::SqliteOptions;

use crate::support::*;

const USERS: &str = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT, email TEXT UNIQUE)";
const NOT_OURS: &str = "the business row was not put there by this user";

#[tokio::test]
async fn the_row_is_the_first_users_in_every_order() {
    for last in 0..4 {
        let world = World::new(USERS, &["users"]);
        world.up("alice", &[("INSERT", "users", 1, r#"{"name":"alice"}"#)]).await;
        for op in ["INSERT", "UPDATE", "DELETE", "INSERT"].iter().take(last + 1) {
            world.up("bob", &[(op, "users", 1, r#"{"name":"bob"}"#)]).await;
            assert_eq!(world.rows("SELECT name FROM users"), ["alice"], "{op}");
        }
        assert_eq!(world.errors("bob").await, vec![NOT_OURS; last + 1]);
        assert_eq!(world.errors("alice").await, [] as [&str; 0]);
        world.up("alice", &[("DELETE", "users", 1, "")]).await;
        assert_eq!(world.rows("SELECT name FROM users"), [] as [&str; 0]);
        // Then the key is free, and the next change of the other user takes it and clears what had failed.
        let op = if last == 2 { "INSERT" } else { "UPDATE" };
        world.up("bob", &[(op, "users", 1, r#"{"name":"bob"}"#)]).await;
        assert_eq!(world.rows("SELECT name FROM users"), ["bob"]);
        assert_eq!(world.errors("bob").await, [] as [&str; 0]);
        world.up("alice", &[("INSERT", "users", 1, r#"{"name":"alice"}"#)]).await;
        assert_eq!(world.rows("SELECT name FROM users"), ["bob"]);
    }
}

#[tokio::test]
async fn a_row_of_the_backend_is_left_alone() {
    let world = World::new(USERS, &["users"]);
    let id = uuid::Uuid::from_u128(1).to_string();
    world.shell.execute("INSERT INTO users VALUES (?1, 'backend', 'e')", [&id]).unwrap();
    for op in ["INSERT", "UPDATE", "DELETE"] {
        world.up("alice", &[(op, "users", 1, r#"{"name":"alice"}"#)]).await;
        assert_eq!(world.rows("SELECT name FROM users"), ["backend"], "{op}");
    }
    assert_eq!(world.errors("alice").await, [NOT_OURS; 3]);
}

#[tokio::test]
async fn a_conflict_clause_of_the_table_does_not_replace_rows_of_others() {
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY ON CONFLICT REPLACE, name TEXT, email TEXT UNIQUE ON CONFLICT REPLACE)";
    let world = World::new(sql, &["users"]);
    world.up("alice", &[("INSERT", "users", 1, r#"{"name":"alice","email":"e"}"#)]).await;
    world.up("bob", &[("INSERT", "users", 2, r#"{"name":"bob","email":"e"}"#), ("INSERT", "users", 1, "{}")]).await;
    assert_eq!(world.rows("SELECT name FROM users"), ["alice"]);
    assert_eq!(world.errors("bob").await.len(), 2);
}

#[tokio::test]
async fn the_owner_column_names_the_user_and_is_matched() {
    let config = TableConfig { owner_column: Some("user_id".into()), ..TableConfig::new(name("users")) };
    let options = SqliteOptions { tables: vec![config], ..SqliteOptions::default() };
    let world = World::with("CREATE TABLE users (id TEXT PRIMARY KEY, user_id TEXT, name TEXT)", options).unwrap();
    let row = || world.row("SELECT user_id||name FROM users");
    world.up("alice", &[("INSERT", "users", 1, r#"{"name":"1","user_id":"bob"}"#)]).await;
    assert_eq!(row(), "alice1");
    world.up("alice", &[("UPDATE", "users", 1, r#"{"name":"2","user_id":"bob"}"#)]).await;
    assert_eq!(row(), "alice2");
    world.shell.execute_batch("UPDATE users SET user_id = 'carol'").unwrap();
    world.up("alice", &[("UPDATE", "users", 1, r#"{"name":"3"}"#)]).await;
    world.up("alice", &[("DELETE", "users", 1, "")]).await;
    assert_eq!(row(), "carol2");
    assert_eq!(world.errors("alice").await, [NOT_OURS; 2]);
}

#[tokio::test]
async fn a_row_that_the_backend_deleted_comes_back_with_its_next_change() {
    let world = World::new(USERS, &["users"]);
    world.up("alice", &[("INSERT", "users", 1, r#"{"name":"1"}"#), ("INSERT", "users", 2, "{}")]).await;
    world.shell.execute_batch("DELETE FROM users").unwrap();
    world.up("alice", &[("UPDATE", "users", 1, r#"{"name":"2"}"#), ("DELETE", "users", 2, "")]).await;
    assert_eq!(world.rows("SELECT name FROM users"), ["2"]);
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
}
