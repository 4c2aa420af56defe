//! One device: one connection that stays open, and nothing done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::BenchError;
use crate::wire::Counted;

/// A connection of one device.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    authorization: String,
    bytes: Arc<AtomicU64>,
}

impl Client {
    /// Connects to a server as the device that the token speaks for.
    pub(crate) async fn connect(address: &str, token: &str) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (stream, bytes) = Counted::new(stream);
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // How it ends is told to the request that is under way.
            let _ = connection.await;
        });
        Ok(Self { sender, host: address.to_owned(), authorization: format!("Bearer {token}"), bytes })
    }

    /// Bytes sent and received so far, heads included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    async fn send(&mut self, method: &str, path: &str, body: Bytes) -> Result<Response<Incoming>, BenchError> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        request = request.header("authorization", &self.authorization);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        self.sender.ready().await?;
        let response = self.sender.send_request(request.body(Full::new(body)).map_err(BenchError::other)?).await?;
        if !response.status().is_success() {
            let status = response.status();
            let text = response.into_body().collect().await?.to_bytes();
            return Err(BenchError::Refused(format!("{path}: {status} {}", String::from_utf8_lossy(&text))));
        }
        Ok(response)
    }

    /// An answer as a whole.
    pub(crate) async fn call(&mut self, method: &str, path: &str, body: Bytes) -> Result<Bytes, BenchError> {
        let response = self.send(method, path, body).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    /// A stream of lines that is read and dropped: its bytes, and its last ones.
    pub(crate) async fn lines(
        &mut self,
        path: &str,
        encoding: Option<&'static str>,
    ) -> Result<(u64, Bytes), BenchError> {
        let mut request = Request::builder().uri(path).header("host", &self.host);
        request = request.header("authorization", &self.authorization).header("accept", "application/x-ndjson");
        if let Some(encoding) = encoding {
            request = request.header("accept-encoding", encoding);
        }
        self.sender.ready().await?;
        let request = request.body(Full::default()).map_err(BenchError::other)?;
        let response = self.sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(BenchError::Refused(format!("{path}: {}", response.status())));
        }
        let (mut body, mut bytes, mut last) = (response.into_body(), 0, Bytes::new());
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes += data.len() as u64;
                last = data;
            }
        }
        Ok((bytes, last))
    }

    /// Events as they come.
    pub(crate) async fn watch(&mut self) -> Result<Events, BenchError> {
        let response = self.send("GET", "/sync/watch", Bytes::new()).await?;
        Ok(Events { body: response.into_body(), text: String::new() })
    }
}

/// An open watch.
pub(crate) struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// Waits until the stream is told to have come as far as that; when that was.
    pub(crate) async fn until(&mut self, head: i64) -> Result<Instant, BenchError> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let told =
                    event.rsplit_once("\"highest_server_seq\":").and_then(|(_, number)| number.strip_suffix('}'));
                let told = told.and_then(|number| number.parse::<i64>().ok());
                let rest = rest.to_owned();
                self.text = rest;
                if told.is_some_and(|told| told >= head) {
                    return Ok(Instant::now());
                }
            }
            let frame = self.body.frame().await.ok_or(BenchError::Ended)??;
            if let Ok(data) = frame.into_data() {
                self.text += &String::from_utf8_lossy(&data);
            }
        }
    }
}
