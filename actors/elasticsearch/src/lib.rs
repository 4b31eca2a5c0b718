//! The Elasticsearch exporter.
//!
//! [`document`] writes `_bulk` bodies straight from wire bytes, [`answer`] reads what became of each document. Between
//! them a batch takes its `course` over the cluster's `nodes`; what is known of its documents is kept in the `ledger`
//! until all of them are through.

pub mod answer;
mod counters;
mod course;
pub mod document;
mod exporter;
mod ledger;
mod nodes;
mod probe;
mod settings;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.exporter::<exporter::Elasticsearch>("elasticsearch", &[])
}
