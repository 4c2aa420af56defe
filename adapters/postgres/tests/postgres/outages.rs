//! A server that stops, dies, or turns read-only under the store.

use std::time::Duration;

use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::window::PageQuery;
use outrigger_domain::{ServerSeq, UserId};
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::{Cluster, Settings};

use crate::support::{Fixture, apply, insert, plan, upload_of, user};

fn everything() -> PageQuery {
    PageQuery { after: ServerSeq(0), until: None, limit: 1_000, schema: None, exclude: None, epoch: None }
}

/// Uploads until it succeeds: the pool may hold connections that the outage has cut.
async fn apply_at_last(store: &PostgresStore, user: &UserId, number: i64) {
    let uploading = async {
        loop {
            let snapshot = store.load(user, &Default::default()).await;
            if snapshot.is_ok() && apply(store, user, "phone", [insert(number, number as u128)]).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), uploading).await.expect("the store recovers");
}

#[tokio::test]
async fn the_store_is_unavailable_while_its_server_is_gone_and_recovers_with_it() {
    let cluster = Cluster::start(&Settings::default());
    let options = PostgresOptions { acquire_timeout: Duration::from_millis(300), ..PostgresOptions::default() };
    let store = PostgresStore::connect(&cluster.url("postgres"), options).await.unwrap();
    let alice = user("alice");
    let endings: [fn(&Cluster); 3] = [Cluster::stop, Cluster::shut_down, Cluster::kill];
    for (number, end) in (1..).zip(endings) {
        apply_at_last(&store, &alice, number).await;
        let (next, _) = plan(&store, &alice, &upload_of("laptop", [insert(number, 100)])).await;
        end(&cluster);
        let answers = [
            store.load(&alice, &Default::default()).await.map(drop),
            store.commit(&alice, next).await,
            store.page(&alice, &everything()).await.map(drop),
            store.ping().await,
        ];
        for answer in answers {
            assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
        }
        cluster.restart();
    }
    apply_at_last(&store, &alice, 4).await;
    let slice = store.page(&alice, &everything()).await.unwrap();
    let numbers: Vec<_> = slice.changes.iter().map(|change| change.source_change_id.0).collect();
    assert_eq!(numbers, [1, 2, 3, 4], "what was answered is there after every ending");
}

#[tokio::test]
async fn a_connection_to_a_server_that_only_reads_is_not_kept() {
    let fixture = Fixture::with(PostgresOptions { max_connections: 1, ..PostgresOptions::default() }).await;
    let set = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$";
    let reset = "BEGIN READ WRITE;
                 DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$;
                 COMMIT";
    fixture.execute(set).await;
    let alice = user("alice");
    // Nor is it where changes are to be sent.
    assert!(matches!(fixture.store.ping().await, Err(StoreError::Unavailable(_))));
    let answer = apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(matches!(fixture.store.ping().await, Err(StoreError::Unavailable(_))));
    fixture.execute(reset).await;
    fixture.store.ping().await.unwrap();
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
}

#[tokio::test]
async fn a_lock_is_waited_for_as_long_as_configured() {
    let options = PostgresOptions { lock_timeout: Duration::from_millis(100), ..PostgresOptions::default() };
    let fixture = Fixture::with(options).await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    let mut sql = fixture.sql().await;
    sqlx::raw_sql("BEGIN; SELECT FROM sync.user_stream FOR UPDATE").execute(&mut sql).await.unwrap();
    let answer = apply(&fixture.store, &alice, "phone", [insert(2, 2)]).await;
    let Err(StoreError::Unavailable(why)) = answer else { panic!("{answer:?}") };
    assert!(why.to_string().contains("55P03"), "{why}");
}

#[tokio::test]
async fn a_statement_runs_for_as_long_as_configured() {
    let options = PostgresOptions { statement_timeout: Duration::from_millis(100), ..PostgresOptions::default() };
    let fixture = Fixture::with(options).await;
    let alice = user("alice");
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
    let slow =
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NEW; END';
         CREATE TRIGGER slow BEFORE INSERT ON sync.server_change_log FOR EACH ROW EXECUTE FUNCTION slow()";
    fixture.execute(slow).await;
    let answer = apply(&fixture.store, &alice, "phone", [insert(2, 2)]).await;
    let Err(StoreError::Unavailable(why)) = answer else { panic!("{answer:?}") };
    assert!(why.to_string().contains("57014"), "{why}");
}
