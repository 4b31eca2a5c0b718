//! The crate against prost and `opentelemetry-proto`: what both read in the same bytes must be the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod deal;
mod edit;
mod generate;
mod invalid;
mod json;
mod json_spell;
mod json_table;
mod mutate;
mod oracle;
mod payload;
mod redact;
mod retain;
mod select;
mod sheaf;
mod split;
mod trace_state;
mod view;
mod wire;
