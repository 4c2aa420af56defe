//! Uploads that go wrong, and what waits.

use std::sync::atomic::Ordering;

use outrigger_client::{Error, Event};
use outrigger_domain::limits::UploadLimits;

use crate::world::{Server, drained, pk, settle};

#[tokio::test]
async fn a_lost_answer_changes_nothing_twice_and_loses_no_edit() {
    let server = Server::memory().await;
    let (phone, laptop) = (server.device("phone"), server.device("laptop"));
    phone.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'a')", pk(1)));
    phone.sync().await;
    phone.execute("UPDATE users SET name = 'b'");
    phone.link.answers_lost.store(1, Ordering::SeqCst);
    assert!(matches!(phone.client.sync_once().await, Err(Error::Offline { .. })));
    // Edited while nobody knows what became of the first edit.
    phone.execute("UPDATE users SET name = 'c'");
    phone.sync().await;
    let rows = settle(&[&phone, &laptop]).await;
    assert!(rows[0].contains("'c'"), "{rows:?}");
    let versions = phone.rows("SELECT CAST(version AS TEXT) FROM _outrigger_row");
    assert_eq!(versions, ["3"], "one for the row, one for each edit");
}

#[tokio::test]
async fn a_row_made_again_while_its_deletion_is_on_the_way_is_not_lost() {
    let server = Server::memory().await;
    let (phone, laptop) = (server.device("phone"), server.device("laptop"));
    phone.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'a')", pk(1)));
    phone.sync().await;
    phone.execute("DELETE FROM users");
    phone.link.answers_lost.store(1, Ordering::SeqCst);
    assert!(matches!(phone.client.sync_once().await, Err(Error::Offline { .. })));
    phone.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'again')", pk(1)));
    let rows = settle(&[&phone, &laptop]).await;
    assert!(rows.len() == 1 && rows[0].contains("'again'"), "{rows:?}");
}

#[tokio::test]
async fn a_child_goes_up_once_another_device_has_sent_its_parent() {
    let server = Server::memory().await;
    let (phone, laptop) = (server.device("phone"), server.device("laptop"));
    phone.execute(&format!("PRAGMA foreign_keys = off; INSERT INTO posts VALUES ('{}', 'p', '{}')", pk(1), pk(2)));
    assert_eq!(phone.sync().await.waiting, 1);
    laptop.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(2)));
    laptop.sync().await;
    assert_eq!(phone.sync().await.waiting, 0);
    assert_eq!(settle(&[&phone, &laptop]).await.len(), 2);
}

#[tokio::test]
async fn offline_is_an_error_that_leaves_everything_as_it_was() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    phone.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(1)));
    phone.link.is_down.store(true, Ordering::SeqCst);
    assert!(matches!(phone.client.sync_once().await, Err(Error::Offline { .. })));
    assert_eq!(phone.client.unsent().unwrap(), 1);
    phone.link.is_down.store(false, Ordering::SeqCst);
    assert_eq!(phone.sync().await.uploaded, 1);
}

#[tokio::test]
async fn batches_become_as_small_as_the_server_wants_them() {
    let limits = UploadLimits { changes_max: 60, ..UploadLimits::default() };
    let server = Server::limited(limits).await;
    let phone = server.device("phone");
    let many = |from: u32, to: u32, text: &str| {
        let rows: Vec<String> = (from..to).map(|n| format!("('{}', {text})", pk(n))).collect();
        format!("INSERT INTO users (id, name) VALUES {}", rows.join(", "))
    };
    phone.execute(&many(0, 500, "'x'"));
    assert_eq!(phone.sync().await.uploaded, 500);
    // 30 rows of 100 kB are more than the server takes in one request.
    phone.execute(&many(1_000, 1_030, "hex(zeroblob(50000))"));
    assert_eq!(phone.sync().await.uploaded, 30);
    // One row that is too large alone is put aside, and the others go on.
    let mut events = phone.client.events();
    phone.execute(&format!(
        "INSERT INTO users (id, name) VALUES ('{}', hex(zeroblob(700000))), ('{}', 'y')",
        pk(2_000),
        pk(2_001)
    ));
    assert_eq!(phone.sync().await.uploaded, 1);
    let aside = phone.client.aside().unwrap();
    assert!(aside.len() == 1 && aside[0].pk == pk(2_000), "{:?}", aside.iter().map(|a| &a.reason).collect::<Vec<_>>());
    assert!(
        drained(&mut events).iter().any(|event| matches!(event, Event::SetAside { pk: of, .. } if *of == pk(2_000)))
    );
    let laptop = server.device("laptop");
    laptop.sync().await;
    assert_eq!(laptop.contents().len(), 531);
}

