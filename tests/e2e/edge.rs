//! The server at the edge of the network: with TLS, against slow and many clients, and as it stops behind a balancer.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::raw::{ANSWER_MAX, Socket, head};
use crate::server::{SECRET, Server};

/// Writes a certificate of `localhost` and its key, and gives the certificate.
fn renew(folder: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    cert.der().clone()
}

/// Whether the server answers over TLS with that certificate.
fn answers_with(server: &Server, cert: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config =
        config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(server.url.strip_prefix("https://").unwrap()).unwrap();
    stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    if stream.write_all(request).is_err() {
        return false;
    }
    let _ = stream.read_to_string(&mut answer);
    answer.starts_with("HTTP/1.1 200") && answer.contains("strict-transport-security")
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + ANSWER_MAX;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_certificate_is_read_again_with_sighup_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let old = renew(folder.path());
    let files = [("OUTRIGGER_TLS__CERT", "cert.pem"), ("OUTRIGGER_TLS__KEY", "key.pem"), ("JWT_SECRET", SECRET)];
    let mut server = Server::start(folder.path(), &files);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    assert!(answers_with(&server, &old));
    let new = renew(folder.path());
    assert!(answers_with(&server, &old) && !answers_with(&server, &new));
    server.signal("HUP");
    wait_until("the new one is there", || answers_with(&server, &new));
    assert!(!answers_with(&server, &old));

    fs::write(folder.path().join("cert.pem"), "nothing").unwrap();
    server.signal("HUP");
    wait_until("it says so", || server.stderr().contains("the new certificate cannot be used, the old one stays"));
    assert!(server.stderr().contains("tls.cert cert.pem"), "{}", server.stderr());
    assert!(answers_with(&server, &new));
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_certificate_that_cannot_be_used_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    renew(folder.path());
    fs::write(folder.path().join("key.pem"), "nothing").unwrap();
    let files = [("OUTRIGGER_TLS__CERT", "cert.pem"), ("OUTRIGGER_TLS__KEY", "key.pem"), ("JWT_SECRET", SECRET)];
    let mut command = crate::server::command(folder.path());
    let (code, stderr) = Server::spawn(command.args(crate::server::FREE_PORT).envs(files)).refused();
    assert_eq!(code, Some(2), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains("tls.key key.pem") && !last.contains("nothing"), "{stderr}");
}

#[tokio::test]
async fn a_server_without_tls_outlives_a_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    server.signal("HUP");
    wait_until("it says so", || server.stderr().contains("nothing to read again"));
    assert_eq!(server.sign_in("alice", "phone").await.send("/sync/download").await.status(), 200);
}

