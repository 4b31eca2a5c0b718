//! The shop's services, each with an SDK of its own as if it were a process of its own.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::metrics::{Counter, Gauge, Histogram, MeterProvider as _};
use opentelemetry::trace::{SpanContext, TracerProvider as _};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{BatchLogProcessor, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider};

use super::count::{Counted, Counts};

/// How long an export, a flush and a shutdown may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The reader exports when it is flushed, and not in between.
const NEVER: Duration = Duration::from_secs(3600);

/// The services of the shop.
pub(super) struct Shop {
    pub(super) gateway: Service,
    pub(super) order: Service,
    pub(super) payment: Service,
    pub(super) inventory: Service,
    pub(super) database: Service,
    /// Checkouts, by outcome.
    pub(super) checkouts: Counter<u64>,
    /// What is left in stock.
    pub(super) stock: Gauge<i64>,
    pub(super) counts: Arc<Counts>,
}

/// One service.
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) tracer: SdkTracer,
    /// How long its requests took, in seconds.
    pub(super) duration: Histogram<f64>,
    logger: SdkLogger,
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
    logs: SdkLoggerProvider,
}

// === impl Shop ===

impl Shop {
    /// Opens the shop: everything it tells goes to `agent`. Needs a tokio runtime around it.
    pub(super) fn open(agent: SocketAddr, counts: &Arc<Counts>) -> Result<Self, String> {
        let endpoint = format!("http://{agent}");
        let service = |name| {
            Service::start(name, &endpoint, counts)
                .map_err(|error| format!("the OpenTelemetry SDK of {name} did not start: {error}"))
        };
        let (order, inventory) = (service("order")?, service("inventory")?);
        let (orders, items) =
            (order.metrics.meter_with_scope(scope()), inventory.metrics.meter_with_scope(scope()));
        let checkouts = orders.u64_counter("shop.checkouts").with_unit("{checkout}");
        let stock = items.i64_gauge("shop.stock").with_unit("{item}");
        Ok(Self {
            checkouts: checkouts.with_description("Checkouts, by outcome.").build(),
            stock: stock.with_description("Items in stock.").build(),
            gateway: service("api-gateway")?,
            order,
            payment: service("payment")?,
            inventory,
            database: service("database")?,
            counts: counts.clone(),
        })
    }

    fn services(&self) -> [&Service; 5] {
        [&self.gateway, &self.order, &self.payment, &self.inventory, &self.database]
    }

    /// Has every SDK send what it holds. What did not work, in words.
    pub(super) fn flush(&self) -> Vec<String> {
        self.services().iter().flat_map(|service| service.flush()).collect()
    }

    /// Sends the rest and ends every SDK. What did not work, in words.
    pub(super) fn close(self) -> Vec<String> {
        self.services().iter().flat_map(|service| service.close()).collect()
    }
}

// === impl Service ===

impl Service {
    fn start(name: &'static str, endpoint: &str, counts: &Arc<Counts>) -> Result<Self, ExporterBuildError> {
        let resource = Resource::builder()
            .with_service_name(name)
            .with_attribute(KeyValue::new("service.namespace", "shop"))
            .with_attribute(KeyValue::new("service.version", "1.4.2"))
            .build();
        let spans =
            SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(PATIENCE).build()?;
        let points =
            MetricExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(PATIENCE).build()?;
        let records =
            LogExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(PATIENCE).build()?;

        let traces = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(Counted::new(spans, counts)).build())
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource.clone())
            .build();
        let reader = PeriodicReader::builder(Counted::new(points, counts)).with_interval(NEVER).build();
        let metrics = SdkMeterProvider::builder().with_reader(reader).with_resource(resource.clone()).build();
        let logs = SdkLoggerProvider::builder()
            .with_log_processor(BatchLogProcessor::builder(Counted::new(records, counts)).build())
            .with_resource(resource)
            .build();
        let meter = metrics.meter_with_scope(scope());
        let duration = meter.f64_histogram("http.server.request.duration").with_unit("s");
        Ok(Self {
            name,
            tracer: traces.tracer_with_scope(scope()),
            duration: duration.with_description("Duration of requests.").build(),
            logger: logs.logger_with_scope(scope()),
            traces,
            metrics,
            logs,
        })
    }

    /// Logs `body` at `at`, on behalf of the span `within`.
    pub(super) fn log(
        &self,
        at: SystemTime,
        severity: Severity,
        body: impl Into<Cow<'static, str>>,
        within: &SpanContext,
        attributes: Vec<(&'static str, AnyValue)>,
    ) {
        let mut record = self.logger.create_log_record();
        record.set_timestamp(at);
        record.set_observed_timestamp(at);
        record.set_severity_number(severity);
        record.set_severity_text(severity.name());
        record.set_body(AnyValue::from(body.into()));
        record.set_trace_context(within.trace_id(), within.span_id(), Some(within.trace_flags()));
        record.add_attributes(attributes);
        self.logger.emit(record);
    }

    fn flush(&self) -> Vec<String> {
        self.complain([self.traces.force_flush(), self.metrics.force_flush(), self.logs.force_flush()])
    }

    fn close(&self) -> Vec<String> {
        self.complain([
            self.traces.shutdown_with_timeout(PATIENCE),
            self.metrics.shutdown_with_timeout(PATIENCE),
            self.logs.shutdown_with_timeout(PATIENCE),
        ])
    }

    fn complain(&self, results: [OTelSdkResult; 3]) -> Vec<String> {
        let failed = |(signal, result): (&str, OTelSdkResult)| {
            result.err().map(|error| format!("{} could not send its {signal}: {error}", self.name))
        };
        ["traces", "metrics", "logs"].into_iter().zip(results).filter_map(failed).collect()
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("watershed.demo").with_version(env!("CARGO_PKG_VERSION")).build()
}
