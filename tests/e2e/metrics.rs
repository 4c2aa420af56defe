//! What an operator sees: numbers that Prometheus can read, and which say what happened.

use std::collections::BTreeMap;

use outrigger_testkit::postgres_database;
use serde_json::json;

use crate::server::{SECRET, Server, command};

/// A page of metrics: each sample with its labels, and what is said of each name.
struct Page {
    samples: BTreeMap<String, f64>,
    text: String,
}

impl Page {
    async fn of(address: &str) -> Self {
        let answer = reqwest::get(format!("{address}/metrics")).await.unwrap().error_for_status().unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        let text = answer.text().await.unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        };
        Self { samples: lines.map(sample).collect(), text: text.clone() }
    }

    /// The sum of all samples of that name with all of these labels.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let fits = |sample: &&String| {
            sample.split('{').next() == Some(name) && labels.iter().all(|label| sample.contains(label))
        };
        self.samples.iter().filter(|(sample, _)| fits(sample)).map(|(_, value)| value).sum()
    }
}

#[tokio::test]
async fn what_happens_is_counted_and_nobody_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let device = server.sign_in("somebody-in-particular", "a-phone").await;
    let before = Page::of(&server.url).await;
    let change = |id: u32, table: &str, version: u32| {
        json!({"source_change_id": id, "table": table, "op": "UPDATE",
               "pk": "00000000-0000-4000-8000-000000000001", "server_version": version, "payload": {"name": "a"}})
    };
    device.insert_all(&[1, 2, 3]).await;
    device.insert_all(&[1, 2, 3]).await;
    device.change(change(4, "users", 7)).await.unwrap();
    device.change(change(5, "unheard_of", 0)).await.unwrap();
    assert_eq!(device.get("/sync/download?after=-1").await.0, 400);
    assert_eq!(device.get("/nowhere/in-particular").await.0, 404);
    let watch = device.watch().await;
    let page = Page::of(&server.url).await;
    for (name, labels, grown) in [
        ("outrigger_changes_total", [r#"outcome="applied""#, r#"reason="""#].as_slice(), 6.0),
        ("outrigger_changes_total", &[r#"outcome="conflict""#], 1.0),
        ("outrigger_changes_total", &[r#"outcome="invalid""#, r#"reason="unregistered_table""#], 1.0),
        ("outrigger_changes_repeated_total", &[], 3.0),
        ("outrigger_stream_length_changes_count", &[], 1.0),
        ("outrigger_store_duration_seconds_count", &[r#"call="commit""#, r#"result="ok""#], 2.0),
        ("outrigger_http_requests_total", &[r#"route="/sync/upload""#, r#"method="POST""#, r#"status="200""#], 4.0),
        ("outrigger_http_requests_total", &[r#"route="/sync/download""#, r#"status="400""#], 1.0),
        ("outrigger_http_requests_total", &[r#"route="none""#, r#"status="404""#], 1.0),
        ("outrigger_http_request_duration_seconds_count", &[r#"route="/sync/upload""#], 4.0),
        ("outrigger_watchers", &[], 1.0),
    ] {
        let value = page.sum(name, labels) - before.sum(name, labels);
        assert_eq!(value, grown, "{name} {labels:?}\n{}", page.text);
    }
    assert_eq!(page.sum("outrigger_http_requests_in_flight", &[]), 1.0, "the scrape itself");
    assert_eq!(page.sum("outrigger_build_info", &[r#"store="sqlite""#, env!("CARGO_PKG_VERSION")]), 1.0);
    assert!(page.sum("process_resident_memory_bytes", &[]) > 1e6);
    for secret in ["somebody-in-particular", "a-phone", "nowhere", device.token()] {
        assert!(!page.text.contains(secret), "{secret} is in the metrics");
    }
    for name in page.samples.keys().filter_map(|sample| sample.split('{').next()) {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let said = |what: &str| [base, name].iter().any(|name| page.text.contains(&format!("# {what} {name} ")));
        assert!(said("TYPE") && said("HELP"), "nothing is said of {name}");
    }
    drop(watch);
}

#[tokio::test]
async fn rows_that_cannot_be_projected_are_counted_by_table() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    // Both users' rows have the same key, and the business row is the first one's.
    for user in ["alice", "bob"] {
        let status = server.sign_in(user, "phone").await.insert(1).await.unwrap();
        assert_eq!(status["status"], "applied");
    }
    let page = Page::of(&server.url).await;
    assert_eq!(page.sum("outrigger_projection_failures_total", &[r#"table="public.users""#]), 1.0, "{}", page.text);
}

/// On Postgres the second upload of a user is written without a look. Sent again it is assumed to be new, which is no
/// contention.
#[tokio::test]
async fn what_was_assumed_is_counted_by_whether_it_held() {
    let (folder, database) = (tempfile::tempdir().unwrap(), postgres_database().await);
    let server = Server::start(folder.path(), &[("DATABASE_URL", database.url())]);
    let device = server.sign_in("alice", "phone").await;
    for (id, held) in [(1, [0.0, 0.0]), (2, [1.0, 0.0]), (2, [1.0, 1.0])] {
        assert_eq!(device.insert(id).await.unwrap()["status"], "applied");
        let page = Page::of(&server.url).await;
        let count = |held| page.sum("outrigger_commit_assumed_total", &[held]);
        assert_eq!([count(r#"held="true""#), count(r#"held="false""#)], held, "after {id}\n{}", page.text);
        assert_eq!(page.sum("outrigger_commit_contention_total", &[]), 0.0);
    }
}

#[tokio::test]
async fn metrics_have_an_address_of_their_own_where_one_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("OUTRIGGER_METRICS_LISTEN", "127.0.0.1:0"), ("JWT_SECRET", SECRET), ("OUTRIGGER_LOG", "info")];
    let server = Server::start(folder.path(), &variables);
    assert_eq!(reqwest::get(format!("{}/metrics", server.url)).await.unwrap().status(), 404);
    let log = server.stderr();
    let (_, rest) = log.split_once("metrics are at ").unwrap_or_else(|| panic!("{log}"));
    let address = rest.split_once("/metrics").unwrap().0;
    assert_eq!(Page::of(address).await.sum("outrigger_build_info", &[]), 1.0);
    assert_eq!(reqwest::get(format!("{address}/health")).await.unwrap().status(), 404);
}

#[tokio::test]
async fn metrics_are_not_for_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let mut everywhere = command(folder.path());
    let server = Server::spawn(everywhere.args(["--listen", "0.0.0.0:0"]).env("JWT_SECRET", SECRET)).listening();
    let port = server.url.rsplit(':').next().unwrap();
    assert_eq!(reqwest::get(format!("http://127.0.0.1:{port}/health")).await.unwrap().status(), 200);
    assert_eq!(reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap().status(), 404);
}
