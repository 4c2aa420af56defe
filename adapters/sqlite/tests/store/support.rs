//! A database in a folder of its own, and plans made by hand.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use jiff::Timestamp;
use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::plan::RowEffect;
use outrigger_domain::stream::{StreamHead, WantedRow};
use outrigger_domain::window::PageQuery;
use outrigger_domain::{
    Change, LogEntry, Op, Payload, Plan, RowKey, RowVersion, ServerSeq, Snapshot, SourceChangeId, SourceId, TableName,
    UserId, Wanted,
};
use outrigger_sqlite::{SqliteOptions, SqliteStore};
use rusqlite::Connection;
use uuid::Uuid;

pub(crate) type Answer<'a> = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

/// A folder with a database that goes with it.
pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("sync.db")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.0.path().join("sync.db-wal")
    }

    pub(crate) fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path(), SqliteOptions::default()).unwrap()
    }

    pub(crate) fn impatient(&self) -> SqliteStore {
        let options = SqliteOptions { busy_timeout: Duration::from_millis(20), ..SqliteOptions::default() };
        SqliteStore::open(&self.path(), options).unwrap()
    }

    /// The file as another process sees it.
    pub(crate) fn shell(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// The file's write lock, held by another process until it is dropped.
    pub(crate) fn lock(&self) -> Connection {
        let shell = self.shell();
        shell.execute_batch("BEGIN IMMEDIATE").unwrap();
        shell
    }

    /// Transactions that the write-ahead log holds: its frames that carry the size of the database, which the last
    /// frame of a transaction does. See <https://www.sqlite.org/fileformat2.html#walformat>.
    pub(crate) fn transactions(&self) -> usize {
        let wal = std::fs::read(self.wal()).unwrap();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
        let (page_bytes, salts) = (number(&wal[8..12]), &wal[16..24]);
        let frames = wal[32..].chunks_exact(24 + page_bytes);
        frames.filter(|frame| frame[8..16] == *salts && number(&frame[4..8]) != 0).count()
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn key(pk: u128) -> RowKey {
    RowKey { table: TableName::parse(None, "users").unwrap(), pk: Uuid::from_u128(pk) }
}

/// A plan on a stream that ends at `head`: each row, given by its pk, gets that version and `{"n":version}`.
pub(crate) fn plan(head: i64, rows: impl IntoIterator<Item = (u128, i64)>) -> Plan {
    let log: Vec<_> =
        (head + 1..).zip(rows).map(|(seq, row)| entry(seq, row, format!("{{\"n\":{}}}", row.1))).collect();
    let rows = log.iter().enumerate().map(|(entry, logged)| RowEffect { entry, known: logged.version > RowVersion(1) });
    Plan {
        head: StreamHead { seq: ServerSeq(head), ..StreamHead::default() },
        at: Timestamp::UNIX_EPOCH,
        rows: rows.collect(),
        log,
        unlogged: Vec::new(),
        is_assumed: false,
    }
}

/// A plan that inserts one row with that payload into an empty stream.
pub(crate) fn first(payload: String) -> Plan {
    let mut plan = plan(0, [(1, 1)]);
    plan.log[0] = entry(1, (1, 1), payload);
    plan
}

fn entry(seq: i64, (pk, version): (u128, i64), payload: String) -> LogEntry {
    let payload = Payload::from_text(payload).unwrap();
    let op = if version == 1 { Op::Insert(payload) } else { Op::Update(payload) };
    let change = Change {
        source_change_id: SourceChangeId(seq),
        row: key(pk),
        base: RowVersion(version - 1),
        op,
        parents: Vec::new(),
    };
    let source = SourceId::parse("phone").unwrap();
    LogEntry { server_id: ServerSeq(seq), source, change: Arc::new(change), version: RowVersion(version) }
}

/// Polls the call once: its plan is in the writer's queue then.
pub(crate) fn enqueue<'a>(store: &'a SqliteStore, user: &'a UserId, plan: Plan) -> Answer<'a> {
    let mut call = store.commit(user, plan);
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    call
}

/// Waits for one call on a runtime of its own.
pub(crate) fn wait<T>(call: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(call)
}

/// The rows with these pks, and the stream's end.
pub(crate) async fn rows(store: &SqliteStore, user: &UserId, pks: impl IntoIterator<Item = u128>) -> Snapshot {
    try_rows(store, user, pks).await.unwrap()
}

pub(crate) async fn try_rows(
    store: &SqliteStore,
    user: &UserId,
    pks: impl IntoIterator<Item = u128>,
) -> Result<Snapshot, StoreError> {
    let rows = pks
        .into_iter()
        .map(|pk| WantedRow { key: key(pk), payload: outrigger_domain::stream::PayloadWanted::Always })
        .collect();
    store.load(user, &Wanted { rows, ..Wanted::default() }).await
}

/// The numbers of all changes of a stream.
pub(crate) async fn stream(store: &SqliteStore, user: &UserId) -> Vec<i64> {
    try_stream(store, user).await.unwrap()
}

pub(crate) async fn try_stream(store: &SqliteStore, user: &UserId) -> Result<Vec<i64>, StoreError> {
    let query =
        PageQuery { after: ServerSeq(0), until: None, limit: 100_000, schema: None, exclude: None, epoch: None };
    Ok(store.page(user, &query).await?.changes.iter().map(|change| change.server_id.0).collect())
}
