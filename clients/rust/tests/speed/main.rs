//! What capture and the first sync cost, as ratios in one run, with SQLite's own settings: every commit is on the disk.
//!
//! `cargo test --workspace --release --test speed -- --nocapture --test-threads 1`

use std::time::{Duration, Instant};

use rusqlite::Connection;

#[expect(dead_code, reason = "most of it is for the other tests")]
#[path = "../client/world.rs"]
mod world;

use world::{Server, pk};

const PAGE: u32 = 1_000;

fn insert(connection: &mut Connection, page: u32) -> Duration {
    let began = Instant::now();
    let tx = connection.transaction().unwrap();
    {
        let mut insert = tx.prepare("INSERT INTO users (id, name, email, age) VALUES (?1, ?2, ?3, ?4)").unwrap();
        for n in page * PAGE..(page + 1) * PAGE {
            insert.execute((pk(n), format!("the user of number {n}"), format!("user{n}@example.com"), n)).unwrap();
        }
    }
    tx.commit().unwrap();
    began.elapsed()
}

fn durable(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "full")
}

/// The fastest of several rounds. Without optimisation other tests that run meanwhile cost more than what is measured.
#[tokio::test]
async fn capture_costs_an_insert_less_than_its_own_time_again() {
    const ROUNDS: u32 = 15;
    let folder = tempfile::tempdir().unwrap();
    let mut plain = Connection::open(folder.path().join("plain.db")).unwrap();
    plain.execute_batch(world::SCHEMA).unwrap();
    let server = Server::memory().await;
    let phone = server.device("phone");
    phone.client.with(durable).unwrap();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for page in 0..ROUNDS {
        without.push(insert(&mut plain, page));
        with.push(phone.client.with(|connection| Ok(insert(connection, page))).unwrap());
    }
    assert_eq!(phone.client.unsent().unwrap(), (ROUNDS * PAGE) as usize);
    let (without, with) = (without.into_iter().min().unwrap(), with.into_iter().min().unwrap());
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    println!("{PAGE} inserts: {without:.1?} without capture, {with:.1?} with it: {ratio:.2} times");
    assert!(ratio <= if cfg!(debug_assertions) { 3.0 } else { 2.0 }, "{ratio:.2}");
}

/// The fastest of three, since the machine may be busy with something else. Without optimisation this library is many
/// times slower than SQLite, which is not what counts.
#[tokio::test]
async fn a_first_sync_takes_at_most_twice_as_long_as_inserting_its_rows() {
    const PAGES: u32 = if cfg!(debug_assertions) { 10 } else { 100 };
    let server = Server::sqlite().await;
    let (mut inserted, mut synced) = (Duration::MAX, Duration::MAX);
    for round in 0..3 {
        let local = server.device("local");
        local.client.with(durable).unwrap();
        let pages = (0..PAGES).map(|page| local.client.with(|connection| Ok(insert(connection, page))).unwrap());
        inserted = inserted.min(pages.sum());
        if round == 0 {
            local.sync().await;
        }
        let laptop = server.device("laptop");
        laptop.client.with(durable).unwrap();
        let began = Instant::now();
        laptop.sync().await;
        synced = synced.min(began.elapsed());
        assert_eq!(laptop.rows("SELECT CAST(count(*) AS TEXT) FROM users"), [(PAGES * PAGE).to_string()]);
    }
    let ratio = synced.as_secs_f64() / inserted.as_secs_f64();
    println!("{} rows: {synced:.1?} from the server, {inserted:.1?} inserted locally: {ratio:.2} times", PAGES * PAGE);
    assert!(ratio <= if cfg!(debug_assertions) { 10.0 } else { 2.0 }, "{ratio:.2}");
}
