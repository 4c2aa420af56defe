//! A small world to write rules in: nodes over one storage, users, and devices that upload and download.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::retention::{Report, RetentionAges};
use outrigger_application::snapshot::{Cursor, SnapshotPage, SnapshotRow};
use outrigger_application::{
    Clock, ContactStore, Contacts, Download, Erasure, ErasurePorts, Hub, ProjectionStore, Retention, RetentionStore,
    SharedCatalog, Snapshots, SyncError, SyncStore, UploadPorts, UploadService, UserStore,
};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::plan::Verdict;
use outrigger_domain::stream::StreamChange;
use outrigger_domain::window::{Page, PageQuery};
use outrigger_domain::{
    Catalog, Decision, Epoch, Payload, RawChange, Reason, Reset, RowVersion, ServerRow, ServerSeq, SourceId,
    Submission, Table, TableName, Upload, UserId,
};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Changes in one upload, at the most, in this world.
pub const UPLOAD_CHANGES_MAX: usize = 500;
/// Bytes of one payload, at the most, in this world.
pub const PAYLOAD_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A storage of its own for one test, and stores on it.
#[async_trait]
pub trait Backend: Send + Sync {
    /// An empty storage.
    async fn start() -> Self;
    /// One more node over the same storage.
    async fn node(&self) -> Arc<dyn SyncStore>;
}

/// A storage with the business tables `users` and `posts`, empty, each with a key `id` and a text `name`; its nodes
/// project onto them.
#[async_trait]
pub trait Projecting: Backend {
    /// The projection of one more node over the same storage.
    async fn projection(&self) -> Arc<dyn ProjectionStore>;
    /// The `name` of the row of a business table.
    async fn business_name(&self, table: &str, pk: Uuid) -> Option<String>;
}

/// A storage that streams live in for long.
#[async_trait]
pub trait LongLived: Backend {
    /// What one more node clears away.
    async fn retention(&self) -> Arc<dyn RetentionStore>;
    /// The devices that one more node knows of.
    async fn contacts(&self) -> Arc<dyn ContactStore>;
    /// The users that one more node knows of.
    async fn users(&self) -> Arc<dyn UserStore>;
}

/// One day.
pub const DAY: Duration = Duration::from_secs(86_400);
/// How long this world keeps what is not needed.
pub const AGES: RetentionAges = RetentionAges {
    superseded: Duration::from_secs(7 * 86_400),
    tombstones: Duration::from_secs(90 * 86_400),
    keys: Duration::from_secs(30 * 86_400),
};

/// A clock that stands still unless it is moved.
#[derive(Debug)]
pub struct TestClock {
    micros: AtomicI64,
}

impl TestClock {
    /// Moves the clock forward, or back.
    pub fn advance(&self, micros: i64) {
        self.micros.fetch_add(micros, Ordering::SeqCst);
    }

    /// Moves the clock forward by days.
    pub fn pass_days(&self, days: i64) {
        self.advance(days * 86_400_000_000);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.micros.load(Ordering::SeqCst)).expect("a time in range")
    }
}

/// One storage, one clock, and as many nodes as a rule asks for.
pub struct World<B> {
    /// The storage.
    pub backend: B,
    /// The clock of all nodes.
    pub clock: Arc<TestClock>,
    first: Node,
}

impl<B: Backend> World<B> {
    /// An empty world with one node.
    pub async fn new() -> Self {
        let clock = Arc::new(TestClock { micros: AtomicI64::new(1_700_000_000_123_456) });
        let backend = B::start().await;
        let first = Node::new(backend.node().await, &clock);
        Self { backend, clock, first }
    }

    /// One more node over the same storage.
    pub async fn node(&self) -> Node {
        Node::new(self.backend.node().await, &self.clock)
    }

    /// Sweeps every stream that has something to go.
    pub async fn sweep(&self) -> Report
    where
        B: LongLived,
    {
        self.clock.advance(1);
        let retention = self.retention().await;
        retention.sweep(Duration::ZERO, |_| {}).await.expect("storage works")
    }

    /// What one more node clears away.
    pub async fn retention(&self) -> Retention
    where
        B: LongLived,
    {
        let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&self.clock);
        Retention::new(self.backend.retention().await, clock, AGES, Duration::ZERO)
    }

    /// The devices that one more node knows of.
    pub async fn contacts(&self) -> Contacts
    where
        B: LongLived,
    {
        let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&self.clock);
        Contacts::new(self.backend.contacts().await, clock)
    }

    /// What removes users, on one more node.
    pub async fn erasure(&self) -> Erasure
    where
        B: LongLived + Projecting,
    {
        let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(&self.clock);
        let ports = ErasurePorts {
            store: self.backend.node().await,
            projection: self.backend.projection().await,
            retention: self.backend.retention().await,
            contacts: self.backend.contacts().await,
            users: self.backend.users().await,
            clock,
            notifier: Arc::new(Hub::default()),
        };
        Erasure::new(ports, SharedCatalog::new(catalog()))
    }

    /// The store of the first node.
    pub fn store(&self) -> &dyn SyncStore {
        &*self.first.store
    }

    /// A device on the first node.
    pub fn device(&self, user: &str, source: &str) -> Device {
        self.first.device(user, source)
    }
}

