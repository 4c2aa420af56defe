//! The keys of the configuration that say whose tokens are accepted.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use outrigger_jwt::{AdminRule, JwksUrl, JwtOptions, Key, KeyAlgorithm};
use serde::{Deserialize, Serialize};

use super::settings::{from_text, mask, to_text};
use super::{ConfigError, Purpose};

/// How often published keys are fetched unless configured otherwise.
const JWKS_REFRESH_S: u32 = 600;
/// A file with a key is small; this one is taken for another.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// `[auth]`
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    #[serde(serialize_with = "mask")]
    jwt_secret: Option<String>,
    keys: Vec<KeyEntry>,
    jwks_url: Option<Jwks>,
    jwks_refresh_s: Option<NonZeroU32>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway_s: Option<u32>,
    user_claim: Option<String>,
    source_claims: Option<Vec<String>>,
    source_header: bool,
    admin_claim: Option<String>,
    admin_value: Option<String>,
}

impl Settings {
    /// Gives the keys that were left out the values that are taken for them.
    pub(super) fn fill_in(&mut self) {
        let defaults = JwtOptions::default();
        self.jwks_refresh_s = self.jwks_refresh_s.or(NonZeroU32::new(JWKS_REFRESH_S));
        self.leeway_s.get_or_insert(defaults.leeway_s);
        self.user_claim.get_or_insert(defaults.user_claim);
        self.source_claims.get_or_insert(defaults.source_claims);
    }
}

/// One entry of `auth.keys`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    kid: Option<String>,
    alg: Algorithm,
    file: Option<PathBuf>,
    pem: Option<String>,
    #[serde(serialize_with = "mask")]
    secret: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct Algorithm(#[serde(deserialize_with = "from_text", serialize_with = "to_text")] KeyAlgorithm);

#[derive(Deserialize, Serialize)]
struct Jwks(#[serde(deserialize_with = "from_text", serialize_with = "to_text")] JwksUrl);

/// Whose tokens are accepted, and what they say.
pub struct Auth {
    /// The keys that are known from the start.
    pub keys: Vec<Key>,
    /// Where more of them are published.
    pub jwks_url: Option<JwksUrl>,
    /// How often these are fetched.
    pub jwks_refresh: Duration,
    /// The first secret, with its name: what this program can sign tokens with itself.
    pub signing: Option<(Option<String>, Vec<u8>)>,
    /// What is asked of the claims.
    pub options: JwtOptions,
}

impl Auth {
    /// Reads and checks what was configured. Work on the database alone reads no key.
    pub(super) fn read(settings: Settings, purpose: Purpose) -> Result<Self, ConfigError> {
        let mut auth = Self {
            keys: Vec::new(),
            jwks_refresh: Duration::from_secs(settings.jwks_refresh_s.map_or(JWKS_REFRESH_S, NonZeroU32::get).into()),
            signing: None,
            options: options(&settings)?,
            jwks_url: settings.jwks_url.map(|Jwks(url)| url),
        };
        if purpose == Purpose::Operate {
            return Ok(auth);
        }
        if let Some(secret) = settings.jwt_secret {
            auth.add_secret(None, secret.into_bytes())
                .map_err(|why| ConfigError(format!("auth.jwt_secret {why}; {HELP}")))?;
        }
        for (position, entry) in settings.keys.into_iter().enumerate() {
            let wrong = |why: String| ConfigError(format!("auth.keys.{position} {why}"));
            auth.add(entry).map_err(wrong)?;
        }
        Ok(auth)
    }

    /// Whether there is anything to check tokens with.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty() || self.jwks_url.is_some()
    }

    fn add(&mut self, entry: KeyEntry) -> Result<(), String> {
        let KeyEntry { kid, alg: Algorithm(algorithm), file, pem, secret } = entry;
        let inline = if algorithm.is_symmetric() { secret.as_ref() } else { pem.as_ref() };
        let text = match (file, inline, pem.is_some(), secret.is_some()) {
            (Some(file), None, false, false) => read_file(&file)?,
            (None, Some(text), pem, secret) if pem != secret => text.clone(),
            _ if algorithm.is_symmetric() => {
                return Err(format!("needs file or secret, and for {algorithm} nothing else"));
            }
            _ => return Err(format!("needs file or pem, and for {algorithm} nothing else")),
        };
        if algorithm.is_symmetric() {
            // An editor ends a file with a line break that is no part of the secret.
            return self.add_secret(kid, text.trim_end_matches(['\r', '\n']).as_bytes().to_vec());
        }
        self.keys.push(Key::from_pem(kid, algorithm, &text).map_err(|why| why.to_string())?);
        Ok(())
    }

    fn add_secret(&mut self, kid: Option<String>, secret: Vec<u8>) -> Result<(), String> {
        self.keys.push(Key::secret(kid.clone(), &secret).map_err(|why| why.to_string())?);
        self.signing.get_or_insert((kid, secret));
        Ok(())
    }
}

const HELP: &str = "set JWT_SECRET, for example to the output of: openssl rand -base64 48";

/// What a server outside of demo mode says that has no key at all.
pub(super) fn no_keys() -> ConfigError {
    ConfigError(format!("auth.jwt_secret is missing, and so are auth.keys and auth.jwks_url; {HELP}"))
}

fn read_file(path: &std::path::Path) -> Result<String, String> {
    let cannot = |why: &dyn std::fmt::Display| format!("has a file that cannot be read: {}: {why}", path.display());
    let length = std::fs::metadata(path).map_err(|error| cannot(&error))?.len();
    if length > KEY_FILE_BYTES_MAX {
        return Err(cannot(&format!("it has more than {KEY_FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| cannot(&error))
}

fn options(settings: &Settings) -> Result<JwtOptions, ConfigError> {
    let defaults = JwtOptions::default();
    let admin = match (settings.admin_claim.clone(), settings.admin_value.clone()) {
        (None, None) => None,
        (Some(claim), Some(value)) if !claim.is_empty() && !value.is_empty() => Some(AdminRule { claim, value }),
        _ => return Err(ConfigError("auth.admin_claim and auth.admin_value go together, and neither is empty".into())),
    };
    let source_claims = settings.source_claims.clone().unwrap_or(defaults.source_claims);
    if source_claims.is_empty() && !settings.source_header {
        let why = "is empty, so auth.source_header has to be on: otherwise no token would name a source";
        return Err(ConfigError(format!("auth.source_claims {why}")));
    }
    let user_claim = settings.user_claim.clone().unwrap_or(defaults.user_claim);
    if user_claim.is_empty() || source_claims.iter().any(String::is_empty) {
        return Err(ConfigError(
            "auth.user_claim and auth.source_claims are names of claims, which are not empty".into(),
        ));
    }
    Ok(JwtOptions {
        issuer: settings.issuer.clone(),
        audience: settings.audience.clone(),
        leeway_s: settings.leeway_s.unwrap_or(defaults.leeway_s),
        user_claim,
        source_claims,
        source_header: settings.source_header,
        admin,
    })
}
