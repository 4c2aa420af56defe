//! The end of requests that would not end by themselves.

use tokio::sync::watch;

/// How far the server has come with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// New requests still come: whoever sends them does not know yet.
    Draining,
    /// Nothing new comes.
    Closing,
}

/// Tells requests that wait for something to end, because the server stops. Cheap to clone.
///
/// Those that wait when it begins end then, and those that came later end with the listener: they would come back at
/// once, and to the same server, as long as a load balancer sends them here.
#[derive(Clone, Debug)]
pub struct Drain(watch::Sender<Stage>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(Stage::Serving))
    }
}

impl Drain {
    /// Tells those that wait.
    pub fn begin(&self) {
        self.0.send_if_modified(|stage| {
            let begins = *stage == Stage::Serving;
            if begins {
                *stage = Stage::Draining;
            }
            begins
        });
    }

    /// Tells all of them, and those that begin from now on.
    pub fn close(&self) {
        self.0.send_replace(Stage::Closing);
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() > Stage::Serving
    }

    /// Begins to wait.
    pub fn stay(&self) -> Stay {
        let stages = self.0.subscribe();
        let since = *stages.borrow();
        Stay { stages, since }
    }
}

/// The time for which a request may wait.
#[derive(Clone, Debug)]
pub struct Stay {
    stages: watch::Receiver<Stage>,
    /// What it began in.
    since: Stage,
}

impl Stay {
    /// Waits until it has to end.
    pub async fn over(&mut self) {
        let since = self.since;
        let over = |stage: &Stage| *stage > since || *stage == Stage::Closing;
        // What it lends is given back before anything is waited for.
        let is_left = self.stages.wait_for(over).await.is_err();
        if is_left {
            // Nobody is left who could stop the server.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn who_waits_ends_when_it_begins_and_who_comes_later_when_nothing_new_comes() {
        let drain = Drain::default();
        let mut early = drain.stay();
        assert!(!drain.has_begun() && early.over().now_or_never().is_none());
        drain.begin();
        let mut late = drain.stay();
        assert!(drain.has_begun() && early.over().now_or_never().is_some());
        assert!(late.over().now_or_never().is_none());
        drain.close();
        assert!(late.over().now_or_never().is_some());
        assert!(drain.stay().over().now_or_never().is_some());
        drain.begin();
        assert!(drain.stay().over().now_or_never().is_some(), "it does not go back");
    }
}
