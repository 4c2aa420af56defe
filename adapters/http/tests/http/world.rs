//! A server on a free port, and a client that reads like the requests it makes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::ports::projection::MockProjectionStore;
use outrigger_application::{
    AuthError, Authenticator, Caller, Clock, ContactStore, Contacts, Credentials, Download, Drain, ErasurePorts,
    Failures, Hub, ProjectionStore, RetentionStore, SharedCatalog, Snapshots, SyncStore, TokenIssuer, UploadPorts,
    UploadService, UserStore, Watch,
};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::{Catalog, Epoch, SourceId, Table, TableName, UserId};
use outrigger_http::{Admin, Admission, Api, Demo, Origins, Pace, Readiness, Serving, Stopped, router, serve};
use outrigger_memory::MemoryStore;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// The epoch of all streams of a server that keeps them in memory.
pub(crate) const EPOCH: Epoch = Epoch(Uuid::from_u128(0x7c9e_6679_7425_40de_944b_e07f_c1f9_0ae7));
pub(crate) const NOW: &str = "2025-08-08T07:01:00.123456Z";

struct Stopwatch;

impl Clock for Stopwatch {
    fn now(&self) -> Timestamp {
        NOW.parse().unwrap()
    }
}

/// Takes `user/source` or `user/source@expiry` for a token, and `user` with the header for one that names no source.
struct Trusting;

#[async_trait]
impl Authenticator for Trusting {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Caller, AuthError> {
        let rejected = || AuthError::Rejected("the token is not good".to_owned());
        if credentials.token == "later" {
            return Err(AuthError::Unavailable("keys.example is down".to_owned()));
        }
        let (user, source) = match (credentials.token.split_once('/'), credentials.source_header) {
            (Some((user, source)), None) => (user, source),
            (None, Some(source)) => (credentials.token, source),
            _ => return Err(rejected()),
        };
        let (source, expires_at) = match source.split_once('@') {
            Some((source, at)) => (source, at.parse().map_err(|_| rejected())?),
            None => (source, Timestamp::MAX),
        };
        Ok(Caller {
            user: UserId::parse(user).map_err(|_| rejected())?,
            source: SourceId::parse(source).map_err(|_| rejected())?,
            expires_at,
            is_admin: user == "root",
        })
    }
}

impl TokenIssuer for Trusting {
    fn issue(&self, user: &UserId, source: &SourceId, ttl: Duration) -> String {
        assert_eq!(ttl.as_secs(), 300);
        format!("{user}/{source}")
    }
}

/// `posts` refer to `users` by their `author_id`.
fn tables() -> [Table; 3] {
    let name = |name| TableName::parse_qualified(name).unwrap();
    let posts = Table::new(name("posts")).referring("author_id", name("users"));
    [Table::new(name("users")), posts, Table::new(name("business.users"))]
}

/// What a server is made of.
pub(crate) struct Setup {
    pub(crate) store: Arc<dyn SyncStore>,
    pub(crate) projection: Arc<dyn ProjectionStore>,
    pub(crate) contacts: Arc<dyn ContactStore>,
    pub(crate) retention: Arc<dyn RetentionStore>,
    pub(crate) users: Arc<dyn UserStore>,
    pub(crate) hub: Hub,
    pub(crate) drain: Drain,
    pub(crate) limits: UploadLimits,
    pub(crate) body_bytes_max: usize,
    pub(crate) demo: bool,
    pub(crate) pace: Pace,
    pub(crate) admission: Admission,
    pub(crate) origins: Origins,
    pub(crate) serving: Serving,
}

impl Default for Setup {
    fn default() -> Self {
        let store = Arc::new(MemoryStore::projecting(tables().map(|table| table.name)).in_epoch(EPOCH));
        Self {
            store: Arc::<MemoryStore>::clone(&store),
            projection: Arc::<MemoryStore>::clone(&store),
            contacts: Arc::<MemoryStore>::clone(&store),
            retention: Arc::<MemoryStore>::clone(&store),
            users: store,
            hub: Hub::default(),
            drain: Drain::default(),
            limits: UploadLimits::default(),
            body_bytes_max: 1024 * 1024,
            demo: false,
            pace: Pace::default(),
            admission: Admission::default(),
            origins: Origins::default(),
            serving: Serving { drain_timeout: Duration::from_secs(60), ..Serving::default() },
        }
    }
}

impl Setup {
    /// On a store whose projection must not be asked for anything.
    pub(crate) fn on(store: impl SyncStore + 'static) -> Self {
        Self { store: Arc::new(store), projection: Arc::new(MockProjectionStore::new()), ..Self::default() }
    }

