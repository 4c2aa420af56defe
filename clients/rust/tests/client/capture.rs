//! What is noticed, and that it comes through unchanged.

use outrigger_client::{Client, Config, Error};
use rusqlite::Connection;

use crate::world::{Server, pk, settle};

#[tokio::test]
async fn every_value_comes_through_unchanged_on_every_store() {
    for server in [Server::memory().await, Server::sqlite().await, Server::postgres().await] {
        let (phone, laptop) = (server.device("phone"), server.device("laptop"));
        let (one, two) = (pk(1), pk(2));
        phone.execute(&format!(
            "INSERT INTO users VALUES ('{one}', 'An''n \"é\u{1F600}', NULL, 9007199254740993, 0.1 + 0.2),
                                      ('{two}', '', 'b@x', -9223372036854775808, 1e300), ('{}', 'null', '1', 1, 5e-324);
             INSERT INTO files (id, name, data) VALUES (x'00112233445566778899aabbccddeeff', 'f', x'00ff10'), (randomblob(16), NULL, x'');",
            pk(3)
        ));
        let before = phone.contents();
        assert_eq!(settle(&[&phone, &laptop]).await, before);
        assert_eq!(laptop.link.count("/sync/upload"), 0, "what came down is nothing that was edited here");
        laptop.execute(&format!("UPDATE users SET age = 9007199254740995, name = NULL WHERE id = '{one}'; DELETE FROM users WHERE id = '{two}'; UPDATE files SET data = x'01' WHERE name = 'f'"));
        let after = laptop.contents();
        assert_eq!(settle(&[&phone, &laptop]).await, after);
        assert_eq!(phone.client.unsent().unwrap(), 0);
    }
}

#[tokio::test]
async fn a_row_is_one_change_however_often_it_was_edited() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    let one = pk(1);
    phone.execute(&format!(
        "INSERT INTO users (id, name) VALUES ('{one}', 'a'); UPDATE users SET name = 'b'; UPDATE users SET age = 3"
    ));
    // Made and deleted before the server ever saw it: nothing.
    phone.execute(&format!("INSERT INTO users (id) VALUES ('{0}'); DELETE FROM users WHERE id = '{0}'", pk(2)));
    assert_eq!(phone.sync().await.uploaded, 1);
    // Changed and changed back: nothing.
    phone.execute("UPDATE users SET name = 'c'; UPDATE users SET name = 'b'");
    assert_eq!(phone.sync().await.uploaded, 0);
    // Deleted and made again: an update.
    phone.execute(&format!("DELETE FROM users; INSERT INTO users (id, name) VALUES ('{one}', 'd')"));
    assert_eq!(phone.sync().await.uploaded, 1);
    let laptop = server.device("laptop");
    settle(&[&phone, &laptop]).await;
}

#[tokio::test]
async fn what_is_rolled_back_was_never_changed() {
    let server = Server::memory().await;
    let phone = server.device("phone");
    phone.execute(&format!("BEGIN; INSERT INTO users (id) VALUES ('{}'); ROLLBACK", pk(1)));
    assert_eq!((phone.client.unsent().unwrap(), phone.sync().await.uploaded), (0, 0));
    phone.execute(&format!("BEGIN; INSERT INTO users (id) VALUES ('{}'); SAVEPOINT a; INSERT INTO users (id) VALUES ('{}'); ROLLBACK TO a; COMMIT", pk(1), pk(2)));
    assert_eq!(phone.sync().await.uploaded, 1);
}