/// A server.
#[derive(Clone)]
pub struct Node {
    store: Arc<dyn SyncStore>,
    uploads: UploadService,
    downloads: Download,
    snapshots: Snapshots,
}

impl Node {
    fn new(store: Arc<dyn SyncStore>, clock: &Arc<TestClock>) -> Self {
        let limits = UploadLimits { changes_max: UPLOAD_CHANGES_MAX, payload_bytes_max: PAYLOAD_BYTES_MAX };
        let clock: Arc<dyn Clock> = Arc::<TestClock>::clone(clock);
        let catalog = SharedCatalog::new(catalog());
        let ports = UploadPorts { store: Arc::clone(&store), clock, notifier: Arc::new(Hub::default()) };
        let uploads = UploadService::new(ports, catalog.clone(), limits);
        let snapshots = Snapshots::new(Arc::clone(&store), catalog);
        Self { downloads: Download::new(Arc::clone(&store)), store, uploads, snapshots }
    }

    /// A device that talks to this node.
    pub fn device(&self, user: &str, source: &str) -> Device {
        Device { node: self.clone(), user: user_id(user), source: source_id(source) }
    }
}

/// The tables of this world: `users` and `posts`, a second `users` in the schema `business`, and `comments`, which
/// belong to a post, may answer each other, and refer to a table that does not sync.
fn catalog() -> Catalog {
    let name = |name| TableName::parse_qualified(name).expect("a good name");
    Catalog::new([
        Table::new(name("users")).referring("favourite_id", name("posts")),
        Table::new(name("posts")).referring("author_id", name("users")),
        Table::new(name("business.users")),
        Table::new(name("comments"))
            .referring("post_id", name("posts"))
            .referring("answers_id", name("comments"))
            .referring("moderator_id", name("users"))
            .referring("thread_id", name("threads")),
    ])
}

/// A user's id.
pub fn user_id(text: &str) -> UserId {
    UserId::parse(text).expect("a good id")
}

/// A source's id.
pub fn source_id(text: &str) -> SourceId {
    SourceId::parse(text).expect("a good id")
}

/// A key that is the same in every run.
pub fn pk(number: u128) -> Uuid {
    Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0000 + number)
}

/// One installation of an app.
#[derive(Clone)]
pub struct Device {
    node: Node,
    /// Its user.
    pub user: UserId,
    /// Its own id.
    pub source: SourceId,
}

impl Device {
    /// The upload that [`upload`](Self::upload) would send.
    pub fn request(&self, changes: &[Sent], atomic: bool) -> Upload {
        let submissions = changes.iter().map(|sent| self.admit(sent)).collect();
        Upload { source: self.source.clone(), submissions, atomic, epoch: None }
    }

    fn admit(&self, sent: &Sent) -> Submission {
        let payload = sent.payload.clone().map(|text| RawValue::from_string(text).expect("valid JSON"));
        self.node.uploads.admit(RawChange {
            source_change_id: sent.id,
            schema: sent.schema,
            table: sent.table,
            op: sent.op,
            pk: &sent.pk,
            server_version: sent.version,
            payload: payload.as_deref(),
        })
    }

    /// Uploads changes.
    pub async fn upload(&self, changes: impl AsRef<[Sent]>) -> Verdict {
        let request = self.request(changes.as_ref(), false);
        self.node.uploads.upload(&self.user, request).await.expect("storage works")
    }

    /// Sends an upload as it is.
    pub async fn send(&self, upload: Upload) -> Verdict {
        self.node.uploads.upload(&self.user, upload).await.expect("storage works")
    }

    /// Uploads changes, all or none.
    pub async fn upload_atomic(&self, changes: impl AsRef<[Sent]>) -> Verdict {
        let request = self.request(changes.as_ref(), true);
        self.node.uploads.upload(&self.user, request).await.expect("storage works")
    }

    /// Uploads changes that must all be applied, and gives the new versions.
    pub async fn apply(&self, changes: impl AsRef<[Sent]>) -> Vec<i64> {
        versions(&self.upload(changes).await)
    }

    /// Downloads one page.
    pub async fn page(&self, query: &PageQuery) -> Page {
        self.node.downloads.page(&self.user, query).await.expect("storage works")
    }

    /// Downloads one page, or is told to start again.
    pub async fn try_page(&self, query: &PageQuery) -> Result<Page, Reset> {
        reset(self.node.downloads.page(&self.user, query).await)
    }

