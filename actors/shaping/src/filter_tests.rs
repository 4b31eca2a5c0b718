use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use watershed_stage::Settings as _;

use super::*;

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(any(value)), ..Default::default() }
}

fn text(text: &str) -> Value {
    Value::StringValue(text.into())
}

fn resource() -> Option<Resource> {
    Some(Resource { attributes: vec![pair("service.name", text("shop"))], ..Default::default() })
}

fn scope() -> Option<InstrumentationScope> {
    let attributes = vec![pair("short_name", text("lib"))];
    Some(InstrumentationScope {
        name: "lib.http".into(),
        version: "1.2".into(),
        attributes,
        ..Default::default()
    })
}

/// A server span with an error and two events, and an internal one.
fn traces() -> Payload {
    let event = |name: &str| Event {
        name: name.into(),
        attributes: vec![pair("e", text(name))],
        ..Default::default()
    };
    let server = Span {
        name: "GET /health".into(),
        kind: 2,
        attributes: vec![pair("http.status", Value::IntValue(500)), pair("ratio", Value::DoubleValue(0.5))],
        status: Some(Status { code: 2, message: "boom".into() }),
        events: vec![event("exception"), event("retry")],
        ..Default::default()
    };
    let internal = Span { name: "work".into(), kind: 1, ..Default::default() };
    let scope_spans =
        vec![ScopeSpans { scope: scope(), spans: vec![server, internal], schema_url: String::new() }];
    let resource_spans = vec![ResourceSpans { resource: resource(), scope_spans, ..Default::default() }];
    let request = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    Payload::validate(Signal::Traces, request.into()).unwrap()
}

/// A monotonic sum with two points, and a histogram with one.
fn metrics() -> Payload {
    let point = |host: &str, value| NumberDataPoint {
        attributes: vec![pair("host", text(host))],
        value: Some(value),
        ..Default::default()
    };
    use number_data_point::Value::{AsDouble, AsInt};
    let data_points = vec![point("a", AsInt(7)), point("b", AsDouble(1.5))];
    let sum = Sum { data_points, aggregation_temporality: 2, is_monotonic: true };
    let point = HistogramDataPoint { count: 3, sum: Some(4.5), flags: 1, ..Default::default() };
    let histogram = Histogram { data_points: vec![point], aggregation_temporality: 1 };
    let metric = |name: &str, data| Metric {
        name: name.into(),
        unit: "1".into(),
        data: Some(data),
        ..Default::default()
    };
    let metrics = vec![metric("requests", Data::Sum(sum)), metric("latency", Data::Histogram(histogram))];
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..Default::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: resource(), scope_metrics, ..Default::default() }];
    let request = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
    Payload::validate(Signal::Metrics, request.into()).unwrap()
}

/// A record with a map for a body, and one with a text.
fn logs() -> Payload {
    let values = vec![any(text("first")), any(Value::IntValue(2))];
    let body = vec![pair("level", text("debug")), pair("list", Value::ArrayValue(ArrayValue { values }))];
    let map = LogRecord {
        severity_number: 5,
        body: Some(any(Value::KvlistValue(KeyValueList { values: body }))),
        ..Default::default()
    };
    let plain = LogRecord {
        severity_number: 17,
        severity_text: "ERROR".into(),
        body: Some(any(text("disk full"))),
        attributes: vec![pair("flag", Value::BoolValue(true))],
        ..Default::default()
    };
    let scope_logs = vec![ScopeLogs { scope: scope(), log_records: vec![map, plain], ..Default::default() }];
    let resource_logs = vec![ResourceLogs { resource: resource(), scope_logs, ..Default::default() }];
    let request = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    Payload::validate(Signal::Logs, request.into()).unwrap()
}

fn conditions(table: &str, key: &str, condition: &str) -> Conditions {
    let settings: Settings = toml::from_str(&format!("{table}.{key} = ['{condition}']")).unwrap();
    assert_eq!(settings.check(), [], "{condition}");
    Conditions::new(&settings)
}

/// How many of the items such a condition leaves.
#[track_caller]
fn assert_left(payload: &Payload, (table, key): (&str, &str), cases: &[(&str, usize)]) {
    for (condition, items) in cases {
        let (left, undecided) = conditions(table, key, condition).apply(payload);
        assert_eq!((left.items(), undecided), (*items, None), "{condition}");
        if left.items() == payload.items() && key != "spanevent" {
            assert_eq!(left.requests()[0].as_ptr(), payload.requests()[0].as_ptr(), "{condition}");
        }
    }
}

