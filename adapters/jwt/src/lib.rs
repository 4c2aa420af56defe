//! JSON Web Tokens: who is asking, by a signed token ([RFC 7519](https://www.rfc-editor.org/rfc/rfc7519)).
//!
//! [`JwtAuthenticator`] checks tokens and [`JwtIssuer`] makes them. A token is first verified, by a [`Key`] and an
//! algorithm that were configured or that the provider publishes ([`RemoteKeys`]), and only then are its claims judged,
//! against the time of a [`Clock`](outrigger_application::Clock).

mod authenticator;
mod claims;
mod issuer;
mod keys;
mod remote;

pub use authenticator::{JwtAuthenticator, TOKEN_BYTES_MAX};
pub use issuer::JwtIssuer;
pub use keys::{KID_BYTES_MAX, Key, KeyAlgorithm, KeyError, RSA_BITS_MIN, SECRET_BYTES_MIN};
pub use remote::{FetchError, JWKS_BYTES_MAX, JWKS_KEYS_MAX, JwksUrl, REFETCH_MIN, RemoteKeys};

/// The header that names the source where the token names none.
pub const SOURCE_HEADER: &str = "Outrigger-Source-Id";

/// The leeway of [`JwtOptions`] unless configured otherwise: what clocks of honest machines differ by.
pub const LEEWAY_S: u32 = 30;

/// What is asked of a token beyond its signature, and what its claims are called.
///
/// A claim is named by its name, or by a path with dots to one inside others: `realm_access.roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// The only `iss` that is accepted; any or none if this is None.
    pub issuer: Option<String>,
    /// The value that has to be in `aud`; anything goes if this is None.
    pub audience: Option<String>,
    /// Seconds by which `exp`, `nbf` and `iat` may be off.
    pub leeway_s: u32,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claims that name the source. Any of them will do; several must not differ.
    pub source_claims: Vec<String>,
    /// Whether the header [`SOURCE_HEADER`] may name the source of a token that names none. Whoever holds such a token
    /// can then speak for any source of its user.
    pub source_header: bool,
    /// What makes a token one of an administrator; nothing if this is None.
    pub admin: Option<AdminRule>,
}

/// The claim that tells administrators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminRule {
    /// The claim.
    pub claim: String,
    /// What it has to be, or to hold: as one of an array of strings, or of words with spaces between them.
    pub value: String,
}

impl Default for JwtOptions {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            leeway_s: LEEWAY_S,
            user_claim: "sub".into(),
            source_claims: vec!["did".into(), "source_id".into()],
            source_header: false,
            admin: None,
        }
    }
}