#[tokio::test]
async fn clients_that_say_little_are_hung_up_on_and_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[("OUTRIGGER_TIMEOUTS__HEADER_S", "2")]);
    let began = Instant::now();
    let mut slow: Vec<Socket> = (0..200).map(|_| Socket::open(&server)).collect();
    for (number, socket) in slow.iter_mut().enumerate() {
        socket.send(&b"GET /health HTTP/1.1\r\nHost: x\r\nX: "[..number % 30]);
    }
    let alice = server.sign_in("alice", "phone").await;
    assert_eq!(alice.send("/sync/download").await.status(), 200);
    // However steadily they say it.
    let mut dripping = slow.pop().unwrap();
    let dripped = tokio::task::spawn_blocking(move || {
        while dripping.try_send(b"x") {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    for socket in slow {
        assert_eq!(socket.rest(), "", "no answer, and the end");
    }
    dripped.await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[("OUTRIGGER_TIMEOUTS__BODY_S", "1")]);
    let alice = server.sign_in("alice", "phone").await;
    let mut socket = Socket::open(&server);
    let head = head(&server, "POST /sync/upload", alice.token());
    socket.send(format!("{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{").as_bytes());
    let (status, text) = socket.answer().unwrap();
    assert!(status == 408 && text.contains("request_timeout"), "{text}");
}

#[tokio::test]
async fn a_configured_rate_is_kept_to() {
    let folder = tempfile::tempdir().unwrap();
    let rate = [("OUTRIGGER_LIMITS__USER_REQUESTS_PER_S", "1"), ("OUTRIGGER_LIMITS__USER_REQUESTS_BURST", "5")];
    let server = Server::start(folder.path(), &rate);
    let alice = server.sign_in("alice", "phone").await;
    let mut refused = None;
    for _ in 0..100 {
        let answer = alice.send("/sync/download").await;
        if answer.status() != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("there are more than its rate");
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    let metrics = reqwest::get(format!("{}/metrics", server.url)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("outrigger_limited_total{limit=\"user_rate\"} 1"), "{metrics}");
}

#[tokio::test]
async fn proxies_and_pages_are_those_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("OUTRIGGER_LIMITS__ADDRESS_REQUESTS_PER_S", "1"),
        ("OUTRIGGER_LIMITS__ADDRESS_REQUESTS_BURST", "3"),
        ("OUTRIGGER_TRUSTED_PROXIES", r#"["127.0.0.1"]"#),
        ("OUTRIGGER_CORS__ORIGINS", r#"["https://app.example"]"#),
    ];
    let server = Server::start(folder.path(), &variables);
    let http = reqwest::Client::new();
    let ask = async |number: usize| {
        let request = http.get(format!("{}/nothing", server.url)).header("origin", "https://app.example");
        request.header("x-forwarded-for", format!("192.0.2.{number}")).send().await.unwrap()
    };
    for number in 0..40 {
        let answer = ask(number).await;
        assert_eq!((answer.status().as_u16(), number), (404, number), "each is another client");
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example");
    }
    for number in 0..100 {
        if ask(7).await.status() == 429 {
            return;
        }
        assert!(number < 99, "one client is let in for ever");
    }
}

/// Two nodes with the same secret; the first of them drains for a while.
struct Nodes {
    urls: [String; 2],
    /// Whether a balancer that asks `/ready` would send anything there.
    ready: [AtomicBool; 2],
    answered: AtomicUsize,
    done: AtomicBool,
}

impl Nodes {
    /// What a balancer does.
    async fn follow(&self, node: usize) -> bool {
        let (http, mut was_told) = (reqwest::Client::new(), false);
        while !self.done.load(Ordering::SeqCst) {
            let answer = http.get(format!("{}/ready", self.urls[node])).send().await;
            was_told |= answer.as_ref().is_ok_and(|answer| answer.status() == 503);
            self.ready[node].store(answer.is_ok_and(|answer| answer.status() == 200), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        was_told
    }

    /// Asks one of those that are ready, again and again, on connections that are kept.
    async fn ask(&self, token: &str, first: usize) -> Vec<String> {
        let (http, mut failed) = (reqwest::Client::new(), Vec::new());
        let mut id = 0;
        while !self.done.load(Ordering::SeqCst) {
            id += 1;
            let ready = [first, 1 - first].into_iter().find(|node| self.ready[*node].load(Ordering::SeqCst));
            let Some(node) = ready else { continue };
            let change = json!({"source_change_id": id, "table": "users", "op": "INSERT", "pk": uuid::Uuid::new_v4(),
                                "server_version": 0, "payload": {"n": id}});
            let request = http.post(format!("{}/sync/upload", self.urls[node])).bearer_auth(token);
            match request.json(&json!({"changes": [change]})).send().await {
                Ok(answer) if answer.status() == 200 => drop(self.answered.fetch_add(1, Ordering::SeqCst)),
                Ok(answer) => failed.push(format!("node {node}: {}", answer.status())),
                Err(error) => failed.push(format!("node {node}: {error:?}")),
            }
        }
        failed
    }

    async fn answered(&self, more: usize) {
        let wanted = self.answered.load(Ordering::SeqCst) + more;
        while self.answered.load(Ordering::SeqCst) < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_behind_a_balancer_fails_no_request() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let variables = [
        ("JWT_SECRET", SECRET),
        ("OUTRIGGER_DEMO", "true"),
        ("DATABASE_URL", "memory:"),
        ("OUTRIGGER_DRAIN_S", "2"),
        ("OUTRIGGER_LIMITS__USER_REQUESTS_PER_S", "0"),
    ];
    let [mut first, second] = folders.each_ref().map(|folder| Server::start(folder.path(), &variables));
    let nodes = Arc::new(Nodes {
        urls: [first.url.clone(), second.url.clone()],
        ready: [AtomicBool::new(true), AtomicBool::new(true)],
        answered: AtomicUsize::new(0),
        done: AtomicBool::new(false),
    });
    let followed: Vec<_> = (0..2)
        .map(|node| {
            let nodes = Arc::clone(&nodes);
            tokio::spawn(async move { nodes.follow(node).await })
        })
        .collect();
    let mut devices = Vec::new();
    for number in 0..8 {
        let token = second.sign_in(&format!("user-{number}"), "phone").await.token().to_owned();
        let nodes = Arc::clone(&nodes);
        devices.push(tokio::spawn(async move { nodes.ask(&token, number % 2).await }));
    }
    nodes.answered(200).await;
    let mut watch = first.sign_in("alice", "phone").await.watch().await;
    first.signal("TERM");
    while let Some(event) = watch.chunk().await.expect("a watch ends in order") {
        assert!(!event.is_empty());
    }
    let told = Instant::now();
    let stopped = tokio::task::spawn_blocking(move || (first.wait().code(), first.stderr())).await.unwrap();
    assert_eq!(stopped.0, Some(0), "{}", stopped.1);
    assert!(told.elapsed() > Duration::from_secs(1), "it waits for the balancer");
    nodes.answered(200).await;
    nodes.done.store(true, Ordering::SeqCst);
    for device in devices {
        assert_eq!(device.await.unwrap(), Vec::<String>::new());
    }
    let mut was_told = Vec::new();
    for following in followed {
        was_told.push(following.await.unwrap());
    }
    assert_eq!(was_told, [true, false], "the balancer is told before it finds nobody");
}

#[tokio::test]
async fn with_a_second_signal_it_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let forever = [("OUTRIGGER_DRAIN_TIMEOUT_S", "3600"), ("OUTRIGGER_DRAIN_S", "3600")];
    for signals in [["TERM", "TERM"], ["INT", "TERM"]] {
        let mut server = Server::start(folder.path(), &forever);
        let mut watch = server.sign_in("alice", "phone").await.watch().await;
        server.signal(signals[0]);
        // Its watches end, and it goes on.
        while watch.chunk().await.unwrap().is_some() {}
        let late = server.sign_in("bob", "phone").await;
        assert_eq!(late.send("/sync/download").await.status(), 200);
        server.signal(signals[1]);
        assert_eq!(server.wait().code(), Some(1), "{}", server.stderr());
        assert!(server.stderr().contains("stopped at once"), "{}", server.stderr());
    }
}
