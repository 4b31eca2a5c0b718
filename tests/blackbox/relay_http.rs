//! What goes in over HTTP comes out: exact counts in every encoding and compression, and JSON means what it says.

use std::io::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    exponential_histogram_data_point::Buckets,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use watershed::stage::{Signal as Telemetry, telemetry};
use watershed_testkit::call::{Client, Head, Reply};
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::{self, TraceTemplate};
use watershed_testkit::web::{JSON, PROTOBUF, WebClient, path};
use watershed_testkit::{Loader, Sink, verdict};

use crate::harness::capture::Capture;
use crate::harness::{addresses, beside_others, drained, start};

const REQUESTS: u64 = 20;

/// A collector with both listeners in front of an exporter with these settings.
fn collector(kind: &str, destination: SocketAddr, ack: &str, exporter: &str) -> String {
    format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[receivers.otlp.protocols.http]
endpoint = "127.0.0.1:0"
[processors.batch]
timeout = "50ms"
[exporters.{kind}]
endpoint = "http://{destination}"
retry_on_failure = {{ initial_interval = "20ms", max_interval = "100ms" }}
{exporter}
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = ["batch"]
exporters = ["{kind}"]
ack = "{ack}"
"#
    )
}

async fn post(client: &mut WebClient, signal: Signal, media: &str, coding: &str, body: &[u8]) {
    let headers = [("content-type", media), ("content-encoding", coding)];
    let headers = if coding.is_empty() { &headers[..1] } else { &headers };
    let reply = client.send("POST", path(signal), headers, body).await.unwrap();
    assert_eq!(reply.status, 200, "{media} {coding}: {reply:?}");
}

async fn counts_are_exact(ack: &str, encoding: &str, compression: &str) {
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let settings = format!("encoding = {encoding:?}\ncompression = {compression:?}");
    let engine = start(&collector("otlphttp", sink.addr(), ack, &settings)).await;
    let [_, http] = addresses(&engine);

    let load = Loader::new(http).http().closed(2, 2).requests(REQUESTS).run().await;
    let mut client = WebClient::connect(http).await.unwrap();
    for _ in 0..5 {
        post(&mut client, Signal::Metrics, PROTOBUF, "", &requests::metrics(3)).await;
        post(&mut client, Signal::Logs, PROTOBUF, "", &requests::logs(7)).await;
    }
    let case = format!("{ack}, {encoding}, {compression}: {load}");
    assert_eq!((load.acknowledged.len(), load.refusals(), load.unresolved), (REQUESTS * 100, 0, 0), "{case}");
    if ack == "delivered" {
        // "ok" came after the destination's: nothing is waited for.
        assert!(verdict(&load, &sink.snapshot()).is_exact(), "{case}");
    }
    drained(&engine).await;

    let counts = sink.snapshot();
    assert!(verdict(&load, &counts).is_exact(), "{case}; {}", verdict(&load, &counts));
    assert_eq!((counts.points, counts.logs, counts.foreign_spans), (15, 35, 0), "{case}");
    assert_eq!((counts.malformed, counts.refused, counts.abandoned), (0, 0, 0), "{case}");
    let coding = if compression == "none" { "identity" } else { compression };
    let expected = if encoding == "json" { format!("json+{coding}") } else { coding.to_owned() };
    assert_eq!(counts.encodings.keys().collect::<Vec<_>>(), [&expected], "{case}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protobuf_in_every_compression() {
    let _turn = beside_others().await;
    for ack in ["accepted", "delivered"] {
        for compression in ["none", "gzip", "zstd"] {
            counts_are_exact(ack, "proto", compression).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_in_every_compression() {
    let _turn = beside_others().await;
    for ack in ["accepted", "delivered"] {
        for compression in ["none", "gzip", "zstd"] {
            counts_are_exact(ack, "json", compression).await;
        }
    }
}

/// A sender's way to compress a body.
pub type Pack = fn(&[u8]) -> Vec<u8>;

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn raw_deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub fn snappy_frames(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.into_inner().unwrap()
}

pub fn snappy_block(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

const OVER_HTTP: [(&str, Pack); 11] = [
    ("identity", plain),
    ("gzip", gzip),
    ("x-gzip", gzip),
    ("zstd", zstd),
    ("zlib", zlib),
    ("deflate", zlib),
    ("deflate", raw_deflate),
    ("snappy", snappy_frames),
    ("snappy", snappy_block),
    ("x-snappy-framed", snappy_frames),
    ("Zstd", zstd),
];

const OVER_GRPC: [(&str, Pack); 6] = [
    ("gzip", gzip),
    ("zstd", zstd),
    ("deflate", zlib),
    ("deflate", raw_deflate),
    ("snappy", snappy_frames),
    ("snappy", snappy_block),
];

fn to_json(signal: Telemetry, message: &[u8]) -> Vec<u8> {
    let mut json = Vec::new();
    telemetry::json::encode(signal, message, &mut json).unwrap();
    json
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_of_a_sender_is_understood() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector("otlphttp", sink.addr(), "delivered", "compression = \"none\"")).await;
    let [grpc, http] = addresses(&engine);
    // More than one block of any of them.
    let template = TraceTemplate::new(1, 700);
    let mut next = 0..;
    let mut traces = || template.message(next.next().unwrap() * 700);

    let mut web = WebClient::connect(http).await.unwrap();
    for (coding, pack) in OVER_HTTP {
        let message = traces();
        assert!(message.len() > 64 << 10);
        post(&mut web, Signal::Traces, PROTOBUF, coding, &pack(&message)).await;
        post(&mut web, Signal::Traces, JSON, coding, &pack(&to_json(Telemetry::Traces, &traces()))).await;
        post(&mut web, Signal::Metrics, PROTOBUF, coding, &pack(&requests::metrics(2))).await;
        let logs = to_json(Telemetry::Logs, &requests::logs(3));
        post(&mut web, Signal::Logs, JSON, coding, &pack(&logs)).await;
    }
    let mut client = Client::connect(grpc).await.unwrap();
    for (coding, pack) in OVER_GRPC {
        let packed = pack(&traces());
        let framed: Bytes = [&[1][..], &(packed.len() as u32).to_be_bytes(), &packed].concat().into();
        let head = Head::new(Signal::Traces, None, Some(coding));
        assert_eq!(client.call(&head, framed).await.unwrap(), Reply::Accepted, "{coding}");
    }
    drained(&engine).await;

    let counts = sink.snapshot();
    let requests = (2 * OVER_HTTP.len() + OVER_GRPC.len()) as u64;
    assert_eq!(next.next(), Some(requests));
    assert_eq!(
        (counts.spans, counts.runs[&1].seen.len(), counts.runs[&1].extra),
        (requests * 700, requests * 700, 0)
    );
    let codings = OVER_HTTP.len() as u64;
    assert_eq!((counts.points, counts.logs, counts.foreign_spans), (2 * codings, 3 * codings, 0));
}

// --- What JSON means, written down twice by hand. ---

fn attribute(key: &str, value: Option<Value>) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value }), ..KeyValue::default() }
}

