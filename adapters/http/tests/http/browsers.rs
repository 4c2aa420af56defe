//! What browsers are told: which pages may ask, and what may be done with an answer.

use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use outrigger_application::MockSyncStore;
use outrigger_http::{Admission, Limiter, Limits, Origins, router};
use tower::ServiceExt;

use crate::world::{Setup, send};

const APP: &str = "https://app.example";

fn these() -> Origins {
    Origins::These(vec![APP.parse().unwrap(), "http://localhost:5173".parse().unwrap()])
}

async fn ask(setup: Setup, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = Request::builder().method(method).uri(path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    router(setup.api()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn pages_of_those_origins_may_ask() {
    let preflight = |origin| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ]
    };
    for (origin, allowed) in
        [(APP, APP), ("http://localhost:5173", "http://localhost:5173"), ("https://evil.example", ""), ("null", "")]
    {
        let setup = || Setup { origins: these(), ..Setup::default() };
        let answer = ask(setup(), Method::OPTIONS, "/sync/upload", &preflight(origin)).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), allowed, "{origin}");
        let answer = ask(setup(), Method::GET, "/sync/download", &[("origin", origin)]).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "access-control-allow-origin")), (401, allowed));
        let mut varies = answer.headers().get_all("vary").iter();
        assert!(varies.any(|value| value.to_str().unwrap().contains("origin")), "a cache keeps them apart");
        assert_eq!(header(&answer, "access-control-allow-credentials"), "", "no cookie is asked for");
    }
    let answer =
        ask(Setup { origins: these(), ..Setup::default() }, Method::OPTIONS, "/sync/upload", &preflight(APP)).await;
    assert_eq!(answer.status(), 200);
    for (name, parts) in [
        ("access-control-allow-methods", &["GET", "POST"][..]),
        ("access-control-allow-headers", &["authorization", "content-type", "outrigger-source-id", "last-event-id"]),
        ("access-control-max-age", &["3600"]),
    ] {
        assert!(parts.iter().all(|part| header(&answer, name).contains(part)), "{name}: {}", header(&answer, name));
    }
    let any =
        ask(Setup { origins: Origins::Any, ..Setup::default() }, Method::GET, "/health", &[("origin", APP)]).await;
    assert_eq!(header(&any, "access-control-allow-origin"), "*");
    assert_eq!(header(&any, "access-control-expose-headers"), "x-request-id,retry-after");
}

#[tokio::test]
async fn without_configuration_no_page_may() {
    let headers = [("origin", APP), ("access-control-request-method", "POST")];
    let answer = ask(Setup::default(), Method::OPTIONS, "/sync/upload", &headers).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "access-control-allow-origin")), (405, ""));
}

#[tokio::test]
async fn a_page_can_read_why_it_was_refused() {
    let full =
        || Admission { limiter: Limiter::new(&Limits { requests: 0, ..Limits::default() }), ..Admission::default() };
    let setup = Setup { origins: these(), admission: full(), ..Setup::default() };
    let answer = ask(setup, Method::GET, "/sync/download", &[("origin", APP)]).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "access-control-allow-origin")), (503, APP));
    let setup = Setup { origins: these(), ..Setup::on(MockSyncStore::new()) };
    let headers = [("origin", APP), ("authorization", "Bearer alice/phone")];
    let answer = ask(setup, Method::GET, "/sync/download", &headers).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "access-control-allow-origin")), (500, APP));
}

#[tokio::test]
async fn every_answer_says_what_may_be_done_with_it() {
    let server = Setup::default().start().await;
    for path in ["/health", "/sync/download", "/nothing", "/docs/", "/docs/swagger-ui.css", "/", "/openapi.json"] {
        let answer = send(server.get(path)).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{path}");
        }
        assert!(answer.header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert_eq!(answer.header("strict-transport-security"), "", "there is no TLS here");
    }
    let explorer = send(server.get("/docs/")).await;
    assert!(!explorer.text.contains("<script>") && !explorer.text.contains("<style>"), "its policy forbids that");
    assert!(explorer.header("content-security-policy").contains("default-src 'self'"));
}

#[tokio::test]
async fn a_server_that_is_about_to_stop_is_not_ready_and_sends_its_clients_elsewhere() {
    let setup = Setup::default();
    let drain = setup.drain.clone();
    let server = setup.start().await;
    assert_eq!(send(server.get("/ready")).await.status, 200);
    assert_eq!(server.download("alice/phone", "").await.header("connection"), "");
    drain.begin();
    let ready = send(server.get("/ready")).await;
    assert_eq!((ready.status, ready.error().1.as_str()), (503, "unavailable"));
    assert!(!ready.header("retry-after").is_empty());
    assert_eq!(send(server.get("/health")).await.status, 200);
    let served = server.download("alice/phone", "").await;
    assert_eq!((served.status, served.header("connection")), (200, "close"));
}
