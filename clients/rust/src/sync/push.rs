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
use crate::wire::{Change, Status, Upload, Uploaded};
use crate::{Error, state};

/// What an answer came to.
#[derive(Default)]
struct Settled {
    /// Whether the batch could not be smaller.
    is_alone: bool,
    /// The end of the stream behind the answer.
    at: i64,
    applied: usize,
    reused: bool,
    too_many: bool,
    events: Vec<Event>,
}

impl Syncer {
    /// Uploads what waits. Gives how many changes were applied.
    pub(super) async fn push(&self) -> Result<usize, Error> {
        let (mut applied, mut since_hold) = (0, 0);
        loop {
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
            applied += done;
            since_hold += done;
        }
    }

    async fn next_batch(&self) -> Result<Vec<Sent>, Error> {
        let (shapes, max) = (self.shapes.clone(), self.batch.load(Ordering::Relaxed));
        let (mut sent, aside) = self
            .database
            .transact(move |tx, stops| {
                let collected = outbox::collect(tx, &shapes, max)?;
                stops.at("collected")?;
                Ok(collected)
            })
            .await?;
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
        let (waiting, ready) = self.waiting().await?;
        if waiting == ready {
            return Ok(false);
        }
        self.database.transact(|tx, _| outbox::unhold(tx)).await?;
        Ok(true)
    }

    async fn upload(&self, sent: Vec<Sent>) -> Result<usize, Error> {
        let (cursor, epoch) = self.place().await?;
        let body = self.body(&sent, cursor, epoch.as_deref())?;
        self.database.stops().at("before upload")?;
        let answer = self.remote.post::<Uploaded>("/sync/upload", body).await?;
        self.database.stops().at("after upload")?;
        let uploaded = match answer {
            Answer::Good(uploaded) => uploaded,
            Answer::Reset => {
                self.restart().await?;
                return Ok(0);
            }
            Answer::TooLarge => return self.too_large(sent).await,
            Answer::Unknown => return Err(Error::Protocol("there is no /sync/upload".into())),
        };
        let count = sent.len();
        let settled = self.settle(sent, uploaded).await?;
        self.tell_all(settled.events);
        if settled.reused {
            self.renumber().await?;
        }
        if settled.too_many {
            self.batch.store((count / 2).max(1), Ordering::Relaxed);
        }
        let (waiting, _) = self.waiting().await?;
        self.tell(Event::Uploaded { applied: settled.applied, waiting });
        Ok(settled.applied)
    }

    fn body(&self, sent: &[Sent], cursor: i64, epoch: Option<&str>) -> Result<String, Error> {
        let changes = sent.iter().map(|sent| change(&self.shapes, sent)).collect();
        let upload = Upload { last_server_seq_seen: cursor, epoch, changes };
        serde_json::to_string(&upload).map_err(|error| Error::Protocol(error.to_string()))
    }

    async fn place(&self) -> Result<(i64, Option<String>), Error> {
        self.database
            .run(|connection| {
                Ok((state::get(connection, state::CURSOR)?.unwrap_or(0), state::get(connection, state::EPOCH)?))
            })
            .await
    }

    /// One change alone that is too large can never be uploaded.
    async fn too_large(&self, sent: Vec<Sent>) -> Result<usize, Error> {
        if sent.len() > 1 {
            let bytes: usize = sent.iter().map(size).sum();
            self.batch_bytes.store(bytes / 2, Ordering::Relaxed);
            return Ok(0);
        }
        let shapes = self.shapes.clone();
        let aside = self
            .database
            .transact(move |tx, _| {
                let refused = |sent: &Sent| {
                    let why = ("payload_too_large", "the row is larger than the server takes");
                    outbox::refused(tx, &shapes[sent.shape], sent, why)
                };
                sent.iter().map(refused).collect::<Result<Vec<Option<Aside>>, Error>>()
            })
            .await?;
        self.tell_all(aside.into_iter().flatten().map(set_aside).collect());
        Ok(0)
    }

    /// Numbers that the server knows of others of this source's changes are not used again.
    async fn renumber(&self) -> Result<(), Error> {
        let highest = self.highest_number().await?;
        self.database.transact(move |tx, _| state::number_above(tx, highest)).await
    }

    async fn settle(&self, sent: Vec<Sent>, uploaded: Uploaded) -> Result<Settled, Error> {
        if uploaded.statuses.len() != sent.len() {
            let (asked, answered) = (sent.len(), uploaded.statuses.len());
            return Err(Error::Protocol(format!("{answered} statuses for {asked} changes")));
        }
        let (shapes, conflicts) = (self.shapes.clone(), self.config.conflicts.clone());
        let settle = move |tx: &rusqlite::Transaction<'_>, stops: &crate::database::Stops| {
            let mut applier = Applier::new(tx, &shapes, &conflicts)?;
            let mut settled =
                Settled { is_alone: sent.len() == 1, at: uploaded.highest_server_seq, ..Settled::default() };
            for (sent, status) in sent.iter().zip(&uploaded.statuses) {
                if sent.id != status.source_change_id {
                    return Err(Error::Protocol("a status of another change".into()));
                }
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
    match (&*status.status, &status.server_row, &status.invalid) {
        ("applied", ..) => {
            outbox::applied(tx, shape, sent, (status.new_server_version, settled.at))?;
            settled.applied += 1;
        }
        ("conflict", Some(row), _) => {
            let key = key_from_text(&sent.pk, &shape.pk).map_err(Error::Protocol)?;
            let (pk, version, image) = (sent.pk.clone(), row.server_version, row.payload.clone());
            let remote = Remote { pk, version, image, at: settled.at };
            applier.resolve(shape, &key, &remote)?;
        }
        ("invalid", _, Some(invalid)) => {
            settled.reused |= invalid.reason == "source_change_id_reused";
            if invalid.reason == "batch_too_large" && !settled.is_alone {
                settled.too_many = true;
                let key = key_from_text(&sent.pk, &shape.pk).map_err(Error::Protocol)?;
                outbox::release(tx, shape, &key, false)?;
                return Ok(());
            }
            let message = status.message.as_deref().unwrap_or_default();
            let aside = outbox::refused(tx, shape, sent, (&invalid.reason, message))?;
            settled.events.extend(aside.map(set_aside));
        }
        (other, ..) => return Err(Error::Protocol(format!("a status {other:?}"))),
    }
    Ok(())
}

fn set_aside(aside: Aside) -> Event {
    Event::SetAside { table: aside.table, pk: aside.pk, reason: aside.reason }
}
