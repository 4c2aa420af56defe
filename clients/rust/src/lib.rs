//! Keeps an app's own SQLite in step with an Outrigger server.
//!
//! An app hands over its [`rusqlite`] connection, names the tables that sync, and goes on writing ordinary SQL. Triggers
//! note what changes; [`Client::sync_once`], or a task in the background, uploads it, downloads what other devices
//! changed and decides conflicts. All of it survives a crash at any point, and days without a network.
//!
//! ```no_run
//! use outrigger_client::{Client, Config};
//!
//! # async fn example() -> Result<(), outrigger_client::Error> {
//! let connection = rusqlite::Connection::open("notes.db")?;
//! connection.execute_batch("CREATE TABLE IF NOT EXISTS notes (id TEXT PRIMARY KEY, text TEXT)")?;
//! let config = Config::new("https://sync.example.com", || async { Ok(std::env::var("TOKEN")?) }).table("notes");
//! let client = Client::open(connection, config)?;
//! client.start();
//! # Ok(())
//! # }
//! ```
//!
//! # What a table needs
//!
//! A primary key of one column, declared `TEXT` or `BLOB`, that holds UUIDs: lower case with hyphens, or 16 bytes. Columns
//! declared `BLOB` hold bytes and travel as base64; every other column holds what JSON can hold. A table that
//! cannot sync is refused by [`Client::open`] with the reason, a row that cannot is put [aside](Client::aside).
//! Deletes by `ON DELETE CASCADE` and rows that an `INSERT OR REPLACE` removes are captured like any other.

mod apply;
mod aside;
mod capture;
mod client;
mod clock;
mod config;
mod conflict;
mod database;
mod error;
mod events;
mod extra;
mod install;
mod members;
mod outbox;
mod remote;
mod rows;
mod run;
mod shape;
mod state;
mod sync;
pub mod transport;
mod values;
mod waiting;
mod wire;

/// The code of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use aside::Aside;
pub use client::{Client, SignedOut};
pub use clock::Clock;
pub use config::{Config, TokenResult};
pub use conflict::{Conflict, Conflicts, Image, Resolution};
pub use error::Error;
pub use events::{Decision, Event};
pub use sync::Report;
pub use waiting::Unsent;

/// The version that the app has to use.
pub use rusqlite;
