//! Telemetry in full, laid out as otelcol's `otlptext` does. Numbers are written so that they can be read back.

use std::fmt;
use std::fmt::Write as _;

use watershed_stage::Signal;
use watershed_telemetry::view::{
    AnyValueView, Attributes, EventView, LinkView, LogRecordView, ResourceGroup, ScopeGroup, SpanView, Value,
};

use crate::points;
use crate::text::{Clean, Hex, Page, Plain};

/// A value with its type: `Str(a)`, `Slice([a,b])`.
pub(crate) struct Typed<'a>(pub(crate) AnyValueView<'a>);

/// A moment in nanoseconds since the Unix epoch, as Go prints it.
pub(crate) struct At(pub(crate) u64);

/// The name of a number that protobuf keeps open.
struct Named(&'static [&'static str], i32);

const KINDS: [&str; 6] = ["Unspecified", "Internal", "Server", "Client", "Producer", "Consumer"];
const STATUSES: [&str; 3] = ["Unset", "Ok", "Error"];
const SEVERITIES: [&str; 7] = ["Unspecified", "Trace", "Debug", "Info", "Warn", "Error", "Fatal"];

/// All of a resource. Each span, metric, data point and log record is an event of its own in the log.
pub(crate) fn resource(
    index: usize,
    group: &ResourceGroup<'_>,
    signal: Signal,
    page: &mut Page<'_>,
) -> fmt::Result {
    let of = match signal {
        Signal::Traces => "Spans",
        Signal::Metrics => "Metrics",
        Signal::Logs => "Logs",
    };
    let resource = group.resource();
    writeln!(page, "Resource{of} #{index}\nResource SchemaURL: {}", Clean(group.schema_url()))?;
    attributes(page, "Resource attributes:", "     ", resource.attributes())?;
    dropped(page, "", resource.dropped_attributes_count())?;
    for (index, entity) in resource.entity_refs().enumerate() {
        writeln!(page, "Entity #{index}\n     -> Type: {}", Clean(entity.entity_type()))?;
        writeln!(page, "     -> SchemaURL: {}", Clean(entity.schema_url()))?;
        entity.id_keys().try_for_each(|key| writeln!(page, "     -> Id key: {}", Clean(key)))?;
        entity
            .description_keys()
            .try_for_each(|key| writeln!(page, "     -> Description key: {}", Clean(key)))?;
    }
    page.end();
    for (index, scope) in group.scopes().enumerate() {
        writeln!(page, "Scope{of} #{index}")?;
        self::scope(page, of, &scope)?;
        page.end();
        scope.spans().enumerate().try_for_each(|(index, each)| span(page, index, &each))?;
        scope.metrics().enumerate().try_for_each(|(index, each)| points::metric(page, index, &each))?;
        scope.log_records().enumerate().try_for_each(|(index, each)| record(page, index, &each))?;
    }
    Ok(())
}

fn scope(page: &mut Page<'_>, of: &str, group: &ScopeGroup<'_>) -> fmt::Result {
    let scope = group.scope();
    writeln!(page, "Scope{of} SchemaURL: {}", Clean(group.schema_url()))?;
    writeln!(page, "InstrumentationScope {} {}", Clean(scope.name()), Clean(scope.version()))?;
    attributes(page, "InstrumentationScope attributes:", "     ", scope.attributes())?;
    dropped(page, "", scope.dropped_attributes_count())
}

fn span(page: &mut Page<'_>, index: usize, span: &SpanView<'_>) -> fmt::Result {
    writeln!(page, "Span #{index}")?;
    writeln!(page, "    Trace ID       : {}", Hex(span.trace_id()))?;
    writeln!(page, "    Parent ID      : {}", Hex(span.parent_span_id()))?;
    writeln!(page, "    ID             : {}", Hex(span.span_id()))?;
    writeln!(page, "    Name           : {}", Clean(span.name()))?;
    writeln!(page, "    Kind           : {}", Named(&KINDS, span.kind()))?;
    if !span.trace_state().is_empty() {
        writeln!(page, "    TraceState     : {}", Clean(span.trace_state()))?;
    }
    writeln!(page, "    Start time     : {}", At(span.start_time_unix_nano()))?;
    writeln!(page, "    End time       : {}", At(span.end_time_unix_nano()))?;
    writeln!(page, "    Status code    : {}", Named(&STATUSES, span.status().code()))?;
    writeln!(page, "    Status message : {}", Clean(span.status().message()))?;
    if span.flags() != 0 {
        writeln!(page, "    Flags          : {}", span.flags())?;
    }
    for (what, count) in [
        ("attributes", span.dropped_attributes_count()),
        ("events", span.dropped_events_count()),
        ("links", span.dropped_links_count()),
    ] {
        if count > 0 {
            writeln!(page, "    Dropped {what}: {count}")?;
        }
    }
    attributes(page, "Attributes:", "     ", span.attributes())?;
    list(page, "Events:", span.events(), event)?;
    list(page, "Links:", span.links(), link)?;
    page.end();
    Ok(())
}

