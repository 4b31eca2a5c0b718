//! What the endpoints look at: an engine that may not be there yet, or is on its way out.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::cli::Reloader;
use crate::engine::Engine;
use tokio::time::Instant;

use super::health::Phase;

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

    pub(super) fn phase(&self) -> Phase {
        match self.serving() {
            None => Phase::Starting,
            Some(serving) if serving.engine.is_draining() => Phase::Draining,
            Some(serving) => Phase::Serving {
                health: serving.engine.health(),
                up_since: serving.up_since,
                uptime: serving.since.elapsed(),
            },
        }
    }
}

impl Default for Watched {
    fn default() -> Self {
        Self { since: Instant::now(), serving: OnceLock::new(), reloader: OnceLock::new() }
    }
}
