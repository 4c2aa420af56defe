//! The contract, run by the store in a Postgres database; every node has connections of its own.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_application::{ContactStore, ProjectionStore, RetentionStore, SyncStore, TableConfig, UserStore};
use outrigger_conformance::{Backend, LongLived, Projecting};
use outrigger_domain::TableName;
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::TestDatabase;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

const BUSINESS: &str = "CREATE TABLE users (id uuid PRIMARY KEY, name text);
                        CREATE TABLE posts (id uuid PRIMARY KEY, name text);";

struct Postgres(TestDatabase);

impl Postgres {
    async fn connect(&self) -> Arc<PostgresStore> {
        let table = |name| TableConfig::new(TableName::parse_qualified(name).expect("a good name"));
        let options = PostgresOptions { tables: ["users", "posts"].map(table).into(), ..PostgresOptions::default() };
        Arc::new(PostgresStore::connect(self.0.url(), options).await.expect("the database answers"))
    }
}

#[async_trait]
impl Backend for Postgres {
    async fn start() -> Self {
        let backend = Self(outrigger_testkit::postgres_database().await);
        let mut connection = PgConnection::connect(backend.0.url()).await.expect("the database answers");
        connection.execute(BUSINESS).await.expect("the database is empty");
        backend
    }

    async fn node(&self) -> Arc<dyn SyncStore> {
        self.connect().await
    }
}

#[async_trait]
impl Projecting for Postgres {
    async fn projection(&self) -> Arc<dyn ProjectionStore> {
        self.connect().await
    }

    async fn business_name(&self, table: &str, pk: Uuid) -> Option<String> {
        let mut connection = PgConnection::connect(self.0.url()).await.expect("the database answers");
        let query = sqlx::query_scalar(AssertSqlSafe(format!("SELECT name FROM {table} WHERE id = $1"))).bind(pk);
        query.fetch_optional(&mut connection).await.expect("the table is there").flatten()
    }
}

#[async_trait]
impl LongLived for Postgres {
    async fn retention(&self) -> Arc<dyn RetentionStore> {
        self.connect().await
    }

    async fn contacts(&self) -> Arc<dyn ContactStore> {
        self.connect().await
    }

    async fn users(&self) -> Arc<dyn UserStore> {
        self.connect().await
    }
}

outrigger_conformance::suite!(Postgres);
outrigger_conformance::projection_suite!(Postgres);
outrigger_conformance::long_lived_suite!(Postgres);
outrigger_conformance::users_suite!(Postgres);
