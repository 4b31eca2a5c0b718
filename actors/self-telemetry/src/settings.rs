//! The settings of `self_telemetry`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::logs::Severity;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};
use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{Interval, KeyError, TraceContext};

/// Settings of `self_telemetry`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// How metrics are told.
    pub(crate) metrics: Metrics,
    /// Which requests are traced.
    pub(crate) traces: Traces,
    /// What of the log is told.
    pub(crate) logs: Logs,
    /// Attributes of the resource, besides `service.name`, `service.version` and `service.instance.id` or instead of
    /// them.
    pub(crate) resource: BTreeMap<String, String>,
    #[serde(skip)]
    pub(crate) birth: Birth,
}

/// `metrics`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Metrics {
    /// How often.
    pub(crate) interval: Interval,
}

/// `traces`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Traces {
    /// The part, from 0 to 1, of the requests whose caller says nothing of a trace. Those whose caller traces them are
    /// traced, and those whose caller does not are not.
    pub(crate) sampling_ratio: f64,
}

/// `logs`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Logs {
    /// Of what is in the program's log, what is at least as grave as this.
    pub(crate) level: Level,
}

/// How grave a log record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

/// What a receiver keeps for as long as its settings stand, over all of its incarnations.
#[derive(Debug)]
pub(crate) struct Birth {
    /// Counts go on from then.
    pub(crate) at: SystemTime,
    /// `service.instance.id`.
    pub(crate) instance: String,
    /// The trace by which its telemetry is known as Watershed's own.
    pub(crate) trace: TraceContext,
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.metrics.interval.0.is_zero() {
            errors.push(KeyError::new("metrics.interval", "must be more than 0s, such as \"60s\""));
        }
        if !(0.0..=1.0).contains(&self.traces.sampling_ratio) {
            let message = format!("{} is no part of a whole: write 0 to 1", self.traces.sampling_ratio);
            errors.push(KeyError::new("traces.sampling_ratio", message));
        }
        errors
    }
}

impl Settings {
    /// Who tells. `OTEL_RESOURCE_ATTRIBUTES` is heard, and has the last word but one.
    pub(crate) fn resource(&self) -> Resource {
        let told = self.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        let ours = [
            KeyValue::new("service.name", "watershed"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", self.birth.instance.clone()),
        ];
        let heard = opentelemetry_sdk::resource::EnvResourceDetector::new();
        Resource::builder_empty()
            .with_attributes(ours)
            .with_detector(Box::new(heard))
            .with_attributes(told)
            .build()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { interval: Interval::secs(60) }
    }
}

impl Default for Traces {
    fn default() -> Self {
        Self { sampling_ratio: 0.01 }
    }
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}

// === impl Birth ===

impl Default for Birth {
    fn default() -> Self {
        let ids = RandomIdGenerator::default();
        let trace = TraceContext::own(ids.new_trace_id().to_bytes(), ids.new_span_id().to_bytes());
        Self { at: opentelemetry::time::now(), instance: uuid(ids.new_trace_id().to_bytes()), trace }
    }
}

/// A UUID of version 4 (RFC 9562, section 5.4) of random bytes.
fn uuid(bytes: [u8; 16]) -> String {
    let bits = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use watershed_stage::Settings as _;

    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_can_not_be_is_said_by_key() {
        let keys = |text| settings(text).check().into_iter().map(|error| error.key).collect::<Vec<_>>();
        assert_eq!(keys(""), [""; 0]);
        assert_eq!(keys("metrics.interval = '0s'"), ["metrics.interval"]);
        assert_eq!(keys("traces.sampling_ratio = 1.5"), ["traces.sampling_ratio"]);
        assert_eq!(keys("traces.sampling_ratio = nan"), ["traces.sampling_ratio"]);
        assert!(toml::from_str::<Settings>("logs.level = 'loud'").is_err());
    }

    #[test]
    fn the_resource_names_the_service_unless_told_otherwise() {
        let value = |settings: &Settings, key: &'static str| {
            settings.resource().get(&key.into()).map(|value| value.to_string())
        };
        let plain = settings("");
        assert_eq!(value(&plain, "service.name").as_deref(), Some("watershed"));
        assert_eq!(value(&plain, "service.instance.id").as_ref(), Some(&plain.birth.instance));
        let named = settings("resource = { 'service.name' = 'edge', zone = 'a' }");
        assert_eq!(value(&named, "service.name").as_deref(), Some("edge"));
        assert_eq!(value(&named, "zone").as_deref(), Some("a"));
        assert_ne!(plain.birth.instance, named.birth.instance);
    }

    #[test]
    fn an_instance_is_a_random_uuid() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }
}
