//! Zipkin at both ends: what tracers report arrives as OTLP, what leaves as Zipkin arrives again, and everybody hears what
//! a Zipkin server would say.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use watershed_testkit::call::Reply;
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests;
use watershed_testkit::web::{WebClient, WebReply};
use watershed_testkit::{Answer, Sink};

use crate::harness::capture::Capture;
use crate::harness::{beside_others, call, drained, metric, otlp, plan, receiver, start};
use crate::relay_http::{gzip, zlib};

/// A collector that takes Zipkin and sends OTLP.
fn collector(destination: SocketAddr, more: &str) -> String {
    format!(
        r#"
[receivers.zipkin]
endpoint = "127.0.0.1:0"
{more}
[exporters.otlp]
endpoint = "http://{destination}"
compression = "none"
retry_on_failure.enabled = false
[pipelines.traces]
receivers = ["zipkin"]
exporters = ["otlp"]
ack = "delivered"
"#
    )
}

const V2: &str = "/api/v2/spans";
pub const V1: &str = "/api/v1/spans";
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";
pub const THRIFT: &str = "application/x-thrift";

async fn post(to: SocketAddr, path: &str, media: &str, headers: &[(&str, &str)], body: &[u8]) -> WebReply {
    let headers = [&[("content-type", media)], headers].concat();
    WebClient::connect(to).await.unwrap().send("POST", path, &headers, body).await.unwrap()
}

fn text(reply: &WebReply) -> String {
    String::from_utf8(reply.body.clone()).unwrap()
}

/// Two spans of `shop`, and one of `web`.
const SPANS: &str = r#"[
  {"traceId":"463ac35c9f6413ad48485a3953bb6124","id":"a2fb4a1d1a96d312","name":"get","kind":"SERVER","timestamp":1000,
   "duration":7,"localEndpoint":{"serviceName":"shop","ipv4":"10.0.0.1","port":80},"shared":true,
   "annotations":[{"timestamp":1003,"value":"flushed"}],"tags":{"http.path":"/","error":"no luck"}},
  {"traceId":"48485a3953bb6124","id":"1","localEndpoint":{"serviceName":"web"},"kind":"CLIENT",
   "remoteEndpoint":{"serviceName":"shop"}},
  {"traceId":"48485a3953bb6124","parentId":"1","id":"2","localEndpoint":{"serviceName":"shop"}}
]"#;

/// A span of version 2 in protobuf.
fn protobuf() -> Vec<u8> {
    b"\x0a\x1b\x0a\x08aaaaaaaa\x1a\x08bbbbbbbb\x20\x01\x2a\x03get".to_vec()
}

/// A span of version 1 in Thrift: trace id 1, name `get`, id 2.
pub fn thrift() -> Vec<u8> {
    let long = |number: u8, value: u8| [10, 0, number, 0, 0, 0, 0, 0, 0, 0, value].to_vec();
    let name = b"\x0b\x00\x03\x00\x00\x00\x03get".to_vec();
    [b"\x0c\x00\x00\x00\x01".to_vec(), long(1, 1), name, long(4, 2), vec![0]].concat()
}

pub const V1_SPANS: &str = r#"[{"traceId":"a","id":"b","name":"get","annotations":[
  {"timestamp":10,"value":"cs","endpoint":{"serviceName":"web"}},
  {"timestamp":20,"value":"sr","endpoint":{"serviceName":"shop"}},
  {"timestamp":30,"value":"ss","endpoint":{"serviceName":"shop"}},
  {"timestamp":40,"value":"cr","endpoint":{"serviceName":"web"}}]}]"#;

/// Each span by its service.
fn spans(request: &ExportTraceServiceRequest) -> Vec<(String, &Span)> {
    let mut spans = Vec::new();
    for group in &request.resource_spans {
        let attributes = group.resource.iter().flat_map(|resource| &resource.attributes);
        let service: Vec<_> =
            attributes.map(|attribute| (attribute.key.as_str(), string(attribute))).collect();
        assert!(service.len() <= 1 && service.iter().all(|(key, _)| *key == "service.name"), "{service:?}");
        let service = service.first().map_or(String::new(), |(_, name)| name.clone());
        let inside = group.scope_spans.iter().flat_map(|scope| &scope.spans);
        spans.extend(inside.map(|span| (service.clone(), span)));
    }
    spans
}

