//! What is known of the devices, in memory.

use async_trait::async_trait;
use outrigger_application::ports::contacts::{Contact, ContactStore, SourceRecord};
use outrigger_application::ports::store::StoreError;
use outrigger_domain::{SourceId, UserId};

use crate::MemoryStore;

#[async_trait]
impl ContactStore for MemoryStore {
    async fn note(&self, contacts: &[Contact]) -> Result<(), StoreError> {
        let mut state = self.state();
        for contact in contacts {
            let record = state.sources.entry((contact.user.clone(), contact.source.clone())).or_default();
            record.first_contact = record.first_contact.or(Some(contact.at));
            if record.last_contact <= Some(contact.at) {
                record.last_contact = Some(contact.at);
                record.cursor = contact.cursor.or(record.cursor);
            }
        }
        Ok(())
    }

    async fn source(&self, user: &UserId, source: &SourceId) -> Result<SourceRecord, StoreError> {
        let state = self.state();
        let mut record = state.sources.get(&(user.clone(), source.clone())).cloned().unwrap_or_default();
        if let Some(stream) = state.users.get(user) {
            let of_source = |(of, id): &(SourceId, _)| (of == source).then_some(*id);
            let numbers = stream.keys.keys().chain(stream.remembered.keys()).filter_map(of_source);
            record.highest_source_change_id =
                numbers.chain(stream.forgotten.get(source).copied()).max().unwrap_or_default();
        }
        Ok(record)
    }
}
