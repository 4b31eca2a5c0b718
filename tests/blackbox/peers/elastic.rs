//! What exporter `elasticsearch` sends, found again through Elasticsearch's and OpenSearch's own queries.
//!
//! The distributions that can be had have no templates for OpenTelemetry, and Elasticsearch's has no data streams either: the
//! names of what the exporter asks for are given mappings here, and documents go to indices. OpenSearch has data streams.

use std::net::SocketAddr;

use serde_json::{Value, json};
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::SpanKey;
use watershed_testkit::web::WebClient;
use watershed_testkit::{LoadReport, Loader, reserve};

use crate::harness::peer::Peer;
use crate::harness::{beside_others, drained, metric, otlp, start};

/// Items of each signal.
const ITEMS: u64 = 2000;

/// A server, and what it is told at first.
struct Server {
    address: SocketAddr,
    _peer: Peer,
}

impl Server {
    async fn start(name: &'static str) -> Option<Server> {
        let address = reserve();
        let peer = Peer::spawn(name, &[], &[("PORT", address.port().to_string())]);
        let health = "/_cluster/health?wait_for_status=yellow&timeout=1s";
        let ready =
            async || ask(address, "GET", health, &Value::Null).await.is_some_and(|(status, _)| status == 200);
        let server = Server { _peer: peer.ready(ready).await?, address };
        let like = |name: &str, mapping: Value| json!({ name: {"mapping": mapping} });
        let otel = json!({
            "index_patterns": ["*-*.otel-*"],
            "priority": 500,
            "template": {"mappings": {
                "properties": {"@timestamp": {"type": "date_nanos"}},
                "dynamic_templates": [
                    like("gauge_double", json!({"type": "double"})),
                    like("gauge_long", json!({"type": "long"})),
                    like("counter_double", json!({"type": "double"})),
                    like("counter_long", json!({"type": "long"})),
                    like("histogram", json!({"type": "object", "enabled": false})),
                    like("summary", json!({"type": "object", "enabled": false})),
                ],
            }},
        });
        if name == "elasticsearch" {
            server.done("PUT", "/_index_template/otel", &otel).await;
        }
        Some(server)
    }

    async fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = ask(self.address, method, path, body).await.unwrap();
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    async fn count(&self, index: &str) -> u64 {
        self.done("POST", &format!("/{index}/_refresh"), &Value::Null).await;
        self.done("GET", &format!("/{index}/_count"), &Value::Null).await["count"].as_u64().unwrap()
    }

    /// The only document with this value.
    async fn one(&self, index: &str, field: &str, value: &str) -> Value {
        let query = json!({"query": {"match_phrase": {field: value}}});
        let found = self.done("POST", &format!("/{index}/_search"), &query).await;
        let hits = found["hits"]["hits"].as_array().unwrap();
        assert_eq!(hits.len(), 1, "{field} = {value}: {found}");
        hits[0]["_source"].clone()
    }
}

/// Status and answer of a request, if there are any.
async fn ask(address: SocketAddr, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let mut client = WebClient::connect(address).await.ok()?;
    let headers = [("content-type", "application/json")];
    let reply = client.send(method, path, &headers, text.as_bytes()).await.ok()?;
    Some((reply.status, serde_json::from_slice(&reply.body).ok()?))
}

/// Sends numbered items through the exporter with these settings; what the exporter counted, too.
async fn send(server: &Server, signal: Signal, settings: &str) -> (LoadReport, String) {
    let text = format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters.elasticsearch]
endpoint = "http://{}"
sending_queue.batch = {{ flush_timeout = "50ms", min_size = 100000, max_size = 500000, sizer = "bytes" }}
{settings}
[pipelines.all]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
exporters = ["elasticsearch"]
ack = "delivered"
"#,
        server.address
    );
    let engine = start(&text).await;
    let load = Loader::new(otlp(&engine)).signal(signal).run_id(7).spans_per_request(100).closed(2, 2);
    let report = load.retry(true).requests(ITEMS / 100).run().await;
    drained(&engine).await;
    assert_eq!(report.acknowledged.len(), ITEMS, "{report:?}");
    (report, engine.metrics().render())
}

fn trace_id(number: u64) -> String {
    format!("{:016x}{number:016x}", 7)
}

