//! Time, which the background task is given.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

/// Time. A simulator puts one of its own in the place of the system's, see [`Config::clock`](crate::Config::clock).
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use outrigger_client::{Clock, Config};
///
/// /// A day passes in 86 seconds.
/// struct Fast;
///
/// #[async_trait::async_trait]
/// impl Clock for Fast {
///     fn now(&self) -> SystemTime {
///         SystemTime::now()
///     }
///
///     async fn sleep(&self, time: Duration) {
///         tokio::time::sleep(time / 1_000).await;
///     }
/// }
///
/// let config = Config::new("https://sync.example.com", || async { Ok("a token".to_owned()) }).clock(Fast);
/// # drop(config);
/// ```
#[async_trait]
pub trait Clock: Send + Sync {
    /// The time now. It only has to be later than it was when the app was installed.
    fn now(&self) -> SystemTime;

    /// Comes back after so long.
    async fn sleep(&self, time: Duration);
}

/// The system's time.
pub(crate) struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that is passed in")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}
