//! Keys made for a test, and tokens signed with them.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The algorithms that have public keys.
pub(crate) const PUBLIC: [Algorithm; 7] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// An issuer's key.
pub(crate) struct Signer {
    pub(crate) algorithm: Algorithm,
    key: EncodingKey,
    /// The public key as the issuer hands it out.
    pub(crate) pem: String,
    /// The private key as nobody else should see it.
    pub(crate) private_pem: String,
    jwk: Value,
}

impl Signer {
    /// A new key.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::ES256 => Self::ec(algorithm, &ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            Algorithm::ES384 => Self::ec(algorithm, &ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            Algorithm::EdDSA => Self::ed(),
            _ => Self::rsa(algorithm),
        }
    }

    fn rsa(algorithm: Algorithm) -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let private_pem = pem("PRIVATE KEY", private.as_ref());
        let signing = RsaKeyPair::from_pkcs8(private.as_ref()).unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(signing.public_key()).unwrap();
        let (n, e) = (signing.public_key().modulus(), signing.public_key().exponent());
        let jwk = json!({
            "kty": "RSA", "n": base64url(n.big_endian_without_leading_zero()),
            "e": base64url(e.big_endian_without_leading_zero()),
        });
        let key = EncodingKey::from_rsa_pem(private_pem.as_bytes()).unwrap();
        Self { algorithm, key, pem: pem("PUBLIC KEY", public.as_ref()), private_pem, jwk }
    }

    fn ec(algorithm: Algorithm, curve: &'static EcdsaSigningAlgorithm, name: &str) -> Self {
        let private = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(curve, private.as_ref()).unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let jwk = json!({"kty": "EC", "crv": name, "x": base64url(x), "y": base64url(y)});
        let private_pem = pem("PRIVATE KEY", private.as_ref());
        let key = EncodingKey::from_ec_pem(private_pem.as_bytes()).unwrap();
        Self { algorithm, key, pem: pem("PUBLIC KEY", public.as_ref()), private_pem, jwk }
    }

    fn ed() -> Self {
        let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())});
        let private_pem = pem("PRIVATE KEY", private.as_ref());
        let key = EncodingKey::from_ed_der(private.as_ref());
        Self { algorithm: Algorithm::EdDSA, key, pem: pem("PUBLIC KEY", public.as_ref()), private_pem, jwk }
    }

    /// The key as one of a JSON Web Key Set, with these members on top.
    pub(crate) fn jwk(&self, more: Value) -> Value {
        let mut jwk = self.jwk.clone();
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        jwk
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        self.sign_with(&header, claims)
    }

    /// A token with this header.
    pub(crate) fn sign_with(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).unwrap()
    }
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The armour of RFC 7468.
pub(crate) fn pem(what: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}
