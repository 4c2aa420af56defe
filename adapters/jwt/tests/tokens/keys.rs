//! Keys of every algorithm, and what a forger could try with what is public of them.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use outrigger_jwt::{Key, KeyAlgorithm};

use super::signer::{PUBLIC, Signer, pem};
use super::*;

fn algorithm(algorithm: Algorithm) -> KeyAlgorithm {
    format!("{algorithm:?}").parse().unwrap()
}

fn key(signer: &Signer, kid: Option<&str>) -> Key {
    Key::from_pem(kid.map(str::to_owned), algorithm(signer.algorithm), &signer.pem).unwrap()
}

async fn ask(keys: &[Key], token: &str) -> Result<Caller, String> {
    let authenticator = JwtAuthenticator::new(keys.to_vec(), None, JwtOptions::default(), Arc::new(Stopped(NOW)));
    let answer = authenticator.authenticate(Credentials { token, source_header: None }).await;
    answer.map_err(|error| error.to_string())
}

#[tokio::test]
async fn every_algorithm_verifies_what_its_key_has_signed() {
    for algorithm in PUBLIC {
        let (signer, other) = (Signer::new(algorithm), Signer::new(algorithm));
        let keys = [key(&signer, None)];
        assert_eq!(ask(&keys, &signer.sign(None, &claims(json!({})))).await.unwrap().user.as_str(), "alice");
        let error = ask(&keys, &other.sign(None, &claims(json!({})))).await.unwrap_err();
        assert!(error.contains("signature"), "{algorithm:?}: {error}");
        let mut tampered = signer.sign(None, &claims(json!({})));
        let body = tampered.find('.').unwrap() + 3;
        tampered.replace_range(body..=body, if &tampered[body..=body] == "A" { "B" } else { "A" });
        assert!(ask(&keys, &tampered).await.is_err(), "{algorithm:?}");
    }
}

#[tokio::test]
async fn a_key_verifies_its_own_algorithm_and_no_other() {
    let signers = PUBLIC.map(Signer::new);
    for (at, signer) in signers.iter().enumerate() {
        let others: Vec<Key> =
            signers.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, s)| key(s, None)).collect();
        let error = ask(&others, &signer.sign(None, &claims(json!({})))).await.unwrap_err();
        assert!(error.contains("`alg` is not accepted"), "{:?}: {error}", signer.algorithm);
    }
}

/// The classic: what is public of an RSA key taken for the secret of an HMAC.
#[tokio::test]
async fn a_public_key_is_never_a_secret() {
    for algorithm in PUBLIC {
        let signer = Signer::new(algorithm);
        let der: Vec<u8> = {
            use base64::Engine;
            let body: String = signer.pem.lines().filter(|line| !line.starts_with('-')).collect();
            base64::engine::general_purpose::STANDARD.decode(body).unwrap()
        };
        for secret in [signer.pem.as_bytes(), signer.pem.trim_end().as_bytes(), &der] {
            for alg in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let forged = encode(&Header::new(alg), &claims(json!({})), &EncodingKey::from_secret(secret)).unwrap();
                let error = ask(&[key(&signer, None)], &forged).await.unwrap_err();
                assert!(error.contains("`alg` is not accepted"), "{algorithm:?}: {error}");
                // With a secret of the app's own beside it, too.
                let both = [key(&signer, None), Key::secret(None, SECRET).unwrap()];
                assert!(ask(&both, &forged).await.is_err());
            }
        }
    }
}

#[tokio::test]
async fn several_keys_may_be_in_use_at_once() {
    let (old, new) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    let keys = [key(&old, Some("2025")), key(&new, Some("2026")), Key::secret(None, SECRET).unwrap()];
    for (signer, kid) in [(&old, Some("2025")), (&new, Some("2026")), (&old, None), (&new, None)] {
        ask(&keys, &signer.sign(kid, &claims(json!({})))).await.unwrap();
    }
    ask(&keys, &sign(&claims(json!({})))).await.unwrap();
    let crossed = ask(&keys, &new.sign(Some("2025"), &claims(json!({})))).await.unwrap_err();
    assert!(crossed.contains("signature"), "{crossed}");
    let unknown = ask(&keys, &new.sign(Some("2027"), &claims(json!({})))).await.unwrap_err();
    assert!(unknown.contains("`kid`"), "{unknown}");
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("2025".into());
    let named = encode(&header, &claims(json!({})), &EncodingKey::from_secret(SECRET)).unwrap();
    ask(&keys, &named).await.unwrap();
}

#[tokio::test]
async fn two_secrets_are_in_use_while_one_replaces_the_other() {
    let other: &[u8] = b"another secret of at least 32 bytes!";
    let keys = [Key::secret(Some("old".into()), SECRET).unwrap(), Key::secret(Some("new".into()), other).unwrap()];
    let token = |secret: &[u8], kid: Option<&str>| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = kid.map(str::to_owned);
        encode(&header, &claims(json!({})), &EncodingKey::from_secret(secret)).unwrap()
    };
    for (secret, kid, accepted) in [
        (SECRET, Some("old"), true),
        (other, Some("new"), true),
        (SECRET, None, true),
        (other, None, true),
        (SECRET, Some("new"), false),
        (other, Some("gone"), false),
    ] {
        assert_eq!(ask(&keys, &token(secret, kid)).await.is_ok(), accepted, "{kid:?}");
    }
    assert!(Key::secret(None, &SECRET[..31]).unwrap_err().to_string().contains("31 bytes"));
}

