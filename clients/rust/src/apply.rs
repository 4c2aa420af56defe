//! What comes down, applied.

mod unapplied;

use rusqlite::Connection;
use rusqlite::types::Value;
use serde_json::value::RawValue;

use crate::conflict::{Conflict, Conflicts, Image, Resolution, same};
use crate::events::{Decision, Event};
use crate::members::Members;
use crate::outbox::{self, Entry};
use crate::rows::{self, Known, Unwritten};
use crate::shape::Shape;
use crate::values::key_from_text;
use crate::{Error, extra};

/// A row as the server has it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) pk: String,
    pub(crate) version: i64,
    /// None if it was deleted.
    pub(crate) payload: Option<Box<RawValue>>,
    /// A place in the stream behind which nothing of the row is known yet; 0 if there is none.
    pub(crate) at: i64,
}

impl Remote {
    fn known(&self) -> Known {
        Known { version: self.version, deleted_at: self.payload.is_none().then_some(self.at) }
    }
}

/// Applies what the server has to one database, and notes what happened.
pub(crate) struct Applier<'a> {
    pub(crate) tx: &'a Connection,
    pub(crate) shapes: &'a [Shape],
    pub(crate) conflicts: &'a Conflicts,
    pub(crate) events: Vec<Event>,
    pub(crate) rows: usize,
    /// Whether there may be rows that did not fit, or have members that are no columns.
    has_unapplied: bool,
    has_extra: bool,
}

/// Which rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// All that the server has, once.
    Snapshot,
    /// All changes that ever were, or what is left of them: from an older server.
    History,
    /// What was changed since.
    News,
}

impl<'a> Applier<'a> {
    pub(crate) fn new(tx: &'a Connection, shapes: &'a [Shape], conflicts: &'a Conflicts) -> Result<Self, Error> {
        let has_unapplied = tx.prepare_cached("SELECT 1 FROM _outrigger_unapplied LIMIT 1")?.exists([])?;
        let has_extra = extra::is_any(tx)?;
        Ok(Self { tx, shapes, conflicts, events: Vec::new(), rows: 0, has_unapplied, has_extra })
    }

