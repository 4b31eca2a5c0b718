//! What an exporter's copy counts, and the chance its waits are drawn by.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use watershed_telemetry::{Payload, Signal};

use super::batch::Pending;
use super::circuit::Circuit;
use super::{ExporterParts, Sending};
use crate::edge::Outward;
use crate::metrics::{Counter, Held, Histogram, Level, PerSignal};
use crate::registry::Env;

/// Bounds of the sizes of batches, in items.
const ITEMS: &[u64] = &[
    10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 9_000,
    10_000, 20_000, 30_000, 50_000, 100_000,
];

/// Bounds of the sizes of batches, in bytes.
const BYTES: &[u64] = &[
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000, 4_000_000,
    8_000_000, 16_000_000, 64_000_000,
];

pub(super) struct Counters {
    pub(super) sent: PerSignal,
    failed: PerSignal,
    /// The same, by [`GivenUp`].
    given_up: [Counter; 4],
    pub(super) retries: Counter,
    pub(super) requests: Counter,
    pub(super) held_back: Counter,
    pub(super) in_flight: Level,
    concurrency: Level,
    /// As many as may be in flight on this lane.
    allowed: Vec<Held>,
    pub(super) circuit_opened: Counter,
    /// By [`Trigger`].
    batches: [Counter; 6],
    sizes: Sizes,
    /// What is counted for the `batch` processor of each pipeline.
    processors: HashMap<Arc<str>, Rc<BatchProcessor>>,
    pub(super) outward: Outward,
}

/// Why items were given up.
#[derive(Clone, Copy)]
pub(super) enum GivenUp {
    /// The destination rejected them.
    Rejected,
    /// The destination took the request, but not them.
    Partial,
    /// A single item was larger than the destination takes.
    TooLarge,
    /// They were tried for as long as configured.
    Exhausted,
}

/// Why a batch was closed.
#[derive(Clone, Copy)]
pub(super) enum Trigger {
    /// It was large enough.
    Size,
    /// It had waited for long enough.
    Timeout,
    /// The exporter was idle and a sender waited.
    Idle,
    /// Too many were forming.
    Cardinality,
    /// The exporter drains.
    Drain,
    /// A message that has to prove itself is sent alone.
    Alone,
}

/// How large requests are.
struct Sizes {
    items: Histogram,
    bytes: Histogram,
}

/// What otelcol's `batch` counts of itself.
pub(super) struct BatchProcessor {
    by_size: Counter,
    by_timeout: Counter,
    sizes: Sizes,
    pub(super) forming: Level,
}

/// xorshift64*: jitter needs no better, and a random seed is enough to keep clients out of step.
pub(super) struct Random(u64);

// === impl Counters ===

