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
