//! What the endpoints look at: an engine that may not be there yet, or is on its way out.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::cli::Reloader;
use crate::engine::Engine;
use tokio::time::Instant;

use super::health::{Phase, Seen};
use crate::stage::Value;

/// The process as its endpoints see it.
pub(crate) struct Watched {
    since: Instant,
    serving: OnceLock<Serving>,
    pub(super) reloader: OnceLock<Arc<Reloader>>,
}

/// An engine that has started, and when it had.
pub(super) struct Serving {
    pub(super) engine: Arc<Engine>,
    pub(super) since: Instant,
    pub(super) up_since: SystemTime,
}

// === impl Watched ===

impl Watched {
    /// Shows this engine from now on.
    pub(crate) fn serve(&self, engine: Arc<Engine>) {
        #[allow(clippy::disallowed_methods, reason = "a date for people; nothing is decided by it")]
        let up_since = SystemTime::now();
        // Told once; a second engine would not be ours to show.
        let _ = self.serving.set(Serving { engine, since: Instant::now(), up_since });
    }

    pub(super) fn serving(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// Seconds since the process began.
    pub(super) fn uptime(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    /// The threads of the engine that no longer turn.
    pub(crate) fn stuck(&self) -> Vec<Arc<str>> {
        self.serving().map(|serving| serving.engine.health().stuck).unwrap_or_default()
    }

    pub(super) fn phase(&self) -> Phase {
        self.serving().map_or(Phase::Starting, |serving| Phase::Up(serving.look()))
    }
}

// === impl Serving ===

impl Serving {
    fn look(&self) -> Seen {
        let mut actors = self.engine.observe();
        actors.sort_by(|a, b| a.name.cmp(&b.name));
        Seen {
            is_draining: self.engine.is_draining(),
            health: self.engine.health(),
            actors,
            memory: self.memory(),
            up_since: self.up_since,
            uptime: self.since.elapsed(),
        }
    }

    /// Both gauges belong to the same budgets, in the same order.
    fn memory(&self) -> Vec<(String, f64, f64)> {
        let readings = self.engine.metrics().read();
        let read = |name: &str| {
            let series =
                readings.iter().filter(|reading| reading.name == name).flat_map(|found| &found.series);
            let values = series.filter_map(|(labels, value)| match value {
                Value::Real(value) => Some((labels.first().map_or("", |(_, role)| role).to_owned(), *value)),
                _ => None,
            });
            values.collect::<Vec<_>>()
        };
        let limits = read("watershed_budget_bytes").into_iter();
        limits
            .zip(read("watershed_budget_used_bytes"))
            .map(|((role, limit), (_, used))| (role, used, limit))
            .collect()
    }
}

impl Default for Watched {
    fn default() -> Self {
        Self { since: Instant::now(), serving: OnceLock::new(), reloader: OnceLock::new() }
    }
}
