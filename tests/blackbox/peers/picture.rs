//! The mission's picture, `examples/mission/pipelines.toml`, between real clients of each protocol and real backends:
//! everything that was sent is asked for again through the backends' own query APIs.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use watershed::engine::Engine;
use watershed_testkit::web::WebClient;
use watershed_testkit::{reserve, wait_until};

use super::backends::{Elasticsearch, Jaeger, Prometheus};
use super::servers::answers;
use super::{Destination, Sent, Way};
use crate::harness::certificates::Certificates;
use crate::harness::peer::Peer;
use crate::harness::{PATIENCE, beside_others, drained, start_layered};

const MISSION: &str = include_str!("../../../examples/mission/pipelines.toml");
const PROMETHEUS: &str = include_str!("../../../examples/mission/prometheus.yml");

/// What each client sends, see docs/testing.md.
const SPANS: usize = 500;
const LOGS: u64 = 300;

/// Where the picture listens in this test.
struct Ports {
    grpc: SocketAddr,
    http: SocketAddr,
    jaeger_grpc: SocketAddr,
    jaeger_http: SocketAddr,
    jaeger_compact: SocketAddr,
    jaeger_binary: SocketAddr,
    zipkin: SocketAddr,
    /// Where Prometheus fetches.
    served: SocketAddr,
}

impl Ports {
    fn reserve() -> Ports {
        Ports {
            grpc: reserve(),
            http: reserve(),
            jaeger_grpc: reserve(),
            jaeger_http: reserve(),
            jaeger_compact: reserve(),
            jaeger_binary: reserve(),
            zipkin: reserve(),
            served: reserve(),
        }
    }

    /// What the test says otherwise than the file: addresses, shorter waits, and that everything is to be kept.
    fn layer(&self, jaeger: SocketAddr, elasticsearch: SocketAddr, node: SocketAddr) -> String {
        let Ports { grpc, http, jaeger_grpc, jaeger_http, jaeger_compact, jaeger_binary, zipkin, served } =
            self;
        format!(
            r#"
[receivers]
otlp.protocols = {{ grpc.endpoint = "{grpc}", http.endpoint = "{http}" }}
jaeger.protocols.grpc.endpoint = "{jaeger_grpc}"
jaeger.protocols.thrift_http.endpoint = "{jaeger_http}"
jaeger.protocols.thrift_compact.endpoint = "{jaeger_compact}"
jaeger.protocols.thrift_binary.endpoint = "{jaeger_binary}"
zipkin.endpoint = "{zipkin}"
[[receivers.prometheus.config.scrape_configs]]
job_name = "node"
scrape_interval = "1s"
scrape_timeout = "1s"
static_configs = [{{ targets = ["{node}"] }}]
[processors.tail_sampling]
decision_wait = "1s"
policies = [{{ name = "everything", type = "always_sample" }}]
[exporters]
"otlp/jaeger".endpoint = "http://{jaeger}"
elasticsearch.endpoints = ["http://{elasticsearch}"]
prometheus.endpoint = "{served}"
"#
        )
    }

    /// Every client: its peer, what it is told, the service that it calls itself, and whether it has metrics and logs.
    fn clients(&self) -> Vec<Client> {
        let otlp = |peer, service: &str, protocol, to: SocketAddr| {
            let certificates = Arc::new(Certificates::new());
            let endpoint = format!("http://{to}");
            let environment = Destination { endpoint, protocol, way: Way::Plain, certificates }.environment();
            Client { peer, service: service.to_owned(), environment, is_otlp: true }
        };
        // Their service is called as their protocol is.
        let foreign = |peer, protocol: &'static str, endpoint: String| {
            let variables = [("WATERSHED_ENDPOINT", endpoint), ("WATERSHED_PROTOCOL", protocol.to_owned())];
            let service = protocol.replace('/', "-");
            Client { peer, service, environment: variables.to_vec(), is_otlp: false }
        };
        let thrift = format!("http://{}/api/traces?format=jaeger.thrift", self.jaeger_http);
        let zipkin = format!("http://{}/api/v2/spans", self.zipkin);
        vec![
            otlp("python", "python-peer", "grpc", self.grpc),
            otlp("javascript", "javascript-peer", "http/protobuf", self.http),
            foreign("python-jaeger", "jaeger/grpc", self.jaeger_grpc.to_string()),
            foreign("python-jaeger", "jaeger/thrift_http", thrift),
            foreign("python-jaeger", "jaeger/thrift_compact", self.jaeger_compact.to_string()),
            foreign("python-zipkin", "zipkin/json", zipkin.clone()),
            foreign("python-zipkin", "zipkin/protobuf", zipkin),
        ]
    }
}

