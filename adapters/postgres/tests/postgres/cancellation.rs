//! Futures that are dropped half-way.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use outrigger_application::{SyncStore, TableConfig};
use outrigger_domain::window::PageQuery;
use outrigger_domain::{Op, ServerSeq, Wanted};
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::postgres_database;
use sqlx::{Connection, PgConnection};

use crate::support::{Fixture, apply, change, insert, payload, plan, row, upload_of, user};

/// Polls the future that many times, each time when it asks for it. None if it did not end by then.
async fn abandon_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test]
async fn a_dropped_commit_is_whole_or_nothing_and_leaves_no_transaction_open() {
    let options = PostgresOptions { max_connections: 2, ..PostgresOptions::default() };
    let fixture = Fixture::with(options).await;
    let alice = user("alice");
    let (mut abandoned, mut answered) = (0, 0);
    for round in 1..=60_i64 {
        let number = 2 * round;
        let changes = [insert(number, number as u128), insert(number + 1, number as u128 + 1)];
        let (next, _) = plan(&fixture.store, &alice, &upload_of("phone", changes)).await;
        let polls = usize::try_from(round % 20).unwrap();
        match abandon_after(polls, fixture.store.commit(&alice, next)).await {
            None => abandoned += 1,
            // An abandoned commit may come into force after the next one was planned.
            Some(_) => answered += 1,
        }
        assert_is_whole(&fixture).await;
    }
    assert!(abandoned > 5 && answered > 5, "{abandoned} abandoned, {answered} answered");
    assert_no_transaction_is_open(&fixture).await;
    // With two connections at the most, one that is lost would show.
    for number in 1_001..1_020 {
        let late = async {
            while apply(&fixture.store, &alice, "laptop", [insert(number, 9_999 + number as u128)]).await.is_err() {}
        };
        tokio::time::timeout(Duration::from_secs(10), late).await.expect("connections are free");
    }
}

#[tokio::test]
async fn a_dropped_read_costs_no_connection() {
    let fixture = Fixture::with(PostgresOptions { max_connections: 1, ..PostgresOptions::default() }).await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", (1..=500).map(|number| insert(number, number as u128))).await.unwrap();
    let query = PageQuery { after: ServerSeq(0), until: None, limit: 1_000, schema: None, exclude: None, epoch: None };
    let wanted = Wanted::of([&upload_of("phone", (1..=500).map(|number| insert(number, number as u128)))]);
    for polls in 0..30 {
        abandon_after(polls % 10, fixture.store.page(&alice, &query)).await.transpose().unwrap();
        abandon_after(polls % 10, fixture.store.load(&alice, &wanted)).await.transpose().unwrap();
        assert_eq!(fixture.store.page(&alice, &query).await.unwrap().changes.len(), 500);
        assert_eq!(fixture.store.load(&alice, &wanted).await.unwrap().logged.len(), 500);
    }
    assert_no_transaction_is_open(&fixture).await;
}

#[tokio::test]
async fn a_dropped_commit_that_waits_for_a_lock_does_not_keep_its_connection() {
    let fixture = Fixture::with(PostgresOptions { max_connections: 1, ..PostgresOptions::default() }).await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    let (next, _) = plan(&fixture.store, &alice, &upload_of("phone", [insert(2, 2)])).await;
    let mut sql = fixture.sql().await;
    let mut other = sql.begin().await.unwrap();
    sqlx::query("SELECT FROM sync.user_stream FOR UPDATE").execute(&mut *other).await.unwrap();
    let store = fixture.store.clone();
    let commit = tokio::spawn(async move { store.commit(&user("alice"), next).await });
    fixture.wait_until_blocked().await;
    commit.abort();
    assert!(commit.await.unwrap_err().is_cancelled());
    apply(&fixture.store, &user("bob"), "phone", [insert(1, 1)]).await.unwrap();
}

#[tokio::test]
async fn a_dropped_commit_in_parts_is_whole_or_nothing_and_leaves_no_transaction_open() {
    // Of every upload one row fails, so that each is projected in parts.
    let sql = "CREATE TABLE notes (id uuid PRIMARY KEY, text text CHECK (text <> 'bad'))";
    let database = postgres_database().await;
    sqlx::raw_sql(sql).execute(&mut PgConnection::connect(database.url()).await.unwrap()).await.unwrap();
    let tables = vec![TableConfig::new(row(1).table)];
    let options = PostgresOptions { max_connections: 2, tables, ..PostgresOptions::default() };
    let store = PostgresStore::connect(database.url(), options).await.unwrap();
    let fixture = Fixture { store, database };
    let alice = user("alice");
    let bad = |number: i64| change(number, number as u128, 0, Op::Insert(payload(r#"{"text":"bad"}"#)));
    let (mut abandoned, mut answered) = (0, 0);
    for round in 1..=60_i64 {
        let number = 2 * round;
        let (next, _) =
            plan(&fixture.store, &alice, &upload_of("phone", [insert(number, number as u128), bad(number + 1)])).await;
        let polls = usize::try_from(round).unwrap();
        match abandon_after(polls, fixture.store.commit(&alice, next)).await {
            None => abandoned += 1,
            Some(_) => answered += 1,
        }
        assert_is_whole(&fixture).await;
        assert_is_projected(&fixture).await;
    }
    assert!(abandoned > 5 && answered > 5, "{abandoned} abandoned, {answered} answered");
    let quiet = async {
        while open_transactions(&fixture).await > 0 {
            tokio::task::yield_now().await;
        }
    };
    // A connection that is closed in the middle of a transaction is rolled back as soon as Postgres notices.
    tokio::time::timeout(Duration::from_secs(10), quiet).await.expect("no transaction stays open");
    for number in 1_001..1_020 {
        let late = async {
            while apply(&fixture.store, &alice, "laptop", [insert(number, 9_999 + number as u128)]).await.is_err() {}
        };
        tokio::time::timeout(Duration::from_secs(10), late).await.expect("connections are free");
    }
}

/// Every good row is in the business table, and of every bad one there is a failure; in one moment.
async fn assert_is_projected(fixture: &Fixture) {
    let wrong = "SELECT count(*) FROM sync.sync_state s
                 WHERE (s.payload ->> 'text' = 'bad') <> EXISTS (
                           SELECT 1 FROM sync.materialize_failures f WHERE f.pk_uuid = s.pk_uuid)
                    OR (s.payload ->> 'text' = 'bad') = EXISTS (SELECT 1 FROM notes n WHERE n.id = s.pk_uuid)";
    assert_eq!(sqlx::query_scalar::<_, i64>(wrong).fetch_one(&mut fixture.sql().await).await.unwrap(), 0);
}

/// One statement, and so one moment: the log, the rows and their states are exactly those up to the head.
async fn assert_is_whole(fixture: &Fixture) {
    let counts = "SELECT coalesce((SELECT last_server_id FROM sync.user_stream), 0),
                         (SELECT count(*) FROM sync.server_change_log),
                         (SELECT count(*) FROM sync.sync_row_meta),
                         (SELECT count(*) FROM sync.sync_state)";
    let (head, log, rows, states): (i64, i64, i64, i64) =
        sqlx::query_as(counts).fetch_one(&mut fixture.sql().await).await.unwrap();
    assert_eq!((log, rows, states), (head, head, head));
}

async fn assert_no_transaction_is_open(fixture: &Fixture) {
    assert_eq!(open_transactions(fixture).await, 0);
}

async fn open_transactions(fixture: &Fixture) -> i64 {
    let open = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    sqlx::query_scalar(open).fetch_one(&mut fixture.sql().await).await.unwrap()
}
