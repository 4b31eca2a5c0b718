//! The exporters of Prometheus' family: what is scraped of one, and what the other writes to a destination that has moods.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use watershed::engine::Engine;
use watershed_testkit::call::Reply;
use watershed_testkit::grpc::Signal;
use watershed_testkit::web::{self, WebClient};
use watershed_testkit::{reserve, wait_until};

use crate::harness::{PATIENCE, beside_others, call, drained, http, metric, otlp, receiver, start};

/// Series of every request.
const SERIES: u64 = 20;

/// The first time, in milliseconds.
const BEGIN: u64 = 1_700_000_000_000;

fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    let value = |text: &str| AnyValue { value: Some(any_value::Value::StringValue(text.into())) };
    let pair = |(key, text): &(&str, &str)| KeyValue {
        key: (*key).into(),
        value: Some(value(text)),
        ..Default::default()
    };
    pairs.iter().map(pair).collect()
}

fn request(name: &str, data: Data) -> Vec<u8> {
    let metric = Metric { name: name.into(), data: Some(data), ..Default::default() };
    let scope = ScopeMetrics { metrics: vec![metric], ..Default::default() };
    let resource = Resource { attributes: attributes(&[("service.name", "shop")]), ..Default::default() };
    let resource =
        ResourceMetrics { resource: Some(resource), scope_metrics: vec![scope], ..Default::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource] }.encode_to_vec()
}

/// One point of each series, number `step` of each.
fn points(step: u64) -> Vec<NumberDataPoint> {
    let point = |series: u64| NumberDataPoint {
        attributes: attributes(&[("series", &series.to_string())]),
        start_time_unix_nano: BEGIN * 1_000_000,
        time_unix_nano: (BEGIN + step) * 1_000_000,
        value: Some(number_data_point::Value::AsInt(step as i64)),
        ..Default::default()
    };
    (0..SERIES).map(point).collect()
}

fn gauges(step: u64) -> Vec<u8> {
    request("steps", Data::Gauge(Gauge { data_points: points(step) }))
}

async fn send(engine: &Engine, message: &[u8]) {
    let reply = call(otlp(engine), Signal::Metrics, &[], message).await;
    assert!(matches!(reply, Reply::Accepted), "{reply:?}");
}

fn collector(exporter: &str, ack: &str) -> String {
    format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
{exporter}
[pipelines.metrics]
receivers = ["otlp"]
exporters = ["tested"]
ack = "{ack}"
"#
    )
    .replace(
        "tested",
        if exporter.contains("remote_write]") { "prometheus_remote_write" } else { "prometheus" },
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_is_scraped() {
    let _turn = beside_others().await;
    let exporter = "[exporters.prometheus]\nendpoint = \"127.0.0.1:0\"\nenable_open_metrics = true\n";
    let engine = start(&collector(exporter, "delivered")).await;
    let sum = |value| {
        let points = points(value);
        request(
            "work.done",
            Data::Sum(Sum { data_points: points, aggregation_temporality: 2, is_monotonic: true }),
        )
    };
    send(&engine, &sum(7)).await;
    send(&engine, &sum(9)).await;
    let listens = receiver(&engine, "prometheus");
    let body = http::wait_for(listens, "/metrics", 200).await;
    let samples = body.lines().filter(|line| line.starts_with("work_done_total{"));
    assert_eq!(samples.clone().count() as u64, SERIES, "{body}");
    assert!(samples.clone().all(|line| line.ends_with(" 9")), "{body}");
    assert!(body.contains("work_done_total{job=\"shop\",series=\"0\"} 9\n"), "{body}");
    assert_eq!(http::get(listens, "/other").await.unwrap().0, 404);

    let mut client = WebClient::connect(listens).await.unwrap();
    for (accept, content_type, begins) in [
        ("text/plain", "text/plain; version=0.0.4", "# TYPE work_done_total counter\n"),
        (
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0",
            "# TYPE work_done counter\n",
        ),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
            "application/vnd.google.protobuf",
            "",
        ),
    ] {
        let reply = client.send("GET", "/metrics", &[("accept", accept)], b"").await.unwrap();
        assert_eq!(reply.status, 200);
        assert!(reply.header("content-type").starts_with(content_type), "{:?}", reply.headers);
        assert!(reply.body.starts_with(begins.as_bytes()), "{}", String::from_utf8_lossy(&reply.body));
    }
    let gzip = client.send("GET", "/metrics", &[("accept-encoding", "gzip")], b"").await.unwrap();
    assert_eq!((gzip.header("content-encoding"), &gzip.body[..2]), ("gzip", &[0x1F, 0x8B][..]));
    let metrics = engine.metrics().render();
    assert_eq!(metric(&metrics, "watershed_prometheus_series{exporter=\"prometheus\"}"), SERIES as f64);
    assert!(
        metric(&metrics, "watershed_prometheus_scrapes{exporter=\"prometheus\",outcome=\"served\"}") >= 5.0
    );
    drained(&engine).await;
}

