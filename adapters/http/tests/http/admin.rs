//! What is for administrators. The user `root` is one.

use insta::assert_snapshot;
use serde_json::Value;

use crate::world::{Answer, Server, Setup, send};

fn change(id: u8, op: &str, pk: u8, version: u8) -> String {
    let payload = if op == "DELETE" { "null".to_owned() } else { format!(r#"{{"n":1.0,"of":{id}}}"#) };
    format!(
        r#"{{"source_change_id":{id},"table":"users","op":"{op}","pk":"00000000-0000-0000-0000-00000000000{pk}","server_version":{version},"payload":{payload}}}"#
    )
}

/// Alice has two rows and a deletion, Bob a row of the same key as hers, which his business table cannot take.
async fn given() -> Server {
    let server = Setup::default().start().await;
    let changes =
        [change(1, "INSERT", 1, 0), change(2, "INSERT", 2, 0), change(3, "INSERT", 3, 0), change(4, "DELETE", 3, 1)];
    server.changes("alice/phone", &changes.each_ref().map(String::as_str)).await;
    server.changes("bob/phone", &[&change(1, "INSERT", 1, 0)]).await;
    assert_eq!(get(&server, "alice/laptop", "/sync/download?after=2").await.status, 200);
    server
}

async fn get(server: &Server, token: &str, path: &str) -> Answer {
    send(server.get(path).bearer_auth(token)).await
}

async fn delete(server: &Server, token: &str, path: &str) -> Answer {
    send(server.delete(path).bearer_auth(token)).await
}

#[tokio::test]
async fn only_an_administrator_sees_others() {
    let server = given().await;
    for path in ["/admin/users", "/admin/devices", "/admin/users/bob/export", "/admin/materialize-failures?user=bob"] {
        assert_eq!(get(&server, "alice/phone", path).await.error().1, "forbidden", "{path}");
        assert_eq!(get(&server, "alice/phone", path).await.status, 403, "{path}");
        assert_eq!(get(&server, "root/laptop", path).await.status, 200, "{path}");
        assert_eq!(send(server.get(path)).await.status, 401, "{path}");
    }
    assert_eq!(delete(&server, "alice/phone", "/admin/users/alice").await.status, 403);
    let retry = |token| server.post("/admin/materialize-failures/retry?user=bob&id=1").bearer_auth(token);
    assert_eq!(send(retry("alice/phone")).await.status, 403);
    assert_eq!(send(retry("root/laptop")).await.json()["status"], "materialize_error");
    // To name oneself is no privilege.
    assert_eq!(get(&server, "bob/phone", "/admin/materialize-failures?user=bob").await.json()["failures"][0]["id"], 1);
}

#[tokio::test]
async fn users_and_devices_have_these_shapes() {
    let server = given().await;
    // Contacts are written late; this reads them as they wait to be.
    server.flush_contacts().await;
    assert_snapshot!(get(&server, "root/laptop", "/admin/users?limit=1").await.text, @r#"{"users":[{"user":"alice","highest_server_seq":4,"devices":2,"last_contact":"2025-08-08T07:01:00.123456Z","failures":0}],"next_after":"alice"}"#);
    assert_snapshot!(get(&server, "root/laptop", "/admin/users?after=alice").await.text, @r#"{"users":[{"user":"bob","highest_server_seq":1,"devices":1,"last_contact":"2025-08-08T07:01:00.123456Z","failures":1}],"next_after":null}"#);
    assert_snapshot!(get(&server, "root/laptop", "/admin/devices?user=alice").await.text, @r#"{"devices":[{"user":"alice","source_id":"laptop","first_contact":"2025-08-08T07:01:00.123456Z","last_contact":"2025-08-08T07:01:00.123456Z","cursor":2,"lag":2,"highest_source_change_id":0},{"user":"alice","source_id":"phone","first_contact":"2025-08-08T07:01:00.123456Z","last_contact":"2025-08-08T07:01:00.123456Z","cursor":null,"lag":4,"highest_source_change_id":4}],"has_more":false}"#);
    let page = get(&server, "root/laptop", "/admin/devices?limit=1&after_user=alice&after_source=laptop").await.json();
    assert_eq!((&page["devices"][0]["source_id"], &page["has_more"]), (&"phone".into(), &true.into()));
    for path in
        ["/admin/users?limit=0", "/admin/users?after=", "/admin/devices?after_user=alice", "/admin/devices?user="]
    {
        assert_eq!(get(&server, "root/laptop", path).await.error().1, "invalid_request", "{path}");
    }
}

#[tokio::test]
async fn an_export_is_all_there_is_line_by_line() {
    let server = given().await;
    let export = get(&server, "root/laptop", "/admin/users/alice/export").await;
    assert_eq!(export.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = export.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["user", "row", "row", "change", "change", "change", "change", "end"]);
    assert!(export.text.contains(r#"{"kind":"row","schema":"public","table":"users","pk":"00000000-0000-0000-0000-000000000001","server_version":1,"payload":{"n":1.0,"of":1}}"#), "{}", export.text);
    assert_eq!((&lines[7]["rows"], &lines[7]["changes"]), (&2.into(), &4.into()));
    let bobs = get(&server, "root/laptop", "/admin/users/bob/export").await.text;
    assert!(bobs.contains(r#"{"kind":"failure","id":1,"#) && !bobs.contains(r#""of":2"#), "{bobs}");
    assert_eq!(get(&server, "root/laptop", "/admin/users/nobody/export").await.error().1, "not_found");
    assert_eq!(get(&server, "root/laptop", "/admin/users/%00/export").await.error().1, "invalid_request");
}

#[tokio::test]
async fn a_removed_user_is_gone_and_no_other() {
    let server = given().await;
    let epoch = get(&server, "alice/laptop", "/sync/download").await.json()["epoch"].as_str().unwrap().to_owned();
    let erased = delete(&server, "root/laptop", "/admin/users/alice").await;
    assert_snapshot!(erased.text, @r#"{"done":true,"rows":2,"entries":6,"keys":6,"stuck":0}"#);
    assert_eq!(delete(&server, "root/laptop", "/admin/users/alice").await.error().1, "not_found");
    let users = get(&server, "root/laptop", "/admin/users").await.json();
    assert_eq!(users["users"].as_array().unwrap().len(), 1, "{users}");
    let snapshot = get(&server, "alice/laptop", "/sync/snapshot").await.json();
    assert_eq!(snapshot["rows"].as_array().unwrap().len(), 0, "{snapshot}");
    let (status, error, _) =
        get(&server, "alice/laptop", &format!("/sync/download?after=4&epoch={epoch}")).await.error();
    assert_eq!((status, error.as_str()), (409, "epoch_changed"));
    assert_eq!(get(&server, "alice/laptop", "/sync/download?after=4").await.status, 410);
    // The business row of the key that both used is free now.
    let retry = send(server.post("/admin/materialize-failures/retry?id=1").bearer_auth("bob/phone")).await;
    assert_eq!(retry.json()["status"], "materialized");
    // An upload whose answer was lost is not applied a second time.
    let replayed = server.changes("alice/phone", &[&change(1, "INSERT", 1, 0)]).await;
    assert!(replayed.contains(r#""status":"conflict""#), "{replayed}");
    let renewed = server.changes("alice/phone", &[&change(9, "INSERT", 1, 0)]).await;
    assert!(renewed.contains(r#""status":"applied""#), "{renewed}");
}
