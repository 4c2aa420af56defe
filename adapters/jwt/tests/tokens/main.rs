//! Every rule about tokens, with tokens made for it.

mod jwks;
mod keys;
mod signer;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use outrigger_application::{AuthError, Authenticator, Caller, Clock, Credentials, TokenIssuer};
use outrigger_domain::{SourceId, UserId};
use outrigger_jwt::{AdminRule, JwtAuthenticator, JwtIssuer, JwtOptions, TOKEN_BYTES_MAX};
use serde_json::{Value, json};

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const NOW: i64 = 1_800_000_000;

struct Stopped(i64);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0).unwrap()
    }
}

fn authenticator(options: JwtOptions) -> JwtAuthenticator {
    JwtAuthenticator::hs256(SECRET, options, Arc::new(Stopped(NOW)))
}

/// Claims that are accepted, with these on top; null takes a claim away.
fn claims(changed: Value) -> Value {
    let mut claims = json!({"sub": "alice", "did": "phone", "exp": NOW + 60});
    for (name, value) in changed.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn sign(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

async fn ask(options: JwtOptions, token: &str, source_header: Option<&str>) -> Result<Caller, String> {
    let answer = authenticator(options).authenticate(Credentials { token, source_header }).await;
    answer.map_err(|error| match error {
        AuthError::Rejected(message) => {
            assert!(token.len() < 20 || !message.contains(token), "the message echoes the token: {message}");
            message
        }
        AuthError::Unavailable(message) => panic!("unavailable: {message}"),
    })
}

async fn judge(changed: Value) -> Result<Caller, String> {
    ask(JwtOptions::default(), &sign(&claims(changed)), None).await
}

#[tokio::test]
async fn a_token_names_user_source_and_end() {
    let caller = judge(json!({})).await.unwrap();
    assert_eq!(caller.user, UserId::parse("alice").unwrap());
    assert_eq!(caller.source, SourceId::parse("phone").unwrap());
    assert_eq!(caller.expires_at, Timestamp::from_second(NOW + 60).unwrap());
}

#[tokio::test]
async fn the_source_may_be_called_did_or_source_id() {
    for (changed, source) in [
        (json!({"did": null, "source_id": "tablet"}), "tablet"),
        (json!({"did": "tablet", "source_id": "tablet"}), "tablet"),
    ] {
        assert_eq!(judge(changed).await.unwrap().source.as_str(), source);
    }
    let error = judge(json!({"did": "phone", "source_id": "tablet"})).await.unwrap_err();
    assert!(error.contains("differ"), "{error}");
}

#[tokio::test]
async fn a_token_without_a_source_needs_the_header() {
    let options = JwtOptions { source_header: true, ..JwtOptions::default() };
    let token = sign(&claims(json!({"did": null})));
    let caller = ask(options.clone(), &token, Some("laptop")).await.unwrap();
    assert_eq!(caller.source.as_str(), "laptop");
    let error = ask(options.clone(), &token, None).await.unwrap_err();
    assert!(error.contains("Outrigger-Source-Id"), "{error}");
    for bad in ["", "a\tb", &"x".repeat(256)] {
        let error = ask(options.clone(), &token, Some(bad)).await.unwrap_err();
        assert!(error.contains("the header Outrigger-Source-Id"), "{error}");
    }
}

#[tokio::test]
async fn the_header_counts_only_where_it_is_allowed() {
    let token = sign(&claims(json!({"did": null})));
    let error = ask(JwtOptions::default(), &token, Some("laptop")).await.unwrap_err();
    assert!(error.contains("`did` or `source_id`") && error.contains("auth.source_header"), "{error}");
}

#[tokio::test]
async fn claims_may_have_other_names_and_places() {
    let options = JwtOptions {
        user_claim: "https://app.example/user".into(),
        source_claims: vec!["session.id".into(), "sid".into()],
        ..JwtOptions::default()
    };
    let good = json!({"https://app.example/user": "bob", "session": {"id": "tablet"}, "did": null});
    let caller = ask(options.clone(), &sign(&claims(good.clone())), None).await.unwrap();
    assert_eq!((caller.user.as_str(), caller.source.as_str()), ("bob", "tablet"));
    for (changed, word) in [
        (json!({"https://app.example/user": null}), "https://app.example/user"),
        (json!({"https://app.example/user": 7}), "https://app.example/user"),
        (json!({"session": null}), "`session.id` or `sid`"),
        (json!({"session": {"id": 7}}), "`session.id`"),
        (json!({"sid": "phone"}), "differ"),
    ] {
        let mut claims = claims(good.clone());
        claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        let error = ask(options.clone(), &sign(&claims), None).await.unwrap_err();
        assert!(error.contains(word), "{changed}: {error}");
    }
}

#[tokio::test]
async fn an_administrator_is_told_by_the_configured_claim() {
    let rule = |claim: &str| AdminRule { claim: claim.into(), value: "sync:admin".into() };
    for (claim, changed, is_admin) in [
        ("scope", json!({"scope": "sync:admin"}), true),
        ("scope", json!({"scope": "openid sync:admin email"}), true),
        ("scope", json!({"scope": "openid sync:administrate"}), false),
        ("scope", json!({"scope": ["openid", "sync:admin"]}), true),
        ("scope", json!({"scope": ["openid sync:admin"]}), false),
        ("scope", json!({"scope": [["sync:admin"]]}), false),
        ("scope", json!({"scope": {"sync:admin": true}}), false),
        ("scope", json!({"scope": true}), false),
        ("scope", json!({"scope": null}), false),
        ("realm_access.roles", json!({"realm_access": {"roles": ["user", "sync:admin"]}}), true),
        ("realm_access.roles", json!({"roles": ["sync:admin"]}), false),
        ("https://a.example/roles", json!({"https://a.example/roles": ["sync:admin"]}), true),
    ] {
        let options = JwtOptions { admin: Some(rule(claim)), ..JwtOptions::default() };
        let token = sign(&claims(changed.clone()));
        assert_eq!(ask(options, &token, None).await.unwrap().is_admin, is_admin, "{changed}");
        assert!(!ask(JwtOptions::default(), &token, None).await.unwrap().is_admin, "{changed}");
    }
}

#[tokio::test]
async fn an_issued_token_uses_the_configured_names() {
    let admin = Some(AdminRule { claim: "role".into(), value: "admin".into() });
    let options =
        JwtOptions { user_claim: "uid".into(), source_claims: vec!["dev".into()], admin, ..JwtOptions::default() };
    let (user, source) = (UserId::parse("alice").unwrap(), SourceId::parse("phone").unwrap());
    for is_admin in [false, true] {
        let issuer = JwtIssuer::hs256(SECRET, options.clone(), Arc::new(Stopped(NOW))).with_kid(Some("1".into()));
        let issuer = if is_admin { issuer.for_admins() } else { issuer };
        let token = issuer.issue(&user, &source, Duration::from_secs(60));
        assert_eq!(jsonwebtoken::decode_header(&token).unwrap().kid.as_deref(), Some("1"));
        let caller = ask(options.clone(), &token, None).await.unwrap();
        let expires_at = Timestamp::from_second(NOW + 60).unwrap();
        assert_eq!(caller, Caller { user: user.clone(), source: source.clone(), expires_at, is_admin });
    }
}

#[tokio::test]
async fn the_header_must_not_contradict_the_token() {
    for changed in [json!({}), json!({"did": null, "source_id": "phone"}), json!({"source_id": "phone"})] {
        let token = sign(&claims(changed));
        assert_eq!(ask(JwtOptions::default(), &token, Some("phone")).await.unwrap().source.as_str(), "phone");
        let error = ask(JwtOptions::default(), &token, Some("laptop")).await.unwrap_err();
        assert!(error.contains("contradicts"), "{error}");
    }
}

#[tokio::test]
async fn times_are_judged_by_the_clock_with_thirty_seconds_of_leeway() {
    for (changed, accepted) in [
        (json!({"exp": NOW - 29}), true),
        (json!({"exp": NOW - 30}), false),
        (json!({"exp": NOW as f64 - 29.5}), true),
        (json!({"exp": 1e300}), true),
        (json!({"exp": -1e300}), false),
        (json!({"nbf": NOW + 30}), true),
        (json!({"nbf": NOW + 31}), false),
        (json!({"iat": NOW + 30}), true),
        (json!({"iat": NOW + 31}), false),
        (json!({"nbf": NOW - 9999, "iat": NOW - 9999}), true),
    ] {
        assert_eq!(judge(changed.clone()).await.is_ok(), accepted, "{changed}");
    }
}

#[tokio::test]
async fn the_leeway_is_an_option() {
    let strict = JwtOptions { leeway_s: 0, ..JwtOptions::default() };
    for (exp, accepted) in [(NOW, false), (NOW + 1, true)] {
        let token = sign(&claims(json!({"exp": exp})));
        assert_eq!(ask(strict.clone(), &token, None).await.is_ok(), accepted, "{exp}");
    }
}

#[tokio::test]
async fn a_claim_that_is_missing_or_malformed_is_named() {
    for (changed, word) in [
        (json!({"exp": null}), "`exp`"),
        (json!({"exp": "1900000000"}), "`exp`"),
        (json!({"nbf": "soon"}), "`nbf`"),
        (json!({"iat": [1]}), "`iat`"),
        (json!({"sub": null}), "`sub`"),
        (json!({"sub": 7}), "`sub`"),
        (json!({"sub": ""}), "`sub`"),
        (json!({"sub": "a\nb"}), "`sub`"),
        (json!({"sub": "x".repeat(256)}), "`sub`"),
        (json!({"did": 7}), "`did`"),
        (json!({"did": ""}), "`did`"),
        (json!({"did": null, "source_id": {}}), "`source_id`"),
        (json!({"did": null, "source_id": "a\u{0}"}), "`source_id`"),
    ] {
        let error = judge(changed.clone()).await.unwrap_err();
        assert!(error.contains(word), "{changed}: {error}");
    }
}

#[tokio::test]
async fn issuer_and_audience_count_when_they_are_configured() {
    let options = JwtOptions {
        issuer: Some("https://id.example".to_owned()),
        audience: Some("sync".to_owned()),
        ..JwtOptions::default()
    };
    for (changed, accepted) in [
        (json!({"iss": "https://id.example", "aud": "sync"}), true),
        (json!({"iss": "https://id.example", "aud": ["web", "sync"]}), true),
        (json!({"iss": "https://id.example", "aud": ["web"]}), false),
        (json!({"iss": "https://id.example", "aud": "web"}), false),
        (json!({"iss": "https://id.example"}), false),
        (json!({"iss": "https://evil.example", "aud": "sync"}), false),
        (json!({"iss": ["https://id.example"], "aud": "sync"}), false),
        (json!({"aud": "sync"}), false),
    ] {
        let token = sign(&claims(changed.clone()));
        assert_eq!(ask(options.clone(), &token, None).await.is_ok(), accepted, "{changed}");
    }
    judge(json!({"iss": "anybody", "aud": "anything"})).await.unwrap();
}

#[tokio::test]
async fn only_the_configured_algorithm_is_accepted() {
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = encode(&Header::new(algorithm), &claims(json!({})), &EncodingKey::from_secret(SECRET)).unwrap();
        let error = ask(JwtOptions::default(), &token, None).await.unwrap_err();
        assert!(error.contains("HS256"), "{error}");
    }
}

/// base64url without padding, by hand: the library would refuse to make these tokens.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().enumerate().fold(0_u32, |word, (i, &byte)| word | u32::from(byte) << (16 - 8 * i));
        for i in 0..=group.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * i)) as usize & 63]));
        }
    }
    text
}

