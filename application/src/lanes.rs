//! One queue per user, worked off by one task at a time.
//!
//! Uploads of one user are serial by the protocol. Instead of letting them race for the stream's end, the first
//! one starts a worker, and those that arrive while it is writing wait in the lane and are written together
//! next: a busy user costs one commit per round, not per request.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use outrigger_domain::UserId;

/// Jobs that wait in the lane of one user, at the most.
pub(crate) const WAITING_JOBS_MAX: usize = 1_000;
/// Bytes that wait in all lanes together, at the most, but for one job.
pub(crate) const WAITING_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a job weighs.
pub(crate) trait Weight {
    /// Changes it holds.
    fn changes(&self) -> usize;
    /// Bytes it holds.
    fn bytes(&self) -> usize;
    /// Whether nobody waits for its answer any more.
    fn is_abandoned(&self) -> bool;
}

/// What is taken from a lane at once, at the most, but for one job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Changes of all jobs.
    pub(crate) changes: usize,
    /// Bytes of all jobs.
    pub(crate) bytes: usize,
}

/// What a lane says to a new job.
#[derive(Debug, PartialEq)]
pub(crate) enum Joined {
    /// No worker is running: the caller starts one with [`Lanes::take`].
    StartWorker,
    /// The running worker will take the job.
    Waiting,
    /// The lane is full, or all lanes together hold too much.
    Full,
}

/// The lanes of all users that have one now.
pub(crate) struct Lanes<J> {
    waiting: Mutex<Waiting<J>>,
}

struct Waiting<J> {
    lanes: HashMap<UserId, VecDeque<J>>,
    bytes: usize,
}

impl<J> Default for Lanes<J> {
    fn default() -> Self {
        Self { waiting: Mutex::new(Waiting { lanes: HashMap::new(), bytes: 0 }) }
    }
}

impl<J: Weight> Lanes<J> {
    /// Puts a job into the user's lane.
    pub(crate) fn join(&self, user: &UserId, job: J) -> Joined {
        let mut waiting = self.lock();
        let bytes = job.bytes();
        if waiting.bytes > 0 && waiting.bytes + bytes > WAITING_BYTES_MAX {
            return Joined::Full;
        }
        let joined = match waiting.lanes.get_mut(user) {
            Some(lane) if lane.len() >= WAITING_JOBS_MAX => return Joined::Full,
            Some(lane) => {
                lane.push_back(job);
                Joined::Waiting
            }
            None => {
                waiting.lanes.insert(user.clone(), VecDeque::from([job]));
                Joined::StartWorker
            }
        };
        waiting.bytes += bytes;
        joined
    }

    /// The first waiting jobs that keep to the budget, but at least one. Those that were abandoned are dropped:
    /// nobody was told anything of them. None closes the lane: its worker has to stop.
    pub(crate) fn take(&self, user: &UserId, budget: Budget) -> Option<Vec<J>> {
        let mut waiting = self.lock();
        let Waiting { lanes, bytes: all_bytes } = &mut *waiting;
        let lane = lanes.get_mut(user)?;
        let (mut taken, mut changes, mut bytes) = (Vec::new(), 0, 0);
        while let Some(job) = lane.front() {
            if !job.is_abandoned() {
                (changes, bytes) = (changes + job.changes(), bytes + job.bytes());
                if !taken.is_empty() && (changes > budget.changes || bytes > budget.bytes) {
                    break;
                }
            }
            *all_bytes -= job.bytes();
            taken.extend(lane.pop_front().filter(|job| !job.is_abandoned()));
        }
        if taken.is_empty() {
            lanes.remove(user);
            return None;
        }
        Some(taken)
    }

    /// Closes the lane and drops its jobs.
    pub(crate) fn close(&self, user: &UserId) {
        let mut waiting = self.lock();
        let dropped = waiting.lanes.remove(user).unwrap_or_default();
        waiting.bytes -= dropped.iter().map(Weight::bytes).sum::<usize>();
    }