/// A key's name is compared and nothing else: no file, no query, no address is made of it.
#[tokio::test]
async fn a_name_of_a_key_that_is_an_attack_is_only_an_unknown_name() {
    let signer = Signer::new(Algorithm::RS256);
    let keys = [key(&signer, Some("2026")), Key::secret(Some("/dev/null".into()), SECRET).unwrap()];
    for kid in ["../../../../dev/null", "2026' OR '1'='1", "2026\0", "", "2026;ls", "http://127.0.0.1:1/", "файл"] {
        let error = ask(&keys, &signer.sign(Some(kid), &claims(json!({})))).await.unwrap_err();
        assert!(error.contains("`kid`") && (kid.is_empty() || !error.contains(kid)), "{kid:?}: {error}");
        // What such a file would hold, as the secret.
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        let forged = encode(&header, &claims(json!({})), &EncodingKey::from_secret(b"")).unwrap();
        assert!(ask(&keys, &forged).await.is_err());
    }
    let error = ask(&keys, &signer.sign(Some(&"k".repeat(257)), &claims(json!({})))).await.unwrap_err();
    assert!(error.contains("256 bytes"), "{error}");
    let long = ask(&keys, &signer.sign(Some(&"k".repeat(256)), &claims(json!({})))).await.unwrap_err();
    assert!(long.contains("does not have"), "{long}");
}

#[tokio::test]
async fn a_key_that_a_token_brings_along_is_not_looked_at() {
    let (ours, theirs) = (Signer::new(Algorithm::RS256), Signer::new(Algorithm::RS256));
    let mut header = Header::new(Algorithm::RS256);
    header.jwk = Some(serde_json::from_value(theirs.jwk(json!({}))).unwrap());
    header.jku = Some("http://127.0.0.1:9/jwks.json".into());
    header.x5u = Some("http://127.0.0.1:9/cert.pem".into());
    let error = ask(&[key(&ours, None)], &theirs.sign_with(&header, &claims(json!({})))).await.unwrap_err();
    assert!(error.contains("signature"), "{error}");
    ask(&[key(&ours, None)], &ours.sign_with(&header, &claims(json!({})))).await.unwrap();
}

#[tokio::test]
async fn an_unknown_critical_extension_is_refused_whatever_the_algorithm() {
    let signer = Signer::new(Algorithm::EdDSA);
    let mut header = Header::new(Algorithm::EdDSA);
    header.crit = Some(vec!["http://example.com/unknown".into()]);
    let error = ask(&[key(&signer, None)], &signer.sign_with(&header, &claims(json!({})))).await.unwrap_err();
    assert!(error.contains("crit"), "{error}");
}

#[tokio::test]
async fn an_unsigned_token_is_refused_by_public_keys_too() {
    let signer = Signer::new(Algorithm::RS256);
    let signed = signer.sign(None, &claims(json!({})));
    let (_, rest) = signed.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    for alg in ["none", "None", "nOnE", ""] {
        let header = base64url(json!({"alg": alg, "typ": "JWT"}).to_string().as_bytes());
        for signature in ["", signature] {
            assert!(ask(&[key(&signer, None)], &format!("{header}.{payload}.{signature}")).await.is_err(), "{alg}");
        }
    }
}

#[test]
fn only_a_public_key_that_fits_is_taken() {
    let refused = |alg: Algorithm, text: &str| Key::from_pem(None, algorithm(alg), text).unwrap_err().to_string();
    for signer in PUBLIC.map(Signer::new) {
        let private = refused(signer.algorithm, &signer.private_pem);
        assert!(private.contains("private") && private.contains("-pubout"), "{private}");
        for other in PUBLIC {
            let both_rsa = [signer.algorithm, other]
                .iter()
                .all(|alg| format!("{alg:?}").contains('S') && format!("{alg:?}").starts_with(['R', 'P']));
            let fits = both_rsa || signer.algorithm == other;
            assert_eq!(
                Key::from_pem(None, algorithm(other), &signer.pem).is_ok(),
                fits,
                "{other:?} with {:?}",
                signer.algorithm
            );
        }
        assert!(refused(signer.algorithm, "").contains("no public key"));
        assert!(refused(signer.algorithm, &signer.pem.replace("PUBLIC KEY", "CERTIFICATE")).contains("x509"));
        assert!(refused(Algorithm::HS256, &signer.pem).contains("secret"));
    }
    for name in ["none", "HS512", "rs256", "ES512", "PS512", ""] {
        assert!(name.parse::<KeyAlgorithm>().unwrap_err().contains("RS256"), "{name}");
    }
}

/// A DER of PKCS #1: a sequence of modulus and exponent.
fn rsa_pem(modulus_bytes: usize) -> String {
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        let length: &[u8] = match length {
            [0, short @ 0..=0x7F] => &[short],
            [0, one] => &[0x81, one],
            [high, low] => &[0x82, high, low],
        };
        [&[tag], length, content].concat()
    }
    let modulus = [&[0][..], &vec![0xC5; modulus_bytes]].concat();
    pem("RSA PUBLIC KEY", &element(0x30, &[element(2, &modulus), element(2, &[1, 0, 1])].concat()))
}

#[test]
fn a_short_rsa_key_is_refused() {
    let read = |bytes: usize| Key::from_pem(None, algorithm(Algorithm::RS256), &rsa_pem(bytes));
    let error = read(128).unwrap_err().to_string();
    assert!(error.contains("1024 bits") && error.contains("2048"), "{error}");
    assert!(read(255).unwrap_err().to_string().contains("2040 bits"));
    read(256).unwrap();
}
