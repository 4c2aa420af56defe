//! Telling devices that there is something for them.

use outrigger_domain::{ServerSeq, SourceId, UserId};

/// That a user's stream has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whose stream.
    pub user: UserId,
    /// Where it ended before. The same as `head` if all that is known is where it ends.
    pub after: ServerSeq,
    /// Where it ends now.
    pub head: ServerSeq,
    /// The source that made all changes between the two; none if several did, or nobody knows.
    pub only: Option<SourceId>,
}

/// Carries news to whoever waits for it, on this node and others.
///
/// News is a hint: it may come late, twice, out of order or not at all, and a device that never hears any still gets
/// everything with its next download. So telling cannot fail, and it does not block: it happens between a commit and
/// its answer.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
pub trait Notifier: Send + Sync {
    /// Passes the news on.
    fn announce(&self, news: News);
}
