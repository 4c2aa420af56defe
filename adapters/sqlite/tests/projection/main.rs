//! Business tables in SQLite, written by the store as changes are uploaded.

mod conversions;
mod failing;
mod isolation;
mod odd;
mod opening;
mod property;
mod repair;
mod support;
