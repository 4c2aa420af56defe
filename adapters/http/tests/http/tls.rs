//! TLS, HTTP/2, and certificates that are changed under a running server.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_http::{Serving, Stopped, Timeouts, Tls};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::world::{Server, Setup};

/// Files with a certificate of `localhost` and its key, which can be changed.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a new pair, and gives the certificate.
    fn renew(&self) -> CertificateDer<'static> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(self.path("cert.pem"), cert.pem()).unwrap();
        fs::write(self.path("key.pem"), signing_key.serialize_pem()).unwrap();
        cert.der().clone()
    }

    fn load(&self) -> Result<Tls, String> {
        Tls::load(&self.path("cert.pem"), &self.path("key.pem")).map_err(|error| error.to_string())
    }
}

async fn encrypted(tls: &Tls) -> Server {
    let serving = Serving { tls: Some(tls.clone()), ..Serving::default() };
    Setup { serving, ..Setup::default() }.start().await
}

/// A connection that trusts that certificate, and offers these protocols.
async fn connect(
    server: &Server,
    trusted: &CertificateDer<'static>,
    alpn: &[&str],
) -> Result<TlsStream<TcpStream>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect("localhost".try_into().unwrap(), stream).await.map_err(|error| error.to_string())
}

type Asked = (u16, Version, HeaderMap, String);

async fn read(response: Response<Incoming>) -> Asked {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.version, parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

fn request(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).header("authorization", "Bearer alice/phone").body(Full::default()).unwrap()
}

async fn ask_http1<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: I, path: &str) -> Asked {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = request(path);
    request.headers_mut().insert("host", "localhost".parse().unwrap());
    read(sender.send_request(request).await.unwrap()).await
}

type Http2 = http2::SendRequest<Full<Bytes>>;

