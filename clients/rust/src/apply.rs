//! What comes down, applied.

use rusqlite::types::Value;
use rusqlite::{Connection, params};

use crate::conflict::{Conflict, Conflicts, Image, Resolution};
use crate::events::{Decision, Event};
use crate::rows::{self, Known, Unwritten};
use crate::shape::Shape;
use crate::values::key_from_text;
use crate::{Error, outbox};

/// Times that rows which wait for each other are tried without those that do not fit.
const TANGLES_MAX: usize = 16;

/// A row as the server has it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) pk: String,
    pub(crate) version: i64,
    /// None if it was deleted.
    pub(crate) image: Option<Image>,
    /// A place in the stream behind which nothing of the row is known yet; 0 if there is none.
    pub(crate) at: i64,
}

impl Remote {
    fn known(&self) -> Known {
        Known { version: self.version, deleted_at: self.image.is_none().then_some(self.at) }
    }
}

/// Applies what the server has to one database, and notes what happened.
pub(crate) struct Applier<'a> {
    pub(crate) tx: &'a Connection,
    pub(crate) shapes: &'a [Shape],
    pub(crate) conflicts: &'a Conflicts,
    pub(crate) events: Vec<Event>,
    pub(crate) rows: usize,
    /// Whether there may be rows that did not fit.
    has_unapplied: bool,
}

impl<'a> Applier<'a> {
    pub(crate) fn new(tx: &'a Connection, shapes: &'a [Shape], conflicts: &'a Conflicts) -> Result<Self, Error> {
        let has_unapplied = tx.prepare_cached("SELECT 1 FROM _outrigger_unapplied LIMIT 1")?.exists([])?;
        Ok(Self { tx, shapes, conflicts, events: Vec::new(), rows: 0, has_unapplied })
    }

