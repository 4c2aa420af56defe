//! Requests as bytes on a socket: by pieces, of which the rest may never come.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::server::Server;

/// How long an answer may take on a machine that does much else. Whatever takes longer hangs.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A connection to a server.
pub(crate) struct Socket(TcpStream);

impl Socket {
    pub(crate) fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(host(server)).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        stream.set_write_timeout(Some(ANSWER_MAX)).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends what the server takes: it may answer, and stop reading, before it has all.
    pub(crate) fn offer(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Sends, unless the server has hung up.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// What is still to be read. That the server has hung up on what was sent is an end, too.
    pub(crate) fn rest(mut self) -> String {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("no end: {error}"),
            _ => String::from_utf8_lossy(&rest).into_owned(),
        }
    }

    /// The next bytes of the answer, as many as that.
    pub(crate) fn receive(&mut self, bytes: usize) -> Vec<u8> {
        let mut received = vec![0; bytes];
        self.0.read_exact(&mut received).unwrap();
        received
    }

    /// The status and the head of the answer, which the server has to end by closing the connection.
    pub(crate) fn answer(mut self) -> Result<(u16, String), String> {
        let mut answer = Vec::new();
        let read = self.0.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        status.map(|status| (status, text)).ok_or_else(|| format!("no answer: {read:?}"))
    }

    /// Hangs up in order, or as one whose machine has died.
    pub(crate) fn hang_up(self, in_order: bool) {
        if !in_order {
            self.0.set_nonblocking(true).unwrap();
            tokio::net::TcpStream::from_std(self.0).unwrap().set_zero_linger().unwrap();
        }
    }
}

pub(crate) fn host(server: &Server) -> &str {
    server.url.strip_prefix("http://").unwrap()
}

/// The head of a request, all of it but the blank line.
pub(crate) fn head(server: &Server, line: &str, token: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n", host(server))
}

/// A request to upload that body.
pub(crate) fn upload(server: &Server, token: &str, body: &[u8]) -> Vec<u8> {
    let head = head(server, "POST /sync/upload", token);
    let head = format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