    /// Uploads changes that name an epoch, or is told to start again.
    pub async fn try_upload(&self, changes: impl AsRef<[Sent]>, epoch: Epoch) -> Result<Verdict, Reset> {
        let request = Upload { epoch: Some(epoch), ..self.request(changes.as_ref(), false) };
        reset(self.node.uploads.upload(&self.user, request).await)
    }

    /// The life of the user's stream.
    pub async fn epoch(&self) -> Epoch {
        self.node.store.head(&self.user).await.expect("storage works").0.epoch
    }

    /// One page of the rows as they are, or the order to start again.
    pub async fn try_rows(
        &self,
        from: Option<Cursor>,
        limit: u32,
        epoch: Option<Epoch>,
    ) -> Result<SnapshotPage, Reset> {
        reset(self.node.snapshots.page(&self.user, from, limit, epoch).await)
    }

    /// All rows as they are, page by page, and the cursor that they are as of at least.
    pub async fn rows(&self, limit: u32) -> (Vec<SnapshotRow>, ServerSeq) {
        let (mut rows, mut from) = (Vec::new(), None);
        loop {
            let page = self.try_rows(from, limit, None).await.expect("the epoch is the same");
            assert!(page.rows.len() <= limit as usize);
            rows.extend(page.rows);
            from = page.next;
            if from.is_none() {
                return (rows, page.as_of);
            }
        }
    }

    /// Downloads the whole stream, own changes included, page by page.
    pub async fn stream(&self) -> Vec<StreamChange> {
        let mut query = query(0, 1_000);
        let mut all = Vec::new();
        loop {
            let page = self.page(&query).await;
            all.extend(page.changes);
            query.after = page.next_after;
            query.until = Some(page.window_until);
            if !page.has_more {
                return all;
            }
        }
    }
}

fn reset<T>(answer: Result<T, SyncError>) -> Result<T, Reset> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(SyncError::Reset(reset)) => Err(reset),
        Err(SyncError::Store(error)) => panic!("storage failed: {error}"),
    }
}

/// A query for everything after a cursor.
pub fn query(after: i64, limit: u32) -> PageQuery {
    PageQuery { after: ServerSeq(after), until: None, limit, schema: None, exclude: None, epoch: None }
}

/// The versions of a verdict whose changes were all applied.
pub fn versions(verdict: &Verdict) -> Vec<i64> {
    let version = |decision: &Decision| match decision {
        Decision::Applied { version } => version.expect("a version").0,
        other => panic!("not applied: {other:?}"),
    };
    assert!(verdict.accepted);
    verdict.decisions.iter().map(version).collect()
}

/// The answer to a change that was applied.
pub fn applied(version: i64) -> Decision {
    Decision::Applied { version: Some(RowVersion(version)) }
}

/// The answer to a change that is a conflict: a row of `users` as the server has it.
pub fn server_row(number: u128, version: i64, payload: Option<&str>) -> Decision {
    Decision::Conflict(ServerRow {
        table: TableName::parse(None, "users").expect("a good name"),
        pk: pk(number),
        version: RowVersion(version),
        payload: payload.map(|text| Payload::from_text(text.into()).expect("an object")),
    })
}

/// The reason of a change that was refused.
pub fn reason(decision: &Decision) -> Option<Reason> {
    match decision {
        Decision::Invalid(refusal) => Some(refusal.reason),
        _ => None,
    }
}

/// A change as a device sends it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// `source_change_id`
    pub id: i64,
    /// `schema`
    pub schema: Option<&'static str>,
    /// `table`
    pub table: &'static str,
    /// `op`
    pub op: &'static str,
    /// `pk`
    pub pk: String,
    /// `server_version`
    pub version: i64,
    /// `payload`
    pub payload: Option<String>,
}

/// An INSERT into `users`.
pub fn insert(id: i64, pk: Uuid, payload: impl Into<String>) -> Sent {
    sent(id, "INSERT", pk, 0, Some(payload.into()))
}

/// An UPDATE of `users` at a version.
pub fn update(id: i64, pk: Uuid, version: i64, payload: impl Into<String>) -> Sent {
    sent(id, "UPDATE", pk, version, Some(payload.into()))
}

/// A DELETE from `users` at a version.
pub fn delete(id: i64, pk: Uuid, version: i64) -> Sent {
    sent(id, "DELETE", pk, version, None)
}

fn sent(id: i64, op: &'static str, pk: Uuid, version: i64, payload: Option<String>) -> Sent {
    Sent { id, schema: None, table: "users", op, pk: pk.to_string(), version, payload }
}

impl Sent {
    /// The same change at another version.
    pub fn at(self, version: i64) -> Self {
        Self { version, ..self }
    }

    /// The same change of another table.
    pub fn of(mut self, schema: Option<&'static str>, table: &'static str) -> Self {
        (self.schema, self.table) = (schema, table);
        self
    }
}
