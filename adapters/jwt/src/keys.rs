//! Keys: which there are, and what each of them may verify.

use std::fmt;
use std::str::FromStr;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header, Validation, decode};

use crate::claims::Claims;

/// The shortest secret that is taken, in bytes: the output of the hash that HS256 stands on (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// The shortest RSA key that is taken, in bits (RFC 7518, 3.3).
pub const RSA_BITS_MIN: usize = 2_048;
/// Bytes of a key's name, at the most.
pub const KID_BYTES_MAX: usize = 256;

/// Every algorithm that can be configured.
const NAMES: [(&str, Algorithm); 8] = [
    ("HS256", Algorithm::HS256),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// How tokens are signed, by its name in RFC 7518 and RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyAlgorithm(pub(crate) Algorithm);

impl KeyAlgorithm {
    /// Whether one secret both signs and verifies.
    pub fn is_symmetric(self) -> bool {
        self.0.family() == AlgorithmFamily::Hmac
    }
}

impl FromStr for KeyAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = NAMES.map(|(name, _)| name).join(", ");
        let found = NAMES.iter().find(|(name, _)| *name == text).map(|(_, algorithm)| Self(*algorithm));
        found.ok_or_else(|| format!("{text:?} is no algorithm for tokens; there are {names}"))
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Why something is no key that tokens can be checked with. Never holds any of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

/// A key, with all that may be asked of it: a key verifies signatures of its own algorithms and no others, so that
/// nobody can have a public key taken for a secret.
#[derive(Clone)]
pub struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The secret is not shown.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

impl Key {
    /// A secret for HS256. A key without a name is tried on tokens whatever name they give.
    pub fn secret(kid: Option<String>, secret: &[u8]) -> Result<Self, KeyError> {
        let length = secret.len();
        if length < SECRET_BYTES_MIN {
            return Err(KeyError(format!("has {length} bytes and needs {SECRET_BYTES_MIN} or more")));
        }
        Ok(Self::hs256(kid, secret))
    }

    pub(crate) fn hs256(kid: Option<String>, secret: &[u8]) -> Self {
        Self { kid, algorithms: vec![Algorithm::HS256], key: DecodingKey::from_secret(secret) }
    }

    /// A public key in PEM: `PUBLIC KEY`, or for RSA also `RSA PUBLIC KEY`.
    pub fn from_pem(kid: Option<String>, algorithm: KeyAlgorithm, pem: &str) -> Result<Self, KeyError> {
        let says = |what: &str| pem.contains(&format!("-----BEGIN {what}"));
        if pem.contains("PRIVATE KEY-----") {
            return Err(KeyError(
                "is a private key, which only the issuer of tokens should have; \
                                 make the public one with: openssl pkey -in FILE -pubout"
                    .into(),
            ));
        }
        if says("CERTIFICATE") {
            return Err(KeyError("is a certificate; take its key with: openssl x509 -in FILE -pubkey -noout".into()));
        }
        let read = match algorithm.0.family() {
            AlgorithmFamily::Hmac => return Err(KeyError(format!("{algorithm} has a secret and no public key"))),
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem,
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem,
            AlgorithmFamily::Ed => DecodingKey::from_ed_pem,
        };
        let no_key = || KeyError(format!("is no public key in PEM that {algorithm} can use"));
        let key = read(pem.as_bytes()).map_err(|_| no_key())?;
        let jwk = Jwk::from_decoding_key(&key, None).map_err(|_| no_key())?;
        match possible(&jwk.algorithm)? {
            algorithms if algorithms.contains(&algorithm.0) => Ok(Self { kid, algorithms: vec![algorithm.0], key }),
            _ => Err(no_key()),
        }
    }

    /// A key of a JSON Web Key Set, if it is for checking signatures.
    pub(crate) fn from_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err(KeyError("is not for signatures (`use`)".into()));
        }
        if common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
            return Err(KeyError("is not for verifying (`key_ops`)".into()));
        }
        let mut algorithms = possible(&jwk.algorithm)?;
        if let Some(named) = common.key_algorithm {
            algorithms.retain(|algorithm| format!("{algorithm:?}") == named.to_string());
            if algorithms.is_empty() {
                return Err(KeyError(format!(
                    "has the `alg` {named}, which is not one that its kind of key is used with"
                )));
            }
        }
        let kid = common.key_id.clone();
        if kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err(KeyError(format!("has a `kid` of more than {KID_BYTES_MAX} bytes")));
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|_| KeyError("cannot be read".into()))?;
        Ok(Self { kid, algorithms, key })
    }

    /// What it may verify.
    pub(crate) fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// Whether it has this name, or has none or is asked for none.
    pub(crate) fn may_be(&self, kid: Option<&str>) -> bool {
        match (&self.kid, kid) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, _) | (_, None) => true,
        }
    }

    /// Whether it is the one that has this name.
    pub(crate) fn is_named(&self, kid: Option<&str>) -> bool {
        kid.is_some() && self.kid.as_deref() == kid
    }

    /// The claims of the token, if the signature is of this key.
    fn verify(&self, token: &str, algorithm: Algorithm) -> Result<Claims, jsonwebtoken::errors::Error> {
        let mut signature = Validation::new(algorithm);
        // The claims are judged elsewhere, by our clock.
        signature.required_spec_claims.clear();
        signature.validate_exp = false;
        signature.validate_nbf = false;
        signature.validate_aud = false;
        decode(token, &self.key, &signature).map(|token| token.claims)
    }
}

