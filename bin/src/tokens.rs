//! Tokens: what the server checks them with, and `outrigger token`, which makes one.

use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::Duration;

use outrigger_application::{Clock, SystemClock, TokenIssuer};
use outrigger_config::{Auth, Config};
use outrigger_http::Demo;
use outrigger_jwt::{JwtAuthenticator, JwtIssuer, Key, RemoteKeys};
use uuid::Uuid;

use crate::cli::TokenArgs;
use crate::wire::failed;
use crate::{Outcome, RunError};

/// What the server checks tokens with.
pub(crate) struct Tokens {
    /// Tells who is asking.
    pub(crate) authenticator: JwtAuthenticator,
    /// Signs in whoever wants to, in demo mode.
    pub(crate) demo: Option<Demo>,
    /// Keys that have to be fetched again and again, and how often.
    pub(crate) remote: Option<(RemoteKeys, Duration)>,
}

/// Reads the configuration, and fetches what keys are published. That a provider cannot be reached is no reason not to
/// start: nodes that are started again while it is down would all be gone. Its tokens are answered with a 503 until then.
pub(crate) async fn tokens(config: &Config) -> Result<Tokens, RunError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Auth { keys, jwks_url, jwks_refresh, signing, options } = &config.auth;
    let mut keys = keys.clone();
    let demo = config.demo.then(|| {
        let (kid, secret) = signing.clone().unwrap_or_else(|| {
            let secret = random_secret();
            keys.extend(Key::secret(None, secret.as_bytes()));
            (None, secret.into_bytes())
        });
        let issuer = JwtIssuer::hs256(&secret, options.clone(), Arc::clone(&clock)).with_kid(kid);
        Demo { issuer: Arc::new(issuer) }
    });
    let mut remote = None;
    if let Some(url) = jwks_url {
        let keys = RemoteKeys::new(url.clone(), Arc::clone(&clock)).map_err(|error| failed("auth.jwks_url", error))?;
        match keys.refresh().await {
            Ok(found) => tracing::info!(%url, keys = found, "fetched the keys of the identity provider"),
            Err(error) => tracing::warn!(%error, "tokens of the identity provider cannot be checked until that works"),
        }
        remote = Some((keys, *jwks_refresh));
    }
    let published = remote.as_ref().map(|(keys, _)| keys.clone());
    Ok(Tokens { authenticator: JwtAuthenticator::new(keys, published, options.clone(), clock), demo, remote })
}

/// `outrigger token`
pub(crate) fn run(config: &Config, args: &TokenArgs) -> Result<Outcome, RunError> {
    let Auth { signing, options, .. } = &config.auth;
    let refused = |why: &str| Err(RunError::Configuration(why.into()));
    let Some((kid, secret)) = signing else {
        return refused("there is no secret to sign with: set auth.jwt_secret, or one of auth.keys with the alg HS256");
    };
    if args.admin && options.admin.is_none() {
        return refused("--admin needs auth.admin_claim and auth.admin_value: nothing else makes an administrator");
    }
    let issuer = JwtIssuer::hs256(secret, options.clone(), Arc::new(SystemClock)).with_kid(kid.clone());
    let issuer = if args.admin { issuer.for_admins() } else { issuer };
    let token = issuer.issue(&args.user, &args.device, args.ttl.0);
    writeln!(stdout(), "{token}").map_err(|error| failed("cannot write", error))?;
    Ok(Outcome::Done)
}

/// Two random UUIDs: 244 bits from the system's generator for secrets.
fn random_secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}
