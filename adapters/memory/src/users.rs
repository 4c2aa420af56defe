//! The users, in memory.

use std::collections::BTreeSet;

use async_trait::async_trait;
use outrigger_application::ports::contacts::{ContactStore, SourceRecord};
use outrigger_application::ports::store::StoreError;
use outrigger_application::ports::users::{DeviceRecord, UserRecord, UserStore};
use outrigger_domain::{Epoch, ServerSeq, SourceId, UserId};
use uuid::Uuid;

use crate::{MemoryStore, State};

impl State {
    fn record(&self, user: &UserId) -> Option<UserRecord> {
        let stream = self.users.get(user);
        let devices = self.sources.iter().filter(|((of, _), _)| of == user).map(|(_, source)| source);
        let contacts: Vec<_> = devices.filter_map(|source| source.last_contact).collect();
        let is_kept = stream.is_some_and(|stream| !stream.log.is_empty() || !stream.rows.is_empty());
        (is_kept || !contacts.is_empty()).then(|| UserRecord {
            user: user.clone(),
            head: stream.map_or(ServerSeq(0), |stream| stream.last),
            devices: contacts.len() as u64,
            last_contact: contacts.into_iter().max(),
            failures: stream.map_or(0, |stream| stream.failures.len() as u64),
        })
    }
}

#[async_trait]
impl UserStore for MemoryStore {
    async fn user(&self, user: &UserId) -> Result<Option<UserRecord>, StoreError> {
        Ok(self.state().record(user))
    }

    async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserRecord>, StoreError> {
        let state = self.state();
        let of_devices = state.sources.keys().map(|(user, _)| user);
        let known: BTreeSet<&UserId> = state.users.keys().chain(of_devices).collect();
        let behind = known.into_iter().filter(|user| after.is_none_or(|after| *user > after));
        Ok(behind.filter_map(|user| state.record(user)).take(limit as usize).collect())
    }

    async fn devices(
        &self,
        user: Option<&UserId>,
        after: Option<&(UserId, SourceId)>,
        limit: u32,
    ) -> Result<Vec<DeviceRecord>, StoreError> {
        let mut keys: Vec<(UserId, SourceId)> = self.state().sources.keys().cloned().collect();
        keys.sort();
        keys.retain(|key| user.is_none_or(|user| key.0 == *user) && after.is_none_or(|after| key > after));
        let mut devices = Vec::new();
        for (user, source) in keys {
            let known = self.source(&user, &source).await?;
            let SourceRecord { first_contact: Some(first_contact), last_contact: Some(last_contact), .. } = known
            else {
                continue;
            };
            let head = Self::stream(&self.state(), &user).1.seq;
            let (cursor, highest_source_change_id) = (known.cursor, known.highest_source_change_id);
            devices.push(DeviceRecord {
                user,
                source,
                first_contact,
                last_contact,
                cursor,
                head,
                highest_source_change_id,
            });
        }
        devices.truncate(limit as usize);
        Ok(devices)
    }

    async fn begin_anew(&self, user: &UserId) -> Result<Option<Epoch>, StoreError> {
        let mut state = self.state();
        let Some(stream) = state.users.get_mut(user) else { return Ok(None) };
        stream.epoch = Some(Epoch(Uuid::new_v4()));
        Ok(stream.epoch)
    }

    async fn forget_devices(&self, user: &UserId) -> Result<(), StoreError> {
        self.state().sources.retain(|(of, _), _| of != user);
        Ok(())
    }
}
