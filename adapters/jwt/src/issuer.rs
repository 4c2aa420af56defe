//! Making tokens.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use outrigger_application::{Clock, TokenIssuer};
use outrigger_domain::{SourceId, UserId};
use serde_json::{Map, Value};

use crate::JwtOptions;

/// Makes tokens that a [`JwtAuthenticator`](crate::JwtAuthenticator) of the same secret and options accepts.
pub struct JwtIssuer {
    header: Header,
    key: EncodingKey,
    options: JwtOptions,
    clock: Arc<dyn Clock>,
    for_admins: bool,
}

impl JwtIssuer {
    /// Signs with HMAC-SHA256 by this secret.
    pub fn hs256(secret: &[u8], options: JwtOptions, clock: Arc<dyn Clock>) -> Self {
        let header = Header::new(Algorithm::HS256);
        Self { header, key: EncodingKey::from_secret(secret), options, clock, for_admins: false }
    }

    /// Names the key in every token.
    #[must_use]
    pub fn with_kid(mut self, kid: Option<String>) -> Self {
        self.header.kid = kid;
        self
    }

    /// Makes every token one of an administrator, if the options say what that is.
    #[must_use]
    pub fn for_admins(mut self) -> Self {
        self.for_admins = true;
        self
    }
}

impl TokenIssuer for JwtIssuer {
    fn issue(&self, user: &UserId, source: &SourceId, ttl: Duration) -> String {
        let iat = self.clock.now().as_second();
        let options = &self.options;
        let mut claims = Map::new();
        let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        put(&options.user_claim, user.as_str().into());
        if let Some(claim) = options.source_claims.first() {
            put(claim, source.as_str().into());
        }
        put("iat", iat.into());
        put("exp", iat.saturating_add_unsigned(ttl.as_secs()).into());
        for (name, value) in [("iss", &options.issuer), ("aud", &options.audience)] {
            value.as_deref().map(|value| put(name, value.into()));
        }
        if let (Some(rule), true) = (&options.admin, self.for_admins) {
            put(&rule.claim, rule.value.as_str().into());
        }
        encode(&self.header, &claims, &self.key)
            .expect("strings and integers have a JSON form, and a key of any length signs with HMAC")
    }
}
