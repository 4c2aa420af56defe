//! The socket: accepting connections, and stopping without losing an answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activity::Timeouts;
use crate::connection::Server;
use crate::tls::Tls;

/// How long accepting rests when it fails for want of something, such as file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How connections are served.
#[derive(Clone, Debug)]
pub struct Serving {
    /// What they are encrypted with, if they are. Clients choose between HTTP/1.1 and HTTP/2 then.
    pub tls: Option<Tls>,
    /// Whether a client may speak HTTP/2 without TLS, by beginning with it.
    pub h2c: bool,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// How long requests may run once the server is told to stop.
    pub drain_timeout: Duration,
}

impl Default for Serving {
    fn default() -> Self {
        Self { tls: None, h2c: false, timeouts: Timeouts::default(), drain_timeout: Duration::from_secs(10) }
    }
}

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
/// Connections without a running request are closed at once. Returns when all are closed, or the drain timeout
/// after the shutdown began, whichever comes first.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    serving: Serving,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Stopped {
    let drain_timeout = serving.drain_timeout;
    let (closing, open) = (CancellationToken::new(), TaskTracker::new());
    let server = Arc::new(Server { router, serving, closing, open });
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, address)) => server.connect(stream, address),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections now");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
    drop(listener);
    server.closing.cancel();
    server.open.close();
    match tokio::time::timeout(drain_timeout, server.open.wait()).await {
        Ok(()) => Stopped::Drained,
        Err(_) => Stopped::TimedOut,
    }
}

/// Whether the connection was gone before it was accepted, and the next one may be fine.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
