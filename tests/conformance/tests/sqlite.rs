//! The contract, run by the store in a SQLite file; every node opens the file anew.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_application::SyncStore;
use outrigger_conformance::Backend;
use outrigger_sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

struct Sqlite(TempDir);

#[async_trait]
impl Backend for Sqlite {
    async fn start() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    async fn node(&self) -> Arc<dyn SyncStore> {
        let path = self.0.path().join("outrigger.db");
        Arc::new(SqliteStore::open(&path, SqliteOptions::default()).expect("the file opens"))
    }
}

outrigger_conformance::suite!(Sqlite);
