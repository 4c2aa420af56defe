//! Business tables as they may be: names of every kind, objects that are no tables, keys that lead nowhere, triggers
//! that end the transaction.

use std::time::{Duration, Instant};

use outrigger_application::ports::projection::Retried;
use outrigger_application::{Materialize, ProjectionStore, TableConfig};
use outrigger_domain::Decision;
use outrigger_sqlite::{SqliteOptions, SqliteStore};
use uuid::Uuid;

use crate::support::*;

const IGNORED: &str = "a trigger of the table ignored the row";
const NOT_OURS: &str = "the business row was not put there by this user";

fn owned(text: &str, column: &str) -> TableConfig {
    TableConfig { owner_column: Some(column.into()), ..TableConfig::new(name(text)) }
}

#[tokio::test]
async fn triggers_that_roll_back_every_row_cost_the_bound() {
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY); CREATE TABLE others (id TEXT PRIMARY KEY);
        CREATE TRIGGER t BEFORE INSERT ON users BEGIN SELECT RAISE(ROLLBACK, 'secret'); END";
    let world = World::new(sql, &["users", "others"]);
    let mut changes: Vec<Change<'_>> = (1..=900).map(|pk| ("INSERT", "users", pk, "{}")).collect();
    changes.push(("INSERT", "others", 1, "{}"));
    let began = Instant::now();
    world.up("alice", &changes).await;
    // Once for each of them it would take minutes. The sidecar is written a few times in any case.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let failures = world.failures("alice").await;
    assert_eq!(failures.len(), 900);
    let refused =
        failures.iter().filter(|of| of.error == "SQLITE_CONSTRAINT_TRIGGER: a trigger refused the row").count();
    let given_up = failures.iter().filter(|of| of.error == "timed out").count();
    assert!(refused > 0 && refused + given_up == 900, "{refused} refused, {given_up} given up");
    assert_eq!(world.rows("SELECT id FROM others").len(), 1, "the others had their time");
}

#[tokio::test]
async fn failures_of_an_upload_are_numbered_in_its_order() {
    let world = World::new("CREATE TABLE users (id TEXT PRIMARY KEY, n INTEGER NOT NULL)", &["users"]);
    let pks = [7, 3, 9, 1, 8, 2, 6, 4, 5_u128];
    world.up("alice", &pks.map(|pk| ("INSERT", "users", pk, "{}"))).await;
    let failures = world.failures("alice").await;
    assert_eq!(failures.iter().map(|of| of.row.pk.as_u128()).collect::<Vec<_>>(), pks);
}

