#![allow(clippy::unwrap_used, clippy::panic)]

mod wire;

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::metrics::v1 as otlp;
use proptest::prelude::*;
use watershed_stage::{Registry, Settings as _};

use self::wire::*;
use super::collect::STALE;
use super::*;
use crate::fixtures::*;

fn settings(more: &str) -> Settings {
    toml::from_str(&format!("endpoint = 'http://a:1/w'\n{more}")).unwrap()
}

/// The requests of each shard, and what was left out.
fn made(settings: &Settings, version: Version, payload: &Payload) -> (Vec<VecDeque<Request>>, Drops) {
    let created = settings.export_created_metric.enabled;
    let hasher = DefaultHashBuilder::default();
    let (collected, drops) =
        Collected::new(payload, &settings.translation(), created, &hasher, &mut Scratch::default());
    let (most, none) = (settings.max_batch_size_bytes.0 as usize, HashSet::new());
    let (shards, _) = requests(&collected, version, settings.shards(), most, settings.send_metadata, &none);
    (shards, drops)
}

/// Everything a payload becomes, in both versions, which agree.
fn all(settings: &Settings, payload: &Payload) -> All {
    let (mut first, mut second) = (All::new(), All::new());
    for request in made(settings, Version::V1, payload).0.iter().flatten() {
        read_v1(request, &mut first);
    }
    for request in made(settings, Version::V2, payload).0.iter().flatten() {
        read_v2(request, &mut second);
    }
    // Not by their values, of which some are no numbers.
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    first
}

fn of(metrics: Vec<otlp::Metric>) -> Payload {
    let mut resource = resource(&[("service.name", "shop")]);
    resource.scope_metrics.push(otlp::ScopeMetrics { metrics, ..Default::default() });
    payload(vec![resource])
}

const MS: u64 = 1_000_000;

#[test]
fn every_kind_becomes_its_series() {
    let mut native = native(10, -5, &[1, 1, 0, 2], Some(9.0));
    native.negative =
        Some(otlp::exponential_histogram_data_point::Buckets { offset: 3, bucket_counts: vec![4] });
    (native.start_time_unix_nano, native.time_unix_nano) = (MS, 2 * MS);
    let mut classic = classic(&[0.1, 5e20], &[1, 2, 3], Some(4.5));
    (classic.start_time_unix_nano, classic.time_unix_nano) = (MS, 2 * MS);
    classic.exemplars = vec![otlp::Exemplar {
        time_unix_nano: 3 * MS,
        trace_id: vec![1; 16],
        value: Some(otlp::exemplar::Value::AsDouble(2.0)),
        ..Default::default()
    }];
    let payload = of(vec![
        metric("requests", "", "How often?", sum(2, true, vec![number(7.0, MS, 2 * MS)])),
        metric("queue", "By", "", gauge(vec![labelled(number(-1.0, 0, 2 * MS), &[("Z", "z"), ("a", "b")])])),
        metric("h", "s", "", histogram(2, vec![classic])),
        metric("n", "", "", exponential(2, vec![native])),
        metric("s", "", "", summary(vec![(0.5, 1.0)])),
    ]);
    let told = settings("export_created_metric.enabled = true\nsend_metadata = true");
    let all = all(&told, &payload);
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "Z=z,__name__=queue_bytes,a=b,job=shop",
            "__name__=h_seconds_bucket,job=shop,le=+Inf",
            "__name__=h_seconds_bucket,job=shop,le=0.1",
            "__name__=h_seconds_bucket,job=shop,le=500000000000000000000",
            "__name__=h_seconds_count,job=shop",
            "__name__=h_seconds_created,job=shop",
            "__name__=h_seconds_sum,job=shop",
            "__name__=n,job=shop",
            "__name__=n_created,job=shop",
            "__name__=requests_created,job=shop",
            "__name__=requests_total,job=shop",
            "__name__=s,job=shop,quantile=0.5",
            "__name__=s_count,job=shop",
            "__name__=s_sum,job=shop",
        ]
    );
    let value = |name: &str| f64::from_bits(all[name].samples[0].1);
    assert_eq!(value("__name__=requests_total,job=shop"), 7.0);
    assert_eq!(value("__name__=h_seconds_bucket,job=shop,le=500000000000000000000"), 3.0);
    assert_eq!(value("__name__=requests_created,job=shop"), 0.001);
    let exemplars = &all["__name__=h_seconds_bucket,job=shop,le=500000000000000000000"].exemplars;
    assert_eq!(exemplars[0].2, "trace_id=01010101010101010101010101010101");
    let histogram = &all["__name__=n,job=shop"].histograms[0];
    // From scale 10 to 8 four buckets are one: -5..=-2 lie in -2 and -1.
    assert_eq!(
        *histogram,
        Histogram {
            count: 6,
            sum: 9.0,
            schema: 8,
            zero_threshold: 1e-128,
            zero_count: 2,
            negative_spans: vec![Span { offset: 1, length: 1 }],
            negative_deltas: vec![4],
            positive_spans: vec![Span { offset: -1, length: 2 }],
            positive_deltas: vec![1, 2],
            time: 2,
            start: 0,
        }
    );
    let (shards, _) = made(&told, Version::V1, &payload);
    let metadata: Vec<_> =
        shards.iter().flatten().flat_map(|request| read_v1(request, &mut All::new()).metadata).collect();
    assert_eq!(metadata.len(), 5);
    assert_eq!(
        (metadata[0].kind, &*metadata[0].name, &*metadata[0].help),
        (1, "requests_total", "How often?")
    );
    assert_eq!((metadata[2].kind, &*metadata[2].unit), (3, "seconds"));
    let (shards, _) = made(&told, Version::V2, &payload);
    for request in shards.iter().flatten() {
        let read = read_v2(request, &mut All::new());
        for series in &read.timeseries {
            let of =
                |name: &str| series.labels_refs.iter().any(|index| read.symbols[*index as usize] == name);
            let metadata = series.metadata.unwrap();
            if of("requests_total") {
                assert_eq!((metadata.kind, series.samples[0].start), (1, 1));
                assert_eq!(read.symbols[metadata.help as usize], "How often?");
            }
            if of("n") {
                assert_eq!(series.histograms[0].start, 1);
            }
            if of("queue_bytes") {
                assert_eq!(
                    (read.symbols[metadata.unit as usize].as_str(), series.samples[0].start),
                    ("bytes", 0)
                );
            }
        }
    }
}

