//! What is refused when the store is opened, and what is found in the catalog.

use outrigger_application::{Materialize, ProjectionStore, TableConfig};
use outrigger_sqlite::SqliteOptions;

use crate::support::*;

fn refusal(sql: &str, config: TableConfig) -> String {
    let options = SqliteOptions { tables: vec![config], ..SqliteOptions::default() };
    World::with(sql, options).err().map_or("opened".into(), |error| error.to_string())
}

#[test]
fn a_table_that_cannot_be_projected_is_refused_in_one_sentence() {
    let t = || TableConfig::new(name("t"));
    for (sql, why) in [
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY)",
            "its primary key id is INTEGER; it must be TEXT, BLOB or of no type",
        ),
        ("CREATE TABLE t (id TEXT)", "it has no primary key; it needs one of one column, TEXT or BLOB"),
        ("CREATE TABLE t (a TEXT, b TEXT, PRIMARY KEY (a, b))", "its primary key has 2 columns; it must have one"),
        ("CREATE VIEW t AS SELECT 1 AS id", "it is a view"),
    ] {
        assert_eq!(refusal(sql, t()), format!("table public.t cannot be projected: {why}"));
    }
    for sql in [
        "CREATE TABLE t (id PRIMARY KEY)",
        "CREATE TABLE t (id VARCHAR(36) PRIMARY KEY) WITHOUT ROWID",
        "CREATE TABLE t (id BLOB PRIMARY KEY) STRICT",
        "",
    ] {
        assert_eq!(refusal(sql, t()), "opened", "{sql}");
    }
    let required = TableConfig { materialize: Materialize::Required, ..t() };
    assert_eq!(refusal("", required), "table public.t cannot be projected: it does not exist");
    let off = TableConfig { materialize: Materialize::Off, ..t() };
    assert_eq!(refusal("CREATE TABLE t (id INTEGER PRIMARY KEY)", off), "opened");
    let owned = TableConfig { owner_column: Some("who".into()), ..t() };
    let why = "table public.t cannot be projected: it has no column who to hold the user";
    assert_eq!(refusal("CREATE TABLE t (id TEXT PRIMARY KEY)", owned), why);
    let own = refusal("", TableConfig::new(name("user_stream")));
    assert_eq!(own, "table public.user_stream cannot be projected: it is one of the server's own");
}

#[tokio::test]
async fn foreign_keys_between_registered_tables_are_found() {
    let sql = "CREATE TABLE users (id TEXT PRIMARY KEY, boss TEXT REFERENCES users);
        CREATE TABLE country (id TEXT PRIMARY KEY);
        CREATE TABLE \"shop.posts\" (id TEXT PRIMARY KEY, author TEXT REFERENCES Users (ID), c TEXT REFERENCES country);";
    let world = World::new(sql, &["users", "shop.posts"]);
    let found = world.store.refresh_catalog().await.unwrap();
    let found: Vec<String> = found.iter().map(|(table, of)| format!("{table}.{} {}", of.column, of.parent)).collect();
    assert_eq!(found, ["public.users.boss public.users", "shop.posts.author public.users"]);
    world.up("alice", &[("INSERT", "users", 1, "{}"), ("INSERT", "shop.posts", 2, "{}")]).await;
    assert_eq!(world.rows("SELECT id FROM \"shop.posts\"").len(), 1);
}
