//! The contract, run by the store in memory.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_application::{ContactStore, ProjectionStore, RetentionStore, SyncStore, UserStore};
use outrigger_conformance::{Backend, LongLived, Projecting};
use outrigger_domain::{RowKey, TableName};
use outrigger_memory::MemoryStore;
use uuid::Uuid;

struct Memory(Arc<MemoryStore>);

fn table(name: &str) -> TableName {
    TableName::parse_qualified(name).expect("a good name")
}

#[async_trait]
impl Backend for Memory {
    async fn start() -> Self {
        Self(Arc::new(MemoryStore::projecting(["users", "posts"].map(table))))
    }

    async fn node(&self) -> Arc<dyn SyncStore> {
        Arc::<MemoryStore>::clone(&self.0)
    }
}

#[async_trait]
impl Projecting for Memory {
    async fn projection(&self) -> Arc<dyn ProjectionStore> {
        Arc::<MemoryStore>::clone(&self.0)
    }

    async fn business_name(&self, name: &str, pk: Uuid) -> Option<String> {
        let payload = self.0.business_row(&RowKey { table: table(name), pk })?;
        let row: serde_json::Value = serde_json::from_str(payload.as_str()).expect("a payload is JSON");
        row["name"].as_str().map(str::to_owned)
    }
}

#[async_trait]
impl LongLived for Memory {
    async fn retention(&self) -> Arc<dyn RetentionStore> {
        Arc::<MemoryStore>::clone(&self.0)
    }

    async fn contacts(&self) -> Arc<dyn ContactStore> {
        Arc::<MemoryStore>::clone(&self.0)
    }

    async fn users(&self) -> Arc<dyn UserStore> {
        Arc::<MemoryStore>::clone(&self.0)
    }
}

outrigger_conformance::suite!(Memory);
outrigger_conformance::projection_suite!(Memory);
outrigger_conformance::long_lived_suite!(Memory);
outrigger_conformance::users_suite!(Memory);
