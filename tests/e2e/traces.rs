//! Traces: one request can be followed down to its statements.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use outrigger_testkit::postgres_database;
use prost::Message;
use serde_json::json;

use crate::server::Server;

/// A collector on a free port: its address, and what it is sent.
fn collector() -> (String, Receiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sent, received) = channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = Vec::new();
            let body = loop {
                let mut part = [0; 4096];
                let length = connection.read(&mut part).unwrap();
                assert!(length > 0, "the exporter hung up");
                request.extend_from_slice(&part[..length]);
                let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
                let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
                assert!(head.starts_with("post /v1/traces "), "{head}");
                let announced = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if request.len() - end - 4 == announced.parse::<usize>().unwrap() {
                    break request.split_off(end + 4);
                }
            };
            // Before the answer, with which the server may end, and the test look at what has come.
            if sent.send(ExportTraceServiceRequest::decode(body.as_slice()).unwrap()).is_err() {
                return;
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    (address, received)
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    match value {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[tokio::test]
async fn a_request_can_be_followed_to_its_statements() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let (address, received) = collector();
    let variables = [
        ("DATABASE_URL", database.url()),
        ("OUTRIGGER_OTLP__ENDPOINT", &address),
        ("OUTRIGGER_OTLP__SERVICE_NAME", "sync-of-the-test"),
    ];
    let mut server = Server::start(folder.path(), &variables);
    let device = server.sign_in("alice", "phone").await;
    let change = json!({"source_change_id": 1, "table": "users", "op": "INSERT", "server_version": 0,
                        "pk": "00000000-0000-4000-8000-000000000001", "payload": {"name": "a payload"}});
    let upload = reqwest::Client::new().post(format!("{}/sync/upload", server.url)).bearer_auth(device.token());
    let upload = upload.header("x-request-id", "follow-me").json(&json!({"changes": [change]}));
    upload.send().await.unwrap().error_for_status().unwrap();
    // What has not been sent is sent at the end.
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());

    let batches: Vec<ExportTraceServiceRequest> = received.try_iter().collect();
    let resources = batches.iter().flat_map(|batch| &batch.resource_spans);
    let text = format!("{batches:?}");
    assert!(text.contains("sync-of-the-test"), "{text}");
    assert!(!text.contains("a payload") && !text.contains(device.token()), "{text}");
    let spans: Vec<&Span> =
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans).collect();
    let request = spans.iter().find(|span| attribute(span, "request_id") == Some("follow-me"));
    let request = request.unwrap_or_else(|| panic!("no span of the request: {spans:?}"));
    assert_eq!(attribute(request, "route"), Some("/sync/upload"));
    // Each of these is inside the one before.
    for call in ["load", "commit"] {
        let inside = |parent: &Span, name: &str| {
            let children = spans.iter().filter(|span| span.parent_span_id == parent.span_id && span.name == name);
            children.map(|span| (*span).clone()).collect::<Vec<_>>()
        };
        let rounds = inside(request, "upload_round");
        assert_eq!(rounds.len(), 1, "{spans:?}");
        let calls = inside(&rounds[0], "store");
        let calls: Vec<&Span> = calls.iter().filter(|span| attribute(span, "call") == Some(call)).collect();
        assert_eq!(calls.len(), 1, "{call}: {spans:?}");
        assert_eq!(inside(calls[0], "sql").len(), 1, "{call}: {spans:?}");
    }
}
