//! The first sync of a device, and every other that has to start from the rows as they are.
//!
//! It survives being interrupted: what was fetched is marked as seen, and the next page is remembered with it. What the
//! device has, has not edited, and has not seen at the end was deleted elsewhere.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::types::Value;
use rusqlite::{Connection, Transaction};

use super::pull::Step;
use super::{PAGE, Syncer};
use crate::apply::Rows;
use crate::database::Stops;
use crate::outbox;
use crate::remote::Answer;
use crate::rows::{self, Known};
use crate::shape::Shape;
use crate::values::key_from_text;
use crate::wire::{Snapshot, Source};
use crate::{Error, extra, state};

impl Syncer {
    /// Makes sure that the device knows where it stands.
    pub(super) async fn start(&self) -> Result<(), Error> {
        self.remote.sign_in().await?;
        self.number().await?;
        if self.database.run(|connection| state::stands(connection)).await? {
            return Ok(());
        }
        let take = |tx: &Transaction<'_>, _: &Stops| {
            if state::get::<i64>(tx, state::STARTING)?.is_none() && !state::stands(tx)? {
                forget_seen(tx)?;
            }
            state::join_start(tx)
        };
        let Some(number) = self.database.transact(take).await? else { return Ok(()) };
        match self.fetch_rows(number).await {
            // The other one that has come further may be done by now.
            Err(Error::Busy(why)) => {
                let stands = self.database.run(|connection| state::stands(connection)).await?;
                if stands { Ok(()) } else { Err(Error::Busy(why)) }
            }
            done => done,
        }
    }

    /// Makes sure that it is known whose rows these are, and which numbers are free.
    async fn number(&self) -> Result<(), Error> {
        if !self.database.run(|connection| state::is_numbered(connection)).await? {
            self.renumber().await?;
        }
        let Some(identity) = self.remote.identity() else { return Ok(()) };
        let known = self.database.run(|connection| state::identity(connection)).await?;
        if known.as_ref() == Some(&identity) {
            return Ok(());
        }
        if known.is_some() {
            // The same user under another source, whose numbers are others.
            self.renumber().await?;
        }
        self.database.transact(move |tx, _| state::identify(tx, &identity)).await
    }

    /// Numbers that the server knows of others of this source's changes are not used again.
    pub(super) async fn renumber(&self) -> Result<(), Error> {
        let highest = self.highest_number().await?;
        self.database.transact(move |tx, _| state::number_above(tx, highest)).await
    }

    /// The highest number that the server knows of this source.
    async fn highest_number(&self) -> Result<i64, Error> {
        match self.remote.get::<Source>("/sync/source".into()).await? {
            Answer::Good(source) => Ok(source.highest_source_change_id),
            // An older server does not tell. No source has made as many changes as microseconds have passed.
            _ => Ok(micros_since_1970(self.config.clock.now())),
        }
    }

    /// Fetches the rows as they are, the next page while one is applied.
    async fn fetch_rows(&self, mut number: i64) -> Result<(), Error> {
        let mut asked = self.database.run(|connection| state::get::<String>(connection, state::PAGE)).await?;
        let mut answer = self.rows(asked.as_deref()).await?;
        let mut pages = HashSet::new();
        loop {
            let page = match answer {
                Answer::Good(page) => page,
                Answer::Reset => {
                    self.count_restart()?;
                    // Another epoch in the middle of it: from the first page on.
                    let again = move |tx: &Transaction<'_>, _: &Stops| {
                        state::check_start(tx, number)?;
                        state::clear(tx, &[state::PAGE, state::AS_OF, state::EPOCH])
                    };
                    self.database.transact(again).await?;
                    (asked, answer) = (None, self.rows(None).await?);
                    continue;
                }
                _ => return self.read_stream(number).await,
            };
            page.check()?;
            if asked.is_none() {
                // What was seen before an interruption may have been deleted meanwhile, and this snapshot begins behind
                // that. Of two clients that both come with a first page, one begins and the other one finds it begun.
                let begin = move |tx: &Transaction<'_>, _: &Stops| {
                    state::check_start(tx, number)?;
                    forget_seen(tx)?;
                    state::number_start(tx)
                };
                number = self.database.transact(begin).await?;
            }
            let Snapshot { rows, as_of, epoch, next_page } = page;
            let move_on = noted(number, (asked.is_none(), as_of), epoch, next_page.clone());
            let Some(next) = next_page else {
                self.apply_rows(rows, Rows::Snapshot, move_on).await?;
                return self.arrive(number, as_of).await;
            };
            if !pages.insert(next.clone()) {
                return Err(Error::Protocol("a snapshot comes to the same page again".into()));
            }
            let (applied, fetched) =
                tokio::join!(self.apply_rows(rows, Rows::Snapshot, move_on), self.rows(Some(&next)));
            applied?;
            (asked, answer) = (Some(next), fetched?);
        }
    }

    async fn rows(&self, page: Option<&str>) -> Result<Answer<Snapshot>, Error> {
        self.database.stops().at("before snapshot")?;
        let page = page.map_or_else(String::new, |page| format!("&page={page}"));
        self.remote.get(format!("/sync/snapshot?limit={PAGE}{page}")).await
    }

    /// From a server without snapshots: the stream from its beginning, own changes included.
    async fn read_stream(&self, number: i64) -> Result<(), Error> {
        let begin = move |tx: &Transaction<'_>, _: &Stops| {
            state::check_start(tx, number)?;
            state::set(tx, state::CURSOR, 0)
        };
        self.database.transact(begin).await?;
        Box::pin(self.pull()).await?;
        let cursor = self.database.run(|connection| state::get::<i64>(connection, state::CURSOR)).await?;
        self.arrive(number, cursor.unwrap_or(0)).await
    }

    /// What was not seen was deleted elsewhere, unless it is edited here: then it is made again.
    async fn arrive(&self, number: i64, cursor: i64) -> Result<(), Error> {
        let shapes = self.shapes();
        self.database
            .transact(move |tx, stops| {
                state::check_start(tx, number)?;
                for shape in shapes.iter() {
                    remove_unseen(tx, shape)?;
                    stops.at("removed")?;
                }
                rows::capture_all(tx)?;
                tx.execute("UPDATE _outrigger_outbox SET unsure = 0 WHERE unsure <> 0", [])?;
                state::set(tx, state::CURSOR, cursor)?;
                state::clear(tx, &[state::STARTING, state::PAGE, state::AS_OF, state::UNTIL])
            })
            .await
    }
}