/// Two that listen on one address are found before anything starts, whichever of them receives.
#[tokio::test]
async fn the_port_of_an_exporter_is_known_to_the_plan() {
    let mut sources = watershed::engine::config::Sources::default();
    let text = collector("[exporters.prometheus]\nendpoint = \"0.0.0.0:4317\"\n", "accepted")
        .replace("127.0.0.1:0", "0.0.0.0:4317");
    sources.inline.push(("f.toml".into(), text));
    let errors = watershed::engine::config::load(&sources, &watershed::kinds()).err().unwrap().to_string();
    assert!(errors.contains("receiver `otlp` and exporter `prometheus` want the same address"), "{errors}");
}

/// What a destination does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Takes,
    /// Says this status, and asks to be left alone for so many seconds.
    Says(u16, Option<u64>),
    /// Takes nothing, and says so only after its client has given up.
    Slow,
    /// Hangs up.
    Dies,
}

/// Which versions a destination knows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Knows {
    V1,
    V2,
}

/// A destination of remote write that is told how to behave.
struct Double {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// What was taken, by series, in the order of arrival: time and value.
    taken: BTreeMap<String, Vec<(i64, f64)>>,
    requests: usize,
    /// Protocol versions of the requests.
    versions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    time: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SeriesV1 {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<SeriesV1>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SeriesV2 {
    #[prost(uint32, repeated, tag = "1")]
    labels: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestV2 {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<SeriesV2>,
}

impl Double {
    /// Answers by `mood`, which is asked with the number of the request and its series.
    async fn start(knows: Knows, mood: impl Fn(usize, usize) -> Mood + Send + Sync + 'static) -> Double {
        Self::listen("127.0.0.1:0".parse().unwrap(), knows, mood).await
    }

    async fn listen(
        at: SocketAddr,
        knows: Knows,
        mood: impl Fn(usize, usize) -> Mood + Send + Sync + 'static,
    ) -> Double {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let (shared, mood) = (seen.clone(), Arc::new(mood));
        #[allow(clippy::disallowed_methods, reason = "it lives as long as the test")]
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, knows, shared.clone(), mood.clone()));
            }
        });
        Double { address, seen }
    }

    /// Waits until every series has its samples of all steps, in order, each once.
    async fn has_all(&self, steps: u64) {
        let expected: Vec<_> = (0..steps).map(|step| ((BEGIN + step) as i64, step as f64)).collect();
        let of = |seen: &Seen| {
            let taken: Vec<_> = seen.taken.iter().filter(|(name, _)| name.contains("=steps")).collect();
            taken.iter().map(|(_, samples)| samples.len()).sum::<usize>() as u64
        };
        let all = wait_until(async || of(&self.seen.lock()) >= steps * SERIES, PATIENCE).await;
        let seen = self.seen.lock();
        assert!(all, "{} of {} after {} requests", of(&seen), steps * SERIES, seen.requests);
        for (name, samples) in seen.taken.iter().filter(|(name, _)| name.contains("=steps")) {
            assert_eq!(*samples, expected, "{name}");
        }
    }
}

