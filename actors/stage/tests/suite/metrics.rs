//! The text exposition.

use std::sync::Arc;

use watershed_stage::{Metrics, Signal};

#[test]
fn families_stand_together_sorted_and_escaped() {
    let metrics = Metrics::default();
    let role = metrics.scoped("role", &"agent".into());
    role.counter("b_total", "Counts \\ of\nb.", &[("id", "otlp/\"x\"\\\n")]).add(3);
    role.counter("b_total", "Another help.", &[("id", "a")]).add(1);
    metrics.counter("b_total", "Counts of b.", &[]).add(2);
    metrics.gauge("a_bytes", "Reads a.", &[("lane", "0")], Arc::new(|| 1.5));
    let expected = "# HELP a_bytes Reads a.\n\
                    # TYPE a_bytes gauge\n\
                    a_bytes{lane=\"0\"} 1.5\n\
                    # HELP b_total Counts \\\\ of\\nb.\n\
                    # TYPE b_total counter\n\
                    b_total 2\n\
                    b_total{role=\"agent\",id=\"a\"} 1\n\
                    b_total{role=\"agent\",id=\"otlp/\\\"x\\\"\\\\\\n\"} 3\n";
    assert_eq!(metrics.render(), expected);
}

#[test]
fn a_series_is_the_same_whoever_asks_for_it() {
    let metrics = Metrics::default();
    metrics.counter("c", "C.", &[("x", "1")]).add(1);
    metrics.clone().counter("c", "C.", &[("x", "1")]).add(1);
    assert_eq!(metrics.counter("c", "C.", &[("x", "1")]).get(), 2);
    metrics.gauge("g", "G.", &[], Arc::new(|| 1.0));
    metrics.gauge("g", "G.", &[], Arc::new(|| 2.0));
    // Who asks for a counter where a gauge stands disturbs nothing.
    metrics.counter("g", "G.", &[]).add(5);
    assert!(metrics.render().contains("\ng 2\n"), "{}", metrics.render());
}

#[test]
fn what_is_pending_takes_the_place_of_what_is_shown_when_it_is_told() {
    let metrics = Metrics::default();
    let gauge = |metrics: &Metrics, value: f64| metrics.gauge("g", "G.", &[], Arc::new(move || value));
    gauge(&metrics, 1.0);
    let given_up = metrics.pending();
    gauge(&given_up, 2.0);
    given_up.counter("c", "C.", &[]).add(1);
    drop(given_up);
    let next = metrics.pending();
    gauge(&next.scoped("role", &"agent".into()), 3.0);
    gauge(&next, 4.0);
    next.gauge("forgotten", "F.", &[], Arc::new(|| 5.0));
    next.forget("forgotten", &[]);
    let shown = |expected: &str| {
        let text = metrics.render();
        let values: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(values.join(" "), expected);
    };
    shown("c 1 g 1");
    next.show();
    shown("c 1 g 4 g{role=\"agent\"} 3");
    gauge(&next, 6.0);
    shown("c 1 g 6 g{role=\"agent\"} 3");
    next.forget("g", &[]);
    shown("c 1 g{role=\"agent\"} 3");
}

#[test]
fn each_signal_counts_under_its_own_name() {
    let metrics = Metrics::default();
    let items = metrics.per_signal(["n_spans", "n_metric_points", "n_log_records"], "N.", &[]);
    for (items_of, signal) in [(1, Signal::Traces), (2, Signal::Metrics), (3, Signal::Logs)] {
        items.add(signal, items_of);
    }
    let text = metrics.render();
    for line in ["\nn_spans 1\n", "\nn_metric_points 2\n", "\nn_log_records 3\n"] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn a_histogram_counts_what_lies_at_or_below_each_bound() {
    let metrics = Metrics::default();
    let sizes = metrics.histogram("size", "Sizes.", &[10, 100], &[("id", "a")]);
    // Whoever asks again has the same.
    metrics.histogram("size", "Sizes.", &[10, 100], &[("id", "a")]).record(10);
    [11, 100, 101].into_iter().for_each(|size| sizes.record(size));
    metrics.histogram("bare", "Without labels.", &[1], &[]).record(1);
    let expected = "# HELP bare Without labels.\n\
                    # TYPE bare histogram\n\
                    bare_bucket{le=\"1\"} 1\n\
                    bare_bucket{le=\"+Inf\"} 1\n\
                    bare_sum 1\n\
                    bare_count 1\n\
                    # HELP size Sizes.\n\
                    # TYPE size histogram\n\
                    size_bucket{id=\"a\",le=\"10\"} 1\n\
                    size_bucket{id=\"a\",le=\"100\"} 3\n\
                    size_bucket{id=\"a\",le=\"+Inf\"} 4\n\
                    size_sum{id=\"a\"} 222\n\
                    size_count{id=\"a\"} 4\n";
    assert_eq!(metrics.render(), expected);
}

#[test]
fn a_level_falls_when_what_it_counts_is_dropped() {
    let metrics = Metrics::default();
    let level = metrics.level("in_flight", "Calls.", &[]);
    let held = [level.hold(), metrics.level("in_flight", "Calls.", &[]).hold()];
    assert_eq!(level.get(), 2);
    assert!(metrics.render().contains("# TYPE in_flight gauge\nin_flight 2\n"));
    drop(held);
    assert_eq!(level.get(), 0);
}

#[test]
fn an_alias_shows_the_same_count() {
    let metrics = Metrics::default();
    let counter = metrics.counter("first", "F.", &[]);
    metrics.alias("second", "S.", &[("x", "1")], &counter);
    counter.add(3);
    assert!(metrics.render().contains("\nsecond{x=\"1\"} 3\n"), "{}", metrics.render());
}