#[tokio::test]
async fn an_unsigned_token_is_never_accepted() {
    let payload = base64url(claims(json!({})).to_string().as_bytes());
    let signature = sign(&claims(json!({}))).rsplit('.').next().unwrap().to_owned();
    for alg in ["none", "None", "NONE", "", "hs256"] {
        let header = base64url(json!({"alg": alg, "typ": "JWT"}).to_string().as_bytes());
        for signature in ["", &signature] {
            let token = format!("{header}.{payload}.{signature}");
            assert!(ask(JwtOptions::default(), &token, None).await.is_err(), "{alg}");
        }
    }
    // The same hand-made parts with the right header are a good token: it is `alg` that was refused.
    let header = base64url(br#"{"typ":"JWT","alg":"HS256"}"#);
    let good = sign(&claims(json!({})));
    assert_eq!(good, format!("{header}.{payload}.{signature}"));
    assert!(ask(JwtOptions::default(), &format!("{header}.{payload}."), None).await.is_err());
}

#[tokio::test]
async fn a_tampered_token_is_refused() {
    let token = sign(&claims(json!({})));
    ask(JwtOptions::default(), &token, None).await.unwrap();
    for position in 0..token.len() {
        let mut tampered = token.clone().into_bytes();
        // Another character of the alphabet; the last one of a part may differ in bits that do not count.
        tampered[position] = if tampered[position] == b'A' { b'Z' } else { b'A' };
        let tampered = String::from_utf8(tampered).unwrap();
        assert!(ask(JwtOptions::default(), &tampered, None).await.is_err(), "position {position}");
    }
    let other = sign(&claims(json!({"sub": "mallory"})));
    let (body, _) = other.rsplit_once('.').unwrap();
    let (_, signature) = token.rsplit_once('.').unwrap();
    let error = ask(JwtOptions::default(), &format!("{body}.{signature}"), None).await.unwrap_err();
    assert!(error.contains("signature"), "{error}");
}

#[tokio::test]
async fn another_secret_is_refused() {
    let issuer =
        JwtIssuer::hs256(b"another secret of at least 32 bytes!", JwtOptions::default(), Arc::new(Stopped(NOW)));
    let token =
        issuer.issue(&UserId::parse("alice").unwrap(), &SourceId::parse("phone").unwrap(), Duration::from_secs(60));
    let error = ask(JwtOptions::default(), &token, None).await.unwrap_err();
    assert!(error.contains("signature"), "{error}");
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let good = sign(&claims(json!({})));
    for bad in ["", "x", "a.b.c", "..", &format!("{good}."), &format!(".{good}"), &format!(" {good}"), "é.é.é"] {
        assert!(ask(JwtOptions::default(), bad, None).await.is_err(), "{bad:?}");
    }
    for payload in [r#""text""#, "[]", r#"{"sub":"alice","sub":"bob","did":"phone","exp":9999999999}"#] {
        let mut header = Header::new(Algorithm::HS256);
        header.typ = None;
        let raw = serde_json::value::RawValue::from_string(payload.to_owned()).unwrap();
        let token = encode(&header, &raw, &EncodingKey::from_secret(SECRET)).unwrap();
        assert!(ask(JwtOptions::default(), &token, None).await.is_err(), "{payload}");
    }
}

#[tokio::test]
async fn a_critical_extension_is_refused() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".to_owned()]);
    let token = encode(&header, &claims(json!({})), &EncodingKey::from_secret(SECRET)).unwrap();
    let error = ask(JwtOptions::default(), &token, None).await.unwrap_err();
    assert!(error.contains("crit"), "{error}");
}