fn event(page: &mut Page<'_>, index: usize, event: &EventView<'_>) -> fmt::Result {
    writeln!(page, "SpanEvent #{index}\n     -> Name: {}", Clean(event.name()))?;
    writeln!(page, "     -> Timestamp: {}", At(event.time_unix_nano()))?;
    dropped(page, "     -> ", event.dropped_attributes_count())?;
    attributes(page, "     -> Attributes::", "          ", event.attributes())
}

fn link(page: &mut Page<'_>, index: usize, link: &LinkView<'_>) -> fmt::Result {
    writeln!(page, "SpanLink #{index}\n     -> Trace ID: {}", Hex(link.trace_id()))?;
    writeln!(page, "     -> ID: {}", Hex(link.span_id()))?;
    writeln!(page, "     -> TraceState: {}", Clean(link.trace_state()))?;
    if link.flags() != 0 {
        writeln!(page, "     -> Flags: {}", link.flags())?;
    }
    dropped(page, "     -> ", link.dropped_attributes_count())?;
    attributes(page, "     -> Attributes::", "          ", link.attributes())
}

fn record(page: &mut Page<'_>, index: usize, record: &LogRecordView<'_>) -> fmt::Result {
    writeln!(page, "LogRecord #{index}")?;
    writeln!(page, "ObservedTimestamp: {}", At(record.observed_time_unix_nano()))?;
    writeln!(page, "Timestamp: {}", At(record.time_unix_nano()))?;
    writeln!(page, "SeverityText: {}", Clean(record.severity_text()))?;
    let number = record.severity_number();
    writeln!(page, "SeverityNumber: {}({number})", severity(number))?;
    if !record.event_name().is_empty() {
        writeln!(page, "EventName: {}", Clean(record.event_name()))?;
    }
    writeln!(page, "Body: {}", Typed(record.body()))?;
    attributes(page, "Attributes:", "     ", record.attributes())?;
    dropped(page, "", record.dropped_attributes_count())?;
    writeln!(page, "Trace ID: {}", Hex(record.trace_id()))?;
    writeln!(page, "Span ID: {}", Hex(record.span_id()))?;
    writeln!(page, "Flags: {}", record.flags())?;
    page.end();
    Ok(())
}

/// `Info`, `Info2`, ... `Info4`: six names of four steps each.
fn severity(number: i32) -> String {
    let index = usize::try_from(number).map_or(0, |number| number.div_ceil(4));
    let name = SEVERITIES.get(index).unwrap_or(&SEVERITIES[0]);
    match number.wrapping_sub(1).rem_euclid(4) {
        step if step > 0 && *name != SEVERITIES[0] => format!("{name}{}", step + 1),
        _ => (*name).to_owned(),
    }
}

/// Attributes under their headline, one a line; nothing if there is none.
pub(crate) fn attributes(
    page: &mut Page<'_>,
    headline: &str,
    indent: &str,
    of: Attributes<'_>,
) -> fmt::Result {
    let line = |page: &mut Page<'_>, _, each: &_| pair(page, indent, each);
    list(page, headline, of, line)
}

fn pair(
    page: &mut Page<'_>,
    indent: &str,
    pair: &watershed_telemetry::view::KeyValueView<'_>,
) -> fmt::Result {
    writeln!(page, "{indent}-> {}: {}", Clean(pair.key()), Typed(pair.value()))
}

/// Elements under their headline; nothing if there is none.
pub(crate) fn list<T>(
    page: &mut Page<'_>,
    headline: &str,
    elements: impl Iterator<Item = T>,
    write: impl Fn(&mut Page<'_>, usize, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, element) in elements.enumerate() {
        if index == 0 {
            writeln!(page, "{headline}")?;
        }
        write(page, index, &element)?;
    }
    Ok(())
}

fn dropped(page: &mut Page<'_>, indent: &str, count: u32) -> fmt::Result {
    if count == 0 { Ok(()) } else { writeln!(page, "{indent}DroppedAttributesCount: {count}") }
}

