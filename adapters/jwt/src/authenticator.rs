//! Checking tokens.

use std::sync::Arc;

use async_trait::async_trait;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use outrigger_application::{AuthError, Authenticator, Caller, Clock, Credentials};

use crate::JwtOptions;
use crate::claims::Claims;

/// Bytes of a token, at the most. Identity providers stay well below it, and it bounds the work that
/// somebody without a key can cause.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Accepts tokens that are signed by the configured key and in force.
///
/// The ids come from the token: `sub` is the user, `did` or `source_id` the source. Only where a token names no
/// source does the header [`SOURCE_HEADER`](crate::SOURCE_HEADER) name it.
pub struct JwtAuthenticator {
    key: DecodingKey,
    /// The algorithms, and nothing else: claims are judged here, by our clock.
    signature: Validation,
    options: JwtOptions,
    clock: Arc<dyn Clock>,
}

impl JwtAuthenticator {
    /// Accepts tokens signed with HMAC-SHA256 by this secret.
    pub fn hs256(secret: &[u8], options: JwtOptions, clock: Arc<dyn Clock>) -> Self {
        let mut signature = Validation::new(Algorithm::HS256);
        signature.required_spec_claims.clear();
        signature.validate_exp = false;
        signature.validate_nbf = false;
        signature.validate_aud = false;
        Self { key: DecodingKey::from_secret(secret), signature, options, clock }
    }

    fn check(&self, credentials: Credentials<'_>) -> Result<Caller, String> {
        self.verify(credentials.token)?.judge(credentials.source_header, &self.options, self.clock.now())
    }

    /// The claims of a token whose signature holds.
    fn verify(&self, token: &str) -> Result<Claims, String> {
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
        decode(token, &self.key, &self.signature).map(|token| token.claims).map_err(|error| self.explain(&error))
    }

    /// Says what is wrong without a word of the token.
    fn explain(&self, error: &Error) -> String {
        match error.kind() {
            ErrorKind::InvalidAlgorithm => {
                format!("the token's `alg` is not accepted; accepted: {:?}", self.signature.algorithms)
            }
            ErrorKind::InvalidSignature => "the token's signature does not match the server's key".to_owned(),
            ErrorKind::Json(_) => "the token's claims are no JSON object with each claim once".to_owned(),
            _ => "the token is malformed".to_owned(),
        }
    }
}

#[async_trait]
impl Authenticator for JwtAuthenticator {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Caller, AuthError> {
        self.check(credentials).map_err(AuthError::Rejected)
    }
}
