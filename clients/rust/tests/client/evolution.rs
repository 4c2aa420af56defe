//! Tables that change with the app: columns, tables that come and go, tables made anew.

use outrigger_client::{Config, Conflicts, Error};

use crate::world::{Device, SCHEMA, Server, bare_config, config, pk, settle};

fn users(names: &[&str]) -> String {
    let row = |(n, name): (usize, &&str)| format!("('{}', '{name}')", pk(u32::try_from(n).unwrap() + 1));
    let rows: Vec<String> = names.iter().enumerate().map(row).collect();
    format!("INSERT INTO users (id, name) VALUES {}", rows.join(", "))
}

/// Two devices with three users.
async fn pair(server: &Server, conflicts: &Conflicts) -> (Device, Device) {
    let policy = |config: Config| config.conflicts(conflicts.clone());
    let (phone, laptop) = (server.device_with("phone", policy), server.device_with("laptop", policy));
    phone.execute(&users(&["a", "b", "c"]));
    settle(&[&phone, &laptop]).await;
    (phone, laptop)
}

const ALTER: &str = "ALTER TABLE users ADD COLUMN color TEXT; ALTER TABLE users ADD COLUMN size INTEGER DEFAULT 7";
const COLORS: &str = "SELECT name || ' ' || coalesce(color, '-') || ' ' || size FROM users ORDER BY 1";

#[tokio::test]
async fn a_new_column_uploads_nothing_by_itself_and_overwrites_nothing_newer() {
    for conflicts in [Conflicts::MergeFields, Conflicts::ClientWins, Conflicts::ServerWins] {
        let server = Server::memory().await;
        let (mut phone, laptop) = pair(&server, &conflicts).await;
        laptop.execute("UPDATE users SET name = 'newer' WHERE name = 'a'");
        laptop.sync().await;
        phone.execute("UPDATE users SET age = 3 WHERE name = 'b'");
        phone.execute(ALTER);
        phone.execute("UPDATE users SET color = 'red' WHERE name = 'c'");
        phone.reopen(|config| config.conflicts(conflicts.clone()));
        assert_eq!(phone.sync().await.uploaded, 2, "{conflicts:?}");
        settle(&[&phone, &laptop]).await;
        assert_eq!(phone.rows(COLORS), ["b - 7", "c red 7", "newer - 7"], "{conflicts:?}");
        // The update of the whole table is an edit of every row, and one that is undone is none.
        phone.execute("UPDATE users SET size = 8; UPDATE users SET size = 7");
        assert_eq!(phone.sync().await.uploaded, 0, "{conflicts:?}");
    }
}

#[tokio::test]
async fn a_column_that_is_added_while_the_client_is_open_syncs_with_the_next_sync() {
    let server = Server::memory().await;
    let (phone, laptop) = pair(&server, &Conflicts::ServerWins).await;
    for device in [&phone, &laptop] {
        device.execute(ALTER);
    }
    phone.execute("UPDATE users SET color = 'red' WHERE name = 'c'");
    assert_eq!(phone.sync().await.uploaded, 1);
    laptop.sync().await;
    assert_eq!(laptop.rows(COLORS), phone.rows(COLORS));
    laptop.connection().execute_batch("ALTER TABLE users DROP COLUMN score").unwrap_err();
    // A table that cannot sync any more is an error, not a panic.
    phone.execute("DROP TABLE posts");
    assert!(matches!(phone.client.sync_once().await, Err(Error::Table { .. })));
}

