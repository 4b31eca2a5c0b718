//! Watershed as a child process of the bench, and the configuration it is measured with.

use std::path::Path;

use watershed_testkit::Coding;
use watershed_testkit::requests::Foreign;

use crate::case::{Case, Tls, Way, Work};
use crate::cli::{Cli, Scenario};
use crate::launch::Site;
use crate::relay::IN_FLIGHT;
use watershed::engine::Engine;
use watershed::engine::config::{Sources, load};

/// Runs Watershed from `config` until the process is killed, or something critical in it fails.
pub fn run_watershed(config: &Path) -> anyhow::Result<()> {
    let sources = Sources { files: vec![config.to_owned()], ..Sources::default() };
    let plan = load(&sources, &watershed::kinds()).map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let ended = runtime.block_on(async { anyhow::Ok(Engine::start(plan).await?.ended().await) })?;
    anyhow::bail!("watershed ended by itself: {ended:?}")
}

/// An agent's configuration: OTLP in, memory limiter, batch, OTLP out to the sink, with what `case` adds.
pub fn config(case: Case, cli: &Cli, site: &Site<'_>) -> String {
    let Site { listen, sink, second, certificates, directory } = site;
    let Cli { budget_mib, journal, .. } = cli;
    let (receiver, protocol) = match case.way_in {
        Way::Grpc => ("otlp", ".protocols.grpc"),
        Way::Http | Way::Json => ("otlp", ".protocols.http"),
        Way::Foreign(Foreign::Jaeger) => ("jaeger", ".protocols.grpc"),
        Way::Foreign(Foreign::Zipkin | Foreign::ZipkinJson) => ("zipkin", ""),
    };
    let exporter = if case.way_out == Way::Grpc { "otlp" } else { "otlphttp" };
    let pem = |name: &str| certificates.join(name).display().to_string();
    let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(pem);
    let [client_cert, client_key] = ["client.pem", "client.key"].map(pem);
    let (server, client) = match case.tls {
        Tls::Off => (String::new(), "{ insecure = true }".to_owned()),
        Tls::Server => (
            format!("tls = {{ cert_file = {cert:?}, key_file = {key:?} }}"),
            format!("{{ ca_file = {ca:?} }}"),
        ),
        Tls::Mutual => (
            format!("tls = {{ cert_file = {cert:?}, key_file = {key:?}, client_ca_file = {ca:?} }}"),
            format!("{{ ca_file = {ca:?}, cert_file = {client_cert:?}, key_file = {client_key:?} }}"),
        ),
    };
    let scheme = if case.tls == Tls::Off { "http" } else { "https" };
    let compression = case.coding_out.map_or("none", Coding::name);
    let batch = if case.delivered { "" } else { "\"batch\"" };
    let (work, more) = match case.work {
        Work::Relay => ("", ""),
        Work::Attributes => ("\"attributes\"", ""),
        Work::Journal => ("\"journal\"", ""),
        Work::TailSampling => ("\"tail_sampling\"", ""),
        Work::Branches => ("", "\"otlp/second\", \"otlp/dead\""),
    };
    let ack = match case.work {
        Work::Journal => "journaled",
        _ if case.delivered => "delivered",
        _ => "accepted",
    };
    // What is held has to fit.
    let limit_mib =
        case.limit_mib(if case.work == Work::TailSampling { (*budget_mib).max(512) } else { *budget_mib });
    let dead = watershed_testkit::reserve();
    let lanes = case.lanes.map_or(String::new(), |lanes| format!("lanes = {lanes}"));
    let (queue, signal) = (queue(cli), format!("{:?}", case.signal).to_lowercase());
    format!(
        r#"[service]
{lanes}

[receivers.{receiver}{protocol}]
endpoint = "{listen}"
{server}

[processors.memory_limiter]
check_interval = "1s"
limit_mib = {limit_mib}

[processors.batch]
send_batch_size = 8192
timeout = "200ms"

[processors.attributes]
actions = [
  {{ key = "deployment.environment.name", action = "upsert", value = "production" }},
  {{ key = "http.request.method", action = "delete" }},
  {{ key = "url.path", action = "update", value = "/" }},
]

[processors.tail_sampling]
decision_wait = "4s"
num_traces = 200000
policies = [
  {{ name = "errors", type = "status_code", status_code = {{ status_codes = ["ERROR"] }} }},
  {{ name = "slow", type = "latency", latency = {{ threshold_ms = 1000 }} }},
  {{ name = "share", type = "probabilistic", probabilistic = {{ sampling_percentage = 1 }} }},
]

[processors.journal]
directory = {directory:?}
max_size = "16GiB"
{journal}

[exporters.{exporter}]
endpoint = "{scheme}://{sink}"
compression = "{compression}"
tls = {client}
sending_queue = {{ {queue}, required = true }}

[exporters."otlp/second"]
endpoint = "http://{second}"
compression = "none"
sending_queue = {{ queue_size = 100, required = false, on_full = "drop" }}

[exporters."otlp/dead"]
endpoint = "http://{dead}"
compression = "none"
sending_queue = {{ queue_size = 100, required = false, on_full = "drop" }}

[pipelines.{signal}]
receivers = [{receiver:?}]
processors = [{processors}]
exporters = [{exporters}]
ack = "{ack}"
"#,
        processors = list(["\"memory_limiter\"", batch, work]),
        exporters = list([&format!("{exporter:?}"), more]),
    )
}

/// What bounds the sending queue: what bounds that of all relays, the memory budget alone, or what does so by default.
fn queue(cli: &Cli) -> String {
    match cli.scenario {
        Scenario::Throughput => {
            let ahead = cli.ahead();
            format!(
                r#"num_consumers = {IN_FLIGHT}, queue_size = {ahead}, sizer = "bytes", on_full = "block""#
            )
        }
        Scenario::Overload => "queue_size = 1_000_000".to_owned(),
        Scenario::Idle | Scenario::Backlog | Scenario::Scrape => "queue_size = 1000".to_owned(),
    }
}

/// The elements that there are.
fn list<const N: usize>(elements: [&str; N]) -> String {
    elements.into_iter().filter(|element| !element.is_empty()).collect::<Vec<_>>().join(", ")
}
