//! The commands for streams in the long run, beside a running server.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::{Client, Server, command};

const ROW: &str = "00000000-0000-4000-8000-000000000001";

fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = command(folder).args(arguments).envs(variables.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout) + &text(output.stderr))
}

async fn change(client: &Client, id: u32, op: &str, version: u32) {
    let payload = if op == "DELETE" { Value::Null } else { json!({"name": op}) };
    let change = json!({"source_change_id": id, "table": "users", "op": op, "pk": ROW, "server_version": version, "payload": payload});
    assert_eq!(client.change(change).await.unwrap()["status"], "applied");
}

#[tokio::test]
async fn a_log_is_compacted_beside_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let phone = server.sign_in("alice", "phone").await;
    change(&phone, 1, "INSERT", 0).await;
    change(&phone, 2, "UPDATE", 1).await;
    let nothing = "1 users swept: 0 superseded entries, 0 deletions and 0 keys cleared\n";
    assert_eq!(run(folder.path(), &["compact"], &[]), (Some(0), nothing.into()));
    let now = [("OUTRIGGER_RETENTION__SUPERSEDED_AFTER", "0s"), ("OUTRIGGER_RETENTION__TOMBSTONES_AFTER", "0s")];
    let (code, said) = run(folder.path(), &["compact", "--user", "alice"], &now);
    assert_eq!((code, &*said), (Some(0), "1 users swept: 1 superseded entries, 0 deletions and 0 keys cleared\n"));
    change(&phone, 3, "DELETE", 2).await;
    run(folder.path(), &["compact"], &now);
    assert_eq!(phone.get("/sync/download?after=1").await, (410, json!("history_pruned")));
    assert_eq!(phone.get("/sync/download?after=99").await, (409, json!("cursor_ahead")));
    // A retry is answered all the same.
    change(&phone, 2, "UPDATE", 1).await;
    let wrong = [("OUTRIGGER_RETENTION__TOMBSTONES_AFTER", "1d")];
    let (code, said) = run(folder.path(), &["compact"], &wrong);
    assert!(code == Some(2) && said.contains("retention.tombstones_after"), "{said}");
}

#[tokio::test]
async fn a_restored_database_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::demo(folder.path());
    let phone = server.sign_in("alice", "phone").await;
    change(&phone, 1, "INSERT", 0).await;
    let (code, said) = run(folder.path(), &["restore-mark", "--skip", "10"], &[]);
    let epoch = said.split_whitespace().find_map(|word| word.strip_suffix(':')).unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(phone.get(&format!("/sync/download?after=1&epoch={ROW}")).await, (409, json!("epoch_changed")));
    assert_eq!(phone.get(&format!("/sync/download?after=1&epoch={epoch}")).await, (200, Value::Null));
    change(&phone, 2, "UPDATE", 1).await;
    assert_eq!(phone.download().await[1]["server_id"], 12);
}
