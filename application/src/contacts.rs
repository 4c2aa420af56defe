//! Remembering the devices, at no cost to their requests.
//!
//! A contact is noted in memory and written some seconds later, each source once, however often it has been in touch.
//! What a process that dies had not written is lost, and so nothing may depend on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use outrigger_domain::{ServerSeq, SourceId, UserId};

use crate::Caller;
use crate::ports::clock::Clock;
use crate::ports::contacts::{Contact, ContactStore, SourceRecord};
use crate::ports::store::StoreError;

/// Sources that wait to be written, at the most. Beyond that contacts are dropped: the memory is worth more.
const WAITING_MAX: usize = 100_000;
/// Contacts that are written at once.
const BATCH: usize = 500;

type Waiting = HashMap<(UserId, SourceId), (Timestamp, Option<ServerSeq>)>;

/// The memory of devices. Cheap to clone.
#[derive(Clone)]
pub struct Contacts {
    store: Arc<dyn ContactStore>,
    clock: Arc<dyn Clock>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Contacts {
    /// Keeps contacts in this store.
    pub fn new(store: Arc<dyn ContactStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, waiting: Arc::default() }
    }

    /// Notes that the caller is in touch, with the cursor that it names.
    pub fn note(&self, caller: &Caller, cursor: Option<ServerSeq>) {
        let mut waiting = self.waiting();
        let key = (caller.user.clone(), caller.source.clone());
        let cursor = cursor.or_else(|| waiting.get(&key).and_then(|(_, cursor)| *cursor));
        if waiting.len() < WAITING_MAX || waiting.contains_key(&key) {
            waiting.insert(key, (self.clock.now(), cursor));
        }
    }

    /// What is known of the caller's source.
    pub async fn source(&self, caller: &Caller) -> Result<SourceRecord, StoreError> {
        let mut record = self.store.source(&caller.user, &caller.source).await?;
        if let Some(&(at, cursor)) = self.waiting().get(&(caller.user.clone(), caller.source.clone())) {
            record.first_contact = record.first_contact.or(Some(at));
            record.last_contact = record.last_contact.max(Some(at));
            record.cursor = cursor.or(record.cursor);
        }
        Ok(record)
    }

    /// Writes what waits. What cannot be written waits on, unless its source is in touch again.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let taken = std::mem::take(&mut *self.waiting());
        let contact = |((user, source), (at, cursor))| Contact { user, source, at, cursor };
        let contacts: Vec<Contact> = taken.into_iter().map(contact).collect();
        let mut batches = contacts.chunks(BATCH);
        while let Some(batch) = batches.next() {
            if let Err(error) = self.store.note(batch).await {
                let mut waiting = self.waiting();
                for Contact { user, source, at, cursor } in batch.iter().chain(batches.flatten()).cloned() {
                    waiting.entry((user, source)).or_insert((at, cursor));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes what waits, again and again.
    pub async fn follow(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            if let Err(error) = self.flush().await {
                tracing::debug!(%error, "contacts of devices cannot be written now");
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic runs under the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use outrigger_domain::SourceChangeId;

    use super::*;
    use crate::ports::clock::MockClock;
    use crate::ports::contacts::MockContactStore;

    fn caller(source: &str) -> Caller {
        let (user, source) = (UserId::parse("alice").unwrap(), SourceId::parse(source).unwrap());
        Caller { user, source, expires_at: Timestamp::MAX, is_admin: false }
    }

    fn contacts(store: MockContactStore) -> Contacts {
        let (mut clock, mut seconds) = (MockClock::new(), 0);
        clock.expect_now().returning(move || {
            seconds += 1;
            Timestamp::from_second(seconds).unwrap()
        });
        Contacts::new(Arc::new(store), Arc::new(clock))
    }

    #[tokio::test]
    async fn a_source_is_written_once_with_its_last_contact_and_cursor() {
        let mut store = MockContactStore::new();
        store.expect_note().once().returning(|contacts| {
            let [contact] = contacts else { panic!("{contacts:?}") };
            assert_eq!((contact.at.as_second(), contact.cursor), (3, Some(ServerSeq(7))));
            Ok(())
        });
        let contacts = contacts(store);
        contacts.note(&caller("phone"), Some(ServerSeq(5)));
        contacts.note(&caller("phone"), Some(ServerSeq(7)));
        contacts.note(&caller("phone"), None);
        contacts.flush().await.unwrap();
        contacts.flush().await.unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_written_waits() {
        let mut store = MockContactStore::new();
        let broken = || Err(StoreError::Unavailable("down".into()));
        store.expect_note().once().returning(move |_| broken());
        store.expect_note().once().returning(|contacts| {
            assert_eq!(contacts.len(), 2);
            Ok(())
        });
        let contacts = contacts(store);
        contacts.note(&caller("phone"), None);
        contacts.note(&caller("tablet"), None);
        contacts.flush().await.unwrap_err();
        contacts.flush().await.unwrap();
    }

    #[tokio::test]
    async fn a_contact_that_waits_is_told_already() {
        let mut store = MockContactStore::new();
        store.expect_source().returning(|_, _| {
            Ok(SourceRecord { highest_source_change_id: SourceChangeId(9), ..SourceRecord::default() })
        });
        let contacts = contacts(store);
        contacts.note(&caller("phone"), Some(ServerSeq(7)));
        let record = contacts.source(&caller("phone")).await.unwrap();
        assert_eq!(record.first_contact, record.last_contact);
        assert_eq!((record.cursor, record.highest_source_change_id), (Some(ServerSeq(7)), SourceChangeId(9)));
        assert_eq!(contacts.source(&caller("tablet")).await.unwrap().last_contact, None);
    }
}
