//! The debug exporter: what arrives, printed.

mod text;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;
use watershed_stage::{
    Batch, Env, ExportError, Exporter, Failure, KeyError, Partial, Placement, QueueSettings, Registry,
    RetrySettings, Sending,
};

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.exporter::<Debug>("debug", &["logging"])
}

/// Prints what it is sent, to the log.
struct Debug {
    settings: Arc<DebugSettings>,
    /// Batches printed in the present second, and when that began.
    second: Cell<Instant>,
    seen: Cell<u64>,
}

/// Settings of `debug`, under otelcol's keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct DebugSettings {
    /// How much is printed of each batch.
    verbosity: Verbosity,
    /// So many batches are printed each second,
    sampling_initial: u64,
    /// and every nth after them.
    sampling_thereafter: u64,
    sending_queue: QueueSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Verbosity {
    /// One line a batch, with counts.
    Basic,
    /// One line an item besides.
    Normal,
}

// === impl DebugSettings ===

impl Default for DebugSettings {
    fn default() -> Self {
        Self {
            verbosity: Verbosity::Basic,
            sampling_initial: 2,
            sampling_thereafter: 1,
            sending_queue: QueueSettings::default(),
        }
    }
}

impl watershed_stage::Settings for DebugSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors: Vec<KeyError> =
            self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")).collect();
        if self.sampling_thereafter == 0 {
            errors.push(KeyError::new("sampling_thereafter", "must be positive: 1 prints everything"));
        }
        errors
    }
}

// === impl Debug ===

impl Exporter for Debug {
    type Settings = DebugSettings;

    fn placement(_: &DebugSettings) -> Placement {
        Placement::Single
    }

    fn sending(settings: &DebugSettings) -> Sending {
        Sending { timeout: None, retry: RetrySettings::default(), queue: settings.sending_queue.clone() }
    }

    fn build(settings: &Arc<DebugSettings>, _env: &Env) -> Result<Self, Failure> {
        let second = Cell::new(Instant::now());
        Ok(Self { settings: settings.clone(), second, seen: Cell::new(0) })
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        if self.prints() {
            let receiver = &*batch.context.receiver;
            tracing::info!(
                receiver,
                pipeline = &*batch.context.pipeline,
                "{}",
                text::summary(&batch.payload)
            );
            if self.settings.verbosity == Verbosity::Normal {
                for line in text::lines(&batch.payload) {
                    tracing::info!("{line}");
                }
            }
        }
        Ok(Partial::default())
    }
}

impl Debug {
    fn prints(&self) -> bool {
        let now = Instant::now();
        if now.duration_since(self.second.get()) >= Duration::from_secs(1) {
            self.second.set(now);
            self.seen.set(0);
        }
        let before = self.seen.replace(self.seen.get() + 1);
        before < self.settings.sampling_initial
            || (before + 1 - self.settings.sampling_initial).is_multiple_of(self.settings.sampling_thereafter)
    }
}

#[cfg(test)]
mod tests {
    use watershed_stage::{Settings as _, Signal};

    use super::*;

    fn settings(text: &str) -> DebugSettings {
        toml::from_str(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_second_prints_the_first_and_then_every_so_manieth() {
        let settings = settings("sampling_initial = 2\nsampling_thereafter = 3");
        let (settings, second) = (Arc::new(settings), Cell::new(Instant::now()));
        let debug = Debug { settings, second, seen: Cell::new(0) };
        for _ in 0..2 {
            let printed: Vec<u32> = (1..=12).filter(|_| debug.prints()).collect();
            assert_eq!(printed, [1, 2, 5, 8, 11]);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[test]
    fn settings_are_otelcols() {
        let default = settings("");
        assert_eq!((default.sampling_initial, default.sampling_thereafter), (2, 1));
        assert_eq!((default.verbosity, default.check()), (Verbosity::Basic, vec![]));
        assert_eq!(settings("verbosity = 'normal'").verbosity, Verbosity::Normal);
        let errors = settings("sampling_thereafter = 0\nsending_queue.queue_size = 0").check();
        let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(keys, ["sending_queue.queue_size", "sampling_thereafter"]);
    }

    #[test]
    fn it_is_one_for_all_lanes_and_takes_every_signal() {
        let registry = register(Registry::new());
        let empty = toml::Value::Table(toml::Table::new());
        let debug = registry.parse_exporter("logging", empty).unwrap().ok().unwrap();
        assert_eq!((debug.placement(), debug.signals()), (Placement::Single, &Signal::ALL[..]));
        assert_eq!(debug.sending().timeout, None);
    }
}