// === impl Typed ===

impl fmt::Display for Typed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0.value() {
            Value::Empty => "Empty",
            Value::Str(_) => "Str",
            Value::Bool(_) => "Bool",
            Value::Int(_) => "Int",
            Value::Double(_) => "Double",
            Value::Array(_) => "Slice",
            Value::KvList(_) => "Map",
            Value::Bytes(_) => "Bytes",
        };
        write!(f, "{name}({})", Plain(self.0))
    }
}

// === impl At ===

impl fmt::Display for At {
    /// `2020-02-11 20:26:12.000000321 +0000 UTC`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A u64 of nanoseconds ends in 2554, which is in range.
        let at = jiff::Timestamp::from_nanosecond(i128::from(self.0)).map_err(|_| fmt::Error)?;
        write!(f, "{} +0000 UTC", at.strftime("%Y-%m-%d %H:%M:%S%.f"))
    }
}

// === impl Named ===

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.1).ok().and_then(|index| self.0.get(index)) {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Point;
    use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
    use opentelemetry_proto::tonic::metrics::v1::{
        Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
    use prost::Message;
    use watershed_stage::Payload;

    use super::{At, Page, Signal, severity};

    /// 2020-02-11 20:26:12.000000321 UTC
    const THEN: u64 = 1_581_452_772_000_000_321;

    fn pages(signal: Signal, request: &impl Message) -> Vec<String> {
        let payload = Payload::validate(signal, request.encode_to_vec().into()).unwrap();
        let mut pages = Vec::new();
        let mut emit = |text: &str| pages.push(text.to_owned());
        let mut page = Page::new(&mut emit);
        for (index, group) in payload.resources().enumerate() {
            super::resource(index, &group, signal, &mut page).unwrap();
        }
        pages
    }

    fn pair(key: &str, value: Any) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
    }

    fn attributes() -> Vec<KeyValue> {
        vec![pair("k", Any::StringValue("v".into()))]
    }

    #[test]
    fn every_field_of_a_span_is_written() {
        let event = |name: &str, attributes, dropped_attributes_count| Event {
            time_unix_nano: THEN,
            name: name.into(),
            attributes,
            dropped_attributes_count,
        };
        let link = Link {
            trace_id: vec![2; 16],
            span_id: vec![3; 8],
            trace_state: "a=1".into(),
            attributes: attributes(),
            dropped_attributes_count: 4,
            flags: 256,
        };
        let span = Span {
            trace_id: vec![0xab; 16],
            span_id: vec![1; 8],
            trace_state: "b=2".into(),
            parent_span_id: vec![9; 8],
            flags: 257,
            name: "GET /".into(),
            kind: 2,
            start_time_unix_nano: THEN,
            end_time_unix_nano: THEN + 1,
            attributes: attributes(),
            dropped_attributes_count: 1,
            events: vec![event("one", attributes(), 2), event("two", vec![], 0)],
            dropped_events_count: 2,
            links: vec![link],
            dropped_links_count: 3,
            status: Some(Status { message: "no\nway".into(), code: 2 }),
        };
        let scope = InstrumentationScope {
            name: "lib".into(),
            version: "1.0".into(),
            attributes: attributes(),
            dropped_attributes_count: 5,
        };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans: vec![span], schema_url: "s".into() }];
        let resource =
            Some(Resource { attributes: attributes(), dropped_attributes_count: 6, ..Default::default() });
        let resource_spans = vec![ResourceSpans { resource, scope_spans, schema_url: "r".into() }];
        let written = pages(Signal::Traces, &ExportTraceServiceRequest { resource_spans });
        assert_eq!(
            written,
            [
                "ResourceSpans #0
Resource SchemaURL: r
Resource attributes:
     -> k: Str(v)
DroppedAttributesCount: 6",
                "ScopeSpans #0
ScopeSpans SchemaURL: s
InstrumentationScope lib 1.0
InstrumentationScope attributes:
     -> k: Str(v)
DroppedAttributesCount: 5",
                "Span #0
    Trace ID       : abababababababababababababababab
    Parent ID      : 0909090909090909
    ID             : 0101010101010101
    Name           : GET /
    Kind           : Server
    TraceState     : b=2
    Start time     : 2020-02-11 20:26:12.000000321 +0000 UTC
    End time       : 2020-02-11 20:26:12.000000322 +0000 UTC
    Status code    : Error
    Status message : no\\nway
    Flags          : 257
    Dropped attributes: 1
    Dropped events: 2
    Dropped links: 3
Attributes:
     -> k: Str(v)
Events:
SpanEvent #0
     -> Name: one
     -> Timestamp: 2020-02-11 20:26:12.000000321 +0000 UTC
     -> DroppedAttributesCount: 2
     -> Attributes::
          -> k: Str(v)
SpanEvent #1
     -> Name: two
     -> Timestamp: 2020-02-11 20:26:12.000000321 +0000 UTC
Links:
SpanLink #0
     -> Trace ID: 02020202020202020202020202020202
     -> ID: 0303030303030303
     -> TraceState: a=1
     -> Flags: 256
     -> DroppedAttributesCount: 4
     -> Attributes::
          -> k: Str(v)",
            ]
        );
    }

    #[test]
    fn every_field_of_a_log_record_is_written() {
        let values = vec![AnyValue { value: Some(Any::IntValue(1)) }, AnyValue { value: None }];
        let record = LogRecord {
            time_unix_nano: THEN,
            observed_time_unix_nano: THEN + 1,
            severity_number: 10,
            severity_text: "INFO".into(),
            body: Some(AnyValue { value: Some(Any::ArrayValue(ArrayValue { values })) }),
            attributes: vec![
                pair("raw", Any::BytesValue(vec![0x0a, 0xff])),
                pair("d", Any::DoubleValue(0.5)),
            ],
            dropped_attributes_count: 1,
            flags: 1,
            trace_id: vec![2; 16],
            span_id: vec![3; 8],
            event_name: "login".into(),
        };
        let log_records = vec![record, LogRecord::default()];
        let scope_logs = vec![ScopeLogs { log_records, ..Default::default() }];
        let resource_logs = vec![ResourceLogs { scope_logs, ..Default::default() }];
        let written = pages(Signal::Logs, &ExportLogsServiceRequest { resource_logs });
        assert_eq!(
            written[2],
            "LogRecord #0
ObservedTimestamp: 2020-02-11 20:26:12.000000322 +0000 UTC
Timestamp: 2020-02-11 20:26:12.000000321 +0000 UTC
SeverityText: INFO
SeverityNumber: Info2(10)
EventName: login
Body: Slice([1,])
Attributes:
     -> raw: Bytes(0aff)
     -> d: Double(0.5)
DroppedAttributesCount: 1
Trace ID: 02020202020202020202020202020202
Span ID: 0303030303030303
Flags: 1"
        );
        assert!(written[3].contains("Timestamp: 1970-01-01 00:00:00 +0000 UTC"), "{}", written[3]);
        assert!(written[3].contains("Body: Empty()"), "{}", written[3]);
    }

    #[test]
    fn data_points_of_all_five_types_are_written() {
        let exemplar = |value| Exemplar {
            filtered_attributes: attributes(),
            time_unix_nano: THEN,
            span_id: vec![3; 8],
            trace_id: vec![2; 16],
            value: Some(exemplar::Value::AsDouble(value)),
        };
        let number = NumberDataPoint {
            attributes: attributes(),
            start_time_unix_nano: THEN,
            time_unix_nano: THEN,
            value: Some(Point::AsInt(-7)),
            exemplars: vec![exemplar(1.5)],
            flags: 0,
        };
        let histogram = HistogramDataPoint {
            count: 3,
            sum: Some(4.5),
            bucket_counts: vec![1, 2],
            explicit_bounds: vec![10.0],
            min: Some(0.5),
            max: Some(20.0),
            ..Default::default()
        };
        let exponential = ExponentialHistogramDataPoint {
            count: 6,
            scale: 0,
            zero_count: 1,
            positive: Some(Buckets { offset: 1, bucket_counts: vec![2, 0, 1] }),
            negative: Some(Buckets { offset: -1, bucket_counts: vec![2] }),
            flags: 1,
            ..Default::default()
        };
        let summary = SummaryDataPoint {
            count: 2,
            sum: 3.0,
            quantile_values: vec![ValueAtQuantile { quantile: 0.99, value: 2.5 }],
            ..Default::default()
        };
        let (one, more) = (number.clone(), NumberDataPoint { value: None, ..number });
        let metrics = [
            Data::Gauge(Gauge { data_points: vec![one] }),
            Data::Sum(Sum { data_points: vec![more], aggregation_temporality: 2, is_monotonic: true }),
            Data::Histogram(Histogram { data_points: vec![histogram], aggregation_temporality: 1 }),
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![exponential],
                aggregation_temporality: 7,
            }),
            Data::Summary(Summary { data_points: vec![summary] }),
        ];
        let metrics = metrics.into_iter().map(|data| Metric {
            name: "m".into(),
            description: "d".into(),
            unit: "By".into(),
            metadata: attributes(),
            data: Some(data),
        });
        let scope_metrics = vec![ScopeMetrics { metrics: metrics.collect(), ..Default::default() }];
        let resource_metrics = vec![ResourceMetrics { scope_metrics, ..Default::default() }];
        let written = pages(Signal::Metrics, &ExportMetricsServiceRequest { resource_metrics });
        let written: Vec<&str> = written.iter().map(String::as_str).collect();
        assert_eq!(
            written[2],
            "Metric #0
Descriptor:
     -> Name: m
     -> Description: d
     -> Unit: By
     -> DataType: Gauge
     -> Metadata:
          -> k: Str(v)"
        );
        assert_eq!(
            written[3],
            "NumberDataPoints #0
Data point attributes:
     -> k: Str(v)
StartTimestamp: 2020-02-11 20:26:12.000000321 +0000 UTC
Timestamp: 2020-02-11 20:26:12.000000321 +0000 UTC
Value: -7
Exemplars:
Exemplar #0
     -> Trace ID: 02020202020202020202020202020202
     -> Span ID: 0303030303030303
     -> Timestamp: 2020-02-11 20:26:12.000000321 +0000 UTC
     -> Value: 1.5
     -> FilteredAttributes:
          -> k: Str(v)"
        );
        assert!(
            written[4].contains("Sum\n     -> IsMonotonic: true\n     -> AggregationTemporality: Cumulative")
        );
        assert!(written[5].contains("Value: no value"), "{}", written[5]);
        assert!(written[6].contains("Histogram\n     -> AggregationTemporality: Delta"), "{}", written[6]);
        let after = |page: &str| page.split_once("Count: ").unwrap().1.to_owned();
        assert_eq!(
            after(written[7]),
            "3\nSum: 4.5\nMin: 0.5\nMax: 20\nExplicitBounds #0: 10\nBuckets #0, Count: 1\nBuckets #1, Count: 2"
        );
        assert!(written[8].contains("AggregationTemporality: 7"), "{}", written[8]);
        assert!(written[9].contains("Flags: 1 (no recorded value)"), "{}", written[9]);
        assert_eq!(
            after(written[9]),
            "6\nScale: 0\nBucket [-1, -0.5), Count: 2\nBucket [0, 0], Count: 1\nBucket (2, 4], Count: 2\n\
             Bucket (8, 16], Count: 1"
        );
        assert_eq!(after(written[11]), "2\nSum: 3\nQuantileValue #0: Quantile 0.99, Value 2.5");
    }

    #[test]
    fn hostile_numbers_are_written_too() {
        let buckets = Some(Buckets { offset: i32::MAX, bucket_counts: vec![1, 1] });
        let point = ExponentialHistogramDataPoint {
            scale: i32::MIN,
            positive: buckets.clone(),
            negative: buckets,
            time_unix_nano: u64::MAX,
            ..Default::default()
        };
        let data = ExponentialHistogram { data_points: vec![point], ..Default::default() };
        let metrics = vec![Metric { data: Some(Data::ExponentialHistogram(data)), ..Default::default() }];
        let scope_metrics = vec![ScopeMetrics { metrics, ..Default::default() }];
        let resource_metrics = vec![ResourceMetrics { scope_metrics, ..Default::default() }];
        let written = pages(Signal::Metrics, &ExportMetricsServiceRequest { resource_metrics });
        assert!(written[3].contains("Timestamp: 2554-07-21"), "{}", written[3]);
        assert!(written[3].contains("Bucket (inf, inf], Count: 1"), "{}", written[3]);
    }

    #[test]
    fn severities_have_four_steps_each() {
        let names = [0, 1, 4, 5, 9, 24, 25, -1, i32::MAX, i32::MIN + 1].map(severity);
        let expected = ["Unspecified", "Trace", "Trace4", "Debug", "Info", "Fatal4"];
        assert_eq!(names[..6], expected);
        assert!(names[6..].iter().all(|name| name == "Unspecified"), "{names:?}");
    }

    #[test]
    fn moments_are_in_utc() {
        assert_eq!(At(0).to_string(), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(At(THEN).to_string(), "2020-02-11 20:26:12.000000321 +0000 UTC");
    }
}
