//! What a device does again and again while it is measured.

use bytes::Bytes;

use super::changes::{Changes, Row};
use crate::BenchError;
use crate::client::Client;

/// Rows that a device has before it updates them.
pub(crate) const ROWS_OF_DEVICE: usize = 1_000;
/// Bytes of uploads that a device keeps, to send them again.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a device asks for.
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: Bytes,
}

impl Request {
    fn upload(body: Bytes) -> Self {
        Self { method: "POST", path: "/sync/upload".into(), body }
    }
}

/// What an answer was good for.
pub(crate) struct Done {
    /// Changes that were decided, or downloaded.
    pub(crate) changes: u64,
    /// Whether that was all of what is timed as one: a first sync is many requests.
    pub(crate) whole: bool,
}

/// A device's work.
pub(crate) trait Work: Send {
    /// The next request. None if there is nothing left to do.
    fn next(&mut self) -> Option<Request>;

    /// Takes the answer, which must be as it is to be.
    fn answered(&mut self, answer: &Bytes) -> Result<Done, BenchError>;
}

/// Makes rows.
pub(crate) struct Insert {
    pub(crate) changes: Changes,
    pub(crate) batch: usize,
}

impl Work for Insert {
    fn next(&mut self) -> Option<Request> {
        let rows: Vec<Row> = (0..self.batch).map(|_| self.changes.row()).collect();
        Some(Request::upload(self.changes.upload("INSERT", &rows)))
    }

    fn answered(&mut self, answer: &Bytes) -> Result<Done, BenchError> {
        statuses(answer, self.batch, 0)
    }
}

/// Makes rows and keeps the uploads; ends when it has kept enough.
pub(crate) struct Keeping {
    insert: Insert,
    uploads: Vec<Bytes>,
    bytes: usize,
}

impl Keeping {
    pub(crate) fn new(insert: Insert) -> Self {
        Self { insert, uploads: Vec::new(), bytes: 0 }
    }

    /// The work of sending all of it again.
    pub(crate) fn again(self) -> Retry {
        Retry { uploads: self.uploads, next: 0, batch: self.insert.batch }
    }
}

impl Work for Keeping {
    fn next(&mut self) -> Option<Request> {
        if self.bytes >= KEPT_BYTES_MAX {
            return None;
        }
        let request = self.insert.next()?;
        self.bytes += request.body.len();
        self.uploads.push(request.body.clone());
        Some(request)
    }

    fn answered(&mut self, answer: &Bytes) -> Result<Done, BenchError> {
        self.insert.answered(answer)
    }
}

/// Sends uploads again that were applied.
pub(crate) struct Retry {
    uploads: Vec<Bytes>,
    next: usize,
    batch: usize,
}

impl Work for Retry {
    fn next(&mut self) -> Option<Request> {
        let body = self.uploads.get(self.next).or_else(|| self.uploads.first())?.clone();
        self.next = (self.next + 1) % self.uploads.len().max(1);
        Some(Request::upload(body))
    }

    fn answered(&mut self, answer: &Bytes) -> Result<Done, BenchError> {
        statuses(answer, self.batch, 0)
    }
}

/// Changes the rows that it has, in turn.
pub(crate) struct Update {
    changes: Changes,
    rows: Vec<Row>,
    at: usize,
    batch: usize,
    /// Changes of every batch that name a version which is none any more.
    stale: usize,
}

impl Update {
    /// Makes the rows first. Of every batch so many changes are to conflict.
    pub(crate) async fn prepare(
        client: &mut Client,
        mut changes: Changes,
        (batch, stale): (usize, usize),
    ) -> Result<Self, BenchError> {
        let mut rows: Vec<Row> = (0..ROWS_OF_DEVICE.max(batch)).map(|_| changes.row()).collect();
        for rows in rows.chunks(1_000) {
            let request = Request::upload(changes.upload("INSERT", rows));
            let answer = client.call(request.method, &request.path, request.body).await?;
            statuses(&answer, rows.len(), 0)?;
        }
        rows.iter_mut().for_each(|row| row.version = 1);
        Ok(Self { changes, rows, at: 0, batch, stale })
    }
}

