//! An exporter: it prints log records, and says how many it has printed.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed::stage::telemetry::view::Value;
use watershed::stage::{
    Batch, Counter, Env, ExportError, Exporter, Failure, Metrics, Partial, Placement, QueueSettings,
    RetrySettings, Sending, Signal,
};

/// Prints log records.
pub struct Printer {
    settings: Arc<Settings>,
    printed: Counter,
}

/// Settings of `printer`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    prefix: String,
}

impl watershed::stage::Settings for Settings {}

/// How many records an engine's printer has printed.
pub fn printed(metrics: &Metrics) -> u64 {
    counter(metrics).get()
}

fn counter(metrics: &Metrics) -> Counter {
    metrics.counter("printer_printed_log_records", "Log records that were printed.", &[])
}

impl Exporter for Printer {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Logs]
    }

    fn placement(_: &Settings) -> Placement {
        Placement::Single
    }

    // Queue, batching and retries come with the engine; these are their defaults.
    fn sending(_: &Settings) -> Sending {
        Sending { timeout: None, retry: RetrySettings::default(), queue: QueueSettings::default() }
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        Ok(Self { settings: settings.clone(), printed: counter(&env.metrics) })
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let records = batch.payload.resources().flat_map(|resource| resource.scopes());
        for record in records.flat_map(|scope| scope.log_records()) {
            let volume = match record.attributes().find("volume").map(|volume| volume.value()) {
                Some(Value::Int(volume)) => volume,
                _ => 0,
            };
            println!(
                "{}{} (volume {volume})",
                self.settings.prefix,
                record.body().as_str().unwrap_or_default()
            );
            self.printed.add(1);
        }
        Ok(Partial::default())
    }
}
