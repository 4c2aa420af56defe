//! `GET /admin/materialize-failures` and `POST /admin/materialize-failures/retry`

use std::sync::Arc;

use insta::assert_snapshot;
use outrigger_application::ports::projection::{MockProjectionStore, ProjectionStore, Retried};
use outrigger_application::{MockSyncStore, StoreError};
use tokio::sync::Notify;

use crate::world::{Answer, Server, Setup, send};

const PATH: &str = "/admin/materialize-failures";

fn insert(id: i64, schema: &str, pk: u8) -> String {
    format!(
        r#"{{"source_change_id":{id},"schema":"{schema}","table":"users","op":"INSERT","pk":"00000000-0000-0000-0000-00000000000{pk}","server_version":0,"payload":{{"name":"{id}"}}}}"#
    )
}

/// A server where Alice's rows 1 to 3 (the second of them in `business`) are in the business tables, so that
/// Bob's of the same keys cannot be.
async fn given() -> Server {
    let server = Setup::default().start().await;
    let changes = [insert(1, "public", 1), insert(2, "business", 2), insert(3, "public", 3)];
    for token in ["alice/phone", "bob/phone"] {
        let answer = server.changes(token, &changes.each_ref().map(String::as_str)).await;
        assert_eq!(answer.matches(r#""status":"applied""#).count(), 3, "{answer}");
    }
    server
}

/// A server whose projection is a mock, and whose store must not be asked for anything.
async fn mocked(projection: impl ProjectionStore + 'static) -> Server {
    let projection: Arc<dyn ProjectionStore> = Arc::new(projection);
    Setup { projection, ..Setup::on(MockSyncStore::new()) }.start().await
}

async fn list(server: &Server, token: &str, query: &str) -> Answer {
    send(server.get(&format!("{PATH}{query}")).bearer_auth(token)).await
}

async fn retry(server: &Server, token: &str, query: &str, body: &'static str) -> Answer {
    let request = server.post(&format!("{PATH}/retry{query}")).bearer_auth(token);
    send(if body.is_empty() { request } else { request.header("content-type", "application/json").body(body) }).await
}

fn ids(answer: &Answer) -> Vec<i64> {
    let body = answer.json();
    body["failures"].as_array().unwrap().iter().map(|failure| failure["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_failure_has_this_shape() {
    let server = given().await;
    let failures = list(&server, "bob/laptop", "?limit=1").await;
    assert_eq!(failures.status, 200);
    assert_snapshot!(failures.text, @r#"{"failures":[{"id":1,"schema":"public","table":"users","pk":"00000000-0000-0000-0000-000000000001","attempted_version":1,"op":"INSERT","payload":{"name":"1"},"error":"the business row was not put there by this user","first_seen":"2025-08-08T07:01:00.123456Z","retry_count":0}]}"#);
    let delete =
        insert(4, "public", 1).replace("INSERT", "DELETE").replace(r#""server_version":0"#, r#""server_version":1"#);
    let delete = delete.replace(r#"{"name":"4"}"#, "null");
    assert!(server.changes("bob/phone", &[&delete]).await.contains("applied"));
    let failures = list(&server, "bob/laptop", "").await.json();
    let of_delete = failures["failures"].as_array().unwrap().iter().find(|failure| failure["op"] == "DELETE").unwrap();
    assert!(of_delete["payload"].is_null() && of_delete["attempted_version"] == 2, "{of_delete}");
}

#[tokio::test]
async fn failures_are_the_callers_own() {
    let server = given().await;
    assert_snapshot!(list(&server, "alice/phone", "").await.text, @r#"{"failures":[]}"#);
    assert_eq!(ids(&list(&server, "bob/phone", "").await), [1, 2, 3]);
    assert_eq!(ids(&list(&server, "bob/laptop", "").await), [1, 2, 3]);
    // Another user's failure is as unknown as one that never was.
    for (token, id) in [("alice/phone", 1), ("bob/phone", 99)] {
        let answer = retry(&server, token, &format!("?id={id}"), "").await;
        assert_eq!(answer.error(), (404, "not_found".to_owned(), format!("there is no failure {id}")));
    }
    assert!(list(&server, "bob/phone", "").await.text.contains(r#""retry_count":0"#));
}

#[tokio::test]
async fn failures_are_filtered_and_limited() {
    let server = given().await;
    for (query, expected) in [
        ("?schema=public", vec![1, 3]),
        ("?schema=%20BUSINESS", vec![2]),
        ("?table=users", vec![1, 2, 3]),
        ("?table=Posts", vec![]),
        ("?schema=public&table=users&limit=1", vec![1]),
        ("?schema=nothing", vec![]),
        ("?limit=1000", vec![1, 2, 3]),
        ("?unknown=x", vec![1, 2, 3]),
    ] {
        assert_eq!(ids(&list(&server, "bob/phone", query).await), expected, "{query}");
    }
}

#[tokio::test]
async fn a_limit_that_is_not_given_is_100() {
    let mut projection = MockProjectionStore::new();
    projection
        .expect_failures()
        .withf(|_, _, after, limit| (*after, *limit) == (0, 100))
        .returning(|_, _, _, _| Ok(vec![]));
    assert_eq!(list(&mocked(projection).await, "alice/phone", "").await.status, 200);
}

#[tokio::test]
async fn a_parameter_outside_its_range_is_a_400_that_names_it() {
    let server = mocked(MockProjectionStore::new()).await;
    for (name, values) in [
        ("limit", ["0", "-1", "1001", "x", ""].as_slice()),
        ("schema", &["", "a-b", "a.b"]),
        ("table", &["", "a-b", "a.b", "%20"]),
    ] {
        for query in values.iter().map(|value| format!("?{name}={value}")).chain([format!("?{name}=1&{name}=1")]) {
            let (status, code, message) = list(&server, "alice/phone", &query).await.error();
            assert_eq!((status, code.as_str()), (400, "invalid_request"), "{query}");
            assert!(message.contains(&format!("`{name}`")), "{query}: {message}");
        }
    }
    for (query, body) in [
        ("", ""),
        ("?id=", ""),
        ("?id=0", ""),
        ("?id=x", ""),
        ("?id=-1", ""),
        ("?id=9223372036854775808", ""),
        ("?id=1&id=1", ""),
        ("?id=x", r#"{"id":1}"#),
        ("?id=1", r#"{"id":2}"#),
        ("", "{}"),
        ("", r#"{"id":null}"#),
        ("", r#"{"id":0}"#),
        ("", r#"{"id":"1"}"#),
        ("", r#"{"id":1.0}"#),
        ("", r#"{"id":[1]}"#),
    ] {
        let (status, code, message) = retry(&server, "alice/phone", query, body).await.error();
        assert_eq!((status, code.as_str()), (400, "invalid_request"), "{query} {body}");
        assert!(message.contains("`id`"), "{query} {body}: {message}");
    }
    for body in ["no JSON", "[1]", "1"] {
        assert_eq!(retry(&server, "alice/phone", "?id=1", body).await.error().0, 400, "{body}");
    }
    let no_type = server.post(&format!("{PATH}/retry")).bearer_auth("alice/phone").body(r#"{"id":1}"#);
    assert_eq!(send(no_type).await.error().0, 415);
}

#[tokio::test]
async fn a_retry_is_named_in_the_query_or_in_the_body() {
    let server = given().await;
    for (count, (query, body)) in
        [("?id=1", ""), ("", r#"{"id":1}"#), ("?id=1", r#"{"id":1}"#), ("?id=1", "{}")].into_iter().enumerate()
    {
        let answer = retry(&server, "bob/phone", query, body).await;
        assert_eq!(answer.status, 200, "{query} {body}");
        let expected = format!(
            r#"{{"status":"materialize_error","id":1,"retry_count":{},"error":"the business row was not put there by this user"}}"#,
            count + 1
        );
        assert_eq!(answer.text, expected, "{query} {body}");
    }
    let failures = list(&server, "bob/phone", "").await.json();
    assert_eq!(failures["failures"][0]["retry_count"], 4);
    assert_eq!(failures["failures"][1]["retry_count"], 0);
}

#[tokio::test]
async fn a_retry_that_works_removes_the_failure() {
    let server = given().await;
    let delete =
        insert(9, "public", 1).replace("INSERT", "DELETE").replace(r#""server_version":0"#, r#""server_version":1"#);
    assert!(server.changes("alice/phone", &[&delete.replace(r#"{"name":"9"}"#, "null")]).await.contains("applied"));
    assert_snapshot!(retry(&server, "bob/phone", "?id=1", "").await.text, @r#"{"status":"materialized","id":1}"#);
    assert_eq!(ids(&list(&server, "bob/phone", "").await), [2, 3]);
    assert_eq!(retry(&server, "bob/phone", "?id=1", "").await.error().0, 404);
}

/// Holds every retry until it is let go.
struct Held {
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
}

#[async_trait::async_trait]
impl ProjectionStore for Held {
    async fn refresh_catalog(
        &self,
    ) -> Result<Vec<(outrigger_domain::TableName, outrigger_domain::Reference)>, StoreError> {
        unreachable!("not asked for")
    }

    async fn failures(
        &self,
        _: &outrigger_domain::UserId,
        _: &outrigger_application::ports::projection::FailureFilter,
        _: i64,
        _: u32,
    ) -> Result<Vec<outrigger_application::ports::projection::Failure>, StoreError> {
        unreachable!("not asked for")
    }

    async fn all_failures(
        &self,
        _: &outrigger_application::ports::projection::FailureFilter,
        _: Option<(outrigger_domain::UserId, i64)>,
        _: u32,
    ) -> Result<Vec<outrigger_application::ports::projection::Failure>, StoreError> {
        unreachable!("not asked for")
    }

    async fn retry(&self, _: &outrigger_domain::UserId, _: i64) -> Result<Retried, StoreError> {
        self.begun.notify_one();
        self.go_on.notified().await;
        Ok(Retried::Materialized)
    }

    async fn rebuild(
        &self,
        _: &outrigger_domain::TableName,
        _: Option<outrigger_application::ports::projection::RebuildCursor>,
        _: u32,
        _: jiff::Timestamp,
    ) -> Result<outrigger_application::ports::projection::RebuildStep, StoreError> {
        unreachable!("not asked for")
    }
}

#[tokio::test]
async fn a_retry_beside_another_of_the_same_failure_is_a_409() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = mocked(Held { begun: Arc::clone(&begun), go_on: Arc::clone(&go_on) }).await;
    let second = async {
        begun.notified().await;
        let answer = retry(&server, "alice/laptop", "?id=7", "").await;
        go_on.notify_one();
        answer
    };
    let (first, second) = tokio::join!(retry(&server, "alice/phone", "?id=7", ""), second);
    assert_eq!(first.text, r#"{"status":"materialized","id":7}"#);
    assert_eq!(
        second.error(),
        (409, "retry_in_progress".to_owned(), "failure 7 is being tried again right now".to_owned())
    );
}

#[tokio::test]
async fn a_retry_beside_one_of_another_node_is_a_409() {
    let mut projection = MockProjectionStore::new();
    projection.expect_retry().times(1).returning(|_, _| Ok(Retried::InProgress));
    let (status, code, _) = retry(&mocked(projection).await, "alice/phone", "?id=7", "").await.error();
    assert_eq!((status, code.as_str()), (409, "retry_in_progress"));
}

#[tokio::test]
async fn an_error_of_the_store_keeps_its_cause_to_itself() {
    let mut projection = MockProjectionStore::new();
    projection.expect_failures().returning(|_, _, _, _| Err(StoreError::Unavailable("db.internal refused".into())));
    projection.expect_retry().returning(|_, _| Err(StoreError::Backend("db.internal syntax".into())));
    let server = mocked(projection).await;
    for (answer, expected) in
        [(list(&server, "alice/phone", "").await, 503), (retry(&server, "alice/phone", "?id=1", "").await, 500)]
    {
        let (status, _, message) = answer.error();
        assert_eq!(status, expected);
        assert!(!message.contains("db.internal"), "{message}");
    }
}
