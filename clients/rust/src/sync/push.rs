//! Up.

use std::sync::atomic::Ordering;

use super::Syncer;
use crate::apply::{Applier, Remote};
use crate::aside::Aside;
use crate::events::Event;
use crate::outbox::{self, Sent};
use crate::remote::Answer;
use crate::shape::Shape;
use crate::values::key_from_text;
use crate::waiting::{self, Waiting};
use crate::wire::{Change, Status, Upload, Uploaded};
use crate::{Error, state};

/// Uploads of which nothing is applied, one after the other: changes that conflict are decided and sent again, but not
/// for ever. Halving a batch until one change is left takes some too.
const IN_VAIN_MAX: usize = 60;

/// What an answer came to.
#[derive(Default)]
struct Settled {
    /// Whether the batch could not be smaller.
    is_alone: bool,
    /// The end of the stream behind the answer.
    at: i64,
    applied: usize,
    /// Changes that will not be sent again in this sync, though they were not applied.
    dropped: usize,
    reused: bool,
    too_many: bool,
    events: Vec<Event>,
}

impl Syncer {
    /// Uploads what waits. Gives how many changes were applied.
    pub(super) async fn push(&self) -> Result<usize, Error> {
        let (mut applied, mut since_hold, mut in_vain) = (0, 0, 0);
        while in_vain < IN_VAIN_MAX {
            let sent = self.next_batch().await?;
            if sent.is_empty() {
                // Parents have come, perhaps, of those that were held.
                if since_hold == 0 || !self.unhold().await? {
                    return Ok(applied);
                }
                since_hold = 0;
                continue;
            }
            let done = self.upload(sent).await?;
            applied += done.applied;
            since_hold += done.applied;
            in_vain = if done.applied + done.dropped > 0 { 0 } else { in_vain + 1 };
        }
        Err(Error::Protocol(format!("nothing of {IN_VAIN_MAX} uploads one after the other was applied")))
    }

    async fn next_batch(&self) -> Result<Vec<Sent>, Error> {
        let (shapes, max) = (self.shapes(), self.batch.load(Ordering::Relaxed));
        let (mut sent, aside) =
            self.database.transact(move |tx, stops| outbox::collect(tx, &shapes, max, stops)).await?;
        self.tell_all(aside.into_iter().map(set_aside).collect());
        let (mut bytes, max) = (0, self.batch_bytes.load(Ordering::Relaxed));
        let fit = sent.iter().take_while(|sent| {
            bytes += size(sent);
            bytes <= max
        });
        let fit = fit.count().max(1);
        sent.truncate(fit);
        Ok(sent)
    }

    async fn unhold(&self) -> Result<bool, Error> {
        let Waiting { waiting, ready, .. } = self.waiting().await?;
        if waiting == ready {
            return Ok(false);
        }
        self.database.transact(|tx, _| waiting::unhold(tx)).await?;
        Ok(true)
    }

    async fn upload(&self, sent: Vec<Sent>) -> Result<Settled, Error> {
        let (cursor, epoch, starts) = self.place().await?;
        let body = self.body(&sent, cursor, epoch.as_deref())?;
        self.database.stops().at("before upload")?;
        let answer = self.remote.post::<Uploaded>("/sync/upload", body).await?;
        self.database.stops().at("after upload")?;
        let uploaded = match answer {
            Answer::Good(uploaded) => uploaded,
            Answer::Reset => {
                self.restart().await?;
                return Ok(Settled::default());
            }
            Answer::TooLarge => return self.too_large(sent).await,
            Answer::Unknown => return Err(Error::Protocol("there is no /sync/upload".into())),
        };
        let count = sent.len();
        let mut settled = self.settle(sent, uploaded, starts).await?;
        self.tell_all(std::mem::take(&mut settled.events));
        if settled.reused {
            self.renumber().await?;
        }
        if settled.too_many {
            self.batch.store((count / 2).max(1), Ordering::Relaxed);
        }
        let waiting = self.waiting().await?.waiting;
        self.tell(Event::Uploaded { applied: settled.applied, waiting });
        Ok(settled)
    }

    fn body(&self, sent: &[Sent], cursor: i64, epoch: Option<&str>) -> Result<String, Error> {
        let shapes = self.shapes();
        let changes = sent.iter().map(|sent| change(&shapes, sent)).collect();
        let upload = Upload { last_server_seq_seen: cursor, epoch, changes };
        serde_json::to_string(&upload).map_err(|error| Error::Protocol(error.to_string()))
    }

    /// The cursor, its epoch, and how many starts it took.
    async fn place(&self) -> Result<(i64, Option<String>, i64), Error> {
        self.database
            .run(|connection| {
                let starts = state::started(connection)?;
                let cursor = state::get(connection, state::CURSOR)?.unwrap_or(0);
                Ok((cursor, state::get(connection, state::EPOCH)?, starts))
            })
            .await
    }

