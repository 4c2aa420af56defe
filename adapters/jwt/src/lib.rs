//! JSON Web Tokens: who is asking, by a signed token ([RFC 7519](https://www.rfc-editor.org/rfc/rfc7519)).
//!
//! [`JwtAuthenticator`] checks tokens and [`JwtIssuer`] makes them. A token is first verified, by a key and
//! an algorithm that were configured, and only then are its claims judged, against the time of a
//! [`Clock`](outrigger_application::Clock).

mod authenticator;
mod claims;
mod issuer;

pub use authenticator::{JwtAuthenticator, TOKEN_BYTES_MAX};
pub use issuer::JwtIssuer;

/// The header that names the source where the token names none.
pub const SOURCE_HEADER: &str = "Outrigger-Source-Id";

/// The leeway of [`JwtOptions`] unless configured otherwise: what clocks of honest machines differ by.
pub const LEEWAY_S: u32 = 30;

/// What is asked of a token beyond its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// The only `iss` that is accepted; any or none if this is None.
    pub issuer: Option<String>,
    /// The value that has to be in `aud`; anything goes if this is None.
    pub audience: Option<String>,
    /// Seconds by which `exp`, `nbf` and `iat` may be off.
    pub leeway_s: u32,
}

impl Default for JwtOptions {
    fn default() -> Self {
        Self { issuer: None, audience: None, leeway_s: LEEWAY_S }
    }
}