async fn serve(
    stream: TcpStream,
    knows: Knows,
    seen: Arc<Mutex<Seen>>,
    mood: Arc<impl Fn(usize, usize) -> Mood>,
) {
    let mut io = BufReader::new(stream);
    while let Ok(Some(message)) = web::read(&mut io).await {
        let header = |name: &str| message.headers.get(name).map_or("", |value| value.to_str().unwrap());
        assert!(message.start.starts_with("POST /api/v1/write "), "{}", message.start);
        assert_eq!(header("content-encoding"), "snappy");
        assert!(header("user-agent").starts_with("watershed/"));
        let version = header("x-prometheus-remote-write-version").to_owned();
        let is_v2 = header("content-type") == "application/x-protobuf;proto=io.prometheus.write.v2.Request";
        assert_eq!(version, if is_v2 { "2.0.0" } else { "0.1.0" });
        let body = snap::raw::Decoder::new().decompress_vec(&message.body).unwrap();
        let read = if is_v2 && knows == Knows::V2 { read_v2(&body) } else { read_v1(&body) };
        let number = {
            let mut seen = seen.lock();
            seen.requests += 1;
            seen.versions.push(version);
            seen.requests - 1
        };
        let mut more = String::new();
        let status = match mood(number, read.len()) {
            Mood::Takes => {
                let samples: usize = read.iter().map(|(_, samples)| samples.len()).sum();
                let mut seen = seen.lock();
                for (name, samples) in read {
                    let samples = samples.iter().map(|sample| (sample.time, sample.value));
                    seen.taken.entry(name).or_default().extend(samples);
                }
                if knows == Knows::V2 {
                    for (what, count) in [("Samples", samples), ("Histograms", 0), ("Exemplars", 0)] {
                        more += &format!("X-Prometheus-Remote-Write-{what}-Written: {count}\r\n");
                    }
                }
                204
            }
            Mood::Says(status, wait) => {
                more = wait.map_or(String::new(), |wait| format!("Retry-After: {wait}\r\n"));
                status
            }
            Mood::Slow => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                503
            }
            Mood::Dies => return,
        };
        let said = if status == 400 { "out of order sample" } else { "" };
        let length =
            if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", said.len()) };
        let head = format!("HTTP/1.1 {status} Whatever\r\n{length}{more}\r\n{said}");
        if io.get_mut().write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn read_v1(body: &[u8]) -> Vec<(String, Vec<Sample>)> {
    let read = WriteRequest::decode(body).unwrap();
    let name = |labels: &[Label]| {
        labels.iter().map(|label| format!("{}={}", label.name, label.value)).collect::<Vec<_>>().join(",")
    };
    read.timeseries.iter().map(|series| (name(&series.labels), series.samples.clone())).collect()
}

fn read_v2(body: &[u8]) -> Vec<(String, Vec<Sample>)> {
    let read = RequestV2::decode(body).unwrap();
    let symbol = |index: u32| read.symbols[index as usize].as_str();
    let name = |refs: &[u32]| {
        let pairs = refs.chunks(2).map(|pair| format!("{}={}", symbol(pair[0]), symbol(pair[1])));
        pairs.collect::<Vec<_>>().join(",")
    };
    read.timeseries.iter().map(|series| (name(&series.labels), series.samples.clone())).collect()
}

fn writer(to: SocketAddr, more: &str) -> String {
    format!(
        r#"[exporters.prometheus_remote_write]
endpoint = "http://{to}/api/v1/write"
timeout = "500ms"
retry_on_failure = {{ initial_interval = "10ms", max_interval = "50ms" }}
target_info.enabled = false
{more}
"#
    )
}

/// A destination that fails in every way it may: in the end it has everything, in order, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_of_many_moods_gets_everything_in_order() {
    let _turn = beside_others().await;
    const STEPS: u64 = 40;
    for (knows, message) in
        [(Knows::V1, "prometheus.WriteRequest"), (Knows::V2, "io.prometheus.write.v2.Request")]
    {
        let double = Double::start(knows, |number, _| match number % 17 {
            2 => Mood::Says(500, None),
            5 => Mood::Says(429, Some(0)),
            7 => Mood::Dies,
            11 if number < 20 => Mood::Slow,
            13 => Mood::Says(503, None),
            _ => Mood::Takes,
        })
        .await;
        let exporter = writer(double.address, &format!("protobuf_message = \"{message}\""));
        let engine = start(&collector(&exporter, "accepted")).await;
        for step in 0..STEPS {
            send(&engine, &gauges(step)).await;
        }
        double.has_all(STEPS).await;
        let metrics = engine.metrics().render();
        assert!(metric(&metrics, "watershed_exporter_retries") > 0.0);
        assert_eq!(
            metric(&metrics, "otelcol_exporter_prometheusremotewrite_written_samples"),
            (STEPS * SERIES) as f64
        );
        assert_eq!(metric(&metrics, "otelcol_exporter_send_failed_metric_points"), 0.0);
        drained(&engine).await;
    }
}

/// For as long as it asks to be left alone, it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_is_left_alone_for_as_long_as_it_asks() {
    let _turn = beside_others().await;
    let times = Arc::<Mutex<Vec<tokio::time::Instant>>>::default();
    let seen = times.clone();
    let double = Double::start(Knows::V1, move |number, _| {
        seen.lock().push(tokio::time::Instant::now());
        if number == 0 { Mood::Says(429, Some(1)) } else { Mood::Takes }
    })
    .await;
    let exporter = writer(double.address, "remote_write_queue.num_consumers = 1");
    let engine = start(&collector(&exporter, "accepted")).await;
    send(&engine, &gauges(0)).await;
    send(&engine, &gauges(1)).await;
    double.has_all(2).await;
    {
        let times = times.lock();
        assert!(times[1].duration_since(times[0]) >= Duration::from_secs(1), "{times:?}");
    }
    drained(&engine).await;
}

