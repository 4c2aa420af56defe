//! What becomes of payloads in columns.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_application::{Batch, MaterializeError, Materializer};
use outrigger_sqlite::SqliteOptions;
use rusqlite::Connection;

use crate::support::*;

/// A value in a column of a type: as SQLite quotes it, or the error.
async fn stored(declared: &str, json: &str) -> String {
    let world = World::new(&format!("CREATE TABLE t (id TEXT PRIMARY KEY, c {declared})"), &["t"]);
    world.up("alice", &[("INSERT", "t", 1, &format!("{{\"c\":{json}}}"))]).await;
    match world.errors("alice").await.pop() {
        Some(error) => error,
        None => world.row("SELECT quote(c) FROM t"),
    }
}

#[tokio::test]
async fn a_column_takes_what_its_type_says() {
    let uuid = "'01020304-0506-0708-090a-0b0c0d0e0f10'";
    for (declared, json, expected) in [
        ("UUID", "\"01020304-0506-0708-090A-0B0C0D0E0F10\"", uuid),
        ("UUID", "\"AQIDBAUGBwgJCgsMDQ4PEA==\"", uuid),
        ("BLOB", "\"3q2+7w==\"", "X'DEADBEEF'"),
        ("BLOB", "\"\\\\xdead\"", "X'DEAD'"),
        ("DATETIME", "\"2025-08-08T09:01:00.25+02:00\"", "'2025-08-08T07:01:00.250000Z'"),
        ("TIMESTAMP", "\"2025-08-08 07:01:00\"", "'2025-08-08T07:01:00.000000Z'"),
        ("TIMESTAMP", "1754636460", "'2025-08-08T07:01:00.000000Z'"),
        ("TIMESTAMP", "1754636460250", "'2025-08-08T07:01:00.250000Z'"),
        ("DATE", "\"2025-08-08T23:30:00-02:00\"", "'2025-08-09'"),
        ("BOOLEAN", "true", "1"),
        ("BOOLEAN", "0", "0"),
        ("JSON", "{ \"b\": 1.0 }", "'{ \"b\": 1.0 }'"),
        ("JSON", "null", "NULL"),
        ("INTEGER", "9223372036854775807", "9223372036854775807"),
        ("INTEGER", "1754636460250", "1754636460250"),
        ("BIGINT", "true", "1"),
        ("TEXT", "123456789012345678901234567890.1234567890", "'123456789012345678901234567890.1234567890'"),
        ("VARCHAR(9)", "\"it's\"", "'it''s'"),
        ("TEXT", "[1, 2]", "'[1, 2]'"),
        ("TEXT", "null", "NULL"),
        ("REAL", "0.1", "0.1"),
        ("DECIMAL(9,2)", "12.50", "12.5"),
        ("NUMERIC", "7", "7"),
        ("ENUM", "\"sad\"", "'sad'"),
        ("", "1.5", "1.5"),
        ("", "\"1.5\"", "'1.5'"),
        ("", "[true]", "'[true]'"),
        ("DATETIME", "[]", "column c: cannot make a timestamp of a JSON array"),
        ("BLOB", "\"%\"", "column c: cannot make bytes of a JSON string"),
        ("INTEGER", "\"secret\"", "column c: cannot make an integer of a JSON string"),
        ("INTEGER", "9223372036854775808", "column c: the number is too large for it"),
        ("REAL", "1e999", "column c: the number is too large for it"),
        ("BOOLEAN", "2", "column c: cannot make a boolean of a JSON number"),
        ("UUID", "7", "column c: cannot make a uuid of a JSON number"),
        ("DATE", "true", "column c: cannot make a date of a JSON boolean"),
    ] {
        assert_eq!(stored(declared, json).await, expected, "{declared} {json}");
    }
}

#[tokio::test]
async fn a_strict_table_takes_the_same() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT";
    let world = World::new(sql, &["t"]);
    let payload = r#"{"i":"5","r":2,"t":3.50,"b":"AQI=","a":"007"}"#;
    world.up("alice", &[("INSERT", "t", 1, payload)]).await;
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
    let row = world.row("SELECT quote(i)||' '||quote(r)||' '||quote(t)||' '||quote(b)||' '||quote(a) FROM t");
    assert_eq!(row, "5 2.0 '3.50' X'0102' '007'");
}

