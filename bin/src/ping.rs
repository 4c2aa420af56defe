//! `outrigger ping`: asks a server on this machine how it is.

use std::io::{Write, stdout};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use outrigger_config::Config;

use crate::cli::PingArgs;
use crate::{Outcome, RunError};

/// Asks once.
pub(crate) async fn run(config: &Config, args: &PingArgs) -> Result<Outcome, RunError> {
    let path = if args.ready { "/ready" } else { "/health" };
    let answered = ask(config, path, Duration::from_secs(args.timeout_s.into())).await;
    let _ = writeln!(stdout(), "{}", answered.map_err(RunError::Failed)?);
    Ok(Outcome::Done)
}

/// Asks once; what was answered, or why that does not do.
pub(crate) async fn ask(config: &Config, path: &str, timeout: Duration) -> Result<String, String> {
    let scheme = if config.settings.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", reachable(config.settings.listen.0));
    // The certificate is for the name that devices know; this asks by the address of this machine.
    let client = reqwest::Client::builder().timeout(timeout).no_proxy().danger_accept_invalid_certs(true);
    let client = client.build().map_err(|error| reason(&error))?;
    let answer = client.get(&url).send().await.map_err(|error| format!("{url} does not answer: {}", reason(&error)))?;
    let answered = format!("{url} answers {}", answer.status());
    if answer.status().is_success() { Ok(answered) } else { Err(answered) }
}

/// Where a server that listens there is reached from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// What lies at the bottom of an error, which names the system's reason.
fn reason(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_all_is_reached_on_this_machine() {
        for (listen, reached) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("192.168.0.1:1", "192.168.0.1:1"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), reached);
        }
    }
}
