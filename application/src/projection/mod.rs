//! What every projection of payloads onto business tables shares, whatever the database.
//!
//! [`convert`] makes a column's value of a payload's member; [`net`] says which rows a plan changes in the end,
//! and which of them have to be projected together.

pub mod convert;
pub mod net;