#[tokio::test]
async fn missing_members_keep_defaults_and_values() {
    let sql = "CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT DEFAULT 'd', b TEXT DEFAULT 'e', \
               g TEXT GENERATED ALWAYS AS (a || b) STORED)";
    let world = World::new(sql, &["t"]);
    let row = || world.row("SELECT quote(a)||quote(b)||quote(g) FROM t");
    world.up("alice", &[("INSERT", "t", 1, r#"{"a":"x","id":"other","g":"g","unknown":1}"#)]).await;
    assert_eq!(row(), "'x''e''xe'");
    assert_eq!(world.row("SELECT id FROM t"), uuid::Uuid::from_u128(1).to_string());
    world.up("alice", &[("UPDATE", "t", 1, r#"{"b":"y"}"#)]).await;
    assert_eq!(row(), "'x''y''xy'");
    world.up("alice", &[("UPDATE", "t", 1, r#"{"a":null}"#)]).await;
    assert_eq!(row(), "NULL'y'NULL");
    world.up("alice", &[("UPDATE", "t", 1, "{}")]).await;
    assert_eq!(row(), "NULL'y'NULL");
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
}

/// Users, posts, files and their reviews, whose reference to a file is base64.
#[tokio::test]
async fn the_example_schema_is_projected() {
    let sql = "
        CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, created_at DATETIME);
        CREATE TABLE posts (id TEXT PRIMARY KEY, title TEXT NOT NULL, author_id TEXT NOT NULL REFERENCES users (id));
        CREATE TABLE files (id BLOB PRIMARY KEY, name TEXT NOT NULL, data BLOB NOT NULL);
        CREATE TABLE file_reviews (id BLOB PRIMARY KEY, review TEXT NOT NULL, file_id BLOB NOT NULL REFERENCES files (id));";
    let world = World::new(sql, &["file_reviews", "posts", "files", "users"]);
    let post = format!("{{\"title\":\"t\",\"author_id\":\"{}\"}}", uuid::Uuid::from_u128(1));
    let changes = [
        ("INSERT", "file_reviews", 4, r#"{"review":"good","file_id":"AAAAAAAAAAAAAAAAAAAAAw=="}"#),
        ("INSERT", "posts", 2, post.as_str()),
        ("INSERT", "files", 3, r#"{"name":"f","data":"AQID"}"#),
        ("INSERT", "users", 1, r#"{"name":"n","email":"e","created_at":1754636460}"#),
    ];
    world.up("alice", &changes).await;
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
    assert_eq!(world.row("SELECT hex(data) FROM files JOIN file_reviews ON file_id = files.id"), "010203");
    assert_eq!(
        world.row("SELECT created_at FROM users JOIN posts ON author_id = users.id"),
        "2025-08-08T07:01:00.000000Z"
    );
    // Deleted in the wrong order for the foreign keys, too.
    world
        .up(
            "alice",
            &[
                ("DELETE", "users", 1, ""),
                ("DELETE", "files", 3, ""),
                ("DELETE", "posts", 2, ""),
                ("DELETE", "file_reviews", 4, ""),
            ],
        )
        .await;
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
    assert_eq!(world.row("SELECT count(*)||'' FROM (SELECT id FROM users UNION ALL SELECT id FROM posts UNION ALL SELECT id FROM files UNION ALL SELECT id FROM file_reviews)"), "0");
}

/// Keeps how long the names are, and nothing else.
struct Lengths;

#[async_trait]
impl Materializer<Connection> for Lengths {
    async fn apply(&self, tx: &mut Connection, batch: Batch<'_>) -> Result<(), MaterializeError> {
        for row in batch.rows {
            let length = row.payload.map_or(0, |payload| payload.as_str().len());
            assert!(length < 50, "the payload is too long");
            tx.execute("INSERT INTO lengths VALUES (?1, ?2)", (row.pk.to_string(), length as i64))
                .map_err(|_| MaterializeError("refused".into()))?;
        }
        Ok(())
    }
}

/// Ends the transaction that it is to write in.
struct Ending;

#[async_trait]
impl Materializer<Connection> for Ending {
    async fn apply(&self, tx: &mut Connection, _: Batch<'_>) -> Result<(), MaterializeError> {
        tx.execute_batch("ROLLBACK").map_err(|_| MaterializeError("refused".into()))
    }
}

#[tokio::test]
async fn an_own_materializer_that_ends_the_transaction_costs_its_rows() {
    let options = SqliteOptions {
        tables: tables(&["users", "notes"]),
        materializers: [(name("notes"), Arc::new(Ending) as Arc<dyn Materializer<Connection>>)].into(),
        ..SqliteOptions::default()
    };
    let world = World::with("CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT)", options).unwrap();
    world.up("alice", &[("INSERT", "notes", 1, "{}"), ("INSERT", "users", 1, r#"{"name":"n"}"#)]).await;
    assert_eq!(world.errors("alice").await, ["the projection of the row ended the transaction"]);
    assert_eq!(world.rows("SELECT name FROM users"), ["n"]);
}

#[tokio::test]
async fn an_own_materializer_stands_beside_the_others() {
    let options = SqliteOptions {
        tables: tables(&["users", "notes"]),
        materializers: [(name("notes"), Arc::new(Lengths) as Arc<dyn Materializer<Connection>>)].into(),
        ..SqliteOptions::default()
    };
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT); CREATE TABLE lengths (id TEXT UNIQUE, n INTEGER)";
    let world = World::with(sql, options).unwrap();
    world.up("alice", &[("INSERT", "notes", 1, "{}"), ("INSERT", "users", 1, r#"{"name":"n"}"#)]).await;
    assert_eq!(world.rows("SELECT n||'' FROM lengths UNION ALL SELECT name FROM users"), ["2", "n"]);
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(60));
    world
        .up("alice", &[("INSERT", "notes", 2, &long), ("UPDATE", "notes", 1, "{}"), ("INSERT", "users", 2, "{}")])
        .await;
    let mut errors = world.errors("alice").await;
    errors.sort();
    assert_eq!(errors, ["refused", "the materializer of the table panicked"]);
    assert_eq!(world.rows("SELECT id FROM users").len(), 2);
}
