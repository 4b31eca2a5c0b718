//! What another plan changes.

use watershed_engine::config::{Diff, Sources};

use crate::{GOOD, file, good, plan};

/// What a reload from `GOOD` to `GOOD` with these replacements does.
fn to(replace: &[(&str, &str)]) -> Diff {
    let mut text = GOOD.to_owned();
    for (from, with) in replace {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, with);
    }
    plan(GOOD).diff(&plan(&text))
}

const KEPT: &str = "collector
  = receiver otlp
  = pipeline traces
  = exporter otlp/jaeger
";

#[test]
fn the_same_text_changes_nothing() {
    let same = to(&[]);
    assert!(same.is_empty());
    assert_eq!(same.to_string(), KEPT);
    assert_eq!(same.summary(), "nothing");
}

#[test]
fn comments_order_and_unused_parts_change_nothing() {
    let same = to(&[("[processors.batch]", "# so\n[receivers.zipkin]\n[processors.batch]")]);
    assert!(same.is_empty(), "{same}");
}

#[test]
fn each_part_is_said_with_its_keys_and_no_values() {
    let diff = to(&[
        (
            "endpoint = \"http://localhost:4319\"",
            "endpoint = \"http://s3cret@localhost:4320\"\nretry_on_failure.enabled = false",
        ),
        ("exporters = [\"otlp/jaeger\"]", "exporters = [\"otlp/jaeger\", \"debug\"]"),
        ("endpoint = \"localhost:4317\"", "endpoint = \"localhost:4317\"\nmax_recv_msg_size_mib = 5"),
    ]);
    let expected = "collector
  ~ receiver otlp: protocols.grpc.max_recv_msg_size_mib
  ~ pipeline traces: exporters
  ~ exporter otlp/jaeger: endpoint, retry_on_failure
  + exporter debug
";
    assert_eq!(diff.to_string(), expected);
    assert_eq!(
        diff.summary(),
        "receiver otlp changed (protocols.grpc.max_recv_msg_size_mib), pipeline traces changed (exporters), \
         exporter otlp/jaeger changed (endpoint, retry_on_failure), exporter debug new"
    );
}

#[test]
fn what_a_reference_stands_for_is_compared() {
    let text = GOOD.replace("http://localhost:4319", "${env:WHERE}");
    let of = |place: &str| {
        let environment = [("WHERE".to_owned(), place.to_owned())].into();
        good(&Sources { environment, ..file(&text) })
    };
    assert!(of("http://a:1").diff(&of("http://a:1")).is_empty());
    let diff = of("http://a:1").diff(&of("http://b:1"));
    assert!(diff.to_string().contains("~ exporter otlp/jaeger: endpoint\n"), "{diff}");
}

#[test]
fn a_stage_is_kept_while_others_come_and_go_around_it() {
    let diff = to(&[("\"memory_limiter\", \"batch\"", "\"memory_limiter\", \"attributes\", \"batch\"")]);
    assert!(
        diff.to_string()
            .contains("  ~ pipeline traces: processors\n  + processor attributes of pipeline traces\n")
    );
    let list = |processors: &str| plan(&GOOD.replace("\"memory_limiter\", \"batch\"", processors));
    let (one, two) = (list("\"attributes\", \"tail_sampling\""), list("\"tail_sampling\""));
    let diff = one.diff(&two);
    let text = diff.to_string();
    assert!(text.contains("  = processor tail_sampling of pipeline traces\n"), "{text}");
    assert!(text.contains("  - processor attributes of pipeline traces\n"), "{text}");
}

#[test]
fn stages_that_change_places_begin_anew() {
    let list = |processors: &str| plan(&GOOD.replace("\"memory_limiter\", \"batch\"", processors));
    let diff = list("\"attributes\", \"tail_sampling\"").diff(&list("\"tail_sampling\", \"attributes\""));
    let text = diff.to_string();
    assert!(text.contains("  ~ processor tail_sampling of pipeline traces: order\n"), "{text}");
}

#[test]
fn how_pipelines_batch_is_a_matter_of_the_exporter() {
    let diff = to(&[("send_batch_size = 100", "send_batch_size = 200")]);
    assert!(diff.to_string().contains("  ~ exporter otlp/jaeger: batching by its pipelines\n"), "{diff}");
}

#[test]
fn what_can_not_change_is_named() {
    let diff = to(&[("limit_mib = 256", "limit_mib = 512")]);
    assert_eq!(diff.obstacles, ["the memory budget can not change while it runs: 256 MiB, now 512 MiB"]);
    let with = |service: &str| plan(&format!("{service}\n{GOOD}"));
    let diff = with("service.lanes = 1").diff(&with("service.lanes = 2"));
    assert_eq!(diff.obstacles, ["`service.lanes` can not change while it runs: 1, now 2"]);
    let roles = |name: &str| {
        plan(&format!("[{name}]\npipelines.traces = {{ receivers = [\"otlp\"], exporters = [\"debug\"] }}\n"))
    };
    let diff = roles("agent").diff(&roles("gateway"));
    assert_eq!(diff.obstacles, ["the roles can not change while it runs: agent, now gateway"]);
}

#[test]
fn keys_of_the_process_are_in_force_at_once_or_at_the_next_start() {
    let with = |service: &str| plan(&format!("{service}\n{GOOD}"));
    let diff =
        with("").diff(&with("service.health.endpoint = \"127.0.0.1:1\"\nservice.shutdown_timeout = \"5s\""));
    assert_eq!(diff.keys, ["service.shutdown_timeout"]);
    assert_eq!(diff.later, ["service.health.endpoint"]);
    assert!(!diff.is_empty());
}
