//! The keys that say how the network is met.

use super::super::edge::ProxyHeader;
use super::*;

#[test]
fn every_key_can_come_from_the_environment() {
    let variables = [
        ("OUTRIGGER_LIMITS__USER_REQUESTS_PER_S", "14"),
        ("OUTRIGGER_LIMITS__USER_REQUESTS_BURST", "15"),
        ("OUTRIGGER_LIMITS__USER_REQUESTS_MAX", "16"),
        ("OUTRIGGER_LIMITS__USER_UPLOADS_MAX", "17"),
        ("OUTRIGGER_LIMITS__USER_WATCHERS_MAX", "18"),
        ("OUTRIGGER_LIMITS__ADDRESS_REQUESTS_PER_S", "19"),
        ("OUTRIGGER_LIMITS__ADDRESS_REQUESTS_BURST", "20"),
        ("OUTRIGGER_LIMITS__REQUESTS_MAX", "21"),
        ("OUTRIGGER_LIMITS__WATCHERS_MAX", "22"),
        ("OUTRIGGER_TIMEOUTS__HEADER_S", "31"),
        ("OUTRIGGER_TIMEOUTS__BODY_S", "32"),
        ("OUTRIGGER_TIMEOUTS__BODY_BYTES_PER_S_MIN", "33"),
        ("OUTRIGGER_TIMEOUTS__IDLE_S", "34"),
        ("OUTRIGGER_TIMEOUTS__SEND_S", "35"),
        ("OUTRIGGER_DRAIN_S", "36"),
        ("OUTRIGGER_H2C", "true"),
        ("OUTRIGGER_TLS__CERT", "/etc/cert.pem"),
        ("OUTRIGGER_TLS__KEY", "/etc/key.pem"),
        ("OUTRIGGER_CORS__ORIGINS", r#"["https://app.example"]"#),
        ("OUTRIGGER_TRUSTED_PROXIES", r#"["10.0.0.0/8", "::1"]"#),
        ("OUTRIGGER_PROXY_HEADER", "forwarded"),
        ("OUTRIGGER_POSTGRES__ACQUIRE_TIMEOUT_MS", "41"),
        ("OUTRIGGER_POSTGRES__STATEMENT_TIMEOUT_MS", "42"),
        ("OUTRIGGER_POSTGRES__LOCK_TIMEOUT_MS", "43"),
        ("JWT_SECRET", SECRET),
    ];
    for (name, _) in variables {
        assert!(include_str!("../../../../README.md").contains(&format!("`{name}")), "the README does not name {name}");
    }
    let config = config(Flags::default(), &variables).unwrap();
    let settings = &config.settings;
    let limits = &settings.limits;
    let rates = (limits.user_requests_per_s, limits.user_requests_burst);
    assert_eq!((rates, limits.address_requests_per_s, limits.address_requests_burst), ((14, 15), 19, 20));
    let at_once = [limits.user_requests_max, limits.user_uploads_max, limits.user_watchers_max];
    assert_eq!(at_once.map(NonZeroUsize::get), [16, 17, 18]);
    assert_eq!([limits.requests_max, limits.watchers_max].map(NonZeroUsize::get), [21, 22]);
    let timeouts = &settings.timeouts;
    let timeouts =
        [timeouts.header_s, timeouts.body_s, timeouts.body_bytes_per_s_min, timeouts.idle_s, timeouts.send_s];
    assert_eq!(timeouts.map(NonZeroU32::get), [31, 32, 33, 34, 35]);
    assert_eq!((settings.drain_s, settings.h2c), (36, true));
    let tls = settings.tls.as_ref().map(|tls| (tls.cert.to_str(), tls.key.to_str()));
    assert_eq!(tls, Some((Some("/etc/cert.pem"), Some("/etc/key.pem"))));
    assert_eq!(
        settings.cors.origins.iter().map(|origin| origin.0.as_str()).collect::<Vec<_>>(),
        ["https://app.example"]
    );
    let proxies: Vec<_> = settings.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.0/8", "::1/128"]);
    assert_eq!(settings.proxy_header, ProxyHeader::Forwarded);
    let postgres = &settings.postgres;
    let timeouts = [postgres.acquire_timeout_ms, postgres.statement_timeout_ms, postgres.lock_timeout_ms];
    assert_eq!(timeouts.map(|ms| ms.map(NonZeroU32::get)), [Some(41), Some(42), Some(43)]);
}

#[test]
fn a_wrong_value_is_a_sentence_that_names_the_key() {
    for (text, parts) in [
        ("[limits]\nrequests_max = 0", ["limits.requests_max", "1 or more"]),
        ("[timeouts]\nheader_s = 0", ["timeouts.header_s", "1 or more"]),
        ("[tls]\ncert = 'a.pem'", ["tls.key", "missing"]),
        ("[cors]\norigins = ['app.example']", ["cors.origins.0", "\"app.example\""]),
        ("trusted_proxies = ['localhost']", ["trusted_proxies.0", "\"localhost\""]),
        ("proxy_header = 'x-real-ip'", ["proxy_header", "x-forwarded-for, forwarded"]),
    ] {
        refused(file(text, &[("JWT_SECRET", SECRET)]), &parts);
    }
}

#[test]
fn what_is_written_out_can_be_read_again() {
    let text = "
        trusted_proxies = ['10.1.0.0/8', '::1']
        proxy_header = 'forwarded'
        h2c = true
        drain_s = 7
        tls = { cert = 'a.pem', key = 'b.pem' }
        cors = { origins = ['https://app.example', '*'] }
        limits = { user_requests_per_s = 3, watchers_max = 4 }
        timeouts = { idle_s = 5 }
        postgres = { lock_timeout_ms = 6 }
    ";
    let variables = [("JWT_SECRET", SECRET)];
    let first = toml::to_string(&file(text, &variables).unwrap().settings).unwrap();
    let auth = first.find("[auth]").unwrap();
    let without_auth = format!("{}{}", &first[..auth], &first[first[auth + 1..].find("\n[").unwrap() + auth + 1..]);
    let second = toml::to_string(&file(&without_auth, &variables).unwrap().settings).unwrap();
    assert_eq!(first, second);
    for part in ["10.0.0.0/8", "https://app.example", "forwarded", "lock_timeout_ms = 6", "cert = \"a.pem\""] {
        assert!(first.contains(part), "{part}: {first}");
    }
}