impl Counters {
    pub(super) fn new(parts: &ExporterParts, sending: &Sending, circuit: &Arc<Circuit>) -> Self {
        let metrics = &parts.env.metrics;
        let exporter = &*parts.env.id;
        let labels = [("exporter", exporter)];
        let circuit = circuit.clone();
        metrics.gauge(
            "watershed_exporter_circuit_open",
            "1 while the destination is left alone because it keeps failing, but for probes.",
            &labels,
            Arc::new(move || f64::from(u8::from(circuit.is_open()))),
        );
        let given_up =
            [("rejected", "true"), ("partial", "true"), ("too_large", "true"), ("exhausted", "false")].map(
                |(reason, permanent)| {
                    metrics.counter(
                        "watershed_exporter_failed_items",
                        "Items given up, by why; permanent is what no retry could have helped.",
                        &[("exporter", exporter), ("reason", reason), ("error_permanent", permanent)],
                    )
                },
            );
        let batches = ["size", "timeout", "idle", "cardinality", "drain", "alone"].map(|trigger| {
            metrics.counter(
                "watershed_exporter_batches",
                "Batches formed, by what closed them.",
                &[("exporter", exporter), ("trigger", trigger)],
            )
        });
        let batching = sending.queue.enabled && sending.queue.batch.is_none();
        let processors = parts.batching.iter().filter(|_| batching).map(|(pipeline, batch)| {
            (pipeline.clone(), Rc::new(BatchProcessor::new(&parts.env, &batch.processor, pipeline)))
        });
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
            given_up,
            retries: metrics.counter("watershed_exporter_retries", "Attempts that are tried again.", &labels),
            requests: metrics.counter("watershed_exporter_requests", "Attempts.", &labels),
            held_back: metrics.counter(
                "watershed_exporter_held_back",
                "Requests that had to wait since `items_per_second` had been sent already.",
                &labels,
            ),
            in_flight: metrics.level(
                "otelcol_exporter_in_flight_requests",
                "Requests that wait for the destination's answer.",
                &labels,
            ),
            concurrency: metrics.level(
                "watershed_exporter_concurrency",
                "Requests that may be in flight at once, over all lanes.",
                &labels,
            ),
            allowed: Vec::new(),
            circuit_opened: metrics.counter(
                "watershed_exporter_circuit_opened",
                "How often the destination failed so often that it was left alone.",
                &labels,
            ),
            batches,
            sizes: Sizes {
                items: metrics.histogram(
                    "otelcol_exporter_queue_batch_send_size",
                    "Items in each request, when it is first sent.",
                    ITEMS,
                    &labels,
                ),
                bytes: metrics.histogram(
                    "otelcol_exporter_queue_batch_send_size_bytes",
                    "Bytes in each request, before compression, when it is first sent.",
                    BYTES,
                    &labels,
                ),
            },
            processors: processors.collect(),
            outward: Outward::new(&parts.env),
        }
    }

    pub(super) fn failed(&self, signal: Signal, items: usize, why: GivenUp) {
        self.failed.add(signal, items);
        self.given_up[why as usize].add(items as u64);
    }

    /// Shows how many requests may be in flight on this lane.
    pub(super) fn allow(&mut self, limit: usize) {
        self.allowed.resize_with(limit, || self.concurrency.hold());
    }

    /// Counts a request that is sent for the first time.
    pub(super) fn first_sent(&self, payload: &Payload) {
        self.sizes.record(payload.items(), payload.bytes());
    }

    /// What the `batch` processor of this pipeline counts, if it is that by which this exporter batches.
    pub(super) fn processor(&self, pipeline: &Arc<str>) -> Option<&Rc<BatchProcessor>> {
        self.processors.get(pipeline)
    }

    pub(super) fn formed(&self, pending: &Pending, trigger: Trigger) {
        self.batches[trigger as usize].add(1);
        if let Some(processor) = pending.processor() {
            match trigger {
                Trigger::Size => processor.by_size.add(1),
                Trigger::Timeout => processor.by_timeout.add(1),
                _ => {}
            }
            let (items, bytes) = pending.size();
            processor.sizes.record(items, bytes);
        }
    }
}

// === impl BatchProcessor ===

impl BatchProcessor {
    fn new(env: &Env, processor: &str, pipeline: &str) -> Self {
        let metrics = &env.metrics;
        let labels = [("processor", processor), ("pipeline", pipeline), ("exporter", &env.id)];
        Self {
            by_size: metrics.counter(
                "otelcol_processor_batch_batch_size_trigger_send",
                "Batches that were closed because they were large enough.",
                &labels,
            ),
            by_timeout: metrics.counter(
                "otelcol_processor_batch_timeout_trigger_send",
                "Batches that were closed because they had waited for long enough.",
                &labels,
            ),
            sizes: Sizes {
                items: metrics.histogram(
                    "otelcol_processor_batch_batch_send_size",
                    "Items in each batch that was formed.",
                    ITEMS,
                    &labels,
                ),
                bytes: metrics.histogram(
                    "otelcol_processor_batch_batch_send_size_bytes",
                    "Bytes in each batch that was formed.",
                    BYTES,
                    &labels,
                ),
            },
            forming: metrics.level(
                "otelcol_processor_batch_metadata_cardinality",
                "Batches that are forming: one a signal and combination of metadata.",
                &labels,
            ),
        }
    }
}

// === impl Sizes ===

impl Sizes {
    fn record(&self, items: usize, bytes: usize) {
        self.items.record(items as u64);
        self.bytes.record(bytes as u64);
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
