//! `POST /sync/upload`

use insta::assert_snapshot;
use outrigger_domain::limits::{MIXED_CHANGES_MAX, UploadLimits};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{Server, Setup, send};

const PK: &str = "550e8400-e29b-41d4-a716-446655440000";

/// A change of row [`PK`] of `users`.
fn change(id: i64, op: &str, version: i64, payload: &str) -> String {
    format!(
        r#"{{"source_change_id":{id},"table":"users","op":"{op}","pk":"{PK}","server_version":{version},"payload":{payload}}}"#
    )
}

/// Applies the changes, each in an upload of its own.
async fn given(server: &Server, changes: &[String]) {
    for change in changes {
        let answer = server.changes("alice/phone", &[change]).await;
        assert!(answer.contains(r#""status":"applied""#), "{answer}");
    }
}

#[tokio::test]
async fn an_applied_change_has_its_new_version() {
    let server = Setup::default().start().await;
    let changes = [change(1, "INSERT", 0, "{}"), change(2, "update", 1, "{}"), change(3, "Delete", 2, "null")];
    let answer = server.changes("alice/phone", &[&changes[0], &changes[1], &changes[2]]).await;
    assert_snapshot!(answer, @r#"{"accepted":true,"highest_server_seq":3,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":1,"status":"applied","new_server_version":1},{"source_change_id":2,"status":"applied","new_server_version":2},{"source_change_id":3,"status":"applied","new_server_version":3}]}"#);
    assert_eq!(server.changes("alice/phone", &[&changes[0], &changes[1], &changes[2]]).await, answer, "a retry");
}

#[tokio::test]
async fn a_delete_of_nothing_has_no_version_and_one_of_a_tombstone_has_its() {
    let server = Setup::default().start().await;
    let delete = |id, version| change(id, "DELETE", version, "null");
    assert_snapshot!(server.changes("alice/phone", &[&delete(1, 0)]).await, @r#"{"accepted":true,"highest_server_seq":0,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":1,"status":"applied"}]}"#);
    given(&server, &[change(2, "INSERT", 0, "{}"), delete(3, 1)]).await;
    assert_snapshot!(server.changes("alice/phone", &[&delete(4, 2)]).await, @r#"{"accepted":true,"highest_server_seq":2,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":4,"status":"applied","new_server_version":2}]}"#);
}

#[tokio::test]
async fn a_conflict_shows_the_row_as_the_server_has_it() {
    let server = Setup::default().start().await;
    let stale = |id| change(id, "UPDATE", 9, "{}");
    assert_snapshot!(server.changes("alice/phone", &[&stale(1)]).await, @r#"{"accepted":true,"highest_server_seq":0,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":1,"status":"conflict","server_row":{"schema_name":"public","table_name":"users","id":"550e8400-e29b-41d4-a716-446655440000","server_version":0,"deleted":true,"payload":null}}]}"#);
    given(&server, &[change(2, "INSERT", 0, r#"{"name":"Alice"}"#)]).await;
    assert_snapshot!(server.changes("alice/phone", &[&stale(3)]).await, @r#"{"accepted":true,"highest_server_seq":1,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":3,"status":"conflict","server_row":{"schema_name":"public","table_name":"users","id":"550e8400-e29b-41d4-a716-446655440000","server_version":1,"deleted":false,"payload":{"name":"Alice"}}}]}"#);
    given(&server, &[change(4, "DELETE", 1, "null")]).await;
    assert_snapshot!(server.changes("alice/phone", &[&stale(5)]).await, @r#"{"accepted":true,"highest_server_seq":2,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":5,"status":"conflict","server_row":{"schema_name":"public","table_name":"users","id":"550e8400-e29b-41d4-a716-446655440000","server_version":2,"deleted":true,"payload":null}}]}"#);
}

#[tokio::test]
async fn an_invalid_change_says_why() {
    let server = Setup::default().start().await;
    assert_snapshot!(server.changes("alice/phone", &[&change(1, "INSERT", 0, "[]")]).await, @r#"{"accepted":true,"highest_server_seq":0,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":1,"status":"invalid","invalid":{"reason":"bad_payload","details":{}},"message":"payload must be a JSON object"}]}"#);
    let strange = change(2, "INSERT", 0, "{}").replace("users", "strange");
    assert_snapshot!(server.changes("alice/phone", &[&strange]).await, @r#"{"accepted":false,"highest_server_seq":0,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":2,"status":"invalid","invalid":{"reason":"unregistered_table","details":{}},"message":"table public.strange does not take part in syncing"}]}"#);
    given(&server, &[change(3, "INSERT", 0, "{}")]).await;
    assert_snapshot!(server.changes("alice/phone", &[&change(3, "UPDATE", 1, "{}")]).await, @r#"{"accepted":true,"highest_server_seq":1,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":3,"status":"invalid","invalid":{"reason":"source_change_id_reused","details":{}},"message":"source_change_id 3 was used for another change before"}]}"#);
}

#[tokio::test]
async fn a_change_without_its_parents_lists_them() {
    let server = Setup::default().start().await;
    let post = change(1, "INSERT", 0, &format!(r#"{{"author_id":"{PK}"}}"#)).replace("users", "posts");
    assert_snapshot!(server.changes("alice/phone", &[&post]).await, @r#"{"accepted":true,"highest_server_seq":0,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":1,"status":"invalid","invalid":{"reason":"fk_missing","details":{"missing":["public.users:550e8400-e29b-41d4-a716-446655440000"]}},"message":"refers to rows that do not exist: public.users:550e8400-e29b-41d4-a716-446655440000"}]}"#);
    given(&server, &[change(2, "INSERT", 0, "{}")]).await;
    let answer = server.changes("bob/phone", &[&post]).await;
    assert!(answer.contains("fk_missing"), "another user's row is no parent: {answer}");
    given(&server, &[post]).await;
}

#[tokio::test]
async fn an_upload_of_too_many_changes_is_refused_as_a_whole() {
    let limits = UploadLimits { changes_max: 1, ..UploadLimits::default() };
    let server = Setup { limits, ..Setup::default() }.start().await;
    let answer = server.changes("alice/phone", &[&change(1, "INSERT", 0, "{}"), "7"]).await;
    assert_snapshot!(answer, @r#"{"accepted":false,"highest_server_seq":0,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":1,"status":"invalid","invalid":{"reason":"batch_too_large","details":{}},"message":"too many changes in one upload, 1 at most"},{"source_change_id":0,"status":"invalid","invalid":{"reason":"batch_too_large","details":{}},"message":"too many changes in one upload, 1 at most"}]}"#);
}

/// Most of them are not kept, and the answer is sent as it is written.
#[tokio::test]
async fn of_too_many_changes_each_has_its_status() {
    let limits = UploadLimits { changes_max: 10, ..UploadLimits::default() };
    let server = Setup { limits, ..Setup::default() }.start().await;
    for count in [11, 12, 13, 2_000, 5_000] {
        let mut changes: Vec<String> = (1..=count).map(|id| change(id, "INSERT", 0, "{}")).collect();
        let refused = |id: i64| {
            let invalid = json!({"reason": "batch_too_large", "details": {}});
            let message = "too many changes in one upload, 10 at most";
            json!({"source_change_id": id, "status": "invalid", "invalid": invalid, "message": message})
        };
        let mut expected: Vec<Value> = (1..=count).map(refused).collect();
        for _ in 0..2 {
            let texts: Vec<&str> = changes.iter().map(String::as_str).collect();
            let answer: Value = serde_json::from_str(&server.changes("alice/phone", &texts).await).unwrap();
            assert_eq!(answer["statuses"], Value::Array(expected.clone()), "{count}");
            assert_eq!((&answer["accepted"], &answer["highest_server_seq"]), (&json!(false), &json!(0)));
            // Once more with two that are none, of which one has a number.
            changes.extend(["7".to_owned(), r#"{"x":1,"source_change_id":77}"#.to_owned()]);
            expected.extend([refused(0), refused(77)]);
        }
    }
}

#[tokio::test]
async fn an_upload_of_mixed_elements_without_end_is_a_400() {
    let server = Setup::default().start().await;
    let zeros = |count: usize| vec!["0"; count].join(",");
    let answer = server.upload("alice/phone", format!("{{\"changes\":[{}]}}", zeros(MIXED_CHANGES_MAX))).await.json();
    assert_eq!(answer["statuses"].as_array().map(Vec::len), Some(MIXED_CHANGES_MAX));
    let answer = server.upload("alice/phone", format!("{{\"changes\":[{}]}}", zeros(MIXED_CHANGES_MAX + 1))).await;
    let (status, error, message) = answer.error();
    assert_eq!((status, &*error), (400, "invalid_request"));
    assert!(message.contains("more than 100000 changes, and not all of them well-formed"), "{message}");
}

#[tokio::test]
async fn an_atomic_upload_is_applied_as_a_whole_or_not_at_all() {
    let server = Setup::default().start().await;
    let body = |second: &str| format!(r#"{{"atomic":true,"changes":[{},{second}]}}"#, change(1, "INSERT", 0, "{}"));
    let aborted = server.upload("alice/phone", body(&change(2, "UPDATE", 5, "{}"))).await;
    assert_snapshot!(aborted.text, @r#"{"accepted":false,"highest_server_seq":0,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[{"source_change_id":1,"status":"invalid","invalid":{"reason":"batch_aborted","details":{}},"message":"another change of this atomic upload was not applied"},{"source_change_id":2,"status":"conflict","server_row":{"schema_name":"public","table_name":"users","id":"550e8400-e29b-41d4-a716-446655440000","server_version":0,"deleted":true,"payload":null}}]}"#);
    // An element that cannot be read aborts the others as well.
    let aborted = server.upload("alice/phone", body("7")).await.json();
    assert_eq!(aborted["statuses"][0]["invalid"]["reason"], "batch_aborted");
    let applied = server.upload("alice/phone", body(&change(2, "UPDATE", 1, "{}"))).await.json();
    assert_eq!(applied["highest_server_seq"], 2);
}

#[tokio::test]
async fn a_payload_comes_back_as_it_came() {
    let server = Setup::default().start().await;
    let payload =
        r#"{ "z":1.10, "a" : 123456789012345678901234567890, "e":1E+2, "é":"\u00e9\ud83d\ude00",  "n":{"y":[ ]} }"#;
    given(&server, &[change(1, "INSERT", 0, payload)]).await;
    assert!(server.changes("alice/phone", &[&change(2, "UPDATE", 9, "{}")]).await.contains(payload));
    assert!(server.download("alice/laptop", "").await.text.contains(payload));
}

#[tokio::test]
async fn text_may_be_written_with_escapes() {
    let server = Setup::default().start().await;
    let escaped = change(1, r"\u0049NSERT", 0, "{}")
        .replace("users", r"\u0075sers")
        .replace("550e", r"550\u0065")
        .replace(r#""table""#, r#""schema":"\u0050UBLIC","t\u0061ble""#);
    let answer = server.changes("alice/phone", &[&escaped]).await;
    assert!(answer.contains(r#""status":"applied","new_server_version":1"#), "{answer}");
}

#[tokio::test]
async fn members_that_are_not_known_are_ignored() {
    let server = Setup::default().start().await;
    let change = change(1, "INSERT", 0, "{}").replacen('{', r#"{"source_id":"evil","x":[{"y":1}],"schema":null,"#, 1);
    let body =
        format!(r#"{{"last_server_seq_seen":"odd","source_id":"evil","x":null,"changes":[{change}],"atomic":false}}"#);
    assert_eq!(server.upload("alice/phone", body).await.json()["statuses"][0]["status"], "applied");
    let page = server.download("alice/laptop", "").await.json();
    assert_eq!(page["changes"][0]["source_id"], "phone", "the token decides");
}

#[tokio::test]
async fn an_upload_may_be_empty() {
    let server = Setup::default().start().await;
    assert_snapshot!(server.changes("alice/phone", &[]).await, @r#"{"accepted":true,"highest_server_seq":0,"epoch":"7c9e6679-7425-40de-944b-e07fc1f90ae7","statuses":[]}"#);
}

/// What is wrong with one change is answered at its place and blocks no other.
#[tokio::test]
async fn one_bad_change_never_blocks_the_others() {
    let good = change(1, "INSERT", 0, "{}");
    let with = |from: &str, to: &str| good.replacen(from, to, 1).replacen(r#"_id":1"#, r#"_id":5"#, 1);
    let odd = [
        ("7".to_owned(), 0),
        ("null".to_owned(), 0),
        (r#""text""#.to_owned(), 0),
        ("[]".to_owned(), 0),
        ("{}".to_owned(), 0),
        (r#"{"source_change_id":5}"#.to_owned(), 5),
        (r#"{"source_change_id":"5"}"#.to_owned(), 0),
        (good.replacen(r#"_id":1"#, r#"_id":5.0"#, 1), 0),
        (good.replacen(r#"_id":1"#, r#"_id":9223372036854775808"#, 1), 0),
        (good.replacen(r#"_id":1"#, r#"_id":0"#, 1), 0),
        (good.replacen(r#"_id":1"#, r#"_id":-5"#, 1), -5),
        (with(r#""users""#, "7"), 5),
        (with(r#""users""#, "null"), 5),
        (with(r#""table":"users","#, ""), 5),
        (with("users", "no such name"), 5),
        (with(r#""table""#, r#""schema":7,"table""#), 5),
        (with(r#""INSERT""#, "null"), 5),
        (with("INSERT", "UPSERT"), 5),
        (with(&format!("\"{PK}\""), "{}"), 5),
        (with(PK, "1"), 5),
        (with(r#"version":0"#, r#"version":"0""#), 5),
        (with(r#"version":0"#, r#"version":-1"#), 5),
        (with(r#"version":0"#, r#"version":1e3"#), 5),
        (with(r#""server_version":0,"#, ""), 5),
        (with(r#","payload":{}"#, ""), 5),
        (with(r#""payload":{}"#, r#""payload":null"#), 5),
        (with(r#""payload":{}"#, r#""payload":"text""#), 5),
        (with(r#""payload":{}"#, r#""payload":{},"payload":{}"#), 5),
        (with(r#""table":"users""#, r#""table":"users","table":"posts""#), 5),
        (with(r#""payload":{}"#, r#""payload":{},"source_change_id":6"#), 6),
        (format!(r#"[5,null,"users","INSERT","{PK}",0,{{}}]"#), 0),
        (with(r#""payload":{}"#, &format!(r#""payload":{{"deep":{}{}}}"#, "[".repeat(500), "]".repeat(500))), 5),
    ];
    for (bad, id) in odd {
        let server = Setup::default().start().await;
        let after = change(2, "UPDATE", 1, "{}");
        let answer: Value = serde_json::from_str(&server.changes("alice/phone", &[&good, &bad, &after]).await).unwrap();
        let statuses = answer["statuses"].as_array().unwrap();
        assert_eq!(statuses.len(), 3, "{bad}");
        assert_eq!(statuses[0], json!({"source_change_id": 1, "status": "applied", "new_server_version": 1}), "{bad}");
        assert_eq!(statuses[1]["source_change_id"], id, "{bad}");
        assert_eq!(statuses[1]["status"], "invalid", "{bad}");
        assert_eq!(statuses[1]["invalid"], json!({"reason": "bad_payload", "details": {}}), "{bad}");
        assert!(!statuses[1]["message"].as_str().unwrap().is_empty(), "{bad}");
        assert_eq!(statuses[2], json!({"source_change_id": 2, "status": "applied", "new_server_version": 2}), "{bad}");
        assert_eq!(answer["accepted"], true, "{bad}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_upload_is_a_400() {
    let server = Setup::default().start().await;
    let good = change(1, "INSERT", 0, "{}");
    for body in [
        String::new(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "{".to_owned(),
        r#"{"changes":null}"#.to_owned(),
        r#"{"changes":{}}"#.to_owned(),
        r#"{"changes":[}"#.to_owned(),
        r#"{"changes":[{"source_change_id":1,]}"#.to_owned(),
        format!(r#"{{"changes":[{good}]"#),
        format!(r#"{{"changes":[{good}]}} x"#),
        format!(r#"{{"changes":[{good}],"changes":[]}}"#),
        format!(r#"{{"changes":[{good}],"atomic":1}}"#),
        format!(r#"{{"changes":[{good}],"atomic":"true"}}"#),
        format!(r#"{{"changes":[{good}],"atomic":null}}"#),
        format!("\u{feff}{{\"changes\":[{good}]}}"),
        format!(r#"{{"changes":[{}]}}"#, vec!["1"; 100_001].join(",")),
    ] {
        let (status, code, _) = server.upload("alice/phone", body.clone()).await.error();
        assert_eq!((status, code.as_str()), (400, "invalid_request"), "{}", &body[..body.len().min(99)]);
    }
    assert_eq!(server.download("alice/laptop", "").await.json()["changes"], json!([]), "nothing was applied");
}

#[tokio::test]
async fn a_body_that_is_not_utf8_is_a_400() {
    let server = Setup::default().start().await;
    let mut body = format!(r#"{{"changes":[{}]}}"#, change(1, "INSERT", 0, r#"{"name":"?"}"#)).into_bytes();
    let position = body.iter().position(|&byte| byte == b'?').unwrap();
    body[position] = 0xff;
    let answer = send(server.upload_request("alice/phone", body)).await;
    assert_eq!(answer.error(), (400, "invalid_request".to_owned(), "the body is not UTF-8".to_owned()));
}

#[tokio::test]
async fn the_body_must_call_itself_json() {
    let server = Setup::default().start().await;
    for (content_type, status) in [
        (Some("application/json"), 200),
        (Some("application/json; charset=utf-8"), 200),
        (Some("Application/JSON ;charset=UTF-8"), 200),
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some("application/jsonp"), 415),
        (Some(""), 415),
        (None, 415),
    ] {
        let request = server.post("/sync/upload").bearer_auth("alice/phone").body(r#"{"changes":[]}"#);
        let request = content_type.into_iter().fold(request, |request, value| request.header("content-type", value));
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{content_type:?}");
        if status == 415 {
            assert_eq!(answer.error().1, "unsupported_media_type");
        }
    }
}

fn chunked(chunks: usize, bytes: usize) -> reqwest::Body {
    let chunk = move |_| Ok::<_, std::io::Error>(vec![b' '; bytes]);
    reqwest::Body::wrap_stream(futures::stream::iter((0..chunks).map(chunk)))
}

#[tokio::test]
async fn a_body_over_the_limit_is_a_413() {
    let max = 1024 * 1024;
    let server = Setup { body_bytes_max: max, ..Setup::default() }.start().await;
    let empty = r#"{"changes":[]}"#;
    let padded = |length: usize| format!("{}{empty}", " ".repeat(length - empty.len()));
    assert_eq!(server.upload("alice/phone", padded(max)).await.status, 200);
    for body in [padded(max + 1).into(), padded(20 * max).into(), chunked(max / 1024 + 1, 1024), chunked(20, max)] {
        let answer = send(server.upload_request("alice/phone", body)).await;
        let message = format!("the body has more than {max} bytes");
        assert_eq!(answer.error(), (413, "payload_too_large".to_owned(), message));
    }
    // A chunked body within the limit is as good as any.
    let answer = send(server.upload_request("alice/phone", chunked(4, 1024))).await;
    assert_eq!(answer.error().0, 400, "white space is no upload");
}

/// Else a device whose token has ended would see a reset connection and retry for ever. This client is of the kind
/// that reads nothing before it has sent all; the body fits into no socket's buffer.
#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let server = Setup::default().start().await;
    let body = vec![b' '; 16 * 1024 * 1024];
    for (token, content_type, status) in
        [("nobody", "application/json", "401"), ("a/b", "text/plain", "415"), ("a/b", "application/json", "413")]
    {
        let head = format!(
            "POST /sync/upload HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: {content_type}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let mut connection = TcpStream::connect(&server.address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&body).await.unwrap_or_else(|error| panic!("{status}: {error}"));
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap_or_else(|error| panic!("{status}: {error}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn an_array_is_no_upload_whatever_stands_in_it() {
    let server = Setup::default().start().await;
    for body in [format!(r#"[[[6,null,"users","INSERT","{PK}",0,{{}}]]]"#), "[[],false]".to_owned()] {
        assert_eq!(server.upload("alice/phone", body).await.error().0, 400);
    }
    assert_eq!(server.download("alice/laptop", "").await.json()["next_after"], 0);
}

/// The answer is sent as it is written, and is the same JSON as any other.
#[tokio::test]
async fn an_answer_may_hold_many_large_rows() {
    let server = Setup::default().start().await;
    let row = format!(r#"{{"text":"{}"}}"#, "x".repeat(100_000));
    given(&server, &[change(1, "INSERT", 0, &row)]).await;
    let mut changes: Vec<String> = (2..12).map(|id| change(id, "UPDATE", 7, "{}")).collect();
    changes.push(change(12, "UPDATE", 1, "{}"));
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    let answer: Value = serde_json::from_str(&server.changes("alice/phone", &changes).await).unwrap();
    assert_eq!((&answer["accepted"], &answer["highest_server_seq"]), (&json!(true), &json!(2)));
    let statuses = answer["statuses"].as_array().unwrap();
    let row: Value = serde_json::from_str(&row).unwrap();
    assert_eq!(statuses.len(), 11);
    assert!(
        statuses[..10].iter().all(|status| status["status"] == "conflict" && status["server_row"]["payload"] == row)
    );
    assert_eq!(statuses[10], json!({"source_change_id": 12, "status": "applied", "new_server_version": 2}));
}

#[tokio::test]
async fn a_message_does_not_repeat_what_was_sent_without_end() {
    let server = Setup::default().start().await;
    let long = "x".repeat(500_000);
    let answer = server.upload("alice/phone", format!(r#"{{"changes":"{long}"}}"#)).await;
    assert!(answer.status == 400 && answer.text.len() < 1_000, "{} bytes", answer.text.len());
    let answer = server.changes("alice/phone", &[&format!(r#"{{"source_change_id":"{long}"}}"#)]).await;
    assert!(answer.len() < 1_000, "{} bytes", answer.len());
}
