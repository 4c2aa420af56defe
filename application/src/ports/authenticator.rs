//! Who is asking.

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_domain::{SourceId, UserId};

/// An authenticated device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The owner of the data.
    pub user: UserId,
    /// The installation that is asking.
    pub source: SourceId,
    /// When the credentials end.
    pub expires_at: Timestamp,
    /// Whether it may look after the data of other users, too.
    pub is_admin: bool,
}

/// What a request says of who sent it.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The bearer token.
    pub token: &'a str,
    /// The value of the header `Outrigger-Source-Id`, which counts only where that is allowed.
    pub source_header: Option<&'a str>,
}

/// Why credentials were refused. The message is for the developer of the app and never holds the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// They are not acceptable, now or ever.
    #[error("{0}")]
    Rejected(String),
    /// They could not be checked: what is needed for it cannot be reached. The same request may succeed later.
    #[error("{0}")]
    Unavailable(String),
}

/// Turns credentials into a [`Caller`].
///
/// Implementations accept nothing that is expired, not yet valid, unsigned or signed by an algorithm that
/// was not configured, and return only callers whose ids are well-formed.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// Checks the credentials of one request.
    #[cfg_attr(any(test, feature = "mock"), mockall::concretize)]
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Caller, AuthError>;
}

/// Makes tokens that the server's own [`Authenticator`] accepts: for the demo's sign-in and the command line.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
pub trait TokenIssuer: Send + Sync {
    /// A token for this device, good for `ttl` from now.
    fn issue(&self, user: &UserId, source: &SourceId, ttl: std::time::Duration) -> String;
}
