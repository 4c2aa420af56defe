//! `outrigger bench` with next to nothing to do: that it measures what it says it does, on every store.

use std::path::Path;

use outrigger_testkit::postgres_database;
use serde_json::Value;

use crate::server::{FREE_PORT, SECRET, Server, command};

const LITTLE: [&str; 14] = [
    "bench",
    "--json",
    "--runs",
    "1",
    "--changes",
    "40",
    "--rows",
    "50",
    "--users",
    "2",
    "--batch",
    "1,10",
    "--page",
    "20",
];
const KINDS: [&str; 8] =
    ["upload", "update", "conflict", "retry", "download", "first-sync", "small-users", "large-user"];

/// Runs it with these arguments on top; what it prints.
fn bench(folder: &Path, arguments: &[&str]) -> Value {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let output = command(folder).args(LITTLE).args(arguments).env("PATH", path).output().unwrap();
    let (said, wrong) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{wrong}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn kinds(report: &Value) -> Vec<&str> {
    let mut kinds: Vec<&str> =
        report["lines"].as_array().unwrap().iter().map(|line| line["what"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

/// Every line has figures; those in `with_floor` stand next to a floor.
fn assert_figures(report: &Value, with_floor: &[&str]) {
    for line in report["lines"].as_array().unwrap() {
        let what = line["what"].as_str().unwrap();
        let number = |of: &Value, name: &str| of[name].as_f64().unwrap_or_else(|| panic!("{name} of {line}"));
        for name in ["changes_per_s", "p50_ms", "p99_ms", "max_ms", "bytes_per_change"] {
            assert!(number(line, name) > 0.0, "{name} of {line}");
        }
        assert!(number(line, "p50_ms") <= number(line, "max_ms"), "{line}");
        // A payload goes over the wire at least once, in one direction or the other.
        assert!(number(line, "bytes_per_change") > 200.0, "{line}");
        let floor = &line["floor"];
        assert_eq!(floor.is_object(), with_floor.contains(&what), "{line}");
        if floor.is_object() {
            assert!(number(floor, "ratio") > 0.0 && number(floor, "changes_per_s") > 0.0, "{line}");
        }
    }
}

#[test]
fn a_benchmark_on_sqlite_stands_next_to_its_floor() {
    let folder = tempfile::tempdir().unwrap();
    let report = bench(folder.path(), &["--store", "sqlite"]);
    assert_eq!(kinds(&report), KINDS);
    assert_figures(&report, &["upload", "update", "retry", "download", "first-sync", "small-users", "large-user"]);
    assert_eq!(report["lines"][1]["batch"], 10, "the second batch of the uploads");
    assert!(!cfg!(target_os = "linux") || report["memory_peak_mib"].as_f64().unwrap() > 1.0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something is left behind");
}

#[tokio::test]
async fn a_benchmark_on_postgres_stands_next_to_its_floor() {
    let folder = tempfile::tempdir().unwrap();
    let database = postgres_database().await;
    let report = bench(folder.path(), &["--database-url", database.url()]);
    assert_eq!((kinds(&report), &report["store"]), (KINDS.to_vec(), &"postgres".into()));
    assert_figures(&report, &["upload", "update", "retry", "download", "first-sync", "small-users", "large-user"]);
    // What was written is in the business table too.
    use sqlx::Connection;
    let mut connection = sqlx::PgConnection::connect(database.url()).await.unwrap();
    let count = |sql: &'static str| sqlx::query_scalar::<_, i64>(sql);
    let rows = count("SELECT count(*) FROM sync.sync_state").fetch_one(&mut connection).await.unwrap();
    let projected = count("SELECT count(*) FROM public.users").fetch_one(&mut connection).await.unwrap();
    assert!(rows > 2_000 && projected == rows, "{projected} of {rows}");
    let floors = count("SELECT count(*) FROM pg_namespace WHERE nspname = 'bench_floor'");
    assert_eq!(floors.fetch_one(&mut connection).await.unwrap(), 0, "the floor is left behind");
}

#[test]
fn a_benchmark_in_memory_has_no_floor_but_that_of_a_retry() {
    let folder = tempfile::tempdir().unwrap();
    let report = bench(folder.path(), &["--store", "memory", "--only", "retry,download"]);
    assert_eq!(kinds(&report), ["retry", "download"]);
    assert_figures(&report, &["retry"]);
}

#[test]
fn a_running_server_is_measured_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("outrigger.toml"), "[[tables]]\nname = \"users\"\n").unwrap();
    let variables = [("JWT_SECRET", SECRET), ("OUTRIGGER_DATABASE_URL", "memory:")];
    let server = Server::spawn(command(folder.path()).args(FREE_PORT).envs(variables)).listening();
    let process = server.process().to_string();
    let of = ["--url", &server.url, "--only", "upload,first-sync"];
    let report = bench(folder.path(), &[of.as_slice(), &["--secret", SECRET, "--process", &process]].concat());
    assert_figures(&report, &[]);
    assert_eq!(report["lines"][0]["users"], 2);
    assert!(!cfg!(target_os = "linux") || report["lines"][0]["server_us"].is_number());
    // A token is that of one device, which has done something before.
    let token = command(folder.path()).args(["token", "--user", "alice", "--device", "phone"]).envs(variables).output();
    let token = String::from_utf8(token.unwrap().stdout).unwrap();
    for _ in 0..2 {
        let report = bench(folder.path(), &[of.as_slice(), &["--token", token.trim()]].concat());
        assert_figures(&report, &[]);
        assert_eq!(report["lines"][0]["users"], 1);
    }
}
