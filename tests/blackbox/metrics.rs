//! What `/metrics` shows and what `docs/metrics.md` says are the same, and the start says where everything listens.

use std::collections::BTreeMap;

use watershed_testkit::call::Client;
use watershed_testkit::grpc::Signal;
use watershed_testkit::{Loader, Sink, requests, reserve, wait_until};

use crate::harness::process::Program;
use crate::harness::{PATIENCE, beside_others, http, metric};

const PAGE: &str = include_str!("../../docs/metrics.md");

/// Every kind, a sink that takes everything and a destination that is not there.
fn everything(sink: &str, nobody: &str, grpc: &str, http: &str) -> String {
    format!(
        r#"
[receivers.jaeger.protocols]
thrift_compact.endpoint = "127.0.0.1:0"
[receivers.otlp.protocols]
grpc.endpoint = "{grpc}"
http.endpoint = "{http}"

[[receivers.prometheus.config.scrape_configs]]
job_name = "gone"
scrape_interval = "100ms"
static_configs = [{{ targets = ["{nobody}"] }}]

[processors.memory_limiter]
limit_mib = 64
[processors.attributes]
actions = [{{ key = "env", value = "test", action = "upsert" }}]
[processors.resource]
attributes = [{{ key = "env", value = "test", action = "upsert" }}]
[processors.resource_detection]
detectors = ["env"]
[processors.filter.logs]
log_record = ['severity_text == "none such"']
[processors.redaction]
allow_all_keys = true
presets = {{ card = "mask" }}
[processors.journal]
directory = "."
[extensions.file_storage]
directory = "."
[processors.probabilistic_sampler]
sampling_percentage = 100
[processors.tail_sampling]
policies = [{{ name = "all", type = "always_sample" }}]

[exporters.otlp]
endpoint = "http://{sink}"
[exporters."otlp/gone"]
endpoint = "http://{nobody}"
retry_on_failure.enabled = false
[exporters.otlphttp]
endpoint = "http://{nobody}"
sending_queue = {{ required = false, queue_size = 1 }}
[exporters.elasticsearch]
endpoint = "http://{nobody}"
sending_queue.required = false
[exporters.debug]
[exporters.nop]
[exporters.file]
path = "out.json"
[exporters.prometheus]
endpoint = "127.0.0.1:0"
[exporters.prometheus_remote_write]
endpoint = "http://{nobody}/api/v1/write"
retry_on_failure.enabled = false
[exporters.load_balancing]
resolver.static.hostnames = ["{sink}"]
protocol.otlp.tls.insecure = true

[pipelines.all]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = ["memory_limiter", "attributes", "resource", "resource_detection", "filter", "redaction", "batch"]
exporters = ["otlp", "otlphttp", "debug", "nop", "file", "elasticsearch"]
ack = "accepted"
[pipelines.sampled]
signals = ["traces", "logs"]
receivers = ["otlp"]
processors = ["journal", "probabilistic_sampler"]
exporters = ["nop"]
dead_letters = "file_storage"
[pipelines."traces/tail"]
receivers = ["otlp"]
processors = ["tail_sampling"]
exporters = ["nop"]
[pipelines."traces/jaeger"]
receivers = ["jaeger"]
exporters = ["nop"]
[pipelines."metrics/scraped"]
receivers = ["prometheus"]
exporters = ["nop"]
[pipelines."metrics/prometheus"]
receivers = ["otlp"]
exporters = ["prometheus", "prometheus_remote_write"]
ack = "accepted"
[pipelines."logs/balanced"]
receivers = ["otlp"]
exporters = ["load_balancing"]
[pipelines."traces/gone"]
receivers = ["otlp"]
exporters = ["otlp/gone"]
ack = "accepted"
"#
    )
}

/// The families that the page lists, with their types; `{a,b}` in a name stands for several.
fn documented() -> BTreeMap<String, String> {
    let mut families = BTreeMap::new();
    for line in PAGE.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind @ ("counter" | "gauge" | "histogram"), ..] = cells.as_slice() else { continue };
        let name = name.trim_matches('`');
        let names = match name.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?)))
        {
            Some((start, (middle, end))) => {
                middle.split(',').map(|middle| format!("{start}{middle}{end}")).collect()
            }
            None => vec![name.to_owned()],
        };
        for name in names {
            assert_eq!(families.insert(name.clone(), (*kind).to_owned()), None, "{name} is listed twice");
        }
    }
    families
}

fn shown(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let (grpc, web, nobody) = (reserve(), reserve(), reserve());
    let [sink_at, nobody, grpc_at, web_at] = [sink.addr(), nobody, grpc, web].map(|at| at.to_string());
    let program = Program::run(&everything(&sink_at, &nobody, &grpc_at, &web_at)).await;

    let load = Loader::new(grpc).requests(3).run().await;
    assert_eq!(load.acknowledged.len(), 300, "{load}");
    let mut client = Client::connect(grpc).await.unwrap();
    client.export(Signal::Metrics, &requests::metrics(5)).await.unwrap();
    client.export(Signal::Logs, &requests::logs(7)).await.unwrap();
    let scrape = async || http::get(program.metrics, "/metrics").await.unwrap().1;
    let lost = "watershed_edge_items{pipeline=\"traces/gone\",from=\"otlp/gone\",to=\"destination\",\
                outcome=\"rejected\",reason=\"exhausted\"}";
    let all_lost = async || {
        let text = scrape().await;
        metric(&text, lost) == 300.0 && metric(&text, "watershed_scrape_targets") == 1.0
    };
    assert!(wait_until(all_lost, PATIENCE).await, "{}", scrape().await);
    let text = scrape().await;
    assert_eq!(shown(&text), documented());
    // What went over each arrow of the way of what arrived.
    for (from, to, items) in [("otlp", "attributes", 312.0), ("redaction", "otlp", 312.0)] {
        let arrow = format!(
            "watershed_edge_items{{pipeline=\"all\",from=\"{from}\",to=\"{to}\",outcome=\"passed\",reason=\"\"}}"
        );
        assert_eq!(metric(&text, &arrow), items, "{text}");
    }

    // Where everything listens, and what each pipeline promises.
    let log = program.stderr();
    let listens = format!("otlp (grpc {grpc_at}, plain text; http {web_at}, plain text) -> ");
    for line in [
        format!(
            "pipeline all: {listens}attributes -> resource -> resource_detection -> filter -> redaction -> otlp (optional), otlphttp (optional), debug (optional), nop (optional), file (optional), elasticsearch (optional); ack = accepted: as configured"
        ),
        format!("pipeline traces/gone: {listens}otlp/gone; ack = accepted: as configured"),
    ] {
        assert!(log.contains(&line), "{line}\nis not in\n{log}");
    }
}
