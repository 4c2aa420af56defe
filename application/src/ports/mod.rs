//! What the use cases need from the outside, one port a file.

pub mod authenticator;
pub mod clock;
pub mod store;
