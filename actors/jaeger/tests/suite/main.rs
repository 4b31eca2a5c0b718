//! Translation, both ways: tables for what the specification says, properties against prost for everything else.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod hostile;
mod properties;
mod round_trip;
mod table;
