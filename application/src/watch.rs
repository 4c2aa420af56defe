//! Waiting for changes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use metrics::gauge;
use outrigger_domain::window::{self, Page, PageQuery};
use outrigger_domain::{Epoch, Reset, ServerSeq, SourceId, UserId};
use tokio::time::Instant;

use crate::Caller;
use crate::drain::{Drain, Stay};
use crate::error::SyncError;
use crate::hub::{Hub, Subscription};
use crate::measures::WATCHERS;
use crate::ports::clock::Clock;
use crate::ports::store::SyncStore;

/// From where on a device watches its user's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchQuery {
    /// The device's cursor, if it names one.
    pub after: Option<ServerSeq>,
    /// The life of the stream that the cursor is of, if the device says so.
    pub epoch: Option<Epoch>,
    /// Whether the device wants to hear of its own changes too.
    pub include_self: bool,
}

/// The use cases behind `GET /sync/watch` and `wait` of `GET /sync/download`. Cheap to clone.
///
/// Both subscribe first and look at the stream then: what is committed before the look is seen by it, and what is
/// committed after it is heard of.
#[derive(Clone)]
pub struct Watch {
    store: Arc<dyn SyncStore>,
    clock: Arc<dyn Clock>,
    hub: Hub,
    drain: Drain,
}

impl Watch {
    /// Watches the streams of this store, of which the hub hears. Ends when the drain begins.
    pub fn new(store: Arc<dyn SyncStore>, clock: Arc<dyn Clock>, hub: Hub, drain: Drain) -> Self {
        Self { store, clock, hub, drain }
    }

    /// Begins to watch, if the device can go on from where it is.
    pub async fn open(&self, caller: &Caller, query: &WatchQuery) -> Result<Watcher, SyncError> {
        let (subscription, stay) = (self.hub.subscribe(&caller.user), self.drain.stay());
        let (head, kept) = self.store.head(&caller.user).await?;
        let after = query.after.unwrap_or(head.seq);
        let (until, limit, schema, exclude) = (None, 1, None, None);
        Reset::check(head, kept, &PageQuery { after, until, limit, schema, exclude, epoch: query.epoch })?;
        Ok(Watcher {
            subscription,
            untold: Some(head.seq),
            told: head.seq,
            source: (!query.include_self).then(|| caller.source.clone()),
            ends_at: self.deadline(caller.expires_at),
            stay,
            _counted: Counted::begin(),
        })
    }

    /// One page, as soon as there is anything in it: at once, or when the time is up, or the server stops.
    pub async fn page(&self, user: &UserId, query: &PageQuery, wait: Duration) -> Result<Page, SyncError> {
        let (mut subscription, mut stay) = (self.hub.subscribe(user), self.drain.stay());
        let ends_at = Instant::now() + wait;
        let mut told = ServerSeq(0);
        loop {
            let page = window::page(query, self.store.page(user, query).await?)?;
            // A window that ends before the end of the stream does not grow any more.
            let is_frozen = query.until.is_some_and(|until| until <= page.window_until);
            if !page.changes.is_empty() || is_frozen {
                return Ok(page);
            }
            // What was heard of and is not there is not waited for by looking again and again.
            told = told.max(page.window_until);
            tokio::select! {
                heard = subscription.beyond(told, query.exclude.as_ref()) => told = heard,
                () = tokio::time::sleep_until(ends_at) => return Ok(page),
                () = stay.over() => return Ok(page),
            }
        }
    }

    fn deadline(&self, at: Timestamp) -> Instant {
        /// Timers reach that far at the least; nobody watches for longer.
        const FAR: Duration = Duration::from_secs(365 * 86_400);
        let left = at.duration_since(self.clock.now());
        Instant::now() + Duration::try_from(left).unwrap_or_default().min(FAR)
    }
}

/// A device that watches its user's stream.
pub struct Watcher {
    subscription: Subscription,
    /// The end of the stream when the watch began, until that is told.
    untold: Option<ServerSeq>,
    told: ServerSeq,
    /// Whose changes are not told.
    source: Option<SourceId>,
    ends_at: Instant,
    stay: Stay,
    _counted: Counted,
}

/// One watcher more, for as long as this is there.
struct Counted;

impl Counted {
    fn begin() -> Self {
        gauge!(WATCHERS).increment(1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(WATCHERS).decrement(1);
    }
}

impl Watcher {
    /// Where the stream ends: first at once, and then when it has grown. None when the device's credentials have ended
    /// or the server stops.
    pub async fn next(&mut self) -> Option<ServerSeq> {
        if let Some(head) = self.untold.take() {
            return Some(head);
        }
        let head = tokio::select! {
            // A server that stops tells nothing more: the device asks again elsewhere.
            biased;
            () = self.stay.over() => return None,
            () = tokio::time::sleep_until(self.ends_at) => return None,
            head = self.subscription.beyond(self.told, self.source.as_ref()) => head,
        };
        self.told = head;
        Some(head)
    }
}

#[cfg(test)]
mod tests;