#[test]
fn what_has_no_value_any_more_is_said() {
    let mut number = number(1.0, 0, MS);
    let mut classic = classic(&[1.0], &[1, 1], Some(1.0));
    let mut native = native(0, 0, &[1], Some(1.0));
    (number.flags, classic.flags, native.flags) = (1, 1, 1);
    (classic.bucket_counts, classic.sum) = (Vec::new(), None);
    let payload = of(vec![
        metric("g", "", "", gauge(vec![number])),
        metric("h", "", "", histogram(2, vec![classic])),
        metric("n", "", "", exponential(2, vec![native])),
    ]);
    let all = all(&settings(""), &payload);
    for name in ["g", "h_bucket", "h_sum", "h_count"] {
        let mut found = all.iter().filter(|(labels, _)| labels.contains(&format!("__name__={name},")));
        assert!(found.clone().next().is_some());
        assert!(found.all(|(_, series)| series.samples[0].1 == STALE.to_bits()), "{name}");
    }
    let histogram = &all["__name__=n,job=shop"].histograms[0];
    assert_eq!((histogram.count, histogram.sum.to_bits()), (0, STALE.to_bits()));
}

#[test]
fn what_can_not_be_said_is_counted() {
    let payload = of(vec![
        metric("a", "", "", sum_of(1, true)),
        metric("b", "", "", sum_of(0, true)),
        metric("c", "", "", exponential(2, vec![native(-5, 0, &[1], Some(1.0)), native(0, 0, &[1], None)])),
        metric("d", "", "", histogram(2, vec![classic(&[1.0], &[1], None)])),
        metric("e", "", "", exponential(2, vec![native(0, i32::MAX, &[1], Some(1.0))])),
        metric("f", "", "", sum_of(2, true)),
    ]);
    let (shards, drops) = made(&settings(""), Version::V1, &payload);
    assert_eq!(drops.text(), "points left out: 1 delta, 1 temporality, 2 scale, 1 no_sum, 1 malformed");
    assert_eq!(shards.iter().flatten().map(|request| request.counts().points).sum::<u32>(), 1);
}

