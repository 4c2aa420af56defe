//! Devices against the real server, on all three stores.

mod capture;
mod clock;
mod conflicts;
mod crash;
mod evolution;
mod hostile;
mod killed;
mod notes;
mod property;
mod resets;
mod rough;
mod running;
mod upload;
mod world;
