//! What a balancer counts, under otelcol's names where it has one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use watershed_stage::{Counter, Env, Histogram, Metrics};

/// Bounds of what an attempt takes, in milliseconds: those of the Go SDK.
const MILLISECONDS: &[u64] = &[5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000];

/// Why a backend may be left out.
const REASONS: [&str; 4] = ["refused", "silent", "failures", "broken"];

/// What the balancer as a whole counts.
pub(crate) struct Meters {
    metrics: Metrics,
    exporter: Arc<str>,
    /// Items that were taken back from one backend to go to another.
    pub(crate) rerouted: Counter,
    /// What went to another backend than its key had a short while ago.
    pub(crate) moved: Counter,
}

/// What is counted of one resolver.
pub(crate) struct ResolverMeters {
    resolutions: [Counter; 2],
    updates: Counter,
    backends: Arc<AtomicUsize>,
}

/// What is counted of one backend.
#[derive(Clone)]
pub(crate) struct BackendMeters {
    latency: Histogram,
    outcomes: [Counter; 2],
}

// === impl Meters ===

impl Meters {
    pub(crate) fn new(env: &Env) -> Self {
        let rerouted = env.metrics.counter(
            "watershed_loadbalancer_rerouted_items",
            "Items that were taken back from a backend that failed or is gone, to go to another.",
            &[("exporter", &env.id)],
        );
        let moved = env.metrics.counter(
            "watershed_loadbalancer_moved_units",
            "What went by its key to another backend than it would have up to 30 s ago, so that what it belongs to may \
             have come apart: items, or resources where those are routed whole.",
            &[("exporter", &env.id)],
        );
        Self { metrics: env.metrics.clone(), exporter: env.id.clone(), rerouted, moved }
    }

    pub(crate) fn resolver(&self, resolver: &str) -> ResolverMeters {
        let labels = [("exporter", &*self.exporter), ("resolver", resolver)];
        let backends = Arc::new(AtomicUsize::new(0));
        let shown = backends.clone();
        self.metrics.gauge(
            "otelcol_loadbalancer_num_backends",
            "Backends that the resolver knows.",
            &labels,
            Arc::new(move || shown.load(Ordering::Relaxed) as f64),
        );
        ResolverMeters {
            resolutions: ["false", "true"].map(|success| {
                self.metrics.counter(
                    "otelcol_loadbalancer_num_resolutions",
                    "How often the backends were looked for.",
                    &[("exporter", &self.exporter), ("resolver", resolver), ("success", success)],
                )
            }),
            updates: self.metrics.counter(
                "otelcol_loadbalancer_num_backend_updates",
                "How often there were other backends than before.",
                &labels,
            ),
            backends,
        }
    }

    pub(crate) fn backend(&self, endpoint: &str) -> BackendMeters {
        // There before the first of them, so that whoever watches for one sees that there are none.
        for reason in REASONS {
            self.ejections(endpoint, reason);
        }
        let labels = [("exporter", &*self.exporter), ("endpoint", endpoint)];
        BackendMeters {
            latency: self.metrics.histogram(
                "otelcol_loadbalancer_backend_latency",
                "What an attempt to send to the backend took, in milliseconds.",
                MILLISECONDS,
                &labels,
            ),
            outcomes: ["false", "true"].map(|success| {
                self.metrics.counter(
                    "otelcol_loadbalancer_backend_outcome",
                    "Attempts to send to the backend, by whether it took what was sent.",
                    &[("exporter", &self.exporter), ("endpoint", endpoint), ("success", success)],
                )
            }),
        }
    }

    /// Whether a backend is used, read when it is asked for.
    pub(crate) fn used(&self, endpoint: &str, used: impl Fn() -> bool + Send + Sync + 'static) {
        self.metrics.gauge(
            "watershed_loadbalancer_backend_used",
            "1 while the backend gets what belongs to it; 0 while it is left out or stands by.",
            &[("exporter", &self.exporter), ("endpoint", endpoint)],
            Arc::new(move || f64::from(u8::from(used()))),
        );
    }

    /// Shows nothing of a backend any more: where they come and go under new names, there is no end to them.
    pub(crate) fn forget(&self, endpoint: &str) {
        let labels = [("exporter", &*self.exporter), ("endpoint", endpoint)];
        for name in ["otelcol_loadbalancer_backend_latency", "watershed_loadbalancer_backend_used"] {
            self.metrics.forget(name, &labels);
        }
        for success in ["false", "true"] {
            let labels = [labels[0], labels[1], ("success", success)];
            self.metrics.forget("otelcol_loadbalancer_backend_outcome", &labels);
        }
        for reason in REASONS {
            let labels = [labels[0], labels[1], ("reason", reason)];
            self.metrics.forget("watershed_loadbalancer_ejections", &labels);
        }
    }

    pub(crate) fn ejections(&self, endpoint: &str, reason: &str) -> Counter {
        self.metrics.counter(
            "watershed_loadbalancer_ejections",
            "How often a backend was left out because it did not work, by how that was found out.",
            &[("exporter", &self.exporter), ("endpoint", endpoint), ("reason", reason)],
        )
    }
}

// === impl ResolverMeters ===

impl ResolverMeters {
    pub(crate) fn resolved(&self, success: bool) {
        self.resolutions[usize::from(success)].add(1);
    }

    pub(crate) fn updated(&self, backends: usize) {
        self.updates.add(1);
        self.backends.store(backends, Ordering::Relaxed);
    }
}

// === impl BackendMeters ===

impl BackendMeters {
    pub(crate) fn tried(&self, took: std::time::Duration, success: bool) {
        self.latency.record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.outcomes[usize::from(success)].add(1);
    }
}