#[tokio::test]
async fn a_token_has_a_bounded_size() {
    let sized = |padding: usize| sign(&claims(json!({"padding": "x".repeat(padding)})));
    let (mut padding, mut token) = (5_800, sized(5_800));
    while token.len() <= TOKEN_BYTES_MAX {
        ask(JwtOptions::default(), &token, None).await.unwrap();
        padding += 16;
        token = sized(padding);
    }
    assert!(padding > 5_800);
    let error = ask(JwtOptions::default(), &token, None).await.unwrap_err();
    assert!(error.contains("8192"), "{error}");
}

#[tokio::test]
async fn an_issued_token_is_accepted_until_it_ends() {
    let options = JwtOptions {
        issuer: Some("https://id.example".to_owned()),
        audience: Some("sync".to_owned()),
        ..JwtOptions::default()
    };
    let (user, source) = (UserId::parse("søren \"s\"").unwrap(), SourceId::parse("phone").unwrap());
    let issued_ago = |seconds: i64| {
        JwtIssuer::hs256(SECRET, options.clone(), Arc::new(Stopped(NOW - seconds))).issue(
            &user,
            &source,
            Duration::from_secs(300),
        )
    };
    let caller = ask(options.clone(), &issued_ago(0), None).await.unwrap();
    let expires_at = Timestamp::from_second(NOW + 300).unwrap();
    assert_eq!(caller, Caller { user: user.clone(), source: source.clone(), expires_at, is_admin: false });
    assert!(ask(options.clone(), &issued_ago(329), None).await.is_ok());
    let error = ask(options.clone(), &issued_ago(330), None).await.unwrap_err();
    assert!(error.contains("expired"), "{error}");
}
