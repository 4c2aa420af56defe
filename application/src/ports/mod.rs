//! What the use cases need from the outside, one port a file.

pub mod authenticator;
pub mod clock;
pub mod contacts;
pub mod materializer;
pub mod notifier;
pub mod projection;
pub mod retention;
pub mod store;
pub mod users;
