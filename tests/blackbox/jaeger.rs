//! Jaeger: every way in, what is answered, what is counted where nobody is answered, and the way out.

use std::net::{SocketAddr, UdpSocket};

use bytes::Bytes;
use watershed::engine::Engine;
use watershed::engine::config::{Sources, load};
use watershed::stage::telemetry::wire;
use watershed_net::{CallError, Client, ClientOptions, Code};
use watershed_testkit::web::{WebClient, WebReply};
use watershed_testkit::{Answer, Loader, Sink, reserve, verdict, wait_until};
use watershed_thrift::{Kind, List, Message, Protocol, Purpose, Value, Writer};

use crate::harness::{PATIENCE, beside_others, drained, kinds, metric, start};

const POST_SPANS: &str = "/jaeger.api_v2.CollectorService/PostSpans";
const THRIFT: &str = "application/x-thrift";

/// Every way in on any port, in front of a sink.
fn collector(sink: SocketAddr, protocols: &str, more: &str) -> String {
    format!(
        r#"
[receivers.jaeger]
{protocols}
[exporters.otlp]
endpoint = "http://{sink}"
retry_on_failure = {{ enabled = false }}
{more}
[pipelines.traces]
receivers = ["jaeger"]
exporters = ["otlp"]
ack = "delivered"
"#
    )
}

const ALL: &str = r#"
protocols.grpc.endpoint = "127.0.0.1:0"
protocols.thrift_http.endpoint = "127.0.0.1:0"
protocols.thrift_compact.endpoint = "127.0.0.1:0"
protocols.thrift_binary.endpoint = "127.0.0.1:0"
"#;

/// The address that a key of the receiver names.
fn at(engine: &Engine, key: &str) -> SocketAddr {
    let found = engine.addresses().into_iter().find(|address| address.key == key);
    found.unwrap_or_else(|| panic!("nothing listens by {key}: {:?}", engine.addresses())).address
}

/// `PostSpansRequest` with so many spans.
fn post_spans(spans: u64) -> Vec<u8> {
    let mut batch = Vec::new();
    for number in 1..=spans {
        let mut span = Vec::new();
        wire::put_bytes_field(&mut span, 1, &u128::from(number).to_be_bytes());
        wire::put_bytes_field(&mut span, 2, &number.to_be_bytes());
        wire::put_bytes_field(&mut span, 3, b"GET /");
        wire::put_bytes_field(&mut batch, 1, &span);
    }
    wire::put_bytes_field(&mut batch, 2, &[0x0A, 4, b'c', b'a', b'r', b't']);
    let mut request = Vec::new();
    wire::put_bytes_field(&mut request, 1, &batch);
    request
}

/// `Batch` with so many spans.
fn batch(writer: &mut Writer, spans: usize) {
    writer.structure(|writer| {
        writer.field(1, Value::Struct);
        writer.structure(|writer| writer.field(1, Value::Binary(b"cart")));
        writer.field(2, Value::List(List { element: Kind::Struct, len: spans }));
        for number in 1..=spans as i64 {
            writer.structure(|writer| {
                writer.field(1, Value::I64(number));
                writer.field(2, Value::I64(0));
                writer.field(3, Value::I64(number));
                writer.field(4, Value::I64(0));
                writer.field(5, Value::Binary(b"GET /"));
            });
        }
    });
}

pub fn batch_over_http(spans: usize) -> Vec<u8> {
    let mut writer = Writer::new(Protocol::Binary);
    batch(&mut writer, spans);
    writer.into_bytes()
}

pub fn emit_batch(protocol: Protocol, spans: usize) -> Vec<u8> {
    let mut writer = Writer::new(protocol);
    writer.message(Message { name: b"emitBatch", purpose: Purpose::Oneway, sequence: 1 });
    writer.structure(|writer| {
        writer.field(1, Value::Struct);
        batch(writer, spans);
    });
    writer.into_bytes()
}

async fn call(to: SocketAddr, path: &'static str, message: Vec<u8>) -> Result<Bytes, CallError> {
    let client = Client::new(ClientOptions::new(format!("http://{to}"))).unwrap();
    client.unary(path, &http::HeaderMap::new(), &[message.into()], Some(PATIENCE)).await
}

