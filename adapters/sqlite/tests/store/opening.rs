//! Opening a file that is new, old, newer, shared or opened by two at once.

use std::sync::Barrier;
use std::thread;

use outrigger_application::{StoreError, SyncStore};
use outrigger_sqlite::{OpenError, SqliteOptions, SqliteStore};

use crate::support::{Home, plan, stream, user, wait};

#[test]
fn a_newer_database_is_refused_with_one_sentence() {
    let home = Home::new();
    drop(home.open());
    let known: i64 =
        home.shell().query_row("SELECT max(number) FROM sync_schema_migrations", [], |row| row.get(0)).unwrap();
    home.shell()
        .execute("INSERT INTO sync_schema_migrations (number, name, sql) VALUES (999, 'later', '')", [])
        .unwrap();
    let error = SqliteStore::open(&home.path(), SqliteOptions::default()).err().unwrap();
    let expected = format!("the database is at migration 999, this binary knows up to {known}: upgrade the binary");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let home = Home::new();
    std::fs::write(home.path(), "not a database, but long enough to be taken for one".repeat(100)).unwrap();
    let error = SqliteStore::open(&home.path(), SqliteOptions::default()).err().unwrap();
    assert!(matches!(error, OpenError::Sqlite { .. }), "{error}");
}

#[test]
fn servers_that_start_at_once_on_a_new_file_all_start() {
    // SQLite tells about one start in 250 that the file is locked, without waiting.
    for _ in 0..20 {
        let home = Home::new();
        let barrier = Barrier::new(8);
        thread::scope(|scope| {
            for number in 0..8 {
                let (home, barrier) = (&home, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let (store, user) = (home.open(), user(&format!("user-{number}")));
                    wait(store.commit(&user, plan(0, [(1, 1)]))).unwrap();
                    assert_eq!(wait(stream(&store, &user)), [1]);
                });
            }
        });
    }
}

#[test]
fn a_file_of_an_app_stays_the_apps() {
    let home = Home::new();
    let app = home.shell();
    app.execute_batch("PRAGMA user_version = 7; PRAGMA application_id = 42; CREATE TABLE notes (text TEXT);").unwrap();
    let store = home.open();
    wait(store.commit(&user("alice"), plan(0, [(1, 1)]))).unwrap();
    app.execute_batch("INSERT INTO notes VALUES ('mine')").unwrap();
    let pragma = |name| app.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((pragma("user_version"), pragma("application_id")), (7, 42));
}

#[test]
fn a_store_that_cannot_write_does_not_say_that_it_is_there() {
    let home = Home::new();
    let store = home.impatient();
    wait(store.ping()).unwrap();
    let lock = home.lock();
    assert!(matches!(wait(store.ping()), Err(StoreError::Unavailable(_))));
    drop(lock);
    wait(store.ping()).unwrap();
}

#[test]
fn a_store_misses_a_migration_and_does_not_mind_a_later_one() {
    let home = Home::new();
    let store = home.open();
    let later = "INSERT INTO sync_schema_migrations (number, name, sql) VALUES (999, 'later', '')";
    home.shell().execute(later, []).unwrap();
    wait(store.ping()).unwrap();
    home.shell().execute("UPDATE sync_schema_migrations SET sql = 'another' WHERE number = 2", []).unwrap();
    let answer = wait(store.ping());
    assert!(matches!(&answer, Err(StoreError::Corrupt { what }) if what.contains("migration 2")), "{answer:?}");
    home.shell().execute("DELETE FROM sync_schema_migrations WHERE number < 999", []).unwrap();
    assert!(matches!(wait(store.ping()), Err(StoreError::Corrupt { .. })));
}