fn text(value: &str) -> Option<Value> {
    Some(Value::StringValue(value.into()))
}

const RESOURCE: &str = r#"{"attributes":[{"key":"service.name","value":{"stringValue":"Straße \u2603 \ud83d\ude00"}}],"droppedAttributesCount":1}"#;
const SCOPE: &str = r#"{"name":"s","version":"1","attributes":[{"key":"b","value":{"boolValue":false}}]}"#;

fn resource() -> Option<Resource> {
    let attributes = vec![attribute("service.name", text("Straße ☃ 😀"))];
    Some(Resource { attributes, dropped_attributes_count: 1, ..Resource::default() })
}

fn scope() -> Option<InstrumentationScope> {
    let attributes = vec![attribute("b", Some(Value::BoolValue(false)))];
    Some(InstrumentationScope { name: "s".into(), version: "1".into(), attributes, ..Default::default() })
}

/// Every type of value; 64-bit numbers as strings and as numbers, ids in either case, unknown and absent fields.
fn traces() -> (String, ExportTraceServiceRequest) {
    let json = format!(
        r#"{{"resourceSpans":[{{"resource":{RESOURCE},"futureField":[1,{{"a":null}}],"schemaUrl":"r","scopeSpans":[{{
"scope":{SCOPE},"schemaUrl":"x","spans":[{{
"traceId":"5B8EFFF798038103d269b633813fc60c","spanId":"EEE19B7EC3C1B174","parentSpanId":"","traceState":"a=1",
"flags":769,"name":"tab\tquote\"","kind":2,"startTimeUnixNano":"18446744073709551615","endTimeUnixNano":1544712661000000000,
"attributes":[
 {{"key":"min","value":{{"intValue":"-9223372036854775808"}}}},
 {{"key":"int","value":{{"intValue":7}}}},
 {{"key":"double","value":{{"doubleValue":-0.25}}}},
 {{"key":"infinite","value":{{"doubleValue":"-Infinity"}}}},
 {{"key":"bytes","value":{{"bytesValue":"AAEC/w=="}}}},
 {{"key":"list","value":{{"arrayValue":{{"values":[{{"stringValue":""}},{{}},{{"boolValue":true}}]}}}}}},
 {{"key":"map","value":{{"kvlistValue":{{"values":[{{"key":"k","value":{{"intValue":"1"}}}}]}}}}}},
 {{"key":"nothing","value":{{}}}}],
"events":[{{"timeUnixNano":"5","name":"e","droppedAttributesCount":2}}],
"links":[{{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","flags":1}}],
"droppedLinksCount":null,"status":{{"code":2,"message":"no"}}}}]}}]}}]}}"#
    );
    let trace_id =
        vec![0x5b, 0x8e, 0xff, 0xf7, 0x98, 0x03, 0x81, 0x03, 0xd2, 0x69, 0xb6, 0x33, 0x81, 0x3f, 0xc6, 0x0c];
    let span_id = vec![0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x74];
    let values = vec![
        AnyValue { value: text("") },
        AnyValue { value: None },
        AnyValue { value: Some(Value::BoolValue(true)) },
    ];
    let map = KeyValueList { values: vec![attribute("k", Some(Value::IntValue(1)))] };
    let span = Span {
        trace_id: trace_id.clone(),
        span_id: span_id.clone(),
        trace_state: "a=1".into(),
        flags: 769,
        name: "tab\tquote\"".into(),
        kind: 2,
        start_time_unix_nano: u64::MAX,
        end_time_unix_nano: 1_544_712_661_000_000_000,
        attributes: vec![
            attribute("min", Some(Value::IntValue(i64::MIN))),
            attribute("int", Some(Value::IntValue(7))),
            attribute("double", Some(Value::DoubleValue(-0.25))),
            attribute("infinite", Some(Value::DoubleValue(f64::NEG_INFINITY))),
            attribute("bytes", Some(Value::BytesValue(vec![0, 1, 2, 255]))),
            attribute("list", Some(Value::ArrayValue(ArrayValue { values }))),
            attribute("map", Some(Value::KvlistValue(map))),
            attribute("nothing", None),
        ],
        events: vec![Event {
            time_unix_nano: 5,
            name: "e".into(),
            dropped_attributes_count: 2,
            ..Event::default()
        }],
        links: vec![Link { trace_id, span_id, flags: 1, ..Link::default() }],
        status: Some(Status { code: 2, message: "no".into() }),
        ..Span::default()
    };
    let scope_spans = vec![ScopeSpans { scope: scope(), spans: vec![span], schema_url: "x".into() }];
    let resource_spans = vec![ResourceSpans { resource: resource(), scope_spans, schema_url: "r".into() }];
    (json, ExportTraceServiceRequest { resource_spans })
}

