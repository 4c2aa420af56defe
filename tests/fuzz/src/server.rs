//! The whole server but for the socket, in memory, at a time that stands still.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use jiff::Timestamp;
use outrigger_application::{
    Authenticator, Clock, Contacts, Download, Drain, ErasurePorts, Failures, Hub, SharedCatalog, Snapshots, SyncStore,
    TokenIssuer, UploadPorts, UploadService, Watch,
};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::{Catalog, SourceId, Table, TableName, UserId};
use outrigger_http::{Admin, Admission, Api, Origins, Pace, Readiness, router};
use outrigger_jwt::{JwtAuthenticator, JwtIssuer, JwtOptions};
use outrigger_memory::MemoryStore;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

/// The secret of the tokens in the corpus.
const SECRET: &[u8] = b"a secret of the fuzz targets, long enough";
const NOW: &str = "2025-08-08T07:01:00Z";
/// Bytes of a body that the server takes.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an answer: that of a conflict may hold the row once per change.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        NOW.parse().expect("it is a time")
    }
}

/// An answer, read to its end unless it has none.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// A server that has seen nothing yet.
pub(crate) struct Server {
    runtime: Runtime,
    router: Router,
    issuer: JwtIssuer,
    users: u64,
}

impl Server {
    pub(crate) fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(Stopped);
        let users = TableName::parse_qualified("users").expect("it is a name");
        let posts = TableName::parse_qualified("posts").expect("it is a name");
        let posts = Table::new(posts).referring("author_id", users.clone());
        let catalog = SharedCatalog::new(Catalog::new([Table::new(users), posts]));
        let (store, hub) = (Arc::new(MemoryStore::default()), Hub::default());
        let sync: Arc<dyn SyncStore> = Arc::<MemoryStore>::clone(&store);
        let ports =
            UploadPorts { store: Arc::clone(&sync), clock: Arc::clone(&clock), notifier: Arc::new(hub.clone()) };
        let authenticator: Arc<dyn Authenticator> =
            Arc::new(JwtAuthenticator::hs256(SECRET, JwtOptions::default(), Arc::clone(&clock)));
        let snapshots = Snapshots::new(Arc::clone(&sync), catalog.clone());
        let admin = ErasurePorts {
            store: Arc::clone(&sync),
            projection: Arc::<MemoryStore>::clone(&store),
            retention: Arc::<MemoryStore>::clone(&store),
            contacts: Arc::<MemoryStore>::clone(&store),
            users: Arc::<MemoryStore>::clone(&store),
            clock: Arc::clone(&clock),
            notifier: Arc::new(hub.clone()),
        };
        let api = Api {
            upload: UploadService::new(ports, catalog.clone(), UploadLimits::default()),
            download: Download::new(Arc::clone(&sync)),
            watch: Watch::new(Arc::clone(&sync), Arc::clone(&clock), hub, Drain::default()),
            admin: Admin::new(admin, snapshots.clone(), catalog),
            snapshots,
            readiness: Readiness::new(Arc::clone(&sync), Drain::default()),
            contacts: Contacts::new(Arc::<MemoryStore>::clone(&store), Arc::clone(&clock)),
            failures: Failures::new(store),
            store: sync,
            authenticator,
            schema_version: 1,
            body_bytes_max: BODY_BYTES_MAX,
            pace: Pace::default(),
            admission: Admission::default(),
            origins: Origins::default(),
            metrics: None,
            demo: None,
        };
        let issuer = JwtIssuer::hs256(SECRET, JwtOptions::default(), clock);
        // What waits waits no time: the clock goes on by itself where nothing else does.
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
        Self { runtime: runtime.expect("a runtime starts"), router: router(api), issuer, users: 0 }
    }

    /// The token of a user that nobody has been before, so that no input meets what another one left.
    pub(crate) fn new_user(&mut self) -> String {
        self.users += 1;
        let (user, source) = (UserId::parse(&format!("user-{}", self.users)), SourceId::parse("phone"));
        let hour = std::time::Duration::from_secs(3600);
        self.issuer.issue(&user.expect("it is a name"), &source.expect("it is a name"), hour)
    }

    /// Sends that body as an upload.
    pub(crate) fn upload(&self, token: &str, body: &[u8]) -> Result<Answer, String> {
        let request = Request::post("/sync/upload").header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {token}"));
        self.ask(request.body(Body::from(body.to_vec())).map_err(|error| error.to_string())?)
    }

    /// Asks, and reads the answer to its end if it has one.
    pub(crate) fn ask(&self, request: Request<Body>) -> Result<Answer, String> {
        let endless = request.uri().path() == "/sync/watch";
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.map_err(|error| error.to_string())?;
            let (parts, body) = response.into_parts();
            let endless = endless && parts.status == StatusCode::OK;
            let limit = if endless { 0 } else { ANSWER_BYTES_MAX };
            let bytes = if endless { Ok(Default::default()) } else { to_bytes(body, limit).await };
            let body = String::from_utf8(bytes.map_err(|error| error.to_string())?.into());
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.map_err(|error| error.to_string())? })
        })
    }
}
