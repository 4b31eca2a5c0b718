#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::io::Read as _;

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Uri};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1 as otlp;
use proptest::prelude::*;
use prost::Message as _;
use watershed_net::{HttpRequest, HttpService as _};
use watershed_stage::{Context, Origin, Registry, Settings as _};

use super::oracle::{Families, read};
use super::*;
use crate::fixtures::*;

const OPEN: &str = "application/openmetrics-text;version=1.0.0";
const PROTOBUF: &str =
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

/// An exporter and what scrapes it.
struct Rig {
    env: Env,
    exporter: Prometheus,
    service: Service,
}

impl Rig {
    fn new(more: &str) -> Self {
        Self::within(64 << 20, more)
    }

    fn within(budget: u64, more: &str) -> Self {
        let text = format!("endpoint = 'localhost:0'\nenable_open_metrics = true\n{more}");
        let settings: Arc<Settings> = Arc::new(toml::from_str(&text).unwrap());
        let env = env(budget);
        let exporter = Prometheus::build(&settings, &env).unwrap();
        let service = Service(Arc::new(Scraped::new(&settings, Default::default(), &env)));
        Self { env, exporter, service }
    }

    async fn export(&self, metrics: Vec<otlp::Metric>) -> Partial {
        self.export_of(resource(&[("service.name", "shop"), ("host.name", "h1")]), metrics).await
    }

    async fn export_of(&self, resource: otlp::ResourceMetrics, metrics: Vec<otlp::Metric>) -> Partial {
        self.exporter.export(&batch(resource, metrics)).await.unwrap()
    }

    async fn get(&self, accept: &'static str, gzip: bool) -> (String, Vec<u8>) {
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
        if gzip {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let arrived = tokio::time::Instant::now();
        let uri = Uri::from_static("/metrics");
        let request = HttpRequest { method: Method::GET, uri, headers, peer: None, arrived };
        let permit = self.service.admit(&request, None).unwrap();
        let response = self.service.call(request, bytes::Bytes::new(), permit).await;
        let kind = response.headers.get(CONTENT_TYPE).unwrap().to_str().unwrap().to_owned();
        let mut body = response.body.to_vec();
        if gzip {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain).unwrap();
            body = plain;
        }
        (kind, body)
    }

    async fn text(&self) -> String {
        String::from_utf8(self.get("text/plain", false).await.1).unwrap()
    }

    async fn open(&self) -> String {
        String::from_utf8(self.get(OPEN, false).await.1).unwrap()
    }

    async fn families(&self) -> Families {
        read(&self.open().await, true);
        read(&self.text().await, false)
    }

    async fn protobuf(&self) -> Vec<oracle::MetricFamily> {
        let body = self.get(PROTOBUF, true).await.1;
        let (mut rest, mut families) = (&body[..], Vec::new());
        while !rest.is_empty() {
            families.push(oracle::MetricFamily::decode_length_delimited(&mut rest).unwrap());
        }
        families
    }

    fn dropped(&self, reason: &str) -> u64 {
        let readings = self.env.metrics.read();
        let family =
            readings.iter().find(|reading| reading.name == "watershed_prometheus_dropped_points").unwrap();
        let series =
            family.series.iter().find(|(labels, _)| labels.iter().any(|(_, value)| **value == *reason));
        match series.unwrap().1 {
            watershed_stage::Value::Whole(count) => count,
            _ => panic!(),
        }
    }
}

