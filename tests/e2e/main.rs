//! The finished binary as an operator meets it: started as a process, told to stop, killed, set up wrongly.

mod bench;
mod commands;
mod configuration;
mod demo;
mod edge;
mod hostile;
mod lifecycle;
mod long_lived;
mod metrics;
mod outages;
mod postgres;
mod projection;
mod raw;
mod server;
mod sqlite_faults;
mod traces;
