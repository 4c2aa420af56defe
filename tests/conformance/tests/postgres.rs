//! The contract, run by the store in a Postgres database; every node has connections of its own.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_application::SyncStore;
use outrigger_conformance::Backend;
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_testkit::TestDatabase;

struct Postgres(TestDatabase);

#[async_trait]
impl Backend for Postgres {
    async fn start() -> Self {
        Self(outrigger_testkit::postgres_database().await)
    }

    async fn node(&self) -> Arc<dyn SyncStore> {
        let store = PostgresStore::connect(self.0.url(), PostgresOptions::default()).await;
        Arc::new(store.expect("the database answers"))
    }
}

outrigger_conformance::suite!(Postgres);
