//! What a use case that follows a stream answers instead.

use std::sync::Arc;

use outrigger_domain::Reset;

use crate::ports::store::StoreError;

/// Why a device was not served.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SyncError {
    /// What the device knows of the stream does not hold any more.
    #[error(transparent)]
    Reset(#[from] Reset),
    /// The store failed. Shared, since uploads that are written together fail together.
    #[error(transparent)]
    Store(Arc<StoreError>),
}

impl From<StoreError> for SyncError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}
