//! Clearing streams of what nobody needs any more.

use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use outrigger_domain::retention::Cutoffs;
use outrigger_domain::{ServerSeq, UserId};

use crate::measures;
use crate::ports::clock::Clock;
use crate::ports::retention::RetentionStore;
use crate::ports::store::StoreError;

/// Users that are taken at once.
const USERS: u32 = 20;
/// Keys that are forgotten at once.
const KEYS: u32 = 500;
/// Times that a step is taken again because an upload came in between. After that the user waits for the next sweep.
const ATTEMPTS_MAX: u32 = 20;

/// How long what is kept is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionAges {
    /// An entry that a later change of its row supersedes.
    pub superseded: Duration,
    /// A deletion, and all that is known of its row.
    pub tombstones: Duration,
    /// The key of an entry that is gone.
    pub keys: Duration,
}

/// What was cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Streams that were swept.
    pub users: u64,
    /// Entries that later ones superseded.
    pub superseded: u64,
    /// Deletions.
    pub tombstones: u64,
    /// Keys of entries that went before.
    pub keys: u64,
    /// Streams that could not be swept to their end, for what is said in the log.
    pub failed: u64,
}

impl AddAssign for Report {
    fn add_assign(&mut self, more: Self) {
        self.users += more.users;
        self.superseded += more.superseded;
        self.tombstones += more.tombstones;
        self.keys += more.keys;
        self.failed += more.failed;
    }
}

/// Sweeps streams. Cheap to clone.
#[derive(Clone)]
pub struct Retention {
    store: Arc<dyn RetentionStore>,
    clock: Arc<dyn Clock>,
    ages: RetentionAges,
    /// Between two steps, so that what runs in the background leaves room for what somebody waits for.
    pause: Duration,
}

impl Retention {
    /// Keeps what this store holds as long as that.
    pub fn new(store: Arc<dyn RetentionStore>, clock: Arc<dyn Clock>, ages: RetentionAges, pause: Duration) -> Self {
        Self { store, clock, ages, pause }
    }

    /// Sweeps every stream that was not swept for `since`, and tells how far it has come after each.
    pub async fn sweep(&self, since: Duration, mut progress: impl FnMut(&Report)) -> Result<Report, StoreError> {
        let (mut report, mut after) = (Report::default(), None);
        let now = self.clock.now();
        loop {
            let users = self.store.take_due(after.as_ref(), before(now, since), now, USERS).await?;
            for user in &users {
                match self.sweep_user(user).await {
                    Ok(swept) => report += swept,
                    Err(error @ StoreError::Unavailable(_)) => return Err(error),
                    // One stream that is damaged does not keep those behind it from being swept.
                    Err(error) => {
                        tracing::error!(%error, user.id = user.as_str(), "a stream cannot be swept");
                        report.failed += 1;
                    }
                }
                progress(&report);
            }
            after = users.last().cloned();
            if (users.len() as u32) < USERS {
                return Ok(report);
            }
        }
    }

    /// Sweeps one stream.
    pub async fn sweep_user(&self, user: &UserId) -> Result<Report, StoreError> {
        let now = self.clock.now();
        let cutoffs = Cutoffs::new(before(now, self.ages.superseded), before(now, self.ages.tombstones));
        let mut report = Report { users: 1, ..Report::default() };
        let (mut from, mut left) = (ServerSeq(0), false);
        let mut attempts = 0;
        let head = loop {
            let step = match self.store.prune(user, cutoffs, from, now).await {
                Err(StoreError::Contention) if attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                    continue;
                }
                Err(StoreError::Contention) => return Ok(report),
                step => step?,
            };
            attempts = 0;
            measures::cleared(step.superseded, step.tombstones, 0);
            report.superseded += step.superseded;
            report.tombstones += step.tombstones;
            // A step that pruned deletions has moved the end of the stream itself: then the next sweep looks again.
            left |= step.left || step.tombstones > 0;
            match step.next {
                Some(next) => from = next,
                None => break step.head,
            }
            self.rest().await;
        };
        loop {
            let (forgotten, keys_left) = self.store.forget_keys(user, before(now, self.ages.keys), KEYS).await?;
            measures::cleared(0, 0, forgotten);
            report.keys += forgotten;
            if forgotten < u64::from(KEYS) {
                left |= keys_left;
                break;
            }
            self.rest().await;
        }
        if !left {
            self.store.mark_clean(user, head).await?;
        }
        Ok(report)
    }

    /// Sweeps each stream once in that time, and looks again and again which are due.
    pub async fn follow(&self, every: Duration, look_every: Duration) {
        loop {
            tokio::time::sleep(look_every).await;
            match self.sweep(every, |_| {}).await {
                Ok(Report { superseded: 0, tombstones: 0, keys: 0, .. }) => {}
                Ok(Report { users, superseded, tombstones, keys, failed }) => {
                    tracing::info!(users, superseded, tombstones, keys, failed, "cleared the log");
                }
                Err(error) => tracing::warn!(%error, "the log cannot be cleared now"),
            }
        }
    }

    async fn rest(&self) {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
    }
}

