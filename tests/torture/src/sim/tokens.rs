//! Tokens of devices.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use outrigger_application::{Clock, TokenIssuer};
use outrigger_domain::{SourceId, UserId};
use outrigger_jwt::{JwtIssuer, JwtOptions};

/// What the nodes and the tokens are signed with.
pub(crate) const SECRET: &str = "a secret of the simulator, long enough to be taken";
/// Longer than any clock here jumps.
const LIFE: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A clock that stands still, so far back that no node's clock is behind it.
struct Early;

impl Clock for Early {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

/// A token of that device.
pub(crate) fn token(user: &str, device: &str) -> Result<String, String> {
    let issuer = JwtIssuer::hs256(SECRET.as_bytes(), JwtOptions::default(), Arc::new(Early));
    let user = UserId::parse(user).map_err(|error| error.to_string())?;
    let source = SourceId::parse(device).map_err(|error| error.to_string())?;
    Ok(issuer.issue(&user, &source, LIFE))
}
