//! Targets are scraped as Prometheus scrapes them: what they expose arrives, what goes wrong is said, and targets come
//! and go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use watershed::engine::Engine;
use watershed_testkit::wait_until;

use crate::harness::capture::{Capture, Captured};
use crate::harness::{PATIENCE, alone, beside_others, drained, metric, start};

const TEXT: &str = "text/plain; version=0.0.4";

/// A target that exposes what it is told to. It ends with this.
struct Exposer {
    address: SocketAddr,
    shared: Arc<Mutex<Shown>>,
    _task: JoinSet<()>,
}

/// What is shown, and what came.
#[derive(Clone, Default)]
struct Shown {
    status: u16,
    content_type: &'static str,
    encoding: &'static str,
    body: Vec<u8>,
    /// Takes the request, and never answers.
    stalls: bool,
    requests: Vec<String>,
}

impl Exposer {
    async fn start(body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shown =
            Shown { status: 200, content_type: TEXT, body: body.as_bytes().to_vec(), ..Shown::default() };
        let shared = Arc::new(Mutex::new(shown));
        let (mut task, shown) = (JoinSet::new(), shared.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, shown.clone()));
            }
        });
        Self { address, shared, _task: task }
    }

    fn show(&self, body: &str) {
        self.change(|shown| shown.body = body.as_bytes().to_vec());
    }

    fn change(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shared.lock());
    }

    fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }

    /// A job that scrapes this often.
    fn job(&self, more: &str) -> String {
        job(&format!("static_configs = [{{ targets = [\"{}\"] }}]\n{more}", self.address))
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Mutex<Shown>>) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap().to_ascii_lowercase();
        let shown = {
            let mut shared = shared.lock();
            shared.requests.push(text);
            Shown { requests: Vec::new(), ..shared.clone() }
        };
        if shown.stalls {
            return std::future::pending().await;
        }
        let Shown { status, content_type, encoding, body, .. } = shown;
        let mut answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in [("content-type", content_type), ("content-encoding", encoding)] {
            if !value.is_empty() {
                answer.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        answer.push_str("\r\n");
        let whole = [answer.as_bytes(), &body].concat();
        if stream.write_all(&whole).await.is_err() {
            return;
        }
    }
}

fn job(more: &str) -> String {
    format!(
        "[[receivers.prometheus.config.scrape_configs]]\njob_name = \"j\"\nscrape_interval = \"100ms\"\n{more}\n"
    )
}

/// These jobs, into a destination.
pub fn topology(capture: &Capture, jobs: &str) -> String {
    format!(
        "{jobs}\n[exporters.otlp]\nendpoint = \"http://{}\"\ncompression = \"none\"\n\
         [pipelines.metrics]\nreceivers = [\"prometheus\"]\nexporters = [\"otlp\"]\n",
        capture.address()
    )
}

/// All numbers that arrived, in order: instance, name and labels, value (none of a marker).
fn numbers(captured: &Captured) -> Vec<(String, String, Option<f64>)> {
    let mut numbers = Vec::new();
    for resource in &captured.metrics.resource_metrics {
        let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
        let instance = attributes.filter(|attribute| attribute.key == "service.instance.id");
        let instance: String = instance.map(text).collect();
        for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            let points = match &metric.data {
                Some(Data::Gauge(gauge)) => &gauge.data_points,
                Some(Data::Sum(sum)) => &sum.data_points,
                _ => continue,
            };
            for point in points {
                let labels: Vec<String> =
                    point.attributes.iter().map(|label| format!("{}={}", label.key, text(label))).collect();
                let value = point.value.map(|value| match value {
                    Value::AsDouble(value) => value,
                    Value::AsInt(value) => value as f64,
                });
                assert_eq!(value.is_none(), point.flags == 1);
                numbers.push((instance.clone(), format!("{}{{{}}}", metric.name, labels.join(",")), value));
            }
        }
    }
    numbers
}

