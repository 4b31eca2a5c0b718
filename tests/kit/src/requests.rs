//! Requests as prebuilt bytes: realistic spans whose identity is patched in place, and small metrics and logs.

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
use crate::wire;

const START_NANOS: u64 = 1_760_000_000_000_000_000;

/// Who sent a span: the run, and its number in the run.
///
/// On the wire: `trace_id` is run then sequence, `span_id` is sequence + 1 (zero is no id), all big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanKey {
    /// The loader's run.
    pub run: u64,
    /// The span's number in the run.
    pub seq: u64,
}

impl SpanKey {
    /// Reads the key back; `None` if the ids are not the kit's own, or damaged.
    pub fn read(trace_id: &[u8], span_id: &[u8]) -> Option<SpanKey> {
        let (run, low) = trace_id.split_first_chunk::<8>()?;
        let seq = u64::from_be_bytes(low.try_into().ok()?);
        let span = u64::from_be_bytes(span_id.try_into().ok()?);
        (seq.checked_add(1)? == span).then_some(SpanKey { run: u64::from_be_bytes(*run), seq })
    }
}

/// An `ExportTraceServiceRequest` of a fixed number of spans, about 404 B each with their share of the
/// resource, framed for gRPC. Numbering a copy costs a memcpy and one small patch a span.
#[derive(Clone, Debug)]
pub struct TraceTemplate {
    framed: Bytes,
    /// Where in `framed` each span's trace id starts.
    ids: Vec<usize>,
}

// From the start of the trace id: 16 bytes of it, tag and length of the span id, 8 bytes of that.
const SPAN_ID: usize = 18;

impl TraceTemplate {
    /// A template of `spans` spans that belong to `run`.
    pub fn new(run: u64, spans: usize) -> TraceTemplate {
        let framed = frame(&trace_request(run, spans).encode_to_vec());
        let base = framed.as_ptr() as usize;
        let mut ids = Vec::with_capacity(spans);
        for resource in wire::children(&framed[FRAME_HEADER..], 1).flatten() {
            for scope in wire::children(resource, 2).flatten() {
                for span in wire::children(scope, 2).flatten() {
                    let trace_id = wire::children(span, 1).flatten().next().unwrap_or_default();
                    ids.push(trace_id.as_ptr() as usize - base);
                }
            }
        }
        TraceTemplate { framed, ids }
    }

    /// Spans in a request.
    pub fn spans(&self) -> u64 {
        self.ids.len() as u64
    }

    /// Bytes of the message, without its frame.
    pub fn message_len(&self) -> usize {
        self.framed.len() - FRAME_HEADER
    }

    /// The message (no frame) whose spans are numbered from `first`.
    pub fn message(&self, first: u64) -> Bytes {
        self.framed(first).slice(FRAME_HEADER..)
    }

    /// The framed message whose spans are numbered from `first`.
    pub fn framed(&self, first: u64) -> Bytes {
        self.reuse(Bytes::new(), first)
    }

    /// As [`TraceTemplate::framed`], in the buffer of an earlier request of this template where nobody else
    /// holds it any more.
    pub fn reuse(&self, earlier: Bytes, first: u64) -> Bytes {
        let reusable = earlier.len() == self.framed.len();
        let mut buffer = match earlier.try_into_mut() {
            Ok(buffer) if reusable => buffer,
            _ => BytesMut::from(&self.framed[..]),
        };
        for (seq, at) in (first..).zip(&self.ids) {
            buffer[at + 8..at + 16].copy_from_slice(&seq.to_be_bytes());
            buffer[at + SPAN_ID..at + SPAN_ID + 8].copy_from_slice(&(seq + 1).to_be_bytes());
        }
        buffer.freeze()
    }
}

/// Puts the gRPC frame header (uncompressed) before `message`.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(FRAME_HEADER + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a gRPC message is smaller than 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

/// A metrics request (no frame) of `points` data points: a gauge, a sum and a histogram in turn.
pub fn metrics(points: usize) -> Bytes {
    let metrics = (0..points).map(|index| Metric {
        name: format!("http.server.metric_{}", index % 7),
        unit: "ms".into(),
        data: Some(metric_data(index)),
        ..Metric::default()
    });
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(scope()), metrics: metrics.collect(), ..ScopeMetrics::default() }];
    let resource_metrics =
        ResourceMetrics { resource: Some(resource()), scope_metrics, ..Default::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }.encode_to_vec().into()
}

/// A logs request (no frame) of `records` log records.
pub fn logs(records: usize) -> Bytes {
    let log_records = (0..records).map(|index| LogRecord {
        time_unix_nano: START_NANOS + index as u64,
        observed_time_unix_nano: START_NANOS + index as u64 + 1_000,
        severity_number: 9,
        severity_text: "INFO".into(),
        body: Some(text(format!("order {index} accepted and handed to fulfilment"))),
        attributes: vec![attribute("log.index", Value::IntValue(index as i64))],
        ..LogRecord::default()
    });
    let scope_logs =
        vec![ScopeLogs { scope: Some(scope()), log_records: log_records.collect(), ..ScopeLogs::default() }];
    let resource_logs = ResourceLogs { resource: Some(resource()), scope_logs, ..Default::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }.encode_to_vec().into()
}

/// The decoded form of what [`TraceTemplate`] numbers, for tests that want to alter it; all spans are
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
        trace_id: [run.to_be_bytes(), [0; 8]].concat(),
        span_id: 1_u64.to_be_bytes().to_vec(),
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

fn metric_data(index: usize) -> metric::Data {
    let time_unix_nano = START_NANOS + index as u64;
    let attributes = vec![string("http.route", "/api/v1/orders/{id}")];
    let number = |value| NumberDataPoint {
        attributes: attributes.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbering_survives_a_decoder() {
        let template = TraceTemplate::new(0xabcd, 100);
        let earlier = template.framed(9_000);
        let request = template.reuse(earlier, 500).slice(FRAME_HEADER..);
        let decoded = ExportTraceServiceRequest::decode(request).unwrap();
        let spans = &decoded.resource_spans[0].scope_spans[0].spans;
        for (seq, span) in (500..).zip(spans) {
            let key = SpanKey::read(&span.trace_id, &span.span_id);
            assert_eq!(key, Some(SpanKey { run: 0xabcd, seq }));
        }
        assert_eq!(spans.len(), 100);
    }

    #[test]
    fn a_span_is_about_404_bytes() {
        let template = TraceTemplate::new(1, 100);
        let each = template.message_len() / 100;
        assert!((400..=408).contains(&each), "{each}");
    }

    #[test]
    fn a_buffer_still_held_is_not_overwritten() {
        let template = TraceTemplate::new(1, 2);
        let held = template.framed(0);
        let copy = held.clone();
        assert_ne!(template.reuse(held, 10), copy);
        assert_eq!(copy, template.framed(0));
    }

    #[test]
    fn foreign_ids_have_no_key() {
        assert_eq!(SpanKey::read(&[7; 16], &[7; 8]), None);
        assert_eq!(SpanKey::read(&[7; 15], &[7; 8]), None);
    }
}
