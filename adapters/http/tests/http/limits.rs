//! How much is let in: rates, what runs at once, and who is counted as whom.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use outrigger_http::{Admission, Limiter, Limits, Proxies, ProxyHeader, Rate, router};
use outrigger_memory::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::serving::{Gate, Gated};
use crate::world::{Answer, Server, Setup, send};

/// More requests than any burst here, and less than a second's worth on the slowest machine.
const MANY: usize = 40;
const UPLOAD: &str = r#"{"changes":[]}"#;

fn admission(limits: &Limits) -> Admission {
    Admission { limiter: Limiter::new(limits), proxies: Arc::default() }
}

fn behind(header: ProxyHeader, limits: &Limits) -> Admission {
    let proxies = Proxies { trusted: vec!["127.0.0.0/8".parse().unwrap()], header };
    Admission { proxies: Arc::new(proxies), ..admission(limits) }
}

async fn limited(limits: Limits) -> Server {
    Setup { admission: admission(&limits), ..Setup::default() }.start().await
}

/// Asks until the answer is that; it never may be, and then the test ends by its time.
async fn until(expected: u16, ask: impl AsyncFn() -> Answer) {
    let again = async {
        while ask().await.status != expected {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), again).await.expect("the answer changes");
}

fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.error().1.as_str()), (status, code));
    let retry_after: u64 = answer.header("retry-after").parse().expect("it says when to come again");
    assert!((1..=5).contains(&retry_after), "{retry_after}");
}

async fn ask(router: &Router, token: &str) -> (StatusCode, HeaderMap) {
    let request = Request::get("/sync/download").header("authorization", format!("Bearer {token}"));
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    (response.status(), response.headers().clone())
}

/// The clock stands still but for what is waited for.
#[tokio::test(start_paused = true)]
async fn a_user_has_a_burst_and_then_a_rate_whatever_the_device() {
    let limits = Limits { user_rate: Some(Rate { per_s: 2, burst: 5 }), ..Limits::default() };
    let router = router(Setup { admission: admission(&limits), ..Setup::default() }.api());
    let passed = async |token: &str| {
        let mut passed = 0;
        while passed < MANY && ask(&router, token).await.0 == 200 {
            passed += 1;
        }
        passed
    };
    assert_eq!(passed("alice/phone").await, 5);
    let (status, headers) = ask(&router, "alice/laptop").await;
    assert_eq!((status.as_u16(), &headers["retry-after"]), (429, &"1".parse().unwrap()));
    assert_eq!(passed("bob/phone").await, 5, "another user is another's business");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(passed("alice/phone").await, 2);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert_eq!(passed("alice/phone").await, 5);
}

#[tokio::test]
async fn whoever_has_no_good_credentials_is_counted_by_address_and_nobody_else() {
    let limits = Limits { address_rate: Some(Rate { per_s: 1, burst: 3 }), ..Limits::default() };
    for (path, token, usual) in [
        ("/", None, 200),
        ("/openapi.json", None, 200),
        ("/nothing", None, 404),
        ("/sync/download", Some("nobody"), 401),
    ] {
        let server = limited(limits.clone()).await;
        let bad = async || {
            let request = server.get(path);
            send(token.into_iter().fold(request, |request, token| request.bearer_auth(token))).await
        };
        assert_eq!(bad().await.status, usual, "{path}");
        until(429, bad).await;
        for _ in 0..MANY {
            assert_eq!(server.download("alice/phone", "").await.status, 200, "a token is good from anywhere");
            assert_eq!(send(server.get("/health")).await.status, 200);
            assert_eq!(send(server.get("/ready")).await.status, 200);
        }
        until(429, async || send(server.get("/nothing")).await).await;
    }
}