    pub(crate) fn api(&self) -> Api {
        let catalog = SharedCatalog::new(Catalog::new(tables()));
        let store = Arc::clone(&self.store);
        let ports =
            UploadPorts { store: Arc::clone(&store), clock: Arc::new(Stopwatch), notifier: Arc::new(self.hub.clone()) };
        let snapshots = Snapshots::new(Arc::clone(&store), catalog.clone());
        Api {
            upload: UploadService::new(ports, catalog.clone(), self.limits),
            watch: Watch::new(Arc::clone(&store), Arc::new(Stopwatch), self.hub.clone(), self.drain.clone()),
            download: Download::new(Arc::clone(&store)),
            admin: Admin::new(self.admin(), snapshots.clone(), catalog),
            snapshots,
            contacts: Contacts::new(Arc::clone(&self.contacts), Arc::new(Stopwatch)),
            failures: Failures::new(Arc::clone(&self.projection)),
            readiness: Readiness::new(Arc::clone(&store), self.drain.clone()),
            store,
            authenticator: Arc::new(Trusting),
            schema_version: 7,
            body_bytes_max: self.body_bytes_max,
            pace: self.pace,
            admission: self.admission.clone(),
            origins: self.origins.clone(),
            metrics: None,
            demo: self.demo.then(|| Demo { issuer: Arc::new(Trusting) }),
        }
    }

    fn admin(&self) -> ErasurePorts {
        ErasurePorts {
            store: Arc::clone(&self.store),
            projection: Arc::clone(&self.projection),
            retention: Arc::clone(&self.retention),
            contacts: Arc::clone(&self.contacts),
            users: Arc::clone(&self.users),
            clock: Arc::new(Stopwatch),
            notifier: Arc::new(self.hub.clone()),
        }
    }

    pub(crate) async fn start(self) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = oneshot::channel::<()>();
        let drain = self.drain.clone();
        let shutdown = async move {
            let _ = stopping.await;
            drain.begin();
            drain.close();
        };
        let api = self.api();
        let contacts = api.contacts.clone();
        let serving = tokio::spawn(serve(listener, router(api), self.serving, shutdown));
        let client = Client::builder().no_proxy().build().unwrap();
        Server { address: address.to_string(), client, contacts, stop: Some(stop), serving }
    }
}

/// A running server; it stops when dropped.
pub(crate) struct Server {
    pub(crate) address: String,
    client: Client,
    contacts: Contacts,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Stopped>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code and the message of an error, which must have the one shape that errors have.
    pub(crate) fn error(&self) -> (u16, String, String) {
        let body = self.json();
        assert_eq!(self.header("content-type"), "application/json");
        let resets = ["epoch", "highest_server_seq", "floor"];
        let members = body.as_object().unwrap().keys().filter(|name| !resets.contains(&name.as_str()));
        assert_eq!(members.count(), 2, "{body}");
        (self.status, body["error"].as_str().unwrap().to_owned(), body["message"].as_str().unwrap().to_owned())
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

impl Server {
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{path}", self.address))
    }

    pub(crate) fn delete(&self, path: &str) -> RequestBuilder {
        self.client.delete(format!("http://{}{path}", self.address))
    }

    /// Writes the contacts of devices, which wait to be.
    pub(crate) async fn flush_contacts(&self) {
        self.contacts.flush().await.unwrap();
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("http://{}{path}", self.address))
    }

    /// A request to upload, before it is sent.
    pub(crate) fn upload_request(&self, token: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.post("/sync/upload").bearer_auth(token).header("content-type", "application/json").body(body)
    }

    /// Uploads that body.
    pub(crate) async fn upload(&self, token: &str, body: impl Into<String>) -> Answer {
        send(self.upload_request(token, body.into())).await
    }

    /// Uploads those changes, each a JSON text, and returns the text of the answer.
    pub(crate) async fn changes(&self, token: &str, changes: &[&str]) -> String {
        let answer = self.upload(token, format!(r#"{{"changes":[{}]}}"#, changes.join(","))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.text
    }

    pub(crate) async fn download(&self, token: &str, query: &str) -> Answer {
        send(self.get(&format!("/sync/download{query}")).bearer_auth(token)).await
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// How it stopped.
    pub(crate) async fn stopped(self) -> Stopped {
        tokio::time::timeout(Duration::from_secs(30), self.serving).await.expect("the server stops").unwrap()
    }
}