fn string(attribute: &opentelemetry_proto::tonic::common::v1::KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tracers_report_arrives_as_otlp() {
    let _turn = beside_others().await;
    let capture = Capture::start().await;
    let engine = start(&collector(capture.address(), "")).await;
    let to = receiver(&engine, "zipkin");
    let (gzip, zlib) = (gzip(SPANS.as_bytes()), zlib(SPANS.as_bytes()));
    for (path, media, headers, body, count) in [
        (V2, JSON, &[][..], SPANS.as_bytes(), 3),
        ("/behind/a/proxy/api/v2/spans", "application/json; charset=utf-8", &[], SPANS.as_bytes(), 3),
        (V2, "text/plain", &[("content-encoding", "gzip")], &gzip, 3),
        (V2, JSON, &[("content-encoding", "deflate")], &zlib, 3),
        (V2, PROTOBUF, &[("x-b3-flags", "1")], &protobuf(), 1),
        (V1, JSON, &[], V1_SPANS.as_bytes(), 2),
        (V1, THRIFT, &[], &thrift(), 1),
        (V2, JSON, &[], b"[]", 0),
        (V2, PROTOBUF, &[], b"", 0),
    ] {
        let before = capture.wait(|_| true).await.traces.resource_spans.len();
        let reply = post(to, path, media, headers, body).await;
        assert_eq!((reply.status, reply.body.len()), (202, 0), "{path} {media}: {}", text(&reply));
        // "ok" came after the destination's: nothing is waited for.
        let mut arrived = capture.wait(|_| true).await.traces;
        arrived.resource_spans.drain(..before);
        assert_eq!(spans(&arrived).len(), count, "{path} {media}: {arrived:?}");
    }
    let arrived = capture.wait(|_| true).await.traces;
    let spans = spans(&arrived);
    let of = |service: &str| spans.iter().filter(|(name, _)| name == service).count();
    assert_eq!([of("shop"), of("web"), of("")], [2 * 4 + 1, 4 + 1, 2]);
    // One group for each service of a request.
    assert_eq!(arrived.resource_spans.len(), 2 * 4 + 1 + 2 + 1);
    let (_, server) = spans[0];
    assert_eq!((server.trace_id[0], server.span_id[0], server.kind), (0x46, 0xa2, 2));
    assert_eq!((server.start_time_unix_nano, server.end_time_unix_nano), (1_000_000, 1_007_000));
    let status = server.status.as_ref().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "no luck"));
    let keys: Vec<_> = server.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(keys, ["http.path", "network.local.address", "network.local.port", "zipkin.shared"]);
    assert_eq!((server.events.len(), server.events[0].name.as_str()), (1, "flushed"));
    let debug =
        spans.iter().filter(|(_, span)| span.attributes.iter().any(|a| a.key == "zipkin.debug")).count();
    assert_eq!(debug, 1);
    let metrics = engine.metrics().render();
    let counted = "otelcol_receiver_accepted_spans{receiver=\"zipkin\",transport=\"http\"}";
    assert_eq!(metric(&metrics, counted), 16.0, "{metrics}");
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_become_numbers_where_that_is_wanted() {
    let _turn = beside_others().await;
    let capture = Capture::start().await;
    let engine = start(&collector(capture.address(), "parse_string_tags = true")).await;
    let body = br#"[{"traceId":"a","id":"b","timestamp":1,"tags":{"n":"7"}}]"#;
    assert_eq!(post(receiver(&engine, "zipkin"), V2, JSON, &[], body).await.status, 202);
    let arrived = capture.wait(|_| true).await.traces;
    let attribute = &spans(&arrived)[0].1.attributes[0];
    assert_eq!(attribute.value.as_ref().unwrap().value, Some(Value::IntValue(7)));
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_answered_with_its_place() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector(sink.addr(), "max_request_body_size = \"1KiB\"")).await;
    let to = receiver(&engine, "zipkin");
    for (path, media, body, status, message) in [
        (V2, JSON, &b"[{\"traceId\":\"x\"}]"[..], 400, "[0].traceId: must be 1 to 32 hex digits"),
        (V2, PROTOBUF, b"\x0a\x02\x0a\x00", 400, "spans[0].trace_id: must be 8 or 16 bytes (at byte 2)"),
        (V1, JSON, b"{}", 400, "request: must be an array (line 1, column 1)"),
        (V1, THRIFT, b"\x0c\x00\x00\x00\x01\x0a", 400, "spans[0]: truncated (at byte 6)"),
        (V1, PROTOBUF, b"", 415, "protobuf is of version 2: it goes to /api/v2/spans"),
        (V2, THRIFT, b"", 415, "Thrift is of version 1: it goes to /api/v1/spans"),
        ("/api/v3/spans", JSON, b"[]", 404, "there is nothing at /api/v3/spans"),
        (V2, JSON, &[b' '; 2000], 413, ""),
    ] {
        let reply = post(to, path, media, &[], body).await;
        assert_eq!(reply.status, status, "{path} {media}");
        assert!(text(&reply).starts_with(message), "{path} {media}: {}", text(&reply));
        assert!(!reply.headers.contains_key("retry-after"));
    }
    let reply = WebClient::connect(to).await.unwrap().send("GET", V2, &[], b"").await.unwrap();
    assert_eq!((reply.status, &reply.headers["allow"]), (405, &"POST".parse().unwrap()));
    assert_eq!(sink.snapshot().requests, 0);
    let metrics = engine.metrics().render();
    let refused = |reason: &str| {
        metric(
            &metrics,
            &format!("watershed_receiver_refused_requests{{receiver=\"zipkin\",reason=\"{reason}\"}}"),
        )
    };
    assert_eq!(
        [refused("rejected"), refused("transport"), refused("too_large")],
        [4.0, 4.0, 1.0],
        "{metrics}"
    );
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_had_now_is_answered_with_when() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector(sink.addr(), "")).await;
    let to = receiver(&engine, "zipkin");
    sink.answer_by(|_| Answer::Unavailable { retry_delay: None });
    let reply = post(to, V2, JSON, &[], SPANS.as_bytes()).await;
    assert_eq!(reply.status, 503, "{}", text(&reply));
    assert!(reply.headers.contains_key("retry-after"));
    drained(&engine).await;
}

