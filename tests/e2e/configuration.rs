//! What is set up wrongly is said in one sentence that names the key, with exit code 2.

use std::path::Path;

use crate::server::{FREE_PORT, Server, command};

#[track_caller]
fn assert_refused(folder: &Path, arguments: &[&str], variables: &[(&str, &str)], key: &str) {
    let (code, stderr) = Server::spawn(command(folder).args(arguments).envs(variables.iter().copied())).refused();
    assert_eq!(code, Some(2), "{key}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{key}: {stderr}");
    assert!(stderr.starts_with("outrigger: ") && stderr.contains(key), "{key}: {stderr}");
    assert!(!folder.join("outrigger.db").exists(), "{key}");
}

#[test]
fn a_wrong_file_is_refused() {
    for (text, key) in [
        ("listn = 'x'", "listn"),
        ("listen = 'nowhere'", "listen"),
        ("database_url = 'mysql://x'", "database_url"),
        ("schema_version = 'one'", "schema_version"),
        ("demo = 1.5", "demo"),
        ("drain_timeout_s = -1", "drain_timeout_s"),
        ("log = '='", "log"),
        ("limits.upload_changes_max = 0", "limits.upload_changes_max"),
        ("limits.payload_bytes_max = 'big'", "limits.payload_bytes_max"),
        ("limits.body_bytes_max = 0", "limits.body_bytes_max"),
        ("sqlite.synchronous = 'maybe'", "sqlite.synchronous"),
        ("postgres.max_connections = 0", "postgres.max_connections"),
        ("postgres.session_settings = 3.5", "postgres.session_settings"),
        ("auth.jwt_secret = 'short'", "auth.jwt_secret"),
        ("auth.issuer = 1", "auth.issuer"),
        ("auth.audience = 1", "auth.audience"),
        ("auth.leeway_s = -1", "auth.leeway_s"),
        ("auth.algorithm = 'none'", "auth.algorithm"),
        ("tables = [{ name = 'no spaces' }]", "tables.0.name"),
        ("tables = [{}]", "tables.0.name"),
        ("tables = [{ name = 'a', materialize = 'x' }]", "tables.0.materialize"),
        ("tables = [{ name = 'a', references = { b = 'c d' } }]", "tables.0.references.b"),
        ("demo = true\ntables = [{ name = 'a', owner_column = '\"' }]", "tables.0.owner_column"),
        ("demo = true\nprojection.timeout_ms = 60000", "projection.timeout_ms"),
        ("projection.catalog_refresh_s = 0", "projection.catalog_refresh_s"),
        ("demo = true\ntables = [{ name = 'a' }, { name = 'A' }]", "tables"),
        ("", "auth.jwt_secret"),
        ("not toml", "outrigger.toml"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("outrigger.toml"), text).unwrap();
        assert_refused(folder.path(), &[], &[], key);
    }
}

#[test]
fn a_wrong_environment_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value, key) in [
        ("OUTRIGGER_LISTEN", "x", "listen"),
        ("OUTRIGGER_LISTN", "x", "OUTRIGGER_LISTN"),
        ("DATABASE_URL", "mysql://x", "DATABASE_URL"),
        ("DATABASE_URL", "postgres://localhost:port/x", "database_url"),
        ("JWT_SECRET", "short", "auth.jwt_secret"),
        ("RUST_LOG", "=", "log"),
    ] {
        assert_refused(folder.path(), &["serve"], &[(name, value)], key);
    }
}

#[test]
fn a_demo_for_everybody_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_refused(folder.path(), &["--demo", "--listen", "0.0.0.0:0"], &[], "demo");
    assert_refused(folder.path(), &["--listen", "0.0.0.0:0"], &[], "auth.jwt_secret");
    assert_refused(folder.path(), &["--demo=false"], &[], "auth.jwt_secret");
    assert_refused(folder.path(), &["--config", "missing.toml"], &[], "missing.toml");
}

#[test]
fn a_named_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("elsewhere.toml");
    std::fs::write(&file, "demo = true\ndatabase_url = 'memory:'\n").unwrap();
    let _server = Server::spawn(command(folder.path()).args(FREE_PORT).arg("--config").arg(&file)).listening();
    assert!(!folder.path().join("outrigger.db").exists());
}

#[test]
fn help_shows_how_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path()).arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for part in ["Examples:", "--config", "--listen", "--database-url postgres://", "OUTRIGGER_<KEY>", "Exit codes"] {
        assert!(help.contains(part), "{part}");
    }
}
