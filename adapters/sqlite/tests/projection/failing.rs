//! Business tables that are in the way.

use std::time::{Duration, Instant};

use outrigger_sqlite::SqliteOptions;

use crate::support::*;

const USERS: &str = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE);";
/// Takes for ever.
const SLOW: &str = "CREATE TRIGGER slow AFTER INSERT ON users WHEN new.name = 'slow' BEGIN
    INSERT INTO sink WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n; END;";

#[tokio::test]
async fn a_row_that_is_refused_is_recorded_and_the_others_are_there() {
    let world = World::new(USERS, &["users"]);
    let changes = [
        ("INSERT", "users", 1, "{}"),
        ("INSERT", "users", 2, r#"{"name":"b","email":"e"}"#),
        ("INSERT", "users", 3, r#"{"name":"secret","email":"e"}"#),
    ];
    world.up("alice", &changes).await;
    assert_eq!(world.rows("SELECT name FROM users"), ["b"]);
    let mut errors = world.errors("alice").await;
    errors.sort();
    assert_eq!(
        errors,
        [
            "SQLITE_CONSTRAINT_NOTNULL: NOT NULL constraint failed: users.name",
            "SQLITE_CONSTRAINT_UNIQUE: UNIQUE constraint failed: users.email"
        ]
    );
    world.up("alice", &[("UPDATE", "users", 3, r#"{"name":"c","email":"f"}"#)]).await;
    assert_eq!(world.rows("SELECT name FROM users ORDER BY 1"), ["b", "c"]);
    assert_eq!(world.errors("alice").await.len(), 1);
}

#[tokio::test]
async fn rows_wait_for_each_other_as_long_as_that_helps() {
    let world = World::new(USERS, &["users"]);
    world
        .up(
            "alice",
            &[
                ("INSERT", "users", 1, r#"{"name":"a","email":"1"}"#),
                ("INSERT", "users", 2, r#"{"name":"b","email":"2"}"#),
            ],
        )
        .await;
    // The first takes what the second gives up, and the third what a delete leaves.
    world.up("alice", &[("UPDATE", "users", 1, r#"{"email":"2"}"#), ("UPDATE", "users", 2, r#"{"email":"3"}"#)]).await;
    assert_eq!(world.rows("SELECT name||email FROM users ORDER BY 1"), ["a2", "b3"]);
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
    world.up("alice", &[("INSERT", "users", 3, r#"{"name":"c","email":"2"}"#), ("DELETE", "users", 1, "")]).await;
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
    assert_eq!(world.rows("SELECT name||email FROM users ORDER BY 1"), ["b3", "c2"]);
}

#[tokio::test]
async fn a_slow_trigger_costs_the_bound_and_only_its_row() {
    let sql = format!("{USERS} CREATE TABLE sink (n INTEGER); {SLOW}");
    let timeout = Duration::from_millis(600);
    let options = SqliteOptions { tables: tables(&["users"]), projection_timeout: timeout, ..SqliteOptions::default() };
    let world = World::with(&sql, options).unwrap();
    let began = Instant::now();
    let alice = [
        ("INSERT", "users", 1, r#"{"name":"a"}"#),
        ("INSERT", "users", 2, r#"{"name":"slow"}"#),
        ("INSERT", "users", 3, r#"{"name":"c"}"#),
    ];
    tokio::join!(world.up("alice", &alice), world.up("bob", &[("INSERT", "users", 9, r#"{"name":"bob"}"#)]));
    // Once more in the round that both shared.
    assert!(began.elapsed() < timeout * 4, "{:?}", began.elapsed());
    assert_eq!(world.rows("SELECT name FROM users ORDER BY 1"), ["a", "bob", "c"]);
    assert_eq!(world.errors("alice").await, ["timed out"]);
    assert_eq!(world.errors("bob").await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_trigger_that_fails_or_rolls_back_costs_its_row() {
    for raise in ["RAISE(ABORT, 'secret')", "RAISE(ROLLBACK, 'secret')", "RAISE(FAIL, 'secret')", "RAISE(IGNORE)"] {
        let sql =
            format!("{USERS} CREATE TRIGGER t BEFORE INSERT ON users WHEN new.name = 'bad' BEGIN SELECT {raise}; END");
        let world = World::new(&sql, &["users"]);
        world
            .up(
                "alice",
                &[
                    ("INSERT", "users", 1, r#"{"name":"a"}"#),
                    ("INSERT", "users", 2, r#"{"name":"bad"}"#),
                    ("INSERT", "users", 3, r#"{"name":"c"}"#),
                ],
            )
            .await;
        assert_eq!(world.rows("SELECT name FROM users ORDER BY 1"), ["a", "c"], "{raise}");
        let errors = world.errors("alice").await;
        assert!(errors.len() == 1 && errors[0].contains("a trigger") && !errors[0].contains("secret"), "{errors:?}");
    }
}

#[tokio::test]
async fn a_changed_catalog_is_noticed_at_once() {
    let world = World::new(USERS, &["users", "later"]);
    world.up("alice", &[("INSERT", "users", 1, r#"{"name":"a"}"#), ("INSERT", "later", 1, "{}")]).await;
    world
        .shell
        .execute_batch("ALTER TABLE users ADD COLUMN nick TEXT; ALTER TABLE users RENAME COLUMN name TO title")
        .unwrap();
    world.up("alice", &[("UPDATE", "users", 1, r#"{"title":"b","nick":"n"}"#)]).await;
    assert_eq!(world.rows("SELECT title||nick FROM users"), ["bn"]);
    world.shell.execute_batch("DROP TABLE users; CREATE TABLE later (id TEXT PRIMARY KEY, a TEXT)").unwrap();
    world.up("alice", &[("UPDATE", "users", 1, "{}"), ("UPDATE", "later", 1, r#"{"a":"x"}"#)]).await;
    assert_eq!(world.errors("alice").await, ["table public.users cannot be projected: it does not exist"]);
    assert_eq!(world.rows("SELECT a FROM later"), ["x"]);
    world.shell.execute_batch(USERS).unwrap();
    world.up("alice", &[("UPDATE", "users", 1, r#"{"name":"back"}"#)]).await;
    assert_eq!(world.rows("SELECT name FROM users"), ["back"]);
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
}

#[tokio::test]
async fn circles_are_projected_and_broken_references_are_failures() {
    let sql = "CREATE TABLE a (id TEXT PRIMARY KEY, b TEXT REFERENCES b (id));
        CREATE TABLE b (id TEXT PRIMARY KEY, a TEXT REFERENCES a (id), c TEXT REFERENCES country (id) DEFERRABLE INITIALLY DEFERRED);
        CREATE TABLE country (id TEXT PRIMARY KEY);";
    let world = World::new(sql, &["a", "b"]);
    let of = |column: &str, pk: u128| format!("{{\"{column}\":\"{}\"}}", uuid::Uuid::from_u128(pk));
    world.up("alice", &[("INSERT", "a", 1, &of("b", 1)), ("INSERT", "b", 1, &of("a", 1))]).await;
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
    world
        .up("alice", &[("INSERT", "b", 2, r#"{"c":"nowhere"}"#), ("INSERT", "b", 3, "{}"), ("DELETE", "a", 1, "")])
        .await;
    assert_eq!(world.errors("alice").await, ["SQLITE_CONSTRAINT_FOREIGNKEY: FOREIGN KEY constraint failed"; 2]);
    assert_eq!(world.rows("SELECT id FROM a UNION ALL SELECT id FROM b").len(), 3);
    assert_eq!(world.rows("SELECT \"table\" FROM pragma_foreign_key_check"), [] as [&str; 0]);
}

/// Foreign keys that are not found out before the end of the transaction, unless they are looked for.
#[tokio::test]
async fn a_row_that_takes_away_what_others_refer_to_fails_alone() {
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT UNIQUE, code TEXT, UNIQUE (id, code));
        CREATE TABLE badges (name TEXT REFERENCES users (name));
        CREATE TABLE passes (id TEXT, code TEXT, FOREIGN KEY (id, code) REFERENCES users (ID, code));";
    let world = World::new(sql, &["users"]);
    let users = [
        ("INSERT", "users", 1, r#"{"name":"a"}"#),
        ("INSERT", "users", 2, r#"{"name":"b","code":"x"}"#),
        ("INSERT", "users", 3, r#"{"name":"c"}"#),
    ];
    world.up("alice", &users).await;
    world.shell.execute_batch("INSERT INTO badges VALUES ('a'), ('nobody')").unwrap_err();
    world.shell.execute_batch("PRAGMA foreign_keys = OFF; INSERT INTO badges VALUES ('a'), ('nobody')").unwrap();
    world.shell.execute("INSERT INTO passes VALUES (?1, 'x')", [uuid::Uuid::from_u128(2).to_string()]).unwrap();
    let changes = [
        ("UPDATE", "users", 1, r#"{"name":"z"}"#),
        ("UPDATE", "users", 2, r#"{"code":"y"}"#),
        ("UPDATE", "users", 3, r#"{"name":"d"}"#),
    ];
    world.up("alice", &changes).await;
    assert_eq!(world.rows("SELECT name||coalesce(code, '') FROM users ORDER BY id"), ["a", "bx", "d"]);
    assert_eq!(world.errors("alice").await, ["SQLITE_CONSTRAINT_FOREIGNKEY: FOREIGN KEY constraint failed"; 2]);
}
