//! Down.

use rusqlite::{Connection, ErrorCode, Transaction};

use super::{PAGE, Syncer};
use crate::apply::{Applier, Remote, Rows};
use crate::database::Stops;
use crate::events::Event;
use crate::remote::Answer;
use crate::wire::{Downloaded, Page};
use crate::{Error, state};

impl Syncer {
    /// Downloads what others have changed, the next page while one is applied. Gives how many rows that changed here.
    pub(super) async fn pull(&self) -> Result<usize, Error> {
        let mut rows = 0;
        let mut place = self.place_to_read().await?;
        let mut answer = self.page(&place).await?;
        loop {
            let page = match answer {
                Answer::Good(page) => page,
                Answer::Reset => {
                    self.restart().await?;
                    place = self.place_to_read().await?;
                    answer = self.page(&place).await?;
                    continue;
                }
                Answer::Unknown | Answer::TooLarge => return Err(Error::Protocol("there is no /sync/download".into())),
            };
            page.check(place.after)?;
            if !page.has_more {
                return Ok(rows + self.apply(&place, page).await?);
            }
            let mut next_place = place.clone();
            (next_place.after, next_place.until) = (page.next_after, Some(page.window_until));
            let (applied, next) = tokio::join!(self.apply(&place, page), self.page(&next_place));
            rows += applied?;
            (place, answer) = (next_place, next?);
        }
    }

    async fn place_to_read(&self) -> Result<Place, Error> {
        self.database.run(|connection| Place::read(connection)).await
    }

    async fn page(&self, place: &Place) -> Result<Answer<Page>, Error> {
        self.database.stops().at("before download")?;
        self.remote.get(place.path()).await
    }

    async fn apply(&self, place: &Place, page: Page) -> Result<usize, Error> {
        let Page { changes, has_more, next_after, window_until, epoch } = page;
        let after = place.after;
        let move_on = move |tx: &Transaction<'_>| {
            if state::get(tx, state::CURSOR)?.unwrap_or(0) != after {
                // Another process syncs the same file, and has been here already.
                return Ok(Step::Stay);
            }
            state::set(tx, state::CURSOR, next_after)?;
            if let Some(epoch) = &epoch {
                state::set(tx, state::EPOCH, epoch)?;
            }
            if has_more {
                state::set(tx, state::UNTIL, window_until)?;
            } else {
                state::clear(tx, &[state::UNTIL])?;
            }
            Ok(Step::On)
        };
        let rows = if place.with_own { Rows::History } else { Rows::News };
        self.apply_rows(changes, rows, move_on).await
    }

    /// Moves on and applies rows, in one transaction. If that fails because a row's parent is not there (it comes with a
    /// later page, or a pruned log has it further behind) the foreign keys are left for later.
    pub(super) async fn apply_rows(
        &self,
        changes: Vec<Downloaded>,
        rows: Rows,
        move_on: impl Fn(&Transaction<'_>) -> Result<Step, Error> + Send + 'static,
    ) -> Result<usize, Error> {
        let (shapes, conflicts, database) = (self.shapes(), self.config.conflicts.clone(), self.database.clone());
        // Tables that this app does not sync, or does not know yet, are passed over.
        let known = changes.into_iter().filter_map(|change| {
            let shape = shapes.iter().position(|s| s.schema == change.schema && s.table == change.table)?;
            let Downloaded { server_id: at, pk, server_version: version, payload, .. } = change;
            Some((shape, Remote { pk, version, payload, at }))
        });
        let changes: Vec<(usize, Remote)> = known.collect();
        let work = move |connection: &mut Connection| {
            let stops = database.stops();
            let attempt = |connection: &mut Connection| {
                let tx = database.begin(connection)?;
                stops.at("begun")?;
                tx.execute_batch("PRAGMA defer_foreign_keys = ON")?;
                let mut applier = Applier::new(&tx, &shapes, &conflicts)?;
                if move_on(&tx)? == Step::On {
                    stops.at("moved on")?;
                    apply_all(&mut applier, &changes, rows, &stops)?;
                }
                let (rows, events) = (applier.rows, applier.events);
                stops.at("before commit")?;
                tx.commit()?;
                stops.at("after commit")?;
                Ok((rows, events))
            };
            match attempt(connection) {
                Err(Error::Database(error)) if is_foreign_key(&error) => {
                    let enforced: bool = connection.pragma_query_value(None, "foreign_keys", |row| row.get(0))?;
                    connection.pragma_update(None, "foreign_keys", false)?;
                    let done = attempt(connection);
                    connection.pragma_update(None, "foreign_keys", enforced)?;
                    done
                }
                done => done,
            }
        };
        let (rows, events) = self.database.run(work).await?;
        self.tell_all(events);
        if rows > 0 {
            self.tell(Event::Downloaded { rows });
        }
        Ok(rows)
    }
}

/// Whether what was fetched is still to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    On,
    Stay,
}

/// Where a page begins.
#[derive(Clone)]
struct Place {
    after: i64,
    until: Option<i64>,
    with_own: bool,
    epoch: Option<String>,
}

impl Place {
    fn read(connection: &Connection) -> Result<Self, Error> {
        Ok(Self {
            after: state::get(connection, state::CURSOR)?.unwrap_or(0),
            until: state::get(connection, state::UNTIL)?,
            with_own: state::get::<i64>(connection, state::STARTING)?.is_some(),
            epoch: state::get(connection, state::EPOCH)?,
        })
    }

    fn path(&self) -> String {
        let mut path = format!("/sync/download?limit={PAGE}&after={}", self.after);
        if let Some(until) = self.until {
            path += &format!("&until={until}");
        }
        if self.with_own {
            path += "&include_self=true";
        }
        if let Some(epoch) = &self.epoch {
            path += &format!("&epoch={epoch}");
        }
        path
    }
}

fn apply_all(applier: &mut Applier<'_>, changes: &[(usize, Remote)], rows: Rows, stops: &Stops) -> Result<(), Error> {
    for (shape, remote) in changes {
        let shape = &applier.shapes[*shape];
        applier.apply(shape, remote, rows)?;
        stops.at("applied")?;
    }
    applier.finish()?;
    stops.at("finished")
}

fn is_foreign_key(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
        && extended == Some(rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY)
}
