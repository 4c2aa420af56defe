//! What only the Postgres store can get wrong. The contract that all stores share is tested by their common suite.

mod assumed;
mod business;
mod cancellation;
mod commit;
mod connections;
mod migrations;
mod news;
mod outages;
mod payloads;
mod plans;
mod projection;
mod projection_example;
mod projection_odd;
mod projection_orders;
mod projection_property;
mod projection_races;
mod projection_trouble;
mod projection_types;
mod retention;
mod support;
