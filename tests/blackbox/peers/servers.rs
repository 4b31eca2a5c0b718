//! Real OTLP servers behind our exporters, and the OpenTelemetry Collector in front of our receiver.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::net::TcpStream;
use watershed::engine::Engine;
use watershed_testkit::web::WebClient;
use watershed_testkit::{Sink, reserve, wait_until};

use super::{Destination, Sent, Way, rust};
use crate::harness::certificates::Certificates;
use crate::harness::peer::Peer;
use crate::harness::{PATIENCE, beside_others, drained, http, metric, otlp, start};

/// A collector whose receiver takes everything and whose exporter, of this kind and with these settings, gets `signals`.
async fn relay(signals: &[&str], kind: &str, settings: &str, ack: &str) -> Engine {
    let rest: Vec<_> =
        ["traces", "metrics", "logs"].into_iter().filter(|name| !signals.contains(name)).collect();
    let unused = if rest.is_empty() {
        String::new()
    } else {
        format!("[pipelines.rest]\nsignals = {rest:?}\nreceivers = [\"otlp\"]\nexporters = [\"nop\"]")
    };
    start(&format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters.{kind}]
retry_on_failure = {{ initial_interval = "20ms", max_interval = "200ms" }}
{settings}
[pipelines.tested]
signals = {signals:?}
receivers = ["otlp"]
exporters = ["{kind}"]
ack = "{ack}"
{unused}
"#
    ))
    .await
}

/// Sends everything over gRPC in plain text.
pub(super) async fn send(to: SocketAddr) -> Sent {
    let certificates = Arc::new(Certificates::new());
    let endpoint = format!("http://{to}");
    let sent = rust::run(Destination { endpoint, protocol: "grpc", way: Way::Plain, certificates }).await;
    sent.check();
    sent
}

/// The OpenTelemetry Collector by these configurations, later ones over earlier ones, once all `ports` connect.
async fn otelcol(configs: &[String], environment: &[(&str, String)], ports: &[SocketAddr]) -> Option<Peer> {
    let arguments: Vec<_> =
        configs.iter().flat_map(|config| ["--config".to_owned(), config.clone()]).collect();
    let connects = async || {
        for port in ports {
            if TcpStream::connect(port).await.is_err() {
                return false;
            }
        }
        true
    };
    Peer::spawn("otelcol", &arguments, environment).ready(connects).await
}