#[tokio::test]
async fn a_refusal_has_the_shape_of_all_errors() {
    let limits = Limits { address_rate: Some(Rate { per_s: 1, burst: 1 }), ..Limits::default() };
    let server = limited(limits).await;
    let mut answer = send(server.get("/sync/download")).await;
    while answer.status == 401 {
        answer = send(server.get("/sync/download")).await;
    }
    assert_refused(&answer, 429, "rate_limited");
    assert!(!answer.header("x-request-id").is_empty());
}

/// Whether requests end in a refusal that differ in nothing but what their client says of its address.
async fn is_seen_through(admission: Admission, header: &str, value: impl Fn(usize) -> String) -> bool {
    let server = Setup { admission, ..Setup::default() }.start().await;
    for number in 0..MANY {
        if send(server.get("/nothing").header(header, value(number))).await.status == 429 {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn nobody_gets_another_address_by_saying_so() {
    let limits = Limits { address_rate: Some(Rate { per_s: 1, burst: 3 }), ..Limits::default() };
    let (list, rfc) = (ProxyHeader::XForwardedFor, ProxyHeader::Forwarded);
    // The proxy writes who its client is, and that is another one each time.
    let by_proxy = |number: usize| format!("203.0.113.7, 198.51.100.{number}");
    assert!(!is_seen_through(behind(list, &limits), "x-forwarded-for", by_proxy).await);
    let by_proxy = |number: usize| format!("for=203.0.113.7, for=198.51.100.{number}");
    assert!(!is_seen_through(behind(rfc, &limits), "forwarded", by_proxy).await);
    // The client writes it, behind a proxy or without one.
    let by_client = |number: usize| format!("198.51.100.{number}, 203.0.113.7");
    assert!(is_seen_through(behind(list, &limits), "x-forwarded-for", by_client).await);
    assert!(is_seen_through(admission(&limits), "x-forwarded-for", |number| format!("198.51.100.{number}")).await);
    let by_client = |number: usize| format!("for=198.51.100.{number}, for=203.0.113.7");
    assert!(is_seen_through(behind(rfc, &limits), "forwarded", by_client).await);
    // Or in the header that the proxy does not write.
    assert!(is_seen_through(behind(list, &limits), "forwarded", |number| format!("for=198.51.100.{number}")).await);
    assert!(is_seen_through(behind(rfc, &limits), "x-forwarded-for", |number| format!("198.51.100.{number}")).await);
}

#[tokio::test]
async fn a_server_that_has_enough_to_do_says_so_and_when_to_come_again() {
    let gate = Gate::closed();
    let limits = Limits { requests: 1, ..Limits::default() };
    let setup = Setup { admission: admission(&limits), ..Setup::on(Gated(Arc::clone(&gate))) };
    let server = setup.start().await;
    let running = tokio::spawn(send(server.get("/sync/download").bearer_auth("alice/phone")));
    gate.asked.acquire().await.unwrap().forget();
    let refused = send(server.get("/sync/schema-version").bearer_auth("bob/phone")).await;
    assert_refused(&refused, 503, "unavailable");
    for path in ["/health", "/ready"] {
        assert_eq!(send(server.get(path)).await.status, 200, "a busy server is not a dead one");
    }
    gate.open.add_permits(1);
    assert_eq!(running.await.unwrap().status, 200);
    assert_eq!(send(server.get("/sync/schema-version").bearer_auth("bob/phone")).await.status, 200);
}

#[tokio::test]
async fn who_waits_for_changes_takes_no_place_of_those_who_do_not() {
    let server = limited(Limits { requests: 1, user_requests: 1, ..Limits::default() }).await;
    let mut watches = Vec::new();
    for number in 0..5 {
        let watch = server.get("/sync/watch").bearer_auth(format!("alice/device-{number}")).send().await.unwrap();
        assert_eq!(watch.status(), 200);
        watches.push(watch);
    }
    let held = tokio::spawn(send(server.get("/sync/download?wait=60").bearer_auth("alice/phone")));
    // At first it may not have begun to wait.
    until(200, async || server.download("alice/laptop", "").await).await;
    assert!(!held.is_finished());
    held.abort();
}

#[tokio::test]
async fn those_who_wait_are_bounded_by_user_and_in_all() {
    let server = limited(Limits { watchers: 3, user_watchers: 2, ..Limits::default() }).await;
    let watch = async |token: &str| server.get("/sync/watch").bearer_auth(token).send().await.unwrap();
    let (one, two) = (watch("alice/1").await, watch("alice/2").await);
    assert_refused(&send(server.get("/sync/watch").bearer_auth("alice/3")).await, 429, "rate_limited");
    assert_refused(&server.download("alice/3", "?wait=60").await, 429, "rate_limited");
    assert_eq!(server.download("alice/3", "").await.status, 200);
    let three = watch("bob/1").await;
    assert_eq!([&one, &two, &three].map(|watch| watch.status().as_u16()), [200; 3]);
    assert_refused(&send(server.get("/sync/watch").bearer_auth("carol/1")).await, 503, "unavailable");
    drop(one);
    let watching = async || {
        let response = watch("carol/1").await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: String::new() }
    };
    until(200, watching).await;
}

/// An upload of nothing of which the body is still to come; the server is waiting for it.
async fn half_an_upload(server: &Server, token: &str) -> TcpStream {
    let mut connection = TcpStream::connect(&server.address).await.unwrap();
    let head = format!(
        "POST /sync/upload HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nexpect: 100-continue\r\n\
         connection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        UPLOAD.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    connection.read_exact(&mut asked).await.unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&asked));
    connection
}

#[tokio::test]
async fn uploads_of_a_user_are_bounded_before_their_bodies_are_read() {
    let server = limited(Limits { user_uploads: 1, ..Limits::default() }).await;
    let mut half = half_an_upload(&server, "alice/phone").await;
    assert_refused(&server.upload("alice/laptop", UPLOAD).await, 429, "rate_limited");
    assert_eq!(server.download("alice/laptop", "").await.status, 200, "only uploads are counted");
    assert_eq!(server.upload("bob/phone", UPLOAD).await.status, 200);
    half.write_all(UPLOAD.as_bytes()).await.unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.upload("alice/laptop", UPLOAD).await.status, 200);
    // One that is given up gives its place back too.
    drop(half_an_upload(&server, "alice/phone").await);
    until(200, async || server.upload("alice/laptop", UPLOAD).await).await;
}

#[tokio::test]
async fn an_answer_counts_until_it_is_taken() {
    let limits = Limits { user_requests: 1, ..Limits::default() };
    let store = Arc::new(MemoryStore::default());
    let setup = Setup {
        admission: admission(&limits),
        store: Arc::<MemoryStore>::clone(&store),
        projection: Arc::<MemoryStore>::clone(&store),
        contacts: store,
        ..Setup::default()
    };
    let server = setup.start().await;
    // More than the buffers of a connection take.
    let payload = "x".repeat(900_000);
    for id in 1..=16 {
        let change = format!(
            r#"{{"source_change_id":{id},"table":"users","op":"INSERT","pk":"00000000-0000-0000-0000-{id:012}","server_version":0,"payload":{{"x":"{payload}"}}}}"#
        );
        server.changes("alice/phone", &[&change]).await;
    }
    let mut slow = TcpStream::connect(&server.address).await.unwrap();
    let request = b"GET /sync/download HTTP/1.1\r\nhost: x\r\nauthorization: Bearer alice/laptop\r\n\r\n";
    slow.write_all(request).await.unwrap();
    slow.read_exact(&mut [0; 12]).await.unwrap();
    assert_refused(&server.download("alice/tablet", "?limit=1").await, 429, "rate_limited");
    assert_eq!(server.download("bob/phone", "").await.status, 200);
    drop(slow);
    until(200, async || server.download("alice/tablet", "?limit=1").await).await;
}