impl Work for Update {
    fn next(&mut self) -> Option<Request> {
        let mut batch = Vec::with_capacity(self.batch);
        for n in 0..self.batch {
            let count = self.rows.len();
            let row = &mut self.rows[(self.at + n) % count];
            if n < self.stale {
                batch.push(Row { version: 0, ..*row });
            } else {
                batch.push(*row);
                row.version += 1;
            }
        }
        self.at = (self.at + self.batch) % self.rows.len();
        Some(Request::upload(self.changes.upload("UPDATE", &batch)))
    }

    fn answered(&mut self, answer: &Bytes) -> Result<Done, BenchError> {
        statuses(answer, self.batch - self.stale, self.stale)
    }
}

/// Reads a stream page by page, and then again.
pub(crate) struct Download {
    /// Behind which change it begins, and where it ends.
    pub(crate) range: (i64, i64),
    pub(crate) after: i64,
    pub(crate) page: u32,
    /// Whether the whole of it is timed as one.
    pub(crate) whole: bool,
}

impl Work for Download {
    fn next(&mut self) -> Option<Request> {
        let (after, until, page) = (self.after, self.range.1, self.page);
        let path = format!("/sync/download?after={after}&until={until}&limit={page}&include_self=true");
        Some(Request { method: "GET", path, body: Bytes::new() })
    }

    fn answered(&mut self, answer: &Bytes) -> Result<Done, BenchError> {
        // The numbers stand behind the changes.
        let end = String::from_utf8_lossy(&answer[answer.len().saturating_sub(300)..]);
        let next = end.rsplit_once("\"next_after\":").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        let next: i64 = next.ok_or_else(|| BenchError::Refused(format!("not the end of a page: {end}")))?;
        let changes = next - self.after;
        if changes <= 0 || changes > i64::from(self.page) {
            return Err(BenchError::Refused(format!("a page of {changes} changes")));
        }
        let ended = next >= self.range.1;
        self.after = if ended { self.range.0 } else { next };
        Ok(Done { changes: changes as u64, whole: ended || !self.whole })
    }
}

/// Makes sure that so many changes were applied, and so many conflicted.
fn statuses(answer: &Bytes, applied: usize, conflicts: usize) -> Result<Done, BenchError> {
    let count = |status: &str| memchr::memmem::find_iter(answer, status).count();
    let found = (count("\"status\":\"applied\""), count("\"status\":\"conflict\""));
    if found == (applied, conflicts) {
        return Ok(Done { changes: (applied + conflicts) as u64, whole: true });
    }
    let text: String = String::from_utf8_lossy(answer).chars().take(500).collect();
    Err(BenchError::Refused(format!("not {applied} changes applied and {conflicts} in conflict: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_not_as_it_is_to_be_stops_the_run() {
        let answer = Bytes::from_static(br#"{"statuses":[{"status":"applied"},{"status":"conflict"}]}"#);
        assert_eq!(statuses(&answer, 1, 1).ok().map(|done| done.changes), Some(2));
        assert!(statuses(&answer, 2, 0).is_err());
    }

    #[test]
    fn a_stream_is_read_to_its_end_and_then_again() {
        let mut work = Download { range: (0, 30), after: 0, page: 20, whole: true };
        let page = |next: i64| Bytes::from(format!(r#"{{"changes":[],"has_more":true,"next_after":{next},"x":1}}"#));
        let first = work.answered(&page(20)).unwrap();
        assert_eq!((first.changes, first.whole), (20, false));
        let last = work.answered(&page(30)).unwrap();
        assert_eq!((last.changes, last.whole), (10, true));
        assert!(work.next().unwrap().path.contains("after=0&"));
        assert!(work.answered(&page(0)).is_err());
    }

    #[test]
    fn an_upload_that_was_kept_is_sent_again_as_it_was() {
        let mut first = Keeping::new(Insert { changes: Changes::new(100, 1), batch: 2 });
        let sent = [first.next().unwrap().body, first.next().unwrap().body];
        let mut again = first.again();
        let resent: Vec<Bytes> = (0..3).map(|_| again.next().unwrap().body).collect();
        assert_eq!(resent, [sent[0].clone(), sent[1].clone(), sent[0].clone()]);
    }
}
