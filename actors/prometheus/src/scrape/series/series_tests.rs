//! What is remembered from scrape to scrape: markers, starts, changes of mind; and what relabelling does to series.

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use proptest::prelude::*;

use crate::scrape::error::Reason;
use crate::scrape::parse::Format::{self, OpenMetrics, Text};
use crate::scrape::relabel::RelabelSettings;
use crate::scrape::tests::{TIME, Target, all, kind, named, pairs, points};

fn relabelled(rules: &str) -> Target {
    #[derive(serde::Deserialize)]
    struct Rules {
        rules: Vec<RelabelSettings>,
    }
    let rules: Rules = toml::from_str(&format!("rules = [{rules}]")).unwrap();
    let mut target = Target::default();
    target.policy.metric_relabel = rules.rules.iter().map(|rule| rule.compile().unwrap()).collect();
    target
}

#[test]
fn a_series_that_vanishes_leaves_one_marker_and_may_return() {
    let mut target = Target::default();
    let both = "a{x=\"1\"} 1\na{x=\"2\"} 2\n";
    assert_eq!(points(named(&all(target.good(Text, both)), "a")).len(), 2);
    assert_eq!(target.counts.added, 2);
    let one = all(target.good(Text, "a{x=\"2\"} 3\n"));
    assert_eq!(
        points(named(&one, "a")),
        [(vec![("x", "2")], Some(3.0), 0, 2 * TIME), (vec![("x", "1")], None, 0, 2 * TIME)]
    );
    let later = all(target.good(Text, "a{x=\"2\"} 4\n"));
    assert_eq!(points(named(&later, "a")).len(), 1, "once is enough");
    assert_eq!(points(named(&all(target.good(Text, both)), "a")).len(), 2);
    assert_eq!(target.counts.added, 1);
}

