//! A real Postgres for tests, with no set-up but its binaries.
//!
//! [`postgres_database`] gives a test an empty database of its own, in the server that
//! `OUTRIGGER_TEST_POSTGRES_URL` names (as a role that may create databases and roles) or else in a throwaway cluster
//! that all tests of one run share. [`Cluster`] is a server of a test's own, to be stopped and killed.
//! Where neither is to be had the test fails: a test of a database is never skipped.
//!
//! Nothing stays behind: a watcher outside the test removes each cluster as soon as the process that it was
//! started for is gone, however that ended.

mod binaries;
mod cluster;
mod database;
mod server;
mod shared;
mod watcher;

pub use binaries::postgres_program;
pub use cluster::{Cluster, Settings};
pub use database::{TestDatabase, postgres_database};