/// OTLP → Zipkin → our own receiver → OTLP, in both formats: what went in comes out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_leaves_as_zipkin_arrives_again() {
    let _turn = beside_others().await;
    for format in ["json", "proto"] {
        for compression in ["none", "gzip"] {
            let capture = Capture::start().await;
            let second = start(&collector(capture.address(), "")).await;
            let between = receiver(&second, "zipkin");
            let first = start(&format!(
                r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters.zipkin]
endpoint = "http://{between}/api/v2/spans"
format = "{format}"
compression = "{compression}"
[pipelines.traces]
receivers = ["otlp"]
exporters = ["zipkin"]
ack = "delivered"
"#
            ))
            .await;
            let sent = requests::trace_request(1, 250);
            let reply = call(otlp(&first), Signal::Traces, &[], &sent.encode_to_vec()).await;
            assert!(matches!(reply, Reply::Accepted), "{format} {compression}: {reply:?}");
            let arrived = capture.wait(|_| true).await.traces;
            let essence = |request: &ExportTraceServiceRequest| {
                let mut spans: Vec<_> = spans_of(request).collect();
                spans.sort();
                spans
            };
            assert_eq!(essence(&arrived), essence(&sent), "{format} {compression}");
            assert_eq!(essence(&sent).len(), 250);
            drained(&first).await;
            drained(&second).await;
        }
    }
}

/// Of each span what Zipkin keeps in any case.
fn spans_of(
    request: &ExportTraceServiceRequest,
) -> impl Iterator<Item = (Vec<u8>, Vec<u8>, Vec<u8>, String, u64)> {
    let scopes = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
    scopes.flat_map(|scope| &scope.spans).map(|span| {
        let start = span.start_time_unix_nano / 1000;
        (span.trace_id.clone(), span.span_id.clone(), span.parent_span_id.clone(), span.name.clone(), start)
    })
}

#[test]
fn mistakes_are_told_with_their_key() {
    let error = |exporter: &str| {
        let text = format!(
            "[exporters.zipkin]\n{exporter}\n[pipelines.traces]\nreceivers = [\"zipkin\"]\nexporters = [\"zipkin\"]\n"
        );
        let mut sources = watershed::engine::config::Sources::default();
        sources.inline.push(("test.toml".to_owned(), text));
        match watershed::engine::config::load(&sources, &watershed::kinds()) {
            Ok(_) => String::new(),
            Err(errors) => errors.to_string(),
        }
    };
    assert!(error("").contains("requires a non-empty \"endpoint\""), "{}", error(""));
    assert!(error("endpoint = \"zipkin\"").contains("endpoint"), "{}", error("endpoint = \"zipkin\""));
    assert!(error("endpoint = \"http://z:9411/api/v2/spans\"\nformat = \"thrift\"").contains("format"));
    assert_eq!(error("endpoint = \"http://z:9411/api/v2/spans\""), "");
    plan(&["[pipelines.traces]\nreceivers = [\"zipkin\"]\nexporters = [\"nop\"]\n"]);
}
