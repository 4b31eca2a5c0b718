//! What an exporter's copy counts, and the chance its waits are drawn by.

use super::ExporterParts;
use crate::metrics::{Counter, PerSignal};

pub(super) struct Counters {
    pub(super) sent: PerSignal,
    pub(super) failed: PerSignal,
    pub(super) retries: Counter,
    pub(super) requests: Counter,
}

/// xorshift64*: jitter needs no better, and a random seed is enough to keep clients out of step.
pub(super) struct Random(u64);

// === impl Counters ===

impl Counters {
    pub(super) fn new(parts: &ExporterParts) -> Self {
        let metrics = &parts.env.metrics;
        let labels = [("exporter", &*parts.env.id)];
        Self {
            sent: metrics.per_signal(
                [
                    "otelcol_exporter_sent_spans",
                    "otelcol_exporter_sent_metric_points",
                    "otelcol_exporter_sent_log_records",
                ],
                "Items the destination took.",
                &labels,
            ),
            failed: metrics.per_signal(
                [
                    "otelcol_exporter_send_failed_spans",
                    "otelcol_exporter_send_failed_metric_points",
                    "otelcol_exporter_send_failed_log_records",
                ],
                "Items given up: rejected by the destination, or retried for as long as configured.",
                &labels,
            ),
            retries: metrics.counter("watershed_exporter_retries", "Attempts that are tried again.", &labels),
            requests: metrics.counter("watershed_exporter_requests", "Attempts.", &labels),
        }
    }
}

// === impl Random ===

impl Random {
    pub(super) fn seeded(id: &str, lane: usize) -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        Self(RandomState::new().hash_one((id, lane)) | 1)
    }

    /// Uniform in 0..1.
    pub(super) fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
