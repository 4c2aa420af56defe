//! Dying at every point between two statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_client::{Config, Error};

use crate::world::{Server, pk, settle};

/// Stops at the point of that number, counted over all points that are passed.
fn stopping_at(at: usize, passed: &Arc<AtomicUsize>) -> impl Fn(Config) -> Config + use<> {
    let passed = Arc::clone(passed);
    move |config| {
        let passed = Arc::clone(&passed);
        config.failpoint(move |_| passed.fetch_add(1, Ordering::SeqCst) == at)
    }
}

/// A story with every kind of step; dies at the point of that number. False if it came to its end before.
async fn dies_at(at: usize) -> bool {
    let server = Server::memory().await;
    let laptop = server.device("laptop");
    laptop.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'a'), ('{}', 'b')", pk(1), pk(2)));
    laptop.sync().await;
    let passed = Arc::new(AtomicUsize::new(0));
    let mut phone = server.device_with("phone", stopping_at(at, &passed));
    phone.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'c')", pk(3)));
    let mut died = !came_through(&phone.client.sync_once().await);
    laptop.execute(&format!(
        "UPDATE users SET name = 'l' WHERE id = '{}'; DELETE FROM users WHERE id = '{}'",
        pk(1),
        pk(2)
    ));
    laptop.sync().await;
    phone.execute(&format!(
        "UPDATE users SET age = 5; INSERT INTO posts VALUES ('{0}', 'p', '{1}'); DELETE FROM users WHERE id = '{1}' AND 0",
        pk(4), pk(3)
    ));
    died = died || !came_through(&phone.client.sync_once().await);
    phone.reopen(|config| config);
    let rows = settle(&[&phone, &laptop]).await;
    // Nothing lost, nothing doubled.
    let with = |part: &str| rows.iter().filter(|row| row.contains(part)).count();
    assert_eq!((with("'c'"), with("posts"), with("'l'")), (1, 1, 1), "died at {at}: {rows:?}");
    assert_eq!(phone.client.unsent().unwrap(), 0);
    died
}

fn came_through(done: &Result<outrigger_client::Report, Error>) -> bool {
    match done {
        Ok(_) => true,
        Err(Error::Stopped(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_device_that_dies_anywhere_loses_and_doubles_nothing() {
    let mut points = 0;
    while dies_at(points).await {
        points += 1;
    }
    assert!(points > 30, "{points} points");
}