#[test]
fn large_requests_are_cut_and_hold_everything() {
    let points = (0..500).map(|i| labelled(number(1.0, 0, MS), &[("i", &i.to_string())])).collect();
    let payload = of(vec![metric("g", "", "", gauge(points))]);
    let whole = all(&settings(""), &payload);
    assert_eq!((whole.len(), whole), (500, all(&settings("max_batch_size_bytes = 2000"), &payload)));
    for version in [Version::V1, Version::V2] {
        let (shards, _) = made(&settings("max_batch_size_bytes = 2000"), version, &payload);
        assert_eq!(shards.len(), 5);
        for request in shards.into_iter().flatten() {
            assert!(request.body.len() < 2100);
            let (mut before, mut after) = (All::new(), All::new());
            let read = |request: &Request, all: &mut All| match version {
                Version::V1 => drop(read_v1(request, all)),
                Version::V2 => drop(read_v2(request, all)),
            };
            read(&request, &mut before);
            let counts = request.counts();
            let halves = request.halves();
            let Ok(halves) = halves else { continue };
            halves.iter().for_each(|half| read(half, &mut after));
            assert_eq!(before, after);
            assert_eq!(halves[0].counts().points + halves[1].counts().points, counts.points);
        }
    }
}

#[test]
fn what_was_taken_of_a_batch_is_not_sent_again_when_a_member_leaves() {
    let part = |from: u64, to: u64, time: u64| {
        let points = (from..to).map(|i| {
            let mut point = labelled(number(1.0, 0, time * MS), &[("i", &i.to_string())]);
            point.exemplars = vec![otlp::Exemplar {
                time_unix_nano: time * MS,
                value: Some(otlp::exemplar::Value::AsDouble(2.0)),
                ..Default::default()
            }];
            point
        });
        let histogram = native(0, 0, &[1], Some(1.0));
        let histogram = otlp::ExponentialHistogramDataPoint { time_unix_nano: time * MS, ..histogram };
        of(vec![
            metric("g", "", "", gauge(points.collect())),
            metric("n", "", "", exponential(2, vec![histogram])),
            metric("d", "", "", sum_of(1, true)),
        ])
    };
    let (first, second, third) = (part(0, 40, 1), part(20, 60, 2), part(50, 90, 3));
    let merged = |parts: &[&Payload]| Payload::concat(parts.iter().map(|part| (*part).clone())).unwrap();
    let told = Arc::new(settings("max_batch_size_bytes = 500\nremote_write_queue.num_consumers = 3"));
    for version in [Version::V1, Version::V2] {
        let exporter = RemoteWrite::build(&told, &env(1 << 20)).unwrap();
        exporter.version.set(version);
        let read = |request: &Request, into: &mut All| match version {
            Version::V1 => drop(read_v1(request, into)),
            Version::V2 => drop(read_v2(request, into)),
        };
        let batches = [merged(&[&first, &second, &third]), merged(&[&second, &third]), third.clone()];
        let (mut taken, mut was) = (All::new(), None);
        for batch in &batches {
            let pending = exporter.pending(batch);
            assert!(was.is_none_or(|was: Rc<Pending>| !Rc::ptr_eq(&was, &pending)));
            assert!(Rc::ptr_eq(&pending, &exporter.pending(batch)), "it goes on where it was");
            // Two requests of each shard are taken before somebody leaves.
            let all_of_it = batch.requests().len() == 1;
            for shard in &pending.shards {
                for _ in 0..if all_of_it { 1000 } else { 2 } {
                    shard.borrow().front().iter().for_each(|request| {
                        let mut of_request = All::new();
                        read(request, &mut of_request);
                        // `add` knows that times only grow, and here that nothing comes twice.
                        for (name, series) in of_request {
                            assert!(!taken.contains_key(&name), "{name} is sent again");
                            taken.insert(name, series);
                        }
                    });
                    pending.done(shard);
                }
            }
            was = Some(pending);
        }
        let times = |series: &Series| series.samples.iter().map(|(time, _)| *time).collect::<Vec<_>>();
        for (name, series) in all(&told, &third) {
            let sent = &taken[&name];
            assert!(times(sent).ends_with(&times(&series)), "{name}");
            assert_eq!(sent.exemplars.len(), sent.samples.len(), "{name}");
        }
        let counted = exporter.env.metrics.render();
        assert!(
            counted.contains("reason=\"delta\"} 3"),
            "points that are left out are counted once: {counted}"
        );
    }
}

