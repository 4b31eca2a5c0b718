//! What an engine tells of itself arrives like anybody's telemetry, says what is so, and is not told of in turn.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value as Number};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::Request;
use watershed_testkit::{requests, reserve, wait_until};

use crate::harness::capture::{Capture, Captured};
use crate::harness::process::Program;
use crate::harness::{PATIENCE, beside_others, drained, metric, otlp, start};

/// The caller's span, sampled.
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Traces from `otlp` to one destination, and what the engine tells of itself to another.
fn topology(data: &Capture, own: &Capture, more: &str) -> String {
    format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"

[receivers.self_telemetry]
metrics.interval = "100ms"
traces.sampling_ratio = 1.0
{more}

[exporters."otlp/data"]
endpoint = "http://{}"
compression = "none"

[exporters."otlp/own"]
endpoint = "http://{}"
compression = "none"

[pipelines.traces]
receivers = ["otlp"]
exporters = ["otlp/data"]

[pipelines.own]
signals = ["traces", "metrics", "logs"]
receivers = ["self_telemetry"]
exporters = ["otlp/own"]
"#,
        data.address(),
        own.address()
    )
}

/// Sends a request of `spans` spans; its call belongs to the trace that `parent` names.
async fn send(receiver: SocketAddr, spans: usize, parent: Option<&str>) {
    let endpoint = format!("http://{receiver}");
    let mut client = TraceServiceClient::connect(endpoint).await.unwrap();
    let mut request = Request::new(requests::trace_request(1, spans));
    if let Some(parent) = parent {
        request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    }
    client.export(request).await.unwrap();
}

/// Spans are made as soon as somebody takes them, which is at the latest when the first metrics are there.
async fn ready(own: &Capture) {
    own.wait(|captured| !points(captured).is_empty()).await;
}

fn spans(captured: &Captured) -> Vec<Span> {
    let scopes = captured.traces.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    scopes.flat_map(|scope| scope.spans.clone()).collect()
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:?}");
    found[0]
}

/// The last value of each series that is a number, written as in the text exposition.
fn points(captured: &Captured) -> BTreeMap<String, f64> {
    let scopes = captured.metrics.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    let mut points = BTreeMap::new();
    for metric in scopes.flat_map(|scope| &scope.metrics) {
        let data_points = match &metric.data {
            Some(Data::Sum(sum)) => &sum.data_points,
            Some(Data::Gauge(gauge)) => &gauge.data_points,
            Some(Data::Histogram(_)) => continue,
            other => panic!("{other:?}"),
        };
        for point in data_points {
            let labels: Vec<String> =
                point.attributes.iter().map(|label| format!("{}=\"{}\"", label.key, text(label))).collect();
            let value = match point.value {
                Some(Number::AsInt(value)) => value as f64,
                Some(Number::AsDouble(value)) => value,
                None => panic!("{point:?}"),
            };
            points.insert(format!("{}{{{}}}", metric.name, labels.join(",")), value);
        }
    }
    points
}

