//! The Prometheus family: a receiver that scrapes, an exporter that is scraped, and one that writes to remote storage.

mod export;
#[cfg(test)]
mod fixtures;
mod labels;
mod naming;
mod native;
mod proto;
mod scrape;
mod translate;
mod write;

pub use scrape::{Exposition, ExpositionFormat, Unreadable, relabel};

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .receiver::<scrape::Prometheus>("prometheus", &[])
        .exporter::<export::Prometheus>("prometheus", &[])
        .exporter::<write::RemoteWrite>("prometheus_remote_write", &["prometheusremotewrite"])
}
