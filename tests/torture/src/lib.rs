//! Proof of the protocol's promises: one random history on a model and on every store, and devices on a server that
//! everything happens to.
//!
//! Whatever is random comes from one seed, which is printed, and is the same again with it.

pub mod differential;
pub mod history;
pub mod model;
mod requests;
pub mod seed;
pub mod sim;
pub mod turns;
pub mod wire;
