//! Starting up: on an empty database, on one that others are migrating, and on those that must be refused.

use std::time::{Duration, Instant};

use futures::future::join_all;
use outrigger_application::{StoreError, SyncStore};
use outrigger_postgres::{ConnectError, PostgresOptions, PostgresStore};
use outrigger_testkit::postgres_database;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::support::{Fixture, apply, insert, user};

async fn refusal(url: &str, options: PostgresOptions) -> String {
    PostgresStore::connect(url, options).await.expect_err("the database is to be refused").to_string()
}

#[tokio::test]
async fn eight_nodes_may_start_at_once() {
    let database = postgres_database().await;
    let starts = (0..8).map(|_| PostgresStore::connect(database.url(), PostgresOptions::default()));
    for store in join_all(starts).await {
        store.unwrap().ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_database_newer_than_the_binary_is_refused() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "INSERT INTO sync.schema_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'of the future', true, '', 0)",
        )
        .await;
    let message = refusal(fixture.database.url(), PostgresOptions::default()).await;
    assert_eq!(message, "the database is at migration 9999, this binary knows up to 4: upgrade the binary");
}

#[tokio::test]
async fn an_edited_migration_is_refused() {
    let fixture = Fixture::new().await;
    fixture.execute(r"UPDATE sync.schema_migrations SET checksum = '\x00' WHERE version = 1").await;
    let message = refusal(fixture.database.url(), PostgresOptions::default()).await;
    assert_eq!(message, "migration 1 of the database is not the one that this binary knows");
}

#[tokio::test]
async fn a_start_up_does_not_wait_for_the_migration_lock_for_ever() {
    let database = postgres_database().await;
    let mut other = PgConnection::connect(database.url()).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(122550255511911)").execute(&mut other).await.unwrap();
    let options = PostgresOptions { migration_timeout: Duration::from_millis(50), ..PostgresOptions::default() };
    let started = PostgresStore::connect(database.url(), options.clone()).await;
    assert!(matches!(started, Err(ConnectError::Locked { .. })), "{started:?}");

    other.close().await.unwrap();
    PostgresStore::connect(database.url(), PostgresOptions::default()).await.unwrap();
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_behind() {
    let database = postgres_database().await;
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    // In the way of the last table that the first migration makes.
    sqlx::raw_sql("CREATE SCHEMA sync; CREATE TABLE sync.server_change_log ()").execute(&mut sql).await.unwrap();
    let message = refusal(database.url(), PostgresOptions::default()).await;
    assert_eq!(message, r#"cannot migrate the database: migration 1: relation "server_change_log" already exists"#);

    let tables = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pg_tables WHERE schemaname = 'sync'");
    assert_eq!(tables.fetch_one(&mut sql).await.unwrap(), 1);
    sqlx::raw_sql("DROP SCHEMA sync CASCADE").execute(&mut sql).await.unwrap();
    PostgresStore::connect(database.url(), PostgresOptions::default()).await.unwrap();
}

#[tokio::test]
async fn the_migrations_of_an_app_in_the_same_database_are_its_own() {
    let database = postgres_database().await;
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    let app = "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
                   installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL,
                   checksum bytea NOT NULL, execution_time bigint NOT NULL);
               INSERT INTO _sqlx_migrations VALUES (1, 'app', now(), true, '', 0), (77, 'app', now(), true, '', 0)";
    sqlx::raw_sql(app).execute(&mut sql).await.unwrap();
    PostgresStore::connect(database.url(), PostgresOptions::default()).await.unwrap();
    let versions: Vec<i64> =
        sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY 1").fetch_all(&mut sql).await.unwrap();
    assert_eq!(versions, [1, 77]);
    let outside = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('sync', 'pg_catalog', 'information_schema')";
    assert_eq!(sqlx::query_scalar::<_, i64>(outside).fetch_one(&mut sql).await.unwrap(), 1);
}

#[tokio::test]
async fn a_role_that_may_create_nothing_serves_a_migrated_database() {
    let fixture = Fixture::new().await;
    let options: PgConnectOptions = fixture.database.url().parse().unwrap();
    let role = format!("{}_server", options.get_database().unwrap());
    let mut sql = fixture.sql().await;
    let grants = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'secret';
         GRANT USAGE ON SCHEMA sync TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA sync TO {role}"
    );
    sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut sql).await.unwrap();
    let url = options.username(&role).password("secret").to_url_lossy();
    let store = PostgresStore::connect(url.as_str(), PostgresOptions::default()).await.unwrap();
    apply(&store, &user("alice"), "phone", [insert(1, 1)]).await.unwrap();
    store.close().await;
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut sql).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_in_one_sentence() {
    let asked = Instant::now();
    let message = refusal("postgres://nobody@127.0.0.1:1/none", PostgresOptions::default()).await;
    assert_eq!(message, "cannot connect to Postgres at 127.0.0.1:1: Connection refused (os error 111)");
    assert!(asked.elapsed() < Duration::from_secs(5), "a refusal is no reason to wait");

    let message = refusal("postgres://[", PostgresOptions::default()).await;
    assert_eq!(message, "the database url is not a valid Postgres url: invalid IPv6 address");

    let database = postgres_database().await;
    let options: PgConnectOptions = database.url().parse().unwrap();
    let name = format!("{}_ascii", options.get_database().unwrap());
    let mut sql = options.connect().await.unwrap();
    let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut sql).await.unwrap();
    let message = refusal(options.database(&name).to_url_lossy().as_str(), PostgresOptions::default()).await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name}"))).execute(&mut sql).await.unwrap();
    assert_eq!(message, "the database has the encoding SQL_ASCII: it must be created with the encoding UTF8");
}

#[tokio::test]
async fn a_store_misses_a_migration_and_does_not_mind_a_later_one() {
    let fixture = Fixture::new().await;
    let later = "INSERT INTO sync.schema_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'of the future', true, '', 0)";
    fixture.execute(later).await;
    fixture.store.ping().await.unwrap();
    fixture.execute(r"UPDATE sync.schema_migrations SET checksum = '\x00' WHERE version = 2").await;
    let answer = fixture.store.ping().await;
    assert!(matches!(&answer, Err(StoreError::Corrupt { what }) if what.contains("migration 2")), "{answer:?}");
    fixture.execute("DELETE FROM sync.schema_migrations WHERE version < 9999").await;
    assert!(matches!(fixture.store.ping().await, Err(StoreError::Corrupt { .. })));
}
