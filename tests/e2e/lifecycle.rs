//! Stopping, being killed, and starting again.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::{FREE_PORT, Server, command};

#[test]
fn a_signal_ends_it_with_exit_code_0() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::demo(folder.path());
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal}: {}", server.stderr());
    }
}

/// Half of a request, sent; its other half; and the connection.
async fn half_an_upload(server: &Server) -> (TcpStream, &'static str) {
    let token = server.sign_in("alice", "phone").await.token().to_owned();
    let body = r#"{"last_server_seq_seen":0,"changes":[]}"#;
    let (sent, rest) = body.split_at(10);
    let host = server.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(host).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "POST /sync/upload HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nExpect: 100-continue\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).unwrap();
    // The server asks for the body once a handler reads it: from here on the request is running.
    let mut asked = [0; 25];
    connection.read_exact(&mut asked).unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&asked));
    connection.write_all(sent.as_bytes()).unwrap();
    (connection, rest)
}

fn wait_until_refused(server: &Server) {
    let host = server.url.strip_prefix("http://").unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(host).is_ok() {
        assert!(Instant::now() < deadline, "it still accepts connections");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_running_request_is_finished_before_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::demo(folder.path());
    let (mut connection, rest) = half_an_upload(&server).await;
    server.signal("TERM");
    wait_until_refused(&server);
    connection.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_keep_it_from_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &[("OUTRIGGER_DRAIN_TIMEOUT_S", "1")]);
    let (_connection, _) = half_an_upload(&server).await;
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let mut devices = Vec::new();
    for device in 0..4 {
        let client = server.sign_in("alice", &format!("device-{device}")).await;
        devices.push(tokio::spawn(async move {
            let mut answered = BTreeSet::new();
            for number in (device * 1_000_000 + 1).. {
                match client.insert(number).await {
                    Some(status) => assert_eq!(status["status"], "applied", "{status}"),
                    None => break,
                }
                answered.insert(i64::from(number));
            }
            answered
        }));
    }
    let reader = server.sign_in("alice", "reader").await;
    while reader.download().await.len() < 200 {}
    server.signal("KILL");
    let mut answered = BTreeSet::new();
    for device in devices {
        answered.extend(device.await.unwrap());
    }
    drop(server);

    let server = Server::demo(folder.path());
    let stream = server.sign_in("alice", "reader").await.download().await;
    let places: Vec<i64> = stream.iter().filter_map(|change| change["server_id"].as_i64()).collect();
    assert_eq!(places, (1..=i64::try_from(stream.len()).unwrap()).collect::<Vec<_>>());
    let kept: BTreeSet<i64> = stream.iter().filter_map(|change| change["source_change_id"].as_i64()).collect();
    let lost: Vec<&i64> = answered.difference(&kept).collect();
    assert!(answered.len() >= 196 && lost.is_empty(), "{lost:?} of {} are lost", answered.len());
}

#[test]
fn a_port_that_is_taken_is_one_plain_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let address = server.url.strip_prefix("http://").unwrap();
    let (code, stderr) = Server::spawn(command(folder.path()).args(["serve", "--listen", address])).refused();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.lines().last().is_some_and(|line| line.contains("listen") && line.contains(address)), "{stderr}");
}

#[test]
fn a_file_of_a_later_release_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Server::demo(folder.path()));
    let database = rusqlite::Connection::open(folder.path().join("outrigger.db")).unwrap();
    let later = "INSERT INTO sync_schema_migrations (number, name, sql) VALUES (1000, 'later', '')";
    database.execute(later, []).unwrap();
    drop(database);
    let (code, stderr) = Server::spawn(command(folder.path()).args(FREE_PORT)).refused();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("1000") && stderr.contains("upgrade"), "{stderr}");
}

#[test]
fn the_log_is_json_where_nobody_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &[("JWT_SECRET", crate::server::SECRET)]);
    server.signal("TERM");
    server.wait();
    let stderr = server.stderr();
    assert!(!stderr.is_empty());
    for line in stderr.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["level"].is_string() && event["message"].is_string(), "{line}");
    }
    assert!(stderr.contains(&server.url), "{stderr}");
}