/// A client, and what to ask the backends for.
struct Client {
    peer: &'static str,
    service: String,
    environment: Vec<(&'static str, String)>,
    is_otlp: bool,
}

/// The backends, node_exporter, and the picture between them.
struct Picture {
    jaeger: Jaeger,
    elasticsearch: Elasticsearch,
    prometheus: Prometheus,
    node: SocketAddr,
    _node: Peer,
    ports: Ports,
    engine: Engine,
}

impl Picture {
    async fn start() -> Option<Picture> {
        let node = reserve();
        let exporter = Peer::spawn("node-exporter", &[], &[("PORT", node.port().to_string())]);
        let exporter = exporter.ready(async || answers(node, "/metrics").await).await?;
        let ports = Ports::reserve();
        let scrapes = PROMETHEUS.replace("localhost:8889", &ports.served.to_string()).replace("15s", "1s");
        let prometheus = Prometheus::start(&scrapes).await?;
        let jaeger = Jaeger::start().await?;
        let elasticsearch = Elasticsearch::start().await?;
        let layer = ports.layer(jaeger.otlp, elasticsearch.address, node);
        let engine = start_layered(&[MISSION, &layer]).await;
        Some(Picture { jaeger, elasticsearch, prometheus, node, _node: exporter, ports, engine })
    }

    /// The spans of a service: in Jaeger, each once, and in Elasticsearch.
    async fn spans(&self, service: &str) -> [usize; 3] {
        let (ids, all) = self.jaeger.spans(service).await;
        let documents = self.elasticsearch.count("traces-*", &of(service)).await;
        [ids.len(), all, documents as usize]
    }

    async fn has_spans(&self, service: &str) {
        let mut last = [0; 3];
        let all = wait_until(
            async || {
                last = self.spans(service).await;
                last == [SPANS; 3]
            },
            PATIENCE,
        );
        assert!(all.await, "{service}: {last:?} in Jaeger, all of them there, and in Elasticsearch");
    }

    async fn has_logs(&self, service: &str) {
        let wanted = format!("{} AND severity_text:WARN*", of(service));
        let mut last = 0;
        let all = wait_until(
            async || {
                last = self.elasticsearch.count("logs-*", &wanted).await;
                last == LOGS
            },
            PATIENCE,
        );
        assert!(all.await, "{service}: {last} log records");
    }

    async fn has_value(&self, expression: &str, expected: f64) {
        let mut last = None;
        let has = wait_until(
            async || {
                last = self.prometheus.value(expression).await;
                last == Some(expected)
            },
            PATIENCE,
        );
        assert!(has.await, "{expression}: {last:?} and not {expected}");
    }

    /// What the client for OTLP has counted, as Prometheus has it.
    async fn has_metrics(&self, service: &str) {
        let job = format!("{{job=\"{service}\"}}");
        self.has_value(&format!("count(orders_total{job})"), 40.0).await;
        self.has_value(&format!("sum(orders_total{job})"), 600.0).await;
        self.has_value(&format!("sum(duration_milliseconds_count{job})"), 200.0).await;
        // 1.5 times 0 to 39, five times.
        self.has_value(&format!("sum(duration_milliseconds_sum{job})"), 5_850.0).await;
        self.has_value(&format!("orders_total{{job=\"{service}\",series=\"39\"}}"), 15.0).await;
    }

