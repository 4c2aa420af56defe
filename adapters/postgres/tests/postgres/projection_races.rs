//! Rows that are projected again while a commit about them waits: the commit must not go by how they were.

use std::time::Duration;

use outrigger_application::ports::projection::{Failure, FailureFilter, Retried};
use outrigger_application::{ProjectionStore, StoreError, SyncStore, TableConfig};
use outrigger_domain::{Change, Op, Plan};
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::postgres_database;
use sqlx::{Connection, PgConnection};

use crate::assumed::assumed;
use crate::support::{Fixture, apply, change, payload, plan, row, upload_of, user, wait_until_so_many_are_blocked};

const NOTES: &str = "CREATE TABLE notes (id uuid PRIMARY KEY, text text CHECK (text <> 'bad'))";

/// Alice has rows 1 and 2.
async fn fixture(text_of_first: &str) -> Fixture {
    let database = postgres_database().await;
    sqlx::raw_sql(NOTES).execute(&mut PgConnection::connect(database.url()).await.unwrap()).await.unwrap();
    let tables = vec![TableConfig::new(row(1).table)];
    // Time for the waits below.
    let options =
        PostgresOptions { tables, projection_timeout: Duration::from_secs(120), ..PostgresOptions::default() };
    let fixture = Fixture { store: PostgresStore::connect(database.url(), options).await.unwrap(), database };
    let insert = |n: i64, text: &str| change(n, n as u128, 0, Op::Insert(payload(&format!(r#"{{"text":"{text}"}}"#))));
    let both = [insert(1, text_of_first), insert(2, "other")];
    apply(&fixture.store, &user("alice"), "phone", both).await.unwrap();
    fixture
}

/// Decides on what was looked up, and on what is assumed.
async fn both(store: &PostgresStore, change: &Change) -> [Plan; 2] {
    let (looked_up, _) = plan(store, &user("alice"), &upload_of("phone", [change.clone()])).await;
    [looked_up, assumed(store, &user("alice"), [change.clone()])]
}

/// Commits while `again` has the turn and waits for a row of the business table that another session holds back.
async fn beside<T: Send + 'static>(
    fixture: &Fixture,
    again: impl Future<Output = T> + Send + 'static,
    commit: Plan,
) -> (T, Result<(), StoreError>) {
    let (mut holding, mut watching) = (fixture.sql().await, fixture.sql().await);
    // A key that may yet come to be there.
    let held = "BEGIN; INSERT INTO notes (id) VALUES ('00000000-0000-0000-0000-000000000002')";
    sqlx::raw_sql(held).execute(&mut holding).await.unwrap();
    let again = tokio::spawn(again);
    wait_until_so_many_are_blocked(&mut watching, 1).await;
    let store = fixture.store.clone();
    let commit = tokio::spawn(async move { store.commit(&user("alice"), commit).await });
    wait_until_so_many_are_blocked(&mut watching, 2).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut holding).await.unwrap();
    (again.await.unwrap(), commit.await.unwrap())
}

async fn texts(fixture: &Fixture) -> Vec<Option<String>> {
    sqlx::query_scalar("SELECT text FROM notes ORDER BY id").fetch_all(&mut fixture.sql().await).await.unwrap()
}

async fn failures(fixture: &Fixture) -> Vec<Failure> {
    fixture.store.failures(&user("alice"), &FailureFilter::default(), 0, 10).await.unwrap()
}

async fn rebuild(store: PostgresStore) -> u64 {
    let at = "2025-08-08T07:01:00Z".parse().unwrap();
    store.rebuild(&row(1).table, None, 100, at).await.unwrap().failed
}

#[tokio::test]
async fn a_row_deleted_while_it_is_rebuilt_leaves_nothing_behind() {
    for is_assumed in [false, true] {
        let fixture = fixture("first").await;
        let [looked_up, assumed] = both(&fixture.store, &change(3, 1, 1, Op::Delete)).await;
        fixture.execute("TRUNCATE notes").await;
        let commit = if is_assumed { assumed } else { looked_up };
        let (failed, answer) = beside(&fixture, rebuild(fixture.store.clone()), commit).await;
        assert_eq!(failed, 0);
        assert!(matches!(answer, Err(StoreError::Contention)), "{answer:?}");
        apply(&fixture.store, &user("alice"), "phone", [change(3, 1, 1, Op::Delete)]).await.unwrap();
        assert_eq!(texts(&fixture).await, [Some("other".into())]);
        assert_eq!(failures(&fixture).await, []);
    }
}

#[tokio::test]
async fn a_row_deleted_while_its_failure_is_retried_leaves_nothing_behind() {
    for is_assumed in [false, true] {
        let fixture = fixture("first").await;
        fixture.execute("UPDATE sync.sync_row_meta SET projected = false; TRUNCATE notes").await;
        let record = "INSERT INTO sync.materialize_failures (user_id, id, schema_name, table_name, pk_uuid,
                          attempted_version, op, payload, error, first_seen)
                      SELECT user_id, 1, schema_name, table_name, pk_uuid, 1, 'INSERT', '{}', 'it is odd', now()
                      FROM sync.sync_row_meta WHERE pk_uuid = '00000000-0000-0000-0000-000000000002'";
        fixture.execute(record).await;
        let [looked_up, assumed] = both(&fixture.store, &change(3, 2, 1, Op::Delete)).await;
        let store = fixture.store.clone();
        let retry = async move { store.retry(&user("alice"), 1).await.unwrap() };
        let (retried, answer) = beside(&fixture, retry, if is_assumed { assumed } else { looked_up }).await;
        assert_eq!(retried, Retried::Materialized);
        assert!(matches!(answer, Err(StoreError::Contention)), "{answer:?}");
        apply(&fixture.store, &user("alice"), "phone", [change(3, 2, 1, Op::Delete)]).await.unwrap();
        assert_eq!(texts(&fixture).await, []);
        assert_eq!(failures(&fixture).await, []);
    }
}

#[tokio::test]
async fn a_failure_recorded_while_its_row_is_mended_is_forgotten() {
    for is_assumed in [false, true] {
        let fixture = fixture("old").await;
        fixture.execute("TRUNCATE notes; ALTER TABLE notes ADD CHECK (text <> 'old')").await;
        let mending = || change(3, 1, 1, Op::Update(payload(r#"{"text":"good"}"#)));
        let [looked_up, assumed] = both(&fixture.store, &mending()).await;
        let commit = if is_assumed { assumed } else { looked_up };
        let (failed, answer) = beside(&fixture, rebuild(fixture.store.clone()), commit).await;
        assert_eq!(failed, 1);
        assert!(matches!(answer, Err(StoreError::Contention)), "{answer:?}");
        assert_eq!(failures(&fixture).await.len(), 1);
        apply(&fixture.store, &user("alice"), "phone", [mending()]).await.unwrap();
        assert_eq!(texts(&fixture).await, [Some("good".into()), Some("other".into())]);
        assert_eq!(failures(&fixture).await, []);
    }
}
