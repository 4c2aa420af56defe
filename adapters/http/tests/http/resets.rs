//! A device that cannot go on: 409 and 410, and what it starts again with.

use std::sync::Arc;

use outrigger_application::ports::retention::RetentionStore;
use outrigger_domain::retention::Cutoffs;
use outrigger_domain::{ServerSeq, UserId};
use outrigger_memory::MemoryStore;
use serde_json::json;

use crate::world::{EPOCH, NOW, Server, Setup, send};

const ROW: &str = "00000000-0000-0000-0000-000000000001";
const OTHER: &str = "00000000-0000-0000-0000-0000000000ff";

fn change(id: u8, op: &str, version: u8) -> String {
    let payload = if op == "DELETE" { "null" } else { "{}" };
    format!(
        r#"{{"source_change_id":{id},"table":"users","op":"{op}","pk":"{ROW}","server_version":{version},"payload":{payload}}}"#
    )
}

async fn refused(server: &Server, query: &str) -> (u16, serde_json::Value) {
    let answer = server.download("alice/laptop", query).await;
    answer.error();
    (answer.status, answer.json())
}

#[tokio::test]
async fn another_epoch_is_a_409_everywhere() {
    let server = Setup::default().start().await;
    let upload = |epoch: &str| format!(r#"{{"changes":[{}],"epoch":{epoch}}}"#, change(1, "INSERT", 0));
    let answer = server.upload("alice/phone", upload(&format!("\"{OTHER}\""))).await;
    assert_eq!((answer.status, &answer.json()["error"]), (409, &json!("epoch_changed")));
    assert_eq!(answer.json()["epoch"], json!(EPOCH.to_string()));
    for path in ["download", "snapshot"] {
        let request = server.get(&format!("/sync/{path}?epoch={OTHER}")).bearer_auth("alice/phone");
        let answer = send(request).await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (409, Some("epoch_changed")), "{path}");
        let answer = send(server.get(&format!("/sync/{path}?epoch={EPOCH}")).bearer_auth("alice/phone")).await;
        assert_eq!((answer.status, answer.json()["epoch"].as_str()), (200, Some(&*EPOCH.to_string())), "{path}");
        let answer = send(server.get(&format!("/sync/{path}?epoch=1")).bearer_auth("alice/phone")).await;
        let (status, _, message) = answer.error();
        assert!(status == 400 && message.contains("`epoch`"), "{message}");
    }
    for (epoch, status) in [("null", 200), (&*format!("\"{EPOCH}\""), 200), ("\"x\"", 400), ("7", 400)] {
        assert_eq!(server.upload("alice/phone", upload(epoch)).await.status, status, "{epoch}");
    }
    // Also where the changes have to be read one by one.
    let mixed = format!(r#"{{"changes":[7,{}],"epoch":"{OTHER}"}}"#, change(1, "INSERT", 0));
    assert_eq!(server.upload("alice/phone", mixed).await.status, 409);
}

#[tokio::test]
async fn a_cursor_beyond_the_end_is_a_409() {
    let server = Setup::default().start().await;
    let (status, body) = refused(&server, "?after=3").await;
    assert_eq!((status, &body["error"], &body["highest_server_seq"]), (409, &json!("cursor_ahead"), &json!(0)));
}

#[tokio::test]
async fn a_cursor_behind_what_is_kept_is_a_410() {
    let store = Arc::new(MemoryStore::default());
    let setup = Setup { store: Arc::<MemoryStore>::clone(&store), ..Setup::default() };
    let server = setup.start().await;
    let changes = [change(1, "INSERT", 0), change(2, "UPDATE", 1), change(3, "DELETE", 2)];
    server.changes("alice/phone", &changes.each_ref().map(String::as_str)).await;
    let after: jiff::Timestamp = NOW.parse().unwrap();
    let later = after.checked_add(jiff::SignedDuration::from_secs(1)).unwrap();
    let user = UserId::parse("alice").unwrap();
    let step = store.prune(&user, Cutoffs::new(later, later), ServerSeq(0), later).await.unwrap();
    assert_eq!((step.superseded, step.tombstones), (2, 1));
    let (status, body) = refused(&server, "?after=1").await;
    assert_eq!((status, &body["error"], &body["floor"]), (410, &json!("history_pruned"), &json!(3)));
    assert_eq!(server.download("alice/laptop", "?after=3").await.status, 200);
    assert_eq!(server.download("alice/laptop", "").await.status, 200);
}