    /// To be called when all is applied.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        if self.has_unapplied {
            self.retry_unapplied()?;
        }
        Ok(rows::capture_all(self.tx)?)
    }

    /// Applies a row: of a stream only if it is newer than what is here.
    ///
    /// A row that was deleted and made again after the server had forgotten the deletion counts its versions from 1.
    pub(crate) fn apply(&mut self, shape: &Shape, remote: &Remote, rows: Rows) -> Result<(), Error> {
        if rows != Rows::Snapshot {
            let known = rows::known(self.tx, shape, &remote.pk)?;
            let is_made_again = known.deleted_at.is_some_and(|deleted_at| remote.at > deleted_at);
            let is_as_known = rows == Rows::History && known.version == remote.version;
            if known.version >= remote.version && !is_made_again && !is_as_known {
                return Ok(());
            }
        }
        self.put(shape, remote)
    }

    /// Applies a row, whatever is known of it.
    fn put(&mut self, shape: &Shape, remote: &Remote) -> Result<(), Error> {
        let key = key_from_text(&remote.pk, &shape.pk).map_err(Error::Protocol)?;
        let Some(entry) = outbox::entry(self.tx, shape, &key)? else {
            return self.write(shape, &key, remote);
        };
        let known = rows::known(self.tx, shape, &remote.pk)?;
        let is_as_known = (known.version, known.deleted_at.is_some()) == (remote.version, remote.payload.is_none());
        if is_as_known && self.waits_on(shape, (&key, entry), remote)? {
            self.forget_unapplied(shape, &remote.pk)?;
            return Ok(rows::set_seen(self.tx, shape, &remote.pk)?);
        }
        if entry.is_doubt {
            outbox::drop_entry(self.tx, shape, &key)?;
            return self.write(shape, &key, remote);
        }
        self.resolve(shape, &key, remote)
    }

    /// Whether the server's row, at the version that is known here, is what the row here is an edit of: then there is
    /// nothing to decide.
    fn waits_on(&self, shape: &Shape, (key, entry): (&Value, Entry), remote: &Remote) -> Result<bool, Error> {
        let image = self.local_form(shape, remote)?;
        if !entry.is_unsure {
            return Ok(same(rows::base(self.tx, shape, key)?.as_ref(), image.as_ref()));
        }
        let local = rows::image(self.tx, shape, key)?.transpose();
        if entry.is_doubt && local.is_ok_and(|local| local.is_none() || is_within(image.as_ref(), local.as_ref())) {
            return Ok(false);
        }
        rows::set_base(self.tx, shape, key, image.as_ref())?;
        outbox::make_sure(self.tx, shape, key)?;
        Ok(true)
    }

    /// Decides between the row here, which is edited, and the server's.
    pub(crate) fn resolve(&mut self, shape: &Shape, key: &Value, remote: &Remote) -> Result<(), Error> {
        let local = rows::image(self.tx, shape, key)?;
        let known = rows::known(self.tx, shape, &remote.pk)?;
        let is_known = known.version > 0 && known.deleted_at.is_none();
        let conflict = Conflict {
            table: shape.name.clone(),
            pk: remote.pk.clone(),
            base: if is_known { rows::base(self.tx, shape, key)? } else { None },
            local: local.clone().and_then(Result::ok),
            remote: self.local_form(shape, remote)?,
        };
        let decision = match self.conflicts.decide(&conflict) {
            Resolution::TakeRemote => {
                outbox::drop_entry(self.tx, shape, key)?;
                self.write(shape, key, remote)?;
                Decision::TookRemote
            }
            Resolution::KeepLocal => {
                self.rebase(shape, key, remote, conflict.remote.as_ref())?;
                Decision::KeptLocal
            }
            Resolution::Merge(image) => {
                match rows::write(self.tx, shape, key, Some(&Members::of_image(&image))) {
                    Ok(()) | Err(Unwritten::Unfit(_)) => {}
                    Err(Unwritten::Failed(error)) => return Err(error.into()),
                }
                self.rebase(shape, key, remote, conflict.remote.as_ref())?;
                Decision::Merged
            }
        };
        let (table, pk) = (shape.name.clone(), remote.pk.clone());
        self.events.push(Event::Conflict { table, pk, decision });
        Ok(())
    }

    /// The local row stands on top of the server's from now on.
    fn rebase(&mut self, shape: &Shape, key: &Value, remote: &Remote, image: Option<&Image>) -> Result<(), Error> {
        rows::set_known(self.tx, shape, &remote.pk, remote.known())?;
        rows::set_base(self.tx, shape, key, image)?;
        self.forget_unapplied(shape, &remote.pk)?;
        if let Some(payload) = &remote.payload {
            self.keep_extra(shape, &remote.pk, Some(&Members::of(payload)?))?;
        }
        outbox::make_sure(self.tx, shape, key)?;
        outbox::release(self.tx, shape, key, false)
    }

    fn local_form(&self, shape: &Shape, remote: &Remote) -> Result<Option<Image>, Error> {
        remote.payload.as_ref().map(|payload| Ok(Members::of(payload)?.image(shape))).transpose()
    }

    /// What the server's latest row has beyond this table's columns.
    fn keep_extra(&mut self, shape: &Shape, pk: &str, members: Option<&Members<'_>>) -> Result<(), Error> {
        match members {
            Some(members) if self.has_extra || members.has_unknown(shape) => {
                self.has_extra = true;
                extra::keep(self.tx, shape, pk, members)
            }
            None if self.has_extra => extra::forget(self.tx, shape, pk),
            _ => Ok(()),
        }
    }

    fn write(&mut self, shape: &Shape, key: &Value, remote: &Remote) -> Result<(), Error> {
        match self.try_write(shape, key, remote)? {
            None => Ok(()),
            Some(why) => self.keep_for_later(shape, remote, why),
        }
    }

    /// Writes a row, or says why it does not fit.
    fn try_write(&mut self, shape: &Shape, key: &Value, remote: &Remote) -> Result<Option<String>, Error> {
        let members = remote.payload.as_ref().map(|payload| Members::of(payload)).transpose()?;
        match rows::write(self.tx, shape, key, members.as_ref()) {
            Ok(()) => {
                self.rows += 1;
                self.keep_extra(shape, &remote.pk, members.as_ref())?;
                rows::set_known(self.tx, shape, &remote.pk, remote.known())?;
                self.forget_unapplied(shape, &remote.pk)?;
                Ok(None)
            }
            Err(Unwritten::Failed(error)) => Err(error.into()),
            Err(Unwritten::Unfit(why)) => Ok(Some(why)),
        }
    }
}

/// Whether the row here has all that the other has.
fn is_within(part: Option<&Image>, whole: Option<&Image>) -> bool {
    match (part, whole) {
        (Some(part), Some(whole)) => {
            part.iter().all(|(name, value)| whole.get(name).is_some_and(|of| of.get() == value.get()))
        }
        (part, whole) => part.is_none() && whole.is_none(),
    }
}
