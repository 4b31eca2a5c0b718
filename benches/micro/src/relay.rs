//! The whole engine: an agent in a process of its own, counted while it relays.
//!
//! One lane, one connection, one request at a time, batches that are full by size: what is left to chance is in how
//! many pieces a request is read, and timers that go off while nothing is to be done.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use watershed::engine::Engine;
use watershed::engine::config::{Sources, load};
use watershed_testkit::{Loader, Sink, reserve};

use crate::count::Counted;

/// What it is called in the baseline.
pub const NAME: &str = "relay: gRPC in, memory_limiter, batch, gRPC out";

/// How many requests the smaller count is of: a whole number of batches.
const REQUESTS: u64 = 400;

const SPANS: u64 = 100;

/// How long it may take, under valgrind on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many instructions a span takes from socket to socket.
pub fn per_span() -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (once, twice) = (runtime.block_on(count(REQUESTS))?, runtime.block_on(count(2 * REQUESTS))?);
    ensure!(twice > once, "twice as many requests took no more instructions: {once}, {twice}");
    Ok((twice - once) as f64 / (REQUESTS * SPANS) as f64)
}

/// What a relay takes from its start to its end, with so many requests between.
async fn count(requests: u64) -> anyhow::Result<u64> {
    let sink = Sink::start("127.0.0.1:0").await?;
    let listen = reserve();
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile()?;
    file.write_all(config(listen, sink.addr()).as_bytes())?;
    let relay = Counted::start(["--relay".as_ref(), file.path().as_os_str()], Stdio::piped())?;
    let load = Loader::new(listen).run_id(1).requests(requests).duration(PATIENCE).run().await;
    let verdict = sink.settle(&load, PATIENCE).await;
    ensure!(verdict.arrived == requests * SPANS, "not all has arrived: {load}");
    relay.finish()
}

/// Runs an agent until stdin ends.
pub fn be(config: &Path) -> anyhow::Result<ExitCode> {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let sources = Sources { files: vec![config.to_owned()], ..Sources::default() };
    let plan = load(&sources, &watershed::kinds()).map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("no runtime")?;
    let ended = runtime.block_on(async { anyhow::Ok(Engine::start(plan).await?.ended().await) })?;
    anyhow::bail!("the relay ended by itself: {ended:?}")
}

/// Eight requests are a batch; none is sent because it is late.
fn config(listen: SocketAddr, sink: SocketAddr) -> String {
    format!(
        r#"[service]
lanes = 1

[receivers.otlp.protocols.grpc]
endpoint = "{listen}"

[processors.memory_limiter]
check_interval = "10s"
limit_mib = 256

[processors.batch]
send_batch_size = {}
timeout = "1m"

[exporters.otlp]
endpoint = "http://{sink}"
compression = "none"
tls = {{ insecure = true }}

[pipelines.traces]
receivers = ["otlp"]
processors = ["memory_limiter", "batch"]
exporters = ["otlp"]
ack = "accepted"
"#,
        8 * SPANS
    )
}
