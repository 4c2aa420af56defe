//! Whose tokens are accepted.

use super::*;

/// The public half of an Ed25519 key that nobody has the other half of.
const ED_PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

#[test]
fn keys_come_from_files_and_from_the_configuration_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (pem, secret) = (folder.path().join("a.pem"), folder.path().join("secret"));
    std::fs::write(&pem, ED_PEM).unwrap();
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let text = format!(
        "[auth]\nkeys = [{{ kid = 'a', alg = 'EdDSA', file = {pem:?} }}, {{ alg = 'EdDSA', pem = '''{ED_PEM}''' }}, \
         {{ kid = 's', alg = 'HS256', file = {secret:?} }}]"
    );
    let config = file(&text, &[]).unwrap();
    assert_eq!(config.auth.keys.len(), 3);
    assert_eq!(config.auth.signing, Some((Some("s".into()), SECRET.as_bytes().to_vec())));
    assert!(!config.demo);
    assert!(file("[auth]\njwks_url = 'https://id.example/jwks.json'", &[]).unwrap().auth.has_keys());
}

#[test]
fn a_key_that_cannot_be_used_is_named_and_not_shown() {
    let short = &SECRET[1..];
    for (key, parts) in [
        ("{ alg = 'RS256', pem = 'hello' }".to_owned(), ["auth.keys.0", "no public key in PEM that RS256"]),
        (format!("{{ alg = 'RS256', pem = '''{ED_PEM}''' }}"), ["auth.keys.0", "RS256"]),
        (format!("{{ alg = 'HS256', secret = '{short}' }}"), ["auth.keys.0", "31 bytes"]),
        (format!("{{ alg = 'HS256', pem = '''{ED_PEM}''' }}"), ["auth.keys.0", "file or secret"]),
        (format!("{{ alg = 'EdDSA', secret = '{SECRET}' }}"), ["auth.keys.0", "file or pem"]),
        (format!("{{ alg = 'EdDSA', file = 'a', pem = '''{ED_PEM}''' }}"), ["auth.keys.0", "nothing else"]),
        ("{ alg = 'EdDSA' }".to_owned(), ["auth.keys.0", "file or pem"]),
        ("{ alg = 'EdDSA', file = '/no/such.pem' }".to_owned(), ["auth.keys.0", "/no/such.pem"]),
        ("{ alg = 'none', pem = '' }".to_owned(), ["auth.keys.0.alg", "\"none\""]),
        ("{ pem = '' }".to_owned(), ["auth.keys.0.alg", "missing"]),
        ("{ alg = 'EdDSA', key = '' }".to_owned(), ["auth.keys.0.key", "kid, alg, file, pem, secret"]),
    ] {
        let refusal = file(&format!("[auth]\nkeys = [{key}]"), &[]);
        if let Err(sentence) = &refusal {
            assert!(!sentence.contains(short) && !sentence.contains("MCow"), "{sentence}");
        }
        refused(refusal, &parts);
    }
}

#[test]
fn what_is_asked_of_tokens_has_to_make_sense() {
    for (text, parts) in [
        ("jwks_url = 'http://id.example/a'", ["auth.jwks_url", "https"]),
        ("jwks_url = 'x'", ["auth.jwks_url", "URL"]),
        ("jwks_refresh_s = 0", ["auth.jwks_refresh_s", "1 or more"]),
        ("admin_claim = 'role'", ["auth.admin_claim", "auth.admin_value"]),
        ("admin_value = 'root'", ["auth.admin_claim", "auth.admin_value"]),
        ("admin_claim = 'role'\nadmin_value = ''", ["auth.admin_claim", "empty"]),
        ("source_claims = []", ["auth.source_claims", "auth.source_header"]),
        ("source_claims = ['']", ["auth.source_claims", "empty"]),
        ("user_claim = ''", ["auth.user_claim", "empty"]),
    ] {
        refused(file(&format!("[auth]\n{text}"), &[("JWT_SECRET", SECRET)]), &parts);
    }
    let header = file("[auth]\nsource_claims = []\nsource_header = true", &[("JWT_SECRET", SECRET)]).unwrap();
    assert!(header.auth.options.source_header && header.auth.options.source_claims.is_empty());
}

/// What the README shows for identity providers is what the server takes.
#[test]
fn every_recipe_of_the_readme_is_a_configuration() {
    let readme = include_str!("../../../../README.md");
    let (_, recipes) = readme.split_once("\n### Tokens of an identity provider\n").expect("the section is there");
    let recipes = recipes.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("issuer.pem");
    std::fs::write(&key, ED_PEM).unwrap();
    let mut found = Vec::new();
    for block in recipes.split("```toml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        let name = text.lines().next().unwrap().trim_start_matches("# ").to_owned();
        let text = text.replace("/etc/outrigger/issuer-2026.pem", key.to_str().unwrap());
        let config = file(&text, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(config.auth.has_keys() && !config.demo, "{name}");
        assert!(config.auth.options.issuer.is_some() && config.auth.options.audience.is_some(), "{name}");
        found.push(name);
    }
    assert_eq!(found, ["Auth0", "Supabase", "Keycloak", "Firebase", "An issuer of your own"]);
}
