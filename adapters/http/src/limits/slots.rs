//! What each user does at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outrigger_domain::UserId;

/// Counts by user. Who does nothing has no entry.
#[derive(Clone)]
pub(super) struct Slots {
    taken: Arc<Mutex<HashMap<UserId, usize>>>,
    max: usize,
}

impl Slots {
    pub(super) fn new(max: usize) -> Self {
        Self { taken: Arc::default(), max }
    }

    /// One more of that user, unless there are too many.
    pub(super) fn enter(&self, user: &UserId) -> Option<Slot> {
        let mut taken = self.taken();
        match taken.get_mut(user) {
            Some(number) if *number >= self.max => return None,
            Some(number) => *number += 1,
            None => {
                taken.insert(user.clone(), 1);
            }
        }
        Some(Slot { slots: self.clone(), user: user.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<UserId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a user's places, until it is dropped.
pub(crate) struct Slot {
    slots: Slots,
    user: UserId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        match taken.get_mut(&self.user) {
            Some(number) if *number > 1 => *number -= 1,
            _ => {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_a_place_is_not_kept() {
        let slots = Slots::new(2);
        let [alice, bob] = ["alice", "bob"].map(|user| UserId::parse(user).unwrap());
        let both = [slots.enter(&alice), slots.enter(&alice)];
        assert!(both.iter().all(Option::is_some) && slots.enter(&alice).is_none());
        assert!(slots.enter(&bob).is_some(), "another user has places of its own");
        let [one, two] = both;
        drop(one);
        assert!(slots.enter(&alice).is_some());
        drop(two);
        assert!(slots.taken().is_empty());
    }
}
