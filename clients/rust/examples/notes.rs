//! Notes in a terminal. Two of them with different devices stay in step, also after one was offline:
//!
//! ```sh
//! cargo run --release                                                   # the server's demo, in a first shell
//! cargo run -p outrigger-client --example notes -- --device phone       # in a second
//! cargo run -p outrigger-client --example notes -- --device laptop      # in a third
//! ```
//!
//! The demo syncs a table `posts`, so that is what notes are called on the server. `TOKEN` in the environment takes the
//! place of the demo's sign-in.

use std::error::Error;
use std::io::Write;

use outrigger_client::{Client, Config, Event, TokenResult};
use rusqlite::{Connection, params};
use tokio::io::{AsyncBufReadExt, BufReader};
use uuid::Uuid;

const HELP: &str = "add TEXT | edit N TEXT | delete N | list | offline | online | sync | quit";

struct Args {
    server: String,
    user: String,
    device: String,
    file: String,
}

impl Args {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut all = std::env::args().skip(1);
        let (mut server, mut user, mut device, mut file) = (None, None, None, None);
        while let Some(name) = all.next() {
            let place = match &*name {
                "--server" => &mut server,
                "--user" => &mut user,
                "--device" => &mut device,
                "--file" => &mut file,
                _ => return Err("notes [--server URL] [--user NAME] [--device NAME] [--file PATH]".into()),
            };
            *place = all.next();
        }
        let device = device.unwrap_or_else(|| "phone".into());
        Ok(Self {
            server: server.unwrap_or_else(|| "http://127.0.0.1:8080".into()),
            user: user.unwrap_or_else(|| "alice".into()),
            file: file.unwrap_or_else(|| format!("notes-{device}.db")),
            device,
        })
    }
}

/// Signs in to the demo; asked again whenever the server refuses the last token.
async fn token(server: String, user: String, device: String) -> TokenResult {
    if let Ok(token) = std::env::var("TOKEN") {
        return Ok(token);
    }
    let body = serde_json::json!({ "user": user, "password": "demo", "device": device });
    let request = reqwest::Client::new().post(format!("{server}/dummy-signin")).json(&body);
    let answer: serde_json::Value = request.send().await?.error_for_status()?.json().await?;
    Ok(answer["token"].as_str().ok_or("the server gave no token")?.to_owned())
}

fn list(client: &Client) -> Result<Vec<(String, String)>, outrigger_client::Error> {
    client.with(|db| {
        let mut notes = db.prepare("SELECT id, title FROM notes ORDER BY made_at, id")?;
        notes.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    })
}

fn show(client: &Client) -> Result<(), Box<dyn Error>> {
    for (n, (_, title)) in list(client)?.iter().enumerate() {
        println!("{:3}  {title}", n + 1);
    }
    println!("{} not uploaded yet", client.unsent()?);
    std::io::stdout().flush()?;
    Ok(())
}

/// The key of the note of that number.
fn nth(client: &Client, number: &str) -> Result<String, Box<dyn Error>> {
    let number: usize = number.parse().map_err(|_| "which note? give its number")?;
    let notes = list(client)?;
    let note = number.checked_sub(1).and_then(|n| notes.get(n));
    Ok(note.ok_or("there is no such note")?.0.clone())
}

async fn command(client: &Client, line: &str) -> Result<(), Box<dyn Error>> {
    let (command, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    match command {
        "add" => {
            let insert = "INSERT INTO notes (id, title, made_at) VALUES (?1, ?2, unixepoch('subsec'))";
            client.with(|db| db.execute(insert, params![Uuid::new_v4().to_string(), rest]))?;
        }
        "edit" => {
            let (number, title) = rest.split_once(' ').ok_or("edit N TEXT")?;
            let id = nth(client, number)?;
            client.with(|db| db.execute("UPDATE notes SET title = ?2 WHERE id = ?1", [id.as_str(), title]))?;
        }
        "delete" => {
            let id = nth(client, rest)?;
            client.with(|db| db.execute("DELETE FROM notes WHERE id = ?1", [id]))?;
        }
        "list" => show(client)?,
        "offline" => client.pause(),
        "online" => client.resume(),
        "sync" => {
            let report = client.sync_once().await?;
            println!("{} up, {} down, {} waiting", report.uploaded, report.downloaded, report.waiting);
        }
        _ => println!("{HELP}"),
    }
    Ok(())
}

fn tell(event: &Event) {
    match event {
        Event::Downloaded { rows } => println!("· {rows} changed elsewhere"),
        Event::Conflict { decision, .. } => println!("· edited here and elsewhere: {decision:?}"),
        Event::Offline(why) => println!("· offline: {why}"),
        Event::Online => println!("· online again"),
        _ => {}
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Args { server, user, device, file } = Args::parse()?;
    let connection = Connection::open(file)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS notes (id TEXT PRIMARY KEY, title TEXT NOT NULL DEFAULT '', made_at REAL)",
    )?;
    let url = server.clone();
    let tokens = move || token(server.clone(), user.clone(), device.clone());
    let client = Client::open(connection, Config::new(url, tokens).table_as("notes", "posts"))?;
    let mut events = client.events();
    client.start();
    println!("{HELP}");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line?.as_deref().map(str::trim) {
                None | Some("quit") => break,
                Some("") => {}
                Some(line) => {
                    if let Err(error) = command(&client, line).await {
                        println!("{error}");
                    }
                }
            },
            Ok(event) = events.recv() => tell(&event),
        }
    }
    let left = client.close()?;
    println!("{} not uploaded yet", left.unsent.len());
    Ok(())
}
