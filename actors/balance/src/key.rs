//! What an item is routed by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::Signal;
use watershed_telemetry::deal::{Grain, Unit};
use watershed_telemetry::retain::{Element, Place};
use watershed_telemetry::view::{AnyValueView, Attributes, MetricData, MetricView, Value};

use crate::ring::{hash, mix};

/// What items are routed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RoutingKey {
    /// The trace id of spans and log records, so that traces stay whole.
    #[serde(rename = "traceID")]
    TraceId,
    /// The resource's `service.name`.
    #[serde(rename = "service")]
    Service,
    /// All attributes of the resource.
    #[serde(rename = "resource")]
    Resource,
    /// The name of the metric.
    #[serde(rename = "metric")]
    Metric,
    /// All that identifies a metric's stream: resource, scope, metric and the data point's attributes.
    #[serde(rename = "streamID")]
    StreamId,
    /// The attributes that `routing_attributes` names.
    #[serde(rename = "attributes")]
    Attributes,
}

/// Reads keys off one signal.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    key: RoutingKey,
    /// The names of attributes, for [`RoutingKey::Attributes`].
    attributes: Vec<Box<str>>,
    /// The key that was read last.
    bytes: Vec<u8>,
}

// === impl RoutingKey ===

impl RoutingKey {
    /// What a signal is routed by unless told, as in otelcol.
    pub(crate) fn usual(signal: Signal) -> Self {
        match signal {
            Signal::Traces | Signal::Logs => Self::TraceId,
            Signal::Metrics => Self::Service,
        }
    }

    /// The signals that have it.
    pub(crate) fn signals(self) -> &'static [Signal] {
        match self {
            Self::TraceId => &[Signal::Traces, Signal::Logs],
            Self::Metric | Self::StreamId => &[Signal::Metrics],
            Self::Service | Self::Resource | Self::Attributes => &Signal::ALL,
        }
    }

    /// How finely a payload comes apart.
    fn grain(self, signal: Signal) -> Grain {
        match self {
            Self::Service | Self::Resource => Grain::Groups,
            Self::StreamId => Grain::Points,
            Self::Attributes if signal == Signal::Metrics => Grain::Points,
            Self::TraceId | Self::Metric | Self::Attributes => Grain::Items,
        }
    }
}

// === impl Keys ===

impl Keys {
    pub(crate) fn new(key: RoutingKey, attributes: &[String]) -> Self {
        let attributes = attributes.iter().map(|name| name.as_str().into()).collect();
        Self { key, attributes, bytes: Vec::new() }
    }

    pub(crate) fn grain(&self, signal: Signal) -> Grain {
        self.key.grain(signal)
    }

    /// The key of a unit; `None` where it may go anywhere, as what belongs to no trace does.
    pub(crate) fn of(&mut self, unit: &Unit<'_>) -> Option<&[u8]> {
        self.bytes.clear();
        match (self.key, unit) {
            (RoutingKey::TraceId, Unit::Item(_, element)) => {
                let id = match element {
                    Element::Span(span) => span.trace_id(),
                    Element::LogRecord(record) => record.trace_id(),
                    _ => &[],
                };
                // All zeros is no id, either.
                if id.iter().all(|byte| *byte == 0) {
                    return None;
                }
                self.bytes.extend_from_slice(id);
            }
            (RoutingKey::Service, Unit::Group(group)) => {
                self.text(group.resource().attributes().find("service.name"));
            }
            (RoutingKey::Resource, Unit::Group(group)) => {
                let of = of_attributes(group.resource().attributes());
                self.bytes.extend_from_slice(&of.to_be_bytes());
            }
            (RoutingKey::Metric, Unit::Item(_, Element::Metric(metric))) => {
                self.bytes.extend_from_slice(metric.name().as_bytes());
            }
            (RoutingKey::StreamId, Unit::Item(place, Element::DataPoint(metric, point))) => {
                let of = of_attributes(point.attributes()) ^ mix(of_metric(place, metric));
                self.bytes.extend_from_slice(&of.to_be_bytes());
            }
            (RoutingKey::Attributes, Unit::Item(place, element)) => self.attributes(place, element),
            // The grain of each key gives its own units only.
            _ => return None,
        }
        Some(&self.bytes)
    }

