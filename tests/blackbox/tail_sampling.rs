//! Whole traces through TOML and real sockets: what is wanted comes whole, and nothing in part.

use std::net::SocketAddr;
use std::path::Path;

use watershed_testkit::call::Reply;
use watershed_testkit::grpc::Signal;
use watershed_testkit::traces::{Sampled, sampled};
use watershed_testkit::{LoadReport, Loader, Sink, wait_until};

use crate::harness::{PATIENCE, alone, call, drained, metric, otlp, start};

/// A gateway on two lanes that keeps what has failed, what is slow and one in a hundred.
fn text(sink: SocketAddr, journal: Option<&Path>, more: &str) -> String {
    let (table, before) = match journal {
        Some(directory) => (format!("[processors.journal]\ndirectory = {directory:?}\n"), "\"journal\", "),
        None => (String::new(), ""),
    };
    format!(
        r#"
[service]
lanes = 2

[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"

[processors.tail_sampling]
decision_wait = "1s"
num_traces = 1_000_000
{more}
policies = [
  {{ name = "failed", type = "status_code", status_code = {{ status_codes = ["ERROR"] }} }},
  {{ name = "slow", type = "latency", latency = {{ threshold_ms = 1000 }} }},
  {{ name = "share", type = "probabilistic", probabilistic = {{ sampling_percentage = 1 }} }},
]

{table}
[exporters.otlp]
endpoint = "http://{sink}"
compression = "none"
retry_on_failure = {{ initial_interval = "20ms", max_interval = "100ms" }}

[pipelines.traces]
receivers = ["otlp"]
processors = [{before}"tail_sampling"]
exporters = ["otlp"]
"#
    )
}

/// What came of a load, once nothing more is to come.
async fn settled(load: &LoadReport, sink: &Sink) -> Sampled {
    let right = |counts: &_| sampled(load, counts).is_right();
    let _ = sink.wait_until(right, PATIENCE).await;
    sampled(load, &sink.snapshot())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wanted_comes_whole_from_all_lanes() {
    let _turn = alone().await;
    for journaled in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let engine = start(&text(sink.addr(), journaled.then_some(directory.path()), "")).await;
        let load = Loader::new(otlp(&engine)).open(4, 64, 20_000.0).traces().requests(600).retry(true);
        let load = load.start().finish().await;
        assert_eq!(load.acknowledged.len(), 60_000, "{load}");
        let kept = settled(&load, &sink).await;
        assert!(kept.is_right() && kept.traces == 12_000 && kept.wanted == 240, "{journaled}: {kept}");
        let decided = "otelcol_processor_tail_sampling_global_count_traces_sampled";
        let all = wait_until(async || metric(&engine.metrics().render(), decided) == 12_000.0, PATIENCE);
        assert!(all.await, "{journaled}: {}", metric(&engine.metrics().render(), decided));
        drained(&engine).await;
        let kept = sampled(&load, &sink.snapshot());
        assert!(kept.is_right(), "{journaled}: {kept}");
        // One in a hundred of 11 760.
        assert!((60..190).contains(&kept.others), "{journaled}: {kept}");
        let metrics = engine.metrics().render();
        assert_eq!(metric(&metrics, "watershed_pipeline_lost_items"), 0.0);
        assert_eq!(metric(&metrics, "otelcol_processor_tail_sampling_new_trace_id_received"), 12_000.0);
        assert_eq!(sink.snapshot().runs[&load.run].extra, 0, "{journaled}: nothing twice");
    }
}

/// The journal's window is smaller than what a sampler holds, and its destination is away for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_decision_holds_up_no_journal() {
    let _turn = alone().await;
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    sink.stop().await;
    let text = text(sink.addr(), Some(directory.path()), "");
    let engine = start(&text).await;
    let load = Loader::new(otlp(&engine)).closed(4, 4).traces().requests(1_500).retry(true);
    let load = load.start().finish().await;
    assert_eq!(load.acknowledged.len(), 150_000, "{load}");
    drained(&engine).await;
    sink.restart().await.unwrap();
    // What the first process has decided and not delivered, and what it had not decided, comes again.
    let engine = start(&text).await;
    let kept = settled(&load, &sink).await;
    assert!(kept.is_right() && kept.traces == 30_000, "{kept}");
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_memory_has_had_its_ok_and_is_decided_at_the_end() {
    let _turn = alone().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&text(sink.addr(), None, "decision_cache = { sampled_cache_size = 10 }")).await;
    let message = watershed_testkit::requests::Template::traces(1, 100).message(0);
    assert_eq!(call(otlp(&engine), Signal::Traces, &[], &message).await, Reply::Accepted);
    drained(&engine).await;
    let spans = sink.snapshot().spans;
    assert!((2..12).contains(&spans), "{spans}");
}

/// Of two destinations one is away, so that the journal hands most of what comes out a second time for it alone, some of it
/// while it is still held for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_late_makes_no_trace_larger_and_gives_the_other_nothing_twice() {
    let _turn = alone().await;
    let directory = tempfile::tempdir().unwrap();
    let (sink, late) = (Sink::start("127.0.0.1:0").await.unwrap(), Sink::start("127.0.0.1:0").await.unwrap());
    late.stop().await;
    let whole = r#"{ name = "whole", type = "span_count", span_count = { max_spans = 5 } }"#;
    let wanted = |name: &str, table: &str| {
        let sub = format!("[{{ name = \"it\", {table} }}, {whole}]");
        (
            format!("{{ name = \"{name}\", {table} }}"),
            format!("{{ name = \"{name}\", type = \"and\", and = {{ and_sub_policy = {sub} }} }}"),
        )
    };
    let mut text = text(sink.addr(), Some(directory.path()), "");
    for (policy, with) in [
        wanted("failed", r#"type = "status_code", status_code = { status_codes = ["ERROR"] }"#),
        wanted("slow", r#"type = "latency", latency = { threshold_ms = 1000 }"#),
        (r#"exporters = ["otlp"]"#.to_owned(), r#"exporters = ["otlp", "otlp/late"]"#.to_owned()),
    ] {
        assert!(text.contains(&policy), "{policy}");
        text = text.replace(&policy, &with);
    }
    text += &format!(
        "\n[exporters.\"otlp/late\"]\nendpoint = \"http://{}\"\nsending_queue = {{ queue_size = 16 }}\n\
         retry_on_failure = {{ initial_interval = \"20ms\", max_interval = \"100ms\" }}\n",
        late.addr()
    );
    let engine = start(&text).await;
    let load = Loader::new(otlp(&engine)).open(4, 64, 20_000.0).traces().requests(600).retry(true);
    let load = load.start().finish().await;
    assert_eq!(load.acknowledged.len(), 60_000, "{load}");
    let kept = settled(&load, &sink).await;
    assert!(kept.is_right() && kept.traces == 12_000 && kept.wanted == 240, "{kept}");
    late.restart().await.unwrap();
    let same = |counts: &_| sampled(&load, counts) == sampled(&load, &sink.snapshot());
    // One record after the other, by a queue that is soon full.
    let _ = late.wait_until(same, 2 * PATIENCE).await;
    drained(&engine).await;
    let (kept, other) = (sampled(&load, &sink.snapshot()), sampled(&load, &late.snapshot()));
    assert!(kept.is_right() && kept == other, "{kept}; late: {other}");
    assert_eq!(sink.snapshot().runs[&load.run].extra, 0, "nothing twice");
}
