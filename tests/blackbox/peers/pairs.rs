//! Two of each backend: one is killed under load, and nothing is lost.

use std::collections::BTreeSet;

use watershed_testkit::{Loader, wait_until};

use super::backends::{Elasticsearch, Jaeger, Prometheus};
use super::servers::send;
use crate::harness::{PATIENCE, beside_others, drained, metric, otlp, start};

/// Spans a second, and how many: Elasticsearch gives 10,000 documents at once.
const RATE: f64 = 1_000.0;
const SPANS: u64 = 8_000;

/// One collector for one signal: OTLP in, these exporters. What else a client sends is taken and left out.
fn collector(signal: &str, exporters: &[&str], settings: &str) -> String {
    let rest = ["traces", "metrics", "logs"].into_iter().filter(|other| *other != signal);
    format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
{settings}
[pipelines.tested]
signals = ["{signal}"]
receivers = ["otlp"]
processors = ["batch"]
exporters = {exporters:?}
ack = "accepted"
[pipelines.rest]
signals = {:?}
receivers = ["otlp"]
exporters = ["nop"]
"#,
        rest.collect::<Vec<_>>()
    )
}

/// Quick, so that a test need not wait for it.
const RETRY: &str = r#"retry_on_failure = { initial_interval = "50ms", max_interval = "500ms" }"#;

/// As many spans as there are, all of them acknowledged; `middle` happens when half of them are.
async fn load(to: std::net::SocketAddr, middle: impl AsyncFnOnce()) {
    let loader = Loader::new(to).spans_per_request(50).requests(SPANS / 50).retry(true);
    let running = loader.open(2, 16, RATE).grace(PATIENCE).start();
    let half = wait_until(async || running.acknowledged() >= SPANS / 2, PATIENCE).await;
    assert!(half, "{}", running.progress());
    middle().await;
    let report = running.finish().await;
    assert_eq!(report.acknowledged.len(), SPANS, "{report}");
}

/// The exporter goes on with the node that is left. What the other one had said "ok" to is on its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_elasticsearch_node_that_is_killed_under_load_costs_nothing() {
    let _turn = beside_others().await;
    let (Some(mut first), Some(second)) = (Elasticsearch::start().await, Elasticsearch::start().await) else {
        return;
    };
    let settings = format!(
        "[exporters.elasticsearch]\nendpoints = [\"http://{}\", \"http://{}\"]\nretry = {{ initial_interval = \"50ms\", \
         max_interval = \"500ms\" }}\nsending_queue.batch = {{ flush_timeout = \"100ms\", min_size = 100, sizer = \"items\" }}",
        first.address, second.address
    );
    let engine = start(&collector("traces", &["elasticsearch"], &settings)).await;
    load(otlp(&engine), async || first.kill()).await;
    drained(&engine).await;
    let first = first.start_again().await;

    let ids = async |node: &Elasticsearch| -> BTreeSet<String> {
        let documents = node.documents("traces-*", "*").await;
        documents.iter().map(|document| document["span_id"].as_str().unwrap().to_owned()).collect()
    };
    let (one, other) = (ids(&first).await, ids(&second).await);
    println!("{} documents on the one, {} on the other", one.len(), other.len());
    assert!(!one.is_empty() && !other.is_empty());
    assert_eq!(one.union(&other).count() as u64, SPANS);
}

/// Each branch is owed everything: the one that lives has it, and the one that died is sent the rest when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jaeger_that_is_killed_under_load_costs_the_other_nothing() {
    let _turn = beside_others().await;
    let (Some(mut first), Some(second)) = (Jaeger::start().await, Jaeger::start().await) else { return };
    let settings = format!(
        "[exporters.\"otlp/first\"]\nendpoint = \"http://{}\"\n{RETRY}\n\
         [exporters.\"otlp/second\"]\nendpoint = \"http://{}\"\n{RETRY}",
        first.otlp, second.otlp
    );
    let required = "sending_queue.required = true";
    let settings = settings.replace(RETRY, &format!("{RETRY}\n{required}"));
    let engine = start(&collector("traces", &["otlp/first", "otlp/second"], &settings)).await;
    let mut before = 0;
    load(otlp(&engine), async || {
        (_, before) = first.spans("orders").await;
        first.kill();
    })
    .await;
    let first = first.start_again().await;
    drained(&engine).await;

    let sent = |exporter: &str| {
        let name = format!("otelcol_exporter_sent_spans{{exporter=\"{exporter}\"");
        metric(&engine.metrics().render(), &name) as u64
    };
    let (ids, all) = second.spans("orders").await;
    assert_eq!((ids.len() as u64, all as u64), (SPANS, SPANS));
    assert_eq!((sent("otlp/first"), sent("otlp/second")), (SPANS, SPANS));
    let (_, after) = first.spans("orders").await;
    println!("of {SPANS}: {before} seen in the first before its end, {after} in the one in its place");
    assert!(before > 0 && after > 0);
}

/// Both have every sample, in order, though one was away for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_prometheis_are_complete_though_one_is_killed_under_load() {
    const RUNS: usize = 6;
    let _turn = beside_others().await;
    let (Some(mut first), Some(second)) = (Prometheus::start("").await, Prometheus::start("").await) else {
        return;
    };
    let write = |name: &str, to: &Prometheus| {
        format!(
            "[exporters.\"prometheus_remote_write/{name}\"]\nendpoint = \"http://{}/api/v1/write\"\n{RETRY}\n\
             sending_queue.required = true\n",
            to.address
        )
    };
    let settings = write("first", &first) + &write("second", &second);
    let exporters = ["prometheus_remote_write/first", "prometheus_remote_write/second"];
    let engine = start(&collector("metrics", &exporters, &settings)).await;
    for run in 0..RUNS {
        if run == 2 {
            first.kill();
        }
        if run == 4 {
            first = first.start_again().await;
        }
        send(otlp(&engine)).await;
    }
    drained(&engine).await;
    for (name, prometheus) in [("first", &first), ("second", &second)] {
        // Of each run five collections and one at the shutdown, of 40 series.
        for (expression, expected) in [
            ("sum(count_over_time(orders_total[1h]))", 240 * RUNS),
            ("sum(orders_total)", 600),
            ("sum(duration_milliseconds_count)", 200),
        ] {
            let value = prometheus.value(expression).await;
            assert_eq!(value, Some(expected as f64), "{name}: {expression}");
        }
    }
}
