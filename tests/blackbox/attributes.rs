//! What `attributes` and `resource` make of telemetry, decoded by prost at the destination.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use watershed_testkit::call::Reply;
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests;

use crate::harness::capture::{Capture, Captured};
use crate::harness::{beside_others, call, drained, otlp, start};

pub const SPANS: usize = 20;
pub const POINTS: usize = 9;
pub const RECORDS: usize = 7;

/// Sends one request of each signal through `processors` and gives what arrives.
async fn through(processors: &str, list: &str) -> Captured {
    through_with("", &[], processors, list).await
}

/// The same with `headers`, through a receiver with more to say.
pub async fn through_with(
    receiver: &str,
    headers: &[(&str, &str)],
    processors: &str,
    list: &str,
) -> Captured {
    let capture = Capture::start().await;
    let engine = start(&format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
{receiver}
{processors}
[exporters.otlp]
endpoint = "http://{}"
compression = "none"
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = {list}
exporters = ["otlp"]
"#,
        capture.address()
    ))
    .await;
    for (signal, message) in [
        (Signal::Traces, requests::trace_request(1, SPANS).encode_to_vec()),
        (Signal::Metrics, requests::metrics(POINTS).to_vec()),
        (Signal::Logs, requests::logs(RECORDS).to_vec()),
    ] {
        assert_eq!(call(otlp(&engine), signal, headers, &message).await, Reply::Accepted);
    }
    drained(&engine).await;
    let all = |captured: &Captured| {
        captured.traces.resource_spans.len() == 1
            && captured.metrics.resource_metrics.len() == 1
            && captured.logs.resource_logs.len() == 1
    };
    capture.wait(all).await
}

pub fn text(value: &str) -> Option<Value> {
    Some(Value::StringValue(value.into()))
}

pub fn value(attributes: &[KeyValue], key: &str) -> Option<Value> {
    let found: Vec<_> = attributes.iter().filter(|attribute| attribute.key == key).collect();
    assert!(found.len() <= 1, "{key} stands there twice");
    found.first()?.value.as_ref()?.value.clone()
}

/// The attributes of every span, data point and log record.
pub fn of_items(captured: &Captured) -> Vec<Vec<KeyValue>> {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    let mut all = Vec::new();
    for scope in captured.traces.resource_spans.iter().flat_map(|resource| &resource.scope_spans) {
        all.extend(scope.spans.iter().map(|span| span.attributes.clone()));
    }
    for scope in captured.metrics.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics) {
        for metric in &scope.metrics {
            match metric.data.as_ref().unwrap() {
                Data::Gauge(gauge) => {
                    all.extend(gauge.data_points.iter().map(|point| point.attributes.clone()))
                }
                Data::Sum(sum) => all.extend(sum.data_points.iter().map(|point| point.attributes.clone())),
                Data::Histogram(histogram) => {
                    all.extend(histogram.data_points.iter().map(|point| point.attributes.clone()));
                }
                other => panic!("the kit makes none of these: {other:?}"),
            }
        }
    }
    for scope in captured.logs.resource_logs.iter().flat_map(|resource| &resource.scope_logs) {
        all.extend(scope.log_records.iter().map(|record| record.attributes.clone()));
    }
    assert_eq!(all.len(), SPANS + POINTS + RECORDS);
    all
}

pub fn of_resources(captured: &Captured) -> Vec<Vec<KeyValue>> {
    let traces = captured.traces.resource_spans.iter().map(|resource| resource.resource.clone());
    let metrics = captured.metrics.resource_metrics.iter().map(|resource| resource.resource.clone());
    let logs = captured.logs.resource_logs.iter().map(|resource| resource.resource.clone());
    traces.chain(metrics).chain(logs).map(|resource| resource.unwrap().attributes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_edits_arrives_as_it_was_sent() {
    let _turn = beside_others().await;
    let captured = through("", "[]").await;
    assert_eq!(captured.traces, requests::trace_request(1, SPANS));
    assert_eq!(captured.metrics, ExportMetricsServiceRequest::decode(requests::metrics(POINTS)).unwrap());
    assert_eq!(captured.logs, ExportLogsServiceRequest::decode(requests::logs(RECORDS)).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_edits_items() {
    let _turn = beside_others().await;
    let captured = through(
        r#"
[processors.attributes]
actions = [
  { key = "team", action = "insert", value = "checkout" },
  { key = "http.request.method", action = "insert", value = "none" },
  { key = "http.route", action = "insert", value = "/inserted" },
  { key = "http.route", action = "update", value = "/edited" },
  { key = "absent", action = "update", value = "must not appear" },
  { key = "log.index", action = "upsert", value = -1 },
  { key = "user_agent.original", action = "delete" },
  { key = "ratio", action = "upsert", value = 0.25 },
  { key = "sampled", action = "upsert", value = true },
]
"#,
        r#"["attributes"]"#,
    )
    .await;
    let mut inserted = 0;
    for attributes in of_items(&captured) {
        assert_eq!(value(&attributes, "team"), text("checkout"));
        assert_eq!(value(&attributes, "log.index"), Some(Value::IntValue(-1)));
        assert_eq!(value(&attributes, "ratio"), Some(Value::DoubleValue(0.25)));
        assert_eq!(value(&attributes, "sampled"), Some(Value::BoolValue(true)));
        assert_eq!((value(&attributes, "absent"), value(&attributes, "user_agent.original")), (None, None));
        assert_eq!(value(&attributes, "http.route"), text("/edited"));
        inserted += usize::from(value(&attributes, "http.request.method") == text("none"));
    }
    // Spans have had a method of their own.
    assert_eq!(inserted, POINTS + RECORDS);

    // Everything else is as it was sent.
    let mut traces = captured.traces.clone();
    let sent = requests::trace_request(1, SPANS);
    let before = sent.resource_spans[0].scope_spans[0].spans.iter();
    for (span, before) in traces.resource_spans[0].scope_spans[0].spans.iter_mut().zip(before) {
        span.attributes.clone_from(&before.attributes);
    }
    assert_eq!(traces, sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resource_edits_resources_and_order_counts() {
    let _turn = beside_others().await;
    let captured = through(
        r#"
[processors.resource]
attributes = [
  { key = "service.version", action = "delete" },
  { key = "service.version", action = "insert", value = "3" },
  { key = "deployment.environment.name", action = "upsert", value = "prod" },
  { key = "service.name", action = "update", value = "shop" },
]
[processors."resource/second"]
attributes = [{ key = "service.name", action = "update", value = "shop, renamed" }]
"#,
        r#"["resource", "resource/second"]"#,
    )
    .await;
    let resources = of_resources(&captured);
    assert_eq!(resources.len(), 3);
    for attributes in resources {
        assert_eq!(value(&attributes, "service.version"), text("3"));
        assert_eq!(value(&attributes, "deployment.environment.name"), text("prod"));
        assert_eq!(value(&attributes, "service.name"), text("shop, renamed"));
        assert_eq!(value(&attributes, "service.namespace"), text("shop"));
    }
    assert_eq!(
        captured.traces.resource_spans[0].scope_spans,
        requests::trace_request(1, SPANS).resource_spans[0].scope_spans
    );
    let body = |index: usize| {
        let record = &captured.logs.resource_logs[0].scope_logs[0].log_records[index];
        let AnyValue { value } = record.body.clone().unwrap();
        value
    };
    assert_eq!(body(3), text("order 3 accepted and handed to fulfilment"));
}
