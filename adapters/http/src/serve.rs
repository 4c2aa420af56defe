//! The socket: accepting connections, and stopping without losing an answer.

use std::future::{Future, IntoFuture, pending};
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

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
    // Answers are written in one piece: waiting for more to send would only delay them.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let (drain, draining) = oneshot::channel();
    let signal = async move {
        shutdown.await;
        // Nobody listens if the server has been dropped.
        let _ = drain.send(());
    };
    let deadline = async {
        match draining.await {
            Ok(()) => tokio::time::sleep(drain_timeout).await,
            Err(_) => pending().await,
        }
    };
    tokio::select! {
        _ = axum::serve(listener, router).with_graceful_shutdown(signal).into_future() => Stopped::Drained,
        () = deadline => Stopped::TimedOut,
    }
}
