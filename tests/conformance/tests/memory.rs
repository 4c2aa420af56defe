//! The contract, run by the store in memory.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_application::SyncStore;
use outrigger_conformance::Backend;
use outrigger_memory::MemoryStore;

struct Memory(Arc<MemoryStore>);

#[async_trait]
impl Backend for Memory {
    async fn start() -> Self {
        Self(Arc::default())
    }

    async fn node(&self) -> Arc<dyn SyncStore> {
        Arc::<MemoryStore>::clone(&self.0)
    }
}

outrigger_conformance::suite!(Memory);
