//! Watershed as a child process of the bench, and the configuration it is measured with.

use std::net::SocketAddr;
use std::path::Path;

use crate::cli::{Cli, Relay};
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

/// An agent's configuration: OTLP in, memory limiter, batch, OTLP out to the sink; over HTTP, with three actions
/// on every span, or with a journal in `directory`, as `relay` says.
///
/// With `ack` "accepted" its answers mean what those of floor and conventional mean.
pub fn config(relay: Relay, listen: SocketAddr, sink: SocketAddr, cli: &Cli, directory: &Path) -> String {
    let (protocol, exporter) = if relay == Relay::Http { ("http", "otlphttp") } else { ("grpc", "otlp") };
    let more = match relay {
        Relay::Attributes => ", \"attributes\"",
        Relay::Journal => ", \"journal\"",
        _ => "",
    };
    let Cli { budget_mib, journal, .. } = cli;
    let ack = if relay == Relay::Journal { "journaled" } else { &cli.ack };
    let queue_size = cli.queue_size();
    format!(
        r#"[receivers.otlp.protocols.{protocol}]
endpoint = "{listen}"

[processors.memory_limiter]
check_interval = "1s"
limit_mib = {budget_mib}

[processors.batch]
send_batch_size = 8192
timeout = "200ms"

[processors.attributes]
actions = [
  {{ key = "deployment.environment.name", action = "upsert", value = "production" }},
  {{ key = "http.request.method", action = "delete" }},
  {{ key = "url.path", action = "update", value = "/" }},
]

[processors.journal]
directory = {directory:?}
max_size = "16GiB"
{journal}

[exporters.{exporter}]
endpoint = "http://{sink}"
compression = "none"
tls = {{ insecure = true }}
sending_queue = {{ queue_size = {queue_size} }}

[pipelines.traces]
receivers = ["otlp"]
processors = ["memory_limiter", "batch"{more}]
exporters = ["{exporter}"]
ack = "{ack}"
"#
    )
}
