//! What is SQLite's own in the store. The contract that it shares with the other stores is in `tests/conformance`.

mod durability;
mod groups;
mod opening;
mod reading;
mod support;
