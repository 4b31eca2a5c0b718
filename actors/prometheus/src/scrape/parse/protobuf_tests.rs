//! Metric families as prost writes them, read back.

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, Metric as Told};
use proptest::prelude::*;
use prost::Message;
use watershed_stage::delivery::Budget;

use super::{Format, Parser, number};
use crate::scrape::error::Reason;
use crate::scrape::series::Scrape;
use crate::scrape::tests::{TIME, Target, all, metrics, named, pairs, points, wrong};

#[derive(Clone, PartialEq, Message)]
pub struct MetricFamily {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub help: String,
    #[prost(int32, tag = "3")]
    pub kind: i32,
    #[prost(message, repeated, tag = "4")]
    pub metric: Vec<Metric>,
    #[prost(string, tag = "5")]
    pub unit: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub counter: Option<Number>,
    #[prost(message, optional, tag = "4")]
    pub summary: Option<Summary>,
    #[prost(message, optional, tag = "5")]
    pub untyped: Option<Number>,
    #[prost(int64, tag = "6")]
    pub timestamp_ms: i64,
    #[prost(message, optional, tag = "7")]
    pub histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LabelPair {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `Gauge`, `Untyped` and, with all fields, `Counter`.
#[derive(Clone, PartialEq, Message)]
pub struct Number {
    #[prost(double, tag = "1")]
    pub value: f64,
    #[prost(message, optional, tag = "2")]
    pub exemplar: Option<Exemplar>,
    #[prost(message, optional, tag = "3")]
    pub start: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<LabelPair>,
    #[prost(double, tag = "2")]
    pub value: f64,
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub sum: f64,
    #[prost(message, repeated, tag = "3")]
    pub quantile: Vec<Quantile>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Quantile {
    #[prost(double, tag = "1")]
    pub quantile: f64,
    #[prost(double, tag = "2")]
    pub value: f64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "2")]
    pub sum: f64,
    #[prost(message, repeated, tag = "3")]
    pub bucket: Vec<Bucket>,
    #[prost(double, tag = "4")]
    pub count_float: f64,
    #[prost(sint32, tag = "5")]
    pub schema: i32,
    #[prost(double, tag = "6")]
    pub zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    pub zero_count: u64,
    #[prost(double, tag = "8")]
    pub zero_count_float: f64,
    #[prost(message, repeated, tag = "9")]
    pub negative_span: Vec<Span>,
    #[prost(sint64, repeated, tag = "10")]
    pub negative_delta: Vec<i64>,
    #[prost(message, repeated, tag = "12")]
    pub positive_span: Vec<Span>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub positive_delta: Vec<i64>,
    #[prost(double, repeated, tag = "14")]
    pub positive_count: Vec<f64>,
    #[prost(message, optional, tag = "15")]
    pub start: Option<Timestamp>,
    #[prost(message, repeated, tag = "16")]
    pub exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Bucket {
    #[prost(uint64, tag = "1")]
    pub cumulative_count: u64,
    #[prost(double, tag = "2")]
    pub upper_bound: f64,
    #[prost(message, optional, tag = "3")]
    pub exemplar: Option<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Span {
    #[prost(sint32, tag = "1")]
    pub offset: i32,
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

const NATIVE: Format = Format::Protobuf { native: true };
const CLASSIC: Format = Format::Protobuf { native: false };

fn body(families: &[MetricFamily]) -> Vec<u8> {
    families.iter().flat_map(Message::encode_length_delimited_to_vec).collect()
}

fn family(name: &str, kind: i32, metric: Vec<Metric>) -> MetricFamily {
    MetricFamily { name: name.into(), help: "H".into(), kind, metric, unit: String::new() }
}

fn label(name: &str, value: &str) -> LabelPair {
    LabelPair { name: name.into(), value: value.into() }
}

fn number(value: f64) -> Option<Number> {
    Some(Number { value, ..Number::default() })
}

fn histogram(histogram: Histogram) -> Vec<u8> {
    body(&[family("h", 4, vec![Metric { histogram: Some(histogram), ..Metric::default() }])])
}

/// A native histogram with everything that one may have.
fn native() -> Histogram {
    Histogram {
        count: 20,
        sum: 12.5,
        schema: 3,
        zero_threshold: 0.001,
        zero_count: 2,
        // -4 to -3, then a gap of two, then one.
        positive_span: vec![Span { offset: -4, length: 2 }, Span { offset: 2, length: 1 }],
        positive_delta: vec![3, 1, -2],
        negative_span: vec![Span { offset: 5, length: 1 }],
        negative_delta: vec![9],
        start: Some(Timestamp { seconds: 7, nanos: 5 }),
        exemplars: vec![Exemplar {
            label: vec![label("span_id", "b7ad6b7169203331"), label("k", "v")],
            value: 0.5,
            timestamp: Some(Timestamp { seconds: 9, nanos: 0 }),
        }],
        ..Histogram::default()
    }
}

fn exponential(metric: &Told) -> &ExponentialHistogramDataPoint {
    let Some(Data::ExponentialHistogram(histogram)) = &metric.data else { panic!("{metric:?}") };
    assert_eq!(histogram.aggregation_temporality, 2);
    &histogram.data_points[0]
}

#[test]
fn numbers_and_summaries_are_understood() {
    let created = Some(Timestamp { seconds: 3, nanos: 4 });
    let exemplar = Some(Exemplar { value: 0.5, ..Exemplar::default() });
    let counter = Some(Number { value: 5.0, exemplar, start: created });
    let summary = Summary { count: 7, sum: 8.0, quantile: vec![Quantile { quantile: 0.5, value: 1.5 }] };
    let families = [
        family(
            "g",
            1,
            vec![
                Metric {
                    label: vec![label("b", "x"), label("a", "y")],
                    gauge: number(1.5),
                    ..Metric::default()
                },
                Metric { gauge: number(f64::from_bits(number::STALE)), ..Metric::default() },
            ],
        ),
        family("c_total", 0, vec![Metric { counter, timestamp_ms: 4000, ..Metric::default() }]),
        family("u", 3, vec![Metric { untyped: number(-1.0), ..Metric::default() }]),
        family("s", 2, vec![Metric { summary: Some(summary), ..Metric::default() }]),
    ];
    let mut target = Target::default();
    for time in [TIME, 2 * TIME] {
        let metrics = all(target.good(CLASSIC, body(&families)));
        assert_eq!(metrics.len(), 4);
        let gauge = named(&metrics, "g");
        assert_eq!(&*gauge.description, "H");
        let expected = [(vec![("a", "y"), ("b", "x")], Some(1.5), 0, time), (vec![], None, 0, time)];
        assert_eq!(points(gauge), expected);
        let counter = named(&metrics, "c_total");
        assert_eq!(points(counter), [(vec![], Some(5.0), 3_000_000_004, 4_000_000_000)]);
        let Some(Data::Sum(sum)) = &counter.data else { panic!("{counter:?}") };
        assert_eq!(sum.data_points[0].exemplars.len(), 1);
        assert_eq!(points(named(&metrics, "u")), [(vec![], Some(-1.0), 0, time)]);
        let Some(Data::Summary(summary)) = &named(&metrics, "s").data else { panic!("{metrics:?}") };
        let point = &summary.data_points[0];
        assert_eq!((point.count, point.sum, point.quantile_values[0].value), (7, 8.0, 1.5));
    }
}

#[test]
fn a_native_histogram_becomes_an_exponential_one() {
    let metrics = metrics(NATIVE, histogram(native()));
    let point = exponential(&metrics[0]);
    assert_eq!((point.scale, point.zero_count, point.zero_threshold), (3, 2, 0.001));
    let positive = point.positive.as_ref().unwrap();
    assert_eq!((positive.offset, &positive.bucket_counts[..]), (-5, &[3, 4, 0, 0, 2][..]));
    let negative = point.negative.as_ref().unwrap();
    assert_eq!((negative.offset, &negative.bucket_counts[..]), (4, &[9][..]));
    assert_eq!((point.count, point.sum), (20, Some(12.5)));
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (7_000_000_005, TIME));
    let exemplar = &point.exemplars[0];
    assert_eq!((exemplar.time_unix_nano, exemplar.span_id.len()), (9 * TIME, 8));
    assert_eq!(pairs(&exemplar.filtered_attributes), [("k", "v")]);
}

#[test]
fn one_of_whole_floats_is_as_good_and_another_has_no_place() {
    let float = |count: f64| Histogram {
        count_float: 5.0,
        zero_count_float: 2.0,
        zero_threshold: 1e-128,
        positive_span: vec![Span { offset: 1, length: 1 }],
        positive_count: vec![count],
        ..Histogram::default()
    };
    let metrics = metrics(NATIVE, histogram(float(3.0)));
    let point = exponential(&metrics[0]);
    assert_eq!((point.count, point.zero_count), (5, 2));
    let mut target = Target::default();
    assert_eq!(all(target.good(NATIVE, histogram(float(3.5)))), []);
    assert_eq!(target.counts.unmapped, 1);
}

#[test]
fn what_native_histograms_can_not_be_has_no_place() {
    let cases: [fn(&mut Histogram); 5] = [
        |histogram| histogram.schema = 9,
        |histogram| histogram.schema = -53,
        |histogram| histogram.positive_span[1].offset = -1,
        |histogram| histogram.positive_span[1].offset = i32::MAX,
        |histogram| histogram.positive_span[0].length = u32::MAX,
    ];
    for change in cases {
        let mut changed = native();
        change(&mut changed);
        let mut target = Target::default();
        assert_eq!(all(target.good(NATIVE, histogram(changed.clone()))), [], "{changed:?}");
        assert_eq!(target.counts.unmapped, 1);
    }
    let mut overflow = native();
    overflow.positive_span = vec![Span { offset: (1024 << 3) - 1, length: 3 }];
    let metrics = metrics(NATIVE, histogram(overflow));
    let point = exponential(&metrics[0]);
    assert_eq!(point.positive.as_ref().unwrap().bucket_counts, [3, 4], "the last one is beyond any double");
    assert_eq!(point.count, 18);
}

#[test]
fn classic_buckets_are_read_where_native_ones_are_not_wanted() {
    let bucket = |upper_bound, cumulative_count| Bucket { upper_bound, cumulative_count, exemplar: None };
    let both = Histogram { bucket: vec![bucket(1.0, 3), bucket(1e6, 5)], ..native() };
    let metrics = metrics(CLASSIC, histogram(both.clone()));
    let Some(Data::Histogram(classic)) = &metrics[0].data else { panic!("{metrics:?}") };
    let point = &classic.data_points[0];
    assert_eq!((&point.explicit_bounds[..], &point.bucket_counts[..]), (&[1.0, 1e6][..], &[3, 2, 15][..]));
    assert_eq!((point.count, point.sum, point.start_time_unix_nano), (20, Some(12.5), 7_000_000_005));
    let mut target = Target::default();
    target.good(CLASSIC, histogram(both));
    assert_eq!(target.counts.samples, 5, "buckets, the one at infinity, sum and count");
    let gauge = family("q", 5, vec![Metric { histogram: Some(native()), ..Metric::default() }]);
    assert_eq!(all(Target::default().good(NATIVE, body(&[gauge]))), [], "a gauge histogram");
}

#[test]
fn labels_may_stand_anywhere() {
    // gauge { 1.0 }, label a, timestamp, label b
    let pieces: [&[u8]; 4] = [
        &Metric { gauge: number(1.0), ..Metric::default() }.encode_to_vec(),
        &Metric { label: vec![label("a", "1")], ..Metric::default() }.encode_to_vec(),
        &Metric { timestamp_ms: 5000, ..Metric::default() }.encode_to_vec(),
        &Metric { label: vec![label("b", "2")], ..Metric::default() }.encode_to_vec(),
    ];
    let metric = pieces.concat();
    let mut family = family("m", 1, vec![]).encode_to_vec();
    family.extend([0x22, metric.len() as u8]);
    family.extend(metric);
    let mut text = vec![family.len() as u8];
    text.extend(family);
    let metrics = metrics(CLASSIC, text);
    assert_eq!(points(&metrics[0]), [(vec![("a", "1"), ("b", "2")], Some(1.0), 0, 5 * TIME)]);
}

#[test]
fn what_is_no_metric_family_is_said() {
    let twice =
        Metric { label: vec![label("a", "1"), label("a", "2")], gauge: number(1.0), ..Metric::default() };
    for (bytes, message) in [
        (vec![5, 1], "no metric families: truncated"),
        (vec![0], "a metric family has no name"),
        (body(&[family("m", 9, vec![])]), "9 is no type of a metric family"),
        (body(&[family("m", 1, vec![Metric::default()])]), "m has no value"),
        (body(&[family("m", 1, vec![twice])]), "the label a stands there twice"),
        (vec![3, 10, 1, 0xff], "a name or a label is not UTF-8"),
    ] {
        assert_eq!(wrong(NATIVE, bytes), message);
    }
    let less = Histogram { positive_delta: vec![1, -5, 0], ..native() };
    assert_eq!(wrong(NATIVE, histogram(less)), "a bucket counts less than nothing");
}

/// A classic histogram with labels of so many bytes and so many buckets.
fn wide(labels: usize, buckets: usize) -> Vec<u8> {
    let bucket = |at| Bucket { upper_bound: at as f64, cumulative_count: 1, exemplar: None };
    let told = Histogram { bucket: (0..buckets).map(bucket).collect(), ..Histogram::default() };
    let label = vec![label("a", &"x".repeat(labels))];
    body(&[family("h", 4, vec![Metric { label, histogram: Some(told), ..Metric::default() }])])
}

#[test]
fn buckets_and_labels_make_no_more_than_text_could_be() {
    let bytes = wide(10_000, 1000);
    for limit in [20 << 20, 0, 1 << 20] {
        let mut target = Target::new(64 << 20);
        target.policy.body_size_limit = limit;
        let (result, _) = target.scrape(CLASSIC, &bytes);
        if limit == 1 << 20 {
            let failed = result.unwrap_err();
            assert!(failed.reason == Reason::Limit && failed.message.contains("body_size_limit"), "{failed}");
            assert!(target.series.len() < 150, "it stopped at the limit");
        } else {
            assert_eq!((result, target.counts.samples), (Ok(()), 1003));
        }
    }
    let sparse = Histogram {
        positive_span: vec![Span { offset: 0, length: 1 }, Span { offset: 16_000, length: 1 }],
        positive_delta: vec![1, 0],
        ..native()
    };
    let metric = Metric { histogram: Some(sparse), ..Metric::default() };
    let metric = |at: usize| Metric { label: vec![label("a", &at.to_string())], ..metric.clone() };
    let mut target = Target::default();
    target.policy.body_size_limit = 1 << 20;
    let (result, _) = target.scrape(NATIVE, &body(&[family("h", 4, (0..100).map(metric).collect())]));
    assert_eq!(result.unwrap_err().reason, Reason::Limit, "gaps are buckets, too");
}

#[test]
fn what_is_long_is_read_in_small_steps() {
    let gauges = (0..10_000).map(|at| Metric {
        label: vec![label("a", &at.to_string())],
        gauge: number(1.0),
        ..Metric::default()
    });
    for bytes in [body(&[family("m", 1, gauges.collect())]), wide(1000, 1000)] {
        let mut target = Target::default();
        let permit = Budget::new(64 << 20).overdraw(0);
        let mut scrape = Scrape::begin(&mut target.series, &target.policy, &target.labels, TIME, &permit, 0);
        let mut parser = Parser::new(CLASSIC, &bytes);
        let (mut steps, mut before) = (1, 0);
        while parser.step(&mut scrape).unwrap() {
            steps += 1;
            let samples = scrape.counts().samples;
            assert!(samples - before < 5000, "{samples} after {before}");
            before = samples;
        }
        assert!((5..50).contains(&steps), "{steps}");
    }
}

#[test]
fn what_a_metric_has_is_bounded() {
    let wrong = |histogram: Histogram| {
        let metric = Metric { histogram: Some(histogram), ..Metric::default() };
        Target::default().scrape(NATIVE, &body(&[family("h", 4, vec![metric])])).0.unwrap_err()
    };
    let empty = || Span { offset: 0, length: 0 };
    for histogram in [
        Histogram { positive_span: vec![empty(); 20_000], ..native() },
        Histogram { negative_span: vec![empty(); 20_000], ..native() },
        Histogram { positive_delta: vec![0; 20_000], ..native() },
        Histogram { exemplars: vec![Exemplar::default(); 600_000], ..native() },
    ] {
        let failed = wrong(histogram);
        assert_eq!(failed.reason, Reason::Limit, "{failed}");
    }
    let unit = MetricFamily { unit: "x".repeat(129), ..family("m", 1, vec![]) };
    assert_eq!(
        crate::scrape::tests::wrong(NATIVE, body(&[unit])),
        "the unit of a family is longer than 128 bytes"
    );
}

#[test]
fn exemplars_are_as_long_and_as_many_as_they_may_be() {
    let exemplar =
        |length: usize| Exemplar { label: vec![label("k", &"\u{e4}".repeat(length))], ..Exemplar::default() };
    let nothing = Exemplar { label: vec![label("", ""); 129], ..Exemplar::default() };
    let exemplars = [vec![exemplar(127), exemplar(128), nothing.clone()], vec![exemplar(1); 200]].concat();
    let mut target = Target::default();
    let metrics = all(target.good(NATIVE, histogram(Histogram { exemplars, ..native() })));
    assert_eq!((exponential(&metrics[0]).exemplars.len(), target.counts.exemplars), (64, 139));
    let counter = |exemplar| Metric {
        counter: Some(Number { value: 1.0, exemplar: Some(exemplar), start: None }),
        ..Metric::default()
    };
    for (told, left_out) in [(exemplar(127), 0), (exemplar(128), 1), (nothing, 1)] {
        let metrics = all(target.good(NATIVE, body(&[family("c", 0, vec![counter(told)])])));
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert_eq!(sum.data_points[0].exemplars.len() as u64, 1 - left_out);
        assert_eq!(target.counts.exemplars, left_out);
    }
}

proptest! {
    #[test]
    fn gauges_come_back(told in prop::collection::btree_map(
        prop::collection::btree_map("[a-z]{1,3}", "[ -~]{1,5}", 0..3),
        prop::num::f64::NORMAL,
        0..8,
    )) {
        let metric = |(labels, value): (&std::collections::BTreeMap<String, String>, &f64)| Metric {
            label: labels.iter().map(|(name, value)| label(name, value)).collect(),
            gauge: number(*value),
            ..Metric::default()
        };
        let text = body(&[family("m", 1, told.iter().map(metric).collect())]);
        let mut target = Target::default();
        for _ in 0..2 {
            let metrics = all(target.good(NATIVE, &text));
            let found: Vec<_> = metrics.iter().flat_map(points).map(|(labels, value, ..)| {
                let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
                (labels.collect::<std::collections::BTreeMap<_, _>>(), value.unwrap())
            }).collect();
            prop_assert_eq!(found, told.clone().into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn native_histograms_keep_their_counts(
        runs in prop::collection::vec((0i32..20, prop::collection::vec(0u64..1000, 1..5)), 0..5),
        from in -100i32..100,
        schema in -4i32..=8,
    ) {
        let mut told = Histogram { schema, zero_threshold: 0.5, ..Histogram::default() };
        let (mut last, mut total, mut dense, mut first) = (0i64, 0, Vec::new(), true);
        for (gap, counts) in &runs {
            let offset = if first { from } else { *gap };
            if !first {
                dense.extend((0..*gap).map(|_| 0));
            }
            first = false;
            told.positive_span.push(Span { offset, length: counts.len() as u32 });
            for count in counts {
                told.positive_delta.push(*count as i64 - last);
                last = *count as i64;
                total += count;
                dense.push(*count);
            }
        }
        let metrics = metrics(NATIVE, histogram(told));
        let point = exponential(&metrics[0]);
        // The highest buckets of coarse schemas are beyond any double.
        let most = if schema >= 0 { 1024i64 << schema } else { 1024 >> -schema };
        if i64::from(from) + dense.len() as i64 <= most {
            prop_assert_eq!(point.count, total);
            let positive = point.positive.clone().unwrap_or_default();
            prop_assert_eq!(positive.bucket_counts, dense);
            prop_assert!(runs.is_empty() || positive.offset == from - 1);
        }
    }
}
