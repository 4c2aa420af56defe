//! A real process that is killed, again and again, whatever it is doing.

use std::time::Duration;

use crate::notes::Notes;
use crate::world::{Link, Server, bare_config, connect, rows};

const ROUNDS: usize = 15;

#[tokio::test]
async fn a_process_that_is_killed_loses_and_doubles_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (server, folder) = (Server::sqlite().await, tempfile::tempdir().unwrap());
    for round in 0..ROUNDS {
        let mut notes = Notes::start(&server, folder.path(), "phone");
        notes.hear("add TEXT").await;
        for n in 0..10 {
            notes.say(&format!("add {round} {n}")).await;
        }
        notes.say("edit 1 edited").await;
        // All of that is in the database when this is answered; what of it is uploaded by then is anybody's guess.
        notes.say("list").await;
        notes.hear("not uploaded yet").await;
        // Not to wait for anything, but to die somewhere in the middle.
        tokio::time::sleep(Duration::from_micros(rng.u64(..60_000))).await;
        notes.kill().await;
    }
    let mut last = Notes::start(&server, folder.path(), "phone");
    last.say("sync").await;
    last.hear("0 waiting").await;
    last.kill().await;
    let phone = connect(&folder.path().join("phone.db"), "");
    let mut there = phone.prepare("SELECT id || title FROM notes ORDER BY 1").unwrap();
    let there: Vec<String> = there.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(there.len(), ROUNDS * 10);

    let schema = "CREATE TABLE posts (id TEXT PRIMARY KEY, title TEXT, made_at REAL)";
    let laptop = connect(&folder.path().join("laptop.db"), schema);
    let config = bare_config(Link::new(&server.url), "alice/laptop").table("posts");
    let laptop = outrigger_client::Client::open(laptop, config).unwrap();
    laptop.sync_once().await.unwrap();
    assert_eq!(rows(&laptop, "SELECT id || title FROM posts ORDER BY 1"), there);
}
