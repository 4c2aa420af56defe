//! New devices, and those that have to start again.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_client::{Conflicts, Error};

use crate::world::{Device, Server, pk, settle};

fn users(range: std::ops::Range<u32>) -> String {
    let rows: Vec<String> = range.map(|n| format!("('{}', 'user {n}')", pk(n))).collect();
    format!("INSERT INTO users (id, name) VALUES {}", rows.join(", "))
}

#[tokio::test]
async fn a_new_device_gets_everything_by_pages_or_by_the_stream_of_an_older_server() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    phone.execute(&users(0..2_500));
    phone.execute(&format!("INSERT INTO posts VALUES ('{}', 'p', '{}')", pk(1), pk(7)));
    phone.sync().await;
    phone.execute("DELETE FROM users WHERE name = 'user 1'; UPDATE users SET age = 4 WHERE name = 'user 2'");
    phone.sync().await;
    for unknown in [vec![], vec!["/sync/snapshot", "/sync/source"]] {
        let new = server.device(if unknown.is_empty() { "new" } else { "older" });
        *new.link.unknown.lock().unwrap() = unknown;
        // With rows of its own.
        new.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'mine')", pk(9_000)));
        new.sync().await;
        phone.sync().await;
        assert_eq!(new.contents(), phone.contents());
        new.execute("DELETE FROM users WHERE name = 'mine'");
        settle(&[&new, &phone]).await;
    }
}

/// The log has lost what made the author, so the post comes first, and the author with another page.
#[tokio::test]
async fn a_row_may_come_a_page_before_its_parent() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    phone.execute(&users(0..1_100));
    phone.execute(&format!("INSERT INTO posts VALUES ('{}', 'p', '{}')", pk(1), pk(1_099)));
    phone.sync().await;
    phone.execute("UPDATE users SET age = 1");
    phone.sync().await;
    server.forget_history().await;
    let older = server.device("older");
    *older.link.unknown.lock().unwrap() = vec!["/sync/snapshot"];
    older.sync().await;
    assert_eq!(older.contents(), phone.contents());
    let enforced = |db: &mut rusqlite::Connection| db.pragma_query_value(None, "foreign_keys", |row| row.get(0));
    assert!(older.client.with::<bool>(enforced).unwrap());
    // Where it stands is kept with what it has.
    assert_eq!(older.rows("SELECT value || '' FROM _outrigger_state WHERE key = 'cursor'"), ["2201"]);
}

#[tokio::test]
async fn a_device_that_was_away_too_long_starts_again_and_keeps_its_edits() {
    for server in [Server::memory().await, Server::sqlite().await, Server::postgres().await] {
        let (phone, laptop) = (server.device("phone"), server.device("laptop"));
        phone.execute(&users(0..20));
        settle(&[&phone, &laptop]).await;
        phone.execute("DELETE FROM users WHERE name < 'user 15'; UPDATE users SET age = 9 WHERE name = 'user 5'");
        phone.sync().await;
        server.forget_history().await;
        laptop.execute(
            "UPDATE users SET name = 'edited' WHERE name = 'user 6'; UPDATE users SET age = 3 WHERE name = 'user 10'",
        );
        laptop.execute(&users(100..101));
        let rows = settle(&[&laptop, &phone]).await;
        assert!(rows.iter().any(|row| row.contains("'edited'")), "{rows:?}");
        // Deleted elsewhere and edited here: the edit is kept.
        assert!(rows.iter().any(|row| row.contains("'user 10'") && row.contains("integer:3")), "{rows:?}");
        assert!(!rows.iter().any(|row| row.contains("'user 11'")), "{rows:?}");
        assert!(rows.iter().any(|row| row.contains("'user 100'")), "{rows:?}");
    }
}

#[tokio::test]
async fn a_restored_server_is_noticed_by_its_epoch() {
    let server = Server::memory().await;
    let (phone, laptop) = (server.device("phone"), server.device("laptop"));
    phone.execute(&users(0..5));
    settle(&[&phone, &laptop]).await;
    laptop.execute("UPDATE users SET age = 1 WHERE name = 'user 3'");
    server.retention.restore_mark(NonZeroU32::new(100).unwrap()).await.unwrap();
    phone.execute("UPDATE users SET age = 2 WHERE name = 'user 4'");
    let rows = settle(&[&laptop, &phone]).await;
    assert_eq!(rows.len(), 5);
    assert_eq!(rows.iter().filter(|row| row.contains("integer:")).count(), 2, "{rows:?}");
}

/// A device that dies at that point when it is told to.
fn mortal(server: &Server, at: &'static str) -> (Device, Arc<AtomicBool>) {
    let dies = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&dies);
    let device = server.device_with("laptop", |config| {
        let told = Arc::clone(&told);
        config
            .failpoint(move |point| point == at && told.swap(false, Ordering::SeqCst))
            .conflicts(Conflicts::ServerWins)
    });
    (device, dies)
}

/// It dies when it has the rows and not yet removed what is not among them; then one of them is deleted elsewhere.
#[tokio::test]
async fn what_is_deleted_while_a_start_is_interrupted_does_not_stay() {
    let server = Server::memory().await;
    let (phone, (laptop, dies)) = (server.device("phone"), mortal(&server, "removed"));
    phone.execute(&users(0..5));
    settle(&[&phone, &laptop]).await;
    phone.execute("DELETE FROM users WHERE name = 'user 1'");
    phone.sync().await;
    server.forget_history().await;
    dies.store(true, Ordering::SeqCst);
    assert!(matches!(laptop.client.sync_once().await, Err(Error::Stopped("removed"))));
    phone.execute("DELETE FROM users WHERE name = 'user 2'");
    phone.sync().await;
    server.forget_history().await;
    assert_eq!(settle(&[&laptop, &phone]).await.len(), 3);
}

/// The server's row comes with a conflict, before its parent, and is deleted before that comes.
#[tokio::test]
async fn what_waits_for_its_parent_and_is_deleted_does_not_come_back() {
    let server = Server::memory().await;
    let (phone, (laptop, dies)) = (server.device("phone"), mortal(&server, "before download"));
    phone.execute(&users(0..1));
    phone.execute(&format!("INSERT INTO posts VALUES ('{}', 'p', '{}')", pk(100), pk(0)));
    settle(&[&phone, &laptop]).await;
    phone.execute(&users(1..2));
    phone.execute(&format!("UPDATE posts SET author_id = '{}'", pk(1)));
    phone.sync().await;
    laptop.execute("UPDATE posts SET title = 'mine'");
    dies.store(true, Ordering::SeqCst);
    assert!(matches!(laptop.client.sync_once().await, Err(Error::Stopped("before download"))));
    assert_eq!(laptop.rows("SELECT pk FROM _outrigger_unapplied").len(), 1);
    phone.execute("DELETE FROM posts");
    phone.sync().await;
    server.forget_history().await;
    assert_eq!(settle(&[&laptop, &phone]).await.len(), 2);
}
