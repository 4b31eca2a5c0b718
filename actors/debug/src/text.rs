//! Telemetry as text: one line a batch, one line an item.

use watershed_stage::{Payload, Signal};
use watershed_telemetry::view::{AnyValueView, Attributes, MetricData, Number, NumberPointView, Value};

/// Counts of a batch: `traces: resource spans 2, spans 200, 81234 bytes`.
pub(crate) fn summary(payload: &Payload) -> String {
    let (groups, items) = match payload.signal() {
        Signal::Traces => ("resource spans", "spans"),
        Signal::Metrics => ("resource metrics", "data points"),
        Signal::Logs => ("resource logs", "log records"),
    };
    let resources = payload.resources().count();
    format!(
        "{}: {groups} {resources}, {items} {}, {} bytes",
        payload.signal(),
        payload.items(),
        payload.bytes()
    )
}

/// One line an item: what it is called, and its attributes.
pub(crate) fn lines(payload: &Payload) -> Vec<String> {
    let mut lines = Vec::new();
    for scope in payload.resources().flat_map(|resource| resource.scopes()) {
        for span in scope.spans() {
            let (trace, id) = (hex(span.trace_id()), hex(span.span_id()));
            lines.push(format!("{} {trace} {id}{}", span.name(), pairs(span.attributes())));
        }
        for metric in scope.metrics() {
            let name = metric.name();
            match metric.data() {
                Some(MetricData::Gauge(gauge)) => lines.extend(gauge.data_points().map(|p| number(name, &p))),
                Some(MetricData::Sum(sum)) => lines.extend(sum.data_points().map(|p| number(name, &p))),
                Some(MetricData::Histogram(histogram)) => lines.extend(
                    histogram
                        .data_points()
                        .map(|p| format!("{name}{} count={}", pairs(p.attributes()), p.count())),
                ),
                Some(MetricData::ExponentialHistogram(histogram)) => lines.extend(
                    histogram
                        .data_points()
                        .map(|p| format!("{name}{} count={}", pairs(p.attributes()), p.count())),
                ),
                Some(MetricData::Summary(summary)) => lines.extend(
                    summary
                        .data_points()
                        .map(|p| format!("{name}{} count={}", pairs(p.attributes()), p.count())),
                ),
                None => lines.push(name.to_owned()),
            }
        }
        for record in scope.log_records() {
            let body = text(record.body());
            lines.push(format!("{} {body}{}", record.severity_text(), pairs(record.attributes())));
        }
    }
    lines
}

fn number(name: &str, point: &NumberPointView<'_>) -> String {
    let value = match point.value() {
        Some(Number::Int(value)) => value.to_string(),
        Some(Number::Double(value)) => value.to_string(),
        None => "no value".to_owned(),
    };
    format!("{name}{} {value}", pairs(point.attributes()))
}

fn pairs(attributes: Attributes<'_>) -> String {
    attributes.map(|attribute| format!(" {}={}", attribute.key(), text(attribute.value()))).collect()
}

