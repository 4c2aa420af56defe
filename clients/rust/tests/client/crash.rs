//! Dying at every point between two steps, on every store.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use outrigger_client::{Conflicts, Error};

use crate::world::{SCHEMA, Server, config, pk, settle};

/// All points that there are.
const POINTS: [&str; 22] = [
    "after commit",
    "after upload",
    "applied",
    "base made",
    "before commit",
    "before download",
    "before snapshot",
    "before upload",
    "begun",
    "collected",
    "dropped",
    "finished",
    "moved on",
    "put aside",
    "removed",
    "rows doubted",
    "settled",
    "table adopted",
    "table left",
    "tables made",
    "triggers dropped",
    "triggers made",
];

/// Counts the points that are passed, and dies at the one of that number.
#[derive(Clone)]
struct Death {
    at: usize,
    passed: Arc<AtomicUsize>,
    names: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Death {
    fn stops(&self, point: &'static str) -> bool {
        self.names.lock().unwrap().insert(point);
        self.passed.fetch_add(1, Ordering::SeqCst) == self.at
    }

    fn has_come(&self) -> bool {
        self.passed.load(Ordering::SeqCst) > self.at
    }
}

/// A story with every kind of step, in which the phone dies once and is started again.
async fn live(server: &Server, death: &Death) {
    let laptop = server.device("laptop");
    laptop.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'a'), ('{}', 'b')", pk(1), pk(2)));
    laptop.sync().await;
    let mut phone = server.device("phone");
    let mortal = |link| {
        let death = death.clone();
        config(link, "phone").failpoint(move |point| death.stops(point)).conflicts(Conflicts::ServerWins)
    };
    phone.execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'c'), ('no key', 'x')", pk(3)));
    phone.client.sign_out().unwrap();
    let steps: [(&str, &str); 4] = [
        ("", ""),
        (
            "UPDATE users SET name = 'l' WHERE name = 'a'; DELETE FROM users WHERE name = 'b'",
            "UPDATE users SET age = 5; INSERT INTO posts VALUES ('00000000-0000-4000-8000-000000000004', 'p', (SELECT id FROM users WHERE name = 'c'))",
        ),
        ("INSERT INTO files (id, name) VALUES (randomblob(16), 'f')", "ALTER TABLE posts ADD COLUMN more TEXT"),
        // Everything is looked at again.
        ("DELETE FROM files", "DROP TRIGGER _outrigger_users_update; UPDATE users SET score = 2.5 WHERE name = 'c'"),
    ];
    for (on_laptop, on_phone) in steps {
        laptop.execute(on_laptop);
        laptop.sync().await;
        server.forget_history().await;
        phone.connection().execute_batch(on_phone).unwrap();
        reopen_and_sync(&mut phone, &mortal).await;
    }
    // Without a table for a while, and then for good.
    let without = |link| {
        let death = death.clone();
        crate::world::bare_config(link, "alice/phone")
            .table("users")
            .table("posts")
            .failpoint(move |point| death.stops(point))
    };
    reopen_and_sync(&mut phone, &without).await;
    reopen_and_sync(&mut phone, &mortal).await;
    if let Err(error) = phone.client.sign_out() {
        assert!(matches!(error, Error::Stopped(_)), "{error}");
    }
    phone.reopen_as(SCHEMA, config(phone.link.clone(), "phone")).unwrap();
    phone.execute("DELETE FROM users WHERE id = 'no key'");
    let rows = settle(&[&phone, &laptop]).await;
    // Nothing lost, nothing doubled.
    let with = |part: &str| rows.iter().filter(|row| row.contains(part)).count();
    let counts = (with("'c'"), with("posts"), with("'l'"), with("2.5"), with("files"));
    assert_eq!(counts, (1, 1, 1, 1, 0), "died at {}: {rows:?}", death.at);
    assert_eq!((rows.len(), phone.client.unsent().unwrap()), (3, 0), "died at {}: {rows:?}", death.at);
}

/// Opens the app and syncs it; dies in either, or not, and then does it once more.
async fn reopen_and_sync(
    phone: &mut crate::world::Device,
    configure: &impl Fn(crate::world::Link) -> outrigger_client::Config,
) {
    for _ in 0..2 {
        let link = phone.link.clone();
        let done = match phone.reopen_as(SCHEMA, configure(link)) {
            Ok(()) => phone.client.sync_once().await.map(drop),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => return,
            Err(Error::Stopped(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("it dies once only");
}

fn death(at: usize) -> Death {
    Death { at, passed: Arc::default(), names: Arc::default() }
}

/// All points, in four parts that run side by side.
async fn dies_everywhere(part: usize) {
    for at in (part..).step_by(4) {
        let death = death(at);
        live(&Server::memory().await, &death).await;
        if !death.has_come() {
            assert!(at > 200, "{at} points");
            let names = death.names.lock().unwrap();
            assert_eq!(names.iter().copied().collect::<Vec<_>>(), POINTS);
            return;
        }
    }
}

#[tokio::test]
async fn a_device_that_dies_anywhere_loses_and_doubles_nothing() {
    dies_everywhere(0).await;
}

#[tokio::test]
async fn nor_one_that_dies_a_step_later() {
    dies_everywhere(1).await;
}

#[tokio::test]
async fn nor_one_that_dies_two_steps_later() {
    dies_everywhere(2).await;
}

#[tokio::test]
async fn nor_one_that_dies_three_steps_later() {
    dies_everywhere(3).await;
}

#[tokio::test]
async fn nor_on_the_other_stores() {
    for (n, at) in (0..210).step_by(14).enumerate() {
        let server = if n % 2 == 0 { Server::sqlite().await } else { Server::postgres().await };
        live(&server, &death(at)).await;
    }
}