/// All but one kind of metric, and what is optional in points: there and zero, and not there.
fn metrics() -> (String, ExportMetricsServiceRequest) {
    let json = format!(
        r#"{{"resourceMetrics":[{{"resource":{RESOURCE},"scopeMetrics":[{{"scope":{SCOPE},"metrics":[
{{"name":"sum","unit":"1","sum":{{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[
  {{"timeUnixNano":"3","asInt":"-3","exemplars":[{{"timeUnixNano":"1","spanId":"eee19b7ec3c1b174","asDouble":1.5}}]}},
  {{"asDouble":0}},{{"flags":1}}]}}}},
{{"name":"histogram","histogram":{{"aggregationTemporality":1,"dataPoints":[
  {{"count":"3","sum":0.0,"bucketCounts":["1","2",0],"explicitBounds":[0.5,1e300],"min":-0.0}}]}}}},
{{"name":"exponential","exponentialHistogram":{{"aggregationTemporality":2,"dataPoints":[
  {{"count":"2","scale":-3,"zeroCount":"1","positive":{{"offset":-5,"bucketCounts":["1"]}},"zeroThreshold":0.125}}]}}}},
{{"name":"summary","description":"d","summary":{{"dataPoints":[
  {{"count":"1","sum":2.5,"quantileValues":[{{"quantile":0.5,"value":2.5}},{{}}]}}]}}}}]}}]}}]}}"#
    );
    let exemplar = Exemplar {
        time_unix_nano: 1,
        span_id: vec![0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x74],
        value: Some(exemplar::Value::AsDouble(1.5)),
        ..Exemplar::default()
    };
    let sum = Sum {
        data_points: vec![
            NumberDataPoint {
                time_unix_nano: 3,
                value: Some(Number::AsInt(-3)),
                exemplars: vec![exemplar],
                ..NumberDataPoint::default()
            },
            NumberDataPoint { value: Some(Number::AsDouble(0.0)), ..NumberDataPoint::default() },
            NumberDataPoint { flags: 1, ..NumberDataPoint::default() },
        ],
        aggregation_temporality: 2,
        is_monotonic: true,
    };
    let histogram = Histogram {
        data_points: vec![HistogramDataPoint {
            count: 3,
            sum: Some(0.0),
            bucket_counts: vec![1, 2, 0],
            explicit_bounds: vec![0.5, 1e300],
            min: Some(-0.0),
            ..HistogramDataPoint::default()
        }],
        aggregation_temporality: 1,
    };
    let exponential = ExponentialHistogram {
        data_points: vec![ExponentialHistogramDataPoint {
            count: 2,
            scale: -3,
            zero_count: 1,
            positive: Some(Buckets { offset: -5, bucket_counts: vec![1] }),
            zero_threshold: 0.125,
            ..ExponentialHistogramDataPoint::default()
        }],
        aggregation_temporality: 2,
    };
    let summary = Summary {
        data_points: vec![SummaryDataPoint {
            count: 1,
            sum: 2.5,
            quantile_values: vec![ValueAtQuantile { quantile: 0.5, value: 2.5 }, ValueAtQuantile::default()],
            ..SummaryDataPoint::default()
        }],
    };
    let metric = |name: &str, data| Metric { name: name.into(), data: Some(data), ..Metric::default() };
    let metrics = vec![
        Metric { unit: "1".into(), ..metric("sum", Data::Sum(sum)) },
        metric("histogram", Data::Histogram(histogram)),
        metric("exponential", Data::ExponentialHistogram(exponential)),
        Metric { description: "d".into(), ..metric("summary", Data::Summary(summary)) },
    ];
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: resource(), scope_metrics, ..ResourceMetrics::default() }];
    (json, ExportMetricsServiceRequest { resource_metrics })
}

