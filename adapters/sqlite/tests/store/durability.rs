//! What was answered is there, whatever becomes of the process or of the caller.

use std::collections::HashMap;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Waker};

use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::{RowState, RowVersion};
use outrigger_sqlite::{SqliteOptions, SqliteStore};

use crate::support::{Home, enqueue, first, plan, rows, stream, user, wait};

const VICTIM: &str = "OUTRIGGER_TEST_VICTIM_DATABASE";
const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// Changes in one commit, all of the same rows.
const ROWS: i64 = 3;

/// The test starts itself as a second process, reads there which commits were answered, and kills it.
#[test]
fn answered_commits_survive_kill_9() {
    if let Some(path) = std::env::var_os(VICTIM) {
        commit_until_killed(Path::new(&path));
    }
    let home = Home::new();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["durability::answered_commits_survive_kill_9", "--exact", "--nocapture"])
        .env(VICTIM, home.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut answered: HashMap<String, i64> = HashMap::new();
    for (count, line) in lines.map(Result::unwrap).filter(|line| line.contains("answered ")).enumerate() {
        let words: Vec<&str> = line.split_whitespace().rev().take(2).collect();
        answered.insert(words[1].into(), words[0].parse().unwrap());
        // What it still answers between this and its death is read, too.
        if count == 150 {
            victim.kill().unwrap();
        }
    }
    assert!(!victim.wait().unwrap().success());
    let store = home.open();
    for name in USERS {
        let (heard, user) = (answered[name], user(name));
        let found = wait(stream(&store, &user));
        let end = found.len() as i64;
        assert!(end >= heard && end % ROWS == 0, "{name} was answered {heard}, the stream ends at {end}");
        assert_eq!(found, (1..=end).collect::<Vec<_>>());
        let snapshot = wait(rows(&store, &user, 0..ROWS as u128));
        assert_eq!(snapshot.head.seq.0, end);
        assert!(snapshot.rows.values().all(|(version, _)| *version == RowVersion(end / ROWS)));
    }
    let verdict: String = home.shell().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

fn commit_until_killed(path: &Path) -> ! {
    let store = Arc::new(SqliteStore::open(path, SqliteOptions::default()).unwrap());
    let threads = USERS.map(|name| {
        let store = Arc::clone(&store);
        std::thread::spawn(move || {
            for version in 1.. {
                let plan = plan((version - 1) * ROWS, (0..ROWS as u128).map(|pk| (pk, version)));
                wait(store.commit(&user(name), plan)).unwrap();
                println!("answered {name} {}", version * ROWS);
            }
        })
    });
    for thread in threads {
        thread.join().unwrap();
    }
    unreachable!("the threads end with the process");
}

#[test]
fn a_commit_in_the_queue_is_written_whole_though_its_caller_left() {
    let home = Home::new();
    let (store, alice) = (home.open(), user("alice"));
    let lock = home.lock();
    drop(enqueue(&store, &alice, plan(0, [(1, 1), (2, 1)])));
    drop(lock);
    // The queue is served in order, so the other plan is behind.
    let late = wait(store.commit(&alice, plan(0, [(3, 1)])));
    assert!(matches!(late, Err(StoreError::Contention)), "{late:?}");
    assert_eq!(wait(stream(&store, &alice)), [1, 2]);
    assert_eq!(wait(rows(&store, &alice, [1, 2, 3])).rows.len(), 2);
}

#[test]
fn reads_whose_callers_left_keep_no_connection() {
    let home = Home::new();
    let options = SqliteOptions { readers: 1, ..SqliteOptions::default() };
    let store = SqliteStore::open(&home.path(), options).unwrap();
    wait(async {
        store.commit(&user("alice"), plan(0, [(1, 1)])).await.unwrap();
        for _ in 0..20 {
            let (alice, bob) = (user("alice"), user("bob"));
            let mut calls = [Box::pin(stream(&store, &alice)), Box::pin(stream(&store, &bob))];
            for call in &mut calls {
                assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
        }
        assert_eq!(stream(&store, &user("alice")).await, [1]);
    });
}

#[test]
fn a_dropped_store_leaves_one_whole_file() {
    let home = Home::new();
    let (store, alice) = (home.open(), user("alice"));
    wait(store.commit(&alice, plan(0, [(1, 1)]))).unwrap();
    assert!(home.wal().exists());
    drop(store);
    assert!(!home.wal().exists());
    assert_eq!(wait(stream(&home.open(), &alice)), [1]);
}

#[test]
fn payloads_come_back_to_the_byte() {
    let odd = r#"{ "z":1.10,"a":[-0.0,1e400,"\u0000\ud800\/é🛶"], "a" :{}}"#.to_owned();
    let large = format!("{{\"a\":\"{}\"}}", "ß\\u0000".repeat(128 * 1024));
    assert!(large.len() > 1024 * 1024);
    let home = Home::new();
    let store = home.open();
    for (name, text) in [("alice", odd), ("bob", large)] {
        wait(store.commit(&user(name), first(text.clone()))).unwrap();
        let snapshot = wait(rows(&store, &user(name), [1]));
        let Some((_, RowState::Live(payload))) = snapshot.rows.values().next() else { panic!("{snapshot:?}") };
        assert!(payload.as_str() == text, "{name}'s payload has changed");
    }
}
