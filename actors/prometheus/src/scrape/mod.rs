//! The receiver `prometheus`: scrapes targets, as Prometheus itself does.
//!
//! `discovery` finds targets, `receiver` deals them to lanes, `keep` scrapes one at its times. What comes is read by
//! `parse`, sample by sample, into `series`, which knows what each became at the scrapes before, and writes OTLP.

mod discovery;
mod error;
mod keep;
mod labels;
mod negotiate;
mod offline;
mod parse;
mod policy;
mod receiver;
mod relabel;
mod series;
mod settings;
mod target;
#[cfg(test)]
mod tests;

pub use offline::{Exposition, ExpositionFormat, Unreadable, relabel};
pub(crate) use receiver::Prometheus;