/// `io.prometheus.client`, as far as it is served.
mod oracle {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct MetricFamily {
        #[prost(string, optional, tag = "1")]
        pub name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub help: Option<String>,
        #[prost(int32, optional, tag = "3")]
        pub kind: Option<i32>,
        #[prost(message, repeated, tag = "4")]
        pub metric: Vec<Metric>,
        #[prost(string, optional, tag = "5")]
        pub unit: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Label {
        #[prost(string, optional, tag = "1")]
        pub name: Option<String>,
        #[prost(string, optional, tag = "2")]
        pub value: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metric {
        #[prost(message, repeated, tag = "1")]
        pub label: Vec<Label>,
        #[prost(message, optional, tag = "2")]
        pub gauge: Option<Number>,
        #[prost(message, optional, tag = "3")]
        pub counter: Option<Counter>,
        #[prost(message, optional, tag = "4")]
        pub summary: Option<Summary>,
        #[prost(message, optional, tag = "5")]
        pub untyped: Option<Number>,
        #[prost(int64, optional, tag = "6")]
        pub timestamp_ms: Option<i64>,
        #[prost(message, optional, tag = "7")]
        pub histogram: Option<Histogram>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Number {
        #[prost(double, optional, tag = "1")]
        pub value: Option<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Time {
        #[prost(int64, tag = "1")]
        pub seconds: i64,
        #[prost(int32, tag = "2")]
        pub nanos: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Exemplar {
        #[prost(message, repeated, tag = "1")]
        pub label: Vec<Label>,
        #[prost(double, optional, tag = "2")]
        pub value: Option<f64>,
        #[prost(message, optional, tag = "3")]
        pub time: Option<Time>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Counter {
        #[prost(double, optional, tag = "1")]
        pub value: Option<f64>,
        #[prost(message, optional, tag = "2")]
        pub exemplar: Option<Exemplar>,
        #[prost(message, optional, tag = "3")]
        pub start: Option<Time>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Quantile {
        #[prost(double, optional, tag = "1")]
        pub quantile: Option<f64>,
        #[prost(double, optional, tag = "2")]
        pub value: Option<f64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Summary {
        #[prost(uint64, optional, tag = "1")]
        pub count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub sum: Option<f64>,
        #[prost(message, repeated, tag = "3")]
        pub quantile: Vec<Quantile>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Bucket {
        #[prost(uint64, optional, tag = "1")]
        pub count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub bound: Option<f64>,
        #[prost(message, optional, tag = "3")]
        pub exemplar: Option<Exemplar>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(sint32, optional, tag = "1")]
        pub offset: Option<i32>,
        #[prost(uint32, optional, tag = "2")]
        pub length: Option<u32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Histogram {
        #[prost(uint64, optional, tag = "1")]
        pub count: Option<u64>,
        #[prost(double, optional, tag = "2")]
        pub sum: Option<f64>,
        #[prost(message, repeated, tag = "3")]
        pub bucket: Vec<Bucket>,
        #[prost(sint32, optional, tag = "5")]
        pub schema: Option<i32>,
        #[prost(double, optional, tag = "6")]
        pub zero_threshold: Option<f64>,
        #[prost(uint64, optional, tag = "7")]
        pub zero_count: Option<u64>,
        #[prost(message, repeated, tag = "9")]
        pub negative_span: Vec<Span>,
        #[prost(sint64, repeated, packed = "false", tag = "10")]
        pub negative_delta: Vec<i64>,
        #[prost(message, repeated, tag = "12")]
        pub positive_span: Vec<Span>,
        #[prost(sint64, repeated, packed = "false", tag = "13")]
        pub positive_delta: Vec<i64>,
        #[prost(message, repeated, tag = "16")]
        pub exemplars: Vec<Exemplar>,
    }
}

/// The value of the one sample of that name.
fn value(families: &Families, name: &str) -> f64 {
    let mut samples = families.values().flat_map(|(_, samples)| samples).filter(|read| read.name == name);
    let found = samples.next().unwrap_or_else(|| panic!("no {name} in {families:#?}"));
    assert!(samples.next().is_none(), "{name} twice");
    found.value
}

#[tokio::test]
async fn every_kind_is_served_in_every_format() {
    let rig = Rig::new("");
    let partial = rig
        .export(vec![
            metric("requests", "{request}", "How often?", sum(2, true, vec![number(7.0, 1, 2)])),
            metric("queue.length", "", "", sum(2, false, vec![number(-3.0, 1, 2)])),
            metric("cpu.utilization", "1", "Line one\nand \\ two", gauge(vec![number(0.5, 0, 2)])),
            metric("latency", "s", "", histogram(2, vec![classic(&[0.1, 1.0], &[1, 2, 3], Some(4.5))])),
            metric("sizes", "By", "", exponential(2, vec![native(0, -1, &[1, 0, 2], Some(9.0))])),
            metric("old", "", "", summary(vec![(0.5, 1.0), (0.99, 8.0)])),
        ])
        .await;
    assert_eq!(partial, Partial::default());
    assert_eq!(
        rig.open().await,
        r#"# HELP cpu_utilization_ratio Line one\nand \\ two
# TYPE cpu_utilization_ratio gauge
cpu_utilization_ratio{job="shop"} 0.5
# TYPE latency_seconds histogram
# UNIT latency_seconds seconds
latency_seconds_bucket{job="shop",le="0.1"} 1
latency_seconds_bucket{job="shop",le="1.0"} 3
latency_seconds_bucket{job="shop",le="+Inf"} 6
latency_seconds_sum{job="shop"} 4.5
latency_seconds_count{job="shop"} 6
# TYPE old summary
old{job="shop",quantile="0.5"} 1
old{job="shop",quantile="0.99"} 8
old_sum{job="shop"} 10
old_count{job="shop"} 4
# TYPE queue_length gauge
queue_length{job="shop"} -3
# HELP requests How often?
# TYPE requests counter
requests_total{job="shop"} 7
# TYPE sizes_bytes histogram
# UNIT sizes_bytes bytes
sizes_bytes_bucket{job="shop",le="+Inf"} 5
sizes_bytes_sum{job="shop"} 9
sizes_bytes_count{job="shop"} 5
# HELP target Target metadata
# TYPE target info
target_info{host_name="h1",job="shop"} 1
# EOF
"#
    );
    let families = rig.families().await;
    assert_eq!((value(&families, "requests_total"), value(&families, "target_info")), (7.0, 1.0));
    assert_eq!(families["target_info"].0, "gauge");

    let families = rig.protobuf().await;
    let names: Vec<_> = families.iter().map(|family| family.name.as_deref().unwrap()).collect();
    let expected = [
        "cpu_utilization_ratio",
        "latency_seconds",
        "old",
        "queue_length",
        "requests_total",
        "sizes_bytes",
        "target_info",
    ];
    assert_eq!(names, expected);
    let sizes = families[5].metric[0].histogram.as_ref().unwrap();
    assert_eq!((sizes.count, sizes.sum, sizes.schema), (Some(5), Some(9.0), None));
    assert_eq!((sizes.zero_count, sizes.zero_threshold), (Some(2), Some(1e-128)));
    assert_eq!(sizes.positive_span, [oracle::Span { offset: None, length: Some(3) }]);
    assert_eq!(sizes.positive_delta, [1, -1, 2]);
    let latency = families[1].metric[0].histogram.as_ref().unwrap();
    assert_eq!(latency.bucket.iter().map(|bucket| bucket.count.unwrap()).collect::<Vec<_>>(), [1, 3, 6]);
    assert_eq!(families[4].metric[0].counter.as_ref().unwrap().value, Some(7.0));
}

#[tokio::test]
async fn what_says_only_what_has_come_since_is_added_up() {
    let rig = Rig::new("");
    let delta =
        |value, start, time| vec![metric("c", "", "", sum(1, true, vec![number(value, start, time)]))];
    assert_eq!(rig.export(delta(5.0, 10, 20)).await, Partial::default());
    assert_eq!(rig.export(delta(2.0, 20, 30)).await, Partial::default());
    // Sent again: it is there already.
    assert_eq!(rig.export(delta(2.0, 20, 30)).await, Partial::default());
    assert_eq!(rig.dropped("old"), 1);
    // Of another writer, or clock.
    assert_eq!(rig.export(delta(1.0, 25, 35)).await.rejected, 1);
    assert_eq!(rig.dropped("overlap"), 1);
    // After a gap.
    assert_eq!(rig.export(delta(1.0, 50, 60)).await, Partial::default());
    assert_eq!(value(&rig.families().await, "c_total"), 8.0);

    let both = |scale, first: &[u64], time| {
        let mut point = native(scale, 0, first, Some(1.0));
        (point.start_time_unix_nano, point.time_unix_nano) = (time - 1, time);
        let mut bounds = classic(&[1.0], &[1, 2], Some(1.0));
        (bounds.start_time_unix_nano, bounds.time_unix_nano) = (time - 1, time);
        vec![
            metric("n", "", "", exponential(1, vec![point])),
            metric("h", "", "", histogram(1, vec![bounds])),
        ]
    };
    rig.export(both(1, &[1, 1, 1, 1], 11)).await;
    rig.export(both(0, &[1, 1], 12)).await;
    let families = rig.protobuf().await;
    let of = |name: &str| {
        let family = families.iter().find(|family| family.name.as_deref() == Some(name)).unwrap();
        family.metric[0].histogram.clone().unwrap()
    };
    let (sum, bounds) = (of("n"), of("h"));
    assert_eq!((sum.schema, sum.count, sum.sum), (None, Some(10), Some(2.0)));
    assert_eq!((sum.positive_span[0].offset, sum.positive_delta), (Some(1), vec![3, 0]));
    assert_eq!((bounds.count, bounds.sum), (Some(6), Some(2.0)));

    let falls = vec![metric("g", "", "", sum_of(1, false))];
    assert_eq!(rig.export(falls).await.message, "points left out: 1 delta");
}

#[tokio::test]
async fn what_can_not_be_served_is_counted_by_reason() {
    let rig = Rig::new("max_series = 3");
    let of = |data| vec![metric("m", "", "", data)];
    for (reason, metrics) in [
        ("temporality", of(sum_of(0, true))),
        ("name", vec![metric("量", "", "", gauge(vec![number(1.0, 0, 1)]))]),
        ("scale", of(exponential(2, vec![native(-5, 0, &[1], Some(1.0))]))),
        ("no_sum", of(exponential(2, vec![native(0, 0, &[1], None)]))),
        ("malformed", of(histogram(2, vec![classic(&[1.0], &[1], Some(1.0))]))),
        ("delta", of(sum_of(1, false))),
    ] {
        assert_eq!(rig.export(metrics).await.message, format!("points left out: 1 {reason}"));
        assert_eq!(rig.dropped(reason), 1);
    }
    assert_eq!(rig.exporter.settings.store.size().0, 1, "target_info alone");
    rig.export(of(gauge(vec![number(1.0, 0, 1)]))).await;
    assert_eq!(rig.export(of(histogram(2, vec![classic(&[], &[], None)]))).await.rejected, 1);
    assert_eq!(rig.dropped("type_conflict"), 1);
    let many = (0..5).map(|i| labelled(number(1.0, 0, 1), &[("i", &i.to_string())])).collect();
    assert_eq!(rig.export(of(gauge(many))).await.rejected, 4);
    assert_eq!((rig.dropped("series_limit"), rig.exporter.settings.store.size().0), (4, 3));
    rig.families().await;
}

#[tokio::test]
async fn series_take_memory_that_was_granted_and_give_it_back() {
    let rig = Rig::within(1 << 20, "max_bytes = '300KiB'");
    let many = (0..5000).map(|i| labelled(number(1.0, 0, 1), &[("i", &i.to_string())])).collect();
    let partial = rig.export(vec![metric("m", "", "", gauge(many))]).await;
    let (series, bytes) = rig.exporter.settings.store.size();
    assert!(partial.rejected > 0 && rig.dropped("memory") == partial.rejected);
    assert!(series > 300 && bytes <= 300 << 10, "{series} {bytes}");
    assert!(rig.env.budget.used() >= bytes);
    let gone = (0..5000).map(|i| {
        let mut point = labelled(number(1.0, 0, 2), &[("i", &i.to_string())]);
        point.flags = 1;
        point
    });
    assert_eq!(rig.export(vec![metric("m", "", "", gauge(gone.collect()))]).await.rejected, 0);
    let families = rig.families().await;
    assert_eq!(families.keys().collect::<Vec<_>>(), ["target_info"]);
    assert!(rig.env.budget.used() <= 64 << 10, "{}", rig.env.budget.used());
}

#[tokio::test(start_paused = true)]
async fn a_series_is_served_until_nothing_has_come_for_a_while() {
    let rig = Rig::new("metric_expiration = '1m'");
    let point = |name, time| vec![metric(name, "", "", gauge(vec![number(1.0, 0, time)]))];
    rig.export([point("a", 1), point("b", 1)].concat()).await;
    tokio::time::advance(std::time::Duration::from_secs(40)).await;
    rig.export(point("b", 2)).await;
    tokio::time::advance(std::time::Duration::from_secs(40)).await;
    assert_eq!(rig.families().await.keys().collect::<Vec<_>>(), ["b", "target_info"]);
    tokio::time::advance(std::time::Duration::from_secs(40)).await;
    assert_eq!(rig.text().await, "");
    assert_eq!(rig.open().await, "# EOF\n");
}

#[tokio::test]
async fn labels_say_where_points_are_from() {
    let rig = Rig::new(
        "const_labels = { cluster = 'c', job = 'never' }\nnamespace = 'ns'\nsend_timestamps = true\n\
                        resource_to_telemetry_conversion.enabled = true",
    );
    let mut resource = resource(&[
        ("service.namespace", "eu"),
        ("service.name", "shop"),
        ("service.instance.id", "i1"),
        ("os", "linux"),
    ]);
    let scope = InstrumentationScope {
        name: "lib".into(),
        version: "1".into(),
        attributes: attributes(&[("k", "v")]),
        ..Default::default()
    };
    resource.scope_metrics =
        vec![otlp::ScopeMetrics { scope: Some(scope), schema_url: "u".into(), metrics: vec![] }];
    let point = labelled(
        number(1.0, 0, 1_700_000_000_123_456_789),
        &[("a.b", "1"), ("a_b", "2"), ("x", "q\"\\\n"), ("os", "mine"), ("e", "")],
    );
    rig.export_of(resource, vec![metric("m", "", "", gauge(vec![point]))]).await;
    let text = rig.text().await;
    assert_eq!(
        text.lines().nth(1).unwrap(),
        r#"ns_m{a_b="1;2",cluster="c",instance="i1",job="eu/shop",os="mine",otel_scope_k="v",otel_scope_name="lib",otel_scope_schema_url="u",otel_scope_version="1",service_instance_id="i1",service_name="shop",service_namespace="eu",x="q\"\\\n"} 1 1700000000123"#
    );
    assert!(rig.open().await.contains(" 1 1700000000.123\n"));
    assert!(
        text.contains("target_info{cluster=\"c\",instance=\"i1\",job=\"eu/shop\",os=\"linux\"} 1 "),
        "{text}"
    );
    rig.families().await;
}

#[tokio::test]
async fn exemplars_are_served_where_there_is_a_place_for_them() {
    let rig = Rig::new("");
    let exemplar = |value, filtered: &[(&str, &str)]| otlp::Exemplar {
        filtered_attributes: attributes(filtered),
        time_unix_nano: 1_500_000_000,
        span_id: vec![0xAB; 8],
        trace_id: vec![0x01; 16],
        value: Some(otlp::exemplar::Value::AsDouble(value)),
    };
    let long = "l".repeat(100);
    let mut counter = number(5.0, 0, 1);
    counter.exemplars = vec![exemplar(1.5, &[("user", "u1"), ("long", &long)])];
    let mut buckets = classic(&[1.0], &[1, 1], Some(1.0));
    buckets.exemplars = vec![exemplar(0.5, &[]), exemplar(9.0, &[]), exemplar(f64::NAN, &[])];
    rig.export(vec![
        metric("c", "", "", sum(2, true, vec![counter])),
        metric("h", "", "", histogram(2, vec![buckets])),
    ])
    .await;
    let ids = r#"trace_id="01010101010101010101010101010101""#;
    let open = rig.open().await;
    for line in [
        format!(r#"c_total{{job="shop"}} 5 # {{span_id="abababababababab",{ids},user="u1"}} 1.5 1.500"#),
        format!(r#"h_bucket{{job="shop",le="1.0"}} 1 # {{span_id="abababababababab",{ids}}} 0.5 1.500"#),
        format!(r#"h_bucket{{job="shop",le="+Inf"}} 2 # {{span_id="abababababababab",{ids}}} 9 1.500"#),
    ] {
        assert!(open.lines().any(|other| other == line), "{line}\n{open}");
    }
    rig.families().await;
    let families = rig.protobuf().await;
    assert!(families[0].metric[0].counter.as_ref().unwrap().exemplar.is_some());
}

#[tokio::test]
async fn utf_8_is_for_those_who_can_read_it() {
    let rig = Rig::new("translation_strategy = 'NoTranslation'");
    let point = labelled(number(1.0, 0, 1), &[("k.ü", "v"), ("k_ü", "w")]);
    rig.export(vec![
        metric("größe.a", "", "", gauge(vec![point])),
        metric("größe/a", "", "", gauge(vec![number(2.0, 0, 1)])),
    ])
    .await;
    let families = rig.families().await;
    assert!(families.contains_key("gr__e_a"), "{families:?}");
    // Both have one name there.
    assert_eq!(rig.env.metrics.total("watershed_prometheus_unserved_families"), 2);
    let accept = "text/plain;version=1.0.0;escaping=allow-utf-8";
    let (kind, body) = rig.get(accept, true).await;
    assert_eq!(kind, "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8");
    let families = read(&String::from_utf8(body).unwrap(), false);
    let names: Vec<_> = families.keys().map(String::as_str).collect();
    assert_eq!(names, ["größe.a", "größe/a", "target_info"]);
    assert_eq!(families["größe.a"].1[0].labels["k.ü"], "v");
}

#[test]
fn what_makes_no_sense_is_said() {
    let registry = crate::register(Registry::new());
    for (text, key) in [
        ("", "endpoint"),
        ("endpoint = 'a:1'\nnamespace = '1x'", "namespace"),
        ("endpoint = 'a:1'\nconst_labels = { 'a.b' = 'c' }", "const_labels.a.b"),
        ("endpoint = 'a:1'\nmax_series = 0", "max_series"),
        (
            "endpoint = 'a:1'\nadd_metric_suffixes = false\ntranslation_strategy = 'NoUTF8EscapingWithSuffixes'",
            "add_metric_suffixes",
        ),
    ] {
        let errors =
            registry.parse_exporter("prometheus", toml::from_str(text).unwrap()).unwrap().err().unwrap();
        assert_eq!(errors.iter().map(|error| &*error.key).collect::<Vec<_>>(), [key], "{text}");
    }
    let settings: Settings = toml::from_str("endpoint = 'a:1'").unwrap();
    assert!(settings.check().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_can_be_read(
        points in prop::collection::vec(("[a-c./ü]{0,4}", "[a-b.ü_1\"]{0,3}", "[\\PC\n\"\\\\]{0,5}", any::<f64>(), 0..5_u8), 0..20),
        strategy in prop::sample::select(vec!["UnderscoreEscapingWithSuffixes", "NoTranslation"]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new(&format!("translation_strategy = '{strategy}'"));
            for (name, key, label, value, kind) in &points {
                let point = labelled(number(*value, 0, 1), &[(key, label)]);
                let data = match kind {
                    0 => sum(2, true, vec![point]),
                    1 => gauge(vec![point]),
                    2 => histogram(2, vec![classic(&[-1.0, 2.5], &[1, 0, 4], Some(*value))]),
                    3 => exponential(2, vec![native(3, -2, &[1, 0, 0, 0, 7], Some(*value))]),
                    _ => summary(vec![(0.5, *value)]),
                };
                rig.export(vec![metric(name, "By", label, data)]).await;
            }
            rig.families().await;
            let (_, body) = rig.get("text/plain;version=1.0.0;escaping=allow-utf-8", false).await;
            read(&String::from_utf8(body).unwrap(), false);
            rig.protobuf().await;
        });
    }
}

#[tokio::test]
async fn points_that_repeat_a_large_resource_are_taken_in_pieces() {
    let rig = Rig::new("");
    let points = (1..=1_000).map(|time| number(time as f64, 0, time)).collect();
    let whole =
        batch(resource(&[("service.name", &"x".repeat(400_000))]), vec![metric("m", "", "", gauge(points))]);
    let (mut todo, mut pieces) = (vec![whole.payload.clone()], 0);
    while let Some(payload) = todo.pop() {
        let piece =
            Batch { payload, context: whole.context.clone(), trace: None, timeout: None, merged: false };
        match rig.exporter.export(&piece).await {
            Ok(partial) => {
                assert_eq!(partial.rejected, 0);
                pieces += 1;
            }
            // Each pass holds the store and the lane.
            Err(ExportError::TooMuch { .. }) => {
                let half = piece.payload.items().div_ceil(2);
                todo.extend(piece.payload.split_by_items(half).into_iter().rev());
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(pieces > 4);
    assert_eq!(rig.exporter.settings.store.size().0, 1);
}

fn batch(mut resource: otlp::ResourceMetrics, metrics: Vec<otlp::Metric>) -> Batch {
    match resource.scope_metrics.first_mut() {
        Some(scope) => scope.metrics = metrics,
        None => resource.scope_metrics.push(otlp::ScopeMetrics { metrics, ..Default::default() }),
    }
    let context =
        Context { receiver: "r".into(), pipeline: "p".into(), origin: Origin::default(), arrived: 0 };
    let (payload, context) = (payload(vec![resource]), Arc::new(context));
    Batch { payload, context, trace: None, timeout: None, merged: false }
}
