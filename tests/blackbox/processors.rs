//! What processors make of telemetry, as a user writes them down: a TOML text, what arrives, and what does not.

use std::fs;
use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use prost::Message;
use watershed_testkit::call::Reply;
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::{self, TraceTemplate};
use watershed_testkit::{Loader, Sink, reserve};

use crate::attributes::{POINTS, RECORDS, SPANS, of_items, of_resources, text, through_with, value};
use crate::harness::capture::{Capture, Captured};
use crate::harness::process::Program;
use crate::harness::tls::Files;
use crate::harness::{addresses, beside_others, both_protocols, call, drained, metric, post, start};

/// SHA-256 of `orders.shop.svc.cluster.local`, by `sha256sum`.
const HASH: &str = "0882f271657db5d187362b2ebc6dabf0114c8cd07923b55eb79d2992c6431d33";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_are_hashed_extracted_converted_and_taken_from_elsewhere() {
    let _turn = beside_others().await;
    let captured = through_with(
        "include_metadata = true",
        &[("x-tenant", "red"), ("x-tenant", "blue")],
        r#"
[processors.attributes]
actions = [
  { pattern = "^user_agent\\.", action = "delete" },
  { key = "server.address", action = "hash" },
  { key = "url.path", pattern = "^/api/(?<api>v[0-9]+)/orders/(?<order>[0-9]+)$", action = "extract" },
  { key = "order", converted_type = "int", action = "convert" },
  { key = "server.port", converted_type = "string", action = "convert" },
  { key = "http.route", converted_type = "double", action = "convert" },
  { key = "method", from_attribute = "http.request.method", default_value = "none", action = "insert" },
  { key = "tenant", from_context = "metadata.X-Tenant", action = "insert" },
  { key = "zone", from_context = "metadata.x-zone", default_value = "here", action = "insert" },
  { key = "absent", from_context = "metadata.x-zone", action = "insert" },
]
[processors.resource]
attributes = [{ key = "peer", from_context = "client.address", action = "upsert" }]
"#,
        r#"["attributes", "resource"]"#,
    )
    .await;
    let (spans, others) = (of_items(&captured)[..SPANS].to_vec(), of_items(&captured)[SPANS..].to_vec());
    for (index, attributes) in spans.iter().enumerate() {
        assert_eq!(value(attributes, "user_agent.original"), None);
        assert_eq!(value(attributes, "server.address"), text(HASH));
        assert_eq!(value(attributes, "api"), text("v1"));
        assert_eq!(value(attributes, "order"), Some(Value::IntValue(7_919 * index as i64)));
        assert_eq!(value(attributes, "server.port"), text("8443"));
        assert_eq!(value(attributes, "http.route"), text("/api/v1/orders/{id}"), "no number");
        assert_eq!(value(attributes, "method"), text("GET"));
    }
    for attributes in &others {
        assert_eq!((value(attributes, "method"), value(attributes, "order")), (text("none"), None));
    }
    for attributes in spans.iter().chain(&others) {
        assert_eq!(value(attributes, "tenant"), text("red;blue"));
        assert_eq!((value(attributes, "zone"), value(attributes, "absent")), (text("here"), None));
    }
    for attributes in of_resources(&captured) {
        assert_eq!(value(&attributes, "peer"), text("127.0.0.1"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_edits_only_what_is_included_and_not_excluded() {
    let _turn = beside_others().await;
    let captured = through_with(
        "",
        &[],
        r#"
[processors."attributes/failed"]
actions = [{ key = "alert", value = true, action = "insert" }]
include = { match_type = "strict", services = ["orders"], attributes = [{ key = "http.response.status_code", value = 503 }] }
[processors."attributes/early"]
actions = [{ key = "late", value = 1, action = "insert" }]
include = { match_type = "regexp", log_bodies = ["^order "] }
exclude = { match_type = "regexp", log_bodies = ["^order [0-3] "] }
[processors."attributes/metrics"]
actions = [{ key = "first", value = 1, action = "insert" }]
include = { match_type = "strict", metric_names = ["http.server.metric_0"] }
[processors."attributes/nobody"]
actions = [{ key = "nobody", value = 1, action = "insert" }]
include = { match_type = "strict", services = ["payment"] }
"#,
        r#"["attributes/failed", "attributes/early", "attributes/metrics", "attributes/nobody"]"#,
    )
    .await;
    let items = of_items(&captured);
    let with = |key: &str| {
        let found = items.iter().enumerate().filter(|(_, attributes)| value(attributes, key).is_some());
        found.map(|(index, _)| index).collect::<Vec<_>>()
    };
    assert_eq!(with("alert"), [19]);
    assert_eq!(with("first"), [SPANS, SPANS + 7]);
    assert_eq!(with("late"), [SPANS + POINTS + 4, SPANS + POINTS + 5, SPANS + POINTS + 6]);
    assert_eq!(items.len(), SPANS + POINTS + RECORDS);
    assert_eq!(with("nobody"), [0; 0]);
}

/// One secret for each preset, which nothing else in a request resembles.
const SECRETS: [(&str, &str); 6] = [
    ("email", "ann.lee+shop@mail.example.com"),
    ("card", "4111 1111 1111 1111"),
    ("token", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
    ("phone", "+49 151 23456789"),
    ("ip", "203.0.113.77"),
    ("iban", "DE89370400440532013000"),
];

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: text(value) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

/// A request of each signal with `secret` in its resource, its items and what hangs on them.
fn with_secret(secret: &str) -> [(Signal, Vec<u8>); 3] {
    let note = format!("note {secret} end");
    let mark = |resource: &mut Option<Resource>| {
        resource.as_mut().unwrap().attributes.push(attribute("owner", &note));
    };
    let mut traces = requests::trace_request(1, 1);
    mark(&mut traces.resource_spans[0].resource);
    let span = &mut traces.resource_spans[0].scope_spans[0].spans[0];
    span.attributes.push(attribute("note", &note));
    span.events.push(Event {
        name: note.clone(),
        attributes: vec![attribute("note", &note)],
        ..Event::default()
    });

    let mut metrics = ExportMetricsServiceRequest::decode(requests::metrics(1)).unwrap();
    mark(&mut metrics.resource_metrics[0].resource);
    let metric = &mut metrics.resource_metrics[0].scope_metrics[0].metrics[0];
    let Some(Data::Gauge(gauge)) = &mut metric.data else { panic!("{metric:?}") };
    gauge.data_points[0].attributes.push(attribute("note", &note));

    let mut logs = ExportLogsServiceRequest::decode(requests::logs(1)).unwrap();
    mark(&mut logs.resource_logs[0].resource);
    logs.resource_logs[0].scope_logs[0].log_records.push(LogRecord {
        body: Some(AnyValue { value: text(&note) }),
        attributes: vec![attribute("note", &note)],
        ..LogRecord::default()
    });
    [
        (Signal::Traces, traces.encode_to_vec()),
        (Signal::Metrics, metrics.encode_to_vec()),
        (Signal::Logs, logs.encode_to_vec()),
    ]
}

fn occurrences(haystack: &[u8], needle: &str) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle.as_bytes()).count()
}

/// Sends every secret in every signal through the program, and gives all that left it: over the wire, into its
/// file, into its log.
async fn leaks(processors: &str, list: &str) -> [Vec<u8>; 3] {
    let files = Files::new();
    let (capture, listen) = (Capture::start().await, reserve());
    let mut program = Program::run(&format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "{listen}"
{processors}
[exporters.otlp]
endpoint = "http://{}"
compression = "none"
[exporters.file]
path = {:?}
[exporters.debug]
verbosity = "detailed"
sampling_initial = 1000000
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = {list}
exporters = ["otlp", "file", "debug"]
ack = "delivered"
"#,
        capture.address(),
        files.path("out.json")
    ))
    .await;
    for (_, secret) in SECRETS {
        for (signal, message) in with_secret(secret) {
            assert_eq!(call(listen, signal, &[], &message).await, Reply::Accepted);
        }
    }
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
    let all = |captured: &Captured| {
        let Captured { traces, metrics, logs } = captured;
        let counts = [traces.resource_spans.len(), metrics.resource_metrics.len(), logs.resource_logs.len()];
        counts == [SECRETS.len(); 3]
    };
    let Captured { traces, metrics, logs } = capture.wait(all).await;
    let wire = [traces.encode_to_vec(), metrics.encode_to_vec(), logs.encode_to_vec()].concat();
    [wire, fs::read(files.path("out.json")).unwrap(), program.stderr().into_bytes()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_redacted_leaves_by_no_way() {
    let _turn = beside_others().await;
    // Four places in traces, two in metrics, three in logs: all of them are looked at.
    for out in leaks("", "[]").await {
        for (preset, secret) in SECRETS {
            assert_eq!(occurrences(&out, secret), 9, "{preset}: the test does not find what is there");
        }
    }
    for action in ["mask", "hash", "delete"] {
        let presets = SECRETS.map(|(preset, _)| format!("{preset} = {action:?}")).join(", ");
        let settings = format!("[processors.redaction]\nallow_all_keys = true\npresets = {{ {presets} }}");
        for (out, way) in leaks(&settings, "[\"redaction\"]").await.into_iter().zip(["wire", "file", "log"]) {
            for (preset, secret) in SECRETS {
                assert_eq!(
                    occurrences(&out, secret),
                    0,
                    "{preset} got out by the {way} in spite of {action}"
                );
            }
            // What was no secret is still there.
            assert!(occurrences(&out, "orders-6d5f7c9b8-x2x7k") >= 3 * SECRETS.len(), "{way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_condition_drops_does_not_arrive() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&format!(
        r#"
{}
[processors.filter.traces]
span = ['attributes["http.response.status_code"] == 503', 'name == "none"']
spanevent = ['name == "exception"']
[processors.filter.metrics]
metric = ['IsMatch(name, "_[12]$")']
datapoint = ['metric.type == METRIC_DATA_TYPE_HISTOGRAM']
[processors.filter.logs]
log_record = ['IsMatch(body, "^order [0-3] ")', 'resource.attributes["service.name"] != "orders"']
[exporters.otlp]
endpoint = "http://{}"
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = ["filter"]
exporters = ["otlp"]
ack = "delivered"
"#,
        both_protocols(""),
        sink.addr()
    ))
    .await;
    let [grpc, http] = addresses(&engine);
    let requests = [
        (Signal::Traces, TraceTemplate::new(1, 40).message(0).to_vec()),
        (Signal::Metrics, requests::metrics(7).to_vec()),
        (Signal::Logs, requests::logs(10).to_vec()),
        // Nothing of it is left: that, too, is a success.
        (Signal::Logs, requests::logs(4).to_vec()),
    ];
    for (signal, message) in &requests {
        assert_eq!(call(grpc, *signal, &[], message).await, Reply::Accepted);
        assert_eq!(post(http, *signal, &[], message).await.status, 200);
    }
    drained(&engine).await;
    // Two of forty spans failed. Of metrics 0 to 6, two go by name, and 5, which like 2 is a histogram.
    let counts = sink.snapshot();
    assert_eq!((counts.spans, counts.points, counts.logs), (2 * 38, 2 * 4, 2 * 6), "{counts}");
    assert_eq!(counts.requests, 6, "an empty request was sent");
    let metrics = engine.metrics().render();
    for (signal, dropped) in [("spans", 4.0), ("datapoints", 6.0), ("logs", 16.0)] {
        assert_eq!(
            metric(&metrics, &format!("otelcol_processor_filter_{signal}_filtered")),
            dropped,
            "{metrics}"
        );
    }
}

/// A role that samples.
fn sampling(role: &str, listen: SocketAddr, to: SocketAddr, kind: &str, settings: &str) -> String {
    format!(
        r#"
[{role}.receivers.otlp.protocols.{}]
endpoint = "{listen}"
[{role}.processors.probabilistic_sampler]
{settings}
[{role}.exporters.{kind}]
endpoint = "http://{to}"
[{role}.pipelines.traces]
receivers = ["otlp"]
processors = ["probabilistic_sampler"]
exporters = ["{kind}"]
ack = "delivered"
"#,
        if role == "gateway" && kind == "otlphttp" { "http" } else { "grpc" }
    )
}

/// 1,000 spans of as many traces, whose ids are spread as a tracer's are.
fn traces_of_a_tracer() -> ExportTraceServiceRequest {
    let mut request = requests::trace_request(1, 1_000);
    let mut state = 1_u64;
    for span in &mut request.resource_spans[0].scope_spans[0].spans {
        let mut word = || {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        span.trace_id = [word().to_be_bytes(), word().to_be_bytes()].concat();
    }
    request
}

/// Who has decided once decides the same again: a tier that samples what is sampled drops nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampling_twice_is_sampling_once() {
    let _turn = beside_others().await;
    let message = traces_of_a_tracer().encode_to_vec();
    for (settings, kept) in [
        ("mode = \"equalizing\"\nsampling_percentage = 25", 200..300),
        ("hash_seed = 22\nsampling_percentage = 25\nfail_closed = false", 200..300),
    ] {
        for kind in ["otlp", "otlphttp"] {
            let (once, twice) =
                (Sink::start("127.0.0.1:0").await.unwrap(), Sink::start("127.0.0.1:0").await.unwrap());
            let (agent, between, alone) = (reserve(), reserve(), reserve());
            let tier = start(
                &(sampling("agent", agent, between, kind, settings)
                    + &sampling("gateway", between, twice.addr(), kind, settings)),
            )
            .await;
            let single = start(&sampling("agent", alone, once.addr(), kind, settings)).await;
            for to in [agent, alone] {
                assert_eq!(call(to, Signal::Traces, &[], &message).await, Reply::Accepted);
            }
            let load = Loader::new(agent).run_id(7).requests(20).run().await;
            Loader::new(alone).run_id(7).requests(20).run().await;
            assert_eq!(load.refusals(), 0, "{load}");
            drained(&tier).await;
            drained(&single).await;
            let (once, twice) = (once.snapshot(), twice.snapshot());
            let case = format!("{kind}, {settings}: once {once}; twice {twice}");
            assert!(kept.contains(&once.foreign_spans), "{case}");
            assert_eq!((once.spans, once.foreign_spans), (twice.spans, twice.foreign_spans), "{case}");
            // Not as many, but the very same.
            assert_eq!(once.runs, twice.runs, "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_says_where_it_was_collected() {
    let _turn = beside_others().await;
    let (capture, listen) = (Capture::start().await, reserve());
    let toml = format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "{listen}"
[processors.resource_detection]
detectors = ["env", "system"]
override = false
[exporters.otlp]
endpoint = "http://{}"
compression = "none"
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = ["resource_detection"]
exporters = ["otlp"]
"#,
        capture.address()
    );
    let mut program = Program::start_by(&toml, |command| {
        command.env("OTEL_RESOURCE_ATTRIBUTES", "team=checkout,note=a%2Cb,service.version=0");
        command.env("OTEL_SERVICE_NAME", "from the environment")
    });
    program.ready().await;
    for (signal, message) in [
        (Signal::Traces, requests::trace_request(1, 2).encode_to_vec()),
        (Signal::Metrics, requests::metrics(2).to_vec()),
        (Signal::Logs, requests::logs(2).to_vec()),
    ] {
        assert_eq!(call(listen, signal, &[], &message).await, Reply::Accepted);
    }
    let captured = capture.wait(|captured| of_resources(captured).len() == 3).await;
    for attributes in of_resources(&captured) {
        for (key, expected) in [
            ("team", "checkout"),
            ("note", "a,b"),
            ("os.type", "linux"),
            // What telemetry says of itself holds.
            ("service.name", "orders"),
            ("service.version", "2.14.3"),
        ] {
            assert_eq!(value(&attributes, key), text(expected), "{key}");
        }
        assert!(value(&attributes, "host.name").is_some());
    }
}