#[test]
fn halving_ends_with_metadata_and_each_series_alone() {
    let metrics =
        (0..20).map(|i| metric(&format!("m{i}"), "", &"x".repeat(500), gauge(vec![number(1.0, 0, MS)])));
    let payload = of(metrics.collect());
    for (version, requests) in [(Version::V1, 21), (Version::V2, 20)] {
        let told = settings("send_metadata = true\nremote_write_queue.num_consumers = 1");
        let (mut shards, _) = made(&told, version, &payload);
        let (whole, shard) = (all(&told, &payload), RefCell::new(shards.remove(0)));
        let most = Cell::new(1 << 20);
        let (mut after, mut metadata, mut points, mut count) = (All::new(), Vec::new(), 0, 0);
        while !shard.borrow().is_empty() {
            if halve(&shard, &most) {
                continue;
            }
            let request = shard.borrow_mut().pop_front().unwrap();
            match version {
                Version::V1 => metadata.push(read_v1(&request, &mut after).metadata.len()),
                Version::V2 => drop(read_v2(&request, &mut after)),
            }
            points += request.counts().points;
            count += 1;
        }
        assert_eq!((count, points, after), (requests, 20, whole));
        if version == Version::V1 {
            assert_eq!((metadata[0], metadata[1..].iter().sum::<usize>()), (20, 0));
        }
        assert_eq!(most.get(), LEAST);
    }
}

#[test]
fn what_can_not_be_cut_leaves_the_largest_request_as_it_is() {
    let point = |size: usize| labelled(number(1.0, 0, MS), &[("a", &"x".repeat(size))]);
    for (points, most, expected) in [
        (vec![point(100_000)], 1 << 20, 1 << 20),
        (vec![point(50_000), point(50_001)], 1 << 20, 50_000),
        (vec![point(100), point(101)], 1 << 20, LEAST),
        (vec![point(100), point(101)], 1000, 1000),
    ] {
        let payload = of(vec![metric("g", "", "", gauge(points))]);
        let told = settings("remote_write_queue.num_consumers = 1");
        let shard = RefCell::new(made(&told, Version::V1, &payload).0.remove(0));
        let most = Cell::new(most);
        assert_eq!(halve(&shard, &most), shard.borrow().len() == 2);
        assert!((expected..expected + 200).contains(&most.get()), "{} for {expected}", most.get());
    }
}

#[test]
fn what_makes_no_sense_is_said() {
    let registry = crate::register(Registry::new());
    for (text, keys) in [
        ("", vec!["endpoint"]),
        ("endpoint = 'a b'", vec!["endpoint"]),
        ("endpoint = 'http://a:1'\nwal.directory = '/x'", vec!["wal"]),
        (
            "endpoint = 'http://a:1'\nremote_write_queue.num_consumers = 0",
            vec!["remote_write_queue.num_consumers"],
        ),
        ("endpoint = 'http://a:1'\nexternal_labels.__x = 'y'", vec!["external_labels.__x"]),
        ("endpoint = 'http://a:1'\nmax_batch_size_bytes = 0", vec!["max_batch_size_bytes"]),
    ] {
        for kind in ["prometheus_remote_write", "prometheusremotewrite"] {
            let errors = registry.parse_exporter(kind, toml::from_str(text).unwrap()).unwrap().err().unwrap();
            assert_eq!(errors.iter().map(|error| &*error.key).collect::<Vec<_>>(), keys, "{text}");
        }
    }
    let told = settings(
        "protobuf_message = 'io.prometheus.write.v2.Request'\ncompression = 'snappy'\nremote_write_queue.queue_size = 7",
    );
    assert!(told.check().is_empty());
    assert_eq!((told.version(), told.sending().queue.queue_size), (Version::V2, 7));
    assert_eq!(told.sending().queue.num_consumers, 1);
}

