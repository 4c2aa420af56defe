//! What stands between the network and the endpoints, as the configuration has it.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{self as config, Settings};
use outrigger_http::{Admission, Limiter, Limits, Origins, Pace, Proxies, ProxyHeader, Rate, Serving, Timeouts, Tls};

use crate::RunError;

/// How connections are served.
pub(crate) fn serving(settings: &Settings) -> Result<Serving, RunError> {
    let tls = settings.tls.as_ref().map(|tls| Tls::load(&tls.cert, &tls.key));
    let tls = tls.transpose().map_err(|error| RunError::Configuration(error.to_string()))?;
    let s = |seconds: u32| Duration::from_secs(seconds.into());
    let timeouts = &settings.timeouts;
    let timeouts =
        Timeouts { header: s(timeouts.header_s.get()), idle: s(timeouts.idle_s.get()), send: s(timeouts.send_s.get()) };
    Ok(Serving { tls, h2c: settings.h2c, timeouts, drain_timeout: s(settings.drain_timeout_s) })
}

/// Who is let in, and how often.
pub(crate) fn admission(settings: &Settings) -> Admission {
    let limits = &settings.limits;
    let rate = |per_s: u32, burst: u32| (per_s > 0).then_some(Rate { per_s, burst: burst.max(1) });
    let limits = Limits {
        user_rate: rate(limits.user_requests_per_s, limits.user_requests_burst),
        address_rate: rate(limits.address_requests_per_s, limits.address_requests_burst),
        requests: limits.requests_max.get(),
        user_requests: limits.user_requests_max.get(),
        user_uploads: limits.user_uploads_max.get(),
        watchers: limits.watchers_max.get(),
        user_watchers: limits.user_watchers_max.get(),
    };
    let trusted = settings.trusted_proxies.iter().map(|network| network.0).collect();
    let header = match settings.proxy_header {
        config::ProxyHeader::XForwardedFor => ProxyHeader::XForwardedFor,
        config::ProxyHeader::Forwarded => ProxyHeader::Forwarded,
    };
    let proxies = Proxies { trusted, header };
    Admission { limiter: Limiter::new(&limits), proxies: Arc::new(proxies) }
}

/// How slowly a body may come.
pub(crate) fn pace(settings: &Settings) -> Pace {
    let timeouts = &settings.timeouts;
    Pace { grace: Duration::from_secs(timeouts.body_s.get().into()), bytes_per_s: timeouts.body_bytes_per_s_min.get() }
}

/// Whose pages may use the API.
pub(crate) fn origins(settings: &Settings) -> Origins {
    let origins = &settings.cors.origins;
    if origins.iter().any(|origin| origin.is_any()) {
        return Origins::Any;
    }
    match origins.iter().filter_map(|origin| origin.0.parse().ok()).collect::<Vec<_>>() {
        none if none.is_empty() => Origins::None,
        these => Origins::These(these),
    }
}
