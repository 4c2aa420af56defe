//! Business tables as they may be: rules, policies, inheritance, locks that others hold, and names that are taken.

use std::time::{Duration, Instant};

use outrigger_application::ProjectionStore;
use outrigger_application::ports::projection::Retried;
use outrigger_application::tables::TableConfig;
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::postgres_database;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::business::{World, table};
use crate::support::{user, wait_until_blocked};

const NOTES: &str = "CREATE TABLE notes (id uuid PRIMARY KEY, text text)";
const ALL: &str = "SELECT text FROM notes ORDER BY id, text";
const NOT_OURS: &str = "the business row was not put there by this user, or a trigger of the table ignored the row";
/// Far beyond the bound, and far below what a lock of another session would cost without it.
const SOON: Duration = Duration::from_secs(12);

fn options(tables: Vec<TableConfig>) -> PostgresOptions {
    PostgresOptions { tables, ..PostgresOptions::default() }
}

#[tokio::test]
async fn what_does_not_do_as_it_is_told_is_a_failure_and_no_more() {
    for (oddity, insert, update) in [
        ("CREATE RULE no AS ON INSERT TO notes DO INSTEAD NOTHING", false, false),
        ("CREATE RULE no AS ON UPDATE TO notes DO ALSO SELECT 1", false, false),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER no BEFORE UPDATE OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION no()",
            true,
            false,
        ),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''secret''; END';
             CREATE TRIGGER no AFTER UPDATE OR DELETE ON notes FOR EACH STATEMENT EXECUTE FUNCTION no()",
            // A new row is an INSERT and no more.
            true,
            false,
        ),
        ("CREATE TABLE more () INHERITS (notes)", true, true),
    ] {
        let world = World::new(NOTES, vec![table("notes"), table("others")]).await;
        world.execute(oddity).await;
        world.execute("CREATE TABLE others (id uuid PRIMARY KEY)").await;
        world.store.refresh_catalog().await.unwrap();
        world.up("alice", &[("INSERT", "notes", 1, r#"{"text":"a"}"#), ("INSERT", "others", 1, "{}")]).await;
        assert_eq!(world.rows(ALL).await.len(), usize::from(insert), "{oddity}");
        world.up("alice", &[("UPDATE", "notes", 1, r#"{"text":"b"}"#), ("UPDATE", "others", 1, "{}")]).await;
        assert_eq!(world.rows(ALL).await.contains(&"b".to_owned()), update, "{oddity}");
        world.up("alice", &[("DELETE", "notes", 1, ""), ("INSERT", "others", 2, "{}")]).await;
        assert_eq!(world.rows("SELECT id::text FROM others").await.len(), 2, "{oddity}");
        let failures = world.failures("alice").await;
        assert!(failures.iter().all(|failure| failure.row.table.table() == "notes"), "{oddity}: {failures:?}");
        assert!(failures.iter().all(|failure| !failure.error.contains("secret")), "{oddity}: {failures:?}");
        assert_eq!(failures.is_empty(), update, "{oddity}: {failures:?}");
    }
}

#[tokio::test]
async fn rows_of_tables_that_inherit_are_not_the_table_s() {
    let world = World::new(NOTES, vec![table("notes")]).await;
    world.up("alice", &[("INSERT", "notes", 1, r#"{"text":"a"}"#)]).await;
    // No key forbids the same row once more in a table that inherits.
    world
        .execute("CREATE TABLE more () INHERITS (notes); INSERT INTO more SELECT id, 'of the backend' FROM notes")
        .await;
    world.up("alice", &[("UPDATE", "notes", 1, r#"{"text":"b"}"#)]).await;
    world.up("alice", &[("DELETE", "notes", 1, "")]).await;
    assert!(world.rows("SELECT text FROM more").await == ["of the backend"]);
}

#[tokio::test]
async fn rows_that_other_sessions_hold_cost_the_bound_and_can_be_tried_again() {
    let sql = "CREATE TABLE users (id uuid PRIMARY KEY, name text);
        CREATE TABLE posts (id uuid PRIMARY KEY, title text,
            author_id uuid REFERENCES users DEFERRABLE INITIALLY DEFERRED)";
    let options =
        PostgresOptions { projection_timeout: Duration::from_secs(3), ..options(vec![table("users"), table("posts")]) };
    let world = World::with(sql, options).await;
    let author = |title: &str| format!(r#"{{"title":"{title}","author_id":"{}"}}"#, uuid::Uuid::from_u128(1));
    world.up("alice", &[("INSERT", "users", 1, "{}"), ("INSERT", "posts", 2, r#"{"title":"old"}"#)]).await;
    let mut shell = world.sql().await;
    let mut held = shell.begin().await.unwrap();
    let hold = "SELECT FROM users FOR UPDATE; UPDATE posts SET title = 'held';
                INSERT INTO posts (id, title) VALUES ('00000000-0000-0000-0000-000000000004', 'theirs')";
    sqlx::raw_sql(hold).execute(&mut *held).await.unwrap();
    let began = Instant::now();
    let (new, theirs) = (author("new"), author("ours"));
    // Waits at the commit, for the parent's row; for a row of its own; and for a row that may be there or not.
    let changes = [
        ("INSERT", "posts", 3, new.as_str()),
        ("UPDATE", "posts", 2, r#"{"title":"mine"}"#),
        ("INSERT", "posts", 4, theirs.as_str()),
        ("INSERT", "users", 5, r#"{"name":"free"}"#),
    ];
    world.up("alice", &changes).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(world.errors("alice").await, ["timed out"; 3]);
    assert_eq!(world.rows("SELECT name FROM users WHERE name IS NOT NULL").await, ["free"]);
    held.rollback().await.unwrap();
    for failure in world.failures("alice").await {
        assert_eq!(world.store.retry(&user("alice"), failure.id).await.unwrap(), Retried::Materialized);
    }
    assert_eq!(world.rows("SELECT title FROM posts ORDER BY id").await, ["mine", "new", "ours"]);
}

#[tokio::test]
async fn a_view_in_place_of_a_table_is_noticed_while_the_server_runs() {
    let world = World::new(NOTES, vec![table("notes")]).await;
    world.up("alice", &[("INSERT", "notes", 1, r#"{"text":"a"}"#)]).await;
    world.execute("ALTER TABLE notes RENAME TO kept; CREATE VIEW notes AS SELECT * FROM kept").await;
    world.store.refresh_catalog().await.unwrap();
    world.up("alice", &[("UPDATE", "notes", 1, r#"{"text":"b"}"#)]).await;
    assert_eq!(world.errors("alice").await, ["public.notes is a view, and only a table can be projected onto"]);
    assert_eq!(world.rows(ALL).await, ["a"]);
}

#[tokio::test]
async fn what_the_server_s_role_may_not_do_is_a_failure() {
    let database = postgres_database().await;
    let mut admin = PgConnection::connect(database.url()).await.unwrap();
    let role = format!("app_{}", uuid::Uuid::new_v4().simple());
    let sql = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'x';
         DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {role}', current_database()); END $$;
         CREATE TABLE notes (id uuid PRIMARY KEY, text text);
         CREATE TABLE hidden (id uuid PRIMARY KEY);
         GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO {role};
         ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON notes USING (text <> 'hidden') WITH CHECK (text <> 'bad' AND text <> 'hidden')"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    let target: PgConnectOptions = database.url().parse().unwrap();
    let url = target.username(&role).password("x").to_url_lossy().to_string();
    let world = World::on(database, &url, options(vec![table("notes"), table("hidden")])).await;
    let text = |text: &str| format!("{{\"text\":\"{text}\"}}");
    let (good, bad) = (text("good"), text("bad"));
    world
        .up("alice", &[("INSERT", "notes", 1, &good), ("INSERT", "notes", 2, &bad), ("INSERT", "hidden", 3, "{}")])
        .await;
    assert_eq!(world.errors("alice").await, ["the server may not write to the table (SQLSTATE 42501)"; 2]);
    assert_eq!(world.rows(ALL).await, ["good"]);
    // A row that the backend has put out of sight is left alone.
    world.execute("UPDATE notes SET text = 'hidden'").await;
    world.up("alice", &[("UPDATE", "notes", 1, &text("seen"))]).await;
    assert_eq!(world.rows(ALL).await, ["hidden"]);
    assert_eq!(world.errors("alice").await.len(), 3);
    world.store.close().await;
    let end = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut admin).await.unwrap();
}

#[tokio::test]
async fn the_server_s_own_tables_are_refused() {
    let database = postgres_database().await;
    drop(PostgresStore::connect(database.url(), PostgresOptions::default()).await.unwrap());
    let refused = PostgresStore::connect(database.url(), options(vec![table("sync.user_stream")])).await;
    let refused = refused.map(drop).unwrap_err().to_string();
    assert_eq!(refused, "table sync.user_stream is one of the server's own, and cannot be projected onto");
}

#[tokio::test]
async fn a_key_that_no_device_can_name_is_no_reference() {
    let sql = "CREATE TABLE countries (id int PRIMARY KEY);
        CREATE DOMAIN key AS uuid; CREATE TABLE users (id key PRIMARY KEY, country int REFERENCES countries, boss key REFERENCES users)";
    let off = TableConfig { materialize: outrigger_application::tables::Materialize::Off, ..table("countries") };
    let world = World::new(sql, vec![off, table("users")]).await;
    let found = world.store.refresh_catalog().await.unwrap();
    assert_eq!(found.iter().map(|(_, of)| of.column.as_str()).collect::<Vec<_>>(), ["boss"]);
    world.execute("INSERT INTO countries VALUES (7)").await;
    world.up("alice", &[("INSERT", "users", 1, r#"{"country":7}"#)]).await;
    assert_eq!(world.rows("SELECT country::text FROM users").await, ["7"]);
}

#[tokio::test]
async fn with_an_owner_s_column_a_cascade_leaves_no_claim_behind() {
    let sql = "CREATE TABLE users (id uuid PRIMARY KEY, user_id text NOT NULL);
        CREATE TABLE posts (id uuid PRIMARY KEY, title text, user_id text NOT NULL,
            author_id uuid REFERENCES users ON DELETE CASCADE)";
    let owned = |name| TableConfig { owner_column: Some("user_id".into()), ..table(name) };
    let world = World::new(sql, vec![owned("users"), owned("posts")]).await;
    let by = |author: u128| format!(r#"{{"title":"{author}","author_id":"{}"}}"#, uuid::Uuid::from_u128(author));
    world.up("alice", &[("INSERT", "users", 1, "{}"), ("INSERT", "posts", 9, &by(1))]).await;
    world.up("alice", &[("DELETE", "users", 1, "")]).await;
    assert_eq!(world.rows("SELECT title FROM posts").await, [] as [&str; 0]);
    world.up("bob", &[("INSERT", "users", 2, "{}"), ("INSERT", "posts", 9, &by(2))]).await;
    for change in [("UPDATE", "posts", 9, r#"{"title":"alice"}"#), ("DELETE", "posts", 9, "")] {
        world.up("alice", &[change]).await;
        assert_eq!(world.rows("SELECT title || user_id FROM posts").await, ["2bob"]);
    }
    assert_eq!(world.errors("alice").await, [NOT_OURS; 2]);
}

#[tokio::test]
async fn one_retry_of_a_failure_runs_at_a_time() {
    let world = World::new("CREATE TABLE notes (id uuid PRIMARY KEY, n int CHECK (n > 5))", vec![table("notes")]).await;
    world.up("alice", &[("INSERT", "notes", 1, r#"{"n":1}"#)]).await;
    let other = PostgresStore::connect(world.database.url(), options(vec![table("notes")])).await.unwrap();
    let mut shell = world.sql().await;
    let mut held = shell.begin().await.unwrap();
    sqlx::raw_sql("SELECT FROM sync.user_stream FOR UPDATE").execute(&mut *held).await.unwrap();
    let (store, alice) = (world.store.clone(), user("alice"));
    let first = tokio::spawn(async move { store.retry(&alice, 1).await });
    wait_until_blocked(&mut world.sql().await).await;
    assert_eq!(other.retry(&user("alice"), 1).await.unwrap(), Retried::InProgress);
    held.rollback().await.unwrap();
    assert!(matches!(first.await.unwrap().unwrap(), Retried::Failed(again) if again.retry_count == 1));
    assert!(matches!(other.retry(&user("alice"), 1).await.unwrap(), Retried::Failed(again) if again.retry_count == 2));
}

#[tokio::test]
async fn a_failure_whose_row_is_forgotten_goes_at_its_retry() {
    let world = World::new("CREATE TABLE notes (id uuid PRIMARY KEY, n int CHECK (n > 5))", vec![table("notes")]).await;
    world.up("alice", &[("INSERT", "notes", 1, r#"{"n":1}"#), ("INSERT", "notes", 2, r#"{"n":1}"#)]).await;
    let forget = "DELETE FROM sync.sync_row_meta WHERE pk_uuid = '00000000-0000-0000-0000-000000000001';
                  DELETE FROM sync.sync_state WHERE pk_uuid = '00000000-0000-0000-0000-000000000001'";
    world.execute(forget).await;
    assert_eq!(world.store.retry(&user("alice"), 1).await.unwrap(), Retried::Unknown);
    assert_eq!(world.failures("alice").await.iter().map(|failure| failure.id).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn a_row_that_moves_to_another_parent_outlives_the_old_one() {
    let sql = "CREATE TABLE users (id uuid PRIMARY KEY);
        CREATE TABLE posts (id uuid PRIMARY KEY, author_id uuid NOT NULL REFERENCES users ON DELETE CASCADE, title TEXT)";
    let world = World::new(sql, vec![table("posts"), table("users")]).await;
    let by = |author: u128| format!(r#"{{"author_id":"{}"}}"#, uuid::Uuid::from_u128(author));
    // Only the first change has the title: a row that went and came back would have lost it.
    let first = by(1).replace('}', r#","title":"kept"}"#);
    world.up("alice", &[("INSERT", "users", 1, "{}"), ("INSERT", "posts", 9, &first)]).await;
    world
        .up("alice", &[("DELETE", "users", 1, ""), ("UPDATE", "posts", 9, &by(2)), ("INSERT", "users", 2, "{}")])
        .await;
    assert_eq!(world.rows("SELECT title || author_id FROM posts").await, [format!("kept{}", uuid::Uuid::from_u128(2))]);
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
}

#[tokio::test]
async fn rows_wait_for_each_other_as_long_as_that_helps() {
    let world = World::new("CREATE TABLE notes (id uuid PRIMARY KEY, text text UNIQUE)", vec![table("notes")]).await;
    let move_to = async |op: &str, texts: [&str; 6]| {
        let payloads = texts.map(|text| format!("{{\"text\":\"{text}\"}}"));
        let changes: Vec<_> = (1..).zip(&payloads).map(|(n, payload)| (op, "notes", n, payload.as_str())).collect();
        world.up("alice", &changes).await;
        assert_eq!(world.errors("alice").await, [] as [&str; 0]);
        assert_eq!(world.rows(ALL).await, texts);
    };
    move_to("INSERT", ["a", "b", "c", "d", "e", "f"]).await;
    // Three take over from those behind them, and three from those before: no order of the rows does for both.
    move_to("UPDATE", ["b", "c", "x", "y", "d", "e"]).await;
}

#[tokio::test]
async fn a_table_that_is_not_to_be_projected_is_left_alone() {
    let off = TableConfig { materialize: outrigger_application::tables::Materialize::Off, ..table("notes") };
    let world = World::new(NOTES, vec![off]).await;
    world.up("alice", &[("INSERT", "notes", 1, r#"{"text":"a"}"#)]).await;
    assert_eq!(world.rows(ALL).await, [] as [&str; 0]);
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
}

/// The README's example is the one that the tests compile.
#[test]
fn the_readme_shows_a_materializer_that_is_tested() {
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n");
    let readme = include_str!("../../../../README.md");
    let begin = readme.find("struct WordCounts;").expect("the README has the example");
    let example = readme[begin..].split("```").next().unwrap().trim_end();
    assert!(lines(include_str!("projection.rs")).contains(&lines(example)));
}
