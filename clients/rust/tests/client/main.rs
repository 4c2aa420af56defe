//! Devices against the real server, on all three stores.

mod capture;
mod conflicts;
mod crash;
mod notes;
mod property;
mod resets;
mod running;
mod upload;
mod world;