    /// As otelcol reads it: a value that is no text is none.
    fn text(&mut self, value: Option<AnyValueView<'_>>) {
        let text = value.and_then(|value| value.as_str()).unwrap_or_default();
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// The named attributes, one after another: of the resource, else of the scope, else of the item. Some names stand
    /// for fields of the item.
    fn attributes(&mut self, place: &Place<'_>, element: &Element<'_>) {
        let names = std::mem::take(&mut self.attributes);
        for name in &names {
            let around = [place.group.resource().attributes(), place.scope.scope().attributes()];
            if let Some(value) = around.iter().find_map(|attributes| attributes.find(name)) {
                self.text(Some(value));
                continue;
            }
            match (&**name, element) {
                ("span.name", Element::Span(span)) => self.bytes.extend_from_slice(span.name().as_bytes()),
                ("span.kind", Element::Span(span)) => {
                    self.bytes.extend_from_slice(span_kind(span.kind()).as_bytes());
                }
                ("log.severity", Element::LogRecord(record)) => {
                    self.bytes.extend_from_slice(record.severity_text().as_bytes());
                }
                ("log.body", Element::LogRecord(record)) => match record.body().value() {
                    Value::Str(text) => self.bytes.extend_from_slice(text.as_bytes()),
                    _ => self.bytes.extend_from_slice(&of_value(record.body()).to_be_bytes()),
                },
                (name, Element::Span(span)) => self.text(span.attributes().find(name)),
                (name, Element::LogRecord(record)) => self.text(record.attributes().find(name)),
                (name, Element::DataPoint(_, point)) => self.text(point.attributes().find(name)),
                _ => {}
            }
        }
        self.attributes = names;
    }
}

/// A span's kind, as the Go collector writes it.
fn span_kind(kind: i32) -> &'static str {
    match kind {
        0 => "Unspecified",
        1 => "Internal",
        2 => "Server",
        3 => "Client",
        4 => "Producer",
        5 => "Consumer",
        _ => "",
    }
}

/// What identifies a metric, with all around it.
fn of_metric(place: &Place<'_>, metric: &MetricView<'_>) -> u64 {
    let (kind, temporality, monotonic) = match metric.data() {
        None => (0, 0, false),
        Some(MetricData::Gauge(_)) => (1, 0, false),
        Some(MetricData::Sum(sum)) => (2, sum.aggregation_temporality(), sum.is_monotonic()),
        Some(MetricData::Histogram(histogram)) => (3, histogram.aggregation_temporality(), false),
        Some(MetricData::ExponentialHistogram(histogram)) => (4, histogram.aggregation_temporality(), false),
        Some(MetricData::Summary(_)) => (5, 0, false),
    };
    let scope = place.scope.scope();
    let of = mix(of_attributes(place.group.resource().attributes())) ^ of_attributes(scope.attributes());
    let texts = [scope.name(), scope.version(), metric.name(), metric.unit()];
    let of = texts.iter().fold(of, |of, text| hash(of, text.as_bytes()));
    hash(of, &[kind, temporality as u8, u8::from(monotonic)])
}