    /// One change alone that is too large can never be uploaded.
    async fn too_large(&self, sent: Vec<Sent>) -> Result<Settled, Error> {
        if sent.len() > 1 {
            let bytes: usize = sent.iter().map(size).sum();
            self.batch_bytes.store(bytes / 2, Ordering::Relaxed);
            return Ok(Settled::default());
        }
        let shapes = self.shapes();
        let aside = self
            .database
            .transact(move |tx, stops| {
                let refused = |sent: &Sent| {
                    let (shape, why) =
                        (&shapes[sent.shape], ("payload_too_large", "the row is larger than the server takes"));
                    let key = key_from_text(&sent.pk, &shape.pk).map_err(Error::Protocol)?;
                    if !outbox::is_asked(tx, shape, &key, sent)? {
                        return Ok(None);
                    }
                    stops.at("put aside")?;
                    outbox::refused(tx, shape, (&key, sent), why)
                };
                sent.iter().map(refused).collect::<Result<Vec<Option<Aside>>, Error>>()
            })
            .await?;
        self.tell_all(aside.into_iter().flatten().map(set_aside).collect());
        Ok(Settled { dropped: 1, ..Settled::default() })
    }

    async fn settle(&self, sent: Vec<Sent>, uploaded: Uploaded, starts: i64) -> Result<Settled, Error> {
        if uploaded.statuses.len() != sent.len() {
            let (asked, answered) = (sent.len(), uploaded.statuses.len());
            return Err(Error::Protocol(format!("{answered} statuses for {asked} changes")));
        }
        let (shapes, conflicts) = (self.shapes(), self.config.conflicts.clone());
        let settle = move |tx: &rusqlite::Transaction<'_>, stops: &crate::database::Stops| {
            // The rows that come with a start may be older than this answer, which is given again.
            state::check_started(tx, starts)?;
            let mut applier = Applier::new(tx, &shapes, &conflicts)?;
            let mut settled =
                Settled { is_alone: sent.len() == 1, at: uploaded.highest_server_seq, ..Settled::default() };
            for (sent, status) in sent.iter().zip(&uploaded.statuses) {
                status.check(sent.id, &sent.op)?;
                one(&mut applier, &mut settled, sent, status)?;
                stops.at("settled")?;
            }
            if let Some(epoch) = &uploaded.epoch
                && state::get::<String>(tx, state::EPOCH)?.is_none()
            {
                state::set(tx, state::EPOCH, epoch)?;
            }
            applier.finish()?;
            settled.events.append(&mut applier.events);
            Ok(settled)
        };
        self.database.transact(settle).await
    }
}

/// What a change weighs in a body, about.
fn size(sent: &Sent) -> usize {
    200 + sent.payload.as_ref().map_or(0, |payload| payload.get().len())
}

fn change<'a>(shapes: &'a [Shape], sent: &'a Sent) -> Change<'a> {
    let shape = &shapes[sent.shape];
    Change {
        source_change_id: sent.id,
        schema: &shape.schema,
        table: &shape.table,
        op: &sent.op,
        pk: &sent.pk,
        server_version: sent.version,
        payload: sent.payload.as_deref(),
    }
}

fn one(applier: &mut Applier<'_>, settled: &mut Settled, sent: &Sent, status: &Status) -> Result<(), Error> {
    let (tx, shape) = (applier.tx, &applier.shapes[sent.shape]);
    let key = key_from_text(&sent.pk, &shape.pk).map_err(Error::Protocol)?;
    if !outbox::is_asked(tx, shape, &key, sent)? {
        return Ok(());
    }
    match (&*status.status, &status.server_row, &status.invalid) {
        ("applied", ..) => {
            outbox::applied(tx, shape, (&key, sent), (status.new_server_version, settled.at))?;
            settled.applied += 1;
        }
        ("conflict", Some(row), _) => {
            // At the version that was named: the number is one of those that were forgotten.
            settled.reused |= row.server_version == sent.version;
            let (pk, version, payload) = (sent.pk.clone(), row.server_version, row.payload.clone());
            applier.resolve(shape, &key, &Remote { pk, version, payload, at: settled.at })?;
            settled.dropped += usize::from(outbox::entry(tx, shape, &key)?.is_none());
        }
        ("invalid", _, Some(invalid)) => {
            settled.reused |= invalid.reason == "source_change_id_reused";
            if invalid.reason == "batch_too_large" && !settled.is_alone {
                settled.too_many = true;
                return outbox::release(tx, shape, &key, false);
            }
            let message = status.message.as_deref().unwrap_or_default();
            let aside = outbox::refused(tx, shape, (&key, sent), (&invalid.reason, message))?;
            settled.dropped += usize::from(!outbox::is_ready(tx, shape, &key)?);
            settled.events.extend(aside.map(set_aside));
        }
        (other, ..) => return Err(Error::Protocol(format!("a status {other:?}"))),
    }
    Ok(())
}

fn set_aside(aside: Aside) -> Event {
    Event::SetAside { table: aside.table, pk: aside.pk, reason: aside.reason }
}
