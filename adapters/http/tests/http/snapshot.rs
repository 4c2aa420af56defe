//! `GET /sync/snapshot` and `GET /sync/source`

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::world::{EPOCH, NOW, Server, Setup, send};

fn key(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

/// Alice's phone has made users 1 to `count` and two posts of the first.
async fn given(count: u32) -> Server {
    let server = Setup::default().start().await;
    let row = |id: u32, table: &str, pk: u32, payload: Value| {
        json!({"source_change_id": id, "table": table, "op": "INSERT", "pk": key(pk), "server_version": 0, "payload": payload})
            .to_string()
    };
    let mut changes: Vec<String> =
        (1..=count).map(|n| row(n, "users", n, json!({"name": format!("user {n}")}))).collect();
    changes.extend((1..=2).map(|n| row(count + n, "posts", n, json!({"author_id": key(1)}))));
    for changes in changes.chunks(1_000) {
        server.changes("alice/phone", &changes.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    server
}

async fn snapshot(server: &Server, query: &str) -> Value {
    let answer = send(server.get(&format!("/sync/snapshot{query}")).bearer_auth("alice/tablet")).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn a_page_has_this_shape() {
    let server = given(1).await;
    let answer = send(server.get("/sync/snapshot?limit=2").bearer_auth("alice/tablet")).await;
    let page = answer.json();
    let next = page["next_page"].as_str().unwrap();
    let shape = answer.text.replace(next, "NEXT");
    assert_snapshot!(shape, @r#"{"rows":[{"schema":"public","table":"users","pk":"00000000-0000-0000-0000-000000000001","server_version":1,"payload":{"name":"user 1"}},{"schema":"public","table":"posts","pk":"00000000-0000-0000-0000-000000000001","server_version":1,"payload":{"author_id":"00000000-0000-0000-0000-000000000001"}}],"as_of":3,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","has_more":true,"next_page":"NEXT"}"#);
    let last = snapshot(&server, &format!("?page={next}")).await;
    assert_eq!((last["rows"].as_array().unwrap().len(), &last["has_more"]), (1, &json!(false)));
    assert_eq!((&last["next_page"], &last["as_of"]), (&Value::Null, &json!(3)));
}

#[tokio::test]
async fn parameters_out_of_range_are_named() {
    let server = given(1).await;
    for (query, name) in [("limit=0", "limit"), ("limit=1001", "limit"), ("page=x", "page"), ("page=1&page=2", "page")]
    {
        let answer = send(server.get(&format!("/sync/snapshot?{query}")).bearer_auth("alice/tablet")).await;
        let (status, code, message) = answer.error();
        assert_eq!((status, code.as_str()), (400, "invalid_request"), "{query}");
        assert!(message.contains(&format!("`{name}`")), "{message}");
    }
    assert_eq!(send(server.get("/sync/snapshot")).await.status, 401);
}

#[tokio::test]
async fn lines_come_as_one_stream_whole_and_in_order() {
    let server = given(2_500).await;
    let request = server.get("/sync/snapshot").bearer_auth("alice/tablet");
    let answer = send(request.header("accept", "application/json;q=0.5, application/x-ndjson")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    let lines: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"as_of": 2_502, "epoch": EPOCH.to_string()}));
    assert_eq!(lines[lines.len() - 1], json!({"complete": true, "rows": 2_502}));
    let rows = &lines[1..lines.len() - 1];
    assert_eq!((rows.len(), &rows[0]["pk"], &rows[2_499]["pk"]), (2_502, &json!(key(1)), &json!(key(2_500))));
    assert!(rows[2_500..].iter().all(|row| row["table"] == "posts"));
}

#[tokio::test]
async fn an_answer_is_compressed_for_a_client_that_says_so() {
    let server = given(500).await;
    let plain = send(server.get("/sync/snapshot?limit=500").bearer_auth("alice/tablet")).await.text.len();
    for encoding in ["gzip", "zstd", "br"] {
        for accept in ["application/json", "application/x-ndjson"] {
            let request = server.get("/sync/snapshot?limit=500").bearer_auth("alice/tablet");
            let response = request.header("accept-encoding", encoding).header("accept", accept).send().await.unwrap();
            assert_eq!(response.headers()["content-encoding"], encoding);
            let bytes = response.bytes().await.unwrap().len();
            assert!(bytes * 5 < plain, "{encoding}: {bytes} of {plain}");
        }
    }
}

#[tokio::test]
async fn a_source_is_told_what_is_known_of_it() {
    let server = given(1).await;
    let source = async |token: &str| send(server.get("/sync/source").bearer_auth(token)).await.json();
    let unknown = source("alice/tablet").await;
    assert_eq!(
        unknown,
        json!({"user": "alice", "source_id": "tablet", "highest_source_change_id": 0, "cursor": null,
               "first_contact": null, "last_contact": null, "epoch": EPOCH.to_string()})
    );
    server.download("alice/phone", "?after=2").await;
    let known = source("alice/phone").await;
    assert_eq!((&known["highest_source_change_id"], &known["cursor"]), (&json!(3), &json!(2)));
    assert_eq!((&known["first_contact"], &known["last_contact"]), (&json!(NOW), &json!(NOW)));
}