/// Whatever their order.
fn of_attributes(attributes: Attributes<'_>) -> u64 {
    let of = |(key, value): (&str, AnyValueView<'_>)| mix(hash(of_value(value), key.as_bytes()));
    attributes.map(|attribute| of((attribute.key(), attribute.value()))).fold(0, u64::wrapping_add)
}

fn of_value(value: AnyValueView<'_>) -> u64 {
    match value.value() {
        Value::Empty => 0,
        Value::Str(text) => hash(1, text.as_bytes()),
        Value::Bool(value) => hash(2, &[u8::from(value)]),
        Value::Int(value) => hash(3, &value.to_be_bytes()),
        Value::Double(value) => hash(4, &value.to_bits().to_be_bytes()),
        Value::Array(values) => values.fold(5, |all, value| mix(all ^ of_value(value)).wrapping_add(1)),
        Value::KvList(attributes) => hash(6, &of_attributes(attributes).to_be_bytes()),
        Value::Bytes(bytes) => hash(7, bytes),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message as _;
    use watershed_stage::Payload;
    use watershed_telemetry::deal::deal;

    use super::*;

    fn text(text: &str) -> Option<AnyValue> {
        Some(AnyValue { value: Some(any_value::Value::StringValue(text.into())) })
    }

    fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
        let attribute = |(key, value): &(&str, &str)| KeyValue {
            key: (*key).into(),
            value: text(value),
            ..KeyValue::default()
        };
        pairs.iter().map(attribute).collect()
    }

    fn resource(pairs: &[(&str, &str)]) -> Option<Resource> {
        Some(Resource { attributes: attributes(pairs), ..Resource::default() })
    }

    /// The keys of all units.
    fn keys(signal: Signal, key: RoutingKey, names: &[&str], request: Vec<u8>) -> Vec<Option<Vec<u8>>> {
        let payload = Payload::validate(signal, request.into()).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut keys = Keys::new(key, &names);
        let mut read = Vec::new();
        deal(&payload, keys.grain(signal), 2, |unit| {
            read.push(keys.of(&unit).map(<[u8]>::to_vec));
            0
        });
        read
    }

    fn spans(pairs: &[(&str, &str)], spans: Vec<Span>) -> Vec<u8> {
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let group = ResourceSpans { resource: resource(pairs), scope_spans, ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![group.clone(), group] }.encode_to_vec()
    }

    fn span(id: u8) -> Span {
        Span { trace_id: vec![id; 16], name: format!("GET /{id}"), kind: 2, ..Span::default() }
    }

    #[test]
    fn a_trace_id_is_its_bytes_and_none_is_no_key() {
        let request = spans(&[], vec![span(1), span(2), span(0)]);
        let once = [Some(vec![1; 16]), Some(vec![2; 16]), None];
        assert_eq!(keys(Signal::Traces, RoutingKey::TraceId, &[], request), [once.clone(), once].concat());
        let records = vec![LogRecord { trace_id: vec![3; 16], ..LogRecord::default() }, LogRecord::default()];
        let scope_logs = vec![ScopeLogs { log_records: records, ..ScopeLogs::default() }];
        let request = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }],
        };
        let read = keys(Signal::Logs, RoutingKey::TraceId, &[], request.encode_to_vec());
        assert_eq!(read, [Some(vec![3; 16]), None]);
    }

    #[test]
    fn a_service_is_its_name_and_a_group_without_one_has_an_empty_key() {
        let request = spans(&[("host.name", "h"), ("service.name", "shop")], vec![span(1), span(2)]);
        let read = keys(Signal::Traces, RoutingKey::Service, &[], request);
        assert_eq!(read, [Some(b"shop".to_vec()), Some(b"shop".to_vec())]);
        assert_eq!(
            keys(Signal::Traces, RoutingKey::Service, &[], spans(&[], vec![span(1)])),
            [Some(vec![]), Some(vec![])]
        );
    }

    #[test]
    fn a_resource_is_the_same_in_any_order() {
        let read = |pairs: &[(&str, &str)]| {
            keys(Signal::Traces, RoutingKey::Resource, &[], spans(pairs, vec![span(1)]))
        };
        assert_eq!(read(&[("a", "1"), ("b", "2")]), read(&[("b", "2"), ("a", "1")]));
        assert_ne!(read(&[("a", "1"), ("b", "2")]), read(&[("a", "2"), ("b", "1")]));
        assert_ne!(read(&[("a", "1")]), read(&[("a", "1"), ("a", "1")]));
    }

    #[test]
    fn attributes_are_laid_end_to_end_and_some_names_are_fields() {
        let mut one = span(1);
        one.attributes = attributes(&[("tenant", "of the span"), ("zone", "z")]);
        let request = spans(&[("tenant", "blue")], vec![one, span(2)]);
        let names = ["tenant", "zone", "span.kind", "span.name", "nowhere"];
        let read = keys(Signal::Traces, RoutingKey::Attributes, &names, request);
        assert_eq!(read[..2], [Some(b"bluezServerGET /1".to_vec()), Some(b"blueServerGET /2".to_vec())]);

        let record = LogRecord { severity_text: "WARN".into(), body: text("full"), ..LogRecord::default() };
        let scope =
            Some(InstrumentationScope { attributes: attributes(&[("lib", "s")]), ..Default::default() });
        let scope_logs = vec![ScopeLogs { scope, log_records: vec![record], ..ScopeLogs::default() }];
        let request = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }],
        };
        let names = ["log.severity", "lib", "log.body"];
        let read = keys(Signal::Logs, RoutingKey::Attributes, &names, request.encode_to_vec());
        assert_eq!(read, [Some(b"WARNsfull".to_vec())]);
    }

    #[test]
    fn metrics_go_by_name_or_by_stream() {
        let metric = |name: &str, points: &[&[(&str, &str)]]| {
            let point = |pairs: &&[(&str, &str)]| NumberDataPoint {
                attributes: attributes(pairs),
                ..Default::default()
            };
            let data = Some(Data::Gauge(Gauge { data_points: points.iter().map(point).collect() }));
            Metric { name: name.into(), data, ..Metric::default() }
        };
        let metrics = vec![
            metric("a", &[&[("x", "1"), ("y", "2")], &[("y", "2"), ("x", "1")], &[("x", "1")]]),
            metric("b", &[&[("x", "1")]]),
        ];
        let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
        let group = ResourceMetrics { scope_metrics, ..ResourceMetrics::default() };
        let request = ExportMetricsServiceRequest { resource_metrics: vec![group] }.encode_to_vec();
        let read = keys(Signal::Metrics, RoutingKey::Metric, &[], request.clone());
        assert_eq!(read, [Some(b"a".to_vec()), Some(b"b".to_vec())]);
        let read = keys(Signal::Metrics, RoutingKey::StreamId, &[], request);
        assert_eq!(read.len(), 4);
        assert_eq!(read[0], read[1]);
        let others: std::collections::BTreeSet<_> = read[1..].iter().collect();
        assert_eq!(others.len(), 3);
    }
}