async fn post(to: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> WebReply {
    let mut client = WebClient::connect(to).await.unwrap();
    client.send("POST", path, &[("content-type", content_type)], body).await.unwrap()
}

async fn get(to: SocketAddr, path: &str) -> (u16, String) {
    let reply = WebClient::connect(to).await.unwrap().send("GET", path, &[], b"").await.unwrap();
    (reply.status, String::from_utf8(reply.body).unwrap())
}

pub fn datagram(to: SocketAddr, bytes: &[u8]) {
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(bytes, to).unwrap();
}

/// Until a series stands at this.
async fn counted(engine: &Engine, series: &str, count: f64) {
    let is = async || metric(&engine.metrics().render(), series) == count;
    assert!(wait_until(is, PATIENCE).await, "{series} is not {count}:\n{}", engine.metrics().render());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_arrive_by_every_way_in() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector(sink.addr(), ALL, "")).await;

    call(at(&engine, "protocols.grpc.endpoint"), POST_SPANS, post_spans(3)).await.unwrap();
    for content_type in [THRIFT, "application/vnd.apache.thrift.binary; charset=utf-8"] {
        let http = at(&engine, "protocols.thrift_http.endpoint");
        let reply = post(http, "/api/traces", content_type, &batch_over_http(5)).await;
        assert_eq!((reply.status, reply.body), (202, vec![]));
    }
    datagram(at(&engine, "protocols.thrift_compact.endpoint"), &emit_batch(Protocol::Compact, 7));
    datagram(at(&engine, "protocols.thrift_binary.endpoint"), &emit_batch(Protocol::Binary, 11));

    assert!(sink.wait_until(|counts| counts.spans >= 31, PATIENCE).await);
    for (transport, spans) in
        [("grpc", 3.0), ("collector_http", 10.0), ("udp_thrift_compact", 7.0), ("udp_thrift_binary", 11.0)]
    {
        let series =
            format!("otelcol_receiver_accepted_spans{{receiver=\"jaeger\",transport=\"{transport}\"}}");
        counted(&engine, &series, spans).await;
    }
    drained(&engine).await;
    let counts = sink.snapshot();
    assert_eq!((counts.spans, counts.malformed), (31, 0), "{counts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_is_told_what_is_wrong_and_when_to_come_again() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector(sink.addr(), ALL, "")).await;
    let (grpc, http) =
        (at(&engine, "protocols.grpc.endpoint"), at(&engine, "protocols.thrift_http.endpoint"));

    let refused = async |path, message| call(grpc, path, message).await.unwrap_err().status;
    assert_eq!(refused(POST_SPANS, vec![0xFF]).await.code, Code::InvalidArgument);
    assert_eq!(refused("/jaeger.api_v2.CollectorService/GetSpans", vec![]).await.code, Code::Unimplemented);
    let sampling = "/jaeger.api_v2.SamplingManager/GetSamplingStrategy";
    assert_eq!(refused(sampling, vec![]).await.code, Code::Unimplemented, "there are no strategies");
    assert_eq!(post(http, "/api/traces", THRIFT, b"\xFF").await.status, 400);
    assert_eq!(post(http, "/api/traces", "application/json", b"{}").await.status, 400);
    assert_eq!(post(http, "/v1/traces", THRIFT, &batch_over_http(1)).await.status, 404);
    assert_eq!(get(http, "/api/traces").await.0, 405);
    assert_eq!(get(http, "/api/sampling?service=cart").await.0, 404);
    // Nothing is a batch without spans, which succeeds.
    assert_eq!(call(grpc, POST_SPANS, vec![]).await.unwrap(), "");

    sink.answer_by(|_| Answer::Unavailable { retry_delay: None });
    let later = refused(POST_SPANS, post_spans(1)).await;
    assert_eq!((later.code, later.retry_after.is_some()), (Code::Unavailable, true));
    let later = post(http, "/api/traces", THRIFT, &batch_over_http(1)).await;
    assert_eq!((later.status, later.header("retry-after").is_empty()), (503, false));
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datagram_that_is_lost_is_counted_with_its_reason() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let protocols =
        r#"protocols.thrift_compact = { endpoint = "127.0.0.1:0", queue_size = 1, max_packet_size = 2000 }"#;
    let engine = start(&collector(sink.addr(), protocols, "timeout = \"0s\"")).await;
    let udp = at(&engine, "protocols.thrift_compact.endpoint");
    let lost =
        |reason| format!("watershed_receiver_refused_requests{{receiver=\"jaeger\",reason=\"{reason}\"}}");

    datagram(udp, &[0; 2001]);
    counted(&engine, &lost("too_large"), 1.0).await;
    datagram(udp, b"\x82\x81\x01\x04what\x00");
    counted(&engine, &lost("rejected"), 1.0).await;
    sink.answer_by(|_| Answer::Unavailable { retry_delay: None });
    datagram(udp, &emit_batch(Protocol::Compact, 3));
    // Nobody is left to try again where its exporter does not.
    counted(&engine, &lost("rejected"), 2.0).await;
    counted(&engine, "otelcol_receiver_refused_spans{receiver=\"jaeger\"", 3.0).await;

    // One is on its way, for as long as its destination takes; the next finds no place.
    sink.answer_by(|_| Answer::Slow(std::time::Duration::from_secs(3)));
    datagram(udp, &emit_batch(Protocol::Compact, 5));
    counted(&engine, "watershed_receiver_socket_overflows", 0.0).await;
    let full = async || {
        datagram(udp, &emit_batch(Protocol::Compact, 7));
        metric(&engine.metrics().render(), &lost("queue_full")) > 0.0
    };
    assert!(wait_until(full, PATIENCE).await, "{}", engine.metrics().render());
    sink.answer_by(|_| Answer::Ok);
    assert!(sink.wait_until(|counts| counts.spans >= 5, PATIENCE).await);
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_how_to_sample() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("strategies.json");
    let strategy = |rate: f64| {
        format!(r#"{{"service_strategies":[{{"service":"cart","type":"probabilistic","param":{rate}}}]}}"#)
    };
    std::fs::write(&file, strategy(0.5)).unwrap();
    let sampling = format!(
        "{ALL}remote_sampling = {{ host_endpoint = \"127.0.0.1:0\", strategy_file = {file:?}, \
         strategy_file_reload_interval = \"1ms\" }}"
    );
    let engine = start(&collector(sink.addr(), &sampling, "")).await;
    let (agent, http) =
        (at(&engine, "remote_sampling.host_endpoint"), at(&engine, "protocols.thrift_http.endpoint"));

    let said = |rate: &str| {
        let text = format!(
            r#"{{"strategyType":"PROBABILISTIC","probabilisticSampling":{{"samplingRate":{rate}}}}}"#
        );
        (200, text)
    };
    assert_eq!(get(agent, "/?service=cart").await, said("0.5"));
    assert_eq!(get(agent, "/sampling?service=cart").await, said("0.5"));
    assert_eq!(get(http, "/api/sampling?service=cart").await, said("0.5"));
    assert_eq!(get(agent, "/sampling?service=other").await, said("0.001"));
    for query in ["", "?service=", "?service=a&service=b"] {
        assert_eq!(get(agent, &format!("/sampling{query}")).await.0, 400, "{query}");
    }
    let method = "/jaeger.api_v2.SamplingManager/GetSamplingStrategy";
    let asked = vec![0x0A, 4, b'c', b'a', b'r', b't'];
    let answer = call(at(&engine, "protocols.grpc.endpoint"), method, asked).await.unwrap();
    assert_eq!(answer, [&[0x12, 9, 9][..], &0.5_f64.to_le_bytes()].concat());

    // What can not be read leaves in force what was.
    std::fs::write(&file, "no strategies").unwrap();
    assert_eq!(get(agent, "/?service=cart").await, said("0.5"));
    std::fs::write(&file, strategy(0.25)).unwrap();
    let is_new = async || get(agent, "/?service=cart").await == said("0.25");
    assert!(wait_until(is_new, PATIENCE).await);
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_exporter_sends_the_receiver_takes() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let jaeger = reserve();
    for compression in ["none", "gzip", "zstd"] {
        let engine = start(&format!(
            r#"
[agent]
receivers.otlp.protocols.grpc.endpoint = "127.0.0.1:0"
exporters.jaeger = {{ endpoint = "{jaeger}", tls.insecure = true, compression = "{compression}" }}
pipelines.traces = {{ receivers = ["otlp"], exporters = ["jaeger"], ack = "delivered" }}
[gateway]
receivers.jaeger.protocols.grpc.endpoint = "{jaeger}"
exporters.otlp.endpoint = "http://{}"
pipelines.traces = {{ receivers = ["jaeger"], exporters = ["otlp"], ack = "delivered" }}
"#,
            sink.addr()
        ))
        .await;
        let otlp = engine.address(Some("agent"), "otlp").unwrap();
        let load = Loader::new(otlp).closed(2, 2).requests(20).run().await;
        let verdict = verdict(&load, &sink.snapshot());
        assert!(verdict.is_exact() && load.acknowledged.len() == 2000, "{compression}: {load}; {verdict}");
        drained(&engine).await;
        sink.reset();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_destination_is_passed_on() {
    let _turn = beside_others().await;
    let engine = start(&format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters.jaeger]
endpoint = "http://{}"
retry_on_failure = {{ enabled = false }}
[pipelines.traces]
receivers = ["otlp"]
exporters = ["jaeger"]
"#,
        reserve()
    ))
    .await;
    let load = Loader::new(crate::harness::otlp(&engine)).closed(1, 1).requests(3).run().await;
    assert_eq!((load.acknowledged.len(), load.refusals()), (0, 3), "{load}");
    drained(&engine).await;
}

#[test]
fn a_wrong_key_is_named_with_its_place() {
    let errors = |protocols: &str| {
        let text = format!(
            "[receivers.jaeger]\n{protocols}\n[pipelines.traces]\nreceivers = [\"jaeger\"]\nexporters = [\"nop\"]\n"
        );
        let sources = Sources { inline: vec![("f.toml".into(), text)], ..Sources::default() };
        load(&sources, &kinds::registry()).err().map(|errors| errors.to_string()).unwrap_or_default()
    };
    for (protocols, expected) in [
        ("protocols.thrift_compact.max_packet_size = 70000", ["f.toml:2:", "between 1 and 65507"]),
        ("protocols.thrift_binary.queue_size = 0", ["f.toml:2:", "must be positive"]),
        ("protocols.thrift_udp = {}", ["f.toml:2:", "thrift_udp"]),
        ("remote_sampling = {}", ["f.toml:2:", "strategy_file"]),
    ] {
        let errors = errors(protocols);
        assert!(expected.iter().all(|part| errors.contains(part)), "{protocols}: {errors}");
    }
    assert_eq!(errors(""), "", "without a word it speaks everything");
    let twice = "protocols.thrift_compact.endpoint = \"localhost:6832\"\nprotocols.thrift_binary.endpoint = \"localhost:6832\"";
    assert!(errors(twice).contains("want the same address"), "{}", errors(twice));
}