fn text(label: &opentelemetry_proto::tonic::common::v1::KeyValue) -> String {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    match label.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

pub fn has(captured: &Captured, name: &str, value: Option<f64>) -> bool {
    numbers(captured).iter().any(|(_, found, is)| found == name && *is == value)
}

async fn counted(engine: &Engine, start: &str) {
    let there = async || metric(&engine.metrics().render(), start) >= 1.0;
    assert!(wait_until(there, PATIENCE).await, "no {start}:\n{}", engine.metrics().render());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_target_exposes_arrives_and_what_it_stops_to_ends() {
    let _turn = beside_others().await;
    let (capture, target) = (Capture::start().await, Exposer::start("a{x=\"1\"} 1\nb 2\n").await);
    let engine = start(&topology(&capture, &target.job("honor_timestamps = false"))).await;
    let captured = capture.wait(|captured| has(captured, "b{}", Some(2.0))).await;
    for (name, value) in [
        ("a{x=1}", 1.0),
        ("up{}", 1.0),
        ("scrape_samples_scraped{}", 2.0),
        ("scrape_samples_post_metric_relabeling{}", 2.0),
        ("scrape_series_added{}", 2.0),
    ] {
        assert!(has(&captured, name, Some(value)), "{name}: {:?}", numbers(&captured));
    }
    assert!(numbers(&captured).iter().any(|(_, name, _)| name == "scrape_duration_seconds{}"));
    let resource = captured.metrics.resource_metrics[0].resource.clone().unwrap();
    let attributes: BTreeMap<_, _> =
        resource.attributes.iter().map(|label| (label.key.clone(), text(label))).collect();
    let port = target.address.port().to_string();
    for (key, value) in [
        ("service.name", "j"),
        ("service.instance.id", &target.address.to_string()),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("url.scheme", "http"),
    ] {
        assert_eq!(attributes[key], value);
    }
    let request = &target.requests()[0];
    assert!(request.starts_with("get /metrics http/1.1\r\n"), "{request}");
    for header in [
        "accept: application/openmetrics-text;version=1.0.0",
        "accept-encoding: gzip\r\n",
        "x-prometheus-scrape-timeout-seconds: 0.1\r\n",
        "user-agent: watershed/",
    ] {
        assert!(request.contains(header), "{header} is not in {request}");
    }

    target.show("b 3\n");
    capture.wait(|captured| has(captured, "a{x=1}", None)).await;
    target.change(|shown| shown.status = 500);
    let captured = capture.wait(|captured| has(captured, "b{}", None)).await;
    assert!(has(&captured, "up{}", Some(0.0)));
    counted(&engine, "watershed_scrapes{receiver=\"prometheus\",job=\"j\",outcome=\"status\"}").await;
    counted(&engine, "watershed_scrape_targets{receiver=\"prometheus\",job=\"j\",health=\"down\"}").await;
    target.change(|shown| shown.status = 200);
    counted(&engine, "watershed_scrape_targets{receiver=\"prometheus\",job=\"j\",health=\"up\"}").await;
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_to_fail_is_counted_by_its_name() {
    let _turn = beside_others().await;
    let (capture, target) = (Capture::start().await, Exposer::start("a 1\nb 2\n").await);
    let limits =
        "body_size_limit = \"1kB\"\nsample_limit = 2\nfallback_scrape_protocol = \"PrometheusText0.0.4\"";
    let strict = target.job("").replace("\"j\"", "\"strict\"");
    let engine = start(&topology(&capture, &format!("{}{strict}", target.job(limits)))).await;
    counted(&engine, "watershed_scrapes{receiver=\"prometheus\",job=\"j\",outcome=\"ok\"}").await;
    type Change = fn(&mut Shown);
    let ok: Change = |shown| {
        *shown = Shown { status: 200, content_type: TEXT, body: b"a 1\n".to_vec(), ..Shown::default() };
    };
    let cases: [(Change, &str); 7] = [
        (|shown| shown.status = 302, "status"),
        (|shown| shown.body = b"nonsense\n".to_vec(), "parse"),
        (|shown| shown.body = b"a 1\nb 1\nc 1\n".to_vec(), "limit"),
        (|shown| shown.body = [b'#'; 2000].to_vec(), "limit"),
        (|shown| shown.encoding = "br", "parse"),
        (|shown| shown.stalls = true, "timeout"),
        (|shown| (shown.encoding, shown.body) = ("gzip", vec![1, 2, 3]), "parse"),
    ];
    for (change, outcome) in cases {
        let series = format!("watershed_scrapes{{receiver=\"prometheus\",job=\"j\",outcome=\"{outcome}\"}}");
        let before = metric(&engine.metrics().render(), &series);
        target.change(change);
        let grown = async || metric(&engine.metrics().render(), &series) > before;
        assert!(wait_until(grown, PATIENCE).await, "{series}:\n{}", engine.metrics().render());
        target.change(ok);
        counted(&engine, "watershed_scrape_targets{receiver=\"prometheus\",job=\"j\",health=\"up\"}").await;
    }
    // Without a fallback an answer has to say what it is.
    target.change(|shown| shown.content_type = "");
    counted(&engine, "watershed_scrapes{receiver=\"prometheus\",job=\"strict\",outcome=\"content_type\"}")
        .await;
    let ok = "watershed_scrapes{receiver=\"prometheus\",job=\"j\",outcome=\"ok\"}";
    let before = metric(&engine.metrics().render(), ok);
    let grown = async || metric(&engine.metrics().render(), ok) > before;
    assert!(wait_until(grown, PATIENCE).await);
    drop(target);
    counted(&engine, "watershed_scrapes{receiver=\"prometheus\",job=\"j\",outcome=\"connect\"}").await;
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_answers_are_inflated() {
    use std::io::Write as _;
    let _turn = beside_others().await;
    let (capture, target) = (Capture::start().await, Exposer::start("").await);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let body: String = (0..20_000).map(|at| format!("a{{x=\"{at}\"}} {at}\n")).collect();
    gzip.write_all(body.as_bytes()).unwrap();
    let bytes = gzip.finish().unwrap();
    target.change(|shown| (shown.encoding, shown.body) = ("gzip", bytes));
    let engine = start(&topology(
        &capture,
        &target.job("scrape_interval = \"1s\"").replacen("scrape_interval = \"100ms\"\n", "", 1),
    ))
    .await;
    let captured = capture.wait(|captured| has(captured, "up{}", Some(1.0))).await;
    assert!(has(&captured, "a{x=19999}", Some(19999.0)));
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_of_files_come_and_go() {
    let _turn = beside_others().await;
    let (one, two) = (Exposer::start("a 1\n").await, Exposer::start("a 2\n").await);
    let capture = Capture::start().await;
    let folder = tempfile::tempdir().unwrap();
    let write = |targets: &[&Exposer], zone: &str| {
        let targets: Vec<String> = targets.iter().map(|target| target.address.to_string()).collect();
        let list = serde_json::json!([{ "targets": targets, "labels": { "zone": zone } }]);
        // As one should: whole, under its name at once.
        let aside = folder.path().join("aside");
        std::fs::write(&aside, list.to_string()).unwrap();
        std::fs::rename(aside, folder.path().join("targets-1.json")).unwrap();
    };
    write(&[&one], "a");
    let pattern = folder.path().join("targets-*.json");
    let text = job(&format!(
        "file_sd_configs = [{{ files = [{pattern:?}], refresh_interval = \"200ms\" }}]\n\
         relabel_configs = [{{ source_labels = [\"__meta_filepath\"], regex = \".*/(targets-.)[.]json\", target_label = \"from\" }}]"
    ));
    let engine = start(&topology(&capture, &text)).await;
    capture.wait(|captured| has(captured, "a{from=targets-1,zone=a}", Some(1.0))).await;
    write(&[&one, &two], "a");
    capture.wait(|captured| has(captured, "a{from=targets-1,zone=a}", Some(2.0))).await;
    write(&[&two], "a");
    let gone = capture
        .wait(|captured| {
            numbers(captured).iter().any(|(instance, name, value)| {
                *instance == one.address.to_string() && name.starts_with("up") && value.is_none()
            })
        })
        .await;
    let ended = |name: &str| {
        numbers(&gone).iter().any(|(instance, found, value)| {
            *instance == one.address.to_string() && found.starts_with(name) && value.is_none()
        })
    };
    assert!(ended("a{") && ended("scrape_duration_seconds"), "all of it ends");
    // What can not be read leaves in force what was.
    std::fs::write(folder.path().join("targets-1.json"), "[{").unwrap();
    counted(
        &engine,
        "watershed_scrape_discovery_failures{receiver=\"prometheus\",job=\"j\",mechanism=\"file\"}",
    )
    .await;
    let before = two.requests().len();
    assert!(wait_until(async || two.requests().len() > before + 2, PATIENCE).await);
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_goes_on_when_the_terms_are_others() {
    let _turn = beside_others().await;
    let (one, two) = (Exposer::start("a 1\n").await, Exposer::start("a 2\n").await);
    let (capture, folder) = (Capture::start().await, tempfile::tempdir().unwrap());
    let write = |targets: &[&Exposer], every: &str| {
        let targets: Vec<String> = targets.iter().map(|target| target.address.to_string()).collect();
        let labels = serde_json::json!({ "__scrape_interval__": every, "__scrape_timeout__": every });
        let list = serde_json::json!([{ "targets": targets, "labels": labels }]);
        let aside = folder.path().join("aside");
        std::fs::write(&aside, list.to_string()).unwrap();
        std::fs::rename(aside, folder.path().join("targets.json")).unwrap();
    };
    let files = folder.path().join("targets.json");
    let engine = start(&topology(
        &capture,
        &job(&format!(
            "target_limit = 1\nfile_sd_configs = [{{ files = [{files:?}], refresh_interval = \"200ms\" }}]"
        )),
    ))
    .await;
    // More than the grace that one has who was gone.
    let some_scrapes = async || {
        let before = one.requests().len();
        assert!(wait_until(async || one.requests().len() > before + 6, PATIENCE).await);
    };
    write(&[&one], "100ms");
    capture.wait(|captured| has(captured, "a{}", Some(1.0))).await;
    write(&[&one], "150ms");
    let slower = async || {
        one.requests().last().is_some_and(|request| request.contains("scrape-timeout-seconds: 0.15\r\n"))
    };
    assert!(wait_until(slower, PATIENCE).await);
    some_scrapes().await;
    one.show("a 5\n");
    let captured = capture.wait(|captured| has(captured, "a{}", Some(5.0))).await;
    // Of a scrape that comes too late a series may end, but never what is said of scrapes.
    let instance = one.address.to_string();
    let ended = |captured: &Captured| {
        let numbers = numbers(captured);
        let is_end = |(of, name, value): &&(String, String, Option<f64>)| {
            *of == instance && name.starts_with("up") && value.is_none()
        };
        numbers.iter().filter(is_end).count()
    };
    assert_eq!(ended(&captured), 0, "{:?}", numbers(&captured));

    write(&[&one, &two], "150ms");
    capture.wait(|captured| has(captured, "up{}", Some(0.0))).await;
    write(&[&one], "150ms");
    some_scrapes().await;
    one.show("a 6\n");
    let captured = capture.wait(|captured| has(captured, "a{}", Some(6.0))).await;
    assert_eq!(ended(&captured), 0, "{:?}", numbers(&captured));
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_are_asked_of_a_server_and_both_are_told_who_asks() {
    let _turn = beside_others().await;
    let (target, capture) = (Exposer::start("a 1\n").await, Capture::start().await);
    let list = format!("[{{ \"targets\": [\"{}\"] }}]", target.address);
    let server = Exposer::start(&list).await;
    server.change(|shown| shown.content_type = "application/json");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let text = job(&format!(
        "authorization = {{ credentials_file = {token:?} }}\nparams = {{ module = [\"m\"] }}\n\
         [[receivers.prometheus.config.scrape_configs.http_sd_configs]]\nurl = \"http://{}/targets\"\n\
         refresh_interval = \"1s\"\nbasic_auth = {{ username = \"u\", password = \"p\" }}",
        server.address
    ));
    let engine = start(&topology(&capture, &text)).await;
    capture.wait(|captured| has(captured, "a{}", Some(1.0))).await;
    let asked = &server.requests()[0];
    assert!(asked.starts_with("get /targets http/1.1"), "{asked}");
    for header in ["authorization: basic dtpw\r\n", "x-prometheus-refresh-interval-seconds: 1\r\n"] {
        assert!(asked.contains(header), "{asked}");
    }
    let scraped = &target.requests()[0];
    assert!(scraped.starts_with("get /metrics?module=m http/1.1"), "{scraped}");
    assert!(scraped.contains("authorization: bearer s3cret\r\n"), "{scraped}");
    // Tokens rotate.
    std::fs::write(&token, "other").unwrap();
    let rotated = async || target.requests().iter().any(|request| request.contains("bearer other\r\n"));
    assert!(wait_until(rotated, PATIENCE).await);
    // A server that fails takes no target away.
    server.change(|shown| shown.status = 500);
    counted(
        &engine,
        "watershed_scrape_discovery_failures{receiver=\"prometheus\",job=\"j\",mechanism=\"http\"}",
    )
    .await;
    let before = target.requests().len();
    assert!(wait_until(async || target.requests().len() > before + 2, PATIENCE).await);
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_the_targets() {
    let _turn = beside_others().await;
    let mut targets = Vec::new();
    for _ in 0..12 {
        targets.push(Exposer::start("a 1\n").await);
    }
    let addresses: Vec<String> = targets.iter().map(|target| format!("\"{}\"", target.address)).collect();
    let jobs = job(&format!("static_configs = [{{ targets = [{}] }}]", addresses.join(", ")));
    let mut seen = Vec::new();
    for shard in 0..2 {
        let capture = Capture::start().await;
        let text = format!("receivers.prometheus.sharding = {{ shards = 2, shard = {shard} }}\n");
        let engine = start(&topology(&capture, &format!("{text}{jobs}"))).await;
        let up = "watershed_scrape_targets{receiver=\"prometheus\",job=\"j\",health=\"up\"}";
        // All of a replica's targets are scraped within an interval; two later, none is missing.
        let rounds = async || metric(&engine.metrics().render(), "watershed_scrapes") > 0.0;
        assert!(wait_until(rounds, PATIENCE).await);
        let captured = capture
            .wait(|captured| {
                let mut scrapes = BTreeMap::new();
                for (instance, name, _) in numbers(captured) {
                    if name == "up{}" {
                        *scrapes.entry(instance).or_insert(0) += 1;
                    }
                }
                scrapes.values().any(|scrapes| *scrapes >= 5)
            })
            .await;
        let mut own: Vec<String> = numbers(&captured).into_iter().map(|(instance, ..)| instance).collect();
        own.sort();
        own.dedup();
        assert!(metric(&engine.metrics().render(), up) >= own.len() as f64);
        seen.extend(own);
        drained(&engine).await;
    }
    seen.sort();
    let mut expected: Vec<String> = targets.iter().map(|target| target.address.to_string()).collect();
    expected.sort();
    assert_eq!(seen, expected, "each by one replica");
}

/// Nothing takes what is scraped: it is lost and counted, and the targets are no less up for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_pipeline_takes_is_counted() {
    let _turn = alone().await;
    let (capture, target) = (Capture::start().await, Exposer::start("a 1\nb 2\n").await);
    let nowhere = watershed_testkit::reserve();
    let text = topology(&capture, &target.job(""))
        .replace(&capture.address().to_string(), &nowhere.to_string())
        .replace("compression = \"none\"", "compression = \"none\"\nsending_queue = { queue_size = 1 }");
    let engine = start(&format!("{text}ack = \"accepted\"\n")).await;
    counted(&engine, "watershed_scrape_lost_points{receiver=\"prometheus\",job=\"j\",reason=\"refused\"}")
        .await;
    let text = engine.metrics().render();
    assert_eq!(
        metric(&text, "watershed_scrape_targets{receiver=\"prometheus\",job=\"j\",health=\"down\"}"),
        0.0
    );
    assert!(
        metric(&text, "otelcol_receiver_refused_metric_points{receiver=\"prometheus\"}") >= 7.0,
        "{text}"
    );
    engine.drain(std::time::Duration::from_millis(200)).await;
}
