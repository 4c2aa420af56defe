//! What failures look like, to the client and in the log.

use std::io;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::Request;
use outrigger_application::{MockSyncStore, StoreError};
use outrigger_http::router;
use tower::ServiceExt;

use crate::world::{Setup, send};

const EMPTY: &str = r#"{"changes":[]}"#;

#[tokio::test]
async fn without_good_credentials_nothing_is_asked_of_the_store() {
    let server = Setup { demo: true, ..Setup::on(MockSyncStore::new()) }.start().await;
    for (method, path) in [
        ("POST", "/sync/upload"),
        ("GET", "/sync/download"),
        ("GET", "/sync/schema-version"),
        ("GET", "/admin/materialize-failures"),
        ("POST", "/admin/materialize-failures/retry?id=1"),
    ] {
        for headers in [
            &[][..],
            &[("authorization", "")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Basic YTpi")],
            &[("authorization", "alice/phone")],
            &[("authorization", "Bearer nobody")],
            &[("authorization", "Bearer alice/phone"), ("authorization", "Bearer alice/phone")],
            &[("authorization", "Bearer alice"), ("outrigger-source-id", "a"), ("outrigger-source-id", "a")],
            &[("authorization", "Bearer alice/phone"), ("outrigger-source-id", "laptop")],
        ] {
            let request = if method == "POST" { server.post(path).body(EMPTY) } else { server.get(path) };
            let request = request.header("content-type", "application/json");
            let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let answer = send(request).await;
            let (status, code, message) = answer.error();
            assert_eq!((status, code.as_str()), (401, "authentication_failed"), "{path} {headers:?}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            assert!(!message.contains("alice"), "{message}");
        }
    }
}

#[tokio::test]
async fn credentials_come_in_two_headers() {
    let server = Setup::default().start().await;
    for (authorization, source) in
        [("Bearer alice/phone", None), ("bearer  alice/phone", None), ("BEARER alice", Some("søster's phone"))]
    {
        let request = server.get("/sync/schema-version").header("authorization", authorization);
        let request = source.into_iter().fold(request, |request, source| request.header("outrigger-source-id", source));
        assert_eq!(send(request).await.status, 200, "{authorization}");
    }
    let request = server.get("/sync/schema-version").header("authorization", "Bearer alice");
    let latin1 = reqwest::header::HeaderValue::from_bytes(b"s\xf8ster").unwrap();
    assert_eq!(send(request.header("outrigger-source-id", latin1)).await.error().0, 401);
}

#[tokio::test]
async fn every_other_path_or_method_is_refused_in_the_same_shape() {
    let server = Setup::default().start().await;
    for path in ["/nothing", "/sync", "/sync/", "/sync/upload/", "/docs/nothing", "/dummy-signin", "/admin", "/admin/x"]
    {
        let (status, code, _) = send(server.get(path)).await.error();
        assert_eq!((status, code.as_str()), (404, "not_found"), "{path}");
    }
    for (path, allowed) in [("/sync/upload", "POST"), ("/sync/download", "GET,HEAD"), ("/", "GET,HEAD")] {
        let wrong = if allowed == "POST" { server.get(path) } else { server.post(path) };
        let answer = send(wrong).await;
        let (status, code, _) = answer.error();
        assert_eq!((status, code.as_str()), (405, "method_not_allowed"), "{path}");
        assert_eq!(answer.header("allow"), allowed, "{path}");
    }
}

type MakeError = fn() -> StoreError;

fn errors() -> [(MakeError, u16, &'static str); 4] {
    [
        (|| StoreError::Unavailable("db.internal refused".into()), 503, "unavailable"),
        (|| StoreError::Contention, 503, "unavailable"),
        (|| StoreError::Corrupt { what: "db.internal row 7".to_owned() }, 500, "internal_error"),
        (|| StoreError::Backend("db.internal syntax".into()), 500, "internal_error"),
    ]
}

#[tokio::test]
async fn an_error_of_the_store_keeps_its_cause_to_itself() {
    for (error, expected, code) in errors() {
        let mut store = MockSyncStore::new();
        store.expect_assume().returning(|_, _| None);
        store.expect_load().returning(move |_, _| Err(error()));
        store.expect_page().returning(move |_, _| Err(error()));
        let server = Setup::on(store).start().await;
        for answer in [server.upload("alice/phone", EMPTY).await, server.download("alice/phone", "").await] {
            let (status, found, message) = answer.error();
            assert_eq!((status, found.as_str()), (expected, code));
            assert!(!message.contains("db.internal"), "{message}");
            assert_eq!(!answer.header("retry-after").is_empty(), expected == 503);
        }
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_checked_are_a_503() {
    let server = Setup::on(MockSyncStore::new()).start().await;
    let answer = server.download("later", "").await;
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (503, "unavailable"));
    assert!(!message.contains("keys.example"), "{message}");
    assert_eq!(answer.header("retry-after"), "2");
}

#[tokio::test]
async fn a_panic_is_a_500() {
    // A mock that expects nothing panics.
    let server = Setup::on(MockSyncStore::new()).start().await;
    let answer = server.download("alice/phone", "").await;
    let (status, code, message) = answer.error();
    assert_eq!((status, code.as_str()), (500, "internal_error"));
    assert!(!message.contains("Mock"), "{message}");
    assert!(!answer.header("x-request-id").is_empty());
    assert_eq!(send(server.get("/health")).await.status, 200, "the server lives on");
}

#[tokio::test]
async fn health_asks_nothing_and_ready_asks_the_store() {
    let server = Setup::on(MockSyncStore::new()).start().await;
    assert_eq!(send(server.get("/health")).await.text, r#"{"status":"ok"}"#);
    let mut store = MockSyncStore::new();
    store.expect_ping().returning(|| Ok(()));
    let server = Setup::on(store).start().await;
    assert_eq!(send(server.get("/ready")).await.text, r#"{"status":"ready"}"#);
    for (error, _, _) in errors() {
        let mut store = MockSyncStore::new();
        store.expect_ping().returning(move || Err(error()));
        let server = Setup::on(store).start().await;
        let answer = send(server.get("/ready")).await;
        let (status, code, message) = answer.error();
        assert_eq!((status, code.as_str()), (503, "unavailable"));
        assert!(!message.contains("db.internal"), "{message}");
        assert!(!answer.header("retry-after").is_empty());
    }
}

/// A store of which no call ever returns.
struct Hanging;

#[async_trait::async_trait]
impl outrigger_application::SyncStore for Hanging {
    async fn load(
        &self,
        _: &outrigger_domain::UserId,
        _: &outrigger_domain::Wanted,
    ) -> Result<outrigger_domain::Snapshot, StoreError> {
        std::future::pending().await
    }

    async fn commit(&self, _: &outrigger_domain::UserId, _: outrigger_domain::Plan) -> Result<(), StoreError> {
        std::future::pending().await
    }

    async fn page(
        &self,
        _: &outrigger_domain::UserId,
        _: &outrigger_domain::window::PageQuery,
    ) -> Result<outrigger_domain::window::Slice, StoreError> {
        std::future::pending().await
    }

    async fn head(
        &self,
        _: &outrigger_domain::UserId,
    ) -> Result<(outrigger_domain::StreamHead, outrigger_domain::Kept), StoreError> {
        std::future::pending().await
    }

    async fn rows(
        &self,
        _: &outrigger_domain::UserId,
        _: &outrigger_application::ports::store::RowsQuery,
    ) -> Result<outrigger_application::ports::store::Rows, StoreError> {
        std::future::pending().await
    }

    async fn tables(&self, _: &outrigger_domain::UserId) -> Result<Vec<outrigger_domain::TableName>, StoreError> {
        std::future::pending().await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn ready_does_not_wait_for_ever() {
    let request = Request::get("/ready").body(Body::empty()).unwrap();
    let response = router(Setup::on(Hanging).api()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 503);
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let server = Setup::default().start().await;
    let longest = "x".repeat(128);
    for id in ["a", "0190-ABC_./:", &longest] {
        for path in ["/health", "/sync/download", "/nothing"] {
            assert_eq!(send(server.get(path).header("x-request-id", id)).await.header("x-request-id"), id);
        }
    }
    let too_long = "x".repeat(129);
    for odd in ["", "a b", "tab\there", &too_long, "é"] {
        let answer = send(server.get("/health").header("x-request-id", odd)).await;
        let id: uuid::Uuid = answer.header("x-request-id").parse().unwrap();
        assert_eq!(id.get_version_num(), 7, "{odd:?}");
    }
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines about requests, each as a JSON object.
    fn lines(&self) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

// One thread, so that the log set for this thread sees the server's tasks as well.
#[tokio::test(flavor = "current_thread")]
async fn a_request_is_one_line_in_the_log_without_secrets_and_a_failure_one_more() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut store = MockSyncStore::new();
    store.expect_page().returning(|_, _| Err(StoreError::Backend("disk on fire".into())));
    let server = Setup::on(store).start().await;
    let request = server.get("/sync/download?schema=secret").bearer_auth("alice/hushhush");
    send(request.header("x-request-id", "id-1")).await;
    let body = r#"{"changes":[{"source_change_id":1,"payload":{"diary":"private"}}]"#;
    send(server.upload_request("alice/hushhush", body).header("x-request-id", "id-2")).await;
    send(server.get("/private/path").header("x-request-id", "id-3")).await;

    let about = |id: &str| -> Vec<serde_json::Value> {
        log.lines().into_iter().filter(|line| line["span"]["request_id"] == id && line["target"] != "hyper").collect()
    };
    let ours = |id: &str| -> Vec<serde_json::Value> {
        about(id).into_iter().filter(|line| line["target"].as_str().unwrap().starts_with("outrigger")).collect()
    };
    let failed = ours("id-1");
    assert_eq!(failed.len(), 2, "{failed:#?}");
    assert_eq!(failed[0]["level"], "ERROR");
    assert!(failed[0]["fields"]["cause"].as_str().unwrap().contains("disk on fire"));
    let span = &failed[1]["span"];
    assert_eq!(span["method"], "GET");
    assert_eq!(span["route"], "/sync/download");
    assert_eq!(span["status"], 500);
    assert_eq!(span["user.id"], "alice");
    assert!(span["duration_ms"].as_f64().unwrap() >= 0.0);
    assert_eq!(ours("id-2").len(), 1);
    assert_eq!(ours("id-2")[0]["span"]["route"], "/sync/upload");
    assert_eq!(ours("id-3")[0]["span"]["route"], "none");
    for line in log.lines().iter().filter(|line| line["target"].as_str().unwrap().starts_with("outrigger")) {
        for secret in ["hushhush", "private", "secret"] {
            assert!(!line.to_string().contains(secret), "{line}");
        }
    }
}
