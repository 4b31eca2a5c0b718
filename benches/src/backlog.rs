//! A journal whose destination is away: what its backlog takes of memory, and how long it takes to read it again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;
use watershed_testkit::reserve;

use crate::case::{Case, PLAIN, Work};
use crate::cli::{Cli, Relay};
use crate::launch::RelayProcess;
use crate::{table, throughput};

/// How long the backlog may take to grow.
const PATIENCE: Duration = Duration::from_secs(300);

/// What was seen when the journal had reached a part of its size.
#[derive(Serialize)]
struct Seen {
    journal_bytes: u64,
    rss_bytes: u64,
}

#[derive(Serialize)]
struct Outcome {
    growing: Vec<Seen>,
    spans: u64,
    /// From the start of the process until the answer to the first request.
    restart_ns: u64,
    /// A second after that, the window of the dead destination being filled.
    rss_after_restart: u64,
}

/// Fills, kills, starts again and prints.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let nobody = reserve();
    let case = Case { work: Work::Journal, ..cli.adapt(PLAIN) };
    let mut relay = RelayProcess::start(Relay::Watershed, case, cli, nobody, Path::new(""), 1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (growing, spans) = runtime.block_on(fill(cli, case, &relay))?;
    let began = Instant::now();
    relay.restart()?;
    let first = throughput::loader(cli, case, relay.addr).requests(1);
    let first = runtime.block_on(first.timeout(PATIENCE).run());
    ensure!(!first.acknowledged.is_empty(), "it does not serve: {first}");
    let restart = began.elapsed();
    std::thread::sleep(Duration::from_secs(1));
    let outcome = Outcome {
        growing,
        spans,
        restart_ns: restart.as_nanos() as u64,
        rss_after_restart: relay.usage()?.rss,
    };
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&outcome)?);
        return Ok(());
    }
    let rows =
        outcome.growing.iter().map(|seen| vec![table::mib(seen.journal_bytes), table::mib(seen.rss_bytes)]);
    table::print(&["journal", "RSS"], &rows.collect::<Vec<_>>());
    println!(
        "{} spans acknowledged; after kill -9 the first request was answered after {}, with {} resident a second later",
        outcome.spans,
        table::millis(outcome.restart_ns),
        table::mib(outcome.rss_after_restart)
    );
    Ok(())
}

/// Loads until the journal is as large as it shall be; memory at each eighth of it.
async fn fill(cli: &Cli, case: Case, relay: &RelayProcess) -> anyhow::Result<(Vec<Seen>, u64)> {
    let load = throughput::loader(cli, case, relay.addr).duration(PATIENCE).start();
    let mut growing: Vec<Seen> = Vec::new();
    let all = cli.backlog_mib << 20;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while growing.len() < 8 {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "the journal does not grow to {} MiB",
            cli.backlog_mib
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        let journal_bytes = size(relay.directory())?;
        if journal_bytes >= all / 8 * (growing.len() as u64 + 1) {
            growing.push(Seen { journal_bytes, rss_bytes: relay.usage()?.rss });
        }
    }
    load.stop();
    Ok((growing, load.finish().await.acknowledged.len()))
}

fn size(directory: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
