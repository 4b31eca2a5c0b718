//! Exporters of the SDK that count what they were told "ok" for.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::logs::Severity;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;

/// What was sent, by signal.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) traces: Count,
    pub(super) metrics: Count,
    pub(super) logs: Count,
}

/// What was sent of one signal.
#[derive(Default)]
pub(super) struct Count {
    /// Items the application made; 0 where the SDK makes them.
    made: AtomicU64,
    /// Items the exporter was given.
    given: AtomicU64,
    /// Items that were acknowledged.
    acknowledged: AtomicU64,
    /// Bytes of the acknowledged requests, before framing.
    bytes: AtomicU64,
}

/// An exporter of the SDK, counted.
pub(super) struct Counted<E> {
    exporter: E,
    counts: Arc<Counts>,
    resource: ResourceAttributesWithSchema,
}

// === impl Count ===

impl Count {
    pub(super) fn make(&self) {
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Items that the SDK never gave to its exporter, and those it gave but were not acknowledged.
    pub(super) fn unsent(&self) -> (u64, u64) {
        let (made, given) = (self.made.load(Ordering::Relaxed), self.given.load(Ordering::Relaxed));
        (made.saturating_sub(given), given.saturating_sub(self.acknowledged()))
    }

    async fn through(
        &self,
        items: usize,
        bytes: usize,
        export: impl Future<Output = OTelSdkResult>,
    ) -> OTelSdkResult {
        self.given.fetch_add(items as u64, Ordering::Relaxed);
        let result = export.await;
        if result.is_ok() {
            self.acknowledged.fetch_add(items as u64, Ordering::Relaxed);
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        result
    }
}

// === impl Counted ===

impl<E> Counted<E> {
    pub(super) fn new(exporter: E, counts: &Arc<Counts>) -> Self {
        Self { exporter, counts: counts.clone(), resource: ResourceAttributesWithSchema::default() }
    }
}

impl<E: fmt::Debug> fmt::Debug for Counted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exporter.fmt(f)
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(batch.clone(), &self.resource);
        let bytes = ExportTraceServiceRequest { resource_spans }.encoded_len();
        self.counts.traces.through(batch.len(), bytes, self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let items = batch.iter().count();
        let resource_logs = group_logs_by_resource_and_scope(&batch, &self.resource);
        let bytes = ExportLogsServiceRequest { resource_logs }.encoded_len();
        self.counts.logs.through(items, bytes, self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.exporter.event_enabled(level, target, name)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Counted<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let items = data_points(metrics);
        let bytes = ExportMetricsServiceRequest::from(metrics).encoded_len();
        self.counts.metrics.through(items, bytes, self.exporter.export(metrics)).await
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

fn data_points(metrics: &ResourceMetrics) -> usize {
    fn points<T>(data: &MetricData<T>) -> usize {
        match data {
            MetricData::Gauge(gauge) => gauge.data_points().count(),
            MetricData::Sum(sum) => sum.data_points().count(),
            MetricData::Histogram(histogram) => histogram.data_points().count(),
            MetricData::ExponentialHistogram(histogram) => histogram.data_points().count(),
        }
    }
    let metrics = metrics.scope_metrics().flat_map(|scope| scope.metrics());
    metrics
        .map(|metric| match metric.data() {
            AggregatedMetrics::F64(data) => points(data),
            AggregatedMetrics::U64(data) => points(data),
            AggregatedMetrics::I64(data) => points(data),
        })
        .sum()
}
