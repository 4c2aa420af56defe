//! `GET /health` and `GET /ready`: for whatever starts, restarts and balances servers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use outrigger_application::{Drain, SyncStore};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use crate::Api;
use crate::body::json;
use crate::error::{ApiError, ErrorKind};
use crate::openapi::ReadyErrors;

/// How long the storage may take to answer before it counts as down.
const PING_MAX: Duration = Duration::from_secs(2);

/// The state of the server.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Is the process up?
///
/// Touches nothing: if it does not answer, restart the process.
#[utoipa::path(get, path = "/health", tag = "operation",
    responses((status = 200, description = "The process is up.", body = Status)))]
pub(crate) async fn health() -> Response {
    json(&Status { status: "ok" }, 32)
}

/// Whether requests may be sent to this server. Cheap to clone; clones ask together.
#[derive(Clone)]
pub struct Readiness {
    store: Arc<dyn SyncStore>,
    /// Whether the server is about to stop.
    pub(crate) drain: Drain,
    /// The last question to the store, and its answer.
    last: Arc<Mutex<Option<Asked>>>,
}

/// When the store was asked, and what it answered.
type Asked = (Instant, Result<(), String>);

impl Readiness {
    /// Of a server on that store, which stops with that.
    pub fn new(store: Arc<dyn SyncStore>, drain: Drain) -> Self {
        Self { store, drain, last: Arc::default() }
    }

    async fn check(&self) -> Result<(), ApiError> {
        if self.drain.has_begun() {
            return Err(ApiError::client(ErrorKind::Unavailable, "the server is about to stop"));
        }
        let not_ready = |cause| ApiError::unavailable("the storage is not as it has to be", cause);
        self.ask().await.map_err(not_ready)
    }

    /// Asks the store. Those that come while it is being asked share the next answer: however many ask, and whoever they
    /// are, the store is asked one question at a time.
    async fn ask(&self) -> Result<(), String> {
        let came = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((asked, answer)) = &*last
            && *asked > came
        {
            return answer.clone();
        }
        let asked = Instant::now();
        let answer = match timeout(PING_MAX, self.store.ping()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {PING_MAX:?}")),
        };
        *last = Some((asked, answer.clone()));
        answer
    }
}

/// May requests be sent here?
///
/// Yes if the storage answers to reads and writes, its tables are those that this server knows, and the server is not about
/// to stop. If not, send devices elsewhere until it is so.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "operation",
    responses(
        (status = 200, description = "They may.", body = Status, example = json!({"status": "ready"})),
        ReadyErrors
    ),
)]
pub(crate) async fn ready(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    api.readiness.check().await?;
    Ok(json(&Status { status: "ready" }, 32))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;
    use outrigger_application::MockSyncStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_are_one_question() {
        let asked = Arc::new(AtomicU32::new(0));
        let mut store = MockSyncStore::new();
        let counting = Arc::clone(&asked);
        store.expect_ping().returning(move || {
            counting.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let readiness = Readiness::new(Arc::new(store), Drain::default());
        let guard = readiness.last.lock().await;
        let many = (0..100).map(|_| readiness.check());
        let (answers, ()) = tokio::join!(join_all(many), async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(guard);
        });
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(readiness.check().await.is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 2, "an answer is not kept for those who ask later");
    }
}
