//! How requests reach the server.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;

/// How long a request may take, answer included.
const TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A request, without the address of the server.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path with its query, as in `/sync/download?after=0`.
    pub path: String,
    /// The bearer token.
    pub token: String,
    /// The body, which is JSON.
    pub body: Option<String>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// No answer came; whether the request arrived is unknown.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// Carries requests to the server. Tests put another one in its place, which loses them.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends a request and waits for its answer.
    async fn send(&self, request: Request) -> Result<Response, TransportError>;

    /// Opens a stream of events. Ends when the connection does.
    async fn watch(&self, request: Request) -> Result<BoxStream<'static, String>, TransportError>;
}

/// HTTP to one server.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    url: String,
}

impl Http {
    /// The server at that address, as in `https://sync.example.com`.
    pub fn new(url: impl Into<String>) -> Self {
        let client = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).build().unwrap_or_default();
        Self { client, url: url.into().trim_end_matches('/').to_owned() }
    }

    fn request(&self, request: &Request) -> reqwest::RequestBuilder {
        let url = format!("{}{}", self.url, request.path);
        let builder = if request.method == "POST" { self.client.post(url) } else { self.client.get(url) };
        let builder = builder.bearer_auth(&request.token);
        match &request.body {
            Some(body) => builder.header("content-type", "application/json").body(body.clone()),
            None => builder,
        }
    }
}

fn lost(error: reqwest::Error) -> TransportError {
    // Without the address: it may hold what does not belong in a log.
    TransportError(error.without_url().to_string())
}

#[async_trait]
impl Transport for Http {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        let response = self.request(&request).timeout(TIMEOUT).send().await.map_err(lost)?;
        let status = response.status().as_u16();
        Ok(Response { status, body: response.text().await.map_err(lost)? })
    }

    async fn watch(&self, request: Request) -> Result<BoxStream<'static, String>, TransportError> {
        let response = self.request(&request).send().await.map_err(lost)?;
        if !response.status().is_success() {
            return Err(TransportError(format!("the watch was answered with {}", response.status())));
        }
        let chunks =
            response.bytes_stream().map(|chunk| chunk.ok().map(|chunk| String::from_utf8_lossy(&chunk).into()));
        Ok(chunks.take_while(|chunk| std::future::ready(chunk.is_some())).filter_map(std::future::ready).boxed())
    }
}