async fn http2<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: I) -> Http2 {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask_http2(sender: &mut Http2, path: &str) -> Asked {
    read(sender.send_request(request(&format!("https://localhost{path}"))).await.unwrap()).await
}

#[tokio::test]
async fn a_client_chooses_between_http_1_and_2() {
    let files = Files::new();
    let cert = files.renew();
    let server = encrypted(&files.load().unwrap()).await;
    for alpn in [&["http/1.1"][..], &[]] {
        let stream = connect(&server, &cert, alpn).await.unwrap();
        let (status, version, headers, body) = ask_http1(stream, "/sync/schema-version").await;
        assert_eq!((status, version, body.as_str()), (200, Version::HTTP_11, r#"{"schema_version":7}"#));
        assert_eq!(headers["strict-transport-security"], "max-age=31536000");
    }
    let stream = connect(&server, &cert, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut sender = http2(stream).await;
    let (mut one, mut two) = (sender.clone(), sender.clone());
    let both = tokio::join!(ask_http2(&mut one, "/sync/schema-version"), ask_http2(&mut two, "/sync/download?wait=1"));
    assert_eq!((both.0.0, both.0.1, both.1.0), (200, Version::HTTP_2, 200));
    assert_eq!(both.0.2["strict-transport-security"], "max-age=31536000");
    let (_, _, _, page) = ask_http2(&mut sender, "/").await;
    assert!(page.contains("https://localhost/"), "the page knows the address that the reader came by");
}

#[tokio::test]
async fn a_client_without_tls_is_not_answered_where_there_is_tls() {
    let files = Files::new();
    files.renew();
    let server = encrypted(&files.load().unwrap()).await;
    let mut plain = TcpStream::connect(&server.address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Reset or closed, after an alert or without one.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("ok"));
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let files = Files::new();
    files.renew();
    let timeouts = Timeouts { header: Duration::from_millis(200), ..Timeouts::default() };
    let serving = Serving { tls: Some(files.load().unwrap()), timeouts, ..Serving::default() };
    let mut server = Setup { serving, ..Setup::default() }.start().await;
    let mut silent = TcpStream::connect(&server.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0, "the server hangs up");
    // Nor does one that has just begun hold up a server that stops.
    let _silent = TcpStream::connect(&server.address).await.unwrap();
    server.stop();
    assert_eq!(server.stopped().await, Stopped::Drained);
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_a_bad_one_for_none() {
    let files = Files::new();
    let old = files.renew();
    let tls = files.load().unwrap();
    let server = encrypted(&tls).await;
    let mut open = http2(connect(&server, &old, &["h2"]).await.unwrap()).await;
    let new = files.renew();
    assert!(connect(&server, &new, &[]).await.is_err(), "nobody has said that it is there");
    tls.reload().unwrap();
    assert!(connect(&server, &new, &[]).await.is_ok());
    assert!(connect(&server, &old, &[]).await.is_err());
    assert_eq!(ask_http2(&mut open, "/health").await.0, 200, "who is connected stays so");

    for (name, text) in [("cert.pem", "nothing"), ("key.pem", "nothing"), ("key.pem", "")] {
        let good = fs::read(files.path(name)).unwrap();
        fs::write(files.path(name), text).unwrap();
        assert!(tls.reload().is_err(), "{name}: {text}");
        assert!(connect(&server, &new, &[]).await.is_ok(), "{name}: {text}");
        fs::write(files.path(name), good).unwrap();
    }
    let key = fs::read(files.path("key.pem")).unwrap();
    files.renew();
    fs::write(files.path("key.pem"), key).unwrap();
    assert!(tls.reload().is_err(), "a key of another certificate");
    assert!(connect(&server, &new, &[]).await.is_ok());
}

#[test]
fn what_is_wrong_with_the_files_is_one_sentence() {
    let files = Files::new();
    files.renew();
    let wrong = |path: &Path, text: Option<&str>| {
        let good = fs::read(path).unwrap();
        match text {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let sentence = files.load().unwrap_err();
        fs::write(path, good).unwrap();
        assert!(!sentence.contains('\n') && !sentence.contains("PRIVATE"), "{sentence}");
        sentence
    };
    let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
    let key_text = fs::read_to_string(&key).unwrap();
    for (sentence, part) in [
        (wrong(&cert, None), "tls.cert"),
        (wrong(&cert, Some("")), "no certificate"),
        (wrong(&cert, Some(&key_text)), "no certificate"),
        (wrong(&key, None), "tls.key"),
        (wrong(&key, Some("")), "no key"),
        (wrong(&key, Some("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----")), "tls.key"),
    ] {
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
    let other = Files::new();
    other.renew();
    let pair = Tls::load(&files.path("cert.pem"), &other.path("key.pem"));
    assert!(pair.unwrap_err().to_string().starts_with("tls.cert and tls.key cannot be used together"));
}

#[tokio::test]
async fn http_2_without_tls_is_for_those_who_begin_with_it_where_it_is_on() {
    for h2c in [true, false] {
        let server = Setup { serving: Serving { h2c, ..Serving::default() }, ..Setup::default() }.start().await;
        let stream = TcpStream::connect(&server.address).await.unwrap();
        assert_eq!(ask_http1(stream, "/health").await.0, 200);
        let mut preface = TcpStream::connect(&server.address).await.unwrap();
        preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut first = [0; 9];
        let answer = preface.read_exact(&mut first).await;
        // The settings of the server begin every connection: RFC 9113, 3.4.
        assert_eq!(answer.is_ok() && first[3] == 4, h2c, "{first:?}");
        if h2c {
            let stream = TcpStream::connect(&server.address).await.unwrap();
            assert_eq!(ask_http2(&mut http2(stream).await, "/sync/download").await.0, 200);
        }
    }
}

#[tokio::test]
async fn a_watch_over_http_2_hears_of_changes_and_ends_with_the_server() {
    let files = Files::new();
    let cert = files.renew();
    let mut server = encrypted(&files.load().unwrap()).await;
    let mut sender = http2(connect(&server, &cert, &["h2"]).await.unwrap()).await;
    let response = sender.send_request(request("https://localhost/sync/watch")).await.unwrap();
    let mut body = response.into_body();
    let mut text = String::new();
    while !text.contains("highest_server_seq") {
        let frame = body.frame().await.unwrap().unwrap();
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    server.stop();
    while let Some(frame) = body.frame().await {
        frame.expect("it ends in order");
    }
    drop(sender);
    assert_eq!(server.stopped().await, Stopped::Drained);
}