#[tokio::test]
async fn what_cascades_and_what_is_replaced_is_captured() {
    let server = Server::memory().await;
    let (phone, laptop) = (server.device("phone"), server.device("laptop"));
    let (one, two) = (pk(1), pk(2));
    phone.execute(&format!(
        "INSERT INTO users (id, name, email) VALUES ('{one}', 'a', 'a@x'), ('{two}', 'b', 'b@x');
         INSERT INTO posts VALUES ('{one}', 'p', '{one}'), ('{two}', 'q', '{one}')"
    ));
    settle(&[&phone, &laptop]).await;
    // The posts go with their author.
    laptop.execute(&format!("DELETE FROM users WHERE id = '{one}'"));
    assert_eq!(settle(&[&phone, &laptop]).await.len(), 1);
    // The same key, and another row with the same unique value: both are replaced without a trigger of their own.
    phone.execute(&format!("INSERT OR REPLACE INTO users (id, name, email) VALUES ('{two}', 'c', 'c@x')"));
    settle(&[&phone, &laptop]).await;
    phone.execute(&format!("INSERT OR REPLACE INTO users (id, name, email) VALUES ('{}', 'd', 'c@x')", pk(3)));
    assert_eq!(settle(&[&phone, &laptop]).await.len(), 1);
    phone.execute(&format!("INSERT INTO users (id, email) VALUES ('{}', 'e@x')", pk(4)));
    assert_eq!(settle(&[&phone, &laptop]).await.len(), 2);
    phone.execute("UPDATE OR REPLACE users SET email = 'e@x' WHERE name = 'd'");
    assert_eq!(settle(&[&phone, &laptop]).await.len(), 1);
    // A row that gets another key is another row.
    phone.execute(&format!("UPDATE users SET id = '{}'", pk(9)));
    let rows = settle(&[&phone, &laptop]).await;
    assert!(rows.len() == 1 && rows[0].contains(&pk(9)), "{rows:?}");
    // Upserts and what is ignored.
    phone.execute(&format!(
        "INSERT INTO users (id, name) VALUES ('{0}', 'x') ON CONFLICT (id) DO UPDATE SET name = 'y';
         INSERT OR IGNORE INTO users (id, name) VALUES ('{0}', 'z')",
        pk(9)
    ));
    assert!(settle(&[&phone, &laptop]).await[0].contains("'y'"));
}

#[tokio::test]
async fn edits_on_other_connections_and_before_the_first_open_are_captured() {
    let server = Server::memory().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch(crate::world::SCHEMA).unwrap();
    other.execute("INSERT INTO users (id) VALUES (?1)", [pk(1)]).unwrap();
    let config = || crate::world::config(crate::world::Link::new(&server.url), "phone");
    let client = crate::world::open(&path, config());
    other.execute("INSERT INTO users (id) VALUES (?1)", [pk(2)]).unwrap();
    assert_eq!(client.sync_once().await.unwrap().uploaded, 2);
    // Triggers that were dropped meanwhile, as by a table that was made anew: nothing is lost.
    let closed = client.close().unwrap();
    closed.connection.execute_batch("DROP TRIGGER _outrigger_users_insert").unwrap();
    other.execute("INSERT INTO users (id) VALUES (?1)", [pk(3)]).unwrap();
    let client = crate::world::open(&path, config());
    client.sync_once().await.unwrap();
    let laptop = server.device("laptop");
    laptop.sync().await;
    assert_eq!(laptop.contents().len(), 3);
    // For good: nothing of the library is left, and everything of the app's is.
    let out = client.sign_out().unwrap();
    assert_eq!(out.unsent, []);
    let left =
        "SELECT (SELECT count(*) FROM sqlite_schema WHERE name LIKE '%outrigger%'), (SELECT count(*) FROM users)";
    let left: (i64, i64) = out.connection.query_row(left, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(left, (0, 3));
}

#[test]
fn a_table_that_cannot_sync_is_refused_with_the_reason() {
    for (sql, why) in [
        ("CREATE TABLE other (id TEXT PRIMARY KEY)", "no such table"),
        ("CREATE VIEW t AS SELECT 1 AS id", "view"),
        ("CREATE TABLE t (a TEXT)", "no primary key"),
        ("CREATE TABLE t (a TEXT, b TEXT, PRIMARY KEY (a, b))", "several columns"),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", "TEXT or BLOB"),
        ("CREATE VIRTUAL TABLE t USING fts5 (id)", "virtual"),
        ("CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT); CREATE UNIQUE INDEX i ON t (lower(a))", "expression"),
    ] {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        let config = Config::new("http://127.0.0.1:1", || async { Ok(String::new()) }).table("t");
        match Client::open(connection, config).err() {
            Some(Error::Table { table, why: said }) => assert!(table == "t" && said.contains(why), "{sql}: {said}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}
