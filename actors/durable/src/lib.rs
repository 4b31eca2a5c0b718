//! Telemetry on disk before it is acknowledged: the `journal` stage of a pipeline, and exporters' queues that outlive
//! the process (`file_storage`).
//!
//! Both are one stage, the [keeper](keeper), in front of whatever follows. It says "ok" for a message once that is in
//! its [store](store), hands it on, and keeps it until everybody behind has it; what is refused there, or was not
//! handed on because there was no room, it reads again and hands out later. So a dead exporter fills a disk and not
//! the memory, and holds up nobody else.

mod envelope;
mod keeper;
mod letters;
mod notes;
mod post;
mod settings;
mod store;

pub use envelope::{Envelope, Letter, Unreadable, open, signal};
pub use letters::{DIRECTORY as DEAD_LETTERS, READER};
pub use notes::DIRECTORY as NOTES;
pub use settings::StoreSettings;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.stage::<StoreSettings>("journal").extension::<keeper::FileStorage>("file_storage", &[])
}
