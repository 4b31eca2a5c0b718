//! The receiver `prometheus`: scrapes targets, as Prometheus itself does.

mod error;
mod labels;
mod parse;
mod policy;
mod relabel;
mod series;
#[cfg(test)]
mod tests;