/// Notes where a snapshot goes on. All of its pages are of one time.
fn noted(
    number: i64,
    (is_first, as_of): (bool, i64),
    epoch: String,
    next: Option<String>,
) -> impl Fn(&Transaction<'_>) -> Result<Step, Error> + Send + 'static {
    move |tx| {
        state::check_start(tx, number)?;
        if !is_first && state::get::<i64>(tx, state::AS_OF)? != Some(as_of) {
            state::clear(tx, &[state::PAGE])?;
            return Err(Error::Protocol("the pages of a snapshot are of different times".into()));
        }
        state::set(tx, state::AS_OF, as_of)?;
        state::set(tx, state::EPOCH, &epoch)?;
        next.as_ref().map_or(Ok(()), |page| state::set(tx, state::PAGE, page))?;
        Ok(Step::On)
    }
}

/// All rows will come. What did not fit so far comes again too, unless it was deleted.
fn forget_seen(tx: &Connection) -> Result<(), Error> {
    tx.execute("UPDATE _outrigger_row SET seen = 0", [])?;
    tx.execute("DELETE FROM _outrigger_unapplied", [])?;
    Ok(())
}

fn remove_unseen(tx: &Connection, shape: &Shape) -> Result<(), Error> {
    let unseen = "SELECT pk FROM _outrigger_row WHERE tbl = ?1 AND seen = 0";
    let keys: Vec<String> =
        tx.prepare(unseen)?.query_map([&shape.name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for pk in keys {
        let key: Value = key_from_text(&pk, &shape.pk).map_err(Error::Protocol)?;
        rows::set_known(tx, shape, &pk, Known::default())?;
        match outbox::entry(tx, shape, &key)? {
            Some(entry) if !entry.is_doubt => {
                rows::set_base(tx, shape, &key, None)?;
                outbox::release(tx, shape, &key, false)?;
                continue;
            }
            Some(_) => outbox::drop_entry(tx, shape, &key)?,
            None => {}
        }
        extra::forget(tx, shape, &pk)?;
        match rows::write(tx, shape, &key, None) {
            Ok(()) | Err(rows::Unwritten::Unfit(_)) => {}
            Err(rows::Unwritten::Failed(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

fn micros_since_1970(now: SystemTime) -> i64 {
    i64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(i64::MAX / 2)
}
