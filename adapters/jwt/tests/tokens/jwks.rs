//! Keys that are published: an issuer on a port of this machine, with its rotations and outages.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use jsonwebtoken::Algorithm;
use outrigger_jwt::{JWKS_BYTES_MAX, JWKS_KEYS_MAX, JwksUrl, Key, REFETCH_MIN, RemoteKeys};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::signer::{PUBLIC, Signer};
use super::*;

struct Moving(AtomicI64);

impl Clock for Moving {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// An identity provider: whatever it is to answer, and how often it was asked.
struct Provider {
    url: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
        let provider = Self { url, answer: Arc::clone(&answer), asked: Arc::clone(&asked) };
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        match connection.read_u8().await {
                            Ok(byte) => request.push(byte),
                            Err(_) => return,
                        }
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                    let text = answer.lock().unwrap().clone();
                    let _ = connection.write_all(text.as_bytes()).await;
                });
            }
        });
        provider
    }

    fn answers(&self, status: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        *self.answer.lock().unwrap() = head + body;
    }

    fn publishes(&self, keys: &[Value]) {
        self.answers("200 OK", &json!({"keys": keys}).to_string());
    }

    fn goes_down(&self) {
        self.answers("503 Service Unavailable", "");
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A server whose only keys are those of a provider.
struct Server {
    remote: RemoteKeys,
    authenticator: JwtAuthenticator,
    clock: Arc<Moving>,
}

impl Server {
    fn new(provider: &Provider, keys: Vec<Key>) -> Self {
        let clock = Arc::new(Moving(AtomicI64::new(NOW)));
        let remote = RemoteKeys::new(provider.url.parse().unwrap(), Arc::<Moving>::clone(&clock)).unwrap();
        let shared: Arc<dyn Clock> = Arc::<Moving>::clone(&clock);
        let authenticator = JwtAuthenticator::new(keys, Some(remote.clone()), JwtOptions::default(), shared);
        Self { remote, authenticator, clock }
    }

    fn passes(&self, time: Duration) {
        self.clock.0.fetch_add(time.as_secs() as i64, Ordering::SeqCst);
    }

    async fn ask(&self, token: &str) -> Result<Caller, AuthError> {
        self.authenticator.authenticate(Credentials { token, source_header: None }).await
    }

    async fn accepts(&self, token: &str) {
        assert_eq!(self.ask(token).await.unwrap().user.as_str(), "alice");
    }

    async fn refuses(&self, token: &str, word: &str) {
        match self.ask(token).await {
            Err(AuthError::Rejected(why)) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    async fn cannot_tell(&self, token: &str) {
        let answer = self.ask(token).await;
        assert!(matches!(answer, Err(AuthError::Unavailable(_))), "{answer:?}");
    }
}

/// A token that outlives the test's clock.
fn token(signer: &Signer, kid: Option<&str>) -> String {
    signer.sign(kid, &claims(json!({"exp": NOW + 100_000})))
}

#[tokio::test]
async fn published_keys_of_every_algorithm_are_used() {
    for algorithm in PUBLIC {
        let (signer, provider) = (Signer::new(algorithm), Provider::start().await);
        let name = format!("{algorithm:?}");
        for more in
            [json!({"kid": "a", "alg": name, "use": "sig"}), json!({"kid": "a"}), json!({"key_ops": ["verify"]})]
        {
            provider.publishes(&[signer.jwk(more)]);
            let server = Server::new(&provider, Vec::new());
            assert_eq!(server.remote.refresh().await, Ok(1));
            server.accepts(&token(&signer, Some("a"))).await;
            server.accepts(&token(&signer, None)).await;
            server.refuses(&token(&Signer::new(algorithm), Some("a")), "signature").await;
        }
    }
}

#[tokio::test]
async fn a_rotation_is_noticed_by_the_first_token_of_the_new_key() {
    let (old, new, provider) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256), Provider::start().await);
    let (old_jwk, new_jwk) = (old.jwk(json!({"kid": "old"})), new.jwk(json!({"kid": "new"})));
    provider.publishes(std::slice::from_ref(&old_jwk));
    let server = Server::new(&provider, Vec::new());
    server.remote.refresh().await.unwrap();
    server.passes(REFETCH_MIN);
    provider.publishes(&[old_jwk, new_jwk.clone()]);
    server.accepts(&token(&new, Some("new"))).await;
    server.accepts(&token(&old, Some("old"))).await;
    assert_eq!(provider.asked(), 2);
    server.passes(REFETCH_MIN);
    provider.publishes(&[new_jwk]);
    server.accepts(&token(&old, Some("old"))).await;
    server.remote.refresh().await.unwrap();
    server.refuses(&token(&old, Some("old")), "`kid`").await;
    server.accepts(&token(&new, Some("new"))).await;
}

#[tokio::test]
async fn made_up_names_of_keys_cause_few_fetches() {
    let (signer, provider) = (Signer::new(Algorithm::ES256), Provider::start().await);
    provider.publishes(&[signer.jwk(json!({"kid": "a"}))]);
    let server = Server::new(&provider, Vec::new());
    server.remote.refresh().await.unwrap();
    let flood = async |rounds: usize| {
        for number in 0..rounds {
            server.refuses(&token(&signer, Some(&format!("made up {number}"))), "`kid`").await;
        }
    };
    flood(50).await;
    assert_eq!(provider.asked(), 1, "it was fetched just now");
    server.passes(REFETCH_MIN);
    flood(50).await;
    assert_eq!(provider.asked(), 2);
    server.passes(REFETCH_MIN - Duration::from_secs(1));
    flood(50).await;
    assert_eq!(provider.asked(), 2);
    server.passes(Duration::from_secs(1));
    let all = (0..50).map(|number| token(&signer, Some(&format!("at once {number}"))));
    let tokens: Vec<String> = all.collect();
    for answer in futures_all(tokens.iter().map(|token| server.ask(token))).await {
        assert!(matches!(answer, Err(AuthError::Rejected(_))), "{answer:?}");
    }
    assert_eq!(provider.asked(), 3);
    // Tokens that no published key could have signed cause none at all.
    server.passes(REFETCH_MIN);
    server.refuses(&sign(&claims(json!({}))), "`alg`").await;
    server.refuses(&token(&signer, Some(&"k".repeat(1_000))), "`kid` is longer").await;
    assert_eq!(provider.asked(), 3);
    server.accepts(&token(&signer, Some("a"))).await;
    assert_eq!(provider.asked(), 3);
}

/// All of them at once.
async fn futures_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Some(Box::pin(future)), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut waiting {
            if let Some(running) = future {
                match running.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => (*future, *output) = (None, Some(value)),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}

#[tokio::test]
async fn the_last_good_keys_stay_while_the_provider_is_down() {
    let (signer, new, provider) =
        (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256), Provider::start().await);
    provider.publishes(&[signer.jwk(json!({"kid": "a"}))]);
    let server = Server::new(&provider, Vec::new());
    server.remote.refresh().await.unwrap();
    let too_much = json!({"keys": [signer.jwk(json!({"kid": "b"}))], "x": "x".repeat(JWKS_BYTES_MAX)}).to_string();
    let too_many = json!({"keys": vec![signer.jwk(json!({"kid": "b"})); JWKS_KEYS_MAX + 1]}).to_string();
    for (status, body) in [
        ("503 Service Unavailable", ""),
        ("302 Found\r\nLocation: /elsewhere", ""),
        ("200 OK", "<html>maintenance</html>"),
        ("200 OK", "{\"keys\":[]}"),
        ("200 OK", "[]"),
        ("200 OK", &too_much),
        ("200 OK", &too_many),
    ] {
        provider.answers(status, body);
        let error = server.remote.refresh().await.unwrap_err().to_string();
        assert!(error.starts_with("the keys of the identity provider cannot be fetched: "), "{error}");
        server.accepts(&token(&signer, Some("a"))).await;
        // Whether this is a key of the provider nobody can tell now: the device is to try again.
        server.cannot_tell(&token(&new, Some("b"))).await;
    }
    provider.publishes(&[new.jwk(json!({"kid": "b"}))]);
    server.passes(REFETCH_MIN);
    server.accepts(&token(&new, Some("b"))).await;
}

#[tokio::test]
async fn a_provider_that_is_down_at_the_start_is_asked_again() {
    let (signer, provider) = (Signer::new(Algorithm::RS256), Provider::start().await);
    provider.goes_down();
    let server = Server::new(&provider, vec![Key::secret(None, SECRET).unwrap()]);
    server.remote.refresh().await.unwrap_err();
    server.cannot_tell(&token(&signer, None)).await;
    assert_eq!(provider.asked(), 1);
    // Tokens of the server's own secret have nothing to do with it.
    server.accepts(&sign(&claims(json!({})))).await;
    provider.publishes(&[signer.jwk(json!({}))]);
    server.passes(REFETCH_MIN);
    server.accepts(&token(&signer, None)).await;
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn keys_that_are_for_something_else_are_not_used() {
    let (ec, rsa, provider) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::RS256), Provider::start().await);
    let good = Signer::new(Algorithm::EdDSA);
    let short = json!({"kty": "RSA", "kid": "x", "n": signer::base64url(&[0xC5; 128]), "e": "AQAB"});
    let secret = json!({"kty": "oct", "kid": "x", "alg": "HS256", "k": signer::base64url(SECRET)});
    let curve = json!({"kty": "EC", "kid": "x", "crv": "secp256k1", "x": "AA", "y": "AA"});
    for bad in [
        rsa.jwk(json!({"kid": "x", "use": "enc"})),
        rsa.jwk(json!({"kid": "x", "alg": "RSA-OAEP"})),
        rsa.jwk(json!({"kid": "x", "alg": "ES256"})),
        rsa.jwk(json!({"kid": "x", "alg": "HS256"})),
        rsa.jwk(json!({"kid": "x", "key_ops": ["encrypt"]})),
        rsa.jwk(json!({"kid": "x".repeat(1_000)})),
        ec.jwk(json!({"kid": "x", "alg": "RS256"})),
        ec.jwk(json!({"kid": "x", "alg": "ES384"})),
        ec.jwk(json!({"kid": "x", "crv": "P-384"})),
        short,
        secret,
        curve,
        json!({"kty": "from the future"}),
        json!(7),
    ] {
        provider.publishes(&[bad.clone(), good.jwk(json!({"kid": "good"}))]);
        let server = Server::new(&provider, Vec::new());
        server.remote.refresh().await.unwrap();
        server.accepts(&token(&good, Some("good"))).await;
        for token in [token(&rsa, Some("x")), token(&ec, Some("x")), token(&rsa, None), sign(&claims(json!({})))] {
            let answer = server.ask(&token).await;
            assert!(matches!(answer, Err(AuthError::Rejected(_))), "{bad}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_published_key_is_never_a_secret() {
    let (signer, provider) = (Signer::new(Algorithm::RS256), Provider::start().await);
    let jwk = signer.jwk(json!({"kid": "a", "alg": "RS256"}));
    provider.publishes(std::slice::from_ref(&jwk));
    let server = Server::new(&provider, Vec::new());
    server.remote.refresh().await.unwrap();
    for secret in [signer.pem.clone(), jwk.to_string(), jwk["n"].as_str().unwrap().to_owned()] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("a".into());
        let forged = encode(&header, &claims(json!({})), &EncodingKey::from_secret(secret.as_bytes())).unwrap();
        server.refuses(&forged, "`alg` is not accepted").await;
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_again_in_the_background() {
    let (signer, provider) = (Signer::new(Algorithm::ES256), Provider::start().await);
    provider.publishes(&[signer.jwk(json!({"kid": "a"}))]);
    let server = Server::new(&provider, Vec::new());
    let following = server.remote.clone();
    tokio::spawn(async move { following.follow(Duration::from_secs(600)).await });
    // The clock of the runtime moves on when everything waits.
    while provider.asked() < 3 {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    server.accepts(&token(&signer, Some("a"))).await;
}

#[test]
fn keys_come_over_https_or_from_this_machine() {
    for good in [
        "https://id.example/jwks.json",
        "http://127.0.0.1:1/a",
        "http://[::1]/",
        "http://localhost:8080/",
        "HTTPS://X/",
    ] {
        good.parse::<JwksUrl>().unwrap();
    }
    for (bad, word) in [
        ("http://id.example/jwks.json", "https"),
        ("http://127.0.0.1.example/", "https"),
        ("http://10.0.0.1/", "https"),
        ("http://localhost.example/", "https"),
        ("file:///etc/jwks.json", "https"),
        ("ftp://127.0.0.1/", "https"),
        ("https://user:password@id.example/", "password"),
        ("id.example/jwks.json", "URL"),
        ("", "URL"),
    ] {
        let why = bad.parse::<JwksUrl>().unwrap_err();
        assert!(why.contains(word), "{bad}: {why}");
    }
}
