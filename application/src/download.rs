//! Reading a stream, page by page.

use std::sync::Arc;

use outrigger_domain::UserId;
use outrigger_domain::window::{self, Page, PageQuery};

use crate::error::SyncError;
use crate::ports::store::SyncStore;

/// The use case behind `GET /sync/download`.
#[derive(Clone)]
pub struct Download {
    store: Arc<dyn SyncStore>,
}

impl Download {
    /// Downloads from this store.
    pub fn new(store: Arc<dyn SyncStore>) -> Self {
        Self { store }
    }

    /// One page of the user's stream.
    pub async fn page(&self, user: &UserId, query: &PageQuery) -> Result<Page, SyncError> {
        let slice = self.store.page(user, query).await?;
        Ok(window::page(query, slice)?)
    }
}
