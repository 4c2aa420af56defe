//! How much one user, one address and all of them together may ask for.
//!
//! Whoever has shown good credentials is counted as a user, wherever the requests come from: an address may be that of a
//! whole company. Whoever has not is counted by address. What is kept of them has bounds itself.

mod rates;
mod slots;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use outrigger_application::measures::LIMITED;
use outrigger_domain::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::rates::Rates;
pub(crate) use self::slots::Slot;
use self::slots::Slots;
use crate::error::{ApiError, ErrorKind};

/// Seconds after which a request that found the server full may come again: at random, so that not all come at once.
const FULL_RETRY_S: std::ops::RangeInclusive<u64> = 1..=5;
/// Seconds after which a user's request may come again that found too many others of the user.
const USER_RETRY_S: u64 = 1;

/// So many requests a second, and so many at once of one who has been quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second in the long run, from 1 to a million.
    pub per_s: u32,
    /// Requests at once, 1 or more.
    pub burst: u32,
}

/// The bounds. The default is that there are none.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests of one user.
    pub user_rate: Option<Rate>,
    /// Requests without good credentials from one address; of IPv6, from one network of 64 bits.
    pub address_rate: Option<Rate>,
    /// Requests that are being answered. Those that wait for changes are none of them.
    pub requests: usize,
    /// Requests of one user that are being answered, until the last byte of the answer is sent.
    pub user_requests: usize,
    /// Uploads of one user that are being answered.
    pub user_uploads: usize,
    /// Requests that wait for changes: event streams and held downloads.
    pub watchers: usize,
    /// Those of one user.
    pub user_watchers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let none = usize::MAX;
        Self {
            user_rate: None,
            address_rate: None,
            requests: none,
            user_requests: none,
            user_uploads: none,
            watchers: none,
            user_watchers: none,
        }
    }
}

/// Counts, and refuses what goes beyond the bounds. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Limiter(Arc<Counts>);

struct Counts {
    users: Option<Rates<UserId>>,
    addresses: Option<Rates<IpAddr>>,
    requests: Arc<Semaphore>,
    user_requests: Slots,
    user_uploads: Slots,
    watchers: Arc<Semaphore>,
    user_watchers: Slots,
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

/// A request that waits for changes, for as long as this is there.
pub(crate) struct WatcherSlot {
    _of_user: Slot,
    _of_all: OwnedSemaphorePermit,
}

impl Limiter {
    /// Counts from zero.
    pub fn new(limits: &Limits) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Counts {
            users: limits.user_rate.map(Rates::new),
            addresses: limits.address_rate.map(Rates::new),
            requests: semaphore(limits.requests),
            user_requests: Slots::new(limits.user_requests),
            user_uploads: Slots::new(limits.user_uploads),
            watchers: semaphore(limits.watchers),
            user_watchers: Slots::new(limits.user_watchers),
        }))
    }

    /// Counts a request of that user.
    pub(crate) fn user(&self, user: &UserId) -> Result<(), ApiError> {
        match self.0.users.as_ref().and_then(|users| users.check(user).err()) {
            Some(wait) => Err(limited("user_rate", "too many requests of this user", seconds(wait))),
            None => Ok(()),
        }
    }

    /// Counts a request without good credentials, if it is known where it came from.
    pub(crate) fn address(&self, address: Option<IpAddr>) -> Result<(), ApiError> {
        let network = address.map(network);
        let wait = self.0.addresses.as_ref().zip(network).and_then(|(rates, network)| rates.check(&network).err());
        match wait {
            Some(wait) => {
                Err(limited("address_rate", "too many requests without good credentials from here", seconds(wait)))
            }
            None => Ok(()),
        }
    }

    /// A place for a request, for as long as it is being answered.
    pub(crate) fn request(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.0.requests).try_acquire_owned().map_err(|_| full("requests"))
    }

    /// A place for a request of that user.
    pub(crate) fn user_request(&self, user: &UserId) -> Result<Slot, ApiError> {
        let refused = || limited("user_requests", "too many requests of this user at once", USER_RETRY_S);
        self.0.user_requests.enter(user).ok_or_else(refused)
    }

    /// A place for an upload of that user.
    pub(crate) fn upload(&self, user: &UserId) -> Result<Slot, ApiError> {
        let refused = || limited("user_uploads", "too many uploads of this user at once", USER_RETRY_S);
        self.0.user_uploads.enter(user).ok_or_else(refused)
    }

    /// A place for a request of that user that waits for changes.
    pub(crate) fn watcher(&self, user: &UserId) -> Result<WatcherSlot, ApiError> {
        let refused = || limited("user_watchers", "too many devices of this user wait for changes", USER_RETRY_S);
        let of_user = self.0.user_watchers.enter(user).ok_or_else(refused)?;
        let of_all = Arc::clone(&self.0.watchers).try_acquire_owned().map_err(|_| full("watchers"))?;
        Ok(WatcherSlot { _of_user: of_user, _of_all: of_all })
    }
}

/// What is counted as one address. Whoever has one address of IPv6 has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn limited(limit: &'static str, message: &'static str, retry_after_s: u64) -> ApiError {
    counter!(LIMITED, "limit" => limit).increment(1);
    ApiError::client(ErrorKind::RateLimited, message).after(retry_after_s)
}

fn full(limit: &'static str) -> ApiError {
    counter!(LIMITED, "limit" => limit).increment(1);
    ApiError::client(ErrorKind::Unavailable, "the server has too much to do; try again")
        .after(fastrand::u64(FULL_RETRY_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_stands_for_its_network() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(network(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap(), "{address}");
        }
    }

    #[test]
    fn a_place_is_free_again_when_its_request_is_gone() {
        let limiter = Limiter::new(&Limits { requests: 1, watchers: 2, user_watchers: 1, ..Limits::default() });
        let place = limiter.request();
        assert!(place.is_ok() && limiter.request().is_err());
        drop(place);
        assert!(limiter.request().is_ok());

        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| UserId::parse(user).unwrap());
        let first = limiter.watcher(&alice).ok().unwrap();
        assert!(limiter.watcher(&alice).is_err(), "one for each user");
        let _second = limiter.watcher(&bob).ok().unwrap();
        assert!(limiter.watcher(&carol).is_err(), "two in all");
        drop(first);
        assert!(limiter.watcher(&carol).is_ok());
    }
}
