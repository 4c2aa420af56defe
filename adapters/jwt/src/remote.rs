//! The keys that an identity provider publishes: a JSON Web Key Set (RFC 7517) behind a URL.
//!
//! They are fetched at start-up, again and again in the background, and at once when a token names a key that is not
//! among them, at most every [`REFETCH_MIN`]: whoever sends made-up names makes this server fetch no more often than that.
//! What was fetched last stays in force for as long as nothing else can be fetched.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, Header};
use outrigger_application::Clock;
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::keys::{Key, Tried, try_keys};

/// The shortest time between a fetch and one that tokens with unknown keys cause.
pub const REFETCH_MIN: Duration = Duration::from_secs(10);
/// Bytes of a key set, at the most. One with certificates has some ten thousand.
pub const JWKS_BYTES_MAX: usize = 512 * 1024;
/// Keys of a set, at the most: a token that names none of them may cost a look at each.
pub const JWKS_KEYS_MAX: usize = 64;
/// How long a fetch may take, from the connection to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a fetch in the background is repeated that has failed.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Where a key set is: behind https, or on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl {
    url: Url,
    is_loopback: bool,
}

impl FromStr for JwksUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: Url = text.parse().map_err(|_| "is no URL, such as https://id.example/jwks.json".to_owned())?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match url.scheme() {
            _ if !url.username().is_empty() || url.password().is_some() => {
                Err("must not hold a user or a password".into())
            }
            "https" => Ok(Self { url, is_loopback }),
            "http" if is_loopback => Ok(Self { url, is_loopback }),
            "http" => {
                Err("must be https, or a loopback address: whoever is in between could put keys of their own there"
                    .into())
            }
            _ => Err("must begin with https://".into()),
        }
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Why keys could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the keys of the identity provider cannot be fetched: {0}")]
pub struct FetchError(String);

/// The keys that a provider publishes. Cheap to clone; clones share what was fetched.
#[derive(Clone)]
pub struct RemoteKeys(Arc<Inner>);

struct Inner {
    url: JwksUrl,
    client: Client,
    clock: Arc<dyn Clock>,
    keys: RwLock<Arc<Vec<Key>>>,
    /// Held by the one request that fetches; the others wait for what it gets.
    last: Mutex<Option<Attempt>>,
}

struct Attempt {
    at: Timestamp,
    outcome: Result<(), FetchError>,
}

impl RemoteKeys {
    /// Keys behind this URL. Nothing is fetched yet.
    pub fn new(url: JwksUrl, clock: Arc<dyn Clock>) -> Result<Self, FetchError> {
        let client = Client::builder()
            .user_agent("outrigger")
            .timeout(FETCH_TIMEOUT)
            // A redirect could lead anywhere, and a key set has no need of one.
            .redirect(redirect::Policy::none())
            .https_only(url.url.scheme() == "https");
        let client = if url.is_loopback { client.no_proxy() } else { client };
        let client = client.build().map_err(|error| FetchError(describe(&error)))?;
        Ok(Self(Arc::new(Inner { url, client, clock, keys: RwLock::default(), last: Mutex::new(None) })))
    }

    /// Fetches the keys. Gives how many there are; after an error those that were there stay.
    pub async fn refresh(&self) -> Result<usize, FetchError> {
        let mut last = self.0.last.lock().await;
        self.fetch(&mut last).await?;
        Ok(self.current().len())
    }