/// The configuration that writes what arrives into `arrived.json`, and what else it needs.
fn counting(grpc: SocketAddr, http: SocketAddr) -> (String, [(&'static str, String); 2]) {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/otelcol/count.yaml");
    let ports = [("GRPC_PORT", grpc.port().to_string()), ("HTTP_PORT", http.port().to_string())];
    (config.to_str().unwrap().to_owned(), ports)
}

/// Spans, points and log records that a counting collector has written.
fn arrived(collector: &Peer) -> [u64; 3] {
    fn items(value: &Value, key: &str) -> u64 {
        match value {
            Value::Array(values) => values.iter().map(|value| items(value, key)).sum(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| match value {
                    Value::Array(found) if name == key => found.len() as u64,
                    other => items(other, key),
                })
                .sum(),
            _ => 0,
        }
    }
    let text = fs::read_to_string(collector.directory().join("arrived.json")).unwrap_or_default();
    // The last line may not be whole yet.
    let requests: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    ["spans", "dataPoints", "logRecords"].map(|key| requests.iter().map(|request| items(request, key)).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_at_the_opentelemetry_collector() {
    let _turn = beside_others().await;
    let certificates = Certificates::new();
    let (ca, cert, key) = (certificates.ca(), certificates.cert(), certificates.key());
    let addresses @ [grpc, http, secure_grpc, secure_http] = [(); 4].map(|()| reserve());
    let tls = format!("tls: {{ cert_file: {cert}, key_file: {key}, client_ca_file: {ca} }}");
    let secure = format!(
        "yaml:
receivers:
  otlp/secure:
    protocols:
      grpc: {{ endpoint: '{secure_grpc}', {tls} }}
      http: {{ endpoint: '{secure_http}', {tls} }}
service:
  pipelines:
    traces: {{ receivers: [otlp, otlp/secure] }}
    metrics: {{ receivers: [otlp, otlp/secure] }}
    logs: {{ receivers: [otlp, otlp/secure] }}
"
    );
    let (count, ports) = counting(grpc, http);
    let Some(collector) = otelcol(&[count, secure], &ports, &addresses).await else { return };

    let tls = format!("tls = {{ ca_file = \"{ca}\", cert_file = \"{cert}\", key_file = \"{key}\" }}");
    let mut expected = [0; 3];
    for (kind, settings) in [
        ("otlp", format!("endpoint = \"http://{grpc}\"\ncompression = \"none\"")),
        ("otlp", format!("endpoint = \"http://{grpc}\"\ncompression = \"gzip\"")),
        ("otlp", format!("endpoint = \"http://{grpc}\"\ncompression = \"zstd\"")),
        ("otlp", format!("endpoint = \"https://{secure_grpc}\"\n{tls}")),
        ("otlphttp", format!("endpoint = \"http://{http}\"\ncompression = \"none\"")),
        ("otlphttp", format!("endpoint = \"http://{http}\"\ncompression = \"gzip\"")),
        ("otlphttp", format!("endpoint = \"http://{http}\"\ncompression = \"zstd\"")),
        ("otlphttp", format!("endpoint = \"http://{http}\"\nencoding = \"json\"")),
        ("otlphttp", format!("endpoint = \"https://{secure_http}\"\n{tls}")),
    ] {
        let engine = relay(&["traces", "metrics", "logs"], kind, &settings, "delivered").await;
        let sent = send(otlp(&engine)).await;
        drained(&engine).await;
        let counts = sent.counts();
        expected = [0, 1, 2].map(|signal| expected[signal] + counts[signal]);
        // It writes its file once a second.
        let all = wait_until(async || arrived(&collector) == expected, PATIENCE).await;
        assert!(all && arrived(&collector) == expected, "{kind} {settings}: {:?}", arrived(&collector));
        println!("{kind} {settings}: {counts:?}");
    }
}

/// What the collector refuses for want of memory is kept, and arrives when another one stands in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_is_asked_again() {
    let _turn = beside_others().await;
    let addresses @ [grpc, http] = [reserve(), reserve()];
    let (count, ports) = counting(grpc, http);
    let full = "yaml:
processors:
  memory_limiter: { check_interval: 50ms, limit_mib: 1 }
service:
  pipelines:
    traces: { processors: [memory_limiter] }
    metrics: { processors: [memory_limiter] }
    logs: { processors: [memory_limiter] }
";
    let Some(mut collector) = otelcol(&[count.clone(), full.to_owned()], &ports, &addresses).await else {
        return;
    };
    let settings = format!("endpoint = \"http://{grpc}\"");
    let engine = relay(&["traces", "metrics", "logs"], "otlp", &settings, "accepted").await;
    let retries = || metric(&engine.metrics().render(), "watershed_exporter_retries");
    let mut expected = [0; 3];
    // It takes what comes before it has first looked at its memory.
    for _ in 0..100 {
        let counts = send(otlp(&engine)).await.counts();
        expected = [0, 1, 2].map(|signal| expected[signal] + counts[signal]);
        if retries() > 0.0 {
            break;
        }
    }
    assert!(retries() > 0.0, "it refuses nothing");
    collector.stop().await;
    let before = arrived(&collector);

    let collector = otelcol(&[count], &ports, &addresses).await.unwrap();
    drained(&engine).await;
    let all = || {
        let after = arrived(&collector);
        [0, 1, 2].map(|signal| before[signal] + after[signal])
    };
    let is_complete = wait_until(async || all() == expected, PATIENCE).await;
    assert!(is_complete && all() == expected, "{:?} of {expected:?}", all());
}

/// One collector sends everything by all of its exporters, so that everything arrives once by each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_the_opentelemetry_collector_sends_arrives() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let certificates = Certificates::new();
    let (ca, cert, key) = (certificates.ca(), certificates.cert(), certificates.key());
    let [grpc, http, secure_grpc, secure_http] = [(); 4].map(|()| reserve());
    let tls = format!("tls = {{ cert_file = \"{cert}\", key_file = \"{key}\", client_ca_file = \"{ca}\" }}");
    let engine = start(&format!(
        r#"
receivers.otlp.protocols = {{ grpc.endpoint = "{grpc}", http.endpoint = "{http}" }}
[receivers."otlp/secure".protocols]
grpc = {{ endpoint = "{secure_grpc}", {tls} }}
http = {{ endpoint = "{secure_http}", {tls} }}
[exporters.otlp]
endpoint = "http://{}"
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp", "otlp/secure"]
exporters = ["otlp"]
"#,
        sink.addr()
    ))
    .await;

    let insecure = "tls: { insecure: true }";
    let tls = format!("tls: {{ ca_file: {ca}, cert_file: {cert}, key_file: {key} }}");
    let exporters = [
        format!("otlp/none: {{ endpoint: '{grpc}', compression: none, {insecure} }}"),
        format!("otlp/gzip: {{ endpoint: '{grpc}', compression: gzip, {insecure} }}"),
        format!("otlp/zstd: {{ endpoint: '{grpc}', compression: zstd, {insecure} }}"),
        format!("otlp/mutual: {{ endpoint: '{secure_grpc}', {tls} }}"),
        format!("otlphttp/none: {{ endpoint: 'http://{http}', compression: none }}"),
        format!("otlphttp/gzip: {{ endpoint: 'http://{http}', compression: gzip }}"),
        format!("otlphttp/zstd: {{ endpoint: 'http://{http}', compression: zstd }}"),
        format!("otlphttp/deflate: {{ endpoint: 'http://{http}', compression: deflate }}"),
        format!("otlphttp/snappy: {{ endpoint: 'http://{http}', compression: snappy }}"),
        format!("otlphttp/json: {{ endpoint: 'http://{http}', encoding: json }}"),
        format!("otlphttp/mutual: {{ endpoint: 'https://{secure_http}', {tls} }}"),
    ];
    let names: Vec<_> = exporters.iter().map(|exporter| exporter.split(':').next().unwrap()).collect();
    let (listens, names) = (reserve(), names.join(", "));
    let config = format!(
        "yaml:
receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: '{listens}' }} }} }} }}
exporters:
  {}