/// What a destination does not want is not sent again, is counted by why, and holds up nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rejected_is_counted_and_not_sent_again() {
    let _turn = beside_others().await;
    let double =
        Double::start(Knows::V1, |number, _| if number == 1 { Mood::Says(400, None) } else { Mood::Takes })
            .await;
    let exporter = writer(double.address, "remote_write_queue.num_consumers = 1");
    let engine = start(&collector(&exporter, "accepted")).await;
    for step in 0..4 {
        send(&engine, &gauges(step)).await;
    }
    drained(&engine).await;
    let metrics = engine.metrics().render();
    let reason = "watershed_prometheusremotewrite_rejected_points{exporter=\"prometheus_remote_write\",reason=\"out_of_order\"}";
    assert_eq!(metric(&metrics, reason), SERIES as f64);
    assert_eq!(metric(&metrics, "otelcol_exporter_send_failed_metric_points"), SERIES as f64);
    let seen = double.seen.lock();
    assert_eq!((seen.requests, seen.taken.len() as u64), (4, SERIES));
    assert!(seen.taken.values().all(|samples| samples.len() == 3));
    // Delta sums are refused with a reason, too.
    drop(seen);
    assert_eq!(metric(&metrics, "watershed_prometheus_dropped_points"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_says_only_what_has_come_since_is_refused_and_counted() {
    let _turn = beside_others().await;
    let double = Double::start(Knows::V1, |_, _| Mood::Takes).await;
    let engine = start(&collector(&writer(double.address, ""), "delivered")).await;
    let data = Data::Sum(Sum { data_points: points(1), aggregation_temporality: 1, is_monotonic: true });
    send(&engine, &request("delta", data)).await;
    let metrics = engine.metrics().render();
    let dropped = metric(
        &metrics,
        "watershed_prometheus_dropped_points{exporter=\"prometheus_remote_write\",reason=\"delta\"}",
    );
    assert_eq!(dropped, SERIES as f64);
    assert_eq!(double.seen.lock().requests, 0);
    drained(&engine).await;
}

/// A request that is too large is cut, and what comes after it is smaller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_sent_in_parts() {
    let _turn = beside_others().await;
    let double = Double::start(Knows::V1, |_, series| match series {
        0..=3 => Mood::Takes,
        _ => Mood::Says(413, None),
    })
    .await;
    let exporter = writer(double.address, "remote_write_queue.num_consumers = 1");
    let engine = start(&collector(&exporter, "accepted")).await;
    for step in 0..5 {
        send(&engine, &gauges(step)).await;
    }
    double.has_all(5).await;
    drained(&engine).await;
}

/// One that knows only 1.0 says "ok" to an empty request; it gets what it can read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_does_not_know_2_0_gets_1_0() {
    let _turn = beside_others().await;
    let double = Double::start(Knows::V1, |_, _| Mood::Takes).await;
    let exporter = writer(double.address, "protobuf_message = \"io.prometheus.write.v2.Request\"");
    let engine = start(&collector(&exporter, "accepted")).await;
    for step in 0..5 {
        send(&engine, &gauges(step)).await;
    }
    double.has_all(5).await;
    drained(&engine).await;
    let metrics = engine.metrics().render();
    assert!(metric(&metrics, "watershed_prometheusremotewrite_fallbacks") >= 1.0);
    let seen = double.seen.lock();
    assert_eq!((&*seen.versions[0], seen.versions.last().map(String::as_str)), ("2.0.0", Some("0.1.0")));
}

/// What waits on disk while nobody is there comes after a restart, and before what came later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_on_disk_outlives_a_restart_in_order() {
    let _turn = beside_others().await;
    let directory = tempfile::tempdir().unwrap();
    let address = reserve();
    let storage = format!("[extensions.file_storage]\ndirectory = {:?}\n", directory.path());
    let exporter = format!("{}{storage}", writer(address, "sending_queue.storage = \"file_storage\""));
    let toml = collector(&exporter, "journaled");
    let engine = start(&toml).await;
    for step in 0..10 {
        send(&engine, &gauges(step)).await;
    }
    engine.drain(Duration::from_secs(5)).await;
    drop(engine);
    let double = Double::listen(address, Knows::V1, |_, _| Mood::Takes).await;
    let engine = start(&toml).await;
    for step in 10..20 {
        send(&engine, &gauges(step)).await;
    }
    double.has_all(20).await;
    drained(&engine).await;
}
