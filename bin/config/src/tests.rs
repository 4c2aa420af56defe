use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use outrigger_application::Materialize;

use super::*;

mod auth;
mod edge;

const SECRET: &str = "01234567890123456789012345678901";

fn config(flags: Flags, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(&flags, environment, Purpose::Serve).map_err(|error| error.to_string())
}

/// The configuration that stands in a file, with nothing beside it.
fn file(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outrigger.toml");
    std::fs::write(&path, text).unwrap();
    config(Flags { config: Some(path), ..Flags::default() }, environment)
}

/// The secret that tokens can be signed with.
fn secret(config: &Config) -> Option<String> {
    config.auth.signing.as_ref().map(|(_, secret)| String::from_utf8(secret.clone()).unwrap())
}

#[track_caller]
fn refused(result: Result<Config, String>, parts: &[&str]) {
    let Err(sentence) = result else { panic!("not refused: {parts:?}") };
    assert!(!sentence.contains('\n'), "{sentence}");
    for part in parts {
        assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
    }
}

#[test]
fn without_any_configuration_it_is_a_demo_on_a_file() {
    let config = config(Flags::default(), &[("PATH", "/bin"), ("HOME", "/root")]).unwrap();
    assert!(config.demo);
    assert!(!config.auth.has_keys());
    assert!(config.settings.database_url == DatabaseUrl::Sqlite("outrigger.db".into()));
    assert_eq!(config.settings.listen.0.to_string(), "127.0.0.1:8080");
    let names: Vec<String> = config.tables.iter().map(|config| config.table.name.to_string()).collect();
    assert_eq!(names, ["public.users", "public.posts"]);
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_the_default() {
    let text = format!("listen = '127.0.0.1:1'\nlog = 'a'\ndrain_timeout_s = 1\n[auth]\njwt_secret = '{SECRET}'");
    let in_file = file(&text, &[]).unwrap();
    assert_eq!(in_file.settings.listen.0.port(), 1);
    assert_eq!(in_file.settings.schema_version, 1);

    let environment = [("OUTRIGGER_LISTEN", "127.0.0.1:2"), ("OUTRIGGER_LOG", "b"), ("JWT_SECRET", &"e".repeat(32))];
    let in_environment = file(&text, &environment).unwrap();
    assert_eq!(in_environment.settings.listen.0.port(), 2);
    assert_eq!(secret(&in_environment), Some("e".repeat(32)));
    assert_eq!(in_environment.settings.drain_timeout_s, 1);

    let flags = Flags { listen: "127.0.0.1:3".parse().ok(), demo: Some(true), ..Flags::default() };
    let in_flags = config(flags, &environment).unwrap();
    assert_eq!(in_flags.settings.listen.0.port(), 3);
    assert_eq!(in_flags.settings.log.0, "b");
    assert!(in_flags.demo);
}

#[test]
fn a_variable_with_our_prefix_wins_over_the_shared_one() {
    for (ours, shared) in [(0, 1), (1, 0)] {
        let mut environment = [("OUTRIGGER_DATABASE_URL", "memory:"), ("DATABASE_URL", "postgres://x/y")];
        environment.swap(ours, shared);
        let config = config(Flags::default(), &environment).unwrap();
        assert!(config.settings.database_url == DatabaseUrl::Memory);
    }
}

#[test]
fn every_key_can_come_from_the_environment() {
    let digits = "1".repeat(32);
    let keys = format!(r#"[{{alg="HS256", secret="{SECRET}"}}]"#);
    let variables = [
        ("OUTRIGGER_LISTEN", "[::1]:9"),
        ("OUTRIGGER_DATABASE_URL", "sqlite:///tmp/x.db"),
        ("OUTRIGGER_SCHEMA_VERSION", "7"),
        ("OUTRIGGER_DEMO", "false"),
        ("OUTRIGGER_DRAIN_TIMEOUT_S", "3"),
        ("OUTRIGGER_LOG", "warn,sqlx=off"),
        ("OUTRIGGER_LIMITS__UPLOAD_CHANGES_MAX", "11"),
        ("OUTRIGGER_LIMITS__PAYLOAD_BYTES_MAX", "12"),
        ("OUTRIGGER_LIMITS__BODY_BYTES_MAX", "13"),
        ("OUTRIGGER_SQLITE__SYNCHRONOUS", "normal"),
        ("OUTRIGGER_POSTGRES__MAX_CONNECTIONS", "5"),
        ("OUTRIGGER_POSTGRES__SESSION_SETTINGS", "false"),
        ("OUTRIGGER_AUTH__JWT_SECRET", digits.as_str()),
        ("OUTRIGGER_AUTH__ISSUER", "1"),
        ("OUTRIGGER_AUTH__AUDIENCE", "true"),
        ("OUTRIGGER_AUTH__LEEWAY_S", "4"),
        ("OUTRIGGER_AUTH__KEYS", keys.as_str()),
        ("OUTRIGGER_AUTH__JWKS_URL", "https://id.example/jwks.json"),
        ("OUTRIGGER_AUTH__JWKS_REFRESH_S", "99"),
        ("OUTRIGGER_AUTH__USER_CLAIM", "uid"),
        ("OUTRIGGER_AUTH__SOURCE_CLAIMS", r#"["sid", "did"]"#),
        ("OUTRIGGER_AUTH__SOURCE_HEADER", "true"),
        ("OUTRIGGER_AUTH__ADMIN_CLAIM", "role"),
        ("OUTRIGGER_AUTH__ADMIN_VALUE", "7"),
        ("OUTRIGGER_PROJECTION__TIMEOUT_MS", "900"),
        ("OUTRIGGER_PROJECTION__CATALOG_REFRESH_S", "6"),
        ("OUTRIGGER_TABLES", r#"[{name="business.posts"}, {name="users"}]"#),
    ];
    for (name, _) in variables {
        assert!(include_str!("../../../README.md").contains(&format!("`{name}")), "the README does not name {name}");
    }
    let config = config(Flags::default(), &variables).unwrap();
    let settings = &config.settings;
    assert_eq!(settings.listen.0.to_string(), "[::1]:9");
    assert!(settings.database_url == DatabaseUrl::Sqlite(PathBuf::from("/tmp/x.db")));
    assert_eq!((settings.schema_version, settings.drain_timeout_s, settings.log.0.as_str()), (7, 3, "warn,sqlx=off"));
    let limits = &settings.limits;
    let limits = [limits.upload_changes_max, limits.payload_bytes_max, limits.body_bytes_max];
    assert_eq!(limits.map(NonZeroUsize::get), [11, 12, 13]);
    assert_eq!(settings.sqlite.synchronous, Synchronous::Normal);
    assert_eq!(settings.postgres.max_connections.map(NonZeroU32::get), Some(5));
    assert_eq!(settings.postgres.session_settings, Some(false));
    assert_eq!(secret(&config), Some(digits.clone()));
    let options = &config.auth.options;
    assert_eq!((options.issuer.as_deref(), options.audience.as_deref()), (Some("1"), Some("true")));
    assert_eq!((options.leeway_s, options.user_claim.as_str(), options.source_header), (4, "uid", true));
    assert_eq!(options.source_claims, ["sid", "did"]);
    let admin = options.admin.as_ref().map(|rule| (rule.claim.as_str(), rule.value.as_str()));
    assert_eq!(admin, Some(("role", "7")));
    assert_eq!(config.auth.keys.len(), 2);
    assert!(config.auth.jwks_url.is_some());
    assert_eq!(config.auth.jwks_refresh.as_secs(), 99);
    let projection = &settings.projection;
    assert_eq!((projection.timeout_ms.get(), projection.catalog_refresh_s.get()), (900, 6));
    assert!(!config.demo);
    assert_eq!(config.tables.len(), 2);
}

#[test]
fn variables_that_kubernetes_or_the_tests_set_are_not_ours() {
    let foreign = [
        ("OUTRIGGER_PORT", "tcp://10.0.0.1:80"),
        ("OUTRIGGER_SERVICE_HOST", "x"),
        ("OUTRIGGER_SERVICE_PORT_HTTP", "80"),
        ("OUTRIGGER_DB_SERVICE_HOST", "10.0.0.1"),
        ("OUTRIGGER_DB_SERVICE_PORT", "5432"),
        ("OUTRIGGER_DB_PORT", "tcp://10.0.0.1:5432"),
        ("OUTRIGGER_POSTGRES_PORT_5432_TCP_ADDR", "10.0.0.1"),
        ("OUTRIGGER_TEST_POSTGRES_URL", "x"),
    ];
    assert!(config(Flags::default(), &foreign).is_ok());
}

#[test]
fn an_empty_rust_log_is_none() {
    let log = |variables: &[(&str, &str)]| config(Flags::default(), variables).unwrap().settings.log;
    assert_eq!(log(&[("RUST_LOG", "")]), log(&[]));
    assert_ne!(log(&[("RUST_LOG", "debug")]), log(&[]));
}

#[test]
fn a_misspelt_key_is_named_with_its_place() {
    refused(file("listn = '127.0.0.1:1'", &[]), &["listn", "outrigger.toml", "listen, database_url"]);
    refused(file("[auth]\nsecret = 'x'", &[]), &["auth.secret", "jwt_secret"]);
    refused(file("[[tables]]\nname = 'a'\nreference = 1", &[]), &["tables.0.reference", "outrigger.toml"]);
    refused(config(Flags::default(), &[("OUTRIGGER_LISTN", "x")]), &["listn", "OUTRIGGER_LISTN"]);
}

#[test]
fn a_wrong_value_is_a_sentence_that_names_the_key() {
    for (text, parts) in [
        ("listen = 'localhost:8080'", ["listen", "\"localhost:8080\" is not an IP address"]),
        ("listen = 8080", ["listen", "must be a string"]),
        ("database_url = 'mysql://u:hunter2@x'", ["database_url", "postgres://"]),
        ("schema_version = -1", ["schema_version", "a whole number"]),
        ("demo = 'perhaps'", ["demo", "a boolean"]),
        ("drain_timeout_s = 1.5", ["drain_timeout_s", "a whole number"]),
        ("log = 'a=b=c'", ["log", "filter"]),
        ("limits = 3", ["limits", "must be a table"]),
        ("[limits]\nupload_changes_max = 0", ["limits.upload_changes_max", "1 or more"]),
        ("[sqlite]\nsynchronous = 'sometimes'", ["sqlite.synchronous", "full, normal"]),
        ("[postgres]\nmax_connections = 0", ["postgres.max_connections", "1 or more"]),
        ("[auth]\nleeway_s = 'x'", ["auth.leeway_s", "a whole number"]),
        ("tables = 'users'", ["tables", "a list"]),
        ("[[tables]]\nname = 'a-b'", ["tables.0.name", "\"a-b\""]),
        ("[[tables]]", ["tables.0.name", "missing"]),
        ("[[tables]]\nname = 'a'\n[[tables]]\nname = 'Public.A'", ["tables", "public.a is named twice"]),
        ("[[tables]]\nname = 'a'\nmaterialize = 'maybe'", ["tables.0.materialize", "true, false or \"required\""]),
        ("[[tables]]\nname = 'a'\nmaterialize = 1", ["tables.0.materialize", "true, false or \"required\""]),
        ("[[tables]]\nname = 'a'\nreferences = 'b'", ["tables.0.references", "must be"]),
        ("[[tables]]\nname = 'a'\nreferences = { b_id = 'b-c' }", ["tables.0.references.b_id", "\"b-c\""]),
        ("[[tables]]\nname = 'a'\nreferences = { \"b id\" = 'b' }", ["tables.0.references", "\"b id\""]),
        ("[[tables]]\nname = 'a'\nowner_column = 'a.b'", ["tables.0.owner_column", "\"a.b\""]),
        ("[[tables]]\nname = 'a'\nowner_column = ''", ["tables.0.owner_column", "\"\""]),
        ("[projection]\ntimeout_ms = 0", ["projection.timeout_ms", "1 or more"]),
        ("[projection]\ntimeout_ms = 10001", ["projection.timeout_ms", "10000 at the most"]),
        ("[projection]\ncatalog_refresh_s = 0", ["projection.catalog_refresh_s", "1 or more"]),
        ("listen", ["config", "line 1"]),
    ] {
        refused(file(text, &[("JWT_SECRET", SECRET)]), &parts);
    }
}

#[test]
fn a_file_that_was_named_has_to_be_there() {
    let flags = Flags { config: Some("no/such.toml".into()), ..Flags::default() };
    refused(config(flags, &[]), &["config", "no/such.toml"]);
}

#[test]
fn outside_demo_mode_the_secret_has_32_bytes() {
    refused(file("", &[]), &["auth.jwt_secret is missing"]);
    refused(config(Flags::default(), &[("JWT_SECRET", "")]), &["auth.jwt_secret", "0 bytes"]);
    refused(config(Flags::default(), &[("JWT_SECRET", &SECRET[1..])]), &["auth.jwt_secret", "31 bytes"]);
    refused(config(Flags::default(), &[("OUTRIGGER_DEMO", "false")]), &["auth.jwt_secret is missing"]);
    refused(config(Flags::default(), &[("OUTRIGGER_LISTEN", "0.0.0.0:1")]), &["auth.jwt_secret is missing"]);
    let config = config(Flags::default(), &[("JWT_SECRET", SECRET)]).unwrap();
    assert!(!config.demo);
    assert!(config.tables.is_empty());
}

#[test]
fn a_secret_is_never_repeated() {
    for text in ["[auth]\njwt_secret = 123454321", "[auth]\njwt_secret = { a = 123454321 }", "auth = 123454321"] {
        let Err(sentence) = file(text, &[]) else { panic!("{text}") };
        assert!(sentence.contains("auth") && !sentence.contains("123454321"), "{sentence}");
    }
}

#[test]
fn a_demo_stays_on_this_machine() {
    let everywhere = [("OUTRIGGER_LISTEN", "0.0.0.0:8080"), ("OUTRIGGER_DEMO", "true"), ("JWT_SECRET", SECRET)];
    refused(config(Flags::default(), &everywhere), &["demo", "0.0.0.0:8080", "loopback"]);
}

#[test]
fn the_demo_adds_its_tables_to_those_of_the_file() {
    let config = file("demo = true\n[[tables]]\nname = 'users'\n[[tables]]\nname = 'notes'", &[]).unwrap();
    let names: Vec<String> = config.tables.iter().map(|config| config.table.name.to_string()).collect();
    assert_eq!(names, ["public.users", "public.notes", "public.posts"]);
}

#[test]
fn a_table_says_how_it_is_projected() {
    let text = "
        [[tables]]
        name = 'posts'
        references = { author_id = 'business.users', editorId = 'Users' }
        materialize = 'required'
        owner_column = 'user_id'
        [[tables]]
        name = 'a'
        materialize = false
        [[tables]]
        name = 'b'
        materialize = true
    ";
    let from_file = file(text, &[("JWT_SECRET", SECRET)]).unwrap();
    let posts = &from_file.tables[0];
    let references: Vec<_> =
        posts.table.references.iter().map(|of| (of.column.as_str(), of.parent.to_string())).collect();
    assert_eq!(references, [("author_id", "business.users".into()), ("editorId", "public.users".into())]);
    assert_eq!((posts.materialize, posts.owner_column.as_deref()), (Materialize::Required, Some("user_id")));
    assert_eq!(from_file.tables[1].materialize, Materialize::Off);
    assert_eq!(from_file.tables[2], TableConfig::new(TableName::parse_qualified("b").unwrap()));

    let list = r#"[{name="a", materialize=false, references={b_id="b"}}, {name="b", materialize="required"}]"#;
    let from_variable = config(Flags::default(), &[("OUTRIGGER_TABLES", list), ("JWT_SECRET", SECRET)]).unwrap();
    assert_eq!(from_variable.tables[0].materialize, Materialize::Off);
    assert_eq!(from_variable.tables[0].table.references.len(), 1);
    assert_eq!(from_variable.tables[1].materialize, Materialize::Required);
}

#[test]
fn work_on_the_database_needs_no_secret() {
    let environment =
        || [("OUTRIGGER_DEMO", "false")].map(|(name, value)| (OsString::from(name), OsString::from(value)));
    assert!(load(&Flags::default(), environment(), Purpose::Operate).is_ok());
    assert!(load(&Flags::default(), environment(), Purpose::Serve).is_err());
}
