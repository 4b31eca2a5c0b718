//! Real backends, asked what they have by their own query APIs. One that is not installed is `None`, with a word.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use watershed_testkit::reserve;
use watershed_testkit::web::WebClient;

use super::servers::{answers, query};
use crate::harness::peer::Peer;

/// Jaeger, which keeps everything in memory.
pub(super) struct Jaeger {
    peer: Peer,
    asked: SocketAddr,
    /// Where it takes OTLP over gRPC.
    pub(super) otlp: SocketAddr,
}

/// Elasticsearch, one node, with a template that makes data streams of `traces-*` and `logs-*`.
pub(super) struct Elasticsearch {
    peer: Peer,
    pub(super) address: SocketAddr,
}

/// Debian's Prometheus, which takes remote write.
pub(super) struct Prometheus {
    peer: Peer,
    pub(super) address: SocketAddr,
}

/// What a real template would say of the two, as far as it matters here: keys with dots are keys.
const TEMPLATE: &str = r#"{
    "index_patterns": ["traces-*", "logs-*"],
    "priority": 500,
    "data_stream": {},
    "template": {
        "settings": { "number_of_replicas": 0 },
        "mappings": {
            "dynamic_templates": [
                { "text": { "match_mapping_type": "string", "mapping": { "type": "keyword" } } }
            ],
            "properties": {
                "attributes": { "type": "object", "subobjects": false },
                "resource": { "properties": { "attributes": { "type": "object", "subobjects": false } } }
            }
        }
    }
}"#;

// === impl Jaeger ===

impl Jaeger {
    pub(super) async fn start() -> Option<Jaeger> {
        let [asked, otlp] = [reserve(), reserve()];
        // It wants a port for each receiver, used or not.
        let ports = [
            ("QUERY_PORT", asked),
            ("GRPC_PORT", otlp),
            ("HTTP_PORT", reserve()),
            ("JAEGER_GRPC_PORT", reserve()),
            ("JAEGER_THRIFT_HTTP_PORT", reserve()),
        ];
        let ports = ports.map(|(name, address)| (name, address.port().to_string()));
        let peer = Peer::spawn("jaeger", &[], &ports);
        let peer = peer.ready(async || answers(asked, "/api/services").await).await?;
        Some(Jaeger { peer, asked, otlp })
    }

    /// Ends it as it stands: what it had is gone with it.
    pub(super) fn kill(&mut self) {
        self.peer.kill();
    }

    /// An empty one, in its place.
    pub(super) async fn start_again(mut self) -> Jaeger {
        self.peer.start_again();
        let asked = self.asked;
        let peer = self.peer.ready(async || answers(asked, "/api/services").await).await.unwrap();
        Jaeger { peer, ..self }
    }

    /// Its traces of a service, those with these tags: `order=7`.
    pub(super) async fn traces(&self, service: &str, tags: &[(&str, &str)]) -> Vec<Value> {
        let tags: serde_json::Map<_, _> =
            tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let tags = encoded(&Value::from(tags).to_string());
        let path = format!(
            "/api/traces?service={}&limit=100000&start=1&end=4102444800000000&tags={tags}",
            encoded(service)
        );
        let answer = query(self.asked, &path).await.unwrap_or_default();
        answer["data"].as_array().cloned().unwrap_or_default()
    }

    /// The ids of all spans in the traces of a service, and how many spans there are.
    pub(super) async fn spans(&self, service: &str) -> (BTreeSet<String>, usize) {
        let traces = self.traces(service, &[]).await;
        let spans: Vec<&Value> = traces.iter().flat_map(|trace| trace["spans"].as_array().unwrap()).collect();
        let id = |span: &Value| format!("{}/{}", text(&span["traceID"]), text(&span["spanID"]));
        (spans.iter().map(|span| id(span)).collect(), spans.len())
    }
}

// === impl Elasticsearch ===

impl Elasticsearch {
    pub(super) async fn start() -> Option<Elasticsearch> {
        let address = reserve();
        let peer = Peer::spawn("elasticsearch", &[], &[("PORT", address.port().to_string())]);
        let peer = peer.ready(async || is_healthy(address).await).await?;
        let mut client = WebClient::connect(address).await.unwrap();
        let json = [("content-type", "application/json")];
        let put = client.send("PUT", "/_index_template/picture", &json, TEMPLATE.as_bytes()).await.unwrap();
        assert_eq!(put.status, 200, "{}", String::from_utf8_lossy(&put.body));
        Some(Elasticsearch { peer, address })
    }

    pub(super) fn kill(&mut self) {
        self.peer.kill();
    }

    /// With what it has on its disk.
    pub(super) async fn start_again(mut self) -> Elasticsearch {
        self.peer.start_again();
        let address = self.address;
        let peer = self.peer.ready(async || is_healthy(address).await).await.unwrap();
        Elasticsearch { peer, ..self }
    }

    /// How many documents of these indices the query finds.
    pub(super) async fn count(&self, indices: &str, wanted: &str) -> u64 {
        // What was written can be found once the index is refreshed.
        let _ = query(self.address, &format!("/{indices}/_refresh")).await;
        let answer = query(self.address, &format!("/{indices}/_count?q={}", encoded(wanted))).await;
        answer.and_then(|answer| answer["count"].as_u64()).unwrap_or_default()
    }

    /// The documents that the query finds, at most 10,000.
    pub(super) async fn documents(&self, indices: &str, wanted: &str) -> Vec<Value> {
        let _ = query(self.address, &format!("/{indices}/_refresh")).await;
        let path = format!("/{indices}/_search?size=10000&q={}", encoded(wanted));
        let answer = query(self.address, &path).await.unwrap_or_default();
        let hits = answer["hits"]["hits"].as_array().cloned().unwrap_or_default();
        hits.into_iter().map(|hit| hit["_source"].clone()).collect()
    }
}

async fn is_healthy(address: SocketAddr) -> bool {
    answers(address, "/_cluster/health?wait_for_status=yellow&timeout=2s").await
}

// === impl Prometheus ===

impl Prometheus {
    /// With this configuration, an empty one where it only takes what is written.
    pub(super) async fn start(config: &str) -> Option<Prometheus> {
        let address = reserve();
        let files = [("prometheus.yml", config.to_owned())];
        let port = [("PORT", address.port().to_string())];
        let peer = Peer::spawn_with("debian-prometheus", &[], &port, &files);
        let peer = peer.ready(async || answers(address, "/-/ready").await).await?;
        Some(Prometheus { peer, address })
    }

    pub(super) fn kill(&mut self) {
        self.peer.kill();
    }

    /// With what it has on its disk.
    pub(super) async fn start_again(mut self) -> Prometheus {
        self.peer.start_again();
        let address = self.address;
        let peer = self.peer.ready(async || answers(address, "/-/ready").await).await.unwrap();
        Prometheus { peer, ..self }
    }

    /// What an expression comes to now; `None` where it finds nothing.
    pub(super) async fn value(&self, expression: &str) -> Option<f64> {
        let path = format!("/api/v1/query?query={}", encoded(expression));
        let answer = query(self.address, &path).await?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// As part of a URL's query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
