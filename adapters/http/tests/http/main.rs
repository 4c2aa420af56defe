//! The real router on a real socket: every shape of the protocol as a client sees it.

mod admin;
mod bodies;
mod browsers;
mod demo;
mod download;
mod failures;
mod limits;
mod materialize_failures;
mod resets;
mod serving;
mod snapshot;
mod tls;
mod upload;
mod watch;
mod world;
