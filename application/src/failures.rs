//! Looking at what could not be projected, and trying it again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use outrigger_domain::UserId;

use crate::ports::projection::{Failure, FailureFilter, ProjectionStore, Retried};
use crate::ports::store::StoreError;

/// The use cases behind `/admin/materialize-failures`.
#[derive(Clone)]
pub struct Failures {
    store: Arc<dyn ProjectionStore>,
    /// What this process is trying again. The store sees to other processes.
    retrying: Arc<Mutex<HashSet<(UserId, i64)>>>,
}

impl Failures {
    /// The failures of this store.
    pub fn new(store: Arc<dyn ProjectionStore>) -> Self {
        Self { store, retrying: Arc::default() }
    }

    /// The first failures of the user that match, oldest first.
    pub async fn list(&self, user: &UserId, filter: &FailureFilter, limit: u32) -> Result<Vec<Failure>, StoreError> {
        self.store.failures(user, filter, 0, limit).await
    }

    /// Tries one failure again.
    pub async fn retry(&self, user: &UserId, id: i64) -> Result<Retried, StoreError> {
        let Some(_turn) = Turn::take(&self.retrying, (user.clone(), id)) else { return Ok(Retried::InProgress) };
        self.store.retry(user, id).await
    }
}

/// The right to retry one failure, given back however the retry ends.
struct Turn {
    retrying: Arc<Mutex<HashSet<(UserId, i64)>>>,
    failure: (UserId, i64),
}

impl Turn {
    fn take(retrying: &Arc<Mutex<HashSet<(UserId, i64)>>>, failure: (UserId, i64)) -> Option<Self> {
        let is_new = retrying.lock().unwrap_or_else(PoisonError::into_inner).insert(failure.clone());
        is_new.then(|| Self { retrying: Arc::clone(retrying), failure })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.retrying.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::projection::MockProjectionStore;

    #[tokio::test]
    async fn a_failure_is_tried_by_one_at_a_time() {
        let user = UserId::parse("alice").unwrap();
        let mut store = MockProjectionStore::new();
        store.expect_retry().times(2).returning(|_, _| Ok(Retried::Materialized));
        let failures = Failures::new(Arc::new(store));
        let turn = Turn::take(&failures.retrying, (user.clone(), 1)).unwrap();
        assert_eq!(failures.retry(&user, 1).await.unwrap(), Retried::InProgress);
        assert_eq!(failures.retry(&user, 2).await.unwrap(), Retried::Materialized);
        drop(turn);
        assert_eq!(failures.retry(&user, 1).await.unwrap(), Retried::Materialized);
    }
}
