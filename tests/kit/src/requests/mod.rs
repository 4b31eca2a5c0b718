//! Requests as prebuilt bytes: realistic items whose number is patched in place, and small metrics and logs.

mod foreign;
mod template;

use bytes::{BufMut, Bytes, BytesMut};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

use crate::grpc::FRAME_HEADER;
use crate::traces::{FAILED, SLOW};
pub use foreign::Foreign;
pub use template::{FIRST_TIME, SpanKey, Template, TraceTemplate};

const START_NANOS: u64 = 1_760_000_000_000_000_000;

/// Puts the gRPC frame header (uncompressed) before `message`.
pub fn frame(message: &[u8]) -> Bytes {
    flagged(0, message)
}

/// Puts a gRPC frame header before `message`; `compressed` is 1 if it is.
pub(crate) fn flagged(compressed: u8, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(FRAME_HEADER + message.len());
    framed.put_u8(compressed);
    framed.put_u32(u32::try_from(message.len()).expect("a gRPC message is smaller than 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

/// A metrics request (no frame) of `points` data points: a gauge, a sum and a histogram in turn.
pub fn metrics(points: usize) -> Bytes {
    metrics_of((0..points).map(|index| metric(index, 0, START_NANOS + index as u64))).encode_to_vec().into()
}

/// A logs request (no frame) of `records` log records.
pub fn logs(records: usize) -> Bytes {
    logs_of((0..records).map(record)).encode_to_vec().into()
}

/// As [`metrics`], all points being number 0 of `run`.
fn metric_request(run: u64, points: usize) -> ExportMetricsServiceRequest {
    metrics_of((0..points).map(|index| metric(index, run, FIRST_TIME)))
}

/// As [`trace_request`], of log records with the attributes of a usual one.
fn log_request(run: u64, records: usize) -> ExportLogsServiceRequest {
    logs_of((0..records).map(|index| {
        let mut record = record(index);
        record.attributes.extend([
            string("code.function.name", "shop.orders.Fulfilment.accept"),
            string("thread.name", "http-nio-8443-exec-7"),
            string("order.id", &format!("{:08}", 7_919 * index)),
            attribute("order.total", Value::DoubleValue(19.99 + index as f64)),
        ]);
        LogRecord { trace_id: trace_id(run), span_id: span_id(), flags: 1, ..record }
    }))
}

/// The decoded form of what a [`TraceTemplate`] numbers, for tests that want to alter it; all spans are
/// number 0 of `run`.
pub fn trace_request(run: u64, spans: usize) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans {
        scope: Some(scope()),
        spans: (0..spans).map(|index| span(run, index)).collect(),
        schema_url: "https://opentelemetry.io/schemas/1.37.0".into(),
    }];
    let resource_spans =
        ResourceSpans { resource: Some(resource()), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// As [`trace_request`], of [traces](crate::traces) that have failed or are slow by their places.
fn scattered_request(run: u64, spans: usize) -> ExportTraceServiceRequest {
    let mut request = trace_request(run, spans);
    let scope = &mut request.resource_spans[0].scope_spans[0];
    for (index, span) in scope.spans.iter_mut().enumerate() {
        let place = index as u64 % 100;
        let failed = Status { message: "upstream timed out".into(), code: 2 };
        span.status = (place == FAILED).then_some(failed);
        if place == SLOW {
            span.end_time_unix_nano = span.start_time_unix_nano + 2_000_000_000;
        }
    }
    request
}

fn span(run: u64, index: usize) -> Span {
    let failed = index % 20 == 19;
    let start = START_NANOS + 1_000_000 * index as u64;
    let mut attributes = vec![
        string("http.request.method", "GET"),
        string("http.route", "/api/v1/orders/{id}"),
        string("url.path", &format!("/api/v1/orders/{:08}", 7_919 * index)),
        attribute("http.response.status_code", Value::IntValue(if failed { 503 } else { 200 })),
        attribute("server.port", Value::IntValue(8_443)),
        string("server.address", "orders.shop.svc.cluster.local"),
        string("user_agent.original", "okhttp/4.12.0"),
        attribute("app.cache.hit", Value::BoolValue(index.is_multiple_of(3))),
        attribute("app.cart.total", Value::DoubleValue(19.99 + index as f64)),
    ];
    if index % 10 == 5 {
        let values = vec![text("beta-checkout".into()), text("eu-central".into())];
        attributes.push(attribute("app.features", Value::ArrayValue(ArrayValue { values })));
    }
    let event = |name: &str| Event {
        time_unix_nano: start + 400_000,
        name: name.into(),
        attributes: vec![string("exception.type", "UpstreamTimeout")],
        ..Event::default()
    };
    Span {
        trace_id: trace_id(run),
        span_id: span_id(),
        parent_span_id: if index.is_multiple_of(10) { Vec::new() } else { 0x5eed_u64.to_be_bytes().to_vec() },
        name: "GET /api/v1/orders/{id}".into(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 850_000,
        attributes,
        events: if failed { vec![event("exception")] } else { Vec::new() },
        status: failed.then(|| Status { message: "upstream timed out".into(), code: 2 }),
        flags: 0x101,
        ..Span::default()
    }
}

/// Of number 0.
fn trace_id(run: u64) -> Vec<u8> {
    [run.to_be_bytes(), [0; 8]].concat()
}

/// Of number 0.
fn span_id() -> Vec<u8> {
    1_u64.to_be_bytes().to_vec()
}

fn record(index: usize) -> LogRecord {
    LogRecord {
        time_unix_nano: START_NANOS + index as u64,
        observed_time_unix_nano: START_NANOS + index as u64 + 1_000,
        severity_number: 9,
        severity_text: "INFO".into(),
        body: Some(text(format!("order {index} accepted and handed to fulfilment"))),
        attributes: vec![attribute("log.index", Value::IntValue(index as i64))],
        ..LogRecord::default()
    }
}

fn logs_of(records: impl Iterator<Item = LogRecord>) -> ExportLogsServiceRequest {
    let scope_logs =
        vec![ScopeLogs { scope: Some(scope()), log_records: records.collect(), ..ScopeLogs::default() }];
    let resource_logs = ResourceLogs { resource: Some(resource()), scope_logs, ..Default::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
}

fn metrics_of(metrics: impl Iterator<Item = Metric>) -> ExportMetricsServiceRequest {
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(scope()), metrics: metrics.collect(), ..ScopeMetrics::default() }];
    let resource_metrics =
        ResourceMetrics { resource: Some(resource()), scope_metrics, ..Default::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

fn metric(index: usize, start: u64, time: u64) -> Metric {
    Metric {
        name: format!("http.server.metric_{}", index % 7),
        unit: "ms".into(),
        data: Some(metric_data(index, start, time)),
        ..Metric::default()
    }
}

fn metric_data(index: usize, start_time_unix_nano: u64, time_unix_nano: u64) -> metric::Data {
    let attributes = vec![string("http.route", "/api/v1/orders/{id}")];
    let number = |value| NumberDataPoint {
        attributes: attributes.clone(),
        start_time_unix_nano,
        time_unix_nano,
        value: Some(value),
        ..NumberDataPoint::default()
    };
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    match index % 3 {
        0 => {
            metric::Data::Gauge(Gauge { data_points: vec![number(number_data_point::Value::AsDouble(0.5))] })
        }
        1 => metric::Data::Sum(Sum {
            data_points: vec![number(number_data_point::Value::AsInt(index as i64))],
            aggregation_temporality,
            is_monotonic: true,
        }),
        _ => metric::Data::Histogram(Histogram {
            data_points: vec![HistogramDataPoint {
                attributes: attributes.clone(),
                start_time_unix_nano,
                time_unix_nano,
                count: 3,
                sum: Some(12.5),
                bucket_counts: vec![1, 2, 0],
                explicit_bounds: vec![5.0, 10.0],
                ..HistogramDataPoint::default()
            }],
            aggregation_temporality,
        }),
    }
}

fn resource() -> Resource {
    let attributes = vec![
        string("service.name", "orders"),
        string("service.namespace", "shop"),
        string("service.version", "2.14.3"),
        string("service.instance.id", "0192f5c0-7c1e-7d3a-9a44-3f3c5b2f8d10"),
        string("k8s.namespace.name", "shop"),
        string("k8s.pod.name", "orders-6d5f7c9b8-x2x7k"),
        string("telemetry.sdk.language", "rust"),
    ];
    Resource { attributes, ..Resource::default() }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "io.opentelemetry.okhttp-3.0".into(),
        version: "2.9.0".into(),
        ..InstrumentationScope::default()
    }
}

fn text(value: String) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(value)) }
}

fn string(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
