//! A real Zipkin server behind our exporter, and a real Zipkin exporter before our receiver.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use serde_json::Value;
use watershed_testkit::web::WebClient;
use watershed_testkit::{reserve, wait_until};

use super::{Destination, Sent, Way, rust};
use crate::harness::capture::Capture;
use crate::harness::certificates::Certificates;
use crate::harness::peer::Peer;
use crate::harness::{PATIENCE, beside_others, drained, http, otlp, receiver, start};

/// All spans that a Zipkin server has.
async fn spans(server: SocketAddr) -> Vec<Value> {
    let path = "/api/v2/traces?limit=10000&lookback=86400000";
    let reply = WebClient::connect(server).await.unwrap().send("GET", path, &[], b"").await.unwrap();
    let traces: Vec<Vec<Value>> = serde_json::from_slice(&reply.body).unwrap();
    traces.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_at_a_zipkin_server() {
    let _turn = beside_others().await;
    let address = reserve();
    let server = Peer::spawn("zipkin", &[], &[("PORT", address.port().to_string())]);
    let ready = async || http::get(address, "/health").await.is_some_and(|(status, _)| status == 200);
    let Some(_server) = server.ready(ready).await else { return };
    let mut expected = 0;
    for (format, compression) in [("json", "none"), ("json", "gzip"), ("proto", "none"), ("proto", "gzip")] {
        let engine = start(&format!(
            r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters.zipkin]
endpoint = "http://{address}/api/v2/spans"
format = "{format}"
compression = "{compression}"
[pipelines.traces]
receivers = ["otlp"]
exporters = ["zipkin"]
ack = "delivered"
[pipelines.rest]
signals = ["metrics", "logs"]
receivers = ["otlp"]
exporters = ["nop"]
"#
        ))
        .await;
        let endpoint = format!("http://{}", otlp(&engine));
        let certificates = Arc::new(Certificates::new());
        let sent = rust::run(Destination { endpoint, protocol: "grpc", way: Way::Plain, certificates }).await;
        sent.check();
        drained(&engine).await;
        expected += sent.spans as usize;
        // It answers before it has stored anything.
        let all = wait_until(async || spans(address).await.len() == expected, PATIENCE).await;
        assert!(all, "{format} {compression}: {} of {expected}", spans(address).await.len());
    }
    let spans = spans(address).await;
    let mut names = BTreeMap::new();
    for span in &spans {
        *names.entry((span["name"].as_str().unwrap_or_default(), span["kind"].as_str())).or_insert(0) += 1;
        assert!(span["timestamp"].as_u64().is_some_and(|time| time > 0), "{span}");
        assert!(span["localEndpoint"]["serviceName"].is_string(), "{span}");
    }
    let count = |name, kind| names.get(&(name, kind)).copied().unwrap_or_default();
    assert_eq!(count("order", Some("SERVER")), expected / 2, "{names:?}");
    let payments: usize =
        names.iter().filter(|((name, _), _)| *name == "payment").map(|(_, count)| count).sum();
    assert_eq!(payments, expected / 2, "{names:?}");
    let order = spans.iter().find(|span| span["name"] == "order").unwrap();
    assert!(order["tags"]["order"].is_string(), "{order}");
    assert_eq!(order["annotations"][0]["value"], r#""checked":{"items":3}"#, "{order}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_from_the_javascript_exporter() {
    let _turn = beside_others().await;
    let capture = Capture::start().await;
    let engine = start(&format!(
        r#"
[receivers.zipkin]
endpoint = "127.0.0.1:0"
[exporters.otlp]
endpoint = "http://{}"
compression = "none"
[pipelines.traces]
receivers = ["zipkin"]
exporters = ["otlp"]
ack = "delivered"
"#,
        capture.address()
    ))
    .await;
    let endpoint = format!("http://{}/api/v2/spans", receiver(&engine, "zipkin"));
    let client = Peer::spawn("javascript-zipkin", &[], &[("WATERSHED_ENDPOINT", endpoint)]);
    let Some(output) = client.output().await else { return };
    let sent = Sent::told(&output);
    assert_eq!((sent.spans, sent.failures), (500, 0), "{sent:?}");
    let arrived = capture.wait(|_| true).await.traces;
    let mut counts = BTreeMap::new();
    for group in &arrived.resource_spans {
        let resource = group.resource.as_ref().unwrap();
        let service = resource.attributes[0].value.as_ref().unwrap().value.clone();
        assert_eq!(service, Some(Any::StringValue("javascript-peer".into())));
        for span in group.scope_spans.iter().flat_map(|scope| &scope.spans) {
            let code = span.status.as_ref().map_or(0, |status| status.code);
            *counts.entry((span.name.as_str(), span.kind, code)).or_insert(0) += 1;
        }
    }
    let expected = [(("order", 2, 0), 250), (("payment", 3, 0), 225), (("payment", 3, 2), 25)];
    assert_eq!(counts, BTreeMap::from(expected));
    drained(&engine).await;
}