fn text(value: AnyValueView<'_>) -> String {
    match value.value() {
        Value::Empty => String::new(),
        Value::Str(text) => text.to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        // Values nest no deeper than validation lets them.
        Value::Array(values) => format!("[{}]", values.map(text).collect::<Vec<_>>().join(",")),
        Value::KvList(pairs_in) => format!("{{{}}}", pairs(pairs_in).trim_start()),
        Value::Bytes(bytes) => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Point;
    use opentelemetry_proto::tonic::metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
        NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint,
    };
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message;

    use super::*;

    fn any(value: Any) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    fn pair(key: &str, value: Any) -> KeyValue {
        KeyValue { key: key.into(), value: Some(any(value)), ..Default::default() }
    }

    fn word(word: &str) -> Any {
        Any::StringValue(word.into())
    }

    fn payload(signal: Signal, request: &impl Message) -> Payload {
        Payload::validate(signal, request.encode_to_vec().into()).unwrap()
    }

    #[test]
    fn spans() {
        let span = |name: &str, attributes| Span {
            name: name.into(),
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            attributes,
            ..Default::default()
        };
        let scope = |spans| ScopeSpans { spans, ..Default::default() };
        let one = ResourceSpans {
            scope_spans: vec![
                scope(vec![span("a", vec![pair("k", word("v")), pair("n", Any::IntValue(-3))])]),
                scope(vec![span("b", vec![])]),
            ],
            ..Default::default()
        };
        let request = ExportTraceServiceRequest { resource_spans: vec![one, ResourceSpans::default()] };
        let payload = payload(Signal::Traces, &request);
        let bytes = request.encoded_len();
        assert_eq!(summary(&payload), format!("traces: resource spans 2, spans 2, {bytes} bytes"));
        let ids = format!("{} {}", "ab".repeat(16), "01".repeat(8));
        assert_eq!(lines(&payload), [format!("a {ids} k=v n=-3"), format!("b {ids}")]);
    }

    #[test]
    fn metrics_of_all_kinds() {
        let attributes = || vec![pair("k", word("v"))];
        let number = |value| NumberDataPoint { value, attributes: attributes(), ..Default::default() };
        let metric = |name: &str, data| Metric { name: name.into(), data, ..Default::default() };
        let points = vec![number(Some(Point::AsInt(3))), number(None)];
        let sum = Sum { data_points: vec![number(Some(Point::AsDouble(1.5)))], ..Default::default() };
        let histogram = HistogramDataPoint { count: 4, attributes: attributes(), ..Default::default() };
        let exponential = ExponentialHistogramDataPoint { count: 5, ..Default::default() };
        let quantiles = SummaryDataPoint { count: 6, ..Default::default() };
        let metrics = vec![
            metric("gauge", Some(Data::Gauge(Gauge { data_points: points }))),
            metric("sum", Some(Data::Sum(sum))),
            metric(
                "histogram",
                Some(Data::Histogram(Histogram { data_points: vec![histogram], ..Default::default() })),
            ),
            metric(
                "exponential",
                Some(Data::ExponentialHistogram(ExponentialHistogram {
                    data_points: vec![exponential],
                    ..Default::default()
                })),
            ),
            metric("summary", Some(Data::Summary(Summary { data_points: vec![quantiles] }))),
            metric("empty", None),
        ];
        let scope_metrics = vec![ScopeMetrics { metrics, ..Default::default() }];
        let resource_metrics = vec![ResourceMetrics { scope_metrics, ..Default::default() }];
        let payload = payload(Signal::Metrics, &ExportMetricsServiceRequest { resource_metrics });
        let said = summary(&payload);
        assert!(said.starts_with("metrics: resource metrics 1, data points 6, "), "{said}");
        assert_eq!(
            lines(&payload),
            [
                "gauge k=v 3",
                "gauge k=v no value",
                "sum k=v 1.5",
                "histogram k=v count=4",
                "exponential count=5",
                "summary count=6",
                "empty",
            ]
        );
    }

    #[test]
    fn log_records_with_values_of_all_types() {
        let inner = vec![pair("x", Any::BytesValue(vec![0x0a, 0xff])), pair("y", Any::BoolValue(true))];
        let body = any(Any::ArrayValue(ArrayValue {
            values: vec![
                any(word("s")),
                any(Any::DoubleValue(0.5)),
                AnyValue { value: None },
                any(Any::KvlistValue(KeyValueList { values: inner })),
            ],
        }));
        let record = |severity: &str, body| LogRecord {
            severity_text: severity.into(),
            body,
            attributes: vec![pair("k", word("v"))],
            ..Default::default()
        };
        let log_records = vec![record("WARN", Some(body)), record("INFO", None)];
        let scope_logs = vec![ScopeLogs { log_records, ..Default::default() }];
        let resource_logs = vec![ResourceLogs { scope_logs, ..Default::default() }];
        let payload = payload(Signal::Logs, &ExportLogsServiceRequest { resource_logs });
        let said = summary(&payload);
        assert!(said.starts_with("logs: resource logs 1, log records 2, "), "{said}");
        assert_eq!(lines(&payload), ["WARN [s,0.5,,{x=0aff y=true}] k=v", "INFO  k=v"]);
    }
}