    /// Every series of node_exporter, and what it says of the machine.
    async fn has_node(&self) {
        // Not by the harness's GET, which knows nothing of chunks.
        let mut client = WebClient::connect(self.node).await.unwrap();
        let text = String::from_utf8(client.send("GET", "/metrics", &[], b"").await.unwrap().body).unwrap();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        let theirs = "{job=\"node\",__name__!~\"up|scrape_.*|target_info|otel_scope_info\"}";
        self.has_value(&format!("count({theirs})"), series as f64).await;
        self.has_value("up{job=\"node\"}", 1.0).await;
        for name in ["node_memory_MemTotal_bytes", "node_boot_time_seconds"] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            let value = line.split(' ').next_back().unwrap().parse().unwrap();
            self.has_value(&format!("{name}{{job=\"node\"}}"), value).await;
        }
        let release = text.lines().find_map(|line| line.split_once("release=\"")).unwrap().1;
        let release = release.split('"').next().unwrap();
        self.has_value(&format!("node_uname_info{{job=\"node\",release=\"{release}\"}}"), 1.0).await;
    }

    /// One order of each client as Jaeger tells it: what it says of itself, what is in it, and what our processor put
    /// there.
    async fn checks_jaeger(&self, service: &str) {
        let [trace] = &self.jaeger.traces(service, &[("order", "7")]).await[..] else {
            panic!("{service}: one trace has order 7")
        };
        let span = |name: &str| {
            let spans = trace["spans"].as_array().unwrap();
            spans
                .iter()
                .find(|span| span["operationName"] == name)
                .unwrap_or_else(|| panic!("{name}: {trace}"))
        };
        let (order, payment) = (span("order"), span("payment"));
        let reference = &payment["references"][0];
        assert_eq!((&reference["refType"], &reference["spanID"]), (&"CHILD_OF".into(), &order["spanID"]));
        assert_eq!(tag(payment, "currency"), "EUR", "{trace}");
        assert_eq!(tag(payment, "deployment.environment.name"), "production", "{trace}");
        assert!(order["logs"].to_string().contains("checked"), "{trace}");
    }

    /// The same order as Elasticsearch has it.
    async fn checks_elasticsearch(&self, client: &Client) {
        let wanted = format!("{} AND attributes.order:7", of(&client.service));
        let [order] = &self.elasticsearch.documents("traces-*", &wanted).await[..] else {
            panic!("{}: one document has order 7", client.service)
        };
        assert_eq!(order["name"], "order", "{order}");
        assert_eq!(order["trace_id"].as_str().unwrap().len(), 32, "{order}");
        assert_eq!(order["attributes"]["deployment.environment.name"], "production", "{order}");
        if client.is_otlp {
            let [record] =
                &self.elasticsearch.documents("logs-*", &format!("{wanted} AND severity_text:*")).await[..]
            else {
                panic!("{}: one record is of order 7", client.service)
            };
            assert!(record.to_string().contains("order 7: the payment took long"), "{record}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_in_the_picture_is_found_again_in_the_real_backends() {
    let _turn = beside_others().await;
    let Some(picture) = Picture::start().await else { return };
    let mut ran = Vec::new();
    for client in picture.ports.clients() {
        let Some(output) = Peer::spawn(client.peer, &[], &client.environment).output().await else {
            continue;
        };
        let sent = Sent::told(&output);
        assert_eq!((sent.spans, sent.failures), (SPANS as u64, 0), "{sent:?}");
        ran.push(client);
    }
    for client in &ran {
        picture.has_spans(&client.service).await;
        picture.checks_jaeger(&client.service).await;
        picture.checks_elasticsearch(client).await;
        if client.is_otlp {
            picture.has_logs(&client.service).await;
            picture.has_metrics(&client.service).await;
        }
        println!("{}: found again", client.service);
    }
    picture.has_node().await;
    drained(&picture.engine).await;
    // Nothing came twice, or later.
    for client in &ran {
        assert_eq!(picture.spans(&client.service).await, [SPANS; 3], "{}", client.service);
    }
}

/// The documents of a service.
fn of(service: &str) -> String {
    format!("resource.attributes.service.name:\"{service}\"")
}

/// A tag of one of Jaeger's spans.
fn tag<'v>(span: &'v Value, key: &str) -> &'v str {
    let tags = span["tags"].as_array().unwrap();
    tags.iter().find(|tag| tag["key"] == key).and_then(|tag| tag["value"].as_str()).unwrap_or_default()
}
