//! The debug exporter: what arrives, printed. And the nop exporter, which does not even do that.

mod brief;
mod detailed;
mod nop;
mod points;
mod text;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use watershed_stage::{
    Batch, Env, ExportError, Exporter, Failure, KeyError, Partial, Placement, QueueSettings, Registry,
    RetrySettings, Sending, Signal,
};

use crate::text::Page;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.exporter::<Debug>("debug", &["logging"]).exporter::<nop::Nop>("nop", &[])
}

/// Prints what it is sent, to the log.
struct Debug {
    settings: Arc<DebugSettings>,
    /// When the present second began,
    second: Cell<Instant>,
    /// and how many batches of each signal it has seen.
    seen: Cell<[u64; 3]>,
}

/// Settings of `debug`, under otelcol's keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct DebugSettings {
    /// How much is printed of each batch.
    verbosity: Verbosity,
    /// So many batches of each signal are printed each second.
    sampling_initial: u64,
    /// Every nth after them is printed, too; 0 is none.
    sampling_thereafter: u64,
    /// What waits to be printed.
    sending_queue: QueueSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Verbosity {
    /// One line a batch, with counts.
    Basic,
    /// One line an item besides.
    Normal,
    /// Every field of every item.
    Detailed,
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
        self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")).collect()
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
        Ok(Self { settings: settings.clone(), second, seen: Cell::default() })
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let signal = batch.payload.signal();
        if self.prints(signal) {
            let (receiver, pipeline) = (&*batch.context.receiver, &*batch.context.pipeline);
            tracing::info!(receiver, pipeline, "{}", brief::summary(&batch.payload));
            let mut emit = |text: &str| tracing::info!("{text}");
            let mut page = Page::new(&mut emit);
            for (index, group) in batch.payload.resources().enumerate() {
                // A page takes whatever it is given.
                let _ = match self.settings.verbosity {
                    Verbosity::Basic => break,
                    Verbosity::Normal => brief::lines(&group, &mut page),
                    Verbosity::Detailed => detailed::resource(index, &group, signal, &mut page),
                };
                // Printing is slow: the lane's other work gets its turn between two resources.
                tokio::task::coop::consume_budget().await;
            }
        }
        Ok(Partial::default())
    }
}

impl Debug {
    /// As zap's sampler decides, by which otelcol's log is thinned out.
    fn prints(&self, signal: Signal) -> bool {
        let now = Instant::now();
        if now.duration_since(self.second.get()) >= Duration::from_secs(1) {
            self.second.set(now);
            self.seen.set([0; 3]);
        }
        let mut seen = self.seen.get();
        let seen_of = &mut seen[signal as usize];
        *seen_of += 1;
        let after = seen_of.saturating_sub(self.settings.sampling_initial);
        self.seen.set(seen);
        let nth = self.settings.sampling_thereafter;
        after == 0 || (nth > 0 && after.is_multiple_of(nth))
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
        let debug = Debug { settings, second, seen: Cell::default() };
        for _ in 0..2 {
            let printed: Vec<u32> = (1..=12).filter(|_| debug.prints(Signal::Logs)).collect();
            assert_eq!(printed, [1, 2, 5, 8, 11]);
            assert!(debug.prints(Signal::Traces), "each signal is counted by itself");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn thereafter_of_zero_prints_the_first_only() {
        let settings = Arc::new(settings("sampling_thereafter = 0"));
        let debug = Debug { settings, second: Cell::new(Instant::now()), seen: Cell::default() };
        assert_eq!((1..=12).filter(|_| debug.prints(Signal::Logs)).count(), 2);
    }

    #[test]
    fn settings_are_otelcols() {
        let default = settings("");
        assert_eq!((default.sampling_initial, default.sampling_thereafter), (2, 1));
        assert_eq!((default.verbosity, default.check()), (Verbosity::Basic, vec![]));
        assert_eq!(settings("verbosity = 'normal'").verbosity, Verbosity::Normal);
        assert_eq!(settings("verbosity = 'detailed'").verbosity, Verbosity::Detailed);
        let errors = settings("sending_queue.queue_size = 0").check();
        let keys: Vec<&str> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(keys, ["sending_queue.queue_size"]);
    }

    #[test]
    fn it_is_one_for_all_lanes_and_takes_every_signal() {
        let registry = register(Registry::new());
        let empty = toml::Value::Table(toml::Table::new());
        let debug = registry.parse_exporter("logging", empty).unwrap().ok().unwrap();
        assert_eq!((debug.placement(), debug.signals()), (Placement::Single, &Signal::ALL[..]));
        assert_eq!(debug.sending().timeout, None);
    }

    #[test]
    fn nop_has_no_keys() {
        let registry = register(Registry::new());
        let parse = |text: &str| registry.parse_exporter("nop", toml::from_str(text).unwrap()).unwrap();
        assert!(parse("").is_ok());
        assert_eq!(parse("verbosity = 'basic'").err().unwrap()[0].key, "verbosity");
    }
}
