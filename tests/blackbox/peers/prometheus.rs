//! Prometheus behind our exporters: it scrapes one and is written to by the other, and is asked what it has.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use serde_json::Value;
use watershed::engine::Engine;
use watershed_testkit::call::Reply;
use watershed_testkit::grpc::Signal;
use watershed_testkit::web::WebClient;
use watershed_testkit::{reserve, wait_until};

use crate::harness::peer::Peer;
use crate::harness::{PATIENCE, beside_others, call, drained, http, otlp, receiver, start};

/// What `start` ends with where a peer is not installed.
const ABSENT: i32 = 69;

/// Series of each metric.
const SERIES: u64 = 3;

/// Samples of each series that are written, a second apart.
const STEPS: u64 = 5;

#[allow(clippy::disallowed_methods, reason = "Prometheus looks at what is recent by the clock of the world")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn attributes(pairs: &[(&str, String)]) -> Vec<KeyValue> {
    let pair = |(key, text): &(&str, String)| KeyValue {
        key: (*key).into(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(text.clone())) }),
        ..Default::default()
    };
    pairs.iter().map(pair).collect()
}

/// A metric of every kind, with values that grow with `step`.
fn everything(start: u64, time: u64, step: u64) -> Vec<u8> {
    let labels = |series: u64| attributes(&[("http.route", format!("/{series}\"\\\n"))]);
    let number = |value: i64| {
        let point = move |series| NumberDataPoint {
            attributes: labels(series),
            start_time_unix_nano: start,
            time_unix_nano: time,
            value: Some(number_data_point::Value::AsInt(value)),
            exemplars: vec![Exemplar {
                time_unix_nano: time,
                trace_id: vec![7; 16],
                span_id: vec![9; 8],
                value: Some(exemplar::Value::AsDouble(1.0)),
                ..Default::default()
            }],
            ..Default::default()
        };
        (0..SERIES).map(point).collect::<Vec<_>>()
    };
    let classic = |series| HistogramDataPoint {
        attributes: labels(series),
        start_time_unix_nano: start,
        time_unix_nano: time,
        count: 6 * step,
        sum: Some(4.5),
        bucket_counts: vec![step, 2 * step, 3 * step],
        explicit_bounds: vec![0.1, 1.0],
        ..Default::default()
    };
    let native = |series| ExponentialHistogramDataPoint {
        attributes: labels(series),
        start_time_unix_nano: start,
        time_unix_nano: time,
        count: 7 * step,
        sum: Some(2.5),
        scale: 9,
        zero_count: step,
        positive: Some(Buckets { offset: -3, bucket_counts: vec![step, 0, 0, 0, 0, 0, 0, 0, 2 * step] }),
        negative: Some(Buckets { offset: 4, bucket_counts: vec![3 * step] }),
        ..Default::default()
    };
    let summary = |series| SummaryDataPoint {
        attributes: labels(series),
        start_time_unix_nano: start,
        time_unix_nano: time,
        count: 4 * step,
        sum: 10.0,
        quantile_values: vec![ValueAtQuantile { quantile: 0.5, value: 1.5 }],
        ..Default::default()
    };
    let metric = |name: &str, unit: &str, data| Metric {
        name: name.into(),
        unit: unit.into(),
        description: format!("What \"{name}\" says,\nin \\ short"),
        data: Some(data),
        ..Default::default()
    };
    let cumulative = 2;
    let metrics = vec![
        metric(
            "work.done",
            "By",
            Data::Sum(Sum {
                data_points: number(step as i64),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
        ),
        metric("work.waiting", "", Data::Gauge(Gauge { data_points: number(-(step as i64)) })),
        metric(
            "work.time",
            "s",
            Data::Histogram(Histogram {
                data_points: (0..SERIES).map(classic).collect(),
                aggregation_temporality: cumulative,
            }),
        ),
        metric(
            "work.size",
            "",
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: (0..SERIES).map(native).collect(),
                aggregation_temporality: cumulative,
            }),
        ),
        metric("work.old", "", Data::Summary(Summary { data_points: (0..SERIES).map(summary).collect() })),
    ];
    let scope = InstrumentationScope { name: "tests".into(), version: "1".into(), ..Default::default() };
    let scope = ScopeMetrics { scope: Some(scope), metrics, ..Default::default() };
    let resource = [
        ("service.name", "shop".to_owned()),
        ("service.instance.id", "one".to_owned()),
        ("host.name", "h1".to_owned()),
    ];
    let resource = Resource { attributes: attributes(&resource), ..Default::default() };
    let resource =
        ResourceMetrics { resource: Some(resource), scope_metrics: vec![scope], ..Default::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec()
}

async fn send(engine: &Engine, message: &[u8]) {
    let reply = call(otlp(engine), Signal::Metrics, &[], message).await;
    assert!(matches!(reply, Reply::Accepted), "{reply:?}");
}

/// The answer to a query that has one value; `None` while there is none.
async fn ask(address: SocketAddr, query: &str) -> Option<f64> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut client = WebClient::connect(address).await.ok()?;
    let path = format!("/api/v1/query?query={encoded}");
    let reply = client.send("GET", &path, &[], b"").await.ok()?;
    let answer: Value = serde_json::from_slice(&reply.body).ok()?;
    assert_eq!(answer["status"], "success", "{query}: {answer}");
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

async fn asked(name: &str, address: SocketAddr, expected: &[(&str, f64)]) {
    for (query, expected) in expected {
        let mut last = None;
        let is_so = wait_until(
            async || {
                last = ask(address, query).await;
                last == Some(*expected)
            },
            PATIENCE,
        );
        assert!(is_so.await, "{name}: {query} is {last:?}, not {expected}");
        println!("{name}: {query} = {expected}");
    }
}

async fn answers(address: SocketAddr, path: &str) -> bool {
    http::get(address, path).await.is_some_and(|(status, _)| status == 200)
}

/// `promtool check metrics`, of a text; `None` where it is not installed.
fn promtool(text: &str) -> Option<()> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrics");
    std::fs::write(&file, text).unwrap();
    let start = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/start");
    let mut command = Command::new(start);
    command.args(["prometheus", "promtool", "check", "metrics"]).env("DIR", folder.path());
    let done = command.stdin(Stdio::from(File::open(file).unwrap())).output().unwrap();
    if done.status.code() == Some(ABSENT) {
        println!("skipped: {}", String::from_utf8_lossy(&done.stderr).trim());
        return None;
    }
    assert!(
        done.status.success() && done.stderr.is_empty(),
        "{}{}\n{text}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    Some(())
}

/// What a Prometheus that scrapes says of every family, step 3; the same of one that was written to.
fn families() -> Vec<(&'static str, f64)> {
    vec![
        ("count(work_done_bytes_total)", 3.0),
        ("sum(work_done_bytes_total)", 9.0),
        (
            r#"work_done_bytes_total{http_route="/1\"\\\n",job="shop",instance="one",otel_scope_name="tests"}"#,
            3.0,
        ),
        ("sum(work_waiting)", -9.0),
        ("sum(work_time_seconds_bucket{le=~\"1|1.0\"})", 27.0),
        ("sum(work_time_seconds_count)", 54.0),
        ("sum(work_time_seconds_sum)", 13.5),
        ("sum(work_old_count)", 36.0),
        ("sum(work_old{quantile=\"0.5\"})", 4.5),
        ("target_info{job=\"shop\",instance=\"one\",host_name=\"h1\"}", 1.0),
    ]
}

/// The same of native histograms.
const NATIVE: [(&str, f64); 3] = [
    ("sum(histogram_count(work_size))", 63.0),
    ("sum(histogram_sum(work_size))", 7.5),
    // Two thirds are below zero or there: three parts of seven are negative, one is zero.
    ("count(histogram_quantile(0.3, work_size) < 0)", 3.0),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_scrapes_every_family() {
    let _turn = beside_others().await;
    let toml = r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters.prometheus]
endpoint = "127.0.0.1:0"
enable_open_metrics = true
[exporters."prometheus/utf8"]
endpoint = "127.0.0.1:0"
translation_strategy = "NoTranslation"
[pipelines.metrics]
receivers = ["otlp"]
exporters = ["prometheus", "prometheus/utf8"]
"#;
    let engine = start(toml).await;
    let begin = now();
    send(&engine, &everything(begin, begin + 1, 3)).await;
    let [plain, utf8] = ["prometheus", "prometheus/utf8"].map(|id| receiver(&engine, id));
    let text = http::wait_for(plain, "/metrics", 200).await;
    if promtool(&text).is_some() {
        println!("promtool finds nothing in {} lines", text.lines().count());
    }
    for (name, told, flags) in [
        ("prometheus", "  scrape_native_histograms: true\n", vec![]),
        ("prometheus", "", vec![]),
        ("debian-prometheus", "", vec!["--enable-feature=native-histograms,exemplar-storage"]),
        ("debian-prometheus", "", vec![]),
    ] {
        let address = reserve();
        let flags = [flags, vec!["--web.enable-lifecycle"]].concat();
        let arguments: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let peer = Peer::spawn(name, &arguments, &[("PORT", address.port().to_string())]);
        let Some(peer) = peer.ready(async || answers(address, "/-/ready").await).await else { continue };
        // Its start has made the file empty.
        let job = |name: &str, at: SocketAddr| {
            format!(
                "- job_name: {name}\n  honor_labels: true\n  scrape_interval: 1s\n  scrape_timeout: 1s\n{told}  \
                 static_configs: [{{ targets: ['{at}'] }}]\n"
            )
        };
        let config = format!("scrape_configs:\n{}{}", job("plain", plain), job("utf8", utf8));
        std::fs::write(peer.directory().join("prometheus.yml"), config).unwrap();
        let mut client = WebClient::connect(address).await.unwrap();
        let reloaded = client.send("POST", "/-/reload", &[], b"").await.unwrap();
        assert_eq!(reloaded.status, 200, "{}", String::from_utf8_lossy(&reloaded.body));

        let label = format!("{name} {}", if told.is_empty() { flags.join(" ") } else { "native".into() });
        asked(&label, address, &[("sum(up)", 2.0)]).await;
        asked(&label, address, &families()).await;
        if told.is_empty() && flags.len() < 2 {
            asked(&label, address, &[("sum(work_size_count)", 63.0)]).await;
        } else {
            asked(&label, address, &NATIVE).await;
        }
        // Prometheus asks for UTF-8 only in text.
        let utf8 = if name == "prometheus" && told.is_empty() { "{\"work.done\"}" } else { "work_done" };
        asked(&label, address, &[(&format!("sum({utf8})"), 9.0)]).await;
    }
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_remotely_is_found_again() {
    let _turn = beside_others().await;
    for (name, message, native) in [
        ("prometheus", "prometheus.WriteRequest", true),
        ("prometheus", "io.prometheus.write.v2.Request", true),
        ("debian-prometheus", "prometheus.WriteRequest", true),
        // It answers 2.0 with an error, and gets 1.0.
        ("debian-prometheus", "io.prometheus.write.v2.Request", true),
        ("victoria-metrics", "prometheus.WriteRequest", false),
    ] {
        let address = reserve();
        let arguments = if name == "debian-prometheus" {
            vec!["--enable-feature=native-histograms,exemplar-storage".to_owned()]
        } else {
            Vec::new()
        };
        let peer = Peer::spawn(name, &arguments, &[("PORT", address.port().to_string())]);
        let path = if name == "victoria-metrics" { "/health" } else { "/-/ready" };
        let Some(_peer) = peer.ready(async || answers(address, path).await).await else { continue };
        let engine = start(&format!(
            r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters.prometheus_remote_write]
endpoint = "http://{address}/api/v1/write"
protobuf_message = "{message}"
send_metadata = true
[pipelines.metrics]
receivers = ["otlp"]
exporters = ["prometheus_remote_write"]
ack = "accepted"
"#
        ))
        .await;
        // The last is of now: queries look at what is there by then.
        let begin = now() - STEPS * 1_000_000_000;
        for step in 1..=STEPS {
            let value = if step == STEPS { 3 } else { step.min(2) };
            send(&engine, &everything(begin, begin + step * 1_000_000_000, value)).await;
        }
        drained(&engine).await;
        let metrics = engine.metrics().render();
        let failed = crate::harness::metric(&metrics, "otelcol_exporter_send_failed_metric_points");
        assert_eq!(failed, 0.0, "{name} {message}: {metrics}");
        let label = format!("{name} {message}");
        asked(&label, address, &families()).await;
        asked(
            &label,
            address,
            &[("sum(count_over_time(work_done_bytes_total[1h]))", (STEPS * SERIES) as f64)],
        )
        .await;
        if native {
            asked(&label, address, &NATIVE).await;
        }
    }
}