service:
  telemetry: {{ metrics: {{ level: none }} }}
  pipelines:
    traces: {{ receivers: [otlp], exporters: [{names}] }}
    metrics: {{ receivers: [otlp], exporters: [{names}] }}
    logs: {{ receivers: [otlp], exporters: [{names}] }}
",
        exporters.join("\n  ")
    );
    let Some(mut collector) = otelcol(&[config], &[], &[listens]).await else { return };
    let sent = send(listens).await;
    let expected = sent.counts().map(|count| count * exporters.len() as u64);
    let counts = || sink.snapshot();
    let arrived = || [counts().spans, counts().points, counts().logs];
    let all = sink.wait_until(|counts| counts.arrived() >= expected.iter().sum(), PATIENCE).await;
    assert!(all, "{:?} of {expected:?}: {}", arrived(), counts());
    collector.stop().await;
    drained(&engine).await;
    assert_eq!(arrived(), expected);
    println!("{} exporters: {}", exporters.len(), counts());
}

/// The answer of a query API.
pub(super) async fn query(address: SocketAddr, path: &str) -> Option<Value> {
    let mut client = WebClient::connect(address).await.ok()?;
    let reply = client.send("GET", path, &[], b"").await.ok()?;
    (reply.status == 200).then(|| serde_json::from_slice(&reply.body).unwrap())
}

pub(super) async fn answers(address: SocketAddr, path: &str) -> bool {
    http::get(address, path).await.is_some_and(|(status, _)| status == 200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_span_arrives_at_jaeger() {
    let _turn = beside_others().await;
    let [asked, grpc, http] = [(); 3].map(|()| reserve());
    // It wants a port for each receiver, used or not.
    let ports = [
        ("QUERY_PORT", asked),
        ("GRPC_PORT", grpc),
        ("HTTP_PORT", http),
        ("JAEGER_GRPC_PORT", reserve()),
        ("JAEGER_THRIFT_HTTP_PORT", reserve()),
    ];
    let ports = ports.map(|(name, address)| (name, address.port().to_string()));
    let jaeger = Peer::spawn("jaeger", &[], &ports);
    let Some(_jaeger) = jaeger.ready(async || answers(asked, "/api/services").await).await else { return };
    let mut expected = 0;
    for (kind, settings) in [
        ("otlp", format!("endpoint = \"http://{grpc}\"\ncompression = \"none\"")),
        ("otlp", format!("endpoint = \"http://{grpc}\"\ncompression = \"gzip\"")),
        ("otlphttp", format!("endpoint = \"http://{http}\"\ncompression = \"gzip\"")),
        ("otlphttp", format!("endpoint = \"http://{http}\"\nencoding = \"json\"")),
    ] {
        let engine = relay(&["traces"], kind, &settings, "delivered").await;
        expected += send(otlp(&engine)).await.spans;
        drained(&engine).await;
        let path = format!("/api/traces?service={}&limit=10000", rust::SERVICE);
        let traces = query(asked, &path).await.unwrap();
        let spans =
            traces["data"].as_array().unwrap().iter().map(|trace| trace["spans"].as_array().unwrap().len());
        assert_eq!(spans.sum::<usize>() as u64, expected, "{kind} {settings}");
        println!("{kind} {settings}: {expected} spans in all");
    }
}

/// Prometheus refuses a sample that is older than the last of its series. Whoever waits for each "ok" sends in order;
/// where "accepted" is enough, one consumer keeps the order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sample_arrives_at_prometheus() {
    let _turn = beside_others().await;
    for (ack, queue) in [("delivered", ""), ("accepted", "sending_queue.num_consumers = 1")] {
        let address = reserve();
        let prometheus = Peer::spawn("prometheus", &[], &[("PORT", address.port().to_string())]);
        let ready = async || answers(address, "/-/ready").await;
        let Some(_prometheus) = prometheus.ready(ready).await else { return };
        let settings = format!("metrics_endpoint = \"http://{address}/api/v1/otlp/v1/metrics\"\n{queue}");
        let engine = relay(&["metrics"], "otlphttp", &settings, ack).await;
        send(otlp(&engine)).await;
        drained(&engine).await;
        for (expression, expected) in [
            ("count(orders_total)", "40"),
            // The last sample of each: 1 + 2 + 3 + 4 + 5.
            ("sum(orders_total)", "600"),
            ("sum(duration_milliseconds_count)", "200"),
            // One of each collection and one at the shutdown.
            ("sum(count_over_time(orders_total%5B1h%5D))", "240"),
        ] {
            let answer = query(address, &format!("/api/v1/query?query={expression}")).await.unwrap();
            assert_eq!(answer["data"]["result"][0]["value"][1], expected, "{ack}: {expression}: {answer}");
            println!("{ack}: {expression} = {expected}");
        }
    }
}
