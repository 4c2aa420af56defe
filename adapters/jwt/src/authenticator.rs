//! Checking tokens.

use std::sync::Arc;

use async_trait::async_trait;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, AlgorithmFamily, Header, decode_header};
use outrigger_application::{AuthError, Authenticator, Caller, Clock, Credentials};

use crate::claims::Claims;
use crate::keys::{KID_BYTES_MAX, Key, Tried, try_keys};
use crate::{JwtOptions, RemoteKeys};

/// Bytes of a token, at the most. Identity providers stay well below it, and it bounds the work that
/// somebody without a key can cause.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Accepts tokens that are signed by one of the keys and in force.
///
/// The ids come from the token: `sub` is the user, `did` or `source_id` the source, unless the options call these
/// claims something else. What the token's header says beyond `alg` and `kid` is not looked at: no key and no address
/// of a key is ever taken from a token.
pub struct JwtAuthenticator {
    keys: Vec<Key>,
    remote: Option<RemoteKeys>,
    options: JwtOptions,
    clock: Arc<dyn Clock>,
}

impl JwtAuthenticator {
    /// Accepts tokens of any of these keys, and of those that a provider publishes.
    pub fn new(keys: Vec<Key>, remote: Option<RemoteKeys>, options: JwtOptions, clock: Arc<dyn Clock>) -> Self {
        Self { keys, remote, options, clock }
    }

    /// Accepts tokens signed with HMAC-SHA256 by this secret.
    pub fn hs256(secret: &[u8], options: JwtOptions, clock: Arc<dyn Clock>) -> Self {
        Self::new(vec![Key::hs256(None, secret)], None, options, clock)
    }

    /// The claims of a token whose signature holds.
    async fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let header = self.header(token).map_err(AuthError::Rejected)?;
        let mut tried = try_keys(&self.keys, &header, token);
        // The algorithm decides whether a published key could be meant at all: none of those is a secret.
        let is_public = header.alg.family() != AlgorithmFamily::Hmac;
        if let (Some(remote), true, false) = (&self.remote, is_public, matches!(tried, Tried::Verified(_))) {
            match remote.try_keys(&header, token).await {
                Ok(Tried::NoKey) => {}
                Ok(more) => tried = more,
                Err(error) => return Err(AuthError::Unavailable(error.to_string())),
            }
        }
        match tried {
            Tried::Verified(claims) => Ok(claims),
            Tried::Refused(error) => Err(AuthError::Rejected(explain(&error).to_owned())),
            Tried::NoKey => Err(AuthError::Rejected(self.no_key(&header))),
        }
    }

    /// What the token says of its signature, if it can be one of ours.
    fn header(&self, token: &str) -> Result<Header, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!("the token is longer than {TOKEN_BYTES_MAX} bytes"));
        }
        let header = decode_header(token).map_err(
            |_| "the token is no JSON Web Token: three parts of base64url, the first of which names a known `alg`",
        )?;
        // RFC 7515, 4.1.11: who does not understand an extension that is marked critical must refuse the token.
        if header.crit.is_some() {
            return Err("the token needs a JWS extension (`crit`) that this server does not have".to_owned());
        }
        if header.kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err(format!("the token's `kid` is longer than {KID_BYTES_MAX} bytes"));
        }
        Ok(header)
    }

    /// Why no key was tried: the algorithm, or else the key's name.
    fn no_key(&self, header: &Header) -> String {
        let mut accepted: Vec<Algorithm> = self.keys.iter().flat_map(Key::algorithms).copied().collect();
        accepted.extend(self.remote.iter().flat_map(RemoteKeys::algorithms));
        accepted.sort_by_key(|algorithm| format!("{algorithm:?}"));
        accepted.dedup();
        if accepted.contains(&header.alg) {
            return "the token's `kid` names a key that this server does not have".to_owned();
        }
        format!("the token's `alg` is not accepted; accepted: {accepted:?}")
    }
}

/// Says what is wrong without a word of the token.
fn explain(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::InvalidSignature => "the token's signature does not match the server's key",
        ErrorKind::Json(_) => "the token's claims are no JSON object with each claim once",
        _ => "the token is malformed",
    }
}

#[async_trait]
impl Authenticator for JwtAuthenticator {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Caller, AuthError> {
        let claims = self.verify(credentials.token).await?;
        claims.judge(credentials.source_header, &self.options, self.clock.now()).map_err(AuthError::Rejected)
    }
}
