//! One connection: encrypted or not, HTTP/1.1 or HTTP/2, from its beginning to its end.
//!
//! A device that watches holds its connection for as long as its token is good, so what a quiet connection costs is what
//! decides how many devices a node can serve: each kind is a task of its own, so that one of HTTP/1.1 keeps no room for
//! what HTTP/2 or TLS would need, and what a request needed is freed with its answer.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::activity::{Activity, Answering, Watched};
use crate::serve::Serving;
use crate::tls::{self, Tls};

/// Bytes of the head of a request, at the most. A token has some thousand.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests that run at once on a connection of HTTP/2, at the most. A client that has more of them waits.
const STREAMS_MAX: u32 = 100;
/// How often a client of HTTP/2 is asked whether it is still there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How a client begins that speaks HTTP/2 without having agreed on it. No method of HTTP/1.1 begins like that.
const PREFACE: &[u8; 3] = b"PRI";

/// Who is at the other end of a connection, and whether that is encrypted. In every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) is_encrypted: bool,
}

/// What all connections of a server have in common.
pub(crate) struct Server {
    pub(crate) router: Router,
    pub(crate) serving: Serving,
    /// Tells them to end.
    pub(crate) closing: CancellationToken,
    /// Knows whether any is left.
    pub(crate) open: TaskTracker,
}

impl Server {
    /// Serves a connection in a task of its own. It counts as open from now on, so that a shutdown waits for it.
    pub(crate) fn connect(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        // Answers are written in one piece: waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let (server, address) = (Arc::clone(self), address.ip().to_canonical());
        let peer = Peer { address, is_encrypted: self.serving.tls.is_some() };
        match &self.serving.tls {
            Some(tls) => {
                let tls = tls.clone();
                self.open.spawn(async move { server.encrypt(stream, peer, tls).await });
            }
            None if self.serving.h2c => {
                self.open.spawn(async move { server.plain(stream, peer).await });
            }
            None => {
                self.open.spawn(self.http1(stream, peer));
            }
        }
    }

    async fn encrypt(self: Arc<Self>, stream: TcpStream, peer: Peer, tls: Tls) {
        let handshake = timeout(self.serving.timeouts.header, tls.acceptor().accept(stream));
        let stream = match self.closing.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return tracing::debug!(%error, "a TLS handshake failed"),
            Some(Err(_)) | None => return tracing::debug!("a TLS handshake did not come to its end"),
        };
        // In tasks of their own, so that the room for the handshake is given back.
        if stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2) {
            self.open.spawn(self.http2(stream, peer));
        } else {
            self.open.spawn(self.http1(stream, peer));
        }
    }

    /// Lets the client's first bytes decide between HTTP/1.1 and HTTP/2.
    async fn plain(self: Arc<Self>, stream: TcpStream, peer: Peer) {
        let mut first = [0; PREFACE.len()];
        let peeked = timeout(self.serving.timeouts.header, stream.peek(&mut first));
        match self.closing.run_until_cancelled(peeked).await {
            Some(Ok(Ok(bytes))) if first[..bytes] == *PREFACE => {
                self.open.spawn(self.http2(stream, peer));
            }
            Some(Ok(Ok(_))) => {
                self.open.spawn(self.http1(stream, peer));
            }
            _ => tracing::debug!("a connection ended without a word"),
        }
    }

    fn http1<I>(&self, stream: I, peer: Peer) -> impl Future<Output = ()> + Send + use<I>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::begin(self.serving.timeouts, true);
        let io = TokioIo::new(Watched { stream, activity: Arc::clone(&activity) });
        // Heads are timed by the activity, which tells those from a connection that rests.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_header_size(HEAD_BYTES_MAX)
            .serve_connection(io, service_fn(answering(self.router.clone(), peer, Arc::clone(&activity))));
        Driven::new(connection, activity, &self.closing)
    }

    fn http2<I>(&self, stream: I, peer: Peer) -> impl Future<Output = ()> + Send + use<I>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::begin(self.serving.timeouts, false);
        let io = TokioIo::new(Watched { stream, activity: Arc::clone(&activity) });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(io, service_fn(answering(self.router.clone(), peer, Arc::clone(&activity))));
        Driven::new(connection, activity, &self.closing)
    }
}

