//! How requests reach the server.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// How long a request may take, answer included.
const TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one line of an event stream. What has longer ones is no Outrigger.
const LINE_BYTES_MAX: usize = 64 * 1024;

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
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// How long the server wants to be left alone: its `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// What a request for events came to.
pub enum Watched {
    /// The lines of the event stream. It ends when the connection does.
    Lines(BoxStream<'static, String>),
    /// There are none.
    Refused(Response),
}

/// No answer came; whether the request arrived is unknown.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// Carries requests to the server. Tests put another one in its place, which loses them.
///
/// ```
/// use outrigger_client::transport::{Http, Request, Response, Transport, TransportError, Watched};
/// use outrigger_client::Config;
///
/// /// Says what goes over the line.
/// struct Loud(Http);
///
/// #[async_trait::async_trait]
/// impl Transport for Loud {
///     async fn send(&self, request: Request) -> Result<Response, TransportError> {
///         println!("{} {}", request.method, request.path);
///         self.0.send(request).await
///     }
///
///     async fn watch(&self, request: Request) -> Result<Watched, TransportError> {
///         self.0.watch(request).await
///     }
/// }
///
/// let config = Config::over(Loud(Http::new("https://sync.example.com")), || async { Ok("a token".to_owned()) });
/// # drop(config);
/// ```
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends a request and waits for its answer.
    async fn send(&self, request: Request) -> Result<Response, TransportError>;

    /// Opens a stream of events.
    async fn watch(&self, request: Request) -> Result<Watched, TransportError>;
}

/// HTTP to one server.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    url: String,
}

impl Http {
    /// The server at that address, as in `https://sync.example.com`.
    ///
    /// ```
    /// use outrigger_client::transport::{Http, Request, Transport};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let http = Http::new("http://127.0.0.1:1");
    /// let request = Request { method: "GET", path: "/sync/source".into(), token: "a token".into(), body: None };
    /// // Nobody listens there.
    /// assert!(http.send(request).await.is_err());
    /// # }
    /// ```
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

#[async_trait]
impl Transport for Http {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        read(self.request(&request).timeout(TIMEOUT).send().await.map_err(lost)?).await
    }

    async fn watch(&self, request: Request) -> Result<Watched, TransportError> {
        let response = self.request(&request).send().await.map_err(lost)?;
        if !response.status().is_success() {
            return Ok(Watched::Refused(read(response).await?));
        }
        let chunks = response.bytes_stream().map(|chunk| chunk.ok().map(|chunk| chunk.to_vec()));
        Ok(Watched::Lines(lines(chunks).boxed()))
    }
}

fn lost(error: reqwest::Error) -> TransportError {
    // Without the address: it may hold what does not belong in a log.
    TransportError(error.without_url().to_string())
}

async fn read(response: reqwest::Response) -> Result<Response, TransportError> {
    let (status, retry_after) = (response.status().as_u16(), retry_after(response.headers()));
    Ok(Response { status, body: response.text().await.map_err(lost)?, retry_after })
}

/// Seconds, or a date: that is read by the server's clock, since the device's may be wrong.
/// (<https://www.rfc-editor.org/rfc/rfc9110#name-retry-after>)
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok();
    let after = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (until, now) = (httpdate::parse_http_date(after).ok()?, httpdate::parse_http_date(text(DATE)?).ok()?);
    Some(until.duration_since(now).unwrap_or_default())
}

/// The lines of a stream of pieces, as soon as they are whole. A piece that is none ends it.
fn lines(chunks: impl futures::Stream<Item = Option<Vec<u8>>> + Send + Unpin) -> impl futures::Stream<Item = String> {
    stream::unfold((chunks, Vec::new()), |(mut chunks, mut text)| async move {
        loop {
            if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let rest = text.split_off(end + 1);
                let line = String::from_utf8_lossy(&text).trim_end().to_owned();
                return Some((line, (chunks, rest)));
            }
            if text.len() > LINE_BYTES_MAX {
                return None;
            }
            text.extend(chunks.next().await??);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        let (date, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:51:37 GMT");
        assert_eq!(retry_after(&headers(&[(RETRY_AFTER, "7")])), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&headers(&[(RETRY_AFTER, later), (DATE, date)])), Some(Duration::from_secs(120)));
        assert_eq!(retry_after(&headers(&[(RETRY_AFTER, date), (DATE, later)])), Some(Duration::ZERO));
        for nonsense in ["", "-1", "soon", "1.5", "99999999999999999999999", later] {
            assert_eq!(retry_after(&headers(&[(RETRY_AFTER, nonsense)])), None, "{nonsense}");
        }
        assert_eq!(retry_after(&headers(&[])), None);
    }

    #[tokio::test]
    async fn a_line_that_comes_in_pieces_is_one() {
        let pieces = ["da", "ta: 1\r\n\n:", "\nda", "ta: 2"].map(|piece| Some(piece.as_bytes().to_vec()));
        let all: Vec<String> = lines(stream::iter(pieces).boxed()).collect().await;
        assert_eq!(all, ["data: 1", "", ":"]);
        let endless = stream::iter(std::iter::repeat_with(|| Some(vec![b'x'; 1_000])));
        assert_eq!(lines(endless.boxed()).count().await, 0);
    }
}
