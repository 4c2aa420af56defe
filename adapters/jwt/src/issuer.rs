//! Making tokens.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use outrigger_application::{Clock, TokenIssuer};
use outrigger_domain::{SourceId, UserId};
use serde::Serialize;

use crate::JwtOptions;

/// Makes tokens that a [`JwtAuthenticator`](crate::JwtAuthenticator) of the same secret and options accepts.
pub struct JwtIssuer {
    key: EncodingKey,
    options: JwtOptions,
    clock: Arc<dyn Clock>,
}

#[derive(Serialize)]
struct IssuedClaims<'a> {
    sub: &'a str,
    did: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl JwtIssuer {
    /// Signs with HMAC-SHA256 by this secret.
    pub fn hs256(secret: &[u8], options: JwtOptions, clock: Arc<dyn Clock>) -> Self {
        Self { key: EncodingKey::from_secret(secret), options, clock }
    }
}

impl TokenIssuer for JwtIssuer {
    fn issue(&self, user: &UserId, source: &SourceId, ttl: Duration) -> String {
        let iat = self.clock.now().as_second();
        let claims = IssuedClaims {
            sub: user.as_str(),
            did: source.as_str(),
            iat,
            exp: iat.saturating_add_unsigned(ttl.as_secs()),
            iss: self.options.issuer.as_deref(),
            aud: self.options.audience.as_deref(),
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.key)
            .expect("strings and integers have a JSON form, and a key of any length signs with HMAC")
    }
}