/// Answers the requests of one connection. Boxed: a connection keeps a place for the future of a request, which is
/// large.
fn answering(
    router: Router,
    peer: Peer,
    activity: Arc<Activity>,
) -> impl Fn(Request<Incoming>) -> BoxFuture<'static, Answer> {
    move |request| {
        let running = activity.run();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let answer = router.clone().oneshot(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Answering { body, _running: running })) })
    }
}

type Answer = Result<Response<Answering>, Infallible>;

/// A connection that ends with its client, with the server, or when it has taken too long.
struct Driven<C> {
    connection: Pin<Box<C>>,
    activity: Arc<Activity>,
    /// Until the connection was told.
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<C> Driven<C> {
    fn new(connection: C, activity: Arc<Activity>, closing: &CancellationToken) -> Self {
        let closing = Some(Box::pin(closing.clone().cancelled_owned()));
        Self { connection: Box::pin(connection), activity, closing, timer: None }
    }

    /// Whether the time is up for what the connection is doing.
    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.activity.deadline() else {
            self.timer = None;
            return false;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl<C: GracefulConnection<Error = hyper::Error>> Future for Driven<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.closing.as_mut().is_some_and(|closing| closing.as_mut().poll(cx).is_ready()) {
            self.closing = None;
            self.connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(ended) = self.connection.as_mut().poll(cx) {
            if let Err(error) = ended {
                // The client has gone away, or does not speak HTTP.
                tracing::debug!(%error, "a connection ended");
            }
            return Poll::Ready(());
        }
        // Behind the connection: what has arrived in time counts.
        if self.is_overdue(cx) {
            tracing::debug!("a connection was closed: its client took too long");
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{Instant, sleep};

    use super::*;

    const REQUEST: &[u8] = b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n";

    /// The client's end of a connection whose answers wait in 64 KiB.
    fn connect() -> DuplexStream {
        let router = Router::new()
            .route("/small", get(async || "small"))
            .route("/large", get(async || vec![b' '; 1024 * 1024]))
            .route("/never", get(std::future::pending::<()>));
        let (closing, open) = (CancellationToken::new(), TaskTracker::new());
        let server = Server { router, serving: Serving::default(), closing, open };
        let (client, stream) = duplex(64 * 1024);
        let peer = Peer { address: [127, 0, 0, 1].into(), is_encrypted: false };
        tokio::spawn(async move { server.http1(stream, peer).await });
        client
    }

    /// How many seconds after that the server hangs up, if nothing more is said.
    async fn hangs_up_after(client: &mut DuplexStream, since: Instant) -> u64 {
        client.read_to_end(&mut Vec::new()).await.unwrap();
        since.elapsed().as_secs()
    }

    async fn answer(client: &mut DuplexStream) {
        client.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"small") {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
        }
    }

    /// Sends a byte every 0.7 s, and says after how many the server hangs up.
    async fn drips(client: &mut DuplexStream) -> usize {
        let head = b"GET /small HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'x'));
        for (sent, byte) in head.enumerate() {
            if client.write_all(&[*byte]).await.is_err() {
                return sent;
            }
            sleep(Duration::from_millis(700)).await;
        }
        unreachable!("the head has no end")
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_hung_up_on() {
        let began = Instant::now();
        assert_eq!(hangs_up_after(&mut connect(), began).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_byte_by_byte_is_not_waited_for() {
        assert_eq!(drips(&mut connect()).await, 15, "in 10 s");
        // Nor is a later one.
        let mut client = connect();
        answer(&mut client).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(drips(&mut client).await, 15);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_rests_between_requests_but_not_for_ever() {
        let mut client = connect();
        for _ in 0..3 {
            answer(&mut client).await;
            sleep(Duration::from_secs(70)).await;
        }
        answer(&mut client).await;
        let answered = Instant::now();
        assert_eq!(hangs_up_after(&mut client, answered).await, 75);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_not_kept() {
        let mut client = connect();
        client.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        sleep(Duration::from_secs(31)).await;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.len() <= 128 * 1024, "{} bytes", answer.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_runs_is_not_hung_up_on() {
        let mut client = connect();
        client.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let quiet = tokio::time::timeout(Duration::from_secs(3_600), client.read_u8()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}