#[test]
fn a_destination_says_what_it_has_written() {
    let headers = |pairs: &[(usize, &'static str)]| {
        let pair =
            |(at, value): &(usize, &'static str)| (WRITTEN[*at].clone(), HeaderValue::from_static(value));
        HeaderMap::from_iter(pairs.iter().map(pair))
    };
    assert_eq!(Written::read(&headers(&[])), None);
    assert_eq!(Written::read(&headers(&[(0, "x")])), None);
    assert_eq!(Written::read(&headers(&[(0, "7")])), Some(Written([7, 0, 0])));
    let counts = Counts { points: 3, samples: 10, histograms: 1, exemplars: 1 };
    for (written, missing) in [([10, 1, 0], 0), ([9, 1, 1], 1), ([10, 0, 1], 1), ([0, 0, 0], 3)] {
        assert_eq!(Written(written).missing(&counts), missing);
    }
    for (status, body, reason) in [
        (400, "out of order sample", "out_of_order"),
        (400, "Out of bounds", "too_old"),
        (400, "duplicate sample for timestamp", "duplicate"),
        (422, "", "bad_request"),
        (403, "out of order", "unauthorized"),
        (404, "", "not_found"),
        (413, "", "too_large"),
        (301, "", "other"),
    ] {
        assert_eq!(why(StatusCode::from_u16(status).unwrap(), body.as_bytes()), reason, "{status} {body}");
        assert!(REJECTED.contains(&reason));
    }
}

proptest! {
    #[test]
    fn each_exemplar_is_of_the_first_bucket_that_holds_it(
        bounds in prop::collection::btree_set(-5..5_i8, 0..6),
        values in prop::collection::vec(
            prop_oneof![(-12..12_i8).prop_map(|half| f64::from(half) / 2.0), Just(f64::NAN), Just(f64::INFINITY)],
            0..20,
        ),
    ) {
        let bounds: Vec<f64> = bounds.into_iter().map(f64::from).collect();
        let mut point = classic(&bounds, &vec![1; bounds.len() + 1], None);
        let exemplar = |value: &f64| {
            let value = Some(otlp::exemplar::Value::AsDouble(*value));
            otlp::Exemplar { time_unix_nano: MS, value, ..Default::default() }
        };
        point.exemplars = values.iter().map(exemplar).collect();
        let all = all(&settings(""), &of(vec![metric("h", "", "", histogram(2, vec![point]))]));
        let mut below = f64::NEG_INFINITY;
        for bound in bounds.into_iter().chain([f64::INFINITY]) {
            let le = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            let series = &all[&format!("__name__=h_bucket,job=shop,le={le}")];
            let mut found: Vec<f64> = series.exemplars.iter().map(|(_, value, _)| f64::from_bits(*value)).collect();
            let mut expected: Vec<f64> =
                values.iter().copied().filter(|value| *value > below && *value <= bound).collect();
            found.sort_by(f64::total_cmp);
            expected.sort_by(f64::total_cmp);
            prop_assert_eq!(found, expected);
            below = bound;
        }
    }

    #[test]
    fn each_sample_is_in_its_series_in_the_order_of_time(
        points in prop::collection::vec((0..4_u8, 0..6_u64, any::<f64>()), 0..60),
        shards in 1..7_usize,
        most in 1..3000_u64,
    ) {
        let metrics = points.iter().map(|(series, time, value)| {
            let point = labelled(number(*value, 0, time * MS), &[("s", &format!("v{series}"))]);
            metric("m", "", "", gauge(vec![point]))
        });
        let payload = of(metrics.collect());
        let told = settings(&format!("max_batch_size_bytes = {most}\nremote_write_queue.num_consumers = {shards}"));
        let mut expected: BTreeMap<String, BTreeMap<i64, u64>> = BTreeMap::new();
        for (series, time, value) in &points {
            let name = format!("__name__=m,job=shop,s=v{series}");
            expected.entry(name).or_default().insert(*time as i64, value.to_bits());
        }
        let read: BTreeMap<String, BTreeMap<i64, u64>> = all(&told, &payload)
            .into_iter()
            .map(|(name, series)| (name, series.samples.into_iter().collect()))
            .collect();
        prop_assert_eq!(read, expected);
    }
}
