//! A runtime for materializers that wait for something.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};

/// A runtime of one thread, driven by whoever waits. Unlike tokio's own it may be dropped anywhere, also where a store
/// that could not be opened is: inside another runtime.
pub(super) struct Waiting(Option<Runtime>);

impl Waiting {
    pub(super) fn new() -> io::Result<Self> {
        Builder::new_current_thread().enable_all().build().map(|runtime| Self(Some(runtime)))
    }

    /// Waits for the future. None if there is no runtime any more.
    pub(super) fn wait_for<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.as_ref().map(|runtime| runtime.block_on(future))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
