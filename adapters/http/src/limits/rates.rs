//! Rates by key, in bounded memory and on the runtime's clock.

use std::convert::Infallible;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::Rate;

/// Keys that are kept, at the most: some ten megabytes. Those that go first have not been seen for long, and are as those
/// that were never seen.
const KEYS_MAX: usize = 100_000;
/// The highest rate: one in a microsecond.
const PER_S_MAX: u32 = 1_000_000;

/// How often each key was seen.
pub(super) struct Rates<K: Clone + Eq + Hash>(RateLimiter<K, Bounded<K>, Runtime, NoOpMiddleware<Duration>>);

impl<K: Clone + Eq + Hash> Rates<K> {
    pub(super) fn new(rate: Rate) -> Self {
        let some = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(some(rate.per_s.min(PER_S_MAX))).allow_burst(some(rate.burst));
        Self(RateLimiter::new(quota, Bounded(Cache::new(KEYS_MAX)), Runtime(Instant::now())))
    }

    /// Counts the key once more, or says how long it has to wait.
    pub(super) fn check(&self, key: &K) -> Result<(), Duration> {
        self.0.check_key(key).map_err(|refused| refused.wait_time_from(self.0.clock().now()))
    }
}

/// States by key, of which the oldest go where there is no more room.
struct Bounded<K>(Cache<K, Arc<InMemoryState>>);

impl<K: Clone + Eq + Hash> StateStore for Bounded<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let Ok(state) = self.0.get_or_insert_with(key, || Ok::<_, Infallible>(Arc::default()));
        state.measure_and_replace(&NotKeyed::NonKey, decide)
    }
}

/// The clock of the runtime, which tests can move.
#[derive(Clone, Debug)]
struct Runtime(Instant);

impl Clock for Runtime {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_that_has_been_quiet_has_its_burst_and_then_its_rate() {
        let rates = Rates::new(Rate { per_s: 2, burst: 3 });
        let taken = |key: &'static str| std::iter::from_fn(|| rates.check(&key).ok()).take(10).count();
        assert_eq!((taken("alice"), taken("bob")), (3, 3));
        assert_eq!(rates.check(&"alice"), Err(Duration::from_millis(500)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken("alice"), 2);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(taken("alice"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_has_a_bound_and_those_who_ask_often_stay() {
        let rates = Rates::new(Rate { per_s: 1, burst: 1 });
        assert!(rates.check(&0).is_ok());
        for key in 1..=3 * KEYS_MAX {
            assert!(rates.check(&key).is_ok());
            assert!(rates.check(&0).is_err(), "forgotten after {key} others");
        }
        let kept = rates.0.into_state_store().0.len();
        assert!(kept <= KEYS_MAX, "{kept}");
    }
}