    /// How many jobs wait in the user's lane.
    #[cfg(test)]
    pub(crate) fn waiting(&self, user: &UserId) -> usize {
        self.lock().lanes.get(user).map_or(0, VecDeque::len)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<J>> {
        // No code that can panic runs under the lock, so what it holds is whole even if it is poisoned.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (name, changes, bytes, abandoned)
    #[derive(Debug, PartialEq)]
    struct Job(u32, usize, usize, bool);

    impl Weight for Job {
        fn changes(&self) -> usize {
            self.1
        }

        fn bytes(&self) -> usize {
            self.2
        }

        fn is_abandoned(&self) -> bool {
            self.3
        }
    }

    const BUDGET: Budget = Budget { changes: 7, bytes: 1_000 };

    fn user() -> UserId {
        UserId::parse("alice").unwrap()
    }

    /// The names of the jobs of each round.
    fn rounds(lanes: &Lanes<Job>) -> Vec<Vec<u32>> {
        let round = || lanes.take(&user(), BUDGET).map(|jobs| jobs.into_iter().map(|job| job.0).collect());
        std::iter::from_fn(round).collect()
    }

    #[test]
    fn the_first_job_starts_the_worker_and_the_last_one_ends_it() {
        let lanes = Lanes::default();
        assert_eq!(lanes.join(&user(), Job(1, 1, 1, false)), Joined::StartWorker);
        assert_eq!(lanes.join(&user(), Job(2, 1, 1, false)), Joined::Waiting);
        assert_eq!(lanes.take(&user(), BUDGET).map(|jobs| jobs.len()), Some(2));
        assert_eq!(lanes.join(&user(), Job(3, 1, 1, false)), Joined::Waiting);
        assert_eq!(rounds(&lanes), [[3]]);
        assert_eq!(lanes.join(&user(), Job(4, 1, 1, false)), Joined::StartWorker);
    }

    #[test]
    fn a_round_keeps_to_its_budget_but_takes_one_job_at_least() {
        let lanes = Lanes::default();
        for (name, changes, bytes) in
            [(1, 50, 1), (2, 3, 1), (3, 3, 1), (4, 3, 1), (5, 1, 2_000), (6, 1, 999), (7, 1, 2)]
        {
            lanes.join(&user(), Job(name, changes, bytes, false));
        }
        assert_eq!(rounds(&lanes), [vec![1], vec![2, 3], vec![4], vec![5], vec![6], vec![7]]);
    }

    #[test]
    fn an_abandoned_job_is_dropped() {
        let lanes = Lanes::default();
        for (name, abandoned) in [(1, true), (2, false), (3, true), (4, false), (5, true)] {
            lanes.join(&user(), Job(name, 1, 1, abandoned));
        }
        assert_eq!(rounds(&lanes), [[2, 4]]);
        lanes.join(&user(), Job(6, 1, 1, true));
        assert_eq!(lanes.take(&user(), BUDGET), None);
        assert_eq!(lanes.lock().bytes, 0);
    }

    #[test]
    fn a_lane_has_a_bound() {
        let lanes = Lanes::default();
        for name in 0..WAITING_JOBS_MAX {
            assert_ne!(lanes.join(&user(), Job(name as u32, 1, 1, false)), Joined::Full);
        }
        assert_eq!(lanes.join(&user(), Job(0, 1, 1, false)), Joined::Full);
        assert_eq!(lanes.join(&UserId::parse("bob").unwrap(), Job(0, 1, 1, false)), Joined::StartWorker);
    }

    #[test]
    fn all_lanes_together_have_a_bound_in_bytes() {
        let (lanes, bob) = (Lanes::default(), UserId::parse("bob").unwrap());
        assert_eq!(lanes.join(&user(), Job(1, 1, WAITING_BYTES_MAX + 1, false)), Joined::StartWorker);
        assert_eq!(lanes.join(&bob, Job(2, 1, 1, false)), Joined::Full);
        lanes.take(&user(), BUDGET);
        assert_eq!(lanes.join(&bob, Job(2, 1, 1, false)), Joined::StartWorker);
        lanes.close(&bob);
        assert_eq!(lanes.lock().bytes, 0);
    }
}