/// That long before now, or the beginning of time.
fn before(now: Timestamp, age: Duration) -> Timestamp {
    let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
    now.checked_sub(age).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use mockall::Sequence;

    use super::*;
    use crate::ports::clock::MockClock;
    use crate::ports::retention::{MockRetentionStore, PruneStep};

    const DAY: Duration = Duration::from_secs(86_400);

    fn user() -> UserId {
        UserId::parse("alice").unwrap()
    }

    fn retention(store: MockRetentionStore) -> Retention {
        let mut clock = MockClock::new();
        clock.expect_now().returning(|| Timestamp::from_second(1_000 * 86_400).unwrap());
        let ages = RetentionAges { superseded: 7 * DAY, tombstones: 90 * DAY, keys: 30 * DAY };
        Retention::new(Arc::new(store), Arc::new(clock), ages, Duration::ZERO)
    }

    fn day(at: Timestamp) -> i64 {
        at.as_second() / 86_400
    }

    #[tokio::test]
    async fn a_stream_is_swept_to_its_end_and_marked_clean() {
        let (mut store, mut order) = (MockRetentionStore::new(), Sequence::new());
        for (after, next) in [(0, Some(500)), (500, None)] {
            store.expect_prune().once().in_sequence(&mut order).returning(move |_, cutoffs, from, _| {
                assert_eq!((from.0, day(cutoffs.superseded), day(cutoffs.tombstones)), (after, 993, 910));
                Ok(PruneStep { superseded: 3, next: next.map(ServerSeq), head: ServerSeq(600), ..PruneStep::default() })
            });
        }
        store.expect_forget_keys().once().returning(|_, before, _| {
            assert_eq!(day(before), 970);
            Ok((2, false))
        });
        store.expect_mark_clean().once().returning(|_, head| {
            assert_eq!(head.0, 600);
            Ok(())
        });
        let report = retention(store).sweep_user(&user()).await.unwrap();
        assert_eq!(report, Report { users: 1, superseded: 6, tombstones: 0, keys: 2, failed: 0 });
    }

    #[tokio::test]
    async fn a_damaged_stream_keeps_no_other_from_being_swept() {
        let broken = |user: &UserId| user.as_str() == "b";
        let mut store = MockRetentionStore::new();
        store
            .expect_take_due()
            .once()
            .returning(|_, _, _, _| Ok(["a", "b", "c"].map(|id| UserId::parse(id).unwrap()).into()));
        store.expect_prune().times(3).returning(move |user, _, _, _| match broken(user) {
            true => Err(StoreError::Corrupt { what: "an entry".into() }),
            false => Ok(PruneStep { superseded: 1, ..PruneStep::default() }),
        });
        store.expect_forget_keys().times(2).returning(|_, _, _| Ok((0, false)));
        store.expect_mark_clean().times(2).returning(|_, _| Ok(()));
        let report = retention(store).sweep(DAY, |_| {}).await.unwrap();
        assert_eq!((report.users, report.superseded, report.failed), (2, 2, 1));
    }

    #[tokio::test]
    async fn a_sweep_ends_when_the_storage_does_not_answer() {
        let mut store = MockRetentionStore::new();
        store.expect_take_due().once().returning(|_, _, _, _| Ok(vec![user(), user()]));
        store.expect_prune().once().returning(|_, _, _, _| Err(StoreError::Unavailable("down".into())));
        assert!(retention(store).sweep(DAY, |_| {}).await.is_err());
    }

    #[tokio::test]
    async fn what_is_left_keeps_a_stream_from_being_clean() {
        for (left, tombstones, keys_left) in [(true, 0, false), (false, 1, false), (false, 0, true)] {
            let mut store = MockRetentionStore::new();
            store
                .expect_prune()
                .returning(move |_, _, _, _| Ok(PruneStep { left, tombstones, ..PruneStep::default() }));
            store.expect_forget_keys().returning(move |_, _, _| Ok((0, keys_left)));
            store.expect_mark_clean().never();
            retention(store).sweep_user(&user()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_step_that_lost_to_an_upload_is_taken_again() {
        let mut store = MockRetentionStore::new();
        let mut losses = 3;
        store.expect_prune().times(4).returning(move |_, _, _, _| {
            losses -= 1;
            if losses >= 0 { Err(StoreError::Contention) } else { Ok(PruneStep { left: true, ..PruneStep::default() }) }
        });
        store.expect_forget_keys().once().returning(|_, _, _| Ok((0, false)));
        retention(store).sweep_user(&user()).await.unwrap();
    }

    #[tokio::test]
    async fn all_due_users_are_swept() {
        let mut store = MockRetentionStore::new();
        store.expect_take_due().times(2).returning(|after, before, at, limit| {
            assert_eq!((day(before), day(at)), (999, 1_000));
            let users =
                |range: std::ops::Range<u32>| range.map(|n| UserId::parse(&format!("{n:03}")).unwrap()).collect();
            Ok(if after.is_none() { users(0..limit) } else { users(limit..limit + 5) })
        });
        store.expect_prune().returning(|_, _, _, _| Ok(PruneStep::default()));
        store.expect_forget_keys().returning(|_, _, _| Ok((0, false)));
        store.expect_mark_clean().returning(|_, _| Ok(()));
        let mut told = 0;
        let report = retention(store).sweep(DAY, |_| told += 1).await.unwrap();
        assert_eq!((report.users, told), (u64::from(USERS) + 5, USERS + 5));
    }
}