/// What came of trying keys on a token.
pub(crate) enum Tried {
    /// One of them has signed it.
    Verified(Claims),
    /// One of them was to have signed it.
    Refused(jsonwebtoken::errors::Error),
    /// There is none of that name and algorithm.
    NoKey,
}

/// Tries the keys that the token may have been signed with.
pub(crate) fn try_keys(keys: &[Key], header: &Header, token: &str) -> Tried {
    let kid = header.kid.as_deref();
    let mut tried = Tried::NoKey;
    for key in keys.iter().filter(|key| key.algorithms.contains(&header.alg) && key.may_be(kid)) {
        match key.verify(token, header.alg) {
            Ok(claims) => return Tried::Verified(claims),
            Err(error) => tried = Tried::Refused(error),
        }
    }
    tried
}

/// The algorithms that a public key can be used with.
fn possible(parameters: &AlgorithmParameters) -> Result<Vec<Algorithm>, KeyError> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, RS256, RS384, RS512};
    match parameters {
        AlgorithmParameters::RSA(rsa) => {
            let key = DecodingKey::from_rsa_components(&rsa.n, &rsa.e);
            let bits = key.as_ref().map_or(0, rsa_bits);
            if bits < RSA_BITS_MIN {
                return Err(KeyError(format!("is an RSA key of {bits} bits and needs {RSA_BITS_MIN} or more")));
            }
            Ok(vec![RS256, RS384, RS512, PS256])
        }
        AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
            EllipticCurve::P256 => Ok(vec![ES256]),
            EllipticCurve::P384 => Ok(vec![ES384]),
            _ => Err(KeyError("is on a curve that is not used here".into())),
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Ok(vec![EdDSA]),
        AlgorithmParameters::OctetKey(_) => {
            Err(KeyError("is a secret, and what is a secret for everybody is none for tokens".into()))
        }
        _ => Err(KeyError("is of a kind that is not used here".into())),
    }
}

fn rsa_bits(key: &DecodingKey) -> usize {
    match key.kind() {
        jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => {
            let significant = n.iter().skip_while(|byte| **byte == 0);
            let top = significant.clone().next().map_or(0, |byte| byte.leading_zeros() as usize);
            significant.count() * 8 - top
        }
        jsonwebtoken::DecodingKeyKind::SecretOrDer(_) => 0,
    }
}
