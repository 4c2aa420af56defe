//! The rules of the sync protocol, and nothing else.
//!
//! This crate does no I/O, reads no clock and knows no database: everything in it is a pure function of its
//! arguments, so a rule is tested by calling it. The words are the protocol's: a *user* owns a *stream* of
//! *changes*, each made by a *source* (one installation of an app) to a *row*.
//!
//! - [`admit`](change::admit) turns what a device sent into a well-formed [`Change`] or a [`Refusal`].
//! - [`Planner`] decides uploads against what a store has loaded and says what is to be written.
//! - [`window`] says which part of a stream a download may hand out.

pub mod catalog;
pub mod change;
pub mod decision;
pub mod ids;
pub mod json;
pub mod key;
pub mod limits;
pub mod plan;
pub mod retention;
pub mod stream;
pub mod window;

pub use catalog::{Catalog, Reference, Table, TableName};
pub use change::{Change, Op, Payload, RawChange, Submission, Upload};
pub use decision::{Decision, Reason, Refusal, ServerRow};
pub use ids::{Epoch, RowVersion, ServerSeq, SourceChangeId, SourceId, UserId};
pub use plan::{Plan, Planner};
pub use stream::{
    Kept, LogEntry, Logged, LoggedPayload, RowKey, RowState, Settled, Snapshot, StreamHead, Unlogged, Wanted,
};
pub use window::Reset;