#[tokio::test]
async fn a_trigger_that_ignores_an_update_or_a_delete_is_named() {
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT);
        CREATE TRIGGER u BEFORE UPDATE ON users WHEN new.name = 'bad' BEGIN SELECT RAISE(IGNORE); END;
        CREATE TRIGGER d BEFORE DELETE ON users BEGIN SELECT RAISE(IGNORE); END";
    let world = World::new(sql, &["users"]);
    world.up("alice", &[("INSERT", "users", 1, r#"{"name":"a"}"#), ("INSERT", "users", 2, "{}")]).await;
    world.up("alice", &[("UPDATE", "users", 1, r#"{"name":"bad"}"#), ("DELETE", "users", 2, "")]).await;
    assert_eq!(world.errors("alice").await, [IGNORED; 2]);
    assert_eq!(world.rows("SELECT id FROM users").len(), 2);
    // It is still ours: once the trigger is gone it goes.
    world.shell.execute_batch("DROP TRIGGER d").unwrap();
    assert_eq!(world.store.retry(&user("alice"), 2).await.unwrap(), Retried::Materialized);
    assert_eq!(world.rows("SELECT name FROM users"), ["a"]);
}

#[tokio::test]
async fn what_shows_only_at_the_commit_costs_the_rows_and_not_the_upload() {
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY);
        CREATE TABLE nowhere (id TEXT PRIMARY KEY);
        CREATE TABLE trace (id TEXT REFERENCES nowhere (id) DEFERRABLE INITIALLY DEFERRED);
        CREATE TRIGGER t AFTER INSERT ON users BEGIN INSERT INTO trace VALUES (new.id); END";
    let world = World::new(sql, &["users"]);
    world.up("alice", &[("INSERT", "users", 1, "{}"), ("INSERT", "users", 2, "{}")]).await;
    assert_eq!(world.errors("alice").await, ["SQLITE_CONSTRAINT_FOREIGNKEY: FOREIGN KEY constraint failed"; 2]);
    assert_eq!(world.rows("SELECT id FROM users UNION ALL SELECT id FROM trace"), [] as [&str; 0]);
}

#[test]
fn the_server_s_own_tables_are_refused_all_of_them() {
    let world = World::new("", &[]);
    let own = world.rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
    assert!(own.len() >= 9, "{own:?}");
    for own in own {
        let options = SqliteOptions { tables: tables(&[&own]), ..SqliteOptions::default() };
        let refused = SqliteStore::open(&world.path(), options).err().unwrap().to_string();
        assert_eq!(refused, format!("table public.{own} cannot be projected: it is one of the server's own"));
    }
}

#[tokio::test]
async fn what_comes_in_place_of_a_table_is_noticed() {
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT)";
    for (other, why) in [
        ("CREATE VIEW users AS SELECT 1 AS id", "it is a view"),
        ("CREATE VIEW users AS SELECT * FROM missing", "it is a view"),
        ("CREATE VIRTUAL TABLE users USING fts5(id, name)", "it is a virtual"),
        (
            "CREATE TABLE users (id INTEGER PRIMARY KEY)",
            "its primary key id is INTEGER; it must be TEXT, BLOB or of no type",
        ),
    ] {
        let world = World::new(sql, &["users", "others"]);
        world
            .shell
            .execute_batch(&format!("DROP TABLE users; {other}; CREATE TABLE others (id TEXT PRIMARY KEY)"))
            .unwrap();
        world.up("alice", &[("INSERT", "users", 1, "{}"), ("INSERT", "others", 1, "{}")]).await;
        assert_eq!(world.errors("alice").await, [format!("table public.users cannot be projected: {why}")], "{other}");
        assert_eq!(world.rows("SELECT id FROM others").len(), 1, "{other}");
    }
}

#[tokio::test]
async fn names_may_be_words_and_hold_anything() {
    let sql = r#"CREATE TABLE "Order" ("group" TEXT PRIMARY KEY, "select" TEXT, "Odd ""c" TEXT, "a.b" TEXT, 'it''s' TEXT,
        "user id" TEXT, v TEXT GENERATED ALWAYS AS ("select" || '!') VIRTUAL, parent REFERENCES "order"("GROUP"))"#;
    let options = SqliteOptions { tables: vec![owned("order", "user id")], ..SqliteOptions::default() };
    let world = World::with(sql, options).unwrap();
    let json = r#"{"select":"s","Odd \"c":"o","a.b":"d","it's":"i","user id":"bob","v":"v","group":"g","parent":null}"#;
    world.up("alice", &[("INSERT", "order", 1, json), ("INSERT", "order", 2, "{}")]).await;
    world.up("alice", &[("UPDATE", "order", 1, r#"{"select":"t"}"#), ("DELETE", "order", 2, "")]).await;
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
    let row = r#"SELECT "select" || "Odd ""c" || "a.b" || "it's" || "user id" || v FROM "order""#;
    assert_eq!(world.rows(row), ["todialicet!"]);
}

#[tokio::test]
async fn foreign_keys_of_the_database_are_checked_on_the_user_s_own_rows() {
    let sql = "CREATE TABLE Users (ID TEXT PRIMARY KEY);
        CREATE TABLE posts (id TEXT PRIMARY KEY, author_id TEXT REFERENCES users, editor_id TEXT REFERENCES users (id))";
    let world = World::new(sql, &["users", "posts"]);
    world.refresh().await;
    world.up("bob", &[("INSERT", "users", 1, "{}")]).await;
    let of = |pk: u128| Uuid::from_u128(pk).to_string();
    let post = format!(r#"{{"author_id":"{}","editor_id":"{}"}}"#, of(1), of(2));
    let decisions = world.try_up("alice", &[("INSERT", "posts", 9, &post)]).await;
    let [Decision::Invalid(refusal)] = decisions.as_slice() else { panic!("{decisions:?}") };
    let mut missing: Vec<String> = refusal.missing.iter().map(ToString::to_string).collect();
    missing.sort();
    assert_eq!(missing, [1, 2].map(|pk| format!("public.users:{}", of(pk))));
    // Alice's own of the same key counts, though the business row is Bob's; then the post refers to that one.
    world
        .up("alice", &[("INSERT", "posts", 10, &post), ("INSERT", "users", 2, "{}"), ("INSERT", "users", 1, "{}")])
        .await;
    assert_eq!(world.errors("alice").await, [NOT_OURS]);
    assert_eq!(world.rows("SELECT author_id FROM posts"), [of(1)]);
}

#[tokio::test]
async fn a_key_that_no_device_can_name_is_no_reference() {
    let sql = "CREATE TABLE countries (id INTEGER PRIMARY KEY, code TEXT UNIQUE); CREATE TABLE bare (code TEXT UNIQUE);
        CREATE TABLE users (id TEXT PRIMARY KEY, country INTEGER REFERENCES countries, code TEXT REFERENCES bare (code))";
    let off = |text| TableConfig { materialize: Materialize::Off, ..TableConfig::new(name(text)) };
    let tables = vec![off("countries"), off("bare"), TableConfig::new(name("users"))];
    let world = World::with(sql, SqliteOptions { tables, ..SqliteOptions::default() }).unwrap();
    world.refresh().await;
    world.shell.execute_batch("INSERT INTO countries VALUES (7, 'x'); INSERT INTO bare VALUES ('x')").unwrap();
    world.up("alice", &[("INSERT", "users", 1, r#"{"country":7,"code":"x"}"#)]).await;
    assert_eq!(world.rows("SELECT country || code FROM users"), ["7x"]);
}

#[tokio::test]
async fn a_reference_without_a_type_is_as_the_key_that_it_equals() {
    let sql = "CREATE TABLE files (id BLOB PRIMARY KEY); CREATE TABLE notes (id PRIMARY KEY);
        CREATE TABLE reviews (id TEXT PRIMARY KEY, file_id REFERENCES files, note_id REFERENCES notes)";
    let world = World::new(sql, &["files", "notes", "reviews"]);
    let of = "AAAAAAAAAAAAAAAAAAAAAQ==";
    let review = format!(r#"{{"file_id":"{of}","note_id":"{of}"}}"#);
    world
        .up("alice", &[("INSERT", "reviews", 2, &review), ("INSERT", "files", 1, "{}"), ("INSERT", "notes", 1, "{}")])
        .await;
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
    let joined = "SELECT hex(file_id) FROM reviews JOIN files ON file_id = files.id JOIN notes ON note_id = notes.id";
    assert_eq!(world.rows(joined), ["00000000000000000000000000000001"]);
}

#[tokio::test]
async fn keys_that_lead_nowhere_cost_their_own_table() {
    for (parent, why) in [
        ("REFERENCES missing", "SQLITE_ERROR: no such table: main.missing"),
        ("REFERENCES broken", "SQLITE_ERROR: foreign key mismatch - \"users\" referencing \"broken\""),
        ("REFERENCES keyless", "SQLITE_ERROR: foreign key mismatch - \"users\" referencing \"keyless\""),
        ("REFERENCES keyless (n)", "SQLITE_ERROR: foreign key mismatch - \"users\" referencing \"keyless\""),
    ] {
        let sql = format!(
            "CREATE VIEW broken AS SELECT * FROM gone; CREATE TABLE keyless (n TEXT); CREATE TABLE others (id TEXT PRIMARY KEY);
             CREATE TABLE users (id TEXT PRIMARY KEY, of TEXT {parent})"
        );
        let world = World::new(&sql, &["users", "others"]);
        world.up("alice", &[("INSERT", "users", 1, r#"{"of":"x"}"#), ("INSERT", "others", 1, "{}")]).await;
        assert_eq!(world.errors("alice").await, [why], "{parent}");
        assert_eq!(world.rows("SELECT id FROM others").len(), 1, "{parent}");
    }
}

#[tokio::test]
async fn with_an_owner_s_column_a_cascade_leaves_no_claim_behind() {
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY, user_id TEXT NOT NULL);
        CREATE TABLE posts (id TEXT PRIMARY KEY, title TEXT, user_id TEXT NOT NULL,
            author_id TEXT REFERENCES users ON DELETE CASCADE)";
    let tables = vec![owned("users", "user_id"), owned("posts", "user_id")];
    let world = World::with(sql, SqliteOptions { tables, ..SqliteOptions::default() }).unwrap();
    let by = |author: u128| format!(r#"{{"title":"{author}","author_id":"{}"}}"#, Uuid::from_u128(author));
    world.up("alice", &[("INSERT", "users", 1, "{}"), ("INSERT", "posts", 9, &by(1))]).await;
    world.up("alice", &[("DELETE", "users", 1, "")]).await;
    assert_eq!(world.rows("SELECT title FROM posts"), [] as [&str; 0]);
    world.up("bob", &[("INSERT", "users", 2, "{}"), ("INSERT", "posts", 9, &by(2))]).await;
    for change in [("UPDATE", "posts", 9, r#"{"title":"alice"}"#), ("DELETE", "posts", 9, "")] {
        world.up("alice", &[change]).await;
        assert_eq!(world.rows("SELECT title || user_id FROM posts"), ["2bob"]);
    }
    assert_eq!(world.errors("alice").await, [NOT_OURS; 2]);
}

#[tokio::test]
async fn a_failure_whose_row_is_forgotten_goes_at_its_retry() {
    let world = World::new("CREATE TABLE users (id TEXT PRIMARY KEY, n INTEGER NOT NULL)", &["users"]);
    world.up("alice", &[("INSERT", "users", 1, "{}"), ("INSERT", "users", 2, "{}")]).await;
    let forget = "DELETE FROM sync_row_meta WHERE pk_uuid LIKE '%1'; DELETE FROM sync_state WHERE pk_uuid LIKE '%1'";
    world.shell.execute_batch(forget).unwrap();
    assert_eq!(world.store.retry(&user("alice"), 1).await.unwrap(), Retried::Unknown);
    assert_eq!(world.failures("alice").await.iter().map(|failure| failure.id).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn a_row_that_moves_to_another_parent_outlives_the_old_one() {
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY);
        CREATE TABLE posts (id TEXT PRIMARY KEY, author_id TEXT NOT NULL REFERENCES users ON DELETE CASCADE, title TEXT)";
    let world = World::new(sql, &["posts", "users"]);
    let by = |author: u128| format!(r#"{{"author_id":"{}"}}"#, Uuid::from_u128(author));
    // Only the first change has the title: a row that went and came back would have lost it.
    let first = by(1).replace('}', r#","title":"kept"}"#);
    world.up("alice", &[("INSERT", "users", 1, "{}"), ("INSERT", "posts", 9, &first)]).await;
    world
        .up("alice", &[("DELETE", "users", 1, ""), ("UPDATE", "posts", 9, &by(2)), ("INSERT", "users", 2, "{}")])
        .await;
    assert_eq!(world.rows("SELECT title || author_id FROM posts"), [format!("kept{}", Uuid::from_u128(2))]);
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_table_that_is_not_to_be_projected_is_left_alone() {
    let off = TableConfig { materialize: Materialize::Off, ..TableConfig::new(name("users")) };
    let options = SqliteOptions { tables: vec![off], ..SqliteOptions::default() };
    let world = World::with("CREATE TABLE users (id TEXT PRIMARY KEY)", options).unwrap();
    world.up("alice", &[("INSERT", "users", 1, "{}")]).await;
    assert_eq!(world.rows("SELECT id FROM users"), [] as [&str; 0]);
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
}
