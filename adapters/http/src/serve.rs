//! The socket: accepting connections, and stopping without losing an answer.
//!
//! One small task per connection. A device that watches holds its connection for as long as its token is good, so what a
//! quiet connection costs is what decides how many devices a node can serve: no more is kept for it than HTTP/1.1
//! needs, and what a request needed is freed with its answer.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

/// How long a client may take to send the head of a request, and how long a connection may be without one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long accepting rests when it fails for want of something, such as file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How [`serve`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Every request that had begun was answered.
    Drained,
    /// The time was up and requests were still running.
    TimedOut,
}

/// Serves until `shutdown` completes, then accepts nothing more and finishes what is running.
///
/// Connections without a running request are closed at once. Returns when all are closed, or `drain_timeout`
/// after the shutdown began, whichever comes first.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain_timeout: Duration,
) -> Stopped {
    let open = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, router.clone(), &open));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections now");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
    drop(listener);
    tokio::select! {
        () = open.shutdown() => Stopped::Drained,
        () = tokio::time::sleep(drain_timeout) => Stopped::TimedOut,
    }
}

/// Whether the connection was gone before it was accepted, and the next one may be fine.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one connection. It is watched from the beginning, so that a shutdown waits for it.
fn connection(stream: TcpStream, router: Router, open: &GracefulShutdown) -> impl Future<Output = ()> + use<> {
    // Answers are written in one piece: waiting for more to send would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    // Boxed: the connection keeps a place for the future of a request, which is large.
    let service = service_fn(move |request: Request<Incoming>| -> BoxFuture<'static, Answer> {
        Box::pin(router.clone().oneshot(request.map(Body::new)))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let watched = open.watch(connection);
    async move {
        if let Err(error) = watched.await {
            // The client has gone away, or does not speak HTTP.
            tracing::debug!(%error, "a connection ended");
        }
    }
}

type Answer = Result<Response<Body>, Infallible>;
