//! Reading on after an early answer.
//!
//! A request may be answered before its body was read: 401, 413, 415. A server that then closes the connection makes
//! TCP reset it, and the client, which is still sending, may see the reset and never the answer
//! ([RFC 9112, 9.6](https://www.rfc-editor.org/rfc/rfc9112#section-9.6)). A device whose token has ended would
//! retry its upload for ever instead of signing in. So what is left of a body is read and thrown away, within bounds.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::StreamExt;

/// Bytes that are thrown away after an early answer, at the most.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long they may take to arrive.
const LINGER_MAX: Duration = Duration::from_secs(5);

/// Makes sure that bodies are read, be it to no use.
pub(crate) async fn linger(request: Request, next: Next) -> Response {
    next.run(request.map(|body| if body.is_end_stream() { body } else { Body::new(Lingering(Some(body))) })).await
}

/// A body that is read to its end even if its reader drops it.
struct Lingering(Option<Body>);

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, axum::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

type Frame = http_body::Frame<Bytes>;

impl Drop for Lingering {
    fn drop(&mut self) {
        // Without a runtime the connection is gone as well.
        if let (Some(body), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(LINGER_MAX, drain(body.into_data_stream())));
        }
    }
}

async fn drain(mut chunks: BodyDataStream) {
    let mut drained = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        drained += chunk.len();
        if drained > LINGER_BYTES_MAX {
            break;
        }
    }
}
