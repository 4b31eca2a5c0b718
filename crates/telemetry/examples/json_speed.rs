//! How fast JSON is read and written: `cargo run --release -p watershed-telemetry --example json_speed`.
//!
//! Prints megabytes of JSON a second, both ways, for documents as an SDK sends them; the best of several rounds,
//! since the box is shared. `serde_json` reading the same text into a tree is there for comparison.

#![allow(clippy::disallowed_methods)] // A benchmark reads the clock.

use std::hint::black_box;
use std::time::Instant;

use watershed_telemetry::{Payload, Signal, json};

fn main() {
    let span = r#"{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","parentSpanId":"eee19b7ec3c1b173","name":"GET /api/v1/customers/{id}/orders","kind":2,"startTimeUnixNano":"1780000000000000000","endTimeUnixNano":"1780000000004000000","attributes":[{"key":"http.request.method","value":{"stringValue":"GET"}},{"key":"http.route","value":{"stringValue":"/api/v1/customers/{id}/orders"}},{"key":"server.address","value":{"stringValue":"orders.example.internal"}},{"key":"http.response.status_code","value":{"intValue":"200"}},{"key":"user_agent.original","value":{"stringValue":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0esr) Gecko/20100101 Firefox/140.0 LikeSafari"}},{"key":"network.protocol.version","value":{"stringValue":"1.1"}}],"status":{},"flags":257}"#;
    let record = r#"{"timeUnixNano":"1780000000000000000","observedTimeUnixNano":"1780000000000100000","severityNumber":9,"severityText":"Information","traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","body":{"stringValue":"user \"42\" placed order 4711\n\tin 31 ms"},"attributes":[{"key":"code.function.name","value":{"stringValue":"place_order"}},{"key":"thread.id","value":{"intValue":"17"}}]}"#;
    let point = r#"{"startTimeUnixNano":"1780000000000000000","timeUnixNano":"1780000060000000000","count":"4711","sum":1234.5678,"bucketCounts":["0","12","300","4000","399","0"],"explicitBounds":[0.005,0.01,0.25,1,10.5],"min":0.0061,"max":9.25,"attributes":[{"key":"http.route","value":{"stringValue":"/api/v1/customers/{id}/orders"}}]}"#;
    measure("spans", Signal::Traces, &document(span, 100, "Spans", "spans", ["", ""]));
    measure("log records", Signal::Logs, &document(record, 100, "Logs", "logRecords", ["", ""]));
    let metric = [
        r#"{"name":"http.server.request.duration","unit":"s","histogram":{"aggregationTemporality":2,"dataPoints":["#,
        "]}}",
    ];
    measure("histogram points", Signal::Metrics, &document(point, 100, "Metrics", "metrics", metric));
}

/// A request of one group with some items in it, and what else lies around these.
fn document(item: &str, count: usize, group: &str, list: &str, [before, after]: [&str; 2]) -> String {
    let resource = r#"{"attributes":[{"key":"service.name","value":{"stringValue":"orders"}}]}"#;
    let items = vec![item; count].join(",");
    format!(
        r#"{{"resource{group}":[{{"resource":{resource},"scope{group}":[{{"scope":{{"name":"io.example.http"}},"{list}":[{before}{items}{after}]}}]}}]}}"#
    )
}

fn measure(name: &str, signal: Signal, compact: &str) {
    let pretty: serde_json::Value = serde_json::from_str(compact).unwrap_or_default();
    let pretty = serde_json::to_string_pretty(&pretty).unwrap_or_default();
    let decode = |text: &str| json::decode(signal, text.as_bytes(), &mut |_| true).unwrap_or_default();
    let request = decode(compact);
    let Ok(payload) = Payload::validate(signal, request.clone().into()) else { return };
    let mut out = Vec::new();
    json::encode_payload(&payload, &mut out);
    println!("{name}: {} bytes of JSON, {} on the wire", out.len(), request.len());

    best("read", compact.len(), || decode(compact).len());
    best("read, indented", pretty.len(), || decode(&pretty).len());
    best("validate what was read", compact.len(), || {
        Payload::validate(signal, request.clone().into()).is_ok()
    });
    best("write", out.len(), || {
        out.clear();
        json::encode_payload(&payload, &mut out);
    });
    best("serde_json, into a tree", compact.len(), || {
        serde_json::from_str::<serde_json::Value>(compact).is_ok()
    });
}

fn best<T>(name: &str, bytes: usize, mut run: impl FnMut() -> T) {
    const RUNS: usize = 4;
    let mut best = f64::INFINITY;
    for _ in 0..1000 {
        let start = Instant::now();
        for _ in 0..RUNS {
            black_box(run());
        }
        best = best.min(start.elapsed().as_secs_f64() / RUNS as f64);
    }
    println!("{:8.0} MB/s  {name}", bytes as f64 / best / 1e6);
}
