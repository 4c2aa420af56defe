//! The harness itself: what a test gets, and what is left of it.

use outrigger_testkit::{Cluster, Settings, postgres_database};
use sqlx::{ConnectOptions, Connection, PgConnection};

async fn databases(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("SELECT datname::text FROM pg_database").fetch_all(&mut connection).await.unwrap()
}

#[tokio::test]
async fn every_database_is_empty_and_its_own() {
    let (one, other) = (postgres_database().await, postgres_database().await);
    assert_ne!(one.url(), other.url());
    let mut connection = PgConnection::connect(one.url()).await.unwrap();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    assert_eq!(sqlx::query_scalar::<_, i64>(tables).fetch_one(&mut connection).await.unwrap(), 0);
}

#[tokio::test]
async fn a_database_is_gone_with_its_test_even_if_someone_is_connected() {
    let (stays, goes) = (postgres_database().await, postgres_database().await);
    let options: sqlx::postgres::PgConnectOptions = goes.url().parse().unwrap();
    let name = options.get_database().unwrap().to_owned();
    let _connected = options.connect().await.unwrap();
    assert!(databases(stays.url()).await.contains(&name));
    drop(goes);
    assert!(!databases(stays.url()).await.contains(&name));
}

#[tokio::test]
async fn a_cluster_keeps_its_data_whichever_way_it_stops() {
    let cluster = Cluster::start(&Settings { parameters: vec![("max_connections", "20".into())] });
    let url = cluster.url("postgres");
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let (limit, fsync): (String, String) =
        sqlx::query_as("SELECT current_setting('max_connections'), current_setting('fsync')")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!((limit.as_str(), fsync.as_str()), ("20", "on"));
    sqlx::query("CREATE TABLE kept (n int)").execute(&mut connection).await.unwrap();

    let endings: [fn(&Cluster); 3] = [Cluster::stop, Cluster::shut_down, Cluster::kill];
    for (n, end) in (1..).zip(endings) {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        sqlx::query("INSERT INTO kept VALUES ($1)").bind(n).execute(&mut connection).await.unwrap();
        end(&cluster);
        assert!(PgConnection::connect(&url).await.is_err());
        cluster.restart();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut connection).await.unwrap();
        assert_eq!(kept, i64::from(n));
    }
}
