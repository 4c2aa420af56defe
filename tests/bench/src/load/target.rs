//! The server that is measured: a running one, or one that is started for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrigger_application::{SystemClock, TokenIssuer};
use outrigger_domain::{SourceId, UserId};
use outrigger_jwt::{JwtIssuer, JwtOptions};

use crate::BenchError;
use crate::client::Client;
use crate::server::{Cost, Server};

const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);

/// A server that is there already.
#[derive(Clone, Debug)]
pub struct Running {
    /// `http://HOST:PORT`
    pub url: String,
    /// How devices prove who they are.
    pub access: Access,
    /// Its process, if that is on this machine and is to be measured.
    pub process: Option<u32>,
}

/// How devices of a benchmark are let in.
#[derive(Clone, Debug)]
pub enum Access {
    /// The secret that tokens are signed with.
    Secret(String),
    /// One token: there is one device then.
    Token(String),
}

/// The server that is measured.
pub(crate) struct Target {
    address: String,
    tokens: Tokens,
    process: Option<u32>,
    /// Ends with this.
    _own: Option<Server>,
}

enum Tokens {
    Signed(Box<JwtIssuer>),
    One(String),
}

impl Target {
    /// A running server.
    pub(crate) fn running(running: &Running) -> Result<Self, BenchError> {
        let address = running.url.trim_end_matches('/').strip_prefix("http://");
        let address = address.ok_or_else(|| BenchError::Refused(format!("{}: not http://HOST:PORT", running.url)))?;
        let tokens = match &running.access {
            Access::Secret(secret) => Tokens::Signed(Box::new(signer(secret))),
            Access::Token(token) => Tokens::One(token.clone()),
        };
        Ok(Self { address: address.to_owned(), tokens, process: running.process, _own: None })
    }

    /// A server of its own.
    pub(crate) fn start(folder: &Path, database_url: &str) -> Result<Self, BenchError> {
        let own = Server::start(folder, database_url)?;
        let tokens = Tokens::Signed(Box::new(signer(crate::server::SECRET)));
        Ok(Self { address: own.address.clone(), tokens, process: Some(own.process()), _own: Some(own) })
    }

    /// Whether there can be more than one device.
    pub(crate) fn has_devices(&self) -> bool {
        matches!(self.tokens, Tokens::Signed(_))
    }

    /// A connection of that device.
    pub(crate) async fn connect(&self, user: &str, device: &str) -> Result<Client, BenchError> {
        let token = match &self.tokens {
            Tokens::One(token) => token.clone(),
            Tokens::Signed(issuer) => {
                let user = UserId::parse(user).map_err(BenchError::other)?;
                issuer.issue(&user, &SourceId::parse(device).map_err(BenchError::other)?, TOKEN_TTL)
            }
        };
        Client::connect(&self.address, &token).await
    }

    /// What it has cost so far, if that can be known.
    pub(crate) fn cost(&self) -> Option<Cost> {
        self.process.map(Cost::of)
    }

    /// Has its peak of memory count from now on.
    pub(crate) fn forget_peak(&self) {
        self.process.into_iter().for_each(Cost::forget_peak);
    }
}

fn signer(secret: &str) -> JwtIssuer {
    JwtIssuer::hs256(secret.as_bytes(), JwtOptions::default(), Arc::new(SystemClock))
}
