//! The file exporter: telemetry as records in files that rotate.
//!
//! Batches are encoded on the lane ([`record`]) and written by a thread of the file's own ([`writer`]), so that a slow
//! disk holds up nothing else. A file holds whole records only: what was written in part is cut off again ([`log`]).

mod exporter;
mod log;
mod record;
mod rotation;
mod settings;
mod writer;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.exporter::<exporter::File>("file", &[])
}
