//! Telemetry in brief: one line a batch, one line an item.

use std::fmt;

use watershed_stage::{Payload, Signal};
use watershed_telemetry::view::{Attributes, MetricData, NumberPointView, ResourceGroup};

use crate::text::{Clean, Figure, Hex, Page, Pairs, Plain};

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

/// One line an item of a resource: what it is called, and its attributes.
pub(crate) fn lines(group: &ResourceGroup<'_>, page: &mut Page<'_>) -> fmt::Result {
    for scope in group.scopes() {
        for span in scope.spans() {
            let (trace, id) = (Hex(span.trace_id()), Hex(span.span_id()));
            line(page, format_args!("{} {trace} {id}{}", Clean(span.name()), Pairs(span.attributes())))?;
        }
        for metric in scope.metrics() {
            let name = Clean(metric.name());
            match metric.data() {
                Some(MetricData::Gauge(gauge)) => numbers(page, &name, gauge.data_points())?,
                Some(MetricData::Sum(sum)) => numbers(page, &name, sum.data_points())?,
                Some(MetricData::Histogram(histogram)) => {
                    histogram
                        .data_points()
                        .try_for_each(|p| counts(page, &name, p.attributes(), p.count()))?;
                }
                Some(MetricData::ExponentialHistogram(histogram)) => {
                    histogram
                        .data_points()
                        .try_for_each(|p| counts(page, &name, p.attributes(), p.count()))?;
                }
                Some(MetricData::Summary(summary)) => {
                    summary.data_points().try_for_each(|p| counts(page, &name, p.attributes(), p.count()))?;
                }
                None => line(page, format_args!("{name}"))?,
            }
        }
        for record in scope.log_records() {
            let (severity, body) = (Clean(record.severity_text()), Plain(record.body()));
            line(page, format_args!("{severity} {body}{}", Pairs(record.attributes())))?;
        }
    }
    Ok(())
}

fn numbers<'a>(
    page: &mut Page<'_>,
    name: &Clean<'_>,
    points: impl Iterator<Item = NumberPointView<'a>>,
) -> fmt::Result {
    let mut points = points.map(|point| (point.attributes(), Figure(point.value())));
    points.try_for_each(|(attributes, value)| line(page, format_args!("{name}{} {value}", Pairs(attributes))))
}

fn counts(page: &mut Page<'_>, name: &Clean<'_>, attributes: Attributes<'_>, count: u64) -> fmt::Result {
    line(page, format_args!("{name}{} count={count}", Pairs(attributes)))
}

fn line(page: &mut Page<'_>, text: fmt::Arguments<'_>) -> fmt::Result {
    fmt::Write::write_fmt(page, text)?;
    page.end();
    Ok(())
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

    use super::{Page, Payload, Signal, summary};

    fn lines(payload: &Payload) -> Vec<String> {
        let mut lines = Vec::new();
        let mut emit = |line: &str| lines.push(line.to_owned());
        let mut page = Page::new(&mut emit);
        payload.resources().for_each(|group| super::lines(&group, &mut page).unwrap());
        lines
    }

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
