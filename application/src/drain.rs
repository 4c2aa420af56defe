//! The end of requests that would not end by themselves.

use tokio::sync::watch;

/// Tells requests that wait for something to end, because the server stops. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain(watch::Sender<bool>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Drain {
    /// Tells all of them, and those that begin from now on.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    /// Waits until they are told.
    pub async fn begun(&self) {
        // Fails only without a sender, and this is one.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }
}