#[test]
fn spans_go_by_what_they_and_their_surroundings_are() {
    assert_left(
        &traces(),
        ("traces", "span"),
        &[
            (r#"name == "work""#, 1),
            (r#"span.name == "work""#, 1),
            (r#"IsMatch(name, "^GET /health")"#, 1),
            ("kind == SPAN_KIND_SERVER", 1),
            ("status.code == STATUS_CODE_ERROR", 1),
            (r#"status.message == "boom""#, 1),
            (r#"attributes["http.status"] >= 500 and attributes["ratio"] < 1"#, 1),
            (r#"attributes["http.status"] == nil"#, 1),
            (r#"resource.attributes["service.name"] == "shop""#, 0),
            (r#"scope.name == "lib.http" and instrumentation_scope.version == "1.2""#, 0),
            (r#"scope.attributes["short_name"] == "none""#, 2),
            ("start_time_unix_nano == 0 and dropped_attributes_count == 0", 0),
        ],
    );
}

#[test]
fn events_go_and_their_spans_stay() {
    let events = |payload: &Payload| {
        let spans = payload.resources().flat_map(|group| group.scopes()).flat_map(|scope| scope.spans());
        spans.flat_map(|span| span.events()).map(|event| event.name().to_owned()).collect::<Vec<_>>()
    };
    for (condition, left) in [
        (r#"name == "exception""#, vec!["retry"]),
        (r#"spanevent.attributes["e"] == "retry""#, vec!["exception"]),
        ("span.kind == SPAN_KIND_SERVER", vec![]),
        ("span.kind == SPAN_KIND_CLIENT or time_unix_nano > 0", vec!["exception", "retry"]),
    ] {
        let conditions = conditions("traces", "spanevent", condition);
        let (payload, _) = conditions.apply(&traces());
        assert_eq!(conditions.span_events_dropped.get(), 2 - left.len() as u64, "{condition}");
        assert_eq!(
            (events(&payload), payload.items()),
            (left.iter().map(|&e| e.to_owned()).collect(), 2),
            "{condition}"
        );
    }
}

#[test]
fn metrics_go_whole_or_by_the_point() {
    assert_left(
        &metrics(),
        ("metrics", "metric"),
        &[
            (r#"name == "requests""#, 1),
            (r#"metric.name == "latency" and unit == "1""#, 2),
            ("type == METRIC_DATA_TYPE_SUM and is_monotonic == true", 1),
            ("aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA", 2),
            ("type == METRIC_DATA_TYPE_GAUGE", 3),
            (r#"resource.attributes["service.name"] == "shop""#, 0),
        ],
    );
    assert_left(
        &metrics(),
        ("metrics", "datapoint"),
        &[
            (r#"attributes["host"] == "a""#, 2),
            ("value_int == 7", 2),
            ("value_double == 1.5", 2),
            ("count == 3 and sum == 4.5 and flags == FLAG_NO_RECORDED_VALUE", 2),
            (r#"metric.name == "requests" and datapoint.attributes["host"] != nil"#, 1),
            ("metric.type == METRIC_DATA_TYPE_SUMMARY", 3),
        ],
    );
    // A metric that loses its last point goes.
    let (left, _) = conditions("metrics", "datapoint", "count == 3").apply(&metrics());
    let names = left.resources().flat_map(|g| g.scopes()).flat_map(|s| s.metrics());
    assert_eq!(names.map(|metric| metric.name().to_owned()).collect::<Vec<_>>(), ["requests"]);
}

#[test]
fn log_records_go_by_severity_body_and_attributes() {
    assert_left(
        &logs(),
        ("logs", "log_record"),
        &[
            ("severity_number < SEVERITY_NUMBER_WARN", 1),
            ("severity_number >= SEVERITY_NUMBER_ERROR and severity_number <= SEVERITY_NUMBER_ERROR4", 1),
            ("severity_number == SEVERITY_NUMBER_DEBUG", 1),
            (r#"severity_text == "ERROR" or log.severity_text == "x""#, 1),
            (r#"body == "disk full""#, 1),
            (r#"body["level"] == "debug""#, 1),
            (r#"body["list"][1] == 2"#, 1),
            (r#"body["list"][2] == 2"#, 2),
            (r#"attributes["flag"] == true"#, 1),
        ],
    );
}

#[test]
fn a_condition_that_can_not_be_decided_counts_as_false() {
    let (left, undecided) = conditions("logs", "log_record", r#"IsMatch(body, "full")"#).apply(&logs());
    assert_eq!(left.items(), 1);
    assert_eq!(undecided.unwrap().to_string(), "IsMatch takes a text, and finds a map");
}

#[test]
fn conditions_of_one_signal_leave_the_others_alone() {
    let conditions = conditions("logs", "log_record", "true");
    assert_eq!(Signal::ALL.map(|signal| conditions.concern(signal)), [false, false, true]);
}
