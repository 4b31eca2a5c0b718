//! `batch`: how exporters batch what comes from this pipeline.
//!
//! Keys and defaults are otelcol's. Batching itself happens in the exporter's queue, where it is known whether
//! the exporter is idle and whether a sender waits.

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{BatchSettings, Interval, KeyError, PartitionSettings, Sizer};

/// Settings of `batch`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// A batch of so many items (spans, data points, log records) is sent at once.
    send_batch_size: usize,
    /// How long an item may wait for company.
    timeout: Interval,
    /// No batch is larger; 0 is no bound but that of 4 MiB.
    send_batch_max_size: usize,
    /// Keys of request metadata: only messages that agree in all their values are merged. The receiver has to keep
    /// them (`include_metadata`).
    metadata_keys: Vec<String>,
    /// How many batches may be forming at once; beyond them the oldest is sent as it is.
    metadata_cardinality_limit: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let PartitionSettings { metadata_keys, metadata_cardinality_limit } = PartitionSettings::default();
        Self {
            send_batch_size: 8192,
            timeout: Interval::millis(200),
            send_batch_max_size: 0,
            metadata_keys,
            metadata_cardinality_limit,
        }
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = self.partition().check();
        if self.send_batch_max_size > 0 && self.send_batch_max_size < self.send_batch_size {
            let message = format!(
                "({}) must be greater than or equal to `send_batch_size` ({})",
                self.send_batch_max_size, self.send_batch_size
            );
            errors.push(KeyError::new("send_batch_max_size", message));
        }
        errors
    }
}

impl Settings {
    fn partition(&self) -> PartitionSettings {
        PartitionSettings {
            metadata_keys: self.metadata_keys.clone(),
            metadata_cardinality_limit: self.metadata_cardinality_limit,
        }
    }
}

impl From<Settings> for BatchSettings {
    fn from(settings: Settings) -> Self {
        Self {
            flush_timeout: settings.timeout,
            // otelcol: a timeout of 0 sends at once and honours only the largest size.
            min_size: if settings.timeout == Interval::secs(0) { 0 } else { settings.send_batch_size },
            max_size: settings.send_batch_max_size,
            sizer: Sizer::Items,
            partition: settings.partition(),
        }
    }
}
