//! Rows of business tables: what they are made of, whose they are, and what happens when they cannot be written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use outrigger_application::ports::projection::{Failure, FailureFilter, Retried};
use outrigger_application::tables::Materialize;
use outrigger_application::{Batch, MaterializeError, Materializer, ProjectionStore, TableConfig};
use outrigger_domain::{Change, Op, RowKey, TableName};
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::postgres_database;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::{Fixture, apply, change, payload, user};

const AT: &str = "2025-08-08T07:01:00Z";

fn name(table: &str) -> TableName {
    TableName::parse_qualified(table).unwrap()
}

async fn fixture(schema: &'static str, options: PostgresOptions) -> Fixture {
    let database = postgres_database().await;
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    sqlx::raw_sql(schema).execute(&mut sql).await.unwrap();
    let store = PostgresStore::connect(database.url(), options).await.unwrap();
    Fixture { store, database }
}

fn tables(names: &[&str]) -> PostgresOptions {
    let tables = names.iter().map(|table| TableConfig::new(name(table))).collect();
    PostgresOptions { tables, ..PostgresOptions::default() }
}

fn of(table: &str, change: Change) -> Change {
    Change { row: RowKey { table: name(table), pk: change.row.pk }, ..change }
}

fn put(table: &str, number: i64, n: u128, base: i64, json: &str) -> Change {
    of(table, change(number, n, base, Op::Update(payload(json))))
}

fn delete(table: &str, number: i64, n: u128, base: i64) -> Change {
    of(table, change(number, n, base, Op::Delete))
}

async fn rows(fixture: &Fixture, query: &'static str) -> Vec<String> {
    sqlx::query_scalar(query).fetch_all(&mut fixture.sql().await).await.unwrap()
}

async fn failed(fixture: &Fixture, who: &str) -> Vec<Failure> {
    fixture.store.failures(&user(who), &FailureFilter::default(), 0, 1000).await.unwrap()
}

const NOTES: &str = "CREATE TABLE notes (id uuid PRIMARY KEY, text text DEFAULT 'none', n int);";
const ALL_NOTES: &str = "SELECT concat_ws(' ', right(id::text, 1), text, n) FROM notes ORDER BY id";

