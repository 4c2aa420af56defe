//! The finished binary as an operator meets it: started as a process, told to stop, killed, set up wrongly.

mod configuration;
mod demo;
mod lifecycle;
mod long_lived;
mod metrics;
mod postgres;
mod projection;
mod server;
mod traces;