fn text(attribute: &KeyValue) -> &str {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_those_of_the_endpoint() {
    let _turn = beside_others().await;
    let (data, own) = (Capture::start().await, Capture::start().await);
    let engine = start(&topology(&data, &own, "resource = { 'deployment.environment.name' = 'test' }")).await;
    send(otlp(&engine), 7, None).await;
    let accepted = r#"otelcol_receiver_accepted_spans{receiver="otlp",transport="grpc"}"#;
    let captured = own.wait(|captured| points(captured).get(accepted) == Some(&7.0)).await;

    let told = points(&captured);
    for series in [accepted, r#"otelcol_exporter_sent_spans{exporter="otlp/data"}"#] {
        assert!(told.contains_key(series), "{told:?}");
    }
    // Names and labels are the same, series by series.
    let shown = engine.metrics().render();
    let series: Vec<&str> = shown.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
    for told in told.keys() {
        assert!(series.contains(&told.trim_end_matches("{}")), "{told} is not in:\n{shown}");
    }
    assert!(told.len() > 100, "{told:?}");
    assert_eq!(metric(&shown, accepted), told[accepted]);

    let resource = captured.metrics.resource_metrics[0].resource.as_ref().unwrap();
    let attributes: BTreeMap<&str, &str> =
        resource.attributes.iter().map(|attribute| (&*attribute.key, text(attribute))).collect();
    assert_eq!(attributes["service.name"], "watershed");
    assert_eq!(attributes["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(attributes["deployment.environment.name"], "test");
    assert_eq!(attributes["service.instance.id"].len(), 36);
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_traced_request_is_a_span_of_the_receiver_and_one_of_each_export() {
    let _turn = beside_others().await;
    let (data, own) = (Capture::start().await, Capture::start().await);
    let engine = start(&topology(&data, &own, "")).await;
    ready(&own).await;
    send(otlp(&engine), 7, Some(CALLER)).await;
    let spans = spans(&own.wait(|captured| spans(captured).len() >= 2).await);

    let received = named(&spans, "receiver/otlp/traces");
    let sent = named(&spans, "exporter/otlp/data/traces");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (_, caller) = CALLER.split_once('-').unwrap();
    assert_eq!(format!("{}-{}-01", hex(&received.trace_id), hex(&received.parent_span_id)), caller);
    assert_eq!((&sent.trace_id, &sent.parent_span_id), (&received.trace_id, &received.span_id));
    // The destination is called by the span of the export.
    let parents = data.parents();
    assert_eq!(parents, [Some(format!("00-{}-{}-01", hex(&sent.trace_id), hex(&sent.span_id)))]);
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_are_not_traced_are_not() {
    let _turn = beside_others().await;
    let (data, own) = (Capture::start().await, Capture::start().await);
    let engine = start(&topology(&data, &own, "")).await;
    ready(&own).await;
    let unsampled = CALLER.replace("-01", "-00");
    send(otlp(&engine), 1, Some(&unsampled)).await;
    send(otlp(&engine), 1, Some(CALLER)).await;
    let spans = spans(&own.wait(|captured| spans(captured).len() >= 2).await);
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert_eq!(data.parents()[0].as_ref(), Some(&unsampled));
    drained(&engine).await;
}

/// What was told calls for nothing to be told, however often, whether it arrives, comes back or is rejected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_of_the_telling() {
    let _turn = beside_others().await;
    let (data, own) = (Capture::start().await, Capture::start().await);
    // Back into the engine by its own receiver, and from there to `data`.
    let text = topology(&data, &own, "");
    let port = reserve();
    let text = text.replace("127.0.0.1:0", &port.to_string()).replace(
        "exporters = [\"otlp/own\"]",
        "exporters = [\"otlp/own\", \"otlp/back\"]\n[exporters.\"otlp/back\"]\nendpoint = \"http://PORT\"\ncompression = \"none\"",
    );
    let text = text.replace("PORT", &port.to_string());
    let engine = start(&text).await;
    ready(&own).await;
    send(otlp(&engine), 7, Some(CALLER)).await;
    own.wait(|captured| spans(captured).len() >= 2).await;
    // The two spans go round, and a good deal of metrics is told meanwhile.
    data.wait(|captured| spans(captured).len() >= 9).await;
    let told = own.wait(|_| true).await.metrics.resource_metrics.len();
    let later = own.wait(|captured| captured.metrics.resource_metrics.len() >= told + 25).await;
    assert_eq!(spans(&later).len(), 2, "{:?}", spans(&later));
    assert_eq!(spans(&data.wait(|_| true).await).len(), 9);
    let parents = own.parents();
    assert!(parents.iter().all(|parent| parent.as_ref().is_some_and(|parent| parent.ends_with("-00"))));
    drained(&engine).await;
}

/// Two engines of one process tell of themselves, and of nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_in_one_process_have_their_own() {
    let _turn = beside_others().await;
    let data = Capture::start().await;
    let (first, second) = (Capture::start().await, Capture::start().await);
    let one = start(&topology(&data, &first, "")).await;
    let two = start(&topology(&data, &second, "")).await;
    ready(&first).await;
    ready(&second).await;
    send(otlp(&one), 3, Some(CALLER)).await;
    let accepted = r#"otelcol_receiver_accepted_spans{receiver="otlp",transport="grpc"}"#;
    let told = first.wait(|told| spans(told).len() >= 2 && points(told).get(accepted) == Some(&3.0)).await;
    let rounds = second.wait(|_| true).await.metrics.resource_metrics.len();
    let other = second.wait(|told| told.metrics.resource_metrics.len() >= rounds + 15).await;
    assert_eq!((spans(&told).len(), spans(&other).len()), (2, 0));
    assert_eq!(points(&other).get(accepted), Some(&0.0));
    drained(&one).await;
    drained(&two).await;
}

/// What can not be told is counted, and keeps nobody from their work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_down_costs_only_what_is_told() {
    let _turn = beside_others().await;
    let data = Capture::start().await;
    let nowhere = reserve();
    let own = Capture::start().await;
    let text = topology(&data, &own, "").replace(
        &format!("endpoint = \"http://{}\"", own.address()),
        &format!("endpoint = \"http://{nowhere}\"\nsending_queue.queue_size = 2"),
    );
    let text = format!("{text}\nack = \"accepted\"");
    let engine = start(&text).await;
    let lost = async || {
        let text = engine.metrics().render();
        metric(&text, "watershed_self_telemetry_lost_items") >= 1.0
    };
    assert!(wait_until(lost, PATIENCE).await);
    send(otlp(&engine), 5, Some(CALLER)).await;
    assert_eq!(spans(&data.wait(|captured| spans(captured).len() >= 5).await).len(), 5);
    engine.drain(Duration::from_millis(200)).await;
}

/// The program's log arrives as well, but for what it has to say about telling it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_told_and_not_that_it_could_not_be() {
    let _turn = beside_others().await;
    let (own, address, dead) = (Capture::start().await, reserve(), reserve());
    let retry = "retry_on_failure = { initial_interval = \"20ms\", max_interval = \"100ms\" }";
    let program = Program::run(&format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "{address}"

[exporters."otlp/dead"]
endpoint = "http://{dead}"
{retry}

[exporters."otlp/own"]
endpoint = "http://{}"
compression = "none"

[exporters."otlp/deaf"]
endpoint = "http://{dead}"
{retry}

[pipelines.traces]
receivers = ["otlp"]
exporters = ["otlp/dead"]
ack = "accepted"

[pipelines.logs]
receivers = ["self_telemetry"]
exporters = ["otlp/own", "otlp/deaf"]
ack = "accepted"
"#,
        own.address()
    ))
    .await;
    send(address, 1, None).await;
    let of = |captured: &Captured, exporter: &str| {
        let scopes = captured.logs.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
        let records = scopes.flat_map(|scope| &scope.log_records);
        let attributes = records.flat_map(|record| &record.attributes);
        attributes.filter(|field| field.key == "exporter" && text(field) == exporter).count()
    };
    let captured = own.wait(|captured| of(captured, "otlp/dead") >= 4).await;
    let stderr = program.stderr();
    assert!(stderr.contains("exporter=otlp/dead") && stderr.contains("exporter=otlp/deaf"), "{stderr}");
    assert_eq!(of(&captured, "otlp/deaf"), 0, "{captured:?}");
}