async fn everything_is_found_again(server: &Server, own: &str) {
    // On a busy machine an answer may be late, and what was refused for that comes again.
    let own = &format!("document_ids = \"content\"\n{own}");
    // Logs in each mode, each in an index of its own.
    for (mode, id, body) in [
        ("otel", "trace_id", "/body/text"),
        ("ecs", "trace.id", "/message"),
        ("none", "TraceId", "/Body"),
        ("raw", "TraceId", "/Body"),
    ] {
        let index = format!("seen-{mode}");
        send(server, Signal::Logs, &format!("mapping.mode = {mode:?}\nlogs_index = {index:?}\n{own}")).await;
        assert_eq!(server.count(&index).await, ITEMS, "{mode}");
        let document = server.one(&index, id, &trace_id(1234)).await;
        assert!(
            document.pointer(body).is_some_and(|body| !body.as_str().unwrap().is_empty()),
            "{mode}: {document}"
        );
    }

    // Routed by the exporter: spans.
    send(server, Signal::Traces, own).await;
    assert_eq!(server.count("traces-generic.otel-default").await, ITEMS);
    let span = server.one("traces-generic.otel-default", "trace_id", &trace_id(77)).await;
    let key = SpanKey { run: 7, seq: 77 };
    assert_eq!(span["span_id"], format!("{:016x}", key.seq + 1));
    assert!(span["duration"].as_u64().unwrap() > 0 && span["resource"]["attributes"].is_object(), "{span}");

    // Two of three metrics; the third is a histogram that accumulates, which has no place there.
    let (_, counted) = send(server, Signal::Metrics, own).await;
    let flawed = metric(
        &counted,
        "watershed_elasticsearch_rejected_documents{exporter=\"elasticsearch\",reason=\"cumulative_histogram\"}",
    );
    assert_eq!(flawed as u64, ITEMS / 100 * 33);
    let rejected = metric(&counted, "watershed_elasticsearch_rejected_documents");
    assert_eq!(rejected, flawed, "{counted}");
    assert_eq!(server.count("metrics-generic.otel-default").await, ITEMS - flawed as u64);

    // The same once more: it is known by its ids.
    let ids = format!("logs_index = \"known\"\n{own}");
    send(server, Signal::Logs, &ids).await;
    let (_, counted) = send(server, Signal::Logs, &ids).await;
    assert_eq!(server.count("known").await, ITEMS);
    let known = "otelcol_elasticsearch_docs_processed{exporter=\"elasticsearch\",outcome=\"duplicate\"}";
    assert_eq!(metric(&counted, known) as u64, ITEMS);

    // What it can not map is refused by document.
    server.done("PUT", "/strict", &json!({"mappings": {"dynamic": "strict", "properties": {}}})).await;
    let (_, counted) = {
        let text = format!("logs_index = \"strict\"\n{own}");
        send_some(server, &text).await
    };
    let refused = metric(
        &counted,
        "watershed_elasticsearch_rejected_documents{exporter=\"elasticsearch\",reason=\"strict_dynamic_mapping_exception\"}",
    );
    assert_eq!(refused, 100.0, "{counted}");
}

/// One request, whatever becomes of it.
async fn send_some(server: &Server, settings: &str) -> (LoadReport, String) {
    let text = format!(
        "[receivers.otlp.protocols.grpc]\nendpoint = \"127.0.0.1:0\"\n[exporters.elasticsearch]\nendpoint = \"http://{}\"\n{settings}\n\
         [pipelines.logs]\nreceivers = [\"otlp\"]\nexporters = [\"elasticsearch\"]\nack = \"delivered\"\n",
        server.address
    );
    let engine = start(&text).await;
    let report = Loader::new(otlp(&engine))
        .signal(Signal::Logs)
        .spans_per_request(100)
        .closed(1, 1)
        .requests(1)
        .run()
        .await;
    drained(&engine).await;
    (report, engine.metrics().render())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_at_elasticsearch() {
    let _turn = beside_others().await;
    let Some(server) = Server::start("elasticsearch").await else { return };
    everything_is_found_again(&server, "require_data_stream = false").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_at_opensearch() {
    let _turn = beside_others().await;
    let Some(server) = Server::start("opensearch").await else { return };
    everything_is_found_again(&server, "opensearch = true").await;
    // Without a template they were indices.
    server.done("DELETE", "/traces-generic.otel-default,logs-generic.otel-default", &Value::Null).await;
    data_streams_are_written_to(&server).await;
}

/// Data streams are in OpenSearch's core, and what is asked of Elasticsearch's beside is not: `require_data_stream`.
async fn data_streams_are_written_to(server: &Server) {
    let template = json!({
        "index_patterns": ["logs-*-*", "traces-*-*"],
        "data_stream": {},
        "template": {"mappings": {"properties": {"@timestamp": {"type": "date_nanos"}}}},
    });
    server.done("PUT", "/_index_template/telemetry", &template).await;
    for (signal, mode, name, id) in [
        (Signal::Logs, "otel", "logs-generic.otel-default", "trace_id"),
        (Signal::Logs, "ecs", "logs-generic-default", "trace.id"),
        (Signal::Traces, "ecs", "traces-generic-default", "trace.id"),
        (Signal::Traces, "otel", "traces-generic.otel-default", "trace_id"),
    ] {
        let ids = "opensearch = true\ndocument_ids = \"content\"";
        let settings = format!("{ids}\nmapping.mode = {mode:?}");
        send(server, signal, &settings).await;
        assert_eq!(server.count(name).await, ITEMS, "{name}");
        let (_, counted) = send(server, signal, &settings).await;
        let known = "otelcol_elasticsearch_docs_processed{exporter=\"elasticsearch\",outcome=\"duplicate\"}";
        assert!(metric(&counted, known) as u64 >= ITEMS, "{name}: what is there is known by its id");
        assert_eq!(server.count(name).await, ITEMS, "{name}");
        let streams = server.done("GET", &format!("/_data_stream/{name}"), &Value::Null).await;
        assert_eq!(streams["data_streams"][0]["name"], name);
        let document = server.one(name, id, &trace_id(1234)).await;
        assert!(document["@timestamp"].is_string(), "{document}");
    }
    assert!(server.count("logs-generic.otel-default").await > ITEMS, "events of spans are among the logs");

    let (_, counted) = send_some(server, "require_data_stream = true").await;
    let refused = "watershed_elasticsearch_rejected_documents{exporter=\"elasticsearch\",reason=\"request\"}";
    assert!(metric(&counted, refused) > 0.0, "{counted}");
}