#[tokio::test]
async fn rows_are_written_with_defaults_kept_and_deleted() {
    let fixture = fixture(NOTES, tables(&["notes"])).await;
    let alice = user("alice");
    let first =
        [put("notes", 1, 1, 0, r#"{"n":1,"id":"x","more":2}"#), put("notes", 2, 2, 0, r#"{"text":null,"n":2}"#)];
    apply(&fixture.store, &alice, "phone", first).await.unwrap();
    assert_eq!(rows(&fixture, ALL_NOTES).await, ["1 none 1", "2 2"]);
    let second = [put("notes", 3, 1, 1, r#"{"text":"t"}"#), delete("notes", 4, 2, 1)];
    apply(&fixture.store, &alice, "phone", second).await.unwrap();
    assert_eq!(rows(&fixture, ALL_NOTES).await, ["1 t 1"]);
    fixture.execute("DELETE FROM notes").await;
    apply(&fixture.store, &alice, "phone", [put("notes", 5, 1, 2, r#"{"n":7}"#)]).await.unwrap();
    assert_eq!(rows(&fixture, ALL_NOTES).await, ["1 none 7"], "a row that is gone is put there again");
    assert_eq!(failed(&fixture, "alice").await, []);
}

#[tokio::test]
async fn every_type_takes_what_is_made_for_it() {
    let schema = r#"CREATE TYPE mood AS ENUM ('happy', 'sad');
        CREATE DOMAIN short AS varchar(3) NOT NULL DEFAULT 'dom';
        CREATE TABLE "types" (id text PRIMARY KEY, u uuid, b bytea, tz timestamptz, ts timestamp, d date, i int8,
            n numeric, bo bool, j json, jb jsonb, m mood, a int[], ta text[], ba bytea[], ma mood[], s short, "Odd ""c" text,
            g int GENERATED ALWAYS AS (1 + 1) STORED, auto int GENERATED ALWAYS AS IDENTITY)"#;
    let fixture = fixture(schema, tables(&["types"])).await;
    let json = r#"{"u":"AZP77wAAcACAAAAAAAAA/w==","b":"3q2+7w==","tz":1754636460,"ts":"2025-08-08 07:01:00","d":"2025-08-08",
        "i":9007199254740993,"n":12345678901234567890.123456789,"bo":1,"j":{ "b":1,"a":2},"jb":[1],"m":"sad","a":[1,null],
        "ta":["a\"b\\c","{}"],"ba":["\\x00ff"],"ma":["happy"],"Odd \"c":"odd","g":9,"auto":9}"#;
    apply(&fixture.store, &user("alice"), "phone", [put("types", 1, 1, 0, json)]).await.unwrap();
    assert_eq!(failed(&fixture, "alice").await, []);
    let query = r#"SELECT concat_ws('|', id, u, b, tz AT TIME ZONE 'UTC', ts, d, i, n, bo, j, jb, m, a, ta, ba, ma, s, "Odd ""c", g, auto) FROM "types""#;
    let expected = r#"00000000-0000-0000-0000-000000000001|0193fbef-0000-7000-8000-0000000000ff|\xdeadbeef|2025-08-08 07:01:00|2025-08-08 07:01:00|2025-08-08|9007199254740993|12345678901234567890.123456789|t|{ "b":1,"a":2}|[1]|sad|{1,NULL}|{"a\"b\\c","{}"}|{"\\x00ff"}|{happy}|dom|odd|2|1"#;
    assert_eq!(rows(&fixture, query).await, [expected]);
    let bad = [
        put("types", 2, 2, 0, r#"{"tz":"soon"}"#),
        put("types", 3, 3, 0, r#"{"s":"long"}"#),
        put("types", 4, 4, 0, r#"{"ta":["\u0000"]}"#),
        put("types", 5, 5, 0, r#"{"s":"ok"}"#),
    ];
    apply(&fixture.store, &user("alice"), "phone", bad).await.unwrap();
    let errors: Vec<String> = failed(&fixture, "alice").await.into_iter().map(|failure| failure.error).collect();
    assert_eq!(
        errors,
        [
            "column tz: cannot make a timestamp of a JSON string",
            "column s: cannot make text of a JSON string: a text is too long (SQLSTATE 22001)",
            "column ta: cannot make text of a JSON string with a NUL character",
        ]
    );
    assert_eq!(rows(&fixture, r#"SELECT count(*)::text FROM "types""#).await, ["2"]);
}

#[tokio::test]
async fn a_row_of_another_user_or_of_the_backend_is_left_alone() {
    let fixture = fixture(NOTES, tables(&["notes"])).await;
    fixture.execute("INSERT INTO notes VALUES ('00000000-0000-0000-0000-000000000002', 'backend')").await;
    apply(&fixture.store, &user("alice"), "a", [put("notes", 1, 1, 0, r#"{"text":"alice"}"#)]).await.unwrap();
    let bob = user("bob");
    let first = [1, 2].map(|n| put("notes", n, n as u128, 0, r#"{"text":"bob"}"#));
    apply(&fixture.store, &bob, "b", first).await.unwrap();
    apply(&fixture.store, &bob, "b", [put("notes", 3, 1, 1, r#"{"text":"bob"}"#)]).await.unwrap();
    apply(&fixture.store, &bob, "b", [delete("notes", 4, 1, 2), delete("notes", 5, 2, 1)]).await.unwrap();
    assert_eq!(rows(&fixture, ALL_NOTES).await, ["1 alice", "2 backend"]);
    assert_eq!(failed(&fixture, "bob").await.len(), 5);
    apply(&fixture.store, &user("alice"), "a", [delete("notes", 2, 1, 1)]).await.unwrap();
    apply(&fixture.store, &bob, "b", [put("notes", 6, 1, 3, r#"{"text":"bob at last"}"#)]).await.unwrap();
    assert_eq!(rows(&fixture, ALL_NOTES).await, ["1 bob at last", "2 backend"]);
    assert_eq!(failed(&fixture, "bob").await.len(), 2, "those of the row that was projected are gone");
}

#[tokio::test]
async fn one_bad_row_of_many_fails_alone_and_can_be_tried_again() {
    let schema = "CREATE TABLE notes (id uuid PRIMARY KEY, text text UNIQUE, n int CHECK (n <> 500),
                  up uuid REFERENCES notes DEFERRABLE INITIALLY DEFERRED)";
    let fixture = fixture(schema, tables(&["notes"])).await;
    let alice = user("alice");
    let changes = (1..=1000_i64).map(|n| put("notes", n, n as u128, 0, &format!(r#"{{"n":{n}}}"#)));
    let started = Instant::now();
    apply(&fixture.store, &alice, "phone", changes).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let failures = failed(&fixture, "alice").await;
    assert_eq!(failures.len(), 1, "{:?}", failures.iter().take(3).collect::<Vec<_>>());
    assert_eq!(failures[0].error, "constraint notes_n_check: a check was not passed (SQLSTATE 23514)");
    assert_eq!(rows(&fixture, "SELECT count(*)::text FROM notes").await, ["999"]);
    let Retried::Failed(again) = fixture.store.retry(&alice, 1).await.unwrap() else { panic!("it fails again") };
    assert_eq!(again.retry_count, 1);
    fixture.execute("ALTER TABLE notes DROP CONSTRAINT notes_n_check").await;
    assert_eq!(fixture.store.retry(&user("bob"), 1).await.unwrap(), Retried::Unknown);
    assert_eq!(fixture.store.retry(&alice, 1).await.unwrap(), Retried::Materialized);
    assert_eq!(rows(&fixture, "SELECT count(*)::text FROM notes").await, ["1000"]);
    // A deferred foreign key fails at the commit of the whole, and is told of in the parts.
    let parent = Uuid::from_u128(5000);
    apply(&fixture.store, &alice, "phone", [put("notes", 1001, 1, 1, &format!(r#"{{"up":"{parent}"}}"#))])
        .await
        .unwrap();
    assert_eq!(failed(&fixture, "alice").await.len(), 1);
    // Unique values that swap places.
    let named = [put("notes", 1002, 2, 1, r#"{"text":"a"}"#), put("notes", 1003, 3, 1, r#"{"text":"b"}"#)];
    apply(&fixture.store, &alice, "phone", named).await.unwrap();
    let moved = [put("notes", 1004, 3, 2, r#"{"text":"a"}"#), put("notes", 1005, 2, 2, r#"{"text":"c"}"#)];
    apply(&fixture.store, &alice, "phone", moved).await.unwrap();
    assert_eq!(failed(&fixture, "alice").await.len(), 1);
}

#[tokio::test]
async fn a_table_that_is_locked_slow_or_gone_costs_the_bound_at_most() {
    for (trouble, held) in [
        ("LOCK TABLE notes IN ACCESS EXCLUSIVE MODE", true),
        ("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN new; END';
          CREATE TRIGGER slow BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION slow()", false),
        ("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN new; END';
          CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()", false),
        ("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
          CREATE TRIGGER no BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION no()", false),
        ("DROP TABLE notes", false),
        ("ALTER TABLE notes ADD COLUMN needed text NOT NULL", false),
        ("ALTER TABLE notes DROP CONSTRAINT notes_pkey", false),
    ] {
        let options = PostgresOptions { projection_timeout: Duration::from_millis(800), ..tables(&["notes", "others"]) };
        let schema = "CREATE TABLE notes (id uuid PRIMARY KEY, n int); CREATE TABLE others (id uuid PRIMARY KEY, n int)";
        let fixture = fixture(schema, options).await;
        let mut sql = fixture.sql().await;
        sqlx::raw_sql(if held { "BEGIN" } else { "SELECT" }).execute(&mut sql).await.unwrap();
        sqlx::raw_sql(trouble).execute(&mut sql).await.unwrap();
        if trouble.contains("DEFERRED") {
            fixture.store.refresh_catalog().await.unwrap();
        }
        let both = [put("notes", 1, 1, 0, r#"{"n":1}"#), put("others", 2, 2, 0, r#"{"n":1}"#)];
        let started = Instant::now();
        apply(&fixture.store, &user("alice"), "phone", both).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(1600), "{trouble}: {:?}", started.elapsed());
        let failures = failed(&fixture, "alice").await;
        let tables: Vec<&str> = failures.iter().map(|failure| failure.row.table.table()).collect();
        assert_eq!(tables, ["notes"], "{trouble}: {failures:?}");
        assert_eq!(rows(&fixture, "SELECT n::text FROM others").await, ["1"], "{trouble}");
    }
}

#[tokio::test]
async fn an_altered_table_is_noticed_at_once() {
    let fixture = fixture(NOTES, tables(&["notes"])).await;
    fixture.execute("ALTER TABLE notes DROP COLUMN n").await;
    apply(&fixture.store, &user("alice"), "phone", [put("notes", 1, 1, 0, r#"{"n":1}"#)]).await.unwrap();
    assert_eq!(failed(&fixture, "alice").await, []);
}

#[tokio::test]
async fn what_cannot_be_projected_is_refused_at_the_start() {
    let start = async |schema: &'static str, config: TableConfig| {
        let database = postgres_database().await;
        let mut sql = PgConnection::connect(database.url()).await.unwrap();
        sqlx::raw_sql(schema).execute(&mut sql).await.unwrap();
        let options = PostgresOptions { tables: vec![config], ..PostgresOptions::default() };
        PostgresStore::connect(database.url(), options).await.map(drop).unwrap_err().to_string()
    };
    let notes = || TableConfig::new(name("notes"));
    let required = TableConfig { materialize: Materialize::Required, ..notes() };
    assert_eq!(start("", required).await, "there is no table public.notes");
    let key = "table public.notes needs a primary key of exactly one column of type uuid or text";
    for schema in ["(id int PRIMARY KEY)", "(a uuid, b uuid, PRIMARY KEY (a, b))", "(id uuid)"] {
        let schema = Box::leak(format!("CREATE TABLE notes {schema}").into_boxed_str());
        assert_eq!(start(schema, notes()).await, key);
    }
    let owned = TableConfig { owner_column: Some("who".into()), ..notes() };
    assert_eq!(start(NOTES, owned).await, "table public.notes has no column who that could name the owner");
}

#[tokio::test]
async fn the_owner_column_takes_the_user_and_is_matched() {
    let schema = "CREATE TABLE notes (id uuid PRIMARY KEY, n int, who text NOT NULL)";
    let config = TableConfig { owner_column: Some("who".into()), ..TableConfig::new(name("notes")) };
    let fixture = fixture(schema, PostgresOptions { tables: vec![config], ..PostgresOptions::default() }).await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "p", [put("notes", 1, 1, 0, r#"{"n":1,"who":"bob"}"#)]).await.unwrap();
    assert_eq!(rows(&fixture, "SELECT who FROM notes").await, ["alice"]);
    fixture.execute("UPDATE notes SET who = 'bob'").await;
    apply(&fixture.store, &alice, "p", [put("notes", 2, 1, 1, r#"{"n":2}"#)]).await.unwrap();
    assert_eq!(rows(&fixture, "SELECT concat(who, n) FROM notes").await, ["bob1"]);
    assert_eq!(failed(&fixture, "alice").await.len(), 1);
}

#[tokio::test]
async fn a_rebuild_makes_the_rows_equal_to_the_sidecar_step_by_step() {
    let fixture = fixture("", tables(&["notes"])).await;
    for who in ["alice", "bob"] {
        let first = 10 * who.len() as i64;
        let changes = (first..first + 5).map(|n| put("notes", n, n as u128, 0, r#"{"n":1}"#));
        apply(&fixture.store, &user(who), "phone", changes).await.unwrap();
    }
    assert_eq!(failed(&fixture, "alice").await, [], "there is no business table");
    fixture.execute(NOTES).await;
    fixture.store.refresh_catalog().await.unwrap();
    let (mut after, mut projected, mut steps) = (None, 0, 0);
    loop {
        let step = fixture.store.rebuild(&name("notes"), after, 3, AT.parse().unwrap()).await.unwrap();
        (projected, steps) = (projected + step.projected, steps + 1);
        let Some(next) = step.next else { break };
        after = Some(next);
    }
    assert_eq!((projected, steps), (10, 4));
    assert_eq!(rows(&fixture, "SELECT count(*)::text FROM notes WHERE n = 1").await, ["10"]);
}

#[tokio::test]
async fn foreign_keys_are_found_and_rows_may_refer_to_each_other_in_a_circle() {
    let schema = "CREATE TABLE a (id uuid PRIMARY KEY);
                  CREATE TABLE b (id uuid PRIMARY KEY, a_id uuid REFERENCES a);
                  ALTER TABLE a ADD COLUMN b_id uuid REFERENCES b";
    let fixture = fixture(schema, tables(&["a", "b"])).await;
    let found = fixture.store.refresh_catalog().await.unwrap();
    let found: Vec<String> = found
        .into_iter()
        .map(|(table, reference)| format!("{table}.{} {}", reference.column, reference.parent))
        .collect();
    assert_eq!(found, ["public.a.b_id public.b", "public.b.a_id public.a"]);
    let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let circle =
        [put("a", 1, 1, 0, &format!(r#"{{"b_id":"{b}"}}"#)), put("b", 2, 2, 0, &format!(r#"{{"a_id":"{a}"}}"#))];
    apply(&fixture.store, &user("alice"), "phone", circle).await.unwrap();
    assert_eq!(failed(&fixture, "alice").await, []);
    apply(&fixture.store, &user("alice"), "phone", [delete("a", 3, 1, 1), delete("b", 4, 2, 1)]).await.unwrap();
    assert_eq!(failed(&fixture, "alice").await, []);
}

/// Counts the words of notes instead of keeping their text.
struct WordCounts;

#[async_trait]
impl Materializer<PgConnection> for WordCounts {
    async fn apply(&self, tx: &mut PgConnection, batch: Batch<'_>) -> Result<(), MaterializeError> {
        for row in batch.rows {
            let done = match row.payload {
                Some(payload) => {
                    let words = payload.as_str().split_whitespace().count() as i64;
                    let upsert = "INSERT INTO word_counts (id, words) VALUES ($1, $2)
                                  ON CONFLICT (id) DO UPDATE SET words = excluded.words WHERE $3";
                    sqlx::query(upsert).bind(row.pk).bind(words).bind(row.ours).execute(&mut *tx).await
                }
                None => {
                    sqlx::query("DELETE FROM word_counts WHERE id = $1 AND $2")
                        .bind(row.pk)
                        .bind(row.ours)
                        .execute(&mut *tx)
                        .await
                }
            };
            let changed = done.map_err(|_| MaterializeError("word_counts cannot be written".into()))?.rows_affected();
            if changed == 0 && row.payload.is_some() {
                return Err(MaterializeError("the word count is somebody else's".into()));
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_materializer_of_ones_own_stands_beside_the_declarative_ones() {
    let schema = "CREATE TABLE notes (id uuid PRIMARY KEY, text text); CREATE TABLE word_counts (id uuid PRIMARY KEY, words int8)";
    let custom: Arc<dyn Materializer<PgConnection>> = Arc::new(WordCounts);
    let materializers = HashMap::from([(name("texts"), custom)]);
    let fixture = fixture(schema, PostgresOptions { materializers, ..tables(&["notes", "texts"]) }).await;
    let changes = [put("notes", 1, 1, 0, r#"{"text":"x"}"#), put("texts", 2, 2, 0, r#"{"text":"two words"}"#)];
    apply(&fixture.store, &user("alice"), "phone", changes).await.unwrap();
    let all = "SELECT text FROM notes UNION ALL SELECT words::text FROM word_counts";
    assert_eq!(rows(&fixture, all).await, ["x", "2"]);
    apply(&fixture.store, &user("bob"), "phone", [put("texts", 1, 2, 0, r#"{"text":"three more words"}"#)])
        .await
        .unwrap();
    assert_eq!(failed(&fixture, "bob").await[0].error, "the word count is somebody else's");
    apply(&fixture.store, &user("alice"), "phone", [put("texts", 3, 2, 1, r#"{"text":"now three words"}"#)])
        .await
        .unwrap();
    assert_eq!(rows(&fixture, all).await, ["x", "3"]);
}
