//! The HTTP transport: requests in, answers out, and no rule of its own.
//!
//! A handler translates: wire → domain → use case → wire. Who is asking is an argument ([`Caller`]) that a
//! handler cannot run without; what a failure looks like stands in one table (`error.rs`); what goes over the wire
//! stands in `wire.rs`, and the OpenAPI document is generated from both.
//!
//! [`Caller`]: outrigger_application::Caller

mod activity;
mod address;
mod admin;
mod admission;
mod body;
mod connection;
mod counted;
mod docs_page;
mod download;
mod error;
mod explorer;
mod export;
mod extract;
mod failures;
mod headers;
mod health;
mod inflate;
mod limits;
mod linger;
mod metrics_page;
mod openapi;
mod pace;
mod params;
mod schema_version;
mod serve;
mod signin;
mod snapshot;
mod source;
mod tls;
mod trace;
mod upload;
mod watch;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use outrigger_application::{
    Authenticator, Contacts, Download, Erasure, ErasurePorts, Exports, Failures, SharedCatalog, Snapshots, SyncStore,
    TokenIssuer, UploadService, UserStore, Watch,
};
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use activity::Timeouts;
pub use address::{Proxies, ProxyHeader};
pub use admin::{DeviceBody, UserBody};
pub use admission::Admission;
pub use export::{Exported, lines as export_lines};
pub use headers::Origins;
pub use health::Readiness;
pub use limits::{Limiter, Limits, Rate};
pub use metrics_page::{Metrics, metrics_router};
pub use pace::Pace;
pub use serve::{Serving, Stopped, serve};
pub use tls::{Tls, TlsError};

/// All that the endpoints stand on.
#[derive(Clone)]
pub struct Api {
    /// Behind `POST /sync/upload`.
    pub upload: UploadService,
    /// Behind `GET /sync/download`.
    pub download: Download,
    /// Behind `GET /sync/watch`, and `wait` of `GET /sync/download`.
    pub watch: Watch,
    /// Behind `GET /sync/snapshot`.
    pub snapshots: Snapshots,
    /// Behind `GET /sync/source`.
    pub contacts: Contacts,
    /// Behind `/admin/materialize-failures`.
    pub failures: Failures,
    /// What is for administrators.
    pub admin: Admin,
    /// Asked where streams end.
    pub store: Arc<dyn SyncStore>,
    /// Behind `GET /ready`.
    pub readiness: Readiness,
    /// Tells who is asking.
    pub authenticator: Arc<dyn Authenticator>,
    /// What `GET /sync/schema-version` answers.
    pub schema_version: u32,
    /// Bytes of a request's body, at the most, and of what it is once it is inflated.
    pub body_bytes_max: usize,
    /// How slowly a body may come.
    pub pace: Pace,
    /// Who is let in, and how often.
    pub admission: Admission,
    /// Whose pages may use the API in a browser.
    pub origins: Origins,
    /// Answers `GET /metrics`, if that is not at an address of its own.
    pub metrics: Option<Metrics>,
    /// Demo mode, if it is on.
    pub demo: Option<Demo>,
}

/// What administrators can do.
#[derive(Clone)]
pub struct Admin {
    /// Lists users and devices.
    pub users: Arc<dyn UserStore>,
    /// Writes out all that is kept of a user.
    pub exports: Exports,
    /// Removes users.
    pub erasure: Erasure,
}

impl Admin {
    /// What can be done with these ports.
    pub fn new(ports: ErasurePorts, snapshots: Snapshots, catalog: SharedCatalog) -> Self {
        let ErasurePorts { store, projection, users, .. } = &ports;
        let (store, projection, users) = (Arc::clone(store), Arc::clone(projection), Arc::clone(users));
        let exports = Exports::new(store, snapshots, projection, Arc::clone(&users));
        Self { users, exports, erasure: Erasure::new(ports, catalog) }
    }
}

/// What there is in demo mode only.
#[derive(Clone)]
pub struct Demo {
    /// Makes the tokens of `POST /dummy-signin`.
    pub issuer: Arc<dyn TokenIssuer>,
}

/// The endpoints that the OpenAPI document describes.
fn described(demo: bool) -> OpenApiRouter<Arc<Api>> {
    let routes = OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(upload::upload))
        .routes(routes!(download::download))
        .routes(routes!(snapshot::snapshot))
        .routes(routes!(source::source))
        .routes(routes!(schema_version::schema_version))
        .routes(routes!(failures::list))
        .routes(routes!(failures::retry))
        .routes(routes!(admin::users))
        .routes(routes!(admin::devices))
        .routes(routes!(admin::export_user))
        .routes(routes!(admin::delete_user))
        .routes(routes!(health::health))
        .routes(routes!(health::ready));
    let routes = if demo { routes.routes(routes!(signin::dummy_signin)) } else { routes };
    // Behind the layer: an event has to go out at once, and ten thousand idle encoders would fill the memory.
    routes.layer(compression()).routes(routes!(watch::watch))
}

/// The fastest level: on a text of rows the next ones cost several times the time for a tenth of the size.
fn compression() -> CompressionLayer {
    CompressionLayer::new().quality(CompressionLevel::Fastest)
}

/// The whole server but for the socket.
pub fn router(api: Api) -> Router {
    let Api { admission, origins, pace, .. } = api.clone();
    let drain = api.readiness.drain.clone();
    let metrics = api.metrics.clone().map_or_else(Router::new, metrics_router);
    let (routes, document) = described(api.demo.is_some()).split_for_parts();
    let pages = Router::new()
        .route("/", get(docs_page::docs_page))
        .route("/openapi.json", get(openapi::serving(&document)))
        .route("/docs", get(explorer::redirect))
        .route("/docs/", get(explorer::index))
        .route("/docs/{*file}", get(explorer::file))
        .layer(compression())
        .layer(from_fn_with_state(admission.clone(), admission::anonymous));
    let router = routes
        .merge(pages)
        .merge(metrics)
        .fallback(error::nowhere)
        .method_not_allowed_fallback(error::method_not_allowed)
        .with_state(Arc::new(api))
        .layer(from_fn_with_state(pace, pace::pace))
        .layer(from_fn_with_state(admission, admission::admit))
        .layer(from_fn(linger::linger))
        .layer(CatchPanicLayer::custom(error::panicked));
    // Around all that can refuse a request: a page has to be able to read why.
    let router = match origins.layer() {
        Some(layer) => router.layer(layer),
        None => router,
    };
    router.layer(from_fn_with_state(drain, headers::headers)).layer(from_fn(trace::trace))
}

/// The OpenAPI document of a server that is not in demo mode.
pub fn openapi() -> utoipa::openapi::OpenApi {
    described(false).into_openapi()
}
