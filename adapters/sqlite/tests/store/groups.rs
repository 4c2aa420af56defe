//! Commits that wait for the writer share a transaction, and nothing else.

use std::sync::mpsc::RecvTimeoutError;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::UserId;

use crate::support::{Home, enqueue, plan, rows, stream, user, wait};

const USERS: usize = 40;

fn users() -> Vec<UserId> {
    (0..USERS).map(|n| user(&format!("user-{n}"))).collect()
}

#[test]
fn commits_that_wait_share_one_transaction() {
    let home = Home::new();
    let (store, users) = (home.open(), users());
    let before = home.transactions();
    for user in &users {
        wait(store.commit(user, plan(0, [(1, 1)]))).unwrap();
    }
    assert_eq!(home.transactions() - before, USERS, "commits one after another share nothing");
    let lock = home.lock();
    let calls: Vec<_> = users.iter().map(|user| enqueue(&store, user, plan(1, [(1, 2)]))).collect();
    drop(lock);
    for call in calls {
        wait(call).unwrap();
    }
    // The writer had taken the first of them, at least, before the lock was in its way.
    assert!(home.transactions() - before - USERS <= 2);
    for user in &users {
        assert_eq!(wait(stream(&store, user)), [1, 2]);
    }
}

#[test]
fn a_plan_that_fails_takes_no_other_with_it() {
    let home = Home::new();
    let (store, users) = (home.open(), users());
    let [first, alice, mallory, bob] = &users[..4] else { unreachable!() };
    let lock = home.lock();
    let calls = [
        // The writer is busy with this one while the others line up.
        enqueue(&store, first, plan(0, [(1, 1)])),
        enqueue(&store, alice, plan(0, [(1, 1)])),
        // A row that is not there is to be changed: found out after the log was written.
        enqueue(&store, mallory, plan(0, [(1, 1), (2, 2)])),
        enqueue(&store, alice, plan(0, [(2, 1)])),
        enqueue(&store, bob, plan(0, [(1, 1)])),
        enqueue(&store, alice, plan(1, [(1, 2)])),
    ];
    drop(lock);
    let answers = calls.map(wait);
    let [Ok(()), Ok(()), Err(StoreError::Corrupt { .. }), Err(StoreError::Contention), Ok(()), Ok(())] = answers else {
        panic!("{answers:?}");
    };
    assert_eq!(wait(stream(&store, alice)), [1, 2]);
    assert_eq!(wait(stream(&store, bob)), [1]);
    assert!(wait(stream(&store, mallory)).is_empty());
    assert!(wait(rows(&store, mallory, [1, 2])).rows.is_empty());
    wait(store.commit(mallory, plan(0, [(1, 1)]))).unwrap();
}

#[test]
fn a_row_that_should_not_be_there_is_corrupt() {
    let home = Home::new();
    let (store, alice) = (home.open(), user("alice"));
    wait(store.commit(&alice, plan(0, [(1, 1)]))).unwrap();
    let again = wait(store.commit(&alice, plan(1, [(1, 1)])));
    assert!(matches!(again, Err(StoreError::Corrupt { .. })), "{again:?}");
    assert_eq!(wait(stream(&store, &alice)), [1]);
}

#[test]
fn a_locked_file_is_unavailable_and_then_works_again() {
    let home = Home::new();
    let (store, alice, bob) = (home.impatient(), user("alice"), user("bob"));
    let lock = home.lock();
    let calls = [enqueue(&store, &alice, plan(0, [(1, 1)])), enqueue(&store, &bob, plan(0, [(1, 1)]))];
    for answer in calls.map(wait) {
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    }
    // Readers do not mind.
    assert!(wait(stream(&store, &alice)).is_empty());
    assert!(matches!(wait(store.ping()), Err(StoreError::Unavailable(_))), "changes are to be sent elsewhere");
    drop(lock);
    wait(store.ping()).unwrap();
    wait(store.commit(&alice, plan(0, [(1, 1)]))).unwrap();
}

#[test]
fn two_servers_on_one_file_keep_one_order() {
    let home = Home::new();
    let (one, two, alice) = (home.open(), home.open(), user("alice"));
    wait(one.commit(&alice, plan(0, [(1, 1)]))).unwrap();
    let stale = wait(two.commit(&alice, plan(0, [(2, 1)])));
    assert!(matches!(stale, Err(StoreError::Contention)), "{stale:?}");
    wait(two.commit(&alice, plan(1, [(2, 1)]))).unwrap();
    let stale = wait(one.commit(&alice, plan(1, [(1, 2)])));
    assert!(matches!(stale, Err(StoreError::Contention)), "{stale:?}");
    assert_eq!(wait(stream(&one, &alice)), [1, 2]);
}

/// As `outrigger compact` beside a server.
#[test]
fn another_process_that_writes_again_and_again_is_not_ahead_every_time() {
    let home = Home::new();
    let store = home.open();
    let path = home.path();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let other = spawn(move || {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        // It leaves the file alone for a tenth of the time.
        while is_done.recv_timeout(Duration::from_millis(2)).is_err_and(|e| e == RecvTimeoutError::Timeout) {
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            sleep(Duration::from_millis(20));
            connection.execute_batch("COMMIT").unwrap();
        }
    });
    let began = Instant::now();
    for seq in 0..20 {
        wait(store.commit(&user("alice"), plan(seq, [(seq as u128 + 1, 1)]))).unwrap();
    }
    let took = began.elapsed();
    drop(done);
    other.join().unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
}
