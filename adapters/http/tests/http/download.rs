//! `GET /sync/download` and `GET /sync/schema-version`

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::world::{NOW, Server, Setup, send};

/// A server where Alice's phone made three rows (the second of them in `business`) and deleted the first.
async fn given() -> Server {
    let server = Setup::default().start().await;
    let row = |id: u8, schema: &str, op: &str, version: u8, pk: u8, payload: &str| {
        format!(
            r#"{{"source_change_id":{id},"schema":"{schema}","table":"users","op":"{op}","pk":"00000000-0000-0000-0000-00000000000{pk}","server_version":{version},"payload":{payload}}}"#
        )
    };
    let changes = [
        row(1, "public", "INSERT", 0, 1, r#"{"name":"A"}"#),
        row(2, "business", "INSERT", 0, 2, r#"{"name":"B"}"#),
        row(3, "public", "INSERT", 0, 3, r#"{"name":"C"}"#),
        row(4, "public", "DELETE", 1, 1, "null"),
    ];
    server.changes("alice/phone", &changes.each_ref().map(String::as_str)).await;
    server
}

fn ids(page: &Value) -> Vec<i64> {
    page["changes"].as_array().unwrap().iter().map(|change| change["server_id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_page_has_this_shape() {
    let server = given().await;
    let page = server.download("alice/laptop", "?after=2").await;
    assert!(page.text.contains(NOW));
    assert_snapshot!(page.text, @r#"{"changes":[{"server_id":3,"schema":"public","table":"users","op":"INSERT","pk":"00000000-0000-0000-0000-000000000003","payload":{"name":"C"},"server_version":1,"deleted":false,"source_id":"phone","source_change_id":3,"ts":"2025-08-08T07:01:00.123456Z"},{"server_id":4,"schema":"public","table":"users","op":"DELETE","pk":"00000000-0000-0000-0000-000000000001","payload":null,"server_version":2,"deleted":true,"source_id":"phone","source_change_id":4,"ts":"2025-08-08T07:01:00.123456Z"}],"has_more":false,"next_after":4,"window_until":4,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7"}"#);
    assert_eq!(page.header("content-type"), "application/json");
    assert_eq!(page.header("cache-control"), "no-store");
    let empty = server.download("bob/laptop", "").await;
    assert_snapshot!(empty.text, @r#"{"changes":[],"has_more":false,"next_after":0,"window_until":0,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7"}"#);
}

#[tokio::test]
async fn each_parameter_does_what_it_says() {
    let server = given().await;
    for (device, query, expected, has_more, next_after, window_until) in [
        ("laptop", "", vec![1, 2, 3, 4], false, 4, 4),
        ("phone", "", vec![], false, 4, 4),
        ("phone", "?include_self=true", vec![1, 2, 3, 4], false, 4, 4),
        ("phone", "?include_self=1", vec![1, 2, 3, 4], false, 4, 4),
        ("phone", "?include_self=false", vec![], false, 4, 4),
        ("phone", "?include_self=0", vec![], false, 4, 4),
        ("laptop", "?limit=3", vec![1, 2, 3], true, 3, 4),
        ("laptop", "?limit=1&after=3", vec![4], false, 4, 4),
        ("laptop", "?limit=1000", vec![1, 2, 3, 4], false, 4, 4),
        ("laptop", "?until=2", vec![1, 2], false, 2, 2),
        ("laptop", "?until=3&limit=2", vec![1, 2], true, 2, 3),
        ("laptop", "?until=0", vec![1, 2, 3, 4], false, 4, 4),
        ("laptop", "?until=99", vec![1, 2, 3, 4], false, 4, 4),
        ("laptop", "?until=2&after=3", vec![], false, 3, 2),
        ("laptop", "?after=4", vec![], false, 4, 4),
        ("laptop", "?schema=business", vec![2], false, 4, 4),
        ("laptop", "?schema=%20BUSINESS%20", vec![2], false, 4, 4),
        ("laptop", "?schema=nothing", vec![], false, 4, 4),
        ("laptop", "?after=0002&limit=00100", vec![3, 4], false, 4, 4),
        ("laptop", "?unknown=x&wait=60", vec![1, 2, 3, 4], false, 4, 4),
        ("laptop", "?after=4&wait=0", vec![], false, 4, 4),
        ("laptop", "?after=2&until=2&wait=60", vec![], false, 2, 2),
    ] {
        let page = server.download(&format!("alice/{device}"), query).await.json();
        assert_eq!(ids(&page), expected, "{query}");
        let rest = json!([page["has_more"], page["next_after"], page["window_until"]]);
        assert_eq!(rest, json!([has_more, next_after, window_until]), "{query}");
    }
}

#[tokio::test]
async fn a_parameter_outside_its_range_is_a_400_that_names_it() {
    let server = Setup::on(outrigger_application::MockSyncStore::new()).start().await;
    for (name, values) in [
        ("after", ["-1", "x", "", "1.5", "9223372036854775808", "+1", "%2B1", "1%00"].as_slice()),
        ("limit", &["0", "-1", "1001", "x", "", "4294967297"]),
        ("until", &["-1", "x", "", "9223372036854775808"]),
        ("include_self", &["", "yes", "TRUE", "2"]),
        ("wait", &["", "-1", "61", "1.5", "x"]),
        ("epoch", &["", "x", "7"]),
        (
            "schema",
            &["", "%20", "a-b", "a.b", "a%27", "0123456789012345678901234567890123456789012345678901234567890123"],
        ),
    ] {
        for value in values {
            let (status, code, message) = server.download("alice/phone", &format!("?{name}={value}")).await.error();
            assert_eq!((status, code.as_str()), (400, "invalid_request"), "{name}={value}");
            assert!(message.contains(&format!("`{name}`")), "{name}={value}: {message}");
        }
        let twice = server.download("alice/phone", &format!("?{name}=1&{name}=1")).await;
        assert_eq!(twice.error(), (400, "invalid_request".to_owned(), format!("`{name}` was given twice")));
    }
}

#[tokio::test]
async fn the_schema_version_is_the_configured_one() {
    let server = Setup::default().start().await;
    let answer = send(server.get("/sync/schema-version").bearer_auth("alice/phone")).await;
    assert_snapshot!(answer.text, @r#"{"schema_version":7}"#);
}