/// The laptop's app is older than the phone's.
#[tokio::test]
async fn what_an_older_app_does_not_know_outlives_its_edits_and_its_update() {
    for conflicts in [Conflicts::MergeFields, Conflicts::ClientWins, Conflicts::ServerWins] {
        let server = Server::memory().await;
        let (phone, mut laptop) = pair(&server, &conflicts).await;
        phone.execute(ALTER);
        phone.execute("UPDATE users SET color = 'red', size = 1; UPDATE users SET color = 'blue' WHERE name = 'b'");
        settle(&[&phone, &laptop]).await;
        laptop.execute("UPDATE users SET age = 5 WHERE name <> 'c'");
        settle(&[&phone, &laptop]).await;
        // A third one, new and up to date, gets them from the server.
        let tablet = server.device_of("tablet", &format!("{SCHEMA} {ALTER}"), |config| config);
        tablet.sync().await;
        assert_eq!(tablet.rows(COLORS), ["a red 1", "b blue 1", "c red 1"], "{conflicts:?}");
        // A conflict keeps the server's, whoever wins.
        phone.execute("UPDATE users SET color = 'green' WHERE name = 'a'");
        phone.sync().await;
        laptop.execute("UPDATE users SET age = 6 WHERE name = 'a'");
        settle(&[&laptop, &phone]).await;
        assert_eq!(phone.rows(COLORS), ["a green 1", "b blue 1", "c red 1"], "{conflicts:?}");
        // The laptop is updated, with one row edited before that and another one's new column after.
        laptop.execute("UPDATE users SET age = 7 WHERE name = 'b'");
        laptop.execute(ALTER);
        laptop.execute("UPDATE users SET color = 'mine' WHERE name = 'c'");
        laptop.reopen(|config| config.conflicts(conflicts.clone()));
        assert_eq!(laptop.rows(COLORS), ["a green 1", "b blue 1", "c mine 1"], "{conflicts:?}");
        assert_eq!(laptop.sync().await.uploaded, 2, "{conflicts:?}");
        settle(&[&laptop, &phone]).await;
        assert_eq!(phone.rows(COLORS), laptop.rows(COLORS));
        assert_eq!(laptop.rows("SELECT members FROM _outrigger_extra"), [""; 0]);
    }
}

#[tokio::test]
async fn a_table_that_is_named_later_comes_down_and_goes_up() {
    let server = Server::memory().await;
    let laptop = server.device("laptop");
    laptop.execute(&users(&["a"]));
    laptop.execute(&format!("INSERT INTO posts VALUES ('{}', 'p', '{}')", pk(1), pk(1)));
    laptop.sync().await;
    let mut phone = server.device("phone");
    let only = |device: &Device| bare_config(device.link.clone(), "alice/phone").table("USERS");
    phone.client.sign_out().unwrap();
    phone.reopen_as(SCHEMA, only(&phone)).unwrap();
    phone.execute(&format!("INSERT INTO posts VALUES ('{}', 'mine', NULL)", pk(2)));
    phone.sync().await;
    assert_eq!(phone.contents().len(), 2);
    phone.reopen(|config| config);
    assert_eq!(settle(&[&phone, &laptop]).await.len(), 3);
    // Not named any more: its edits rest, and go up when it is named again, with what was made meanwhile.
    phone.execute("UPDATE posts SET title = 'edited' WHERE title = 'mine'");
    phone.reopen_as(SCHEMA, only(&phone)).unwrap();
    phone.execute(&format!(
        "UPDATE posts SET title = 'unwatched' WHERE title = 'p'; INSERT INTO posts (id) VALUES ('{}')",
        pk(3)
    ));
    let uploads = phone.link.count("/sync/upload");
    let report = phone.sync().await;
    assert_eq!((report.waiting, phone.client.unsent().unwrap(), phone.link.count("/sync/upload")), (0, 1, uploads));
    phone.reopen(|config| config);
    assert_eq!(phone.sync().await.uploaded, 3);
    let rows = settle(&[&phone, &laptop]).await;
    assert!(rows.len() == 4 && rows.iter().any(|row| row.contains("'unwatched'")), "{rows:?}");
    // Dropped: nothing of it is left, and nothing is deleted elsewhere.
    phone.execute("UPDATE posts SET title = 'gone'; DROP TABLE posts");
    phone.reopen_as("", only(&phone)).unwrap();
    assert_eq!((phone.client.unsent().unwrap(), phone.sync().await.uploaded), (0, 0));
    phone.reopen(|config| config);
    assert_eq!(settle(&[&phone, &laptop]).await, rows);
}

/// The way to change what ALTER TABLE cannot: https://www.sqlite.org/lang_altertable.html#otheralter
const ANEW: &str = "
CREATE TABLE new_users (id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE, age INTEGER, score REAL);
INSERT INTO new_users SELECT id, name, email, age, score FROM users;
DROP TABLE users;
ALTER TABLE new_users RENAME TO users;";