#[test]
fn points_of_every_kind_leave_markers() {
    let body = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n\
                # TYPE s summary\ns_sum 1\ns_count 1\n# TYPE c counter\nc 1\n";
    let mut target = Target::default();
    target.good(Text, body);
    let gone = all(target.good(Text, ""));
    let (mut flags, mut values) = (Vec::new(), Vec::new());
    for metric in &gone {
        match metric.data.as_ref().unwrap() {
            Data::Histogram(of) => of.data_points.iter().for_each(|point| {
                flags.push(point.flags);
                values.push(point.count);
            }),
            Data::Summary(of) => of.data_points.iter().for_each(|point| {
                flags.push(point.flags);
                values.push(point.count);
            }),
            Data::Sum(of) => of.data_points.iter().for_each(|point| flags.push(point.flags)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((flags, values), (vec![1; 3], vec![0; 2]));
}

#[test]
fn a_failed_scrape_ends_what_was_there_before_and_adds_nothing() {
    let mut target = Target::default();
    target.good(Text, "a 1\nb 1\n");
    let (result, request) = target.scrape(Text, b"a 2\nc 3\nnonsense\n");
    assert_eq!(result.unwrap_err().reason, Reason::Parse);
    let metrics = all(request);
    assert_eq!(metrics.len(), 2);
    for name in ["a", "b"] {
        assert_eq!(points(named(&metrics, name)), [(vec![], None, 0, 2 * TIME)]);
    }
    let metrics = all(target.good(Text, "a 4\n"));
    assert_eq!((metrics.len(), target.counts.added), (1, 1));
}

#[test]
fn what_comes_with_a_time_leaves_a_marker_only_on_demand() {
    for track in [false, true] {
        let mut target = Target::default();
        target.policy.track_timestamps_staleness = track;
        target.good(Text, "a 1 5000\n");
        assert_eq!(all(target.good(Text, "")).len(), usize::from(track));
    }
    let mut target = Target::default();
    target.policy.honor_timestamps = false;
    assert_eq!(points(&all(target.good(Text, "a 1 5000\n"))[0])[0].3, TIME);
    assert_eq!(all(target.good(Text, "")).len(), 1, "its time was not believed");
}

#[test]
fn a_counter_begins_when_it_is_first_seen_or_reset() {
    let mut target = Target::default();
    let mut start = |value: &str| {
        let metrics = all(target.good(Text, format!("# TYPE c counter\nc {value}\n# TYPE g gauge\ng 1\n")));
        assert_eq!(points(named(&metrics, "g"))[0].2, 0);
        points(named(&metrics, "c"))[0].2 / TIME
    };
    assert_eq!([start("5"), start("6"), start("6"), start("2"), start("3")], [1, 1, 1, 4, 4]);
    let mut target = Target::default();
    target.policy.adjust_start_time = false;
    assert_eq!(points(&all(target.good(Text, "# TYPE c counter\nc 1\n"))[0])[0].2, 0);
}

#[test]
fn histograms_begin_like_counters() {
    let mut target = Target::default();
    let mut start = |count: &str| {
        let body = format!("# TYPE h histogram\nh_bucket{{le=\"+Inf\"}} {count}\nh_count {count}\n");
        let metrics = all(target.good(Text, body));
        let Some(Data::Histogram(histogram)) = &metrics[0].data else { panic!("{metrics:?}") };
        histogram.data_points[0].start_time_unix_nano / TIME
    };
    assert_eq!([start("5"), start("6"), start("2")], [1, 1, 3]);
}

#[test]
fn a_start_that_the_target_tells_has_the_last_word_wherever_it_stands() {
    for body in [
        "# TYPE c counter\nc_total 5\nc_created 7\n# EOF\n",
        "# TYPE c counter\nc_created 7\nc_total 5\n# EOF\n",
    ] {
        let mut target = Target::default();
        target.good(OpenMetrics, body);
        let metrics = all(target.good(OpenMetrics, body));
        assert_eq!(points(named(&metrics, "c_total")), [(vec![], Some(5.0), 7 * TIME, 2 * TIME)]);
    }
}

#[test]
fn a_series_whose_type_changes_is_a_new_one() {
    let mut target = Target::default();
    target.good(Text, "# TYPE a counter\na 1\n");
    let metrics = all(target.good(Text, "# TYPE a gauge\na 1\n"));
    let kinds: Vec<_> = metrics.iter().map(|metric| matches!(metric.data, Some(Data::Gauge(_)))).collect();
    assert_eq!(kinds, [true, false], "a gauge, and the marker of a sum");
    let untyped = all(target.good(Text, "a 1\n"));
    assert_eq!(kind(named(&untyped, "a")), "unknown");
    let typed = all(target.good(Text, "# TYPE a counter\na 1\n"));
    assert_eq!(kind(&typed[0]), "counter");
}

#[test]
fn a_name_that_goes_on_is_another_series() {
    let mut target = Target::default();
    for _ in 0..2 {
        let metrics = all(target.good(Text, "a 1\nab 2\na{b=\"c\"} 3\na {b=\"d\"} 4\n"));
        assert_eq!(points(named(&metrics, "a")).len(), 3);
        assert_eq!(points(named(&metrics, "ab")), [(vec![], Some(2.0), 0, metrics_time(&metrics))]);
    }
    let one = all(target.good(Text, "a {b=\"d\"} 5\na 1\n"));
    assert_eq!(points(named(&one, "a"))[0].1, Some(5.0));
}

fn metrics_time(metrics: &[opentelemetry_proto::tonic::metrics::v1::Metric]) -> u64 {
    points(&metrics[0])[0].3
}

#[test]
fn the_same_series_twice_counts_once() {
    let mut target = Target::default();
    let metrics =
        all(target.good(Text, "a{x=\"1\",y=\"2\"} 1\na{x=\"1\",y=\"2\"} 2\na{y=\"2\",x=\"1\"} 3\n"));
    assert_eq!(points(named(&metrics, "a")).len(), 1);
    assert_eq!((target.counts.samples, target.counts.duplicates), (3, 2));
    let timed = all(target.good(Text, "a 1 1000\na 2 2000\n"));
    assert_eq!(points(named(&timed, "a")).iter().filter(|point| point.1.is_some()).count(), 2);
}

#[test]
fn labels_of_the_target_and_of_the_series_live_together() {
    let body = "a{job=\"x\",env=\"y\",exported_env=\"z\"} 1\n";
    let mut target = Target::default();
    target.labels.set("env", "prod");
    let request = target.good(Text, body);
    let resource = request.resource_metrics[0].resource.clone().unwrap();
    assert_eq!(pairs(&resource.attributes)[0], ("service.name", "j"));
    let attributes =
        vec![("env", "prod"), ("exported_env", "z"), ("exported_exported_env", "y"), ("exported_job", "x")];
    assert_eq!(points(&all(request)[0])[0].0, attributes);

    let mut target = Target::default();
    target.policy.honor_labels = true;
    target.labels.set("env", "prod");
    let request = target.good(Text, body);
    let resource = request.resource_metrics[0].resource.clone().unwrap();
    assert_eq!(pairs(&resource.attributes)[0], ("service.name", "x"));
    assert_eq!(points(&all(request)[0])[0].0, [("env", "y"), ("exported_env", "z")]);
}

#[test]
fn labels_that_stand_in_each_others_way_go_where_prometheus_puts_them() {
    // What stands there without a value, `honor_labels` honours, too: so a gateway takes `instance` away.
    type Labels = &'static [(&'static str, &'static str)];
    let cases: [(bool, &str, Labels); 6] = [
        (true, "a{env=\"\"} 1", &[]),
        (true, "a{env=\"y\"} 1", &[("env", "y")]),
        (true, "a 1", &[("env", "prod")]),
        (false, "a{env=\"\"} 1", &[("env", "prod")]),
        (false, "a{env=\"y\",exported_env=\"\"} 1", &[("env", "prod"), ("exported_env", "y")]),
        (
            false,
            "a{env=\"1\",exported_env=\"2\"} 1",
            &[("env", "prod"), ("exported_env", "2"), ("exported_exported_env", "1")],
        ),
    ];
    for (honor_labels, line, expected) in cases {
        let mut target = Target::default();
        target.policy.honor_labels = honor_labels;
        target.labels.set("env", "prod");
        for _ in 0..2 {
            assert_eq!(points(&all(target.good(Text, line))[0])[0].0, expected, "{honor_labels} {line}");
        }
    }
    let mut target = Target::default();
    target.labels.set("env", "a");
    target.labels.set("exported_env", "b");
    let metrics = all(target.good(Text, "a{env=\"1\",exported_env=\"2\"} 1"));
    let expected = vec![
        ("env", "a"),
        ("exported_env", "b"),
        ("exported_exported_env", "1"),
        ("exported_exported_exported_env", "2"),
    ];
    assert_eq!(points(&metrics[0])[0].0, expected, "the shorter name chooses first");
    let mut pushed = Target::default();
    pushed.policy.honor_labels = true;
    let request = pushed.good(Text, "a{instance=\"\"} 1");
    let resource = request.resource_metrics[0].resource.clone().unwrap();
    assert!(pairs(&resource.attributes).iter().all(|(key, _)| *key != "service.instance.id"));
}

#[test]
fn series_are_relabelled() {
    let body = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_count 3\nh_sum 4\na{x=\"1\"} 1\nb 2\n";
    let mut target = relabelled(
        "{ source_labels = [\"__name__\"], regex = \"b\", action = \"drop\" },\
         { source_labels = [\"le\"], regex = \"2\", action = \"drop\" },\
         { source_labels = [\"__name__\"], regex = \"h(_.*)\", target_label = \"__name__\", replacement = \"g$1\" },\
         { regex = \"x\", action = \"labeldrop\" }",
    );
    for _ in 0..2 {
        let metrics = all(target.good(Text, body));
        assert_eq!(metrics.len(), 2);
        assert_eq!(points(named(&metrics, "a"))[0].0, []);
        let Some(Data::Histogram(histogram)) = &named(&metrics, "g").data else { panic!("{metrics:?}") };
        assert_eq!(histogram.data_points[0].bucket_counts, [1, 2]);
        assert_eq!((target.counts.samples, target.counts.kept), (7, 5));
    }
    let mut renamed = relabelled(
        "{ source_labels = [\"__name__\"], regex = \"h_sum\", target_label = \"__name__\", replacement = \"total\" }",
    );
    let metrics = all(renamed.good(Text, body));
    assert!(matches!(named(&metrics, "total").data, Some(Data::Gauge(_))));
    let mut nameless = relabelled("{ regex = \"__name__\", action = \"labeldrop\" }");
    assert!(nameless.scrape(Text, b"a 1\n").0.is_err());
}

#[test]
fn limits_fail_the_scrape() {
    type Set = fn(&mut Target);
    let cases: [(Set, &str); 4] = [
        (|target| target.policy.sample_limit = 1, "sample_limit"),
        (|target| target.policy.label_limit = 3, "label_limit"),
        (|target| target.policy.label_name_length_limit = 8, "label_name_length_limit"),
        (|target| target.policy.label_value_length_limit = 8, "label_value_length_limit"),
    ];
    for (set, key) in cases {
        let mut target = Target::default();
        set(&mut target);
        let body = "a 1\nb{l=\"value that is long\",long_name=\"x\"} 2\n";
        let (result, request) = target.scrape(Text, body.as_bytes());
        let failed = result.unwrap_err();
        assert!(failed.reason == Reason::Limit && failed.message.contains(key), "{failed}");
        assert_eq!(request.resource_metrics, []);
    }
}

#[test]
fn memory_is_granted_before_it_is_taken() {
    use watershed_stage::delivery::Budget;

    use crate::scrape::series::{Scrape, Series};

    let target = Target::default();
    let budget = Budget::new(200 << 10);
    let mut series = Series::new(budget.overdraw(0));
    let permit = budget.overdraw(0);
    let mut scrape = Scrape::begin(&mut series, &target.policy, &target.labels, TIME, &permit, 0);
    let body: String = (0..10_000).map(|at| format!("a{{x=\"{at}\"}} 1\n")).collect();
    let mut parser = crate::scrape::parse::Parser::new(Text, body.as_bytes());
    let failed = loop {
        match parser.step(&mut scrape) {
            Ok(more) => assert!(more),
            Err(failed) => break failed,
        }
    };
    assert_eq!(failed.reason, Reason::Memory);
    assert!(budget.used() <= 200 << 10);
    drop(scrape);
    drop((series, permit));
    assert_eq!(budget.used(), 0);
}

#[test]
fn what_nobody_shows_any_more_is_forgotten() {
    let mut target = Target::default();
    let steady =
        "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_count 2\nh_sum 4\n# TYPE c counter\nc{x=\"y\"} 5\n";
    for round in 0..20 {
        let churn: String = (0..500).map(|at| format!("a{{x=\"{round}-{at}\"}} 1\n")).collect();
        let metrics = all(target.good(Text, format!("{churn}{steady}")));
        assert_eq!(points(named(&metrics, "c"))[0].2, TIME, "it is still known");
        let Some(Data::Histogram(histogram)) = &named(&metrics, "h").data else { panic!("{metrics:?}") };
        assert_eq!(
            (histogram.data_points[0].start_time_unix_nano, histogram.data_points[0].count),
            (TIME, 2)
        );
        let expected = if round == 0 { 500 } else { 1000 };
        assert_eq!(points(named(&metrics, "a")).len(), expected, "new ones, and markers of the last ones");
        assert!(target.series.len() <= 2 * 504 + 1000 + 504);
    }
}

#[test]
fn families_are_charged_and_forgotten() {
    let mut target = Target::new(2 << 20);
    let declared = |round: usize| {
        let help = "x".repeat(1000);
        let family = |at| format!("# HELP f{round}_{at} {help}\n# TYPE f{round}_{at} gauge\nx 1\n");
        (0..200).map(family).collect::<String>()
    };
    for round in 0..20 {
        target.good(Text, declared(round));
        assert!(target.budget.used() < 1 << 20, "{} after {round}", target.budget.used());
        if round == 0 {
            assert!(target.budget.used() > 200 << 10, "what is known of them is charged");
        }
    }
    // What is said of one family changes from scrape to scrape.
    let mut target = Target::new(2 << 20);
    for round in 0..100 {
        let help = "x".repeat(if round % 2 == 0 { 100_000 } else { 1 });
        target.good(Text, format!("# HELP a {help}\n# TYPE a gauge\na 1\n"));
        assert!(target.budget.used() < 600 << 10, "{} after {round}", target.budget.used());
    }
}

#[test]
fn long_series_that_nobody_shows_any_more_are_forgotten() {
    let mut target = Target::new(4 << 20);
    for round in 0..50 {
        let value = "x".repeat(100_000);
        target.good(Text, format!("a{{x=\"{round}{value}\"}} 1\nb 1\n"));
        assert!(target.budget.used() < 2 << 20, "{} after {round}", target.budget.used());
    }
}

#[test]
fn what_a_receiver_says_of_a_scrape_goes_by_no_rules() {
    use watershed_stage::delivery::Budget;

    use crate::scrape::series::Scrape;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use prost::Message as _;

    let mut target = relabelled("{ source_labels = [\"__name__\"], regex = \"up\", action = \"drop\" }");
    target.labels.set("env", "prod");
    for time in [TIME, 2 * TIME] {
        let permit = Budget::new(1 << 20).overdraw(0);
        let mut scrape = Scrape::begin(&mut target.series, &target.policy, &target.labels, time, &permit, 0);
        scrape.report("up", 1.0).unwrap();
        let request = scrape.finish("http").unwrap();
        let metrics = all(ExportMetricsServiceRequest::decode(&*request.bytes).unwrap());
        assert_eq!(points(named(&metrics, "up")), [(vec![("env", "prod")], Some(1.0), 0, time)]);
        assert_eq!(kind(&metrics[0]), "gauge");
    }
}

/// A name, labels and a value.
type Written = (String, Vec<(String, String)>, f64);

fn written() -> impl Strategy<Value = Vec<Written>> {
    let label = ("[a-z_][a-z0-9_]{0,4}", "[ -~\\n\u{e4}\u{1f600}]{1,8}");
    let labels = prop::collection::btree_map(label.0, label.1, 0..4)
        .prop_map(|labels| labels.into_iter().collect::<Vec<_>>());
    let value = prop::num::f64::NORMAL | prop::num::f64::ZERO;
    prop::collection::vec(("m[a-z]{0,2}", labels, value), 0..12)
}

proptest! {
    #[test]
    fn what_was_written_is_read(series in written(), spaced in any::<bool>(), open_metrics in any::<bool>()) {
        let format = if open_metrics { OpenMetrics } else { Text };
        let mut expected = std::collections::BTreeMap::new();
        let mut body = String::new();
        for (name, labels, value) in &series {
            let labels: Vec<_> = labels.iter().filter(|(name, _)| !matches!(&**name, "job" | "instance")).cloned().collect();
            let written: Vec<String> = labels
                .iter()
                .map(|(name, value)| {
                    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                    if spaced && !open_metrics { format!(" {name} = \"{value}\" ") } else { format!("{name}=\"{value}\"") }
                })
                .collect();
            body.push_str(&format!("{name}{{{}}} {value:e}\n", written.join(",")));
            expected.entry((name.clone(), labels)).or_insert(*value);
        }
        if open_metrics {
            body.push_str("# EOF\n");
        }
        let mut target = Target::default();
        for _ in 0..2 {
            let metrics = all(target.good(format, &body));
            let mut found = std::collections::BTreeMap::new();
            for metric in &metrics {
                for (labels, value, _, _) in points(metric) {
                    let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                    prop_assert!(found.insert((metric.name.clone(), labels), value.unwrap()).is_none());
                }
            }
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[ a-c#{}=\",\\\\0-9\n.EOFTYPHLNI_]{0,200}") {
        for format in [Text, OpenMetrics, Format::Protobuf { native: true }, Format::Protobuf { native: false }] {
            let mut target = Target::default();
            for body in [text.as_bytes(), &bytes, text.as_bytes()] {
                let _ = target.scrape(format, body);
            }
        }
    }
}
