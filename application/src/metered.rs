//! A store whose calls are timed.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use metrics::histogram;
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{Kept, Plan, Snapshot, StreamHead, TableName, UserId, Wanted};
use tracing::{Instrument, debug_span};

use crate::measures::STORE_DURATION;
use crate::ports::store::{Rows, RowsQuery, StoreError, SyncStore};

/// Does what another store does, in a span of its own, and counts how long that takes.
pub struct Metered(pub Arc<dyn SyncStore>);

/// Times one call.
async fn timed<T>(call: &'static str, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let started = Instant::now();
    let answer = work.instrument(debug_span!("store", call)).await;
    let result = match &answer {
        Ok(_) => "ok",
        Err(StoreError::Contention) => "contention",
        Err(StoreError::Unavailable(_)) => "unavailable",
        Err(StoreError::Corrupt { .. } | StoreError::Backend(_)) => "error",
    };
    histogram!(STORE_DURATION, "call" => call, "result" => result).record(started.elapsed());
    answer
}

#[async_trait]
impl SyncStore for Metered {
    async fn load(&self, user: &UserId, wanted: &Wanted) -> Result<Snapshot, StoreError> {
        timed("load", self.0.load(user, wanted)).await
    }

    fn assume(&self, user: &UserId, wanted: &Wanted) -> Option<Snapshot> {
        self.0.assume(user, wanted)
    }

    async fn commit(&self, user: &UserId, plan: Plan) -> Result<(), StoreError> {
        timed("commit", self.0.commit(user, plan)).await
    }

    async fn page(&self, user: &UserId, query: &PageQuery) -> Result<Slice, StoreError> {
        timed("page", self.0.page(user, query)).await
    }

    async fn head(&self, user: &UserId) -> Result<(StreamHead, Kept), StoreError> {
        timed("head", self.0.head(user)).await
    }

    async fn rows(&self, user: &UserId, query: &RowsQuery) -> Result<Rows, StoreError> {
        timed("rows", self.0.rows(user, query)).await
    }

    async fn tables(&self, user: &UserId) -> Result<Vec<TableName>, StoreError> {
        timed("tables", self.0.tables(user)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        timed("ping", self.0.ping()).await
    }
}
