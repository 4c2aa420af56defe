//! Business tables that do their worst, and uploads that are applied all the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::ports::projection::Retried;
use outrigger_application::{Batch, MaterializeError, Materializer, ProjectionStore};
use outrigger_domain::TableName;
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::postgres_database;
use sqlx::{Connection, PgConnection};

use crate::business::{World, table};
use crate::support::user;

const NOTES: &str = "CREATE TABLE notes (id uuid PRIMARY KEY, text text)";
const ALL: &str = "SELECT text FROM notes ORDER BY id";
const SLEEPS: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                      'BEGIN IF new.text = ''bad'' THEN PERFORM pg_sleep(60); END IF; RETURN new; END';";
/// Far beyond the bound, and far below what a trigger above takes.
const SOON: Duration = Duration::from_secs(12);

#[tokio::test]
async fn a_trigger_may_raise_any_sqlstate() {
    let world = World::new(NOTES, vec![table("notes")]).await;
    let states = ["40001", "40P01", "57014", "55P03", "08006", "57P01", "53300", "25006", "XX001", "22012", "23505"];
    for (n, state) in (1_u128..).zip(states) {
        world
            .execute(format!(
                "CREATE OR REPLACE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF new.text = ''bad'' THEN RAISE EXCEPTION ''secret'' USING ERRCODE = ''{state}''; END IF; RETURN new; END';
                 DROP TRIGGER IF EXISTS no ON notes;
                 CREATE TRIGGER no BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION no()"
            ))
            .await;
        let both = [
            ("INSERT", "notes", 2 * n, r#"{"text":"bad"}"#),
            ("INSERT", "notes", 2 * n + 1, &*format!("{{\"text\":\"{state}\"}}")),
        ];
        world.up("alice", &both).await;
        assert_eq!(world.rows(ALL).await.last().map(String::as_str), Some(state));
        let errors = world.errors("alice").await;
        assert_eq!(errors.len(), n as usize, "{state}: {errors:?}");
        assert!(!errors[n as usize - 1].contains("secret"), "{errors:?}");
    }
}

#[tokio::test]
async fn a_value_that_only_the_database_can_refuse_is_blamed_on_its_column() {
    let sql = r#"CREATE DOMAIN code AS varchar(3);
        CREATE TABLE "order" (id uuid PRIMARY KEY, "select" int2, "Upper.Dot" varchar(3), n numeric(4, 2), f float4,
            j jsonb, d code, at timestamptz, ip inet, ok text NOT NULL DEFAULT 'x')"#;
    let world = World::new(sql, vec![table("order")]).await;
    let cases = [
        ("select", "70000", "an integer of a JSON number: a number is out of range (SQLSTATE 22003)"),
        ("select", "99999999999999999999", "an integer of a JSON number: a number is out of range (SQLSTATE 22003)"),
        ("Upper.Dot", r#""secret""#, "text of a JSON string: a text is too long (SQLSTATE 22001)"),
        ("Upper.Dot", "12345", "text of a JSON number: a text is too long (SQLSTATE 22001)"),
        ("n", "123.5", "a number of a JSON number: a number is out of range (SQLSTATE 22003)"),
        ("n", "1e500000", "a number of a JSON number: a number is out of range (SQLSTATE 22003)"),
        ("f", "1e300", "a number of a JSON number: a number is out of range (SQLSTATE 22003)"),
        ("j", r#"{"a":"\u0000"}"#, "json of a JSON object: a value is not one of its column's type (SQLSTATE 22P05)"),
        ("d", r#""secret""#, "text of a JSON string: a text is too long (SQLSTATE 22001)"),
        (
            "at",
            "-99999999999",
            "a timestamp of a JSON number: a value is not one of its column's type (SQLSTATE 22009)",
        ),
        ("ip", r#""secret""#, "text of a JSON string: a value is not one of its column's type (SQLSTATE 22P02)"),
    ];
    for (n, (column, json, _)) in (1..).zip(&cases) {
        world.up("alice", &[("INSERT", "order", n, &format!(r#"{{"ok":"y","{column}":{json}}}"#))]).await;
    }
    // More than one such value in a row.
    let two = r#"{"Upper.Dot":"secret","d":"secret"}"#;
    world.up("alice", &[("INSERT", "order", 99, two)]).await;
    let expected = cases.iter().map(|(column, _, why)| format!("column {column}: cannot make {why}"));
    let errors = world.errors("alice").await;
    for (found, expected) in errors.iter().zip(expected) {
        assert_eq!(*found, expected);
    }
    assert_eq!(
        errors[cases.len()..],
        ["column Upper.Dot: cannot make text of a JSON string: a text is too long (SQLSTATE 22001)"]
    );
    assert_eq!(world.rows(r#"SELECT ok FROM "order""#).await, [] as [&str; 0]);
    let fit = r#"{"select":"7","Upper.Dot":"abc","n":12.34,"f":1.5,"j":{"a":"\u00e9"},"d":"abc","at":0,"ip":"::1"}"#;
    world.up("alice", &[("INSERT", "order", 100, fit)]).await;
    assert_eq!(
        world.rows(r#"SELECT concat_ws(' ', "select", "Upper.Dot", n, f, j, d, at AT TIME ZONE 'UTC', ip, ok) FROM "order""#).await,
        [r#"7 abc 12.34 1.5 {"a": "é"} abc 1970-01-01 00:00:00 ::1 x"#]
    );
}

#[tokio::test]
async fn a_trigger_that_is_put_off_to_the_commit_costs_the_bound() {
    // Of another table than the one that is projected, and of one that the server has not looked at again.
    let audited = format!(
        "{NOTES}; CREATE TABLE audit (text text); {SLEEPS}
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (new.text); RETURN new; END';
         CREATE TRIGGER note AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION note()"
    );
    let later = format!(
        "{SLEEPS} CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()"
    );
    for (before, after) in [(&*audited, "SELECT"), (NOTES, &*later)] {
        let timeout = Duration::from_secs(3);
        let options =
            PostgresOptions { projection_timeout: timeout, tables: vec![table("notes")], ..PostgresOptions::default() };
        let world = World::with(Box::leak(before.to_owned().into_boxed_str()), options).await;
        world.execute(after).await;
        let both = [("INSERT", "notes", 1, r#"{"text":"bad"}"#), ("INSERT", "notes", 2, r#"{"text":"good"}"#)];
        let began = Instant::now();
        world.up("alice", &both).await;
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        assert_eq!(world.errors("alice").await, ["timed out"]);
        assert_eq!(world.rows(ALL).await, ["good"]);
    }
}

#[tokio::test]
async fn a_trigger_that_does_not_let_itself_be_stopped_costs_its_rows() {
    let sql = "CREATE TABLE notes (id uuid PRIMARY KEY, text text);
        CREATE FUNCTION stubborn() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN
            FOR i IN 1..600 LOOP
                BEGIN PERFORM pg_sleep(0.1); EXCEPTION WHEN query_canceled THEN NULL; END;
            END LOOP;
            RETURN new;
        END';
        CREATE TRIGGER stubborn BEFORE INSERT ON notes FOR EACH ROW WHEN (new.text = 'bad') EXECUTE FUNCTION stubborn()";
    let timeout = Duration::from_millis(800);
    let options =
        PostgresOptions { projection_timeout: timeout, tables: vec![table("notes")], ..PostgresOptions::default() };
    let world = World::with(sql, options).await;
    let began = Instant::now();
    world.up("alice", &[("INSERT", "notes", 1, r#"{"text":"bad"}"#)]).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(world.errors("alice").await, ["timed out"]);
    world.up("alice", &[("INSERT", "notes", 2, r#"{"text":"good"}"#)]).await;
    assert_eq!(world.rows(ALL).await, ["good"]);
}

#[tokio::test]
async fn the_bound_holds_without_settings_of_the_session() {
    let timeout = Duration::from_millis(800);
    let options = PostgresOptions {
        projection_timeout: timeout,
        session_settings: false,
        tables: vec![table("notes"), table("others")],
        ..PostgresOptions::default()
    };
    let sql =
        "CREATE TABLE notes (id uuid PRIMARY KEY, text text); CREATE TABLE others (id uuid PRIMARY KEY, text text)";
    let world = World::with(sql, options).await;
    world.up("alice", &[("INSERT", "notes", 1, "{}")]).await;
    let mut shell = world.sql().await;
    let mut held = shell.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE notes").execute(&mut *held).await.unwrap();
    let began = Instant::now();
    let both = [("INSERT", "notes", 2, "{}"), ("INSERT", "others", 3, "{}")];
    world.up("alice", &both).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    held.rollback().await.unwrap();
    assert_eq!(world.errors("alice").await, ["timed out"]);
    assert_eq!(world.rows("SELECT id::text FROM others").await.len(), 1);
}

/// Panics at one row, and uses all of its time at another.
struct Unreliable;

#[async_trait]
impl Materializer<PgConnection> for Unreliable {
    async fn apply(&self, tx: &mut PgConnection, batch: Batch<'_>) -> Result<(), MaterializeError> {
        for row in batch.rows {
            let text = row.payload.map_or("", |payload| payload.as_str());
            sqlx::query("INSERT INTO notes VALUES ($1, $2)").bind(row.pk).bind(text).execute(&mut *tx).await.unwrap();
            assert!(!text.contains("panic"));
            if text.contains("hang") {
                std::future::pending::<()>().await;
            }
            if text.contains("nul") {
                return Err(MaterializeError("a\0b".into()));
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_materializer_may_panic_or_wait_for_ever() {
    let materializers: HashMap<TableName, Arc<dyn Materializer<PgConnection>>> =
        HashMap::from([(table("texts").table.name, Arc::new(Unreliable) as _)]);
    let timeout = Duration::from_millis(800);
    let tables = vec![table("texts")];
    let options = PostgresOptions { projection_timeout: timeout, tables, materializers, ..PostgresOptions::default() };
    let world = World::with(NOTES, options).await;
    let began = Instant::now();
    let rows = ["panic", "hang", "nul", "good"].map(|text| format!("{{\"a\":\"{text}\"}}"));
    for (n, row) in (1..).zip(&rows) {
        world.up("alice", &[("INSERT", "texts", n, row)]).await;
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(world.errors("alice").await, ["the materializer of the table panicked", "timed out", "ab"]);
    assert_eq!(world.rows(ALL).await, [rows[3].as_str()]);
    assert!(matches!(world.store.retry(&user("alice"), 3).await, Ok(Retried::Failed(again)) if again.error == "ab"));
}

#[tokio::test]
async fn what_is_mended_is_noticed_by_a_retry_and_by_a_rebuild() {
    let world = World::new(NOTES, vec![table("notes")]).await;
    world.execute("DROP TABLE notes").await;
    world.up("alice", &[("INSERT", "notes", 1, r#"{"text":"a"}"#)]).await;
    world.up("alice", &[("INSERT", "notes", 2, r#"{"text":"b"}"#)]).await;
    assert_eq!(world.errors("alice").await, ["there is no table public.notes"; 2]);
    world.execute(NOTES).await;
    assert_eq!(world.store.retry(&user("alice"), 1).await.unwrap(), Retried::Materialized);
    assert_eq!(world.rows(ALL).await, ["a"]);
    world.execute("DROP TABLE notes; CREATE TABLE notes (text text, id varchar(40) PRIMARY KEY)").await;
    let step = world.store.rebuild(&table("notes").table.name, None, 10, Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!((step.projected, step.failed), (2, 0));
    assert_eq!(world.rows(ALL).await, ["a", "b"]);
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
}

#[tokio::test]
async fn partitions_domains_and_composite_types_are_columns_like_others() {
    let sql = "CREATE DOMAIN key AS uuid; CREATE TYPE point3 AS (x int, y int, z int);
        CREATE TABLE notes (id key PRIMARY KEY, p point3, r int4range, text text DEFAULT upper('x')) PARTITION BY HASH (id);
        CREATE TABLE notes_0 PARTITION OF notes FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE notes_1 PARTITION OF notes FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    let world = World::new(sql, vec![table("notes")]).await;
    for n in 1..=4 {
        world.up("alice", &[("INSERT", "notes", n, r#"{"p":"(1,2,)","r":"[1,5)"}"#)]).await;
    }
    world.up("alice", &[("UPDATE", "notes", 1, r#"{"text":"y"}"#), ("DELETE", "notes", 2, "")]).await;
    assert_eq!(world.errors("alice").await, [] as [&str; 0]);
    let all = "SELECT concat_ws(' ', right(id::text, 1), p, r, text) FROM notes ORDER BY id";
    assert_eq!(world.rows(all).await, ["1 (1,2,) [1,5) y", "3 (1,2,) [1,5) X", "4 (1,2,) [1,5) X"]);
}

#[tokio::test]
async fn what_is_no_table_is_refused_at_the_start() {
    for (kind, sql) in [
        ("view", "CREATE VIEW notes AS SELECT 1 AS id"),
        ("materialized view", "CREATE MATERIALIZED VIEW notes AS SELECT 1 AS id"),
    ] {
        let database = postgres_database().await;
        sqlx::raw_sql(sql).execute(&mut PgConnection::connect(database.url()).await.unwrap()).await.unwrap();
        let options = PostgresOptions { tables: vec![table("notes")], ..PostgresOptions::default() };
        let refused = PostgresStore::connect(database.url(), options).await.map(drop).unwrap_err().to_string();
        assert_eq!(refused, format!("public.notes is a {kind}, and only a table can be projected onto"));
    }
}