#[tokio::test]
async fn a_table_that_was_made_anew_loses_no_edit_and_overwrites_nothing_newer() {
    for (store, conflicts) in [
        (Server::memory().await, Conflicts::MergeFields),
        (Server::sqlite().await, Conflicts::ClientWins),
        (Server::postgres().await, Conflicts::ServerWins),
        (Server::memory().await, Conflicts::ServerWins),
    ] {
        let (mut phone, laptop) = pair(&store, &conflicts).await;
        phone.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'd'), ('{}', 'e')", pk(10), pk(11)));
        settle(&[&phone, &laptop]).await;
        laptop.execute("UPDATE users SET name = 'newer' WHERE name = 'a'; DELETE FROM users WHERE name = 'e'");
        laptop.sync().await;
        phone.execute("UPDATE users SET age = 3 WHERE name = 'b'");
        phone.client.close().unwrap();
        let unwatched = phone.connection();
        unwatched.pragma_update(None, "foreign_keys", false).unwrap();
        unwatched.execute_batch(ANEW).unwrap();
        // Nothing watches here.
        let key = pk(20);
        let edits = format!(
            "UPDATE users SET age = 9 WHERE name = 'c'; DELETE FROM users WHERE name = 'd';
             INSERT INTO users (id, name) VALUES ('{key}', 'made');"
        );
        unwatched.execute_batch(&edits).unwrap();
        phone.reopen(|config| config.conflicts(conflicts.clone()));
        assert_eq!(phone.sync().await.uploaded, 3, "{conflicts:?}: of b, c and what was made");
        settle(&[&phone, &laptop]).await;
        let ages = phone.rows("SELECT name || coalesce(age, '') FROM users ORDER BY 1");
        assert_eq!(ages, ["b3", "c9", "d", "made", "newer"], "{conflicts:?}");
    }
}

/// The same on a server that has no snapshots.
#[tokio::test]
async fn an_older_server_is_compared_with_too() {
    let server = Server::memory().await;
    let (mut phone, laptop) = pair(&server, &Conflicts::ServerWins).await;
    *phone.link.unknown.lock().unwrap() = vec!["/sync/snapshot", "/sync/source"];
    phone.execute("UPDATE users SET age = 1; UPDATE users SET age = 2 WHERE name = 'a'");
    settle(&[&phone, &laptop]).await;
    phone.client.close().unwrap();
    phone
        .connection()
        .execute_batch("DROP TRIGGER _outrigger_users_update; UPDATE users SET age = 8 WHERE name = 'b'")
        .unwrap();
    phone.connection().execute_batch("DELETE FROM users WHERE name = 'c'").unwrap();
    phone.reopen(|config| config);
    settle(&[&phone, &laptop]).await;
    assert_eq!(laptop.rows("SELECT name || age FROM users ORDER BY 1"), ["a2", "b8"]);
}

#[tokio::test]
async fn a_table_that_comes_back_empty_is_filled_again() {
    let server = Server::memory().await;
    let (mut phone, laptop) = pair(&server, &Conflicts::MergeFields).await;
    let before = phone.contents();
    phone.execute("UPDATE users SET age = 3 WHERE name = 'b'; DROP TABLE posts; DROP TABLE users");
    phone.reopen(|config| config);
    assert_eq!(settle(&[&phone, &laptop]).await, before);
}

/// Started again by a new column of nobody's, with an edit that nobody else has a part in.
#[tokio::test]
async fn a_start_from_the_rows_as_they_are_is_no_conflict_with_them() {
    let server = Server::memory().await;
    let (phone, laptop) = pair(&server, &Conflicts::ServerWins).await;
    phone.execute("UPDATE users SET age = 3 WHERE name = 'b'");
    let mut events = phone.client.events();
    phone.execute("DELETE FROM _outrigger_state WHERE key = 'cursor'");
    assert_eq!(phone.sync().await.uploaded, 1);
    assert_eq!(crate::world::conflicts(&mut events), 0);
    settle(&[&phone, &laptop]).await;
}

#[test]
fn a_database_of_a_later_library_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let config = || config(crate::world::Link::new("http://127.0.0.1:1"), "phone");
    let client = crate::world::open(&path, config());
    client.with(|db| db.execute("UPDATE _outrigger_state SET value = 99 WHERE key = 'format'", [])).unwrap();
    client.close().unwrap();
    let connection = crate::world::connect(&path, SCHEMA);
    assert!(matches!(outrigger_client::Client::open(connection, config()), Err(Error::Table { .. })));
}
