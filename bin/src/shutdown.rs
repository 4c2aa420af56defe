//! Being told to stop, and to read the certificate again.

use std::future::Future;
use std::io;

use outrigger_http::Tls;

/// Listens for SIGTERM and SIGINT from now on; the future completes with the first of them. With the second one the
/// process ends at once, whatever is running: whoever sends it has waited long enough.
#[cfg(unix)]
pub(crate) fn listen() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    async fn any((terminate, interrupt): &mut (Signal, Signal)) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        any(&mut signals).await;
        tracing::info!("told to stop: finishing what is running");
        tokio::spawn(async move {
            any(&mut signals).await;
            tracing::warn!("told to stop once more: stopped at once");
            std::process::exit(crate::EXIT_FAILED.into());
        });
    })
}

/// The future completes when Ctrl-C is pressed.
#[cfg(not(unix))]
pub(crate) fn listen() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Reads the certificate again with every SIGHUP; the future runs for as long as the server does. A server without TLS
/// has nothing to read again, and lives on, unless it was started by hand: it ends with its terminal then, as anything
/// does.
#[cfg(unix)]
pub(crate) fn reload(tls: Option<Tls>) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    use std::io::IsTerminal;

    use tokio::signal::unix::{SignalKind, signal};
    let is_by_hand = tls.is_none() && io::stderr().is_terminal();
    let mut hangups = if is_by_hand { None } else { Some(signal(SignalKind::hangup())?) };
    Ok(async move {
        while let Some(hangups) = &mut hangups {
            hangups.recv().await;
            match tls.as_ref().map(Tls::reload) {
                Some(Ok(())) => tracing::info!("the certificate was read again; new connections get it"),
                Some(Err(error)) => tracing::error!(%error, "the new certificate cannot be used, the old one stays"),
                None => tracing::info!("there is nothing to read again: tls.cert is not set"),
            }
        }
    })
}

/// There is no such signal.
#[cfg(not(unix))]
pub(crate) fn reload(_: Option<Tls>) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    Ok(std::future::ready(()))
}