#[tokio::test]
async fn children_wait_for_their_parents_and_block_nobody() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    phone.execute("PRAGMA foreign_keys = OFF");
    phone.execute(&format!(
        "INSERT INTO posts VALUES ('{}', 'orphan', '{}'); INSERT INTO users (id) VALUES ('{}')",
        pk(1),
        pk(7),
        pk(2)
    ));
    let report = phone.sync().await;
    assert_eq!((report.uploaded, report.waiting), (1, 1));
    phone.execute(&format!("INSERT INTO users (id) VALUES ('{}')", pk(7)));
    let report = phone.sync().await;
    assert_eq!((report.uploaded, report.waiting), (2, 0));
}

#[tokio::test]
async fn what_can_never_be_uploaded_is_put_aside_until_it_is_edited() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    phone.execute(&format!(
        "INSERT INTO users (id, name) VALUES ('not a uuid', 'a'), ('{}', 'b'), ('{}', x'00'), ('{}', 'd')",
        "550E8400-E29B-41D4-A716-446655440000",
        pk(1),
        pk(2)
    ));
    assert_eq!(phone.sync().await.uploaded, 1);
    let aside = phone.client.aside().unwrap();
    assert_eq!(aside.len(), 3);
    assert!(aside.iter().all(|aside| aside.reason == "unsyncable" && aside.table == "users"), "{aside:?}");
    phone.execute(&format!("UPDATE users SET name = 'mended' WHERE id = '{}'", pk(1)));
    assert_eq!(phone.sync().await.uploaded, 1);
    phone.client.forget_aside(aside[0].id).unwrap();
    assert_eq!(phone.client.aside().unwrap().len(), 2);
}

#[tokio::test]
async fn a_reinstalled_app_uses_no_number_twice() {
    let server = Server::memory().await;
    let old = server.device("phone");
    old.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'a'), ('{}', 'b')", pk(1), pk(2)));
    old.sync().await;
    drop(old);
    // The same source with an empty database; once on a server that does not tell the numbers.
    for (n, unknown) in [(3, vec![]), (4, vec!["/sync/source"])] {
        let again = server.device("phone");
        *again.link.unknown.lock().unwrap() = unknown;
        again.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'c')", pk(n)));
        assert_eq!(again.sync().await.uploaded, 1);
        assert_eq!(again.contents().len(), n as usize);
    }
    // A database that was restored from a backup counts from too low, and finds out at once, however many it used.
    let restored = server.device("phone");
    restored.sync().await;
    for n in 100..130 {
        restored.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'n')", pk(n)));
    }
    restored.sync().await;
    let uploads = restored.link.uploads.load(Ordering::SeqCst);
    restored.execute("UPDATE _outrigger_state SET value = 1 WHERE key = 'next_id'");
    restored.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'd')", pk(9)));
    assert_eq!(restored.sync().await.uploaded, 1);
    assert_eq!(restored.client.aside().unwrap(), []);
    assert_eq!(restored.link.uploads.load(Ordering::SeqCst), uploads + 2);
}

#[tokio::test]
async fn an_ended_token_is_refreshed_once() {
    let server = Server::memory().await;
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let config = {
        let asked = asked.clone();
        let token = move || {
            let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            async move { Ok(if first { "old/phone".to_owned() } else { "alice/phone".to_owned() }) }
        };
        outrigger_client::Config::new(server.url.clone(), token).table("users")
    };
    let folder = tempfile::tempdir().unwrap();
    let client = crate::world::open(&folder.path().join("a.db"), config);
    client.sync_once().await.unwrap();
    client.sync_once().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let refused = outrigger_client::Config::new(server.url.clone(), || async { Ok("old/x".to_owned()) }).table("users");
    let client = crate::world::open(&folder.path().join("b.db"), refused);
    assert!(matches!(client.sync_once().await, Err(Error::Unauthorized(_))));
}
