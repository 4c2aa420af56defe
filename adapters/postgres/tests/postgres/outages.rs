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
    let answer = apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    fixture.execute(reset).await;
    apply(&fixture.store, &alice, "phone", [insert(1, 1)]).await.unwrap();
}
