//! The keys of `journal` and `file_storage`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::{ByteSize, Interval, KeyError, Settings};

/// The smallest journal, in bytes.
const LEAST: u64 = 1 << 20;

/// `[processors.journal]`: what lies behind it in its pipeline loses nothing when the process dies. Or
/// `[extensions.file_storage]`: keeps the queue of each exporter on disk that names it in `sending_queue.storage`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// Where it writes. Each pipeline or exporter that names it has a directory of its own in it.
    #[schemars(extend("x-required" = true))]
    pub directory: PathBuf,
    /// Makes the directory where there is none. Without it a disk that is not mounted is an error, and not a directory
    /// in its place.
    pub create_directory: bool,
    /// When what was written is forced to the disk: `always` before the "ok", so that it survives a power cut;
    /// `interval` every `sync_interval`, so that it survives the death of the process alone.
    pub sync: Sync,
    /// How often the disk is forced under `sync = "interval"`.
    pub sync_interval: Interval,
    /// The most that the files of one queue take.
    pub max_size: ByteSize,
    /// What happens when that much is taken: `refuse` what is new, or `drop_oldest`, counted.
    pub on_full: OnFull,
    /// What a drain does with what it has on disk: leaves it to the next process, or tries to empty it.
    pub on_shutdown: OnShutdown,
    /// How telemetry is stored: `none` or `lz4`.
    pub compression: Compression,
    /// The most that letters take which could not be delivered and are kept for a person to look at; beyond it the
    /// oldest go. 0 keeps none.
    pub max_dead_letters: ByteSize,
}

/// When what was written is forced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// Before the "ok".
    Always,
    /// Every so often.
    Interval,
}

/// What happens when a disk's share is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// What is new is refused.
    Refuse,
    /// What is oldest is given up.
    DropOldest,
}

/// What a drain does with what lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnShutdown {
    /// Leaves it there, as far as it is not sent already: the next process goes on with it.
    Keep,
    /// Sends it on for three quarters of `service.shutdown_timeout`, or until nothing is left: for those who leave for
    /// good, and their disk with them. If something is left, the exit code is 3.
    Empty,
}

/// How telemetry is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As it came.
    None,
    /// As an LZ4 block, where that is smaller.
    Lz4,
}

// === impl StoreSettings ===

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            create_directory: false,
            sync: Sync::Always,
            sync_interval: Interval::secs(1),
            max_size: ByteSize(1 << 30),
            on_full: OnFull::Refuse,
            on_shutdown: OnShutdown::Keep,
            compression: Compression::Lz4,
            max_dead_letters: ByteSize(64 << 20),
        }
    }
}

impl Settings for StoreSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let mut wrong = |key: &str, message: &str| errors.push(KeyError::new(key, message));
        if self.directory.as_os_str().is_empty() {
            wrong("directory", "name the directory to write to");
        }
        if self.max_size.0 < LEAST {
            wrong("max_size", "must be 1MiB or more");
        }
        if (1..LEAST).contains(&self.max_dead_letters.0) {
            wrong("max_dead_letters", "must be 0, or 1MiB or more");
        }
        if self.sync_interval.positive().is_none() {
            wrong("sync_interval", "must be positive: `sync = \"always\"` waits for nothing");
        }
        errors
    }
}