    /// To be called when all is applied.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        if self.has_unapplied {
            self.retry_unapplied()?;
        }
        Ok(rows::capture_all(self.tx)?)
    }

    /// Applies a row of a stream: if it is newer than what is here.
    ///
    /// A row that was deleted and made again after the server had forgotten the deletion counts its versions from 1.
    pub(crate) fn newer(&mut self, shape: &Shape, remote: &Remote) -> Result<(), Error> {
        let known = rows::known(self.tx, shape, &remote.pk)?;
        let is_made_again = known.deleted_at.is_some_and(|deleted_at| remote.at > deleted_at);
        if known.version >= remote.version && !is_made_again {
            return Ok(());
        }
        self.put(shape, remote)
    }

    /// Applies a row, whatever is known of it.
    pub(crate) fn put(&mut self, shape: &Shape, remote: &Remote) -> Result<(), Error> {
        let key = key_from_text(&remote.pk, &shape.pk).map_err(Error::Protocol)?;
        if outbox::has_entry(self.tx, shape, &key)? {
            return self.resolve(shape, &key, remote);
        }
        self.write(shape, remote)
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
            remote: remote.image.as_ref().map(|image| self.local_form(shape, image)),
        };
        let decision = match self.conflicts.decide(&conflict) {
            Resolution::TakeRemote => {
                outbox::drop_entry(self.tx, shape, key)?;
                self.write(shape, remote)?;
                Decision::TookRemote
            }
            Resolution::KeepLocal => {
                self.rebase(shape, key, remote, conflict.remote.as_ref())?;
                Decision::KeptLocal
            }
            Resolution::Merge(image) => {
                match rows::write(self.tx, shape, &remote.pk, Some(&image)) {
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
    fn rebase(&self, shape: &Shape, key: &Value, remote: &Remote, image: Option<&Image>) -> Result<(), Error> {
        rows::set_known(self.tx, shape, &remote.pk, remote.known())?;
        rows::set_base(self.tx, shape, key, image)?;
        self.forget_unapplied(shape, &remote.pk)?;
        outbox::release(self.tx, shape, key, false).map(drop)
    }

    /// The image in the words that this device would use for it: only its own columns, numbers as SQLite keeps them.
    fn local_form(&self, shape: &Shape, image: &Image) -> Image {
        let column = |column: &crate::shape::Column| {
            let json = image.get(&column.name)?;
            let value = crate::values::from_json(json, column).ok()?;
            Some((column.name.clone(), crate::values::to_json((&value).into(), column).ok()?))
        };
        shape.columns.iter().filter_map(column).collect()
    }

    fn write(&mut self, shape: &Shape, remote: &Remote) -> Result<(), Error> {
        match self.try_write(shape, remote)? {
            None => Ok(()),
            Some(why) => self.keep_for_later(shape, remote, why),
        }
    }

    /// Writes a row, or says why it does not fit.
    fn try_write(&mut self, shape: &Shape, remote: &Remote) -> Result<Option<String>, Error> {
        match rows::write(self.tx, shape, &remote.pk, remote.image.as_ref()) {
            Ok(()) => {
                self.rows += 1;
                rows::set_known(self.tx, shape, &remote.pk, remote.known())?;
                self.forget_unapplied(shape, &remote.pk)?;
                Ok(None)
            }
            Err(Unwritten::Failed(error)) => Err(error.into()),
            Err(Unwritten::Unfit(why)) => Ok(Some(why)),
        }
    }

    fn forget_unapplied(&self, shape: &Shape, pk: &str) -> Result<(), Error> {
        if !self.has_unapplied {
            return Ok(());
        }
        let mut done = self.tx.prepare_cached("DELETE FROM _outrigger_unapplied WHERE tbl = ?1 AND pk = ?2")?;
        done.execute([&*shape.name, pk])?;
        Ok(())
    }

    fn keep_for_later(&mut self, shape: &Shape, remote: &Remote, why: String) -> Result<(), Error> {
        self.has_unapplied = true;
        let payload = remote.image.as_ref().map(|image| serde_json::to_string(image).unwrap_or_default());
        let mut keep = self.tx.prepare_cached(
            "INSERT INTO _outrigger_unapplied (tbl, pk, version, payload, at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (tbl, pk) \
             DO UPDATE SET version = excluded.version, payload = excluded.payload, at = excluded.at",
        )?;
        keep.execute(params![shape.name, remote.pk, remote.version, payload, remote.at])?;
        let mut seen = self.tx.prepare_cached("UPDATE _outrigger_row SET seen = 1 WHERE tbl = ?1 AND pk = ?2")?;
        seen.execute([&shape.name, &remote.pk])?;
        self.events.push(Event::Unapplied { table: shape.name.clone(), pk: remote.pk.clone(), why });
        Ok(())
    }

    /// Tries what did not fit once more, as long as something of it does: unique values may have become free.
    fn retry_unapplied(&mut self) -> Result<(), Error> {
        loop {
            let left = self.unapplied()?;
            let (before, events) = (self.rows, self.events.len());
            for (shape, remote) in &left {
                self.put(shape, remote)?;
            }
            // They were told of before.
            let mut told = self.events.split_off(events);
            told.retain(|event| !matches!(event, Event::Unapplied { .. }));
            self.events.extend(told);
            if self.rows == before && !self.untangle()? {
                return Ok(());
            }
        }
    }

    fn unapplied(&self) -> Result<Vec<(&'a Shape, Remote)>, Error> {
        let mut statement = self.tx.prepare_cached("SELECT tbl, pk, version, payload, at FROM _outrigger_unapplied")?;
        let mut rows = statement.query([])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let table: String = row.get(0)?;
            let Some(shape) = self.shapes.iter().find(|shape| shape.name == table) else { continue };
            let payload: Option<String> = row.get(3)?;
            let image = payload.map(|text| serde_json::from_str(&text)).transpose().unwrap_or_default();
            all.push((shape, Remote { pk: row.get(1)?, version: row.get(2)?, image, at: row.get(4)? }));
        }
        Ok(all)
    }

    /// Rows that wait for each other's unique values: all of them let go first, and then take what they are to have.
    /// Those that do not fit even then are left out, until the rest does. False if nothing was written.
    fn untangle(&mut self) -> Result<bool, Error> {
        let mut left = self.unapplied()?;
        left.retain(|(shape, remote)| !shape.unique.is_empty() && remote.image.is_some());
        for _ in 0..TANGLES_MAX {
            if left.len() < 2 {
                return Ok(false);
            }
            let rows = self.rows;
            self.tx.execute_batch("SAVEPOINT untangle")?;
            let mut unfit = Vec::new();
            for (n, (shape, remote)) in left.iter().enumerate() {
                let key = key_from_text(&remote.pk, &shape.pk).map_err(Error::Protocol)?;
                let is_edited = outbox::has_entry(self.tx, shape, &key)?;
                match rows::let_go(self.tx, shape, &remote.pk) {
                    _ if is_edited => unfit.push(n),
                    Ok(()) => {}
                    Err(Unwritten::Unfit(_)) => unfit.push(n),
                    Err(Unwritten::Failed(error)) => return Err(error.into()),
                }
            }
            for (n, (shape, remote)) in left.iter().enumerate() {
                if self.try_write(shape, remote)?.is_some() {
                    unfit.push(n);
                }
            }
            if unfit.is_empty() {
                self.tx.execute_batch("RELEASE untangle")?;
                return Ok(true);
            }
            self.rows = rows;
            self.tx.execute_batch("ROLLBACK TO untangle; RELEASE untangle")?;
            let mut n = 0..;
            left.retain(|_| n.next().is_some_and(|n| !unfit.contains(&n)));
        }
        Ok(false)
    }
}
