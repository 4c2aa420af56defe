//! One queue per user, worked off by one task at a time.
//!
//! Uploads of one user are serial by the protocol. Instead of letting them race for the stream's end, the first
//! one starts a worker, and those that arrive while it is writing wait in the lane and are written together
//! next: a busy user costs one commit per round, not per request.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use outrigger_domain::UserId;

/// Jobs that wait for the lane of one user, at the most.
pub(crate) const WAITING_JOBS_MAX: usize = 1_000;

/// What a lane says to a new job.
#[derive(Debug, PartialEq)]
pub(crate) enum Joined {
    /// No worker is running: the caller starts one with [`Lanes::take`].
    StartWorker,
    /// The running worker will take the job.
    Waiting,
    /// The lane is full.
    Full,
}

/// The lanes of all users that have one now.
pub(crate) struct Lanes<J> {
    lanes: Mutex<HashMap<UserId, VecDeque<J>>>,
}

impl<J> Default for Lanes<J> {
    fn default() -> Self {
        Self { lanes: Mutex::default() }
    }
}

impl<J> Lanes<J> {
    /// Puts a job into the user's lane.
    pub(crate) fn join(&self, user: &UserId, job: J) -> Joined {
        let mut lanes = self.lock();
        match lanes.get_mut(user) {
            Some(lane) if lane.len() >= WAITING_JOBS_MAX => Joined::Full,
            Some(lane) => {
                lane.push_back(job);
                Joined::Waiting
            }
            None => {
                lanes.insert(user.clone(), VecDeque::from([job]));
                Joined::StartWorker
            }
        }
    }

    /// The first waiting jobs whose sizes add up to at most `budget`, but at least one.
    /// None closes the lane: its worker has to stop.
    pub(crate) fn take(&self, user: &UserId, budget: usize, size: impl Fn(&J) -> usize) -> Option<Vec<J>> {
        let mut lanes = self.lock();
        let lane = lanes.get_mut(user)?;
        let mut taken = Vec::new();
        let mut sum = 0;
        while let Some(job) = lane.front() {
            sum += size(job);
            if sum > budget && !taken.is_empty() {
                break;
            }
            taken.extend(lane.pop_front());
        }
        if taken.is_empty() {
            lanes.remove(user);
            return None;
        }
        Some(taken)
    }

    /// Closes the lane and drops its jobs.
    pub(crate) fn close(&self, user: &UserId) {
        self.lock().remove(user);
    }

    /// How many jobs wait in the user's lane.
    #[cfg(test)]
    pub(crate) fn waiting(&self, user: &UserId) -> usize {
        self.lock().get(user).map_or(0, VecDeque::len)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, VecDeque<J>>> {
        // No code that can panic runs under the lock, so the map is whole even if it is poisoned.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> UserId {
        UserId::parse("alice").unwrap()
    }

    #[test]
    fn the_first_job_starts_the_worker_and_the_last_one_ends_it() {
        let lanes = Lanes::default();
        assert_eq!(lanes.join(&user(), 1), Joined::StartWorker);
        assert_eq!(lanes.join(&user(), 2), Joined::Waiting);
        assert_eq!(lanes.take(&user(), 9, |_| 1), Some(vec![1, 2]));
        assert_eq!(lanes.join(&user(), 3), Joined::Waiting);
        assert_eq!(lanes.take(&user(), 9, |_| 1), Some(vec![3]));
        assert_eq!(lanes.take(&user(), 9, |_| 1), None);
        assert_eq!(lanes.join(&user(), 4), Joined::StartWorker);
    }

    #[test]
    fn a_round_keeps_to_its_budget_but_takes_one_job_at_least() {
        let lanes = Lanes::default();
        for size in [50, 3, 3, 3] {
            lanes.join(&user(), size);
        }
        let mut rounds = Vec::new();
        while let Some(round) = lanes.take(&user(), 7, |&size| size) {
            rounds.push(round);
        }
        assert_eq!(rounds, [vec![50], vec![3, 3], vec![3]]);
    }

    #[test]
    fn a_lane_has_a_bound() {
        let lanes = Lanes::default();
        for job in 0..WAITING_JOBS_MAX {
            assert_ne!(lanes.join(&user(), job), Joined::Full);
        }
        assert_eq!(lanes.join(&user(), 0), Joined::Full);
        assert_eq!(lanes.join(&UserId::parse("bob").unwrap(), 0), Joined::StartWorker);
    }
}
