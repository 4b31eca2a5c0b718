//! Processors that shape what passes.
//!
//! `attributes` and `resource` edit attributes on the wire bytes. `batch` and `memory_limiter` stand in a
//! pipeline's list for habit's sake and play their parts elsewhere: the one configures the exporters' batching,
//! the other names the role's memory budget, so that neither costs a hop.

mod attributes;
mod batch;
mod filter;
mod filter_paths;
mod memory_limiter;
pub mod redaction;
mod resource_detection;
mod resource_detection_host;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .budget::<memory_limiter::Settings>("memory_limiter")
        .batching::<batch::Settings>("batch")
        .processor::<attributes::Attributes>("attributes", &[])
        .processor::<attributes::Resource>("resource", &[])
        .processor::<filter::Filter>("filter", &[])
        .processor::<resource_detection::ResourceDetection>("resource_detection", &["resourcedetection"])
        .processor::<redaction::Redaction>("redaction", &[])
}
