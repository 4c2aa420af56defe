//! The real router on a real socket: every shape of the protocol as a client sees it.

mod admin;
mod demo;
mod download;
mod failures;
mod materialize_failures;
mod resets;
mod serving;
mod snapshot;
mod upload;
mod watch;
mod world;
