//! What a connection is doing, and for how long it may go on without doing more.
//!
//! A client costs nothing for as long as it says nothing, so a few of them can hold every connection that a server has
//! by saying very little ([slow-loris](https://en.wikipedia.org/wiki/Slowloris_(cyber_attack))). Whatever the server
//! waits for has an end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the TLS handshake, and then for the head of a request: the first one from the beginning of the connection on,
    /// later ones from their first byte.
    pub header: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For taking the next bytes of an answer.
    pub send: Duration,
}

impl Default for Timeouts {
    /// Connections idle for longer than those of the load balancers in front (60 s is usual), so that no request is sent
    /// on one that is being closed.
    fn default() -> Self {
        Self { header: Duration::from_secs(10), idle: Duration::from_secs(75), send: Duration::from_secs(30) }
    }
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Activity {
    timeouts: Timeouts,
    /// Whether bytes between requests can only be a head. In HTTP/2 they may be anything.
    heads_only: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Requests that have begun and whose answers have not been sent yet.
    running: u32,
    /// Whether a head is awaited, or has begun.
    in_head: bool,
    /// Since when it is in that state.
    since: Instant,
    /// Since when the client has not taken what is there for it.
    blocked: Option<Instant>,
}

impl Activity {
    /// Of a connection that begins.
    pub(crate) fn begin(timeouts: Timeouts, heads_only: bool) -> Arc<Self> {
        let state = State { running: 0, in_head: true, since: Instant::now(), blocked: None };
        Arc::new(Self { timeouts, heads_only, state: Mutex::new(state) })
    }

    /// When it has to have moved on. None while a request is running: what that waits for has bounds of its own.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        match *state {
            State { blocked: Some(since), .. } => Some(since + self.timeouts.send),
            State { running: 1.., .. } => None,
            State { in_head: true, since, .. } => Some(since + self.timeouts.header),
            State { since, .. } => Some(since + self.timeouts.idle),
        }
    }

    /// A request begins.
    pub(crate) fn run(self: &Arc<Self>) -> Running {
        let mut state = self.state();
        state.running += 1;
        state.in_head = false;
        drop(state);
        Running(Arc::clone(self))
    }

    fn received(&self) {
        let mut state = self.state();
        if self.heads_only && state.running == 0 && !state.in_head {
            (state.in_head, state.since) = (true, Instant::now());
        }
    }

    fn sent(&self, is_pending: bool) {
        let mut state = self.state();
        match (is_pending, state.blocked) {
            (true, None) => state.blocked = Some(Instant::now()),
            (false, Some(_)) => state.blocked = None,
            _ => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.running -= 1;
        if state.running == 0 {
            (state.in_head, state.since) = (false, Instant::now());
        }
    }
}

/// The body of an answer, with which its request ends.
pub(crate) struct Answering {
    pub(crate) body: Body,
    pub(crate) _running: Running,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The stream of a connection, which tells of what happens on it.
pub(crate) struct Watched<I> {
    pub(crate) stream: I,
    pub(crate) activity: Arc<Activity>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.received();
        }
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.sent(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.activity.sent(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.activity.sent(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.activity.sent(shut.is_pending());
        shut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whatever_is_waited_for_has_an_end() {
        let timeouts = Timeouts::default();
        let Timeouts { header, idle, send } = timeouts;
        let activity = Activity::begin(timeouts, true);
        let began = Instant::now();
        let pass = async || tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(activity.deadline(), Some(began + header));
        pass().await;
        activity.received();
        assert_eq!(activity.deadline(), Some(began + header), "bytes of a head do not lengthen its time");
        let (one, two) = (activity.run(), activity.run());
        assert_eq!(activity.deadline(), None);
        pass().await;
        drop(one);
        assert_eq!(activity.deadline(), None, "another is running");
        activity.received();
        drop(two);
        let ended = Instant::now();
        assert_eq!(activity.deadline(), Some(ended + idle));
        pass().await;
        activity.received();
        assert_eq!(activity.deadline(), Some(Instant::now() + header));
        activity.sent(true);
        let blocked = Instant::now();
        pass().await;
        activity.sent(true);
        assert_eq!(activity.deadline(), Some(blocked + send));
        activity.sent(false);
        let _running = activity.run();
        assert_eq!(activity.deadline(), None);
        pass().await;
        activity.sent(true);
        assert_eq!(activity.deadline(), Some(Instant::now() + send), "a request that runs does not excuse it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_keeps_a_connection_alive_is_no_head_in_http_2() {
        let timeouts = Timeouts::default();
        let activity = Activity::begin(timeouts, false);
        drop(activity.run());
        tokio::time::advance(Duration::from_secs(1)).await;
        activity.received();
        assert_eq!(activity.deadline(), Some(Instant::now() + timeouts.idle - Duration::from_secs(1)));
    }
}
