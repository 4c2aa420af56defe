//! Who waits for news on this node.
//!
//! One channel per user that anybody waits for, and one receiver in it per waiting request: no task, no queue. What is
//! told is only how far the stream has come, so that however many changes come while nobody looks, one look is enough.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_domain::{ServerSeq, SourceId, UserId};
use tokio::sync::watch;

use crate::ports::notifier::{News, Notifier};

/// How far a stream has come, as far as this node has heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Heard {
    /// The end of the stream.
    head: ServerSeq,
    /// Who alone made the last change.
    by: Option<SourceId>,
    /// The last change that somebody else made, or may have made.
    by_others: ServerSeq,
}

impl Heard {
    /// Takes in news. False if it is none.
    ///
    /// What nobody has told of, between the end that is known and where the news begins, may be anybody's. So news of
    /// what lies before that end tells nothing: it has been told of, or counted as anybody's.
    fn take(&mut self, News { after, head, only, .. }: News) -> bool {
        if after > self.head {
            *self = Self { head, by: only, by_others: after };
            return true;
        }
        if head <= self.head {
            return false;
        }
        if only != self.by {
            (self.by, self.by_others) = (only, self.head);
        }
        self.head = head;
        true
    }

    /// The last change that is news to a source; to all of them if there is none.
    fn head_for(&self, source: Option<&SourceId>) -> ServerSeq {
        if source.is_some() && self.by.as_ref() == source { self.by_others } else { self.head }
    }
}

/// The requests of this node that wait for news. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub struct Hub {
    channels: Arc<Mutex<HashMap<UserId, watch::Sender<Heard>>>>,
}

impl Hub {
    /// Listens for news of a user from now on.
    pub fn subscribe(&self, user: &UserId) -> Subscription {
        let mut channels = self.channels();
        let channel = channels.entry(user.clone()).or_default();
        Subscription { receiver: channel.subscribe(), hub: self.clone(), user: user.clone() }
    }

    /// The users that anybody waits for news of.
    pub fn users(&self) -> Vec<UserId> {
        self.channels().keys().cloned().collect()
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<UserId, watch::Sender<Heard>>> {
        // Nothing that can panic runs under the lock.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notifier for Hub {
    fn announce(&self, news: News) {
        if let Some(channel) = self.channels().get(&news.user) {
            channel.send_if_modified(|heard| heard.take(news));
        }
    }
}

/// One request's ear for news of one user.
pub struct Subscription {
    receiver: watch::Receiver<Heard>,
    hub: Hub,
    user: UserId,
}

impl Subscription {
    /// Waits until the stream is known to have gone beyond `told` by a change that `source` has not made. Without a
    /// source every change counts.
    pub async fn beyond(&mut self, told: ServerSeq, source: Option<&SourceId>) -> ServerSeq {
        let head = self.receiver.wait_for(|heard| heard.head_for(source) > told).await.map(|heard| heard.head);
        match head {
            Ok(head) => head,
            // The channel lives as long as anybody listens to it.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut channels = self.hub.channels();
        if channels.get(&self.user).is_some_and(|channel| channel.receiver_count() <= 1) {
            channels.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// One change.
    fn news(head: i64, only: Option<&str>) -> News {
        let only = only.map(|source| SourceId::parse(source).unwrap());
        News { user: UserId::parse("alice").unwrap(), after: ServerSeq(head - 1), head: ServerSeq(head), only }
    }

    /// Where the stream ends, and nothing else.
    fn end(head: i64) -> News {
        News { after: ServerSeq(head), ..news(head, None) }
    }

    /// What each of two sources, and one that wants to hear of its own changes too, is told beyond 0.
    fn told(all: &[News]) -> [Option<i64>; 3] {
        let hub = Hub::default();
        let mut subscription = hub.subscribe(&news(0, None).user);
        all.iter().for_each(|news| hub.announce(news.clone()));
        [Some("phone"), Some("tablet"), None].map(|source| {
            let source = source.map(|source| SourceId::parse(source).unwrap());
            subscription.beyond(ServerSeq(0), source.as_ref()).now_or_never().map(|head| head.0)
        })
    }

    #[test]
    fn a_source_is_not_told_of_what_it_did_itself() {
        assert_eq!(told(&[]), [None, None, None]);
        assert_eq!(told(&[news(1, Some("phone"))]), [None, Some(1), Some(1)]);
        assert_eq!(told(&[news(1, Some("phone")), news(2, Some("phone"))]), [None, Some(2), Some(2)]);
        assert_eq!(told(&[news(1, None)]), [Some(1); 3]);
        assert_eq!(told(&[news(1, None), news(2, None)]), [Some(2); 3]);
    }

    #[test]
    fn what_others_did_is_told_though_its_own_change_came_behind_it() {
        assert_eq!(told(&[news(1, Some("tablet")), news(2, Some("phone"))]), [Some(2); 3]);
        assert_eq!(told(&[news(1, None), news(2, Some("phone"))]), [Some(2); 3]);
        // Also if it is heard of late, or not at all.
        assert_eq!(told(&[news(2, Some("phone")), news(1, Some("tablet"))]), [Some(2); 3]);
        assert_eq!(told(&[news(2, Some("phone"))]), [Some(2); 3]);
        assert_eq!(told(&[news(1, Some("phone")), news(3, Some("phone"))]), [Some(3); 3]);
        assert_eq!(told(&[end(1), news(2, Some("phone"))]), [Some(2); 3]);
    }

    #[test]
    fn where_the_stream_ends_is_no_news_once_it_is_known() {
        assert_eq!(told(&[news(1, Some("phone")), end(1)]), [None, Some(1), Some(1)]);
        assert_eq!(told(&[news(1, Some("phone")), end(1), news(2, Some("phone")), end(2)]), [None, Some(2), Some(2)]);
        assert_eq!(told(&[news(1, Some("phone")), end(2)]), [Some(2); 3]);
        assert_eq!(told(&[end(3)]), [Some(3); 3]);
    }

    #[test]
    fn a_user_nobody_waits_for_is_forgotten() {
        let hub = Hub::default();
        let alice = news(0, None).user;
        let (one, two) = (hub.subscribe(&alice), hub.subscribe(&alice));
        drop(one);
        assert_eq!(hub.users(), [alice]);
        drop(two);
        assert_eq!(hub.users(), []);
    }

    #[tokio::test]
    async fn many_changes_are_one_piece_of_news() {
        let hub = Hub::default();
        let mut subscription = hub.subscribe(&news(0, None).user);
        (1..=100).for_each(|head| hub.announce(news(head, None)));
        assert_eq!(subscription.beyond(ServerSeq(0), None).await.0, 100);
        assert!(subscription.beyond(ServerSeq(100), None).now_or_never().is_none());
        let waiting = tokio::spawn(async move { subscription.beyond(ServerSeq(100), None).await });
        tokio::task::yield_now().await;
        hub.announce(news(101, Some("phone")));
        assert_eq!(waiting.await.unwrap().0, 101);
    }
}
