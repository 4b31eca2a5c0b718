//! Every place a value can be in.

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
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use watershed_stage::Signal;

use super::Case;

/// How many there are.
pub const PLACES: usize = 27;
/// The one that is a key.
pub const KEY: usize = 11;

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// A request with the value at that place. A number in a place of texts is written out.
pub fn put(case: &Case, place: usize) -> (Signal, Vec<u8>) {
    let value = any(match (case.int, &case.text) {
        (Some(int), _) => Value::IntValue(int),
        (None, text) => Value::StringValue(text.clone()),
    });
    let text = || if case.key == "value" { case.text.clone() } else { format!("{}={}", case.key, case.text) };
    let list = || vec![pair("kept", any(Value::IntValue(7))), pair(case.key, value.clone())];
    let map = |values| any(Value::KvlistValue(KeyValueList { values }));
    let array = |values| any(Value::ArrayValue(ArrayValue { values }));
    let bytes = || any(Value::BytesValue([&[0xFF, 0xFE][..], text().as_bytes(), &[0xC3]].concat()));
    let mut span = Span { name: "GET".to_owned(), ..Span::default() };
    let mut record = LogRecord { severity_number: 9, ..LogRecord::default() };
    match place {
        0 => return traces(list(), vec![], span),
        1 => return traces(vec![], list(), span),
        2 => span.attributes = list(),
        3 => span.events = vec![Event { attributes: list(), ..Event::default() }],
        4 => span.links = vec![Link { attributes: list(), ..Link::default() }],
        5 => span.name = text(),
        6 => span.status = Some(Status { message: text(), code: 2 }),
        7 => span.events = vec![Event { name: text(), ..Event::default() }],
        8 => span.trace_state = text(),
        9 => span.attributes = vec![pair("outer", map(vec![pair("inner", map(list()))]))],
        10 => span.attributes = vec![pair(case.key, array(vec![any(Value::BoolValue(true)), value.clone()]))],
        KEY => span.attributes = vec![pair(&text(), any(Value::IntValue(1)))],
        12 => span.attributes = vec![pair("raw", bytes())],
        13 => record.body = Some(any(Value::StringValue(text()))),
        14 => record.body = Some(map(vec![pair("a", map(list())), pair("b", array(vec![map(list())]))])),
        15 => record.body = Some(array(vec![any(Value::StringValue(text()))])),
        16 => record.body = Some(bytes()),
        17 => record.attributes = list(),
        18 => record.event_name = text(),
        19 => return logs(list(), record),
        20 => record.body = Some(map(vec![pair(&text(), any(Value::IntValue(1)))])),
        _ => return metrics(place - 21, list()),
    }
    if place < 13 { traces(vec![], vec![], span) } else { logs(vec![], record) }
}

fn scope(attributes: Vec<KeyValue>) -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "lib".to_owned(), attributes, ..InstrumentationScope::default() })
}

fn traces(resource: Vec<KeyValue>, of_scope: Vec<KeyValue>, span: Span) -> (Signal, Vec<u8>) {
    let resource = Some(Resource { attributes: resource, ..Resource::default() });
    let scope_spans = vec![ScopeSpans { scope: scope(of_scope), spans: vec![span], ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    (Signal::Traces, ExportTraceServiceRequest { resource_spans }.encode_to_vec())
}

fn logs(of_scope: Vec<KeyValue>, record: LogRecord) -> (Signal, Vec<u8>) {
    let log_records = vec![record];
    let scope_logs = vec![ScopeLogs { scope: scope(of_scope), log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    (Signal::Logs, ExportLogsServiceRequest { resource_logs }.encode_to_vec())
}

fn metrics(kind: usize, attributes: Vec<KeyValue>) -> (Signal, Vec<u8>) {
    let mut metric = Metric { name: "requests".to_owned(), ..Metric::default() };
    let number = NumberDataPoint { attributes: attributes.clone(), ..NumberDataPoint::default() };
    metric.data = Some(match kind {
        0 => Data::Gauge(Gauge { data_points: vec![number] }),
        1 => Data::Sum(Sum { data_points: vec![number], ..Sum::default() }),
        2 => {
            let point = HistogramDataPoint { attributes, ..HistogramDataPoint::default() };
            Data::Histogram(Histogram { data_points: vec![point], ..Histogram::default() })
        }
        3 => {
            let point =
                ExponentialHistogramDataPoint { attributes, ..ExponentialHistogramDataPoint::default() };
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![point],
                ..Default::default()
            })
        }
        4 => {
            let point = SummaryDataPoint { attributes, ..SummaryDataPoint::default() };
            Data::Summary(Summary { data_points: vec![point] })
        }
        _ => {
            metric.metadata = attributes.clone();
            let exemplars = vec![Exemplar { filtered_attributes: attributes, ..Exemplar::default() }];
            Data::Gauge(Gauge {
                data_points: vec![NumberDataPoint { exemplars, ..NumberDataPoint::default() }],
            })
        }
    });
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    (Signal::Metrics, ExportMetricsServiceRequest { resource_metrics }.encode_to_vec())
}