fn logs() -> (String, ExportLogsServiceRequest) {
    let json = format!(
        r#"{{"resourceLogs":[{{"resource":{RESOURCE},"scopeLogs":[{{"scope":{SCOPE},"logRecords":[
{{"timeUnixNano":"1","observedTimeUnixNano":"2","severityNumber":17,"severityText":"Error","eventName":"n","flags":1,
 "body":{{"kvlistValue":{{"values":[{{"key":"k","value":{{"stringValue":"v"}}}}]}}}},
 "traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174"}},
{{}}]}}]}}]}}"#
    );
    let body = KeyValueList { values: vec![attribute("k", text("v"))] };
    let record = LogRecord {
        time_unix_nano: 1,
        observed_time_unix_nano: 2,
        severity_number: 17,
        severity_text: "Error".into(),
        event_name: "n".into(),
        flags: 1,
        body: Some(AnyValue { value: Some(Value::KvlistValue(body)) }),
        trace_id: vec![
            0x5b, 0x8e, 0xff, 0xf7, 0x98, 0x03, 0x81, 0x03, 0xd2, 0x69, 0xb6, 0x33, 0x81, 0x3f, 0xc6, 0x0c,
        ],
        span_id: vec![0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x74],
        ..LogRecord::default()
    };
    let log_records = vec![record, LogRecord::default()];
    let scope_logs = vec![ScopeLogs { scope: scope(), log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: resource(), scope_logs, ..ResourceLogs::default() }];
    (json, ExportLogsServiceRequest { resource_logs })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_means_what_it_says() {
    let _turn = beside_others().await;
    let capture = Capture::start().await;
    let gateway = start(&collector("otlp", capture.address(), "delivered", "compression = \"none\"")).await;
    // Once straight to protobuf, once more as JSON on the way.
    let between = addresses(&gateway)[1];
    let agent = start(&collector("otlphttp", between, "delivered", "encoding = \"json\"")).await;
    let ((traces, spans), (metrics, points), (logs, records)) = (traces(), metrics(), logs());
    for hop in [&gateway, &agent] {
        let mut client = WebClient::connect(addresses(hop)[1]).await.unwrap();
        for (signal, json) in [(Signal::Traces, &traces), (Signal::Metrics, &metrics), (Signal::Logs, &logs)]
        {
            post(&mut client, signal, JSON, "", json.as_bytes()).await;
        }
    }
    let captured = capture
        .wait(|captured| {
            captured.traces.resource_spans.len() == 2
                && captured.metrics.resource_metrics.len() == 2
                && captured.logs.resource_logs.len() == 2
        })
        .await;
    assert_eq!(captured.traces.resource_spans, [&spans.resource_spans[..]; 2].concat());
    assert_eq!(captured.metrics.resource_metrics, [&points.resource_metrics[..]; 2].concat());
    assert_eq!(captured.logs.resource_logs, [&records.resource_logs[..]; 2].concat());
    drained(&agent).await;
    drained(&gateway).await;
}
