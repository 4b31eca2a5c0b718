//! Settings of `probabilistic_sampler`: otelcol's keys and defaults.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::KeyError;
use watershed_telemetry::trace_state::Threshold;

/// Settings of `probabilistic_sampler`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What the decision is made with.
    pub(super) mode: Mode,
    /// How many percent pass, at least 0; 100 and more is all. In `proportional` mode, of what earlier samplers let
    /// pass.
    pub(super) sampling_percentage: f32,
    /// Goes into the hash of `hash_seed` mode. All collectors of a tier need the same one; tiers behind one another
    /// need different ones, or the second has nothing left to choose.
    pub(super) hash_seed: u32,
    /// Whether an item about which nothing can be decided goes: it has no trace id (or attribute), its `tracestate` is
    /// malformed, its threshold contradicts its randomness, or `hash_seed` mode meets another sampler's threshold.
    pub(super) fail_closed: bool,
    /// The hexadecimal digits of thresholds, 1 to 14.
    pub(super) sampling_precision: u32,
    /// Logs in `hash_seed` mode: whether the trace id is hashed, or at once the attribute that `from_attribute` names.
    pub(super) attribute_source: AttributeSource,
    /// Logs in `hash_seed` mode: the record's attribute that is hashed where no trace id is.
    pub(super) from_attribute: String,
    /// Logs: the record's attribute that holds a percentage of its own; it replaces `sampling_percentage`.
    pub(super) sampling_priority: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    /// A hash of the trace id.
    HashSeed,
    /// The item's own randomness, and so many percent of what comes.
    Proportional,
    /// The item's own randomness, and so many percent of what there was before any sampler.
    Equalizing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(super) enum AttributeSource {
    /// The trace id.
    #[serde(rename = "traceID")]
    TraceId,
    /// An attribute of the record.
    #[serde(rename = "record")]
    Record,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::HashSeed,
            sampling_percentage: 0.0,
            hash_seed: 0,
            fail_closed: true,
            sampling_precision: 4,
            attribute_source: AttributeSource::TraceId,
            from_attribute: String::new(),
            sampling_priority: String::new(),
        }
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let percentage = self.sampling_percentage;
        let mut wrong = |what: &str| {
            let message = format!("sampling rate is {what}: {percentage}%. Write a number from 0 to 100");
            errors.push(KeyError::new("sampling_percentage", message));
        };
        if !percentage.is_finite() {
            wrong("invalid");
        } else if percentage < 0.0 {
            wrong("negative");
        } else if percentage > 0.0 && f64::from(percentage) / 100.0 < Threshold::MIN_PROBABILITY {
            wrong("too small");
        }
        if !(1..=14).contains(&self.sampling_precision) {
            let message = format!("({}) is a number of hexadecimal digits: 1 to 14", self.sampling_precision);
            errors.push(KeyError::new("sampling_precision", message));
        }
        if self.attribute_source == AttributeSource::Record && self.from_attribute.is_empty() {
            let message = "names the attribute to hash: `attribute_source = \"record\"` needs it";
            errors.push(KeyError::new("from_attribute", message));
        }
        errors
    }
}
