//! Rows that do not fit the app's tables yet, by a constraint of those.

use rusqlite::params;
use serde_json::value::RawValue;

use super::{Applier, Remote};
use crate::events::Event;
use crate::rows::{self, Unwritten};
use crate::shape::Shape;
use crate::values::key_from_text;
use crate::{Error, outbox};

/// Times that rows which wait for each other are tried without those that do not fit.
const TANGLES_MAX: usize = 16;

impl<'a> Applier<'a> {
    pub(super) fn forget_unapplied(&self, shape: &Shape, pk: &str) -> Result<(), Error> {
        if !self.has_unapplied {
            return Ok(());
        }
        let mut done = self.tx.prepare_cached("DELETE FROM _outrigger_unapplied WHERE tbl = ?1 AND pk = ?2")?;
        done.execute([&*shape.name, pk])?;
        Ok(())
    }

    pub(super) fn keep_for_later(&mut self, shape: &Shape, remote: &Remote, why: String) -> Result<(), Error> {
        self.has_unapplied = true;
        let payload = remote.payload.as_ref().map(|payload| payload.get());
        let mut keep = self.tx.prepare_cached(
            "INSERT INTO _outrigger_unapplied (tbl, pk, version, payload, at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (tbl, pk) \
             DO UPDATE SET version = excluded.version, payload = excluded.payload, at = excluded.at",
        )?;
        keep.execute(params![shape.name, remote.pk, remote.version, payload, remote.at])?;
        rows::set_seen(self.tx, shape, &remote.pk)?;
        self.events.push(Event::Unapplied { table: shape.name.clone(), pk: remote.pk.clone(), why });
        Ok(())
    }

    /// Tries what did not fit once more, as long as something of it does: unique values may have become free.
    pub(super) fn retry_unapplied(&mut self) -> Result<(), Error> {
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
            let payload = payload.and_then(|text| RawValue::from_string(text).ok());
            all.push((shape, Remote { pk: row.get(1)?, version: row.get(2)?, payload, at: row.get(4)? }));
        }
        Ok(all)
    }

    /// Rows that wait for each other's unique values: all of them let go first, and then take what they are to have.
    /// Those that do not fit even then are left out, until the rest does. False if nothing was written.
    fn untangle(&mut self) -> Result<bool, Error> {
        let mut left = self.unapplied()?;
        left.retain(|(shape, remote)| !shape.unique.is_empty() && remote.payload.is_some());
        for _ in 0..TANGLES_MAX {
            if left.len() < 2 {
                return Ok(false);
            }
            let rows = self.rows;
            self.tx.execute_batch("SAVEPOINT untangle")?;
            let mut unfit = Vec::new();
            for (n, (shape, remote)) in left.iter().enumerate() {
                let key = key_from_text(&remote.pk, &shape.pk).map_err(Error::Protocol)?;
                let is_edited = outbox::entry(self.tx, shape, &key)?.is_some();
                match rows::let_go(self.tx, shape, &key) {
                    _ if is_edited => unfit.push(n),
                    Ok(()) => {}
                    Err(Unwritten::Unfit(_)) => unfit.push(n),
                    Err(Unwritten::Failed(error)) => return Err(error.into()),
                }
            }
            for (n, (shape, remote)) in left.iter().enumerate() {
                let key = key_from_text(&remote.pk, &shape.pk).map_err(Error::Protocol)?;
                if self.try_write(shape, &key, remote)?.is_some() {
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