    /// Fetches the keys for ever, that often. A failure is logged when it begins and when it ends.
    pub async fn follow(&self, every: Duration) {
        let mut failing = self.0.last.lock().await.as_ref().is_some_and(|last| last.outcome.is_err());
        loop {
            tokio::time::sleep(if failing { RETRY_AFTER.min(every) } else { every }).await;
            match self.refresh().await {
                Ok(keys) => {
                    if failing {
                        tracing::info!(keys, "the keys of the identity provider can be fetched again");
                    }
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "tokens are checked with the keys that were fetched last");
                    }
                    failing = true;
                }
            }
        }
    }

    /// What the keys verify.
    pub(crate) fn algorithms(&self) -> Vec<Algorithm> {
        self.current().iter().flat_map(|key| key.algorithms().to_vec()).collect()
    }

    /// Tries the keys on a token, and those that are published by now if it is of none of them. Fails if these
    /// would have to be known and cannot be fetched.
    pub(crate) async fn try_keys(&self, header: &Header, token: &str) -> Result<Tried, FetchError> {
        let keys = self.current();
        let tried = try_keys(&keys, header, token);
        let is_known = keys.iter().any(|key| key.is_named(header.kid.as_deref()));
        if matches!(tried, Tried::Verified(_)) || is_known {
            return Ok(tried);
        }
        match self.newer_than(&keys).await? {
            Some(newer) => Ok(try_keys(&newer, header, token)),
            None => Ok(tried),
        }
    }

    /// Other keys than these, if there are any: they are fetched unless that was done just now.
    async fn newer_than(&self, known: &Arc<Vec<Key>>) -> Result<Option<Arc<Vec<Key>>>, FetchError> {
        let mut last = self.0.last.lock().await;
        let current = self.current();
        if !Arc::ptr_eq(&current, known) {
            return Ok(Some(current));
        }
        if let Some(Attempt { at, outcome }) = &*last {
            let passed = self.0.clock.now().duration_since(*at);
            // A clock that was set back must not keep new keys away.
            if passed >= SignedDuration::ZERO && passed < SignedDuration::try_from(REFETCH_MIN).unwrap_or_default() {
                return outcome.clone().map(|()| None);
            }
        }
        self.fetch(&mut last).await?;
        Ok(Some(self.current()))
    }

    fn current(&self) -> Arc<Vec<Key>> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn fetch(&self, last: &mut Option<Attempt>) -> Result<(), FetchError> {
        // Noted before it begins: a request that goes away in the middle has made an attempt, too.
        let at = self.0.clock.now();
        *last = Some(Attempt { at, outcome: Err(FetchError("the last attempt was broken off".into())) });
        let fetched = self.download().await.and_then(|text| read(&text));
        let outcome = fetched.map(|keys| {
            *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        });
        *last = Some(Attempt { at, outcome: outcome.clone() });
        outcome
    }

    async fn download(&self) -> Result<Vec<u8>, FetchError> {
        let failed = |error: reqwest::Error| FetchError(describe(&error));
        let mut response = self.0.client.get(self.0.url.url.clone()).send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(FetchError(format!("{} answers {}", self.0.url, response.status())));
        }
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            text.extend_from_slice(&chunk);
            if text.len() > JWKS_BYTES_MAX {
                return Err(FetchError(format!("the key set has more than {JWKS_BYTES_MAX} bytes")));
            }
        }
        Ok(text)
    }
}

/// The error with its causes, which say more than it does.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// The keys of a set that can be used. What else is in it is passed over, as RFC 7517, 5 has it: sets also hold keys
/// for encryption, and kinds of keys that are yet to come.
fn read(text: &[u8]) -> Result<Vec<Key>, FetchError> {
    #[derive(Deserialize)]
    struct KeySet {
        keys: Vec<Value>,
    }
    let set: KeySet =
        serde_json::from_slice(text).map_err(|_| FetchError("the answer is no JSON Web Key Set".into()))?;
    if set.keys.len() > JWKS_KEYS_MAX {
        return Err(FetchError(format!("the key set has more than {JWKS_KEYS_MAX} keys")));
    }
    let mut keys = Vec::new();
    for key in set.keys {
        let kid = key.get("kid").cloned().unwrap_or_default();
        let read = serde_json::from_value::<Jwk>(key).map_err(|error| error.to_string());
        match read.and_then(|jwk| Key::from_jwk(&jwk).map_err(|error| error.to_string())) {
            Ok(key) => keys.push(key),
            Err(why) => tracing::debug!(%kid, why, "a key of the identity provider is not used"),
        }
    }
    if keys.is_empty() {
        return Err(FetchError("the key set has no key that tokens can be checked with".into()));
    }
    Ok(keys)
}
